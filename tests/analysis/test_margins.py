"""analysis/margins.py: by hand, under rescaled layers, and for what has no product of spectral norms."""
import keras
import numpy as np
import pytest

from analysis.evaluation import predict
from analysis.margins import margins, normalized_margins, spectral_product
from models import NetworkConfig, build


def test_margins_by_hand():
    np.testing.assert_array_equal(margins([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], [0, 2]), [1.0, -1.0])


def two_layers(first, second):
    """A ReLU network without biases."""
    model = keras.Sequential([
        keras.Input((2,)), keras.layers.Dense(2, activation="relu"), keras.layers.Dense(2),
    ])  # fmt: skip
    model.set_weights([first * np.eye(2), np.zeros(2), second * np.eye(2), np.zeros(2)])
    return model


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_a_factor_in_the_weights_changes_nothing(factor):
    model, x = two_layers(2 * factor, 3 / 7), np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    assert spectral_product(model) == pytest.approx(factor * 6 / 7)
    found = normalized_margins(model, x, predict(model, x), np.array([0, 1]))
    np.testing.assert_allclose(found, np.array([1.0, 2.0]) / np.sqrt(2.5), rtol=1e-6)


def test_convolutions_have_no_such_product_and_zero_kernels_no_margin():
    model = build(NetworkConfig(model="convnet", width=4), (8, 8, 1), 3, seed=0)
    x = np.zeros((2, 8, 8, 1), np.float32)
    assert spectral_product(model) is None and normalized_margins(model, x, predict(model, x), [0, 1]) is None
    dead = two_layers(0.0, 1.0)
    assert np.isnan(normalized_margins(dead, np.ones((1, 2)), np.zeros((1, 2)), [0])).all()
