"""experiments/norm/randomization_verdict.py: the rule of the verdict, and what is grouped, on tables made by hand."""
import numpy as np
import pandas as pd

from experiments.norm import randomization_verdict
from experiments.norm.randomization import EXPERIMENT
from judging.results import Group
from tests.experiments.norm.tables import diverged, judged, unmeasured

GOOD, CHANCE = [0.9, 0.91, 0.92], [0.09, 0.1, 0.11]


def rows(accuracies, fitted=10.0):
    return pd.DataFrame({"test/accuracy": accuracies, "fitted_epoch": fitted, "seed": range(len(accuracies))})


def made(*arguments):
    """Which statements would be made at 2.5 %: (supports, refutes)."""
    found = randomization_verdict.statements(*arguments, chance=0.1, margin=0.05)
    return tuple([statement.text for statement in part if statement.p_value <= 0.025] for part in found)


REFUTED = ([], ["fits random labels and generalizes on true ones"])
SUPPORTED = (["generalizes with decay only"], [])


def test_the_rule_of_the_verdict():
    good, chance = rows(GOOD), rows(CHANCE)
    assert made(good, chance, {}) == REFUTED
    assert made(good, rows(CHANCE, [10.0, None, 12.0]), {}) == ([], [])  # one was not fitted
    assert made(good, rows([0.107, 0.108, 0.106]), {}) == REFUTED  # above chance by a hair
    assert made(good, rows([0.03, 0.032, 0.034]), {}) == ([], [])  # below chance by more than the margin
    assert made(good, rows([0.14, 0.15, 0.16]), {}) == ([], [])  # on the margin
    assert made(good, rows([0.30, 0.31, 0.32]), {}) == ([], [])  # not at chance
    assert made(rows([0.14, 0.15, 0.16]), chance, {}) == ([], [])  # true labels are not above the margin
    assert made(good.head(2), chance, {}) == ([], [])  # too few seeds
    assert made(chance, chance, {"decay": good}) == SUPPORTED
    assert made(good, chance, {"decay": good}) == REFUTED
    assert made(chance, chance, {"decay": rows([0.1, 0.12, 0.1])}) == ([], [])
    assert made(None, chance, {"decay": good}) == made(good, None, {}) == made(None, None, {}) == ([], [])


def test_the_margin_says_what_is_at_chance():
    table = pd.DataFrame(setting(GOOD) + setting([0.16, 0.17, 0.18], 1.0))
    for margin, outcome in ((0.05, "undecided"), (0.2, "refuted")):
        assert EXPERIMENT.judge(EXPERIMENT.results(table, margins={"margin": margin})).outcome == outcome


def test_a_few_images_do_not_tell_chance_however_much_seeds_agree():
    found = setting(GOOD) + setting([0.1, 0.1001, 0.1002], 1.0)
    assert judged(EXPERIMENT, found).outcome == "refuted"
    for images, outcome in ((20, "undecided"), (2000, "refuted")):
        assert judged(EXPERIMENT, [{**row, "test/images": images} for row in found]).outcome == outcome


def dose(strength, gain, fitted):
    options = {"regularizer": "weight_decay"}
    rows = setting([a + gain for a in GOOD], **options) + setting(CHANCE, 1.0, fitted=fitted, **options)
    return [{**row, "coefficient": strength} for row in rows]


def test_doses_of_a_regularizer_are_told_and_drawn():
    found = setting(GOOD) + setting(CHANCE, 1.0) + dose(1e-2, -0.1, np.nan) + dose(1e-4, 0.01, 12.0)
    text = (
        "doses of weight decay: 0.0001: +1 [1, 1] points on true labels, random labels fitted in 3 of 3 runs; 0.01: "
        "-10 [-10, -10] points on true labels, random labels fitted in 0 of 3 runs"
    )
    assert text in judged(EXPERIMENT, found).reason
    (curve,) = randomization_verdict.doses(
        randomization_verdict.conditions_by_setting(Group("mlp", pd.DataFrame(found)))
    ).values()
    assert [strength for strength, _ in curve] == [1e-4, 1e-2]
    figure = EXPERIMENT.figures(EXPERIMENT.results(pd.DataFrame(found)))["doses"]
    assert [len(axis.containers) for axis in figure.axes] == [2, 2]  # true and random labels
    one = judged(EXPERIMENT, setting(GOOD) + dose(1e-4, 0.01, 12.0))
    assert "doses" not in one.reason


def test_margins_on_true_and_random_labels_are_paired_by_seed():
    true = [{**row, "margin/median": 0.1 * (1 + row["seed"])} for row in setting(GOOD)]
    random = [{**row, "margin/median": 0.01 * (1 + row["seed"])} for row in setting(CHANCE, 1.0)]
    verdict = judged(EXPERIMENT, true + random)
    assert "median normalized margin on random labels 0.1 [0.1, 0.1] times that on true ones" in verdict.reason
    unfitted = [{**row, "fitted_epoch": np.nan} for row in random]
    assert "normalized margin" not in judged(EXPERIMENT, true + unfitted).reason


def test_support_needs_every_network():
    close = [0.095, 0.1, 0.105]  # one network of two is supported at half of the level, and single values at 1 %
    dead = [setting(close, depth=d) + setting(GOOD, regularizer="weight_decay", depth=d) for d in (1, 3)]
    verdict = judged(EXPERIMENT, dead[0] + dead[1])
    assert verdict.outcome == "supported"
    assert "mlp, depth 1 (supported: generalizes with weight_decay 0.0005 only): true labels" in verdict.reason
    verdict = judged(EXPERIMENT, dead[0] + setting(GOOD, depth=3) + setting(CHANCE, 1.0, depth=3))
    assert verdict.outcome == "refuted" and [outcome for _, outcome in verdict.groups] == ["supported", "refuted"]


def test_slowdown_is_paired_by_seed():
    ratio = randomization_verdict.slowdown(rows([0.1] * 3, [20.0, 30.0, None]), rows([0.9] * 3, [10.0, 10.0, 10.0]))
    assert (ratio.mean, ratio.n) == (2.5, 2)


def setting(accuracies, label_noise=0.0, regularizer="none", pixel_noise="none", fitted=10.0, **fields):
    """One row a seed of one condition with one explicit regularizer."""
    coefficient = 5e-4 if regularizer == "weight_decay" else 0.0
    common = {"config_id": "x", "model": "mlp", "label_noise": label_noise, "pixel_noise": pixel_noise, "dropout": 0.0,
              "explicit_regularizer": regularizer, "coefficient": coefficient, "regularizer": regularizer,
              "augment": False, "diverged_epoch": None, **fields}  # fmt: skip
    return [
        {**common, "seed": seed, "test/accuracy": accuracy, "train/accuracy": 1.0, "fitted_epoch": fitted + seed,
         "chance": 0.1}
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip


def test_every_condition_is_told_with_its_seeds():
    found = [
        *setting(GOOD), *setting([0.5, 0.51, 0.52], 0.5, fitted=20.0), *setting(CHANCE, 1.0, fitted=30.0),
        *setting([0.08, 0.1, 0.12], pixel_noise="shuffled"), *setting([0.93, 0.95, 0.96], regularizer="weight_decay"),
    ]  # fmt: skip
    verdict = judged(EXPERIMENT, found)
    assert verdict.outcome == "refuted"
    for text in (
        "true labels fitted in 3 of 3 runs, test accuracy 0.91 [0.885, 0.935]",
        "random labels fitted in 3 of 3 runs, test accuracy 0.1 [0.0752, 0.125], 2.8 [",
        "shuffled pixels fitted in 3 of 3 runs",
        "on true labels weight_decay 0.0005 changes test accuracy by +3.7 [",
        "time to fit is increasing in p (slope 20 [20, 20] per unit",
        "test error is increasing in p",
    ):
        assert text in verdict.reason, verdict.reason
    assert "p = 0.5" not in verdict.reason  # the sweep is told by its trend


def test_diverged_runs_stay_in_their_condition_and_are_not_fitted():
    lost = setting(CHANCE, 1.0)
    lost[0].update({"test/accuracy": None, "fitted_epoch": None, "diverged_epoch": 2})
    group = Group("mlp", pd.DataFrame(setting(GOOD) + lost))
    conditions = randomization_verdict.conditions_by_setting(group)["none"]
    assert {name: len(part) for name, part in conditions.items()} == {"true labels": 3, "random labels": 3}
    verdict = judged(EXPERIMENT, setting(GOOD) + lost)
    assert verdict.outcome == "undecided" and "random labels fitted in 2 of 3 runs" in verdict.reason


def test_strengths_of_a_regularizer_are_settings_of_their_own():
    strong = [{**row, "coefficient": 0.00050001} for row in setting(GOOD, regularizer="weight_decay")]
    group = Group("mlp", pd.DataFrame(setting(GOOD, regularizer="weight_decay") + strong))
    names = list(randomization_verdict.conditions_by_setting(group))
    assert names == ["weight_decay 0.0005", "weight_decay 0.00050001"]


def test_all_diverged_and_one_seed_are_undecided():
    verdict = judged(EXPERIMENT, unmeasured(setting(GOOD) + setting(CHANCE, 1.0)))
    assert verdict.outcome == "undecided" and verdict.reason == "Every run diverged."
    verdict = judged(EXPERIMENT, diverged(setting(GOOD, depth=1), 3) + setting(GOOD, depth=3))
    assert "mlp, depth 1 (undecided): every run diverged; mlp, depth 3 (undecided)" in verdict.reason
    verdict = judged(EXPERIMENT, setting(GOOD[:1]) + setting(CHANCE[:1], 1.0))
    assert verdict.outcome == "undecided" and "fitted in 1 of 1 runs, test accuracy 0.9," in verdict.reason


def test_two_seeds_at_two_learning_rates_are_no_four_seeds():
    found = [
        row for rate in (0.01, 0.1)
        for row in setting(GOOD[:2], learning_rate=rate) + setting(CHANCE[:2], 1.0, learning_rate=rate)
    ]  # fmt: skip
    verdict = judged(EXPERIMENT, found)
    assert verdict.outcome == "undecided" and verdict.reason.count("random labels fitted in 2 of 2 runs") == 2
    assert "mlp, learning rate 0.01 (undecided): " in verdict.reason


def test_without_a_plain_run_there_is_nothing_to_tell():
    verdict = judged(EXPERIMENT, setting(GOOD, regularizer="weight_decay"))
    assert verdict.outcome == "undecided" and "no run without explicit regularizers" in verdict.reason


def test_figures_take_what_there_is():
    table = pd.DataFrame(setting(GOOD) + setting(CHANCE, 1.0))
    results = EXPERIMENT.results(table)
    assert list(EXPERIMENT.figures(results)) == ["training_curves", "regularizers"]  # no p between 0 and 1
    middle = EXPERIMENT.results(pd.concat([table, pd.DataFrame(setting(GOOD, 0.5))]))
    assert "label_corruption" in EXPERIMENT.figures(middle)
