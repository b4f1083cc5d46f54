"""The command line of the four scripts: flags made from the experiments' configs, errors in one line."""
import sys

from absl import flags, logging

from experiments import options, runner

FLAGS = flags.FLAGS


class AxisParser(flags.ArgumentParser):
    """One value, or several joined by commas (an axis of the grid), of a config field's type."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def parse(self, argument):
        if isinstance(argument, list):
            return argument
        values = str(argument).split(",")
        # A list is an axis even with one value; a tuple-valued field (widths) may be empty.
        return [options.convert(self.name, value, self.kind) for value in values]

    def flag_type(self):
        return "list"


class AxisFlag(flags.Flag):
    """Lets boolean fields be written --augment and --noaugment as well as --augment=true,false."""

    def __init__(self, parser, name, help_text):
        super().__init__(parser, _Text(), name, None, help_text, boolean=parser.kind is bool)


class _Text(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(options.text, value))


def define(experiments, flag_values=FLAGS):
    """Define the flags of a script: its experiments' config fields, and where things lie.

    experiments: {name: module}; the first is the default.
    """
    names = list(experiments)
    flags.DEFINE_enum("experiment", names[0], names, "what to put on trial", flag_values=flag_values)
    for name, default, help_text in (
        ("out_dir", "results", "folder of all results; finished configs in it are not computed again"),
        ("data_dir", None, "folder of tensorflow_datasets; its default, or TFDS_DATA_DIR, when not given"),
    ):
        flags.DEFINE_string(name, default, help_text, flag_values=flag_values)
    flags.DEFINE_bool("overwrite", False, "compute finished configs again", flag_values=flag_values)
    fields = {}
    for module in experiments.values():
        for name, leaf in options.leaves(module.Config).items():
            fields.setdefault(name, leaf)
    for name, (owner, field, kind) in fields.items():
        parser = AxisParser(name, kind)
        help_text = f"{field.metadata.get('help', '')} ({defaults(name, experiments)})"
        flags.DEFINE_flag(AxisFlag(parser, name, help_text), flag_values, module_name=owner.__module__)


def defaults(name, experiments):
    """`default: 64`, or by experiment where they differ."""
    found = {}
    for experiment, module in experiments.items():
        values = {**options.flat(module.Config()), **module.GRID}
        if name in values:
            value = values[name]
            text = ",".join(map(options.text, value)) if isinstance(value, list) else options.text(value)
            found.setdefault(text or "none", []).append(experiment)
    if len(found) == 1:
        return f"default: {next(iter(found))}"
    return "default: " + "; ".join(f"{text} for {', '.join(names)}" for text, names in found.items())


def call(run, experiments, flag_values=FLAGS):
    """Call a script's run(...) with the flags' values; bad input ends in one line and exit status 1."""
    logging.set_verbosity(logging.ERROR)  # tensorflow_datasets tells of every file that it opens
    given = {name for module in experiments.values() for name in options.leaves(module.Config)}
    values = {name: flag_values[name].value for name in given if flag_values[name].value is not None}
    where = {name: flag_values[name].value for name in ("out_dir", "data_dir", "overwrite")}
    try:
        run(flag_values.experiment, **where, **values)
    except runner.InvalidInput as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except OSError as error:
        sys.exit(f"error: cannot write or read {error.filename or where['out_dir']}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from here")
