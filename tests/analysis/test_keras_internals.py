"""analysis/keras_internals.py: each private part of Keras that is relied on, pinned by itself.

A failure here after a change of Keras names the assumption that broke; look there before anything else.
"""
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis.keras_internals import (
    all_layers,
    calls_of,
    empty_compiled,
    has_sublayers,
    keep_on,
    patched_activation,
    patched_calls,
    releasable_graphs,
    structure,
)  # fmt: skip

X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)


class Block(layers.Layer):
    """A user's own layer around another one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(3, name="inner_dense")

    def call(self, x):
        return self.inner(x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(name="block"), layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.block(x))


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="head")(Block(name="block")(inputs)))


def sequential():
    return keras.Sequential([keras.Input((4,)), Block(name="block"), layers.Dense(2, name="head")])


def nested():
    """A Sequential model inside a functional one."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Activation("linear", name="end")(sequential()(inputs)))


def subclassed():
    model = Subclassed()
    model(X)
    return model


MODELS = {"functional": functional, "sequential": sequential, "nested": nested, "subclassed": subclassed}


def find(model, name):
    return next(layer for layer in all_layers(model) if layer.name == name)


# -- layers


def test_keras_still_has_the_private_attributes():
    model = functional()
    assert isinstance(model._layers, list) and isinstance(find(model, "block")._layers, list)
    assert callable(model._flatten_layers) and isinstance(model._nodes_by_depth, dict)
    assert isinstance(sequential()._functional, keras.Model)
    node = next(iter(model._nodes_by_depth.values()))[0]
    assert hasattr(node, "operation") and hasattr(node, "outputs")


@pytest.mark.parametrize("kind", MODELS)
def test_layers_of_every_depth_are_found_once_and_outer_ones_first(kind):
    model = MODELS[kind]()
    found = all_layers(model)
    names = [layer.name for layer in found]
    assert {"block", "inner_dense", "head"} <= set(names) and len({id(layer) for layer in found}) == len(found)
    assert names.index("block") < names.index("inner_dense") and model not in found
    assert [layer.name for layer in all_layers(model, include_self=True)] == [model.name, *names]
    direct = {layer.name for layer in all_layers(model, recursive=False)}
    assert "inner_dense" not in direct and direct >= {layer.name for layer in model.layers}
    assert has_sublayers(model) and has_sublayers(find(model, "block")) and not has_sublayers(find(model, "head"))


def test_a_layer_inside_a_wrapper_and_one_that_is_shared():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, shared(layers.TimeDistributed(shared)(inputs)))
    assert [layer.name for layer in all_layers(model)].count("shared") == 1 and "shared" in {
        v.name for v in model.layers
    }


def test_the_calls_of_a_layer_are_those_of_this_model():
    shared, inputs = layers.Dense(4), keras.Input((4,))
    first = keras.Model(inputs, shared(inputs))
    second = keras.Model(inputs, shared(shared(inputs)))
    assert len(calls_of(first, shared)) == 1 and len(calls_of(second, shared)) == 2
    assert calls_of(first, layers.Dense(4)) == []
    ((output,),) = calls_of(first, shared)
    assert output is first.outputs[0]
    model = sequential()
    ((output,),) = calls_of(model, model.layers[-1])
    np.testing.assert_array_equal(keras.Model(model.inputs[0], output)(X), model(X))


# -- hooks


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("traced", [False, True])
def test_a_patched_call_is_the_one_that_the_model_makes(kind, traced):
    model = MODELS[kind]()
    before = model(X).numpy()
    seen = []

    def double(layer, call):
        def wrapped(x, *args, **kwargs):
            seen.append((layer.name, tuple(x.shape)))
            return 2 * call(x, *args, **kwargs)

        return wrapped

    head, inner = find(model, "head"), find(model, "inner_dense")
    attributes = set(vars(head))
    with patched_calls([head, inner], double):
        run = tf.function(lambda x: model(x, training=False)) if traced else lambda x: model(x, training=False)
        np.testing.assert_allclose(run(X), 4 * before, rtol=1e-6)  # biases are 0
    assert seen == [("inner_dense", (2, 4)), ("head", (2, 3))]
    np.testing.assert_array_equal(model(X), before)
    assert set(vars(head)) == attributes and len(seen) == 2


def test_patches_end_with_what_was_there_before_after_exceptions_too():
    model = functional()
    before, head, block = model(X).numpy(), find(model, "head"), find(model, "block")

    def refuse(layer, call):
        if layer is block:
            raise RuntimeError("while patching")
        return call

    with pytest.raises(RuntimeError, match="while patching"), patched_calls([head, block], refuse):
        pass
    assert "call" not in vars(head) and "call" not in vars(block)

    def fail(layer, call):
        def wrapped(*args, **kwargs):
            raise KeyError("within a call")

        return wrapped

    def same(layer, call):
        return lambda *args, **kwargs: call(*args, **kwargs)

    with patched_calls([head], same):
        outer = vars(head)["call"]
        with pytest.raises(KeyError, match="within a call"), patched_calls([head], fail):
            model(X)
        assert vars(head)["call"] is outer  # patches nest
        np.testing.assert_array_equal(model(X), before)
    assert "call" not in vars(head)
    np.testing.assert_array_equal(model(X), before)


@pytest.mark.parametrize("make", [lambda: layers.Dense(3, activation="tanh"), lambda: layers.Dense(3)])
def test_a_patched_activation_sees_what_the_weights_give(make):
    """A layer without an activation keeps `linear`, or None: the function that is patched in must take either."""
    dense = make()
    model = keras.Sequential([keras.Input((4,)), dense])
    before, activation, seen = model(X).numpy(), dense.activation, []

    def watched(activation):
        def watch(z):
            seen.append(z)
            return z if activation is None else activation(z)

        return watch

    with patched_activation(dense, watched) as has_activation:
        assert has_activation
        np.testing.assert_array_equal(model(X), before)
    np.testing.assert_allclose(seen[0], X @ dense.kernel.numpy(), rtol=1e-5, atol=1e-6)
    assert dense.activation is activation
    with pytest.raises(RuntimeError), patched_activation(dense, watched):
        raise RuntimeError
    assert dense.activation is activation and len(seen) == 1
    with patched_activation(layers.BatchNormalization(), watched) as has_activation:
        assert not has_activation


@pytest.mark.parametrize("make", [
    lambda: layers.Dense(3, activation="tanh"), lambda: layers.Conv2D(3, 2, activation="tanh"),
    lambda: layers.DepthwiseConv2D(2, activation="tanh"),
    lambda: layers.EinsumDense("abcd,de->abce", (4, 4, 3), activation="tanh"),
])  # fmt: skip
def test_layers_with_weights_keep_their_activation_where_it_can_be_patched(make):
    layer = make()
    x = np.ones((2, 4, 4, 2), "float32")
    before = layer(x).numpy()
    with patched_activation(layer, lambda activation: lambda z: 2 * activation(z)) as has_activation:
        assert has_activation
        np.testing.assert_allclose(layer(x), 2 * before, rtol=1e-6)


# -- attributes


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_kept_on_a_model_is_made_once_and_is_no_part_of_it(kind, tmp_path):
    model, made = MODELS[kind](), []
    weights, state = len(model.weights), [layer.name for layer in all_layers(model)]

    def make():
        made.append({"function": tf.function(lambda x: model(x))})
        return made[-1]

    first = keep_on(model, "_kept_for_a_test", make)
    assert keep_on(model, "_kept_for_a_test", make) is first is made[0] and len(made) == 1
    assert type(model._kept_for_a_test) is dict  # Keras would have made a tracked dictionary of it
    first["function"](X)
    assert len(model.weights) == weights and [layer.name for layer in all_layers(model)] == state
    if kind not in ("subclassed", "nested"):  # whose own classes Keras cannot clone here
        copy = keras.models.clone_model(
            model, clone_function=lambda layer: layer.__class__.from_config(layer.get_config())
        )
        assert not hasattr(copy, "_kept_for_a_test")
    model.save(tmp_path / "net.keras")


def test_what_is_kept_goes_with_its_model():
    def used():
        model = functional()
        keep_on(model, "_kept_for_a_test", lambda: tf.function(lambda x: model(x)))(X)
        return weakref.ref(model)

    watcher = used()
    gc.collect()
    assert watcher() is None


def test_functions_can_keep_things_and_bound_methods_cannot():
    def function(x):
        return x

    assert keep_on(function, "kept", list) is keep_on(function, "kept", list)
    bound = functional().predict
    assert keep_on(bound, "kept", list) is not keep_on(bound, "kept", list)


# -- graphs that are released


def traced_with_custom_gradient():
    """(a weak reference to the graph of f(x) = 2 x with a gradient of 5, the traced f)."""

    @tf.custom_gradient
    def double(x):
        return 2 * x, lambda d: 5 * d

    function = tf.function(lambda x: double(x))
    return weakref.ref(function.get_concrete_function(tf.TensorSpec([], tf.float32)).graph), function


def test_tensorflow_never_lets_go_of_a_graph_with_a_custom_gradient_and_here_it_does():
    held = traced_with_custom_gradient()[0]
    with releasable_graphs():
        released = traced_with_custom_gradient()[0]
    gc.collect()
    assert held() is not None  # once this fails, releasable_graphs is not needed any more
    assert released() is None


def test_a_custom_gradient_is_found_as_long_as_its_graph_lives():
    with releasable_graphs():
        _, function = traced_with_custom_gradient()
    gc.collect()
    x = tf.constant(3.0)
    for persistent in (False, True):
        with tf.GradientTape(persistent=persistent) as tape:
            tape.watch(x)
            y = function(x)
        assert (float(y), float(tape.gradient(y, x))) == (6.0, 5.0)
    outer = tf.function(lambda x: tf.gradients(function(x), x)[0])  # looks the gradient up by its name
    assert float(outer(x)) == 5.0


def test_other_gradients_are_registered_as_ever():
    before = tf.RegisterGradient.__call__
    with pytest.raises(KeyError, match="MatMul"), releasable_graphs():
        tf.RegisterGradient("MatMul")(lambda op, d: d)
    assert tf.RegisterGradient.__call__ is before


# -- what a traced graph depends on


def test_compiling_and_training_leave_the_structure_and_edits_do_not():
    model = functional()
    before = structure(model)
    for _ in range(2):
        model.compile("sgd", "mse", steps_per_execution=2)
        model.fit(X, X[:, :2], verbose=0, epochs=2, shuffle=False)
        model.evaluate(X, X[:, :2], verbose=0)
        model.predict(X, verbose=0)
        assert structure(model) == before
    model.layers[-1].activation = keras.activations.tanh
    edited = structure(model)
    assert edited != before
    model.layers[-1].trainable = False
    assert structure(model) != edited
    frozen = structure(model)
    model(keras.Input((4,)))
    assert structure(model) != frozen


def test_emptying_what_was_compiled_leaves_functions_and_what_a_person_has_set():
    def draw():  # by an operation that counts its calls as long as it stays compiled
        return tf.raw_ops.RandomStandardNormal(shape=[3], dtype=tf.float32, seed=1, seed2=2).numpy()

    double = tf.function(lambda x: 2 * x)
    x = tf.constant([1.0, 2.0])
    before = double(x).numpy()
    with keras.saving.custom_object_scope({"double": double}):
        empty_compiled()
        first, second = draw(), draw()
        empty_compiled()
        assert np.array_equal(draw(), first) and not np.array_equal(second, first)
        assert keras.saving.get_registered_object("double") is double
    assert np.array_equal(double(x), before) and double.experimental_get_tracing_count() == 1
