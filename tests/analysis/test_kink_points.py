"""analysis/kink_points.py: what scaling and smoothing change, and minima at kinks against the loss around them."""
import numpy as np
import pytest

from analysis.dense_mlp import ACTIVATIONS, LEAKS, DenseMLP
from analysis.kink_points import HeldScales, balance, fixed, kink_point, null_space, smoothed
from analysis.projection import project_targets


def problem(activation, widths, n=60):
    rng = np.random.default_rng(0)
    dense = DenseMLP(rng.standard_normal((n, 2)), rng.standard_normal((n, 2)), widths, activation)
    return dense, 0.5 * rng.standard_normal(dense.parameter_count)


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_smoothing_has_the_right_derivatives_and_the_kink_as_its_limit(leak):
    z = np.linspace(-2, 2, 41)
    _, slope, bend = smoothed(leak, 0.3)(z)
    ends = [smoothed(leak, 0.3)(z + step) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose((ends[0][0] - ends[1][0]) / 2e-5, slope, atol=1e-8)
    np.testing.assert_allclose((ends[0][1] - ends[1][1]) / 2e-5, bend, atol=1e-8)
    np.testing.assert_allclose(smoothed(leak, 1e-9)(z)[0], np.where(z > 0, z, leak * z), atol=1e-8)


@pytest.mark.parametrize("activation", LEAKS)
def test_balanced_units_make_the_same_network(activation):
    dense, theta = problem(activation, (3, 2))
    same = balance(dense, 3 * theta)
    np.testing.assert_allclose(dense.outputs(same), dense.outputs(3 * theta), rtol=1e-10, atol=1e-12)
    for z in dense.preactivations(same):
        np.testing.assert_allclose(np.mean(z**2, axis=0), 1, rtol=1e-8)
    surface = HeldScales(dense, same)
    assert surface.directions.shape == (len(theta), len(theta) - 5)
    kernel = dense.layers[0].start + np.arange(3) * 3  # the first unit's incoming weights and bias
    np.testing.assert_allclose(same[kernel] @ surface.directions[kernel], 0, atol=1e-10)


def test_null_space_is_orthogonal_to_every_normal_also_to_dependent_ones():
    normals = np.random.default_rng(0).standard_normal((3, 6))
    basis = null_space(np.concatenate([normals, normals[:1] + normals[1:2]]), 6)
    assert basis.shape == (6, 3)
    np.testing.assert_allclose(normals @ basis, 0, atol=1e-12)
    assert null_space(np.zeros((0, 4)), 4).shape == (4, 4)


@pytest.mark.parametrize(("activation", "widths"), [("relu", (2,)), ("leaky_relu", (3,)), ("leaky_relu", (2, 2))])
def test_some_slopes_at_the_kinks_make_the_gradient_zero_and_nothing_near_is_lower(activation, widths):
    dense, start = problem(activation, widths)
    leak = LEAKS[activation]
    reached = 0
    for seed in range(4):  # which of them get there is a matter of rounding
        theta = start * np.random.default_rng(seed).uniform(0.5, 1.5, len(start))
        point = kink_point(dense, theta, leak, 300, 1000, 20)
        smooth = dense.with_activations([fixed(slopes) for slopes in point.slopes])
        loss, gradient = smooth.value_and_gradient(point.theta)
        assert loss <= dense.value_and_gradient(balance(dense, theta))[0]
        found = project_targets(smooth.jacobian(point.theta), smooth.layers, smooth.outputs(point.theta), smooth.y)
        if point.ridges or point.outside or found.gap > 1e-8 * found.target:
            continue
        reached += 1
        assert np.linalg.norm(gradient) < 1e-6 and loss == pytest.approx(found.value, rel=1e-7)
        assert loss == pytest.approx(dense.value_and_gradient(point.theta)[0], rel=1e-10)
        for z, mask, slopes in zip(dense.preactivations(point.theta), point.held, point.slopes):
            assert np.abs(z[mask]).max(initial=0) < 1e-10
            assert (slopes[mask] >= leak - 1e-6).all() and (slopes[mask] <= 1 + 1e-6).all()
        rng = np.random.default_rng(1)
        around = [point.theta + 1e-4 * rng.standard_normal(len(theta)) for _ in range(200)]
        assert min(dense.value_and_gradient(near)[0] for near in around) > loss - 1e-11
    assert reached >= 1


def test_a_minimum_at_a_kink_by_hand():
    """relu(x - c) with targets 0, 1 at x = 1 and 2, whose best straight pieces meet at the first input."""
    dense = DenseMLP([[1.0], [2.0]], [[0.0], [1.0]], (1,), "relu")
    theta = np.array([1.0, -1.0, 1.0, 0.0])
    assert dense.value_and_gradient(theta)[0] == 0
    masks = [np.array([[True], [False]])]
    normal = dense.preactivation_gradients(theta, masks)
    np.testing.assert_allclose(normal, [[1, 1, 0, 0]])  # d (w x + b) at x = 1
    assert ACTIVATIONS["relu"](np.zeros(1))[0] == 0
