"""benchmarks/keep.py: what a command printed is kept with its facts, and read again; a failure keeps what there was."""
import sys

import pytest

from benchmarks import keep
from reporting import benchmarks

PRINTED = """Seconds.

| case | fit, images/s |
| --- | --- |
| mlp 3x512 | 10 [9, 11] |

| other |
|---|
| 1 |
More: | none |
"""


def test_what_is_printed_is_kept_and_read(tmp_path, capfd):
    path = keep.keep("speed", [sys.executable, "-c", f"print({PRINTED!r}, end='')"], tmp_path)
    assert capfd.readouterr().out == PRINTED and path.read_text().endswith("\n\n" + PRINTED)
    (found,) = benchmarks.load(tmp_path).values()
    assert found.name == "speed" and list(found.facts) == list(benchmarks.FACTS)
    assert found.facts["command"].startswith(sys.executable) and "keras" in found.facts["versions"]
    assert [table.to_dict("list") for table in found.tables] == [
        {"case": ["mlp 3x512"], "fit, images/s": ["10 [9, 11]"]}, {"other": ["1"]}
    ]  # fmt: skip


def test_a_command_that_fails_leaves_what_was_kept(tmp_path):
    path = keep.keep("speed", [sys.executable, "-c", "print(1)"], tmp_path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="ended with status 3: nothing was kept"):
        keep.keep("speed", [sys.executable, "-c", "print(2); raise SystemExit(3)"], tmp_path)
    assert path.read_bytes() == before


def test_a_file_of_another_form_is_refused_in_one_line(tmp_path):
    place = benchmarks.folder(tmp_path)
    place.mkdir(parents=True)
    (place / "speed.txt").write_text("| a |\n| --- |\n")
    with pytest.raises(ValueError, match=r"speed\.txt does not begin with lines of command, date"):
        benchmarks.load(tmp_path)
    head = "".join(f"{name}: x\n" for name in benchmarks.FACTS)
    for printed in ("| a | b |\n| --- | --- |\n| 1 |\n", "| one line |\n"):
        (place / "speed.txt").write_text(f"{head}\n{printed}")
        with pytest.raises(ValueError, match=r"speed\.txt has a table whose rows are not of one length"):
            benchmarks.load(tmp_path)
