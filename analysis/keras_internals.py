"""Everything that the project takes from Keras' private parts, so that a new Keras can break one file only.

Measuring what happens inside any model needs three things that Keras 3 has no public way to: the layers at every depth,
a hook on a layer's call (PyTorch's forward hooks), and attributes on a model that Keras does not track. Letting go of
graphs needs two of TensorFlow: its register of gradients and its cache of compiled graphs.
requirements.txt has an upper bound on Keras for this reason; tests/analysis/test_keras_internals.py pins each
assumption and names the one that broke.
"""
import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context

_MISSING = object()
# What compile, fit, evaluate and predict set on a model: no part of the function that the model is.
_TRAINER = {
    "compiled", "history", "loss", "optimizer", "predict_function", "steps_per_execution", "stop_evaluating",
    "stop_predicting", "stop_training", "test_function", "train_function", "unrolled_steps_per_execution",
}  # fmt: skip


def all_layers(model: keras.layers.Layer, *, include_self: bool = False, recursive: bool = True) -> list:
    """The layers inside a model or layer, each once, outer ones before those inside them.

    include_self: `model` itself first.  recursive: layers at every depth; if not, the direct ones only.
    Public is Model.layers, which has direct layers only, and none of those that a layer (a TimeDistributed, say) holds.
    """
    return list(model._flatten_layers(include_self=include_self, recursive=recursive))


def has_sublayers(layer: keras.layers.Layer) -> bool:
    """Does it hold layers of its own?  Public only for models (Model.layers), not for layers."""
    return bool(list(layer._layers))


def calls_of(model: keras.Model, layer: keras.layers.Layer) -> list[list]:
    """Output tensors of every call of `layer` that the functional or Sequential `model` makes itself, one list for each
    call.

    Public is layer.output, of the layer's first call anywhere, perhaps in another model. A Sequential model keeps its
    graph in a functional model of its own, `_functional`.
    """
    graph = getattr(model, "_functional", None) or model
    nodes = [node for depth in graph._nodes_by_depth.values() for node in depth]
    return [list(node.outputs) for node in nodes if node.operation is layer]


def structure(model: keras.Model) -> list:
    """What a graph that was traced of this model depends on beside the variables' values, to be compared with ==.

    Trained weights, plain attributes and functions (an activation, say) of every layer, and how often each was called
    to build a model. Compiling and fitting change nothing of it.
    """
    plain = (bool, int, float, str, tuple, type(None))
    result = [tuple(id(v) for v in model.trainable_variables)]
    for layer in all_layers(model, include_self=True):
        attributes = (
            (key, value if isinstance(value, plain) else id(value))
            for key, value in vars(layer).items()
            if (isinstance(value, plain) or callable(value))
            and not key.startswith("_")
            and not (layer is model and key in _TRAINER)
        )
        result.append((id(layer), len(layer._inbound_nodes), *attributes))
    return result


@contextlib.contextmanager
def patched_calls(layers: Iterable, wrap: Callable) -> Iterator[None]:
    """Within it every call of these layers goes through wrap(layer, call), a function in place of the layer's own
    `call`.

    An instance's attribute goes before its class' method, and Keras looks `call` up anew on every call; it is set in
    the layer's `vars`, past Keras' attribute tracking, which costs time and locks built layers. Ends with what was
    there before, also after an exception. Keras has no hooks; a model of intermediate outputs is public, but for
    functional models only.
    """
    before = []
    try:
        for layer in layers:
            before.append((layer, vars(layer).get("call", _MISSING)))
            vars(layer)["call"] = wrap(layer, layer.call)
        yield
    finally:
        for layer, call in reversed(before):
            if call is _MISSING:
                vars(layer).pop("call", None)
            else:
                vars(layer)["call"] = call


@contextlib.contextmanager
def patched_activation(layer: keras.layers.Layer, wrap: Callable) -> Iterator[bool]:
    """Within it the layer's `activation` is wrap(activation), where activation may be None; yields whether the layer
    has one.

    Assigning layer.activation is public, but leaves the new one behind in the layer's tracking; here nothing is left.
    """
    if "activation" not in vars(layer):
        yield False
        return
    activation = vars(layer)["activation"]
    vars(layer)["activation"] = wrap(activation)
    try:
        yield True
    finally:
        vars(layer)["activation"] = activation


def keep_on(model: Callable, name: str, make: Callable) -> Any:
    """model.<name>, which is make() when it is not there yet; made anew every time for what takes no attributes.

    For compiled graphs, which should live as long as their model. Set past Keras' attribute tracking, which would turn
    a dict into one of its own and put a tf.function into the model's exports. A WeakKeyDictionary beside the model
    would never let go: the graph that it holds refers to the model.
    """
    if not hasattr(model, name):
        value = make()
        try:
            object.__setattr__(model, name, value)
        except (AttributeError, TypeError):  # a bound method
            return value
    return getattr(model, name)


def graphs_of(model: keras.Model, name: str) -> dict:
    """model.<name>, a dict for graphs of the model by a key of their own; empty after a change of `structure`."""
    kept, now = keep_on(model, name, dict), structure(model)
    if kept.get("structure") != now:
        kept.clear()
        kept.update(structure=now, graphs={})
    return kept["graphs"]


@contextlib.contextmanager
def releasable_graphs() -> Iterator[None]:
    """Graphs that are traced within it can be released, whatever tf.custom_gradient did in them.

    TensorFlow registers the gradient of each call of such a function under a name of its own, as long as the process
    lives, and the gradient holds the graph. Keras' optimizers call one in every training step, and analysis/ntk.py one
    for each dense layer: 5 MiB of graphs for each network of a grid never came back. Here the graph holds the gradient
    and the register only looks it up there.
    """
    register = tf.RegisterGradient.__call__

    def register_weakly(self, gradient):
        if not self._op_type.startswith("CustomGradient-"):
            return register(self, gradient)
        graph = tf.compat.v1.get_default_graph()
        graph._custom_gradients = [*getattr(graph, "_custom_gradients", ()), gradient]
        lookup = weakref.ref(gradient)
        register(self, lambda *arguments: lookup()(*arguments))
        return gradient

    tf.RegisterGradient.__call__ = register_weakly
    try:
        yield
    finally:
        tf.RegisterGradient.__call__ = register


def empty_compiled() -> None:
    """Empty TensorFlow's cache of compiled graphs; one that is called again is compiled again.

    Public is keras.backend.clear_session alone, which also takes back what a person has set around a run, such as the
    dtype policy or a scope.
    """
    context.context().clear_kernel_cache()
