"""The networks of a result table by name, and how a measure moves with their width."""
import zlib

import numpy as np
import pandas as pd

from analysis.statistics import monotone_trend, t_interval
from models import NetworkConfig, default_width
from reporting import figures as plots

LONGEST = 40  # characters of a stored model's path that a figure has room for


def short(model):
    """A model's name; the end of a long path, with a checksum of the whole: names keep networks apart."""
    return model if len(model) <= LONGEST else f"...{model[8 - LONGEST :]}#{zlib.crc32(model.encode()) & 0xFFFF:04x}"


def architecture(row, *, width=False):
    """A readable name of a row's network, its width left out unless asked for: `mlp, depth 3` or `resnet, no skip`."""
    parts = [short(row["model"])]
    if row["widths"]:
        parts.append("-".join(map(str, row["widths"])))
    if not pd.isna(row["depth"]):
        parts.append(f"depth {int(row['depth'])}")
    if width and not row["widths"] and (known := actual_width(row)):
        parts.append(f"width {known}")
    if row["activation"] != NetworkConfig.activation:
        parts.append(row["activation"])
    if not row["batch_norm"]:
        parts.append("no batch norm")
    if not row["skip"]:
        parts.append("no skip")
    return ", ".join(parts)


def actual_width(row):
    """The width of a row's network, its model's default where none was given; None for a .keras file."""
    if not pd.isna(row["width"]):
        return int(row["width"])
    return None if row["model"].endswith(".keras") else default_width(row["model"])


def by_network(table, *, width=False):
    """[(name, rows)] of each network of a table, in the table's order."""
    names = table.apply(lambda row: architecture(row, width=width), axis=1)
    return list(table.groupby(names, sort=False))


def trends(table, measure, *, power_law=False):
    """{architecture: Trend of `measure` with width over seeds}; of its log2 for a power law, whose slope is the exponent."""
    values = np.log2(table[measure].where(table[measure] > 0)) if power_law else table[measure]
    return {
        name: monotone_trend(rows.apply(actual_width, axis=1), values[rows.index], rows["seed"])
        for name, rows in by_network(table)
        if rows.apply(actual_width, axis=1).notna().all()
    }


def without_trend(table):
    """Why no trend with width can be judged."""
    stored = table.apply(actual_width, axis=1).isna().all()
    return "A stored model has no width to vary, so this is measured and not judged" if stored else (
        "One width shows no trend: run several widths"
    )  # fmt: skip


def describe_trend(trend, *, power_law=False):
    """`increasing (slope 0.1 [0.05, 0.15] per doubling, Page p = 0.01, 3 seeds)`, or `width^0.1 [0.05, 0.15]`."""
    slope = trend.slope
    if not slope.n:
        return "not measured (a trend needs two widths or more)"
    interval = f" [{slope.low:.2g}, {slope.high:.2g}]" if slope.n > 1 else ""
    p_value = min(trend.p_increasing, trend.p_decreasing)
    page = f", Page p = {p_value:.2g}" if p_value == p_value else ""
    size = f"width^{slope.mean:.2g}{interval}" if power_law else f"slope {slope.mean:.2g}{interval} per doubling"
    return f"{trend.direction} ({size}{page}, {trend.blocks} seeds)"


def against_width(axis, table, measures, label):
    """Means of measures against width, with 95 % t-intervals over seeds, one line per architecture and measure.

    measures: {column: name in the legend}, or one column. Stored models, which have no width, stand beside each other.
    """
    measures = measures if isinstance(measures, dict) else {measures: None}
    groups, styles = by_network(table), plots.styles()
    stored = table.apply(actual_width, axis=1).isna().all()
    ticks = {}
    for place, (name, rows) in enumerate(groups):
        widths = rows.apply(actual_width, axis=1)
        if stored:
            widths, known = np.full(len(rows), place), {place: name}
        elif widths.isna().any():
            continue
        else:
            known = {width: width for width in sorted(set(widths))}
        for shift, (measure, kind) in zip(np.arange(len(measures)) - (len(measures) - 1) / 2, measures.items()):
            if rows[measure].isna().all():
                continue
            ticks.update(known)
            intervals = [t_interval(rows[measure][widths == w]) for w in known]
            full = f"{name}: {kind}" if kind else name
            plots.interval_line(axis, np.add(list(known), 0.15 * shift * stored), intervals, label=full, **next(styles))
    axis.set(xlabel="stored model" if stored else "width", ylabel=label)
    if stored:
        axis.set_xlim(-0.5, len(groups) - 0.5)
    else:
        axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)], minor=False)
