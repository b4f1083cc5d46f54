"""From flags to configs: every field of an experiment's Config is a flag, and a list of values is an axis of the grid.
"""
import dataclasses
import difflib
import functools
import itertools
import types
import typing
from collections.abc import Iterable, Mapping

import models
from harness import stored

if typing.TYPE_CHECKING:
    from harness.experiment import Experiment  # which imports this module

SEEDS = 2**32  # NumPy's and Keras' global generators take no larger ones

@functools.cache  # it is asked for with every config of a grid
def leaves(config_class: type) -> Mapping[str, tuple]:
    """{field name: (dataclass that holds it, dataclasses.Field, type)} of a Config and the configs nested in it.

    Raises ValueError where two of them have a field of one name: a flag sets one thing.
    """
    result = {}
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        nested = dataclasses.is_dataclass(hints[field.name])
        found = leaves(hints[field.name]) if nested else {field.name: (config_class, field, hints[field.name])}
        for name in found.keys() & result.keys():
            owners = f"{result[name][0].__name__} and {found[name][0].__name__}"
            raise ValueError(
                f"field {name} stands in {owners}: a config and those nested in it need names of their own"
            )
        result.update(found)
    return types.MappingProxyType(result)


def parts(config: typing.Any) -> list:
    """A config and the configs nested in it, outermost last."""
    nested = (getattr(config, field.name) for field in dataclasses.fields(config))
    return [*(part for value in nested if dataclasses.is_dataclass(value) for part in parts(value)), config]


def flat(config: typing.Any) -> dict[str, typing.Any]:
    """{field name: value} of a config and the configs nested in it."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        result.update(flat(value) if dataclasses.is_dataclass(value) else {field.name: value})
    return result


def former_names(config_class: type) -> dict[str, str]:
    """{name that a field had in earlier versions: its name}, from the fields' metadata `formerly`."""
    return {
        field.metadata["formerly"]: name
        for name, (_, field, _) in leaves(config_class).items() if "formerly" in field.metadata
    }  # fmt: skip


def identifying(config: typing.Any) -> dict[str, typing.Any]:
    """{field name: value} that a config's id is made of, so that results of earlier versions stay valid.

    A renamed field goes by the name that it had (metadata `formerly`). A field that came later (metadata `added`)
    counts only where it differs from its default, which must be what was done before.
    """
    found = leaves(type(config))
    result = {}
    for name, value in flat(config).items():
        field = found[name][1]
        if not (field.metadata.get("added") and value == field.default):
            result[field.metadata.get("formerly", name)] = value
    return result


def identifying_axes(config_class: type, grid: dict[str, list]) -> dict[str, list]:
    """{field: values} of a grid without the fields that came later and have their default alone: see `identifying`."""
    added = {name: leaf.default for name, (_, leaf, _) in leaves(config_class).items() if leaf.metadata.get("added")}
    return {name: values for name, values in grid.items() if not (name in added and list(values) == [added[name]])}


def make(config_class: type, values: dict[str, typing.Any]) -> typing.Any:
    """The config whose fields have the given flat values; all else keeps the defaults of config_class."""
    return replace(config_class(), values)


def replace(config: typing.Any, values: dict[str, typing.Any]) -> typing.Any:
    """A copy of a config whose fields, nested ones too, have the given flat values."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = replace(value, values)
        elif field.name in values:
            changes[field.name] = values[field.name]
    return dataclasses.replace(config, **changes)


def axes(experiment: "Experiment", options: dict) -> dict[str, list]:
    """{field name: list of values} for every field: those of `options`, else the experiment's grid, else the default.

    A list is an axis of the grid; anything else, a tuple too, is one value.
    """
    fields = leaves(experiment.config)
    for name in options:
        if name not in fields:
            raise ValueError(f"unknown option {name!r}{hint(name, fields)}; this experiment has {', '.join(fields)}")
    chosen = {**flat(experiment.config()), **experiment.grid, **options}
    result = {}
    for name, values in chosen.items():
        values = list(values) if isinstance(values, (list, range)) else [values]
        result[name] = [convert(name, value, fields[name][2]) for value in values]
        if not result[name]:
            raise ValueError(f"{name} has no value")
        repeated = {text(value) for value in result[name] if result[name].count(value) > 1}
        if repeated:
            raise ValueError(f"{name} is given twice: {', '.join(sorted(repeated))}")
    return result


def hint(name: str, allowed: Iterable[str]) -> str:
    """` (did you mean width?)`, or nothing where no allowed name is near."""
    near = difflib.get_close_matches(name, allowed, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def convert(name: str, value: typing.Any, kind: typing.Any) -> typing.Any:
    """A value of the field's type, from text or from a Python value; ValueError says what was expected."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or value in ("", "none"):
            return None
        return convert(name, value, next(t for t in inner if t is not type(None)))
    try:
        if origin is tuple:
            items = [v for v in value.split("-") if v] if isinstance(value, str) else value
            return tuple(convert(name, item, inner[0]) for item in items)
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if kind is int and not isinstance(value, str) and int(value) != value:
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "numbers joined by '-'")
        raise ValueError(f"{name} must be {expected}, got {value!r}") from error


def text(value: typing.Any) -> str:
    """The flag's text for one value: the inverse of `convert`."""
    if isinstance(value, tuple):
        return "-".join(map(text, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def expand(experiment: "Experiment", options: dict) -> tuple[list, dict[str, list]]:
    """(configs, axes): all configs of the grid, without repeats, each one valid in itself.

    What a .keras file sets (harness/stored.py) is left out of the axes: they repeat the run by asking the file again.

    In a grid over several models, an option that a model does not have (skip for an mlp) keeps its default there, and
    the configs that thereby become equal are one. An option that no model of the grid has is refused.
    """
    grid = axes(experiment, options)
    for model in grid["model"]:
        if model not in models.MODELS and not model.endswith(".keras"):
            allowed = f"{', '.join(models.MODELS)}, or the path of a .keras file"
            raise ValueError(f"unknown model {model!r}{hint(model, models.MODELS)}; allowed: {allowed}")
    shared = set().union(*map(models.options, grid["model"]))
    # What the person did not ask for and no model has falls away here, so that the axes repeat the run when asked for.
    unasked = set(leaves(models.NetworkConfig)) - set(options) - {"model", "dtype"} - shared
    grid.update({name: [getattr(models.NetworkConfig, name)] for name in unasked & set(grid)})
    if all(grid["widths"]):  # they say it all
        grid.update({name: [None] for name in {"width", "depth"} - set(options)})
    own = {model: stored.defaults(experiment, model, options) for model in grid["model"]}
    configs = []
    for values in itertools.chain(*(_product({**grid, "model": [model], **found}) for model, found in own.items())):
        config = make(experiment.config, values)
        unused = shared - set(models.options(config.network.model))
        config = replace(config, {name: getattr(models.NetworkConfig, name) for name in unused})
        for part in parts(config):
            part.validate()
        if not 0 <= config.seed < SEEDS:
            raise ValueError(f"seed must be 0 or positive, got {config.seed}; allowed are numbers below 2^32")
        configs.append(config)
    configs = list(dict.fromkeys(configs))
    if experiment.applies:
        applicable = [config for config in configs if experiment.applies(config)]
        if not applicable:
            raise ValueError(experiment.needs)
        configs = applicable
    from_files = set().union(*own.values())
    return configs, {name: values for name, values in grid.items() if name not in from_files}


def _product(axes):
    """{field: value} of every combination of the axes' values."""
    return (dict(zip(axes, values)) for values in itertools.product(*axes.values()))
