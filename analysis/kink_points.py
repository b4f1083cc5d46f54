"""Where does the training loss of a small ReLU network have a stationary point, kinks included, to rounding?

A minimum of a piecewise linear network often lies at kinks: pre-activations of exactly 0, at which an activation of
slopes `leak` and 1 has any slope between them as a generalized derivative (Clarke 1983). The point is stationary if
some choice of these slopes makes the gradient zero; with that choice the network is a smooth one around the point, and
whatever follows from a zero gradient holds with the Jacobian of the chosen slopes, as it does at a point without kinks.

From any theta downhill: the kink is smoothed over a width mu (Chen & Mangasarian 1996), the smooth loss is minimized by
L-BFGS and BFGS (SciPy), then mu falls by powers of ten with Newton steps at each; what is still between both slopes at
the end sits at a kink. Newton steps on the parameters that keep these pre-activations at 0 do the rest. A unit's
incoming weights times c and its outgoing ones by 1 / c are the same network, but not the same to smoothing: so every
unit is scaled to a mean square of 1, and its scale is held while mu is.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from analysis.dense_mlp import DenseMLP
from analysis.stationary_points import bfgs, lbfgs, newton

WIDTHS = tuple(10.0**-i for i in range(1, 8))  # of the smoothed kink, in root mean squares of a unit's pre-activations
BETWEEN = 1e-3  # a slope this far from both ends (relative to their distance) belongs to a pre-activation at its kink
TOLERANCE = 1e-6  # by which a slope may leave the range between leak and 1
POLISHING = 8  # Newton steps that hold the kinks, at most


@dataclass(frozen=True)
class KinkPoint:
    """theta [p]; held: masks [n, width] of the pre-activations at a kink, one a hidden layer.

    slopes: [n, width] a hidden layer, with the choice at the kinks that leaves the smallest gradient.
    ridges: kinks at which the loss falls to both sides, so that the point is no minimum.  outside: slopes at kinks that
    no generalized derivative has, so that the loss falls to one side.  counts: iterations taken, by solver.
    """

    theta: np.ndarray
    held: list
    slopes: list
    ridges: int
    outside: int
    counts: dict

    @property
    def kinks(self) -> int:
        return sum(int(mask.sum()) for mask in self.held)


def fixed(slopes: np.ndarray) -> Callable:
    """An activation [n, width] of the given slopes, wherever its kinks are."""
    return lambda z: (slopes * z, slopes, np.zeros_like(z))


def smoothed(leak: float, width: float) -> Callable:
    """The piecewise linear activation with a kink of this width: leak z + (1 - leak) (z + sqrt(z^2 + width^2)) / 2."""
    def activation(z):
        root = np.sqrt(z * z + width * width)
        share = 0.5 * (1 - leak)
        return leak * z + share * (z + root), leak + share * (1 + z / root), share * width * width / root**3

    return activation


def balance(dense: DenseMLP, theta: np.ndarray) -> np.ndarray:
    """The parameters [p] of the same piecewise linear network whose hidden pre-activations have a mean square of 1.

    By a factor of ten at most: what no unit behind it uses may have any scale.
    """
    theta = theta.copy()
    for l in range(len(dense.shapes) - 1):
        (i, o), (_, k) = dense.shapes[l : l + 2]
        size = np.sqrt(np.mean(dense.preactivations(theta)[l] ** 2, axis=0))
        size = np.clip(size, 0.1, 10)
        incoming, outgoing = theta[dense.layers[l]].reshape(i + 1, o), theta[dense.layers[l + 1]].reshape(o + 1, k)
        incoming /= size  # both are views
        outgoing[:-1] *= size[:, None]
    return theta


class HeldScales:
    """A DenseMLP near theta [p], with the length of every hidden unit's incoming weights held to first order.

    Has value_and_gradient(u) and hessian(u) of the other directions u [p - units], and at(u) [p].
    """

    def __init__(self, dense: DenseMLP, theta: np.ndarray):
        columns = []
        for where, (i, o) in zip(dense.layers[:-1], dense.shapes[:-1]):
            for unit in range(o):
                column = np.zeros_like(theta)
                column[where].reshape(i + 1, o)[:, unit] = theta[where].reshape(i + 1, o)[:, unit]
                if column.any():
                    columns.append(column / np.linalg.norm(column))
        basis = np.linalg.qr(np.array(columns).T, mode="complete")[0] if columns else np.eye(len(theta))
        self.dense, self.theta, self.directions = dense, theta, basis[:, len(columns) :]

    def at(self, u: np.ndarray) -> np.ndarray:
        return self.theta + self.directions @ u

    def value_and_gradient(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.dense.value_and_gradient(self.at(u))
        return value, self.directions.T @ gradient

    def hessian(self, u: np.ndarray) -> np.ndarray:
        return self.directions.T @ self.dense.hessian(self.at(u)) @ self.directions


def kink_point(
    dense: DenseMLP, theta: np.ndarray, leak: float, lbfgs_iterations: int, bfgs_iterations: int, newton_iterations: int
) -> KinkPoint:
    """From theta [p] downhill to a stationary point of a piecewise linear network's loss, as far as iterations take it.

    dense: with the activation of slopes leak and 1.  lbfgs_iterations, bfgs_iterations, newton_iterations: at most,
    those of Newton's method for every width of the smoothed kink; 0 leaves a solver out.
    """
    layers = len(dense.shapes) - 1
    counts = {"lbfgs/iterations": 0, "bfgs/iterations": 0, "newton/iterations": 0}
    theta = balance(dense, theta)
    for width in WIDTHS:
        theta = balance(dense, theta)
        surface = HeldScales(dense.with_activations([smoothed(leak, width)] * layers), theta)
        u = np.zeros(surface.directions.shape[1])
        if width == WIDTHS[0]:
            for solve, name, most in ((lbfgs, "lbfgs", lbfgs_iterations), (bfgs, "bfgs", bfgs_iterations)):
                end, counts[f"{name}/iterations"] = solve(surface, u, most)
                theta = balance(dense, surface.at(end))
                surface = HeldScales(surface.dense, theta)
        u, steps = newton(surface, u, newton_iterations)
        counts["newton/iterations"] += steps
        theta = surface.at(u)
    at_zero = [smoothed(leak, WIDTHS[-1])(z)[1] for z in dense.preactivations(theta)]
    edge = BETWEEN * (1 - leak)
    held = [(leak + edge < slope) & (slope < 1 - edge) for slope in at_zero]
    return polish(dense, theta, leak, held, at_zero, counts)


def piece(
    dense: DenseMLP, theta: np.ndarray, leak: float, held: list[np.ndarray], at_zero: list[np.ndarray]
) -> tuple[DenseMLP, list[np.ndarray]]:
    """(DenseMLP with fixed slopes, those slopes): 1 or leak by the sign of a pre-activation, but for those held."""
    slopes = [
        np.where(mask, np.clip(slope, leak, 1), np.where(z > 0, 1.0, leak))
        for mask, slope, z in zip(held, at_zero, dense.preactivations(theta))
    ]
    return dense.with_activations([fixed(slope) for slope in slopes]), slopes


def polish(
    dense: DenseMLP, theta: np.ndarray, leak: float, held: list[np.ndarray], at_zero: list[np.ndarray],
    counts: dict[str, int],
) -> KinkPoint:  # fmt: skip
    """The KinkPoint that Newton steps on the parameters with the held pre-activations at 0 lead to from theta [p].

    They are plain ones: where they raise the loss, the point was not near a stationary one and is left where it was.
    """
    before = theta
    start = dense.value_and_gradient(theta)[0]
    for _ in range(POLISHING):
        smooth = piece(dense, theta, leak, held, at_zero)[0]
        normals = smooth.preactivation_gradients(theta, held)
        kept = null_space(normals, len(theta))
        off = np.concatenate([z[mask] for z, mask in zip(dense.preactivations(theta), held)])
        eigenvalues, vectors = np.linalg.eigh(kept.T @ smooth.hessian(theta) @ kept)
        sizes = np.abs(eigenvalues) + 1e-12 * max(np.abs(eigenvalues).max(initial=0), 1e-300)
        components = vectors.T @ (kept.T @ smooth.value_and_gradient(theta)[1])
        moved = theta - kept @ (vectors @ (components / sizes))
        if len(off):
            moved -= np.linalg.lstsq(normals, off, rcond=1e-12)[0]
        if not dense.value_and_gradient(moved)[0] <= start * (1 + 1e-6):
            theta = before
            break
        theta = moved
        if 0.5 * np.sum(components**2 / sizes) < 1e-22 and np.abs(off).max(initial=0) < 1e-13:
            break
    return choose_slopes(dense, theta, leak, held, at_zero, counts)


def null_space(normals: np.ndarray, size: int) -> np.ndarray:
    """An orthonormal basis [size, m] of the directions orthogonal to all rows of normals [k, size]."""
    if not len(normals):
        return np.eye(size)
    q, r, _ = scipy.linalg.qr(normals.T, pivoting=True)
    diagonal = np.abs(np.diag(r))
    return q[:, int((diagonal > 1e-10 * diagonal.max(initial=0)).sum()) :]


def choose_slopes(
    dense: DenseMLP, theta: np.ndarray, leak: float, held: list[np.ndarray], at_zero: list[np.ndarray],
    counts: dict[str, int],
) -> KinkPoint:  # fmt: skip
    """The KinkPoint at theta [p] with the slopes at its kinks that make the gradient smallest.

    A slope changes the gradient by its sensitivity times d z / d theta, which depend on other slopes in deep networks:
    a few rounds.
    """
    smooth, slopes = piece(dense, theta, leak, held, at_zero)
    sensitivity = np.empty(0)
    for _ in range(4 if any(mask.any() for mask in held) else 0):
        sensitivity = np.concatenate([d[mask] for d, mask in zip(smooth.sensitivities(theta), held)])
        normals = smooth.preactivation_gradients(theta, held)
        needed = np.linalg.lstsq(normals.T, -smooth.value_and_gradient(theta)[1], rcond=1e-10)[0]
        known = np.abs(sensitivity) > 1e-14
        change = np.divide(needed, sensitivity, out=np.zeros_like(needed), where=known)
        for slope, mask, part in zip(slopes, held, np.split(change, np.cumsum([mask.sum() for mask in held])[:-1])):
            slope[mask] += part
        smooth = dense.with_activations([fixed(slope) for slope in slopes])
    chosen = np.concatenate([slope[mask] for slope, mask in zip(slopes, held)] or [[]])
    outside = (chosen < leak - TOLERANCE) | (chosen > 1 + TOLERANCE)
    return KinkPoint(theta, held, slopes, int((sensitivity < 0).sum()), int(outside.sum()), counts)
