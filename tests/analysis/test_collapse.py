"""analysis/collapse.py: a perfect simplex gives zeros, random features their known values, and definitions by hand."""
import keras
import numpy as np
import pytest

from analysis.collapse import class_means, last_layer, neural_collapse
from analysis.features import penultimate_features
from models import NetworkConfig, build

CLASSES, EACH = 5, 8


def simplex(size=12, seed=0):
    """(means [C, size] of a simplex around a centre, labels [n])."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((size, CLASSES)))[0]  # [size, C], orthonormal columns
    corners = (np.eye(CLASSES) - 1 / CLASSES) @ rotation.T
    return 3 * corners + rng.standard_normal(size), np.repeat(np.arange(CLASSES), EACH)


def test_a_perfect_simplex_gives_zeros():
    means, labels = simplex()
    centred = means - means.mean(axis=0)
    bias = -means.mean(axis=0) @ centred.T * 7
    found = neural_collapse(means[labels], labels, 7 * centred.T, bias)
    assert found.nc4 == 0
    np.testing.assert_allclose([found.nc1, found.nc2_norms, found.nc2_angles, found.nc3], 0, atol=1e-14)


def test_each_measure_sees_what_it_is_named_for():
    means, labels = simplex()
    centred = means - means.mean(axis=0)
    kernel, bias = centred.T, -means.mean(axis=0) @ centred.T
    rng = np.random.default_rng(1)
    noise = 0.1 * rng.standard_normal((len(labels), 12))
    assert neural_collapse(means[labels] + noise, labels, kernel, bias).nc1 > 1e-3
    turned = neural_collapse(means[labels], labels, kernel[:, ::-1], bias[::-1])  # each class has another's weights
    assert turned.nc1 < 1e-14 and turned.nc3 > 0.5 and turned.nc4 == pytest.approx(0.8)  # but the middle one
    longer = means + 1.0 * centred * (np.arange(CLASSES) == 0)[:, None]
    assert neural_collapse(longer[labels], labels, kernel, bias).nc2_norms > 0.1
    closer = means + 0.5 * (centred[1] - centred[0]) * (np.arange(CLASSES) == 0)[:, None]
    assert neural_collapse(closer[labels], labels, kernel, bias).nc2_angles > 0.05


def test_nc1_is_the_trace_with_the_full_matrices():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(CLASSES), EACH)
    features = rng.standard_normal((CLASSES, 9))[labels] + rng.standard_normal((len(labels), 9))
    means = class_means(features, labels, CLASSES)
    centred, deviations = means - means.mean(axis=0), features - means[labels]
    within, between = deviations.T @ deviations / len(labels), centred.T @ centred / CLASSES
    found = neural_collapse(features, labels, rng.standard_normal((9, CLASSES)), np.zeros(CLASSES))
    assert found.nc1 == pytest.approx(np.trace(within @ np.linalg.pinv(between)) / CLASSES, rel=1e-10)


def test_random_features_have_the_known_values():
    """Isotropic Gaussian features of many dimensions p: their class means are a simplex up to 1 / sqrt(p), and an
    independent classifier is orthogonal to them, so that NC3 = 2."""
    rng = np.random.default_rng(3)
    size, each = 20_000, 6
    labels = np.repeat(np.arange(CLASSES), each)
    features = rng.standard_normal((len(labels), size))
    found = neural_collapse(features, labels, rng.standard_normal((size, CLASSES)), np.zeros(CLASSES))
    # S_W = (1 - 1/m) I along any direction that the means do not see; S_B has C - 1 eigenvalues p / (m C).
    assert found.nc1 == pytest.approx(expected_nc1(size, each), rel=0.1)
    assert found.nc2_norms < 0.05 and found.nc2_angles < 0.05
    assert found.nc3 == pytest.approx(2, abs=0.05)


def expected_nc1(size, each):
    return (CLASSES - 1) / CLASSES * (1 - 1 / each) / (size / (each * CLASSES))


def test_unequal_classes_count_alike():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(3), [30, 5, 5])
    features = rng.standard_normal((40, 6)) + 3 * np.eye(3, 6)[labels]
    twice = np.concatenate([np.arange(40), np.flatnonzero(labels == 0)])  # every example of the first class again
    kernel, bias = rng.standard_normal((6, 3)), np.zeros(3)
    once, again = (neural_collapse(features[i], labels[i], kernel, bias) for i in (np.arange(40), twice))
    for name in ("nc1", "nc2_norms", "nc2_angles", "nc3"):
        assert getattr(once, name) == pytest.approx(getattr(again, name), rel=1e-12)


def test_dead_features_have_no_geometry():
    labels = np.repeat(np.arange(3), 2)
    found = neural_collapse(np.zeros((6, 4)), labels, np.ones((4, 3)), np.zeros(3))
    assert all(np.isnan([found.nc1, found.nc2_norms, found.nc2_angles, found.nc3]))
    with pytest.raises(ValueError, match="class 1 has no example"):
        class_means(np.zeros((2, 4)), np.array([0, 2]), 3)


def test_the_last_layer():
    model = build(NetworkConfig(width=12, depth=2), (8, 8, 1), 10, seed=0)
    last = last_layer(model)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 1)).astype(np.float32)
    logits = penultimate_features(model, x) @ last.kernel.numpy() + last.bias.numpy()
    np.testing.assert_allclose(logits, model(x), rtol=1e-5, atol=1e-6)


def refused(network, text):
    with pytest.raises(ValueError, match=text):
        last_layer(network)


def test_what_has_no_such_last_layer_is_refused():
    def ending(make):
        inputs = keras.Input((6, 6, 1))
        return keras.Model(inputs, make(inputs))

    layers = keras.layers
    refused(ending(lambda x: layers.Flatten()(layers.Conv2D(3, 6)(x))), "dense last layer")
    refused(ending(lambda x: layers.Dense(3, "relu")(layers.Flatten()(x))), "without an activation")
    refused(ending(lambda x: layers.ReLU()(layers.Dense(3)(layers.Flatten()(x)))), "must be that of its last dense")
    refused(ending(lambda x: layers.Flatten()(layers.Dense(3)(x))), "output must be")
    refused(ending(lambda x: layers.Dense(2)(layers.Flatten()(x))), "at least 3 classes")
    refused(build(NetworkConfig(width=4, depth=1), (8, 8, 1), 10, seed=0), "needs at least 9 features")
