"""experiments/ntk/constancy.py, as drift and features judge by it: level and trends with width, group by group."""
from dataclasses import replace

import numpy as np
import pytest

from experiments.ntk import drift, features
from experiments.ntk.constancy import REDRAW_COLUMNS, label_measures, redraw_measures
from tests.experiments.ntk.tables import results

WIDTHS = [16, 64, 256]
SUPPORTED = "constant within the margin, and more so with width"


def measures(correlation, change, noise=0.01):
    """Measures of drift as functions of a config's fields, with noise that a seed has at every width anew."""
    rng = np.random.default_rng(0)
    return lambda fields: {
        "ntk/correlation": correlation(fields) + noise * rng.standard_normal(),
        "ntk/relative_change": change(fields) + noise * rng.standard_normal(),
    }


def still(fields):
    change = 4 / fields["width"] * (1 + 0.01 * (7 * fields["seed"] + fields["width"]) % 0.05)  # seeds differ a little
    return {"ntk/correlation": 1 - change, "ntk/relative_change": change}


@pytest.mark.parametrize(
    ("correlation", "change", "noise", "expected"),
    [
        (lambda f: 1 - 4 / f["width"], lambda f: 4 / f["width"], 0.002, "supported"),
        (lambda f: 1 - 4 / f["width"], lambda f: 40 / f["width"], 0.002, "undecided"),  # falls, and is still large
        (lambda f: 4 / f["width"], lambda f: 1.0, 0.01, "refuted"),
        (lambda f: 0.9, lambda f: f["width"], 0.001, "refuted"),
        (lambda f: 0.5, lambda f: 0.5, 0.2, "undecided"),
        (lambda f: 1 - 4 / f["width"], lambda f: 0.5, 0.01, "refuted"),  # no change of the change: below the margin
        (lambda f: 0.5, lambda f: 4 / f["width"], 0.001, "supported"),  # the correlation is told, and need not rise
        (lambda f: 4 / f["width"], lambda f: 40 / f["width"], 0.001, "refuted"),  # large, and ever less correlated
        (lambda f: 1 - 4 / f["width"], lambda f: f["width"] ** -0.1, 0.0005, "refuted"),  # falls by 1.07 a doubling
        (lambda f: 0.9, lambda f: 0.01, 0.0005, "undecided"),  # small at all widths: no word on the limit
    ],
)
def test_outcomes(correlation, change, noise, expected):
    table = results(drift.EXPERIMENT, measures(correlation, change, noise), width=WIDTHS, depth=1)
    assert drift.judge(table).outcome == expected


def test_a_change_of_490_percent_is_not_constant_however_it_falls():
    """The review's example: `supported` was said of a relative change of 78, 25 and 4.9 at widths 32, 128 and 512."""
    means = {32: (78, 0.676), 128: (25, 0.835), 512: (4.9, 0.883)}
    redrawn = {32: 0.626, 128: 0.903, 512: 0.981}

    def measured(fields):
        change, correlation = means[fields["width"]]
        shift = 1 + 0.05 * (fields["seed"] - 1)
        return {
            "ntk/relative_change": change * shift,
            "ntk/correlation": correlation * shift,
            "redraw/correlation": redrawn[fields["width"]],
        }

    verdict = drift.judge(results(drift.EXPERIMENT, measured, width=list(means), depth=3))
    assert verdict.outcome == "undecided" and "at width 512 4.9 [" in verdict.reason
    assert "(of two initializations 0.981" in verdict.reason  # more alike than before and after training
    assert "at this exponent 0.1 is reached at a width of about 25000" in verdict.reason


def test_the_level_is_an_option():
    table = results(drift.EXPERIMENT, measures(lambda f: 1.0, lambda f: 40 / f["width"], 0.002), width=WIDTHS, depth=1)
    assert drift.judge(replace(table, margins={**table.margins, "margin_level": 0.3})).outcome == "supported"


@pytest.mark.parametrize("change", [0.01, 0.5, 50.0])
def test_an_unmeasured_trend_neither_refutes_nor_supports(change):
    """One width, at whatever level, or one that has no seed in common with the others."""
    measured = measures(lambda f: 0.9, lambda f: change, 0.001)
    assert drift.judge(results(drift.EXPERIMENT, measured, width=256, depth=1)).outcome == "undecided"

    def apart(fields):
        return measured(fields) if (fields["seed"] < 3) == (fields["width"] == 16) else {}

    seeds = list(range(6))
    assert drift.judge(results(drift.EXPERIMENT, apart, width=[16, 64], depth=1, seed=seeds)).outcome == "undecided"
    # Beside a network that has a trend, one without any is neither supported nor refuted.
    two = results(drift.EXPERIMENT, lambda f: still(f) if f["depth"] == 1 or f["width"] == 16 else {}, width=[16, 256],
                  depth=[1, 3])  # fmt: skip
    assert ("mlp, depth 3", "undecided") in drift.judge(two).groups


def test_networks_that_missed_the_training_loss_are_not_judged():
    def measured(fields):
        missed = fields["width"] == 256 and fields["seed"] == 2
        return {**still(fields), "train/loss": 0.3 if missed else 0.09}

    table = results(drift.EXPERIMENT, measured, width=WIDTHS, depth=1, target_loss=0.1)
    verdict = drift.judge(table)
    assert verdict.outcome == "undecided"
    assert "1 of 9 runs did not reach the training loss of 0.1, so that nothing is judged" in verdict.reason
    equal_epochs = results(drift.EXPERIMENT, measured, width=WIDTHS, depth=1, target_loss=None)
    assert drift.judge(equal_epochs).outcome == "supported"


def test_baseline_and_alignment_by_hand():
    rng = np.random.default_rng(0)
    x = rng.standard_normal([6, 9])
    kernel, labels = x @ x.T, np.array([0, 0, 1, 1, 2, 2])
    found = redraw_measures(kernel, 2 * kernel, kernel, 2 * kernel + 1)
    assert found == pytest.approx({"redraw/correlation": 1, "redraw/relative_change": 1,
                                   "redraw/trace_correlation": 1, "redraw/cka": 1})  # fmt: skip
    assert set(found) == set(REDRAW_COLUMNS)
    aligned = label_measures(kernel, (labels[:, None] == labels).astype(float), labels)
    assert aligned["label_alignment_after"] == pytest.approx(1)
    assert aligned["cka"] == pytest.approx(aligned["label_alignment_before"]) and aligned["cka"] < 0.9


def test_features_are_judged_by_their_own_columns():
    def named(fields):
        correlation, change = still(fields).values()
        return {"features/gram_correlation": correlation, "features/gram_change": change}

    verdict = features.judge(results(features.EXPERIMENT, named, width=WIDTHS))
    assert verdict.outcome == "supported" and "features' Gram matrix" in verdict.test
    assert "mlp (supported: constant within the margin, and more so with width): relative" in verdict.reason


def test_three_seeds_count_as_three_beside_a_second_learning_rate():
    """This ended in a traceback: a seed at one width was there twice."""
    verdict = drift.judge(results(drift.EXPERIMENT, still, width=WIDTHS, depth=1, learning_rate=[0.01, 0.1]))
    assert verdict.outcome == "supported" and "6 seeds" not in verdict.reason
    for rate in ("0.01", "0.1"):
        assert f"learning rate {rate} (supported: {SUPPORTED}): relative change decreasing" in verdict.reason
    assert verdict.reason.count("3 seeds") == 4  # two trends in each of two groups


def test_one_network_that_moves_refutes():
    def moving_when_deep(fields):
        correlation, change = still(fields).values()
        moving = {"ntk/correlation": 1 - correlation, "ntk/relative_change": change * fields["width"]}
        return still(fields) if fields["depth"] == 1 else moving

    verdict = drift.judge(results(drift.EXPERIMENT, moving_when_deep, width=WIDTHS, depth=[1, 3]))
    assert verdict.outcome == "refuted"
    assert "depth 1 (supported" in verdict.reason and "depth 3 (refuted" in verdict.reason


@pytest.mark.parametrize("lost", [{"depth": 3}, {"depth": 3, "width": 256}])
def test_runs_that_diverged_keep_from_support(lost):
    """A network none of whose runs ended, or none at one width, has shown nothing, and is not left out."""

    def ended(fields):
        return {} if lost.items() <= fields.items() else still(fields)

    verdict = drift.judge(results(drift.EXPERIMENT, ended, width=WIDTHS, depth=[1, 3]))
    assert verdict.outcome == "undecided" and "depth 1 (supported" in verdict.reason
    assert "depth 3 (undecided): relative change not measured" in verdict.reason


def test_all_runs_diverged():
    for experiment in (drift.EXPERIMENT, features.EXPERIMENT):
        table = results(experiment, lambda fields: {"diverged_epoch": 1}, width=WIDTHS)
        verdict = experiment.judge(table)
        assert (verdict.outcome, verdict.reason) == ("undecided", "Every network diverged.")
        assert experiment.figures(table) == {}


def test_one_width_is_a_measurement_and_no_trend():
    verdict = drift.judge(results(drift.EXPERIMENT, still, width=16, depth=[1, 3]))
    assert verdict.outcome == "undecided" and verdict.reason.startswith("One width shows no trend: run several widths.")
    means = "correlation 0.743 [0.73, 0.755], relative change 0.258 [0.245, 0.27]"
    assert f"mlp, depth 3, width 16: {means}" in verdict.reason


def test_a_stored_model_beside_other_networks_is_named_and_keeps_from_support():
    """It was left out, and the verdict was that of the others alone."""
    table = results(drift.EXPERIMENT, still, width=WIDTHS, depth=1, learning_rate=[0.01, 0.1])
    assert drift.judge(table).outcome == "supported"
    stored = table.table["learning_rate"] == 0.1
    rows = table.table[~stored | (table.table["width"] == 16)].astype({"width": object})
    rows.loc[stored, "model"], rows.loc[stored, "width"] = "mine.keras", None
    verdict = drift.judge(replace(table, table=rows))
    assert verdict.outcome == "undecided" and "learning rate 0.01 (supported: " in verdict.reason
    stored_text = "mine.keras, depth 1, learning rate 0.1 (undecided): no width, so no trend: correlation 0.7"
    assert stored_text in verdict.reason


def test_widths_none_of_which_has_all_seeds_are_not_called_one_width():
    def one_of_two(fields):
        return still(fields) if fields["width"] == 16 * 4 ** fields["seed"] else {}

    verdict = drift.judge(results(drift.EXPERIMENT, one_of_two, width=[16, 64], depth=1, seed=[0, 1]))
    assert verdict.outcome == "undecided" and "No seed was measured at every width" in verdict.reason
    lost = drift.judge(results(drift.EXPERIMENT, lambda f: still(f) if f["width"] < 64 else {}, width=[16, 64]))
    assert "width 64: correlation not measured, relative change not measured" in lost.reason


def test_a_default_width_that_is_given_too_counts_once():
    """--width=none and the model's own width are one network: two seeds of it are no four."""
    found = results(drift.EXPERIMENT, still_of_known_width, width=[None, 64, 256], depth=1, seed=[0, 1])
    verdict = drift.judge(found)
    assert "2 seeds" in verdict.reason and "4 seeds" not in verdict.reason
    (group,) = found.groups()
    assert list(group.by_width) == [64, 256] and all(len(rows) == 2 for rows in group.by_width.values())


def still_of_known_width(fields):
    return still({**fields, "width": fields["width"] or 64})
