"""analysis/losses.py: values by hand, gradients and Hessians in closed form, large logits."""
import numpy as np
import pytest
import tensorflow as tf

from analysis.losses import LOSSES, cross_entropy, squared

RNG = np.random.default_rng(0)
LOGITS, Y = RNG.standard_normal((6, 3)), np.eye(3)[RNG.integers(3, size=6)]


def test_values_by_hand():
    assert squared([[1.0, 0.0]], tf.constant([[0.0, 2.0]], tf.float64)).numpy().tolist() == [2.5]  # (1 + 4) / 2
    np.testing.assert_allclose(cross_entropy([[0.0, 1.0]], tf.zeros([1, 2], tf.float64)), [np.log(2)], rtol=1e-15)
    soft = RNG.dirichlet(np.ones(3), 6)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cross_entropy(soft, tf.constant(LOGITS)), -np.sum(soft * np.log(p), axis=1), rtol=1e-13)
    np.testing.assert_allclose(
        squared(soft, tf.constant(LOGITS)), 0.5 * np.sum((LOGITS - soft) ** 2, axis=1), rtol=1e-13
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_curvature_in_closed_form(name):
    """f - y and I; softmax(f) - y and diag(p) - p p': by forward mode over reverse, as Hessian-vector products go."""
    logits, direction = tf.constant(LOGITS), tf.constant(RNG.standard_normal(LOGITS.shape))
    with tf.autodiff.ForwardAccumulator(logits, direction) as accumulator, tf.GradientTape() as tape:
        tape.watch(logits)
        loss = LOSSES[name](Y, logits)
    gradient = tape.gradient(loss, logits)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    v = direction.numpy()
    curvature = v if name == "squared" else p * v - p * np.sum(p * v, axis=1, keepdims=True)
    np.testing.assert_allclose(gradient, (LOGITS if name == "squared" else p) - Y, atol=1e-14)
    with tf.autodiff.ForwardAccumulator(logits, direction) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = LOSSES[name](Y, logits)
        gradient = tape.gradient(loss, logits)
    np.testing.assert_allclose(accumulator.jvp(gradient), curvature, atol=1e-14)


def test_large_logits_and_the_precision_of_the_logits():
    logits = tf.constant([[1e4, -1e4, 0.0]], tf.float32)
    loss = cross_entropy(np.array([[0.0, 1.0, 0.0]]), logits)
    assert loss.dtype == tf.float32 and loss.numpy().tolist() == [2e4]
