"""models/: parameter counts by formula, affine networks, seeds, dtypes, names, saved files, and all that is refused."""
import math
import zipfile
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from models import MODELS, NetworkConfig, build, default_width, load_user_model, network_name, validate
from models.alexnet_small import LocalResponseNorm
from models.layers import ACTIVATIONS, LayerFactory, erf, layer_seed

DIGITS = (8, 8, 1)
CIFAR = (32, 32, 3)
# One small config a model, and each option off its default once.
CONFIGS = [
    NetworkConfig("mlp", width=5, depth=2),
    NetworkConfig("mlp", widths=(6, 4), activation="erf", dropout=0.5),
    NetworkConfig("resnet", width=2, depth=1),
    NetworkConfig("resnet", width=2, depth=1, batch_norm=False, activation="tanh"),
    NetworkConfig("resnet", width=2, depth=1, skip=False),
    NetworkConfig("convnet", width=2, activation="leaky_relu"),
    NetworkConfig("densenet", width=2, depth=7),
    NetworkConfig("mobilenet_v2", width=4),
    NetworkConfig("resnet_fixup", width=2, depth=14),
    NetworkConfig("alexnet", width=2, activation="erf"),
    NetworkConfig("inception", width=6),
]
slow = pytest.mark.slow
EVERY_CONFIG = [pytest.param(config, marks=slow if config.model == "mobilenet_v2" else ()) for config in CONFIGS]


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def images(n, shape, dtype="float64"):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(dtype)


def layer_types(model):
    return [type(layer).__name__ for layer in model.layers]


# Parameter counts


@pytest.mark.parametrize("widths", [(2048, 2048, 1024), (7,)])
def test_mlp_parameters(widths):
    sizes = (32 * 32 * 3, *widths, 10)
    expected = sum((a + 1) * b for a, b in pairwise(sizes))
    model = build(NetworkConfig("mlp", widths=widths), CIFAR, 10, seed=0)
    assert trainable(model) == expected
    if widths == (2048, 2048, 1024):
        assert expected == 12_598_282


def resnet_parameters(w, depth, channels, classes, batch_norm, skip):
    extra = 2 if batch_norm else 1  # scale and shift, or a bias, a channel
    total = 9 * channels * w + extra * w
    last = w
    for stage in range(4):
        out = w * 2**stage
        total += 9 * last * out + (2 * depth - 1) * 9 * out * out + 2 * depth * extra * out
        if skip and out != last:
            total += last * out + extra * out
        last = out
    return total + (last + 1) * classes


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("width, depth", [(4, 2), (3, 1)])
def test_resnet_parameters_and_layers(width, depth, batch_norm, skip):
    config = NetworkConfig("resnet", width=width, depth=depth, batch_norm=batch_norm, skip=skip)
    model = build(config, DIGITS, 10, seed=0)
    assert trainable(model) == resnet_parameters(width, depth, 1, 10, batch_norm, skip)
    assert layer_types(model).count("Add") == (4 * depth if skip else 0)
    assert ("BatchNormalization" in layer_types(model)) == batch_norm


def test_resnet18_at_its_default_width_has_the_known_size():
    model = build(NetworkConfig("resnet"), CIFAR, 10, seed=0)
    assert trainable(model) == resnet_parameters(64, 2, 3, 10, True, True) == 11_173_962
    sizes = [model.get_layer(f"stage{stage}_block2_act2").output.shape[1] for stage in (1, 2, 3, 4)]
    assert sizes == [32, 16, 8, 4]


@pytest.mark.parametrize("shape, positions", [(CIFAR, 3 * 3), (DIGITS, 1), ((28, 28, 1), 3 * 3), ((8, 32, 2), 1 * 3)])
def test_convnet_parameters(shape, positions):
    w = 3
    channels = (shape[-1], w, 2 * w, 2 * w, 4 * w, 4 * w)
    convolutions = sum((9 * a + 1) * b for a, b in pairwise(channels))
    model = build(NetworkConfig("convnet", width=w), shape, 10, seed=0)
    assert trainable(model) == convolutions + (positions * 4 * w + 1) * 10


@pytest.mark.parametrize("growth, depth, channels", [(12, 40, 3), (3, 10, 1)])
def test_densenet_parameters(growth, depth, channels):
    blocks, c = (depth - 4) // 3, 16
    total = 9 * channels * c
    for block in range(3):
        for _ in range(blocks):
            total += 2 * c + 9 * c * growth
            c += growth
        if block < 2:
            total += 2 * c + c * c
    total += 2 * c + (c + 1) * 10
    model = build(NetworkConfig("densenet", width=growth, depth=depth), (32, 32, channels), 10, seed=0)
    assert trainable(model) == total
    if depth == 40:
        assert total == 1_019_722
    assert layer_types(model).count("Conv2D") == depth - 1  # and the logits


def mobilenet_v2_parameters(scale, channels, classes):
    c = scale(32)
    total = 9 * channels * c + 2 * c
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for t, out, repeats in stages:
        for _ in range(repeats):
            total += (t > 1) * (c * t * c + 2 * t * c) + 9 * t * c + 2 * t * c + t * c * scale(out) + 2 * scale(out)
            c = scale(out)
    return total + c * scale(1280) + 2 * scale(1280) + (scale(1280) + 1) * classes


def test_mobilenet_v2_parameters():
    half = build(NetworkConfig("mobilenet_v2", width=16), DIGITS, 10, seed=0)
    assert trainable(half) == mobilenet_v2_parameters(lambda c: c // 2, 1, 10)
    # With 1 000 classes: the count that torchvision gives for its MobileNetV2 (strides have no parameters).
    full = build(NetworkConfig("mobilenet_v2"), CIFAR, 1000, seed=0)
    assert trainable(full) == mobilenet_v2_parameters(lambda c: c, 3, 1000) == 3_504_872
    assert full.get_layer("head_act").output.shape[1:] == (4, 4, 1280)
    assert layer_types(full).count("Add") == sum((0, 1, 2, 3, 2, 2, 0))


@pytest.mark.parametrize("w, depth", [(16, 20), (3, 8)])
def test_resnet_fixup_parameters(w, depth):
    n = (depth - 2) // 6
    convolutions = 9 * 3 * w + 9 * w * w * (2 * n + (2 + 4 * (2 * n - 1)) + (8 + 16 * (2 * n - 1)))
    scalars = 3 * n * 5 + 2  # four biases and a multiplier a block; behind the stem and before the classifier
    model = build(NetworkConfig("resnet_fixup", width=w, depth=depth), CIFAR, 10, seed=0)
    assert trainable(model) == convolutions + scalars + (4 * w + 1) * 10
    assert "BatchNormalization" not in layer_types(model)


@pytest.mark.parametrize("name, count", [("alexnet", 1_387_786), ("inception", 1_649_402)])
def test_networks_of_zhang_et_al_have_their_size(name, count):
    assert trainable(build(NetworkConfig(name), (28, 28, 3), 10, seed=0)) == count
    if name == "inception":
        plain = build(NetworkConfig(name, batch_norm=False), (28, 28, 3), 10, seed=0)
        assert trainable(plain) == count and "BatchNormalization" not in layer_types(plain)


# What the networks compute


def test_mlp_equals_dense_numpy():
    model = build(NetworkConfig("mlp", width=6, depth=2, activation="tanh", dtype="float64"), DIGITS, 3, seed=3)
    x = images(4, DIGITS)
    h = x.reshape(4, -1)
    for name in ("dense_1", "dense_2"):
        kernel, bias = model.get_layer(name).get_weights()
        h = np.tanh(h @ kernel + bias)
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(np.asarray(model(x)), h @ kernel + bias, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_residual_block_is_input_plus_branch(batch_norm):
    config = NetworkConfig("resnet", width=2, depth=1, batch_norm=batch_norm, dtype="float64")
    model = build(config, DIGITS, 3, seed=0)
    norm = "norm" if batch_norm else "conv"
    names = ("stem_act", f"stage1_block1_{norm}2", "stage1_block1_act2", "stage1_block1_conv1")
    probe = keras.Model(model.input, [model.get_layer(name).output for name in names])
    x, branch, out, first = map(np.asarray, probe(images(2, DIGITS)))
    np.testing.assert_allclose(out, np.maximum(x + branch, 0), rtol=1e-12)
    kernel = model.get_layer("stage1_block1_conv1").kernel.numpy()
    patch = x[:, 2:5, 3:6, :]  # the 3x3 neighbourhood of position (3, 4)
    expected = np.einsum("nhwi,hwio->no", patch, kernel)
    np.testing.assert_allclose(first[:, 3, 4], expected, rtol=1e-12, atol=1e-13)


def test_fixup_starts_as_the_identity_with_small_branches():
    model = build(NetworkConfig("resnet_fixup", width=16, depth=20, dtype="float64"), DIGITS, 10, seed=0)
    acts = ["stem_act"] + [f"stage{s}_block{b}_act2" for s in (1, 2, 3) for b in (1, 2, 3)]
    outputs = keras.Model(model.input, [model.get_layer(name).output for name in acts])(images(2, DIGITS))
    x = np.asarray(outputs[0])
    for index, output in enumerate(map(np.asarray, outputs[1:])):
        if index in (3, 6):  # first block of a stage: every second pixel, zeros in the new channels
            x = np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], axis=-1)
        assert np.array_equal(output, x)
    assert x.any() and not np.any(model(images(2, DIGITS)))
    # He's variance times L^(-1) with L = 9 branches
    kernel = model.get_layer("stage3_block2_conv1").kernel.numpy()
    assert kernel.var() == pytest.approx(2 / (9 * 64) / 9, rel=0.02)
    # The scalars act where they should: out = relu(x + scale * conv2 + bias2b)
    rng = np.random.default_rng(0)
    model.set_weights([weight + 0.1 * rng.normal(size=weight.shape) for weight in model.get_weights()])
    names = ("stem_act", "stage1_block1_conv2", "stage1_block1_act2")
    x, y, out = map(np.asarray, keras.Model(model.input, [model.get_layer(n).output for n in names])(images(2, DIGITS)))
    scale, bias = (model.get_layer(f"stage1_block1_{n}").get_weights()[0] for n in ("scale", "bias2b"))
    assert scale != 1 and bias != 0
    np.testing.assert_allclose(out, np.maximum(x + scale * y + bias, 0), rtol=1e-12, atol=1e-13)


def test_local_response_norm_equals_tensorflow():
    x = 10 * images(2, (4, 4, 12), "float32")
    expected = tf.nn.local_response_normalization(x, depth_radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)
    np.testing.assert_allclose(LocalResponseNorm()(x), expected, rtol=1e-5)
    assert np.abs(np.asarray(expected) / x - 1).max() > 0.01


def test_depthwise_kernels_have_a_fan_in_of_nine():
    model = build(NetworkConfig("mobilenet_v2"), DIGITS, 10, seed=0)
    kernel = model.get_layer("stage6_block2_depthwise_conv").get_weights()[0]
    assert kernel.shape == (3, 3, 960, 1)
    assert kernel.var() == pytest.approx(2 / 9, rel=0.05)


@pytest.mark.parametrize("config", [
    NetworkConfig("convnet", width=4),
    NetworkConfig("resnet_fixup", width=8, depth=8),
    pytest.param(NetworkConfig("alexnet", width=8), marks=slow),
    pytest.param(NetworkConfig("resnet", width=4, depth=1), marks=slow),
    pytest.param(NetworkConfig("resnet", width=4, depth=1, batch_norm=False), marks=slow),
    pytest.param(NetworkConfig("densenet", width=4, depth=7), marks=slow),
    pytest.param(NetworkConfig("mobilenet_v2", width=8), marks=slow),
    pytest.param(NetworkConfig("inception", width=12), marks=slow),
], ids=network_name)  # fmt: skip
def test_networks_learn_digits(config):
    digits = load_digits()
    x, y = (digits.images[:256, ..., None] / 16).astype("float32"), digits.target[:256]
    model = build(config, DIGITS, 10, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    history = model.fit(x, y, batch_size=32, epochs=6, shuffle=False, verbose=0)
    assert history.history["loss"][-1] < 0.6 * np.log(10)


LINEAR = [
    NetworkConfig("mlp", width=5, activation="linear", dtype="float64"),
    NetworkConfig("resnet", width=2, depth=1, activation="linear", dtype="float64"),
    NetworkConfig("resnet", width=2, batch_norm=False, skip=False, activation="linear", dtype="float64"),
]


@pytest.mark.parametrize("config", LINEAR, ids=network_name)
def test_linear_activation_makes_the_network_affine(config):
    model = build(config, DIGITS, 3, seed=0)
    rng = np.random.default_rng(1)
    # Biases and moving statistics too
    model.set_weights([weight + 0.1 * rng.random(weight.shape) for weight in model.get_weights()])
    x, y = images(2, DIGITS)[:, None]
    f = lambda z: np.asarray(model(z, training=False))  # noqa: E731
    np.testing.assert_allclose(f(x) + f(y) - f(x + y), f(np.zeros_like(x)), rtol=1e-9, atol=1e-10)
    relu = build(NetworkConfig(**{**vars(config), "activation": "relu"}), DIGITS, 3, seed=0)
    relu.set_weights(model.get_weights())
    g = lambda z: np.asarray(relu(z, training=False))  # noqa: E731
    assert np.abs(g(x) + g(y) - g(x + y) - g(np.zeros_like(x))).max() > 1e-3


@pytest.mark.parametrize("activation, phi", [
    ("relu", lambda z: max(z, 0)), ("tanh", np.tanh), ("erf", math.erf),
    ("leaky_relu", lambda z: z if z > 0 else 0.2 * z), ("linear", lambda z: z),
])  # fmt: skip
def test_activations(activation, phi):
    z = np.linspace(-2, 2, 9)
    values = np.asarray(keras.activations.get(ACTIVATIONS[activation])(keras.ops.convert_to_tensor(z)))
    np.testing.assert_allclose(values, [phi(value) for value in z], rtol=1e-7, atol=1e-12)


# Every model


@pytest.mark.parametrize("config", EVERY_CONFIG, ids=network_name)
def test_seed_dtype_names_and_shape(config):
    model, same, other = (build(config, DIGITS, 3, seed=seed) for seed in (7, 7, 8))
    for a, b in zip(model.get_weights(), same.get_weights(), strict=True):
        assert np.array_equal(a, b)
    kernels = [v.path for v in model.trainable_variables if v.path.endswith("kernel")]
    assert len(kernels) > 1
    for a, b in zip(model.trainable_variables, other.trainable_variables, strict=True):
        if a.path in kernels and np.any(a.numpy()):
            assert not np.array_equal(a.numpy(), b.numpy()), a.path
    names = [layer.name for layer in model.layers]
    assert names == [layer.name for layer in other.layers]  # no counters of Keras's own
    assert len(set(names)) == len(names) and names[0] == "input" and names[-1] == "logits"

    x = images(2, DIGITS)
    double = build(NetworkConfig(**{**vars(config), "dtype": "float64"}), DIGITS, 3, seed=7)
    assert {variable.dtype for variable in double.trainable_variables} == {"float64"}
    assert {tensor.dtype for layer in double.layers for tensor in [layer.output]} == {"float64"}
    outputs = model(x.astype("float32"), training=False)
    assert outputs.shape == (2, 3) and outputs.dtype == "float32"
    assert double(x).dtype == "float64" and keras.config.dtype_policy().name == "float32"
    assert np.asarray(outputs).sum(axis=-1) != pytest.approx(np.ones(2))  # logits, not probabilities


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


def test_dropout_acts_in_training_only():
    model = build(NetworkConfig("mlp", width=50, depth=1, dropout=0.5), DIGITS, 3, seed=0)
    x = images(1, DIGITS, "float32")
    assert np.array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=False))


# Names


@pytest.mark.parametrize("config, name", [
    (NetworkConfig(), "mlp-3x64"),
    (NetworkConfig(depth=2, width=8, activation="erf", dropout=0.5, dtype="float64"), "mlp-2x8-erf-dropout0.5-float64"),
    (NetworkConfig(widths=[2048, 1024]), "mlp-2048-1024"),
    (NetworkConfig("resnet", width=16, batch_norm=False, skip=False), "resnet18-w16-nobn-noskip"),
    (NetworkConfig("resnet", depth=1), "resnet10-w64"),
    (NetworkConfig("convnet"), "convnet-w16"),
    (NetworkConfig("densenet"), "densenet40-w12"),
    (NetworkConfig("resnet_fixup", depth=8), "resnet_fixup8-w16"),
    (NetworkConfig("inception", batch_norm=False), "inception-w96-nobn"),
    (NetworkConfig("some/folder/my net.keras"), "my_net"),
])  # fmt: skip
def test_network_name(config, name):
    assert network_name(config) == name
    hash(config)


@pytest.mark.parametrize("name", MODELS)
def test_default_width_is_the_width_that_is_built(name):
    model = build(NetworkConfig(name), DIGITS, 3, seed=0)
    first = next(layer for layer in model.layers if layer.weights)
    if name == "densenet":  # width is the growth rate there, and the stem has 16 channels
        first = model.get_layer("block1_layer1_conv")
    assert first.output.shape[-1] == default_width(name)


# What is refused


@pytest.mark.parametrize("options, shape, classes, message", [
    ({"model": "resnett"}, CIFAR, 10, "did you mean resnet.*allowed: mlp, resnet, convnet"),
    ({"model": "MLP"}, CIFAR, 10, "did you mean mlp"),
    ({"model": "xyz"}, CIFAR, 10, "unknown model 'xyz'; allowed"),
    ({"width": 0}, CIFAR, 10, "width must be .* at least 1; received 0"),
    ({"width": 2.5}, CIFAR, 10, "width must be a whole number"),
    ({"depth": 0}, CIFAR, 10, "depth must be"),
    ({"widths": (3, 0)}, CIFAR, 10, r"widths must be .*\(3, 0\)"),
    ({"activation": "gelu"}, CIFAR, 10, "unknown activation 'gelu'; allowed: relu"),
    ({"dtype": "float16"}, CIFAR, 10, "unknown dtype 'float16'; allowed: float32, float64"),
    ({"dropout": 1.0}, CIFAR, 10, r"dropout must lie in \[0, 1\)"),
    ({"dropout": 0.1, "model": "resnet"}, CIFAR, 10, "dropout=0.1 does not apply to model 'resnet'"),
    ({"skip": False}, CIFAR, 10, "skip=False does not apply to model 'mlp'; models that have it: resnet$"),
    ({"batch_norm": False}, CIFAR, 10, "batch_norm=False does not apply to model 'mlp'"),
    ({"batch_norm": False, "model": "convnet"}, CIFAR, 10, "batch_norm=False does not apply"),
    ({"batch_norm": False, "model": "resnet_fixup"}, CIFAR, 10, "models that have it: resnet, inception$"),
    ({"depth": 39, "model": "densenet"}, CIFAR, 10, r"densenet needs depth = 3 m \+ 4 .*received 39"),
    ({"depth": 18, "model": "resnet_fixup"}, CIFAR, 10, r"resnet_fixup needs depth = 6 m \+ 2 .*received 18"),
    ({"depth": 3, "model": "convnet"}, CIFAR, 10, "depth=3 does not apply to model 'convnet'"),
    ({"widths": (3,), "model": "resnet"}, CIFAR, 10, "widths=.* does not apply"),
    ({"width": 3, "model": "net.keras"}, CIFAR, 10, "width=3 does not apply to model 'net.keras'"),
    ({"activation": "tanh", "model": "net.keras"}, CIFAR, 10, "activation='tanh' does not apply"),
    ({"model": "convnet"}, (7, 8, 1), 10, r"8x8 or more; received \(7, 8, 1\)"),
    ({"model": "resnet"}, (20,), 10, r"needs images .*received \(20,\)"),
    ({}, (0, 8, 1), 10, "input_shape"),
    ({}, (), 10, "input_shape"),
    ({}, CIFAR, 0, "num_classes"),
])  # fmt: skip
def test_validate_refuses_in_one_line(options, shape, classes, message):
    for check in (validate, lambda *args: build(*args, seed=0)):
        with pytest.raises(ValueError, match=message) as error:
            check(NetworkConfig(**options), shape, classes)
        assert "\n" not in str(error.value)


def test_valid_configs_pass():
    for config in CONFIGS:
        validate(config, DIGITS, 3)
    validate(NetworkConfig(), (20,), 1)
    validate(NetworkConfig(width=np.int64(4)), (20,), 1)


# Saved models


@pytest.mark.parametrize("config", EVERY_CONFIG, ids=network_name)
def test_keras_file_round_trip(config, tmp_path):
    model = build(config, DIGITS, 3, seed=0)
    path = tmp_path / "net.keras"
    model.save(path)
    loaded = build(NetworkConfig(str(path)), DIGITS, 3, seed=99)
    x = images(2, DIGITS, "float32")
    assert np.array_equal(model(x, training=False), loaded(x, training=False))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


def saved(model, tmp_path):
    path = str(tmp_path / "net.keras")
    model.save(path)
    return path


def small(*tail, shape=DIGITS, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), layers.Flatten(dtype=dtype), *tail])


class Softly(keras.layers.Layer):
    """A softmax by another name: only its outputs give it away."""

    def call(self, x):
        return keras.ops.softmax(x)


keras.saving.register_keras_serializable(package="test_models")(Softly)


def test_user_model_of_any_image_size_and_erf_by_name_is_taken(tmp_path):
    inputs = keras.Input((None, None, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3, activation=erf)(inputs))
    path = saved(keras.Model(inputs, layers.Dense(3)(x)), tmp_path)
    validate(NetworkConfig(path), DIGITS, 3)
    assert load_user_model(path, DIGITS, 3).layers[1].activation is erf


@pytest.mark.parametrize("tail", [
    [layers.Dense(3, activation="softmax")],
    [layers.Dense(3), layers.Softmax()],
    [layers.Dense(3), layers.Activation("softmax")],
    [layers.Dense(3), Softly()],
    [layers.Dense(3, activation="sigmoid")],
], ids=["dense", "layer", "activation", "custom", "sigmoid"])  # fmt: skip
def test_probabilities_are_refused(tail, tmp_path):
    path = saved(small(*tail), tmp_path)
    with pytest.raises(ValueError, match=r"ends in a s\w+; logits are needed"):
        validate(NetworkConfig(path), DIGITS, 3)


def test_unfit_user_models_are_refused_with_their_shapes(tmp_path):
    def refusal(path, shape=DIGITS, classes=3, **options):
        with pytest.raises(ValueError) as error:
            validate(NetworkConfig(str(path), **options), shape, classes)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
        return str(error.value)

    path = saved(small(layers.Dense(3), shape=CIFAR), tmp_path)
    assert "(None, 32, 32, 3), but the data has shape (None, 8, 8, 1)" in refusal(path)
    path = saved(small(layers.Dense(3)), tmp_path)
    assert "(None, 3), but the data needs (None, 10)" in refusal(path, classes=10)
    assert "computes in float32, but float64 was asked for" in refusal(path, dtype="float64")
    x, y = keras.Input(DIGITS), keras.Input(DIGITS)
    logits = layers.Dense(3)(layers.Flatten()(layers.Add()([x, y])))
    assert "has 2 inputs [(None, 8, 8, 1), (None, 8, 8, 1)]" in refusal(saved(keras.Model([x, y], logits), tmp_path))
    twice = keras.Model([x, y], [logits, logits])
    assert "2 outputs [(None, 3), (None, 3)]" in refusal(saved(twice, tmp_path))
    path = saved(small(layers.Lambda(lambda z: z), layers.Dense(3)), tmp_path)
    assert "cannot be loaded" in refusal(path) and "ambda" in refusal(path)
    assert "does not exist" in refusal(tmp_path / "none.keras")
    assert "does not exist" in refusal(tmp_path.with_suffix(".keras"))


def halve_the_weights(path):
    """A sound archive around an unsound weights file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[: len(part) // 2] if name.endswith(".h5") else part)


@pytest.mark.parametrize("damage, reason", [
    ("truncated", "damaged"), ("text", "damaged"), ("empty", "damaged"), ("weights", "truncated file"),
])  # fmt: skip
def test_damaged_user_model_is_refused(damage, reason, tmp_path):
    path = tmp_path / "net.keras"
    small(layers.Dense(3)).save(path)
    content = path.read_bytes()
    if damage == "weights":
        halve_the_weights(path)
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "text": b"no model", "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"net.keras cannot be loaded: .*{reason}") as error:
        validate(NetworkConfig(str(path)), DIGITS, 3)
    assert "\n" not in str(error.value)
