"""models/redraw.py: another start for a network, by a seed."""
import keras
import numpy as np
import pytest

from models import NetworkConfig, build
from models.redraw import redraw


def test_what_is_trained_is_drawn_anew_by_the_seed_and_all_else_stays():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6, activation="relu"), layers.BatchNormalization(),
         layers.Dense(10)]
    )  # fmt: skip
    model.layers[2].moving_mean.assign(np.ones(6))
    first, again, other = (redraw(model, seed) for seed in (0, 0, 1))
    for a, b, c, kept, variable in zip(first, again, other, model.get_weights(), model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        if "kernel" in variable.path:
            assert not np.array_equal(a, c) and not np.array_equal(a, kept)
            assert a.std() == pytest.approx(kept.std(), rel=0.3)
        else:  # biases, scales and shifts have one initial value, and statistics are not trained
            np.testing.assert_array_equal(a, kept)


def test_no_two_layers_are_alike():
    weights = redraw(build(NetworkConfig(width=8, depth=3), (8,), 8, seed=0), 5)
    kernels = [value for value in weights if value.ndim == 2]
    assert len({float(kernel[0, 0]) for kernel in kernels}) == 4
