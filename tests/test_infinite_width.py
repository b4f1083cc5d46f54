"""run_ntk.py --experiment=infinite_width and models.ntk_parameterized: forward pass by hand, limits, verdicts, bad input."""
import keras
import numpy as np
import pandas as pd
import pytest
from scipy.special import erf

import run_ntk
from analysis.kernel_limit import ARCHITECTURES, limit_kernels
from analysis.ntk import empirical_ntk
from experiments import infinite_width
from experiments.runner import InvalidInput, Results
from models.ntk_parameterized import ntk_parameterized

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

TINY = {"dataset": "gaussian", "train_size": 30, "test_size": 10, "depth": 1, "ntk_sample": 4, "quiet": True}
IMAGES = np.random.default_rng(0).standard_normal([3, 4, 5, 2])


def run(tmp_path, **changes):
    return run_ntk.run("infinite_width", out_dir=tmp_path, **{**TINY, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_pass_by_hand(architecture):
    weight, bias = 1.7, 0.3
    model = ntk_parameterized(
        (4, 5, 2), 3, architecture=architecture, width=6, depth=2, weight_variance=weight, bias_variance=bias, dtype="float64"
    )
    kernels = [v.numpy() for v in model.trainable_variables]

    def dense(h, w):
        return np.sqrt(weight / h.shape[1]) * h @ w[:-1] + np.sqrt(bias) * w[-1]

    def conv(h, w):
        fan_in = 9 * h.shape[-1]
        out = np.sqrt(bias) * w[:, :, -1].sum(axis=(0, 1)) / 3  # nine taps make one standard normal bias
        for s, t in np.ndindex(3, 3):
            out = out + np.sqrt(weight / fan_in) * np.roll(h, (1 - s, 1 - t), (1, 2)) @ w[s, t, :-1]
        return out

    h = IMAGES.reshape(3, -1) if architecture == "fcn" else IMAGES
    for w in kernels[:-1]:
        h = erf((dense if architecture == "fcn" else conv)(h, w))
    h = h.mean(axis=(1, 2)) if architecture == "cnn-pool" else h.reshape(3, -1)
    np.testing.assert_allclose(model(IMAGES).numpy(), dense(h, kernels[-1]), rtol=1e-10)


@pytest.mark.parametrize(
    ("architecture", "activation"), [("fcn", "relu"), ("fcn", "erf"), ("cnn-flatten", "erf"), ("cnn-pool", "relu")]
)
def test_mean_kernel_of_finite_networks_is_the_limit(architecture, activation):
    """Three seeds of width 256: the mean's error is a few per cent, where other architectures differ by tens."""
    setting = {"architecture": architecture, "activation": activation, "depth": 2, "weight_variance": 1.6, "bias_variance": 0.2}
    _, limit = limit_kernels(IMAGES, **setting)
    traces = []
    for seed in range(3):
        keras.backend.clear_session()
        model = ntk_parameterized((4, 5, 2), 5, width=256, seed=seed, **setting)
        traces.append(empirical_ntk(model, IMAGES, outputs="trace"))
    assert np.abs(np.mean(traces, axis=0) - limit).max() < 0.15 * limit.max()


def test_model_can_be_saved(tmp_path):
    model = ntk_parameterized((4, 5, 2), 3, architecture="cnn-pool", width=4, depth=1, bias_variance=0.1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(IMAGES).numpy(), model(IMAGES).numpy())


def test_distance_falls_with_width(tmp_path):
    report = run(tmp_path, width=[8, 64, 512], seed=[0, 1, 2])
    means = report.results.table.groupby("width")["ntk/distance"].mean()
    assert means[8] > 2 * means[64] > 4 * means[512] and "width^-0." in report.verdict.reason
    assert [p.name for p in (report.folder / "figures").iterdir()] == ["infinite_width.png"]
    assert run(tmp_path / "one", width=8, seed=0).verdict.outcome == "undecided"


def table(exponent, noise):
    rng = np.random.default_rng(0)
    rows = [
        {"model": "mlp", "widths": (), "width": width, "depth": 2, "activation": "erf", "batch_norm": True, "skip": True,
         "architecture": "fcn", "weight_variance": 1.5, "bias_variance": 0.1, "seed": seed,
         "ntk/distance": width**exponent * np.exp(noise * rng.standard_normal())}
        for width in (16, 64, 256) for seed in range(5)
    ]  # fmt: skip
    return Results(pd.DataFrame(rows), {}, {})


def test_judge():
    outcomes = [infinite_width.judge(table(*law)).outcome for law in ((-0.5, 0.05), (-1.0, 0.05), (0.0, 0.05), (-0.5, 2.0))]
    assert outcomes == ["supported", "refuted", "refuted", "undecided"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet"}, "takes no --model"),
        ({"activation": "leaky_relu"}, r"closed form \(relu, erf\)"),
        ({"architecture": "rnn"}, "unknown architecture 'rnn': allowed are fcn, cnn-flatten, cnn-pool"),
        ({"weight_variance": 0}, "weight variances must be finite and > 0"),
        ({"bias_variance": float("inf")}, "bias_variance must be finite"),
        ({"ntk_sample": 1}, "at least 2 images"),
        ({"ntk_sample": 31}, "31 images was asked of 30"),
    ],
)
def test_bad_input(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
