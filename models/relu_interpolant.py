"""A two-layer ReLU network with 2n + d weights that takes any given values at n points in d dimensions, without
training.

    c(x) = sum_j w_j max(<a, x> - b_j, 0)                  Zhang et al. 2017, Theorem 1

Project the points on a direction a that tells them apart, z_1 < ... < z_n, and place b_1 < z_1 < b_2 < z_2 < ... < b_n
< z_n: A_ij = max(z_i - b_j, 0) is lower triangular with diagonal z_i - b_i > 0, and forward substitution solves A w =
y.
"""
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf
from keras import layers

DIRECTIONS = 16  # random ones that are tried: the rounding error goes with 1 / (smallest gap of the projections)
KNOT = 0.1  # b_j lies at this share of the gap (z_{j-1}, z_j); below 1/2, slopes do not hand rounding errors on


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class Hinges(layers.Layer):
    """max(z - b_j, 0) for one shared input, [n, 1] -> [n, units]: a ReLU layer whose kernel is 1 and has no weights."""

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        self.units = units

    def build(self, input_shape: Sequence) -> None:
        self.thresholds = self.add_weight(shape=(self.units,), initializer="zeros", name="thresholds")

    def call(self, z: tf.Tensor) -> tf.Tensor:
        return keras.ops.relu(z - self.thresholds)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


def relu_interpolant(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, dtype: str = "float64", name: str = "relu_interpolant"
) -> keras.Model:
    """The network of Theorem 1 as a keras.Model [m, ...] -> [m, 1] with c(x_i) = y_i up to rounding.

    Args:
        x: n points [n, ...], flattened to d numbers each.  y: n real values [n].
        seed: of the directions a, of which the one with the largest smallest gap |z_i - z_j| is taken.
        dtype: of the weights; they are solved for in float64.

    Layers: flatten, projection (a: d weights), hinges (b: n), output (w: n).

    Raises:
        ValueError: shapes that do not fit, fewer than two points, values that are not finite, points that no direction
            tells apart in the dtype (equal ones, above all).
    """
    x, y = np.asarray(x), np.asarray(y, np.float64)
    if x.ndim < 2 or len(x) < 2 or y.shape != (len(x),) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            f"x [n, ...] and y [n] must be finite with n of at least 2; received shapes {x.shape} and {y.shape}."
        )
    points = x.reshape(len(x), -1).astype(dtype)  # [n, d]
    directions = np.random.default_rng(seed).standard_normal((points.shape[1], DIRECTIONS)) / np.sqrt(points.shape[1])
    directions = directions.astype(dtype)
    projections = (points @ directions).astype(np.float64)  # [n, DIRECTIONS]
    best = np.diff(np.sort(projections, axis=0), axis=0).min(axis=0).argmax()
    order = projections[:, best].argsort()
    z = projections[order, best]
    gaps = np.diff(z)
    if gaps.min() <= 4 * np.finfo(dtype).eps * np.abs(z).max():
        raise ValueError(
            f"the {len(x)} points must differ: two of them have equal projections on every direction in {dtype}."
        )
    thresholds = np.concatenate([[z[0] - gaps.mean()], z[:-1] + KNOT * gaps]).astype(dtype)
    hinges = np.maximum(z[:, None] - thresholds.astype(np.float64), 0)  # [n, n], lower triangular
    weights = scipy.linalg.solve_triangular(hinges, y[order], lower=True)

    inputs = keras.Input(x.shape[1:], dtype=dtype, name="input")
    h = layers.Flatten(dtype=dtype, name="flatten")(inputs)
    h = layers.Dense(1, use_bias=False, dtype=dtype, name="projection")(h)
    h = Hinges(len(x), dtype=dtype, name="hinges")(h)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, dtype=dtype, name="output")(h), name=name)
    model.set_weights([directions[:, [best]], thresholds, weights[:, None].astype(dtype)])
    return model
