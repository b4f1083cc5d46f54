"""A model's trainable parameters as one vector: random points in a ball around a network, lines between networks."""
import contextlib
from collections.abc import Iterator

import keras
import numpy as np


def get_parameters(model: keras.Model) -> np.ndarray:
    """All trainable variables, flattened in order, [p] float64."""
    return np.concatenate([v.numpy().astype(np.float64).ravel() for v in model.trainable_variables])


def split_like(model: keras.Model, vector: np.ndarray) -> list[np.ndarray]:
    """The vector [p] cut and shaped into the trainable variables' shapes; ValueError when p is not their size."""
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    sizes = [int(np.prod(shape)) for shape in shapes]
    vector = np.asarray(vector)
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"expected a vector of the model's {sum(sizes)} trainable parameters, got shape {vector.shape}"
        )
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def set_parameters(model: keras.Model, vector: np.ndarray) -> None:
    """Assigns a vector [p] to the trainable variables, in the order of get_parameters."""
    for variable, part in zip(model.trainable_variables, split_like(model, vector), strict=True):
        variable.assign(part)


@contextlib.contextmanager
def parameters_kept(model: keras.Model) -> Iterator[None]:
    """At its end the trainable variables have the values that they had before it, also after an exception."""
    before = [v.numpy() for v in model.trainable_variables]
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
