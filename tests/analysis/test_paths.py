"""analysis/paths.py: barriers by hand and in closed form, batch norm's statistics computed anew."""
import keras
import numpy as np
import pytest

from analysis.parameters import get_parameters, set_parameters
from analysis.paths import barrier, bezier, constant_predictor_loss, line, measure_along, reset_statistics
from analysis.permutations import find_symmetries, match_weights, permute
from models import NetworkConfig, build


def test_the_barrier_is_the_height_above_the_interpolation_of_the_ends():
    found = barrier([0, 0.25, 0.5, 1], [1.0, 2.0, 2.25, 3.0])  # the interpolation: 1, 1.5, 2, 3
    assert (found.height, found.at) == (0.5, 0.25)
    assert barrier([0, 0.5, 1], [1.0, 0.2, 1.0]).height == 0
    assert barrier([0, 0.5, 1], [1.0, np.nan, 1.0]).height == np.inf
    for times in ([0.1, 1], [0, 0.9], [0]):
        with pytest.raises(ValueError, match="the ends included"):
            barrier(times, np.ones(len(times)))


def test_paths():
    a, b, c = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([3.0, 3.0])
    np.testing.assert_allclose(line(a, b)(0.25), [0.75, 0.25])
    np.testing.assert_allclose(bezier(a, c, b)(0.5), [0.25 + 1.5, 0.25 + 1.5])
    np.testing.assert_array_equal(bezier(a, c, b)(0.0), a)
    np.testing.assert_array_equal(bezier(a, c, b)(1.0), b)
    np.testing.assert_allclose(bezier(a, (a + b) / 2, b)(0.3), line(a, b)(0.3))  # the start of its training


def test_the_barrier_of_a_quadratic_loss_in_closed_form():
    """f(x) = w2 relu(w1 x) at x = 1, target 1: from (2, 1/2) to (1/2, 2) the product is 1 + 9 t (1 - t) / 4."""
    layers = keras.layers
    x = keras.Input((1,))
    hidden = layers.Dense(1, activation="relu", use_bias=False)(x)
    model = keras.Model(x, layers.Dense(1, use_bias=False)(hidden))
    times = np.linspace(0, 1, 21)
    found = measure_along(
        model, line(np.array([2.0, 0.5]), np.array([0.5, 2.0])), times, {"one": (np.ones([1, 1]),) * 2}, "squared"
    )["one"][0]
    np.testing.assert_allclose(found, 0.5 * (9 / 4 * times * (1 - times)) ** 2, atol=1e-6)
    assert barrier(times, found).height == pytest.approx(0.5 * (9 / 16) ** 2, rel=1e-5)
    np.testing.assert_array_equal(get_parameters(model), [0.5, 2.0])  # it ends at the end


def test_permuted_copies_have_a_barrier_before_matching_and_none_after():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal([64, 8, 8, 1]), np.eye(10)[rng.integers(10, size=64)]
    model = build(NetworkConfig("mlp", width=32, depth=2, dtype="float64"), (8, 8, 1), 10, seed=0)
    for variable in model.trainable_variables:
        variable.assign(3 * variable.numpy())
    y = np.eye(10)[np.asarray(model(x)).argmax(axis=1)]  # it knows the answers
    symmetries, weights = find_symmetries(model), model.get_weights()
    other = permute(weights, symmetries, {g: rng.permutation(n) for g, n in symmetries.sizes.items()})
    heights = []
    for end in (other, match_weights(weights, other, symmetries, seed=0).weights):
        model.set_weights(end)
        path = line(np.concatenate([w.ravel() for w in weights]), get_parameters(model))
        losses, errors = measure_along(model, path, np.linspace(0, 1, 11), {"all": (x, y)}, "cross_entropy")["all"]
        heights.append((barrier(np.linspace(0, 1, 11), losses).height, errors.max()))
    assert heights[0][0] > 0.5 and heights[0][1] > 0.2
    assert heights[1][0] <= 1e-12 and heights[1][1] == 0


@pytest.mark.parametrize("blocks", [1, 3])
def test_statistics_are_those_of_the_inputs_in_blocks_of_equal_size(blocks):
    """A first layer's are exact; of one block the second's are those of the batch, as in training mode."""
    layers = keras.layers
    x = keras.Input((4,))
    first, second = layers.BatchNormalization(momentum=0.9), layers.BatchNormalization(momentum=0.5)
    model = keras.Model(x, layers.Dense(2)(second(layers.Dense(3, activation="relu")(first(x)))))
    rng = np.random.default_rng(0)
    values = (3 + 2 * rng.standard_normal([30, 4])).astype("float32")
    before = get_parameters(model)
    reset_statistics(model, values, batch_size=30 // blocks)
    np.testing.assert_allclose(first.moving_mean, values.mean(0), rtol=1e-5)
    variance = np.mean([part.var(0) for part in np.split(values, blocks)], axis=0)
    np.testing.assert_allclose(first.moving_variance, variance, rtol=1e-5)
    np.testing.assert_array_equal(get_parameters(model), before)
    if blocks == 1:  # then inference is what training mode computes
        np.testing.assert_allclose(model(values, training=False), model(values, training=True), rtol=2e-4, atol=1e-5)


def test_statistics_of_the_projects_own_resnet_in_training_mode():
    model = build(NetworkConfig("resnet", width=2, depth=1), (8, 8, 1), 10, seed=0)
    x = np.random.default_rng(0).standard_normal([16, 8, 8, 1]).astype("float32")
    reset_statistics(model, x)
    inference = np.asarray(model(x, training=False))
    np.testing.assert_allclose(inference, model(x, training=True), rtol=1e-3, atol=1e-4)
    model.set_weights([2 * w for w in model.get_weights()])
    reset_statistics(model, x)  # whatever was there before
    set_parameters(model, get_parameters(model) / 2)
    reset_statistics(model, x)
    np.testing.assert_allclose(model(x, training=False), inference, rtol=1e-3, atol=1e-4)


def test_the_best_constant_predictor():
    y = np.eye(4)[[0, 0, 1, 2]]
    assert constant_predictor_loss(y, "cross_entropy") == pytest.approx(1.5 * np.log(2))
    assert constant_predictor_loss(y, "squared") == pytest.approx(0.5 * (1 - (4 + 1 + 1) / 16))
