"""What is on trial: Keras networks by name, with logits as outputs and initial weights fixed by the seed.

    model = build(NetworkConfig("resnet", width=16, batch_norm=False), (32, 32, 3), 10, seed=0)
"""
import difflib
import functools
import inspect
import re
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import keras

from models.alexnet_small import alexnet
from models.convnet import convnet
from models.densenet import densenet, layers_per_block
from models.inception_small import inception
from models.layers import ACTIVATIONS
from models.mlp import mlp
from models.mobilenet_v2 import mobilenet_v2
from models.ntk_parameterized import mlp_ntk
from models.resnet import resnet
from models.resnet_fixup import blocks_per_stage, resnet_fixup
from models.user_model import load_user_model

__all__ = [
    "MODELS",
    "NetworkConfig",
    "build",
    "default_width",
    "load_user_model",
    "network_name",
    "options",
    "validate",
]

MODELS = {
    "mlp": mlp,
    "resnet": resnet,
    "convnet": convnet,
    "densenet": densenet,
    "mobilenet_v2": mobilenet_v2,
    "resnet_fixup": resnet_fixup,
    "alexnet": alexnet,
    "inception": inception,
    "mlp_ntk": mlp_ntk,
}
FLAT = ("mlp", "mlp_ntk")  # they take inputs of any shape, all others images
DEPTH_CHECKS = {"densenet": layers_per_block, "resnet_fixup": blocks_per_stage}
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides a network but its seed and the data's shape.

    An option that the model does not have must keep its default; `validate` refuses anything else.
    """

    model: str = field(
        default="mlp", metadata={"help": "network: " + ", ".join(MODELS) + ", or the path of a saved .keras file"}
    )  # the weights of a file are where training starts: no seed changes them
    width: int | None = field(
        default=None, metadata={"help": "units of hidden layers (mlps) or first channels; none: the model's own"}
    )
    widths: tuple[int, ...] = field(
        default=(), metadata={"help": "mlp: hidden widths one by one, such as 2048-2048-1024, not width and depth"}
    )
    depth: int | None = field(
        default=None,
        metadata={
            "help": "hidden layers (mlps), blocks per stage (resnet), layers (densenet, resnet_fixup); "
            "none: the model's own"
        },
    )
    activation: str = field(default="relu", metadata={"help": f"of the hidden layers, one of {', '.join(ACTIVATIONS)}"})
    batch_norm: bool = field(default=True, metadata={"help": "keep batch norm in a model that has it"})
    skip: bool = field(default=True, metadata={"help": "keep the skip connections of a resnet"})
    dropout: float = field(default=0.0, metadata={"help": "mlp: rate behind every hidden layer, in [0, 1)"})
    dtype: str = field(default="float32", metadata={"help": f"precision, one of {', '.join(DTYPES)}"})

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))  # a list would make the config unhashable

    def validate(self) -> None:
        """Nothing to refuse before the data's shape is known: models.validate has all checks."""


def validate(config: NetworkConfig, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Raise ValueError, in one line, unless `build` can make this network for such data; a .keras file is opened."""
    _check(config, input_shape, num_classes)
    if _is_file(config):
        load_user_model(config.model, input_shape, num_classes, config.dtype)


def build(config: NetworkConfig, input_shape: tuple[int, ...], num_classes: int, *, seed: int) -> keras.Model:
    """The network of `config`: a keras.Model from inputs [n, *input_shape] to logits [n, num_classes].

    seed: fixes every initial weight (same seed, same bits); a .keras file keeps the weights it has, whatever the seed.
    Raises ValueError as `validate` does.
    """
    _check(config, input_shape, num_classes)
    if _is_file(config):
        return load_user_model(config.model, input_shape, num_classes, config.dtype)
    chosen = {option: getattr(config, option) for option in options(config.model)}
    chosen = {option: _plain(value) for option, value in chosen.items() if value is not None}
    return MODELS[config.model](tuple(input_shape), num_classes, seed=seed, dtype=config.dtype, **chosen)


def default_width(name: str) -> int | None:
    """The width that the model `name` has when none is given; its builder says what width counts."""
    return _default(name, "width")


def network_name(config: NetworkConfig) -> str:
    """A short readable name for legends and run ids, such as mlp-3x64 or resnet18-w16-nobn-noskip."""
    name = config.model
    if _is_file(config):
        return re.sub(r"[^\w.-]", "_", Path(name).stem)
    width = config.width or _default(name, "width")
    depth = config.depth or _default(name, "depth")
    if name == "mlp":
        parts = ["mlp", *map(str, config.widths)] if config.widths else ["mlp", f"{depth}x{width}"]
    elif name == "resnet":
        parts = [f"resnet{8 * depth + 2}", f"w{width}"]  # stem, logits, two convolutions in each of 4 depth blocks
    else:
        parts = [f"{name}{depth or ''}", f"w{width}"]
    if config.activation != "relu":
        parts.append(config.activation)
    if not config.batch_norm:
        parts.append("nobn")
    if not config.skip:
        parts.append("noskip")
    if config.dropout:
        parts.append(f"dropout{config.dropout:g}")
    if config.dtype != "float32":
        parts.append(config.dtype)
    return "-".join(parts)


def _is_file(config):
    return config.model.endswith(".keras")


@functools.cache
def _parameters(builder):
    """The parameters of a network's builder by name; asked for with every config of a grid."""
    return inspect.signature(builder).parameters


def _default(name, option):
    parameter = _parameters(MODELS[name]).get(option)
    return parameter.default if parameter else None


def options(name: str) -> tuple[str, ...]:
    """Fields of NetworkConfig that the builder takes (its signature is the one place that says so)."""
    shared = ("width", "widths", "depth", "activation", "batch_norm", "skip", "dropout")
    if name.endswith(".keras"):
        return ()
    return tuple(option for option in shared if option in _parameters(MODELS[name]))


def _check(config, input_shape, num_classes):
    """Every check that needs no file to be opened."""
    name = config.model
    if name not in MODELS and not _is_file(config):
        nearest = difflib.get_close_matches(name.lower(), MODELS, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ValueError(f"unknown model {name!r}{hint}; allowed: {', '.join(MODELS)}, or the path of a .keras file")
    if config.activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {config.activation!r}; allowed: {', '.join(ACTIVATIONS)}")
    if config.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {config.dtype!r}; allowed: {', '.join(DTYPES)}")
    for option in ("width", "depth"):
        value = getattr(config, option)
        if value is not None and not _is_count(value):
            raise ValueError(f"{option} must be a whole number of at least 1; received {value!r}")
    if not all(map(_is_count, config.widths)):
        raise ValueError(f"widths must be whole numbers of at least 1; received {config.widths}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1); received {config.dropout!r}")
    if not _is_count(num_classes):
        raise ValueError(f"num_classes must be a whole number of at least 1; received {num_classes!r}")

    allowed = options(name)
    for option in ("width", "widths", "depth", "activation", "batch_norm", "skip", "dropout"):
        value, default = getattr(config, option), getattr(NetworkConfig, option)
        if option not in allowed and value != default:
            owners = ", ".join(model for model in MODELS if option in options(model))
            raise ValueError(f"{option}={value!r} does not apply to model {name!r}; models that have it: {owners}")
    if config.depth is not None and name in DEPTH_CHECKS:
        DEPTH_CHECKS[name](config.depth)

    if not input_shape or not all(map(_is_count, input_shape)):
        raise ValueError(f"input_shape must be whole numbers of at least 1; received {tuple(input_shape)}")
    if name in MODELS and name not in FLAT and (len(input_shape) != 3 or min(input_shape[:2]) < 8):
        raise ValueError(f"{name} needs images (height, width, channels) of 8x8 or more; received {tuple(input_shape)}")


def _plain(value):
    """Python's own number for a NumPy one: Keras takes no other."""
    return value.item() if hasattr(value, "item") else value


def _is_count(value):
    return isinstance(value, Integral) and value >= 1
