"""analysis/conv_operators.py: reference spectra and edits, explicit circulant matrices, closed forms, whole models."""
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis import conv_operators
from analysis.conv_operators import (
    effective_rank,
    entropy_rank,
    model_operators,
    model_spectra,
    rank_max,
    rank_min,
    relative_rank,
    singular_values,
    stable_rank,
)
from models import NetworkConfig, build

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "conv_operators.npz")
TOLERANCE = {"float64": 1e-10, "float32": 2e-6}  # of the largest singular value


def random_kernel(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def circulant(kernel, size, strides=(1, 1), groups=1):
    """The operator [n m in, (n/s) (m/t) out] by its definition: output pixel (p, q) sees input (s p + a, t q + b)."""
    (kh, kw, i, o), (n, m), (s, t) = kernel.shape, size, strides
    matrix = np.zeros((n, m, i * groups, n // s, m // t, o))
    for g in range(groups):
        ins, outs = slice(g * i, (g + 1) * i), slice(g * o // groups, (g + 1) * o // groups)
        for p in range(n // s):
            for q in range(m // t):
                for a in range(kh):
                    for b in range(kw):
                        matrix[(s * p + a) % n, (t * q + b) % m, ins, p, q, outs] += kernel[a, b, :, outs]
    return matrix.reshape(n * m * i * groups, -1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", range(4))
def test_reference_spectra_and_edits(case, dtype):
    kernel, size = REFERENCE[f"case{case}_kernel"].astype(dtype), int(REFERENCE[f"case{case}_input_size"])
    expected = REFERENCE[f"case{case}_singular_values"]
    tolerance = TOLERANCE[dtype] * expected[0]
    np.testing.assert_allclose(singular_values(kernel, size), expected, rtol=0, atol=tolerance)
    for edit, key in (
        (rank_max(kernel, size, cap=1.0), "rank_max_1.0"),
        (rank_min(kernel, size, cut=0.5), "rank_min_0.5"),
    ):
        assert edit.kernel.dtype == dtype
        np.testing.assert_allclose(edit.kernel, REFERENCE[f"case{case}_{key}"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(edit.before, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(edit.after, singular_values(edit.kernel, size), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "size", "strides", "groups"),
    [
        ((3, 3, 2, 3), (6, 6), (1, 1), 1),
        ((3, 3, 2, 3), (5, 7), (1, 1), 1),  # odd, not square
        ((2, 3, 3, 2), (4, 5), (1, 1), 1),
        ((3, 3, 2, 3), (3, 3), (1, 1), 1),  # as large as the input
        ((5, 1, 2, 2), (6, 4), (1, 1), 1),
        ((3, 3, 2, 5), (6, 8), (2, 2), 1),
        ((3, 3, 2, 3), (6, 9), (2, 3), 1),
        ((2, 3, 2, 3), (6, 4), (3, 1), 1),
        ((1, 1, 2, 3), (4, 6), (2, 2), 1),
        ((4, 4, 1, 2), (8, 8), (4, 2), 1),
        ((3, 3, 2, 6), (4, 5), (1, 1), 3),  # grouped
        ((3, 3, 1, 6), (6, 4), (2, 2), 3),  # depthwise, two outputs for each channel
        ((3, 3, 18, 20), (4, 5), (1, 1), 1),  # large enough for LAPACK matrix by matrix
        ((3, 3, 40, 18), (4, 3), (1, 1), 1),  # and through the Gram matrix in float32
        ((3, 3, 17, 40), (4, 3), (1, 1), 1),
    ],
)
def test_explicit_block_circulant_matrix(shape, size, strides, groups, dtype, monkeypatch):
    monkeypatch.setattr(conv_operators, "BLOCK", 64)  # several blocks of frequencies
    kernel = random_kernel(*shape, dtype=dtype)
    s = singular_values(kernel, size, strides, groups)
    expected = np.linalg.svd(circulant(kernel, size, strides, groups), compute_uv=False)
    np.testing.assert_allclose(s, expected, rtol=0, atol=TOLERANCE[dtype] * expected[0])
    energy = np.prod(size) / np.prod(strides) * np.sum(kernel.astype(float) ** 2)
    np.testing.assert_allclose(np.sum(s**2), energy, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(3, 3, 2, 3), (3, 3, 18, 20)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_edits_of_the_explicit_matrix(shape, strides):
    """Edit the dense matrix, then read the kernel back where output pixel (0, 0) meets its taps."""
    size, kernel = (4, 5), random_kernel(*shape)
    (kh, kw, i, o), matrix = shape, circulant(kernel, size, strides)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    level = np.median(s)
    for edit, changed in (
        (rank_min(kernel, size, level * 1.0001, strides), np.where(s < level * 1.0001, 0, s)),
        (rank_max(kernel, size, level, strides), np.minimum(s, level)),
    ):
        dense = ((u * changed) @ vh).reshape(*size, i, size[0] // strides[0], size[1] // strides[1], o)
        np.testing.assert_allclose(edit.kernel, dense[:kh, :kw, :, 0, 0, :], atol=1e-10)
        np.testing.assert_allclose(edit.asked, np.sort(changed)[::-1], atol=1e-10)
        after = np.linalg.svd(circulant(edit.kernel, size, strides), compute_uv=False)
        np.testing.assert_allclose(edit.after, after, atol=1e-10)
        assert np.abs(edit.after - edit.asked).max() > 1e-3  # the crop is felt


def test_edits_move_the_effective_rank_and_the_identities_do_not():
    kernel = random_kernel(3, 3, 20, 20) / 8
    low, high = rank_min(kernel, 8, cut=1.5), rank_max(kernel, 8, cap=1.5)
    assert effective_rank(low.after) < effective_rank(low.before) < effective_rank(high.after)
    for same in (rank_min(kernel, 8, cut=1e-12), rank_max(kernel, 8, cap=np.inf)):
        np.testing.assert_array_equal(same.kernel, kernel)
        np.testing.assert_array_equal(same.after, same.before)
    np.testing.assert_array_equal(rank_min(kernel, 8, cut=1e6).kernel, 0 * kernel)


def test_dense_kernels_are_edited_exactly():
    kernel = random_kernel(30, 9)
    np.testing.assert_allclose(singular_values(kernel), np.linalg.svd(kernel, compute_uv=False), atol=1e-12)
    for edit in (rank_min(kernel, cut=5.0), rank_max(kernel, cap=5.0)):
        assert edit.kernel.shape == (30, 9)
        np.testing.assert_allclose(edit.after, edit.asked, atol=1e-12)
    assert np.linalg.matrix_rank(rank_min(kernel, cut=5.0).kernel) == np.sum(singular_values(kernel) >= 5) < 9


def test_ranks_in_closed_form():
    assert effective_rank(np.full(9, 3.0)) == pytest.approx(3)
    for rank in (stable_rank, entropy_rank):
        assert rank(np.full(9, 3.0)) == pytest.approx(9)
    assert effective_rank([4, 3]) == pytest.approx(7 / 5)
    assert stable_rank([4, 3]) == pytest.approx(25 / 16)
    assert entropy_rank([0.5, 0.25, 0.25]) == pytest.approx(2**1.5)
    assert relative_rank(np.full(9, 3.0)) == pytest.approx(1) and relative_rank([4, 3]) == pytest.approx(7 / 5 / 2**0.5)
    assert relative_rank([2, 0, 0, 0]) == pytest.approx(0.5) and relative_rank(np.zeros(3)) == 0
    for rank in (effective_rank, stable_rank, entropy_rank):
        assert rank([2, 0, 0]) == pytest.approx(1)
        assert rank(np.zeros(3)) == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_gpu_branch_gives_the_same_on_any_device(dtype, monkeypatch):
    kernel = random_kernel(3, 3, 18, 20, dtype=dtype)
    expected = rank_max(kernel, 5, cap=12.0, strides=(1, 5))
    monkeypatch.setattr(conv_operators, "_has_gpu", lambda: True)
    edit = rank_max(kernel, 5, cap=12.0, strides=(1, 5))
    atol = 10 * TOLERANCE[dtype] * expected.before[0]
    for name in ("kernel", "before", "asked", "after"):
        np.testing.assert_allclose(getattr(edit, name), getattr(expected, name), rtol=0, atol=atol)


def test_an_identity_convolution_and_half_precision():
    kernel = np.zeros((3, 3, 4, 4), "float16")
    kernel[1, 1] = np.eye(4)
    np.testing.assert_allclose(singular_values(kernel, (6, 5)), np.ones(120), atol=1e-6)
    kernel = tf.constant(kernel, tf.bfloat16).numpy()
    assert rank_max(2 * kernel, 6, cap=1.0).kernel.dtype == kernel.dtype
    np.testing.assert_allclose(rank_max(2 * kernel, 6, cap=1.0).after, 1, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.zeros((3, 3, 2))}, "got shape"),
        ({"kernel": np.zeros((3, 3, 2, 2), int)}, "real floating-point"),
        ({"kernel": np.full((3, 3, 2, 2), np.nan)}, "NaN"),
        ({"input_size": 2}, "kernel of 3x3 is larger than the input of 2x2"),
        ({"input_size": (8, 2)}, "larger than the input of 8x2"),
        ({"input_size": None}, "input_size .* is needed"),
        ({"input_size": 0}, "input_size"),
        ({"input_size": (8, 8, 8)}, "input_size"),
        ({"input_size": 7, "strides": (2, 2)}, "strides must divide"),
        ({"strides": (0, 1)}, "strides"),
        ({"groups": 3}, "groups must divide"),
        ({"kernel": np.zeros((4, 2)), "input_size": 8}, "Dense kernel"),
    ],
)
def test_bad_operators(change, message):
    arguments = {"kernel": random_kernel(3, 3, 2, 2), "input_size": 8, **change}
    for function in (singular_values, rank_min, rank_max):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


@pytest.mark.parametrize("level", [0, -1, float("nan")])
def test_bad_cut_and_cap(level):
    with pytest.raises(ValueError, match="cut of rank_min must be"):
        rank_min(random_kernel(3, 3, 2, 2), 8, level)
    with pytest.raises(ValueError, match="cap of rank_max must be"):
        rank_max(random_kernel(3, 3, 2, 2), 8, level)


def test_spectra_of_a_resnet_take_their_sizes_from_the_model():
    model = build(NetworkConfig("resnet", width=2), (32, 32, 3), 10, seed=0)
    spectra = model_spectra(model)
    assert len(spectra) == 21 and next(iter(spectra)) == "stem_conv" and list(spectra)[-1] == "logits"
    expected = {
        "stem_conv": ((32, 32), (1, 1)), "stage2_block1_conv1": ((32, 32), (2, 2)),
        "stage2_block1_conv2": ((16, 16), (1, 1)),
        "stage2_block1_shortcut_conv": ((32, 32), (2, 2)), "stage4_block2_conv2": ((4, 4), (1, 1)),
    }  # fmt: skip
    for name, (size, strides) in expected.items():
        spectrum = spectra[name]
        assert (spectrum.kind, spectrum.input_size, spectrum.strides) == ("conv", size, strides)
        values = singular_values(model.get_layer(name).kernel.numpy(), size, strides)
        np.testing.assert_array_equal(spectrum.values, values)
        assert spectrum.effective_rank == effective_rank(values)
    assert spectra["logits"].kind == "dense" and len(spectra["logits"].values) == 10


def test_nested_shared_depthwise_grouped_dilated_and_1d_layers():
    inner_in = keras.Input((None, None, 4))  # the inner model does not know its sizes
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="dw")
    inner = keras.Model(inner_in, depthwise(inner_in), name="inner")
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = inputs = keras.Input((8, 6, 4))
    x = layers.MaxPooling2D(2, name="pool")(shared(x))
    x = inner(shared(x))  # [4, 3, 8]
    x = layers.Conv2D(6, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.Conv2D(2, 2, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.Reshape((12, 2))(x)
    x = layers.Conv1D(3, 5, strides=2, padding="same", name="line")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    before = model(np.ones((1, 8, 6, 4))).numpy()
    operators = model_operators(model)
    assert {name: op.input_size for name, op in operators.items()} == {
        "shared@8x6": (8, 6), "shared@4x3": (4, 3), "inner/dw": (4, 3), "grouped": (4, 3), "dilated": (4, 3),
        "line": (12, 1), "head": None,
    }  # fmt: skip
    assert operators["inner/dw"].kind == "depthwise" and operators["inner/dw"].groups == 4
    spectra = model_spectra(model)
    depthwise = inner.get_layer("dw").kernel.numpy()  # a dense kernel [3, 3, 4, 8] with the same operator
    dense = np.zeros((3, 3, 4, 8), "float32")
    for c in range(4):
        dense[:, :, c, 2 * c : 2 * c + 2] = depthwise[:, :, c]
    np.testing.assert_allclose(spectra["inner/dw"].values, singular_values(dense, (4, 3))[:48], atol=1e-5)
    dilated = model.get_layer("dilated").kernel.numpy()
    spread = np.zeros((3, 3, 6, 2), "float32")
    spread[::2, ::2] = dilated
    np.testing.assert_array_equal(spectra["dilated"].values, singular_values(spread, (4, 3)))
    np.testing.assert_array_equal(model(np.ones((1, 8, 6, 4))), before)  # looking has changed nothing

    for op in operators.values():  # every kernel can be written back, and edited in place
        op.assign(op.kernel)
    np.testing.assert_array_equal(model(np.ones((1, 8, 6, 4))), before)
    edit = rank_max(operators["inner/dw"].kernel, cap=0.2, **operators["inner/dw"].arguments)
    operators["inner/dw"].assign(edit.kernel)
    np.testing.assert_array_equal(model_spectra(model)["inner/dw"].values, edit.after)


def test_small_inputs_are_refused_or_padded():
    model = build(NetworkConfig("resnet", width=2), (8, 8, 1), 10, seed=0)
    with pytest.raises(ValueError, match=r"'stage3_block1_conv2' has a kernel of 3x3 .* input of 2x2"):
        model_spectra(model)
    spectrum = model_spectra(model, pad=True)["stage4_block1_conv1"]
    assert (spectrum.input_size, spectrum.operator_size, spectrum.strides) == ((2, 2), (4, 4), (2, 2))


def test_models_that_have_no_spectra():
    inputs = keras.Input((8, 8, 2))
    with pytest.raises(ValueError, match="no convolution and no Dense layer"):
        model_spectra(keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs)))
    with pytest.raises(ValueError, match="'up' is a Conv2DTranspose"):
        model_spectra(keras.Model(inputs, layers.Conv2DTranspose(2, 3, name="up")(inputs)))
    with pytest.raises(ValueError, match="expected a Keras model, got list"):
        model_spectra([])
    with pytest.raises(ValueError, match="has no weights yet"):
        model_spectra(keras.Sequential([layers.Dense(2)]))
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="open")(inputs))
    with pytest.raises(ValueError, match="'open' has inputs of unknown size"):
        model_spectra(model)
    assert model_spectra(model, input_shape=(6, 4, 2))["open"].input_size == (6, 4)
