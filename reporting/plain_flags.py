"""Flags of the scripts that run no experiment, docket.py and evidence.py: what cannot be read ends in one line."""
import sys

from absl import flags


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """absl's flags_parser: argv without its flags; `error: ..` and exit code 1 where a flag cannot be read."""
    try:
        return flag_values(argv)
    except flags.Error as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def parse_without_arguments(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The same for a script that takes flags alone."""
    arguments = parse(argv, flag_values)
    if len(arguments) > 1:
        sys.exit(f"error: {arguments[1]!r} belongs to no flag: write --flag=value")
    return arguments
