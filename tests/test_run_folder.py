"""reporting/: files are whole or absent, damage is seen, tables and reports say what was measured, TensorBoard has it."""
import errno
import io
import itertools
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import t_interval
from reporting import figures, files, report, tables
from reporting.progress import Progress
from reporting.run_folder import ForeignCheckpoint, Run
from reporting.verdict import Claim, Verdict

FIELDS = {"model": "mlp", "width": 8, "widths": (4, 2), "depth": None, "rate": 1 / 3, "seed": 0}
MEASURES = {"loss": 0.1 + 0.2, "nan": np.nan, "inf": np.float32("inf"), "count": np.int64(3), "done": True, "none": None}


def finished(folder, name="a", measures=MEASURES, epochs=0, **arrays):
    run = Run(folder, name, {**FIELDS, "seed": len(name)})
    for epoch in range(1, epochs + 1):
        run.epoch("training", {"stage": "training", "epoch": epoch, "train/loss": 1 / epoch, "norm/layer": 2.0}, epochs)
    run.finish({**measures, **arrays}, seconds=1.5)
    run.close()
    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- files


def test_atomic_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a" / "x.txt"
    with files.atomic(path) as stream:
        stream.write("old")
    with pytest.raises(RuntimeError), files.atomic(path) as stream:
        stream.write("new and long" * 10_000)
        raise RuntimeError
    assert path.read_text() == "old" and names(path.parent) == ["x.txt"]


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1} and names(tmp_path) == ["x.json"]


def test_files_can_be_read_by_others(tmp_path):
    files.write_json(tmp_path / "x.json", {})
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644


def test_json_keeps_numbers_to_the_bit(tmp_path):
    numbers = {"a": 0.1 + 0.2, "b": 5e-324, "c": np.float64(1) / 3, "d": 2**60, "e": [np.float32(0.1)], "f": "ü"}
    files.write_json(tmp_path / "x.json", numbers)
    assert files.read_json(tmp_path / "x.json") == files.plain(numbers)
    assert files.plain(numbers)["e"] == [float(np.float32(0.1))]


def test_every_truncated_or_changed_json_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"loss": 1.25, "values": [1, 2, 3]})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            files.read_json(path)
    for place in range(len(whole)):
        for bit in (0, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            try:
                content = files.read_json(path)
            except ValueError:
                continue
            assert content == {"loss": 1.25, "values": [1, 2, 3]}, place  # white space changed, at most
    for text in ("[1]", "3", "null", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="is damaged"):
            files.read_json(path)


def test_arrays_keep_bits_and_metadata_and_damage_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"a/b": np.random.default_rng(0).standard_normal((3, 4)), "n": np.array([np.nan, 1], np.float32)}
    files.write_arrays(path, arrays, stage="s", rows=[{"loss": np.pi}])
    again, meta = files.read_arrays(path)
    assert meta == {"stage": "s", "rows": [{"loss": np.pi}]} and set(again) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype
    whole = path.read_bytes()
    position = whole.index(arrays["a/b"].tobytes()) + 5
    for damaged in (whole[:-100], whole[:50], b"", whole[:position] + b"\x00\xff" + whole[position + 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            files.read_arrays(path)


# -- the run folder


def test_a_finished_config_comes_back_to_the_bit_and_nan_as_nan(tmp_path):
    array = np.random.default_rng(1).standard_normal((2, 3))
    finished(tmp_path, epochs=2, curve=array)
    run = Run(tmp_path, "a", {**FIELDS, "seed": 1})
    measures, arrays, seconds = run.result()
    assert measures["loss"] == 0.1 + 0.2 and measures["count"] == 3 and measures["done"] is True and seconds == 1.5
    assert all(np.isnan(measures[name]) for name in ("nan", "inf", "none"))
    np.testing.assert_array_equal(arrays["curve"], array)
    assert run.read_history()["train/loss"].tolist() == [1.0, 0.5]
    content = json.loads((run.folder / "result.json").read_text())
    assert {"tensorflow", "keras", "numpy", "python"} <= set(content["versions"])
    assert content["config"]["widths"] == [4, 2]


def test_no_result_before_it_is_finished(tmp_path):
    run = Run(tmp_path, "a", FIELDS)
    run.save_checkpoint("training", {"arrays": {"w": np.ones(3)}, "rows": [{"epoch": 1}]})
    assert run.result() is None and run.read_history().empty
    state = Run(tmp_path, "a", FIELDS).load_checkpoint("training")
    np.testing.assert_array_equal(state["arrays"]["w"], np.ones(3))
    run.finish({"loss": 1.0}, 0.0)
    run.close()
    assert run.result()[0] == {"loss": 1.0} and not (run.folder / "checkpoint").exists()


def damage(folder, how):
    """Damage a finished config's folder; returns the file that a person must be told of."""
    result, arrays, history = (folder / name for name in ("result.json", "arrays.npz", "history.csv"))
    if how == "truncated":
        result.write_bytes(result.read_bytes()[:-20])
    elif how == "flipped":
        text = result.read_text()
        result.write_text(text.replace('loss": 0.3', 'loss": 0.2', 1))
        assert result.read_text() != text
    elif how == "copied":
        result.write_bytes((folder.parent / "bb" / "result.json").read_bytes())
    elif how == "arrays missing":
        arrays.unlink()
        return arrays
    elif how == "arrays truncated":
        arrays.write_bytes(arrays.read_bytes()[:100])
        return arrays
    elif how == "arrays copied":
        arrays.write_bytes((folder.parent / "bb" / "arrays.npz").read_bytes())
        return arrays
    elif how == "history missing":
        history.unlink()
        return history
    elif how == "history truncated":
        history.write_bytes(history.read_bytes()[:-4])
        return history
    return result


DAMAGES = ("truncated", "flipped", "copied", "arrays missing", "arrays truncated", "arrays copied")
DAMAGES = (*DAMAGES, "history missing", "history truncated")


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_reported_by_name(tmp_path, how):
    finished(tmp_path, "bb", epochs=1, curve=np.zeros(2))
    run = finished(tmp_path, epochs=1, curve=np.ones(2))
    path = damage(run.folder, how)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run.result()


def test_clear_forgets_this_config_only(tmp_path):
    run, other = finished(tmp_path, curve=np.ones(2)), finished(tmp_path, "bb")
    run.clear()
    assert run.result() is None and not run.folder.exists() and not run.events.exists()
    assert other.result()[0]["count"] == 3


def test_checkpoints_of_others_are_refused_and_damaged_ones_said(tmp_path):
    said = []
    run = Run(tmp_path, "a", FIELDS, progress=SimpleNamespace(say=said.append))
    run.save_checkpoint("one", {"arrays": {"w": np.ones(3)}, "rows": []})
    path = run.folder / "checkpoint" / "one.npz"
    other = path.with_name("two.npz")  # of another stage
    other.write_bytes(path.read_bytes())
    with pytest.raises(ForeignCheckpoint, match=re.escape(str(other))):
        run.load_checkpoint("two")
    assert other.exists()
    path.write_bytes(path.read_bytes()[:-30])
    assert run.load_checkpoint("one") is None
    assert len(said) == 1 and str(path) in said[0] and "starts again" in said[0]


# -- TensorBoard


def test_event_files_hold_scalars_histograms_images_and_hparams(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorflow import make_ndarray

    run = Run(tmp_path, "a", FIELDS)
    for epoch in (1, 2):
        run.epoch("training", {"stage": "training", "epoch": epoch, "train/loss": 1 / epoch, "norm/all": 4.0, "norm/x": 1.0}, 2)
    run.histograms("training", 2, {"dense/kernel": np.arange(100.0), "diverged": np.array([np.nan])})
    run.image("picture", figures.new()[0])
    run.finish({"final": 0.25, "done": True, "array": np.ones(3)}, 1.0)
    run.close()
    events = EventAccumulator(str(run.events), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    assert {"training/train/loss", "training/norm/all", "when_finished/final", "training/dense/kernel", "picture"} <= set(tags)
    assert not {"training/norm/x", "training/diverged", "when_finished/done", "training/stage"} & set(tags)
    plugin = lambda tag: events.SummaryMetadata(tag).plugin_data.plugin_name  # noqa: E731
    for tag, kind in (("training/train/loss", "scalars"), ("training/dense/kernel", "histograms"), ("picture", "images")):
        assert plugin(tag) == kind
    losses = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors("training/train/loss")]
    assert losses == [(1, 1.0), (2, 0.5)]
    data = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    found = {name: value.WhichOneof("kind") for name, value in data.session_start_info.hparams.items()}
    assert found["rate"] == "number_value" and found["model"] == "string_value" and "width" in found
    assert data.session_start_info.hparams["rate"].number_value == 1 / 3


# -- tables


def table():
    rows = [
        {"config_id": f"{width}-{seed}", "model": "mlp", "width": width, "depth": None, "widths": (), "seed": seed,
         "loss": width * (1 + seed), "odd": np.nan if seed == 1 else 2.0, "diverged_epoch": np.nan, "seconds": 1.0}
        for width in (8, 16)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_has_a_row_for_each_config_with_t_intervals_over_its_seeds():
    summary = tables.summary(table(), ["model", "width", "depth", "widths", "seed"], {"loss": "Loss", "odd": "Odd", "no": "No"})
    assert list(summary.columns) == ["width", "seeds", "Loss", "Odd"] and summary["seeds"].tolist() == [3, 3]
    interval = t_interval([8, 16, 24])
    assert summary["Loss"][0] == f"16 [{interval.low:.4g}, {interval.high:.4g}]"
    assert summary["Odd"][0] == "2 [2, 2] (1 missing)"


def test_summary_of_configs_that_differ_in_nothing_names_the_model():
    one = table().iloc[:1]
    assert tables.summary(one, ["model", "width", "seed"], {"loss": "Loss"}).to_dict("records") == [
        {"model": "mlp", "seeds": 1, "Loss": "8"}
    ]


def test_tuples_and_missing_values_make_groups_of_their_own():
    frame = table()
    frame["widths"] = [(8,), (8,), (4, 4), (4, 4), (), ()]
    summary = tables.summary(frame, ["model", "widths", "seed"], {"loss": "Loss"})
    assert summary["widths"].tolist() == ["8", "4-4", "-"]
    frame["depth"] = [None, None, None, 2, 2, 2]
    summary = tables.summary(frame, ["depth", "seed"], {"loss": "Loss"})
    assert summary["seeds"].tolist() == [3, 3] and summary["depth"].tolist() == ["-", 2]
    each = tables.seeds(frame.assign(seconds=1.0), ["widths", "seed"], {})
    assert each["widths"].tolist() == ["8", "8", "4-4", "4-4", "-", "-"]


def test_numbers_that_are_all_missing_are_a_dash():
    assert tables.with_interval([np.nan, None]) == "-"
    assert tables.with_interval([np.nan, 1 / 3]) == "0.3333 (1 missing)"
    assert tables.number(123456.0) == "1.235e+05"


def test_markdown_keeps_its_columns():
    text = tables.markdown(pd.DataFrame({"a|b": ["x|y"], "c": [1]}))
    assert text.splitlines() == ["| a\\|b | c |", "| --- | --- |", "| x\\|y | 1 |"]


# -- the report


def reported(folder, frame, capsys, quiet=False):
    drawn = {"curve": figures.new()[0]}
    claim = Claim("Everything is fine.", source="Nobody 2020")
    experiment = SimpleNamespace(CLAIM=claim, MEASURES={"loss": "final loss"}, figures=lambda results: drawn)
    results = SimpleNamespace(table=frame, arrays={}, histories={})
    verdict = Verdict("refuted", "It is 3 times worse.", "A t-test.")
    names = {"script": "run_x", "name": "first", "fields": ["model", "width", "depth", "widths", "seed"]}
    flags = ["--experiment=first", "--width=8,16"]
    report.write_report(folder, experiment, results, verdict, **names, flags=flags, seconds=2.0, quiet=quiet)
    return (folder / "report.md").read_text(), capsys.readouterr()


def test_report_has_claim_verdict_test_table_figures_and_the_command(tmp_path, capsys):
    folder = tmp_path / "my results" / "first"
    text, printed = reported(folder, table(), capsys)
    for part in (
        "# run_x: first",
        "**Claim.** Everything is fine. (Nobody 2020)",
        "**Verdict.** REFUTED: It is 3 times worse.",
        "**Test.** A t-test.",
        "| width | seeds | final loss |",
        f"| 8 | 3 | {tables.with_interval([8, 16, 24])} |",
        "![curve](figures/curve.png)",
        f"`python run_x.py --flagfile='{folder}/flags.cfg'`",
        f"tensorboard --logdir='{folder}/tensorboard'",
        "tensorflow 2.",
    ):
        assert part in text, part
    assert "Diverged" not in text
    assert (folder / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "flags.cfg").read_text() == "--experiment=first\n--width=8,16\n"
    for part in ("Everything is fine.", "REFUTED: It is 3 times worse.", "A t-test.", str(folder / "report.md"), "final loss"):
        assert part in printed.out
    assert printed.err == ""


def test_diverged_configs_are_counted_and_named(tmp_path, capsys):
    frame = table()
    frame.loc[[1, 4], "diverged_epoch"] = [3, 7]
    text, printed = reported(tmp_path, frame, capsys)
    assert "## Diverged" in text and "| 8-1 | 3 |" in text and "| 16-1 | 7 |" in text and "8-0" not in text
    assert "2 configs diverged" in printed.out


def test_quiet_prints_nothing(tmp_path, capsys):
    _, printed = reported(tmp_path, table(), capsys, quiet=True)
    assert printed.out == printed.err == ""


def test_csv_has_every_finished_config_of_the_folder_but_no_damaged_or_copied_one(tmp_path):
    finished(tmp_path, "a", {"loss": 1.0})
    finished(tmp_path, "bb", {"loss": 2.0, "extra": 5.0})
    damaged = finished(tmp_path, "ccc", {"loss": 3.0}).folder / "result.json"
    damaged.write_text(damaged.read_text().replace("3.0", "4.0"))
    (tmp_path / "runs" / "dddd").mkdir()
    (tmp_path / "runs" / "dddd" / "result.json").write_bytes((tmp_path / "runs" / "bb" / "result.json").read_bytes())
    now = pd.DataFrame([{"config_id": "a", **FIELDS, "loss": 1.0, "seconds": 1.5}])
    everything = report.everything(tmp_path, now)
    assert everything["config_id"].tolist() == ["a", "bb"] and everything["loss"].tolist() == [1.0, 2.0]
    assert everything["widths"].tolist() == [(4, 2), (4, 2)]  # one way to write a value


def test_verdicts_are_of_three_kinds():
    assert str(Verdict("undecided", "Nothing moved.", "none")) == "UNDECIDED: Nothing moved."
    with pytest.raises(ValueError, match="one of supported, refuted, undecided, got 'guilty'"):
        Verdict("guilty", "", "")


# -- progress


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


def test_interval_lines_have_no_bars_for_a_single_seed():
    _, axes = figures.new()
    intervals = [t_interval([1.0, 3.0]), t_interval([2.0])]
    figures.interval_line(axes[0, 0], [1, 2], intervals, label="x", **next(figures.styles()))
    bars = axes[0, 0].containers[0].lines[2][0].get_segments()
    assert bars[0][1][1] > 2 > bars[0][0][1] and bars[1][0][1] == bars[1][1][1] == 2.0


def test_line_styles_differ_without_colour():
    first = list(itertools.islice(figures.styles(), 7))
    assert len({style["marker"] for style in first}) == len({style["color"] for style in first}) == 7
    longer = [tuple(style.values()) for style in itertools.islice(figures.styles(), 28)]
    assert len(set(longer)) == 28
