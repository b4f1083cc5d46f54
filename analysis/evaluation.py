"""Loss and accuracy of a network on a whole data set, in inference mode, accumulated in float64."""
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from analysis.keras_internals import keep_on
from analysis.losses import LOSSES


def dtype_of(model: keras.Model) -> str:
    """The precision that a Keras model computes in, by name: that of its first output.

    A functional model's own compute_dtype is Keras' global one, whatever the precision of its layers.
    """
    outputs = getattr(model, "outputs", None)
    return keras.backend.standardize_dtype(outputs[0].dtype) if outputs else model.compute_dtype


def predict(model: keras.Model, x: np.ndarray, *, batch_size: int = 1024) -> np.ndarray:
    """Logits [n, k] of a Keras model in inference mode, as a NumPy array of the model's dtype."""
    dtype = dtype_of(model)
    forward = _forward(model, np.shape(x)[1:], dtype)
    blocks = [forward(tf.constant(x[i : i + batch_size], dtype)) for i in range(0, len(x), batch_size)]
    return np.concatenate([block.numpy() for block in blocks])


def _forward(model, shape, dtype):
    """One graph per model, kept with it: tracing anew would cost more than a small network's whole evaluation.

    It takes any number of inputs, so that no result depends on what the model was asked before.
    """
    graphs = keep_on(model, "_inference_graphs", dict)
    if (shape, dtype) not in graphs:
        signature = [tf.TensorSpec([None, *shape], dtype)]
        graphs[shape, dtype] = tf.function(lambda block: model(block, training=False), input_signature=signature)
    return graphs[shape, dtype]


def evaluate(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str, *, batch_size: int = 1024,
) -> tuple[float, float]:  # fmt: skip
    """(mean loss, accuracy) of a Keras model on inputs x [n, ...] and targets y [n, k]; loss is a name in LOSSES.

    Accuracy is the share of examples whose largest logit is at the largest target.
    """
    return score(predict(model, x, batch_size=batch_size), y, loss)


def evaluate_splits(model: keras.Model, data: Any, loss: str, stage: str = "") -> dict[str, float]:
    """Loss and accuracy on both sets: {"train/loss", "train/accuracy", "test/loss", "test/accuracy"}, in this order.

    data: has x_train, y_train, x_test and y_test (training.data.Data).  stage: goes before every name, as "<stage>/".
    """
    result, prefix = {}, f"{stage}/" if stage else ""
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        result[f"{prefix}{split}/loss"], result[f"{prefix}{split}/accuracy"] = evaluate(model, x, y, loss)
    return result


def score(logits: np.ndarray, y: np.ndarray, loss: str) -> tuple[float, float]:
    """(mean loss, accuracy) of logits [n, k] against targets y [n, k]."""
    values = LOSSES[loss](tf.constant(y, tf.float64), tf.constant(logits, tf.float64)).numpy()
    return float(values.mean()), float(np.mean(logits.argmax(axis=1) == y.argmax(axis=1)))
