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
LEVEL = EXPONENT * SPREAD  # of an effect of 1, in log2 of a level at one width
STILL = np.log10(0.5) / SIZE  # the ratio at which evolution says that a kernel stands still


def power_law(draw, table, exponent, scale=EXPONENT):
    """2^(scale exponent log2 width) for every row, with noise that gives the exponent a standard deviation of scale."""
    size = np.log2(table["width"].astype(float))
    return 2 ** (scale * (exponent * size + draw(size > size.min(), SPREAD)))


def level_and_trend(draw, table, level, fall):
    """Measures that lie below 0.1 at the largest width by `level`, in units of LEVEL, and fall with width by `fall`.

    fall: minus the exponent, in units of EXPONENT.
    """
    size = np.log2(table["width"].astype(float))
    noise = EXPONENT * draw(size > size.min(), SPREAD)
    return 2 ** (np.log2(0.1) - LEVEL * level - EXPONENT * fall * (size - size.max()) + noise)


def constancy(correlation, change, level, fall, rise):
    """Measures at three widths; level, fall, rise: (effect) -> how far below the margin the change lies at the largest,
    minus its exponent, and the slope of the correlation.
    """
    def fill(draw, table, effect):
        size = np.log2(table["width"].astype(float))
        return {
            correlation: CORRELATION * (rise(effect) * size + draw(size > size.min(), SPREAD)),
            change: level_and_trend(draw, table, level(effect), fall(effect)),
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


def linearization(level, fall, gap):
    """Distances at three widths and both accuracies; level, fall: of the distance, as in constancy.  gap: in units of
    GAP.
    """
    def fill(draw, table, effect):
        distance = level_and_trend(draw, table, level(effect), fall(effect))
        return {
            "linearized/distance": distance,
            "initial/distance": distance,
            "test/accuracy": 0.9 + GAP * gap(effect) + draw(1, GAP * PAIRED),
            "linearized/test/accuracy": 0.9 + draw(0, GAP * PAIRED),
            "linearized/step_size": np.full(len(table), 0.1),
            "train/accuracy": np.ones(len(table)),
        }

    return fill


def lazy(small, own):
    """Test accuracies at three scales; small, own: (effect) -> gain of the first and of alpha 1 over the lazy one, in
    units of 0.01, which is the margin.
    """
    def fill(draw, table, effect):
        alpha = table["alpha"]
        gain = np.select([alpha < 1, alpha == 1], [small(effect), own(effect)], 0.0)
        return {
            "test/accuracy": 0.8 + 0.01 * gain + draw(alpha <= 1, 0.01 * PAIRED),
            "kernel/relative_change": np.where(alpha > 1, 0.001, 1.0),
            "machine/distance": np.where(alpha > 1, 0.001, 0.3),
            "fitted": np.ones(len(table)),
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


def minus(function):
    return lambda effect: -function(effect)


def just_the_doubling(effect):
    return DOUBLING - effect


NTK = ("ntk/correlation", "ntk/relative_change")
FEATURES = ("features/gram_correlation", "features/gram_change")
ONE_DEPTH = {"depth": 1, "width": WIDTHS}
NARROW = 0.1 / (2 * EVIDENT)  # an exponent that must lie between two margins
SCENARIOS = [
    scenario
    for name, columns in (("drift", NTK), ("features", FEATURES))
    for scenario in (
        Scenario(name, "the change is small and does not move with width", "supported",
                 constancy(*columns, evident, as_it_is, evident), ONE_DEPTH),
        Scenario(name, "the change falls evidently, and lies at just the margin at the largest width", "supported",
                 constancy(*columns, as_it_is, evident, evident), ONE_DEPTH),
        Scenario(name, "the change is large, and falls by just the margin; the correlation does not move", "refuted",
                 constancy(*columns, minus(evident), just_the_doubling, minus(as_it_is)), ONE_DEPTH),
        Scenario(name, "the change rises, the correlation falls; at the largest width it is at the margin", "refuted",
                 constancy(*columns, minus(as_it_is), minus(evident), minus(evident)), ONE_DEPTH),
    )
] + [
    Scenario("evolution", "the late change is half of the early one", "supported",
             evolution(lambda e: STILL - e), {"depth": 1}),
    Scenario("evolution", "the late change is smaller by just the margin", "refuted",
             evolution(lambda e: e - FACTOR), {"depth": 1}),
    Scenario("linearization", "the distance is small and does not fall, and accuracies are the same", "supported",
             linearization(evident, as_it_is, none), {"width": WIDTHS}),
    Scenario("linearization", "the distance falls, to just the margin at the largest width", "supported",
             linearization(as_it_is, evident, none), {"width": WIDTHS}),
    Scenario("linearization", "the distance is small and falls, and accuracies differ by just the margin", "supported",
             linearization(evident, evident, lambda e: 2 * EVIDENT - e), {"width": WIDTHS}),
    Scenario("linearization", "the distance is large, and falls by just the margin", "refuted",
             linearization(minus(evident), just_the_doubling, none), {"width": WIDTHS}),
    Scenario("linearization", "the distance rises, to just the margin at the largest width", "refuted",
             linearization(minus(as_it_is), minus(evident), none), {"width": WIDTHS}),
    Scenario("lazy", "one scale beats lazy training by just the margin, the other is evidently worse", "supported",
             lazy(minus(evident), lambda e: 1 - e), {"alpha": [0.1, 1.0, 1e4]}, axis="train_size"),
    Scenario("lazy", "both scales beat lazy training by just the margin", "refuted",
             lazy(lambda e: 1 + e, lambda e: 1 + e), {"alpha": [0.1, 1.0, 1e4]}, axis="train_size"),
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
