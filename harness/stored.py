"""Defaults that follow a stored .keras file, for whatever a person gives no flag for.

A network's learning rate and norm are its own: those that suit the experiments' default networks may lie far outside
of what another one reaches. What holds for every experiment stands here; a field of its own an experiment sets by its
part `stored_defaults`.
"""
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from models.stored_file import read_stored_file

if TYPE_CHECKING:
    from harness.experiment import Experiment  # which imports grid, and that this module

COMPILED = ("learning_rate", "momentum")  # they belong together: who gives one of them sets both


def defaults(experiment: "Experiment", model: str, asked: dict) -> dict[str, list]:
    """{field: list of values} that a grid takes from the file `model`; empty for a model by name.

    asked: {field: value or values} that the person gave, which are never replaced.
    """
    file = _file(model)
    if file is None:
        return {}
    found = {}
    if file.learning_rate is not None and not set(COMPILED) & set(asked):
        found.update({name: [getattr(file, name)] for name in COMPILED})
    if experiment.stored_defaults:
        found.update(experiment.stored_defaults(file, asked))
    return {name: values for name, values in found.items() if name in experiment.fields and name not in asked}


def describe(experiment: "Experiment", models: Iterable[str], asked: dict) -> str:
    """One line on what was taken from the files among `models`, and what was not; "" where there is none."""
    parts = []
    for model in models:
        file = _file(model)
        if file is None:
            continue
        taken = defaults(experiment, model, asked)
        says = [f"{name} {', '.join(map(str, values))}" for name, values in taken.items()]
        if "learning_rate" in experiment.fields and not set(COMPILED) & set(asked) and file.learning_rate is None:
            says.append("no learning rate, as it was not compiled with plain SGD: the experiment's default holds")
        if says:
            parts.append(f"{Path(model).name}: {', '.join(says)}")
    return f"Taken from the file where no flag was given: {'; '.join(parts)}." if parts else ""


def columns(model: str) -> dict:
    """{column: value} that results have of a stored file beside its config: its width and family; {} of a name."""
    file = _file(model)
    return {} if file is None else {"width": file.width, "family": file.family}


def _file(model):
    return read_stored_file(model) if model.endswith(".keras") else None
