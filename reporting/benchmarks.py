"""What benchmarks printed, kept for the pages that quote it: benchmarks/kept/<name>.txt, by benchmarks/keep.py.

A file has lines `command: ..`, `date: ..`, `versions: ..`, `machine: ..`, `load: ..`, an empty line, and then what the
command printed: tables in Markdown, and whatever else.
"""
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

FACTS = ("command", "date", "versions", "machine", "load")


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


def load(root: str | Path) -> dict[str, Benchmark]:
    """{name: Benchmark} of all that are kept in a project."""
    return {path.stem: read(path) for path in sorted(folder(root).glob("*.txt"))}


def read(path: Path) -> Benchmark:
    """The Benchmark of a file.  Raises ValueError, in one line, where it has another form."""
    head, _, printed = path.read_text().partition("\n\n")
    facts = dict(line.partition(": ")[::2] for line in head.splitlines())
    if list(facts) != list(FACTS):
        raise ValueError(f"{path} does not begin with lines of {', '.join(FACTS)}: see benchmarks/keep.py")
    try:
        return Benchmark(path.stem, facts, tables_of(printed))
    except ValueError as error:
        raise ValueError(f"{path} has a table whose rows are not of one length: {error}") from error


def tables_of(printed: str) -> list[pd.DataFrame]:
    """The Markdown tables in a text, as DataFrames of texts."""
    found, rows = [], []
    for line in [*printed.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            heading, _, *cells = rows  # behind the heading a line of dashes
            found.append(pd.DataFrame(cells, columns=heading))
            rows = []
    return found
