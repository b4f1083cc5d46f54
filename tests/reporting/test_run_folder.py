"""reporting/run_folder.py: what is kept comes back to the bit, damage is named, and TensorBoard gets what it needs."""
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from reporting import run_folder
from reporting.run_folder import ForeignCheckpoint, Run

FIELDS = {"model": "mlp", "width": 8, "widths": (4, 2), "depth": None, "rate": 1 / 3, "seed": 0}
MEASURES = {
    "loss": 0.1 + 0.2,
    "nan": np.nan,
    "inf": np.float32("inf"),
    "count": np.int64(3),
    "done": True,
    "none": None,
}


def finished(folder, name="a", measures=MEASURES, epochs=0, **arrays):
    run = Run(folder, name, {**FIELDS, "seed": len(name)})
    for epoch in range(1, epochs + 1):
        run.epoch("training", {"stage": "training", "epoch": epoch, "train/loss": 1 / epoch, "norm/layer": 2.0}, epochs)
    run.finish(measures, arrays, seconds=1.5)
    run.close()
    return run


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
    assert {"tensorflow", "keras", "numpy", "python", "threads"} <= set(content["versions"])
    assert content["versions"]["arithmetic"] == str(run_folder.ARITHMETIC)
    assert content["config"]["widths"] == [4, 2]


def test_no_result_before_it_is_finished(tmp_path):
    run = Run(tmp_path, "a", FIELDS)
    run.save_checkpoint("training", {"arrays": {"w": np.ones(3)}, "rows": [{"epoch": 1}]})
    assert run.result() is None and run.read_history().empty
    state = Run(tmp_path, "a", FIELDS).load_checkpoint("training")
    np.testing.assert_array_equal(state["arrays"]["w"], np.ones(3))
    run.finish({"loss": 1.0}, {}, 0.0)
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


class Listener:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_a_checkpoint_of_other_versions_is_used_and_said(tmp_path, monkeypatch):
    state = {"arrays": {"w": np.ones(3)}, "rows": []}
    now = run_folder.versions()
    for before, said in (
        (now, None),
        ({**now, "git": "another"}, None),
        ({**now, "keras": "3.0", "threads": "64"}, "keras 3.0, threads 64"),
        ({}, "arithmetic 1"),  # of a time when checkpoints did not say
    ):
        monkeypatch.setattr(run_folder, "versions", lambda before=before: before)
        Run(tmp_path, "a", FIELDS).save_checkpoint("training", state)
        monkeypatch.setattr(run_folder, "versions", lambda: now)
        listener = Listener()
        found = Run(tmp_path, "a", FIELDS, progress=listener).load_checkpoint("training")
        assert set(found) == {"arrays", "rows"}
        assert [line.split(" with ")[1].split(":")[0] for line in listener.lines] == ([said] if said else [])


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


def test_a_stage_is_used_once_and_is_one_of_the_experiments(tmp_path):
    run = Run(tmp_path, "a", FIELDS, knows_stage={"one", "two"}.__contains__)
    run.begin("one")
    run.begin("two")
    with pytest.raises(
        ValueError, match="stage 'one' was used before: the second would take up the first's checkpoint"
    ):
        run.begin("one")
    with pytest.raises(ValueError, match="stage 'three' is not among the stages that the experiment declares"):
        run.begin("three")


def test_event_files_hold_scalars_histograms_and_hparams(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorflow import make_ndarray

    run = Run(tmp_path, "a", FIELDS)
    for epoch in (1, 2):
        run.epoch(
            "training",
            {"stage": "training", "epoch": epoch, "train/loss": 1 / epoch, "norm/all": 4.0, "norm/x": 1.0},
            2,
        )
    run.histograms("training", 2, {"dense/kernel": np.arange(100.0), "diverged": np.array([np.nan])})
    run.finish({"final": 0.25, "done": True}, {"array": np.ones(3)}, 1.0)
    run.close()
    events = EventAccumulator(str(run.events), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    assert {
        "training/train/loss",
        "training/norm/all",
        "when_finished/final",
        "training/dense/kernel",
    } <= set(tags)
    assert not {"training/norm/x", "training/diverged", "when_finished/done", "training/stage"} & set(tags)
    plugin = lambda tag: events.SummaryMetadata(tag).plugin_data.plugin_name  # noqa: E731
    for tag, kind in (
        ("training/train/loss", "scalars"),
        ("training/dense/kernel", "histograms"),
    ):
        assert plugin(tag) == kind
    losses = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors("training/train/loss")]
    assert losses == [(1, 1.0), (2, 0.5)]
    data = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    found = {name: value.WhichOneof("kind") for name, value in data.session_start_info.hparams.items()}
    assert found["rate"] == "number_value" and found["model"] == "string_value" and "width" in found
    assert data.session_start_info.hparams["rate"].number_value == 1 / 3
