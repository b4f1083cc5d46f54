"""What the tests of models/ share: input shapes, one small config of every model, and counts."""
import numpy as np

from models import NetworkConfig

DIGITS = (8, 8, 1)
CIFAR = (32, 32, 3)
# One small config a model, and each option off its default once.
CONFIGS = [
    NetworkConfig("mlp", width=5, depth=2),
    NetworkConfig("mlp", widths=(6, 4), activation="erf", dropout=0.5),
    NetworkConfig("resnet", width=2, depth=1),
    NetworkConfig("resnet", width=2, depth=1, batch_norm=False, activation="tanh"),
    NetworkConfig("resnet", width=2, depth=1, skip=False),
    NetworkConfig("convnet", width=2, activation="leaky_relu"),
    NetworkConfig("densenet", width=2, depth=7),
    NetworkConfig("mobilenet_v2", width=4),
    NetworkConfig("resnet_fixup", width=2, depth=14),
    NetworkConfig("alexnet", width=2, activation="erf"),
    NetworkConfig("inception", width=6),
    NetworkConfig("mlp_ntk", width=5, depth=2),
]


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def images(n, shape, dtype="float64"):
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(dtype)


def layer_types(model):
    return [type(layer).__name__ for layer in model.layers]
