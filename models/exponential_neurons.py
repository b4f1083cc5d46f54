"""A network with one exponential neuron per output added to it (Kawaguchi, Kaelbling 2020, 1901.00279).

The theorem there: with g_k(x) = a_k exp(w_k . x + b_k) on a skip from input to outputs, and a penalty on ||a||^2, every
local minimum of the training loss has a = 0 and is a global minimum of the network alone.
"""
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from analysis.evaluation import dtype_of
from models.layers import layer_seed


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class ExponentialNeurons(keras.layers.Layer):
    """g_k(x) = a_k exp(w_k . x + b_k), [n, ...] -> [n, k]; a = 0 and b = 0 at the start.

    outputs: k.  scale: standard deviation of the initial w.  seed: fixes them.
    """

    def __init__(self, outputs: int, scale: float, seed: int, **options: Any):
        super().__init__(**options)
        self.outputs, self.scale, self.random_seed = outputs, scale, seed

    def build(self, shape: Sequence) -> None:
        draw = keras.initializers.RandomNormal(0.0, self.scale, seed=layer_seed(self.random_seed, "exponential"))
        self.w = self.add_weight(shape=(int(np.prod(shape[1:])), self.outputs), initializer=draw, name="w")
        self.b = self.add_weight(shape=(self.outputs,), initializer="zeros", name="b")
        self.a = self.add_weight(shape=(self.outputs,), initializer="zeros", name="a")

    def exponents(self, x: np.ndarray | tf.Tensor) -> tf.Tensor:
        """w_k . x + b_k, [n, ...] -> [n, k]."""
        return keras.ops.reshape(x, (-1, self.w.shape[0])) @ self.w + self.b

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.a * keras.ops.exp(self.exponents(x))

    def get_config(self) -> dict:
        return {**super().get_config(), "outputs": self.outputs, "scale": self.scale, "seed": self.random_seed}


def with_neurons(model: keras.Model, scale: float, seed: int) -> tuple[keras.Model, ExponentialNeurons]:
    """(f + g, the layer g) for a Keras model f with outputs [n, k]; f's weights are shared, and come first among the
    parameters, g's w, b and a last."""
    inputs, dtype = model.inputs[0], dtype_of(model)
    neurons = ExponentialNeurons(model.output_shape[-1], scale, seed, dtype=dtype, name="exponential")
    total = keras.layers.Add(dtype=dtype, name="total")
    return keras.Model(inputs, total([model(inputs), neurons(inputs)]), name="with_neurons"), neurons
