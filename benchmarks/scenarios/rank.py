"""Scenarios of the experiments of run_rank.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1


SOUND = {"attack/loss_clean": 1.0, "attack/loss_few": 2.0, "attack/loss": 2.1, "attack/loss_strong": 2.2,
         "attack/accuracy": 0.5, "attack/accuracy_strong": 0.5}  # fmt: skip


def robustness(clean, robust, rank, capped, random=None):
    """An unedited network and three edits; (effect) -> true differences to the unedited one.

    clean, robust, rank: RankMin's gain in clean and in robust accuracy and its fall of rank.  capped: RankMax's gain in
    both accuracies; its rank evidently rises.  random: the random edit's gain in both, evident harm where it is not
    given. All in units of 0.01.
    """
    def fill(draw, table, effect):
        edit = table["edit"].to_numpy()
        minimum, maximum, control = (edit == name for name in ("rank_min", "rank_max", "random"))

        def values(of_minimum, of_maximum, of_random):
            gain = minimum * of_minimum + maximum * of_maximum + control * of_random
            return 0.01 * gain + draw(edit != "none", 0.01 * PAIRED)

        gains = capped(effect), (random or harm)(effect)
        return {
            "test/accuracy": 0.9 + values(clean(effect), *gains),
            "robust/mean": 0.5 + values(robust(effect), *gains),
            "rank/relative": 0.8 + values(-rank(effect), EVIDENT, 0),
            **{name: np.full(len(table), value) for name, value in SOUND.items()},
        }

    return fill


def spectra(fall):
    """Relative effective rank before and after training; fall: (effect) -> true fall, in units of 0.01."""
    def fill(draw, table, effect):
        return {
            "untrained/rank": 0.9 + draw(0, 0.01 * PAIRED),
            "trained/rank": 0.9 - 0.01 * fall(effect) + draw(1, 0.01 * PAIRED),
        }

    return fill


def collapse(nc1, nc3):
    """The terminal phase's changes of NC1 to NC3; nc1, nc3: (effect) -> true fall of log10, in units of 0.1."""
    def fill(draw, table, effect):
        fall = {"nc1": nc1(effect), "nc3": nc3(effect), "nc2_norms": evident(effect), "nc2_angles": evident(effect)}
        return {
            "end/nc1": 1.0, "end/nc4": 0.0, "fitted/test_accuracy": 0.9, "test/accuracy": 0.9,
            **{f"change/{name}": 10 ** (-0.1 * value + draw(0, 0.1)) for name, value in fall.items()},
        }  # fmt: skip

    return fill


def as_it_is(effect):
    return effect


def evident(effect):
    return np.full_like(effect, EVIDENT)


def harm(effect):
    return -evident(effect)


MARGIN = 1  # of robustness and spectra, in those units
FACTOR = 10 * np.log10(1.1)  # that of collapse, in its own
EDITS = {"train_epsilon": 0.0}
SCENARIOS = [
    Scenario("robustness", "RankMin gains robust accuracy, and no clean accuracy", "supported",
             robustness(as_it_is, evident, evident, harm), EDITS),
    Scenario("robustness", "RankMin gains clean accuracy, and no robust accuracy", "supported",
             robustness(evident, as_it_is, evident, harm), EDITS),
    Scenario("robustness", "RankMin gains accuracy without lowering the rank", "supported",
             robustness(evident, evident, as_it_is, harm), EDITS),
    Scenario("robustness", "RankMin gains much, and a random edit as much", "supported",
             robustness(lambda e: EVIDENT + e, lambda e: 2 * evident(e), evident, harm, evident), EDITS),
    Scenario("robustness", "RankMin gains much, and just the margin on a random edit", "refuted",
             robustness(lambda e: EVIDENT + MARGIN - e, lambda e: EVIDENT + MARGIN - e, evident, harm, evident), EDITS),
    Scenario("robustness", "RankMin gains both accuracies by just the margin, RankMax nothing", "refuted",
             robustness(lambda e: MARGIN - e, lambda e: MARGIN - e, evident, as_it_is), EDITS),
    Scenario("robustness", "RankMin costs accuracy without lowering the rank", "refuted",
             robustness(harm, harm, as_it_is, harm), EDITS),
    Scenario("spectra", "training leaves the rank as it is", "supported",
             spectra(as_it_is), {"model": "mlp", "train_epsilon": 0.0, "edit": "none"}),
    Scenario("spectra", "training lowers the rank by just the margin", "refuted",
             spectra(lambda e: MARGIN - e), {"model": "mlp", "train_epsilon": 0.0, "edit": "none"}),
    Scenario("collapse", "the classifier stays as far from the class means as it is", "supported",
             collapse(evident, as_it_is), {"depth": 3}),
    Scenario("collapse", "the spread within classes falls by just the margin", "refuted",
             collapse(lambda e: FACTOR - e, evident), {"depth": 3}),
]  # fmt: skip
