"""How sharp is a minimum?  Keskar et al. 2017 (1609.04836), Metric 2.1, and Kwon et al. 2021 (2102.11600), section 3.

`sharpness` is that of Keskar et al.:

    phi(eps, A) = 100 (max_{z in C} f(x + A z) - f(x)) / (1 + f(x)),      C = {z : |z_i| <= eps (|(A^+ x)_i| + 1)}

with A the identity (full space) or a random matrix [p, dimension] of standard normal entries (random subspace). The
maximum is sought by a few iterations of L-BFGS-B, as in the paper, so that phi is a lower bound of it. At a minimum the
gradient is about 0, and a convex f is largest at a corner of the box, which steps of the gradient's size do not reach:
so the search runs in units of the box and starts at the corner to which the gradient at a random point of the box
points.

It depends on the scale of the weights: a ReLU network whose layers trade a factor computes the same function and has
another sharpness, as it has another Hessian (Dinh et al. 2017). `adaptive_sharpness` moves every parameter
in units of its own size,

    max_{||u||_2 <= radius} f(x + |x| * u) - f(x)    (elementwise; their definition 2, T_x = diag |x|, p = 2)

and u has the same meaning whatever factors the layers have traded. Parameters that are 0 stay so.
"""
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from analysis.hessian import TrainingLoss
from analysis.parameters import get_parameters, parameters_kept


@dataclass(frozen=True)
class Sharpness:
    value: float            # phi, in percent of 1 + loss
    loss: float             # f(x)
    largest: float          # the largest loss found in the box
    evaluations: int        # of loss and gradient


def sharpness(
    surface: TrainingLoss, *, epsilon: float, dimension: int | None = None, iterations: int = 10, seed: int = 0,
) -> Sharpness:  # fmt: skip
    """Keskar et al.'s sharpness of a TrainingLoss at its model's parameters; the model is left as it was.

    epsilon: size of the box.  dimension: of a random subspace; None for the full space.  iterations: of L-BFGS-B, at
    most. Raises ValueError for epsilon <= 0, iterations < 1, or a dimension outside 1 ... p. A subspace takes 8 p
    dimension bytes.
    """
    centre = get_parameters(surface.model)
    p = len(centre)
    if not epsilon > 0 or iterations < 1 or not (dimension is None or 1 <= dimension <= p):
        raise ValueError(
            f"need epsilon > 0, iterations >= 1 and a dimension in 1 ... {p}, got {epsilon}, {iterations}, {dimension}"
        )
    rng = np.random.default_rng([seed, 31])
    if dimension is None:
        basis, coordinates = None, centre
    else:
        basis = rng.standard_normal((p, dimension))
        coordinates = np.linalg.solve(basis.T @ basis, basis.T @ centre)  # A^+ x
    sides = epsilon * (np.abs(coordinates) + 1)
    found = {"largest": -np.inf, "evaluations": 0}

    def rise(u):  # at x + A (sides * u), u in [-1, 1]
        z = sides * u
        value, gradient = surface.value_and_gradient_at(centre + (z if basis is None else basis @ z))
        found["evaluations"] += 1
        found["largest"] = max(found["largest"], value if np.isfinite(value) else -np.inf)
        return value, sides * (gradient if basis is None else basis.T @ gradient)

    with parameters_kept(surface.model):
        loss = surface.value_and_gradient_at(centre)[0]
        start = np.sign(rise(rng.uniform(-1, 1, len(sides)))[1])
        slope = np.abs(rise(start)[1]).mean()
        if slope > 0:
            def downhill(u):
                value, gradient = rise(u)
                return -value / slope, -gradient / slope

            bounds = np.stack([-np.ones(len(sides)), np.ones(len(sides))], axis=1)
            minimize(
                downhill, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations, "ftol": 0}
            )
    largest = max(found["largest"], loss)
    return Sharpness(100 * (largest - loss) / (1 + loss), loss, largest, found["evaluations"])


def corner_sharpness(surface: TrainingLoss, *, epsilon: float, iterations: int = 5, seed: int = 0) -> Sharpness:
    """Keskar et al.'s sharpness in the full space, sought at the box's corners alone; the model is left as it was.

    At a minimum f is nearly convex over so small a box, and a convex function is largest at a corner: u <-
    sign(gradient at u), from a random point of the box, is the generalized power method for it (Journee et al. 2010),
    for which every step rises. It takes at most `iterations` + 2 gradients, and no search over as many bounds as there
    are parameters. A lower bound of the maximum, as the search of `sharpness` is. Raises ValueError for epsilon <= 0 or
    iterations < 1.
    """
    if not epsilon > 0 or iterations < 1:
        raise ValueError(f"need epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}")
    centre = get_parameters(surface.model)
    sides = epsilon * (np.abs(centre) + 1)
    point = np.random.default_rng([seed, 31]).uniform(-1, 1, len(centre))
    with parameters_kept(surface.model):
        loss, evaluations = surface.value_and_gradient_at(centre)[0], 1
        largest = loss
        for _ in range(iterations + 1):
            value, gradient = surface.value_and_gradient_at(centre + sides * point)
            evaluations += 1
            largest = max(largest, value if np.isfinite(value) else -np.inf)
            corner = np.sign(gradient)
            if np.array_equal(corner, point) or not np.isfinite(gradient).all():
                break
            point = corner
    return Sharpness(100 * (largest - loss) / (1 + loss), loss, largest, evaluations)


@dataclass(frozen=True)
class AdaptiveSharpness:
    value: float            # the rise of the loss, in its own units
    loss: float             # f(x)
    evaluations: int        # of loss and gradient


def adaptive_sharpness(
    surface: TrainingLoss, *, radius: float, iterations: int = 20, seed: int = 0,
) -> AdaptiveSharpness:  # fmt: skip
    """Kwon et al.'s adaptive sharpness of a TrainingLoss at its model's parameters; the model is left as it was.

    The maximum is sought by u <- radius * g / ||g||, with g the gradient in u, from the ascent step of ASAM (which is
    this step from u = 0) and from a random direction, `iterations` times each: for a convex f every step rises (the
    generalized power method, Journee et al. 2010). The largest rise that was seen is a lower bound of the maximum.
    Raises ValueError for radius <= 0 or iterations < 1.
    """
    if not radius > 0 or iterations < 1:
        raise ValueError(f"need radius > 0 and iterations >= 1, got {radius} and {iterations}")
    centre = get_parameters(surface.model)
    sizes = np.abs(centre)
    random = np.random.default_rng([seed, 37]).standard_normal(len(centre))
    with parameters_kept(surface.model):
        loss, slope = surface.value_and_gradient_at(centre)
        largest, evaluations = loss, 1
        for direction in (sizes * slope, random * (sizes > 0)):
            for _ in range(iterations):
                length = np.linalg.norm(direction)
                if not (length > 0 and np.isfinite(length)):
                    break
                value, slope = surface.value_and_gradient_at(centre + sizes * (radius * direction / length))
                evaluations += 1
                largest = max(largest, value if np.isfinite(value) else -np.inf)
                direction = sizes * slope
    return AdaptiveSharpness(largest - loss, loss, evaluations)
