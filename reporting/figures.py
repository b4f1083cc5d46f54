"""One look for every figure: colour-blind safe colours with markers and dashes that also tell lines apart in grey.

Importing this changes nothing in Matplotlib: the look holds inside of `with style():`, where the runner draws.
"""
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from analysis.statistics import Interval, t_interval

if TYPE_CHECKING:
    from judging.results import Group  # which imports Keras

# Okabe and Ito's palette without its yellow, ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

STYLE = {
    "figure.dpi": 130,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def style() -> AbstractContextManager:
    """Context in which figures are made, drawn and saved: the project's look, and Matplotlib's own again behind it."""
    return matplotlib.rc_context(STYLE)


def styles() -> Iterator[dict]:
    """Endless line styles: seven colours and markers, each its own; then other pairs of them, 49 in all."""
    for i in itertools.count():
        lap, place = divmod(i, 7)
        marker, dash = MARKERS[(place + lap) % 7], DASHES[(place // 2 + lap) % 4]
        yield {"color": COLOURS[place], "marker": marker, "linestyle": dash}


def new(
    rows: int = 1, columns: int = 1, *, width: float = 4.8, height: float = 3.4, **options: Any
) -> tuple[Figure, np.ndarray]:
    """(figure, axes [rows, columns]) of panels with the given size in inches; the figure belongs to no GUI."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # it can be drawn to pixels, for TensorBoard
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_grid(count: int, columns: int = 3, *, width: float = 4.8, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """(figure, [axis]) of `count` panels in rows of at most `columns`; places that are left over stay empty."""
    columns = max(1, min(columns, count))
    figure, axes = new(-(-count // columns), columns, width=width, height=height)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def interval_line(axis: Axes, x: Iterable[float], intervals: Sequence, *, label: str, **style: Any) -> None:
    """A line through the means of intervals over x, with bars from low to high where there are several seeds."""
    means = [i.mean for i in intervals]
    low = [max(i.mean - i.low, 0) if i.low == i.low else 0 for i in intervals]
    high = [max(i.high - i.mean, 0) if i.high == i.high else 0 for i in intervals]
    axis.errorbar(x, means, [low, high], label=label, capsize=3, markersize=5, **style)


def log_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """t_interval of the logarithms of positive values, in the values' own unit: for a logarithmic axis."""
    values = np.asarray(values, float)
    found = t_interval(np.log(values[values > 0]), level)
    return replace(found, mean=float(np.exp(found.mean)), low=float(np.exp(found.low)), high=float(np.exp(found.high)))


def against_width(
    axis: Axes, groups: "list[Group]", measures: dict[str, str | None] | str, label: str, *, log: bool = False
) -> None:
    """Means of measures against width, with 95 % t-intervals over seeds, one line per group and measure.

    groups: of Results.groups.  measures: {column: name in the legend}, or one column. Stored models without a
    width stand beside each other.  log: a logarithmic axis, with geometric means, where any value is above 0.
    """
    measures = measures if isinstance(measures, dict) else {measures: None}
    looks, ticks = styles(), {}
    stored = all(group.widths.isna().all() for group in groups)
    for place, group in enumerate(groups):
        if not stored and group.widths.isna().any():
            continue
        rows = {place: group.rows} if stored else group.by_width  # {place on the axis: rows, a seed once}
        known = {place: group.label} if stored else {width: width for width in rows}
        for shift, (measure, kind) in zip(np.arange(len(measures)) - (len(measures) - 1) / 2, measures.items()):
            if measure not in group.rows or group.rows[measure].isna().all():
                continue
            ticks.update(known)
            positive = log and bool((group.rows[measure] > 0).any())
            intervals = [(log_interval if positive else t_interval)(found[measure]) for found in rows.values()]
            if positive:
                axis.set_yscale("log")
            full = f"{group.label}: {kind}" if kind else group.label
            interval_line(axis, np.add(list(known), 0.15 * shift * stored), intervals, label=full, **next(looks))
    axis.set(xlabel="stored model" if stored else "width", ylabel=label)
    if stored:
        axis.set_xlim(-0.5, len(groups) - 0.5)
    else:
        axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)], minor=False)
