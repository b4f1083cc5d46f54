"""models/layers.py: activations in closed form, initial weights by seed, name and gain."""
import math

import keras
import numpy as np
import pytest

from models import NetworkConfig, build
from models.layers import ACTIVATIONS, LayerFactory, layer_seed
from tests.models.networks import DIGITS


@pytest.mark.parametrize("activation, phi", [
    ("relu", lambda z: max(z, 0)), ("tanh", np.tanh), ("erf", math.erf),
    ("leaky_relu", lambda z: z if z > 0 else 0.2 * z), ("linear", lambda z: z),
])  # fmt: skip
def test_activations(activation, phi):
    z = np.linspace(-2, 2, 9)
    values = np.asarray(keras.activations.get(ACTIVATIONS[activation])(keras.ops.convert_to_tensor(z)))
    np.testing.assert_allclose(values, [phi(value) for value in z], rtol=1e-7, atol=1e-12)


def test_initial_weights_depend_on_seed_and_layer_name_only():
    short = build(NetworkConfig("mlp", width=64, depth=1), DIGITS, 3, seed=0)
    long = build(NetworkConfig("mlp", width=64, depth=4), DIGITS, 3, seed=0)
    assert np.array_equal(short.get_layer("dense_1").get_weights()[0], long.get_layer("dense_1").get_weights()[0])
    second, third = (long.get_layer(name).get_weights()[0] for name in ("dense_2", "dense_3"))
    assert abs(np.corrcoef(second.ravel(), third.ravel())[0, 1]) < 5 / np.sqrt(second.size)
    plain = build(NetworkConfig("resnet", width=2, skip=False), DIGITS, 3, seed=0)
    residual = build(NetworkConfig("resnet", width=2), DIGITS, 3, seed=0)
    for layer in plain.layers:
        for a, b in zip(layer.get_weights(), residual.get_layer(layer.name).get_weights(), strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("activation, gain", [("relu", 2), ("leaky_relu", 2), ("tanh", 1), ("erf", 1), ("linear", 1)])
def test_initial_kernels_are_uniform_with_variance_gain_over_fan_in(activation, gain):
    model = build(NetworkConfig("convnet", width=64, activation=activation), DIGITS, 10, seed=0)
    kernel, bias = model.get_layer("conv_3").get_weights()
    fan_in = 9 * 128
    assert not bias.any()
    assert kernel.var() == pytest.approx(gain / fan_in, rel=0.02)
    limit = np.sqrt(3 * gain / fan_in)
    assert 0.999 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)


def test_layer_seeds_differ_and_fit_keras():
    seeds = {layer_seed(seed, name) for seed in (0, 1, 2**40) for name in ("logits", "dense_1", "dense_2")}
    assert len(seeds) == 9 and all(0 <= seed < 2**32 for seed in seeds)
    values = [np.asarray(LayerFactory(seed).kernel("dense_1")((4, 4))) for seed in (0, 2**31, 2**40)]
    assert len({value.tobytes() for value in values}) == 3
