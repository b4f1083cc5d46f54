"""experiments/ntk/infinite_width.py: the exponent of the width against -1/2, network by network."""
import warnings
from dataclasses import replace

import numpy as np
import pytest

from experiments.ntk import infinite_width
from tests.experiments.ntk.tables import results

WIDTHS = [16, 64, 256]


def distance(exponent, noise=0.05):
    rng = np.random.default_rng(0)
    return lambda fields: {
        "ntk/distance": (fields["width"] or 64) ** exponent * np.exp(noise * rng.standard_normal()),
        "ntk/mean_ratio": 1.0,
    }


def test_outcomes():
    axes = {"width": WIDTHS, "seed": list(range(5))}
    outcomes = [
        infinite_width.judge(results(infinite_width.EXPERIMENT, distance(*law), **axes)).outcome
        for law in ((-0.5, 0.05), (-1.0, 0.05), (0.0, 0.05), (-0.5, 2.0))
    ]
    assert outcomes == ["supported", "refuted", "refuted", "undecided"]


@pytest.mark.parametrize(
    "axis", [{"ntk_sample": [4, 8]}, {"train_size": [20, 50]}, {"dataset": ["digits", "gaussian"]}]
)
def test_three_seeds_count_as_three_beside_a_second_value_of_another_field(axis):
    """This ended in a traceback: only network, architecture and variances made groups."""
    table = results(infinite_width.EXPERIMENT, distance(-0.5), width=WIDTHS, depth=1, **axis)
    verdict = infinite_width.judge(table)
    assert verdict.reason.count("3 seeds") == 2 and "6 seeds" not in verdict.reason
    assert verdict.reason.count("fcn, depth 1, erf, ") == 2


def test_the_distance_at_the_largest_width_is_said():
    table = results(infinite_width.EXPERIMENT, distance(-0.5, 0.0), width=[4, 16, 64], depth=1)
    assert "width^-0.5 [-0.5, -0.5]" in infinite_width.judge(table).reason
    assert infinite_width.judge(table).reason.endswith("distance 0.12 [0.12, 0.12] at width 64.")


@pytest.mark.parametrize("margin", [0.1, 0.3])
def test_support_and_refutation_are_by_the_margin(margin):
    table = results(infinite_width.EXPERIMENT, distance(-0.7, 0.01), width=WIDTHS, depth=1, seed=list(range(5)))
    expected = {0.1: "refuted", 0.3: "supported"}[margin]
    assert infinite_width.judge(replace(table, margins={"margin": margin})).outcome == expected


def test_a_network_off_the_rate_refutes_beside_one_that_has_it():
    def measured(fields):
        return distance(-0.5 if fields["depth"] == 1 else 0.0, 0.0)(fields)

    table = results(infinite_width.EXPERIMENT, measured, width=WIDTHS, depth=[1, 3], seed=list(range(8)))
    verdict = infinite_width.judge(table)
    assert verdict.outcome == "refuted" and "depth 3, erf (refuted: slower than the rate)" in verdict.reason
    assert "depth 1, erf (supported: at the rate)" in verdict.reason


def test_distances_of_zero_have_no_logarithm_and_end_in_no_error():
    seeds = list(range(5))

    def measured(fields):
        return {**distance(-0.5)(fields), **({"ntk/distance": 0.0} if fields["seed"] in lost else {})}

    lost = [0]
    verdict = infinite_width.judge(results(infinite_width.EXPERIMENT, measured, width=WIDTHS, depth=1, seed=seeds))
    assert "4 seeds" in verdict.reason and "nan" not in verdict.reason
    lost = seeds
    table = results(infinite_width.EXPERIMENT, measured, width=WIDTHS, depth=1, seed=seeds)
    verdict = infinite_width.judge(table)
    assert verdict.outcome == "undecided" and "not measured (a trend" in verdict.reason and "nan" not in verdict.reason
    with warnings.catch_warnings():  # Matplotlib's, of a logarithmic axis without anything positive
        warnings.simplefilter("error")
        assert list(infinite_width.figures(table)) == ["infinite_width"]


def test_models_without_a_width_are_said_to_have_no_trend():
    """This ended in a traceback."""
    table = results(infinite_width.EXPERIMENT, distance(-0.5), width=64, depth=1, seed=list(range(5)))
    table.table["model"], table.table["width"] = "mine.keras", None
    verdict = infinite_width.judge(table)
    assert verdict.outcome == "undecided" and "(undecided): no width, so no trend" in verdict.reason
    assert infinite_width.figures(table) == {}


def test_one_width_or_one_seed_decides_nothing():
    for axes in ({"width": 8}, {"width": WIDTHS, "seed": 0}):
        verdict = infinite_width.judge(results(infinite_width.EXPERIMENT, distance(-0.5), depth=1, **axes))
        assert verdict.outcome == "undecided" and "nan" not in verdict.reason


def test_nothing_measured():
    nothing = results(infinite_width.EXPERIMENT, lambda fields: {}, width=WIDTHS)
    assert infinite_width.judge(nothing).reason == "No network was measured."
    assert infinite_width.figures(nothing) == {}


def test_the_figure_has_the_claimed_rate_through_the_first_width():
    table = results(infinite_width.EXPERIMENT, distance(-0.25, 0.0), width=[16, 64], depth=[1, 3])
    axis = infinite_width.figures(table)["infinite_width"].axes[0]
    claimed = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
    assert len(claimed) == 2
    np.testing.assert_allclose(claimed[0].get_ydata(), [16**-0.25, 16**-0.25 / 2])
    assert axis.get_legend_handles_labels()[1].count("width$^{-1/2}$") == 1
