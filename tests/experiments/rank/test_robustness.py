"""experiments/rank/robustness.py: the judge on tables made by hand, and figures where there is little to draw."""
import dataclasses

import numpy as np
import pytest

from experiments.rank.robustness import EXPERIMENT
from tests.experiments.rank import tables
from tests.experiments.rank.tables import SOUND, SPREAD


def rows(edit, clean, robust_mean, rank, seeds=6, **fields):
    sign = {"none": 1, "rank_min": -1, "rank_max": 2, "random": 0.5}[edit]
    fields = {"model": "convnet", "train_epsilon": 0.0, **tables.edit_fields(edit), **SOUND, **fields}
    return [
        {"config_id": f"{fields}{i}", **fields, "seed": i, "test/accuracy": clean + sign * SPREAD[i],
         "robust/mean": robust_mean + sign * SPREAD[i], "rank/relative": rank + sign * SPREAD[i] / 10}
        for i in range(seeds)
    ]  # fmt: skip


def judged(table):
    return tables.judged(EXPERIMENT, table)


PLAIN = rows("none", 0.9, 0.5, 0.8)
RANDOM = rows("random", 0.85, 0.45, 0.85)  # an edit as large as RankMin's, which costs some accuracy


@pytest.mark.parametrize(
    ("edited", "outcome"),
    [
        (rows("rank_min", 0.95, 0.6, 0.7), "supported"),
        (rows("rank_min", 0.9, 0.6, 0.7), "refuted"),  # no gain in clean accuracy
        (rows("rank_min", 0.95, 0.5, 0.7), "refuted"),  # none in robust accuracy
        (rows("rank_min", 0.8, 0.4, 0.7), "refuted"),
        (rows("rank_min", 0.905, 0.6, 0.7), "refuted"),  # a gain, but none worth having
        (rows("rank_min", 0.95, 0.51, 0.7), "supported"),  # just the margin
        (rows("rank_max", 0.8, 0.4, 0.9), "undecided"),  # damage alone
        (rows("rank_max", 0.8, 0.6, 0.9), "refuted"),
        (rows("rank_max", 0.95, 0.4, 0.9), "refuted"),
        (rows("rank_min", 0.95, 0.6, 0.7) + rows("rank_max", 0.8, 0.4, 0.9), "supported"),
        (rows("rank_min", 0.95, 0.6, 0.7) + rows("rank_max", 0.95, 0.4, 0.9), "refuted"),
        (rows("rank_min", 0.8, 0.4, 0.7) + rows("rank_max", 0.8, 0.4, 0.9), "refuted"),  # the paper's table
    ],
)
def test_supported_where_a_lower_rank_gains_and_refuted_where_it_does_not(edited, outcome):
    assert judged(PLAIN + RANDOM + edited).outcome == outcome


def test_what_rank_max_costs_never_supports():
    """The review's example: under an earlier rule RankMax hurting while RankMin gained nothing was 97 % supported."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = [
            {**row, **{name: row[name] + 0.01 * rng.standard_normal() for name in ("test/accuracy", "robust/mean")}}
            for row in PLAIN + RANDOM + rows("rank_min", 0.9, 0.5, 0.7) + rows("rank_max", 0.8, 0.4, 0.9)
        ]
        assert judged(table).outcome != "supported"


def test_a_gain_that_a_random_edit_has_too_is_none_of_low_rank():
    gains = rows("rank_min", 0.95, 0.6, 0.7)
    verdict = judged(PLAIN + gains + rows("random", 0.95, 0.45, 0.85))
    assert verdict.outcome == "refuted" and "clean accuracy than the margin on a random edit" in verdict.reason
    verdict = judged(PLAIN + gains + rows("random", 0.85, 0.6, 0.85))
    assert verdict.outcome == "refuted" and "robust accuracy than the margin on a random edit" in verdict.reason
    for control in ([], rows("random", 0.85, 0.45, 0.85, rank_cut=3.0)):  # none, or one as large as another RankMin
        verdict = judged(PLAIN + gains + control)
        assert verdict.outcome == "undecided" and "no random edit of its size to compare" in verdict.reason


@pytest.mark.parametrize(
    "attack",
    [
        {"attack/accuracy_strong": 0.44},  # stronger attacks find much more
        {"attack/loss_strong": 1.9},  # more steps and restarts find less
        {"attack/loss": 1.5, "attack/loss_strong": 1.5},
        {"attack/loss_few": 0.9},  # no attack at all is stronger
        {name: np.nan for name in SOUND},  # nobody looked
    ],
)
def test_nothing_is_said_of_robust_accuracy_under_a_weak_attack(attack):
    table = PLAIN + RANDOM + rows("rank_min", 0.95, 0.6, 0.7, **attack)
    verdict = judged(table)
    assert verdict.outcome == "undecided" and " Warning: " in verdict.reason and "6 of 18 networks" in verdict.reason
    assert judged(PLAIN + RANDOM + rows("rank_min", 0.95, 0.5, 0.7, **attack)).outcome == "undecided"
    assert judged(PLAIN + RANDOM + rows("rank_min", 0.9, 0.6, 0.7, **attack)).outcome == "refuted"  # clean accuracy
    assert "Warning" not in judged(PLAIN + RANDOM + rows("rank_min", 0.95, 0.6, 0.7)).reason


def test_just_the_tolerance_is_no_weak_attack():
    for accuracy in (0.55, 0.35, 0.3):  # whose difference to 5 points less rounds to either side of 0.05
        attack = {"attack/accuracy": accuracy, "attack/accuracy_strong": accuracy - 0.05}
        assert "Warning" not in judged(PLAIN + RANDOM + rows("rank_min", 0.95, 0.6, 0.7, **attack)).reason


def test_tables_of_earlier_versions_are_judged_without_their_robust_accuracy():
    table = [{k: v for k, v in row.items() if k not in SOUND} for row in PLAIN + rows("rank_min", 0.8, 0.6, 0.7)]
    verdict = judged(table)
    assert verdict.outcome == "refuted" and "attacks on 12 of 12 networks were not checked" in verdict.reason
    assert "less robust accuracy" not in verdict.reason


def test_one_setting_of_rank_min_that_gains_is_support_and_one_that_does_not_refutes():
    gains, moves_nothing = rows("rank_min", 0.95, 0.6, 0.7), rows("rank_min", 0.8, 0.4, 0.8, rank_cut=3.0)
    verdict = judged(PLAIN + RANDOM + gains + moves_nothing)
    assert verdict.outcome == "supported" and "rank_min 1 gains clean and robust accuracy" in verdict.reason
    verdict = judged(PLAIN + RANDOM + gains + rows("rank_min", 0.8, 0.6, 0.6, rank_cut=3.0))
    assert verdict.outcome == "refuted" and "rank_min 3 gains less clean accuracy than the margin" in verdict.reason


def test_the_margin_can_be_chosen():
    found = tables.results(EXPERIMENT, PLAIN + RANDOM + rows("rank_min", 0.905, 0.6, 0.7))
    assert EXPERIMENT.judge(found).outcome == "refuted"
    assert EXPERIMENT.judge(dataclasses.replace(found, margins={"margin": 0.001})).outcome == "supported"


def test_an_edit_that_moved_no_rank_and_too_few_seeds_decide_nothing():
    for edited in (rows("rank_min", 0.8, 0.4, 0.8), rows("rank_min", 0.95, 0.6, 0.9), rows("rank_max", 0.95, 0.6, 0.8)):
        verdict = judged(PLAIN + edited)
        assert verdict.outcome == "undecided" and "did not measurably move" in verdict.reason
    assert judged(PLAIN[:2] + rows("rank_min", 0.8, 0.4, 0.7)[:2]).outcome == "undecided"
    assert judged(PLAIN[:1] + rows("rank_min", 0.8, 0.4, 0.7)[:1]).outcome == "undecided"
    for table in (PLAIN, rows("rank_min", 0.8, 0.4, 0.7)):
        verdict = judged(table)
        assert verdict.outcome == "undecided" and "are needed to compare" in verdict.reason


def test_trainings_are_not_mixed_and_support_needs_all_of_them():
    table = PLAIN + RANDOM + rows("rank_min", 0.95, 0.6, 0.7)
    adversarial = [row for edit in ("none", "random") for row in rows(edit, 0.7, 0.6, 0.8, train_epsilon=8.0)]
    verdict = judged(table + adversarial + rows("rank_min", 0.75, 0.7, 0.7, train_epsilon=8.0))
    assert verdict.outcome == "supported"
    assert verdict.groups == (("convnet, natural", "supported"), ("convnet, adversarial 8", "supported"))
    assert verdict.reason.count("over 6 seeds") == 4 and "12 seeds" not in verdict.reason
    verdict = judged(table + adversarial + rows("rank_min", 0.75, 0.6, 0.7, train_epsilon=8.0))
    assert verdict.outcome == "refuted" and dict(verdict.groups)["convnet, natural"] == "supported"
    verdict = judged(table + adversarial[:6])  # nothing to compare in one of them
    assert verdict.outcome == "undecided" and "convnet, adversarial 8 (undecided): an edited and" in verdict.reason


@pytest.mark.parametrize(
    ("field", "values", "label"),
    [
        ("learning_rate", (0.01, 0.1), "learning rate 0.1"),
        ("finetune_epochs", (6, 12), "finetune epochs 12"),
        ("train_size", (0, 500), "n = 500"),
        ("dataset", ("digits", "cifar10"), "cifar10"),
    ],
)
def test_a_second_value_of_another_field_makes_no_more_seeds(field, values, label):
    first, second = values
    table = []
    for value, shift in ((first, 0.0), (second, 0.05)):
        table += rows("none", 0.9 + shift, 0.5 + shift, 0.8 + shift, seeds=3, **{field: value})
        table += rows("rank_min", 0.8 + shift, 0.4 + shift, 0.7 + shift, seeds=3, **{field: value})
    verdict = judged(table)
    assert verdict.outcome == "refuted" and verdict.reason.count("rank_min 1: clean -10 ") == 2
    assert f"; convnet, {label} (refuted: " in verdict.reason
    assert verdict.reason.count("over 3 seeds") == 2 and "over 6 seeds" not in verdict.reason
    two = [row for row in table if row["seed"] < 2]  # two seeds stay two, whatever is varied beside them
    assert judged(two).outcome == "undecided"


def test_two_schedules_of_one_edit_are_two_edits():
    table = PLAIN + rows("rank_min", 0.8, 0.4, 0.7) + rows("rank_min", 0.7, 0.3, 0.6, edit_epochs=(1, 2))
    reason = judged(table).reason
    assert "rank_min 1, edit epochs 1: clean -10" in reason and "rank_min 1, edit epochs 1-2: clean -20" in reason


def test_a_column_that_nobody_knows_changes_nothing():
    table = PLAIN + rows("rank_min", 0.8, 0.4, 0.7)
    assert judged([{**row, "robust/of_later_versions": 1.0, "other": "x"} for row in table]) == judged(table)


def test_diverged_networks():
    table = PLAIN + rows("rank_min", 0.8, 0.4, 0.7)
    kept = ("config_id", "model", "train_epsilon", "seed", "edit", "rank_cut", "rank_cap", "edit_epochs")
    diverged = [{name: row[name] for name in kept} | {"diverged_epoch": 1} for row in table]
    verdict = judged(diverged)
    assert verdict.outcome == "undecided" and verdict.reason == "Every network diverged."
    assert EXPERIMENT.figures(tables.results(EXPERIMENT, diverged)) == {}
    lost = [{**row, **{name: np.nan for name in ("test/accuracy", "robust/mean", "rank/relative")}} for row in table]
    stronger = [{**row, "rank_cut": 3.0} for row in lost if row["edit"] == "rank_min"]  # of which no seed is left
    verdict = judged(table + stronger)
    assert "rank_min 3: clean not measured, robust not measured" in verdict.reason and verdict.outcome == "refuted"
