"""How a measure moves with the width of a network, or along another axis, over seeds; and how a verdict says it."""
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics import Trend, monotone_trend
from judging.results import Group


def width_trend(group: Group, measure: str, *, power_law: bool = False, level: float = 0.95) -> Trend | None:
    """statistics.Trend of a measure with the width over a Group's seeds; None for a stored model without hidden layers.

    power_law: of the measure's log2, so that the slope is the exponent of the width.
    """
    if group.widths.isna().any():
        return None
    parts = group.by_width
    values, seeds = ([x for rows in parts.values() for x in rows[name].tolist()] for name in (measure, "seed"))
    return trend_over(np.repeat(list(parts), list(map(len, parts.values()))), values, seeds, power_law, level)


def axis_trend(rows: pd.DataFrame, axis: str, measure: str, *, power_law: bool = False, level: float = 0.95) -> Trend:
    """statistics.Trend of a measure along the column `axis`, whose values must be > 0, over the rows' seeds."""
    return trend_over(rows[axis], rows[measure], rows["seed"], power_law, level)


def trend_over(
    levels: Iterable[float], values: Iterable[float], seeds: Iterable[int], power_law: bool, level: float
) -> Trend:
    """statistics.monotone_trend of values, or of those that have a log2."""
    values = np.asarray(values, float)
    if power_law:
        values = np.log2(np.where(values > 0, values, np.nan))
    return monotone_trend(levels, values, seeds, level)


def why_no_trend(groups: Sequence[Group]) -> str:
    """Why no trend with width can be judged in any of these groups."""
    if all(group.widths.isna().all() for group in groups):
        return "A stored model without hidden layers has no width to vary, so this is measured and not judged"
    if any(group.widths.nunique() > 1 for group in groups):
        return "No seed was measured at every width, so there is no trend to judge"
    if all(group.first["model"].endswith(".keras") for group in groups):
        return (
            "One stored model shows no trend: give several .keras files of different widths that agree in all else "
            "(the columns family, learning_rate and momentum say so)"
        )
    return "One width shows no trend: run several widths"


def format_trend(trend: Trend, *, power_law: bool = False) -> str:
    """`increasing (slope 0.1 [0.05, 0.15] per doubling, 3 seeds)`, or `width^0.1 [0.05, 0.15]`."""
    slope = trend.slope
    if not slope.n:
        return "not measured (a trend needs two widths or more)"
    interval = f" [{slope.low:.2g}, {slope.high:.2g}]" if slope.n > 1 else ""
    size = f"width^{slope.mean:.2g}{interval}" if power_law else f"slope {slope.mean:.2g}{interval} per doubling"
    return f"{trend.direction} ({size}, {trend.blocks} seeds)"
