"""What theory asks of training before a wide network is its tangent kernel: conditions that the room's claims share.

Jacot et al. 2018 and Lee et al. 2019 (theorem 2.1) let the width grow in NTK parameterization (`--model=mlp_ntk`), or,
what is the same for the limit, in standard parameterization with a learning rate of 1/width: there the NTK grows in
proportion to the width, and a fixed rate ends beyond the largest stable one. `--rate_scaling=width` does the second.
Networks of different widths are compared at an equal training loss where `--target_loss` is set, else at equal epochs.
"""
import dataclasses
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import keras
import pandas as pd

import models
from models.layers import layer_seed
from models.stored_file import StoredFile
from reporting.run_folder import Run
from training.data import Data
from training.fit import History, TrainingConfig, fit, loss_reached

SCALINGS = ("none", "width")
NTK_PARAMETERIZED = ("mlp_ntk",)  # models whose NTK does not grow with width
MAX_ROWS = 20000  # of a kernel matrix that is solved
CONDITIONS = {"rate_scaling": ["width"]}  # of a grid whose claim is of infinite width


def rate_scaling_field() -> Any:
    """The field `rate_scaling` of a Config."""
    return field(
        default="none",
        metadata={
            "help": "none: learning_rate at every width; width: learning_rate at the model's own width (mlp: 64), and "
            "in proportion to 1/width at others, as theory asks of standard parameterization (mlp_ntk needs none)",
            "added": True,
        },
    )


def target_loss_field() -> Any:
    """The field `target_loss` of a Config."""
    return field(
        default=None,
        metadata={
            "help": "stop at the end of the first epoch with a loss on the training set of at most this, so that "
            "networks are compared at an equal loss; none: all epochs",
            "added": True,
        },
    )


def check_conditions(config: Any) -> None:
    """Raise ValueError for a rate_scaling or a target_loss that cannot be."""
    if config.rate_scaling not in SCALINGS:
        raise ValueError(f"unknown rate_scaling {config.rate_scaling!r}: allowed are {', '.join(SCALINGS)}")
    if config.rate_scaling == "width" and (config.network.widths or config.network.model.endswith(".keras")):
        raise ValueError(
            "rate_scaling width needs a model by name and one --width, got "
            f"{config.network.widths or config.network.model}: give --rate_scaling=none"
        )
    target = getattr(config, "target_loss", None)
    if target is not None and not 0 < target < math.inf:
        raise ValueError(f"target_loss must be a finite number above 0, or none, got {target}")


def check_kernel_size(data: Data) -> None:
    """Raise ValueError for a training set whose kernel is too large to solve."""
    size = len(data.x_train) * data.num_classes
    if size > MAX_ROWS:
        raise ValueError(
            f"the kernel of {len(data.x_train)} images and {data.num_classes} classes is a {size} x {size} matrix, too "
            f"large to solve: allowed are {MAX_ROWS} rows, so use a smaller --train_size"
        )


def stored_defaults(file: StoredFile, asked: dict) -> dict[str, list[str]]:
    """A stored file is trained at its own rate: one network says nothing of how a rate goes with width."""
    return {"rate_scaling": ["none"]}


def scaled_training(config: Any) -> TrainingConfig:
    """config.training with the learning rate that rate_scaling makes of it."""
    network, training = config.network, config.training
    if config.rate_scaling == "none" or network.model in NTK_PARAMETERIZED or network.width is None:
        return training
    rate = training.learning_rate * models.default_width(network.model) / network.width
    return dataclasses.replace(training, learning_rate=rate)


def train(model: keras.Model, data: Data, config: Any, run: Run, probe: Callable | None = None) -> History:
    """Train the model of a config under its rate_scaling and target_loss; returns fit's History."""
    training, target = scaled_training(config), getattr(config, "target_loss", None)
    until = None if target is None else loss_reached(data, training.loss, target)
    return fit(model, data, training, seed=config.seed, run=run, probe=probe, until=until)


def of_redraw(question: Callable, model: keras.Model, config: Any, data: Data) -> Any:
    """question(model) while the config's model has another initialization, independent of those of all seeds.

    The same model, so that what was traced of it serves both; it ends with the weights that it had. None for a stored
    file, which has no initialization.
    """
    if config.network.model.endswith(".keras"):
        return None
    own = model.get_weights()
    other = models.build(config.network, data.input_shape, data.num_classes, seed=layer_seed(config.seed, "redraw"))
    model.set_weights(other.get_weights())
    del other  # its memory
    try:
        return question(model)
    finally:
        model.set_weights(own)


def describe_missed(rows: pd.DataFrame) -> str:
    """`2 of 9 runs did not reach ..`: of the rows of a group; "" where all runs did, or none had a target."""
    if not {"target_loss", "train/loss"} <= set(rows):
        return ""
    target = pd.to_numeric(rows["target_loss"], errors="coerce")
    missed = int((rows["train/loss"].astype(float) > target).sum())
    return f"{missed} of {len(rows)} runs did not reach the training loss of {target.max():g}" if missed else ""
