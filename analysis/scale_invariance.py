"""Which weights of a network can change their scale without changing what it computes?

Batch normalization in training mode takes out every positive factor on its input, so kernels that feed nothing else
have a scale, and with it a norm, that says nothing about the function (van Laarhoven 2017, "L2 regularization versus
batch and weight normalization"). A claim about the norm of the parameters has to tell them apart from all others.

Without batch norm the layers of a ReLU network can still trade positive factors (`rescale_layers`): the function stays,
while norms and the Hessian change as one likes (Dinh et al. 2017, "Sharp minima can generalize for deep nets").
"""
import keras
import numpy as np
from keras import layers

from analysis.affine_minimum import relu_mlp_layers
from analysis.keras_internals import calls_of

# Layers through which a positive factor on their input comes out unchanged, if every one of their inputs has it.
HOMOGENEOUS = (
    layers.AveragePooling2D, layers.Concatenate, layers.Flatten, layers.GlobalAveragePooling2D, layers.MaxPooling2D,
    layers.ZeroPadding2D,
)  # fmt: skip


def scale_invariant_kernels(model: keras.Model) -> list:
    """The kernels whose scale cannot change the function in training: all that they feed is a BatchNormalization.

    (Up to its epsilon.) Between the two there may be a bias, pooling, or a concatenation, whose channels batch norm
    treats one by one; an activation or a sum ends the search, as does a layer that is used twice.

    model: a functional model.  Returns Keras variables, in the order of the model's layers; empty where there are none.
    """
    consumers = {}
    for layer in model.layers:
        if is_called_once(model, layer) and not isinstance(layer, layers.InputLayer):
            for tensor in keras.tree.flatten(layer.input):
                consumers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in model.outputs}

    def normalized(tensor):
        users = consumers.get(id(tensor), [])
        return bool(users) and id(tensor) not in outputs and all(
            isinstance(user, layers.BatchNormalization) or (isinstance(user, HOMOGENEOUS) and normalized(user.output))
            for user in users
        )  # fmt: skip

    weighted = [
        layer for layer in model.layers
        if isinstance(layer, (layers.Dense, layers.Conv2D, layers.DepthwiseConv2D)) and is_called_once(model, layer)
    ]  # fmt: skip
    linear = keras.activations.linear
    return [layer.kernel for layer in weighted if layer.activation is linear and normalized(layer.output)]


def is_called_once(model: keras.Model, layer: layers.Layer) -> bool:
    """Does the functional model call the layer exactly once?  Only then is layer.input all that it sees."""
    return len(calls_of(model, layer)) == 1


def rescale_layers(model: keras.Model, factors) -> None:
    """Multiply the activations of each hidden layer of a ReLU mlp by a positive factor, and undo it in the next layer.

    factors: one a hidden layer. Layer l's bias is multiplied by factors[l], its kernel by factors[l] / factors[l - 1],
    and the last kernel divided by the last factor: the function stays the same, up to rounding (Dinh et al. 2017,
    section 3). Raises ValueError for what is no ReLU mlp, or factors that are not one a layer and above 0.
    """
    dense = relu_mlp_layers(model)
    factors = np.asarray(factors, np.float64).ravel()
    if len(factors) != len(dense) - 1 or not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ValueError(f"need {len(dense) - 1} factors above 0, one a hidden layer, got {factors.tolist()}")
    scales = [1.0, *factors, 1.0]
    for layer, before, after in zip(dense, scales, scales[1:]):
        kernel, bias = (np.asarray(values, np.float64) for values in layer.get_weights())
        layer.set_weights([kernel * (after / before), bias * after])
