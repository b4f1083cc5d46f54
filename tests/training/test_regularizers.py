"""training/regularizers.py: gradients against finite differences, the target, what Keras' optimizer keeps."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from training.regularizers import RegularizedSGD, is_kernel, penalty, squared_norm


def step(variables, **options):
    """What one step of rate 1 without a loss subtracts from each variable: the regularizer's gradient."""
    optimizer = RegularizedSGD(1.0, **options)
    optimizer.build(variables)
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.zeros(v.shape, tf.float64) for v in variables], variables)
    return [start - v.numpy() for v, start in zip(variables, before)]


def draws(*shapes):
    return [keras.Variable(np.random.default_rng(i).standard_normal(s), dtype="float64") for i, s in enumerate(shapes)]


@pytest.mark.parametrize("regularize_all", [True, False])
@pytest.mark.parametrize(("regularizer", "target"), [("weight_decay", 0), ("norm_bias", 1), ("norm_bias", 1e4)])
def test_regularizer_gradient_is_the_finite_difference_of_its_penalty(regularizer, target, regularize_all):
    variables = draws((3, 2), (4,), ())
    chosen = [v.numpy() for v in (variables if regularize_all else variables[:1])]

    def value(i, index, shift):
        moved = [np.array(array) for array in chosen]
        moved[i][index] += shift
        return penalty(moved, regularizer, 0.3, target).numpy()

    expected = [
        np.reshape([(value(i, j, 1e-5) - value(i, j, -1e-5)) / 2e-5 for j in np.ndindex(array.shape)], array.shape)
        for i, array in enumerate(chosen)
    ]
    options = {"regularizer": regularizer, "coefficient": 0.3, "norm_target": target, "regularize_all": regularize_all}
    found = step(variables, **options)
    for gradient, difference in zip(found, expected):
        np.testing.assert_allclose(gradient, difference, rtol=1e-6)
    for gradient in found[len(expected) :]:
        assert not np.any(gradient)  # biases and scalars were left out


def test_the_pull_changes_its_sign_at_the_target():
    """||theta||^2 = 25: away from 0 below a larger target, towards 0 above a smaller one, at rest on it."""
    for target, sign in ((25.1, -1), (25.0, 0), (24.9, 1)):
        theta = keras.Variable([[3.0, 4.0]], dtype="float64")
        (found,) = step([theta], regularizer="norm_bias", coefficient=0.1, norm_target=target)
        np.testing.assert_allclose(found, sign * 0.1 * np.array([[3.0, 4.0]]), rtol=1e-12)


def test_penalties_by_hand():
    variables = [keras.Variable([[3.0, 4.0]], dtype="float64"), keras.Variable([12.0], dtype="float64")]
    assert float(squared_norm(variables)) == 169
    assert [is_kernel(v) for v in variables] == [True, False] and not is_kernel(keras.Variable(1.0))
    assert float(penalty(variables, "none", 0.1)) == float(penalty(variables, "weight_decay", 0.0)) == 0
    assert float(penalty(variables, "weight_decay", 0.1)) == pytest.approx(0.05 * 169)
    assert float(penalty(variables, "norm_bias", 0.1, 200.0)) == pytest.approx(0.05 * 31)


def test_momentum_collects_the_regularizers_gradient():
    """Keras' own weight_decay would bypass it: two steps of rate 1, momentum 1/2 and coefficient 1/10 on theta = 1."""
    theta = keras.Variable([[1.0]], dtype="float64")
    optimizer = RegularizedSGD(1.0, momentum=0.5, regularizer="weight_decay", coefficient=0.1)
    optimizer.build([theta])
    for expected in (0.9, 0.9 - 0.05 - 0.09):
        optimizer.apply([tf.zeros((1, 1), tf.float64)])  # without variables: those that it was built with
        assert theta.numpy().item() == pytest.approx(expected, rel=1e-6)


def test_options_survive_serialization():
    options = {"regularizer": "norm_bias", "coefficient": 0.1, "norm_target": 5.0, "regularize_all": False}
    again = RegularizedSGD.from_config(RegularizedSGD(0.01, momentum=0.9, **options).get_config())
    assert {name: getattr(again, name) for name in options} == options and again.momentum == 0.9
