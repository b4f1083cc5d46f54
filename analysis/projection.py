"""How much of the targets can a network's Jacobian reach, layer by layer?

At every differentiable stationary point of the squared loss of a network with a linear last layer, the outputs lie in
the range of J = d vec(f) / d theta and the residual is orthogonal to it, hence (Kawaguchi, Huang, Kaelbling 2019)

    L = 1/(2n) ||(I - P[J]) vec Y||^2 = 1/(2n) ||Y||^2 - sum_l 1/(2n) ||P[N_l J_l] vec Y||^2,

with N_l = I - P[J_1 ... J_{l-1}].

Everywhere else L is above that value: the gap, 1/(2n) ||P[J] (vec f - vec Y)||^2, tells how far a point is from
stationary.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Projection:
    value: float            # 1/(2n) ||(I - P[J]) vec Y||^2
    gap: float              # loss at the point minus value, computed without cancellation: 1/(2n) ||P[J] residual||^2
    target: float           # 1/(2n) ||Y||^2
    terms: np.ndarray       # [layers], what each layer's block takes off the target; they add up to target - value
    ranks: np.ndarray       # [layers], what each block adds to the numerical rank of J


def project_targets(jacobian: np.ndarray, layers: Sequence[slice], outputs: np.ndarray, y: np.ndarray) -> Projection:
    """The theorem's value, its terms by layer and the gap at one point.

    jacobian [n k, p], rows ordered by example, then output; layers: slices of its columns, in the order of the sum;
    outputs, y [n, k]. Directions below max(n k, p) eps ||J|| count as rounding, as in numpy.linalg.matrix_rank.
    Raises ValueError where the shapes do not fit, or the outputs leave the range of J (the last layer is not linear).
    """
    outputs, targets = np.asarray(outputs, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    if len(jacobian) != len(targets) or len(outputs) != len(targets):
        raise ValueError(
            f"a Jacobian of {len(jacobian)} rows, {len(outputs)} outputs and {len(targets)} targets do not fit"
        )
    tolerance = max(jacobian.shape) * np.finfo(np.float64).eps * np.sqrt(np.linalg.eigvalsh(jacobian.T @ jacobian)[-1])
    basis, terms, ranks = np.empty((len(targets), 0)), [], []
    for where in layers:
        block = jacobian[:, where]
        for _ in range(2):  # once more takes away what rounding left
            block = block - basis @ (basis.T @ block)
        u, s, _ = scipy.linalg.svd(block, full_matrices=False, lapack_driver="gesvd")  # gesdd may fail on blocks near 0
        new = u[:, s > tolerance]
        new = np.linalg.qr(new - basis @ (basis.T @ new))[0]
        terms.append(np.sum((new.T @ targets) ** 2))
        ranks.append(new.shape[1])
        basis = np.concatenate([basis, new], axis=1)
    outside = outputs - basis @ (basis.T @ outputs)
    if np.linalg.norm(outside) > 1e-6 * (np.linalg.norm(outputs) + np.linalg.norm(targets)):
        raise ValueError("the outputs are not in the range of the Jacobian: the last layer must be linear")
    scale = 0.5 / len(y)
    rest = targets - basis @ (basis.T @ targets)
    reached = basis.T @ (outputs - targets)
    return Projection(
        float(scale * rest @ rest), float(scale * reached @ reached), float(scale * targets @ targets),
        scale * np.array(terms), np.array(ranks),
    )  # fmt: skip
