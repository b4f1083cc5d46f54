"""experiments/ntk/linearization.py: distance in units of movement, closeness and accuracy judged group by group."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.ntk import linearization
from experiments.ntk.linearization import compare
from tests.experiments.ntk.tables import results

WIDTHS = [16, 64, 256]


def measures(power, gap, noise=0.01):
    """Distance width^power, and test accuracies apart by gap."""
    rng = np.random.default_rng(0)

    def measured(fields):
        accuracy = 0.7 + noise * rng.standard_normal()
        return {
            "initial/distance": (fields["width"] or 64) ** power * (1 + noise * rng.standard_normal()),
            "test/accuracy": accuracy,
            "initial/test/accuracy": accuracy - gap + noise * rng.standard_normal(),
        }

    return measured


def test_distance_is_in_units_of_how_far_training_moved_the_predictions():
    targets = np.eye(3)[[0, 1, 2, 0]]
    network = np.array([[3.0, 1, 0], [0, 2, 0], [0, 1, 0], [1, 0, 0]])
    regression = SimpleNamespace(predictions=network.copy(), condition_number=7.0, rank=4, relative_residual=1e-9)
    regression.predictions[2] += [0, 0, 5.0]
    found = compare("final", regression, network, 10.0, SimpleNamespace(y_test=targets))
    assert found["final/distance"] == pytest.approx(0.5) and found["final/agreement"] == 0.75
    assert found["final/test/accuracy"] == 1.0 and found["final/rank"] == 4
    assert all(name in linearization.COLUMNS for name in found)


@pytest.mark.parametrize(
    ("power", "gap", "noise", "expected"),
    [
        (-0.5, 0.0, 0.002, "supported"),
        (0.0, 0.2, 0.01, "refuted"),
        (-0.5, 0.2, 0.01, "refuted"),  # closer, but measurably not the same
        (-0.5, 0.0, 0.01, "undecided"),  # three seeds do not show that the accuracies are the same
        (-0.1, 0.0, 0.002, "refuted"),  # closer by a factor of 1.07 a doubling: none worth having
        (0.0, 0.0, 0.002, "refuted"),
    ],
)
def test_outcomes(power, gap, noise, expected):
    table = results(linearization.EXPERIMENT, measures(power, gap, noise), width=WIDTHS)
    assert linearization.judge(table).outcome == expected


# Gaps of digits' nine seeds as the README's linearization had them: 1.9 [-1.3, 5.0] points over the first three, and
# 1.79 [1.03, 2.55] over all nine.
GAPS = {3: (1.9, 1.268), 9: (1.79, 0.989)}  # mean and standard deviation, in points


@pytest.mark.parametrize("seeds", GAPS)
def test_more_seeds_do_not_turn_imprecision_into_support(seeds):
    """Three seeds had "supported" by a gap that they could not tell from none, and all nine took it back."""
    mean, std = GAPS[seeds]
    shape = np.random.default_rng(3).standard_normal(seeds)
    gaps = 0.01 * (mean + std * (shape - shape.mean()) / shape.std(ddof=1))

    def measured(fields):
        found = measures(-0.3, 0.0, 0.02)(fields)
        return {**found, "initial/test/accuracy": found["test/accuracy"] - gaps[fields["seed"]]}

    table = results(linearization.EXPERIMENT, measured, width=WIDTHS, seed=list(range(seeds)))
    verdict = linearization.judge(table)
    interval = {3: "+1.9 [-1.2, 5] points over 3 seeds", 9: "+1.8 [1, 2.6] points over 9 seeds"}[seeds]
    # Nine seeds show a gap, and not beyond three ways to refute that it is larger than the margin of one point.
    assert interval in verdict.reason and verdict.outcome == "undecided"


def test_three_seeds_count_as_three_beside_a_second_training_size():
    """This ended in a traceback: a seed at one width was there twice."""
    table = results(linearization.EXPERIMENT, measures(-0.5, 0.0, 0.002), width=WIDTHS, train_size=[20, 50])
    verdict = linearization.judge(table)
    assert verdict.outcome == "supported"
    assert verdict.reason.count("over 3 seeds") == 2 and "6 seeds" not in verdict.reason
    assert "depth 2, n = 20 (supported" in verdict.reason and "depth 2, n = 50 (supported" in verdict.reason
    labels = linearization.figures(with_all_columns(table))["linearization"].axes[0].get_legend_handles_labels()[1]
    assert labels == ["mlp, depth 2, n = 20", "mlp, depth 2, n = 50"]


def with_all_columns(table):
    table.table["final/test/accuracy"] = 0.5
    return table


def test_the_largest_width_counts_once_where_it_is_the_default_too():
    verdict = linearization.judge(results(linearization.EXPERIMENT, measures(-0.5, 0.2), width=[None, 16, 64]))
    assert "over 3 seeds" in verdict.reason and "6 seeds" not in verdict.reason


def test_one_width_shows_no_trend():
    verdict = linearization.judge(results(linearization.EXPERIMENT, measures(-0.5, 0.0, 0.002), width=16))
    assert verdict.outcome == "undecided" and "a trend needs two widths or more" in verdict.reason


def test_a_network_that_diverged_keeps_from_support():
    def ended(fields):
        return measures(-0.5, 0.0, 0.002)(fields) if fields["depth"] == 1 else {}

    verdict = linearization.judge(results(linearization.EXPERIMENT, ended, width=WIDTHS, depth=[1, 2]))
    assert verdict.outcome == "undecided" and "over 0 seeds" in verdict.reason
    nothing = results(linearization.EXPERIMENT, lambda fields: {}, width=WIDTHS)
    assert linearization.judge(nothing).reason == "Every network diverged." and linearization.figures(nothing) == {}


def test_a_stored_model_is_measured_and_not_judged():
    table = results(linearization.EXPERIMENT, measures(-0.5, 0.0, 0.002), width=64)
    table.table["model"], table.table["width"] = "mine.keras", None
    verdict = linearization.judge(table)
    assert verdict.outcome == "undecided" and "has no width to vary" in verdict.reason
    assert "mine.keras, depth 2: distance 0.1" in verdict.reason


def test_a_stored_model_beside_other_networks_is_named_and_keeps_from_support():
    """It was left out, and the verdict was that of the others alone."""
    table = results(linearization.EXPERIMENT, measures(-0.5, 0.0, 0.002), width=WIDTHS, train_size=[20, 50])
    stored = table.table["train_size"] == 50
    rows = table.table[~stored | (table.table["width"] == 16)].astype({"width": object})
    rows.loc[stored, "model"], rows.loc[stored, "width"] = "mine.keras", None
    verdict = linearization.judge(replace(table, table=rows))
    assert verdict.outcome == "undecided" and "n = 20 (supported: closer with width, and as" in verdict.reason
    assert "mine.keras, depth 2, n = 50 (undecided): no width, so no trend: distance 0.2" in verdict.reason


def test_a_largest_width_at_which_all_diverged_is_not_measured():
    def ended(fields):
        return measures(-0.5, 0.0, 0.002)(fields) if fields["width"] < 256 else {}

    verdict = linearization.judge(results(linearization.EXPERIMENT, ended, width=WIDTHS))
    assert verdict.outcome == "undecided" and "at the largest width not measured;" in verdict.reason
    assert "nan" not in verdict.reason


def test_columns_of_earlier_versions_are_read():
    names = {
        "trained/accuracy": "train/accuracy", "trained/test_loss": "test/loss", "trained/epochs": "train/epochs",
        "initial/test_accuracy": "initial/test/accuracy", "final/test_loss": "final/test/loss",
    }  # fmt: skip
    former = {name: float(i) for i, name in enumerate(names)}
    assert linearization.EXPERIMENT.modernize(former) == {names[name]: value for name, value in former.items()}
