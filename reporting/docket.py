"""What a docket knows of every run folder, out of its files alone: any experiment's, those of earlier versions too.

No experiment is imported, and nothing is judged again: a docket says what the folders say.
"""
import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
from PIL import Image

from reporting import verdict_file

RESULTS = "results.csv"
REPORT = "report.html"
THUMBNAIL = (240, 180)  # pixels at most: twice what is shown, for screens with fine pixels
THUMBNAILS = 4  # of one run
LEAST = 500  # characters that a thumbnail has at least
PRIVATE = ("out_dir", "data_dir", "experiment")  # flags that say where a run lies, and not what it is
NO_VERDICT = "none"


@dataclass(frozen=True)
class Run:
    """One run folder. Texts are "" and lists empty where its files do not say.

    script, experiment: `run_ntk`, `drift`.  outcome: supported, refuted, undecided or none.  deciding: (label, what was
    measured) of the group that the verdict hangs on.  groups: (label, outcome, what was measured) of each.
    seeds, configs, seconds: of what was judged.  date: when that was, UTC.  figures: names of PNG files in figures/.
    """

    folder: Path
    script: str
    experiment: str
    claim: str
    source: str
    outcome: str
    reason: str
    test: str
    family: str
    deciding: tuple
    groups: tuple
    dataset: str
    data: str
    network: str
    seeds: int
    configs: int
    seconds: float
    date: datetime
    versions: str
    machine: str
    flags: dict
    figures: tuple

    @property
    def name(self) -> str:
        """`run_ntk: drift`."""
        return f"{self.script}: {self.experiment}"

    @property
    def report(self) -> Path | None:
        """Its report.html, None where there is none."""
        path = self.folder / REPORT
        return path if path.exists() else None


def find(places: Sequence[str | Path]) -> list[Run]:
    """[Run] of all run folders at or below some folders, by script, experiment and date, the newest first.

    Raises ValueError, in one line, where a folder is missing or there is no run below any of them.
    """
    found = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise ValueError(f"{place} is {'no folder' if place.exists() else 'missing'}")
        for folder, names, inside in os.walk(place, followlinks=False):
            names.sort()
            if verdict_file.NAME in inside or {RESULTS, "flags.cfg"} <= set(inside):
                found[Path(folder).resolve()] = Path(folder)
                names.clear()  # what lies in a run folder are its configs
    if not found:
        raise ValueError(f"there is no run folder below {', '.join(map(str, places))}: none has a {RESULTS}")
    runs = sorted(map(read, found.values()), key=lambda run: run.date, reverse=True)
    return sorted(runs, key=lambda run: (run.script, run.experiment))


def read(folder: str | Path) -> Run:
    """The Run of a folder; what its files do not say, or say damaged, is left out."""
    folder = Path(folder)
    entries = _entries(folder)
    verdict = entries["verdict"]
    table = _table(folder).head(entries["configs"])
    groups = tuple((*group, text) for group, text in zip(verdict["groups"], verdict["measured"]))
    deciding = verdict["deciding"]
    seconds = pd.to_numeric(table.get("seconds", pd.Series(dtype=str)), errors="coerce").sum()
    return Run(
        folder=folder,
        script=entries["script"],
        experiment=entries["experiment"],
        claim=entries["claim"],
        source=entries["source"],
        outcome=verdict["outcome"],
        reason=f"{verdict['reason']} {verdict['advice']}".strip(),
        test=verdict["test"],
        family=verdict["family"],
        deciding=("", verdict["reason"]) if deciding is None else (groups[deciding][0], groups[deciding][2]),
        groups=groups,
        dataset=", ".join(_values(table, "dataset")),
        data=_describe_data(table),
        network=_describe_networks(table),
        seeds=len(_values(table, "seed")),
        configs=len(table),
        seconds=float(seconds),
        date=entries["date"],
        versions=entries["versions"],
        machine=entries["machine"],
        flags=_flags(folder),
        figures=tuple(sorted(path.name for path in (folder / "figures").glob("*.png"))),
    )


def _entries(folder):
    """What verdict.json says, else report.md; the entries of reporting/verdict_file.py that a Run needs."""
    blank = {"outcome": NO_VERDICT, "reason": "", "test": "", "family": "", "advice": "", "groups": (), "measured": (),
             "deciding": None}  # fmt: skip
    known = {"script": f"run_{folder.resolve().parent.name}", "experiment": folder.resolve().name, "claim": "",
             "source": "", "configs": 10**9, "versions": "", "machine": "", "verdict": blank}  # fmt: skip
    try:
        entries = verdict_file.read(folder)
        return {**known, **entries, "date": datetime.fromisoformat(entries["date"])}
    except FileNotFoundError:
        entries = _from_report(folder)
    except (ValueError, KeyError, TypeError) as error:
        entries = {"verdict": {"reason": f"The verdict cannot be read: {error}."}}
    entries["verdict"] = {**blank, **entries.get("verdict", {})}
    return {**known, "date": _modified(folder), **entries}


def _from_report(folder):
    """The entries that the report.md of a run of earlier versions has."""
    try:
        lines = (folder / "report.md").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {"verdict": {"reason": "The run has no verdict yet."}}
    found, verdict = {}, {}
    for line in lines:
        head, _, rest = line.partition("** ")
        if line.startswith("# ") and ": " in line:
            found["script"], _, found["experiment"] = line[2:].partition(": ")
        elif head == "**Claim.":
            found["claim"], _, source = rest.partition(" (")
            found["source"] = source.removesuffix(")")
        elif head == "**Verdict." and ": " in rest:
            outcome, _, verdict["reason"] = rest.partition(": ")
            verdict["outcome"] = outcome.lower() if outcome.lower() in ("supported", "refuted") else "undecided"
        elif head == "**Test.":
            verdict["test"] = rest
        elif head == "**Error budget.":
            verdict["family"] = rest
        elif line.startswith("Versions: ") and ". Machine: " in line:
            found["versions"], _, rest = line.removeprefix("Versions: ").partition(". Machine: ")
            found["machine"], _, rest = rest.partition(". Seconds: ")
            with suppress(ValueError, IndexError):
                found["configs"] = int(rest.split(" over ")[1].split()[0])
    return {**found, "verdict": verdict}


def _modified(folder):
    times = [path.stat().st_mtime for path in (folder / "report.md", folder / RESULTS, folder) if path.exists()]
    return datetime.fromtimestamp(times[0], timezone.utc)


def _table(folder):
    try:
        return pd.read_csv(folder / RESULTS, dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return pd.DataFrame()


def _flags(folder):
    """{flag: value} of flags.cfg."""
    with suppress(OSError, UnicodeDecodeError):
        pairs = (line.lstrip("-").partition("=") for line in (folder / "flags.cfg").read_text().splitlines())
        return {name: value for name, _, value in pairs if name and name not in PRIVATE}
    return {}


# -- in words


def _values(table, name):
    """The values of a column in the table's order, each once, without empty ones."""
    return [value for value in dict.fromkeys(table[name]) if value] if name in table else []


def _describe_data(table):
    """`cifar10, n = 2000`."""
    sizes = [size for size in _values(table, "train_size") if size != "0"]
    return ", ".join([*_values(table, "dataset"), *([f"n = {', '.join(sizes)}"] if sizes else [])])


def _describe_networks(table):
    """`mlp, depth 1, 3, width 32, 128; resnet, no skip`: the models, with what is said of each of them."""
    parts = []
    for model in _values(table, "model"):
        rows, words = table[table["model"] == model], [Path(model).name]
        widths = [value for value in _values(rows, "widths") if value != "()"]
        if widths:
            words += [value.strip("()").rstrip(",").replace(", ", "-") for value in widths]
        elif not model.endswith(".keras"):
            for name in ("depth", "width"):
                numbers = [value.removesuffix(".0") for value in _values(rows, name)]
                words += [f"{name} {', '.join(numbers)}"] if numbers else []
        for name in ("batch_norm", "skip"):
            words += {("False",): [f"no {name.replace('_', ' ')}"]}.get(tuple(_values(rows, name)), [])
        parts.append(", ".join(words))
    return "; ".join(parts)


def describe_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# -- thumbnails


def thumbnails(runs: list[Run], budget: int) -> dict[Path, list[tuple[str, str]]]:
    """{run folder: [(figure's file name, data URL)]}: a few of each run, and at most `budget` characters in all.

    Of each run the first figure goes before any second one.
    """
    found = {run.folder: [] for run in runs}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and encoding hold no lock
        for number in range(THUMBNAILS):
            having = [run for run in runs if number < len(run.figures)][: max(0, budget // LEAST)]
            urls = pool.map(thumbnail, [run.folder / "figures" / run.figures[number] for run in having])
            for run, url in zip(having, urls):
                budget -= len(url or "")
                if url and budget >= 0:
                    found[run.folder].append((run.figures[number], url))
    return found


def thumbnail(path: Path) -> str | None:
    """A figure's thumbnail as a data URL; None where the file is no image."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGBA")
            small.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    paper = Image.new("RGB", small.size, "white")
    paper.paste(small, mask=small)
    stream = io.BytesIO()
    paper.save(stream, "WEBP", quality=60, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
