"""A person's own Keras model on trial: loads a .keras file and refuses what the experiments cannot use."""
import re
import zipfile
from pathlib import Path

import keras
import numpy as np


def check_file(path: str | Path) -> None:
    """Raise ValueError, in one line, where there is no file at this path, or none that can be opened."""
    if not Path(path).is_file():
        raise ValueError(f"model file {path} does not exist; expected a model saved by model.save('name.keras')")
    if not zipfile.is_zipfile(path):  # Keras would say that the file is missing
        raise ValueError(f"model file {path} cannot be loaded: it is damaged or not in the .keras format")


def load_user_model(
    path: str | Path, input_shape: tuple[int, ...], num_classes: int, dtype: str | None = None
) -> keras.Model:
    """Load the .keras file at `path` as a network for inputs [n, *input_shape] and logits [n, num_classes].

    The file's weights are where training starts; no seed changes them. Lambda layers are refused (safe_mode), and the
    optimizer is not loaded. dtype: "float32" or "float64" that the model must have; None takes any.
    Raises ValueError, in one line: a missing or damaged file, several inputs or outputs, an input or output shape that
    does not fit the data, another dtype, or a softmax or sigmoid at the end where logits are needed.
    """
    path = Path(path)
    check_file(path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file raises nearly anything: zip, h5, json, type and value errors
        raise ValueError(f"model file {path} cannot be loaded: {_reason(error)}") from error

    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"model file {path} has {len(inputs)} inputs {_shapes(inputs)} and {len(outputs)} outputs "
            f"{_shapes(outputs)}; needed: a functional or Sequential model with one of each"
        )
    received, expected = tuple(inputs[0].shape), (None, *input_shape)
    if len(received) != len(expected) or any(r not in (None, e) for r, e in zip(received, expected, strict=True)):
        raise ValueError(f"model file {path} takes inputs of shape {received}, but the data has shape {expected}")
    received, expected = tuple(outputs[0].shape), (None, num_classes)
    if received != expected:
        raise ValueError(f"model file {path} gives outputs of shape {received}, but the data needs {expected}")
    dtypes = {variable.dtype for variable in model.trainable_variables} | {outputs[0].dtype}
    if dtype is not None and dtypes != {dtype}:
        raise ValueError(
            f"model file {path} computes in {', '.join(sorted(dtypes))}, but {dtype} was asked for; "
            f"allowed: --dtype={'|'.join(sorted(dtypes))}"
        )
    _require_logits(model, path, input_shape)
    return _functional(model) if isinstance(model, keras.Sequential) else model


def _functional(sequential):
    """The same network, each of whose layers has one input: a loaded Sequential has called its layers several times."""
    model = keras.models.clone_model(keras.Model(sequential.inputs, sequential.outputs, name=sequential.name))
    model.set_weights(sequential.get_weights())
    return model


def _tensors(model, attribute):
    """Symbolic inputs or outputs as a list; empty for subclassed and unbuilt models, which have none."""
    try:
        return list(getattr(model, attribute))
    except (AttributeError, TypeError, ValueError):
        return []


def _shapes(tensors):
    return [tuple(tensor.shape) for tensor in tensors]


def _require_logits(model, path, input_shape):
    """Refuse probabilities: a softmax or sigmoid in the last layer, or outputs that sum to one for random inputs."""
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if isinstance(last, keras.layers.Softmax):
        activation = "softmax"
    if activation not in ("softmax", "sigmoid") and model.output_shape[-1] > 1:
        probe = np.random.default_rng(0).normal(size=(8, *input_shape)).astype(model.inputs[0].dtype)
        outputs = np.asarray(model(probe, training=False))  # [8, k]
        if np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3):
            activation = "softmax"
    if activation in ("softmax", "sigmoid"):
        raise ValueError(f"model file {path} ends in a {activation}; logits are needed, so save it without that")


def _reason(error):
    """The first sentence of the innermost cause: Keras wraps it in pages of configuration."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    causes = [line for line in lines if line.startswith("Exception encountered:")]
    line = causes[-1].removeprefix("Exception encountered:").strip() if causes else lines[0]
    return re.split(r"(?<=[.!?])\s", line)[0][:200]
