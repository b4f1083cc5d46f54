"""Do trained networks have low rank?  Singular values of convolutions as linear operators, and edits of their spectra.

A circular convolution with kernel K [kh, kw, in, out] on an n x m image is block-diagonal in the Fourier basis: its
singular values are those of the in x out matrices

    A(u, v) = sum_{a, b} K[a, b] exp(-2 pi i (u a / n + v b / m)),          0 <= u < n, 0 <= v < m

together (Sedghi, Gupta and Long 2019). K is real, so A(-u, -v) is the conjugate of A(u, v) and about half of the
frequencies suffice. With strides (s, t) the image splits into s t shifted images of n/s x m/t pixels (polyphase): the
operator is a convolution of stride 1 from s t in channels to out channels. Shifts are unitary, so the padding's offset
and the choice of correlation or convolution change no singular value. Always sum s^2 = (n/s) (m/t) ||K||_F^2.

Edits as in Goldblum et al. 2020, section 5: RankMin sets singular values below a cut to 0, RankMax caps them, and the
edited operator is cropped to the kernel's support, which makes it approximate: spectra before, asked and after differ.

The decompositions are made in the kernel's precision (float32 for lower ones): on a GPU as one batch by TensorFlow, on
CPUs by LAPACK with one thread for each matrix, as BLAS' own threads gain little on matrices of this size. A matrix at
least twice as long as wide takes the eigenvalues of its Gram matrix in float64 instead, if it isn't float64 itself: the
error is at most some 1e-8 of the largest singular value.
"""
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf
from threadpoolctl import ThreadpoolController

from analysis.evaluation import dtype_of
from analysis.keras_internals import all_layers, patched_calls

BLOCK = 2**23  # complex numbers in a batch of matrices (64 MB in single precision): bounds memory on large images
SMALL = 16  # NumPy's batched decomposition beats one call for each matrix up to this size


def effective_rank(s: np.ndarray) -> float:
    """||s||_1 / ||s||_2, in [1, sqrt(len(s))] (Goldblum et al. 2020); 0 for the zero operator."""
    s = np.asarray(s, np.float64)
    return float(s.sum() / np.linalg.norm(s)) if s.any() else 0.0


def relative_rank(s: np.ndarray) -> float:
    """Effective rank ||s||_1 / ||s||_2 over its largest possible value, sqrt(len(s)).

    1 where all singular values are equal, 0 for none: comparable between layers of other sizes.
    """
    s = np.asarray(s, np.float64)
    return float(s.sum() / np.linalg.norm(s) / math.sqrt(len(s))) if s.any() else 0.0


def stable_rank(s: np.ndarray) -> float:
    """||s||_2^2 / max(s)^2, in [1, len(s)] (Rudelson and Vershynin 2007); 0 for the zero operator."""
    s = np.asarray(s, np.float64)
    return float(np.sum((s / s.max()) ** 2)) if s.any() else 0.0


def nuclear_rank(s: np.ndarray) -> float:
    """||s||_1 / max(s), in [1, len(s)]: the nuclear over the spectral norm; 0 for the zero operator."""
    s = np.asarray(s, np.float64)
    return float(np.sum(s / s.max())) if s.any() else 0.0


def entropy_rank(s: np.ndarray) -> float:
    """exp of the Shannon entropy of s / ||s||_1, in [1, len(s)] (Roy and Vetterli 2007); 0 for the zero operator."""
    s = np.asarray(s, np.float64)
    p = s[s > 0] / max(s.sum(), np.finfo(float).tiny)
    return float(np.exp(-np.sum(p * np.log(p)))) if s.any() else 0.0


def singular_values(
    kernel: np.ndarray, input_size: int | tuple[int, int] | None = None, strides: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> np.ndarray:  # fmt: skip
    """All singular values of a layer's linear operator, descending, float64.

    kernel: [kh, kw, in / groups, out], with input_size (n, m) or n for squares; or [in, out] of a Dense layer, without.
    Their number is (n/s) (m/t) groups min(s t in / groups, out / groups) for strides (s, t).
    Raises ValueError: kernel of another shape, not real or not finite; an input size that's smaller than the kernel or
    not a multiple of the strides; groups that do not divide out.
    """
    kernel, size, strides, groups = _checked(kernel, input_size, strides, groups)
    phases, frequencies, copies = _fourier(kernel, size, strides, groups)
    values = []
    for angles, weights, is_real in frequencies:
        for block in _blocks(len(angles), phases[0].size):
            matrices = _transfer(phases, angles[block], is_real)  # [f, groups, s t in, out]
            s = _batched_values(matrices.reshape(-1, *matrices.shape[2:])).reshape(len(matrices), -1)
            values.append(np.repeat(s, weights[block] * copies, axis=0).ravel())
    return np.sort(np.concatenate(values).astype(np.float64))[::-1]


@dataclass(frozen=True)
class Edit:
    """An edited kernel, in shape and precision of the old one, and the operator's singular values (descending).

    before: of the old kernel; asked: before, edited; after: of the new kernel. asked and after differ by the cropping
    (and the rounding) only, so not for a Dense kernel.
    """

    kernel: np.ndarray
    before: np.ndarray
    asked: np.ndarray
    after: np.ndarray


def rank_min(
    kernel: np.ndarray, input_size: int | tuple[int, int] | None = None, cut: float = 0.5,
    strides: tuple[int, int] = (1, 1), groups: int = 1,
) -> Edit:  # fmt: skip
    """RankMin: singular values below `cut` become 0, then the operator is cropped to the kernel's support -> Edit.

    Arguments and errors of singular_values; ValueError unless cut > 0 and finite.
    """
    if not (cut > 0 and np.isfinite(cut)):
        raise ValueError(f"the cut of rank_min must be a finite number > 0, got {cut}")
    return _edit(kernel, input_size, strides, groups, lambda s: np.where(s < cut, 0.0, s))


def rank_max(
    kernel: np.ndarray, input_size: int | tuple[int, int] | None = None, cap: float = 1.5,
    strides: tuple[int, int] = (1, 1), groups: int = 1,
) -> Edit:  # fmt: skip
    """RankMax: singular values are at most `cap`, then the operator is cropped to the kernel's support -> Edit.

    Arguments and errors of singular_values; ValueError unless cap > 0 (infinity changes nothing).
    """
    if not cap > 0:
        raise ValueError(f"the cap of rank_max must be a number > 0, got {cap}")
    return _edit(kernel, input_size, strides, groups, lambda s: np.minimum(s, cap))


def _edit(kernel, input_size, strides, groups, change):
    original = np.asarray(kernel)
    kernel, size, strides, groups = _checked(kernel, input_size, strides, groups)
    phases, frequencies, copies = _fourier(kernel, size, strides, groups)
    total = sum(weights.sum() for _, weights, _ in frequencies)
    edited, before, asked = np.zeros_like(phases), [], []  # edited: [ah, aw, groups, s t in, out]
    for angles, weights, is_real in frequencies:
        for block in _blocks(len(angles), phases[0].size):
            matrices = _transfer(phases, angles[block], is_real)
            changed, s = _batched_edit(matrices.reshape(-1, *matrices.shape[2:]), change)
            s = np.repeat(s.reshape(len(matrices), -1), weights[block] * copies, axis=0).ravel()
            before.append(s)
            asked.append(change(s))
            # The inverse transform at the kernel's taps only, which is the cropping. A pair +-(u, v) adds its real
            # part twice.
            flat = changed.reshape(len(matrices), -1)  # [f, groups s t in out]
            waves = np.exp(1j * angles[block]) * (weights[block, None] / total)  # [f, ah aw]
            part = waves.real.astype(phases.dtype).T @ flat.real
            if not is_real:
                part -= waves.imag.astype(phases.dtype).T @ flat.imag
            edited += part.reshape(phases.shape)
    before, asked = (np.sort(np.concatenate(values).astype(np.float64))[::-1] for values in (before, asked))
    if np.array_equal(asked, before):
        return Edit(original.copy(), before, asked, before)
    edited = _from_phases(edited, kernel.shape, strides).astype(original.dtype)
    return Edit(edited.reshape(original.shape), before, asked, singular_values(edited, size, strides, groups))


def _batched_values(matrices):
    """Singular values of matrices [b, i, o] -> [b, min(i, o)]."""
    if _has_gpu():
        return tf.linalg.svd(matrices, compute_uv=False).numpy()
    short, long = sorted(matrices.shape[1:])
    if short == 1:
        return np.linalg.norm(matrices, axis=(1, 2))[:, None]
    if short < SMALL:
        return np.linalg.svd(matrices, compute_uv=False)
    use_gram = long >= 2 * short and matrices.dtype in (np.float32, np.complex64)
    return np.stack(_in_threads(_gram_values if use_gram else _lapack_values, matrices))


def _batched_edit(matrices, change):
    """U change(s) V^H [b, i, o] and s [b, min(i, o)] of matrices U s V^H [b, i, o]."""
    if _has_gpu():
        s, u, v = tf.linalg.svd(matrices)
        factors = tf.cast(change(s.numpy())[:, None], u.dtype)
        return tf.linalg.matmul(u * factors, v, adjoint_b=True).numpy(), s.numpy()
    if min(matrices.shape[1:]) < SMALL:
        u, s, vh = np.linalg.svd(matrices, full_matrices=False)
        return u * change(s)[:, None] @ vh, s
    edited, s = zip(*_in_threads(lambda matrix: _lapack_edit(matrix, change), matrices))
    return np.stack(edited), np.stack(s)


def _has_gpu():
    return bool(tf.config.list_physical_devices("GPU"))


def _lapack_values(matrix):
    return _gesdd(matrix, compute_uv=0)[1]


def _lapack_edit(matrix, change):
    u, s, vh = _gesdd(matrix, compute_uv=1, full_matrices=0)
    return (u * change(s) @ vh).T, s


def _gesdd(matrix, **options):
    # The transpose of a row-major matrix is what Fortran reads without a copy. NumPy would go through double precision.
    (gesdd,) = scipy.linalg.get_lapack_funcs(("gesdd",), (matrix,))
    u, s, vh, info = gesdd(matrix.T, **options)
    if info:
        raise np.linalg.LinAlgError(f"the singular value decomposition did not converge (LAPACK gesdd: {info})")
    return u, s, vh


def _gram_values(matrix):
    """Square roots of the eigenvalues of the smaller Gram matrix in double precision."""
    is_real = matrix.dtype == np.float32
    a = matrix.astype(np.float64 if is_real else np.complex128).T
    rank_k = scipy.linalg.blas.dsyrk if is_real else scipy.linalg.blas.zherk
    eigenvalues = scipy.linalg.lapack.dsyevd if is_real else scipy.linalg.lapack.zheevd
    trans = 0 if a.shape[0] < a.shape[1] else (1 if is_real else 2)
    values, _, info = eigenvalues(rank_k(1.0, a, trans=trans), compute_v=0)
    if info:
        raise np.linalg.LinAlgError(f"the eigenvalues of a Gram matrix did not converge (LAPACK: {info})")
    return np.sqrt(np.maximum(values, 0))


def _in_threads(function, matrices):
    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, matrices))


@functools.cache
def _blas():
    return ThreadpoolController()  # looks through all loaded libraries, hence once


def _checked(kernel, input_size, strides, groups):
    """kernel [kh, kw, in, out] as a NumPy array of at least float32, input size and strides as pairs; or ValueError."""
    kernel = np.asarray(kernel)
    if kernel.ndim not in (2, 4) or kernel.size == 0:
        raise ValueError(f"a kernel must be [kh, kw, in, out], or [in, out] of a Dense layer; got shape {kernel.shape}")
    if kernel.dtype.kind in "biuc":
        raise ValueError(f"a kernel must be of real floating-point numbers, got {kernel.dtype}")
    if kernel.dtype != np.float64:
        kernel = kernel.astype(np.float32)  # bfloat16 and float16 too
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel holds NaN or infinity; its singular values are not defined")
    if kernel.ndim == 2:
        if input_size is not None and _pair(input_size, "input_size") != (1, 1):
            raise ValueError(f"a Dense kernel [in, out] has no input size, got input_size {input_size}")
        kernel, input_size = kernel[None, None], 1
    if input_size is None:
        raise ValueError("input_size (height, width) is needed for a convolution kernel, got None")
    size, strides = _pair(input_size, "input_size"), _pair(strides, "strides")
    if any(n < k for n, k in zip(size, kernel.shape)):
        raise ValueError(f"the kernel of {_by(kernel.shape[:2])} is larger than the input of {_by(size)}")
    if any(n % s for n, s in zip(size, strides)):
        raise ValueError(f"strides must divide the input size, got strides {strides} and input {_by(size)}")
    if groups < 1 or kernel.shape[3] % groups:
        raise ValueError(f"groups must divide the {kernel.shape[3]} output channels, got {groups}")
    return kernel, size, strides, groups


def _pair(value, name):
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or not all(float(v).is_integer() and v >= 1 for v in pair):
        raise ValueError(f"{name} must be a whole number of at least 1, or two of them, got {value}")
    return tuple(map(int, pair))


def _by(size):
    return "x".join(map(str, size))


def _to_phases(kernel, strides, groups):
    """Polyphase form: tap a s + r becomes tap a of phase r, [kh, kw, i, o] -> [ah, aw, groups, s t i, o/groups]."""
    (kh, kw, i, o), (s, t) = kernel.shape, strides
    padded = np.pad(kernel, [(0, -kh % s), (0, -kw % t), (0, 0), (0, 0)])
    ah, aw = padded.shape[0] // s, padded.shape[1] // t
    split = padded.reshape(ah, s, aw, t, i, groups, o // groups).transpose(0, 2, 5, 1, 3, 4, 6)
    return split.reshape(ah, aw, groups, s * t * i, o // groups)


def _from_phases(phases, shape, strides):
    """The inverse of _to_phases."""
    (kh, kw, i, o), (s, t) = shape, strides
    ah, aw, groups = phases.shape[:3]
    split = phases.reshape(ah, aw, groups, s, t, i, o // groups).transpose(0, 3, 1, 4, 5, 2, 6)
    return split.reshape(ah * s, aw * t, i, o)[:kh, :kw]


def _fourier(kernel, size, strides, groups):
    """Polyphase kernel, the frequencies that are needed, and how often each of them occurs.

    Frequencies come in two parts, (angles [f, ah aw], weights [f], is_real): those that are their own conjugates,
    whose matrices are real, and one of each other pair +-(u, v), of weight 2.
    """
    phases = _to_phases(kernel, strides, groups)
    taps = phases.shape[:2]
    grid = [n // s for n, s in zip(size, strides)]
    # Along an axis on which the kernel has one tap, all frequencies have the same matrix: one of them is enough.
    n, m = (g if a > 1 else 1 for g, a in zip(grid, taps))
    copies = grid[0] * grid[1] // (n * m)
    u, v = (w.ravel() for w in np.meshgrid(np.arange(n), np.arange(m), indexing="ij"))
    a, b = (w.ravel() for w in np.meshgrid(*map(np.arange, taps), indexing="ij"))
    angles = 2 * np.pi * ((u[:, None] * a % n) / n + (v[:, None] * b % m) / m)
    own, conjugate = u * m + v, -u % n * m + -v % m
    parts = [(own == conjugate, 1), (own < conjugate, 2)]
    return phases, [(angles[k], np.full(k.sum(), w), w == 1) for k, w in parts if k.any()], copies


def _transfer(phases, angles, is_real):
    """The matrices A of some frequencies, [f, groups, s t in, out / groups], in the kernel's precision."""
    flat = phases.reshape(angles.shape[1], -1)
    result = np.cos(angles).astype(flat.dtype) @ flat
    if not is_real:
        result = result - 1j * (np.sin(angles).astype(flat.dtype) @ flat)
    return result.reshape(len(angles), *phases.shape[2:])


def _blocks(count, size):
    step = max(1, BLOCK // size)
    return [slice(i, i + step) for i in range(0, count, step)]


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one layer's operator (descending), with the layer's kind and the sizes that they belong to.

    kind: conv, depthwise or dense.  input_size: (height, width) of the layer's input, None for dense;  operator_size:
    the size that was used, larger than input_size only where model_operators padded.
    """

    values: np.ndarray
    kind: str
    input_size: tuple | None
    operator_size: tuple | None
    strides: tuple
    groups: int

    @property
    def effective_rank(self) -> float:
        return effective_rank(self.values)

    @property
    def stable_rank(self) -> float:
        return stable_rank(self.values)

    @property
    def nuclear_rank(self) -> float:
        return nuclear_rank(self.values)

    @property
    def entropy_rank(self) -> float:
        return entropy_rank(self.values)


@dataclass(frozen=True)
class Operator:
    """A layer of a model as a linear operator: what singular_values, rank_min and rank_max need, and its kernel."""

    layer: keras.layers.Layer
    kind: str
    input_size: tuple | None
    operator_size: tuple | None
    strides: tuple = (1, 1)
    dilation: tuple = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> np.ndarray:
        """[kh, kw, in / groups, out] (of a dilated layer with the zeros between its taps), or [in, out] of a Dense."""
        kernel = keras.ops.convert_to_numpy(self.layer.kernel)
        if self.kind == "dense":
            return kernel
        kernel = _as_2d(kernel, self.layer)
        (kh, kw, i, o), (d, e) = kernel.shape, self.dilation
        spread = np.zeros(((kh - 1) * d + 1, (kw - 1) * e + 1, i, o), kernel.dtype)
        spread[::d, ::e] = kernel
        return spread

    def spectrum(self) -> Spectrum:
        values = singular_values(self.kernel, **self.arguments)
        return Spectrum(values, self.kind, self.input_size, self.operator_size, self.strides, self.groups)

    @property
    def arguments(self) -> dict:
        """Keyword arguments of singular_values, rank_min and rank_max beside the kernel."""
        return {"input_size": self.operator_size, "strides": self.strides, "groups": self.groups}

    def assign(self, kernel: np.ndarray) -> None:
        """Gives the layer a kernel of the shape that `kernel` has; taps between those of a dilated layer are dropped.
        """
        if self.kind != "dense":
            kernel = np.asarray(kernel)[:: self.dilation[0], :: self.dilation[1]]
        self.layer.kernel.assign(np.reshape(kernel, self.layer.kernel.shape))


def model_spectra(model: keras.Model, *, input_shape: tuple | None = None, pad: bool = False) -> dict[str, "Spectrum"]:
    """{layer name: Spectrum} of all convolutions and Dense layers of a Keras model, in the order of their use.

    Arguments, names and errors as in model_operators.
    """
    return {name: op.spectrum() for name, op in model_operators(model, input_shape=input_shape, pad=pad).items()}


def model_operators(
    model: keras.Model, *, input_shape: tuple | None = None, pad: bool = False,
) -> dict[str, "Operator"]:  # fmt: skip
    """{layer name: Operator} of all convolutions and Dense layers of a Keras model, in the order of their use.

    The input sizes are those that the layers see when the model runs, also inside nested models (`outer/inner`). A
    layer used on inputs of several sizes appears as `name@8x8`, `name@4x4`, and so on.
    input_shape: shape of one input, without the batch; needed where the model itself leaves it open.
    pad: an input that's smaller than the kernel, or not a multiple of the strides, is taken as zero-padded to the next
    size that is; when False, it's refused.
    Raises ValueError: a model without such layers; layers whose operator isn't known here (transposed, separable and
    3-D convolutions); inputs as under `pad`; an unknown input shape; a model that isn't built.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"expected a Keras model, got {type(model).__name__}")
    if not model.built:
        raise ValueError(f"model {model.name!r} has no weights yet: call it on a batch of inputs first")
    operators = {}
    for name, layer, shapes in _layers_in_use(model, input_shape):
        found = dict.fromkeys(_operator(name, layer, shape, pad) for shape in shapes)
        for op in found:
            operators[name if len(found) == 1 else f"{name}@{_by(op.input_size)}"] = op
    if not operators:
        raise ValueError(f"model {model.name!r} has no convolution and no Dense layer, so it has no spectra")
    return operators


def _operator(name, layer, shape, pad):
    """The Operator of a layer on inputs of this shape [batch, ...]."""
    if isinstance(layer, keras.layers.Dense):
        return Operator(layer, "dense", None, None)
    size = tuple(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])
    if None in size:
        raise ValueError(f"layer {name!r} has inputs of unknown size {shape}: pass input_shape")
    depthwise = isinstance(layer, (keras.layers.DepthwiseConv2D, keras.layers.DepthwiseConv1D))
    one = (1,) * (2 - len(size))  # a 1-D convolution is one on images of width 1
    size, strides, dilation = (tuple(w) + one for w in (size, layer.strides, layer.dilation_rate))
    support = [(k - 1) * d + 1 for k, d in zip((*layer.kernel_size, *one), dilation)]
    padded = tuple(-(-max(n, k) // s) * s for n, k, s in zip(size, support, strides))
    if padded != size and not pad:
        raise ValueError(
            f"layer {name!r} has a kernel of {_by(support)} and strides {_by(strides)} on an input of {_by(size)}: the "
            "kernel must be no larger than the input and the strides must divide it (or pass pad=True)"
        )
    groups = layer.kernel.shape[-2] if depthwise else layer.groups
    return Operator(layer, "depthwise" if depthwise else "conv", size, padded, strides, dilation, groups)


def _as_2d(kernel, layer):
    """Keras' kernel as [kh, kw, in / groups, out]: a width of 1 for 1-D, one input channel a group for depthwise."""
    if kernel.ndim == 3:
        kernel = kernel[:, None]
    if isinstance(layer, (keras.layers.DepthwiseConv2D, keras.layers.DepthwiseConv1D)):
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return kernel


KNOWN = (
    keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)  # fmt: skip
UNKNOWN = (
    keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3D, keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D, keras.layers.SeparableConv2D,
)  # fmt: skip


def _layers_in_use(model, input_shape):
    """[(name, layer, input shapes)] in the order of the layers' first call, found by tracing the model once."""
    names = {}

    def walk(parent, prefix):
        for layer in all_layers(parent, recursive=False):
            if id(layer) not in names:
                names[id(layer)] = (prefix + layer.name, layer)
                walk(layer, f"{prefix}{layer.name}/")

    walk(model, "")
    for name, layer in names.values():
        if isinstance(layer, UNKNOWN):
            raise ValueError(f"layer {name!r} is a {type(layer).__name__}, whose singular values are not implemented")
    if input_shape is not None:
        specs = tf.TensorSpec((None, *input_shape), dtype_of(model))
    else:
        try:
            inputs = model.inputs
        except (AttributeError, ValueError):
            inputs = None
        if not inputs:
            raise ValueError(f"the input shape of model {model.name!r} is not known: pass input_shape")
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in inputs]
        specs = specs[0] if len(specs) == 1 else specs

    calls = {}  # layer id -> shapes

    def recorder(layer, call):
        def record(inputs, *args, **kwargs):
            calls.setdefault(id(layer), []).append(tuple(inputs.shape))
            return call(inputs, *args, **kwargs)

        return record

    with patched_calls([layer for _, layer in names.values() if isinstance(layer, KNOWN)], recorder):
        tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(specs)
    return [(*names[key], list(dict.fromkeys(shapes))) for key, shapes in calls.items()]
