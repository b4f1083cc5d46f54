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
from dataclasses import dataclass

import numpy as np

from analysis.keras_internals import all_layers
from analysis.parameters import get_parameters, set_parameters

SUFFICIENT = 0.5  # of the fall that the gradient promises: a quadratic function's at a step of 1 / curvature
MEMORY = 10  # losses, of which the largest must be undercut: a network's kinks would end a search that only descends
GROWTH = 1.1  # of the searched step size, after every step
SMALLEST = np.finfo(np.float64).eps  # step relative to the parameters: below, it is their rounding


def beside_parameters(model) -> str:
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


def descend(
    surface, *, learning_rate, momentum=0.0, steps, every, probe, run=None, stage="descent", until=None, search=False
):
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
    state = run.load_checkpoint(stage) if run else None
    if state:
        velocity, kept = state["arrays"]["velocity"], state["arrays"].get("kept")
        rate, gradients = state.get("rate", learning_rate), state.get("gradients", 0)
        set_parameters(surface.model, state["arrays"]["parameters"])
        losses, rows = list(state["arrays"]["losses"]), list(state["rows"])
    else:
        velocity, kept, losses, rows = np.zeros(surface.parameter_count), None, [], []
        rate, gradients = learning_rate, 0
    diverged, saved, cost = None, -math.inf, 0.0

    def report(step, value):
        """One call of the probe, and a checkpoint where saving takes at most a twentieth of the time."""
        nonlocal kept, saved, cost
        numbers, kept = probe(step, kept)
        rows.append({"stage": stage, "epoch": step, "train/loss": value, **numbers})
        if not run:
            return
        run.epoch(stage, rows[-1], steps)
        now = time.perf_counter()
        if now - saved >= 20 * cost:
            arrays = {"parameters": get_parameters(surface.model), "velocity": velocity, "losses": np.array(losses)}
            arrays.update({} if kept is None else {"kept": kept})
            run.save_checkpoint(stage, {"arrays": arrays, "rows": rows, "rate": rate, "gradients": gradients - 1})
            saved = time.perf_counter()
            cost = saved - now

    # A checkpoint is written behind a probe: the loss of its step is known, and the step itself not yet taken.
    step = rows[-1]["epoch"] if rows else 0
    resumed = bool(rows)
    value, gradient = surface.value_and_gradient()
    gradients += 1
    while True:
        if not math.isfinite(value):
            diverged = step
            break
        if not resumed:
            losses.append(value)
            if step % every == 0 or step == steps:
                report(step, value)
        resumed = False
        if step == steps or (rows and rows[-1]["epoch"] == step and until and until(rows)):
            break
        if search:
            found, rate, tried = search_step(surface, max(losses[-MEMORY:]), gradient, rate)
            gradients += tried
            if found is None:
                if rows[-1]["epoch"] != step:
                    report(step, value)
                break
            value, gradient = found
        else:
            velocity = momentum * velocity - rate * gradient
            with np.errstate(over="ignore"):  # a diverging run gets to infinity in float32, and is then found out
                set_parameters(surface.model, (get_parameters(surface.model) + velocity).astype(np.float32))
            value, gradient = surface.value_and_gradient()
            gradients += 1
        step += 1
    return Descent(np.array(losses), rows, diverged, gradients)


def search_step(surface, value, gradient, rate):
    """One step of gradient descent on a TrainingLoss of the given gradient [p] here, from this step size on, to a loss
    below `value`.

    Returns ((value, gradient) after it, the step size for the next one, how many gradients it took); with None in place
    of the first, and the model where it was, if no step lowers the loss.
    """
    start, slope = get_parameters(surface.model), float(gradient @ gradient)
    smallest, tried = SMALLEST * max(1.0, float(np.linalg.norm(start))), 0
    while rate * math.sqrt(slope) > smallest:
        with np.errstate(over="ignore", invalid="ignore"):
            set_parameters(surface.model, start - rate * gradient)
            after = surface.value_and_gradient()
        tried += 1
        if after[0] <= value - SUFFICIENT * rate * slope:  # not where it is nan
            return after, GROWTH * rate, tried
        rate /= 2
    set_parameters(surface.model, start)
    return None, rate, tried
