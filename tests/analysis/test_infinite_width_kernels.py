"""analysis/infinite_width_kernels.py: quadrature, dense recursion, reference values, refusals."""
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

from analysis import infinite_width_kernels
from analysis.infinite_width_kernels import Layer, kernel_spectrum, limit_kernels, limit_kernels_at

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "infinite_width_kernels.npz")
ERF = {"architecture": "fcn", "activation": "erf", "weight_variance": 1.5, "bias_variance": 0.05}


def inputs(n, *shape, seed=0):
    """Inputs of one length, as the large-depth limits assume."""
    x = np.random.default_rng(seed).standard_normal([n, *shape])
    return x / np.sqrt(np.mean(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


@pytest.mark.parametrize("name", [name for name in REFERENCE if name != "x"])
def test_reference(name):
    architecture, activation, weight, bias, depth, which = name.split("_")
    kernels = limit_kernels(
        REFERENCE["x"], architecture=architecture, activation=activation, weight_variance=float(weight[4:]),
        bias_variance=float(bias[4:]), depth=int(depth[6:]),
    )  # fmt: skip
    got, wanted = kernels[which == "ntk"], REFERENCE[name]
    off = ~np.eye(len(got), dtype=bool)
    np.testing.assert_allclose(got[off], wanted[off], rtol=1e-11)
    # The reference takes the arc cosine of 1 - eps on ReLU's diagonal, an error of up to 6e-9 per layer in its NTK.
    np.testing.assert_allclose(
        np.diag(got), np.diag(wanted), rtol=6e-9 * int(depth[6:]) if activation == "relu" else 1e-11
    )
    assert (got == got.T).all()


def test_relu_diagonal_in_closed_form():
    """At sw2 = 2, sb2 = 0 every layer keeps K(x, x) and adds it to Theta(x, x)."""
    x = REFERENCE["x"]
    nngp, ntk = limit_kernels(
        x, architecture="fcn", activation="relu", weight_variance=2.0, bias_variance=0.0, depth=10
    )
    own = 2 * np.mean(x.reshape(len(x), -1) ** 2, axis=1)
    np.testing.assert_allclose(np.diag(nngp), own, rtol=1e-14)
    np.testing.assert_allclose(np.diag(ntk), 11 * own, rtol=1e-14)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_expectations_against_quadrature(activation):
    k11, k12, k22 = 1.3, 0.5, 0.8
    nodes, weights = np.polynomial.legendre.leggauss(400)
    nodes, weights = 10 * nodes, 10 * weights * np.exp(-50 * nodes**2) / np.sqrt(2 * np.pi)
    root = np.linalg.cholesky([[k11, k12], [k12, k22]])
    u, v = np.einsum("ab,bij->aij", root, np.stack(np.meshgrid(nodes, nodes, indexing="ij")))
    measure = np.outer(weights, weights)
    f, slope = {
        "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
        "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    }[activation]
    got = Layer(activation, 1.0, 0.0).expectations(*(np.array([k]) for k in (k12, k11, k22)))
    wanted = [np.sum(measure * g(u) * g(v)) for g in (f, slope)]
    # Quadrature converges slowly over ReLU's kinks and jumps.
    np.testing.assert_allclose(np.ravel(got), wanted, rtol=1e-12 if activation == "erf" else 5e-3)


def test_pooling_against_all_pairs_of_pixels():
    """The whole recursion on [pixel, pixel'] by loops, for one pair of images and the kernels of each with itself."""
    x = np.random.default_rng(1).standard_normal([2, 3, 4, 2])
    layer = Layer("erf", 1.7, 0.1)
    pixels = [(a, b) for a in range(3) for b in range(4)]
    near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]

    def mean(k):  # k [i, j, 12, 12]
        out = np.zeros_like(k)
        for p, (a, b) in enumerate(pixels):
            for q, (c, d) in enumerate(pixels):
                for s, t in near:
                    out[:, :, p, q] += k[:, :, (a + s) % 3 * 4 + (b + t) % 4, (c + s) % 3 * 4 + (d + t) % 4] / 9
        return out

    flat = x.reshape(2, 12, 2)
    k = theta = layer.affine(mean(np.einsum("ipc,jqc->ijpq", flat, flat) / 2))
    for _ in range(3):
        own = np.einsum("iipp->ip", k)
        expectation, slope = layer.expectations(k, own[:, None, :, None], own[None, :, None, :])
        nngp = layer.affine(expectation.mean(axis=(2, 3)))
        ntk = nngp + 1.7 * (slope * theta).mean(axis=(2, 3))
        k = layer.affine(mean(expectation))
        theta = k + 1.7 * mean(slope * theta)
    got = limit_kernels(x, architecture="cnn-pool", activation="erf", weight_variance=1.7, bias_variance=0.1, depth=3)
    np.testing.assert_allclose(got, [nngp, ntk], rtol=1e-13)


@pytest.mark.parametrize("architecture", infinite_width_kernels.ARCHITECTURES)
@pytest.mark.parametrize("activation", infinite_width_kernels.ACTIVATIONS)
def test_blocks_pairs_and_depths_agree(architecture, activation, monkeypatch):
    x = np.random.default_rng(2).standard_normal([7, 3, 3, 2])
    setting = {"architecture": architecture, "activation": activation, "weight_variance": 1.8, "bias_variance": 0.1}
    whole = limit_kernels(x, **setting, depth=3)
    np.testing.assert_allclose(limit_kernels(x, x, **setting, depth=3), whole, rtol=1e-10)
    np.testing.assert_allclose(limit_kernels(x[:2], x[2:], **setting, depth=3), np.array(whole)[:, :2, 2:], rtol=1e-12)
    np.testing.assert_array_equal(limit_kernels_at(x, **setting, depths=[1, 3])[3], whole)
    monkeypatch.setattr(infinite_width_kernels, "_BLOCK", 40)  # blocks of 2x2 images, or 6x6 flattened ones
    np.testing.assert_allclose(limit_kernels(x, **setting, depth=3), whole, rtol=1e-12)
    np.testing.assert_allclose(limit_kernels(x, x[:5], **setting, depth=3), np.array(whole)[:, :, :5], rtol=1e-10)


def test_relu_without_bias_is_homogeneous():
    x = inputs(4, 10)
    two, five = (
        limit_kernels(x, architecture="fcn", activation="relu", weight_variance=variance, bias_variance=0.0, depth=6)
        for variance in (2.0, 5.0)
    )
    np.testing.assert_allclose(five, np.array(two) * 2.5**7, rtol=1e-12)


def test_spectrum_of_two_values():
    kernel = 2 * np.eye(5) + 3
    found = kernel_spectrum(kernel)
    assert [found.lambda_max, found.lambda_bulk, found.lambda_min] == pytest.approx([17, 2, 2])
    assert found.condition_number == pytest.approx(8.5) and kernel_spectrum(np.ones([3, 3])).condition_number == np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "unknown activation 'tanh': allowed are relu, erf"),
        ({"architecture": "cnn"}, "unknown architecture 'cnn'"),
        ({"architecture": "cnn-pool"}, r"inputs \[n, h, w, c\], got shape \(4, 10\)"),
        ({"weight_variance": 0.0}, "weight_variance must be finite and > 0, got 0"),
        ({"weight_variance": np.nan}, "weight_variance must be finite"),
        ({"bias_variance": -1.0}, "bias_variance must be finite and >= 0, got -1"),
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"depth": 1.5}, "depth must be a whole number"),
        ({"x2": np.ones([3, 9])}, "inputs of one shape"),
        ({"x1": np.full([2, 3], np.nan)}, "x1 must be finite"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        limit_kernels(**{"x1": inputs(4, 10), **ERF, "depth": 2, **changes})
    with pytest.raises(ValueError, match="square matrix"):
        kernel_spectrum(np.ones([2, 3]))
