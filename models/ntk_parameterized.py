"""Networks in NTK parameterization: finite relatives of the infinitely wide ones of analysis/infinite_width_kernels.py.

Every weight starts as N(0, 1) and is scaled in the forward pass, by sqrt(weight_variance / fan_in), or
sqrt(bias_variance) for a bias: z = sqrt(weight_variance / fan_in) W h + sqrt(bias_variance) b (Jacot et al. 2018). A
bias is here the weight of one more input channel of constant value, so that all weights lie in Keras' own Dense and
Conv2D layers.
"""
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from analysis.infinite_width_kernels import ACTIVATIONS, ARCHITECTURES
from models.layers import GAINS, LayerFactory, layer_seed

TAPS = 3  # convolutions are 3x3, circular, of stride 1
BIAS_VARIANCE = 0.01  # of mlp_ntk: biases enter times 0.1, as in the experiments of Jacot et al. 2018


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class ScaledInput(layers.Layer):
    """What stands before a layer of standard normal weights: scales its input, and appends the channel of its biases.

    Images [n, h, w, c] are wrapped around by a pixel on each side, for a 3x3 convolution. The bias channel's 9 taps of
    sqrt(bias_variance) / 3 have together the variance, and the NTK, of one bias.
    """

    def __init__(self, weight_variance: float, bias_variance: float, **options: Any):
        super().__init__(**options)
        self.weight_variance, self.bias_variance = weight_variance, bias_variance

    def call(self, x: tf.Tensor) -> tf.Tensor:
        image = len(x.shape) == 4
        x = x * (self.weight_variance / x.shape[-1]) ** 0.5
        if self.bias_variance:
            x = keras.ops.concatenate([x, keras.ops.full_like(x[..., :1], self.bias_variance**0.5)], axis=-1)
        if image:
            x = x / TAPS
            for axis in (1, 2):
                first, last = keras.ops.take(x, [0], axis), keras.ops.take(x, [x.shape[axis] - 1], axis)
                x = keras.ops.concatenate([last, x, first], axis)
        return x

    def get_config(self) -> dict:
        return {**super().get_config(), "weight_variance": self.weight_variance, "bias_variance": self.bias_variance}


def ntk_parameterized(
    input_shape: tuple[int, ...], num_classes: int, *, architecture: str = "fcn", activation: str = "erf",
    width: int = 64, depth: int = 3, weight_variance: float = 1.0, bias_variance: float = 0.0, seed: int = 0,
    dtype: str = "float32",
) -> keras.Model:  # fmt: skip
    """Keras model: inputs [n, *input_shape] -> logits [n, num_classes], with `depth` hidden layers of `width` channels.

    architecture: one of infinite_width_kernels.ARCHITECTURES; all else as in infinite_width_kernels.limit_kernels,
    whose kernels are this network's in the limit of width.
    Raises ValueError for unknown names, or no images [h, w, c] for a convolution.
    """
    if architecture not in ARCHITECTURES or activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown architecture {architecture!r} or activation {activation!r}: allowed are "
            f"{', '.join(ARCHITECTURES)}; {', '.join(ACTIVATIONS)}"
        )
    fcn = architecture == "fcn"
    if not fcn and len(input_shape) != 3:
        raise ValueError(f"{architecture} needs images (height, width, channels), got {tuple(input_shape)}")
    make = LayerFactory(seed, activation, dtype)
    inputs = make.input(input_shape)

    def linear(x, units, name):
        return scaled_linear(make, x, units, name, weight_variance, bias_variance)

    x = make.flatten(inputs) if fcn else inputs
    for i in range(1, depth + 1):
        x = make.activate(linear(x, width, f"{'dense' if fcn else 'conv'}_{i}"), f"activation_{i}")
    if not fcn:
        x = make.global_pool(x) if architecture == "cnn-pool" else make.flatten(x)
    return keras.Model(
        inputs, linear(x, num_classes, "logits"), name=f"ntk_parameterized_{architecture.replace('-', '_')}"
    )


def mlp_ntk(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 64, depth: int = 3, activation: str = "relu",
    seed: int = 0, dtype: str = "float32",
) -> keras.Model:  # fmt: skip
    """Multilayer perceptron in NTK parameterization: models.mlp's network for claims about infinite width.

    Inputs [n, *input_shape] -> logits [n, num_classes]. Weight variances are those of models.layers, which keep the
    signal's size: 2 for ReLU in hidden layers, 1 for the logits. Biases start as standard normals times 0.1 (Jacot et
    al. 2018, section 3). Its NTK has a limit at infinite width, so that one learning rate suits all widths.
    """
    make = LayerFactory(seed, activation, dtype)
    inputs = make.input(input_shape)
    x = make.flatten(inputs)
    for i in range(1, depth + 1):
        x = scaled_linear(make, x, width, f"dense_{i}", GAINS[activation], BIAS_VARIANCE)
        x = make.activate(x, f"activation_{i}")
    return keras.Model(inputs, scaled_linear(make, x, num_classes, "logits", 1.0, BIAS_VARIANCE), name="mlp_ntk")


def scaled_linear(
    make: LayerFactory, x: keras.KerasTensor, units: int, name: str, weight_variance: float, bias_variance: float
) -> keras.KerasTensor:
    """A dense layer on [n, d], or a 3x3 convolution on [n, h, w, c], in NTK parameterization."""
    x = ScaledInput(weight_variance, bias_variance, dtype=make.dtype, name=f"{name}_input")(x)
    options = {
        "use_bias": False,
        "kernel_initializer": keras.initializers.RandomNormal(0, 1, seed=layer_seed(make.seed, name)),
        "dtype": make.dtype,
        "name": name,
    }
    return layers.Dense(units, **options)(x) if len(x.shape) == 2 else layers.Conv2D(units, TAPS, **options)(x)
