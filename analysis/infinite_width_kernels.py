"""What are the kernels of an infinitely wide network, and what does its depth do to their spectrum?

A network in NTK parameterization (weights N(0, 1) times sqrt(weight_variance / fan_in), biases N(0, 1) times
sqrt(bias_variance)) is at infinite width a Gaussian process with covariance K (NNGP), trained by its NTK Theta (Jacot
et al. 2018; Lee et al. 2019). With sw2, sb2 the variances and (u, v) ~ N(0, K^l(x, x')):

    K^{l+1} = sw2 E[phi(u) phi(v)] + sb2,     Theta^{l+1} = K^{l+1} + sw2 E[phi'(u) phi'(v)] Theta^l,     Theta^0 = K^0.

Expectations in closed form: Cho & Saul 2009 (ReLU), Williams 1997 (erf). The spectrum's limits in depth: Xiao,
Pennington & Schoenholz 2020; the fixed points, phases and depth scales behind them are in analysis/mean_field.py. All
in float64.
"""
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy.linalg

ARCHITECTURES = ("fcn", "cnn-flatten", "cnn-pool")
ACTIVATIONS = ("relu", "erf")
_BLOCK = 2**17  # entries of a block: its dozen temporary arrays stay in a core's cache
_EPS = np.finfo(np.float64).eps


def limit_kernels(
    x1: np.ndarray, x2: np.ndarray | None = None, *, architecture: str, activation: str, weight_variance: float,
    bias_variance: float, depth: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """NNGP and NTK of an infinitely wide network.

    Args:
        x1: inputs [n1, ...]; images [n1, h, w, c] for the convolutional architectures.
        x2: inputs [n2, ...] of the same shape; None stands for x1, and only half of the pairs is then computed.
        architecture: "fcn" (inputs are flattened), or 3x3 circular convolutions of stride 1 followed by "cnn-flatten"
            or "cnn-pool" (global average pooling).
        activation: "relu" or "erf".
        weight_variance, bias_variance: of every layer, readout included.
        depth: hidden (activated) layers; a linear readout follows.

    Returns:
        (nngp, ntk), float64 [n1, n2]; exactly symmetric when x2 is None. Those of a network with k logits are these
        times the identity in the logits. Time grows like n1 n2 (fcn), n1 n2 hw (cnn-flatten), n1 n2 (hw)^2 (cnn-pool);
        memory like n1 n2, but for blocks of a few MB per core.

    Raises:
        ValueError: unknown names, variances out of range, depth below 1, inputs of wrong shape or not finite.
    """
    return limit_kernels_at(
        x1, x2, architecture=architecture, activation=activation, weight_variance=weight_variance,
        bias_variance=bias_variance, depths=[depth],
    )[depth]  # fmt: skip


def limit_kernels_at(
    x1: np.ndarray, x2: np.ndarray | None = None, *, architecture: str, activation: str, weight_variance: float,
    bias_variance: float, depths: Iterable[int],
) -> dict[int, tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """`limit_kernels` at several depths, at the cost of the largest: {depth: (nngp, ntk)}."""
    depths = [_whole(depth) for depth in depths]
    if not depths:
        raise ValueError("depths must hold at least one depth, got none")
    layer = Layer(activation, weight_variance, bias_variance)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: allowed are {', '.join(ARCHITECTURES)}")
    images = architecture != "fcn"
    x1 = _inputs(x1, "x1", images)
    same = x2 is None
    x2 = x1 if same else _inputs(x2, "x2", images)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"x1 and x2 must hold inputs of one shape, got {x1.shape[1:]} and {x2.shape[1:]}")
    pixels = x1.shape[1:3]  # (1, 1) for fcn
    variances = [_variances(x, layer, max(depths)) for x in (x1, x2)]
    # Convolutions move both pixels of a pair (a, a + shift) together, so every shift is a recursion of its own, and
    # pooling (the mean over all pairs of pixels) is the mean of cnn-flatten's kernels of x1 and the shifted x2.
    shifts = list(product(*map(range, pixels))) if architecture == "cnn-pool" else [(0, 0)]
    out = {depth: np.zeros([2, len(x1), len(x2)]) for depth in depths}
    side = max(1, int((_BLOCK / (pixels[0] * pixels[1])) ** 0.5))

    def part(i, j):
        """The kernels of one block of pairs, summed over shifts, so that the order of sums depends on no thread."""
        left, right = slice(i, i + side), slice(j, j + side)
        for shift in shifts:
            moved = [np.roll(x2[right], shift, (1, 2)), *(np.roll(q[..., right], shift, (0, 1)) for q in variances[1])]
            own = same and i == j and shift == (0, 0)
            found = _recursion(x1[left], moved[0], [q[..., left] for q in variances[0]], moved[1:], layer, depths, own)
            for depth, kernels in found.items():
                out[depth][:, left, right] += kernels

    # Blocks below the diagonal follow from symmetry.
    starts = [(i, j) for i in range(0, len(x1), side) for j in range(i if same else 0, len(x2), side)]
    with ThreadPoolExecutor(min(len(starts), _cores())) as pool:
        list(pool.map(lambda start: part(*start), starts))
    for kernels in out.values():
        kernels /= len(shifts)
        if same:
            upper = np.triu(kernels)
            kernels[:] = upper + np.triu(kernels, 1).swapaxes(1, 2)
    return {depth: (kernels[0], kernels[1]) for depth, kernels in out.items()}


class Layer:
    """The maps of one layer: expectations of the activation, and the affine map of its variances."""

    def __init__(self, activation: str, weight_variance: float, bias_variance: float):
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: allowed are {', '.join(ACTIVATIONS)}")
        for name, value, fine in (
            ("weight_variance", weight_variance, weight_variance > 0),
            ("bias_variance", bias_variance, bias_variance >= 0),
        ):
            if not fine or not np.isfinite(value):
                raise ValueError(f"{name} must be finite and {'> 0' if name[0] == 'w' else '>= 0'}, got {value}")
        self.relu, self.weight, self.bias = activation == "relu", float(weight_variance), float(bias_variance)

    def affine(self, expectation: float | np.ndarray) -> float | np.ndarray:
        return self.weight * expectation + self.bias

    def expectations(self, k12: np.ndarray, k11: np.ndarray, k22: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(E[phi(u) phi(v)], E[phi'(u) phi'(v)]) for (u, v) ~ N(0, [[k11, k12], [k12, k22]])."""
        if not self.relu:
            scales = 1 / np.sqrt(1 + 2 * k11), 1 / np.sqrt(1 + 2 * k22)
            ratio = k12 * (2 * scales[0])
            ratio *= scales[1]
            slope = 1 / np.sqrt((1 - ratio) * (1 + ratio))  # |ratio| < 1, as |k12| is at most the mean of k11 and k22
            slope *= 4 / np.pi * scales[0]
            slope *= scales[1]
            np.arcsin(ratio, out=ratio)
            ratio *= 2 / np.pi
            return ratio, slope
        lengths = np.sqrt(k11), np.sqrt(k22)
        inverse = [np.divide(1, length, out=np.zeros_like(length), where=length > 0) for length in lengths]
        cosine = k12 * inverse[0]
        cosine *= inverse[1]
        np.clip(cosine, -1, 1, out=cosine)
        # Equal inputs: an angle of sqrt(eps) that is only rounding would show in the NTK's eighth digit.
        cosine[cosine > 1 - 4 * _EPS] = 1
        slope = np.arccos(cosine)
        np.subtract(np.pi, slope, out=slope)
        slope /= 2 * np.pi
        # In terms of the cosine c and the angle t: (sin t + (pi - t) cos t) / (2 pi).
        expectation = np.sqrt((1 - cosine) * (1 + cosine)) / (2 * np.pi)
        expectation += slope * cosine
        expectation *= lengths[0]
        expectation *= lengths[1]
        return expectation, slope

    def own(self, q: np.ndarray) -> tuple[float | np.ndarray, float | np.ndarray]:
        """The same for u = v with variance q."""
        if self.relu:
            return q / 2, np.full_like(q, 0.5)
        return 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)), 4 / np.pi / np.sqrt(1 + 4 * q)


def _mean3x3(k):
    """Circular mean over 3x3 neighbourhoods of the first two axes; for 1x1 inputs (fcn) the identity."""
    for axis in (0, 1):
        if k.shape[axis] > 1:
            total = np.roll(k, 1, axis)
            total += k
            total += np.roll(k, -1, axis)
            total /= 3
            k = total
    return k


def _variances(x, layer, depth):
    """Pre-activation variance of every input, pixel and layer: [q^0, ..., q^{depth-1}], each [h, w, n]."""
    q = [layer.affine(_mean3x3(np.einsum("nhwc,nhwc->hwn", x, x) / x.shape[-1]))]
    for _ in range(depth - 1):
        q.append(layer.affine(_mean3x3(layer.own(q[-1])[0])))
    return q


def _recursion(x1, x2, q1, q2, layer, depths, own):
    """{depth: [2, n1, n2]} of one block of pairs; own: x2 is x1, and the diagonal, an input with itself, is exact."""
    k = np.moveaxis(x1, 0, 2) @ np.moveaxis(x2, 0, 2).swapaxes(-1, -2) / x1.shape[-1]  # [h, w, n1, n2]
    k = layer.affine(_mean3x3(k))
    theta, found = k, {}
    diagonal = np.arange(len(x1))
    for depth in range(1, max(depths) + 1):
        left, right = q1[depth - 1][..., :, None], q2[depth - 1][..., None, :]
        expectation, slope = layer.expectations(k, left, right)
        if own:
            for pairs, values in zip((expectation, slope), layer.own(q1[depth - 1])):
                pairs[:, :, diagonal, diagonal] = values
        moved = slope
        moved *= theta
        if depth in depths:
            nngp = layer.affine(expectation.mean(axis=(0, 1)))
            found[depth] = np.stack([nngp, nngp + layer.weight * moved.mean(axis=(0, 1))])
        k = layer.affine(_mean3x3(expectation))
        theta = k + layer.weight * _mean3x3(moved)
    return found


def _inputs(x, name, images):
    x = np.asarray(x, np.float64)
    if x.ndim < 2 or not len(x) or not x.size or (images and x.ndim != 4):
        raise ValueError(f"{name} must hold inputs {'[n, h, w, c]' if images else '[n, ...]'}, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite")
    return x if images else x.reshape(len(x), 1, 1, -1)


def _whole(depth):
    if isinstance(depth, bool) or not isinstance(depth, int | np.integer) or depth < 1:
        raise ValueError(f"depth must be a whole number of at least 1, got {depth!r}")
    return int(depth)


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel on m inputs.

    The largest, the mean of the others (all equal in a deep network's limit), the smallest, and lambda_max / lambda_min
    (inf where lambda_min is rounding).
    """

    lambda_max: float
    lambda_bulk: float
    lambda_min: float
    condition_number: float


def kernel_spectrum(kernel: np.ndarray) -> Spectrum:
    """Spectrum of a symmetric kernel [m, m], m >= 2.

    Raises ValueError for another shape or entries that are not finite.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) < 2 or not np.isfinite(kernel).all():
        raise ValueError(f"kernel must be a finite square matrix of two inputs or more, got shape {kernel.shape}")
    return spectrum_of(scipy.linalg.eigvalsh(kernel))


def spectrum_of(eigenvalues: np.ndarray) -> Spectrum:
    """Spectrum from ascending eigenvalues [m]."""
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    resolved = low > _EPS * len(eigenvalues) * high
    return Spectrum(high, float(np.mean(eigenvalues[:-1])), low, high / low if resolved else np.inf)


def critical_condition(activation: str, samples: int, *, pixels: int = 1) -> float:
    """The NTK's condition number in the limit of depth at criticality: 1 + m d B / (A - B) for m samples, where the
    kernel's off-diagonal B over its diagonal A tends to 1/3 (erf) or 1/4 (ReLU); pixels: d, under average pooling
    (Xiao et al. 2020, Table 1): (m d + 2) / 2 and (m d + 3) / 3."""
    return 1 + samples * pixels / {"erf": 2, "relu": 3}[activation]
