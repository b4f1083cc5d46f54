"""What the claims on infinite width share: networks in NTK parameterization, whose limits have closed forms."""
import dataclasses
from typing import Any

import keras
import numpy as np

from analysis.infinite_width_kernels import ACTIVATIONS, ARCHITECTURES
from judging.results import Group, Results
from models import default_width
from models.ntk_parameterized import ntk_parameterized
from training import reuse
from training.data import Data


def check_variances(*, weight_variance: list[float], bias_variance: list[float]) -> None:
    """Raise ValueError unless these variances, [values] each, are ones that a network can have."""
    if not all(0 < v < np.inf for v in weight_variance):
        raise ValueError(f"weight variances must be finite and > 0, got {weight_variance}")
    if not all(0 <= v < np.inf for v in bias_variance):
        raise ValueError(f"bias_variance must be finite and >= 0, got {bias_variance}")


def check_network(config: Any) -> None:
    """Raise ValueError unless config.network and config.architecture say a network of known limit.

    It is built here, in NTK parameterization: of NetworkConfig it has width, depth, activation and dtype.
    """
    network = config.network
    if network.model != "mlp" or network.widths or network.dropout:
        raise ValueError(
            "this experiment builds its own networks, in NTK parameterization, from --architecture, --width, --depth "
            "and --activation; it takes no --model, --widths or --dropout"
        )
    if network.activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must have kernels in closed form ({', '.join(ACTIVATIONS)}), got {network.activation!r}"
        )
    if config.architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {config.architecture!r}: allowed are {', '.join(ARCHITECTURES)}")


def build_finite(config: Any, data: Data, *, weight_variance: float, depth: int) -> keras.Model:
    """The finite network of a config that check_network accepts, with the config's width and seed."""
    network = config.network
    options = {
        "architecture": config.architecture, "activation": network.activation,
        "width": network.width or default_width(network.model), "depth": depth, "weight_variance": weight_variance,
        "bias_variance": config.bias_variance, "dtype": network.dtype,
    }  # fmt: skip
    shape, classes = tuple(data.input_shape), data.num_classes
    key = ("NTK parameterization", shape, classes, *options.values())
    return reuse.network(key, lambda: ntk_parameterized(shape, classes, seed=config.seed, **options))


def groups_by_architecture(results: Results) -> list[Group]:
    """Results.groups under their architecture's name: `mlp` is all that NetworkConfig knows of these networks."""
    found = []
    for group in results.groups():
        name = group.first["architecture"]
        label = group.label.replace(f", {name}", "", 1)  # it stands there too where groups differ in it
        found.append(dataclasses.replace(group, label=label.replace("mlp", name, 1)))
    return found
