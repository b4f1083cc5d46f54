"""models/user_model.py: saved files that are taken as they are, and all that are refused."""
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from models import NetworkConfig, build, load_user_model, network_name, validate
from models.layers import erf
from tests.models.networks import CIFAR, CONFIGS, DIGITS, images

EVERY_CONFIG = [
    pytest.param(config, marks=pytest.mark.slow if config.model == "mobilenet_v2" else ()) for config in CONFIGS
]


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
