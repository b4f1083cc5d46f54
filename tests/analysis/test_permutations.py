"""analysis/permutations.py: permuted networks are the same function, copies are found again, the best of all is found.
"""
import itertools

import keras
import numpy as np
import pytest

from analysis.evaluation import predict
from analysis.permutations import find_symmetries, match_weights, permute, spread
from models import NetworkConfig, build

IMAGES, PHOTOS = (8, 8, 1), (32, 32, 3)
NETWORKS = {
    "mlp": (NetworkConfig("mlp", width=7, depth=2, dtype="float64"), IMAGES, [7, 7]),
    "dropout": (NetworkConfig("mlp", widths=(5, 6), dropout=0.3, dtype="float64"), IMAGES, [5, 6]),
    # Twice two convolutions before a pooling, and a flattened image of several pixels behind the last.
    "convnet": (NetworkConfig("convnet", width=3, dtype="float64"), PHOTOS, [3, 6, 6, 12, 12]),
    # A stage's stem or shortcut and the last convolution of all of its blocks have one order, the first ones their own.
    "resnet": (NetworkConfig("resnet", width=3, dtype="float64"), IMAGES, [3, 3, 3, 6, 6, 6, 12, 12, 12, 24, 24, 24]),
    "no batch norm": (NetworkConfig("resnet", width=2, depth=1, batch_norm=False, dtype="float64"), IMAGES,
                      [2, 2, 4, 4, 8, 8, 16, 16]),
    "no skip": (NetworkConfig("resnet", width=2, depth=1, skip=False, dtype="float64"), IMAGES,
                [2, 2, 2, 4, 4, 8, 8, 16, 16]),
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def networks():
    """{name: (model whose every weight is drawn, batch norm's statistics too, its symmetries)}."""
    found = {}
    for name, (config, shape, _) in NETWORKS.items():
        model, rng = build(config, shape, 10, seed=0), np.random.default_rng(1)
        for variable in model.weights:
            variable.assign(rng.uniform(0.2, 0.8, variable.shape) * rng.choice([-1, 1], variable.shape)
                            if len(variable.shape) > 1 else rng.uniform(0.2, 0.8, variable.shape))  # fmt: skip
        found[name] = model, find_symmetries(model)
    return found


def drawn(symmetries, seed):
    """Random permutations that leave no unit in its place."""
    rng, found = np.random.default_rng(seed), {}
    for group, size in symmetries.sizes.items():
        cycle = rng.permutation(size)
        found[group] = np.empty(size, int)
        found[group][cycle] = np.roll(cycle, 1)
    return found


@every_network
def test_every_group_of_channels_is_found(name, networks):
    assert list(networks[name][1].sizes.values()) == NETWORKS[name][2]


@every_network
def test_a_permuted_network_computes_the_same_function(name, networks):
    model, symmetries = networks[name]
    x = np.random.default_rng(2).standard_normal([5, *NETWORKS[name][1]])
    weights, logits = model.get_weights(), predict(model, x)
    changed = permute(weights, symmetries, drawn(symmetries, 3))
    # Every weight with a hidden unit on one of its axes has moved, batch norm's moving statistics included.
    for value, new, places in zip(weights, changed, symmetries.places, strict=True):
        assert bool(places) == (not np.array_equal(value, new))
    model.set_weights(changed)
    permuted = predict(model, x)
    model.set_weights(weights)
    assert np.abs(permuted - logits).max() <= 1e-11 * np.abs(logits).max()


@every_network
def test_a_permuted_copy_is_found_again(name, networks):
    model, symmetries = networks[name]
    weights = model.get_weights()
    found = match_weights(weights, permute(weights, symmetries, drawn(symmetries, 4)), symmetries, seed=0)
    for value, again in zip(weights, found.weights, strict=True):
        np.testing.assert_array_equal(value, again)
    assert (np.diff(found.similarity) >= 0).all() and found.similarity[-1] == found.similarity[-2]
    trained = [v.numpy() for v in model.trainable_variables]
    assert found.similarity[-1] == pytest.approx(sum(np.sum(v**2) for v in trained))
    assert found.moved > 0


def test_the_best_of_all_permutations_of_one_layer_is_found():
    model = build(NetworkConfig("mlp", width=5, depth=1, dtype="float64"), (3,), 2, seed=0)
    symmetries, rng = find_symmetries(model), np.random.default_rng(0)
    a, b = ([rng.standard_normal(v.shape) for v in model.weights] for _ in range(2))

    def similarity(order):
        kernel, bias, out = b[0][:, order], b[1][order], b[2][order]
        return sum(np.vdot(x, y) for x, y in zip(a, (kernel, bias, out, b[3])))

    best = max(itertools.permutations(range(5)), key=lambda order: similarity(list(order)))
    found = match_weights(a, b, symmetries, seed=0)
    assert found.permutations[1].tolist() == list(best)
    assert found.similarity == pytest.approx((similarity(list(range(5))), *[similarity(list(best))] * 2))


def test_it_ends_at_a_fixed_point_and_repeats(networks):
    model, symmetries = networks["resnet"]
    rng = np.random.default_rng(5)
    a, b = ([rng.standard_normal(v.shape) for v in model.weights] for _ in range(2))
    found = match_weights(a, b, symmetries, seed=1)
    again = match_weights(a, b, symmetries, seed=1)
    assert found.similarity == again.similarity and found.similarity[-1] > found.similarity[0]
    settled = match_weights(a, found.weights, symmetries, seed=2)
    assert len(settled.similarity) == 2 and settled.moved == 0


def test_a_flattened_image_has_its_channels_once_for_each_pixel():
    np.testing.assert_array_equal(spread(np.array([2, 0, 1]), 2), [2, 0, 1, 5, 3, 4])


def test_stored_models_of_known_layers_are_taken_and_others_refused():
    layers = keras.layers
    x = keras.Input((8, 8, 1))
    scaled = layers.Reshape((8, 8, 1))(layers.Rescaling(2.0)(x))  # whatever it is: nothing is permuted yet
    h = layers.MaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(scaled))
    known = keras.Model(x, layers.Dense(10)(layers.Flatten()(h)))
    assert list(find_symmetries(known).sizes.values()) == [4]
    reshaped = layers.Reshape((36,))(h)
    with pytest.raises(ValueError, match=r"knows no layer such as reshape_\d+ \(Reshape\)|such as reshape \(Reshape\)"):
        find_symmetries(keras.Model(x, layers.Dense(10)(reshaped)))
    with pytest.raises(ValueError, match="no hidden units"):
        find_symmetries(keras.Model(x, layers.Dense(10)(layers.Flatten()(x))))
    shared = layers.Dense(64)
    with pytest.raises(ValueError, match="called once"):
        find_symmetries(keras.Model(x, layers.Dense(10)(shared(shared(layers.Flatten()(x))))))
    for model in ("densenet", "inception", "mobilenet_v2"):
        with pytest.raises(ValueError, match="knows no layer such as"):
            find_symmetries(build(NetworkConfig(model, width=4), PHOTOS, 10, seed=0))


def test_units_that_are_added_to_the_inputs_stay_where_they_are():
    x = keras.Input((6,))
    h = keras.layers.Dense(6, activation="relu")(x)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(5)(keras.layers.Add()([x, h]))))
    assert list(find_symmetries(model).sizes.values()) == [5]
