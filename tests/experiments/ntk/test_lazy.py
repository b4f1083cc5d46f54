"""experiments/ntk/lazy.py: the limits in closed form (linear models, large scales), and its rule on tables by hand."""
import dataclasses

import keras
import numpy as np
import pytest

from experiments.ntk import lazy
from harness.memo import Memo
from models import NetworkConfig
from reporting.run_folder import Run
from tests.experiments.ntk.tables import results
from training.data import DataConfig, load

DATA = DataConfig(train_size=20, test_size=15, normalize=False)
ALPHAS = [0.1, 1.0, 1000.0]


def measured(folder, monkeypatch=None, model=None, **changes):
    config = lazy.Config(data=DATA)
    network = dataclasses.replace(config.network, width=32, depth=1)
    config = dataclasses.replace(config, network=network, **changes)
    if model is not None:
        monkeypatch.setattr(lazy, "build_network", lambda config, data: model)
    return lazy.measure(config, load(DATA, seed=0), Run(folder, "one", {}, memo=Memo()))


@pytest.mark.parametrize("alpha", [0.1, 50.0])
def test_a_model_that_is_linear_in_its_parameters_is_lazy_at_every_scale(alpha, tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), dtype="float64")
    outputs = keras.layers.Dense(10, dtype="float64")(keras.layers.Flatten(dtype="float64")(inputs))
    found = measured(tmp_path, monkeypatch, keras.Model(inputs, outputs), alpha=alpha)
    assert found["fitted"] and found["kernel/relative_change"] == pytest.approx(0, abs=1e-12)
    assert found["kernel/label_alignment"] == pytest.approx(found["kernel/label_alignment_before"])
    # What is left is that steps are no flow: at an equal loss other directions have been fitted a little further.
    assert found["machine/distance"] < 0.03 and found["machine/agreement"] == 1


@pytest.mark.long
@pytest.mark.slow
def test_a_large_scale_ends_in_kernel_regression_and_a_small_one_does_not(tmp_path):
    small, large = (
        measured(tmp_path / f"{alpha}", alpha=alpha, final_loss=1e-5, max_steps=20000) for alpha in (0.1, 1e4)
    )
    assert small["fitted"] and large["fitted"]
    assert large["kernel/relative_change"] < 1e-3 and large["machine/end_distance"] < 0.03
    assert large["machine/distance"] < 5e-3
    assert small["kernel/relative_change"] > 1 and small["machine/end_distance"] > 0.1
    assert small["parameters/distance"] > 100 * large["parameters/distance"]


@pytest.mark.slow
def test_the_distance_from_kernel_regression_falls_like_one_over_alpha_to_the_accuracy_of_the_solver(tmp_path):
    """Chizat et al. 2019, theorem 2.3: the lazy limit is kernel regression, and a smooth network off by O(1 / alpha).

    Training goes on until no step lowers the loss any more, beyond its rounding.
    """
    network = NetworkConfig(depth=1, width=64, activation="tanh", dtype="float64")
    data = DataConfig(train_size=5, test_size=15, normalize=False)
    found = [
        lazy.measure(
            lazy.Config(network=network, data=data, alpha=alpha, final_loss=1e-18, max_steps=20000),
            load(data, seed=0), Run(tmp_path / f"{alpha}", "one", {}, memo=Memo()),
        )
        for alpha in (1e3, 1e5)
    ]  # fmt: skip
    assert all(one["train/loss"] < 1e-14 for one in found)
    near, nearer = (one["machine/end_distance"] for one in found)
    assert nearer < 2e-6 and near / nearer == pytest.approx(100, rel=0.05)


def test_the_kernel_machine_is_looked_at_when_its_loss_is_that_of_the_network():
    values, coefficients = np.array([0.5, 2.0]), np.array([0.0, 3.0])
    time = lazy.time_of_loss(values, coefficients, 0.01, examples=4)
    assert np.sum((coefficients * np.exp(-values * time)) ** 2) / 8 == pytest.approx(0.01)
    assert lazy.time_of_loss(values, coefficients, 2.0, examples=4) == 0.0  # it begins at 9 / 8


def test_a_run_that_misses_the_loss_says_so(tmp_path):
    found = measured(tmp_path, max_steps=10)
    assert not found["fitted"] and found["train/steps"] == 10 and found["train/loss"] > 0.02


def table(gain, noise=0.002, change=0.001, moved=0.3, fitted=lambda alpha, seed: True):
    """Test accuracies of 0.8 at the largest alpha, and gain(alpha) more at the others.

    change, moved: relative change of the NTK at the largest alpha, and at alpha = 1.
    """
    rng = np.random.default_rng(0)

    def measures(fields):
        alpha = fields["alpha"]
        return {
            "test/accuracy": 0.8 + (gain(alpha) if alpha <= 1 else 0) + noise * rng.standard_normal(),
            "machine/test/accuracy": 0.8, "machine/distance": 0.001, "machine/end_distance": 0.01,
            "kernel/relative_change": moved / alpha if alpha < 10 else change, "parameters/distance": 0.1 / alpha,
            "fitted": fitted(alpha, fields["seed"]),
        }  # fmt: skip

    return measures


def judged(*arguments, seeds=6, **options):
    found = results(lazy.EXPERIMENT, table(*arguments, **options), alpha=ALPHAS, seed=list(range(seeds)))
    return lazy.judge(found)


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        (lambda alpha: 0.0, "supported"),
        (lambda alpha: -0.05, "supported"),
        (lambda alpha: 0.05, "refuted"),
        (lambda alpha: 0.05 if alpha == 0.1 else 0.0, "refuted"),
        (lambda alpha: 0.01, "undecided"),
    ],
)
def test_one_scale_that_gains_refutes_and_all_must_be_no_better(gain, outcome):
    verdict = judged(gain)
    assert verdict.outcome == outcome
    if gain(1.0) == 0 and outcome == "refuted":
        assert "training at alpha 0.1 is better" in verdict.reason and "alpha 1 is better" not in verdict.reason


def test_a_largest_scale_that_is_not_lazy_decides_nothing():
    verdict = judged(lambda alpha: 0.05, change=0.2)
    assert verdict.outcome == "undecided" and "not lazy, so that nothing is judged" in verdict.reason


@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_training_that_is_lazy_at_every_scale_decides_nothing(gain):
    """A linear model, or a very wide one: features moved nowhere, so that there is nothing to compare."""
    verdict = judged(lambda alpha: gain, moved=0.009)  # 0.09 at alpha 0.1
    assert verdict.outcome == "undecided" and "lazy at every alpha" in verdict.reason
    assert judged(lambda alpha: gain, moved=0.011).outcome != "undecided"


def test_runs_that_miss_the_training_loss_are_left_out_and_counted():
    verdict = judged(lambda alpha: 0.05 if alpha == 0.1 else 0.0, fitted=lambda alpha, seed: alpha != 0.1)
    assert verdict.outcome == "supported"
    assert "at alpha 0.1 6 of 6 runs did not reach the training loss" in verdict.reason
    some = judged(lambda alpha: 0.0, fitted=lambda alpha, seed: seed > 1)
    assert "over 4 seeds" in some.reason and "at alpha 1000 2 of 6 runs" in some.reason
    none = judged(lambda alpha: 0.05, fitted=lambda alpha, seed: alpha < 10)
    assert none.outcome == "undecided" and "no scale of at most 1 to compare" in none.reason


def test_one_scale_alone_is_told_and_not_judged():
    found = results(lazy.EXPERIMENT, table(lambda alpha: 0.0), alpha=[1.0])
    assert lazy.judge(found).outcome == "undecided"


def test_the_figure_has_a_row_of_panels_for_each_network():
    found = results(lazy.EXPERIMENT, table(lambda alpha: 0.0), alpha=ALPHAS, width=[16, 32])
    (figure,) = lazy.figures(found).values()
    assert len(figure.axes) == 6 and all(axis.get_xscale() == "log" for axis in figure.axes)
