"""Scenarios of the experiments of run_ntk.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1
WIDTHS = [32, 128, 512]
EXPONENT = 0.05  # of an effect of 1: an exponent of the width
CORRELATION = 0.01  # of an effect of 1: a slope of a correlation, a doubling of the width
SPREAD = np.sqrt(8)  # noise of one width, of which the slope over WIDTHS spreads by 1
SIZE = 0.1  # of an effect of 1, in log10 of a ratio, or in a rank correlation
DOUBLING = np.log2(1.1) / EXPONENT  # the margin of an exponent, in its units
FACTOR = np.log10(1.1) / SIZE  # and of a ratio


def power_law(draw, table, exponent, scale=EXPONENT):
    """2^(scale exponent log2 width) for every row, with noise that gives the exponent a standard deviation of scale."""
    size = np.log2(table["width"].astype(float))
    return 2 ** (scale * (exponent * size + draw(size > size.min(), SPREAD)))


def constancy(correlation, change, rise, fall):
    """Measures at three widths; rise, fall: (effect) -> slope of the correlation, and minus the change's exponent."""
    def fill(draw, table, effect):
        size = np.log2(table["width"].astype(float))
        noise = draw(size > size.min(), SPREAD)
        return {
            correlation: CORRELATION * (rise(effect) * size + noise),
            change: power_law(draw, table, -fall(effect)),
        }

    return fill


def evolution(ratio):
    """Early and late changes; ratio: (effect) -> log10 of late over early, in units of SIZE."""
    def fill(draw, table, effect):
        return {
            "evolution/early_change": 10 ** (-1 + draw(0, SIZE * PAIRED)),
            "evolution/late_change": 10 ** (-1 + SIZE * ratio(effect) + draw(1, SIZE * PAIRED)),
        }

    return fill


GAP = 0.01 / (2 * EVIDENT)  # of an effect of 1 in accuracy, where it must lie between two margins


def linearization(fall, gap, size=GAP):
    """Distances at three widths and both accuracies; fall: minus the exponent, gap: in units of `size`."""
    def fill(draw, table, effect):
        return {
            "initial/distance": power_law(draw, table, -fall(effect)),
            "test/accuracy": 0.9 + size * gap(effect) + draw(1, size * PAIRED),
            "initial/test/accuracy": 0.9 + draw(0, size * PAIRED),
        }

    return fill


def infinite_width(exponent, scale):
    """Distances from the limit; exponent: (effect) -> of the width, in units of `scale`."""
    def fill(draw, table, effect):
        return {"ntk/distance": power_law(draw, table, exponent(effect), scale)}

    return fill


def spectrum(trainability, generalization, saved=None):
    """Two correlations, above 0.5 by (effect) -> units of SIZE.

    saved: (effect) -> error that the spectrum saves over that of both baselines together, in units of its margin,
    which is a standard deviation of the paired difference; evident where it is not given.
    """
    def fill(draw, table, effect):
        errors = {}
        for what in ("trainability", "generalization"):
            errors[f"{what}/error"] = 0.2 - 0.01 * (saved or evident)(effect) + draw(0, 0.01 * PAIRED)
            errors[f"{what}/error_both"] = 0.2 + draw(1, 0.01 * PAIRED)
            errors |= {f"{what}/error_{name}": 0.2 + 0.01 * evident(effect) for name in ("depth", "variance")}
        return {
            **errors,
            "trainability/correlation": 0.5 + SIZE * trainability(effect) + draw(0, SIZE),
            "generalization/correlation": 0.5 + SIZE * generalization(effect) + draw(1, SIZE),
            "infinite/test_agreement": np.full(len(table), 0.9),
            "finite/diverged": np.zeros(len(table)),
        }

    return fill


def as_it_is(effect):
    return effect


def evident(effect):
    return np.full_like(effect, EVIDENT)


def none(effect):
    return np.zeros_like(effect)


NTK = ("ntk/correlation", "ntk/relative_change")
FEATURES = ("features/gram_correlation", "features/gram_change")
ONE_DEPTH = {"depth": 1, "width": WIDTHS}
NARROW = 0.1 / (2 * EVIDENT)  # an exponent that must lie between two margins
SCENARIOS = [
    scenario
    for name, columns in (("drift", NTK), ("features", FEATURES))
    for scenario in (
        Scenario(name, "the correlation does not move with width, and the change falls evidently", "supported",
                 constancy(*columns, as_it_is, evident), ONE_DEPTH),
        Scenario(name, "the correlation rises evidently, and the change does not move with width", "supported",
                 constancy(*columns, evident, as_it_is), ONE_DEPTH),
        Scenario(name, "the correlation does not move, and the change falls by just the margin", "refuted",
                 constancy(*columns, lambda e: -e, lambda e: DOUBLING - e), ONE_DEPTH),
    )
] + [
    Scenario("evolution", "the late change is as large as the early one", "supported",
             evolution(lambda e: -e), {"depth": 1}),
    Scenario("evolution", "the late change is smaller by just the margin", "refuted",
             evolution(lambda e: e - FACTOR), {"depth": 1}),
    Scenario("linearization", "the distance does not fall, and accuracies are the same", "supported",
             linearization(as_it_is, none), {"width": WIDTHS}),
    Scenario("linearization", "the distance falls evidently, and accuracies differ by just the margin", "supported",
             linearization(evident, lambda e: 2 * EVIDENT - e), {"width": WIDTHS}),
    Scenario("linearization", "the distance falls, and accuracies differ, by just the margins", "refuted",
             linearization(lambda e: DOUBLING - e, lambda e: 2 + e, 0.005), {"width": WIDTHS}),
    Scenario("infinite_width", "the exponent is -0.6", "supported",
             infinite_width(lambda e: e - 0.6 / NARROW, NARROW), ONE_DEPTH, axis="train_size"),
    Scenario("infinite_width", "the exponent is -0.4", "refuted",
             infinite_width(lambda e: e - 0.4 / EXPONENT, EXPONENT), ONE_DEPTH, axis="train_size"),
    Scenario("spectrum", "one correlation is 0.5, and the other evidently above", "supported",
             spectrum(as_it_is, evident), {}, axis="train_size"),
    Scenario("spectrum", "both correlations are evidently above 0.5, and depth and weight variance tell as much",
             "supported", spectrum(evident, evident, as_it_is), {}, axis="train_size"),
    Scenario("spectrum", "it saves just the margin over depth and weight variance", "refuted",
             spectrum(evident, evident, lambda e: 1 - e), {}, axis="train_size"),
    Scenario("spectrum", "both correlations are 0.5", "refuted",
             spectrum(lambda e: -e, lambda e: -e), {}, axis="train_size"),
]  # fmt: skip
