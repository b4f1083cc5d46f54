"""The scripts' command line: --help by group with units and defaults; every mistake ends in one line before any work.
"""
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from harness import command_line, grid
from tests.marks import long_but

ROOT = Path(command_line.__file__).parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("run_*.py"))


def defined(script):
    values = flags.FlagValues()
    command_line.define(importlib.import_module(script).EXPERIMENTS, values)
    return values


def exits(arguments, script="run_ntk"):
    """What parse says before it ends the script."""
    with pytest.raises(SystemExit) as error:
        command_line.parse([script, *arguments], defined(script))
    return error.value.code


def test_a_comma_in_the_name_of_a_model_makes_no_axis(tmp_path):
    path = tmp_path / "mine, too.keras"
    assert command_line.AxisParser("model", str).parse(str(path)) == str(path).split(",")
    path.touch()
    assert command_line.AxisParser("model", str).parse(str(path)) == [str(path)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_every_flag_once_in_its_group(script):
    experiments = importlib.import_module(script).EXPERIMENTS
    text = command_line.help_text("Doc.", defined(script), width=100)
    assert text.startswith("Doc.\n") and max(map(len, text.splitlines())) <= 100
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles[:3] == ["network", "data", "training"] and titles[-1] == "run"
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    expected = {name for experiment in experiments.values() for name in grid.leaves(experiment.config)}
    expected |= {"experiment", "out_dir", "data_dir", "overwrite", "max_seeds", "flagfile"}
    expected |= {"margin", "margin_factor", "margin_level"}
    expected |= set(command_line.WORKERS)
    assert sorted(shown) == sorted(expected)
    entries = re.split(r"\n  (?=--)|\n\n", text)
    for entry in entries:
        if entry.startswith("--") and not entry.startswith("--flagfile"):
            assert "(default:" in " ".join(entry.split()), entry
            assert len(entry.split("(default")[0].split()) > 2, f"no help: {entry}"


def test_help_names_units_kinds_and_owners():
    text = command_line.help_text("", defined("run_ntk"), width=100)
    kinds = ("--width=N ", "--learning_rate=X ", "--[no]skip ", "--model=NAME ", "--decay_epochs=N-N-..")
    for part in (*kinds, "--max_seeds=N ", "--margin=X ", "experiment evolution:"):
        assert part in text, part
    assert re.search(r"experiment drift, evolution[\w, ]*:\n  --ntk_sample=N", text.replace("\n       ", " "))


def test_help_is_printed_and_ends_well(capsys):
    assert exits(["--help"]) == 0 and exits(["--epochs=3", "-h"]) == 0
    assert "--learning_rate=X" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widht=3"], "unknown flag --widht (did you mean --width?): --help lists all"),
        (["--nobatchnorm"], "unknown flag --nobatchnorm (did you mean --nobatch_norm?)"),
        (["--ntk-sample=3"], "unknown flag --ntk-sample (did you mean --ntk_sample?)"),
        (["--zzzzzzzz=3"], "unknown flag --zzzzzzzz: --help"),
        (["--width=wide"], "flag --width=wide: width must be a whole number, got 'wide'"),
        (["--experiment=drfit"], "flag --experiment=drfit: value should be one of <drift|"),
        (["--flagfile=/nowhere.cfg"], "Unable to open flagfile"),
        (["--width", "32", "64"], "'64' belongs to no flag: write --flag=value, and several values as --flag=a,b"),
        (["drift"], "'drift' belongs to no flag"),
    ],
)
def test_a_mistake_ends_in_one_line(arguments, message):
    said = exits(arguments)
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_what_is_right_is_read():
    values = defined("run_ntk")
    assert command_line.parse(["run_ntk", "--width=8,16", "--noskip"], values) == ["run_ntk"]
    assert values["width"].value == [8, 16] and values["skip"].value == [False]


@pytest.mark.slow
@pytest.mark.parametrize("script", long_but(["run_ntk"], SCRIPTS))
def test_the_scripts_themselves_answer(script, tmp_path):
    def call(argument):
        command = [sys.executable, str(ROOT / f"{script}.py"), argument]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    wrong, asked = call("--epoch=3"), call("--help")
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.splitlines()[-1] == "error: unknown flag --epoch (did you mean --epochs?): --help lists all"
    assert "Traceback" not in wrong.stderr and not list(tmp_path.iterdir())
    assert (
        asked.returncode == 0 and "\ntraining:\n" in asked.stdout and "?\n" in asked.stdout.splitlines(keepends=True)[0]
    )
