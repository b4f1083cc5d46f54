"""Batch normalization of the project's own networks: Keras' layer, computed in training by TensorFlow's fused kernel.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta        (Ioffe & Szegedy 2015)

Keras 3 writes it as a dozen elementwise operations and sums, each of which reads the whole batch of images; the kernel
reads it twice, and its gradient as well (docs/benchmarks.md has what that saves). What is computed is the same up to
rounding, and so are weights, names, moving statistics and files.
"""
import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="backprop_on_trial")
class BatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization, faster where images [n, h, w, c] in float32 are trained on.

    Arguments, weights and call are Keras'. The kernel serves training mode with the last axis and neither mask, renorm
    nor synchronized statistics; everything else is computed by Keras' own code, inference above all: what is measured
    on a network (kernels, Hessians, attacks) has the bits that it has with Keras' layer.
    """

    # Which Keras layer's function this is, for analysis/, where any other subclass may compute anything.
    computes = keras.layers.BatchNormalization

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        if not (training and self.trainable and mask is None and self.has_kernel(inputs)):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        y, mean, unbiased, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels]),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel divides the sum of squares by count - 1 for its statistics (and by count inside of y); Keras'
        # moving variance is the biased one.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance = unbiased * ((count - 1) / count)
        # The kernel has no gradient of these two outputs.
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + tf.stop_gradient(value) * (1.0 - self.momentum))
        return y

    def has_kernel(self, inputs: tf.Tensor) -> bool:
        """Are these inputs, and the layer's options, what the kernel computes?"""
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and inputs.dtype == self.compute_dtype == self.variable_dtype == "float32"
            and not self.renorm
            and not self.synchronized
            and inputs.shape[-1] is not None
        )
