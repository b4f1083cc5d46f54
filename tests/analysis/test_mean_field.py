"""analysis/mean_field.py: constants of the authors' notebook, edges of the phases, kernels of deep networks."""
import numpy as np
import pytest

from analysis.infinite_width_kernels import critical_condition, kernel_spectrum, limit_kernels, limit_kernels_at
from analysis.mean_field import critical_weight_variance, phase

ERF = {"architecture": "fcn", "activation": "erf", "weight_variance": 1.5, "bias_variance": 0.05}


def inputs(n, *shape, seed=0):
    """Inputs of one length, as the large-depth limits assume."""
    x = np.random.default_rng(seed).standard_normal([n, *shape])
    return x / np.sqrt(np.mean(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


def test_phases_of_the_paper():
    """Constants of the authors' notebook."""
    assert critical_weight_variance("erf", 0.05) == pytest.approx(1.37584, abs=1e-5)
    assert critical_weight_variance("erf", 0.18) == pytest.approx(1.7476, abs=1e-4)
    assert (
        critical_weight_variance("erf", 0.0) == pytest.approx(np.pi / 4) and critical_weight_variance("relu", 0.3) == 2
    )
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
    """Critical: (m d + 2) / 2 against (m + 2) / 2; chaotic: d times the distance from 1.

    Images of one row, m = 5, d = 6.
    """
    x, variance = inputs(5, 1, 6, 4), critical_weight_variance("erf", 0.05)
    setting = {"activation": "erf", "bias_variance": 0.05}
    flat, pooled = (
        kernel_spectrum(limit_kernels(x, architecture=a, weight_variance=variance, depth=500, **setting)[1])
        for a in ("cnn-flatten", "cnn-pool")
    )
    assert critical_condition("erf", 5, pixels=6) == 16
    assert pooled.condition_number == pytest.approx(16, rel=0.04) and flat.condition_number == pytest.approx(
        3.5, rel=0.04
    )
    q = phase("erf", variance, 0.05).q_star
    assert pooled.lambda_bulk == pytest.approx(2 / 18 * 500 * q, rel=0.04)
    x = np.abs(np.fft.ifft(np.exp(2j * np.pi * np.random.default_rng(0).random([5, 1, 6, 4])), axis=2))
    x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))  # every pixel of one length: the diagonals are all equal
    flat, pooled = (
        kernel_spectrum(limit_kernels(x, architecture=a, weight_variance=1.5, depth=200, **setting)[1]).condition_number
        - 1
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


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        phase("tanh", 1.0, 0.1)
    with pytest.raises(ValueError, match="bias_variance must be finite and >= 0"):
        critical_weight_variance("erf", -0.1)
