"""Scenarios of the experiments of run_norm.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario, first_of_each
from experiments.norm.measures import LOSS, NAMES, PARAMETERS
from experiments.norm.minimum_norm import KERNEL_FIELDS

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1
SIZE = 0.01  # of an effect of 1, in test accuracy; the margin of the claims on norms is 1 in it
CHANCE_MARGIN = 0.05  # of randomization, around an accuracy of chance of 0.5
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


MULTIPLES = (0.1, 0.3, 1.0)


def norm_profile(*gains):
    """Networks at MULTIPLES of plain training's norm; gains: (effect) -> test accuracy over plain training's.

    In units of SIZE. All runs of a seed have the same network without regularizer to compare with.
    """
    def fill(draw, table, effect):
        gain = sum((table["multiple"] == m) * of(effect) for m, of in zip(MULTIPLES, gains))
        none = draw(0, SIZE * PAIRED)[first_of_each(table["group"], table["seed"])]
        return {
            "test/accuracy": 0.5 + SIZE * gain + draw(1, SIZE * PAIRED),
            "none/test/accuracy": 0.5 + none,
            "norm/over_none": table["multiple"],
            "norm/all": 400 * table["multiple"],
        }

    return fill


def randomization(true, random, regularized):
    """True and random labels without regularizers, and true ones with weight decay; all runs are fitted.

    (effect) -> test accuracy above chance, in units of the margin; the noise is 1 / EVIDENT of it, and the test images'
    part of that a tenth, so that their error guards against nothing.
    """
    def fill(draw, table, effect):
        noisy, decayed = table["label_noise"] == 1, table["explicit_regularizer"] == "weight_decay"
        steps = [noisy & ~decayed, ~noisy & decayed]
        above = np.select(steps, [random(effect), regularized(effect)], true(effect))
        return {
            "test/accuracy": 0.5 + CHANCE_MARGIN * above + draw(noisy | decayed, CHANCE_MARGIN / EVIDENT),
            "chance": np.full(len(table), 0.5),
            "test/images": np.full(len(table), 0.25 / (0.1 * CHANCE_MARGIN / EVIDENT) ** 2),
            "fitted_epoch": np.full(len(table), 10.0),
        }

    return fill


def minimum_norm(correlation, at_second=None):
    """Kernels whose norms and test errors are those of one bivariate normal law, with logarithms.

    correlation: (effect) -> the factor of the norm in the error, beside noise of standard deviation 1.  at_second: the
    same of the norm at the second scale of the kernels; both norms are one where it is not given. What norms and error
    shared beside it would be a correlation itself.
    """
    def fill(draw, table, effect):
        # The same on all seeds: kernels are the sampling unit.
        kernel = first_of_each(*(map(str, table[name].tolist()) for name in ("group", *KERNEL_FIELDS)))
        norms = [draw(own=True)[kernel], draw(own=True)[kernel]]
        error = correlation(effect) * norms[0] + draw(own=True)[kernel]
        if at_second is None:
            norms[1] = norms[0]
        else:
            error = error + at_second(effect) * norms[1]
        return {
            "norm": 10 ** (1 + 0.1 * norms[0]),
            "norm/largest_eigenvalue": 10 ** (1 + 0.1 * norms[1]),
            "test/error": 10 ** (-1 + 0.01 * error),
            "interpolates": np.ones(len(table)),
        }

    return fill


def nothing(effect):
    return 0 * effect


def part_of_margin(effect):
    return effect / EVIDENT


def evident(effect):
    return np.full_like(effect, EVIDENT)


def harm(effect):
    return -evident(effect)


def double_descent(rise, descent):
    """Three widths, at a quarter, one and eight times the threshold.

    rise, descent: (effect) -> log10 of the loss at the threshold over that before and that beyond it, in units of 0.1.
    """
    def fill(draw, table, effect):
        loss = np.select([table["width"] < 200, table["width"] > 200], [-rise(effect), -descent(effect)], 0.0)
        return {
            "capacity": table["width"] / 200,
            "test/loss": 10 ** (0.1 * loss + draw(table["width"] != 200, 0.1 * PAIRED)),
        }

    return fill


TAU = 0.1  # of an effect of 1, in a seed's granulated tau


def measures(best, others, loss):
    """Networks over the hyperparameters, whose gap is normal, and so is each measure.

    best, others, loss: (effect) -> the tau that the first measure, all others and the training loss have on average,
    which varies over seeds by TAU. Only orders count, so that noise of several kinds can only be that of the seeds.
    """
    def fill(draw, table, effect):
        seed = first_of_each(table["group"], table["seed"])
        gap = draw.rng.standard_normal(len(table))

        def of_tau(tau):  # normal values whose correlation with the gap has this tau: tau = 2 / pi arcsin(correlation)
            correlation = np.sin(np.pi / 2 * np.clip(tau(effect) + draw(0, TAU)[seed], -0.95, 0.95))
            return correlation * gap + np.sqrt(1 - correlation**2) * draw.rng.standard_normal(len(table))

        found = {f"measure/{name}": of_tau(others if i else best) for i, name in enumerate(NAMES)}
        return {"gap": gap, LOSS: of_tau(loss), PARAMETERS: of_tau(lambda e: 0 * e), **found}

    return fill


REGULARIZERS = {"norm_target": 1000.0}
LABELS = {"depth": 1, "label_noise": [0.0, 1.0], "pixel_noise": "none"}
KERNELS = {"label_noise": 0.0}
PEARSON = 2 * np.sin(np.pi / 6 * 0.3)  # of normal values with a rank correlation of 0.3, the margin
WIDTHS = {"width": [50, 200, 1600], "label_noise": 0.2}
FACTOR = 10 * np.log10(1.1)  # the margin of double_descent, in its own units
HYPERPARAMETERS = {"width": [32, 128], "depth": [1, 3], "learning_rate": [0.01, 0.03], "batch_size": [10, 40],
                   "coefficient": [1e-4, 1e-3]}  # fmt: skip
LEAST = 0.2  # the margin of measures
SLOPE = PEARSON / np.sqrt(1 - PEARSON**2)
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
    Scenario("norm_profile", "the smallest norm is as good as no regularizer, others are worse", "supported",
             norm_profile(lambda e: e, harm, harm), {"multiple": list(MULTIPLES)}),
    Scenario("norm_profile", "the smallest norm is as good as plain training's, others are worse", "supported",
             norm_profile(evident, nothing, lambda e: EVIDENT - e), {"multiple": list(MULTIPLES)}),
    Scenario("norm_profile", "the smallest norm is just the margin worse than another small one", "supported",
             norm_profile(lambda e: EVIDENT - MARGIN + e, evident, nothing), {"multiple": list(MULTIPLES)}),
    Scenario("norm_profile", "plain training's norm is as good as the best small one", "refuted",
             norm_profile(evident, nothing, lambda e: EVIDENT + e), {"multiple": list(MULTIPLES)}),
    Scenario("norm_profile", "a small norm gains just the margin, the largest is worse", "refuted",
             norm_profile(harm, lambda e: MARGIN - e, harm), {"multiple": list(MULTIPLES)}),
    Scenario("randomization", "above chance by just the margin, with decay by more", "supported",
             randomization(lambda e: 1 - part_of_margin(e), nothing, lambda e: 2 + nothing(e)), LABELS),
    Scenario("randomization", "below chance by just the margin, with decay above it", "supported",
             randomization(lambda e: part_of_margin(e) - 1, nothing, lambda e: 2 + nothing(e)), LABELS),
    Scenario("randomization", "at chance, with decay above it by just the margin", "supported",
             randomization(nothing, nothing, lambda e: 1 + part_of_margin(e)), LABELS),
    Scenario("randomization", "on random labels it is above chance by just the margin", "refuted",
             randomization(lambda e: 2 + nothing(e), lambda e: 1 - part_of_margin(e), nothing), LABELS),
    Scenario("randomization", "on random labels it is below chance by just the margin", "refuted",
             randomization(lambda e: 2 + nothing(e), lambda e: part_of_margin(e) - 1, nothing), LABELS),
    Scenario("randomization", "on true labels it is above chance by just the margin", "refuted",
             randomization(lambda e: 1 + part_of_margin(e), nothing, nothing), LABELS),
    Scenario("minimum_norm", "norm and error are independent", "supported",
             minimum_norm(lambda e: e), KERNELS, axis="train_size"),
    Scenario("minimum_norm", "norm and error are independent at one scale of the kernels", "supported",
             minimum_norm(lambda e: 1 + e, lambda e: e), KERNELS, axis="train_size"),
    Scenario("minimum_norm", "norm and error have just the margin's correlation", "refuted",
             minimum_norm(lambda e: SLOPE - e), KERNELS, axis="train_size"),
    Scenario("double_descent", "a rise towards the threshold and no descent beyond", "supported",
             double_descent(evident, lambda e: e), WIDTHS, axis="test_size"),
    Scenario("double_descent", "a descent from a threshold that is no peak", "supported",
             double_descent(lambda e: e, evident), WIDTHS, axis="test_size"),
    Scenario("double_descent", "the second descent is just the margin", "refuted",
             double_descent(evident, lambda e: FACTOR - e), WIDTHS, axis="test_size"),
    Scenario("measures", "every measure has just the margin's tau", "supported",
             measures(lambda e: LEAST + TAU * e, lambda e: LEAST + 0 * e, lambda e: -LEAST + 0 * e), HYPERPARAMETERS,
             axis="train_size"),
    Scenario("measures", "the best measure has the training loss's tau", "supported",
             measures(lambda e: 0.3 + TAU * e, lambda e: 0.3 + 0 * e, lambda e: 0.3 + 0 * e), HYPERPARAMETERS,
             axis="train_size"),
    Scenario("measures", "the best measure has just the margin's tau, the others less", "refuted",
             measures(lambda e: LEAST - TAU * e, lambda e: -0.6 + 0 * e, lambda e: 0 * e), HYPERPARAMETERS,
             axis="train_size"),
    Scenario("measures", "the best measure has the training loss's tau, the others less", "refuted",
             measures(lambda e: 0.8 - TAU * e, lambda e: -0.3 + 0 * e, lambda e: 0.8 + 0 * e), HYPERPARAMETERS,
             axis="train_size"),
]  # fmt: skip
