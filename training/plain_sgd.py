"""Where does plain SGD get to from a point, at this step size?  No momentum, full batch or minibatches, in one graph.

    theta <- theta - rate gradient_B(theta)

of the mean loss over a batch B: all images at every step (gradient descent), or the next ones of an order that is drawn
anew for every pass. Gradient descent near a minimum of a quadratic function leaves it where rate > 2 / largest Hessian
eigenvalue; minibatches add noise, and have eigenvalues of their own. A walk is short: it keeps no checkpoints, and
starts again where it was interrupted. All step sizes have one graph.
"""
import functools
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from analysis.keras_internals import graphs_of
from analysis.losses import LOSSES
from analysis.parameters import set_parameters


@dataclass(frozen=True)
class Walk:
    """moved: the distance from the centre after every step, [steps]; not finite from where it diverged on."""

    moved: np.ndarray

    @property
    def farthest(self) -> float:
        """The largest distance; infinity where it diverged."""
        return float(self.moved.max()) if np.isfinite(self.moved).all() else np.inf


class PlainSGD:
    """Walks of one model on inputs x [n, ...] and targets y [n, k]; loss is a name in analysis.losses.LOSSES."""

    def __init__(self, model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str):
        dtype = model.trainable_variables[0].dtype
        self.model, self.x, self.y = model, tf.constant(x, dtype), tf.constant(y, dtype)
        graphs = graphs_of(model, "_walk_graphs")  # one for all data sets of a shape
        if loss not in graphs:
            graphs[loss] = tf.function(functools.partial(_walk, model, LOSSES[loss]), reduce_retracing=True)
        self._graph = graphs[loss]

    def walk(
        self, start: np.ndarray, *, centre: np.ndarray, rate: float, batch_size: int, steps: int, seed: int
    ) -> Walk:
        """`steps` steps from the parameters start [p]; the model ends where the walk does.

        centre: where distances are measured from, [p].  batch_size: at most n, which means all images at every step.
        seed: of the order of the images; whoever walks with the same seed at two rates sees the same batches.
        Raises ValueError for a rate that is not finite and above 0, steps < 1, or a batch_size outside 1 ... n.
        """
        n = len(self.x)
        if not (rate > 0 and np.isfinite(rate)) or steps < 1 or not 1 <= batch_size <= n:
            raise ValueError(
                f"need a finite rate > 0, steps >= 1 and a batch_size in 1 ... {n}, got {rate}, {steps}, {batch_size}"
            )
        set_parameters(self.model, centre)
        centres = [v.value + 0 for v in self.model.trainable_variables]
        set_parameters(self.model, start)
        rows = tf.constant(batches_of(n, batch_size, steps, seed), tf.int32)
        return Walk(self._graph(self.x, self.y, tf.constant(rate, self.x.dtype), rows, centres).numpy())


def _walk(model, loss_of, x, y, rate, rows, centres):
    """Distances from the centres after every step, [steps]; rows [steps, b]: the images of each."""
    values = [v.value for v in model.trainable_variables]
    steps = tf.shape(rows)[0]
    moved = tf.TensorArray(tf.float64, size=steps)
    for step in tf.range(steps):
        batch, targets = tf.gather(x, rows[step]), tf.gather(y, rows[step])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = tf.reduce_mean(loss_of(targets, model(batch, training=False)))
        squares = tf.constant(0.0, tf.float64)
        gradients = tape.gradient(loss, values, unconnected_gradients="zero")
        for value, gradient, centre in zip(values, gradients, centres):
            value.assign_sub(rate * gradient)
            squares += tf.cast(tf.reduce_sum(tf.math.squared_difference(value, centre)), tf.float64)
        moved = moved.write(step, tf.sqrt(squares))
    return moved.stack()


def batches_of(n: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """The images of every step, [steps, batch_size]: an order for each pass, whose incomplete last batch is dropped."""
    if batch_size == n:
        return np.tile(np.arange(n), (steps, 1))
    rng, a_pass = np.random.default_rng([seed, 43]), n // batch_size
    orders = [rng.permutation(n)[: a_pass * batch_size] for _ in range(-(-steps // a_pass))]
    return np.concatenate(orders).reshape(-1, batch_size)[:steps]
