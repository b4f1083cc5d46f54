"""run_norm.py: both experiments end to end on small networks, what is paired, and bad input."""
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from absl import flags

import run_norm
from experiments import command_line, norm_bias, norm_profile
from experiments.runner import InvalidInput
from reporting.verdict import OUTCOMES

TINY = {"dataset": "gaussian", "train_size": 100, "test_size": 50, "batch_size": 25, "learning_rate": 0.05, "epochs": 20,
        "decay_epochs": ()}  # fmt: skip
MLP = {"model": "mlp", "width": 8, "depth": 1}


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_norm.run(experiment, out_dir=folder, quiet=True, **{**TINY, **options})


@pytest.fixture(scope="module")
def bias(tmp_path_factory):
    given = {"decay_coefficient": 0.05, "bias_coefficient": 0.05, "norm_target": 80.0, "seed": [0, 1, 2]}
    return run("norm_bias", tmp_path_factory.mktemp("bias"), **MLP, **given)


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A small network with batch norm, as a person's own file: {model: its path}."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(8, use_bias=False)(keras.layers.Flatten()(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    path = str(tmp_path_factory.mktemp("model") / "normed.keras")
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(path)
    return {"model": path}


@pytest.fixture(scope="module")
def profile(tmp_path_factory, normed):
    norm_profile._unregularized.clear()
    folder = tmp_path_factory.mktemp("profile")
    return run("norm_profile", folder, **normed, multiple=[0.5, 2.0], coefficient=0.1, seed=[0, 1])


def test_norm_bias_ends_at_its_target_and_weight_decay_below_none(bias):
    table = bias.results.table
    assert len(table) == 9 and table["diverged_epoch"].isna().all() and bias.verdict.outcome in OUTCOMES
    targeted = bias.results.over(regularizer="norm_bias")
    assert (targeted["norm/all"] / 80 - 1).abs().max() < 0.02 and targeted["norm/settled"].all()
    finals = table.pivot(index="seed", columns="regularizer", values="norm/all")
    assert (finals["weight_decay"] < finals["none"]).all()
    np.testing.assert_allclose(table["gap/accuracy"], table["train/accuracy"] - table["test/accuracy"])
    assert "norm/scale_invariant" not in table
    assert "over 3 paired seeds" in bias.verdict.reason and "Warning" not in bias.verdict.reason


def test_the_norms_of_the_table_are_those_at_the_end_of_the_history(bias):
    for _, row in bias.results.table.iterrows():
        history = bias.results.histories[row["config_id"]]
        np.testing.assert_allclose(history["norm/all"].iloc[-1], row["norm/all"], rtol=1e-12)
        assert history["norm/kernels"].iloc[-1] < row["norm/all"] and len(history) == 20


@pytest.mark.slow
def test_the_seed_fixes_start_and_order_whatever_the_regularizer(bias, tmp_path):
    """Without coefficients all three regularizers train the same network to the bit; the seeds differ."""
    starts = bias.results.table.pivot(index="seed", columns="regularizer", values="norm/start")
    assert starts.nunique(axis=1).eq(1).all() and starts["none"].nunique() == 3
    given = {"decay_coefficient": 0.0, "bias_coefficient": 0.0, "norm_target": 80.0, "seed": [0, 1], "epochs": 3}
    table = run("norm_bias", tmp_path, **MLP, **given).results.table
    for measure in ("train/loss", "test/loss", "norm/all"):
        finals = table.pivot(index="seed", columns="regularizer", values=measure)
        assert finals.nunique(axis=1).eq(1).all() and finals["none"].nunique() == 2


def test_a_target_out_of_reach_is_told_in_the_report(tmp_path):
    given = {"regularizer": "norm_bias", "bias_coefficient": 1e-4, "norm_target": 5000.0, "seed": 0, "epochs": 2}
    report = run("norm_bias", tmp_path, **MLP, **given)
    (row,) = report.results.over(regularizer="norm_bias").to_dict("records")
    assert row["norm/settled"] is False and row["norm/over_target"] < 0.1
    text = (report.folder / "report.md").read_text()
    assert "Warning: in 1 of 1 networks under norm_bias" in text and "did not settle within 2% of its target" in text


@pytest.mark.slow
def test_the_report_of_a_real_run_is_complete(bias, profile):
    for report, first in ((bias, "accuracy_by_regularizer"), (profile, "accuracy_against_norm")):
        names = [first, "norm_over_training"]
        text = (report.folder / "report.md").read_text()
        assert str(report.verdict) in text and report.verdict.test in text
        assert sorted(path.stem for path in (report.folder / "figures").iterdir()) == names
        for name in names:
            assert (report.folder / "figures" / f"{name}.png").stat().st_size > 10_000
        assert len(pd.read_csv(report.folder / "results.csv")) == len(report.results.table)
        assert not list(report.folder.rglob("checkpoint"))


@pytest.mark.slow
def test_targets_of_a_profile_are_multiples_of_where_the_same_seed_ends_without_a_regularizer(profile, normed, tmp_path):
    table = profile.results.table
    assert len(table) == 4 and table["diverged_epoch"].isna().all()
    np.testing.assert_allclose(table["norm/target"], table["multiple"] * table["none/norm"], rtol=1e-12)
    np.testing.assert_allclose(table["norm/all"], table["norm/target"], rtol=0.05)
    assert (table["norm/scale_invariant"] < table["norm/all"]).all() and "scale-invariant weights" in profile.verdict.reason
    alone = run("norm_bias", tmp_path, **normed, regularizer="none", seed=[0, 1]).results.table.set_index("seed")
    for _, row in table.iterrows():
        same = alone.loc[row["seed"]]
        assert row["none/norm"] == same["norm/all"] and row["none/accuracy"] == same["test/accuracy"]
        assert row["norm/start"] == same["norm/start"]


@pytest.mark.slow
def test_training_without_a_regularizer_is_shared_and_its_memory_decides_nothing(profile, normed, tmp_path):
    """In one call it is trained once for all multiples of a seed; a later process trains it again to the same bits."""
    stages = {name: set(history["stage"]) for name, history in profile.results.histories.items()}
    assert sum("none" in found for found in stages.values()) == 2 and all("norm_bias" in found for found in stages.values())
    norm_profile._unregularized.clear()
    again = run("norm_profile", tmp_path, **normed, multiple=2.0, coefficient=0.1, seed=1).results.table
    first = profile.results.over(multiple=2.0, seed=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), first.drop(columns="seconds"), check_exact=True)


def test_kernels_only(tmp_path):
    given = {"regularizer": "norm_bias", "bias_coefficient": 0.05, "norm_target": 60.0, "regularize_all": False, "seed": 0}
    (row,) = run("norm_bias", tmp_path, **MLP, **given).results.table.to_dict("records")
    assert abs(row["norm/kernels"] / 60 - 1) < 0.02 and row["norm/settled"] and row["norm/all"] > row["norm/kernels"]


@pytest.mark.parametrize("experiment", ["norm_bias", "norm_profile"])
def test_all_diverged_is_undecided_and_the_report_is_written(experiment, tmp_path):
    report = run(experiment, tmp_path, **MLP, learning_rate=1e6, seed=0, epochs=9)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()
    assert "## Diverged" in (report.folder / "report.md").read_text() and " configs diverged." in report.verdict.reason


def test_an_option_of_the_other_experiment_is_refused(tmp_path):
    for experiment, option in (("norm_bias", {"multiple": 1.0}), ("norm_profile", {"decay_coefficient": 0.1})):
        with pytest.raises(InvalidInput, match=f"unknown option '{next(iter(option))}'"):
            run(experiment, tmp_path / "out", **option)
    with pytest.raises(InvalidInput, match="unknown experiment 'norm'"):
        run_norm.run("norm")
    assert not (tmp_path / "out").exists()


def test_defaults_have_at_least_six_seeds():
    assert min(len(norm_bias.GRID["seed"]), len(norm_profile.GRID["seed"])) >= 6


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path):
    for argument, message in (
        ("--decay_coefficient=-1", "error: decay_coefficient must be a finite number >= 0, got -1.0"),
        ("--norm_target=-5", "error: norm_target must be a finite number >= 0, got -5.0"),
        ("--regularizer=l1", "error: unknown regularizer 'l1': allowed are none, weight_decay, norm_bias"),
    ):
        values = flags.FlagValues()
        command_line.define(run_norm.EXPERIMENTS, values)
        values(["run_norm.py", argument, f"--out_dir={tmp_path / 'out'}"])
        with pytest.raises(SystemExit) as end:
            command_line.call(run_norm.run, run_norm.EXPERIMENTS, values)
        assert end.value.code == message and not (tmp_path / "out").exists()
