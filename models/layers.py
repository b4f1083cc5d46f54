"""What the networks are made of: named layers of one dtype, whose initial weights depend on (seed, layer name) only.

Initial kernels are uniform with mean 0 and variance gain / fan_in (gain 2: He et al. 2015; gain 1: LeCun et al. 1998),
biases are 0.
"""
import zlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from models.batch_norm import BatchNormalization


@keras.saving.register_keras_serializable(package="backprop_on_trial")
def erf(x: tf.Tensor) -> tf.Tensor:
    """The error function: the activation whose infinite-width kernels are known in closed form."""
    return keras.ops.erf(x)


# leaky_relu has Keras's slope of 0.2 on the negative side.
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "erf": erf, "leaky_relu": "leaky_relu", "linear": "linear"}

# E[relu(z)^2] = E[z^2] / 2, so gain 2 keeps the signal's size from layer to layer. The identity keeps it with gain 1,
# and so do tanh and erf near 0, which more would drive into saturation. Logits have gain 1, as nothing follows them.
GAINS = {"relu": 2.0, "leaky_relu": 2.0, "tanh": 1.0, "erf": 1.0, "linear": 1.0}


def layer_seed(seed: int, layer_name: str) -> int:
    """A seed of the layer's own: independent over layers, and the same in whatever order the layers are made."""
    return int(np.random.SeedSequence([seed, zlib.crc32(layer_name.encode())]).generate_state(1)[0])


@dataclass(frozen=True)
class LayerFactory:
    """Applies named layers of one seed, activation and dtype to tensors; the global Keras policy is left alone."""

    seed: int = 0
    activation: str = "relu"
    dtype: str = "float32"

    def input(self, shape: tuple[int, ...]) -> keras.KerasTensor:
        return keras.Input(tuple(shape), dtype=self.dtype, name="input")

    def kernel(self, name: str, gain: float | None = None) -> keras.Initializer:
        """Uniform initializer of variance gain / fan_in; the gain follows the activation unless given."""
        gain = GAINS[self.activation] if gain is None else gain
        return keras.initializers.VarianceScaling(gain, "fan_in", "uniform", seed=layer_seed(self.seed, name))

    def dense(self, x: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
        """Dense layer with its activation, [n, d] -> [n, units]."""
        phi = ACTIVATIONS[self.activation]
        return layers.Dense(units, phi, kernel_initializer=self.kernel(name), dtype=self.dtype, name=name)(x)

    def logits(
        self, x: keras.KerasTensor, num_classes: int, kernel: keras.Initializer | None = None
    ) -> keras.KerasTensor:
        """Linear head, [n, d] -> [n, num_classes]; no softmax, the losses take logits."""
        kernel = self.kernel("logits", gain=1.0) if kernel is None else kernel
        return layers.Dense(num_classes, kernel_initializer=kernel, dtype=self.dtype, name="logits")(x)

    def conv(
        self, x: keras.KerasTensor, filters: int, name: str, *, size: int = 3, strides: int = 1, use_bias: bool = True,
        activate: bool = False, kernel: keras.Initializer | None = None,
    ) -> keras.KerasTensor:  # fmt: skip
        """SAME convolution, [n, h, w, c] -> [n, ceil(h/strides), ceil(w/strides), filters]."""
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            activation=ACTIVATIONS[self.activation] if activate else None,
            use_bias=use_bias,
            kernel_initializer=self.kernel(name) if kernel is None else kernel,
            dtype=self.dtype,
            name=name,
        )(x)

    def norm(self, x: keras.KerasTensor, name: str, **options: Any) -> keras.KerasTensor:
        """Batch norm with the constants usual on CIFAR (Keras's momentum of 0.99 is too slow for short trainings)."""
        return BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=name, **options)(x)

    def activate(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """The activation as a layer of its own; none at all where it is linear."""
        if self.activation == "linear":
            return x
        return layers.Activation(ACTIVATIONS[self.activation], dtype=self.dtype, name=name)(x)

    def add(self, x: keras.KerasTensor, y: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.Add(dtype=self.dtype, name=name)([x, y])

    def flatten(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Flatten(dtype=self.dtype, name="flatten")(x)

    def global_pool(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Mean over the image, [n, h, w, c] -> [n, c]."""
        return layers.GlobalAveragePooling2D(dtype=self.dtype, name="global_pool")(x)
