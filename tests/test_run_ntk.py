"""run_ntk.py end to end: kernels that stand still at learning rate 0, groups by every flag, presets, bad input."""
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import models
import run_ntk
from experiments.ntk import spectrum
from harness import command_line, grid
from harness.runner import InvalidInput
from tests.marks import long_but
from training.fit import TrainingConfig

TINY = {
    "dataset": "gaussian", "train_size": 60, "test_size": 40, "epochs": 2, "batch_size": 30, "rate_scaling": "none",
    "quiet": True,
}  # fmt: skip
UNTRAINED = {"dataset": "gaussian", "train_size": 30, "test_size": 10, "quiet": True}
DIAGRAM = {
    **UNTRAINED, "width": 8, "steps": 5, "curve_depth": 12, "weight_variances": (0.5, 1.75, 3.0), "depths": (1, 4),
    "finite_weight_variances": (0.5, 3.0), "finite_depths": (1, 2), "cells": 0,
}  # fmt: skip
OPTIONS = {"infinite_width": {**UNTRAINED, "depth": 1, "ntk_sample": 4}, "spectrum": DIAGRAM, "lazy": UNTRAINED}
PRESETS = sorted((Path(run_ntk.__file__).parent / "presets").glob("*/ntk_*.cfg"))


def run(folder, experiment, **changes):
    return run_ntk.run(experiment, out_dir=folder, **{**OPTIONS.get(experiment, TINY), **changes})


def drawn(report):
    return {path.name for path in (report.folder / "figures").iterdir()}


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    """Evolution at two learning rates, one of them 0."""
    return run(
        tmp_path_factory.mktemp("evolution"), "evolution", width=4, depth=1, seed=[0, 1], learning_rate=[0.0, 0.1],
        epochs=4, num_checkpoints=3, ntk_sample=4,
    )  # fmt: skip


def test_evolution_measures_at_geometric_epochs(evolved):
    assert all(arrays["evolution/epochs"].tolist() == [1, 2, 4] for arrays in evolved.results.arrays.values())


def test_evolution_judges_each_learning_rate_by_its_own_seeds(evolved):
    """Two seeds at two learning rates were counted as four."""
    assert "learning rate 0.1 (undecided): " in evolved.verdict.reason and "4 seeds" not in evolved.verdict.reason
    assert evolved.verdict.reason.count("over 2 seeds") == 1  # the others have kernels that never moved
    assert "learning rate 0 (undecided): not measured over 0 seeds" in evolved.verdict.reason
    assert drawn(evolved) == {"ntk_evolution.png"}


def test_kernels_stand_still_at_learning_rate_0_and_move_at_another(evolved):
    still, moving = (evolved.results.over(learning_rate=rate) for rate in (0.0, 0.1))
    assert (still["ntk/relative_change"] == 0).all()
    assert still["ntk/correlation"].to_numpy() == pytest.approx(1, abs=1e-12)
    assert (moving["ntk/relative_change"] > 0.01).all() and (moving["ntk/correlation"] < 1 - 1e-6).all()


def test_the_last_measure_of_evolution_is_that_of_drift(evolved, tmp_path):
    """The same network and training: neither knows of the other."""
    report = run(
        tmp_path, "drift", width=4, depth=1, seed=0, learning_rate=0.1, epochs=4, ntk_sample=4, target_loss=None
    )
    wanted = evolved.results.over(learning_rate=0.1, seed=0)
    for name in ("ntk/relative_change", "ntk/correlation", "redraw/correlation", "train/loss", "test/accuracy"):
        assert report.results.table[name].item() == wanted[name].item()


@pytest.mark.long
@pytest.mark.slow
def test_drift_beside_a_second_learning_rate_counts_each_seed_once(tmp_path):
    """This trained everything and ended in a traceback, without results.csv."""
    axes = {"width": [2, 4], "seed": [0, 1], "learning_rate": [0.01, 0.1]}
    report = run(tmp_path, "drift", **axes, depth=1, epochs=1, ntk_sample=3)
    assert report.verdict.reason.count("learning rate") == 2
    assert set(re.findall(r"\d seeds", report.verdict.reason)) == {"2 seeds"}
    assert (report.folder / "results.csv").exists() and drawn(report) == {"ntk_against_width.png", "ntk_heat_maps.png"}


@pytest.mark.slow
@pytest.mark.parametrize("model", long_but(["mlp_ntk"], ["mlp", "mlp_ntk"]))
def test_wide_networks_under_the_conditions_of_theory(tmp_path, model):
    """The claim's own regime: at equal loss the wider network's kernel moves less, and so do its predictions."""
    options = {
        "model": model, "width": [16, 1024], "depth": 1, "seed": [0, 1], "epochs": 300, "rate_scaling": "width",
        "learning_rate": 0.02 if model == "mlp" else 0.5, "momentum": 0.0,
    }  # fmt: skip
    drift = run(tmp_path, "drift", **options, ntk_sample=6, target_loss=0.6).results.table
    assert (drift["train/loss"] <= 0.6).all() and (drift["train/epochs"] < 300).all()
    moved = drift.groupby("width")[["ntk/relative_change", "redraw/relative_change", "redraw/correlation"]].mean()
    assert moved["ntk/relative_change"][1024] < 0.5 * moved["ntk/relative_change"][16]
    # Two wide initializations have nearly the same kernel, without any training.
    assert moved["redraw/relative_change"][1024] < 0.5 * moved["redraw/relative_change"][16]
    assert moved["redraw/correlation"][1024] > moved["redraw/correlation"][16]
    linear = run(tmp_path, "linearization", **options, train_size=30, loss="squared", batch_size=30).results.table
    distances = linear.groupby("width")["linearized/distance"].mean()
    assert distances[1024] < 0.5 * distances[16] and (linear["linearized/step_size"] < 1).all()


@pytest.mark.long
@pytest.mark.slow
def test_drift_on_every_architecture(tmp_path):
    report = run(
        tmp_path, "drift", model=["mlp", "convnet", "resnet"], depth=1, width=4, seed=0,
        batch_norm=[True, False], skip=[True, False], ntk_sample=6, train_size=30, test_size=20,
    )  # fmt: skip
    assert len(report.results.table) == 1 + 1 + 4 and report.results.table["ntk/correlation"].between(-1, 1).all()
    assert report.verdict.outcome == "undecided" and "One width" in report.verdict.reason
    assert drawn(report) == {"ntk_against_width.png", "ntk_heat_maps.png"}


@pytest.mark.slow
def test_features(tmp_path):
    report = run(tmp_path, "features", width=[4, 8], depth=1, seed=[0, 1], feature_sample=30)
    assert report.results.table["features/gram_correlation"].between(-1, 1).all()
    still = run(tmp_path, "features", width=4, depth=1, seed=0, feature_sample=30, learning_rate=0.0).results.table
    assert still["features/gram_change"].item() == 0
    assert still["features/distance_correlation"].item() == pytest.approx(1)


@pytest.mark.long
@pytest.mark.slow
def test_linearization_beside_a_second_training_size(tmp_path):
    report = run(tmp_path, "linearization", width=[4, 64], depth=1, seed=[0, 1], train_size=[10, 20])
    assert (report.results.table["initial/residual"][report.results.table["width"] == 64] < 1e-3).all()
    assert report.verdict.reason.count("over 2 seeds") == 2 and drawn(report) == {"linearization.png"}


@pytest.mark.slow
def test_distance_from_the_limit_falls_with_width(tmp_path):
    report = run(tmp_path, "infinite_width", width=[8, 64, 512], seed=[0, 1, 2])
    means = report.results.table.groupby("width")["ntk/distance"].mean()
    assert means[8] > 2 * means[64] > 4 * means[512] and "width^-0." in report.verdict.reason
    assert drawn(report) == {"infinite_width.png"}


@pytest.mark.long
@pytest.mark.slow
def test_spectrum_repeats_to_the_bit(tmp_path):
    report = run(tmp_path / "a", "spectrum", seed=[0, 1])
    arrays = next(iter(report.results.arrays.values()))
    assert arrays["map/train"].shape == (3, 3) and arrays["finite/train"].shape == (4,)
    assert drawn(report) == {"spectrum_against_depth.png", "phase_diagram.png", "heat_maps.png", "prediction.png"}
    again = run(tmp_path / "b", "spectrum", seed=0)
    for name, values in next(iter(again.results.arrays.values())).items():
        np.testing.assert_array_equal(values, arrays[name], err_msg=name)
    assert again.verdict.outcome == "undecided"  # one seed


@pytest.mark.slow
def test_spectrum_at_drawn_cells_with_centred_labels(tmp_path):
    report = run(tmp_path, "spectrum", cells=5, finite_depths=(1, 4), centre_labels=[False, True], seed=[0, 1])
    table = report.results.table.set_index(["centre_labels", "seed"])
    cells = {
        key: list(zip(*(report.results.arrays[row["config_id"]][f"finite/{x}"] for x in ("weight_variance", "depth"))))
        for key, row in table.iterrows()
    }
    assert cells[False, 0] == cells[True, 0] != cells[False, 1]
    assert (table["infinite/test_agreement"].notna()).all() and len(report.verdict.groups) == 2
    assert drawn(report) == {"spectrum_against_depth.png", "phase_diagram.png", "heat_maps.png", "prediction.png"}


@pytest.mark.slow
def test_spectrum_without_finite_networks_is_a_map_and_no_verdict(tmp_path):
    report = run(
        tmp_path, "spectrum", finite_depths=(), finite_weight_variances=(), architecture="cnn-pool", depths=(1,),
        curve_depth=1, train_size=4, test_size=2, seed=0,
    )  # fmt: skip
    assert report.verdict.outcome == "undecided" and "No finite network" in report.verdict.reason
    assert "prediction.png" not in drawn(report)


@pytest.mark.slow
def test_spectrum_ends_where_all_finite_networks_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(spectrum, "train_finite", lambda *_: (np.nan, np.nan))
    report = run(tmp_path, "spectrum", seed=[0, 1])
    assert report.verdict.outcome == "undecided" and "8 finite networks diverged" in report.verdict.reason


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        ("drift", {"ntk_sample": 1}, "ntk_sample must be at least 2"),
        ("drift", {"ntk_sample": 61}, "61 images was asked of 60"),
        ("evolution", {"epochs": 1}, "at least 2 epochs"),
        ("evolution", {"moments": 1}, "num_checkpoints must be at least 2"),  # its former name
        ("evolution", {"ntk_sample": 61}, "61 images was asked of 60"),
        ("features", {"feature_sample": 5}, "feature_sample"),
        ("linearization", {"loss": "cross_entropy"}, "loss must be squared"),
        ("linearization", {"train_size": 3000}, "smaller --train_size"),
        ("linearization", {"ridge": -1.0}, "ridge"),
        ("lazy", {"alpha": 0.0}, "alpha must be a finite number above 0"),
        ("lazy", {"final_loss": -1.0}, "final_loss must be"),
        ("lazy", {"max_steps": 1}, "max_steps must be at least 10"),
        ("lazy", {"train_size": 3000}, "smaller --train_size"),
        ("lazy", {"model": "resnet", "width": 2}, "as it is in inference, and this one has batch norm"),
        ("lazy", {"dropout": 0.5}, "as it is in inference, and this one has dropout"),
        ("lazy", {"dtype": "float32", "alpha": 1e5}, "in float32 it may be at most 8.39e"),
        ("infinite_width", {"model": "resnet"}, "takes no --model"),
        ("infinite_width", {"activation": "leaky_relu"}, r"closed form \(relu, erf\)"),
        ("infinite_width", {"architecture": "rnn"}, "architecture 'rnn': allowed are fcn, cnn-flatten, cnn-pool"),
        ("infinite_width", {"weight_variance": 0}, "weight variances must be finite and > 0"),
        ("infinite_width", {"bias_variance": float("inf")}, "bias_variance must be finite"),
        ("infinite_width", {"ntk_sample": 1}, "at least 2 images"),
        ("infinite_width", {"ntk_sample": 31}, "31 images was asked of 30"),
        ("spectrum", {"model": "resnet"}, "takes no --model"),
        ("spectrum", {"activation": "tanh"}, r"closed form \(relu, erf\), got 'tanh'"),
        ("spectrum", {"architecture": "cnn"}, "unknown architecture 'cnn'"),
        ("spectrum", {"depth": 3}, "--finite_depths"),
        ("spectrum", {"weight_variances": (0.0, 1.0)}, "must be finite and > 0"),
        ("spectrum", {"bias_variance": -0.1}, "bias_variance must be finite and >= 0"),
        ("spectrum", {"finite_depths": ()}, "must both hold values, or both be empty"),
        ("spectrum", {"cells": 4}, "cells must be 0 or at least 5"),
        ("spectrum", {"cells": 5, "finite_weight_variances": (1.0,)}, "are drawn between two weight variances"),
        ("spectrum", {"finite_depths": (2, 2)}, "finite_depths must differ from each other"),
        ("spectrum", {"depths": (0, 1)}, "must be at least 1"),
        ("spectrum", {"step_size": 1.0}, "strictly between 0 and 1"),
        ("spectrum", {"train_size": 3991}, "4000 images together"),
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
    experiment = run_ntk.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in grid.leaves(experiment.config) if values[name].value is not None}
    configs, _ = grid.expand(experiment, given)
    for config in configs:
        if hasattr(config, "network"):
            models.validate(config.network, (32, 32, 3), 10)
    seeds = {c.seed for c in configs}
    assert len(seeds) >= 3 and max(seeds) - min(seeds) == len(seeds) - 1  # in one row, if not from 0 on
    assert values.experiment == "spectrum" or len(configs) >= 9  # a phase diagram is one config
    if values.experiment == "drift" and preset.parent.name == "paper":
        expected = TrainingConfig(epochs=600, learning_rate=0.01, decay_epochs=(60, 120, 160), decay_factor=0.2,
                                  regularizer="weight_decay", coefficient=5e-4)  # fmt: skip
        assert {c.training for c in configs} == {expected}
