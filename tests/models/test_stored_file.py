"""models/stored_file.py: norms, optimizers, widths and families of files that were saved by Keras."""
import keras
import numpy as np
import pytest
from keras import layers

from models.stored_file import read_stored_file

SGD = keras.optimizers.SGD


def mlp(*widths, activation="relu", prefix="layer"):
    hidden = [layers.Dense(width, activation=activation, name=f"{prefix}_{i}") for i, width in enumerate(widths)]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def convnet(*channels, strides=1):
    x = y = keras.Input((8, 8, 1))
    for number in channels:
        y = layers.BatchNormalization()(layers.Conv2D(number, 3, strides=strides, padding="same")(y))
    return keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(y)))


def branches(second):
    """Two dense layers, added up; the second stands beside the first or behind it."""
    x = keras.Input((8, 8, 1))
    flat = layers.Flatten()(x)
    one = layers.Dense(8)(flat)
    two = layers.Dense(8)(one if second == "behind" else flat)
    return keras.Model(x, layers.Dense(10)(layers.Add()([one, two])))


def read(model, tmp_path, optimizer=None):
    if optimizer is not None:
        model.compile(optimizer, loss="mse")
    path = tmp_path / "net.keras"
    model.save(path)
    return read_stored_file(path)


def test_squared_norms_are_those_of_the_weights(tmp_path):
    model = convnet(4)
    for variable in model.variables:
        variable.assign(np.full(variable.shape, 2.0))
    found = read(model, tmp_path)
    kernels = 9 * 4 + 4 * 10
    assert found.kernel_norm == 4 * kernels
    assert found.squared_norm == 4 * (kernels + 4 + 4 + 4 + 10)  # biases, scale and shift; not the moving averages


@pytest.mark.parametrize(("optimizer", "expected"), [
    (None, (None, None)),
    (SGD(0.02, momentum=0.8), (0.02, 0.8)),
    (SGD(0.3), (0.3, 0.0)),
    ("sgd", (0.01, 0.0)),
    (SGD(0.02, momentum=0.8, nesterov=True), (None, None)),
    (SGD(0.02, weight_decay=1e-3), (None, None)),
    (SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)), (None, None)),
    (keras.optimizers.Adam(0.02), (None, None)),
], ids=["uncompiled", "momentum", "plain", "name", "nesterov", "decay", "schedule", "adam"])  # fmt: skip
def test_a_learning_rate_is_taken_of_sgd_with_momentum_only(optimizer, expected, tmp_path):
    found = read(mlp(4), tmp_path, optimizer)
    assert (found.learning_rate, found.momentum) == expected


@pytest.mark.parametrize(("first", "second"), [
    (mlp(4, 8), mlp(16, 32, prefix="another_name")),
    (mlp(5), mlp(7)),
    (convnet(4, 8), convnet(8, 16)),
], ids=["mlp", "one layer", "convnet"])  # fmt: skip
def test_one_factor_of_all_hidden_widths_keeps_the_family(first, second, tmp_path):
    first, second = read(first, tmp_path), read(second, tmp_path)
    assert first.family == second.family and first.width < second.width


@pytest.mark.parametrize(("first", "second"), [
    (mlp(4, 8), mlp(8, 8)),
    (mlp(8), mlp(8, 8)),
    (mlp(8), mlp(8, activation="tanh")),
    (convnet(4), convnet(4, strides=2)),
    (branches("beside"), branches("behind")),
], ids=["ratio", "depth", "activation", "strides", "joints"])  # fmt: skip
def test_any_other_difference_makes_another_family(first, second, tmp_path):
    assert read(first, tmp_path).family != read(second, tmp_path).family


def test_functional_and_sequential_models_of_one_architecture_are_one_family(tmp_path):
    sequential = mlp(4, 8)
    functional = keras.models.clone_model(keras.Model(sequential.inputs, sequential.outputs))
    assert read(sequential, tmp_path).family == read(functional, tmp_path).family


def test_widths_are_the_hidden_layers_and_a_linear_model_has_none(tmp_path):
    assert read(mlp(6, 12), tmp_path).width == 6
    assert read(mlp(6, 12), tmp_path).family.startswith("family 1:2 #")
    assert read(mlp(), tmp_path).width is None


def test_a_file_that_is_saved_again_is_read_again_and_a_missing_or_damaged_one_is_none(tmp_path):
    assert read(mlp(6), tmp_path).width == 6 and read(mlp(12), tmp_path).width == 12
    (tmp_path / "net.keras").write_bytes(b"no model")
    assert read_stored_file(tmp_path / "net.keras") is None
    assert read_stored_file(tmp_path / "none.keras") is None
