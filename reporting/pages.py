"""Pages whose numbers come from kept runs: docs/templates/<path> has the sentences, and makes <path>.

In a template `{{run: what}}` stands for a number or a word of a kept run, and a line `{{use run}}` says which run is
meant where none is named. With `ntk/drift/default` for the run:

    {{ntk/drift/default: verdict}}              undecided;  `bold verdict` sets a decided one in bold
    {{outcome of mlp, depth 1}}                 the outcome of one group, by its label
    {{number 2 of mlp, depth 1}}                the second number with an interval in what was measured of the group
    {{number 1 in reason}}                      of the verdict's whole reason
    {{measured of mlp, depth 1}}                all of it;  without `of` it is the group that the verdict hangs on
    {{after "error of" of mlp, depth 1}}        the number behind these words in that, which stand there once; all of
                                                `45 of 45` and `0.2 to 0.6`;  `in reason`, and without `of`, likewise
    {{mean test/accuracy, width=32}}            mean over seeds, with its 95 % t-interval, of the rows where width is 32
    {{percent test/accuracy, width=32}}         the same in percent
    {{average hessian/largest, width=32}}       mean without interval, over all rows where the conditions hold
    {{smallest hessian/largest}}                of all rows, or of those where conditions hold;  `largest` likewise
    {{count hessian/largest, width=32}}         how many rows have a number there
    {{count hessian/largest, width>32}}         a number in another column is larger (`>`) or smaller (`<`)
    {{largest late/largest / start/largest}}    of the ratio of two columns, row by row
    {{seeds}} {{configs}} {{seeds_needed}} {{duration}} {{date}} {{versions}}
    {{duration of ntk/drift/wide, ntk/drift/deep}}  of several runs together, which are named there
    {{level}}                                   of the intervals in reason and measured: `95.5 %`
    {{table}}                                   the report's table of means

and for what a benchmark printed (reporting/benchmarks.py):

    {{benchmark training: table}}               its first table, or the first that has these columns, and only them:
    {{benchmark training: table case; fit}}
    {{benchmark training: cell fit; case=mlp 3x512}}    one cell of the first table with these columns
    {{benchmark training: date}}                `command`, `versions`, `machine` and `load` likewise

A duration is the time of a run's configs, one after the other: two workers take about half of it by the clock.
Behind a column and its conditions `, decimals=2` and `, digits=2` set how many decimals or significant digits a number
has; else a percentage has one decimal, and all others have three significant digits. `, percent` makes a percentage of
any of them.
"""
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.statistics import t_interval
from judging.decision import format_seconds
from judging.wording import field_text
from reporting import files, tables
from reporting.benchmarks import NAME, Benchmark

TEMPLATES = Path("docs") / "templates"
PLACE = re.compile(r"\{\{(.*?)\}\}")
RUN = re.compile(rf"([\w-]+/[\w-]+/[\w.-]+|benchmark {NAME.pattern}):\s*(.*)")
TOGETHER = re.compile(r"duration of (.+)")
NUMBER = re.compile(r"[+-]?\d[\d.e+-]* \[[^\]]*\]")
PLAIN = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
AFTER = re.compile(r'after "([^"]+)"(?: (in reason)| of (.+))?')
CONDITION = re.compile(r"([^=<>]+)([=<>])(.*)")
NOTE = "<!-- Made by `make pages` from {} and evidence/: edit the template. -->"


class PageError(ValueError):
    """A template asks for what there is not; one line that says where."""


@dataclass(frozen=True)
class Line:
    """A line of a page, and the names of the runs that its numbers come from."""

    text: str
    runs: tuple = ()


def templates(root: str | Path) -> dict[Path, Path]:
    """{page: template} of a project, both as paths."""
    root = Path(root)
    found = sorted((root / TEMPLATES).rglob("*.md"))
    return {root / path.relative_to(root / TEMPLATES): path for path in found}


def quoted(template: str | Path) -> set[str]:
    """The names of the runs that a template quotes."""
    names, used = set(), None
    for place in PLACE.findall(files.read_text(template)):
        if place.startswith("use "):
            used = place.removeprefix("use ").strip()
        else:
            names.update(_asked(place.strip(), used)[0])
    return names - {None}


def _asked(place, used):
    """([name of each run that a placeholder is about], what it asks for); used: the run where none is named."""
    several, found = TOGETHER.fullmatch(place), RUN.fullmatch(place)
    if several:
        return [name.strip() for name in several[1].split(",")], "duration"
    return ([found[1]], found[2]) if found else ([used], place)


def make(template: str | Path, runs: dict, title: str | None = None) -> list[Line]:
    """[Line] of the page that a template makes.  Raises PageError.

    runs: {name: harness.evidence.KeptRun, or reporting.benchmarks.Benchmark}.
    title: what the page's first line calls the template.
    """
    made, used = [Line(NOTE.format(title or template))], None
    for number, line in enumerate(files.read_text(template).splitlines(), 1):
        if line.startswith("{{use ") and line.endswith("}}"):
            used = line[len("{{use ") : -2].strip()
            continue
        names = []

        def fill(match, names=names, used=used):
            asked, what = _asked(match[1].strip(), used)
            names.extend(asked)
            found = [_known(runs, name) for name in asked]
            return value(found[0], what) if len(found) == 1 else duration(found)

        try:
            if braces := re.search(r"\{\{|\}\}", PLACE.sub("", line)):
                raise PageError(f"{braces[0]} opens or closes nothing")
            text = PLACE.sub(fill, line)
        except PageError as error:
            raise PageError(f"{title or template}, line {number}: {error}") from error
        made += [Line(part, tuple(dict.fromkeys(names))) for part in text.split("\n")]
    return made


def text(lines: list[Line]) -> str:
    return "\n".join(line.text for line in lines) + "\n"


def stale(page: Path, lines: list[Line], title: str) -> list[str]:
    """[one line for each line of a page that is not what its template and the kept runs make]."""
    if not page.exists():
        return [f"{title}: is missing"]
    content, problems = page.read_bytes(), []
    there = content.decode(errors="replace").splitlines()
    matcher = difflib.SequenceMatcher(None, there, [line.text for line in lines], autojunk=False)
    for kind, low, high, first, last in matcher.get_opcodes():
        if kind != "equal":
            made = lines[first:last]
            names = ", ".join(dict.fromkeys(name for line in made for name in line.runs)) or "no run: a sentence"
            before, now = ("\n".join(part) for part in (there[low:high], [line.text for line in made]))
            problems.append(f"{title}, line {low + 1} ({names}): {_apart(before, now)}")
    if not problems and content != text(lines).encode():
        problems.append(f"{title}: its lines end otherwise than `make pages` writes them")
    return problems


def _apart(before, now):
    """`has "0.7 [0" where evidence and template make "0.8 [0"`: the words around the first difference."""
    same = next((i for i, pair in enumerate(zip(before, now)) if pair[0] != pair[1]), min(len(before), len(now)))
    start = max(0, same - 20)
    cut = (" ".join(part[start : same + 30].split()) for part in (before, now))
    return 'has "{}" where template and evidence make "{}"'.format(*cut)


# -- what a placeholder stands for


def value(run: Any, what: str) -> str:
    """The text that a placeholder stands for; PageError if the run, or benchmark, has no such thing."""
    if isinstance(run, Benchmark):
        return _of_benchmark(run, what)
    word, _, rest = what.partition(" ")
    if word in SIMPLE and not rest:
        return SIMPLE[word](run)
    if what == "bold verdict":
        outcome = run.verdict.outcome
        return outcome if outcome == "undecided" else f"**{outcome}**"
    if word in OF_COLUMN and rest:
        return _of_column(run, word, rest)
    after = AFTER.fullmatch(what)
    if after:
        words, reason, label = after.groups()
        said = run.verdict.reason if reason else run.verdict.measured[_group(run, label)]
        return _number_after(run, said, words)
    start, _, label = what.partition(" of ")
    kind, _, index = start.partition(" ")
    if what.endswith(" in reason"):
        return _number(run, run.verdict.reason, what.removesuffix(" in reason"))
    group = _group(run, label) if kind in ("outcome", "measured", "number") else None
    if kind == "number":
        return _number(run, run.verdict.measured[group], start)
    if group is not None and not index:
        return run.verdict.groups[group][1] if kind == "outcome" else run.verdict.measured[group]
    known = f"{', '.join((*SIMPLE, *OF_COLUMN))}, bold verdict, outcome, measured, number N, after WORDS"
    raise PageError(f"{what!r} means nothing: there are {known}")


def _of_benchmark(benchmark, what):
    """What a benchmark printed, or how it was called."""
    if what in benchmark.facts:
        return benchmark.facts[what]
    kind, _, rest = what.partition(" ")
    columns = [part.strip() for part in rest.split(";")] if rest else []
    try:
        if kind == "table":
            table = benchmark.table(*columns)
            return tables.markdown(table[columns or list(table)])
        if kind == "cell" and columns:
            column, pairs = columns[0], [part.partition("=")[::2] for part in columns[1:]]
            table = benchmark.table(column, *(name for name, _ in pairs))
            cells = table.loc[[all(row[name] == said for name, said in pairs) for _, row in table.iterrows()], column]
            if len(cells) != 1:
                raise ValueError(f"{len(cells)} of its rows are so, one is needed")
            return cells.item()
    except ValueError as error:
        raise PageError(f"benchmark {benchmark.name} has no {what!r}: {error}") from error
    raise PageError(f"{what!r} means nothing: there are {', '.join(benchmark.facts)}, table COLUMNS, cell COLUMN; A=B")


def duration(runs: list) -> str:
    """The time of the configs of several runs, one after the other."""
    return format_seconds(sum(run.entries["seconds"] for run in runs))


STYLES = {"decimals": "f", "digits": "g"}
WITHOUT_INTERVAL = {"average": "mean", "smallest": "min", "largest": "max"}  # what pandas calls them
OF_COLUMN = ("mean", "percent", *WITHOUT_INTERVAL, "count")
SIMPLE = {
    "verdict": lambda run: run.verdict.outcome,
    "reason": lambda run: run.verdict.reason,
    "seeds": lambda run: str(run.results.table["seed"].nunique()),
    "configs": lambda run: str(len(run.results)),
    "seeds_needed": lambda run: _seeds_needed(run),
    "level": lambda run: f"{100 * run.results.confidence:.4g} %",
    "duration": lambda run: duration([run]),
    "date": lambda run: run.entries["date"][:10],
    "versions": lambda run: run.entries["versions"],
    "table": lambda run: tables.markdown(tables.summary(run.results, run.experiment.headings)),
}


def _known(runs, name):
    if name in runs:
        return runs[name]
    if name is None:
        raise PageError("no run is named, and no line {{use run}} stands above")
    near = difflib.get_close_matches(name, runs, 1)
    missing = f"{'' if name.startswith('benchmark ') else 'run '}{name}"
    raise PageError(f"evidence has no {missing}" + (f" (did you mean {near[0]}?)" if near else ""))


def _group(run, label):
    """The index of a group by its label; of the one that the verdict hangs on where no label is given."""
    if not run.verdict.groups:
        raise PageError(f"{run.name} was not judged group by group")
    labels = [known for known, _ in run.verdict.groups]
    if label and label not in labels:
        raise PageError(f"{run.name} has no group {label!r}, it has {'; '.join(labels)}")
    return labels.index(label) if label else run.verdict.deciding


def _number(run, said, what):
    """The number with an interval that `number 2` asks for out of a text."""
    numbers, (kind, _, index) = NUMBER.findall(said), what.partition(" ")
    if kind != "number" or not index.isdigit() or not 1 <= int(index) <= len(numbers):
        raise PageError(f"{run.name} has {len(numbers)} numbers with an interval there, asked for was {what!r}")
    return numbers[int(index) - 1]


def _number_after(run, said, words):
    """The number right behind words that stand in a text once, with what `of` or `to` joins to it."""
    start = r"\b" if words[0].isalnum() else ""
    found = re.findall(rf"{start}{re.escape(words)} ({PLAIN}(?: (?:of|to) {PLAIN})?)", said)
    if len(found) != 1:
        raise PageError(f"{run.name} has {len(found)} numbers after {words!r} there, one is needed")
    return found[0]


def _seeds_needed(run):
    if run.verdict.seeds_needed is None:
        raise PageError(f"{run.name} names no number of seeds that would decide it")
    return str(run.verdict.seeds_needed)


def _of_column(run, kind, rest):
    """`mean`, `count` or another of OF_COLUMN, of a column over the rows that the conditions leave."""
    column, *conditions = (part.strip() for part in rest.split(", "))
    rows = run.results.table
    measured = _measured(run, column)
    percent = kind == "percent" or "percent" in conditions
    style = ".1f" if percent else ".3g"
    for condition in conditions:
        if condition == "percent":
            continue
        found = CONDITION.fullmatch(condition)
        name, sign, wanted = found.groups() if found else ("", "", "")
        if sign == "=" and name in STYLES and wanted.isdigit():
            style = f".{wanted}{STYLES[name]}"
        elif name not in rows:
            raise PageError(f"{condition!r} is no condition on a column of {run.name}")
        else:
            held = _holds(run, condition, name, sign, wanted)
            if kind == "count" and sign == "=" and not held.any():  # a count of 0 must not come from a misspelt value
                raise PageError(f"{run.name} has nowhere {condition}")
            rows = rows[held[rows.index]]
    values = measured[rows.index].dropna()
    if kind == "count":
        return str(len(values))
    values = values.astype(float) * (100 if percent else 1)
    if not len(values):
        raise PageError(f"{run.name} has no {column} where {', '.join(conditions) or 'nothing is asked'}")
    if kind in WITHOUT_INTERVAL:
        return f"{values.agg(WITHOUT_INTERVAL[kind]):{style}}"
    if rows["seed"].duplicated().any():
        raise PageError(f"{run.name} has several configs of a seed where {', '.join(conditions) or 'nothing is asked'}")
    found = t_interval(values)
    return f"{found.mean:{style}}" + (f" [{found.low:{style}}, {found.high:{style}}]" if len(values) > 1 else "")


def _measured(run, column):
    """The values of a column over all rows, or of the ratio that `A / B` asks for."""
    table = run.results.table
    names = column.split(" / ")
    for name in names:
        if name not in table or len(names) > 2:
            near = difflib.get_close_matches(name, table, 1)
            raise PageError(f"{run.name} has no column {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    if len(names) == 1:
        return table[column]
    above, below = (table[name].astype(float) for name in names)
    return above / below


def _holds(run, condition, name, sign, wanted):
    """In which rows a condition holds: `=` of the text of a field, `<` and `>` of numbers."""
    column = run.results.table[name]
    if sign == "=":
        return column.map(field_text) == wanted
    try:
        values, wanted = column.astype(float), float(wanted)
    except (TypeError, ValueError) as error:
        raise PageError(f"{condition!r} compares what is no number in {run.name}") from error
    return values < wanted if sign == "<" else values > wanted
