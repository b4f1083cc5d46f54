"""models/__init__.py: what holds for every network by name: seeds, dtypes, names, affine limits, and refusals."""
import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from models import MODELS, NetworkConfig, build, default_width, network_name, validate
from tests.models.networks import CIFAR, CONFIGS, DIGITS, images

slow = pytest.mark.slow
long = [pytest.mark.slow, pytest.mark.long]
DEEP = ("mobilenet_v2", "resnet_fixup")  # costly to build
EVERY_CONFIG = [pytest.param(config, marks=slow if config.model in DEEP else ()) for config in CONFIGS]


@pytest.mark.parametrize("config", [
    NetworkConfig("convnet", width=4),
    pytest.param(NetworkConfig("resnet_fixup", width=8, depth=8), marks=slow),
    pytest.param(NetworkConfig("alexnet", width=8), marks=slow),
    pytest.param(NetworkConfig("resnet", width=4, depth=1), marks=long),
    pytest.param(NetworkConfig("resnet", width=4, depth=1, batch_norm=False), marks=slow),
    pytest.param(NetworkConfig("densenet", width=4, depth=7), marks=long),
    pytest.param(NetworkConfig("mobilenet_v2", width=8), marks=long),
    pytest.param(NetworkConfig("inception", width=12), marks=long),
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


@pytest.mark.parametrize("config", EVERY_CONFIG, ids=network_name)
def test_seed_dtype_names_and_shape(config):
    validate(config, DIGITS, 3)
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


@pytest.mark.parametrize("config, shape, classes, width", [
    (NetworkConfig(), (20,), 1, 64),  # no images, one logit
    (NetworkConfig(width=np.int64(4)), (20,), 1, 4),  # a grid's own integers
], ids=["default", "numpy"])  # fmt: skip
def test_unusual_but_valid_configs_are_built(config, shape, classes, width):
    assert validate(config, shape, classes) is None
    model = build(config, shape, classes, seed=0)
    assert model.input_shape == (None, *shape) and model.output_shape == (None, classes)
    assert model.get_layer("dense_1").units == width
