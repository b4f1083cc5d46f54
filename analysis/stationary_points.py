"""Where does the training loss of a small multilayer perceptron have a stationary point, to rounding?

From any theta downhill: L-BFGS and BFGS first (SciPy), then damped Newton steps with the dense Hessian of
analysis.dense_mlp. ReLU and leaky ReLU may stop at a kink, a pre-activation of exactly 0, which is no differentiable
stationary point: count_kinks says, and analysis.kink_points finds those that are stationary all the same.
"""
from typing import Any

import numpy as np
from scipy.optimize import minimize

from analysis.dense_mlp import DenseMLP

KINK_TOLERANCE = 1e-5  # a pre-activation this small, relative to its layer's largest, sits at a kink


def count_kinks(dense: DenseMLP, theta: np.ndarray) -> int:
    """(example, unit) pairs whose pre-activation is 0, where a ReLU has no derivative, at parameters theta [p].

    0 to KINK_TOLERANCE of the largest pre-activation of the unit's layer.
    """
    return sum(int(np.sum(np.abs(z) <= KINK_TOLERANCE * np.abs(z).max())) for z in dense.preactivations(theta))


def stationary_point(
    dense: DenseMLP, theta: np.ndarray, lbfgs_iterations: int, newton_iterations: int, bfgs_iterations: int = 0
) -> tuple[np.ndarray, dict[str, int]]:
    """From theta [p] downhill to a stationary point of dense's loss, as far as the iterations take it.

    lbfgs_iterations, bfgs_iterations, newton_iterations: at most, in this order; 0 leaves that part out.
    Returns (theta [p], {"lbfgs/iterations", "bfgs/iterations", "newton/iterations": those that were taken}).
    """
    counts = {}
    theta, counts["lbfgs/iterations"] = lbfgs(dense, theta, lbfgs_iterations, tolerance=1e-12)
    theta, counts["bfgs/iterations"] = bfgs(dense, theta, bfgs_iterations, tolerance=1e-9)
    theta, counts["newton/iterations"] = newton(dense, theta, newton_iterations)
    return theta, counts


def lbfgs(dense: Any, theta: np.ndarray, iterations: int, tolerance: float = 1e-9) -> tuple[np.ndarray, int]:
    """SciPy's L-BFGS-B, to a largest gradient entry of `tolerance` -> (theta [p], iterations taken).

    dense: has value_and_gradient(theta).
    """
    if not iterations:
        return theta, 0
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 30, "ftol": 0, "gtol": tolerance}
    found = minimize(dense.value_and_gradient, theta, jac=True, method="L-BFGS-B", options=options)
    return found.x, int(found.nit)


def bfgs(dense: Any, theta: np.ndarray, iterations: int, tolerance: float = 1e-7) -> tuple[np.ndarray, int]:
    """SciPy's BFGS, whose dense inverse Hessian gets through the narrow valleys where L-BFGS creeps.

    As `lbfgs`; an end that is not finite is thrown away.
    """
    if not iterations:
        return theta, 0
    options = {"maxiter": iterations, "gtol": tolerance}
    with np.errstate(over="ignore", invalid="ignore"):  # a long trial step; its line search comes back
        found = minimize(dense.value_and_gradient, theta, jac=True, method="BFGS", options=options)
    return (found.x if np.isfinite(found.x).all() else theta), int(found.nit)


def newton(dense: Any, theta: np.ndarray, iterations: int, tolerance: float = 1e-13) -> tuple[np.ndarray, int]:
    """Damped Newton steps on the absolute Hessian, sum_i -u_i (u_i . g) / (|lambda_i| + damping) -> (theta [p], steps).

    In the eigenbasis negative curvature is descended too, and a singular Hessian (dead pixels) takes no special care.
    Ends when the decrease still expected, 1/2 sum (u_i . g)^2 / |lambda_i|, is below `tolerance`, or no step is lower.
    dense: has value_and_gradient(theta) and hessian(theta) [p, p], of which every step takes all eigenvalues.
    """
    value, gradient = dense.value_and_gradient(theta)
    damping, steps = None, 0
    for _ in range(iterations):
        eigenvalues, vectors = np.linalg.eigh(dense.hessian(theta))
        sizes = np.abs(eigenvalues) + 1e-14 * np.abs(eigenvalues).max()
        components = vectors.T @ gradient
        if 0.5 * np.sum(components**2 / sizes) < tolerance:
            break
        damping = 1e-3 * sizes.max() if damping is None else damping
        for _ in range(30):
            move = -components / (sizes + damping)
            expected = -(components @ move + 0.5 * eigenvalues @ move**2)
            lower, slope = dense.value_and_gradient(theta + vectors @ move)
            if value - lower > 1e-4 * abs(expected):
                break
            damping *= 4
        else:
            break  # nothing lower: rounding, or a kink
        ratio = (value - lower) / expected if expected > 0 else 1.0
        theta, value, gradient, steps = theta + vectors @ move, lower, slope, steps + 1
        damping *= 0.1 if ratio > 0.75 else 1.0 if ratio > 0.25 else 4.0
    return theta, steps
