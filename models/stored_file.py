"""What a stored .keras file says of itself: its norm, how it was compiled, its width, and its family of architectures.
"""
import functools
import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

WIDTHS = ("units", "filters")  # of dense and convolutional layers
# Of no consequence to what a network computes and how it trains from its stored weights.
UNIMPORTANT = {"name", "build_config", "module", "registered_name", "seed", "shape"}
# Arguments of Keras' SGD that make it another algorithm than SGD with momentum.
BEYOND_MOMENTUM = (
    "nesterov", "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "loss_scale_factor",
    "gradient_accumulation_steps",
)  # fmt: skip
NAMED_RATIOS = 4  # widths of so many layers stand in a family's name


@dataclass(frozen=True)
class StoredFile:
    """What is known of a .keras file.

    squared_norm: of all trainable variables.  kernel_norm: squared, of those with two axes or more.
    learning_rate, momentum: what it was compiled with, None unless that was SGD with momentum and a constant rate.
    width: units or channels of its first hidden layer, None where it has none.
    family: the name of the architecture up to one common factor of all hidden widths.
    """

    squared_norm: float
    kernel_norm: float
    learning_rate: float | None
    momentum: float | None
    width: int | None
    family: str


def read_stored_file(path: str | Path) -> StoredFile | None:
    """The StoredFile at `path`; None for what cannot be loaded, which models.validate refuses with its reason."""
    try:
        content = Path(path).stat()
        return _read(str(path), content.st_mtime_ns, content.st_size)
    except Exception:  # a damaged file raises nearly anything (models/user_model.py)
        return None


@functools.lru_cache(maxsize=64)
def _read(path, modified, size):
    """modified, size: for the cache, so that a model that was saved again is read again."""
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    squares = {v.path: float(np.sum(np.square(v.numpy(), dtype=np.float64))) for v in model.trainable_variables}
    kernels = sum(squares[v.path] for v in model.trainable_variables if len(v.shape) > 1)
    return StoredFile(sum(squares.values()), kernels, *_compiled_with(path), *_architecture(model))


def _compiled_with(path):
    """(learning rate, momentum) of SGD with momentum and a constant rate, (None, None) of anything else."""
    with zipfile.ZipFile(path) as archive:
        optimizer = (json.loads(archive.read("config.json")).get("compile_config") or {}).get("optimizer")
    if optimizer == "sgd":  # by its name: Keras' own defaults
        optimizer = keras.optimizers.serialize(keras.optimizers.SGD())
    if not isinstance(optimizer, dict) or optimizer["class_name"] != "SGD":
        return None, None
    found = optimizer["config"]
    rate, momentum = found.get("learning_rate"), found.get("momentum", 0.0)
    if not isinstance(rate, float) or any(found.get(name) for name in BEYOND_MOMENTUM):
        return None, None
    return tuple(float(f"{value:.6g}") for value in (rate, momentum))  # Keras keeps 0.02 as 0.0199999996


def _architecture(model):
    """(width, name of the family): all layers and how they are joined, hidden widths by their greatest divisor."""
    functional = keras.Model(model.inputs, model.outputs)  # so that Sequential and functional models compare
    names, places = {}, []
    plain = _plain(functional.get_config(), names, places)
    hidden = places[:-1]  # the last makes the logits, as many as there are classes
    widths = [part[name] for part, name in hidden]
    divisor = math.gcd(*widths) if widths else 1
    for part, name in hidden:
        part[name] //= divisor
    ratios = [str(width // divisor) for width in widths]
    more = ":.." if len(ratios) > NAMED_RATIOS else ""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6]
    return (widths[0] if widths else None), f"family {':'.join(ratios[:NAMED_RATIOS]) or 'linear'}{more} #{digest}"


def _plain(value, names, places):
    """A model's configuration without names and initial weights.

    names: {layer: its number}, filled in.  places: filled with (dict, key) of every layer's width, in order.
    """
    if isinstance(value, dict):
        if isinstance(value.get("config"), dict) and "name" in value["config"]:
            names.setdefault(value["config"]["name"], len(names))
        part = {}
        for key, inner in value.items():
            if key not in UNIMPORTANT and not key.endswith("_initializer"):
                part[key] = _plain(inner, names, places)
                if key in WIDTHS and isinstance(inner, int):
                    places.append((part, key))
        return part
    if isinstance(value, (list, tuple)):
        return [_plain(inner, names, places) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
