"""reporting/figures.py: one look, told apart without colour, that changes nothing in Matplotlib."""
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.statistics import t_interval
from judging.results import Results
from reporting import figures


def test_interval_lines_have_no_bars_for_a_single_seed():
    _, axes = figures.new()
    intervals = [t_interval([1.0, 3.0]), t_interval([2.0])]
    figures.interval_line(axes[0, 0], [1, 2], intervals, label="x", **next(figures.styles()))
    bars = axes[0, 0].containers[0].lines[2][0].get_segments()
    assert bars[0][1][1] > 2 > bars[0][0][1] and bars[1][0][1] == bars[1][1][1] == 2.0


def test_line_styles_differ_without_colour():
    first = list(itertools.islice(figures.styles(), 7))
    assert len({style["marker"] for style in first}) == len({style["color"] for style in first}) == 7
    longer = [(style["color"], style["marker"]) for style in itertools.islice(figures.styles(), 49)]
    assert len(set(longer)) == 49  # dashes alone are hard to tell apart


def test_panels_that_are_left_over_stay_empty():
    figure, axes = figures.panel_grid(4, columns=3)
    assert len(axes) == 4 and sum(axis.get_visible() for axis in figure.axes) == 4 and len(figure.axes) == 6
    assert len(figures.panel_grid(1)[0].axes) == 1


def test_the_look_holds_inside_of_its_context_only():
    before = dict(matplotlib.rcParams)
    with figures.style():
        figure, axes = figures.new()
        assert not axes[0, 0].spines["top"].get_visible() and figure.dpi == 130
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_importing_changes_nothing_in_matplotlib():
    root = Path(figures.__file__).parents[1]
    code = (
        "import matplotlib; before = dict(matplotlib.rcParams); import reporting.figures, reporting.report; "
        "after = dict(matplotlib.rcParams); assert before == after, set(before.items()) ^ set(after.items())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def width_table(**changes):
    rows = [
        {"model": "mlp", "widths": (), "depth": 1, "width": width, "activation": "relu", "batch_norm": True,
         "skip": True, "learning_rate": rate, "seed": seed, "m": width * rate + seed, **changes}
        for rate in (0.1, 0.2) for width in (8, 16) for seed in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return Results(table, {}, {}, tuple(name for name in table if name != "m"), ("width",))


def test_a_line_for_each_group_over_its_widths():
    axis = figures.new()[1][0, 0]
    figures.against_width(axis, width_table().groups(), "m", "measure")
    lines = [container.lines[0] for container in axis.containers]
    assert [line.get_xdata().tolist() for line in lines] == [[8, 16], [8, 16]]
    np.testing.assert_allclose(np.array(lines[0].get_ydata(), float), [8 * 0.1 + 0.5, 16 * 0.1 + 0.5])
    assert [container.get_label() for container in axis.containers] == [
        "mlp, depth 1, learning rate 0.1", "mlp, depth 1, learning rate 0.2"
    ]  # fmt: skip


def test_on_a_logarithmic_axis_means_and_intervals_are_those_of_logarithms():
    axis = figures.new()[1][0, 0]
    figures.against_width(axis, width_table().groups(), "m", "measure", log=True)
    line = axis.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(line[0], np.sqrt((8 * 0.1) * (8 * 0.1 + 1)))  # of seeds 0 and 1
    assert axis.get_yscale() == "log"
    wide = figures.log_interval([0.01, 1.0, 100.0, 0.0])  # what is 0 has no logarithm
    assert wide.n == 3 and wide.mean == pytest.approx(1) and 0 < wide.low < 0.01
    nothing = figures.new()[1][0, 0]
    table = width_table().table.assign(m=0.0)
    figures.against_width(nothing, Results(table, {}, {}, width_table().fields, ("width",)).groups(), "m", "", log=True)
    assert nothing.get_yscale() == "linear"


def test_stored_models_stand_beside_each_other():
    axis = figures.new()[1][0, 0]
    table = width_table().table.assign(width=None, depth=None)
    table["model"] = ["a.keras"] * 4 + ["b.keras"] * 4
    table = table.drop_duplicates(["model", "seed"])
    figures.against_width(axis, Results(table, {}, {}, width_table().fields, ("width",)).groups(), "m", "measure")
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        "a.keras, learning rate 0.1", "b.keras, learning rate 0.2"
    ]  # fmt: skip
