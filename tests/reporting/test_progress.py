"""reporting/progress.py: bars on a terminal, plain lines elsewhere."""
import io

from reporting.progress import LINES, Progress, print_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(3, stream)
    progress.skip()
    progress.start("a")
    progress.epoch("training", {"epoch": 1, "train/loss": 1.0}, 5)
    progress.done("a", 2.0)
    progress.done("b", 1.0)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["[1/2] a: 2.0 s", "[2/2] b: 1.0 s"]
    assert lines[1].endswith("about 0 s left")


def test_bars_over_the_grid_and_over_epochs_on_a_terminal():
    stream = Terminal()
    progress = Progress(2, stream)
    progress.start("first-config")
    for epoch in (1, 2):
        progress.epoch("training", {"epoch": epoch, "train/loss": 1 / epoch}, 2)
    progress.epoch("again", {"epoch": 1, "train/loss": 0.125}, 4)
    progress.say("a line between the bars")
    progress.done("first-config", 1.0)
    progress.close()
    text = stream.getvalue()
    for part in ("first-config", "1/2", "training", "again", "loss=0.125", "a line between the bars\n"):
        assert part in text, part


def test_plain_lines_say_what_runs_beside_and_what_failed():
    stream = io.StringIO()
    progress = Progress(4, stream)
    progress.others({"a": "training 3/9 epochs, loss 0.5", "b": "begins", "c": "begins"})
    progress.done("a", 2.0)
    progress.done("b", None)
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("[1/4] a: 2.0 s, about ") and first.endswith(" s left, 2 running")
    assert second.startswith("[2/4] b: failed, about ") and second.endswith(" s left, 1 running, 1 failed")


def test_a_line_for_each_config_of_several_workers_on_a_terminal():
    stream = Terminal()
    progress = Progress(40, stream)
    progress.others({"first": "training 3/9 epochs, loss 0.5", "second": "begins"})
    progress.done("first", 2.0)
    progress.done("third", None)
    text = stream.getvalue()
    for part in ("first: training 3/9 epochs, loss 0.5", "second: begins", "2 running, 0 failed", "1 failed"):
        assert part in text, part
    progress.others({f"config {i:02d}": "begins" for i in range(LINES + 5)})
    progress.close()
    text = stream.getvalue()
    assert f"config {LINES - 2:02d}: begins" in text and f"config {LINES - 1:02d}" not in text and "and 6 more" in text


def test_a_line_from_elsewhere_stands_above_the_bars():
    stream = Terminal()
    progress = Progress(2, stream)
    print_line("Ray: 2 on this machine.", stream)
    progress.close()
    assert "\rRay: 2 on this machine.\n" in stream.getvalue()  # and not behind a bar
    plain = io.StringIO()
    print_line("alone", plain)
    assert plain.getvalue() == "alone\n"
