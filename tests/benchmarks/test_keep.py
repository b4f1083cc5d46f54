"""benchmarks/keep.py: what a command printed is kept with its facts, and read again; a failure keeps what there was."""
import re
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
    (found,) = benchmarks.load(tmp_path)[0].values()
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


@pytest.mark.parametrize("content, said", [
    ("| a |\n| --- |\n", "does not begin with lines of command, date"),
    ("{head}\n| a | b |\n| --- | --- |\n| 1 | 2 |\n| 1 |\n", "the table of a, b has 2 columns, and a row of 1: 1"),
    ("{head}\n| a | b |\n| 1 | 2 |\n", "the table of a, b has no line of dashes"),
    ("{head}\n| one line |\n", "the table of one line has no line of dashes"),
    ("{head}\n\udce9", "is no text"),
])  # fmt: skip
def test_a_file_of_another_form_is_named_in_one_line(tmp_path, content, said):
    place = benchmarks.folder(tmp_path)
    place.mkdir(parents=True)
    head = "".join(f"{name}: x\n" for name in benchmarks.FACTS)
    (place / "speed.txt").write_text(content.replace("{head}", head), errors="surrogateescape")
    found, damaged = benchmarks.load(tmp_path)
    assert not found and str(place / "speed.txt") in damaged["speed"] and said in damaged["speed"]
    assert "\n" not in damaged["speed"]


@pytest.mark.parametrize("name, program, said", [
    ("a.b", "print(1)", "a name has letters, digits, _ and -, got 'a.b'"),
    ("../x", "print(1)", "a name has"),
    ("speed", "pass", "printed nothing: nothing was kept"),
    ("speed", "print(1)\nprint(2)", "the command has several lines"),
    ("speed", "print('| a |')", "no line of dashes below its heading: nothing was kept"),
])  # fmt: skip
def test_what_no_page_could_quote_is_not_kept(tmp_path, name, program, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        keep.keep(name, [sys.executable, "-c", program], tmp_path)
    assert not list(tmp_path.rglob("*.txt"))
