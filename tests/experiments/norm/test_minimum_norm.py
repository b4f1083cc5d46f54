"""experiments/norm/minimum_norm.py: closed forms of the solution and its norm, and the verdict on hand-made tables."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from analysis.arc_cosine import arc_cosine_kernel
from analysis.statistics import rank_correlation
from experiments.norm import minimum_norm
from experiments.norm.minimum_norm import EXPERIMENT, Config
from harness.grid import expand
from harness.runner import config_id
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


@pytest.mark.parametrize(
    "kernel", ["linear", "gaussian", "laplace", "arc_cosine", "limit_ntk", pytest.param("ntk", marks=pytest.mark.slow)]
)
def test_the_kernels_are_scaled_and_symmetric(kernel):
    data, network = DataConfig(train_size=20, test_size=30), NetworkConfig(width=4, depth=1, dtype="float64")
    config = Config(data=data, kernel=kernel, network=network)
    train, cross = minimum_norm.kernels(config, load(config.data, seed=0))
    assert train.shape == (20, 20) and cross.shape == (30, 20)
    np.testing.assert_allclose(np.trace(train), 20)
    np.testing.assert_allclose(train, train.T, atol=1e-12)


def test_a_norm_does_not_depend_on_a_kernels_scale_under_either_scaling(monkeypatch):
    _, found = measured(kernel="arc_cosine", order=1)
    kernels = minimum_norm.kernels
    monkeypatch.setattr(minimum_norm, "arc_cosine_kernel", lambda *a, **k: 7 * arc_cosine_kernel(*a, **k))
    _, scaled = measured(kernel="arc_cosine", order=1)
    assert scaled["norm"] == pytest.approx(found["norm"])
    assert scaled["norm/largest_eigenvalue"] == pytest.approx(found["norm/largest_eigenvalue"])
    kernel, _ = kernels(Config(data=DataConfig(train_size=40), kernel="arc_cosine"), measured()[0])
    largest = np.linalg.eigvalsh(kernel)[-1]
    assert found["norm/largest_eigenvalue"] == pytest.approx(found["norm"] * np.sqrt(largest / 40))


def test_drawn_kernels_are_a_fixed_random_sequence_of_all_families():
    drawn = [Config(kernel="drawn", draw=i) for i in range(40)]
    assert drawn == [Config(kernel="drawn", draw=i) for i in range(40)] and len({*map(minimum_norm.label, drawn)}) > 35
    assert {config.kernel for config in drawn} == {"gaussian", "laplace", "arc_cosine", "limit_ntk"}
    assert all(config.draw is None for config in drawn) and drawn[0] == dataclasses.replace(drawn[0])
    named = Config(kernel="gaussian", bandwidth=next(c.bandwidth for c in drawn if c.kernel == "gaussian"))
    assert named in drawn
    for config in drawn:
        config.validate()


def test_config_ids_are_those_of_earlier_versions():
    options = {"kernel": "gaussian", "bandwidth": 0.3, "label_noise": 0.5, "train_size": 50, "seed": 1}
    (config,), _ = expand(EXPERIMENT, options)
    assert config_id(EXPERIMENT, config) == "mlp-2x256-float64-digits-50-label_noise=0.5-gaussian-0.3-seed=1-9e583aa0ff"


def test_what_a_kernel_does_not_use_makes_no_config_of_its_own():
    given = {"kernel": list(minimum_norm.KERNELS), "bandwidth": [0.3, 1.0], "width": [16, 32], "label_noise": 0.0}
    configs, _ = expand(EXPERIMENT, {**given, "train_size": 40, "seed": 0})
    names = [c.kernel for c in configs]
    assert [names.count(kernel) for kernel in minimum_norm.KERNELS] == [1, 2, 2, 1, 1, 2]
    assert {c.network.width for c in configs if c.kernel == "ntk"} == {16, 32}
    assert {c.network for c in configs if c.kernel != "ntk"} == {minimum_norm.NETWORK}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cosine"}, "unknown kernel 'cosine'"),
        ({"kernel": "gaussian", "bandwidth": 0.0}, "bandwidth must be a finite number > 0"),
        ({"bandwidth": 0.3}, "bandwidth would be drawn: name the --kernel that it belongs to"),
        ({"draw": -1}, "kernel=drawn needs a draw"),
        ({"kernel": "arc_cosine", "order": 3}, "order must be one of 0, 1, 2, got 3"),
        ({"kernel": "arc_cosine", "kernel_depth": 0}, "kernel_depth must be at least 1"),
        ({"kernel": "limit_ntk", "kernel_activation": "tanh"}, "kernel_activation must be one of relu, erf"),
        ({"kernel": "limit_ntk", "weight_variance": 0.0}, "weight_variance must be a finite number > 0"),
        ({"kernel": "limit_ntk", "bias_variance": -1.0}, "bias_variance must be a finite number >= 0"),
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


SCALES = tuple(float(i) for i in range(1, 25))


def rows(sign, exact=True, seeds=(0, 1, 2), kernel="gaussian", scales=SCALES, **fields):
    """24 bandwidths, three label noises: error that rises (1) or falls (-1) with the norm over kernels."""
    base = {"config_id": "x", "dataset": "digits", "train_size": 50, "test_size": 0, "normalize": True,
            "pixel_noise": "none", **NETWORK, "kernel": kernel, "interpolates": exact}  # fmt: skip
    return [
        {**base, "bandwidth": b if kernel == "gaussian" else 1.0, "label_noise": p, "seed": s, **fields,
         "norm": 10 + b + 5 * p + 0.1 * s,
         "norm/largest_eigenvalue": 2 * (10 + b) + p, "test/error": 0.4 + 0.01 * sign * b + 0.3 * p + 0.001 * s}
        for b in scales for p in (0.0, 0.5, 1.0) for s in seeds
    ]  # fmt: skip


NAMES = tuple(minimum_norm.NORMS)


def disordered(order, names=NAMES, **fields):
    """Kernels whose errors, ascending, have the given order in these norms."""
    table = rows(1, scales=SCALES[: len(order)], **fields)
    return [{**row, **{name: 10.0 + order[int(row["bandwidth"]) - 1] for name in names}} for row in table]


SHUFFLED = tuple(np.random.default_rng(3).permutation(24))  # a correlation of about 0.2


def test_the_verdict_follows_the_rank_correlation_over_kernels():
    rising = judged(EXPERIMENT, rows(1))
    assert rising.outcome == "supported" and "(supported: error rises with the norm)" in rising.reason
    assert "216 of 216 solutions are exact, over 24 kernels 1 [" in rising.reason
    falling = judged(EXPERIMENT, rows(-1))
    assert falling.outcome == "refuted"
    assert "(refuted: error falls with the norm, correlated by less than the margin)" in falling.reason
    mixed = judged(EXPERIMENT, disordered(SHUFFLED))
    assert mixed.outcome == "undecided" and mixed.advice == "More seeds alone would not decide."
    assert judged(EXPERIMENT, rows(1) + rows(-1, train_size=500)).outcome == "refuted"


def test_seeds_are_no_kernels():
    """However many seeds: 19 kernels decide nothing, and 24 are as sure with one seed as with twenty."""
    few = judged(EXPERIMENT, rows(1, scales=SCALES[:19], seeds=range(20)))
    assert few.outcome == "undecided" and "(means over 20 seeds), where a verdict needs 20 kernels" in few.reason
    assert few.advice == "More seeds alone would not decide."
    for order, outcome in ((SCALES, "supported"), (SHUFFLED, "undecided")):
        assert {judged(EXPERIMENT, disordered(order, seeds=range(n))).outcome for n in (1, 20)} == {outcome}


@pytest.mark.parametrize("name", NAMES)
def test_an_order_that_hangs_on_the_scale_of_the_kernels_decides_nothing(name):
    for order in (SCALES[::-1], SHUFFLED):
        verdict = judged(EXPERIMENT, disordered(order, names=[name]))
        assert verdict.outcome == "undecided", verdict
    table = [{k: v for k, v in row.items() if k != name or k == "norm"} for row in rows(1)]
    assert judged(EXPERIMENT, table).outcome == ("supported" if name == "norm" else "undecided")


def test_the_test_of_a_correlation_is_spearmans():
    x, y = np.arange(30.0), np.random.default_rng(0).standard_normal(30)
    found = minimum_norm.correlation_test(rank_correlation(x, y), -1)
    resampled = stats.permutation_test(
        (y,), lambda y: stats.spearmanr(np.arange(30), y).statistic, permutation_type="pairings", n_resamples=2000,
        alternative="less", rng=1,
    )  # fmt: skip
    assert found.n == 30 and found.p_value == pytest.approx(resampled.pvalue, abs=0.05)
    assert found.p_value == pytest.approx(stats.spearmanr(x, y, alternative="less").pvalue)
    assert minimum_norm.correlation_test(rank_correlation(x, x**2), 1).p_value < 1e-6


def test_a_correlation_below_the_margin_refutes_with_kernels_enough():
    assert minimum_norm.negligible_test(0.3, 0.3, 20).p_value == pytest.approx(0.5)
    error = np.sqrt((1 + 0.1**2 / 2) / 197)
    wanted = stats.norm.cdf((np.arctanh(0.1) - np.arctanh(0.3)) / error)
    assert minimum_norm.negligible_test(0.1, 0.3, 200).p_value == pytest.approx(wanted)
    assert 0 < minimum_norm.negligible_test(-1.0, 0.3, 20).p_value < 0.01
    for margin, outcome in ((0.9, "refuted"), (0.01, "undecided")):
        assert judged(EXPERIMENT, disordered(SHUFFLED), margin=margin).outcome == outcome


def test_label_noise_is_told_and_not_judged():
    table = [
        {**row, **{name: row[name] - 50 * row["label_noise"] + 100 for name in NAMES}} for row in rows(1)
    ]
    verdict = judged(EXPERIMENT, table)  # within a kernel the error falls with the norm
    assert verdict.outcome == "supported" and ", over label noise Gaussian 1: -0.8 [" in verdict.reason


def test_solutions_that_are_not_exact_are_counted_and_left_out():
    none = judged(EXPERIMENT, rows(1, exact=False))
    assert none.outcome == "undecided" and "0 of 216 solutions are exact, over 0 kernels" in none.reason
    some = judged(EXPERIMENT, rows(1) + rows(-1, exact=False, kernel="linear", scales=(9.0,)))
    assert some.outcome == "supported" and "216 of 225 solutions are exact" in some.reason
    assert "linear" not in some.reason


def test_an_error_of_nothing_or_one_value_of_all_is_no_error_of_the_judge():
    best = [{**row, "test/error": 0.0} if row["bandwidth"] == 1 else row for row in rows(1)]
    assert judged(EXPERIMENT, best).outcome == "supported"
    same = judged(EXPERIMENT, [{**row, "test/error": 0.5} for row in rows(1)])
    assert same.outcome == "undecided" and "over 24 kernels not measured" in same.reason


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
    found = minimum_norm.name_kernels(group).value_counts()
    assert found[found.index.str.startswith("NTK")].to_dict() == {
        "NTK (mlp, depth 2, width 256)": 9,
        "NTK (mlp, depth 2, width 256, tanh)": 9,
        "NTK (mlp, depth 2, width 256, no batch norm, dtype float32)": 9,
    }
    assert "NTK (mlp, depth 2, width 256, tanh): 1 [" in judged(EXPERIMENT, table).reason


def test_one_network_under_two_names_counts_once():
    ntk = {"kernel": "ntk", "scales": (5.0,), "width": 64}
    default = [{**row, "width": None} for row in rows(1, **ntk)]
    (group,) = EXPERIMENT.results(pd.DataFrame(rows(1, **ntk) + default)).groups()
    assert minimum_norm.name_kernels(group).to_list() == 9 * ["NTK (mlp, depth 2, width 64)"]
