"""What happens inside a model's calls: each layer's input and output; and a refusal of models without an NTK."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from analysis import ntk_layers
from analysis.keras_internals import all_layers, has_sublayers, patched_activation, patched_calls


@contextlib.contextmanager
def recorded_calls(layers: list[keras.layers.Layer], tape: tf.GradientTape) -> Iterator[list[tuple]]:
    """Within it, every call of these layers appends [layer, h, z], z watched by the tape (None where it can't be).

    z is what the weights act on directly: before the activation, or a normalization's output. A weight that is read
    outside the layer's own calls (by another layer, or by the model itself) makes its layer unfollowable too.
    """
    graph = tf.compat.v1.get_default_graph()
    calls, readers = [], {}

    def reading(layer):
        handles = [graph.capture(w.value.handle) for w in ntk_layers.layer_weights(layer) if w is not None]
        return {id(op) for handle in handles for op in handle.consumers()}

    def recorder(layer, original):
        def call(inputs, *args, **kwargs):
            if tf.compat.v1.get_default_graph() is not graph:  # inside a loop or a function of its own
                calls.append((layer, None, None))
                return original(inputs, *args, **kwargs)
            before, seen = reading(layer), []
            inputs = tf.convert_to_tensor(inputs)
            dense = type(layer) is keras.layers.Dense

            def watched(activation):
                def watch(z):
                    z = _linear(inputs, z, tf.convert_to_tensor(layer.kernel)) if dense else z
                    seen.append(z)
                    tape.watch(z)
                    z = _passed_on(z)
                    return z if activation is None else activation(z)

                return watch

            with patched_activation(layer, watched) as has_activation:
                output = original(tf.stop_gradient(inputs) if dense else inputs, *args, **kwargs)
            if not has_activation:
                tape.watch(output)
                seen.append(output)
                output = _passed_on(output)
            readers.setdefault(id(layer), set()).update(reading(layer) - before)
            calls.append((layer, inputs, seen[0] if len(seen) == 1 else None))
            return output

        return call

    try:
        with patched_calls(layers, recorder):
            yield calls
    finally:
        for index, (layer, h, _) in enumerate(calls):
            if reading(layer) - readers.get(id(layer), set()):
                calls[index] = (layer, h, None)


@tf.custom_gradient
def _passed_on(z):
    """z, whose gradient is a tensor of its own.

    Two layers that are added have the same one, and TensorFlow 2.21 never lets go of a tensor, nor of its graph, that
    is the gradient of two sources of a tape.
    """
    return tf.identity(z), tf.identity


def _linear(x, z, kernel):
    """z, whose gradient in x is taken with a transposed copy of the kernel, in half the time of TensorFlow's own."""

    @tf.custom_gradient
    def output(x):
        def gradient(d):
            rows = tf.matmul(tf.reshape(d, [-1, kernel.shape[1]]), tf.transpose(kernel))
            return tf.reshape(rows, tf.shape(x))

        return tf.identity(z), gradient

    return output(x)


def hold_back(inputs: list[tf.Tensor], cotangents: list[tf.Tensor], steps: list[tuple[int, list[tf.Tensor]]]) -> None:
    """Within a graph: the backward passes go below a call only when the calls above it have been used and can be freed.

    Args:
        inputs, cotangents: tensors h and df/dz of the calls, in the order of the calls.
        steps: [(call, tensors), ...] with falling calls; the tensors need the inputs, and the cotangents of no call
            before this one.

    Without it TensorFlow runs the cheap backward passes first, and every call's cotangents are in memory at once.
    An operation that leads to the cotangents of calls up to i alone waits for the last step with a call above i: what
    it waits for never needs it, whatever the graph's shape.
    """

    def ancestors(op, known):
        new, found = [], [op]
        while found:
            op = found.pop()
            if op not in known:
                known.add(op)
                new.append(op)
                found += [t.op for t in op.inputs]
        return new

    seen = set()
    for h in inputs:
        ancestors(h.op, seen)  # the forward pass
    highest = {}  # operation of the backward passes -> highest call whose cotangents it leads to
    for i in reversed(range(len(cotangents))):
        highest |= dict.fromkeys(ancestors(cotangents[i].op, seen), i)
    for op, call in highest.items():
        above = [tensors for first, tensors in steps if first > call]
        enters = any(highest.get(t.op) != call for t in op.inputs)
        # Constant folding breaks on integers (shapes) that wait.
        if above and enters and op.outputs[0].dtype.is_floating:
            op._add_control_inputs([t.op for t in above[-1]])


def check_inference(model: Callable, x: tf.Tensor | list | dict) -> None:
    """Refuses, by the name of the layer at fault, a model whose inference is random, stateful, or mixes samples."""
    x = tf.nest.map_structure(lambda a: tf.concat([a[:1], a[-1:]], 0), x)
    state = [(v, v.numpy()) for v in model.variables]
    output, first = layer_outputs(model, x)
    if not tf.is_tensor(output) or len(output.shape) < 2 or not output.dtype.is_floating:
        raise ValueError(
            f"model {model.name!r} must return one floating-point tensor [n, ...]; received {type(output).__name__} "
            f"{getattr(output, 'shape', '')}."
        )
    # Four repeats: a dropout mask over a handful of units is the same twice by chance often enough.
    repeats = [layer_outputs(model, x)[1] for _ in range(4)]
    rng = np.random.default_rng(0)
    other = layer_outputs(model, tf.nest.map_structure(lambda a: with_another_second(a, rng), x))[1]
    changed = [v for v, value in state if not np.array_equal(v.numpy(), value, equal_nan=True)]
    for v, value in state:
        v.assign(value)
    for again in repeats:
        refuse_differing(first, again, slice(None), "is random in inference mode")
    refuse_differing(first, other, slice(1), "mixes the samples of a batch in inference mode")
    if changed:
        raise ValueError(
            f"the model changes its variable {changed[0].path!r} in inference mode; "
            "only stateless inference has an NTK."
        )


def layer_outputs(model: Callable, x: tf.Tensor | list | dict) -> tuple[object, list[tuple]]:
    """(the model's output in inference, [(layer, tensor)] of what every layer without sublayers and the model return).
    """
    leaves, seen = [layer for layer in all_layers(model) if not has_sublayers(layer)] or [model], []

    def spy(layer, original):
        def call(*args, **kwargs):
            output = original(*args, **kwargs)
            seen.extend((layer, t) for t in tf.nest.flatten(output) if tf.is_tensor(t) and hasattr(t, "numpy"))
            return output

        return call

    with patched_calls(leaves, spy):
        output = model(x, training=False)
    return output, [*seen, (model, output)]


def with_another_second(a: tf.Tensor, rng: np.random.Generator) -> tf.Tensor:
    """Two samples [2, ...] with another one in place of the second, far from the first."""
    first = a[:1]
    if a.dtype.is_floating:
        second = first + (1 + tf.reduce_max(tf.abs(first))) * tf.constant(rng.standard_normal(first.shape), a.dtype)
    else:
        second = tf.reverse(first, [len(a.shape) - 1]) if len(a.shape) > 1 else a[-1:]
    return tf.concat([first, second], 0)


def refuse_differing(first: list[tuple], again: list[tuple], rows: slice, fault: str) -> None:
    """ValueError where the outputs [2, ...] of a layer differ between two passes in these rows; fault: what it does."""
    for (layer, a), (_, b) in zip(first, again, strict=False):
        batch = len(a.shape) and a.shape[0] == 2
        if batch and not np.allclose(a[rows], b[rows], rtol=1e-5, atol=0, equal_nan=True):
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) {fault}, "
                "so that the outputs of one sample are no function of that sample alone."
            )
