"""report.html: a report as one file that needs nothing else, to be read in a browser, mailed or printed."""
import base64
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from reporting.report import Facts  # which imports this module

COLOURS = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5a6675; --paper: #fff; --shade: #f2f4f7; --line: #cfd6df;
  --edge: #0005;  --supported: #00614a; --refuted: #a8320a; --undecided: #4d5663; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #a4afbd; --paper: #15191f; --shade: #1f252e; --line: #3b4553; --edge: #000c;
    --supported: #5fd3b0; --refuted: #ff9b73; --undecided: #b9c2ce; }
}
"""
STYLE = COLOURS + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto,
sans-serif; } main { max-width: 84rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; } h1 { font-size: 1.6rem; line-height:
1.2; margin: 0 0 1.25rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; border-bottom: 1px
solid var(--line); padding-bottom: .2rem; } p, dd, li { max-width: 75ch; overflow-wrap: anywhere; } blockquote { margin:
0; font-size: 1.2rem; line-height: 1.4; max-width: 60ch; } cite, caption, figcaption, .test { color: var(--soft); } cite
{ display: block; margin-top: .3rem; } .verdict { margin: 1.5rem 0; padding: .8rem 1rem; background: var(--shade);
border-left: .35rem solid var(--outcome); } .verdict h2 { margin: 0; border: 0; color: var(--outcome); } .verdict p {
margin: .4rem 0; } .supported { --outcome: var(--supported); } .refuted { --outcome: var(--refuted); } .undecided {
--outcome: var(--undecided); } /* Two shades lie under the ends of a table, and covers of paper over them: where more is
to come, the shade shows. */ .table { overflow-x: auto; border: 1px solid var(--line); background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 2.5rem 100% local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% local,
  linear-gradient(to right, var(--edge), transparent) left / .8rem 100% scroll,
  linear-gradient(to left, var(--edge), transparent) right / .8rem 100% scroll; background-repeat: no-repeat; }
.table:focus-visible { outline: 3px solid #2f7de1; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; padding: .45rem .6rem; }
th, td { padding: .35rem .5rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; line-height: 1.25; }
th[scope=row] { font-weight: 600; }
.text th, .text td { text-align: left; white-space: normal; }
small { display: block; color: var(--soft); font-size: .85em; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption { margin-top: .3rem; font-size: .9rem; max-width: 90ch; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-bottom: .5rem; }
dt { font-weight: 600; margin-top: .8rem; } dd { margin: 0; }
pre { margin: .2rem 0; padding: .5rem .7rem; background: var(--shade); white-space: pre-wrap; overflow-wrap: anywhere;
  font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
a { color: inherit; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #333; --paper: #fff; --shade: #fff; --line: #999;
    --supported: #00614a; --refuted: #a8320a; --undecided: #333; }
  main { max-width: none; padding: 0; } figure, tr, .verdict { break-inside: avoid; } h2 { break-after: avoid; }
  .table { overflow: visible; border: 0; } table { font-size: .62rem; } th, td { padding: .15rem .3rem; white-space:
  normal; }
}
"""
# The page asks nobody for anything: what it shows is in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def head(title: str, style: str, policy: str) -> str:
    """A page's text up to the opening of <main>; title is escaped here.  policy: its Content-Security-Policy."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>"""


def page(facts: "Facts") -> str:
    """report.html as text, of a report.Facts."""
    outcome = facts.verdict.outcome
    return f"""{head(f"{facts.title}: {outcome}", STYLE, POLICY)}
<h1>{escape(facts.title)}</h1>
<h2>Claim</h2>
<blockquote>{escape(facts.claim.sentence)} <cite>{escape(facts.claim.source)}</cite></blockquote>
<section class="verdict {outcome}" aria-labelledby="verdict">
<h2 id="verdict">Verdict: {outcome}</h2>
<p>{escape(f"{facts.verdict.reason} {facts.verdict.advice}".strip())}</p>
<p class="test"><strong>Test.</strong> {escape(facts.verdict.test)}</p>
{budget(facts)}</section>
<h2>Means over seeds</h2>
{table(facts.summary, "Means with 95 % t-intervals over seeds", len(facts.keys))}
{troubles(facts)}
<h2>Figures</h2>
{figures(facts)}
<h2>Every seed</h2>
<details open><summary>{len(facts.seeds)} configs</summary>
{table(facts.seeds, "Every config with its measures, and the seconds it took", len(facts.keys))}
</details>
<h2>How this was made</h2>
<dl>
<dt>Repeat it</dt><dd><pre>{escape(facts.repeat)}</pre></dd>
{look(facts)}<dt>Versions</dt><dd>{escape(facts.versions)}</dd>
<dt>Machine</dt><dd>{escape(facts.machine)}</dd>
<dt>Seconds</dt><dd>{escape(facts.seconds)}</dd>
<dt>Beside this file</dt><dd><a href="results.csv">results.csv</a>, <a href="flags.cfg">flags.cfg</a>,
<a href="report.md">report.md</a></dd>
</dl>
<details><summary>Every flag of this run (flags.cfg)</summary>
<pre>{escape(chr(10).join(facts.flags))}</pre>
</details>
</main>
</body>
</html>
"""


def budget(facts: "Facts") -> str:
    """What the error budget was shared out over, and the command that would decide; what there is of the two."""
    parts = []
    if facts.verdict.family:
        parts.append(f'<p class="test"><strong>Error budget.</strong> {escape(facts.verdict.family)}</p>')
    if facts.decide:
        parts.append(f'<p class="test"><strong>To decide it.</strong></p>\n<pre>{escape(facts.decide)}</pre>')
    return "\n".join(parts)


def look(facts: "Facts") -> str:
    """The command for TensorBoard, where there is something for it."""
    command = escape(facts.tensorboard)
    return f"<dt>Look at the training</dt><dd><pre>{command}</pre></dd>\n" if command else ""


def troubles(facts: "Facts") -> str:
    """Sections on configs that diverged, did not converge or failed; nothing where all went well."""
    found = (
        ("Diverged", facts.diverged, "Configs whose loss or weights became infinite or NaN, and the epoch"),
        ("Not converged", facts.unconverged, "Configs with measures whose algorithm reached its limit of steps first"),
        ("Failed", facts.failed, "Configs without a result, and what their code raised or became of their worker"),
    )
    return "\n".join(
        f"<h2>{head}</h2>\n{table(rows, caption, 1, 'text')}" for head, rows, caption in found if len(rows)
    )


def table(frame: pd.DataFrame, caption: str, keys: int, kind: str = "numbers") -> str:
    """A DataFrame as a table that scrolls inside itself; its first `keys` columns are the heads of the rows."""
    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in frame.columns)
    rows = "\n".join(
        "<tr>"
        + "".join(f'<th scope="row">{cell(v)}</th>' for v in row[:keys])
        + "".join(f"<td>{cell(v)}</td>" for v in row[keys:])
        + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return (
        f'<div class="table {kind}" role="region" tabindex="0" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def breakable(name: Any) -> str:
    """A column's name, that may be broken behind an underscore."""
    return escape(str(name)).replace("_", "_<wbr>")


def cell(value: Any) -> str:
    """A value's text; the interval behind a mean goes under it."""
    mean, bracket, interval = str(value).partition(" [")
    return escape(mean) + (f"<small>{escape(bracket.strip() + interval)}</small>" if bracket else "")


def figures(facts: "Facts") -> str:
    drawn = [figure(number, name, *shown) for number, (name, shown) in enumerate(facts.figures.items(), 1)]
    return "".join(drawn) or "<p>None could be drawn of these results, or none was kept with them.</p>"


def figure(number: int, name: str, what: str, png: bytes) -> str:
    """A figure inside the page, with its description for those who do not see it."""
    data = base64.b64encode(png).decode()
    title = escape(name.replace("_", " "))
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(what)}">'
        f"<figcaption>Figure {number}: {title}</figcaption></figure>\n"
    )
