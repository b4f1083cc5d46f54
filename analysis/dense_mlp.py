"""What are the exact Jacobian and Hessian of a small multilayer perceptron, as dense matrices?

    L(theta) = 1/n sum_i 1/2 ||f(x_i; theta) - y_i||^2,      H = 1/n (J'J + sum_{i,a} (f_a(x_i) - y_{ia}) d^2 f_a(x_i))

with J = d vec(f) / d theta. All p directions go through one batched forward pass of tangents and one backward pass of
their cotangents (Pearlmutter 1994, "Fast exact multiplication by the Hessian"): for some hundred parameters this takes
milliseconds, where p Hessian-vector products of a Keras model take a second. NumPy in float64, parameters in the order
of analysis.parameters.get_parameters (kernel [in, out], bias [out], layer by layer).
"""
import copy
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.special import erf

_LEAK = float(np.float32(0.2))  # Keras' leaky_relu; TensorFlow keeps the slope in float32, whatever the layer's dtype
_ERF = 2 / np.sqrt(np.pi)


def _erf(z):
    slope = _ERF * np.exp(-(z**2))
    return erf(z), slope, -2 * z * slope


def _tanh(z):
    h = np.tanh(z)
    return h, 1 - h**2, -2 * h * (1 - h**2)


def _leaky(z, leak):
    return np.where(z > 0, z, leak * z), np.where(z > 0, 1.0, leak), np.zeros_like(z)


# name -> z -> (value, first, second derivative), with the value 0 of Keras' derivative at a kink
ACTIVATIONS = {
    "relu": lambda z: _leaky(z, 0.0),
    "leaky_relu": lambda z: _leaky(z, _LEAK),
    "tanh": _tanh,
    "erf": _erf,
    "linear": lambda z: _leaky(z, 1.0),
}
SMOOTH = ("tanh", "erf", "linear")
LEAKS = {"relu": 0.0, "leaky_relu": _LEAK}  # slopes below 0 of the piecewise linear activations with a kink at 0


class DenseMLP:
    """Mean squared loss of a multilayer perceptron on x [n, ...], y [n, k] and its derivatives, at any theta [p].

    widths: of the hidden layers.  activation: a name in ACTIVATIONS, after every hidden layer.
    Raises ValueError for an unknown activation, for x and y of different lengths, and for a theta of the wrong size.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, widths: Sequence[int], activation: str):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"need as many inputs as targets, got {len(x)} and {len(y)}")
        self.x, self.y = np.asarray(x, np.float64).reshape(len(x), -1), np.asarray(y, np.float64)
        sizes = (self.x.shape[1], *widths, self.y.shape[1])
        self.shapes = list(itertools.pairwise(sizes))
        self.activations = [ACTIVATIONS[activation]] * len(widths)
        ends = np.cumsum([(i + 1) * o for i, o in self.shapes])
        self.layers = [slice(int(end) - (i + 1) * o, int(end)) for end, (i, o) in zip(ends, self.shapes)]
        self.parameter_count = int(ends[-1])

    def with_activations(self, activations: Iterable[Callable]) -> "DenseMLP":
        """The same network and data with other activations, one a hidden layer, each as in ACTIVATIONS."""
        other = copy.copy(self)
        other.activations = list(activations)
        return other

    def _weights(self, theta):
        """[(kernel [..., in, out], bias [..., 1, out])] of parameter vectors [..., p]."""
        theta = np.asarray(theta, np.float64)
        if theta.shape[-1] != self.parameter_count:
            raise ValueError(f"expected a vector of {self.parameter_count} parameters, got shape {theta.shape}")
        parts = [theta[..., where] for where in self.layers]
        lead = theta.shape[:-1]
        return [
            (part[..., : i * o].reshape(*lead, i, o), part[..., i * o :].reshape(*lead, 1, o))
            for part, (i, o) in zip(parts, self.shapes)
        ]

    def _forward(self, weights):
        """Inputs h of every layer, the hidden layers' activation derivatives, and the outputs [n, k]."""
        hs, slopes, bends = [self.x], [], []
        for (kernel, bias), activation in zip(weights[:-1], self.activations):
            h, slope, bend = activation(hs[-1] @ kernel + bias)
            hs.append(h)
            slopes.append(slope)
            bends.append(bend)
        return hs, slopes, bends, hs[-1] @ weights[-1][0] + weights[-1][1]

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        """f(x), [n, k]."""
        return self._forward(self._weights(theta))[-1]

    def preactivations(self, theta: np.ndarray) -> list[np.ndarray]:
        """Of every hidden layer, [[n, width], ...]: 0 is where a ReLU has its kink."""
        weights = self._weights(theta)
        return [h @ kernel + bias for h, (kernel, bias) in zip(self._forward(weights)[0], weights[:-1])]

    def sensitivities(self, theta: np.ndarray) -> list[np.ndarray]:
        """d loss / d h, the derivative in the outputs of every hidden layer's units, [[n, width], ...]."""
        weights = self._weights(theta)
        _, slopes, _, outputs = self._forward(weights)
        delta, found = (outputs - self.y) / len(self.y), []
        for l in reversed(range(1, len(weights))):
            found.append(delta @ weights[l][0].T)
            delta = found[-1] * slopes[l - 1]
        return found[::-1]

    def preactivation_gradients(self, theta: np.ndarray, chosen: list[np.ndarray]) -> np.ndarray:
        """d z / d theta of m chosen pre-activations, [m, p].

        chosen: a mask [n, width] for every hidden layer; its entries are taken layer by layer, in the order of NumPy.
        """
        weights = self._weights(theta)
        hs, slopes, _, _ = self._forward(weights)
        blocks = []
        for top, mask in enumerate(chosen):
            rows, units = np.nonzero(mask)
            block = np.zeros((len(rows), self.parameter_count))
            delta = np.eye(mask.shape[1])[units]  # [m, units of the layer]
            for l in reversed(range(top + 1)):
                inputs = np.concatenate([hs[l][rows], np.ones((len(rows), 1))], axis=1)
                shape = inputs.shape[1], delta.shape[1]
                block[:, self.layers[l]] = (inputs[:, :, None] * delta[:, None, :]).reshape(len(rows), np.prod(shape))
                if l:
                    delta = (delta @ weights[l][0].T) * slopes[l - 1][rows]
            blocks.append(block)
        return np.concatenate(blocks)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient [p]."""
        weights = self._weights(theta)
        hs, slopes, _, outputs = self._forward(weights)
        delta = (outputs - self.y) / len(self.y)  # [n, k]
        parts = []
        for l in reversed(range(len(weights))):
            parts += [delta.sum(0), (hs[l].T @ delta).ravel()]
            if l:
                delta = (delta @ weights[l][0].T) * slopes[l - 1]
        return 0.5 * float(np.sum((outputs - self.y) ** 2)) / len(self.y), np.concatenate(parts[::-1])

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """d vec(f) / d theta, [n k, p], rows ordered by example, then output."""
        weights = self._weights(theta)
        hs, slopes, _, outputs = self._forward(weights)
        n, k = outputs.shape
        result = np.empty((n, k, self.parameter_count))
        delta = np.broadcast_to(np.eye(k), (n, k, k))  # [n, output, unit]
        for l in reversed(range(len(weights))):
            block = np.concatenate([hs[l], np.ones((n, 1))], axis=1)[:, None, :, None] * delta[:, :, None, :]
            result[:, :, self.layers[l]] = block.reshape(n, k, -1)
            if l:
                delta = (delta @ weights[l][0].T) * slopes[l - 1][:, None, :]
        return result.reshape(n * k, -1)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """The Hessian of the mean loss, [p, p], exactly symmetric.

        Where a ReLU has its kink, that of the piece it is on.
        """
        weights = self._weights(theta)
        hs, slopes, bends, outputs = self._forward(weights)
        tangents = self._weights(np.eye(self.parameter_count))  # kernels [p, in, out]
        moved_hs, moved_zs, moved = [None], [], None  # tangents of h and z, [p, n, units]; x does not move
        for l, ((kernel, _), (v, c)) in enumerate(zip(weights, tangents)):
            moved = hs[l] @ v + c + (0 if l == 0 else moved_hs[l] @ kernel)
            if l < len(slopes):
                moved_zs.append(moved)
                moved_hs.append(slopes[l] * moved)
        n = len(self.y)
        delta, moved_delta = (outputs - self.y) / n, moved / n
        result = np.empty((self.parameter_count, self.parameter_count))
        for l in reversed(range(len(weights))):
            (kernel, _), (v, _) = weights[l], tangents[l]
            block = hs[l].T @ moved_delta  # [p, in, out]
            if l:
                block = block + np.swapaxes(moved_hs[l], 1, 2) @ delta
            block = np.concatenate([block, moved_delta.sum(1, keepdims=True)], axis=1)
            result[:, self.layers[l]] = block.reshape(len(result), -1)
            if l:
                back = delta @ kernel.T
                moved_back = moved_delta @ kernel.T + delta @ np.swapaxes(v, 1, 2)
                delta, moved_delta = (
                    back * slopes[l - 1],
                    moved_back * slopes[l - 1] + back * bends[l - 1] * moved_zs[l - 1],
                )
        return (result + result.T) / 2
