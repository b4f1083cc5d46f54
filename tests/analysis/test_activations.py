"""analysis/activations.py against counts by hand."""
import keras
import numpy as np
import pytest

from analysis.activations import inactive_fractions


@pytest.mark.parametrize("form", ["argument", "layer", "activation", "leaky"])
def test_counts_by_hand(form):
    tail = {
        "argument": [],
        "layer": [keras.layers.ReLU(name="r")],
        "activation": [keras.layers.Activation("relu", name="r")],
        "leaky": [keras.layers.LeakyReLU(name="r")],
    }[form]
    dense = keras.layers.Dense(3, activation="relu" if form == "argument" else None, name="d")
    model = keras.Sequential([keras.Input((2,)), dense, *tail, keras.layers.Dense(1)])
    dense.set_weights([np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([0.0, 0.0, -1.0])])   # unit 2 is dead
    x = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]], np.float32)
    assert inactive_fractions(model, x, batch_size=3) == {"r" if tail else "d": (6 / 12, 1 / 3)}


def test_convolution_batch_norm_and_skip():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    h = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    h = keras.layers.BatchNormalization()(h)
    a = keras.layers.ReLU(name="a")(h)
    b = keras.layers.ReLU(name="b")(keras.layers.Add()([a, h]))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(b)))
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype("float32")
    z = keras.Model(inputs, h).predict(x, verbose=0)
    expected = (np.mean(z <= 0), np.mean((z <= 0).all(0)))
    assert inactive_fractions(model, x, 2) == {"a": pytest.approx(expected), "b": pytest.approx(expected)}


def test_refusals():
    linear = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="no ReLU"):
        inactive_fractions(linear, np.ones((1, 2)))
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu")], name="inner")
    with pytest.raises(ValueError, match="inner"):
        inactive_fractions(keras.Sequential([keras.Input((2,)), inner]), np.ones((1, 2)))
    with pytest.raises(ValueError, match="at least one"):
        inactive_fractions(inner, np.ones((0, 2)))


def test_shared_layers_are_refused_but_a_layer_of_two_models_is_measured_in_each():
    shared, inputs = keras.layers.ReLU(name="shared"), keras.Input((2,))
    twice = keras.Model(inputs, shared(keras.layers.Dense(4)(shared(keras.layers.Dense(3)(inputs)))))
    with pytest.raises(ValueError, match="2 times"):
        inactive_fractions(twice, np.ones((1, 2), np.float32))
    relu = keras.layers.ReLU(name="r")
    for sign, fraction in ((1.0, 0.0), (-1.0, 1.0)):
        model = keras.Model(inputs, relu(keras.layers.Rescaling(sign)(inputs)))
        assert inactive_fractions(model, np.ones((3, 2), np.float32)) == {"r": (fraction, fraction)}
