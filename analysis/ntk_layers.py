"""How much does one layer add to the empirical NTK?  Its Jacobian's Gram matrix, mostly without forming the Jacobian.

A layer whose call i is a sum over positions, z[s] = h[s] W + b (a dense layer, or a convolution on its patches), has
    df_a(x_i)/dW = sum_s h[i, s]' d[i, s, a],   df_a(x_i)/db = sum_s d[i, s, a],   d = df/dz,
with h [n, S, p] (S positions, p inputs each) and d [n, S, k, o] (o output channels), so that its part of the kernel is
    Theta[i, a, j, b] = sum_{s, t} (h[i, s].h[j, t] + 1) (d[i, s, a].d[j, t, b]).
`matmul_parts` has the three orders in which this sum can be taken and picks the one with the least work. Positions of
several calls of a shared layer are simply strung together along S, which adds the calls' Jacobians before the product.
Any other layer adds J J' of its Jacobian: `gram_parts`.
(Novak, Sohl-Dickstein, Schoenholz 2022, "Fast finite width neural tangent kernel", section 3, has the costs of such
orders.)

Everything here is traced into graphs for given shapes. Parts of the kernel are matrices [rows * k, columns * k], one
for each strip (first row, last row, first column): when both sides are the same samples, strips start on the diagonal,
and what lies below it is never computed.
"""

import itertools
import math

import keras
import tensorflow as tf

Factors = tuple[tf.Tensor, tf.Tensor]  # a side of a layer's kernel: inputs h and cotangents d
Strips = list[tuple[int, int, int]]  # first row, last row, first column
SCRATCH_BYTES = 2**25  # largest temporary of one contraction: small enough to stay in the cache where it can


def strips_of(n1: int, n2: int, k: int, same: bool) -> Strips:
    """Strips (start, stop, first column): a few row blocks of the upper half, or one strip for different samples."""
    if not same:
        return [(0, n1, 0)]
    # More save operations, yet make for skinny products.
    count = min(n1, 4 if n1 * k >= 800 else 2 if n1 * k >= 240 else 1)
    edges = [n1 * i // count for i in range(count + 1)]
    return [(start, stop, start) for start, stop in itertools.pairwise(edges)]


def gram_parts(left: tf.Tensor, right: tf.Tensor, strips: Strips) -> list[tf.Tensor]:
    """Parts of J1 J2' of Jacobian rows [n1, k, q] and [n2, k, q]."""
    k, q = left.shape[1:]
    left, right = tf.reshape(left, [-1, q]), tf.reshape(right, [-1, q])
    return [_outer(left[a * k : b * k], right[c * k :]) for a, b, c in strips]


def matmul_costs(pairs: int, samples: int, positions: tuple[int, int], k: int, p: int, o: int) -> dict[str, float]:
    """Work of the three orders for that many pairs: Jacobians, input Grams applied to cotangents, both Grams."""
    s1, s2 = positions
    gram = 2 * pairs * s1 * s2 * p
    return {
        "jacobian": 2 * p * o * k * samples * s1 + 2 * pairs * k * k * p * o,
        "applied_gram": gram + 2 * pairs * k * o * s1 * (APPLY * s2 + k),
        "both_grams": gram + 2 * pairs * (s1 * k) * (s2 * k) * (o + 4),
    }


APPLY = 2.0  # the applied Grams' many small products run at about half the rate of large ones


def matmul_parts(
    left: Factors, right: Factors, strips: Strips, kernel: bool = True, bias: bool = False, order: str | None = None
) -> list[tf.Tensor] | None:
    """Parts of a matmul layer's kernel; left and right are pairs (h [n, S, p], d [k, n, S, o])."""
    (h1, d1), (h2, d2) = left, right
    same = left is right
    k, n1, s1, o = d1.shape
    n2, s2, p = h2.shape
    pairs = sum((b - a) * (n2 - c) for a, b, c in strips)
    costs = matmul_costs(pairs, n1 + (0 if same else n2), (s1, s2), k, p, o)
    order = order or min(costs, key=costs.get)
    if not kernel or order == "jacobian":
        parts = _by_jacobians(left, right, strips) if kernel else None
        if bias:
            sums = _position_sums(d1)
            parts = add_parts(parts, gram_parts(sums, sums if same else _position_sums(d2), strips))
        return parts
    if order == "applied_gram":
        c1 = tf.transpose(d1, [1, 0, 2, 3])  # [n, k, S, o]
        c2 = c1 if same else tf.transpose(d2, [1, 0, 2, 3])
        step, scratch = _by_applied_gram, h1.dtype.size * k * s1 * max(o, s2)
    else:
        c1 = tf.reshape(tf.transpose(d1, [1, 2, 0, 3]), [n1, s1 * k, o])
        c2 = c1 if same else tf.reshape(tf.transpose(d2, [1, 2, 0, 3]), [n2, s2 * k, o])
        step, scratch = (_dense if s1 == s2 == 1 else _by_both_grams), 2 * h1.dtype.size * s1 * s2 * k * k
    parts = []
    for a, b, c in strips:
        columns = []
        for start, stop in [(c, n2)] if step is _dense else _chunks(c, n2, scratch * (b - a)):
            with tf.control_dependencies(columns[-1:] or parts[-1:]):  # one chunk at a time
                h = tf.reshape(tf.identity(h1[a:b]), [-1, p])
            gram = _outer(h, tf.reshape(h2[start:stop], [-1, p]))  # [rows * S, columns * S]
            columns.append(step(gram + 1 if bias else gram, c1[a:b], c2[start:stop], k))
        parts.append(columns[0] if len(columns) == 1 else tf.concat(columns, 1))
    return parts


def _outer(a, b):
    """a b' as a batch of one: TensorFlow's plain product with a transposed right factor takes twice as long (oneDNN).
    """
    return tf.matmul(a[None], b[None], transpose_b=True)[0]


def add_parts(parts: list[tf.Tensor] | None, more: list[tf.Tensor]) -> list[tf.Tensor]:
    return more if parts is None else [x + y for x, y in zip(parts, more, strict=True)]


def _position_sums(d):
    return tf.transpose(tf.reduce_sum(d, 2), [1, 0, 2])  # [n, k, o]


def _chunks(first, last, bytes_each):
    """Slices of range(first, last), about equally long; temporaries of bytes_each per item stay below the scratch size.
    """
    size = last - first
    count = min(size, math.ceil(size * bytes_each / SCRATCH_BYTES))
    return list(itertools.pairwise([first + size * i // count for i in range(count + 1)]))


def _by_jacobians(left, right, strips):
    (h1, d1), (h2, d2) = left, right
    k, n1, _, o = d1.shape
    n2, p = h2.shape[0], h2.shape[2]

    def jacobian(h, d, start, stop):
        n, s = h.shape[:2]
        d = tf.reshape(tf.transpose(d[..., start:stop], [1, 2, 0, 3]), [n, s, k * (stop - start)])
        return tf.reshape(tf.matmul(d, h, transpose_a=True), [n, k, (stop - start) * p])  # [n, k, o * p]

    parts = None
    for start, stop in _chunks(0, o, h1.dtype.size * max(n1, n2) * k * p):
        with tf.control_dependencies(parts or []):  # one chunk at a time
            one, two = tf.identity(d1), tf.identity(d2)
        rows = jacobian(h1, one, start, stop)
        parts = add_parts(parts, gram_parts(rows, rows if left is right else jacobian(h2, two, start, stop), strips))
    return parts


def _by_applied_gram(gram, c1, c2, k):
    """sum_{s, t} gram[i, s, j, t] c1[i, a, s].c2[j, b, t]; c1, c2 [n, k, S, o]."""
    (n1, _, s1, o), (n2, _, s2, _) = c1.shape, c2.shape
    gram = tf.transpose(tf.reshape(gram, [n1, s1, n2, s2]), [0, 2, 1, 3])
    applied = tf.matmul(gram[:, :, None], c2[None])  # [n1, n2, k, S, o]
    product = tf.matmul(tf.reshape(c1, [n1, k, s1 * o]), tf.reshape(applied, [n1, n2 * k, s1 * o]), transpose_b=True)
    return tf.reshape(product, [n1 * k, n2 * k])


def _by_both_grams(gram, c1, c2, k):
    """The same sum; c1, c2 [n, S * k, o]."""
    (n1, m1, o), (n2, m2, _) = c1.shape, c2.shape
    s1, s2 = m1 // k, m2 // k
    cotangents = _outer(tf.reshape(c1, [-1, o]), tf.reshape(c2, [-1, o]))
    product = tf.reshape(cotangents, [n1, s1, k, n2, s2, k]) * tf.reshape(gram, [n1, s1, 1, n2, s2, 1])
    return tf.reshape(tf.reduce_sum(product, [1, 4]), [n1 * k, n2 * k])


def _dense(gram, c1, c2, k):
    """The same with one position, laid out so that the elementwise product runs along whole rows."""
    (n1, _, o), n2 = c1.shape, c2.shape[0]
    cotangents = _outer(tf.reshape(c1, [-1, o]), tf.reshape(c2, [-1, o]))
    product = tf.reshape(cotangents, [n1, k, n2 * k]) * tf.repeat(gram, k, axis=1)[:, None]
    return tf.reshape(product, [n1 * k, n2 * k])


# What each layer is made of. `h` is the layer's input, `d` [k, n, *shape of z] its cotangents.


def _dense_factors(layer, h, d):
    n, p = h.shape[0], layer.kernel.shape[0]
    k, o = d.shape[0], d.shape[-1]
    return tf.reshape(h, [n, -1, p]), tf.reshape(d, [k, n, -1, o])


def _einsum_dense_axes(layer):
    """Numbers of contracted and of output axes of an EinsumDense that is a dense layer on the last axes, else None."""
    operands, _, result = layer.equation.replace(" ", "").partition("->")
    x, _, kernel = operands.partition(",")
    if "..." in layer.equation or len(set(x)) < len(x) or len(set(kernel)) < len(kernel):
        return None
    contracted = sum(axis not in result for axis in kernel)
    produced = len(kernel) - contracted
    positions = x[: len(x) - contracted]
    fits = (
        x == positions + kernel[:contracted] and result == positions + kernel[contracted:] and positions and contracted
    )
    bias_fits = layer.bias is None or tuple(layer.bias.shape) == tuple(layer.kernel.shape[contracted:])
    return (contracted, produced) if fits and bias_fits and not set(positions) & set(kernel) else None


def _einsum_dense_factors(layer, h, d):
    contracted, _ = _einsum_dense_axes(layer)
    n, k = h.shape[0], d.shape[0]
    p, o = math.prod(layer.kernel.shape[:contracted]), math.prod(layer.kernel.shape[contracted:])
    return tf.reshape(h, [n, -1, p]), tf.reshape(d, [k, n, -1, o])


def _conv_factors(layer, h, d):
    kernel_size, strides, dilation = (tuple(v) for v in (layer.kernel_size, layer.strides, layer.dilation_rate))
    n, k, o = h.shape[0], d.shape[0], d.shape[-1]
    if kernel_size == (1, 1):
        patches = h[:, :: strides[0], :: strides[1]]
    else:
        patches = tf.image.extract_patches(
            h, [1, *kernel_size, 1], [1, *strides, 1], [1, *dilation, 1], layer.padding.upper()
        )
    patches = tf.reshape(patches, [n, -1, math.prod(kernel_size) * h.shape[-1]])  # [n, S, kh * kw * in]
    return patches, tf.reshape(d, [k, n, -1, o])


def _channel_sums(layer, d):
    """Sum of d over all axes but the channel's: [n, k, channels]; and the axes, for the same sum of other arrays."""
    axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    axis = axis % (len(d.shape) - 1) + 1  # d has k in front
    others = [i for i in range(2, len(d.shape)) if i != axis]
    return lambda array: tf.transpose(tf.reduce_sum(array, others), [1, 0, 2])


def _normalized(layer, h):
    """What gamma multiplies."""
    if isinstance(layer, keras.layers.BatchNormalization):
        shape = [1] * len(h.shape)
        shape[layer.axis] = -1
        mean, variance = (
            tf.reshape(tf.cast(v.value, h.dtype), shape) for v in (layer.moving_mean, layer.moving_variance)
        )
    else:
        mean, variance = tf.nn.moments(h, layer.axis, keepdims=True)
    return (h - mean) * tf.math.rsqrt(variance + tf.cast(layer.epsilon, h.dtype))


def matmul_factors(layer: keras.layers.Layer, calls: list[Factors]) -> Factors:
    """The pair (h [n, S, p], d [k, n, S, o]) of a matmul layer, all its calls' positions strung together."""
    make = {keras.layers.Dense: _dense_factors, keras.layers.EinsumDense: _einsum_dense_factors}.get(
        type(layer), _conv_factors
    )
    h, d = zip(*[make(layer, h, d) for h, d in calls], strict=True)
    return (h[0], d[0]) if len(calls) == 1 else (tf.concat(h, 1), tf.concat(d, 2))


def jacobian_rows(layer: keras.layers.Layer, calls: list[Factors], kernel: bool, bias: bool) -> tf.Tensor:
    """A normalization's or grouped convolution's Jacobian [n, k, q], summed over calls; kernel may be gamma, bias beta.
    """
    total = 0
    for h, d in calls:
        rows = []
        k, n = d.shape[:2]
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
            channel_sums = _channel_sums(layer, d)
            if kernel:
                rows.append(channel_sums(d * _normalized(layer, h)))
            if bias:
                rows.append(channel_sums(d))
        else:
            patches, d = _conv_factors(layer, h, d)
            if kernel:
                groups = h.shape[-1] if isinstance(layer, keras.layers.DepthwiseConv2D) else layer.groups
                taps = math.prod(layer.kernel_size)
                patches = tf.reshape(patches, [n, -1, taps, groups, h.shape[-1] // groups])
                grouped = tf.reshape(d, [k, n, -1, groups, d.shape[-1] // groups])
                rows.append(tf.reshape(tf.einsum("nstgc,knsgo->nkgtco", patches, grouped), [n, k, -1]))
            if bias:
                rows.append(_position_sums(d))
        total += tf.concat(rows, 2)
    return total


def _is_plain(layer):
    return getattr(layer, "quantization_mode", None) is None and not getattr(layer, "lora_enabled", False)


def layer_kind(layer: keras.layers.Layer) -> str | None:
    """'matmul', 'jacobian' (its Jacobian follows from h and d), or None: only the model's own Jacobian will do."""
    # A subclass may compute anything; one that says of itself which layer's function it is, that layer's.
    kind = vars(type(layer)).get("computes", type(layer))
    if not _is_plain(layer):
        return None
    if kind is keras.layers.Dense or (kind is keras.layers.EinsumDense and _einsum_dense_axes(layer)):
        return "matmul"
    if kind is keras.layers.Conv2D and layer.data_format == "channels_last" and layer.padding in ("same", "valid"):
        return "matmul" if layer.groups == 1 else "jacobian"
    if kind is keras.layers.DepthwiseConv2D and layer.data_format == "channels_last":
        return "jacobian"
    if kind is keras.layers.BatchNormalization and not getattr(layer, "renorm", False):
        return "jacobian"
    if kind is keras.layers.LayerNormalization and not getattr(layer, "rms_scaling", False):
        axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
        return "jacobian" if len(axes) == 1 else None
    return None


def layer_weights(layer: keras.layers.Layer) -> tuple[keras.Variable | None, keras.Variable | None]:
    """The layer's (kernel or gamma, bias or beta), None where absent."""
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
        return getattr(layer, "gamma", None), getattr(layer, "beta", None)
    return layer.kernel, layer.bias
