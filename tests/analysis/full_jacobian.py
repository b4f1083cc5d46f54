"""The NTK by its definition, for the tests of analysis/ntk*.py."""
import numpy as np
import tensorflow as tf


def full_jacobian_ntk(model, x):
    """Theta from the Jacobian. Not by pfor: its filter gradient of a grouped convolution is wrong (TensorFlow 2.21)."""
    with tf.GradientTape(persistent=True) as tape:
        f = tf.reshape(model(x, training=False), [len(tf.nest.flatten(x)[0]), -1])
    rows = tape.jacobian(
        f, [v.value for v in model.trainable_variables], experimental_use_pfor=False, unconnected_gradients="zero"
    )
    jacobian = np.concatenate([np.reshape(tf.convert_to_tensor(j), [*f.shape, -1]) for j in rows], -1).astype(
        np.float64
    )
    return np.einsum("iap,jbp->iajb", jacobian, jacobian, optimize=True)


def error(got, wanted):
    """Largest deviation over the largest entry."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()
