"""models/exponential_neurons.py: the added function by its formula, shared weights and their order, the seed, saving.
"""
import keras
import numpy as np
import pytest

from analysis.parameters import get_parameters
from models import NetworkConfig, build
from models.exponential_neurons import with_neurons

X = np.random.default_rng(0).standard_normal((9, 4))


@pytest.fixture
def networks():
    """(network f of 4 inputs and 2 outputs, f with neurons, the neurons)"""
    model = build(NetworkConfig(widths=(3,), activation="tanh", dtype="float64"), (4,), 2, seed=0)
    return model, *with_neurons(model, 0.5, seed=1)


def test_neurons_start_at_nothing_and_add_an_exponential(networks):
    model, augmented, neurons = networks
    np.testing.assert_array_equal(augmented(X), model(X))
    rng = np.random.default_rng(1)
    w, b, a = (0.5 * rng.standard_normal(v.shape) for v in (neurons.w, neurons.b, neurons.a))
    for variable, value in zip((neurons.w, neurons.b, neurons.a), (w, b, a)):
        variable.assign(value)
    np.testing.assert_allclose(neurons.exponents(X), X @ w + b, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(augmented(X) - model(X), a * np.exp(X @ w + b), rtol=1e-10)
    assert augmented(X).dtype == "float64"


def test_the_network_is_shared_and_comes_first_then_w_b_and_a(networks):
    model, augmented, neurons = networks
    assert [v.path for v in augmented.trainable_variables] == [
        v.path for v in (*model.trainable_variables, neurons.w, neurons.b, neurons.a)
    ]
    before = len(get_parameters(model))
    np.testing.assert_array_equal(get_parameters(augmented)[:before], get_parameters(model))
    model.trainable_variables[0].assign(0 * model.trainable_variables[0])
    np.testing.assert_array_equal(augmented(X), model(X))


def test_images_are_flattened_and_w_follows_seed_and_scale():
    model = build(NetworkConfig(width=3, depth=1), (8, 8, 1), 10, seed=0)
    draws = [with_neurons(model, scale, seed)[1].w.numpy() for scale, seed in ((0.5, 1), (0.5, 1), (0.5, 2), (1.0, 1))]
    assert draws[0].shape == (64, 10) and draws[0].std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    np.testing.assert_allclose(draws[3], 2 * draws[0], rtol=1e-6)


def test_the_sum_can_be_saved(networks, tmp_path):
    _, augmented, neurons = networks
    neurons.a.assign([0.5, -1.0])
    augmented.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(X), augmented(X))
