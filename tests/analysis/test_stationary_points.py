"""analysis/stationary_points.py: least squares in one step, the theorem's value at converged minima, kinks by hand."""
import numpy as np
import pytest

from analysis.dense_mlp import DenseMLP
from analysis.projection import project_targets
from analysis.stationary_points import KINK_TOLERANCE, count_kinks, newton, stationary_point


def test_a_linear_model_ends_at_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    dense = DenseMLP(x, y, (), "linear")
    design = np.concatenate([x, np.ones((30, 1))], axis=1)
    best = np.linalg.lstsq(design, y, rcond=None)[0].ravel()
    theta, counts = stationary_point(dense, rng.standard_normal(10), 0, 40)
    np.testing.assert_allclose(theta, best, atol=1e-8)
    assert counts["lbfgs/iterations"] == 0 < counts["newton/iterations"] < 40
    same, steps = newton(dense, best, 40)  # nothing is left to gain
    assert steps == 0 and same is best
    untouched, counts = stationary_point(dense, theta, 0, 0)
    assert untouched is theta and set(counts.values()) == {0}


class Quartic:
    """(a^2 - 1)^2 / 4 + b^2 / 2 of theta = (a, b): a saddle at 0 between minima at a = 1 and a = -1."""

    def value_and_gradient(self, theta):
        a, b = theta
        return (a**2 - 1) ** 2 / 4 + b**2 / 2, np.array([a * (a**2 - 1), b])

    def hessian(self, theta):
        return np.diag([3 * theta[0] ** 2 - 1, 1.0])


@pytest.mark.parametrize("start", [1e-3, -1e-3])
def test_newton_leaves_a_saddle_downhill(start):
    """Plain Newton would go to the saddle: the Hessian is negative there."""
    theta, steps = newton(Quartic(), np.array([start, 0.5]), 50)
    np.testing.assert_allclose(theta, [np.sign(start), 0], atol=1e-6)
    assert steps < 50


@pytest.mark.parametrize("widths", [(2,), (3,), (2, 2), (3, 2)])
def test_loss_equals_the_theorems_value_at_converged_smooth_minima(widths):
    """Noisy outputs of a teacher of the same widths have finite minima, where pure noise drives tanh units to steps."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4))
    teacher = DenseMLP(x, np.zeros((200, 2)), widths, "tanh")
    y = teacher.outputs(rng.standard_normal(teacher.parameter_count)) + 0.1 * rng.standard_normal((200, 2))
    dense = DenseMLP(x, y, widths, "tanh")
    converged = 0
    for seed in range(8):  # which of them converge is a matter of rounding, and so of threads
        start = 0.5 * np.random.default_rng([seed, 1]).standard_normal(dense.parameter_count)
        theta, counts = stationary_point(dense, start, 1000, 60)
        loss = dense.value_and_gradient(theta)[0]
        found = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), y)
        assert counts["lbfgs/iterations"] > 0 and found.gap >= 0
        # loss - value is the gap at any point, converged or not: two ways of computing one number.
        assert loss - found.value == pytest.approx(found.gap, abs=1e-12)
        if found.gap <= 1e-8 * found.target:
            assert abs(loss - found.value) <= 1e-8 and np.linalg.eigvalsh(dense.hessian(theta))[0] > -1e-6
            converged += 1
            break
    assert converged >= 1


def test_kinks_are_pre_activations_of_zero():
    dense = DenseMLP(np.array([[0.0], [1.0], [2.0]]), np.zeros((3, 1)), (2,), "relu")
    kernel, last = [1.0, -1.0], [0.3, 0.2, 0.0]
    assert count_kinks(dense, np.array([*kernel, -1.0, 2.0, *last])) == 2  # z = x - 1 and z = 2 - x
    assert count_kinks(dense, np.array([*kernel, -1.1, 2.5, *last])) == 0
    assert count_kinks(dense, np.array([*kernel, -1.0 + 0.1 * KINK_TOLERANCE, 2.5, *last])) == 1
