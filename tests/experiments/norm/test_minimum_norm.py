"""experiments/norm/minimum_norm.py: closed forms of the solution and its norm, and the verdict on hand-made tables."""
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from analysis.statistics import t_interval
from experiments.norm import minimum_norm
from experiments.norm.minimum_norm import EXPERIMENT, Config
from harness.grid import expand
from judging.results import Results
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


def rows(sign, exact=True, seeds=(0, 1, 2), kernel="gaussian", scales=(1.0, 2.0, 3.0, 4.0), **fields):
    """Four bandwidths, three label noises: error that rises (1) or falls (-1) with the norm over kernels."""
    base = {"config_id": "x", "dataset": "digits", "train_size": 50, "test_size": 0, "normalize": True,
            "pixel_noise": "none", **NETWORK, "kernel": kernel, "interpolates": exact}  # fmt: skip
    return [
        {**base, "bandwidth": b if kernel == "gaussian" else 1.0, "label_noise": p, "seed": s, **fields,
         "norm": 10 + b + 5 * p + 0.1 * s, "test/error": 0.3 + 0.01 * sign * b + 0.5 * p + 0.001 * s}
        for b in scales for p in (0.0, 0.5, 1.0) for s in seeds
    ]  # fmt: skip


def test_the_verdict_follows_the_rank_correlations():
    assert judged(EXPERIMENT, rows(1)).outcome == "supported"
    assert judged(EXPERIMENT, rows(-1)).outcome == "refuted"
    assert judged(EXPERIMENT, rows(1, seeds=(0, 1))).outcome == "undecided"
    assert judged(EXPERIMENT, rows(1) + rows(-1, train_size=500)).outcome == "refuted"
    assert minimum_norm.outcome(t_interval([0.5, -0.5, 0.1]), {}) == "undecided"


def test_solutions_that_are_not_exact_are_counted_and_left_out():
    none = judged(EXPERIMENT, rows(1, exact=False))
    assert none.outcome == "undecided" and "0 of 36 solutions are exact" in none.reason
    some = judged(EXPERIMENT, rows(1) + rows(-1, exact=False, kernel="linear", scales=(9.0,)))
    assert some.outcome == "supported" and "36 of 45 solutions are exact" in some.reason and "linear" not in some.reason


def test_nothing_measured_is_undecided():
    table = [{k: v for k, v in row.items() if k not in EXPERIMENT.columns} for row in rows(1)]
    assert judged(EXPERIMENT, table).outcome == "undecided"
    assert EXPERIMENT.figures(Results(pd.DataFrame(table), {}, {}, EXPERIMENT.fields, EXPERIMENT.apart)) == {}


def test_training_sets_are_groups_and_kernels_are_compared_in_them():
    verdict = judged(EXPERIMENT, rows(1) + rows(1, train_size=500))
    assert "n = 50 (supported)" in verdict.reason and "n = 500 (supported)" in verdict.reason
    assert verdict.reason.count("(3 seeds)") == 2
    assert "n = 50 (supported)" in judged(EXPERIMENT, rows(1)).reason  # its size where nothing sets it apart


def test_networks_that_differ_in_anything_are_kernels_of_their_own():
    """Three seeds count as three: two activations or precisions are no six solutions of one kernel."""
    ntk = {"kernel": "ntk", "scales": (5.0,)}
    table = rows(1) + rows(1, **ntk) + rows(1, **ntk, activation="tanh")
    table += rows(1, **ntk, dtype="float32", batch_norm=False)
    (group,) = Results(pd.DataFrame(table), {}, {}, EXPERIMENT.fields, EXPERIMENT.apart).groups()
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
    (group,) = Results(pd.DataFrame(rows(1, **ntk) + default), {}, {}, EXPERIMENT.fields, EXPERIMENT.apart).groups()
    found = {name: len(part) for name, part in minimum_norm.by_kernel(group).items()}
    assert found == {"NTK (mlp, depth 2, width 64)": 9}
