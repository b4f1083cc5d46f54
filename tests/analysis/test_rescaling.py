"""analysis/rescaling.py: the same function, the least norm in closed form, and models that are no chain."""
import keras
import numpy as np
import pytest

from analysis.evaluation import predict
from analysis.rescaling import dense_chain, least_equivalent_norm, least_scales, rescale, rescale_layers
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


def test_layers_of_a_relu_network_trade_factors_without_a_change_of_its_function():
    model = build(NetworkConfig("mlp", width=5, depth=3, dtype="float64"), (8, 8, 1), 10, seed=0)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(len(variable.shape)).standard_normal(variable.shape))
    x = np.random.default_rng(0).standard_normal((20, 8, 8, 1))
    before, weights = predict(model, x), [v.numpy() for v in model.trainable_variables]
    rescale_layers(model, (2.0, 3.0, 0.5))
    np.testing.assert_allclose(predict(model, x), before, rtol=1e-12, atol=1e-12)
    factors = [2, 2, 1.5, 3, 0.5 / 3, 0.5, 2, 1]  # kernel and bias of each layer
    for variable, value, factor in zip(model.trainable_variables, weights, factors):
        np.testing.assert_allclose(variable.numpy(), factor * value, rtol=1e-14)


@pytest.mark.parametrize("factors", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, np.inf)])
def test_rescaling_needs_one_positive_factor_a_hidden_layer(factors):
    model = build(NetworkConfig("mlp", width=4, depth=2), (8, 8, 1), 10, seed=0)
    with pytest.raises(ValueError, match="need 2 factors above 0"):
        rescale_layers(model, factors)
    with pytest.raises(ValueError, match="is no ReLU mlp"):
        rescale_layers(build(NetworkConfig("mlp", width=4, activation="tanh"), (8, 8, 1), 10, seed=0), factors)
