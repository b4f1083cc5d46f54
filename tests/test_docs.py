"""The pages of this project: every experiment is where it belongs, links lead somewhere, lines can be read."""
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from harness import command_line, evidence, grid
from reporting import pages

ROOT = Path(evidence.__file__).parents[1]
SUBJECTS = ("local_minima", "norm", "ntk", "rank")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = [page for page in PAGES if ROOT / pages.TEMPLATES not in page.parents]
WIDTH = 120


def experiments(subject):
    return list(importlib.import_module(f"run_{subject}").EXPERIMENTS)


def section(text, heading):
    """The text between a heading and the next one of its level or above."""
    level = heading.split()[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows(text):
    """{first cell: row} of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| ").split(" (")[0]: line for line in lines}


def anchors(page):
    """What links may point at within a page: its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_experiment_has_its_rule_its_history_its_results_and_its_cost(subject):
    names = experiments(subject)
    verdicts = (ROOT / "docs" / "verdicts.md").read_text()
    rule = rows(section(section(verdicts, "## The rules"), f"### run_{subject}.py"))
    dates = rows(section(verdicts, "## Rules and defaults, with their last change"))
    cost = rows(section((ROOT / "docs" / "presets.md").read_text(), "## What the default runs cost"))
    results = (ROOT / "docs" / "results" / f"{subject}.md").read_text()
    findings = (ROOT / "docs" / "findings.md").read_text()
    stored = rows((ROOT / "docs" / "stored_models.md").read_text())[f"`run_{subject}.py`"]
    for name in names:
        assert name in rule and name in cost and name in stored, name
        assert f"(results/{subject}.md#{name})" in findings, name
        assert re.search(r"\d{4}-\d\d-\d\d.*\|.*\d{4}-\d\d-\d\d", dates[name]), name  # of the rule, and of the default
        text = " ".join(section(results, f"## {name}").lower().split())
        assert "what would change our mind" in text and "rule" in text, name


@pytest.mark.parametrize("subject", SUBJECTS)
def test_verdicts_seeds_and_looks_of_default_runs_are_those_of_the_kept_ones(subject):
    numbers = ("", "one", "two", "three")
    cost = rows(section((ROOT / "docs" / "presets.md").read_text(), "## What the default runs cost"))
    for name in experiments(subject):
        kept = ROOT / "evidence" / subject / name / "default" / "looks.json"
        (trial,) = json.loads(kept.read_text())["trials"].values()
        judged = [len(json.loads(text)["seeds"]) for text, look in trial["looks"].items() if look["judged"] is not None]
        planned, taken = len(trial["looks"]), len(judged)
        looks = numbers[taken]
        if taken < planned:
            looks = f"{'first' if taken == 1 else looks} of {numbers[planned]}"
        assert f"| {max(judged)}, {looks} |" in cost[name]
        outcome = json.loads(kept.with_name("verdict.json").read_text())["verdict"]["outcome"]
        assert cost[name].split(" | ")[3] == outcome
        assert cost[name].endswith("|  |") != (outcome == "undecided"), f"why is it undecided? {cost[name]}"


def test_every_link_leads_to_a_file_and_a_heading():
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            if not other.exists() or (anchor and anchor not in anchors(other)):
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert not lost


def test_no_interval_of_a_generated_page_is_typed():
    """Numbers of runs come from evidence/: an interval in a template, also one over two lines, was typed by hand."""
    number = r"[-+]?\d[\d.]*(?:e[-+]?\d+)?"
    typed = [
        (path.name, found)
        for path in sorted((ROOT / "docs" / "templates").rglob("*.md"))
        for found in re.findall(rf"\[{number},\s+{number}\]", re.sub(r"{{.*?}}", "", path.read_text()))
    ]
    assert not typed


VERDICT = r"\b(?:supported|refuted|undecided)\b"


def typed_verdicts(template):
    """[verdict words] of a template that stand where a reader takes them for a verdict, and that no run has made.

    Those places are bold print, headings, cells of tables that begin with one, and what follows `Verdict:`. Prose may
    use the words, as it tells rules ("refuted where ..") and what was judged otherwise once.
    """
    text = re.sub(r"{{.*?}}", "", template)
    lines = text.splitlines()
    places = [bold for paragraph in re.split(r"\n\s*\n", text) for bold in paragraph.split("**")[1::2]]
    places += [line for line in lines if line.startswith("#")]
    places += [cell.strip(" *")[:12] for line in lines if line.startswith("|") for cell in line.split("|")]
    places += re.findall(rf"Verdict:\W*{VERDICT}", text, re.IGNORECASE)
    return [word for place in places for word in re.findall(VERDICT, place, re.IGNORECASE)]


def test_no_verdict_of_a_generated_page_is_typed():
    """It would stay as it is when the kept run, or today's rules, say something else."""
    assert typed_verdicts("x 2020. **Refuted:\ndepth tells.** {{verdict}}") == ["Refuted"]
    assert typed_verdicts("## drift, undecided\n\n| a | supported on digits |") == ["undecided", "supported"]
    assert typed_verdicts("Verdict:\nsupported on digits.") == ["supported"]
    assert not typed_verdicts("**The rule.** Refuted where {{a}} falls, else undecided.\n\n| a | where it is refuted |")
    assert not typed_verdicts("Verdict: {{bold verdict}} on digits. It was supported.\n\n| {{verdict}} | **a** |")
    templates = sorted((ROOT / "docs" / "templates").rglob("*.md"))
    assert not {path.name: found for path in templates if (found := typed_verdicts(path.read_text()))}


def test_lines_of_typed_pages_are_not_too_long():
    """A table's row is one line, however long; pages made from templates have the lengths that their numbers have."""
    made = set(pages.templates(ROOT))
    typed = [page for page in PAGES if page not in made]
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in typed
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > WIDTH and not line.startswith(("| ", "!["))
    ]
    assert not long


def commands(subject):
    """[command line] of a script in the pages' blocks of code and in the notes of the presets, without their comments.

    Left out are those that name what a person has: a file of theirs, a folder of results, or a cluster.
    """
    sources = [*PAGES, *sorted(ROOT.glob("presets/*/*.cfg"))]
    lines = [line.removeprefix("#") for page in sources
             for line in page.read_text().replace("\\\n", " ").splitlines()]  # fmt: skip
    found = {line.split("#")[0].strip() for line in lines if re.match(rf" *python run_{subject}\.py", line)}
    personal = (".keras", "<name>", "--flagfile=results/", "--ray_address", "--help")
    return sorted(line for line in found if not any(word in line for word in personal))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_command_spans_a_grid_under_todays_flags(subject, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # flag files are named from there
    script = importlib.import_module(f"run_{subject}")
    former = getattr(script, "FORMER", ())
    found = commands(subject)
    assert len(found) > 3
    for line in found:
        values = flags.FlagValues()
        command_line.define(script.EXPERIMENTS, values, former)
        command_line.parse(shlex.split(line)[1:], values)
        experiment = script.EXPERIMENTS[values.experiment]
        foreign = {name for other in script.EXPERIMENTS.values() for name in other.fields} - {*experiment.fields}
        assert not [name for name in foreign if values[name].value is not None], line
        given = {name: values[name].value for name in experiment.fields if values[name].value is not None}
        configs, _ = grid.expand(experiment, given)
        assert configs, line
        own = experiment.config().data  # whose number of images suits its data set: 200 digits, not 200 of CIFAR-10
        if own.train_size and any(config.data.dataset != own.dataset for config in configs):
            assert "train_size" in given, line
    assert capsys.readouterr().err == ""  # no flag has another name by now
