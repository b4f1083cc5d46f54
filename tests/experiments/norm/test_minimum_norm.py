"""experiments/norm/minimum_norm.py: closed forms of the solution and its norm, and the verdict on hand-made tables."""
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from experiments.norm import minimum_norm
from experiments.norm.minimum_norm import EXPERIMENT, Config
from harness.grid import expand
from models import NetworkConfig
from tests.experiments.norm.tables import judged
from training.data import DataConfig, load


def measured(train_size=40, **options):
    config = Config(data=DataConfig(train_size=train_size, test_size=100), **options)
    data = load(config.data, seed=0)
    return data, minimum_norm.measure(config, data, None)


def flat_images(data):
    return (a.reshape(len(a), -1).astype(float) for a in (data.x_train, data.x_test))


def test_the_linear_solution_is_that_of_the_pseudo_inverse():
    data, found = measured(kernel="linear")
    x, test = flat_images(data)
    scale = np.sqrt(np.mean(np.sum(x**2, axis=1)))
    w = np.linalg.pinv(x / scale) @ (data.y_train.astype(float) - 0.1)  # [d, k]
    np.testing.assert_allclose(found["norm"], np.linalg.norm(w), rtol=1e-8)
    assert found["interpolates"] and found["train/error"] == 0 and found["rank"] == 40
    assert found["test/error"] == np.mean((test @ w).argmax(axis=1) != data.y_test.argmax(axis=1))


def test_gradient_descent_from_zero_ends_at_the_minimum_norm():
    data, found = measured(train_size=10, kernel="linear")
    x, _ = flat_images(data)
    x /= np.sqrt(np.mean(np.sum(x**2, axis=1)))
    w, y = np.zeros((x.shape[1], 10)), data.y_train.astype(float) - 0.1
    for _ in range(2000):
        w -= x.T @ (x @ w - y) / np.linalg.norm(x, 2) ** 2
    np.testing.assert_allclose(np.linalg.norm(w), found["norm"], rtol=1e-8)


def test_a_narrow_gaussian_kernel_is_the_identity_and_the_nearest_neighbour():
    """K = I: alpha = Y, norm^2 = ||Y||^2 = n (1 - 1/k) for centred one-hot rows."""
    data, found = measured(kernel="gaussian", bandwidth=0.04)
    np.testing.assert_allclose(found["norm"], np.sqrt(40 * 0.9), rtol=1e-6)
    x, test = flat_images(data)
    nearest = data.y_train.argmax(axis=1)[cdist(test, x).argmin(axis=1)]
    assert found["test/error"] == np.mean(nearest != data.y_test.argmax(axis=1)) and found["train/error"] == 0


def test_a_kernel_of_too_low_rank_is_not_exact():
    _, found = measured(train_size=200, kernel="linear")
    assert not found["interpolates"] and found["rank"] <= 64 and found["residual"] > minimum_norm.EXACT


@pytest.mark.parametrize("kernel", ["linear", "gaussian", pytest.param("ntk", marks=pytest.mark.slow)])
def test_the_kernels_are_scaled_and_symmetric(kernel):
    data, network = DataConfig(train_size=20, test_size=30), NetworkConfig(width=4, depth=1, dtype="float64")
    config = Config(data=data, kernel=kernel, network=network)
    train, cross = minimum_norm.kernels(config, load(config.data, seed=0))
    assert train.shape == (20, 20) and cross.shape == (30, 20)
    np.testing.assert_allclose(np.trace(train), 20)
    np.testing.assert_allclose(train, train.T, atol=1e-12)


def test_what_a_kernel_does_not_use_makes_no_config_of_its_own():
    given = {"kernel": list(minimum_norm.KERNELS), "bandwidth": [0.3, 1.0], "width": [16, 32], "label_noise": 0.0}
    configs, _ = expand(EXPERIMENT, {**given, "train_size": 40, "seed": 0})
    names = [c.kernel for c in configs]
    assert [names.count(kernel) for kernel in minimum_norm.KERNELS] == [1, 2, 2]
    assert {c.network.width for c in configs if c.kernel == "ntk"} == {16, 32}
    assert {c.network for c in configs if c.kernel != "ntk"} == {minimum_norm.NETWORK}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cosine"}, "unknown kernel 'cosine'"),
        ({"bandwidth": 0.0}, "bandwidth must be a finite number > 0"),
        ({"augment": True}, "augment changes images"),
        ({"learning_rate": 0.1}, "unknown option 'learning_rate'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        expand(EXPERIMENT, options)


def test_a_training_set_too_large_to_decompose_is_refused():
    data = type("Data", (), {"x_train": np.zeros(20001)})
    with pytest.raises(ValueError, match="20001 training images is too large to decompose: allowed are 20000"):
        minimum_norm.check(Config(), data, None)


# -- the verdict


NETWORK = {name: getattr(minimum_norm.NETWORK, name) for name in minimum_norm.NETWORK_FIELDS}


SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


def rows(sign, exact=True, seeds=(0, 1, 2), kernel="gaussian", scales=SCALES, **fields):
    """Six bandwidths, three label noises: error that rises (1) or falls (-1) with the norm over kernels."""
    base = {"config_id": "x", "dataset": "digits", "train_size": 50, "test_size": 0, "normalize": True,
            "pixel_noise": "none", **NETWORK, "kernel": kernel, "interpolates": exact}  # fmt: skip
    return [
        {**base, "bandwidth": b if kernel == "gaussian" else 1.0, "label_noise": p, "seed": s, **fields,
         "norm": 10 + b + 5 * p + 0.1 * s, "test/error": 0.3 + 0.01 * sign * b + 0.5 * p + 0.001 * s}
        for b in scales for p in (0.0, 0.5, 1.0) for s in seeds
    ]  # fmt: skip


def disordered(order, **fields):
    """Kernels whose errors, ascending, have the given order in their norms."""
    table = rows(1, scales=SCALES[: len(order)], **fields)
    return [{**row, "norm": row["norm"] - row["bandwidth"] + order[int(row["bandwidth"]) - 1]} for row in table]


def test_the_verdict_follows_the_rank_correlation_over_kernels():
    rising = judged(EXPERIMENT, rows(1))
    assert rising.outcome == "supported" and "(supported: error rises with the norm)" in rising.reason
    assert "54 of 54 solutions are exact, over 6 kernels 1 [" in rising.reason
    falling = judged(EXPERIMENT, rows(-1))
    assert falling.outcome == "refuted"
    assert "(refuted: error falls with the norm, correlated by less than the margin)" in falling.reason
    mixed = judged(EXPERIMENT, disordered((3, 6, 1, 5, 2, 4)))
    assert mixed.outcome == "undecided" and mixed.advice == "More seeds alone would not decide."
    assert judged(EXPERIMENT, rows(1) + rows(-1, train_size=500)).outcome == "refuted"


def test_seeds_are_no_kernels():
    """However many seeds: four kernels decide nothing, and six are as sure with one seed as with twenty."""
    four = judged(EXPERIMENT, rows(1, scales=SCALES[:4], seeds=range(20)))
    assert four.outcome == "undecided" and "(means over 20 seeds), where a verdict needs 5 kernels" in four.reason
    assert four.advice == "More seeds alone would not decide."
    for order, outcome in (((1, 2, 3, 4, 6, 5), "supported"), ((2, 1, 4, 3, 6, 5), "undecided")):
        assert {judged(EXPERIMENT, disordered(order, seeds=range(n))).outcome for n in (1, 20)} == {outcome}


def test_the_tests_count_every_order_of_few_kernels():
    x = np.arange(6.0)
    assert minimum_norm.correlation_test(x, x, "greater").p_value == pytest.approx(1 / 720)
    assert minimum_norm.correlation_test(x, -x, "less").p_value == pytest.approx(1 / 720)
    swapped = x[[1, 0, 2, 3, 4, 5]]
    assert minimum_norm.correlation_test(x, swapped, "greater").p_value == pytest.approx(6 / 720)
    ties = np.array([0.0, 0, 1, 1, 2, 3])
    assert minimum_norm.correlation_test(x, ties, "greater").p_value == pytest.approx(4 / 720)
    y = np.random.default_rng(0).standard_normal(7)
    exact = minimum_norm.correlation_test(np.arange(7.0), y, "less")
    assert exact.p_value == pytest.approx(stats.spearmanr(np.arange(7.0), y, alternative="less").pvalue, abs=0.02)
    many = minimum_norm.correlation_test(np.arange(30.0), np.arange(30.0) ** 2, "greater")
    assert many.p_value < 1e-6 and many.n == 30


def test_a_correlation_below_the_margin_refutes_with_kernels_enough():
    assert minimum_norm.negligible_test(0.3, 0.3, 10).p_value == pytest.approx(0.5)
    error = np.sqrt((1 + 0.1**2 / 2) / 197)
    wanted = stats.norm.cdf((np.arctanh(0.1) - np.arctanh(0.3)) / error)
    assert minimum_norm.negligible_test(0.1, 0.3, 200).p_value == pytest.approx(wanted)
    assert 0 < minimum_norm.negligible_test(-1.0, 0.3, 6).p_value < 0.01
    table = disordered((6, 4, 5, 2, 3, 1))
    for margin, outcome in ((0.3, "refuted"), (0.01, "undecided")):
        assert judged(EXPERIMENT, table, margin=margin).outcome == outcome


def test_label_noise_is_told_and_not_judged():
    table = [{**row, "norm": row["norm"] - 50 * row["label_noise"] + 100} for row in rows(1)]
    verdict = judged(EXPERIMENT, table)  # within a kernel the error falls with the norm
    assert verdict.outcome == "supported" and ", over label noise Gaussian 1: -0.8 [" in verdict.reason


def test_solutions_that_are_not_exact_are_counted_and_left_out():
    none = judged(EXPERIMENT, rows(1, exact=False))
    assert none.outcome == "undecided" and "0 of 54 solutions are exact, over 0 kernels" in none.reason
    some = judged(EXPERIMENT, rows(1) + rows(-1, exact=False, kernel="linear", scales=(9.0,)))
    assert some.outcome == "supported" and "54 of 63 solutions are exact" in some.reason and "linear" not in some.reason


def test_an_error_of_nothing_or_one_value_of_all_is_no_error_of_the_judge():
    best = [{**row, "test/error": 0.0} if row["bandwidth"] == 1 else row for row in rows(1)]
    assert judged(EXPERIMENT, best).outcome == "supported"
    same = judged(EXPERIMENT, [{**row, "test/error": 0.5} for row in rows(1)])
    assert same.outcome == "undecided" and "over 6 kernels not measured" in same.reason


def test_nothing_measured_is_undecided():
    table = [{k: v for k, v in row.items() if k not in EXPERIMENT.columns} for row in rows(1)]
    assert judged(EXPERIMENT, table).outcome == "undecided"
    assert EXPERIMENT.figures(EXPERIMENT.results(pd.DataFrame(table))) == {}


def test_training_sets_are_groups_and_kernels_are_compared_in_them():
    verdict = judged(EXPERIMENT, rows(1) + rows(1, train_size=500))
    assert verdict.groups == (("n = 50", "supported"), ("n = 500", "supported"))
    assert verdict.reason.count("(means over 3 seeds)") == 2
    assert "n = 50 (supported: " in judged(EXPERIMENT, rows(1)).reason  # its size where nothing sets it apart


def test_networks_that_differ_in_anything_are_kernels_of_their_own():
    """Three seeds count as three: two activations or precisions are no six solutions of one kernel."""
    ntk = {"kernel": "ntk", "scales": (5.0,)}
    table = rows(1) + rows(1, **ntk) + rows(1, **ntk, activation="tanh")
    table += rows(1, **ntk, dtype="float32", batch_norm=False)
    (group,) = EXPERIMENT.results(pd.DataFrame(table)).groups()
    found = {name: len(part) for name, part in minimum_norm.by_kernel(group).items() if name.startswith("NTK")}
    assert found == {
        "NTK (mlp, depth 2, width 256)": 9,
        "NTK (mlp, depth 2, width 256, tanh)": 9,
        "NTK (mlp, depth 2, width 256, no batch norm, dtype float32)": 9,
    }
    assert "NTK (mlp, depth 2, width 256, tanh): 1 [" in judged(EXPERIMENT, table).reason


def test_one_network_under_two_names_counts_once():
    ntk = {"kernel": "ntk", "scales": (5.0,), "width": 64}
    default = [{**row, "width": None} for row in rows(1, **ntk)]
    (group,) = EXPERIMENT.results(pd.DataFrame(rows(1, **ntk) + default)).groups()
    found = {name: len(part) for name, part in minimum_norm.by_kernel(group).items()}
    assert found == {"NTK (mlp, depth 2, width 64)": 9}
