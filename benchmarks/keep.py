"""Keep what a benchmark says, for the pages that quote it: benchmarks/kept/<name>.txt.

    python -m benchmarks.keep threads -- python -m benchmarks.threads --rounds=5

The file has the command, the day, versions, machine and load before it, and then all that the command printed. Pages
take their numbers from it (docs/evidence.md). Give commands with relative paths: the file goes into git.
"""
import argparse
import os
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from reporting import files
from reporting.benchmarks import NAME, folder, tables_of
from reporting.report import machine
from reporting.run_folder import installed_versions

ROOT = Path(__file__).parents[1]


def keep(name: str, command: list[str], root: str | Path = ROOT) -> Path:
    """Run a command in the project's folder, show what it prints, and keep it; returns the file.

    Raises RuntimeError where the command fails, and ValueError for a name that no page can quote, for a command of
    several lines and for tables that are not whole: then what was kept before stays.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a name has letters, digits, _ and -, got {name!r}")
    if "\n" in shlex.join(command):
        raise ValueError("the command has several lines: it could not be read back")
    head = {
        "command": shlex.join(command),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": ", ".join(f"{package} {version}" for package, version in installed_versions().items()),
        "machine": machine(),
        "load": f"{os.getloadavg()[0]:.1f} in the minute before",
    }
    printed = []
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if process.returncode:
        raise RuntimeError(f"{head['command']} ended with status {process.returncode}: nothing was kept")
    if not "".join(printed).strip():
        raise ValueError(f"{head['command']} printed nothing: nothing was kept")
    try:
        tables_of("".join(printed))
    except ValueError as error:
        raise ValueError(f"{error}: nothing was kept") from error
    path = folder(root) / f"{name}.txt"
    with files.atomic(path) as stream:
        stream.write("".join(f"{key}: {value}\n" for key, value in head.items()) + "\n" + "".join(printed))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="what the pages call it")
    parser.add_argument("command", nargs="+", help="behind --")
    arguments = parser.parse_args()
    try:
        print(f"\n{keep(arguments.name, arguments.command)}")
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
