"""TensorBoard's hparams page, where fields are columns to filter and sort by, and its run `report` with the figures."""
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.plugins.histogram.metadata import create_summary_metadata
from tensorboard.plugins.hparams import api as hparams

FINAL = "when_finished"  # group of the measures: TensorBoard sorts, and the training curves shall go before it
HISTOGRAM = create_summary_metadata(display_name=None, description=None)
BUCKETS = 30  # of a histogram, as in tf.summary.histogram
CHOICES = 12  # a field with more values than this gets a range to filter by, not a box for each


class Boxes(hparams.Discrete):
    """A box to filter by for each value; TensorBoard puts the fields that differ first."""

    def update_hparam_info(self, hparam_info: Any) -> None:
        super().update_hparam_info(hparam_info)
        hparam_info.differs = len(self.values) > 1


class Range(hparams.RealInterval):
    """Two ends to filter by."""

    def update_hparam_info(self, hparam_info: Any) -> None:
        super().update_hparam_info(hparam_info)
        hparam_info.differs = True


def hparam_value(value: Any) -> bool | int | float | str:
    """TensorBoard's form of a field: itself, or text such as 2048-1024 for a tuple."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, (bool, int, float, str)) else "-".join(map(str, value)) or "none"


def session(fields: dict, config_id: str) -> None:
    """Write the fields of one config, {name: value}, into the current writer; one that is None has no value there."""
    values = {name: hparam_value(value) for name, value in fields.items() if value is not None}
    if values:
        hparams.hparams(values, trial_id=config_id)


def domain(values: Iterable) -> Boxes | Range | None:
    """What the page filters a field by: boxes for a few values, a range for many; None where it has no values."""
    values = [
        hparam_value(v) for v in values if v is not None and v == v
    ]  # pandas makes None in a column of numbers NaN
    kinds = {type(v) for v in values}
    if kinds and kinds <= {int, float}:
        values = sorted(set(map(float, values)))
        return Boxes(values) if len(values) <= CHOICES else Range(values[0], values[-1])
    return Boxes(sorted(set(values))) if len(kinds) == 1 else None


def write_overview(
    folder: str | Path, table: pd.DataFrame, fields: Iterable[str], measures: dict[str, str], figures: dict[str, bytes]
) -> None:
    """Write tensorboard/report: figures as images, and what columns the hparams page has.

    table: rows of all configs that the folder has.  fields: names of columns.  measures: {column: heading}.
    figures: {name: bytes of its PNG file}: drawing a figure a second time takes as long as the first.
    """
    import tensorflow as tf

    events = Path(folder) / "tensorboard" / "report"
    shutil.rmtree(events, ignore_errors=True)  # the columns of an earlier call would go before these
    domains = {name: domain(table[name]) for name in fields}
    known = {column: heading for column, heading in measures.items() if column in table}
    writer = tf.summary.create_file_writer(str(events))
    with writer.as_default():
        hparams.hparams_config(
            hparams=[hparams.HParam(name, values) for name, values in domains.items() if values],
            metrics=[hparams.Metric(f"{FINAL}/{column}", display_name=heading) for column, heading in known.items()],
        )
        for name, figure in figures.items():
            tf.summary.image(f"figures/{name}", tf.io.decode_png(figure)[None], step=0)
    writer.close()


def buckets(values: np.ndarray) -> np.ndarray:
    """A histogram for TensorBoard: left edges, right edges and counts, [BUCKETS, 3]."""
    counts, edges = np.histogram(np.asarray(values, np.float64), BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
