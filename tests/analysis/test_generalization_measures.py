"""analysis/generalization_measures.py: closed forms, enumeration, definitions, and what rescaling must not change."""
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from analysis.conv_operators import singular_values
from analysis.generalization_measures import (
    MEASURES,
    check_chain,
    fisher_rao_norm,
    generalization_measures,
    kernels_of,
    norms_and_ranks,
    output_margin,
    pac_bayes_sigma,
    path_norm,
)
from analysis.hessian import TrainingLoss
from analysis.parameters import get_parameters, set_parameters
from analysis.rescaling import rescale_layers
from analysis.sharpness import corner_sharpness, sharpness
from models import NetworkConfig, build

SHAPE = (4, 4, 1)
FREE_OF_SCALE = {  # what trading factors between layers does not change; Bartlett's only if the start is traded, too
    "frobenius_product", "spectral_product", "spectral_sum", "path_norm", "fisher_rao", "inverse_margin",
    "spectral_product_margin", "spectral_sum_margin", "path_norm_margin", "adaptive_sharpness", "adaptive_flatness",
    "stable_rank", "effective_rank", "low_rank_capacity",
}  # fmt: skip


@pytest.fixture
def examples():
    """Inputs, labels that the network gives itself (so that every margin is above 0), and the network, in float64."""
    rng = np.random.default_rng(0)
    model = build(NetworkConfig(width=6, depth=2, dtype="float64"), SHAPE, 3, seed=0)
    for variable in model.trainable_variables:  # biases, too
        variable.assign(variable.numpy() + 0.1 * rng.standard_normal(variable.shape))
    x = rng.standard_normal((12, *SHAPE))
    return model, x, np.eye(3)[model(x).numpy().argmax(axis=1)]


def dense(*kernels, biases=None):
    """A ReLU network without biases, or with the given ones, of these kernels."""
    inputs = x = keras.Input((len(kernels[0]),), dtype="float64")
    for i, kernel in enumerate(kernels):
        last = i == len(kernels) - 1
        x = layers.Dense(len(kernel[0]), None if last else "relu", use_bias=biases is not None, dtype="float64")(x)
    model = keras.Model(inputs, x)
    parameters = list(kernels) if biases is None else [v for pair in zip(kernels, biases) for v in pair]
    model.set_weights([np.asarray(values, float) for values in parameters])
    return model


def test_norms_of_known_matrices():
    """Spectral norms 3 and 2, Frobenius norms sqrt(10) and sqrt(8), margin 1/2, start at zero."""
    model = dense(np.diag([3.0, 1.0]), np.diag([2.0, 2.0]))
    found = norms_and_ranks(model, [np.zeros((2, 2))] * 2, 0.5)
    assert found["parameter_norm"] == pytest.approx(18) and found["distance"] == pytest.approx(18)
    assert 10 ** found["frobenius_product"] == pytest.approx(80)
    assert 10 ** found["spectral_product"] == pytest.approx(36)
    assert 10 ** found["spectral_sum"] == pytest.approx(2 * 6)
    assert 10 ** found["inverse_margin"] == pytest.approx(4)
    assert 10 ** found["spectral_product_margin"] == pytest.approx(144)
    assert 10 ** found["spectral_sum_margin"] == pytest.approx(2 * 12)
    assert found["stable_rank"] == pytest.approx(10 / 9 + 2)
    assert 10 ** found["bartlett"] == pytest.approx(144 * (10 / 9 + 2))
    assert found["effective_rank"] == pytest.approx(np.mean([4 / np.sqrt(20), 1]))
    assert 10 ** found["low_rank_capacity"] == pytest.approx(6 * np.sqrt(2) * (np.sqrt(10) / 3 + np.sqrt(2)) / 0.5)


def test_a_convolution_counts_as_the_operator_on_the_image():
    """Of the map on the whole image: its spectral norm, and what of its Frobenius norm has moved."""
    inputs = keras.Input((6, 6, 2), dtype="float64")
    x = layers.Conv2D(3, 3, padding="same", activation="relu", dtype="float64")(inputs)
    model = keras.Model(inputs, layers.Dense(2, dtype="float64")(layers.GlobalAveragePooling2D(dtype="float64")(x)))
    conv, last = kernels_of(model)
    s, t = singular_values(conv, 6), np.linalg.svd(last, compute_uv=False)
    found = norms_and_ranks(model, [np.zeros_like(conv), np.zeros_like(last)], 1.0)
    assert 10 ** found["spectral_product"] == pytest.approx((s[0] * t[0]) ** 2)
    stable = np.sum(s**2) / s[0] ** 2 + np.sum(t**2) / t[0] ** 2
    assert found["stable_rank"] == pytest.approx(stable)
    assert 10 ** (found["bartlett"] - found["spectral_product"]) == pytest.approx(stable)
    terms = np.sqrt(3 * 9) * np.linalg.norm(conv) / s[0] + np.sqrt(2) * np.linalg.norm(last) / t[0]
    assert 10 ** found["low_rank_capacity"] == pytest.approx(s[0] * t[0] * terms)


def test_the_low_rank_term_bounds_the_gaussian_average_of_a_convolution():
    """E sup over kernels of norm b of <gamma, W (h - h')> is at most b sqrt(out kh kw) ||h - h'||, by simulation."""
    rng = np.random.default_rng(1)
    h, out, size = rng.standard_normal((5, 6, 6, 2)), 3, 3
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    patches = np.stack([padded[:, a : a + 6, b : b + 6] for a in range(size) for b in range(size)], axis=-1)
    flat = patches.reshape(5 * 36, -1)
    sups = [np.linalg.norm(rng.standard_normal((5 * 36, out)).T @ flat) for _ in range(200)]
    bound = np.sqrt(out * size**2) * np.linalg.norm(h)
    assert 0.9 * bound < np.mean(sups) <= bound


def test_path_norm_by_enumeration():
    rng = np.random.default_rng(2)
    kernels = [rng.standard_normal(shape) for shape in ((3, 4), (4, 3), (3, 2))]
    paths = 0.0
    for i, j, k, o in itertools.product(range(3), range(4), range(3), range(2)):
        paths += (kernels[0][i, j] * kernels[1][j, k] * kernels[2][k, o]) ** 2
    assert path_norm(dense(*kernels)) == pytest.approx(paths)


def test_path_norm_leaves_the_parameters_as_they_were(examples):
    model, *_ = examples
    before = get_parameters(model)
    assert path_norm(model) > 0
    np.testing.assert_array_equal(get_parameters(model), before)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_fisher_rao_norm_by_its_definition(examples, loss):
    """The gradient of every example's loss, one by one, against forward-mode differentiation."""
    model, x, y = examples
    theta = get_parameters(model)
    products = [
        theta @ TrainingLoss(model, x[i : i + 1], y[i : i + 1], loss).value_and_gradient()[1] for i in range(len(x))
    ]
    found = fisher_rao_norm(model, x, y, loss, batch_size=5)
    assert found == pytest.approx(np.mean(np.square(products)))


def test_fisher_rao_norm_of_a_homogeneous_network():
    """Without biases and of three layers: 9 mean_i <dl/df, f>^2 (Liang et al. 2019)."""
    rng = np.random.default_rng(3)
    model = dense(*(rng.standard_normal(shape) for shape in ((3, 4), (4, 3), (3, 2))))
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    f = model(x).numpy()
    assert fisher_rao_norm(model, x, y, "squared") == pytest.approx(9 * np.mean(np.sum((f - y) * f, axis=1) ** 2))


def test_the_margin_is_the_tenth_percentile():
    logits = np.stack([np.arange(11.0), np.zeros(11)], axis=1)
    assert output_margin(logits, np.eye(2)[np.zeros(11, int)]) == pytest.approx(1)


@pytest.mark.parametrize("relative", [False, True])
def test_sigma_of_a_quadratic_loss(relative):
    """Linear network, squared loss: the mean rise over the draws is sigma^2 times that of sigma 1, to rounding, less a
    term linear in sigma that is 0 at the optimum.
    """
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    model = dense(np.linalg.lstsq(x, y, rcond=None)[0])
    surface, theta = TrainingLoss(model, x, y, "squared"), get_parameters(model)
    sigma = pac_bayes_sigma(surface, rise=0.1, draws=5, relative=relative, seed=1)
    noise = np.random.default_rng([1, 41]).standard_normal((5, 6)) * (np.abs(theta) if relative else 1)
    rises = [0.5 * np.mean(np.sum((x @ part.reshape(3, 2)) ** 2, axis=1)) for part in noise]
    assert sigma == pytest.approx(np.sqrt(0.1 / np.mean(rises)), rel=0.03)
    np.testing.assert_array_equal(get_parameters(model), theta)


def test_corner_sharpness_of_a_convex_loss_is_the_maximum():
    """All corners by enumeration; and no less than what the paper's search finds."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    model = dense(np.linalg.lstsq(x, y, rcond=None)[0])
    surface, theta = TrainingLoss(model, x, y, "squared"), get_parameters(model)
    found = corner_sharpness(surface, epsilon=0.01, iterations=20, seed=3)
    corners = np.array(list(itertools.product((-1, 1), repeat=6)))
    largest = surface.values_at(theta + 0.01 * (np.abs(theta) + 1) * corners).max()
    assert found.value <= 100 * (largest - found.loss) / (1 + found.loss) * (1 + 1e-9)
    assert found.value >= 0.9 * sharpness(surface, epsilon=0.01).value
    np.testing.assert_array_equal(get_parameters(model), theta)
    with pytest.raises(ValueError, match="need epsilon > 0"):
        corner_sharpness(surface, epsilon=0)


def test_rescaling_layers_changes_only_what_depends_on_scale(examples):
    model, x, y = examples
    zeros = [np.zeros_like(kernel) for kernel in kernels_of(model)]
    before = generalization_measures(model, x, y, zeros)
    rescale_layers(model, [3.0, 0.5])
    after = generalization_measures(model, x, y, zeros)
    assert list(before) == [name for names in MEASURES.values() for name in names]
    same = {name for name in before if after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-4)}
    assert same >= FREE_OF_SCALE
    assert not same & {"parameter_norm", "distance", "sharpness", "flatness", "pac_bayes"}


def test_measures_rise_with_what_they_measure(examples):
    """Doubling the last layer doubles the margins and adds to all norms; the input is left as it was."""
    model, x, y = examples
    start = kernels_of(model)
    before = generalization_measures(model, x, y, start)
    theta = get_parameters(model)
    last = model.layers[-1]
    last.set_weights([2 * values for values in last.get_weights()])
    after = generalization_measures(model, x, y, start)
    assert before["distance"] == 0 and after["distance"] == pytest.approx(np.sum(start[-1] ** 2))
    assert after["inverse_margin"] == pytest.approx(before["inverse_margin"] - np.log10(4))
    assert after["spectral_product"] == pytest.approx(before["spectral_product"] + np.log10(4))
    assert after["spectral_product_margin"] == pytest.approx(before["spectral_product_margin"])
    assert after["path_norm"] == pytest.approx(before["path_norm"] + np.log10(4))
    assert after["low_rank_capacity"] == pytest.approx(before["low_rank_capacity"])
    set_parameters(model, theta)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NetworkConfig("resnet", width=2, depth=1), "BatchNormalization"),
        (NetworkConfig("resnet", width=2, depth=1, batch_norm=False), "is a Add that joins branches"),
        (NetworkConfig(activation="tanh"), "such as relu: layer 'dense_1' has tanh"),
    ],
)
def test_models_for_which_the_measures_mean_nothing_are_refused(network, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check_chain(build(network, (8, 8, 1), 10, seed=0))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig("convnet", width=2),
        NetworkConfig("resnet", width=2, depth=1, batch_norm=False, skip=False),
        NetworkConfig(activation="leaky_relu"),
    ],
)
def test_chains_are_taken(network):
    check_chain(build(network, (8, 8, 1), 10, seed=0))


def test_a_margin_below_zero_is_refused(examples):
    model, x, y = examples
    with pytest.raises(ValueError, match="margin above 0"):
        generalization_measures(model, x, np.roll(y, 1, axis=1), kernels_of(model))
    with pytest.raises(ValueError, match="need rise > 0"):
        pac_bayes_sigma(TrainingLoss(model, x, y, "cross_entropy"), rise=0.0)
