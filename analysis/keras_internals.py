"""Everything that the project takes from Keras' private parts, so that a new Keras can break one file only.

Measuring what happens inside any model needs three things that Keras 3 has no public way to: the layers at every depth,
a hook on a layer's call (PyTorch's forward hooks), and attributes on a model that Keras does not track.
requirements.txt has an upper bound on Keras for this reason; tests/analysis/test_keras_internals.py pins each
assumption and names the one that broke.
"""
import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras

_MISSING = object()


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


def keep_on(model: Callable, name: str, make: Callable):
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
