"""What is the exact empirical (finite-width) neural tangent kernel of a Keras model?

    Theta[i, a, j, b] = sum_p  df_a(x_i)/dtheta_p  df_b(x_j)/dtheta_p      (Jacot, Gabriel, Hongler 2018)

over the model's trainable weights, with the model in inference mode. The Jacobian is not formed: the forward pass
records every layer's input h, k backward passes at once give the cotangents d = df/dz of every layer's output, and each
layer's part follows from h and d (see ntk_layers). Weights of all other layers (embeddings, recurrent or user-made
ones, weights shared between layers) add the product of their exact Jacobians.
"""

import itertools
import math
import os
import weakref

import keras
import numpy as np
import tensorflow as tf

from analysis import ntk_layers
from analysis.keras_internals import all_layers, releasable_graphs, structure
from analysis.ntk_calls import check_inference, hold_back, recorded_calls

Inputs = np.ndarray | list | dict  # what a model takes: an array, or arrays by position or name
BLOCK_BYTES = 3 * 2**29  # recorded inputs and cotangents of one block of samples, when block_size is not given
# model -> (fingerprint, _Recording): traced once, as long as the model stays the same
_RECORDED = weakref.WeakKeyDictionary()


def empirical_ntk(
    model: keras.Model, x1: Inputs, x2: Inputs | None = None, *, outputs: str = "full", block_size: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Empirical NTK of a Keras model, exact to rounding in the model's precision.

    Args:
        model: a built Keras model with one output [n, ...] (flattened to k outputs), whose weights are all float32 or
            all float64. Weights that are not trainable do not count. Always run with training=False.
        x1: inputs [n1, ...] (an array, or the list or dict of arrays that the model takes).
        x2: inputs [n2, ...]; None stands for x1, and only half of the pairs is then computed.
        outputs: "full" for Theta [n1, k, n2, k]; "trace" for sum_a Theta[i, a, j, a] / k, [n1, n2].
        block_size: samples per block. Memory grows with it, operations fall; None chooses it from the layers' shapes.

    Returns:
        float64 array, [n1, k, n2, k] or [n1, n2]; exactly symmetric when x2 is None.

    Raises:
        ValueError: for a model that mixes samples in inference mode, is random or changes its own variables in it, has
            no trainable weight, several outputs, or weights of other types; for x1, x2, outputs or block_size out of
            range.
        MemoryError: when the kernel itself does not fit into the machine's memory.

    Source: Jacot et al. 2018 (definition); Novak et al. 2022, "Fast finite width neural tangent kernel" (layer-wise
    contraction).
    """
    if outputs not in ("full", "trace"):
        raise ValueError(f"outputs must be 'full' or 'trace'; received {outputs!r}.")
    if block_size is not None and (not isinstance(block_size, int | np.integer) or block_size < 1):
        raise ValueError(f"block_size must be a positive integer or None; received {block_size!r}.")
    recording = _recording(model, x1)
    x1 = recording.inputs(x1, "x1")
    same = x2 is None
    x2 = x1 if same else recording.inputs(x2, "x2")
    n1, n2, k = _length(x1), _length(x2), recording.outputs
    _check_memory(n1, n2, k if outputs == "full" else 1)

    rows = k if outputs == "full" else 1
    out = np.empty([n1 * rows, n2 * rows])
    size = block_size or max(1, BLOCK_BYTES // recording.bytes_per_sample)
    if not block_size and not (same and size >= n1):
        size = max(1, size // 2)  # two blocks are held at a time
    blocks1 = _blocks(n1, size)
    blocks2 = blocks1 if same else _blocks(n2, size)
    diagonals = []
    for index, (i0, i1) in enumerate(blocks1):
        left = _take(x1, i0, i1) if same and len(blocks1) == 1 else recording.factors(_take(x1, i0, i1))
        for j0, j1 in blocks2[index:] if same else blocks2:
            diagonal = same and j0 == i0
            if len(blocks1) == 1 and same:
                parts = recording.kernel(left, outputs == "trace")
            else:
                right = None if diagonal else recording.factors(_take(x2, j0, j1))
                parts = recording.contract(left, right, outputs == "trace")
            for part, (a, b, c) in zip(parts, ntk_layers.strips_of(i1 - i0, j1 - j0, rows, diagonal), strict=True):
                out[(i0 + a) * rows : (i0 + b) * rows, (j0 + c) * rows : j1 * rows] = part
                diagonals += [((i0 + a) * rows, (i0 + b) * rows)] if diagonal else []
    if outputs == "trace":
        out /= k
    for start, stop in diagonals:
        out[stop:, start:stop] = out[start:stop, stop:].T
        out[start:stop, start:stop] += out[start:stop, start:stop].T.copy()
        out[start:stop, start:stop] *= 0.5
    return out if outputs == "trace" else out.reshape(n1, k, n2, k)


def ntk_vector_product(
    model: keras.Model, x: Inputs, v: np.ndarray, *, block_size: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Theta v = J (J' v) without forming Theta: one backward and one forward-mode pass a block of samples.

    Args:
        model, x: as in empirical_ntk.
        v: [n, k], a vector over samples and outputs.
        block_size: samples per pass; None takes all at once.

    Returns:
        Theta v as a float64 array [n, k]; the passes themselves run in the model's precision.

    Raises:
        ValueError: as empirical_ntk, and for v of another shape.
    """
    recording = _recording(model, x)
    x = recording.inputs(x, "x")
    n, k = _length(x), recording.outputs
    v = np.asarray(v)
    if v.shape != (n, k):
        raise ValueError(f"v must have one entry per sample and output, shape {(n, k)}; received shape {v.shape}.")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be a positive integer or None; received {block_size!r}.")
    v = tf.convert_to_tensor(v, recording.dtype)
    blocks = _blocks(n, block_size or n)
    direction = None
    for start, stop in blocks:
        part = recording.pull_back(_take(x, start, stop), v[start:stop])
        direction = part if direction is None else [a + b for a, b in zip(direction, part, strict=True)]
    return np.concatenate(
        [recording.push_forward(_take(x, *block), direction).numpy() for block in blocks]
    ).astype(np.float64)


class _Recording:
    """One traced pass over a model that returns each layer's inputs and output cotangents."""

    def __init__(self, model, x):
        trainable = {id(v): v for v in model.trainable_variables}
        if not trainable:
            raise ValueError(f"model {model.name!r} has no trainable weights, so its NTK is empty.")
        dtypes = {keras.backend.standardize_dtype(v.dtype) for v in trainable.values()}
        dtypes |= {layer.compute_dtype for layer in all_layers(model) if layer.weights}
        if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
            raise ValueError(
                f"the layers of model {model.name!r} must all be float32 or all float64; received {sorted(dtypes)}."
            )
        self.model = weakref.ref(model)
        self.dtype = dtypes.pop()
        self.layers = [
            layer
            for layer in all_layers(model)
            if ntk_layers.layer_kind(layer)
            and any(id(w) in trainable for w in ntk_layers.layer_weights(layer) if w is not None)
        ]
        x = self.inputs(x, "x1")
        check_inference(model, _take(x, 0, 2))
        signature = tf.nest.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), x)
        with releasable_graphs():
            self.pass_ = tf.function(self._pass, input_signature=[signature]).get_concrete_function()
        mine = {id(w) for layer in self.layers for w in ntk_layers.layer_weights(layer) if w is not None}
        self.others = [v for key, v in trainable.items() if key not in mine]
        self.graphs = {}
        recorded = sum(
            math.prod(d or 1 for d in t.shape[1 if i % 2 == 0 else 2 :]) * (1 if i % 2 == 0 else self.outputs)
            for i, t in enumerate(self.pass_.structured_outputs)
        )
        others = self.outputs * sum(math.prod(v.shape) for v in self.others)
        self.bytes_per_sample = tf.as_dtype(self.dtype).size * (2 * recorded + others) + 1

    def inputs(self, x, name):
        def convert(array):
            array = np.asarray(array)
            if array.ndim < 1 or not len(array):
                raise ValueError(f"{name} must hold at least one sample; received shape {array.shape}.")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite; received NaN or infinity.")
            return tf.convert_to_tensor(array.astype(self.dtype) if array.dtype.kind == "f" else array)

        x = tf.nest.map_structure(convert, x)
        if len({len(a) for a in tf.nest.flatten(x)}) != 1:
            raise ValueError(
                f"all arrays of {name} must have the same number of samples; "
                f"received {[len(a) for a in tf.nest.flatten(x)]}."
            )
        return x

    def _pass(self, x):
        """Traced: [h, d, h, d, ...] over the calls in self.calls; drops layers whose weights are also used elsewhere.
        """
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            with recorded_calls(self.layers, tape) as calls:
                f = self.model()(x, training=False)
            f = tf.reshape(f, [tf.shape(f)[0], math.prod(f.shape[1:])])
        self.outputs = f.shape[1]
        sources = {key: z for key, (_, _, z) in enumerate(calls) if z is not None}
        reach = dict(zip(sources, tape.gradient(f, list(sources.values())), strict=True)) if sources else {}
        lost = {id(layer) for key, (layer, _, _) in enumerate(calls) if reach.get(key) is None}
        self.layers = [
            layer for layer in self.layers if id(layer) not in lost and id(layer) in {id(c[0]) for c in calls}
        ]
        kept = [(layer, h, z) for layer, h, z in calls if id(layer) not in lost]
        self.calls = [next(i for i, other in enumerate(self.layers) if other is layer) for layer, _, _ in kept]
        if not kept:
            return []

        def backward(seed):
            return tape.gradient(f, [z for _, _, z in kept], output_gradients=tf.broadcast_to(seed, tf.shape(f)))

        seeds = tf.eye(self.outputs, dtype=f.dtype)
        cotangents = [d[None] for d in backward(seeds[0])] if self.outputs == 1 else tf.vectorized_map(backward, seeds)
        return [t for (_, h, _), d in zip(kept, cotangents, strict=True) for t in (h, d)]

    def _jacobian(self, x):
        """Traced: Jacobian rows [n, k, q] of the weights that no recorded layer accounts for, one sample at a time."""

        def sample(x):
            x = tf.nest.map_structure(lambda a: a[None], x)

            def row(seed):
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([v.value for v in self.others])
                    f = tf.reshape(self.model()(x, training=False), [1, self.outputs])
                gradients = tape.gradient(f, [v.value for v in self.others], seed[None], unconnected_gradients="zero")
                return tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)

            return tf.map_fn(row, tf.eye(self.outputs, dtype=self.dtype))

        return tf.map_fn(sample, x, fn_output_signature=self.dtype)

    def _factors(self, x, inline=False):
        """Traced: [h, d, h, d, ...] over the calls in self.calls, and the Jacobian of all other weights, if any."""
        flat = []
        if self.layers:
            flat = self._pass(x) if inline else list(self.pass_(*tf.nest.flatten(x)))
        flat += [self._jacobian(x)] if self.others else []
        for i, t in enumerate(flat):  # the pass knows no number of samples
            axis = int(i % 2 and i < 2 * len(self.calls))  # d [k, n, ...]
            t.set_shape([*t.shape[:axis], _length(x), *t.shape[axis + 1 :]])
        return flat

    def _contract(self, left, right, trace):
        """Traced: the kernel's parts, one layer after the other, whose arrays can go as soon as it is done.

        Also returns the steps [(first call of the layer, parts so far), ...], from the last layer to the first.
        """
        trainable = {id(v) for v in self.model().trainable_variables}
        sides = [left] if right is None else [left, right]
        n1, n2 = (side[0].shape[0] for side in (sides[0], sides[-1]))
        strips = ntk_layers.strips_of(n1, n2, 1 if trace else self.outputs, right is None)

        def rows_of(rows):  # trace form: outputs become further channels
            return tf.reshape(rows, [rows.shape[0], 1, -1]) if trace else rows

        def factors_of(h, d):
            k, n, s, o = d.shape
            return (h, tf.reshape(tf.transpose(d, [1, 2, 0, 3]), [1, n, s, k * o])) if trace else (h, d)

        parts, steps = None, []
        calls_of = [[i for i, other in enumerate(self.calls) if other == index] for index in range(len(self.layers))]
        for calls in sorted(calls_of, reverse=True):  # as the backward passes deliver them
            layer = self.layers[self.calls[calls[0]]]
            kernel, bias = (w is not None and id(w) in trainable for w in ntk_layers.layer_weights(layer))
            with tf.control_dependencies(parts or []):  # patches, too, are for one layer at a time
                sides_calls = [
                    [(tf.identity(side[2 * i]), tf.identity(side[2 * i + 1])) for i in calls] for side in sides
                ]
            if ntk_layers.layer_kind(layer) == "matmul":
                pairs = [factors_of(*ntk_layers.matmul_factors(layer, c)) for c in sides_calls]
                more = ntk_layers.matmul_parts(pairs[0], pairs[-1], strips, kernel, bias)
            else:
                rows = [rows_of(ntk_layers.jacobian_rows(layer, c, kernel, bias)) for c in sides_calls]
                more = ntk_layers.gram_parts(rows[0], rows[-1], strips)
            parts = ntk_layers.add_parts(parts, more)
            steps.append((calls[0], parts))
        if self.others:
            rows = [rows_of(side[-1]) for side in sides]
            parts = ntk_layers.add_parts(parts, ntk_layers.gram_parts(rows[0], rows[-1], strips))
        return parts, steps

    def _kernel(self, x, trace):
        """Traced: both at once, so that only a few layers' cotangents are held at a time."""
        factors = self._factors(x, inline=True)
        parts, steps = self._contract(factors, None, trace)
        flat = factors[: 2 * len(self.calls)]
        hold_back(flat[::2], flat[1::2], steps)
        return parts

    def kernel(self, x, trace):
        """Parts of the kernel of samples in one block: one graph from inputs to parts."""
        return self._traced("kernel", lambda x: self._kernel(x, trace), [x], trace)

    def factors(self, x):
        return self._traced("factors", self._factors, [x])

    def contract(self, left, right, trace):
        if right is None:
            return self._traced("contract", lambda left: self._contract(left, None, trace)[0], [left], trace)
        return self._traced("contract", lambda left, right: self._contract(left, right, trace)[0], [left, right], trace)

    def _pull_back(self, x, v):
        """Traced: J' v by parameter, for v [n, k]."""
        variables = [w.value for w in self.model().trainable_variables]
        with tf.GradientTape() as tape:
            f = tf.reshape(self.model()(x, training=False), [-1, self.outputs])
        gradients = tape.gradient(f, variables, v, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients]

    def _push_forward(self, x, direction):
        """Traced: J u [n, k] for a direction u by parameter.

        It is the derivative of u'(J' w) in w: reverse mode twice, which every operation with a gradient supports.
        """
        variables = [w.value for w in self.model().trainable_variables]
        with tf.GradientTape() as outer:
            w = tf.zeros([tf.shape(tf.nest.flatten(x)[0])[0], self.outputs], self.dtype)
            outer.watch(w)
            with tf.GradientTape() as inner:
                f = tf.reshape(self.model()(x, training=False), [-1, self.outputs])
            gradients = inner.gradient(f, variables, w, unconnected_gradients="zero")
            product = tf.add_n(
                [tf.reduce_sum(tf.convert_to_tensor(g) * u) for g, u in zip(gradients, direction, strict=True)]
            )
        return outer.gradient(product, w, unconnected_gradients="zero")

    def pull_back(self, x, v):
        return self._traced("pull back", self._pull_back, [x, v])

    def push_forward(self, x, direction):
        return self._traced("push forward", self._push_forward, [x, direction])

    def _traced(self, name, function, arguments, option=None):
        """The function as a graph, kept for each set of shapes."""
        key = (name, option, *(tuple(t.shape) for t in tf.nest.flatten(arguments)), len(arguments))
        if key not in self.graphs:
            if len(self.graphs) >= 16:
                self.graphs.clear()
            specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), arguments)
            with releasable_graphs():
                self.graphs[key] = tf.function(function).get_concrete_function(*specs)
        return self.graphs[key](*tf.nest.flatten(arguments))


def _recording(model, x):
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; received {type(model).__name__}.")
    if not model.built:
        model(tf.nest.map_structure(lambda a: tf.convert_to_tensor(np.asarray(a)[:1]), x), training=False)
    fingerprint = [
        tuple((tuple(np.shape(a)[1:]), np.asarray(a).dtype.kind) for a in tf.nest.flatten(x)),
        structure(model),
    ]
    cached = _RECORDED.get(model)
    if cached is None or cached[0] != fingerprint:
        cached = _RECORDED[model] = (fingerprint, _Recording(model, x))
    return cached[1]


def _length(x):
    return tf.nest.flatten(x)[0].shape[0]


def _take(x, start, stop):
    return tf.nest.map_structure(lambda a: a[start:stop], x)


def _blocks(n, size):
    count = -(-n // min(n, size))
    edges = [n * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def _check_memory(n1, n2, k):
    needed = 8 * n1 * k * n2 * k
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this platform
        return
    if needed > memory:
        raise MemoryError(
            f"the kernel [{n1}, {k}, {n2}, {k}] needs {needed / 2**30:.1f} GiB and this machine has "
            f"{memory / 2**30:.1f} GiB; take fewer samples, or outputs='trace'."
        )
