"""analysis/features.py: features by hand, Pearson's by NumPy, separation of points on a line."""
import keras
import numpy as np
import pytest

from analysis.features import pearson, penultimate, penultimate_features, separation
from models import NetworkConfig, build


def test_penultimate_features_are_what_the_last_layer_with_weights_sees():
    model = build(NetworkConfig(width=6, depth=2, activation="tanh", dtype="float64"), (4,), 3, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 4))
    features = penultimate(model)(x).numpy()
    assert features.shape == (5, 6)
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(features @ kernel + bias, model(x), rtol=1e-12, atol=1e-14)
    model.layers[-1].kernel.assign(0 * kernel)
    np.testing.assert_array_equal(penultimate(model)(x), features)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6)(inputs)
    ends_without_weights = keras.Model(inputs, keras.layers.ReLU()(keras.layers.Dense(3)(hidden)))
    assert penultimate(ends_without_weights).output_shape == (None, 6)


def test_features_are_asked_for_again_without_a_second_trace():
    model = build(NetworkConfig(model="convnet", width=2), (8, 8, 1), 10, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 8, 8, 1)).astype("float32")
    before = penultimate_features(model, x)
    assert before.shape == (5, model.layers[-1].kernel.shape[0]) and before.dtype == np.float64
    np.testing.assert_allclose(before, penultimate(model)(x).numpy().reshape(5, -1), rtol=1e-5, atol=1e-6)
    for variable in model.trainable_variables:
        variable.assign(2 * variable)
    calls, call = [], model.layers[1].call
    model.layers[1].call = lambda *a, **k: calls.append(1) or call(*a, **k)
    assert not np.allclose(penultimate_features(model, x), before) and not calls


def test_pearson():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(50)
    b = a + rng.standard_normal(50)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-12)
    assert pearson(a, 3 - 2 * a) == pytest.approx(-1, abs=1e-14)
    assert np.isnan(pearson(a, np.zeros(50)))


def test_separation_of_points_on_a_line():
    labels = np.array([0, 0, 1, 1])
    within_1_between_10 = np.array([[0.0], [1.0], [10.0], [11.0]])  # distances between classes: 10, 11, 9, 10
    assert separation(within_1_between_10, labels) == pytest.approx(10)
    assert separation(7 * within_1_between_10 - 3, labels) == pytest.approx(10)
    order = [2, 0, 3, 1]
    assert separation(within_1_between_10[order], labels[order]) == pytest.approx(10)
    assert np.isnan(separation(np.zeros((4, 2)), labels))
    mixed = np.random.default_rng(0).standard_normal((400, 5))
    assert separation(mixed, np.arange(400) % 2) == pytest.approx(1, abs=0.02)  # classes that do not matter
