"""Full-batch gradient descent, step by step: what no epoch of `fit` shows is the loss after each single step.

    v <- momentum v - learning_rate gradient,    theta <- theta + v

The loss and its gradient are those of analysis.hessian.TrainingLoss over the whole training set, so a run is a function
of the model at the start and of the settings alone. It repeats to the bit, also when it was interrupted in between: a
checkpoint holds the parameters, the velocity, every loss so far and what the probe keeps from one call to the next.

With `search` the step size follows the surface: it is halved until the loss lies below the largest of the last ten by
at least half of what the gradient promises (Armijo 1966; Grippo, Lampariello & Lucidi 1986, as the kinks of ReLU would
end a search that only descends), so that it stays near 1 / curvature along the gradient, and grows by a tenth a step.
Networks whose curvature differs by orders of magnitude, or grows along the way, then follow their gradient flow alike.
"""
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from analysis.hessian import TrainingLoss
from analysis.keras_internals import all_layers
from analysis.parameters import get_parameters, set_parameters

SUFFICIENT = 0.5  # of the fall that the gradient promises: a quadratic function's at a step of 1 / curvature
MEMORY = 10  # losses, of which the largest must be undercut: a network's kinks would end a search that only descends
GROWTH = 1.1  # of the searched step size, after every step
SMALLEST = np.finfo(np.float64).eps  # step relative to the parameters: below, it is their rounding


def beside_parameters(model: keras.Model) -> str:
    """What keeps a model's training loss from being a function of its parameters alone: batch norm or dropout; "" if
    nothing does. TrainingLoss takes them as in inference, which for batch norm of a new network is no norm at all.
    """
    if any(getattr(layer, "rate", 0) for layer in all_layers(model)):
        return "dropout"
    return "batch norm" if model.non_trainable_variables else ""


@dataclass(frozen=True)
class Descent:
    """losses [steps + 1]: before each step, and after the last.  rows: one for each call of the probe, with its step.

    diverged_step: the first step after which the loss was not finite, or None.  gradients: how many were computed.
    """

    losses: np.ndarray
    rows: list
    diverged_step: int | None
    gradients: int = 0


class Way:
    """Where a descent is: velocity, step size, losses, the probe's rows, and what the probe keeps for its next call.

    Begins at the checkpoint of its stage where there is one, the model's parameters included.
    """

    def __init__(self, surface: TrainingLoss, probe: Callable, learning_rate: float, steps: int, run: Any, stage: str):
        self.surface, self.probe, self.steps, self.run, self.stage = surface, probe, steps, run, stage
        self.velocity, self.kept, self.losses, self.rows = np.zeros(surface.parameter_count), None, [], []
        self.rate, self.gradients = learning_rate, 0
        self.saved, self.cost = -math.inf, 0.0
        if state := run.load_checkpoint(stage) if run else None:
            arrays = state["arrays"]
            self.velocity, self.kept = arrays["velocity"], arrays.get("kept")
            self.losses, self.rows = list(arrays["losses"]), list(state["rows"])
            self.rate, self.gradients = state.get("rate", learning_rate), state.get("gradients", 0)
            set_parameters(surface.model, arrays["parameters"])

    @property
    def probed(self) -> int | None:
        """The step at which the probe was called last; None before its first call."""
        return self.rows[-1]["epoch"] if self.rows else None

    def report(self, step: int, value: float) -> None:
        """One call of the probe, and a checkpoint where saving takes at most a twentieth of the time.

        So the loss of a checkpoint's step is known, and the step itself not yet taken.
        """
        numbers, self.kept = self.probe(step, self.kept)
        self.rows.append({"stage": self.stage, "epoch": step, "train/loss": value, **numbers})
        if not self.run:
            return
        self.run.epoch(self.stage, self.rows[-1], self.steps)
        now = time.perf_counter()
        if now - self.saved >= 20 * self.cost:
            self.save()
            self.saved = time.perf_counter()
            self.cost = self.saved - now

    def save(self) -> None:
        """A checkpoint; the gradient at hand is not counted, as who goes on computes it again."""
        arrays = {
            "parameters": get_parameters(self.surface.model), "velocity": self.velocity,
            "losses": np.array(self.losses), **({} if self.kept is None else {"kept": self.kept}),
        }  # fmt: skip
        state = {"arrays": arrays, "rows": self.rows, "rate": self.rate, "gradients": self.gradients - 1}
        self.run.save_checkpoint(self.stage, state)

    def go(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """(value, gradient) at parameters [p], at which the model is left."""
        self.gradients += 1
        return self.surface.value_and_gradient_at(point)

    def move(self, gradient: np.ndarray, momentum: float) -> tuple[float, np.ndarray]:
        """One step with momentum; (value, gradient) after it."""
        self.velocity = momentum * self.velocity - self.rate * gradient
        with np.errstate(over="ignore"):  # a diverging run gets to infinity, and is then found out
            return self.go(get_parameters(self.surface.model) + self.velocity)

    def search(self, gradient: np.ndarray) -> tuple[float, np.ndarray] | None:
        """One step of a searched size; (value, gradient) after it, None where no step lowers the loss."""
        found, self.rate, tried = search_step(self.surface, max(self.losses[-MEMORY:]), gradient, self.rate)
        self.gradients += tried
        return found


def descend(
    surface: TrainingLoss, *, learning_rate: float, momentum: float = 0.0, steps: int, every: int, probe: Callable,
    run: Any = None, stage: str = "descent", until: Callable | None = None, search: bool = False,
) -> Descent:  # fmt: skip
    """Gradient descent on a TrainingLoss from its model's parameters, which end where the descent does.

    probe: probe(step, kept) -> ({name: number}, array to keep for its next call, or None); called before the first step
    (kept is then None), after every `every` steps, and after the last.
    until: until(rows) -> bool, asked after each probe: ends the descent early where it holds.
    search: the step size is searched for, from learning_rate on; no momentum then. The descent also ends where no step
        lowers the loss.
    run: where checkpoints and progress go; nothing is written when None.  stage: its name in a config.
    Raises ValueError for steps < 1, every < 1, learning_rate <= 0 or a momentum outside of [0, 1).
    """
    if steps < 1 or every < 1 or not learning_rate > 0 or not 0 <= momentum < 1 or (search and momentum):
        raise ValueError(
            "need steps >= 1, every >= 1, learning_rate > 0 and momentum in [0, 1), 0 with a search, got "
            f"{steps}, {every}, {learning_rate} and {momentum}"
        )
    if run:
        run.begin(stage)
    way = Way(surface, probe, learning_rate, steps, run, stage)
    step, resumed = way.probed or 0, way.probed is not None
    value, gradient = way.go(get_parameters(surface.model))  # in the graph of all that follow
    while math.isfinite(value):
        if not resumed:
            way.losses.append(value)
            if step % every == 0 or step == steps:
                way.report(step, value)
        resumed = False
        if step == steps or (way.probed == step and until and until(way.rows)):
            break
        found = way.search(gradient) if search else way.move(gradient, momentum)
        if found is None:
            if way.probed != step:
                way.report(step, value)
            break
        value, gradient = found
        step += 1
    return Descent(np.array(way.losses), way.rows, None if math.isfinite(value) else step, way.gradients)


def search_step(surface: TrainingLoss, value: float, gradient: np.ndarray, rate: float) -> tuple:
    """One step of gradient descent on a TrainingLoss of the given gradient [p] here, from this step size on, to a loss
    below `value`.

    Returns ((value, gradient) after it, the step size for the next one, how many gradients it took); with None in place
    of the first, and the model where it was, if no step lowers the loss.
    """
    start, slope = get_parameters(surface.model), float(gradient @ gradient)
    smallest, tried = SMALLEST * max(1.0, float(np.linalg.norm(start))), 0
    while rate * math.sqrt(slope) > smallest:
        with np.errstate(over="ignore", invalid="ignore"):
            after = surface.value_and_gradient_at(start - rate * gradient)
        tried += 1
        if after[0] <= value - SUFFICIENT * rate * slope:  # not where it is nan
            return after, GROWTH * rate, tried
        rate /= 2
    set_parameters(surface.model, start)
    return None, rate, tried
