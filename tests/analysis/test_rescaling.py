"""analysis/rescaling.py: the same function, the least norm in closed form, and models that are no chain."""
import keras
import numpy as np
import pytest

from analysis.rescaling import dense_chain, least_equivalent_norm, least_scales, rescale
from analysis.scale_invariance import scale_invariant_kernels
from models import NetworkConfig, build

X = np.random.default_rng(0).standard_normal((20, 6)).astype("float32")


def squared_norm(model):
    return sum(np.sum(v.numpy().astype(float) ** 2) for v in model.trainable_variables)


def mlp(activation="relu", biases=0.0, **options):
    model = build(NetworkConfig(width=8, depth=3, activation=activation, **options), (6,), 3, seed=0)
    rng = np.random.default_rng(1)
    for i, layer in enumerate(layer for layer in model.layers if isinstance(layer, keras.layers.Dense)):
        layer.kernel.assign(layer.kernel * 3.0**i)
        layer.bias.assign(biases * rng.standard_normal(layer.bias.shape))
    return model


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
@pytest.mark.parametrize("biases", [0.0, 1.0])
def test_the_rescaled_network_computes_the_same_with_the_least_norm(activation, biases):
    model = mlp(activation, biases, dropout=0.1)
    before, logits, least = squared_norm(model), model.predict(X, verbose=0), least_equivalent_norm(model)
    chain = dense_chain(model)
    assert len(chain) == 4
    scales = least_scales(chain)
    rescale(chain, scales)
    np.testing.assert_allclose(model.predict(X, verbose=0), logits, rtol=2e-4, atol=2e-4)
    assert squared_norm(model) == pytest.approx(least, rel=1e-4) and least < 0.8 * before
    for i in range(3):  # no step from there lowers it
        for factor in (0.9, 1.1):
            moved = np.ones(4)
            moved[i] = factor
            other = keras.models.clone_model(model)
            other.set_weights(model.get_weights())
            rescale(dense_chain(other), moved)
            assert squared_norm(other) > squared_norm(model)


def test_without_biases_all_layers_get_one_norm():
    model = mlp()
    norms = [np.sum(layer.kernel.numpy().astype(float) ** 2) for layer in dense_chain(model)]
    assert least_equivalent_norm(model) == pytest.approx(4 * np.prod(norms) ** 0.25, rel=1e-6)


def test_what_is_no_chain_of_homogeneous_layers_is_left_as_it_is():
    for activation in ("tanh", "erf"):
        model = mlp(activation)
        assert dense_chain(model) == [] and least_equivalent_norm(model) == pytest.approx(squared_norm(model))
    inputs = keras.Input((6,))
    x = keras.layers.Dense(6, "relu")(inputs)
    skipped = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Add()([x, keras.layers.Dense(6)(x)])))
    assert dense_chain(skipped) == []
    model = mlp()
    dense_chain(model)[1].kernel.assign(np.zeros((8, 8)))
    assert least_equivalent_norm(model) == pytest.approx(squared_norm(model))


def test_kernels_before_batch_norm_count_nothing():
    model = build(NetworkConfig(model="resnet", width=2, depth=1), (8, 8, 1), 3, seed=0)
    invariant = sum(np.sum(v.numpy().astype(float) ** 2) for v in scale_invariant_kernels(model))
    assert invariant > 0 and least_equivalent_norm(model) == pytest.approx(squared_norm(model) - invariant)
