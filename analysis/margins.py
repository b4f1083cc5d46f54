"""By how much are a network's answers right, on a scale that rescaling its weights does not change?

The margin of an example is its label's logit less the largest other one. For a fully connected network it is divided by
the product of the layers' spectral norms and by the root mean square of the inputs' lengths, after the normalization of
Bartlett, Foster & Telgarsky 2017, "Spectrally-normalized margin bounds for neural networks", without the factor of
their bound that measures how far the layers are from a reference. For networks whose activations are positively
homogeneous, such as ReLU, a factor in the weights of one layer does not change it, if biases are negligible.
"""
import keras
import numpy as np

from analysis.keras_internals import all_layers


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit of the label minus the largest other one, [n].  logits [n, k], labels [n] integers, k at least 2."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return logits[rows, labels] - others.max(axis=1)


def spectral_product(model: keras.Model) -> float | None:
    """Product of the spectral norms of a model's kernels; None where a layer other than Dense has parameters."""
    layers = [layer for layer in all_layers(model) if layer.weights and not isinstance(layer, keras.Model)]
    if not all(isinstance(layer, keras.layers.Dense) for layer in layers if layer.trainable_variables):
        return None
    kernels = [layer.kernel.numpy().astype(np.float64) for layer in layers if layer.trainable_variables]
    return float(np.prod([np.linalg.norm(kernel, 2) for kernel in kernels]))


def normalized_margins(model: keras.Model, x: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """margins / (spectral_product * root mean square of ||x_i||), [n]; None for models without a spectral_product.

    x [n, ...].  Raises no error for a product of 0: the margins are then nan.
    """
    product = spectral_product(model)
    if product is None:
        return None
    length = np.sqrt(np.mean(np.sum(np.asarray(x, np.float64).reshape(len(x), -1) ** 2, axis=1)))
    scale = product * length
    return margins(logits, labels) / (scale if scale > 0 else np.nan)
