"""Scenarios of the experiments of run_norm.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1
SIZE = 0.01  # of an effect of 1, in test accuracy; the margin of the claims on norms is 1 in it
NORM = 0.1  # of an effect of 1, in log10 of a squared norm
MARGIN = 1


def norm_bias(decay, bias, norm=None):
    """No regularizer, weight decay and norm-bias on the same seeds.

    decay, bias: (effect) -> test accuracy over that of none, in units of SIZE.  norm: (effect) -> log10 of the squared
    norm under norm-bias over that under weight decay, in units of NORM; evident where it is not given.
    """
    def fill(draw, table, effect):
        name = table["regularizer"]
        decayed, biased = name == "weight_decay", name == "norm_bias"
        gain = decayed * decay(effect) + biased * bias(effect)
        above = biased * (norm or evident)(effect) + (name == "none") * EVIDENT
        return {
            "test/accuracy": 0.5 + SIZE * gain + draw(name != "none", SIZE * PAIRED),
            "norm/all": 10 ** (2 + NORM * above + draw(name != "none", NORM * PAIRED)),
        }

    return fill


def evident(effect):
    return np.full_like(effect, EVIDENT)


def harm(effect):
    return -evident(effect)


REGULARIZERS = {"norm_target": 1000.0}
SCENARIOS = [
    Scenario("norm_bias", "weight decay gains nothing over none, and much over norm-bias", "supported",
             norm_bias(lambda e: e, harm), REGULARIZERS),
    Scenario("norm_bias", "weight decay gains as much as norm-bias", "supported",
             norm_bias(evident, lambda e: EVIDENT - e), REGULARIZERS),
    Scenario("norm_bias", "weight decay gains, at the norm of norm-bias", "supported",
             norm_bias(evident, lambda e: 0 * e, lambda e: e), REGULARIZERS),
    Scenario("norm_bias", "norm-bias gains as much as weight decay", "refuted",
             norm_bias(evident, lambda e: EVIDENT + e), REGULARIZERS),
    Scenario("norm_bias", "norm-bias gains more, at the norm of weight decay", "refuted",
             norm_bias(evident, lambda e: 2 * evident(e), lambda e: e), REGULARIZERS),
    Scenario("norm_bias", "weight decay gains just the margin", "refuted",
             norm_bias(lambda e: MARGIN - e, harm), REGULARIZERS),
]  # fmt: skip
