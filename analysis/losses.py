"""The two training losses, as means of per-example values, for one convention throughout the project.

    squared        l(f, y) = 1/2 ||f - y||^2                 (y: real targets, or one-hot labels)
    cross_entropy  l(f, y) = -sum_k y_k log softmax(f)_k     (y: one-hot labels or class probabilities)

Targets are always an array [n, k]; class labels enter as one-hot rows. The training loss is the mean over examples.
"""
import tensorflow as tf


def squared(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Half the squared Euclidean distance, [n, k] x [n, k] -> [n]."""
    targets = tf.cast(targets, logits.dtype)
    return 0.5 * tf.reduce_sum(tf.math.squared_difference(logits, targets), axis=-1)


def cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of softmax(logits) against target probabilities, [n, k] x [n, k] -> [n]."""
    targets = tf.cast(targets, logits.dtype)
    # Not tf.nn.softmax_cross_entropy_with_logits: its fused kernel has no second-order forward-mode derivative,
    # and log_softmax has every derivative that a Hessian-vector product needs.
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}
