"""Which weights of a network can change their scale without changing what it computes?

Batch normalization in training mode takes out every positive factor on its input, so kernels that feed nothing else
have a scale, and with it a norm, that says nothing about the function (van Laarhoven 2017, "L2 regularization versus
batch and weight normalization"). A claim about the norm of the parameters has to tell them apart from all others.
"""
import keras
from keras import layers

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
