"""The small AlexNet of Zhang et al. 2017, which fits random labels on CIFAR-10."""
import keras
import tensorflow as tf
from keras import layers

from models.layers import LayerFactory


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class LocalResponseNorm(layers.Layer):
    """x_c / (1 + alpha * sum_{|c' - c| <= 4} x_c'^2)^0.75 over neighbouring channels (Krizhevsky et al. 2012).

    The paper names no constants; alpha = 0.001 / 9 is the value of TensorFlow's CIFAR tutorial of its time.
    """

    radius, alpha, beta = 4, 0.001 / 9, 0.75

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # The window sum as a product with a band matrix: unlike the fused op, it has every higher derivative.
        channel = keras.ops.arange(x.shape[-1])
        band = keras.ops.cast(keras.ops.abs(channel[:, None] - channel[None]) <= self.radius, x.dtype)
        return x * (1.0 + self.alpha * keras.ops.matmul(x * x, band)) ** -self.beta


def alexnet(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 64, activation: str = "relu", seed: int = 0,
    dtype: str = "float32", name: str = "alexnet",
) -> keras.Model:  # fmt: skip
    """Two blocks of [5x5 convolution, 3x3 max pooling with stride 2, local response norm], dense 6w, dense 3w, logits.

    Default w = 64: 1 387 786 parameters on 28x28x3 with ten classes.
    Layers: conv_1, pool_1, norm_1, conv_2, pool_2, norm_2, flatten, dense_1, dense_2, logits.
    """
    make = LayerFactory(seed, activation, dtype)
    inputs = x = make.input(input_shape)  # [n, h, w, c]
    for i in (1, 2):
        x = make.conv(x, width, f"conv_{i}", size=5, activate=True)
        x = layers.MaxPooling2D(3, strides=2, padding="same", dtype=dtype, name=f"pool_{i}")(x)
        x = LocalResponseNorm(dtype=dtype, name=f"norm_{i}")(x)
    x = make.flatten(x)
    x = make.dense(x, 6 * width, "dense_1")
    x = make.dense(x, 3 * width, "dense_2")
    return keras.Model(inputs, make.logits(x, num_classes), name=name)
