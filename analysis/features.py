"""How far apart does a network put its inputs, and does that change?  Its penultimate features, and two numbers.

In the NTK limit features do not move during training (Jacot et al. 2018); measured as in the code of Goldblum et al.
2020, by distances, cosines and inner products between the features of the same inputs before and after.
"""
import keras
import numpy as np
from scipy.spatial.distance import pdist

from analysis.evaluation import predict
from analysis.keras_internals import keep_on


def penultimate(model: keras.Model) -> keras.Model:
    """The model from its input to the input of its last layer with weights, which are shared with `model`."""
    return keras.Model(model.input, last_with_weights(model).input)


def last_with_weights(model: keras.Model) -> keras.layers.Layer:
    """The last layer of a model that has trainable weights."""
    return [layer for layer in model.layers if layer.trainable_variables][-1]


def penultimate_features(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """What the last layer with weights sees of inputs x, [n, features] in float64, with the weights of now.

    The model of `penultimate` is kept with `model`, so that asking again traces nothing.
    """
    features = keep_on(model, "_penultimate", lambda: penultimate(model))
    return predict(features, x).reshape(len(x), -1).astype(np.float64)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of a [m] and b [m]; nan where one side is constant (a network whose features died)."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else float("nan")


def separation(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance between examples of different classes over that within classes.

    features [n, d], labels [n] (whole numbers).  nan where all features of a class are the same.
    """
    same = pdist(labels[:, None].astype(float), "hamming") == 0
    distances = pdist(features)
    within = distances[same].mean()
    return float(distances[~same].mean() / within) if within > 0 else float("nan")
