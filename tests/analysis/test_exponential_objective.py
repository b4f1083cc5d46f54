"""analysis/exponential_objective.py: differences, the theorem's identity, its way out to infinity, Newton-CG."""
import numpy as np
import pytest

from analysis.exponential_objective import ExponentialObjective, newton_cg
from analysis.parameters import get_parameters, set_parameters
from models import NetworkConfig, build
from models.exponential_neurons import with_neurons


@pytest.fixture(scope="module")
def problem():
    """(network f, f with neurons, the neurons, objective, x, y, a point) with 2 outputs and 4 inputs."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
    model = build(NetworkConfig(widths=(3,), activation="tanh", dtype="float64"), (4,), 2, seed=0)
    augmented, neurons = with_neurons(model, 0.5, seed=1)
    objective = ExponentialObjective(augmented, neurons, x, y, "squared", penalty=0.3)
    theta = get_parameters(augmented)
    theta[objective.network.stop :] = 0.5 * rng.standard_normal(len(theta) - objective.network.stop)
    return model, augmented, neurons, objective, x, y, theta


def test_the_vector_is_the_network_then_w_b_and_a(problem):
    model, augmented, neurons, objective, _, _, theta = problem
    set_parameters(augmented, theta)
    np.testing.assert_array_equal(theta[objective.a], neurons.a)
    np.testing.assert_array_equal(theta[objective.b], neurons.b)
    np.testing.assert_array_equal(theta[objective.network], get_parameters(model))


def test_objective_gradient_and_product_are_differences(problem):
    _, augmented, _, objective, x, y, theta = problem
    value, gradient = objective(theta)
    outputs = augmented(x).numpy()
    a = theta[objective.a]
    assert value == pytest.approx(0.5 * np.sum((outputs - y) ** 2) / 9 + 0.3 * a @ a, rel=1e-12)
    rng, step = np.random.default_rng(3), 1e-5
    for _ in range(5):
        direction = rng.standard_normal(len(theta))
        (up, slope_up), (down, slope_down) = (objective(theta + s * step * direction) for s in (1, -1))
        assert gradient @ direction == pytest.approx((up - down) / (2 * step), rel=1e-6)
        difference = (slope_up - slope_down) / (2 * step)
        np.testing.assert_allclose(objective.product(theta, direction), difference, rtol=1e-5, atol=1e-5)


def test_a_finite_stationary_point_has_a_zero(problem):
    """The theorem's identity: a dL/da - dL/db = 2 penalty a^2 everywhere, so both derivatives vanish only at a = 0."""
    objective, theta = problem[3], problem[-1]
    for scale in (0.1, 1.0, 2.0):
        _, gradient = objective(scale * theta)
        a = scale * theta[objective.a]
        np.testing.assert_allclose(
            a * gradient[objective.a] - gradient[objective.b], 2 * 0.3 * a**2, rtol=1e-9, atol=1e-12
        )


def test_the_failure_path_goes_to_infinity(problem):
    """a -> 0 with a exp(b) held lowers the objective for ever, towards the loss of f + g, while f stays as it is."""
    objective, theta = problem[3], problem[-1].copy()
    values, losses = [], []
    for _ in range(12):
        value = objective(theta)[0]
        values.append(value)
        losses.append(value - 0.3 * np.sum(theta[objective.a] ** 2))
        theta[objective.a] /= 2
        theta[objective.b] += np.log(2)
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)
    assert values[-1] == pytest.approx(losses[0], rel=1e-6)


def test_newton_cg_changes_only_what_is_free_and_never_rises(problem):
    objective, theta = problem[3], problem[-1]
    seen = []
    free = slice(objective.network.stop, None)
    end, steps = newton_cg(objective, theta, free, 10, lambda t: seen.append(objective(t)[0]))
    np.testing.assert_array_equal(end[objective.network], theta[objective.network])
    assert steps == len(seen) == 10 and (np.diff([objective(theta)[0], *seen]) <= 1e-12).all()
    assert objective(end)[0] < objective(theta)[0]


def test_newton_cg_finds_the_minimum_of_a_quadratic_and_survives_overflow():
    class Quadratic:
        """1/2 (theta - m)' H (theta - m), infinite beyond 5 as an exponential would be."""

        h, m = np.diag([100.0, 1.0, 0.01]), np.array([1.0, -2.0, 3.0])

        def __call__(self, theta):
            gap = theta - self.m
            return (np.inf if np.abs(theta).max() > 5 else 0.5 * gap @ self.h @ gap), self.h @ gap

        def product(self, theta, vector):
            return self.h @ vector

    end, steps = newton_cg(Quadratic(), np.zeros(3), slice(None), 100, lambda theta: None)
    np.testing.assert_allclose(end, Quadratic.m, rtol=1e-6)
    assert 1 <= steps < 100
    end, _ = newton_cg(Quadratic(), np.array([0.0, 0.0, 7.0]), slice(0, 2), 100, lambda theta: None)
    assert end[2] == 7.0


def test_another_order_of_variables_is_refused(problem):
    model, _, neurons, _, x, y, _ = problem
    with pytest.raises(ValueError, match="w, b and a must be the last variables"):
        ExponentialObjective(model, neurons, x, y, "squared", penalty=0.3)
