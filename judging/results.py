"""What the configs of a run measured, and the one way to group them.

An experiment names the fields that it compares (`apart`: widths, edits, regularizers). The seed is always the
replicate. Runs that differ in anything else are never pooled: every combination of the other fields is a group of its
own, with a label that says what it is. Within a group each setting of the compared fields holds a seed once.

Stored .keras files have their widths in the table, and a `family`: their architecture up to one factor of all widths.
Where widths are compared the files of one family are one group, as the widths of a model by name are.
"""
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics import PairedDifference, paired_difference
from judging.looks import ERROR, Look
from judging.wording import field_label, field_text, field_texts, is_missing, short_name
from models import NetworkConfig, default_width

REPLICATE = "seed"
NETWORK_FIELDS = ("model", "widths", "depth", "width", "activation", "batch_norm", "skip")  # in the order of a label


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the compared fields and the seed.

    label: what sets this group apart from the others, `mlp, depth 3, learning rate 0.1`.  rows: of the results' table.
    """

    label: str
    rows: pd.DataFrame

    @property
    def first(self) -> pd.Series:
        """The group's first row: every field that is not compared has this value in all of them."""
        return self.rows.iloc[0]

    @cached_property
    def widths(self) -> pd.Series:
        """The width of every row's network, a Series; NaN where a stored model has no hidden layer."""
        networks = zip(self.rows["model"], self.rows["width"])
        widths = [actual_width({"model": model, "width": width}) for model, width in networks]
        return pd.Series(widths, self.rows.index, dtype=float)

    @cached_property
    def by_width(self) -> dict[int, pd.DataFrame]:
        """{width: rows}, ascending; a seed once at each, as a width that is given may be the model's default too."""
        positions = {}
        for position, (width, seed) in enumerate(zip(self.widths.tolist(), self.rows[REPLICATE].tolist())):
            if not math.isnan(width):
                positions.setdefault(int(width), {}).setdefault(seed, position)
        return {width: self.rows.iloc[list(found.values())] for width, found in sorted(positions.items())}

    def keys(self, *fields: str) -> list[tuple]:
        """[values of the fields] of every row, a tuple each; what is missing is None."""
        return list(zip(*(_none_where_missing(self.rows[name].tolist()) for name in fields)))

    def split(self, *fields: str) -> dict[Any, pd.DataFrame]:
        """{values of the fields: rows} in the table's order; one field's values are the keys themselves."""
        keys = {}
        for position, key in enumerate(self.keys(*fields)):
            keys.setdefault(key if len(fields) > 1 else key[0], []).append(position)
        return {key: self.rows.iloc[positions] for key, positions in keys.items()}


@dataclass(frozen=True)
class Results:
    """What the configs of a run measured: what judge and figures work on.

    table: one row per config (config_id, config fields, measures, seconds).  arrays: {config_id: {name: array}}.
    histories: {config_id: DataFrame, one row per stage and epoch}.  fields: the names of all config fields.
    apart: those that the experiment compares.  look: which look at the trial this is, with its share of the error
    budget (judging/looks.py).  margins: {name: the smallest effect that matters}.
    """

    table: pd.DataFrame
    arrays: dict[str, dict[str, np.ndarray]]
    histories: dict[str, pd.DataFrame]
    fields: tuple
    apart: tuple = ()
    look: Look = Look()
    margins: dict = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """The level of single intervals that agrees with the look's share of the error budget: 0.95 for all of it.

        Below 1 also where so many looks were taken that nothing is left.
        """
        return 1 - max(ERROR * self.look.share, 1e-9)

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(set(self.table[REPLICATE].tolist()))

    def groups(self, apart: Iterable[str] | None = None) -> list[Group]:
        """[Group] in the table's order: rows that differ in nothing but the fields `apart` and the seed.

        apart: names of fields; the experiment's own when None, and () for one group per config but its seed.
        """
        compared = {*(self.apart if apart is None else apart), REPLICATE}
        fields = [name for name in self.fields if name in self.table and name not in compared]
        table = _by_family(self.table) if "width" in compared and "family" in self.table else self.table
        texts = [field_texts(table[name].tolist()) for name in fields]
        positions = {}
        for position, key in enumerate(zip(*texts) if fields else [()] * len(self.table)):
            positions.setdefault(key, []).append(position)
        varying = [name for i, name in enumerate(fields) if len({key[i] for key in positions}) > 1]
        labels = _labels([table.iloc[found[0]] for found in positions.values()], fields, varying)
        return [Group(label, self.table.iloc[found]) for label, found in zip(labels, positions.values())]

    def measured(self, *columns: str) -> "Results":
        """These results without the rows that lack one of the columns, as those of diverged runs do."""
        if not all(name in self.table for name in columns):
            return replace(self, table=self.table.iloc[:0])
        found = np.logical_and.reduce([self.table[name].notna() for name in columns])
        return self if found.all() else replace(self, table=self.table[found])

    def over(self, **values: Any) -> pd.DataFrame:
        """The rows of the table whose fields have the given values."""
        chosen = self.table
        for name, value in values.items():
            chosen = chosen.loc[[v == value for v in chosen[name]]]  # value by value: a tuple is one of them
        return chosen

    def __len__(self) -> int:
        return len(self.table)


def _by_family(table):
    """The table with the name of its family for the model of every stored file that makes a trend with others.

    A file stays by itself where it is the only one of its family. So do all files of a family two of which have the
    same width: whichever was taken for the trend would decide it.
    """
    files = table.loc[table["family"].notna() & table["width"].notna(), ["family", "width", "model"]].drop_duplicates()
    trends = {
        family for family, found in files.groupby("family") if len(found) > 1 and not found["width"].duplicated().any()
    }
    return table.assign(model=table["family"].where(table["family"].isin(trends), table["model"]))


def _none_where_missing(column):
    """The values of a column, None for those that are missing."""
    missing = {value for value in set(column) if is_missing(value)}
    return [None if value in missing else value for value in column]


def _labels(rows, fields, varying):
    """One label a group, by its first row: its network, and what else differs between the groups; no label twice."""
    labels = [_label(row, fields, varying) for row in rows]
    shared = {label for label, times in Counter(labels).items() if times > 1}  # width none and 64, say, are one network
    if not shared:
        return labels
    return [
        f"{label} ({', '.join(f'{name}={field_text(row[name])}' for name in varying)})" if label in shared else label
        for label, row in zip(labels, rows)
    ]


def _label(row, fields, varying):
    parts = [describe_network(row, fields)]
    for name in varying:
        if name not in NETWORK_FIELDS and not is_missing(row[name]):  # not those that its config lacks
            parts.append(field_label(name, row[name]))
    return ", ".join(filter(None, parts))


def describe_network(row: pd.Series | dict, fields: Iterable[str] = NETWORK_FIELDS) -> str:
    """`mlp, depth 3, width 64` or `resnet, no skip`: a row's network, as far as the given fields say."""
    parts = [short_name(row["model"])] if "model" in fields and "model" in row else []
    known = {name: row[name] for name in NETWORK_FIELDS if name in fields and name in row}
    if known.get("widths"):
        parts.append(field_text(known["widths"]))
    elif not is_missing(known.get("depth")):
        parts.append(f"depth {int(known['depth'])}")
    file = row.get("model", "").endswith(".keras")  # its name says which network it is, and is long enough
    if "width" in known and not file and not row.get("widths") and (width := actual_width(row)):
        parts.append(f"width {width}")
    if known.get("activation", NetworkConfig.activation) != NetworkConfig.activation:
        parts.append(known["activation"])
    parts += [field_label(name, False) for name in ("batch_norm", "skip") if not known.get(name, True)]
    return ", ".join(parts)


def actual_width(row: pd.Series | dict) -> int | None:
    """The width of a row's network, its model's default where none was given; None for a file without hidden layers."""
    if not is_missing(row["width"]):
        return int(row["width"])
    return None if row["model"].endswith(".keras") else default_width(row["model"])


def positive(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column's values, [rows], kept above 0 for the sake of their logarithms; nan where it was not measured."""
    values = rows[column].to_numpy(float) if column in rows else np.full(len(rows), np.nan)
    return np.maximum(values, 1e-300)


def paired_by_seed(a: pd.DataFrame, b: pd.DataFrame, column: str, level: float = 0.95) -> PairedDifference:
    """statistics.paired_difference of a column of two tables, a - b, over the seeds that both have."""
    a, b = (
        dict(zip(rows[REPLICATE].tolist(), rows[column].tolist() if column in rows else [np.nan] * len(rows)))
        for rows in (a, b)
    )
    shared = [seed for seed in a if seed in b]
    return paired_difference([a[seed] for seed in shared], [b[seed] for seed in shared], level=level)
