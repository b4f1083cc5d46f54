"""models/mlp.py: parameters by formula, the network in NumPy, dropout."""
from itertools import pairwise

import numpy as np
import pytest

from models import NetworkConfig, build
from tests.models.networks import CIFAR, DIGITS, images, trainable


@pytest.mark.parametrize("widths", [(2048, 2048, 1024), (7,)])
def test_mlp_parameters(widths):
    sizes = (32 * 32 * 3, *widths, 10)
    expected = sum((a + 1) * b for a, b in pairwise(sizes))
    model = build(NetworkConfig("mlp", widths=widths), CIFAR, 10, seed=0)
    assert trainable(model) == expected
    if widths == (2048, 2048, 1024):
        assert expected == 12_598_282


def test_mlp_equals_dense_numpy():
    model = build(NetworkConfig("mlp", width=6, depth=2, activation="tanh", dtype="float64"), DIGITS, 3, seed=3)
    x = images(4, DIGITS)
    h = x.reshape(4, -1)
    for name in ("dense_1", "dense_2"):
        kernel, bias = model.get_layer(name).get_weights()
        h = np.tanh(h @ kernel + bias)
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(np.asarray(model(x)), h @ kernel + bias, rtol=1e-12, atol=1e-13)


def test_dropout_acts_in_training_only():
    model = build(NetworkConfig("mlp", width=50, depth=1, dropout=0.5), DIGITS, 3, seed=0)
    x = images(1, DIGITS, "float32")
    assert np.array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=False))
