"""The words and numbers that verdicts, tables and legends share."""
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics import RankCorrelation

MAX_NAME = 40  # characters of a stored model's path that a figure has room for

# Fields whose value says more in words than as `name value`; what is not here reads like `learning rate 0.1`.
FIELD_WORDS = {
    "dataset": str,
    "edit": str,
    "architecture": str,
    "train_epsilon": lambda value: f"adversarial {value:g}" if value else "natural",
    "train": lambda value: "trained" if value else "as it is",
    "batch_norm": lambda value: "batch norm" if value else "no batch norm",
    "skip": lambda value: "skip" if value else "no skip",
    "train_size": lambda value: f"n = {value or 'all'}",
}


def short_name(model: str) -> str:
    """A model's name; the end of a long path, with a checksum of the whole: names keep networks apart."""
    if len(model) <= MAX_NAME:
        return model
    return f"...{model[8 - MAX_NAME :]}#{zlib.crc32(model.encode()) & 0xFFFF:04x}"


def is_missing(value: Any) -> bool:
    """None and NaN: what a config has no value of, or a run did not measure."""
    return value is None or (not isinstance(value, (tuple, list, str)) and bool(pd.isna(value)))


def field_text(value: Any) -> str:
    """A config field's value as a person writes it: tuples as 1-2-4, 'none' where the config has no value."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(field_text, value)) or "none"
    if is_missing(value):
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):  # pandas makes floats of whole numbers beside missing ones
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    return str(value)


def field_texts(column: list) -> list[str]:
    """`field_text` of every value of a column; most fields of a grid have few values, so each is worded once."""
    known = {value: field_text(value) for value in set(column)}
    return [known[value] for value in column]


def field_label(name: str, value: Any) -> str:
    """`learning rate 0.1`, `no skip`, `digits`: one field of a config in a legend or a sentence."""
    if name in FIELD_WORDS:
        return FIELD_WORDS[name](value)
    words = name.replace("_", " ")
    if isinstance(value, (bool, np.bool_)):
        return words if value else f"no {words}"
    return f"{words} {field_text(value)}"


def list_words(parts: Sequence[str]) -> str:
    """`a, b and c`; "" of nothing."""
    *others, last = parts or [""]
    return f"{', '.join(others)} and {last}" if others else last


def format_interval(interval: Any, digits: int = 3, *, sign: bool = False) -> str:
    """`0.4 [0.1, 0.7]`; the mean alone of one value, 'not measured' of none.

    interval: anything with n, mean, low and high, such as statistics.Interval and PairedDifference.
    digits: significant digits.  sign: write + before a positive mean.
    """
    if not interval.n:
        return "not measured"
    mean = f"{interval.mean:{'+' if sign else ''}.{digits}g}"
    return mean + (f" [{interval.low:.{digits}g}, {interval.high:.{digits}g}]" if interval.n > 1 else "")


def format_factor(interval: Any, digits: int = 3) -> str:
    """`17.1 [13.2, 22.2]`: an interval of log10 ratios, as the ratio."""
    if not interval.n:
        return "not measured"
    bounds = f" [{10**interval.low:.{digits}g}, {10**interval.high:.{digits}g}]" if interval.n > 1 else ""
    return f"{10**interval.mean:.{digits}g}{bounds}"


def format_points(difference: Any) -> str:
    """A difference in accuracy in percentage points, `+0.4 [0.1, 0.7] points`."""
    if not difference.n:
        return "not measured"
    bounds = f" [{100 * difference.low:.2g}, {100 * difference.high:.2g}]" if difference.n > 1 else ""
    return f"{100 * difference.mean:+.2g}{bounds} points"


def format_correlation(found: RankCorrelation, digits: int = 2) -> str:
    """`0.8 [-0.82, 1]`: a statistics.RankCorrelation; 'not measured' where either variable is constant."""
    if found.correlation != found.correlation:
        return "not measured"
    bounds = f" [{found.low:.{digits}g}, {found.high:.{digits}g}]" if found.low == found.low else ""
    return f"{found.correlation:.{digits}g}{bounds}"
