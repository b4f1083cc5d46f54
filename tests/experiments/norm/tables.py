"""What the judges of the norm claims say of tables made by hand."""
import warnings

import numpy as np
import pandas as pd

SPREAD = 1e-3 * np.array([1, -2, 3, 0, -1, 2, -3, 1])  # over seeds


def judged(experiment, rows, **margins):
    """The verdict on a list of rows; a warning of NumPy or pandas is an error, and the text is one line."""
    results = experiment.results(pd.DataFrame(rows), margins=margins)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = experiment.judge(results)
    assert verdict.reason and verdict.test and "\n" not in str(verdict)
    return verdict


def diverged(rows, count):
    """The rows, of which the first `count` diverged and have no measures."""
    lost = [{k: np.nan if "/" in k else v for k, v in row.items()} | {"diverged_epoch": 3.0} for row in rows[:count]]
    return lost + rows[count:]


def unmeasured(rows):
    """The rows without a column of measures, as where every run diverged."""
    return [{k: v for k, v in row.items() if "/" not in k} for row in rows]
