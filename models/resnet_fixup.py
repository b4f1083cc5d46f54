"""ResNet for CIFAR without batch norm, started by Fixup (Zhang, Dauphin & Ma 2019; on trial in Goldblum et al. 2020).

With L residual branches of m = 2 convolutions: the last convolution of a branch and the classifier start at 0, the
other convolution of a branch at He's scale times L^(-1/(2m-2)) = L^(-1/2). A scalar bias precedes every activation, the
classifier and every convolution of a branch, and each branch has one scalar multiplier. So the logits start at 0, and
all blocks that keep the shape start as the identity.
"""
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from models.layers import GAINS, LayerFactory


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class ScalarBias(layers.Layer):
    """x + b with one trainable number b, 0 at the start."""

    def build(self, input_shape: Sequence) -> None:
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.bias


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class ScalarScale(layers.Layer):
    """a * x with one trainable number a, 1 at the start."""

    def build(self, input_shape: Sequence) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * self.scale


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class DoubleChannels(layers.Layer):
    """Appends as many zero channels as there are, [n, h, w, c] -> [n, h, w, 2c]."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return keras.ops.concatenate([x, keras.ops.zeros_like(x)], axis=-1)

    def compute_output_shape(self, input_shape: Sequence) -> tuple:
        return (*input_shape[:-1], 2 * input_shape[-1])


def blocks_per_stage(depth: int) -> int:
    """Residual blocks in each of the three stages; ValueError unless depth = 6 m + 2."""
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"resnet_fixup needs depth = 6 m + 2 layers (8, 14, 20, ...); received {depth}")
    return (depth - 2) // 6


def resnet_fixup(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 16, depth: int = 20, activation: str = "relu",
    seed: int = 0, dtype: str = "float32", name: str = "resnet_fixup",
) -> keras.Model:  # fmt: skip
    """Three stages of basic blocks with w, 2w, 4w channels and strides 1, 2, 2; default ResNet-20 with w = 16.

    A shortcut that changes the shape takes every second pixel and appends zero channels, so it has no parameters.
    Layers: stem_conv, stem_bias, stem_act; in each stage<s>_block<b>_: bias1a, conv1, bias1b, act1, bias2a, conv2,
    scale, bias2b, add, act2 and, where the shape changes, shortcut_pool, shortcut_double; then global_pool,
    logits_bias, logits.
    """
    make = LayerFactory(seed, activation, dtype)
    blocks = blocks_per_stage(depth)
    zeros = keras.initializers.Zeros()

    def bias(x, layer_name):
        return ScalarBias(dtype=dtype, name=layer_name)(x)

    def block(x, channels, strides, prefix):
        shifted = bias(x, f"{prefix}_bias1a")
        small = make.kernel(f"{prefix}_conv1", gain=GAINS[activation] / (3 * blocks))  # the gain is a variance: 1/L
        y = make.conv(shifted, channels, f"{prefix}_conv1", strides=strides, use_bias=False, kernel=small)
        y = make.activate(bias(y, f"{prefix}_bias1b"), f"{prefix}_act1")
        y = bias(y, f"{prefix}_bias2a")
        y = make.conv(y, channels, f"{prefix}_conv2", use_bias=False, kernel=zeros)
        y = ScalarScale(dtype=dtype, name=f"{prefix}_scale")(y)
        y = bias(y, f"{prefix}_bias2b")
        if channels != x.shape[-1]:
            x = layers.AveragePooling2D(1, strides=2, dtype=dtype, name=f"{prefix}_shortcut_pool")(shifted)
            x = DoubleChannels(dtype=dtype, name=f"{prefix}_shortcut_double")(x)
        return make.activate(make.add(x, y, f"{prefix}_add"), f"{prefix}_act2")

    inputs = make.input(input_shape)  # [n, h, w, c]
    x = make.conv(inputs, width, "stem_conv", use_bias=False)
    x = make.activate(bias(x, "stem_bias"), "stem_act")
    for stage in (1, 2, 3):
        for index in range(1, blocks + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = block(x, width * 2 ** (stage - 1), strides, f"stage{stage}_block{index}")
    x = bias(make.global_pool(x), "logits_bias")
    return keras.Model(inputs, make.logits(x, num_classes, kernel=zeros), name=name)
