"""How high does the loss rise on a path between two networks?  Paths in parameter space, losses along them, barriers.

The barrier of a path from A (t = 0) to B (t = 1) is what its loss has above the interpolation of its ends' losses,

    max_t  L(path(t)) - ((1 - t) L(A) + t L(B))                            (Entezari et al. 2022, 2110.06296, section 2)

which is 0 where no point lies above. Paths are straight lines, and the quadratic Bezier curves of Garipov et al. 2018
(1802.10026, section 3). A network between two others has its own batch norm statistics: they are computed anew on the
training set at each point, as in Garipov et al.
"""
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from analysis.evaluation import dtype_of, evaluate
from analysis.keras_internals import all_layers, graphs_of
from analysis.parameters import set_parameters


@dataclass(frozen=True)
class Barrier:
    """height: of the loss above the interpolation of the ends, at least 0.  at: the t of the highest point."""

    height: float
    at: float


def line(a: np.ndarray, b: np.ndarray) -> Callable:
    """t -> (1 - t) a + t b, for vectors [p]."""
    return lambda t: (1 - t) * a + t * b


def bezier(a: np.ndarray, control: np.ndarray, b: np.ndarray) -> Callable:
    """t -> (1 - t)^2 a + 2 t (1 - t) control + t^2 b, for vectors [p]."""
    def point(t):
        of_a, of_control, of_b = bezier_weights(t)
        return of_a * a + of_control * control + of_b * b

    return point


def bezier_weights(t: float | tf.Tensor) -> tuple:
    """The three weights of a quadratic Bezier curve's points at t, which add up to 1; for numbers and tensors."""
    return (1 - t) * (1 - t), 2 * t * (1 - t), t * t


def barrier(times: np.ndarray, values: np.ndarray) -> Barrier:
    """The Barrier of values [m] at times [m] from 0 to 1; infinite where a value is not finite."""
    times, values = np.asarray(times, float), np.asarray(values, float)
    if times.shape != values.shape or len(times) < 2 or times[0] != 0 or times[-1] != 1:
        raise ValueError("a barrier needs values at times from 0 to 1, the ends included")
    excess = values - ((1 - times) * values[0] + times * values[-1])
    excess[[0, -1]] = 0.0  # whatever rounding says, there the two are the same
    excess = np.where(np.isfinite(excess), excess, np.inf)
    highest = int(np.argmax(excess))
    return Barrier(float(excess[highest]), float(times[highest]))


def measure_along(
    model: keras.Model, path: Callable, times: Iterable[float], sets: dict, loss: str, *,
    statistics_of: np.ndarray | None = None,
) -> dict:  # fmt: skip
    """{name: (losses [m], errors [m])} along a path, on each of the sets {name: (x, y)}.

    path: t -> parameters [p] of the model, which ends at the last of them.  statistics_of: inputs on which the
    statistics of batch norm are computed anew at each point; by None they stay as they are.
    """
    found = {name: ([], []) for name in sets}
    for t in times:
        with np.errstate(over="ignore"):
            set_parameters(model, path(t))
        if statistics_of is not None:
            reset_statistics(model, statistics_of)
        for name, (x, y) in sets.items():
            value, accuracy = evaluate(model, x, y, loss)
            found[name][0].append(value)
            found[name][1].append(1 - accuracy)
    return {name: tuple(map(np.array, values)) for name, values in found.items()}


def reset_statistics(model: keras.Model, x: np.ndarray, *, batch_size: int = 1024) -> None:
    """Sets the moving statistics of every batch norm layer to their means over x, [n, ...], in batches of equal size.

    Within a batch, layers see what those before make of it by the batch's own statistics, as in training. A network
    without batch norm stays as it is.
    """
    norms = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    dtype, graphs = dtype_of(model), graphs_of(model, "_statistics_graphs")
    signature = [tf.TensorSpec([None, *np.shape(x)[1:]], dtype)]
    if "forward" not in graphs:
        graphs["forward"] = tf.function(lambda block: model(block, training=True), input_signature=signature)
    moving = [(variable, layer.momentum) for layer in norms for variable in (layer.moving_mean, layer.moving_variance)]
    sums = [0.0] * len(moving)
    for block in np.array_split(x, -(-len(x) // batch_size)):
        for variable, _ in moving:
            variable.assign(tf.zeros_like(variable))
        graphs["forward"](tf.constant(block, dtype))
        # From 0 a batch's own statistics make (1 - momentum) of the moving ones.
        for i, (variable, momentum) in enumerate(moving):
            sums[i] = sums[i] + variable.numpy().astype(np.float64) * (len(block) / len(x)) / (1 - momentum)
    for (variable, _), total in zip(moving, sums):
        variable.assign(total)


def constant_predictor_loss(y: np.ndarray, loss: str) -> float:
    """The training loss of the best constant predictor for targets y [n, k], rows of probabilities: a scale for losses.

    cross_entropy: the entropy of the mean target.  squared: half the mean squared distance from it.
    """
    y = np.asarray(y, np.float64)
    mean = y.mean(0)
    if loss == "squared":
        return float(0.5 * np.mean(np.sum((y - mean) ** 2, axis=1)))
    mean = mean[mean > 0]
    return float(-np.sum(mean * np.log(mean)))
