"""Did the trained networks learn anything?  Of one whose training accuracy is at chance no verdict says much."""
import math

import numpy as np
import pandas as pd

MARGIN = 0.05  # above chance: what a network that learns its training set exceeds within the first epochs
ERRORS = 3  # standard errors of guessing: the margin where so few images are that guesses alone come further
NAME = "train/accuracy"
UNTRAINED = "before/"  # the stage that every training starts from


def chance_of(labels: np.ndarray) -> tuple:
    """(chance, limit) of one-hot training labels [n, k]: the share of the largest class, what always naming it gets.

    limit: a training accuracy up to here does not exceed chance by a clear margin.
    """
    share = float(labels.mean(axis=0).max())
    return share, limit_of(share, len(labels))


def limit_of(share: float, images: float) -> float:
    """The training accuracy up to which a network is at chance; share: of the largest class among so many images."""
    return share + max(MARGIN, ERRORS * math.sqrt(share * (1 - share) / images))


def warn_at_chance(table: pd.DataFrame, chances: dict) -> str:
    """` Warning: ..` on the runs that have a trained network at chance; "" where none has.

    table: a row a config.  chances: {config_id: (chance, limit) of its training set}. Accuracies are those of the
    columns `train/accuracy` and `<stage>/train/accuracy`; a run counts once, however many of its networks are there.
    """
    names = [name for name in table if f"/{name}".endswith(f"/{NAME}") and not name.startswith(UNTRAINED)]
    runs, columns, values, shares = 0, [], [], []
    for config_id, *accuracies in table[["config_id", *names]].itertuples(index=False, name=None):
        chance, limit = chances[config_id]
        low = {name: value for name, value in zip(names, accuracies) if value <= limit}  # nan where not measured
        columns += low.keys()
        values += low.values()
        shares += [chance] * len(low)
        runs += bool(low)
    if not runs:
        return ""
    return (
        f" Warning: in {runs} of {len(table)} runs the training accuracy ({', '.join(dict.fromkeys(columns))}) of "
        f"{_span(values)} is at chance, {_span(shares)} for always naming the largest class: those networks have not "
        "learned their training set."
    )


def _span(values):
    """`0.1`, or `0.1 to 0.12`."""
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"
