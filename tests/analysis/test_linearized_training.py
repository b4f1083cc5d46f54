"""analysis/linearized_training.py: gradient descent step by step, kernel regression, decay by formula."""
import numpy as np
import pytest

from analysis.infinite_width_kernels import limit_kernels
from analysis.kernels import kernel_regression
from analysis.linearized_training import (
    fitted_share,
    linearized_predictions,
    momentum_share,
    outputs_after,
    positive_eigh,
    predictor_size,
    relative_decay_rate,
    scale_to_unit_variance,
)

RNG = np.random.default_rng(0)


def kernel(m=12, test=5):
    x = RNG.standard_normal([m + test, 8])
    return limit_kernels(x, architecture="fcn", activation="erf", weight_variance=1.5, bias_variance=0.1, depth=3)[1]


@pytest.mark.parametrize("step_size", [0.3, 0.9])
def test_trained_outputs_are_those_of_gradient_descent(step_size):
    """f <- f - eta / m Theta (f - Y), step by step, on training and test inputs."""
    ntk, y, start = kernel(), RNG.standard_normal([12, 3]), RNG.standard_normal([17, 3])
    eigen = positive_eigh(ntk[:12, :12])
    f, eta = start.copy(), 2 * step_size / eigen[0][-1]  # eta / m
    for _ in range(40):
        f -= eta * ntk[:, :12] @ (f[:12] - y)
    got = outputs_after(ntk, eigen, fitted_share(eigen[0], step_size, 40), start, y)
    np.testing.assert_allclose(np.concatenate(got), f, rtol=1e-9, atol=1e-9)


def test_momentum_and_coupled_outputs_are_those_of_steps_in_parameters():
    """SGD with momentum, as Keras has it, on the weights of a model that is linear in them; then its fixed point."""
    m, t, k, p, momentum = 5, 4, 2, 30, 0.9
    jacobian, test_jacobian = RNG.standard_normal([m, k, p]), RNG.standard_normal([t, k, p])
    y, start, test_start = (RNG.standard_normal(shape) for shape in ([m, k], [m, k], [t, k]))
    kernel, cross = np.einsum("iap,jbp->iajb", jacobian, jacobian), np.einsum("iap,jbp->iajb", test_jacobian, jacobian)
    eigen = positive_eigh(kernel.reshape(m * k, m * k))
    rates = [0.4 * m / eigen[0][-1]] * 30 + [0.1 * m / eigen[0][-1]] * 30
    weights, velocity = np.zeros(p), np.zeros(p)
    for rate in rates:
        gradient = np.einsum("iap,ia->p", jacobian, start + jacobian @ weights - y) / m
        velocity = momentum * velocity - rate * gradient
        weights = weights + velocity
    share = momentum_share(eigen[0], rates, momentum, m)
    got = linearized_predictions(eigen, cross, share, y - start, test_start)
    np.testing.assert_allclose(got, test_start + test_jacobian @ weights, rtol=1e-8)
    end = linearized_predictions(eigen, cross, np.ones(m * k), y - start, test_start)
    np.testing.assert_allclose(end, kernel_regression(kernel, y - start, cross, test_start).predictions, rtol=1e-8)


def test_momentum_share_without_momentum_is_the_geometric_sum_and_grows_beyond_the_stable_rate():
    values = np.array([1e-14, 0.1, 1.0])
    got = momentum_share(values, [0.5 * 2] * 7, 0.0, 2)
    np.testing.assert_allclose(got, fitted_share(values, 0.25, 7), rtol=1e-12)
    stable, beyond = (np.abs(momentum_share(values, [rate] * 2000, 0.9, 1)[2]) for rate in (3.79, 3.81))
    assert stable < 10 and beyond > 1e3


def test_predictor_is_kernel_regression_of_centred_labels():
    ntk, y = kernel(), RNG.standard_normal([12, 3])
    centred = y - y.mean(axis=0)
    wanted = kernel_regression(ntk[:12, :12], centred, ntk[12:, :12]).predictions
    got = predictor_size(ntk, positive_eigh(ntk[:12, :12]), np.ones(12), y)
    assert got == pytest.approx(np.sqrt(np.mean(wanted**2) / np.mean(centred**2)), rel=1e-9)
    assert np.isnan(predictor_size(np.ones([17, 17]), positive_eigh(np.ones([12, 12])), np.ones(12), y))


def test_share_is_that_of_a_geometric_sum_and_precise_where_small():
    values = np.array([1e-14, 0.1, 1.0])
    share = fitted_share(values, 0.5, 7)  # eta lambda / m = lambda / lambda_max
    np.testing.assert_allclose(share[1:], [1 - 0.9**7, 1.0], rtol=1e-14)
    assert share[0] == pytest.approx(7e-14, rel=1e-12)  # 1 - (1 - 1e-14)^7 in plain rounding is off by some per cent
    np.testing.assert_allclose(
        fitted_share(values, 0.9, 3)[2], 1 - (1 - 1.8) ** 3, rtol=1e-14
    )  # beyond 1: it overshoots


def test_inputs_get_a_mean_square_of_one():
    x = RNG.standard_normal([5, 2, 3]).astype("float32")
    x[3] = 0
    scaled = scale_to_unit_variance(x)
    np.testing.assert_allclose(np.mean(scaled**2, axis=(1, 2)), [1, 1, 1, 0, 1], rtol=1e-6)
    assert scaled.dtype == np.float64 and scaled.shape == x.shape
    np.testing.assert_allclose(scaled[0] / scaled[0, 0, 0], x[0] / x[0, 0, 0], rtol=1e-6)


def test_eigenvalues_of_a_singular_kernel_stay_positive():
    factor = RNG.standard_normal([6, 3])
    values, vectors = positive_eigh(factor @ factor.T)
    assert (values > 0).all() and (np.diff(values) >= 0).all() and values[2] < 1e-12 * values[-1]
    np.testing.assert_allclose(vectors * values @ vectors.T, factor @ factor.T, atol=1e-12)


def test_decay_rate_of_an_exponential():
    depths = np.arange(20.0)
    values = 3 * np.exp(-depths / 4)
    use = depths > 2
    assert relative_decay_rate(depths, values, use, -4.0) == pytest.approx(1)
    assert relative_decay_rate(depths, values, use, -8.0) == pytest.approx(2)
    values[5:] = 0, *[np.nan] * 14
    assert np.isnan(relative_decay_rate(depths, values, use, -4.0))  # two usable values are left
