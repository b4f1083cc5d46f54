"""run_local_minima.py: the three experiments end to end, their judges on tables made by hand, and a run that is killed."""
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import run_local_minima
from experiments import affine_embedding, distillation, initialization
from experiments.options import flat
from experiments.runner import InvalidInput, Results
from models import NetworkConfig
from reporting.files import read_arrays
from reporting.verdict import OUTCOMES

ROOT = Path(__file__).parents[1]
DATA = {"loss": "squared", "dataset": "gaussian", "train_size": 100, "test_size": 50, "batch_size": 25}
TINY = {**DATA, "depth": 1, "width": 32, "learning_rate": 0.05, "epochs": 60, "decay_epochs": (40,), "embedding_epochs": 3,
        "ball_points": 20, "directions": 2}  # fmt: skip


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run(experiment, out_dir=folder, quiet=True, **options)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    return run("embedding", tmp_path_factory.mktemp("embedding"), **TINY, seed=[0, 1])


# -- affine embedding


def test_the_embedding_is_a_certified_local_minimum_that_is_not_global(embedding):
    table = embedding.results.table
    assert (table["certificate/radius"] > 0).all()
    assert (table["minimum/output_error"] <= 1e-10).all() and (table["minimum/gradient_norm"] <= 1e-9).all()
    np.testing.assert_allclose(table["minimum/loss"], table["affine/loss"], rtol=1e-12)
    np.testing.assert_allclose(table["certificate/floor"], table["minimum/loss"], rtol=1e-9)
    assert (table["certificate/floor"] <= table["minimum/loss"]).all()
    # No network in the certified ball, and no training that stays in it, has a lower loss.
    assert (table["ball/lower"] == 0).all() and (table["ball/points"] == 20).all()
    assert (table["ball/smallest_rise"] >= -1e-12).all()
    stayed = table["embedding/moved"] < table["certificate/radius"]
    assert stayed.any() and (table["embedding/loss"] >= table["minimum/loss"] * (1 - 1e-9))[stayed].all()
    assert (table["hessian/smallest"] > -1e-6 * table["hessian/largest"]).all()
    assert (1.1 * table["default/loss"] < table["certificate/floor"]).all()
    verdict = embedding.verdict
    assert verdict.outcome == "refuted" and "2 of 2 networks sit at a certified suboptimal local minimum" in verdict.reason


def test_lines_from_the_minimum_start_at_its_loss_and_end_at_the_trained_network(embedding):
    for _, row in embedding.results.table.iterrows():
        arrays = embedding.results.arrays[row["config_id"]]
        assert arrays["directions/losses"].shape == (2, len(arrays["directions/distances"]))
        np.testing.assert_allclose(arrays["directions/losses"][:, 0], row["minimum/loss"], rtol=1e-12)
        inside = arrays["directions/distances"] <= row["certificate/radius"]
        assert (arrays["directions/losses"][:, inside] >= row["certificate/floor"]).all() and inside.sum() > 5
        line = arrays["line/losses"]
        np.testing.assert_allclose(line[[0, -1]], [row["minimum/loss"], row["default/loss"]], rtol=1e-6)
        assert line[arrays["line/distances"] <= row["certificate/radius"]].min() >= row["certificate/floor"]


def test_the_report_of_a_real_run_is_complete(embedding):
    text = (embedding.folder / "report.md").read_text()
    assert affine_embedding.CLAIM.sentence in text and str(embedding.verdict) in text and embedding.verdict.test in text
    for heading in affine_embedding.MEASURES.values():
        assert f"| {heading} " in text
    images = sorted(path.name for path in (embedding.folder / "figures").iterdir())
    assert images == ["loss_around_the_minimum.png", "training_from_both_starts.png"]
    for image in images:
        content = (embedding.folder / "figures" / image).read_bytes()
        assert f"(figures/{image})" in text and content.startswith(b"\x89PNG") and len(content) > 10_000
    assert len(pd.read_csv(embedding.folder / "results.csv")) == 2
    assert not list(embedding.folder.rglob("checkpoint"))
    history = embedding.results.histories[embedding.results.table["config_id"][0]]
    assert history.groupby("stage")["epoch"].max().to_dict() == {"default": 60, "embedding": 3}


def test_tensorboard_can_read_the_training(embedding):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = embedding.folder / "tensorboard"
    for name in embedding.results.table["config_id"]:
        events = EventAccumulator(str(folder / name)).Reload()
        kinds = {events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]}
        assert {"scalars", "histograms"} <= kinds
        assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
        tags = set(events.Tags()["tensors"])
        assert {"default/train/loss", "embedding/train/loss", "when_finished/certificate/radius"} <= tags
    assert "figures/loss_around_the_minimum" in EventAccumulator(str(folder / "report")).Reload().Tags()["tensors"]


def same_bits(first, second):
    for column in first.results.table.columns.drop("seconds"):
        pd.testing.assert_series_equal(first.results.table[column], second.results.table[column], check_exact=True)
    for name, arrays in first.results.arrays.items():
        assert arrays.keys() == second.results.arrays[name].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, second.results.arrays[name][key])


def test_the_same_call_gives_the_same_bits(embedding, tmp_path):
    same_bits(embedding, run("embedding", tmp_path, **TINY, seed=[0, 1]))


def test_a_person_is_not_asked_for_a_width_below_the_rank(tmp_path):
    with pytest.raises(InvalidInput, match="width"):
        run("embedding", tmp_path / "out", **{**TINY, "width": 4})
    assert not (tmp_path / "out").exists()


# -- initialization and distillation


def test_initialization(tmp_path):
    starts = ["default", "embedding", "zero"]
    options = {**DATA, "width": 16, "depth": 1, "epochs": 3, "hessian_products": 50, "initialization": starts, "seed": 0}
    report = run("initialization", tmp_path, **options)
    table = report.results.table
    assert report.verdict.outcome in OUTCOMES and table["diverged_epoch"].isna().all() and len(table) == 3
    zero = report.results.over(initialization="zero")
    # At zero only the last bias has a gradient: the hidden layers are dead before and after training.
    assert (zero["before/loss"] == 0.5).all() and (zero["before/inactive"] == zero["after/inactive"]).all()
    assert (report.results.over(initialization="embedding")["before/loss"] < zero["after/loss"].min()).all()
    assert (table["before/regularized_loss"] >= table["before/loss"]).all()


def test_kernel_scale_scales_the_start(tmp_path):
    options = {**DATA, "model": "mlp", "width": 4, "depth": 1, "epochs": 1, "hessian_products": 50, "seed": 0}
    table = run("initialization", tmp_path, **options, initialization="default", kernel_scale=[1e-6, 1.0]).results.table
    assert table["before/loss"][0] == pytest.approx(0.5, abs=1e-6) and abs(table["before/loss"][1] - 0.5) > 1e-3
    with pytest.raises(InvalidInput, match="kernel_scale must be a finite number > 0"):
        run("initialization", tmp_path, **options, kernel_scale=0.0)


def test_distillation(tmp_path):
    options = {**DATA, "model": "mlp", "width": 16, "depth": 1, "distillation_epochs": 3, "epochs": 3, "learning_rate": 0.05}
    report = run("distillation", tmp_path, **options, seed=[0, 1])
    table = report.results.table
    assert report.verdict.outcome in OUTCOMES and table["diverged_epoch"].isna().all()
    assert table["distilled/agreement"].between(0.1, 1).all() and (table["distilled/gradient_norm"] > 0).all()
    assert (table["trained/loss"] != table["distilled/loss"]).all()
    history = report.results.histories[table["config_id"][0]]
    assert history.groupby("stage")["epoch"].max().to_dict() == {"distillation": 3, "training": 3}


@pytest.mark.parametrize("experiment", ["embedding", "initialization", "distillation"])
def test_all_diverged_is_undecided_and_the_report_is_written(experiment, tmp_path):
    few = {
        "embedding": {"embedding_epochs": 1, "ball_points": 1, "directions": 1},
        "initialization": {"initialization": "default", "hessian_products": 50},
        "distillation": {"distillation_epochs": 9},
    }
    network = {"model": "mlp", "width": 16, "depth": 1, "seed": 0}
    options = {**DATA, **network, "epochs": 9, "learning_rate": 1e6, **few[experiment]}
    report = run(experiment, tmp_path, **options)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()
    assert "## Diverged" in (report.folder / "report.md").read_text()
    ends = {"embedding": "default/loss", "initialization": "after/loss", "distillation": "trained/loss"}[experiment]
    assert ends not in report.results.table  # a last loss that happens to be finite is no result


# -- judges, on tables made by hand


def judged(module, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = module.judge(Results(pd.DataFrame(rows), {}, {}))
    assert verdict.reason and verdict.test and "\n" not in str(verdict)
    return verdict


NETWORK = {"config_id": "mlp-1x16-x", **flat(NetworkConfig(width=16, depth=1))}


def certified(seed, radius, floor, loss):
    names = ("seed", "certificate/radius", "certificate/floor", "default/loss")
    return {**NETWORK, **dict(zip(names, (seed, radius, floor, loss)))}


def test_judge_of_the_embedding():
    rows = [certified(0, 0.5, 1.0, 0.01), certified(1, 0.25, 1.0, 0.01), certified(2, 0.1, 1.0, 0.95)]
    verdict = judged(affine_embedding, rows)
    assert verdict.outcome == "refuted" and "2 of 3 networks" in verdict.reason
    assert "0.25" in verdict.reason and "100 times lower (95 % interval 100 to 100)" in verdict.reason
    one = judged(affine_embedding, [certified(0, 0.5, 1.0, 0.01)])  # the proof needs no second seed, an interval does
    assert one.outcome == "refuted" and "interval" not in one.reason
    assert judged(affine_embedding, [certified(0, 0.0, 1.0, 0.01)] * 2).outcome == "undecided"  # nothing is certified
    assert judged(affine_embedding, [certified(0, 0.5, 1.0, 0.95)] * 2).outcome == "undecided"  # nearly global
    assert judged(affine_embedding, [certified(0, 0.5, 1.0, np.nan)] * 2).outcome == "undecided"  # all diverged
    assert judged(affine_embedding, [certified(0, 0.5, 1.0, 0.0), certified(1, 0.5, 1.0, 0.0)]).outcome == "refuted"


def started(name, losses):
    return [{**NETWORK, "initialization": name, "seed": i, "after/loss": loss} for i, loss in enumerate(losses)]


def test_judge_of_initialization():
    default = started("default", [0.10, 0.11, 0.09])
    verdict = judged(initialization, default + started("zero", [0.5, 0.5, 0.5]) + started("equal", [0.10, 0.11, 0.091]))
    assert verdict.outcome == "refuted" and "1 of 2 starts" in verdict.reason and "zero" in verdict.reason
    assert judged(initialization, default + started("zero", [0.1, 0.9, 0.05])).outcome == "undecided"  # too far spread
    assert judged(initialization, default + started("zero", [0.105, 0.115, 0.095])).outcome == "undecided"  # nearly as low
    assert judged(initialization, default + started("zero", [0.05, 0.06, 0.04])).outcome == "undecided"  # lower
    assert judged(initialization, default).outcome == "undecided"
    assert judged(initialization, default[:1] + started("zero", [0.5])).outcome == "undecided"  # one seed
    diverged = judged(initialization, started("default", [np.nan] * 3) + started("zero", [0.5] * 3))
    assert diverged.outcome == "undecided"
    assert judged(initialization, started("default", [np.nan] * 2) + started("zero", [np.nan] * 2)).outcome == "undecided"
    missing = [{k: v for k, v in row.items() if k != "after/loss"} for row in default + started("zero", [0.5] * 3)]
    assert judged(initialization, missing).outcome == "undecided"  # all diverged: no such measure


def test_judge_of_initialization_compares_only_what_differs_in_the_start():
    """A second axis, such as the learning rate, must neither end in an error nor be mixed into the pairs."""
    rows = [
        {**row, "learning_rate": rate}
        for rate in (0.1, 0.2)
        for row in started("default", [0.10, 0.11, 0.09]) + started("zero", [0.5, 0.5, 0.5])
    ]
    assert judged(initialization, rows).outcome == "refuted"


def distilled(before, after, **changes):
    return [
        {**NETWORK, **changes, "seed": i, "distilled/loss": b, "trained/loss": a}
        for i, (b, a) in enumerate(zip(before, after))
    ]


def test_judge_of_distillation():
    low, high = [0.10, 0.11, 0.09], [0.5, 0.52, 0.49]
    assert judged(distillation, distilled(high, low)).outcome == "refuted"
    assert judged(distillation, distilled(low, low)).outcome == "undecided"
    assert judged(distillation, distilled(high, low) + distilled(low, high, model="resnet")).outcome == "undecided"
    assert judged(distillation, distilled(high[:1], low[:1])).outcome == "undecided"
    assert judged(distillation, distilled(high, [np.nan] * 3)).outcome == "undecided"
    assert judged(distillation, distilled([np.nan] * 2, [np.nan] * 2)).outcome == "undecided"
    assert judged(distillation, [{**NETWORK, "seed": 0, "diverged_epoch": 1}]).outcome == "undecided"
    rates = distilled(high, low, learning_rate=0.1) + distilled(low, high, learning_rate=0.2)
    verdict = judged(distillation, rates)  # a second axis is another setting, not more seeds
    assert verdict.outcome == "undecided" and verdict.reason.count("over 3 seeds") == 2


# -- as a process


def start(folder, *arguments):
    command = [sys.executable, "run_local_minima.py", f"--out_dir={folder}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(process, folder, stage, delay):
    """SIGKILL the process some seconds after a stage's first checkpoint; returns the epochs that the checkpoint holds."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.rglob(f"checkpoint/{stage}.npz"):
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return read_arrays(path)[1]["rows"]
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no checkpoint of stage {stage} before the end: {process.communicate()[1][-2000:]}")


@pytest.mark.slow  # three starts of TensorFlow; test_runner.py has the same without a process
def test_a_killed_process_goes_on_and_ends_in_the_same_bits(tmp_path):
    options = {**TINY, "embedding_epochs": 200, "epochs": 400, "seed": 0}
    whole = run("embedding", tmp_path / "whole", **options)
    text = [f"--{k}={'-'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in options.items()]
    folder = tmp_path / "killed"
    first = kill_at(start(folder, *text), folder, "embedding", 0.0)
    second = kill_at(start(folder, *text), folder, "default", 0.3)
    assert 1 <= len(first) < 200 and 1 <= len(second) < 400, "killed too late for the test to mean anything"
    assert not list(folder.rglob("result.json"))
    resumed = run("embedding", folder, **options)
    same_bits(whole, resumed)
    (name,) = whole.results.histories
    curves = [report.results.histories[name] for report in (whole, resumed)]
    pd.testing.assert_frame_equal(*(curve.drop(columns="seconds") for curve in curves), check_exact=True)
    # The epochs before each kill were not trained again: the seconds that they took are those of the killed processes.
    for stage, rows in (("embedding", first), ("default", second)):
        kept = curves[1][curves[1]["stage"] == stage]["seconds"].tolist()[: len(rows)]
        np.testing.assert_allclose(kept, [row["seconds"] for row in rows], rtol=1e-12)


def test_bad_input_is_one_line_and_status_1(tmp_path):
    process = start(tmp_path / "out", "--model=mpl")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1 and out == ""
    assert err.startswith("error: unknown model 'mpl' (did you mean mlp?)") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
