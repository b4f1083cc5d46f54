"""experiments/rank/spectra.py: the judge on tables made by hand, and the lines of its figures."""
import dataclasses

import numpy as np
import pytest

from experiments.rank import spectra
from experiments.rank.spectra import EXPERIMENT
from tests.experiments.rank import tables
from tests.experiments.rank.tables import SPREAD

FINETUNING = {"finetune_epochs": 6, "finetune_learning_rate": 0.002, "finetune_decay_epochs": ()}


def rows(change, edit="none", seeds=6, **fields):
    fields = {"model": "mlp", "train_epsilon": 0.0, "train": True, **tables.edit_fields(edit), **FINETUNING, **fields}
    return [
        {"config_id": f"{fields}{i}", **fields, "seed": i, "untrained/rank": 0.9 + s,
         "trained/rank": 0.9 + change + 2 * s, "rank/relative": 0.9 + change + (edit == "rank_max") * 0.01}
        for i, s in enumerate(SPREAD[:seeds])
    ]  # fmt: skip


def judged(table):
    return tables.judged(EXPERIMENT, table)


def test_judged_by_paired_changes():
    assert judged(rows(-0.1)).outcome == "supported"
    assert judged(rows(0.1)).outcome == "refuted"
    assert judged(rows(0.0)).outcome == "refuted"  # it does not fall by the margin
    assert judged(rows(-0.01)).outcome == "supported"  # just the margin
    verdict = judged(rows(-0.005))  # a fall, but none worth having
    assert verdict.outcome == "refuted" and "falls by less than the margin" in verdict.reason
    found = tables.results(EXPERIMENT, rows(-0.005))
    assert EXPERIMENT.judge(dataclasses.replace(found, margins={"margin": 0.001})).outcome == "supported"
    assert judged(rows(-0.005)[:3]).outcome == "undecided"  # either is possible
    assert judged(rows(-0.1)[:1]).outcome == "undecided"
    assert judged(rows(-0.1) + rows(0.1, train_epsilon=8.0)).outcome == "refuted"
    verdict = judged(rows(-0.1) + rows(-0.1, seeds=2, train_epsilon=8.0))  # support needs both
    assert verdict.outcome == "undecided" and [outcome for _, outcome in verdict.groups] == ["supported", "undecided"]


def test_edits_share_the_network_that_was_trained_once():
    edited = rows(-0.1, "rank_min") + rows(-0.1, "rank_max") + rows(-0.1, "rank_max", finetune_epochs=12)
    assert judged(rows(-0.1) + edited) == judged(rows(-0.1))
    assert "over 6 seeds" in judged(edited).reason


@pytest.mark.parametrize(
    ("field", "values"), [("learning_rate", (0.01, 0.1)), ("train_size", (0, 500)), ("pad", (True, False))]
)
def test_a_second_value_of_another_field_makes_no_more_seeds(field, values):
    verdict = judged([row for value in values for row in rows(-0.1, seeds=3, **{field: value})])
    assert verdict.outcome == "supported" and "each of 2 groups" in verdict.family
    assert verdict.reason.count("over 3 seeds") == 2 and "over 6 seeds" not in verdict.reason


def test_without_training_the_ranks_are_told_network_by_network():
    table = [{**row, "train": False, "trained/rank": np.nan} for row in rows(0.0) + rows(-0.2, model="resnet")]
    verdict = judged(table)
    assert verdict.outcome == "undecided"
    assert verdict.reason == "No trained network to compare (relative effective rank of mlp: 0.9; resnet: 0.7)."


def test_diverged_networks():
    kept = ("config_id", "model", "train", "train_epsilon", "seed", "untrained/rank", *spectra.EDIT_FIELDS)
    diverged = [{name: row[name] for name in kept} | {"diverged_epoch": 1} for row in rows(0.0)]
    for table in (diverged, [{k: v for k, v in row.items() if k != "untrained/rank"} for row in diverged]):
        verdict = judged(table)
        assert verdict.outcome == "undecided" and verdict.reason == "Every network diverged."
    table = tables.results(EXPERIMENT, [{k: v for k, v in row.items() if k != "untrained/rank"} for row in diverged])
    assert EXPERIMENT.figures(table) == {}


def lines(table):
    """{name: number of networks} of the lines that the figures of mlps have."""
    found = tables.results(EXPERIMENT, table)
    arrays = {"layers": np.array(["dense"]), "relative_rank": np.array([0.5])}
    arrays.update({f"untrained/{name}": value for name, value in arrays.items()})
    found.arrays.update({identity: arrays for identity in found.table["config_id"]})
    return {name: len(seeds) for name, seeds in spectra.variants(found, "mlp")}


def test_figures_have_the_untrained_network_once_and_each_training_and_edit():
    settings = [(epsilon, edit) for epsilon in (0.0, 8.0) for edit in ("none", "rank_min")]
    table = [row for epsilon, edit in settings for row in rows(-0.1, edit, train_epsilon=epsilon)]
    trained = [f"{training}, {edit}" for training in ("natural", "adversarial 8") for edit in ("plain", "rank_min 1")]
    assert lines(table) == dict.fromkeys(["before training", *trained], 6)
    assert lines([{**row, "train": False, "trained/rank": np.nan} for row in rows(0.0)]) == {"as it is": 6}


def test_figures_pool_no_seeds_over_learning_rates_or_fine_tunings():
    table = [row for rate in (0.01, 0.1) for row in rows(-0.1, learning_rate=rate)]
    assert lines(table) == {"before training": 6, "learning rate 0.01, plain": 6, "learning rate 0.1, plain": 6}
    settings = [(epochs, edit) for epochs in (6, 12) for edit in ("none", "rank_min")]
    table = [row for epochs, edit in settings for row in rows(-0.1, edit, finetune_epochs=epochs)]
    names = ["before training", "plain", "rank_min 1, finetune epochs 6", "rank_min 1, finetune epochs 12"]
    assert lines(table) == dict.fromkeys(names, 6)
