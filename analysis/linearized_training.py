"""What does gradient descent make of a network that stays linear in its parameters, step by step?

A network of constant NTK Theta, trained on m examples by t full-batch steps of size eta on the mean squared loss, gives
(Lee et al. 2019, discrete time)

    f_t(x) = f0(x) + Theta(x, X) Theta(X, X)^-1 (I - (I - eta Theta(X, X) / m)^t) (Y - f0(X)).

In the eigenbasis of Theta(X, X) every direction is fitted on its own, to the share 1 - (1 - eta lambda / m)^t; with
momentum mu the share s follows v <- mu v + eta lambda / m (1 - s), s <- s + v, as SGD's parameters follow their
velocity. The largest stable step is 2 (1 + mu) m / lambda_max, and fitted_share has its step sizes in units of it (mu =
0). All in float64.
"""
import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

from analysis.infinite_width_kernels import spectrum_of


def scale_to_unit_variance(x: np.ndarray) -> np.ndarray:
    """Inputs x [n, ...] scaled to a mean square of 1 each, [n, ...] float64; inputs that are 0 stay 0.

    The theory of infinite width, and Xiao et al. 2020, let all inputs have the same variance.
    """
    norm = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=tuple(range(1, x.ndim)), keepdims=True))
    return x / np.where(norm > 0, norm, 1)  # float64: the condition number minus 1 falls to rounding


def positive_eigh(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(eigenvalues [m] ascending, eigenvectors [m, m]) of a kernel [m, m]; what rounds to 0 or below stays positive."""
    values, vectors = scipy.linalg.eigh(kernel)
    return np.maximum(values, np.finfo(float).tiny), vectors


def fitted_share(eigenvalues: np.ndarray, step_size: float, steps: int) -> np.ndarray:
    """1 - (1 - eta lambda / m)^t of every eigenvalue [m] (ascending), to full relative precision where it is small.

    step_size: eta in units of the largest stable step, 2 m / lambda_max.  steps: t.
    """
    share = 2 * step_size * eigenvalues / eigenvalues[-1]  # eta lambda / m
    small = share < 0.5
    return np.where(small, -np.expm1(steps * np.log1p(-np.where(small, share, 0))), 1 - (1 - share) ** steps)


def momentum_share(eigenvalues: np.ndarray, rates: ArrayLike, momentum: float, examples: int) -> np.ndarray:
    """The fitted share of every eigenvalue [m k] after full-batch steps of the given rates [t] with momentum.

    examples: m. Precise also where it is small; beyond the largest stable rate it grows without bound.
    """
    share, velocity = np.zeros_like(eigenvalues), np.zeros_like(eigenvalues)
    with np.errstate(over="ignore", invalid="ignore"):
        for rate in rates:
            velocity = momentum * velocity + rate / examples * eigenvalues * (1 - share)
            share = share + velocity
    return share


def linearized_predictions(
    eigen: tuple[np.ndarray, np.ndarray], cross: np.ndarray, share: np.ndarray, residual: np.ndarray, start: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """f_t on test inputs, [test, k], of a network whose kernel couples its outputs.

    eigen: eigenvalues [m k] > 0 and eigenvectors [m k, m k] of Theta(X, X).  cross: Theta(x, X), [test, k, m, k].
    share [m k]: how much of every eigenvector is fitted.  residual: Y - f0(X), [m, k].  start: f0(x), [test, k].
    """
    (values, vectors), (t, k) = eigen, start.shape
    coefficients = vectors @ (share / values * (vectors.T @ residual.ravel()))
    return start + (np.asarray(cross).reshape(t * k, -1) @ coefficients).reshape(t, k)


def outputs_after(
    ntk: np.ndarray, eigen: tuple[np.ndarray, np.ndarray], share: np.ndarray, start: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """f_t on training and test inputs, [m, k] and [test, k].

    ntk: of both, [m + test, m + test], training inputs first.  eigen: positive_eigh of its block [m, m].
    share [m]: how much of every eigenvector is fitted (fitted_share; ones for t = infinity).
    start: f0 of both, [m + test, k].  y [m, k].
    """
    (values, vectors), m = eigen, len(y)
    residual = vectors.T @ (y - start[:m])
    on_train = start[:m] + vectors @ (share[:, None] * residual)
    return on_train, start[m:] + ntk[m:, :m] @ (vectors @ ((share / values)[:, None] * residual))


def predictor_size(
    ntk: np.ndarray, eigen: tuple[np.ndarray, np.ndarray], share: np.ndarray, y: np.ndarray, *, centred: bool = True
) -> float:
    """Root mean square of Theta(x, X) Theta(X, X)^-1 (fitted share) Y over that of Y, for labels y [m, k].

    centred: subtract each class's share from the labels first, or take them as they are: then a predictor that is the
    same for all inputs has a size too. Arguments of outputs_after; f0 is 0. nan where Theta(X, X) is singular to
    rounding and every direction is asked for.
    """
    if share.min() == 1 and not np.isfinite(spectrum_of(eigen[0]).condition_number):
        return np.nan
    labels = y - y.mean(axis=0) if centred else y
    start = np.zeros([len(ntk), y.shape[1]])
    return float(np.sqrt(np.mean(outputs_after(ntk, eigen, share, start, labels)[1] ** 2) / np.mean(labels**2)))


def relative_decay_rate(depths: np.ndarray, values: np.ndarray, use: np.ndarray, scale: float) -> float:
    """Slope of log(values) per layer where `use`, times the predicted scale in layers: 1 where the rate is as
    predicted.

    depths, values, use (booleans): [l]. Values that are not finite or not positive are left out; nan below three.
    """
    use = use & np.isfinite(values) & (values > 0)
    return float(np.polyfit(depths[use], np.log(values[use]), 1)[0] * scale) if use.sum() > 2 else np.nan
