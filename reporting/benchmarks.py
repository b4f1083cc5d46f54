"""What benchmarks printed, kept for the pages that quote it: benchmarks/kept/<name>.txt, by benchmarks/keep.py.

A file has lines `command: ..`, `date: ..`, `versions: ..`, `machine: ..`, `load: ..`, an empty line, and then what the
command printed: tables in Markdown, and whatever else.
"""
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reporting import files

FACTS = ("command", "date", "versions", "machine", "load")
NAME = re.compile(r"[\w-]+")  # what a template can ask for
DASHES = re.compile(r":?-+:?")


@dataclass(frozen=True)
class Benchmark:
    """A kept benchmark.

    facts: {command, date, versions, machine, load: text}.  tables: DataFrames of texts, in the order of printing.
    """

    name: str
    facts: dict
    tables: list[pd.DataFrame]

    def table(self, *columns: str) -> pd.DataFrame:
        """Its first table that has these columns.  Raises ValueError, in one line, where there is none."""
        for table in self.tables:
            if set(columns) <= set(table):
                return table
        raise ValueError(f"no table of it has {', '.join(columns) or 'a column'}")


def folder(root: str | Path) -> Path:
    """Where the benchmarks of a project are kept."""
    return Path(root) / "benchmarks" / "kept"


def load(root: str | Path) -> tuple[dict[str, Benchmark], dict[str, str]]:
    """({name: Benchmark}, {name: what is wrong with its file, in one line}) of all that are kept in a project."""
    found, damaged = {}, {}
    for path in sorted(folder(root).glob("*.txt")):
        try:
            found[path.stem] = read(path)
        except ValueError as error:
            damaged[path.stem] = str(error)
    return found, damaged


def read(path: Path) -> Benchmark:
    """The Benchmark of a file.  Raises ValueError, in one line, where it has another form."""
    head, _, printed = files.read_text(path).partition("\n\n")
    facts = dict(line.partition(": ")[::2] for line in head.splitlines())
    if list(facts) != list(FACTS):
        raise ValueError(f"{path} does not begin with lines of {', '.join(FACTS)}: see benchmarks/keep.py")
    try:
        return Benchmark(path.stem, facts, tables_of(printed))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def tables_of(printed: str) -> list[pd.DataFrame]:
    """The Markdown tables in a text, as DataFrames of texts.  Raises ValueError for one that is not whole."""
    found, rows = [], []
    for line in [*printed.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")])
        elif rows:
            heading, name = rows[0], f"the table of {', '.join(rows[0])}"
            if len(rows) < 2 or not all(map(DASHES.fullmatch, rows[1])):
                raise ValueError(f"{name} has no line of dashes below its heading")
            if odd := [row for row in rows if len(row) != len(heading)]:
                raise ValueError(f"{name} has {len(heading)} columns, and a row of {len(odd[0])}: {odd[0][0]}")
            found.append(pd.DataFrame(rows[2:], columns=heading))
            rows = []
    return found
