"""Tables of a run: means with t-intervals over seeds, one row per config without its seed."""
import numpy as np
import pandas as pd

from analysis.statistics import t_interval


def varying(table, fields):
    """The config fields, the seed apart, that differ between the rows of a table; the model's name where none does."""
    names = [f for f in fields if f != "seed" and table[f].map(str).nunique() > 1]
    return names or ["model"]


def setting(value):
    """A config field's value as its flag is written, tuples as 1-2-4; '-' where the config has none."""
    if isinstance(value, tuple | list):
        return "-".join(map(str, value)) or "-"
    return "-" if value is None or value != value else value


def number(value):
    """Four significant digits, without a needless exponent."""
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.4g}"


def with_interval(values):
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


def summary(table, fields, measures):
    """One row per config without its seed: the fields that vary, the number of seeds, each measure with its interval.

    table: rows of results.  fields: names of the config fields.  measures: {column: heading}.
    """
    groups = varying(table, fields)
    rows = []
    for key, rows_of_key in table.groupby(groups, sort=False, dropna=False):
        row = dict(zip(groups, map(setting, key if isinstance(key, tuple) else (key,))))
        row["seeds"] = rows_of_key["seed"].nunique()
        for column, heading in measures.items():
            if column in rows_of_key:
                row[heading] = with_interval(rows_of_key[column])
        rows.append(row)
    return pd.DataFrame(rows)


def seeds(table, fields, measures):
    """One row per config: the fields that vary, its seed, every measure as text, the seconds it took.

    Arguments as in `summary`, and in its order: the seeds of one config follow each other.
    """
    groups = varying(table, fields)
    rows = []
    for _, rows_of_key in table.groupby(groups, sort=False, dropna=False):
        for _, row in rows_of_key.iterrows():
            values = {heading: number(row[column]) for column, heading in measures.items() if column in table}
            fixed = {name: setting(row[name]) for name in (*groups, "seed")}
            rows.append({**fixed, **values, "seconds": f"{row['seconds']:.1f}"})
    return pd.DataFrame(rows)


def markdown(table):
    """A DataFrame as a Markdown table."""
    cell = lambda value: str(value).replace("|", "\\|")  # noqa: E731
    lines = ["| " + " | ".join(map(cell, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
