"""Full-batch gradient descent, step by step: what no epoch of `fit` shows is the loss after each single step.

    v <- momentum v - learning_rate gradient,    theta <- theta + v

The loss and its gradient are those of analysis.hessian.TrainingLoss over the whole training set, so a run is a function
of the model at the start and of the settings alone. It repeats to the bit, also when it was interrupted in between: a
checkpoint holds the parameters, the velocity, every loss so far and what the probe keeps from one call to the next.
"""
import math
import time
from dataclasses import dataclass

import numpy as np

from analysis.parameters import get_parameters, set_parameters


@dataclass(frozen=True)
class Descent:
    """losses [steps + 1]: before each step, and after the last.  rows: one for each call of the probe, with its step.

    diverged_step: the first step after which the loss was not finite, or None.
    """

    losses: np.ndarray
    rows: list
    diverged_step: int | None


def descend(surface, *, learning_rate, momentum=0.0, steps, every, probe, run=None, stage="descent", until=None):
    """Gradient descent on a TrainingLoss from its model's parameters, which end where the descent does.

    probe: probe(step, kept) -> ({name: number}, array to keep for its next call, or None); called before the first step
    (kept is then None), after every `every` steps, and after the last.
    until: until(rows) -> bool, asked after each probe: ends the descent early where it holds.
    run: where checkpoints and progress go; nothing is written when None.  stage: its name in a config.
    Raises ValueError for steps < 1, every < 1, learning_rate <= 0 or a momentum outside of [0, 1).
    """
    if steps < 1 or every < 1 or not learning_rate > 0 or not 0 <= momentum < 1:
        raise ValueError(
            "need steps >= 1, every >= 1, learning_rate > 0 and momentum in [0, 1), got "
            f"{steps}, {every}, {learning_rate} and {momentum}"
        )
    if run:
        run.begin(stage)
    state = run.load_checkpoint(stage) if run else None
    if state:
        velocity, kept = state["arrays"]["velocity"], state["arrays"].get("kept")
        set_parameters(surface.model, state["arrays"]["parameters"])
        losses, rows = list(state["arrays"]["losses"]), list(state["rows"])
    else:
        velocity, kept, losses, rows = np.zeros(surface.parameter_count), None, [], []
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
            run.save_checkpoint(stage, {"arrays": arrays, "rows": rows})
            saved = time.perf_counter()
            cost = saved - now

    # A checkpoint is written behind a probe: the loss of its step is known, and the step itself not yet taken.
    step = rows[-1]["epoch"] if rows else 0
    resumed = bool(rows)
    while True:
        value, gradient = surface.value_and_gradient()
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
        velocity = momentum * velocity - learning_rate * gradient
        with np.errstate(over="ignore"):  # a diverging run gets to infinity in float32, and is then found out
            set_parameters(surface.model, (get_parameters(surface.model) + velocity).astype(np.float32))
        step += 1
    return Descent(np.array(losses), rows, diverged)
