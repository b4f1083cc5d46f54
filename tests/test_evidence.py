"""evidence.py: this project's own pages follow from the runs that it keeps; the script ends in one line."""
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import evidence as evidence_script
from experiments.norm import minimum_norm, randomization_verdict
from experiments.ntk import spectrum
from harness import evidence
from judging import chance
from reporting import pages, plain_flags

ROOT = Path(evidence.__file__).parents[1]


def test_every_number_and_verdict_of_this_project_follows():
    """If it does not: `python evidence.py` says what; --write makes the pages, --accept keeps today's verdicts."""
    problems, runs = evidence.check(ROOT)
    assert problems == []
    quoted = {name for template in pages.templates(ROOT).values() for name in pages.quoted(template)}
    assert quoted <= evidence.with_benchmarks(ROOT, runs).keys()


def test_evidence_is_small_text_and_the_figures_of_pages():
    kept = [path for path in (ROOT / evidence.PLACE).rglob("*") if path.is_file()]
    figures = [path for path in kept if path.suffix == ".png" and path.parent.name == evidence.FIGURES]
    assert len(kept) > len(figures) > 0 and all(path.name in evidence.FILES for path in kept if path not in figures)
    assert sum(path.stat().st_size for path in kept) < 10e6


@pytest.mark.parametrize("name, module, threshold, value", [
    ("norm/randomization/alexnet", randomization_verdict, "FITTED", 0.98),
    ("norm/minimum_norm/default", minimum_norm, "EXACT", 1e-5),
    ("ntk/spectrum/cifar10", spectrum, "TRAINED", 0.85),
    ("ntk/spectrum/cifar10", chance, "ERRORS", 2),
    ("norm/minimum_norm/default", chance, "MARGIN", 0.06),
])  # fmt: skip
def test_a_threshold_that_acts_while_measuring_is_seen(monkeypatch, name, module, threshold, value):
    monkeypatch.setattr(module, threshold, value)
    assert evidence.changes(evidence.load(ROOT / evidence.PLACE / name, name))


def script(*arguments):
    return subprocess.run([sys.executable, ROOT / "evidence.py", *arguments], capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.slow
def test_the_script_finds_nothing_wrong_with_this_project():
    said = script()
    assert said.returncode == 0 and said.stdout.endswith("every page follows from its template and them.\n")


@pytest.mark.slow
def test_the_script_says_what_it_found(tmp_path):
    template = tmp_path / "docs" / "templates" / "page.md"
    template.parent.mkdir(parents=True)
    template.write_text("nothing")
    (tmp_path / evidence.PLACE).mkdir()
    said = script(f"--root={tmp_path}")
    assert said.returncode == 1 and said.stdout == "page.md: is missing\n" and len(said.stderr.splitlines()) == 1
    assert script(f"--root={tmp_path}", "--write").returncode == 0 and (tmp_path / "page.md").exists()
    said = script(f"--root={tmp_path}", f"--add={tmp_path / 'none'}")
    assert said.stderr == f"error: there is no run folder {tmp_path / 'none'}\n" and said.returncode == 1
    (tmp_path / "page.md").unlink()
    (tmp_path / "page.md").mkdir()  # what the system refuses ends in one line, too
    said = script(f"--root={tmp_path}")
    assert said.returncode == 1 and said.stderr.startswith("error: ") and len(said.stderr.splitlines()) == 1
    kept = tmp_path / evidence.PLACE / "ntk" / "drift" / "default"
    kept.mkdir(parents=True)
    (kept / "flags.cfg").write_text("")
    said = script(f"--root={tmp_path}", "--write")  # with the cause, and no page of what is damaged
    assert said.stdout == "quoted by no page: ntk/drift/default: results.csv is missing\n" and said.returncode == 1
    assert said.stderr == "error: the kept runs are not in order, so no page was written\n"


@pytest.mark.parametrize("arguments, said", [
    (["results/ntk/drift"], "'results/ntk/drift' belongs to no flag"),
    (["--name=wide"], "--name=wide is what a run to keep is called: it needs --add"),
    (["--figures=loss.png"], "--figures=loss.png are of a run to keep: they need --add"),
    (["--add="], "--add names no run folder"),
    (["--reports="], "--reports names no folder"),
    (["--reports=x", "--write"], "--reports and --write are asked for at once"),
    (["--ad=results/ntk/drift"], "Unknown command line flag 'ad'"),
    (["--write=perhaps"], "flag --write=perhaps: "),
    (["--write", "--accept"], "--write and --accept are asked for at once"),
])  # fmt: skip
def test_flags_that_ask_for_nothing_that_can_be_done_are_refused(arguments, said):
    assert refusal(arguments).startswith(said)


@pytest.mark.parametrize("there, missing", [
    (evidence.PLACE, "docs/templates"), (pages.TEMPLATES, "evidence"), (None, "evidence"),
])  # fmt: skip
def test_a_folder_that_is_no_project_is_not_found_in_order(tmp_path, there, missing):
    root = tmp_path / "project"
    if there:
        (root / there).mkdir(parents=True)
    assert refusal([f"--root={root}"]).startswith(f"{root} has no folder {missing}: ")


def refusal(arguments):
    """What evidence.py says behind `error: `, in one line, before it reads any run."""
    values = flags.FlagValues()
    evidence_script.define(values)
    with pytest.raises((SystemExit, ValueError)) as refused:
        plain_flags.parse_without_arguments(["evidence.py", *arguments], values)
        evidence_script.check(values)
    said = str(refused.value).removeprefix("error: ")
    assert "\n" not in said
    return said


@pytest.mark.slow
def test_a_refusal_is_one_line_and_exit_code_1(tmp_path):
    for arguments in ([f"--root={tmp_path}"], ["--ad=results"]):
        said = script(*arguments)
        assert said.returncode == 1 and said.stdout == ""
        assert said.stderr.startswith("error: ") and len(said.stderr.splitlines()) == 1
