"""Scenarios of the experiments of run_local_minima.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1


def sharpness(sharper, worse):
    """Sharpness and accuracies of both batches; sharper, worse: (effect) -> true differences.

    In units of 0.1 in log10 sharpness and of 0.01 in accuracy.
    """
    def fill(draw, table, effect):
        return {
            "small/sharpness": 10 ** (1 + draw(0, 0.1 * PAIRED)),
            "large/sharpness": 10 ** (1 + 0.1 * sharper(effect) + draw(1, 0.1 * PAIRED)),
            "small/test/accuracy": 0.9 + draw(0, 0.01 * PAIRED),
            "large/test/accuracy": 0.9 - 0.01 * worse(effect) + draw(1, 0.01 * PAIRED),
        }

    return fill


FACTOR = np.log10(1.1) / 0.1  # the margins in those units
SCENARIOS = [
    Scenario("sharpness", "large batches are as sharp as small ones, and much worse", "supported",
             sharpness(lambda e: e, lambda e: np.full_like(e, EVIDENT)), {}),
    Scenario("sharpness", "large batches are much sharper, and as good", "supported",
             sharpness(lambda e: np.full_like(e, EVIDENT), lambda e: e), {}),
    Scenario("sharpness", "large batches are sharper and worse, by just the margins", "refuted",
             sharpness(lambda e: FACTOR - e, lambda e: 1 - e), {}),
]  # fmt: skip
