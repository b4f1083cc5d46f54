"""Tables of a run: means with t-intervals over seeds, one row per config without its seed."""
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.statistics import t_interval
from judging.wording import field_text

if TYPE_CHECKING:
    from judging.results import Results  # which imports Keras


def varying(results: "Results") -> list[str]:
    """The config fields, the seed apart, that differ between the rows of results; the model's name where none does."""
    table = results.table
    names = [f for f in results.fields if f in table and f != "seed" and table[f].map(field_text).nunique() > 1]
    return names or ["model"]


def number(value: float | None) -> str:
    """Four significant digits, without a needless exponent."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.4g}"


def with_interval(values: Iterable[float]) -> str:
    """`mean [low, high]` over the seeds whose value is finite; diverged ones are counted behind it."""
    values = pd.to_numeric(pd.Series(list(values)), errors="coerce").to_numpy(float)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "-"
    interval = t_interval(finite)
    text = number(interval.mean)
    if len(finite) > 1:
        text += f" [{number(interval.low)}, {number(interval.high)}]"
    missing = len(values) - len(finite)
    return text + (f" ({missing} missing)" if missing else "")


def summary(results: "Results", headings: dict[str, str]) -> pd.DataFrame:
    """One row per config without its seed: the fields that vary, the number of seeds, each measure with its interval.

    headings: {column: heading} of the measures.
    """
    names, rows = varying(results), []
    for group in results.groups(apart=()):
        row = {name: field_text(group.first[name]) for name in names}
        row["seeds"] = group.rows["seed"].nunique()
        row.update(
            {text: with_interval(group.rows[column]) for column, text in headings.items() if column in group.rows}
        )
        rows.append(row)
    return pd.DataFrame(rows)


def seeds(results: "Results", headings: dict[str, str]) -> pd.DataFrame:
    """One row per config: the fields that vary, its seed, every measure as text, the seconds it took.

    In the order of `summary`: the seeds of one config follow each other.
    """
    names, rows = varying(results), []
    for group in results.groups(apart=()):
        for _, row in group.rows.iterrows():
            values = {text: number(row[column]) for column, text in headings.items() if column in group.rows}
            fixed = {name: field_text(row[name]) for name in (*names, "seed")}
            rows.append({**fixed, **values, "seconds": f"{row['seconds']:.1f}"})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table."""
    def cell(value):
        return str(value).replace("|", "\\|")

    lines = ["| " + " | ".join(map(cell, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
