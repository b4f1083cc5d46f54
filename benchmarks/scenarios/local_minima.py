"""Scenarios of the experiments of run_local_minima.py; see benchmarks/scenarios/__init__.py."""
import numpy as np

from benchmarks.scenarios import EVIDENT, Scenario

PAIRED = np.sqrt(0.5)  # standard deviation of each of two values whose difference has 1
SIZE = 0.1  # of an effect of 1, in log10 of a loss or a sharpness
FACTOR = np.log10(1.1) / SIZE  # the margin in those units
NARROW = np.log10(1.1) / (2 * EVIDENT)  # the same of an effect where the loss must lie between two margins


def initialization(ratio):
    """Final losses from three starts; ratio: (effect, start) -> log10 above the default's, in units of SIZE.

    Every run ends at a stationary point: one that does not is a count, and makes the rule refute less.
    """
    def fill(draw, table, effect):
        starts = table["initialization"]
        above = sum(np.where(starts == name, ratio(effect, name), 0) for name in ("zero", "equal"))
        rest = {"after/relative_gradient": 0.001, "after/smallest_eigenvalue": 0.0, "after/largest_eigenvalue": 1.0,
                "after/eigenvalues_converged": True}  # fmt: skip
        return {
            "after/train/loss": 10 ** (-1 + SIZE * above + draw(starts != "default", SIZE * PAIRED)),
            **{name: np.full(len(table), value) for name, value in rest.items()},
        }

    return fill


def distillation(ratio, size):
    """Losses before and after training on; ratio: (effect) -> log10 of after / before, in units of size."""
    def fill(draw, table, effect):
        return {
            "distilled/train/loss": 10 ** (-1 + draw(0, size * PAIRED)),
            "trained/train/loss": 10 ** (-1 + size * ratio(effect) + draw(1, size * PAIRED)),
        }

    return fill


WIDTHS, DEPTHS = (2, 4, 8), (1, 3)
SLOPE = 0.1  # of an effect of 1: an exponent of the width or of the depth
NOISE = {"width": SLOPE * np.sqrt(2), "depth": SLOPE * np.log2(3) / np.sqrt(2)}  # whose slope spreads by SLOPE


def depth_width(edge, exponents):
    """Losses of six networks; exponents: (effect, table) -> of width and depth in each row, in units of SLOPE.

    edge: the axis whose slopes have a standard deviation of 1.
    """
    def fill(draw, table, effect):
        size = {axis: np.log2(table[axis].astype(float)) for axis in ("width", "depth")}
        of_width, of_depth = exponents(effect, table)
        logarithm = SLOPE * (of_width * size["width"] + of_depth * size["depth"])
        loss = 2 ** (logarithm + draw(size[edge] > size[edge].min(), NOISE[edge]))
        ends = {"final/converged": 1.0, "final/at_kink": 0.0, "theorem/relative_gap": 1e-12}
        return {"final/loss": loss, **{name: np.full(len(table), value) for name, value in ends.items()}}

    return fill


def flat_at_one(axis):
    """Exponents that are evident but along one axis at the smallest level of the other, where they are -effect."""
    other = {"width": "depth", "depth": "width"}[axis]

    def exponents(effect, table):
        along = np.where(table[other] == table[other].min(), -effect, -EVIDENT)
        across = np.full(len(table), -EVIDENT)
        return (along, across) if axis == "width" else (across, along)

    return exponents


SHARE_MARGIN = 0.1  # of elimination, in shares of the certified minimum's loss above default initialization


def elimination(excess):
    """Runs that left the certified minimum; excess: (effect) -> share of its loss that the network keeps.

    In units of a tenth of the margin, which is what the share spreads by.
    """
    def fill(draw, table, effect):
        size, high = 0.1 * SHARE_MARGIN, 1.0
        constant = {
            "certificate/radius": 0.1, "certificate/floor": high, "final/objective": 0.5, "final/gradient_norm": 1e-8,
            "final/a": 0.1, "peak/a": 1.0, "final/exponent": 9.0, "peak/exponent": 3.0, "final/neurons": 1.0,
            "peak/neurons": 1.0,
        }  # fmt: skip
        reference = 0.1 + draw(0, size * PAIRED)
        loss = reference + size * excess(effect) * (high - reference) + draw(1, size * PAIRED)
        filled = {name: np.full(len(table), value) for name, value in constant.items()}
        return {"final/network_loss": loss, "reference/loss": reference, **filled}

    return fill


def sharpness(sharper, worse):
    """Sharpness and accuracies of both batches; sharper, worse: (effect) -> true differences.

    In units of SIZE in log10 sharpness and of 0.01 in accuracy. Training losses are equal: where they are not, nothing
    is judged.
    """
    def fill(draw, table, effect):
        return {
            "small/train/loss": np.full(len(table), 0.001),
            "large/train/loss": np.full(len(table), 0.001),
            "small/sharpness": 10 ** (1 + draw(0, SIZE * PAIRED)),
            "large/sharpness": 10 ** (1 + SIZE * sharper(effect) + draw(1, SIZE * PAIRED)),
            "small/test/accuracy": 0.9 + draw(0, 0.01 * PAIRED),
            "large/test/accuracy": 0.9 - 0.01 * worse(effect) + draw(1, 0.01 * PAIRED),
        }

    return fill


def edge_of_stability(ratio, size):
    """Late sharpness over its threshold at one step size; ratio: (effect) -> log10 of it, in units of size.

    The measurements of a run spread by a tenth of what seeds do, so that their error guards against nothing.
    """
    def fill(draw, table, effect):
        late = 10 ** (size * ratio(effect) + draw(0, size))
        constant = {
            "late/spread": 0.1 * size, "late/near": 0.5, "late/rising_steps": 0.4, "reached_step": 100.0,
            "start/loss": 1.0, "train/loss": 0.01,
        }  # fmt: skip
        return {"late/ratio": late, **{name: np.full(len(table), value) for name, value in constant.items()}}

    return fill


WIDENING = {"width": [32, 128, 512]}
LEVEL, NEAR = 0.02, 0.0005  # of connectivity: its level, and an effect of 1 in a barrier at it
BARRIER_NOISE = SLOPE * np.sqrt(8)  # of log2 of a barrier, whose slope over these widths then spreads by SLOPE


def connectivity(curve, line, falls=None):
    """Barriers at every width; curve, line: (effect) -> that above the level, in units of NEAR.

    falls: for a line of None, (effect) -> exponent of the width in its barrier, which is 1 at the widest; in units of
    SLOPE.
    """
    def fill(draw, table, effect):
        width = table["width"].astype(float)
        if line:
            matched = LEVEL + NEAR * line(effect) + draw(1, NEAR)
        else:
            matched = 2 ** (SLOPE * falls(effect) * np.log2(width / 512) + draw(width > 32, BARRIER_NOISE))
        ends = {"line/barrier": 1.0, "curve/error_barrier": 0.0, "matched/error_barrier": 0.0}
        ends |= {"first/train/accuracy": 1.0, "second/train/accuracy": 1.0}
        return {
            "curve/barrier": LEVEL + NEAR * curve(effect) + draw(0, NEAR),
            "matched/barrier": matched,
            **{name: np.full(len(table), value) for name, value in ends.items()},
        }

    return fill


def evidently_below(effect):
    """Barriers far below the level, whatever the effect on the other path."""
    return np.full_like(effect, -EVIDENT)


STARTS = {"initialization": ["default", "zero", "equal"]}
SHAPES = {"dataset": ["digits"], "activation": ["relu"], "depth": list(DEPTHS), "width": list(WIDTHS)}
DOUBLING = np.log2(1.1) / SLOPE
ONE_WIDTH = {"width": [32]}
STEP = {"learning_rate": 0.1}
SCENARIOS = [
    Scenario("edge_of_stability", "the late sharpness lies above the threshold by just the margin", "supported",
             edge_of_stability(lambda e: 2 * EVIDENT - e, NARROW), STEP, axis="train_size"),
    Scenario("edge_of_stability", "the late sharpness lies below the threshold by just the margin", "refuted",
             edge_of_stability(lambda e: -FACTOR - e, SIZE), STEP, axis="train_size"),
    Scenario("initialization", "one start ends above by just the margin, the other evidently below", "supported",
             initialization(lambda e, name: FACTOR - (e if name == "zero" else EVIDENT)), STARTS),
    Scenario("initialization", "two starts end above by just the margin", "refuted",
             initialization(lambda e, name: FACTOR + e), STARTS),
    Scenario("distillation", "training on lowers the loss by just the margin", "supported",
             distillation(lambda e: e - 2 * EVIDENT, NARROW), ONE_WIDTH),
    Scenario("distillation", "training on raises the loss by just the margin", "supported",
             distillation(lambda e: 2 * EVIDENT - e, NARROW), ONE_WIDTH),
    Scenario("distillation", "training on lowers the loss by just the margin", "refuted",
             distillation(lambda e: -FACTOR - e, SIZE), ONE_WIDTH),
    Scenario("depth_width", "no fall with width at one depth, evident ones elsewhere", "supported",
             depth_width("width", flat_at_one("width")), SHAPES),
    Scenario("depth_width", "no fall with depth at one width, evident ones elsewhere", "supported",
             depth_width("depth", flat_at_one("depth")), SHAPES),
    Scenario("depth_width", "the loss falls with width and depth by just the margin", "refuted",
             depth_width("width", lambda e, table: (e - DOUBLING, e - DOUBLING)), SHAPES),
    Scenario("elimination", "the network ends above by just the margin", "supported",
             elimination(lambda e: 10 - e), {"trainable": ["all"]}, axis="train_size"),
    Scenario("elimination", "the network ends above by just the margin", "refuted",
             elimination(lambda e: 10 + e), {"trainable": ["all"]}, axis="train_size"),
    Scenario("sharpness", "large batches are as sharp as small ones, and much worse", "supported",
             sharpness(lambda e: e, lambda e: np.full_like(e, EVIDENT)), {}),
    Scenario("sharpness", "large batches are much sharper, and as good", "supported",
             sharpness(lambda e: np.full_like(e, EVIDENT), lambda e: e), {}),
    Scenario("sharpness", "large batches are sharper and worse, by just the margins", "refuted",
             sharpness(lambda e: FACTOR - e, lambda e: 1 - e), {}),
    Scenario("connectivity", "the curve's barrier is the level itself, the matched line's evidently lower", "supported",
             connectivity(lambda e: -e, evidently_below), WIDENING),
    Scenario("connectivity", "the matched line's barrier is the level itself, the curve's evidently lower", "supported",
             connectivity(evidently_below, lambda e: -e), WIDENING),
    Scenario("connectivity", "the curve's barrier is the level itself", "refuted",
             connectivity(lambda e: e, evidently_below), WIDENING),
    Scenario("connectivity", "the matched line's barrier, far above the level, falls by just the margin", "refuted",
             connectivity(evidently_below, None, lambda e: e - DOUBLING), WIDENING),
]  # fmt: skip
