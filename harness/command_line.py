"""The command line of the four scripts: flags made from the experiments' configs, help by group, errors in one line."""
import gc
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from absl import flags, logging

from harness import cluster, grid, runner
from harness.experiment import MARGINS, Experiment

FLAGS = flags.FLAGS
RUN = "run"
WORKERS = ("workers", "ray_address", "cpus_per_config", "gpus_per_config", "threads_per_config")
ALIASES = "earlier names"  # of flags: accepted, and not in --help
HELP = {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"}


class AxisParser(flags.ArgumentParser):
    """One value, or several joined by commas (an axis of the grid), of a config field's type."""

    def __init__(self, name: str, kind: Any):
        self.name, self.kind = name, kind

    def parse(self, argument: Any) -> list:
        if isinstance(argument, list):
            return argument
        values = (
            [argument] if os.path.isfile(argument) else str(argument).split(",")
        )  # a comma may be part of a file's name
        # A list is an axis even with one value; a tuple-valued field (widths) may be empty.
        return [grid.convert(self.name, value, self.kind) for value in values]

    def flag_type(self) -> str:
        return "list"


class AxisFlag(flags.Flag):
    """Lets boolean fields be written --augment and --noaugment as well as --augment=true,false."""

    def __init__(self, parser: AxisParser, name: str, help_text: str):
        super().__init__(parser, _Text(), name, None, help_text, boolean=parser.kind is bool)


class _Text(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(grid.text, value))


def define(
    experiments: dict[str, Experiment], flag_values: flags.FlagValues = FLAGS, former: Mapping[str, str] | tuple = ()
) -> None:
    """Define the flags of a script: its experiments' config fields, and where things lie.

    experiments: {name: Experiment}; the first is the default.  former: {earlier name of an experiment: its name}.
    A field that had another name in earlier versions keeps it as an alias of its flag.
    """
    names, where = list(experiments), {"flag_values": flag_values, "module_name": RUN}
    help_text = f"what to put on trial, one of {', '.join(names)} (default: {names[0]})"
    flags.DEFINE_enum("experiment", names[0], [*names, *former], help_text, **where)
    for name, default, help_text in (
        (
            "out_dir",
            "results",
            "folder of all results; finished configs in it are not computed again (default: results)",
        ),
        ("data_dir", None, "folder of tensorflow_datasets (default: its own, or TFDS_DATA_DIR)"),
    ):
        flags.DEFINE_string(name, default, help_text, **where)
    flags.DEFINE_bool("overwrite", False, "compute finished configs again (default: false)", **where)
    flags.DEFINE_integer("max_seeds", None, max_seeds_help(experiments), lower_bound=0, **where)
    for name in MARGINS:
        flags.DEFINE_float(name, None, margin_help(name, experiments), **where)
    define_workers(where)
    fields = {}
    for experiment in experiments.values():
        for name, leaf in grid.leaves(experiment.config).items():
            fields.setdefault(name, leaf)
    for name, (owner, field, kind) in fields.items():
        help_text = f"{field.metadata['help']} ({defaults(name, experiments)})"
        flags.DEFINE_flag(
            AxisFlag(AxisParser(name, kind), name, help_text), flag_values, group(name, owner, experiments)
        )
    for experiment in experiments.values():
        for earlier, name in grid.former_names(experiment.config).items():
            if earlier not in flag_values:
                flags.DEFINE_alias(earlier, name, flag_values, ALIASES)
                flag_values[earlier].now = name


def define_workers(where: dict) -> None:
    """Define the flags of harness/cluster.py."""
    flags.DEFINE_integer(
        "workers", None, f"configs computed at a time, more than one by Ray ({cluster.INSTALL}) (default: with Ray, "
        "and without a GPU, as many as there are cores, as soon as that saves time; else 1)", **where,
    )  # fmt: skip
    flags.DEFINE_string(
        "ray_address", None, "running Ray cluster to compute on, auto or HOST:PORT (default: this machine)", **where
    )
    flags.DEFINE_float("cpus_per_config", None, "CPUs that Ray gives a config (default: its threads)", **where)
    flags.DEFINE_float(
        "gpus_per_config", 0, "GPUs that Ray gives a config; 0.25: four share one (default: 0)", **where
    )
    flags.DEFINE_integer(
        "threads_per_config", None, "threads of a config; results hold to the bit for the same number (default: 1 for "
        "small networks, else all cores; docs/clusters.md)", **where,
    )  # fmt: skip


def max_seeds_help(experiments: dict[str, Experiment]) -> str:
    """Help of --max_seeds, with every experiment's own."""
    found = {}
    for title, experiment in experiments.items():
        found.setdefault(experiment.max_seeds or 0, []).append(title)
    own = "; ".join(f"{number} for {', '.join(names)}" for number, names in found.items())
    return f"add seeds until the verdict is decided, up to so many; 0: not at all (default: 0; without --seed {own})"


def margin_help(name: str, experiments: dict[str, Experiment]) -> str:
    """Help of --margin, --margin_factor and --margin_level: of what they are the smallest effect that matters."""
    what = {"margin": "difference", "margin_factor": "factor", "margin_level": "level"}[name]
    own = [f"{title}: {default:g}, {of}" for title, experiment in experiments.items()
           for key, (default, of) in experiment.margins.items() if key == name]  # fmt: skip
    return f"the smallest {what} that matters (default: {'; '.join(own) or 'no experiment of this script has one'})"


def group(name: str, owner: type, experiments: dict[str, Experiment]) -> str:
    """Where help lists a field: under network, data or training, whose configs they are; or under its experiments."""
    part = owner.__name__.removesuffix("Config").lower()
    owners = [title for title, experiment in experiments.items() if name in grid.leaves(experiment.config)]
    own = "every experiment" if owners == list(experiments) else f"experiment {', '.join(owners)}"
    return RUN if name == "seed" else part or own


def groups(flag_values: flags.FlagValues) -> dict[str, list[flags.Flag]]:
    """{title: flags} of a script without those of absl, `run` last."""
    found = flag_values.flags_by_module_dict()
    found = {k: v for k, v in found.items() if k != ALIASES and any(isinstance(flag, AxisFlag) for flag in v)}
    return {title: found[title] for title in sorted(found, key=lambda title: title == RUN)}


def help_text(doc: str, flag_values: flags.FlagValues = FLAGS, width: int | None = None) -> str:
    """What --help prints: the script's question, how a grid is given, and its flags by group, wrapped."""
    width = min(width or shutil.get_terminal_size().columns, 120)
    say = (
        "N is a whole number, X a number, N-N-.. several as one value; --[no]flag is --flag or --noflag. --seed and "
        "all flags outside of `run` take one value, or several joined by commas, which span a grid of configs."
    )
    lines = [doc.strip(), "", *textwrap.wrap(say, width)]
    for title, found in groups(flag_values).items():
        lines += ["", f"{title}:"]
        for flag in found:
            lines += entry(usage(flag), flag.help, width)
    lines += entry("--flagfile=FILE", "flags from a file: one of presets/, or the flags.cfg of an earlier run", width)
    return "\n".join(lines)


def entry(usage: str, text: str, width: int, indent: int = 24) -> list[str]:
    wrapped = textwrap.wrap(text, width - indent) or [""]
    start = [f"  {usage}".ljust(indent) + wrapped.pop(0)] if len(usage) + 3 < indent else [f"  {usage}"]
    return [*start, *(" " * indent + line for line in wrapped)]


def usage(flag: flags.Flag) -> str:
    """`--width=N`, `--[no]skip`, ..: how a flag is written."""
    if flag.boolean:
        return f"--[no]{flag.name}"
    plain = {"int": int, "float": float}.get(flag.flag_type(), str)
    kind, letters = getattr(flag.parser, "kind", plain), {int: "N", float: "X"}
    letter = next((letters[part] for part in get_args(kind) or (kind,) if part in letters), "NAME")
    return f"--{flag.name}={letter}-{letter}-.." if get_origin(kind) is tuple else f"--{flag.name}={letter}"


def parse(argv: list[str], flag_values: flags.FlagValues = FLAGS) -> list[str]:
    """absl's flags_parser: help by group; what cannot be read ends before any work, in a line with the nearest flag."""
    if HELP & set(argv[1:]):
        print(help_text(sys.modules["__main__"].__doc__ or "", flag_values))
        sys.exit(0)
    try:
        arguments = flag_values(argv)
    except flags.UnrecognizedFlagError as error:
        ours = [flag.name for found in groups(flag_values).values() for flag in found]
        ours += [f"no{name}" for name in ours if flag_values[name].boolean]
        near = grid.hint(f"--{error.flagname}", [f"--{name}" for name in (*ours, "flagfile")])
        sys.exit(f"error: unknown flag --{error.flagname}{near}: --help lists all")
    except flags.Error as error:
        sys.exit(f"error: {' '.join(str(error).removeprefix('ERROR:: ').split())}")
    for alias in flag_values.flags_by_module_dict().get(ALIASES, ()):
        if alias.present:
            print(
                f"--{alias.name} is now called --{alias.now}; the earlier name goes with a later version.",
                file=sys.stderr,
            )
    if len(arguments) > 1:
        sys.exit(f"error: {arguments[1]!r} belongs to no flag: write --flag=value, and several values as --flag=a,b")
    return arguments


def read_flagfile(
    path: str | Path, experiments: dict[str, Experiment], former: Mapping[str, str] | tuple = ()
) -> tuple:
    """(experiment's name, {field: values}, max_seeds, {name: margin}) of a flags.cfg; ValueError if it is no such file.

    The values are as runner.run takes them, each flag understood as on the command line, earlier names included.
    """
    found = flags.FlagValues()
    define(experiments, found, former)
    try:
        arguments = found([str(path), f"--flagfile={path}"])
    except flags.Error as error:
        raise ValueError(f"{path}: {' '.join(str(error).removeprefix('ERROR:: ').split())}") from error
    if len(arguments) > 1:
        raise ValueError(f"{path}: {arguments[1]!r} belongs to no flag")
    name = dict(former).get(found.experiment, found.experiment)
    options = {field: found[field].value for field in experiments[name].fields if found[field].value is not None}
    margins = {margin: found[margin].value for margin in MARGINS if found[margin].value is not None}
    return name, options, found.max_seeds, margins


def defaults(name: str, experiments: dict[str, Experiment]) -> str:
    """`default: 64`, or by experiment where they differ."""
    found = {}
    for title, experiment in experiments.items():
        values = {**grid.flat(experiment.config()), **experiment.grid}
        if name in values:
            value = values[name]
            text = ",".join(map(grid.text, value)) if isinstance(value, list) else grid.text(value)
            found.setdefault(text or "none", []).append(title)
    if len(found) == 1:
        return f"default: {next(iter(found))}"
    return "default: " + "; ".join(f"{text} for {', '.join(names)}" for text, names in found.items())


def call(run: Callable, experiments: dict[str, Experiment], flag_values: flags.FlagValues = FLAGS) -> None:
    """Call a script's run(...) with the flags' values; bad input ends in one line and exit status 1."""
    logging.set_verbosity(logging.ERROR)  # tensorflow_datasets tells of every file that it opens
    gc.freeze()  # what the libraries brought with them stays: looking through it after every config took 0.2 s each
    given = {name for experiment in experiments.values() for name in grid.leaves(experiment.config)}
    values = {name: flag_values[name].value for name in given if flag_values[name].value is not None}
    where = {name: flag_values[name].value for name in ("out_dir", "data_dir", "overwrite", "max_seeds", *MARGINS)}
    crew = {name: flag_values[name].value for name in WORKERS}
    for name in ("workers", "threads_per_config"):
        crew[name] = cluster.CHOOSE if crew[name] is None else crew[name]
    try:
        report = run(flag_values.experiment, **where, **crew, **values)
    except (runner.InvalidInput, runner.ReportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except OSError as error:
        sys.exit(f"error: cannot write or read {error.filename or where['out_dir']}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
    if report.failed:
        sys.exit(f"error: {len(report.failed)} configs failed and are in no result: see {report.folder / 'report.md'}")
