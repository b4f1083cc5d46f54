"""reporting/pages.py: every placeholder by a number worked out by hand; what a run does not have is an error."""
import dataclasses
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.statistics import t_interval
from judging.verdict import Verdict
from reporting import pages
from reporting.benchmarks import Benchmark

NAME = "ntk/drift/wide"
RANGE = " times by a margin of -45 of 45, at a level 0.2 to 1e-06. A sublevel 3."


def kept_run(outcome="refuted", **changes):
    table = pd.DataFrame({
        "edit": ["none", "none", "cut", "cut", "cut"], "rate": [0.5] * 5, "widths": [()] * 4 + [(8, 4)],
        "seed": [0, 1, 0, 1, 2], "accuracy": [0.5, 0.625, 0.75, 0.75, None], "loss": [1e-9, 2e-9, 3.0, 4.0, 5.0],
        "seconds": [10.0] * 5,
    })  # fmt: skip
    verdict = Verdict(
        outcome, f"In all 9 [8, 1e+02] times. a ({outcome}): x; b (undecided): y.", "A test.",
        groups=(("mlp, depth 1", outcome), ("resnet of width 4", "undecided")),
        measured=(
            "falls like width^-1.5 [-2, -1], by +0.4 [0.1, 0.7] points over 2 seeds", "5e-09 [1e-10, 1e-08]" + RANGE
        ),
        deciding=0, seeds_needed=12,
    )  # fmt: skip
    run = {
        "name": NAME, "verdict": verdict, "experiment": SimpleNamespace(headings={"accuracy": "accuracy"}),
        "results": SimpleNamespace(table=table, confidence=0.955),
        "entries": {"seconds": 600.0, "date": "2026-11-26T10:00:00+00:00", "versions": "keras 3"},
    }  # fmt: skip
    return SimpleNamespace(**{**run, **changes})


@pytest.mark.parametrize("what, said", [
    ("verdict", "refuted"),
    ("bold verdict", "**refuted**"),
    ("outcome of resnet of width 4", "undecided"),
    ("number 1", "-1.5 [-2, -1]"),
    ("number 2", "+0.4 [0.1, 0.7]"),
    ("number 1 of resnet of width 4", "5e-09 [1e-10, 1e-08]"),
    ("number 1 in reason", "9 [8, 1e+02]"),
    ("measured of resnet of width 4", "5e-09 [1e-10, 1e-08]" + RANGE),
    ("level", "95.5 %"),
    ("seeds", "3"),
    ("duration", "10 min"),
    ("date", "2026-11-26"),
    ("versions", "keras 3"),
    ("smallest loss", "1e-09"),
    ("largest loss, edit=none, digits=1", "2e-09"),
    ("largest seconds, decimals=2", "10.00"),
    ("percent accuracy, edit=cut, widths=none", "75.0 [75.0, 75.0]"),
    ("mean accuracy, edit=cut, widths=8-4, rate=0.5", None),
    ("mean loss, edit=cut, seed=0, decimals=1", "3.0"),
    ("average loss, edit=cut, decimals=1", "4.0"),
    ("average accuracy, edit=none, percent", "56.2"),
    ("largest accuracy, percent, decimals=0", "75"),
    ("count loss, edit=cut", "3"),
    ("count accuracy, edit=cut", "2"),
    ("count accuracy, edit=cut, widths=8-4", "0"),
    ("count loss, loss>2e-9", "3"),
    ("count accuracy, edit=cut, loss<4", "1"),
    ("count loss, loss<0", "0"),
    ("count accuracy, accuracy<1", "4"),
    ("largest loss / rate", "10"),
    ("smallest loss / accuracy, edit=cut, decimals=1", "4.0"),
    ("average loss / seconds, edit=cut, percent", "40.0"),
    ('after "over"', "2"),
    ('after "In all" in reason', "9"),
    ('after ", at a level" of resnet of width 4', "0.2 to 1e-06"),
    ('after "level" of resnet of width 4', "0.2 to 1e-06"),
    ('after "times by a margin of" of resnet of width 4', "-45 of 45"),
    ("seeds_needed", "12"),
])  # fmt: skip
def test_what_a_placeholder_stands_for(what, said):
    if said is None:
        with pytest.raises(pages.PageError, match="has no accuracy where"):
            pages.value(kept_run(), what)
    else:
        assert pages.value(kept_run(), what) == said


def test_means_are_t_intervals_over_seeds():
    found = t_interval([0.5, 0.625])
    assert pages.value(kept_run(), "mean accuracy, edit=none, digits=4") == (
        f"{found.mean:.4g} [{found.low:.4g}, {found.high:.4g}]"
    )
    percent = ", ".join(f"{100 * end:.1f}" for end in (found.low, found.high))
    assert pages.value(kept_run(), "percent accuracy, edit=none") == f"56.2 [{percent}]"
    assert pages.value(kept_run("undecided"), "bold verdict") == "undecided"


@pytest.mark.parametrize("what, said", [
    ("virdict", "means nothing"),
    ("number 3", "has 2 numbers with an interval there"),
    ("number x", "asked for was 'number x'"),
    ("outcome of mlp", "has no group 'mlp', it has mlp, depth 1; resnet of width 4"),
    ("mean acuracy", "did you mean accuracy"),
    ("mean accuracy, edit=gone", "has no accuracy where edit=gone"),
    ("mean accuracy, colour=red", "'colour=red' is no condition"),
    ("mean accuracy, red", "'red' is no condition"),
    ("mean loss", "several configs of a seed"),
    ("count loss, edit=cat", "has nowhere edit=cat"),
    ("average loss, edit=gone", "has no loss where edit=gone"),
    ("average loss / losses", "has no column losses (did you mean loss?)"),
    ("average loss / rate / rate", "has no column"),
    ("average loss, loss>5", "has no loss where loss>5"),
    ("count loss, loss>x", "'loss>x' compares what is no number"),
    ("count loss, edit>1", "'edit>1' compares what is no number"),
    ("count loss, los>1", "'los>1' is no condition"),
    ('after "under"', "has 0 numbers after 'under' there"),
    ('after "ove"', "has 0 numbers after 'ove' there"),
    ('after "by" in reason', "has 0 numbers after 'by' there"),
    ('after "over" of mlp', "has no group 'mlp'"),
])  # fmt: skip
def test_what_a_run_does_not_have_is_an_error(what, said):
    with pytest.raises(pages.PageError) as error:
        pages.value(kept_run(), what)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_seeds_that_would_decide_are_an_error_where_the_verdict_names_none():
    run = kept_run()
    run.verdict = dataclasses.replace(run.verdict, seeds_needed=None)
    with pytest.raises(pages.PageError, match="names no number of seeds"):
        pages.value(run, "seeds_needed")


def make(tmp_path, template):
    path = tmp_path / pages.TEMPLATES / "docs" / "page.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template)
    return pages.make(path, {NAME: kept_run()}, "docs/templates/docs/page.md")


def test_a_page_has_its_sentences_and_their_numbers(tmp_path):
    sentence = f"It is {{{{verdict}}}}, {{{{{NAME}: seeds}}}} seeds."
    lines = make(tmp_path, f"A {{one}}.\n{{{{use {NAME}}}}}\n{sentence}\n\nEnd\n")
    assert [line.text for line in lines[1:]] == ["A {one}.", "It is refuted, 3 seeds.", "", "End"]
    assert [line.runs for line in lines[1:]] == [(), (NAME,), (), ()]
    assert "edit the template" in lines[0].text and "docs/templates/docs/page.md" in lines[0].text
    (page, template), *others = pages.templates(tmp_path).items()
    assert page == tmp_path / "docs/page.md" and not others and pages.quoted(template) == {NAME}
    page.write_text(pages.text(lines))
    assert pages.stale(page, lines, "docs/page.md") == []


def test_the_time_of_several_runs_together(tmp_path):
    other = "ntk/drift/deep"
    template = tmp_path / "page.md"
    template.write_text(f"In {{{{duration of {NAME}, {other}}}}}, of which {{{{duration of {NAME}}}}}.\n")
    runs = {NAME: kept_run(), other: kept_run(name=other, entries={"seconds": 6600.0})}
    (_, line) = pages.make(template, runs)
    assert line.text == "In 2.0 h, of which 10 min." and line.runs == (NAME, other)
    assert pages.quoted(template) == {NAME, other}
    with pytest.raises(pages.PageError, match="evidence has no run ntk/drift/deep"):
        pages.make(template, {NAME: kept_run()})


def test_where_a_template_is_wrong_is_told(tmp_path):
    for template, said in (
        ("a\n{{verdict}}", "line 2: no run is named"),
        ("{{ntk/drift/wode: verdict}}", "line 1: evidence has no run ntk/drift/wode (did you mean ntk/drift/wide?)"),
        (f"a\nb\n{{{{{NAME}: nothing}}}}", "line 3: 'nothing' means nothing"),
    ):
        with pytest.raises(pages.PageError) as error:
            make(tmp_path, template)
        assert f"docs/templates/docs/page.md, {said}" in str(error.value)


def test_each_stale_line_is_named_with_its_run(tmp_path):
    lines = make(tmp_path, f"First.\n{{{{use {NAME}}}}}\nIt is {{{{verdict}}}}.\nMiddle.\n{{{{seeds}}}} seeds\nLast.\n")
    page = tmp_path / "page.md"
    text = pages.text(lines)
    for before, after, said in (
        ("It is refuted", "It is supported", [f"page.md, line 3 ({NAME}): has \"It is supported.\""]),
        ("3 seeds\n", "", [f"page.md, line 5 ({NAME}): has \"\" where template and evidence make \"3 seeds\""]),
        ("Last", "Lost", ["page.md, line 6 (no run: a sentence): has \"Lost.\""]),
        ("First.\n", "More.\nFirst.\n", ["page.md, line 2 (no run: a sentence): has \"More.\""]),
    ):
        page.write_text(text.replace(before, after))
        problems = pages.stale(page, lines, "page.md")
        assert len(problems) == len(said) and all(p.startswith(s) for p, s in zip(problems, said)), problems


BENCHMARK = Benchmark("speed", {"command": "python -m speed", "date": "2026-11-28"}, [
    pd.DataFrame([["a", "1", "2"], ["b", "3", "4"]], columns=["case", "fit", "fit / Keras"]),
    pd.DataFrame([["a", "5", "x"], ["a", "6", "y"]], columns=["case", "peak", "kind"]),
])  # fmt: skip


@pytest.mark.parametrize("what, said", [
    ("date", "2026-11-28"),
    ("command", "python -m speed"),
    ("cell fit / Keras; case=b", "4"),
    ("cell peak; case=a; kind=y", "6"),
    ("table", "| case | fit | fit / Keras |\n| --- | --- | --- |\n| a | 1 | 2 |\n| b | 3 | 4 |"),
    ("table peak; case", "| peak | case |\n| --- | --- |\n| 5 | a |\n| 6 | a |"),
])  # fmt: skip
def test_what_a_placeholder_of_a_benchmark_stands_for(what, said):
    assert pages.value(BENCHMARK, what) == said


@pytest.mark.parametrize("what, said", [
    ("machine", "means nothing"),
    ("cell", "means nothing"),
    ("table speed", "no table of it has speed"),
    ("cell fit; kind=x", "no table of it has fit, kind"),
    ("cell fit; case=c", "0 of its rows are so, one is needed"),  # no such row
    ("cell peak; case=a", "2 of its rows are so, one is needed"),
])  # fmt: skip
def test_what_a_benchmark_does_not_have_is_an_error(what, said):
    with pytest.raises(pages.PageError, match=said) as error:
        pages.value(BENCHMARK, what)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["on {{benchmark speed: date}", "on {benchmark speed: date}}", "{{date"])
def test_braces_that_open_or_close_nothing_are_an_error(tmp_path, line):
    (tmp_path / "page.md").write_text(f"first\n{line}\n")
    with pytest.raises(pages.PageError, match=r"page\.md, line 2: .. opens or closes nothing"):
        pages.make(tmp_path / "page.md", {"benchmark speed": BENCHMARK})


def test_a_page_quotes_a_benchmark_by_its_name(tmp_path):
    template = tmp_path / "page.md"
    template.write_text("Of {{benchmark speed: date}}:\n{{benchmark speed: table case; fit}}\n")
    lines = pages.make(template, {"benchmark speed": BENCHMARK})
    assert [line.text for line in lines[1:]] == ["Of 2026-11-28:", "| case | fit |", "| --- | --- |", "| a | 1 |",
                                                 "| b | 3 |"]  # fmt: skip
    assert pages.quoted(template) == {"benchmark speed"} and lines[3].runs == ("benchmark speed",)
    with pytest.raises(pages.PageError, match="evidence has no benchmark speed"):
        pages.make(template, {})
