"""Made-up tables of results whose truth is known, to find out how often each experiment's verdict is wrong.

A Scenario lies on an edge: with effect 0 a statement is just not true, so that its outcome would be wrong; with an
effect above 0 it is true, and the share of such verdicts is the rule's power. An effect of 1 is one standard deviation
of what a seed contributes to the test: of a paired difference, a slope, a logarithm of a ratio.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness import grid
from judging.looks import Trial

DISTRIBUTIONS = ("normal", "t3", "lognormal", "unequal", "correlated", "ties", "diverged", "mirrored")
STRESS = "uneven"  # lognormal, and three times as much of it in one arm: more than the rules are made for
DIVERGED_SHARE = 0.1
EVIDENT = 30.0  # standard deviations: an effect that no test misses


@dataclass(frozen=True)
class Scenario:
    """One edge of one experiment's rule.

    experiment: its name.  truth: what is so with effect 0, in words.  outcome: what would be wrong to say then, and is
    right with an effect above 0.  fill: (draw, table, effect) -> {column: values of each row}; effect has one value a
    row.  options: of the grid, beside seeds and groups.  axis: the field whose values make the groups.
    """

    experiment: str
    truth: str
    outcome: str
    fill: Callable
    options: dict
    axis: str = "learning_rate"


class Draw:
    """Noise of mean 0 and standard deviation 1, one value for each row of a table."""

    def __init__(self, kind, rng, rows):
        self.kind, self.rng, self.rows = kind, rng, rows
        self.shared = rng.standard_normal(rows)

    def __call__(self, arm=0, scale=1.0, *, own=False):
        """arm: which of the compared settings a value belongs to, a number or one a row; `unequal` spreads them.

        scale: the standard deviation.  own: share nothing with other measures, where that would be the effect itself.
        """
        rng, size = self.rng, self.rows
        noise = rng.standard_normal(size)
        if self.kind == "t3":
            noise = rng.standard_t(3, size) / np.sqrt(3)
        elif self.kind in ("lognormal", "mirrored", STRESS):  # sigma 1/2: skewness 1.75, and -1.75
            noise = (np.exp(0.5 * noise) - np.exp(0.125)) / np.sqrt((np.exp(0.25) - 1) * np.exp(0.25))
            noise = -noise if self.kind == "mirrored" else noise
        if self.kind in ("unequal", STRESS):  # up to three times the spread, the mean square over two arms being 1
            noise = noise * np.where(np.asarray(arm) > 0, 3.0, 1.0) / np.sqrt(5)
        elif self.kind == "correlated" and not own:  # the measures of one run share half of their variance
            noise = np.sqrt(0.5) * (noise + self.shared)
        elif self.kind == "ties":
            noise = np.round(2 * noise) / 2
        return scale * noise


def base_table(experiment, scenario, groups, seeds):
    """The rows of a grid of `groups` groups and `seeds` seeds, with fields and no measures yet."""
    values = [0.001 * (1 + i) for i in range(groups)] if scenario.axis == "learning_rate" else None
    values = values or [100 + i for i in range(groups)]
    configs, _ = grid.expand(experiment, {**scenario.options, scenario.axis: values, "seed": list(range(seeds))})
    rows = [{"config_id": str(i), **grid.flat(config), "seconds": 1.0} for i, config in enumerate(configs)]
    with pd.option_context("future.infer_string", False):  # Arrow's strings take half as long again to be judged
        table = pd.DataFrame(rows)
    table["group"] = [values.index(value) for value in table[scenario.axis]]
    return table


def effects(table, scenario, effect):
    """The effect of every row: at the edge of support one group lies on it and the others are evident.

    That is where a rule that asks for all groups errs most; a rule that refutes by any group errs most where all lie on
    the edge.
    """
    if scenario.outcome == "refuted" or effect > 0:
        return np.full(len(table), float(effect))
    return np.where(table["group"].to_numpy() == 0, float(effect), EVIDENT)


def first_of_each(*keys):
    """Of every row the position of the first one with the same keys, [rows]: `values[..]` then agree within them."""
    places = {}
    return np.array([places.setdefault(key, position) for position, key in enumerate(zip(*keys))])


def fill(scenario, table, effect, kind, rng):
    """The table with one draw of the scenario's measures."""
    draw = Draw(kind, rng, len(table))
    measures = pd.DataFrame(scenario.fill(draw, table, effects(table, scenario, effect)), table.index)
    if kind == "diverged":
        lost = rng.random(len(table)) < DIVERGED_SHARE
        measures = measures.astype(float)
        measures.loc[lost] = np.nan
        measures["diverged_epoch"] = np.where(lost, 3.0, np.nan)
    return pd.concat([table, measures], axis=1)


def judge(experiment, scenario, table, effect, kind, rng):
    """The outcome of the verdict on one draw of a scenario's table, judged once."""
    return experiment.judge(experiment.results(fill(scenario, table, effect, kind, rng))).outcome


def judge_sequentially(experiment, scenario, table, effect, kind, rng, sizes):
    """(outcome, seeds used) of a trial that is looked at after `sizes` numbers of seeds, until it is decided."""
    filled = fill(scenario, table, effect, kind, rng)
    trial = Trial()
    trial.plan([str(size) for size in sizes], sizes)
    for size in sizes:
        rows = filled[filled["seed"] < size]
        outcome = experiment.judge(experiment.results(rows, look=trial.take(str(size), sizes))).outcome
        if outcome != "undecided":
            break
    return outcome, size
