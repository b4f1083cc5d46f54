"""Results made by hand, and what a judge says of them."""
import warnings

import pandas as pd

from harness.grid import flat
from models import NetworkConfig

NETWORK = {"config_id": "mlp-1x16-x", **flat(NetworkConfig(width=16, depth=1))}


def results(experiment, rows, arrays=(), histories=()):
    return experiment.results(pd.DataFrame(rows), dict(arrays), dict(histories))


def judged(experiment, rows):
    """The verdict on the rows; no warning may come up on the way, and its text is one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = experiment.judge(results(experiment, rows))
    assert verdict.reason and verdict.test and "\n" not in str(verdict)
    return verdict
