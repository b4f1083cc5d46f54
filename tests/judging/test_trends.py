"""judging/trends.py: slopes over seeds in each group, powers of the width, and what cannot have a trend."""
import numpy as np
import pytest

from judging.results import Results
from judging.trends import axis_trend, format_trend, why_no_trend, width_trend
from tests.judging.test_results import FIELDS, results


def group(**axes):
    (found,) = results(**axes).groups()
    return found


def test_a_power_of_the_width_is_found_to_the_digit():
    found = group(width=[8, 16, 32], seed=[0, 1, 2])
    found.rows["m"] = 3.0 * found.rows["width"] ** -0.5
    trend = width_trend(found, "m", power_law=True)
    assert trend.slope.mean == pytest.approx(-0.5, abs=1e-12) and trend.direction == "decreasing" and trend.blocks == 3
    assert format_trend(trend, power_law=True).startswith("decreasing (width^-0.5 [-0.5, -0.5], 3 seeds)")


def test_values_that_have_no_logarithm_are_left_out():
    found = group(width=[8, 16, 32], seed=[0, 1, 2])
    found.rows["m"] = np.where(found.rows["seed"] == 0, 0.0, found.rows["width"] ** 2.0)
    trend = width_trend(found, "m", power_law=True)
    assert trend.blocks == 2 and trend.dropped == 1 and trend.slope.mean == pytest.approx(2)


def test_stored_models_and_single_widths_have_no_trend():
    stored = group(model=["my.keras"], width=[None], depth=[None], seed=[0, 1])
    assert width_trend(stored, "m") is None and "no width to vary" in why_no_trend([stored])
    file = group(model=["my.keras"], width=[8], depth=[None], seed=[0, 1])
    assert not width_trend(file, "m").slope.n and "several .keras files" in why_no_trend([file])
    single = group(width=[8], seed=[0, 1])
    assert not width_trend(single, "m").slope.n and "several widths" in why_no_trend([single, stored])
    assert format_trend(width_trend(single, "m")) == "not measured (a trend needs two widths or more)"


def test_a_default_width_that_is_also_given_counts_once():
    table = results(width=[None, 64, 128], seed=[0, 1]).table
    (found,) = Results(table, {}, {}, FIELDS, ("width",)).groups()
    assert width_trend(found, "m").blocks == 2  # 64 may be the default: then two rows of a seed are one network


def test_any_axis_can_have_a_trend():
    found = group(width=[8, 16], seed=[0, 1])
    found.rows["m"] = found.rows["width"] * 1.0
    assert axis_trend(found.rows, "width", "m").slope.mean == pytest.approx(8)
