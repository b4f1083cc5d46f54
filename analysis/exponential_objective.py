"""The training loss of a network with exponential neurons, and its descent by Newton-CG (Kawaguchi, Kaelbling 2020).

    L~(theta, w, b, a) = 1/n sum_i l(f(x_i) + g(x_i), y_i) + penalty ||a||^2,        g_k(x) = a_k exp(w_k . x + b_k)
"""
from collections.abc import Callable

import keras
import numpy as np
from scipy.optimize import minimize

from analysis.hessian import TrainingLoss
from analysis.parameters import set_parameters


class ExponentialObjective:
    """L~ of theta, w, b, a as one vector [p], with its gradient: objective(vector) -> (value, gradient [p]).

    model, neurons: of models.exponential_neurons.with_neurons.  x [n, ...], y [n, k].  loss: a name in LOSSES.
    Its slices `network`, `b` and `a` say where theta, b and a are in the vector. Sets the model's parameters.
    Raises ValueError where w, b and a are not the model's last variables.
    """

    def __init__(
        self, model: keras.Model, neurons: keras.layers.Layer, x: np.ndarray, y: np.ndarray, loss: str, penalty: float
    ):
        self.surface, self.model, self.penalty = TrainingLoss(model, x, y, loss), model, penalty
        names = [v.path for v in model.trainable_variables]
        if names[-3:] != [v.path for v in (neurons.w, neurons.b, neurons.a)]:
            raise ValueError(f"the neurons' w, b and a must be the last variables, got {', '.join(names[-3:])}")
        sizes = [int(np.prod(v.shape)) for v in (neurons.w, neurons.b, neurons.a)]
        p = self.surface.parameter_count
        self.a = slice(p - sizes[2], p)
        self.b = slice(p - sizes[1] - sizes[2], p - sizes[2])
        self.network = slice(0, p - sum(sizes))

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.surface.value_and_gradient_at(theta)
        a = theta[self.a]
        gradient[self.a] += 2 * self.penalty * a
        return value + self.penalty * float(a @ a), gradient

    def product(self, theta: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """The Hessian of L~ at theta times a vector, [p]."""
        set_parameters(self.model, theta)
        result = self.surface.product(vector)
        result[self.a] += 2 * self.penalty * vector[self.a]
        return result


def newton_cg(
    objective: ExponentialObjective, theta: np.ndarray, free: slice, iterations: int, callback: Callable
) -> tuple[np.ndarray, int]:
    """Newton-CG in a trust region (SciPy) on the entries `free` of theta [p] -> (theta [p], iterations taken).

    All other entries stay as they are. callback(theta) is called after every iteration, of which there are at most
    `iterations`. An embedded minimum is badly conditioned, and L-BFGS hardly moves from it.
    """
    theta = theta.copy()

    def at(part):
        theta[free] = part
        with np.errstate(over="ignore", invalid="ignore"):
            value, gradient = objective(theta)
        # A trial step may overflow the exponential: the trust region then shrinks.
        return (value, gradient[free]) if np.isfinite(value) else (np.inf, np.zeros_like(part))

    def product(part, direction):
        theta[free] = part
        vector = np.zeros(len(theta))
        vector[free] = direction
        return objective.product(theta, vector)[free]

    def after(part):
        theta[free] = part
        callback(theta)

    options = {"maxiter": iterations, "gtol": 1e-10, "initial_trust_radius": 0.1, "max_trust_radius": 10.0}
    start = theta[free].copy()
    found = minimize(at, start, jac=True, hessp=product, method="trust-ncg", callback=after, options=options)
    theta[free] = found.x
    return theta, found.nit
