"""run_ntk.py: kernels that stand still at learning rate 0, exact resume with probes, verdicts, presets, bad input."""
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl import flags

import run_ntk
from experiments import command_line, ntk_drift, ntk_evolution, ntk_features, ntk_linearization, options
from experiments.runner import InvalidInput, Results
from reporting.verdict import OUTCOMES
from training.data import DataConfig, load
from training.fit import TrainingConfig, fit

TINY = {"dataset": "gaussian", "train_size": 60, "test_size": 40, "epochs": 2, "batch_size": 30, "quiet": True}
PRESETS = sorted((Path(run_ntk.__file__).parent / "presets").glob("*/ntk_*.cfg"))


def run(tmp_path, experiment, **changes):
    return run_ntk.run(experiment, out_dir=tmp_path, **{**TINY, **changes})


def test_drift_is_exactly_zero_at_learning_rate_zero(tmp_path):
    table = run(tmp_path, "drift", width=8, depth=1, seed=0, learning_rate=0.0).results.table
    assert table["ntk/relative_change"].item() == 0 and table["ntk/correlation"].item() == pytest.approx(1, abs=1e-12)
    assert table["parameters/change"].item() == 0


@pytest.mark.slow
def test_drift_on_every_architecture(tmp_path):
    report = run(
        tmp_path, "drift", model=["mlp", "convnet", "resnet"], depth=1, width=4, seed=0,
        batch_norm=[True, False], skip=[True, False], ntk_sample=6, train_size=30, test_size=20,
    )  # fmt: skip
    assert len(report.results.table) == 1 + 1 + 4
    assert report.verdict.outcome in OUTCOMES
    assert {p.name for p in (report.folder / "figures").iterdir()} == {"ntk_against_width.png", "ntk_heat_maps.png"}


def test_one_width_is_a_measurement_and_no_trend(tmp_path):
    verdict = run(tmp_path, "drift", width=8, depth=1, seed=[0, 1]).verdict
    assert verdict.outcome == "undecided" and "several widths" in verdict.reason and "correlation" in verdict.reason


@pytest.mark.slow
def test_evolution_measures_at_geometric_epochs_and_features_and_linearization_run(tmp_path):
    report = run(tmp_path, "evolution", width=8, depth=1, seed=[0, 1], epochs=8, moments=4)
    arrays = next(iter(report.results.arrays.values()))
    assert arrays["evolution/epochs"].tolist() == [1, 2, 4, 8] and report.verdict.outcome in OUTCOMES
    # The last measure against initialization is that of drift, for the same network and training.
    assert arrays["evolution/relative_change"][-1] == report.results.table["ntk/relative_change"].iloc[0]
    report = run(tmp_path, "features", width=[4, 8], depth=1, seed=[0, 1], feature_sample=30)
    assert report.results.table["features/gram_correlation"].between(-1, 1).all()
    report = run(tmp_path, "linearization", width=[4, 64], depth=1, seed=[0, 1], train_size=20)
    assert report.results.table["initial/residual"].iloc[-1] < 1e-3 and report.verdict.outcome in OUTCOMES


def test_probes_survive_a_resume(tmp_path):
    """A run interrupted between two measured epochs ends with the same kernels as an uninterrupted one."""
    import keras

    from models import NetworkConfig, build
    from reporting.run_folder import Run

    data = load(DataConfig(train_size=100, test_size=20), seed=0)
    training = TrainingConfig(epochs=4, batch_size=50)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def probe(model, epoch):
        return {"sum": np.array(sum(float(np.sum(v.numpy())) for v in model.trainable_variables))} if epoch in (1, 4) else None

    def network():
        return build(NetworkConfig(width=4, depth=1), data.input_shape, 10, seed=0)

    whole = fit(network(), data, training, seed=0, probe=probe)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), data, training, seed=0, run=Run(tmp_path, "a", {}), callbacks=[Interrupt()], probe=probe)
    resumed = fit(network(), data, training, seed=0, run=Run(tmp_path, "a", {}), probe=probe)
    assert sorted(resumed.probes) == [1, 4] and resumed.probes == whole.probes


def table(correlation, change, *, noise=0.01):
    rng = np.random.default_rng(0)
    rows = [
        {"model": "mlp", "widths": (), "width": width, "depth": 1, "activation": "relu", "batch_norm": True, "skip": True,
         "seed": seed, "config_id": f"{width}-{seed}",
         "ntk/correlation": correlation(width) + noise * rng.standard_normal(),
         "ntk/relative_change": change(width) + noise * rng.standard_normal()}
        for width in (16, 64, 256) for seed in (0, 1, 2)
    ]  # fmt: skip
    return Results(pd.DataFrame(rows), {}, {})


def test_judge_of_drift():
    still = ntk_drift.judge(table(lambda w: 1 - 4 / w, lambda w: 4 / w))
    moving = ntk_drift.judge(table(lambda w: 4 / w, lambda w: 1.0))
    noise = ntk_drift.judge(table(lambda w: 0.5, lambda w: 0.5, noise=0.2))
    assert (still.outcome, moving.outcome, noise.outcome) == ("supported", "refuted", "undecided")
    diverged = table(lambda w: np.nan, lambda w: np.nan)
    assert ntk_drift.judge(diverged).outcome == "undecided"
    for module in (ntk_drift, ntk_evolution, ntk_features, ntk_linearization):
        empty = diverged.table.drop(columns=["ntk/correlation", "ntk/relative_change"])
        assert module.judge(Results(empty, {}, {})).outcome == "undecided"


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ("drift", {"ntk_sample": 1}, "ntk_sample must be at least 2"),
        ("drift", {"ntk_sample": 61}, "61 images was asked of 60"),
        ("evolution", {"epochs": 1}, "at least 2 epochs"),
        ("features", {"feature_sample": 5}, "feature_sample"),
        ("linearization", {"loss": "cross_entropy"}, "loss must be squared"),
        ("linearization", {"train_size": 3000}, "smaller --train_size"),
        ("linearization", {"ridge": -1.0}, "ridge"),
        ("drfit", {}, "unknown experiment"),
    ],
)
def test_bad_input(tmp_path, experiment, changes, message):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path, experiment, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_are_valid_grids(preset):
    values = flags.FlagValues()
    command_line.define(run_ntk.EXPERIMENTS, flag_values=values)
    values([str(preset), f"--flagfile={preset}"])
    module = run_ntk.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in options.leaves(module.Config) if values[name].value is not None}
    configs, _ = options.expand(module, given)
    assert {c.seed for c in configs} == {0, 1, 2}
    assert values.experiment == "spectrum" or len(configs) >= 9  # a phase diagram is one config
    if values.experiment == "drift" and preset.parent.name == "paper":
        expected = TrainingConfig(epochs=600, learning_rate=0.01, decay_epochs=(60, 120, 160), decay_factor=0.2,
                                  regularizer="weight_decay", coefficient=5e-4)  # fmt: skip
        assert {dataclasses.replace(c.training) for c in configs} == {expected}
