"""analysis/ntk_calls.py: recorded inputs and cotangents by hand, the order of backward passes, models that are refused.
"""
import graphlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis import ntk
from analysis.ntk import empirical_ntk
from analysis.ntk_calls import check_inference, hold_back, recorded_calls
from tests.analysis.full_jacobian import error, full_jacobian_ntk

RNG = np.random.default_rng(0)


def test_records_inputs_and_what_the_weights_act_on():
    """h and z of a dense layer by hand, the gradient of z, and a layer in a loop that cannot be followed."""
    first, second = layers.Dense(4, activation="tanh"), layers.Dense(2)
    model = keras.Sequential([keras.Input([3]), first, layers.BatchNormalization(), second])
    x = RNG.standard_normal([5, 3]).astype("float32")
    found = {}

    @tf.function
    def traced(x):
        tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        with tape, recorded_calls([first, second], tape) as calls:
            f = model(x, training=False)
        found["layers"] = [layer for layer, _, _ in calls]
        return [(h, z, tape.gradient(f, z)) for _, h, z in calls]

    (h1, z1, d1), (h2, z2, d2) = traced(x)
    assert found["layers"] == [first, second] and "call" not in vars(first)
    np.testing.assert_array_equal(h1, x)
    np.testing.assert_allclose(z1, x @ first.kernel.numpy() + first.bias.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(z2, h2 @ second.kernel.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(d2, np.ones([5, 2]))
    slope = (1 - np.tanh(z1) ** 2) / np.sqrt(1 + 1e-3)  # batch norm at its start divides by that
    np.testing.assert_allclose(d1, slope * second.kernel.numpy().sum(axis=1), rtol=1e-4, atol=1e-6)


def test_a_model_that_is_a_function_of_each_sample_passes_and_stays_as_it_was():
    model = keras.Sequential([keras.Input([3]), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)])
    before = [v.numpy() for v in model.variables]
    check_inference(model, tf.constant(RNG.standard_normal([2, 3]), tf.float32))
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables, strict=True))
    assert not any("call" in vars(layer) for layer in model.layers)


def chain(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


class BatchMean(layers.Layer):
    def call(self, x):
        return x - tf.reduce_mean(x, 0, keepdims=True)


class Counter(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x


class InTrainingMode(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.head = layers.Dense(4), layer, layers.Dense(2)

    def call(self, x):
        return self.head(self.layer(self.first(x), training=True))


def two_outputs():
    inputs = keras.Input([5])
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])


def forced(layer):
    model = InTrainingMode(layer)
    model(np.ones([2, 5]))
    return model


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: forced(layers.BatchNormalization()), "BatchNormalization.*mixes the samples"),
        (lambda: chain([5], layers.Dense(2), BatchMean()), "BatchMean.*mixes the samples"),
        (lambda: forced(layers.Dropout(0.5)), "Dropout.*random"),
        (lambda: chain([5], Counter(), layers.Dense(2)), "count.*in inference mode"),
        (two_outputs, "one floating-point tensor"),
        (lambda: chain([5], layers.Activation("relu")), "no trainable weights"),
        (lambda: chain([5], layers.Dense(2, dtype="mixed_bfloat16")), "float32 or all float64"),
    ],
)
@pytest.mark.parametrize("n", [1, 4])
def test_refused(make, message, n):
    model = make()
    before = [v.numpy() for v in model.variables]
    with pytest.raises(ValueError, match=message):
        empirical_ntk(model, np.ones([n, 5], "float32"))
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables, strict=True))


def two_branches(x):
    return layers.Add()([layers.Dense(8)(x), layers.Dense(8, activation="relu")(x)])


@pytest.mark.parametrize("hidden", [two_branches, lambda x: layers.Dense(8, activation="tanh")(x)])
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_cotangents_wait_for_the_layers_above(hidden, outputs, float64, monkeypatch):
    """So that few are in memory at once; in a graph that still has an order."""
    seen = []
    monkeypatch.setattr(ntk, "hold_back", lambda *args: (hold_back(*args), seen.append(args)))
    x = keras.Input([3])
    model = keras.Model(x, layers.Dense(2)(layers.Dense(8, activation="relu")(hidden(x))))
    inputs = RNG.standard_normal([4, 3])
    got = empirical_ntk(model, inputs, outputs=outputs)
    wanted = full_jacobian_ntk(model, inputs)
    assert error(got, wanted if outputs == "full" else np.einsum("iaja->ij", wanted) / 2) < 1e-12

    ((_, cotangents, steps),) = seen
    before = {op: {t.op for t in op.inputs} | set(op.control_inputs) for op in cotangents[0].graph.get_operations()}
    order = {op: i for i, op in enumerate(graphlib.TopologicalSorter(before).static_order())}
    assert len(order) == len(before)
    waits = {cotangents[0].op}
    for op in sorted(before, key=order.get, reverse=True):
        waits |= before[op] if op in waits else set()
    for call, tensors in steps:
        assert all((t.op in waits) == (call > 0) for t in tensors)
