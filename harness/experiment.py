"""The protocol of an experiment: what a claim's module must hand over, checked when it is imported.

    EXPERIMENT = Experiment(claim=CLAIM, config=Config, grid=GRID, columns=COLUMNS, table=TABLE, stages=("training",),
                            apart=("width",), measure=measure, judge=judge, figures=figures)

A part that is missing, misspelt or contradicts another ends the import, with a line that says which module and why.
"""
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness import grid as grids
from judging.results import Results
from judging.verdict import Claim

# flags: the smallest difference, factor and level that matter, and what a number of each kind must be
MARGINS = {"margin": "a difference above 0", "margin_factor": "a factor above 1", "margin_level": "a level above 0"}
ALWAYS = {"config_id", "seconds", "family"}  # columns that the runner adds
DIVERGED = "diverged_epoch"  # any measure may return it: the epoch at which training diverged, or None


class ProtocolError(TypeError):
    """An experiment's module does not keep to the protocol: a mistake of its author, not of the person who runs it."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One claim on trial.

    claim: what is on trial, and whose claim it is.
    config: a frozen dataclass of `network`, `data`, `seed`, perhaps `training`, and fields of its own: everything that
        decides a result. Every field has a default and becomes a flag; every part has `validate()`, which raises
        ValueError.
    grid: {field: values} of a run without flags; at most two minutes on two cores.
    columns: {name: meaning} of every number that measure may return. `<..>` in a name stands for any text:
        robust/<epsilon>.
    table: the columns of the printed table, in its order.
    stages: names of the training runs inside of one config (`fit`'s stage), each used once; empty where nothing is
        trained.
    apart: the fields whose values are compared. Every other field but the seed makes a group (judging/results.py).
    measure: (config, data, run) -> {name: number or array}.
    judge: (results) -> Verdict; called with at least one row, perhaps all diverged.
    figures: (results) -> {name: matplotlib Figure}.
    check: (config, data, run), raises ValueError for what can only be refused once the data are known.
    applies: (config) -> bool, leaves configs out of a grid; `needs` says in one line what applies asks for.
    label: (config) -> str, names a config beside its network, data and seed.
    former_columns: {name in results of earlier versions: name}; old run folders are read through it.
    margins: {`margin`, `margin_factor` or `margin_level`: (default, of what)}: the smallest effects that matter to its
        judge; a level is what a measure itself may reach and still count as small.
    stored_defaults: (models.stored_file.StoredFile, fields that the person gave) -> {field: list of values} in place of
    the grid's for a .keras file (harness/stored.py).
    max_seeds: how far a run without --seed widens the grid's seeds until its verdict is decided; None: not at all.
    """

    claim: Claim
    config: type
    grid: Mapping
    columns: Mapping
    table: tuple
    stages: tuple
    apart: tuple
    measure: Callable
    judge: Callable
    figures: Callable
    check: Callable | None = None
    applies: Callable | None = None
    needs: str = ""
    label: Callable = lambda config: ""
    former_columns: Mapping = field(default_factory=dict)
    margins: Mapping = field(default_factory=dict)
    stored_defaults: Callable | None = None
    max_seeds: int | None = None

    def __post_init__(self):
        for problem in self._problems():
            raise ProtocolError(f"experiment in {getattr(self.measure, '__module__', '?')}: {problem}")

    def _problems(self):
        """Everything that contradicts the protocol, worst first: a later check may rest on earlier ones."""
        yield from self._problems_of_config()
        yield from self._problems_of_names()
        yield from self._problems_of_functions()
        yield from self._problems_of_numbers()

    def _problems_of_config(self):
        """The claim, and a config whose every part can be checked and whose every field has its help."""
        if not isinstance(self.claim, Claim):
            yield f"claim must be a Claim, got {self.claim!r}"
        if not (dataclasses.is_dataclass(self.config) and self.config.__dataclass_params__.frozen):
            yield f"config must be a frozen dataclass, got {self.config!r}"
        try:
            fields = grids.leaves(self.config)
            example = self.config()
        except (ValueError, TypeError) as error:
            yield str(error)
        for name in ("network", "data", "seed"):
            if not hasattr(example, name):
                yield f"config has no field {name}"
        for part in grids.parts(example):
            if not callable(getattr(part, "validate", None)):
                yield f"{type(part).__name__} has no validate()"
        for name, (_, leaf, _) in fields.items():
            if not leaf.metadata.get("help"):
                yield f"field {name} has no metadata with its help"

    def _problems_of_names(self):
        """Names of fields, columns and stages that are unknown, twice there, or another's."""
        fields = grids.leaves(self.config)
        for part, names in (("grid", self.grid), ("apart", self.apart)):
            for name in names:
                if name not in fields:
                    yield f"{part} has {name!r}, which is no field of the config{grids.hint(name, fields)}"
        if "seed" in self.apart:
            yield "apart has 'seed', which is the replicate and never compared"
        for name in self.table:
            if name not in self.columns:
                yield f"table has {name!r}, which is no column{grids.hint(name, self.columns)}"
        for name in self.columns:
            if name in fields or name in ALWAYS or name == DIVERGED:
                yield f"column {name!r} is the name of a config field or of a column that every experiment has"
        for part, names in (("table", self.table), ("stages", self.stages), ("apart", self.apart)):
            if isinstance(names, str) or len(set(names)) < len(names):
                yield f"{part} must be names, none of them twice, got {names!r}"
        for former, name in self.former_columns.items():
            if name not in self.columns or former in self.columns:
                yield f"former_columns has {former!r}: {name!r}, but {name!r} must be a column and {former!r} must not"

    def _problems_of_functions(self):
        """Functions that cannot be called as they are."""
        for part, arguments in (
            ("measure", 3), ("judge", 1), ("figures", 1), ("check", 3), ("applies", 1), ("label", 1),
            ("stored_defaults", 2),
        ):  # fmt: skip
            function = getattr(self, part)
            if function is not None and not _takes(function, arguments):
                yield f"{part} must be a function of {arguments} arguments, got {function!r}"
        if bool(self.applies) != bool(self.needs):
            yield "applies and needs belong together: a condition, and the line that says what it asks for"

    def _problems_of_numbers(self):
        """Margins and a number of seeds that cannot be."""
        for name, margin in self.margins.items():
            if name not in MARGINS or len(margin) != 2 or not margin[0] > (1 if name == "margin_factor" else 0):
                yield (
                    f"margins has {name!r}: {margin!r}; allowed are {', '.join(MARGINS)}, each with (default, of "
                    f"what): {', '.join(MARGINS.values())}"
                )
        if self.max_seeds is not None and self.max_seeds < len(self.grid.get("seed", [0])):
            yield f"max_seeds {self.max_seeds} is below the number of seeds of the grid"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all config fields."""
        return tuple(grids.leaves(self.config))

    @property
    def default_margins(self) -> dict[str, float]:
        """{name: the smallest effect that matters} as the experiment sets them."""
        return {name: default for name, (default, _) in self.margins.items()}

    @property
    def headings(self) -> dict[str, str]:
        """{column: meaning} of the printed table."""
        return {name: self.columns[name] for name in self.table}

    def results(
        self, table: pd.DataFrame, arrays: dict | None = None, histories: dict | None = None, **judged: Any
    ) -> Results:
        """judging.results.Results of a table of this experiment; judged: its look, and margins other than its own."""
        margins = {**self.default_margins, **judged.pop("margins", {})}
        return Results(table, arrays or {}, histories or {}, self.fields, self.apart, margins=margins, **judged)

    def knows_stage(self, name: str) -> bool:
        """Is it one of the declared stages?"""
        return _matches(name, self.stages)

    def check_measures(self, numbers: dict) -> None:
        """Raise ProtocolError for a number that measure returned and `columns` does not have."""
        for name in numbers:
            if name != DIVERGED and not _matches(name, self.columns):
                raise ProtocolError(
                    f"experiment in {self.measure.__module__}: measure returned {name!r}, which `columns` does not have"
                    f"{grids.hint(name, self.columns)}"
                )

    def modernize(self, names: dict) -> dict:
        """{name: value} of a result of an earlier version under today's names of fields and columns."""
        former = {**grids.former_names(self.config), **self.former_columns}
        return {former.get(name, name): value for name, value in names.items()}


def seed_field(decides: str = "weights, data subset and order") -> Any:
    """The field `seed` of a Config, with its help."""
    return field(default=0, metadata={"help": f"seed of {decides}; 0,1,2 for several"})


def check_distinct(config: Any, *names: str) -> None:
    """ValueError where one of these fields, tuples of numbers, has one that is not finite and above 0, or one twice."""
    for name in names:
        values = getattr(config, name)
        if not all(0 < value < math.inf for value in values) or len(set(values)) < len(values):
            raise ValueError(f"{name} must be finite numbers above 0, none of them twice, got {values}")


def _takes(function, count):
    """Can the function be called with that many arguments by position?"""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _matches(name, patterns):
    """Is the name one of the patterns, in which `<..>` stands for any text?"""
    return name in patterns or any(
        "<" in pattern and re.fullmatch(re.sub(r"<[^>]*>", ".+", re.sub(r"([.*+?()\[\]|^$])", r"\\\1", pattern)), name)
        for pattern in patterns
    )


def evaluation_columns(stage: str = "", name: str = "") -> dict[str, str]:
    """Columns of analysis.evaluation.evaluate_splits with their meaning; name: what the stage's network is called."""
    prefix, suffix = (f"{stage}/" if stage else ""), (f", {name}" if name else "")
    return {
        f"{prefix}train/loss": f"training loss{suffix}",
        f"{prefix}train/accuracy": f"training accuracy{suffix}",
        f"{prefix}test/loss": f"test loss{suffix}",
        f"{prefix}test/accuracy": f"test accuracy{suffix}",
    }


def former_evaluation_columns(before: str, stage: str = "") -> dict[str, str]:
    """{`before/loss`, `before/test_accuracy`, ..: today's name}, from the convention of the first versions."""
    prefix = f"{stage}/" if stage else ""
    return {
        f"{before}/loss": f"{prefix}train/loss",
        f"{before}/accuracy": f"{prefix}train/accuracy",
        f"{before}/test_loss": f"{prefix}test/loss",
        f"{before}/test_accuracy": f"{prefix}test/accuracy",
    }
