"""The arc-cosine kernels: inner products of infinitely many threshold, rectified or quadratic units.

    k_n(x, y) = |x|^n |y|^n J_n(t) / pi,      cos t = x.y / (|x| |y|)

    J_0 = pi - t,    J_1 = sin t + (pi - t) cos t,    J_2 = 3 sin t cos t + (pi - t) (1 + 2 cos^2 t)

Cho & Saul 2009, "Kernel methods for deep learning", equations 3 to 6; layers are composed as in their section 2.3.
"""
import numpy as np

ORDERS = (0, 1, 2)


def arc_cosine_kernel(x: np.ndarray, y: np.ndarray, *, order: int, depth: int) -> np.ndarray:
    """k_n of `depth` composed layers between inputs x [a, d] and y [b, d] -> [a, b], float64.

    order: of every layer, 0 (threshold units), 1 (rectified linear) or 2 (their squares).  depth: at least 1. Every
    layer's kernel is divided by k_n(x, x) / |x|^2n, so that inputs of norm 1 keep it. Raises ValueError for other
    orders and depths, and for inputs of different sizes.
    """
    if order not in ORDERS or depth < 1:
        raise ValueError(f"order must be one of {ORDERS} and depth at least 1, got {order} and {depth}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"inputs must be [a, d] and [b, d], got shapes {x.shape} and {y.shape}")
    product = x @ y.T
    squares = np.sum(x**2, axis=1)[:, None], np.sum(y**2, axis=1)
    at_zero = {0: np.pi, 1: np.pi, 2: 3 * np.pi}[order]  # J_n(0)
    for _ in range(depth):
        lengths = np.sqrt(squares[0]) * np.sqrt(squares[1])
        cosine = np.clip(np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0), -1, 1)
        # Equal inputs: an angle of sqrt(eps) that is only rounding would grow from layer to layer.
        cosine[cosine > 1 - 8 * np.finfo(np.float64).eps] = 1
        angle, sine = np.arccos(cosine), np.sqrt((1 - cosine) * (1 + cosine))
        if order == 0:
            j = np.pi - angle
        elif order == 1:
            j = sine + (np.pi - angle) * cosine
        else:
            j = 3 * sine * cosine + (np.pi - angle) * (1 + 2 * cosine**2)
        product = lengths**order * j / at_zero
        squares = tuple(square**order for square in squares)  # k_n(x, x) = |x|^2n
    return product
