"""Evidence: runs that README and docs quote, as small text files, and judged again by today's rules whenever asked.

    evidence/<script>/<experiment>/<name>/flags.cfg      the flags that repeat the run, without its folders
                                          results.csv    the rows that were judged, every number in full
                                          looks.json     the trial's looks: each has its share of the error
                                          verdict.json   the verdict, versions, cost; see reporting/verdict_file.py
                                          figures/*.png  those of its figures that a page shows, if any

A kept run is sound if its files are those that were kept, its flags are understood today and name its rows, its
columns are known, and its rows are judged today as they were when it was kept, word for word.
"""
import contextlib
import dataclasses
import importlib
import math
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from harness import command_line, runner, trial
from harness import grid as grids
from harness.experiment import Experiment, ProtocolError
from judging.chance import limit_of
from judging.results import Results
from judging.verdict import Verdict
from judging.wording import field_text, is_missing
from reporting import benchmarks, docket, files, pages, report, verdict_file

PLACE = "evidence"
FIGURES = "figures"
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
FILES = ("flags.cfg", "results.csv", trial.FILE, verdict_file.NAME)
NEEDED = (
    "script", "experiment", "verdict", "seeds", "configs", "chances", "failed", "taken", "versions", "machine",
    "seconds", "date",
)  # fmt: skip
NAME = re.compile(r"\w[\w.-]*")  # and not `..`
PRIVATE = ("out_dir", "data_dir")  # flags that say where things lay on somebody's machine
ALL = math.inf  # images of a whole data set, which are so many that only the margin limits what counts as guessed
WORDS = 12  # of a text that differs, so many are shown


@dataclass(frozen=True)
class KeptRun:
    """A run out of evidence/, judged again.

    name: `ntk/drift/default`.  entries: of verdict.json.  kept: the verdict in it.  verdict: by today's rules.
    experiment: harness.experiment.Experiment.  results: judging.results.Results.  trial: its key in looks.json.
    chances: (chance, limit) of each row's training set by today's rules, see judging/chance.py.
    """

    name: str
    entries: dict
    kept: Verdict
    verdict: Verdict
    experiment: Experiment
    results: Results
    trial: str
    chances: list


def folders(place: str | Path) -> dict[str, Path]:
    """{name: folder} of all kept runs, ordered by name; a folder that has only some of a run's files is one, too."""
    paths = [path for name in FILES for path in Path(place).rglob(name)]
    return dict(sorted((path.parent.relative_to(place).as_posix(), path.parent) for path in paths))


def check(root: str | Path) -> tuple[list[str], dict[str, KeptRun]]:
    """(problems, runs): one line for each thing in README, docs and evidence/ of a project that does not follow.

    A line names the page and the run.  runs: {name: KeptRun} of those that are sound but for their verdict.
    """
    problems, runs = check_runs(root)
    return problems + check_pages(root, runs), runs


def check_runs(root: str | Path) -> tuple[list[str], dict[str, KeptRun]]:
    """`check` of the kept runs alone: are they sound, and judged as they were?"""
    root, runs, problems = Path(root), {}, []
    quotes = quoted_by(root)
    for name, folder in folders(root / PLACE).items():
        where = _place(root, quotes, name)
        try:
            runs[name] = load(folder, name)
        except ValueError as error:
            problems.append(f"{where}: {error}".replace(f"{folder}{os.sep}", ""))
        else:
            problems += [f"{where}: {line}" for line in changes(runs[name])]
    return problems, runs


def _place(root, quotes, name):
    """`docs/speed.md, README.md: ntk/drift/default`: the pages that quote a run or benchmark, and it."""
    titles = [page.relative_to(root).as_posix() for page, names in quotes.items() if name in names]
    return f"{', '.join(titles) or 'quoted by no page'}: {name}"


def quoted_by(root: Path) -> dict[Path, set[str]]:
    """{page: names of the runs and benchmarks that its template quotes}."""
    return {page: pages.quoted(template) for page, template in pages.templates(root).items()}


def check_pages(root: str | Path, runs: dict[str, KeptRun]) -> list[str]:
    """[one line for each part of a page, and each figure, that does not follow from its template and the kept runs].

    runs: of `check_runs`; pages that quote others are left out, as it has told what is wrong with these.
    """
    root, problems = Path(root), []
    places, quotes, templates = folders(root / PLACE), quoted_by(root), pages.templates(root)
    kept, damaged = (_named(found) for found in benchmarks.load(root))
    sources, lost = {**runs, **kept}, (places.keys() - runs.keys()) | damaged.keys()
    problems += [f"{_place(root, quotes, name)}: {problem}" for name, problem in damaged.items()]
    for page, template in templates.items():
        if not quotes[page] & lost:
            try:
                problems += pages.stale(page, made(root, page, template, sources), page.relative_to(root).as_posix())
            except pages.PageError as error:
                problems.append(str(error))
    unquoted = kept.keys() - set().union(*quotes.values())
    problems += [f"quoted by no page: {name}" for name in sorted(unquoted)]
    return problems + check_figures(root, templates, places.values())


def with_benchmarks(root: Path, runs: dict[str, KeptRun]) -> dict:
    """{name: KeptRun, or Benchmark} of all that a page may quote; of training.txt the name is `benchmark training`."""
    return {**runs, **_named(benchmarks.load(root)[0])}


def _named(found):
    """{what templates call a benchmark: its value} of {name: value}."""
    return {f"benchmark {name}": value for name, value in found.items()}


def check_figures(root: Path, templates: dict[Path, Path], places: Iterable[Path]) -> list[str]:
    """[one line for each figure of a page that lies beside no kept run, and for each kept one that no page shows].

    Beside a run are the figures that were kept with it, by its verdict.json; loading it compares their checksums.
    places: the folders of all kept runs.
    """
    problems, shown, kept = [], set(), set()
    for folder in places:
        with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged run, of which other lines tell
            kept |= {folder / name for name in files.read_json(folder / verdict_file.NAME)["files"]}
    for page, template in templates.items():
        for target in IMAGE.findall(files.read_text(template)):
            figure = Path(os.path.normpath(page.parent / target))
            shown.add(figure)
            if figure not in kept:
                problems.append(f"{page.relative_to(root).as_posix()}: the figure {target} lies beside no kept run")
    there = sorted((root / PLACE).rglob(f"{FIGURES}/*"))
    return problems + [f"{path.relative_to(root).as_posix()}: no page shows it" for path in there if path not in shown]


def made(root: Path, page: Path, template: Path, runs: dict) -> list[pages.Line]:
    """The lines that a page should have."""
    return pages.make(template, runs, template.relative_to(root).as_posix())


def write_pages(root: str | Path, runs: dict[str, KeptRun]) -> list[Path]:
    """Write all pages anew; returns those that changed.  Raises pages.PageError before the first of them is written."""
    root = Path(root)
    sources = with_benchmarks(root, runs)
    texts = {page: pages.text(made(root, page, one, sources)) for page, one in pages.templates(root).items()}
    changed = [page for page, text in texts.items() if not page.exists() or page.read_bytes() != text.encode()]
    for page in changed:
        _write(page, texts[page])
    return changed


def write_reports(runs: dict[str, KeptRun], place: str | Path, out: str | Path) -> list[Path]:
    """A run folder of every kept run, `out`/<its name>: what was kept, and a report of it; returns the reports.

    A report has the tables of the kept rows, the verdict by today's rules and the kept figures.
    Raises ValueError, before the first is written, where one would lie where something is, or among the kept runs.
    """
    if Path(place).resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise ValueError(f"{out} lies among the kept runs: name another folder for the reports")
    folders_of = {name: Path(out) / name for name in runs}
    for folder in folders_of.values():
        above = [path for path in folder.parents if os.path.lexists(path) and not path.is_dir()]
        if above or os.path.lexists(folder):
            raise ValueError(f"{[*above, folder][0]} exists: name another folder for the reports, or remove it first")
    for name, folder in folders_of.items():
        run = runs[name]
        shutil.copytree(Path(place) / name, folder)
        figures = sorted((folder / FIGURES).glob("*.png"))
        facts = report.gather(
            folder, run.experiment, run.results, run.verdict,
            {path.stem: (path.stem.replace("_", " "), path.read_bytes()) for path in figures},
            script=run.entries["script"], name=run.entries["experiment"], failed=run.entries["failed"],
            flags=(folder / "flags.cfg").read_text().splitlines(), versions=run.entries["versions"],
            machine=run.entries["machine"],
        )  # fmt: skip
        report.write_pages(folder, facts)
    return [folder / docket.REPORT for folder in folders_of.values()]


def load(folder: str | Path, name: str, take: bool = False) -> KeptRun:
    """The KeptRun of a folder in evidence/; ValueError, in one line, if it is not sound but for its verdict.

    take: take a further look at the trial, with its share of the error budget, where other margins hold today.
    """
    folder = Path(folder)
    for file in FILES:
        if not (folder / file).exists():
            raise ValueError(f"{file} is missing")
    entries = _entries(folder)
    if name.split("/")[:-1] != [entries["script"].removeprefix("run_"), entries["experiment"]]:
        raise ValueError(f"its verdict is on {entries['experiment']} of {entries['script']}: it lies in a wrong folder")
    return _judge_again(folder, name, entries, take)


def _entries(folder):
    """Of its verdict.json; ValueError where it lacks what judging again, pages and reports need."""
    entries = verdict_file.read(folder)
    if missing := [entry for entry in NEEDED if entry not in entries]:
        raise ValueError(f"{verdict_file.NAME} lacks {', '.join(missing)}")
    return entries


def _judge_again(folder, name, entries, take):
    script = _script(entries["script"])
    experiment_name, options, max_seeds, margins = command_line.read_flagfile(
        folder / "flags.cfg", script.EXPERIMENTS, getattr(script, "FORMER", ())
    )
    if experiment_name != entries["experiment"]:
        raise ValueError(f"flags.cfg asks for {experiment_name}, the verdict is on {entries['experiment']}")
    experiment = script.EXPERIMENTS[experiment_name]
    margins = trial.check_margins(experiment, margins)
    plan = trial.plan_seeds(grids.axes(experiment, options)["seed"], max_seeds or None)
    if entries["seeds"] not in plan:
        raise ValueError(f"flags.cfg asks for other seeds than those that were judged, {entries['seeds']}")
    configs, grid = grids.expand(experiment, {**options, "seed": entries["seeds"]})
    table = read_table(folder / "results.csv", experiment, configs, entries["failed"])
    axes = grids.identifying_axes(experiment.config, grid)
    looks = trial.Looks(folder, axes, plan, margins)
    look = (looks.take if take else looks.taken)(plan.index(entries["seeds"]))
    results = experiment.results(table, look=look, margins=margins)
    shares = [share for share, _ in entries["chances"]]
    chances = [(share, limit_of(share, size or ALL)) for share, size in zip(shares, table["train_size"], strict=True)]
    by_id = dict(zip(table["config_id"], chances, strict=True))
    verdict = runner.judge_results(experiment, results, by_id, entries["failed"], entries["taken"])
    kept = verdict_file.as_verdict(entries["verdict"])
    return KeptRun(name, entries, kept, verdict, experiment, results, looks.key, chances)


def _script(name):
    """The module of an entry script, which has its EXPERIMENTS."""
    if not re.fullmatch(r"run_\w+", name):
        raise ValueError(f"{name!r} is no script's name")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no script {name}.py") from error


def read_table(path: Path, experiment: Experiment, configs: list, failed: Iterable[str] = ()) -> pd.DataFrame:
    """The table of a run's Results out of its results.csv: fields as its flags have them, measures to the last bit.

    configs: those that its flags ask for.  failed: the ids of those without a result.
    Raises ValueError where ids, fields or columns are not those of the configs and of the experiment.
    """
    by_id = {runner.config_id(experiment, config): config for config in configs}
    read = {"float_precision": "round_trip", "keep_default_na": False, "na_values": [""], "low_memory": False}
    columns = list(pd.read_csv(path, nrows=0))
    modern = experiment.modernize({name: name for name in columns})
    others = {*experiment.fields, "config_id", "seconds"}
    measures = {now: before for now, before in modern.items() if now not in others}
    try:
        experiment.check_measures({name: 0 for name in measures})
    except ProtocolError as error:
        raise ValueError(f"results.csv has a column that its experiment does not have today ({error})") from error
    texts = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = pd.read_csv(path, usecols=[*measures.values(), "seconds"], **read).astype(object)
    _check_ids(list(texts["config_id"]), by_id.keys() - set(failed))
    rows = []
    for identity, text, number in zip(texts["config_id"], texts.to_dict("records"), numbers.to_dict("records")):
        fields = grids.flat(by_id[identity])
        for name, value in fields.items():
            if name in modern and not _says(text[modern[name]], value):
                said = text[modern[name]]
                raise ValueError(f"results.csv has {name} {said!r} where flags and ids say {field_text(value)!r}")
        found = {name: number[before] for name, before in measures.items()}
        rows.append({"config_id": identity, **fields, **found, "seconds": number["seconds"]})
    return pd.DataFrame(rows)


def _check_ids(ids, asked):
    """Are the rows those of the configs that are asked for, each once?"""
    if len(set(ids)) < len(ids):
        raise ValueError("results.csv has a config twice")
    for odd in sorted(set(ids) ^ asked):
        where = "in results.csv" if odd in ids else "among the configs that flags.cfg asks for"
        raise ValueError(f"{odd} is only {where}: today's flags do not say what was run")


def _says(text, value):
    """Is it what pandas writes into a CSV for the value of a field?"""
    if is_missing(value):
        return text == ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return text != "" and float(text) == value
    return text == str(value)


# -- what is not as it was


def changes(run: KeptRun) -> list[str]:
    """[one line for each part of a run's verdict, and of what limits it, that is not what it was when it was kept]."""
    lines = differences(run.kept, run.verdict)
    for (_, before), (_, now) in zip(run.entries["chances"], run.chances, strict=True):
        if before != now:  # the first says it for all
            return [*lines, f"by today's rules a training accuracy up to {now:.3g} is at chance, kept is {before:.3g}"]
    return lines


def differences(kept: Verdict, today: Verdict) -> list[str]:
    """[one line for each part of a Verdict that is not, word for word, what it was when it was kept]."""
    lines = []
    for part in ("outcome", "groups", "reason", "test", "family", "advice"):
        before, now = getattr(kept, part), getattr(today, part)
        if before != now:
            lines.append(f"by today's rules its {part} is {_around(now, before)}, kept is {_around(before, now)}")
    return lines


def _around(value, other):
    """A text from just before the first word in which it differs from another."""
    words, others = (str(text).split() for text in (value, other))
    start = next((i for i, pair in enumerate(zip(words, others)) if pair[0] != pair[1]), min(len(words), len(others)))
    first = max(0, start - 3)
    shown = " ".join(words[first : first + WORDS])
    return f'"{"... " * (first > 0)}{shown}{" ..." * (first + WORDS < len(words))}"'


# -- keeping


def add(run_folder: str | Path, place: str | Path, name: str = "default", figures: Iterable[str] = ()) -> KeptRun:
    """Copy what is needed of a run folder to `place`/<script>/<experiment>/<name>; returns the KeptRun.

    Of results.csv the rows that were judged, of flags.cfg all but folders of this machine, of looks.json the trial's
    own looks, and figures by name (`loss.png`). Where the same run was kept already, its figures alone are added.
    Raises ValueError, and leaves nothing behind, where the run would not be sound evidence.
    """
    run_folder = Path(run_folder)
    if not run_folder.is_dir():
        raise ValueError(f"there is no run folder {run_folder}")
    if not NAME.fullmatch(name):
        raise ValueError(f"a name has letters, digits, and . _ -, got {name!r}")
    try:
        entries = _entries(run_folder)
    except FileNotFoundError as error:
        raise ValueError(
            f"{run_folder} has no {verdict_file.NAME}: give the run's command again (it computes nothing twice)"
        ) from error
    target = Path(place) / entries["script"].removeprefix("run_") / entries["experiment"] / name
    figures = [run_folder / FIGURES / figure for figure in figures]
    for figure in figures:
        if figure.suffix != ".png" or figure.parent.name != FIGURES or not figure.is_file():
            raise ValueError(f"there is no figure {figure}")
    if target.exists():
        if not figures or _measured(target, entries) != _measured(run_folder, entries):
            raise ValueError(f"{target} exists: take another --name, or remove it first")
        run = load(target, target.relative_to(place).as_posix())
        _copy_figures(figures, target, run)
        return run
    target.mkdir(parents=True)  # outside of `try`, which removes what it has made
    try:
        _copy(run_folder, target, entries)
        run = load(target, target.relative_to(place).as_posix())
        changed = changes(run)
        if changed:
            raise ValueError(f"{run_folder}: {changed[0]}; give its command again, which judges it by today's rules")
        _keep_own_looks(target, run)
        if figures:  # _copy has sealed all else
            _copy_figures(figures, target, run)
    except BaseException:
        shutil.rmtree(target)
        raise
    return run


def _copy(run_folder, target, entries):
    lines = (run_folder / "flags.cfg").read_text().splitlines()
    lines = [line for line in lines if line.split("=")[0].lstrip("-") not in PRIVATE]
    if any(line.startswith("--model=") and ".keras" in line for line in lines):
        raise ValueError(f"{run_folder} is of a .keras file, without which nobody can judge it again")
    _write(target / "flags.cfg", "\n".join(lines) + "\n")
    rows = (run_folder / "results.csv").read_text().splitlines(keepends=True)
    _write(target / "results.csv", "".join(rows[: 1 + entries["configs"]]))  # no cell has a line's end
    files.write_json(target / trial.FILE, files.read_json(run_folder / trial.FILE))
    verdict_file.write_content(target, entries)


def _measured(folder, entries):
    """The rows that were judged, without how long they took."""
    table = pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False, nrows=entries["configs"])
    return table.drop(columns="seconds").to_dict("records")


def _copy_figures(figures, target, run):
    for figure in figures:
        (target / FIGURES).mkdir(exist_ok=True)
        shutil.copyfile(figure, target / FIGURES / figure.name)
    _seal(target, run.entries)


def _seal(folder, entries):
    """Write a kept run's verdict.json, with the checksums of its figures, too."""
    figures = sorted(f"{FIGURES}/{path.name}" for path in (folder / FIGURES).glob("*"))
    verdict_file.write_content(folder, entries, figures)


def _write(path, text):
    with files.atomic(path) as stream:
        stream.write(text)


def _keep_own_looks(target, run):
    """Leave the looks at other trials of the run folder out: their grids may name files of a machine."""
    trials = files.read_json(target / trial.FILE)["trials"]
    files.write_json(target / trial.FILE, {"trials": {run.trial: trials[run.trial]}})


def accept(folder: str | Path, name: str) -> list[str]:
    """Keep the verdict by today's rules in place of the one that was kept; returns what has changed, a line each.

    Another margin than before makes this a further look at the trial, as it does in a run folder.
    """
    run = load(folder, name, take=True)
    changed = changes(run)
    if changed:
        today = {
            "verdict": dataclasses.asdict(run.verdict),
            "chances": run.chances,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        _seal(folder, {**run.entries, **today})
    return changed
