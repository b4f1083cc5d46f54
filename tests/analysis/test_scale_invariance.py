"""analysis/scale_invariance.py: what batch norm follows in whole networks."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.scale_invariance import is_called_once, scale_invariant_kernels
from models import NetworkConfig, build


@pytest.mark.parametrize(
    ("config", "without"),
    [
        (NetworkConfig("resnet", width=4, depth=1), 1),  # all but the logits
        (NetworkConfig("resnet", width=4, depth=1, skip=False), 1),
        (NetworkConfig("densenet", width=4, depth=7), 1),  # concatenated and pooled on the way
        (NetworkConfig("mobilenet_v2", width=4), 1),
        (NetworkConfig("resnet", width=4, depth=1, batch_norm=False), None),
        (NetworkConfig("mlp", width=4), None),
        (NetworkConfig("resnet_fixup", width=4, depth=8), None),
    ],
    ids=lambda value: value.model if isinstance(value, NetworkConfig) else "",
)
def test_scale_invariant_kernels_are_all_that_batch_norm_follows(config, without):
    model = build(config, (8, 8, 1), 10, seed=0)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    found = scale_invariant_kernels(model)
    assert len(found) == (0 if without is None else len(kernels) - without)
    assert all(any(v is kernel for kernel in kernels) for v in found)


def test_their_scale_does_not_change_the_function_and_that_of_others_does():
    inputs = keras.Input((8, 8, 2))
    conv = keras.layers.Conv2D(4, 3, name="biased")(inputs)
    conv = keras.layers.BatchNormalization(epsilon=1e-9, name="n1")(keras.layers.AveragePooling2D(2)(conv))
    active = keras.layers.Conv2D(4, 3, activation="tanh", name="active")(conv)
    x = keras.layers.BatchNormalization(epsilon=1e-9, name="n2")(keras.layers.Flatten()(active))
    x = keras.layers.Dense(5, name="normalized")(x)
    seen_twice = keras.layers.Dense(5, name="seen_twice")(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization(name="n3")(x), seen_twice])
    y = keras.layers.Dense(5, name="dense")(x)
    y = keras.layers.BatchNormalization(epsilon=1e-9, name="n4")(y)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(y))
    found = {v.path for v in scale_invariant_kernels(model)}
    assert found == {"biased/kernel", "dense/kernel"}
    images = tf.constant(np.random.default_rng(0).standard_normal((16, 8, 8, 2)), tf.float32)
    before = model(images, training=True).numpy()
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            start = variable.numpy()
            variable.assign(3 * start)
            same = np.allclose(model(images, training=True).numpy(), before, rtol=1e-3, atol=1e-3)
            assert same == (variable.path in found), variable.path
            variable.assign(start)


def test_shared_layers_are_called_more_than_once():
    inputs, shared = keras.Input((4,)), keras.layers.Dense(4)
    once = keras.layers.Dense(2)
    model = keras.Model(inputs, once(shared(shared(inputs))))
    assert is_called_once(model, once) and not is_called_once(model, shared)
    assert not is_called_once(model, keras.layers.Dense(1))
