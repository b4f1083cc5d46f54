"""What every experiment must stand, present and future: found through the scripts, none of them named here.

Judges see tables with made-up measures: every run diverged, one seed, one value of each axis, a second learning rate,
training size and data set beside the experiment's own axes, columns that nobody knows. Small real runs are slow tests.
"""
import dataclasses
import importlib
import inspect
import itertools
import math
import re
from pathlib import Path
from typing import get_args, get_origin

import numpy as np
import pandas as pd
import pytest

import models
from harness import evidence, grid, runner
from judging.verdict import Verdict

ROOT = Path(grid.__file__).parents[1]
EXPERIMENTS = {
    f"{path.stem}:{name}": experiment
    for path in sorted(ROOT.glob("run_*.py"))
    for name, experiment in importlib.import_module(path.stem).EXPERIMENTS.items()
}
SEEDS = 7  # enough for every rule to decide something
SMALL = {  # of real runs, where the experiment has the field: as few images, steps and points as any of them allows
    "train_size": 20,
    "test_size": 10,
    "seed": [0, 1],
    "loss": "squared",  # which has an affine optimum on few images too
    "epochs": 2,
    "max_epochs": 5,
    "batch_size": 4,
    "decay_epochs": (),
    "large_fraction": 0.5,
    "feature_sample": 20,
    "ntk_sample": 10,
    "hessian_products": 50,
    "lbfgs_iterations": 20,
    "bfgs_iterations": 5,
    "starts": 2,
    "newton_iterations": 2,
    "iterations": 10,
    "steps": 6,
    "measure_every": 1,
    "control_steps": 2,
    "test_steps": 2,
    "finetune_epochs": 1,
    "edit_epochs": [(1,)],
    "distillation_epochs": 2,
    "curve_epochs": 2,
    "points": 5,
    "weight_variances": (0.5, 2.0),
    "depths": (1, 2),
    "finite_weight_variances": (0.5,),
    "finite_depths": (1,),
    "curve_depth": 5,
    "cells": 0,
    "check_size": 5,
    "draw": [0, 1],
}
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


def options(experiment, **given):
    """Those options whose fields the experiment has."""
    return {name: values for name, values in given.items() if name in experiment.fields}


def made_up(experiment, given, *, diverged=False, draw=None):
    """Results of a grid with random measures in (0.1, 0.9), or with every run diverged."""
    configs, _ = grid.expand(experiment, {"seed": list(range(SEEDS)), **given})
    rng = np.random.default_rng(0)
    names = [name for name in experiment.columns if "<" not in name]
    rows = []
    for config in configs:
        measures = {"diverged_epoch": 1} if diverged else {name: float(rng.uniform(0.1, 0.9)) for name in names}
        identity = runner.config_id(experiment, config)
        rows.append({"config_id": identity, **grid.flat(config), **measures, "seconds": 1.0})
    return experiment.results(pd.DataFrame(rows))


def counted(reason):
    """How many seeds a verdict's reason claims to have, each time that it says so."""
    return [int(n) for n in re.findall(r"(?<!ewer than )(?<!at least )\b(\d+)(?: paired)? seeds", reason)]


def judged(experiment, results):
    """The verdict; judging twice, or rows in another order, must not change what it says."""
    before = results.table.copy(deep=True)
    verdict = experiment.judge(results)
    assert isinstance(verdict, Verdict) and verdict.reason and verdict.test
    pd.testing.assert_frame_equal(results.table, before)
    assert experiment.judge(results) == verdict
    order = np.random.default_rng(1).permutation(len(results.table))
    shuffled = dataclasses.replace(results, table=results.table.iloc[order].reset_index(drop=True))
    assert experiment.judge(shuffled).outcome == verdict.outcome
    return verdict


def seconds_axes(experiment):
    """Two values of the learning rate (where there is one), of the training size and of the data set."""
    example = grid.flat(experiment.config())
    axes = {}
    if "learning_rate" in example and "learning_rate" not in experiment.apart:
        axes["learning_rate"] = [example["learning_rate"], 2 * example["learning_rate"]]
    first = experiment.grid.get("train_size", [example["train_size"]])[0] or 100
    axes["train_size"] = [first, first + 10]
    axes["dataset"] = ["digits", "gaussian"]
    return axes


@every_experiment
def test_results_are_judged_from_their_csv_word_for_word(name, tmp_path):
    experiment = EXPERIMENTS[name]
    given = options(experiment, seed=[0, 1, 2, 3], **seconds_axes(experiment))
    configs, _ = grid.expand(experiment, given)
    results = made_up(experiment, given)
    results.table.to_csv(tmp_path / "results.csv", index=False)
    table = evidence.read_table(tmp_path / "results.csv", experiment, configs)
    pd.testing.assert_frame_equal(table, results.table, check_exact=True)
    assert experiment.judge(dataclasses.replace(results, table=table)) == experiment.judge(results)


@every_experiment
def test_its_parts_say_what_they_do(name):
    experiment = EXPERIMENTS[name]
    for part in (experiment.measure, experiment.judge, experiment.figures, inspect.getmodule(experiment.measure)):
        assert part.__doc__, part
    assert all(heading for heading in experiment.columns.values())
    assert "seed" in experiment.grid


@every_experiment
def test_no_field_takes_what_is_no_finite_number(name):
    """Refused in one line before anything is made, or left out where nothing depends on the field."""
    experiment = EXPERIMENTS[name]

    def refused(field, value):
        try:
            configs, _ = grid.expand(experiment, {"seed": 0, field: value})
            for config in configs:
                models.validate(config.network, (8, 8, 1), 10)
        except ValueError as error:
            return "\n" not in str(error)
        values = [value if isinstance(value, tuple) else (value,) for c in configs for value in grid.flat(c).values()]
        return all(math.isfinite(v) for several in values for v in several if isinstance(v, float))

    for field, (_, _, kind) in grid.leaves(experiment.config).items():
        if float in (get_args(kind) or (kind,)):
            for value in (math.nan, math.inf):
                assert refused(field, (value,) if get_origin(kind) is tuple else value), (field, value)
    assert refused("seed", 2**32)


@every_experiment
def test_it_judges_its_own_grid(name):
    experiment = EXPERIMENTS[name]
    verdict = judged(experiment, made_up(experiment, {}))
    assert all(n <= SEEDS for n in counted(verdict.reason)), verdict.reason


@every_experiment
def test_every_run_diverged(name):
    experiment = EXPERIMENTS[name]
    results = made_up(experiment, {}, diverged=True)
    assert judged(experiment, results).outcome == "undecided"
    experiment.figures(results)


@every_experiment
def test_one_run_of_each_setting_diverged(name):
    experiment = EXPERIMENTS[name]
    results = made_up(experiment, {})
    lost = results.table["seed"] == 0
    columns = [column for column in experiment.columns if column in results.table]
    results.table.loc[lost, columns] = np.nan
    results.table["diverged_epoch"] = np.where(lost, 1.0, np.nan)
    assert all(n <= SEEDS for n in counted(judged(experiment, results).reason))


@every_experiment
def test_one_seed_decides_nothing_that_rests_on_spread(name):
    experiment = EXPERIMENTS[name]
    verdict = judged(experiment, made_up(experiment, {"seed": 0}))
    assert all(n <= 1 for n in counted(verdict.reason)), verdict.reason


@every_experiment
def test_one_value_of_each_axis(name):
    experiment = EXPERIMENTS[name]
    judged(
        experiment, made_up(experiment, {axis: values[0] for axis, values in experiment.grid.items() if axis != "seed"})
    )


@every_experiment
def test_further_axes_make_groups_and_no_seeds(name):
    experiment = EXPERIMENTS[name]
    axes = seconds_axes(experiment)
    alone = made_up(experiment, {axis: values[0] for axis, values in axes.items()})
    wide = made_up(experiment, axes)
    verdict = judged(experiment, wide)
    assert all(n <= SEEDS for n in counted(verdict.reason)), verdict.reason
    combinations = len(list(itertools.product(*axes.values())))
    groups = wide.groups()
    assert len(groups) == combinations * len(alone.groups())
    assert len({group.label for group in groups}) == len(groups)
    for group in groups:
        for rows in group.split(*experiment.apart).values() if experiment.apart else [group.rows]:
            assert rows["seed"].is_unique


@every_experiment
def test_columns_that_nobody_knows_change_nothing(name):
    experiment = EXPERIMENTS[name]
    results = made_up(experiment, {})
    verdict = judged(experiment, results)
    more = results.table.assign(**{"of/tomorrow": 1.0, "note": "text", "when": pd.Timestamp("2026-01-01")})
    assert judged(experiment, dataclasses.replace(results, table=more)) == verdict


@pytest.mark.slow
@pytest.mark.long
@every_experiment
def test_a_small_real_run_with_a_second_setting(name, tmp_path):
    """Two seeds, two values of what is compared, and a second setting: measures, verdict, figures, and once more."""
    experiment = EXPERIMENTS[name]
    given = {axis: values[: 2 if axis in experiment.apart else 1] for axis, values in experiment.grid.items()}
    given.update(options(experiment, **SMALL))
    example = grid.flat(experiment.config())
    second = "learning_rate" if "learning_rate" in {*example} - {*experiment.apart} else "train_size"
    given[second] = [example[second], 2 * example[second]] if second == "learning_rate" else [100, 110]
    script, title = name.split(":")
    report = runner.run(script, experiment, given, name=title, out_dir=tmp_path, quiet=True)
    assert list((report.folder / "figures").glob("*.png"))
    assert judged(experiment, report.results) == experiment.judge(report.results)
    assert len(report.results.groups()) == 2 * len({group.first[second] for group in report.results.groups()}) // 2
    known = [column for column in experiment.table if column in report.results.table]
    assert known and all(n <= 2 for n in counted(report.verdict.reason))
    again = runner.run(script, experiment, given, name=title, out_dir=tmp_path, quiet=True)
    assert again.verdict == report.verdict
    pd.testing.assert_frame_equal(again.results.table, report.results.table)
