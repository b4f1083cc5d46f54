"""Result tables made by hand, for the judges of rank."""
import warnings

import numpy as np
import pandas as pd

SPREAD = 1e-3 * np.array([1, -2, 3, 0, -1, 2])  # over six seeds
EDIT_FIELDS = {  # rank_cut, rank_cap, edit_epochs
    "none": (np.nan, np.nan, ()),
    "rank_min": (1.0, np.nan, (1,)),
    "rank_max": (np.nan, 2.0, (1,)),
    "random": (1.0, np.nan, (1,)),
}
SOUND = {"attack/loss_clean": 1.0, "attack/loss_few": 2.0, "attack/loss": 2.1, "attack/loss_strong": 2.2,
         "attack/accuracy": 0.5, "attack/accuracy_strong": 0.48}  # fmt: skip


def edit_fields(edit, **fields):
    """The fields of EditConfig that tell edits apart, as in a run's table."""
    return {"edit": edit, **dict(zip(("rank_cut", "rank_cap", "edit_epochs"), EDIT_FIELDS[edit])), **fields}


def results(experiment, rows):
    return experiment.results(pd.DataFrame(rows))


def judged(experiment, rows):
    """The verdict on a table; no warning, and the same when asked again."""
    found = results(experiment, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = experiment.judge(found)
        assert experiment.judge(found) == verdict
    return verdict
