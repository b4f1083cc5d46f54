"""What do two kernels tell: how far did the NTK move during training, and what would the linearized network predict?

    relative change  ||K1 - K0||_F / ||K0||_F                            (Goldblum et al. 2020, section 4)
    correlation      Pearson's, between the entries of K1 and K0         (same place)
    alignment        <H K1 H, H K0 H>_F / (||H K1 H||_F ||H K0 H||_F),  H = I - 1/n       (Cortes et al. 2012, def. 4)
    linearized net   f(x) = f0(x) + Theta(x, X) Theta(X, X)^-1 (Y - f0(X))     (Jacot et al. 2018; Lee et al. 2019)

All in float64 on plain arrays.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

# Of lambda_max, times n: Grams of exact rank had up to 2 epsilons in their null space.
ROUNDING = 10 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class KernelDrift:
    """Comparison of two kernels: Frobenius norms, condition numbers lambda_max / lambda_min (inf where rounding)."""

    relative_change: float
    correlation: float
    cosine: float
    norm_before: float
    norm_after: float
    condition_before: float
    condition_after: float


@dataclass(frozen=True)
class KernelRegression:
    """The linearized network's predictions, and how far to trust them."""

    predictions: np.ndarray  # [t, k]
    coefficients: np.ndarray  # [m, k]: (Theta(X, X) + ridge)^-1 (Y - f0(X))
    condition_number: float  # of Theta(X, X) + ridge; inf when it is singular to rounding
    relative_residual: (
        float  # ||(Theta + ridge) coefficients - targets|| / ||targets||: 0 when the training set is fitted
    )
    rank: int  # directions kept; the others' eigenvalues are rounding
    full_rank: bool


def kernel_drift(before: np.ndarray, after: np.ndarray) -> KernelDrift:
    """Change of a kernel between two times.

    Args:
        before, after: kernels of the same inputs, [n, k, n, k] or [n, n].

    Returns:
        KernelDrift. The correlation is NaN where a kernel's entries are all equal.

    Raises:
        ValueError: shapes that differ or are no kernel's, non-finite entries, a zero kernel before.
    """
    before, after = _matrix(before, "before"), _matrix(after, "after")
    if before.shape != after.shape:
        raise ValueError(f"both kernels must have the same size; received {before.shape} and {after.shape}.")
    norms = np.linalg.norm(before), np.linalg.norm(after)
    if norms[0] == 0:
        raise ValueError("the kernel before is zero, so a relative change of it is undefined.")
    a, b = before - before.mean(), after - after.mean()
    spread = np.linalg.norm(a) * np.linalg.norm(b)
    constant = min(np.linalg.norm(a) / norms[0], np.linalg.norm(b) / norms[1] if norms[1] else 0) < 1e-13
    return KernelDrift(
        relative_change=float(np.linalg.norm(after - before) / norms[0]),
        correlation=float("nan") if constant else float(np.clip(np.vdot(a, b) / spread, -1, 1)),
        cosine=float(np.clip(np.vdot(before, after) / (norms[0] * norms[1]), -1, 1)) if norms[1] else float("nan"),
        norm_before=float(norms[0]),
        norm_after=float(norms[1]),
        condition_before=_condition(scipy.linalg.eigvalsh(before)),
        condition_after=_condition(scipy.linalg.eigvalsh(after)),
    )


def trace_kernel(kernel: np.ndarray) -> np.ndarray:
    """The trace form of a kernel [n, k, n, k], sum_a K[i, a, j, a] / k: [n, n] float64."""
    kernel = np.asarray(kernel, np.float64)
    return np.einsum("iaja->ij", kernel) / kernel.shape[1]


def centred_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Centred kernel alignment of two kernels [n, n] of the same inputs (also known as linear CKA): in [0, 1].

    It does not change when a kernel is scaled or a constant is added to all of its entries, and is NaN where a kernel
    is constant. Source: Cortes et al. 2012, definition 4; Kornblith et al. 2019, eq. 4.
    """
    a, b = (_centred(_matrix(kernel, name)) for kernel, name in ((a, "a"), (b, "b")))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(np.vdot(a, b) / scale, -1, 1)) if scale > 0 else float("nan")


def label_alignment(kernel: np.ndarray, labels: np.ndarray) -> float:
    """centred_alignment of a kernel [n, n] with that of its inputs' labels [n]: 1 for the same class, 0 for others."""
    labels = np.asarray(labels)
    return centred_alignment(kernel, labels[:, None] == labels)


def _centred(kernel):
    """H K H; 0 where nothing but rounding is left."""
    centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean()
    return centred if np.linalg.norm(centred) > 1e-13 * np.linalg.norm(kernel) else np.zeros_like(kernel)


def kernel_regression(
    k_train_train: np.ndarray, residual_targets: np.ndarray, k_test_train: np.ndarray,
    initial_test: np.ndarray | None = None, *, ridge: float = 0.0, eigen: tuple[np.ndarray, np.ndarray] | None = None,
) -> KernelRegression:  # fmt: skip
    """Prediction of the linearized network (trained to convergence by gradient flow on the squared loss).

    Args:
        k_train_train: Theta(X, X), [m, k, m, k]; or [m, m], which then serves every output on its own.
        residual_targets: Y - f0(X), [m, k].
        k_test_train: Theta(x, X), [t, k, m, k] or [t, m].
        initial_test: f0(x), [t, k]; None stands for 0, and the predictions are then of f - f0.
        ridge: added to the eigenvalues of Theta(X, X), >= 0. With ridge 0 and a singular kernel the least-norm solution
            is taken, the limit of gradient flow: directions whose eigenvalue is below size * eps * lambda_max
            are left out and counted.
        eigen: numpy.linalg.eigh of Theta(X, X) as a matrix, where it is known already.

    Returns:
        KernelRegression.

    Raises:
        ValueError: shapes that don't fit together, non-finite entries, a negative ridge, an indefinite or zero kernel.
    """
    targets = np.asarray(residual_targets, np.float64)
    if targets.ndim != 2 or not np.isfinite(targets).all():
        raise ValueError(f"residual_targets must be a finite array [m, k]; received shape {targets.shape}.")
    if not ridge >= 0 or not np.isfinite(ridge):
        raise ValueError(f"ridge must be finite and >= 0; received {ridge!r}.")
    full = np.ndim(k_train_train) == 4
    kernel, cross = _matrix(k_train_train, "k_train_train"), np.asarray(k_test_train, np.float64)
    m, k = targets.shape
    fits = cross.ndim == (4 if full else 2) and cross.shape[1:] == ((k, m, k) if full else (m,))
    if not fits or not np.isfinite(cross).all() or len(kernel) != (m * k if full else m):
        raise ValueError(
            f"kernels must be finite [m, k, m, k] and [t, k, m, k], or [m, m] and [t, m], with (m, k) = {(m, k)}; "
            f"received shapes {np.shape(k_train_train)} and {cross.shape}."
        )
    t = len(cross)
    start = np.zeros([t, k]) if initial_test is None else np.asarray(initial_test, np.float64)
    if start.shape != (t, k):
        raise ValueError(f"initial_test must have shape {(t, k)}; received {start.shape}.")

    right = targets.reshape(-1, 1) if full else targets
    eigenvalues, vectors = scipy.linalg.eigh(kernel) if eigen is None else eigen
    precision = ROUNDING * len(kernel) * max(eigenvalues[-1], 0)
    if eigenvalues[-1] <= 0 or -eigenvalues[0] > max(
        1e-5 * eigenvalues[-1], precision
    ):  # float32 kernels are that inexact
        raise ValueError(
            "k_train_train must be positive semidefinite and not zero; its eigenvalues range from "
            f"{eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g}."
        )
    shifted = eigenvalues + ridge
    kept = shifted > precision
    coefficients = vectors[:, kept] @ ((vectors[:, kept].T @ right) / shifted[kept, None])
    residual = np.linalg.norm(kernel @ coefficients + ridge * coefficients - right)
    scale = np.linalg.norm(right)
    predictions = cross.reshape(t * k if full else t, -1) @ coefficients
    return KernelRegression(
        predictions=start + predictions.reshape(t, k),
        coefficients=coefficients.reshape(m, k),
        condition_number=_condition(shifted),
        relative_residual=float(residual / scale) if scale else 0.0,
        rank=int(kept.sum()),
        full_rank=bool(kept.all()),
    )


def _matrix(kernel, name):
    kernel = np.asarray(kernel, np.float64)
    size = kernel.shape[0] * kernel.shape[1] if kernel.ndim == 4 else len(kernel) if kernel.ndim == 2 else -1
    half = kernel.ndim // 2
    if (
        kernel.size != size**2
        or not size
        or kernel.shape[:half] != kernel.shape[half:]
        or not np.isfinite(kernel).all()
    ):
        raise ValueError(f"{name} must be a finite kernel [n, k, n, k] or [n, n]; received shape {kernel.shape}.")
    return kernel.reshape(size, size)


def _condition(eigenvalues):
    low, high = eigenvalues[0], eigenvalues[-1]
    return float(high / low) if low > ROUNDING * len(eigenvalues) * high else float("inf")
