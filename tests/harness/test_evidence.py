"""harness/evidence.py: a kept run is judged again word for word; what no longer follows is named in one line."""
import dataclasses
import html
import json
import re
import shutil
import sys
import types
from dataclasses import field

import pandas as pd
import pytest

from analysis.statistics import t_interval
from harness import evidence, runner
from judging import chance, decision
from judging.decision import Finding, Statement, above, below, decide
from judging.wording import format_interval
from reporting import benchmarks, docket, verdict_file
from tests import fake_experiment
from tests.fake_experiment import Fake

NAME = "fake/gain/default"
TEMPLATE = f"""# Gains

It is {{{{{NAME}: bold verdict}}}}.
{{{{use {NAME}}}}}
The gain is {{{{number 1}}}} over {{{{seeds}}}} seeds.

| factor | gain |
| --- | --- |
| 1 | {{{{mean extra/gain, factor=1, decimals=3}}}} |
| 2 | {{{{mean extra/gain, factor=2, decimals=3}}}} |
"""


class Gain(Fake):
    """A claim that is supported: the gain is 1 to 2, at a margin of 0.1."""

    RULE = "A t-test."

    def __init__(self, **options):
        numbers = {0: 0.1234567890123456, 1: 0.2 + 1e-16, 2: 1 / 3, 3: 0.25, 4: 0.3, 5: 0.2, 6: 0.1}
        gain = {"extra/gain": lambda config: config.factor + numbers[config.seed], "extra/wide": lambda config: 7}
        super().__init__(
            lambda config, data, run: {name: of(config) for name, of in gain.items()},
            margins={"margin": (0.1, "gain")}, **{"seed": [0, 1, 2], "factor": [1.0, 2.0], **options},
        )  # fmt: skip

    def judge(self, results):
        findings = []
        for factor, rows in results.groups()[0].split("factor").items():
            gain = t_interval(rows["extra/gain"], results.confidence)
            findings.append(Finding(
                f"factor {factor:g}", format_interval(gain, 6),
                supports=(Statement("it gains", (above(gain, results.margins["margin"]),)),),
                refutes=(Statement("it does not", (below(gain, results.margins["margin"]),)),),
            ))  # fmt: skip
        return decide(results, findings, f"{self.RULE} Margin {results.margins['margin']:g}.")


def script_of(monkeypatch, fake, name="gain"):
    """The entry script run_fake, with this experiment alone."""
    module = types.ModuleType("run_fake")
    module.EXPERIMENTS = {name: fake.experiment}
    monkeypatch.setitem(sys.modules, "run_fake", module)


def run(fake, place, given=None, **options):
    return runner.run("run_fake", fake.experiment, given, name="gain", out_dir=place, quiet=True, **options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with one kept run and one page that quotes it."""
    place, fake = tmp_path_factory.mktemp("project"), Gain()
    with pytest.MonkeyPatch.context() as monkeypatch:
        script_of(monkeypatch, fake)
        report = run(fake, place / "results")
        assert report.verdict.outcome == "supported"
        evidence.add(report.folder, place / "evidence")
        (place / "docs/templates/docs").mkdir(parents=True)
        (place / "docs/templates/docs/gains.md").write_text(TEMPLATE)
        problems, runs = evidence.check(place)
        assert problems == ["docs/gains.md: is missing"]
        assert evidence.write_pages(place, runs) == [place / "docs/gains.md"]
        assert evidence.check(place)[0] == [] and not evidence.write_pages(place, runs)
    return place


@pytest.fixture
def project(original, tmp_path, monkeypatch):
    """A copy of the original, for a test to change."""
    script_of(monkeypatch, Gain())
    return shutil.copytree(original, tmp_path / "project")


def only(problems):
    (problem,) = problems
    assert "\n" not in problem and problem.startswith("docs/gains.md") and NAME in problem, problem
    return problem


def reseal(folder):
    """Someone changes a file and its checksum as well."""
    content = json.loads((folder / "verdict.json").read_text())
    content.pop("sha256")
    verdict_file.write_content(folder, content)


def test_a_page_follows_from_kept_benchmarks_too(project):
    place = benchmarks.folder(project)
    place.mkdir(parents=True)
    head = "".join(f"{name}: x\n" for name in benchmarks.FACTS)
    (place / "speed.txt").write_text(f"{head}\n| case | fit |\n| --- | --- |\n| a | 1.5 |\n")
    problems, runs = evidence.check(project)
    assert problems == ["quoted by no page: benchmark speed"]
    (project / "docs/templates/docs/speed.md").write_text("{{benchmark speed: cell fit; case=a}} s\n")
    assert evidence.write_pages(project, runs) == [project / "docs/speed.md"]
    assert (project / "docs/speed.md").read_text().endswith("1.5 s\n") and evidence.check(project)[0] == []
    (place / "speed.txt").write_text((place / "speed.txt").read_text().replace("1.5", "1.6"))
    (problem,) = evidence.check(project)[0]
    assert problem.startswith("docs/speed.md, line 2 (benchmark speed): has")
    page = project / "docs/gains.md"
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))
    assert "docs/gains.md: its lines end otherwise than `make pages` writes them" in evidence.check(project)[0]
    (place / "speed.txt").write_text("x")
    line, other = evidence.check(project)[0]  # and no word on the page that cannot be made
    assert line.startswith("docs/speed.md: benchmark speed: ") and "does not begin with" in line and "gains" in other


# -- what is kept


def test_a_kept_run_is_judged_again_to_the_letter(project):
    (name,) = evidence.folders(project / "evidence")
    kept = evidence.load(project / "evidence" / name, name)
    (fresh,) = (run(Gain(), project / "results"),)
    assert kept.verdict == kept.kept == fresh.verdict and kept.results.look == fresh.results.look
    pd.testing.assert_frame_equal(kept.results.table, fresh.results.table, check_exact=True)


def test_a_report_of_a_kept_run_says_what_was_kept(project):
    """Its files are copied, so that a docket of the reports has the run, and its row opens a report."""
    place, out = project / "evidence", project / "reports"
    runs = evidence.check(project)[1]
    (path,) = evidence.write_reports(runs, place, out)
    text, kept = path.read_text(), runs[NAME]
    assert path == out / NAME / "report.html" and "Verdict: supported" in text
    for part in (kept.verdict.reason, kept.verdict.test, kept.verdict.family, kept.entries["versions"], "6 configs"):
        assert html.escape(part) in text, part
    assert "TensorBoard" not in text and "tensorboard" not in text and "in this call" not in text  # of no training here
    (row,) = docket.find([out])
    assert (row.report, row.outcome) == (path, "supported")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exists: name another folder"):
        evidence.write_reports(runs, place, out)
    assert path.read_bytes() == before
    (project / "file").write_text("")
    with pytest.raises(ValueError, match="file exists: name another folder"):
        evidence.write_reports(runs, place, project / "file")
    with pytest.raises(ValueError, match="lies among the kept runs"):  # where it would be taken for one
        evidence.write_reports(runs, place, place / "reports")


def test_only_small_text_is_kept_and_no_place_of_a_machine(project):
    folder = project / "evidence" / NAME
    assert sorted(path.name for path in folder.iterdir()) == sorted(evidence.FILES)
    for path in folder.iterdir():
        assert str(project) not in path.read_text()
    assert not re.search("out_dir|data_dir", (folder / "flags.cfg").read_text())


@pytest.mark.parametrize("name", ["..", ".", "-x", "", "a/b"])
def test_a_name_is_no_path(project, name):
    """With `..` a failure would have removed what was kept beside it."""
    (project / "evidence/fake/gain/default").rename(project / "evidence/fake/other")
    with pytest.raises(ValueError, match="a name has letters, digits"):
        evidence.add(project / "results/fake/gain", project / "evidence", name)
    assert (project / "evidence/fake/other/results.csv").exists()


def test_a_verdict_that_lacks_an_entry_is_refused_in_one_line(project):
    folder = project / "results/fake/gain"
    content = json.loads((folder / "verdict.json").read_text())
    verdict_file.write_content(folder, {k: v for k, v in content.items() if k not in ("sha256", "files", "chances")})
    with pytest.raises(ValueError, match=r"verdict\.json lacks chances"):
        evidence.add(folder, project / "evidence", "other")
    assert not (project / "evidence/fake/gain/other").exists()


def test_figures_of_pages_lie_beside_their_run_and_no_others_do(project):
    template, folder = project / "docs/templates/docs/gains.md", project / "results/fake/gain"
    figure = sorted((folder / "figures").iterdir())[0].name

    def problems():
        _, runs = evidence.check(project)
        evidence.write_pages(project, runs)
        return evidence.check(project)[0]

    for odd in ("none.png", "../results.csv"):
        with pytest.raises(ValueError, match=f"there is no figure .*{re.escape(odd)}"):
            evidence.add(folder, project / "evidence", figures=[odd])
    assert evidence.add(folder, project / "evidence", figures=[figure]).name == NAME
    kept = f"evidence/{NAME}/figures/{figure}"
    assert problems() == [f"{kept}: no page shows it"]
    template.write_text(f"{TEMPLATE}\n![A gain](../{kept})\n")
    assert problems() == []
    (project / kept).write_bytes(b"another figure")
    assert f"figures/{figure} is not what verdict.json was made of" in evidence.check(project)[0][0]
    shutil.copyfile(folder / "figures" / figure, project / kept)
    ghost = shutil.copytree(project / f"evidence/{NAME}/figures", project / "evidence/fake/ghost/figures")
    shutil.copyfile(folder / "figures" / figure, ghost / "another.png")
    template.write_text(f"{TEMPLATE}\n![A gain](../{kept}) ![Another](../evidence/fake/ghost/figures/{figure})\n")
    assert len(problems()) == 2 and "lies beside no kept run" in problems()[0]
    shutil.rmtree(ghost)
    for odd in ("gain.png", f"../{kept}.png", f"../results/fake/gain/figures/{figure}"):
        template.write_text(f"{TEMPLATE}\n![A gain](../{kept}) ![Another](odd)\n".replace("odd", odd))
        assert problems() == [f"docs/gains.md: the figure {odd} lies beside no kept run"]
    rows = pd.read_csv(folder / "results.csv", dtype=str)
    rows.loc[0, [name for name in rows if name != "seconds"][-1]] = "0.5"
    rows.to_csv(folder / "results.csv", index=False)
    reseal(folder)
    with pytest.raises(ValueError, match="exists: take another --name"):
        evidence.add(folder, project / "evidence", figures=[figure])


def test_only_what_was_judged_is_kept(project):
    """Rows and looks that other commands left in the run folder are none of this run's."""
    fake = Gain()
    run(fake, project / "results", {"factor": 5.0, "seed": [0, 1, 2, 3]})
    report = run(fake, project / "results", {"seed": [0, 1, 2]})
    assert len(pd.read_csv(report.folder / "results.csv")) == 10
    kept = evidence.add(report.folder, project / "evidence", "again")
    assert len(kept.results) == 6 and kept.verdict == report.verdict
    trials = json.loads((project / "evidence/fake/gain/again/looks.json").read_text())["trials"]
    assert len(trials) == 1 and evidence.check(project)[0] == []


@pytest.mark.parametrize("place, given, max_seeds, look, share", [
    ("results", {}, None, 1, 0.9), ("others", {}, 6, 1, 0.225), ("results", {"seed": [0, 1, 2, 3, 4]}, None, 2, 0.05),
])  # fmt: skip
def test_every_look_keeps_its_share(project, place, given, max_seeds, look, share):
    """The first trial; more seeds, planned and not needed; and a look that was not planned."""
    report = run(Gain(), project / place, given, max_seeds=max_seeds)
    kept = evidence.add(report.folder, project / "evidence", "more")
    assert kept.results.look == report.results.look and kept.results.look.number == look
    assert kept.verdict == report.verdict and kept.results.look.share == pytest.approx(share)


class Patient(Gain):
    """Decides nothing before it has six seeds; one config of seed 1 diverged, and that of seed 2 cannot be computed."""

    def judge(self, results):
        verdict = super().judge(results.measured("extra/gain"))
        seeds = results.table["seed"].nunique()
        return verdict if seeds > 4 else dataclasses.replace(verdict, outcome="undecided")

    def measure(self, config, data, run):
        if (config.seed, config.factor) == (2, 2.0):
            raise ArithmeticError("no result")
        found = super().measure(config, data, run)
        if (config.seed, config.factor) == (1, 1.0):
            return {"diverged_epoch": 1, "final/loss": found["final/loss"]}
        return found


def test_a_run_of_several_looks_with_diverged_and_failed_configs_is_judged_again(project, monkeypatch):
    fake = Patient()
    script_of(monkeypatch, fake)
    report = run(fake, project / "others", max_seeds=6)
    assert len(report.results) == 11 and len(report.failed) == 1 and report.results.look.number == 3
    kept = evidence.add(report.folder, project / "evidence", "patient")
    assert kept.verdict == report.verdict and kept.results.look == report.results.look
    assert "1 of 11 configs diverged. 1 of 12 configs failed." in kept.verdict.reason
    pd.testing.assert_frame_equal(kept.results.table, report.results.table, check_exact=True)


# -- what no longer follows


@pytest.mark.parametrize("column", ["extra/gain", "seconds", "final/loss", "random", "factor", "config_id"])
def test_one_digit_in_results_is_noticed(project, column):
    folder = project / "evidence" / NAME
    text = (folder / "results.csv").read_text()
    cell = str(pd.read_csv(folder / "results.csv", dtype=str)[column][1])
    digit = max(i for i, letter in enumerate(cell) if letter.isdigit())
    changed = f"{cell[:digit]}{(int(cell[digit]) + 5) % 10}{cell[digit + 1:]}"
    (folder / "results.csv").write_text(text.replace(cell, changed, 1))
    assert "checksum" in only(evidence.check(project)[0])


def test_a_number_of_the_verdict_is_noticed_even_with_a_new_checksum(project):
    folder = project / "evidence" / NAME
    table = pd.read_csv(folder / "results.csv")
    table["extra/gain"] += 0.001
    table.to_csv(folder / "results.csv", index=False)
    reseal(folder)
    problems, _ = evidence.check(project)
    assert any("by today's rules its reason is" in problem for problem in problems)
    assert any("docs/gains.md, line" in problem and NAME in problem for problem in problems)


@pytest.mark.parametrize("name, value", [("factor", 1.5), ("seed", 7), ("width", 5)])
def test_rows_of_another_config_are_noticed_even_with_a_new_checksum(project, name, value):
    folder = project / "evidence" / NAME
    table = pd.read_csv(folder / "results.csv")
    table.loc[0, name] = value
    table.to_csv(folder / "results.csv", index=False)
    reseal(folder)
    assert f"results.csv has {name} '{value}'" in only(evidence.check(project)[0])


def test_flags_that_say_something_else_are_noticed(project):
    folder = project / "evidence" / NAME
    flags = (folder / "flags.cfg").read_text()
    for before, after, said in (
        ("--factor=1.0,2.0", "--factor=1.0,3.0", "today's flags do not say what was run"),
        ("--factor=1.0,2.0", "--factor=1.0,x", "factor must be a number"),
        ("--epochs=2", "--epoch=2", "Unknown command line flag 'epoch'"),
        ("--seed=0,1,2", "--seed=0,1", "other seeds"),
        ("--experiment=gain", "--experiment=loss", "experiment"),
        ("--max_seeds=0", "--max_seeds=0\n--margin=0.2", "no look"),
    ):
        assert before in flags
        (folder / "flags.cfg").write_text(flags.replace(before, after))
        reseal(folder)
        assert said in only(evidence.check(project)[0]), said


def test_what_is_missing_or_damaged_is_named(project):
    folder = project / "evidence" / NAME
    for name in evidence.FILES:
        text = (folder / name).read_text()
        (folder / name).unlink()
        assert f"{name} is missing" in only(evidence.check(project)[0])
        (folder / name).write_text(text[: len(text) // 2])
        only(evidence.check(project)[0])
        (folder / name).write_text(text)
    text = (folder / "verdict.json").read_text()
    (folder / "verdict.json").write_text(text.replace("supported", "refuted"))
    assert "checksum" in only(evidence.check(project)[0])
    (folder / "verdict.json").write_text(text)
    folder.rename(project / "evidence/fake/gain/other")
    assert any("has no run fake/gain/default (did you mean fake/gain/other?)" in p for p in evidence.check(project)[0])


def test_another_threshold_or_rule_is_noticed(project, monkeypatch):
    fake = Gain()
    script_of(monkeypatch, types.SimpleNamespace(experiment=dataclasses.replace(
        fake.experiment, margins={"margin": (0.2, "gain")})))  # fmt: skip
    assert '"margin": 0.2' in only(evidence.check(project)[0])
    script_of(monkeypatch, fake)
    assert evidence.check(project)[0] == []
    monkeypatch.setattr(Gain, "RULE", "Another t-test.")
    problem = only(evidence.check(project)[0])
    assert "by today's rules its test is \"Another t-test." in problem and 'kept is "A t-test.' in problem
    monkeypatch.undo()
    script_of(monkeypatch, fake)
    monkeypatch.setattr(decision, "ERROR", 0.01)
    assert "its family is" in only(evidence.check(project)[0])


def test_another_verdict_is_noticed_and_can_be_accepted(project, monkeypatch):
    judge = Gain.judge

    def never(self, results):
        return dataclasses.replace(judge(self, results), outcome="undecided")

    monkeypatch.setattr(Gain, "judge", never)
    script_of(monkeypatch, Gain())
    problems, _ = evidence.check(project)
    assert len(problems) == 2 and any('its outcome is "undecided", kept is "supported"' in p for p in problems)
    assert any("its outcome is" in line for line in evidence.accept(project / "evidence" / NAME, NAME))
    assert 'has "It is **supported**." where template and evidence make "It is undecided."' in only(
        evidence.check(project)[0]
    )
    evidence.write_pages(project, evidence.check(project)[1])
    assert evidence.check(project)[0] == []
    assert evidence.accept(project / "evidence" / NAME, NAME) == []


def test_another_limit_of_chance_is_noticed_and_can_be_accepted(project, monkeypatch):
    """It acts where a run is prepared, and shows in a verdict only where a network is at chance."""
    monkeypatch.setattr(chance, "ERRORS", chance.ERRORS + 1)  # few images: it is this that limits
    assert "by today's rules a training accuracy up to" in only(evidence.check(project)[0])
    assert len(evidence.accept(project / "evidence" / NAME, NAME)) == 1
    assert evidence.check(project)[0] == []


def test_another_margin_is_a_further_look(project, monkeypatch):
    fake = types.SimpleNamespace(experiment=dataclasses.replace(Gain().experiment, margins={"margin": (0.2, "gain")}))
    script_of(monkeypatch, fake)
    folder = project / "evidence" / NAME
    assert any("its family is" in line for line in evidence.accept(folder, NAME))
    kept = evidence.load(folder, NAME)
    assert "look 2 (not planned at the start) having 5 %" in kept.kept.family and kept.kept == kept.verdict
    assert kept.results.look.share == pytest.approx(0.05)
    assert run(Gain(), project / "results", margins={"margin": 0.2}).results.look.share == pytest.approx(0.05)


@pytest.mark.parametrize("before, after, line", [
    ("1.219 [", "1.218 [", 9), ("supported", "refuted", 4), ("over 3", "over 4", 5), ("| 2 | 2", "| 2 | 3", 10),
])  # fmt: skip
def test_a_number_in_a_page_is_noticed(project, before, after, line):
    page = project / "docs/gains.md"
    assert before in page.read_text()
    page.write_text(page.read_text().replace(before, after, 1))
    assert only(evidence.check(project)[0]).startswith(f"docs/gains.md, line {line} ({NAME}): has ")


# -- what goes on being understood


def test_later_fields_and_names_of_columns_change_nothing(project, monkeypatch):
    changed = dataclasses.replace(
        Gain().experiment, config=dataclasses.make_dataclass("Config", [
            ("more", float, field(default=0.0, metadata={"help": "came later", "added": True}))
        ], bases=(fake_experiment.Config,), frozen=True),
        columns={"final/cost": "final loss", "random": "a random number", "extra/<name>": "whatever"},
        table=("final/cost",), former_columns={"final/loss": "final/cost"},
    )  # fmt: skip
    script_of(monkeypatch, types.SimpleNamespace(experiment=changed))
    problems, runs = evidence.check(project)
    assert problems == [] and "final/cost" in runs[NAME].results.table
    unknown = dataclasses.replace(changed, former_columns={})
    script_of(monkeypatch, types.SimpleNamespace(experiment=unknown))
    assert "'final/loss'" in only(evidence.check(project)[0])


# -- adding


def test_what_is_no_evidence_is_refused(project, monkeypatch):
    place, fake = project / "evidence", Gain()
    folder = project / "results/fake/gain"
    before = sorted(place.rglob("*"))

    def refused(said, folder=folder, name="more"):
        with pytest.raises(ValueError, match=said) as error:
            evidence.add(folder, place, name)
        assert "\n" not in str(error.value) and sorted(place.rglob("*")) == before

    refused("there is no run folder", project / "nowhere")
    refused("exists", name="default")
    refused("a name has letters", name="../else")
    monkeypatch.setattr(Gain, "RULE", "Another t-test.")
    refused("by today's rules its test is .*give its command again")
    monkeypatch.undo()
    script_of(monkeypatch, fake)
    flags = (folder / "flags.cfg").read_text()
    (folder / "flags.cfg").write_text(flags.replace("--model=mlp", "--model=mine.keras"))
    reseal(folder)
    refused("is of a .keras file")
    (folder / "flags.cfg").write_text(flags)
    refused("checksum")
    (folder / "verdict.json").unlink()
    refused("has no verdict.json: give the run's command again")
    run(fake, project / "results")
    assert evidence.add(folder, place, "more").name == "fake/gain/more"
