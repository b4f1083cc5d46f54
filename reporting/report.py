"""What a person gets to see of a run: report.html, report.md, results.csv, flags.cfg, figures; in short on the
terminal.

Facts holds what there is to say; report.html, report.md and the terminal each say it in their own way.
"""
import os
import platform
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from judging.verdict import Claim, Verdict
from reporting import figures as plots
from reporting import files, report_html, tables
from reporting.run_folder import FIRST_ARITHMETIC, versions
from reporting.tensorboard_report import write_overview

if TYPE_CHECKING:
    from judging.results import Results  # which imports Keras


@dataclass(frozen=True)
class Facts:
    """Everything that a report says of a run.

    summary: means over seeds.  seeds: every config's own measures.  diverged, unconverged, failed: tables, empty where
    all is well.  figures: {name: (what it shows, PNG bytes)}.  flags: lines of flags.cfg.
    decide: the command that adds the seeds which would decide the verdict; "" where it is decided, or none would.
    tensorboard: the command that shows the training; "" where nothing of it is kept.
    """

    title: str
    claim: Claim
    verdict: Verdict
    summary: pd.DataFrame
    keys: list
    seeds: pd.DataFrame
    diverged: pd.DataFrame
    unconverged: pd.DataFrame
    failed: pd.DataFrame
    figures: dict
    repeat: str
    decide: str
    tensorboard: str
    flags: list
    versions: str
    machine: str
    seconds: str


def write_results(folder: Path, results: "Results", flags: list[str], modernize: Callable = dict) -> pd.DataFrame:
    """Write results.csv and flags.cfg, before anything is made of them; returns the rows of all configs that the folder
    has.

    flags: lines of an absl flag file that repeats the run.  modernize: names of earlier versions as today's.
    """
    rows = everything(folder, results.table, modernize)
    with files.atomic(folder / "flags.cfg") as stream:
        stream.write("\n".join(flags) + "\n")
    with files.atomic(folder / "results.csv") as stream:
        rows.to_csv(stream, index=False)
    return rows


def write_report(
    folder: Path, experiment: Any, results: "Results", verdict: Verdict, drawn: dict[str, Figure], rows: pd.DataFrame,
    *, script: str, name: str, flags: list[str], versions: str, seconds: float, quiet: bool = False,
    failed: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Write report.html, report.md, the figures and TensorBoard's overview, and print the essence unless quiet.

    drawn: {name: matplotlib figure}.  rows: what write_results returned.  versions: of `versions_used`.
    failed: {config id: why it has no result}.
    """
    with plots.style():
        shown = {name: (describe(name, figure), save(folder, name, figure)) for name, figure in drawn.items()}
    write_overview(
        folder, rows, results.fields, experiment.headings, {name: image for name, (_, image) in shown.items()}
    )
    facts = gather(
        folder, experiment, results, verdict, shown, script=script, name=name, flags=flags, failed=failed or {},
        tensorboard=f"tensorboard --logdir={shlex.quote(str(folder / 'tensorboard'))}",
        versions=versions, machine=machine(), seconds=seconds,
    )  # fmt: skip
    write_pages(folder, facts)
    if not quiet:
        print_report(folder, facts)


def gather(
    folder: Path, experiment: Any, results: "Results", verdict: Verdict, shown: dict[str, tuple[str, bytes]], *,
    script: str, name: str, flags: list[str], failed: dict[str, str], versions: str, machine: str,
    tensorboard: str = "", seconds: float | None = None,
) -> Facts:  # fmt: skip
    """The Facts of a run; shown: {figure's name: (what it shows, PNG bytes)}.  seconds: that this call took."""
    table = results.table
    repeat = f"python {script}.py --flagfile={shlex.quote(str(folder / 'flags.cfg'))}"
    needed = verdict.seeds_needed if verdict.outcome == "undecided" else None
    called = "" if seconds is None else f", {seconds:.1f} in this call"
    return Facts(
        title=f"{script}: {name}",
        claim=experiment.claim,
        verdict=verdict,
        summary=tables.summary(results, experiment.headings),
        keys=[*tables.varying(results), "seeds"],
        seeds=tables.seeds(results, experiment.headings),
        diverged=diverged(table),
        unconverged=unconverged(table),
        failed=pd.DataFrame([{"config_id": who, "failed": why} for who, why in failed.items()]),
        figures=shown,
        repeat=repeat,
        decide=f"{repeat} --max_seeds={needed}" if needed and needed > table["seed"].nunique() else "",
        tensorboard=tensorboard,
        flags=flags,
        versions=versions,
        machine=machine,
        seconds=f"{table['seconds'].sum():.1f} over {len(table)} configs{called}",
    )


def write_pages(folder: Path, facts: Facts) -> None:
    """Write report.md and report.html."""
    with files.atomic(folder / "report.md") as stream:
        stream.write(markdown(facts))
    with files.atomic(folder / "report.html") as stream:
        stream.write(report_html.page(facts))


def markdown(facts: Facts) -> str:
    """The text of report.md."""
    parts = [
        f"# {facts.title}",
        f"**Claim.** {facts.claim.sentence} ({facts.claim.source})",
        f"**Verdict.** {facts.verdict}",
        f"**Test.** {facts.verdict.test}",
        *([f"**Error budget.** {facts.verdict.family}"] if facts.verdict.family else []),
        *([f"**To decide it:** `{facts.decide}`"] if facts.decide else []),
        "## Means with 95 % t-intervals over seeds",
        tables.markdown(facts.summary),
        *(["## Diverged", tables.markdown(facts.diverged)] if len(facts.diverged) else []),
        *(["## Not converged", tables.markdown(facts.unconverged)] if len(facts.unconverged) else []),
        *(["## Failed", tables.markdown(facts.failed)] if len(facts.failed) else []),
        "## Figures",
        *(f"![{what}](figures/{name}.png)" for name, (what, _) in facts.figures.items()),
        "## How this was made",
        f"Repeat it: `{facts.repeat}`",
        *([f"Look at the training: `{facts.tensorboard}`"] if facts.tensorboard else []),
        "Every config: [results.csv](results.csv), flags: [flags.cfg](flags.cfg)",
        f"Versions: {facts.versions}. Machine: {facts.machine}. Seconds: {facts.seconds}.",
    ]
    return "\n\n".join(parts) + "\n"


def print_report(folder: Path, facts: Facts) -> None:
    print(f"\nClaim    {facts.claim.sentence} ({facts.claim.source})\n")
    print(facts.summary.to_string(index=False))
    for found, what in (
        (facts.diverged, "diverged"), (facts.unconverged, "have measures that did not converge"),
        (facts.failed, "failed and are in no number here"),
    ):  # fmt: skip
        if len(found):
            print(f"\n{len(found)} configs {what}: see report.md")
    print(f"\nVerdict  {facts.verdict}\nTest     {facts.verdict.test}")
    for heading, text in (("Errors", facts.verdict.family), ("Decide", facts.decide)):
        if text:
            print(f"{heading:8} {text}")
    print()
    print(f"Report   {folder / 'report.html'}, {folder / 'report.md'}")
    print(f"Figures  {', '.join(str(Path(folder) / 'figures' / f'{name}.png') for name in facts.figures)}")
    print(f"Board    {facts.tensorboard}")


def save(folder: Path, name: str, figure: Figure) -> bytes:
    """Save a figure as figures/<name>.png; returns the file's bytes."""
    path = folder / "figures" / f"{name}.png"
    with files.atomic(path, "wb") as stream:
        figure.savefig(stream, format="png")
    return path.read_bytes()


def describe(name: str, figure: Figure) -> str:
    """What a figure's panels show, for those who cannot see it: `test accuracy against epoch (mlp)`; else its name."""
    panels = Counter()
    for axis in figure.axes:
        x, y, title = (" ".join(text.split()) for text in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()))
        said = " against ".join(filter(None, (y, x)))
        said = f"{said} ({title})" if said and title else said or title
        if said and axis.get_visible():
            panels[said] += 1
    parts = [f"{said}, {times} panels" if times > 1 else said for said, times in panels.items()]
    return "; ".join(parts) or name.replace("_", " ")


def diverged(table: pd.DataFrame) -> pd.DataFrame:
    """config_id and epoch of the configs that diverged."""
    if "diverged_epoch" not in table:
        return pd.DataFrame()
    rows = table.loc[table["diverged_epoch"].notna(), ["config_id", "diverged_epoch"]]
    return rows.astype({"diverged_epoch": int})


def unconverged(table: pd.DataFrame) -> pd.DataFrame:
    """config_id and measures of the configs whose algorithms say, in a column `..converged`, that they did not
    converge.

    A measure that is missing (of a run that diverged, say) is none that did not converge.
    """
    names = [name for name in table if str(name).endswith("converged")]
    found = {row["config_id"]: [name for name in names if row[name] == 0] for _, row in table.iterrows()}  # False, or 0
    return pd.DataFrame([{"config_id": who, "not converged": ", ".join(what)} for who, what in found.items() if what])


def everything(folder: Path, table: pd.DataFrame, modernize: Callable = dict) -> pd.DataFrame:
    """The rows of this run, followed by those of configs that earlier calls finished in the same folder.

    modernize: takes {name: value} with names of earlier versions, returns it with today's.
    """
    others, ours = [], set(table["config_id"])
    for path in sorted((folder / "runs").glob("*/result.json")):
        if path.parent.name not in ours:
            try:
                content = files.read_json(path)
            except ValueError:
                continue  # named and recomputed when it is asked for again
            if content["config_id"] != path.parent.name:
                continue  # copied from another config's folder
            # JSON has lists where a config has tuples
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["config"].items()}
            row = {"config_id": content["config_id"], **modernize({**fields, **content["measures"]})}
            others.append({**row, "seconds": content["seconds"]})
    return pd.concat([table, pd.DataFrame(others)], ignore_index=True) if others else table


def versions_used(folder: Path, config_ids: Iterable[str]) -> str:
    """`tensorflow 2.21.0, keras 3.15.0, ...` of the calls that computed these configs, all where they differ."""
    found = {}
    for config_id in config_ids:
        with suppress(OSError, ValueError):
            used = files.read_json(folder / "runs" / config_id / "result.json")["versions"]
            for name, value in {**used, "arithmetic": used.get("arithmetic", FIRST_ARITHMETIC)}.items():
                found.setdefault(name, {})[value] = True
    found = found or {name: {value: True} for name, value in versions().items()}
    return ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items())


def machine() -> str:
    """Operating system, processor, memory and GPUs of this machine; nothing that tells whose it is."""
    parts = [platform.platform(), f"{processor()}, {os.cpu_count()} cores"]
    with suppress(OSError, ValueError, AttributeError):  # not on every system
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory")
    return "; ".join([*parts, ", ".join(gpus()) or "no GPU"])


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    with suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(device).get("device_name", "GPU") for device in devices]
