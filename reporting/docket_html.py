"""docket.html: all runs on one page that needs nothing else; docket.css and docket.js beside this file go into it."""
import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from judging.verdict import OUTCOMES
from reporting.docket import NO_VERDICT, Run, describe_seconds, thumbnails
from reporting.report_html import COLOURS, head

SIGNS = {"supported": "✓", "refuted": "✗", "undecided": "?", NO_VERDICT: "–"}  # beside colour and word
SIZE = 4_800_000  # bytes of the page, if its texts leave that
LINKS = 1_500  # of them for the links and names around a run's thumbnails
COLUMNS = (  # heading, what a cell is sorted by
    ("Verdict", "text"), ("Claim", "text"), ("What it hangs on", None), ("Data", "text"), ("Network", "text"),
    ("Seeds", "number"), ("Cost", "number"), ("Date", "text"), ("Figures", None),
)  # fmt: skip


def describe(runs: list[Run]) -> str:
    """`3 runs of 2 claims: 1 supported, 2 undecided`."""
    counts = Counter(run.outcome for run in runs)
    names = {**{outcome: outcome for outcome in OUTCOMES}, NO_VERDICT: "without a verdict"}
    said = ", ".join(f"{counts[outcome]} {name}" for outcome, name in names.items() if counts[outcome])
    return f"{plural(len(runs), 'run')} of {plural(len({run.name for run in runs}), 'claim')}: {said}"


def plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def page(runs: list[Run], place: str | Path, compare: bool = False) -> str:
    """docket.html as text; place: the folder that it will lie in, which its links start from.

    compare: also two runs of the same claim side by side.  Thumbnails have the room that texts leave of SIZE.
    """
    texts = render(runs, place, compare, {run.folder: [] for run in runs})
    return render(runs, place, compare, thumbnails(runs, SIZE - len(texts.encode()) - LINKS * len(runs)))


def render(runs: list[Run], place: str | Path, compare: bool, small: dict[Path, list]) -> str:
    """The page's text; small: {run folder: its thumbnails}."""
    style = COLOURS + Path(__file__).with_name("docket.css").read_text()
    script = Path(__file__).with_name("docket.js").read_text()
    rows = "\n".join(row(number, run, place, small[run.folder]) for number, run in enumerate(runs))
    allowed = f"style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'"
    return f"""{head(f"Docket: {describe(runs)}", style, f"default-src 'none'; img-src data:; {allowed}")}
<h1>Docket</h1>
<p class="summary">{escape(describe(runs))}.</p>
{comparison(runs, place) if compare else ""}
<section aria-labelledby="runs">
<h2 id="runs">Runs</h2>
{filters(runs)}
<div class="table" role="region" tabindex="0" aria-label="Runs">
<table>
<caption>Every run with its verdict, the newest of a claim first. Headings sort.</caption>
<thead><tr>{"".join(map(heading, COLUMNS))}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p id="nothing" hidden>No run has all of this. <button type="button" class="reset">Show all runs</button></p>
</section>
</main>
<script>{script}</script>
</body>
</html>
"""


def digest(text: str) -> str:
    """SHA-256 of a style or script, as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def link(path: Path, place: str | Path) -> str:
    """A relative link from the folder `place` to a file."""
    return quote(Path(os.path.relpath(path, place)).as_posix())


def heading(column: tuple[str, str | None]) -> str:
    name, kind = column
    if kind is None:
        return f'<th scope="col">{name}</th>'
    return f'<th scope="col" aria-sort="none"><button type="button" data-kind="{kind}">{name}</button></th>'


def filters(runs: list[Run]) -> str:
    """The form over the table: verdicts with their numbers, script, data set, text."""
    counts = Counter(run.outcome for run in runs)
    boxes = "".join(
        f'<label class="{outcome}"><input type="checkbox" name="verdict" value="{outcome}" checked> '
        f"<b>{sign}</b> {word(outcome)} ({counts[outcome]})</label>"
        for outcome, sign in SIGNS.items()
        if counts[outcome]
    )
    datasets = {name for run in runs for name in run.dataset.split(", ") if name}
    return f"""<form class="filters" role="search">
<fieldset><legend>Verdict</legend>{boxes}</fieldset>
{choice("Script", "script", sorted({run.script for run in runs}))}
{choice("Data set", "dataset", sorted(datasets))}
<label>Text <input type="search" name="text" placeholder="words"></label>
<button type="reset" class="reset">Show all</button>
<output aria-live="polite">{plural(len(runs), "run")}</output>
</form>"""


def choice(title: str, name: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in values)
    return f'<label>{title} <select name="{name}"><option value="">all</option>{options}</select></label>'


def word(outcome: str) -> str:
    return "no verdict" if outcome == NO_VERDICT else outcome


def badge(outcome: str) -> str:
    return f'<span class="badge {outcome}"><b aria-hidden="true">{SIGNS[outcome]}</b> {word(outcome)}</span>'


def row(number: int, run: Run, place: str | Path, small: list[tuple[str, str]]) -> str:
    """A row of the table; its claim opens the report."""
    claim = escape(run.claim or run.name)
    title = f'<a href="{link(run.report, place)}">{claim}</a>' if run.report else claim
    label, measured = run.deciding
    more = len(run.figures) - len(small)
    images = "".join(picture(run.folder / "figures" / name, url, place) for name, url in small)
    cells = (
        f'<td data-head="Verdict" data-sort="{run.outcome}">{badge(run.outcome)}</td>',
        f'<th scope="row" data-head="Claim" data-sort="{claim}">{title} <small>{escape(run.source)}</small>'
        f"<small>{escape(run.name)}, {escape(Path(os.path.relpath(run.folder, place)).as_posix())}</small>"
        f"{details(run)}</th>",
        f'<td data-head="What it hangs on" class="hangs">{f"<em>{escape(label)}</em> " if label else ""}'
        f"<span>{escape(measured)}</span></td>",
        f'<td data-head="Data" data-sort="{escape(run.data)}">{escape(run.data)}</td>',
        f'<td data-head="Network" data-sort="{escape(run.network)}">{escape(run.network)}</td>',
        f'<td data-head="Seeds" data-sort="{run.seeds}" class="number">{run.seeds}</td>',
        f'<td data-head="Cost" data-sort="{run.seconds:.1f}" class="number">{describe_seconds(run.seconds)}</td>',
        f'<td data-head="Date" data-sort="{run.date.isoformat()}" class="date">{run.date:%Y-%m-%d}</td>',
        f'<td data-head="Figures" class="figures">{images}'
        f"{f'<small>{more} more in the report</small>' if more and small else ''}</td>",
    )
    facts = {"verdict": run.outcome, "script": run.script, "dataset": run.dataset}
    data = " ".join(f'data-{name}="{escape(value)}"' for name, value in facts.items())
    return f'<tr id="run-{number}" {data}>{"".join(cells)}</tr>'


def picture(path: Path, url: str, place: str | Path) -> str:
    """A thumbnail, which opens the figure."""
    name = escape(path.stem.replace("_", " "))
    return f'<a href="{link(path, place)}"><img decoding="async" src="{url}" alt="{name}"></a>'


def details(run: Run) -> str:
    """What the verdict says in full, folded."""
    parts = (("", run.reason), ("Test. ", run.test), ("Error budget. ", run.family))
    said = "".join(f"<p><strong>{head}</strong>{escape(text)}</p>" for head, text in parts if text)
    return f"<details><summary>In full</summary>{said}</details>" if said else ""


# -- two runs of a claim side by side


def disagreement(runs: list[Run]) -> int:
    """2 where one of the runs supports its claim and another refutes it, 1 where verdicts differ otherwise, else 0."""
    outcomes = {run.outcome for run in runs}
    return 2 if {"supported", "refuted"} <= outcomes else int(len(outcomes) > 1)


def comparison(runs: list[Run], place: str | Path) -> str:
    """A section with a panel for each claim that was tried more than once; those that disagree come first."""
    tried = [list(several) for _, several in groupby(runs, key=lambda run: run.name)]
    tried = sorted((several for several in tried if len(several) > 1), key=disagreement, reverse=True)
    panels = "\n".join(panel(number, several, place) for number, several in enumerate(tried))
    return f"""<section aria-labelledby="compared">
<h2 id="compared">Compared</h2>
{panels or "<p>No claim has two runs.</p>"}
</section>"""


def panel(number: int, runs: list[Run], place: str | Path) -> str:
    """Two runs of a claim, which are chosen among all of its runs: at first the newest that disagree most."""
    pairs = [(i, j) for j in range(len(runs)) for i in range(j)]
    first, second = max(pairs, key=lambda pair: disagreement([runs[i] for i in pair]))
    said = ("verdicts agree", "verdicts differ", "verdicts contradict each other")[disagreement(runs)]
    facts = json.dumps([compared(run, place) for run in runs]).replace("<", "\\u003c")
    selects = "".join(
        f'<label>{side} <select data-side="{side.lower()}">'
        + "".join(
            f'<option value="{i}"{" selected" if i == chosen else ""}>{escape(run_name(run, place))}</option>'
            for i, run in enumerate(runs)
        )
        + "</select></label>"
        for side, chosen in (("Left", first), ("Right", second))
    )
    return f"""<details class="panel"{" open" if disagreement(runs) or number == 0 else ""}>
<summary>{escape(runs[0].claim or runs[0].name)} <small>{escape(runs[0].name)}: {said}</small></summary>
<script type="application/json">{facts}</script>
<div class="sides">{selects}</div>
<div class="table" role="region" tabindex="0" aria-label="Two runs side by side"><table></table></div>
<p class="same"></p>
</details>"""


def run_name(run: Run, place: str | Path) -> str:
    return f"{Path(os.path.relpath(run.folder, place)).as_posix()} ({word(run.outcome)}, {run.date:%Y-%m-%d})"


def compared(run: Run, place: str | Path) -> dict:
    """What docket.js compares two runs by."""
    facts = {
        "claim": run.claim, "data": run.data, "network": run.network, "seeds": str(run.seeds),
        "configs": str(run.configs), "cost": describe_seconds(run.seconds), "date": f"{run.date:%Y-%m-%d %H:%M} UTC",
        "versions": run.versions, "machine": run.machine, "test": run.test, "error budget": run.family,
    }  # fmt: skip
    return {
        "name": Path(os.path.relpath(run.folder, place)).as_posix(),
        "href": link(run.report, place) if run.report else "",
        "outcome": run.outcome,
        "sign": SIGNS[run.outcome],
        "word": word(run.outcome),
        "reason": "" if run.groups else run.reason,
        "groups": [list(group) for group in run.groups],
        "facts": facts,
        "flags": run.flags,
    }
