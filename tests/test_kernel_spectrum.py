"""run_ntk.py --experiment=spectrum: gradient descent by hand, predicted rates, finite networks, verdicts, bad input."""
import numpy as np
import pandas as pd
import pytest

import run_ntk
from analysis.kernel_limit import limit_kernels
from analysis.kernels import kernel_regression
from experiments import kernel_spectrum, spectrum_figures
from experiments.kernel_spectrum import Config, positive_eigh, share_fitted, size_of_predictor, trained_outputs
from experiments.runner import InvalidInput, Results
from training.data import DataConfig, load

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

TINY = {
    "dataset": "gaussian", "train_size": 30, "test_size": 20, "width": 8, "steps": 5, "curve_depth": 12, "quiet": True,
    "weight_variances": (0.5, 1.75, 3.0), "depths": (1, 4), "finite_weight_variances": (0.5, 3.0), "finite_depths": (1, 2),
}  # fmt: skip
RNG = np.random.default_rng(0)


def run(tmp_path, **changes):
    return run_ntk.run("spectrum", out_dir=tmp_path, **{**TINY, **changes})


def kernel(m=12, test=5):
    x = RNG.standard_normal([m + test, 8])
    return limit_kernels(x, architecture="fcn", activation="erf", weight_variance=1.5, bias_variance=0.1, depth=3)[1]


@pytest.mark.parametrize("step_size", [0.3, 0.9])
def test_trained_outputs_are_those_of_gradient_descent(step_size):
    """f <- f - eta / m Theta (f - Y), step by step, on training and test inputs."""
    ntk, y, start = kernel(), RNG.standard_normal([12, 3]), RNG.standard_normal([17, 3])
    eigen = positive_eigh(ntk[:12, :12])
    f, eta = start.copy(), 2 * step_size / eigen[0][-1]  # eta / m
    for _ in range(40):
        f -= eta * ntk[:, :12] @ (f[:12] - y)
    got = trained_outputs(ntk, eigen, share_fitted(eigen[0], step_size, 40), start, y)
    np.testing.assert_allclose(np.concatenate(got), f, rtol=1e-9, atol=1e-9)


def test_predictor_is_kernel_regression_of_centred_labels():
    ntk, y = kernel(), RNG.standard_normal([12, 3])
    centred = y - y.mean(axis=0)
    wanted = kernel_regression(ntk[:12, :12], centred, ntk[12:, :12]).predictions
    got = size_of_predictor(ntk, positive_eigh(ntk[:12, :12]), np.ones(12), y)
    assert got == pytest.approx(np.sqrt(np.mean(wanted**2) / np.mean(centred**2)), rel=1e-9)
    assert np.isnan(size_of_predictor(np.ones([17, 17]), positive_eigh(np.ones([12, 12])), np.ones(12), y))


def test_rates_are_the_predicted_ones():
    """Deep enough, all four measured rates are within some per cent of theory, which also needs inputs of one length."""
    data = load(DataConfig(dataset="gaussian", train_size=30, test_size=20), seed=0)
    config = Config(curve_depth=400)
    one = kernel_spectrum.replace(
        data, x_train=kernel_spectrum.of_one_length(data.x_train), x_test=kernel_spectrum.of_one_length(data.x_test)
    )
    found = kernel_spectrum.curves(config, one)
    for name in ("ordered_condition", "chaotic_condition", "critical_condition", "chaotic_predictor"):
        assert found[f"rate/{name}"] == pytest.approx(1, abs=0.08), name
    fall = np.log(found["curve/predictor"][1][-1] / found["curve/predictor"][1][-4]) / np.log(
        found["curve/depths"][-1] / found["curve/depths"][-4]
    )
    assert -1.05 < fall < -0.7  # 1 / l at criticality, slowly


def test_spectrum_runs_and_repeats_to_the_bit(tmp_path):
    report = run(tmp_path / "a", seed=[0, 1])
    arrays = next(iter(report.results.arrays.values()))
    assert arrays["map/train"].shape == (3, 3) and arrays["finite/train"].shape == (4,)
    names = {path.name for path in (report.folder / "figures").iterdir()}
    assert names == {"spectrum_against_depth.png", "phase_diagram.png", "heat_maps.png", "prediction.png"}
    again = run(tmp_path / "b", seed=0)
    for name, values in next(iter(again.results.arrays.values())).items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)
    assert again.verdict.outcome == "undecided"  # one seed


def test_without_finite_networks_there_is_a_map_and_no_verdict(tmp_path):
    report = run(tmp_path, finite_depths=(), finite_weight_variances=(), architecture="cnn-pool", depths=(1,), curve_depth=1,
                 train_size=4, test_size=2, seed=0)  # fmt: skip
    assert report.verdict.outcome == "undecided" and "No finite network" in report.verdict.reason
    assert not (report.folder / "figures" / "prediction.png").exists()


def test_all_diverged_still_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_spectrum, "train", lambda *_: (np.nan, np.nan))
    report = run(tmp_path, seed=[0, 1])
    assert report.verdict.outcome == "undecided" and "8 finite networks diverged" in report.verdict.reason


def table(training, test):
    rows = [
        {"architecture": "fcn", "activation": "erf", "width": 64, "bias_variance": 0.18, "seed": seed, "finite/diverged": 0,
         "trainability/correlation": training + 0.02 * seed, "generalisation/correlation": test + 0.02 * seed,
         "infinite/test_agreement": 0.9}
        for seed in range(3)
    ]  # fmt: skip
    return Results(pd.DataFrame(rows), {}, {})


def test_judge():
    found = [kernel_spectrum.judge(table(*means)).outcome for means in ((0.8, 0.9), (0.8, 0.1), (0.5, 0.9))]
    assert found == ["supported", "refuted", "undecided"]


def test_edges_of_heat_maps_enclose_their_centres():
    for log in (False, True):
        centres = np.array([1, 4, 12, 32])
        borders = spectrum_figures.edges(centres, log=log)
        assert (borders[:-1] < centres).all() and (centres < borders[1:]).all()
    assert len(spectrum_figures.edges([2.0])) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet"}, "takes no --model"),
        ({"activation": "tanh"}, r"closed form \(relu, erf\), got 'tanh'"),
        ({"architecture": "cnn"}, "unknown architecture 'cnn'"),
        ({"depth": 3}, "--finite_depths"),
        ({"weight_variances": (0.0, 1.0)}, "must be finite and > 0"),
        ({"bias_variance": -0.1}, "bias_variance must be finite and >= 0"),
        ({"finite_depths": ()}, "must both hold values, or both be empty"),
        ({"depths": (0, 1)}, "must be at least 1"),
        ({"step_size": 1.0}, "strictly between 0 and 1"),
        ({"train_size": 3990}, "4000 images together"),
    ],
)
def test_bad_input(tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
