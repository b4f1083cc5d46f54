"""run_norm.py --experiment=minimum_norm: closed forms of the solution and its norm, the verdict's rule, bad input."""
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import run_norm
from analysis.statistics import t_interval
from experiments import minimum_norm
from experiments.minimum_norm import Config
from experiments.runner import InvalidInput, Results
from models import NetworkConfig
from training.data import DataConfig, load

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

SMALL = {"train_size": 40, "test_size": 100}


def run(folder, **options):
    return run_norm.run("minimum_norm", out_dir=folder, quiet=True, **{**SMALL, **options})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    options = {"bandwidth": [0.3, 3.0], "width": 16, "label_noise": [0.0, 1.0], "seed": [0, 1, 2]}
    return run(tmp_path_factory.mktemp("minimum_norm"), **options)


def measured(train_size=40, **options):
    config = Config(data=DataConfig(train_size=train_size, test_size=100), **options)
    data = load(config.data, seed=0)
    return config, data, minimum_norm.measure(config, data, None)


def test_the_linear_solution_is_that_of_the_pseudo_inverse():
    _, data, found = measured(kernel="linear")
    x, test = (a.reshape(len(a), -1).astype(float) for a in (data.x_train, data.x_test))
    scale = np.sqrt(np.mean(np.sum(x**2, axis=1)))
    w = np.linalg.pinv(x / scale) @ (data.y_train.astype(float) - 0.1)  # [d, k]
    np.testing.assert_allclose(found["norm"], np.linalg.norm(w), rtol=1e-8)
    assert found["interpolates"] and found["train/error"] == 0 and found["rank"] == 40
    assert found["test/error"] == np.mean((test @ w).argmax(axis=1) != data.y_test.argmax(axis=1))


def test_gradient_descent_from_zero_ends_at_the_minimum_norm():
    _, data, found = measured(train_size=10, kernel="linear")
    x = data.x_train.reshape(10, -1).astype(float)
    x /= np.sqrt(np.mean(np.sum(x**2, axis=1)))
    w, y = np.zeros((x.shape[1], 10)), data.y_train.astype(float) - 0.1
    for _ in range(2000):
        w -= x.T @ (x @ w - y) / np.linalg.norm(x, 2) ** 2
    np.testing.assert_allclose(np.linalg.norm(w), found["norm"], rtol=1e-8)


def test_a_narrow_gaussian_kernel_is_the_identity_and_the_nearest_neighbour():
    """K = I: alpha = Y, norm^2 = ||Y||^2 = n (1 - 1/k) for centred one-hot rows."""
    _, data, found = measured(kernel="gaussian", bandwidth=0.04)
    np.testing.assert_allclose(found["norm"], np.sqrt(40 * 0.9), rtol=1e-6)
    x, test = (a.reshape(len(a), -1).astype(float) for a in (data.x_train, data.x_test))
    nearest = data.y_train.argmax(axis=1)[cdist(test, x).argmin(axis=1)]
    assert found["test/error"] == np.mean(nearest != data.y_test.argmax(axis=1)) and found["train/error"] == 0


def test_the_kernels_are_scaled_and_symmetric():
    for kernel in minimum_norm.KERNELS:
        config = Config(data=DataConfig(**SMALL), kernel=kernel, network=NetworkConfig(width=8, dtype="float64"))
        data = load(config.data, seed=0)
        train, cross = minimum_norm.kernels(config, data)
        assert train.shape == (40, 40) and cross.shape == (100, 40)
        np.testing.assert_allclose(np.trace(train), 40)
        np.testing.assert_allclose(train, train.T, atol=1e-12)


def test_every_kernel_fits_true_and_random_labels_and_random_ones_at_chance(report):
    table = report.results.table
    assert len(table) == 4 * 2 * 3 and table["interpolates"].all() and (table["train/error"] == 0).all()
    random = table[table["label_noise"] == 1]
    assert (random["test/error"].groupby(random["kernel"]).mean() > 0.8).all()
    assert table[(table["label_noise"] == 0) & (table["kernel"] == "ntk")]["test/error"].max() < 0.5
    assert "24 of 24 solutions are exact" in report.verdict.reason
    assert (report.folder / "figures" / "error_against_norm.png").stat().st_size > 10_000


def test_what_a_kernel_does_not_use_makes_no_config_of_its_own(report):
    table = report.results.table
    assert table.groupby("kernel").size().to_dict() == {"gaussian": 12, "linear": 6, "ntk": 6}
    assert set(table.loc[table["kernel"] == "ntk", "width"]) == {16}
    assert set(table.loc[table["kernel"] != "ntk", "width"]) == {minimum_norm.NETWORK.width}


def test_a_kernel_of_too_low_rank_is_not_exact_and_left_out_of_the_verdict(tmp_path):
    report = run(tmp_path, train_size=200, kernel=["linear", "gaussian"], bandwidth=0.3, label_noise=0.0, seed=0)
    table = report.results.table.set_index("kernel")
    assert not table.loc["linear", "interpolates"] and table.loc["linear", "rank"] <= 64
    assert table.loc["gaussian", "interpolates"]
    assert report.verdict.outcome == "undecided" and "1 of 2 solutions are exact" in report.verdict.reason


def rows(sign, exact=True):
    """Four kernels, three seeds, three label noises: error that rises (1) or falls (-1) with the norm over kernels."""
    base = {"dataset": "digits", "train_size": 50, "test_size": 0, "normalize": True, "pixel_noise": "none"}
    base.update({"kernel": "gaussian", "model": "mlp", "interpolates": exact})
    return Results(pd.DataFrame([
        {**base, "bandwidth": b, "label_noise": p, "seed": s, "norm": 10 + b + 5 * p + 0.1 * s,
         "test/error": 0.3 + 0.01 * sign * b + 0.5 * p + 0.001 * s}
        for b in (1.0, 2.0, 3.0, 4.0) for p in (0.0, 0.5, 1.0) for s in (0, 1, 2)
    ]), {}, {})  # fmt: skip


def test_the_verdict_follows_the_rank_correlations():
    assert minimum_norm.judge(rows(1)).outcome == "supported"
    assert minimum_norm.judge(rows(-1)).outcome == "refuted"
    assert minimum_norm.judge(rows(1, exact=False)).outcome == "undecided"
    assert minimum_norm.outcome(t_interval([0.5, -0.5, 0.1]), {}) == "undecided"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cosine"}, "unknown kernel 'cosine'"),
        ({"bandwidth": 0.0}, "bandwidth must be a finite number > 0"),
        ({"augment": True}, "augment changes images"),
        ({"dataset": "gaussian", "train_size": 20001}, "allowed are 20000"),
        ({"learning_rate": 0.1}, "unknown option 'learning_rate'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
