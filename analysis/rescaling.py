"""How much of a network's norm can be changed without changing what it computes?

    relu(a z) = a relu(z),  a > 0:   W_1, b_1, W_2, b_2, ..  and  a_1 W_1, a_1 b_1, (a_2 / a_1) W_2, a_2 b_2, ..

compute the same where the last a is 1 (Neyshabur et al. 2015, "Path-SGD"; Dinh et al. 2017): of all these networks one
has the least squared norm. Kernels that feed a batch normalization alone can have any norm (scale_invariance.py), so
they count nothing here. A claim about norms has to say which of the networks of one function it speaks of.
"""
from collections.abc import Iterable

import keras
import numpy as np
from keras import layers
from scipy.optimize import minimize

from analysis.affine_minimum import relu_mlp_layers
from analysis.scale_invariance import is_called_once, scale_invariant_kernels

HOMOGENEOUS = (keras.activations.relu, keras.activations.leaky_relu, keras.activations.linear)
PASSED = (layers.InputLayer, layers.Flatten, layers.Dropout)  # what a positive factor goes through unchanged


def dense_chain(model: keras.Model) -> list:
    """The Dense layers of a model that is a chain of them with positively homogeneous activations; [] of any other."""
    chain = [layer for layer in model.layers if not isinstance(layer, PASSED)]
    is_chain = all(type(layer) is layers.Dense and is_called_once(model, layer) for layer in chain)
    if not chain or not is_chain or not all(layer.activation in HOMOGENEOUS for layer in chain[:-1]):
        return []
    sources = [layer.input._keras_history.operation for layer in chain[1:]]
    for before, source in zip(chain, sources):
        while isinstance(source, (layers.Flatten, layers.Dropout)):
            source = source.input._keras_history.operation
        if source is not before:
            return []
    return chain


def least_scales(chain: list) -> np.ndarray:
    """a_1, .., a_L (a_L = 1) at which the squared norm of a chain of L Dense layers is least: convex in log a."""
    kernels = np.array([np.sum(np.square(layer.kernel.numpy(), dtype=np.float64)) for layer in chain])
    biases = np.array([np.sum(np.square(layer.bias.numpy(), dtype=np.float64)) if layer.use_bias else 0.0
                       for layer in chain])  # fmt: skip
    if len(chain) < 2 or not (kernels > 0).all():
        return np.ones(len(chain))  # a layer of nothing: no scale is best

    def log_norm(inner):  # convex as well, and its slope is at most 2: no step leads to where exp overflows
        logs = np.concatenate([[0.0], inner, [0.0]])
        of_kernels, of_biases = kernels * np.exp(2 * np.diff(logs)), biases * np.exp(2 * logs[1:])
        total = of_kernels.sum() + of_biases.sum()
        return np.log(total), 2 * (of_kernels[:-1] - of_kernels[1:] + of_biases[:-1]) / total

    found = minimize(log_norm, np.zeros(len(chain) - 1), jac=True, method="BFGS", options={"gtol": 1e-8})
    return np.exp(np.append(found.x, 0.0))


def rescale(chain: list, scales: np.ndarray) -> None:
    """Multiply the layers of a chain in place by factors that leave what it computes as it is (the last scale is 1)."""
    for layer, before, after in zip(chain, [1.0, *scales[:-1]], scales):
        kernel, *bias = (np.asarray(values, np.float64) for values in layer.get_weights())
        layer.set_weights([kernel * (after / before), *(values * after for values in bias)])


def least_equivalent_norm(model: keras.Model) -> float:
    """The least squared norm of a network that computes the same, as far as it is known: see the module's text.

    Exact for chains of Dense layers; of other models the norm of what is not scale-invariant, an upper bound.
    """
    chain = dense_chain(model)
    if not chain:
        invariant = {id(kernel) for kernel in scale_invariant_kernels(model)}
        rest = [v for v in model.trainable_variables if id(v) not in invariant]
        return float(sum(np.sum(np.square(v.numpy(), dtype=np.float64)) for v in rest))
    scales = least_scales(chain)
    total = 0.0
    for layer, before, after in zip(chain, [1.0, *scales[:-1]], scales):
        total += np.sum(np.square(layer.kernel.numpy(), dtype=np.float64)) * (after / before) ** 2
        if layer.use_bias:
            total += np.sum(np.square(layer.bias.numpy(), dtype=np.float64)) * after**2
    return float(total)


def rescale_layers(model: keras.Model, factors: Iterable[float]) -> None:
    """Multiply the activations of each hidden layer of a ReLU mlp by a positive factor, and undo it in the next layer.

    factors: one a hidden layer. Layer l's bias is multiplied by factors[l], its kernel by factors[l] / factors[l - 1],
    and the last kernel divided by the last factor: the function stays the same, up to rounding (Dinh et al. 2017,
    section 3). Raises ValueError for what is no ReLU mlp, or factors that are not one a layer and above 0.
    """
    dense = relu_mlp_layers(model)
    factors = np.asarray(factors, np.float64).ravel()
    if len(factors) != len(dense) - 1 or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ValueError(f"need {len(dense) - 1} factors above 0, one a hidden layer, got {factors.tolist()}")
    rescale(dense, np.append(factors, 1.0))
