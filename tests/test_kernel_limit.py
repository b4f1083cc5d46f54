"""analysis.kernel_limit and analysis.phases: quadrature, dense recursion, reference values, large-depth limits, refusals."""
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

from analysis import kernel_limit
from analysis.kernel_limit import Layer, critical_condition, kernel_spectrum, limit_kernels, limit_kernels_at
from analysis.phases import critical_weight_variance, phase

REFERENCE = np.load(Path(__file__).parent / "data" / "infinite_width_kernels.npz")
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
    np.testing.assert_allclose(np.diag(got), np.diag(wanted), rtol=6e-9 * int(depth[6:]) if activation == "relu" else 1e-11)
    assert (got == got.T).all()


def test_relu_diagonal_in_closed_form():
    """At sw2 = 2, sb2 = 0 every layer keeps K(x, x) and adds it to Theta(x, x)."""
    x = REFERENCE["x"]
    nngp, ntk = limit_kernels(x, architecture="fcn", activation="relu", weight_variance=2.0, bias_variance=0.0, depth=10)
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


@pytest.mark.parametrize("architecture", kernel_limit.ARCHITECTURES)
@pytest.mark.parametrize("activation", kernel_limit.ACTIVATIONS)
def test_blocks_pairs_and_depths_agree(architecture, activation, monkeypatch):
    x = np.random.default_rng(2).standard_normal([7, 3, 3, 2])
    setting = {"architecture": architecture, "activation": activation, "weight_variance": 1.8, "bias_variance": 0.1}
    whole = limit_kernels(x, **setting, depth=3)
    np.testing.assert_allclose(limit_kernels(x, x, **setting, depth=3), whole, rtol=1e-10)
    np.testing.assert_allclose(limit_kernels(x[:2], x[2:], **setting, depth=3), np.array(whole)[:, :2, 2:], rtol=1e-12)
    np.testing.assert_array_equal(limit_kernels_at(x, **setting, depths=[1, 3])[3], whole)
    monkeypatch.setattr(kernel_limit, "_BLOCK", 40)  # blocks of 2x2 images, or 6x6 flattened ones
    np.testing.assert_allclose(limit_kernels(x, **setting, depth=3), whole, rtol=1e-12)
    np.testing.assert_allclose(limit_kernels(x, x[:5], **setting, depth=3), np.array(whole)[:, :, :5], rtol=1e-10)


def test_relu_without_bias_is_homogeneous():
    x = inputs(4, 10)
    two, five = (
        limit_kernels(x, architecture="fcn", activation="relu", weight_variance=variance, bias_variance=0.0, depth=6)
        for variance in (2.0, 5.0)
    )
    np.testing.assert_allclose(five, np.array(two) * 2.5**7, rtol=1e-12)


def test_phases_of_the_paper():
    """Constants of the authors' notebook."""
    assert critical_weight_variance("erf", 0.05) == pytest.approx(1.37584, abs=1e-5)
    assert critical_weight_variance("erf", 0.18) == pytest.approx(1.7476, abs=1e-4)
    assert critical_weight_variance("erf", 0.0) == pytest.approx(np.pi / 4) and critical_weight_variance("relu", 0.3) == 2
    ordered, chaotic = phase("erf", 1.25, 0.05), phase("erf", 1.5, 0.05)
    assert (ordered.name, ordered.c_star, ordered.xi_star) == ("ordered", 1, np.inf)
    assert [ordered.q_star, ordered.chi_1, ordered.p_star] == pytest.approx([0.43517, 0.96137, 11.266], rel=2e-5)
    assert ordered.xi_1 == pytest.approx(25.39, abs=0.01) and chaotic.name == "chaotic"
    assert [chaotic.q_star, chaotic.c_star, chaotic.chi_1] == pytest.approx([0.60175, 0.82053, 1.0347], rel=1e-5)
    assert [chaotic.chi_c, chaotic.theta_off, chaotic.xi_star] == pytest.approx([0.96955, 16.216, 15.38], rel=1e-3)
    scales = [8 * min(p.xi_1, p.xi_star) for p in (phase("erf", v, 0.18) for v in (0.5, 1, 1.5, 1.9, 2, 2.5, 3))]
    assert scales == pytest.approx([9.4, 24.9, 100, 99, 63, 26.6, 19.0], rel=6e-3)


def test_phases_at_their_edges():
    relu = [phase("relu", v, 0.1) for v in (1.0, 2.0, 3.0)]
    assert [p.name for p in relu] == ["ordered", "critical", "chaotic"] and relu[0].q_star == pytest.approx(0.2)
    assert relu[1].q_star == np.inf and relu[1].xi_1 == np.inf and relu[2].xi_star == np.inf
    assert phase("erf", 0.5, 0.0).q_star == 0 and phase("erf", 2.0, 0.0).c_star == 0
    critical = critical_weight_variance("erf", 0.1)
    assert phase("erf", critical, 0.1).name == "critical"
    for distance in 10.0 ** -np.arange(1, 9):  # the two fixed points merge at criticality
        near = phase("erf", critical + distance, 0.1)
        assert near.name == "chaotic" and 0 < near.c_star < 1 and near.chi_c < 1 < near.chi_1
        assert 1 - near.chi_c == pytest.approx(near.chi_1 - 1, rel=2 * distance**0.5 + 0.05)


def test_deep_kernels_tend_to_the_fixed_points():
    x, deep = inputs(6, 20), 400
    ordered, chaotic = phase("erf", 1.25, 0.05), phase("erf", 1.5, 0.05)
    nngp, ntk = limit_kernels(x, **{**ERF, "weight_variance": 1.25}, depth=deep)
    np.testing.assert_allclose(nngp, ordered.q_star, rtol=1e-5)
    np.testing.assert_allclose(ntk, ordered.p_star, rtol=1e-3)
    nngp, ntk = limit_kernels(x, **ERF, depth=deep)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(nngp[off] / nngp[0, 0], chaotic.c_star, rtol=1e-4)
    np.testing.assert_allclose(ntk[off], chaotic.theta_off, rtol=1e-3)
    before = limit_kernels(x, **ERF, depth=deep - 1)[1]
    np.testing.assert_allclose(np.diag(ntk) / np.diag(before), chaotic.chi_1, rtol=1e-4)


def test_condition_at_criticality():
    """(m + 2) / 2 for erf, (m + 3) / 3 for ReLU; lambda_max = (m + 2) / 3 l q*, lambda_bulk = 2/3 l q*."""
    x, depth = inputs(12, 30), 1500
    erf_ = {"architecture": "fcn", "activation": "erf", "bias_variance": 0.05}
    erf_["weight_variance"] = critical_weight_variance("erf", 0.05)
    relu = {"architecture": "fcn", "activation": "relu", "weight_variance": 2.0, "bias_variance": 0.0}
    spectra = {d: kernel_spectrum(ntk) for d, (_, ntk) in limit_kernels_at(x, **erf_, depths=[100, 400, depth]).items()}
    limit = critical_condition("erf", 12)
    gaps = [abs(s.condition_number - limit) for s in spectra.values()]
    assert limit == 7 and gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.015 * limit
    q = phase("erf", erf_["weight_variance"], 0.05).q_star
    assert spectra[depth].lambda_max == pytest.approx(14 / 3 * depth * q, rel=0.015)
    assert spectra[depth].lambda_bulk == pytest.approx(2 / 3 * depth * q, rel=0.015)
    assert critical_condition("relu", 12) == 5
    found = kernel_spectrum(limit_kernels(x, **relu, depth=depth)[1])
    assert found.condition_number == pytest.approx(5, rel=0.015)


def test_pooling_multiplies_samples_by_pixels():
    """Critical: (m d + 2) / 2 against (m + 2) / 2; chaotic: d times the distance from 1. Images of one row, m = 5, d = 6."""
    x, variance = inputs(5, 1, 6, 4), critical_weight_variance("erf", 0.05)
    setting = {"activation": "erf", "bias_variance": 0.05}
    flat, pooled = (
        kernel_spectrum(limit_kernels(x, architecture=a, weight_variance=variance, depth=500, **setting)[1])
        for a in ("cnn-flatten", "cnn-pool")
    )
    assert critical_condition("erf", 5, pixels=6) == 16
    assert pooled.condition_number == pytest.approx(16, rel=0.04) and flat.condition_number == pytest.approx(3.5, rel=0.04)
    q = phase("erf", variance, 0.05).q_star
    assert pooled.lambda_bulk == pytest.approx(2 / 18 * 500 * q, rel=0.04)
    x = np.abs(np.fft.ifft(np.exp(2j * np.pi * np.random.default_rng(0).random([5, 1, 6, 4])), axis=2))
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))  # every pixel of one length: the diagonals are all equal
    flat, pooled = (
        kernel_spectrum(limit_kernels(x, architecture=a, weight_variance=1.5, depth=200, **setting)[1]).condition_number - 1
        for a in ("cnn-flatten", "cnn-pool")
    )
    assert pooled / flat == pytest.approx(6, rel=1e-2)


def test_ordered_condition_grows_at_the_predicted_rate():
    x, theory = inputs(8, 30), phase("erf", 1.25, 0.05)
    setting = {**ERF, "weight_variance": 1.25}
    kernels = limit_kernels_at(x, **setting, depths=[200, 300])
    conditions = [kernel_spectrum(ntk).condition_number for _, ntk in kernels.values()]
    growth = conditions[1] * 300 / (conditions[0] * 200)  # kappa ~ chi_1^-l / l
    assert np.log(growth) / 100 == pytest.approx(-np.log(theory.chi_1), rel=0.02)


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
