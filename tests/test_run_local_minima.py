"""run_local_minima.py end to end: affine minimum, initialization and distillation, and a process that is killed.

depth_width, elimination and sharpness have files of their own beside this one.
"""
import shutil
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
from harness.grid import identifying
from harness.runner import InvalidInput
from reporting.files import read_arrays, read_json, write_json
from reporting.run_folder import threads_of_process

ROOT = Path(__file__).parents[1]
DATA = {"loss": "squared", "dataset": "gaussian", "train_size": 100, "test_size": 50, "batch_size": 25}
TINY = {
    **DATA, "depth": 1, "width": 32, "learning_rate": 0.05, "epochs": 60, "decay_epochs": (40,), "embedding_epochs": 3,
    "ball_points": 20, "directions": 2, "escape_rates": (0.5, 1.5, 1000.0), "rescalings": (0.25, 4.0),
}  # fmt: skip


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run(experiment, out_dir=folder, quiet=True, **options)


@pytest.fixture(scope="module")
def minimum(tmp_path_factory):
    return run("affine_minimum", tmp_path_factory.mktemp("affine_minimum"), **TINY, seed=[0, 1])


# -- affine minimum


def test_the_embedding_is_a_certified_local_minimum_that_is_not_global(minimum):
    table = minimum.results.table
    assert (table["certificate/radius"] > 0).all()
    assert (table["minimum/output_error"] <= 1e-10).all() and (table["minimum/gradient_norm"] <= 1e-9).all()
    np.testing.assert_allclose(table["minimum/train/loss"], table["affine/loss"], rtol=1e-12)
    np.testing.assert_allclose(table["certificate/floor"], table["minimum/train/loss"], rtol=1e-9)
    assert (table["certificate/floor"] <= table["minimum/train/loss"]).all()
    # No network in the certified ball, and no training that stays in it, has a lower loss.
    assert (table["ball/lower"] == 0).all() and (table["ball/points"] == 20).all()
    assert (table["ball/smallest_rise"] >= -1e-12).all()
    stayed = table["embedding/moved"] < table["certificate/radius"]
    lowest = table["minimum/train/loss"] * (1 - 1e-9)
    assert stayed.any() and (table["embedding/train/loss"] >= lowest)[stayed].all()
    assert (table["hessian/smallest"] > -1e-6 * table["hessian/largest"]).all()
    assert (1.1 * table["default/train/loss"] < table["certificate/floor"]).all()
    verdict = minimum.verdict
    assert verdict.outcome == "refuted"
    assert "2 of 2 networks sit at a certified suboptimal local minimum" in verdict.reason
    assert "(95.5 % interval over 2 seeds)" in verdict.reason  # of one look, which has 90 % of the budget


def test_training_from_the_minimum_ends_at_a_stationary_point_and_says_its_rate(minimum):
    table = minimum.results.table
    assert (table["embedding/learning_rate"] < 0.05).all() and (table["embedding/gradient_norm"] > 0).all()
    assert (table["embedding/smallest"] > -1e-3 * table["embedding/largest"]).all()
    text = (minimum.folder / "report.md").read_text()
    assert "| learning rate of training from the minimum | loss after training from it at that rate |" in text


def test_the_step_size_decides_whether_sgd_stays_at_the_certified_minimum(minimum):
    """Gradient descent stays below 2 / largest eigenvalue and leaves above; minibatches have a threshold of their own.
    """
    table = minimum.results.table
    np.testing.assert_allclose(table["escape/full_batch/unit"], 2 / table["hessian/largest"])
    assert (table["escape/full_batch/stays"] == 0.5).all() and (table["escape/full_batch/leaves"] == 1.5).all()
    assert (table["escape/minibatch/leaves"] <= 1000).all()
    assert [len(arrays["escape/full_batch/farthest"]) for arrays in minimum.results.arrays.values()] == [2, 2]
    assert [len(arrays["escape/minibatch/farthest"]) for arrays in minimum.results.arrays.values()] == [3, 3]
    for _, row in table.iterrows():
        arrays = minimum.results.arrays[row["config_id"]]
        np.testing.assert_array_equal(arrays["escape/rates"], [0.5, 1.5, 1000])
        assert 0 < arrays["escape/full_batch/farthest"][0] < 1 < arrays["escape/full_batch/farthest"][1]
        stayed = arrays["escape/full_batch/losses"][0]
        assert row["certificate/floor"] <= stayed <= 1.02 * row["minimum/train/loss"]  # nothing lower in the ball
    assert "with all images a step, 2 of 2 leave, from 1.5 times 2 / eigenvalue on" in minimum.verdict.reason


def test_flatter_networks_of_the_same_function_are_certified_too(minimum):
    """With hidden activations four times as large the curvature grows; with a quarter of them it falls."""
    table = minimum.results.table
    assert (table["rescaled/4/largest"] > table["hessian/largest"]).all()
    assert (table["rescaled/0.25/largest"] < table["hessian/largest"]).all()
    assert (table["flattest/factor"] == 0.25).all() and (table["flattest/radius"] > 0).all()
    np.testing.assert_array_equal(table["flattest/largest"], table["rescaled/0.25/largest"])
    np.testing.assert_allclose(table["escape/flattest/unit"], 2 / table["flattest/largest"])


def test_the_barrier_is_the_highest_rise_on_the_line(minimum):
    for _, row in minimum.results.table.iterrows():
        arrays = minimum.results.arrays[row["config_id"]]
        assert row["line/barrier"] == pytest.approx(arrays["line/losses"].max() - row["minimum/train/loss"])
        assert 0 <= row["line/barrier_distance"] <= arrays["line/distances"][-1]


@pytest.mark.parametrize(("given", "message"), [
    ({"escape_rates": (0.5, 0.0)}, "escape_rates must be finite numbers above 0"),
    ({"escape_rates": (0.5, 0.5)}, "none of them twice"),
    ({"rescalings": (-1.0,)}, "rescalings must be finite numbers above 0"),
    ({"escape_steps": 0}, "escape_steps must be at least 1"),
])  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run("affine_minimum", tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


def test_configs_of_earlier_versions_keep_their_ids():
    config = run_local_minima.EXPERIMENTS["affine_minimum"].config()
    assert identifying(config).keys().isdisjoint({"escape_rates", "escape_steps", "rescalings"})


def test_lines_from_the_minimum_start_at_its_loss_and_end_at_the_trained_network(minimum):
    for _, row in minimum.results.table.iterrows():
        arrays = minimum.results.arrays[row["config_id"]]
        assert arrays["directions/losses"].shape == (2, len(arrays["directions/distances"]))
        np.testing.assert_allclose(arrays["directions/losses"][:, 0], row["minimum/train/loss"], rtol=1e-12)
        inside = arrays["directions/distances"] <= row["certificate/radius"]
        assert (arrays["directions/losses"][:, inside] >= row["certificate/floor"]).all() and inside.sum() > 5
        line, ends = arrays["line/losses"], [row["minimum/train/loss"], row["default/train/loss"]]
        np.testing.assert_allclose(line[[0, -1]], ends, rtol=1e-6)
        assert line[arrays["line/distances"] <= row["certificate/radius"]].min() >= row["certificate/floor"]


def test_the_report_of_a_real_run_is_complete(minimum):
    experiment, text = run_local_minima.EXPERIMENTS["affine_minimum"], (minimum.folder / "report.md").read_text()
    assert experiment.claim.sentence in text and str(minimum.verdict) in text and minimum.verdict.test in text
    for heading in experiment.headings.values():
        assert f"| {heading} " in text
    images = sorted(path.name for path in (minimum.folder / "figures").iterdir())
    assert images == ["leaving_the_minimum.png", "loss_around_the_minimum.png", "training_from_both_starts.png"]
    for image in images:
        content = (minimum.folder / "figures" / image).read_bytes()
        assert f"(figures/{image})" in text and content.startswith(b"\x89PNG") and len(content) > 10_000
    assert len(pd.read_csv(minimum.folder / "results.csv")) == 2
    assert not list(minimum.folder.rglob("checkpoint"))
    history = minimum.results.histories[minimum.results.table["config_id"][0]]
    assert history.groupby("stage")["epoch"].max().to_dict() == {"default": 60, "embedding": 3}


def test_tensorboard_can_read_the_training(minimum):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = minimum.folder / "tensorboard"
    for name in minimum.results.table["config_id"]:
        events = EventAccumulator(str(folder / name)).Reload()
        kinds = {events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]}
        assert {"scalars", "histograms"} <= kinds
        assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
        tags = set(events.Tags()["tensors"])
        assert {"default/train/loss", "embedding/train/loss", "when_finished/certificate/radius"} <= tags
    figures = EventAccumulator(str(folder / "report")).Reload().Tags()["tensors"]
    assert "figures/loss_around_the_minimum" in figures


def same_bits(first, second):
    """The same measures and arrays, to the bit, of every config that the second has."""
    rows = first.results.table.set_index("config_id").loc[second.results.table["config_id"]].reset_index()
    for column in rows.columns.drop("seconds"):
        pd.testing.assert_series_equal(rows[column], second.results.table[column], check_exact=True)
    for name, arrays in second.results.arrays.items():
        assert arrays.keys() == first.results.arrays[name].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, first.results.arrays[name][key])


@pytest.mark.slow
def test_a_config_gives_the_same_bits_whatever_ran_before_it(minimum, tmp_path):
    same_bits(minimum, run("affine_minimum", tmp_path, **TINY, seed=1))


def test_results_under_earlier_names_are_read_and_not_computed_again(minimum, tmp_path, monkeypatch):
    folder = tmp_path / "local_minima" / "embedding"
    shutil.copytree(minimum.folder, folder)
    former = {now: was for was, now in run_local_minima.EXPERIMENTS["affine_minimum"].former_columns.items()}
    for path in folder.glob("runs/*/result.json"):
        content = read_json(path)
        content["measures"] = {former.get(name, name): value for name, value in content["measures"].items()}
        assert "default/test_accuracy" in content["measures"] and "default/test/accuracy" not in content["measures"]
        write_json(path, content)
    monkeypatch.setattr("harness.runner.compute", None)
    report = run("embedding", tmp_path, **TINY, seed=[0, 1])
    same_bits(minimum, report)
    assert report.folder == tmp_path / "local_minima" / "affine_minimum" and not folder.exists()
    assert report.verdict == minimum.verdict
    assert list(pd.read_csv(report.folder / "results.csv")) == list(pd.read_csv(minimum.folder / "results.csv"))


# -- initialization and distillation


@pytest.mark.slow
def test_initialization(tmp_path):
    starts = ["default", "embedding", "zero"]
    options = {**DATA, "width": 16, "depth": 1, "epochs": 3, "hessian_products": 50, "seed": 0}
    report = run("initialization", tmp_path, **options, initialization=starts)
    table = report.results.table
    assert report.verdict.outcome == "undecided" and "needs 3 seeds" in report.verdict.advice
    assert "from zero" in report.verdict.reason
    assert table["diverged_epoch"].isna().all() and len(table) == 3
    zero = report.results.over(initialization="zero")
    # At zero only the last bias has a gradient: the hidden layers are dead before and after training.
    assert (zero["before/train/loss"] == 0.5).all() and (zero["before/inactive"] == zero["after/inactive"]).all()
    embedded = report.results.over(initialization="embedding")
    assert (embedded["before/train/loss"] < zero["after/train/loss"].min()).all()
    assert (table["before/regularized_loss"] >= table["before/train/loss"]).all()
    # The relative gradient is that of the loss with its weight decay, in units of loss and parameters.
    decay = table["after/regularized_loss"] - table["after/train/loss"]
    np.testing.assert_allclose(decay, 0.5 * 5e-4 * table["after/parameter_norm"] ** 2, rtol=1e-5)
    relative = table["after/gradient_norm"] * table["after/parameter_norm"] / table["after/regularized_loss"]
    np.testing.assert_allclose(table["after/relative_gradient"], relative, rtol=1e-12)
    curved = table["after/smallest_eigenvalue"] < -0.01 * table["after/largest_eigenvalue"].abs()
    converged = table["after/eigenvalues_converged"].astype(bool)
    assert (table["after/stationary"].astype(bool) == ((relative <= 0.01) & ~curved & converged)).all()
    rates = dict(zip(table["initialization"], table["training/learning_rate"]))
    assert rates["zero"] == rates["default"] == 0.01 > rates["embedding"] > 0
    assert list(report.folder.glob("figures/loss_by_initialization.png"))


def test_kernel_scale_scales_the_start(tmp_path):
    options = {**DATA, "model": "mlp", "width": 4, "depth": 1, "epochs": 1, "hessian_products": 50, "seed": 0}
    table = run("initialization", tmp_path, **options, initialization="default", kernel_scale=[1e-6, 1.0]).results.table
    losses = table["before/train/loss"]
    assert losses[0] == pytest.approx(0.5, abs=1e-6) and abs(losses[1] - 0.5) > 1e-3
    with pytest.raises(InvalidInput, match="kernel_scale must be a finite number > 0"):
        run("initialization", tmp_path, **options, kernel_scale=0.0)


@pytest.mark.slow
def test_distillation(tmp_path):
    options = {**DATA, "model": "mlp", "width": 16, "depth": 1, "distillation_epochs": 3, "epochs": 3}
    report = run("distillation", tmp_path, **options, learning_rate=0.05, seed=[0, 1])
    table = report.results.table
    assert "mlp, depth 1, width 16 (undecided): by " in report.verdict.reason
    assert " over 2 seeds; the affine model's goes to " in report.verdict.reason
    assert "needs 3 seeds" in report.verdict.advice
    assert table["diverged_epoch"].isna().all()
    assert table["distilled/agreement"].between(0.1, 1).all() and (table["distilled/gradient_norm"] > 0).all()
    assert (table["trained/train/loss"] != table["distilled/train/loss"]).all()
    # The teacher is the best affine map on the labels; the student, who knows its outputs only, lies nearer to them.
    assert (table["distilled/imitation_loss"] < table["distilled/train/loss"]).all()
    history = report.results.histories[table["config_id"][0]]
    epochs = history.groupby("stage")["epoch"].max().to_dict()
    assert epochs["distillation"] == epochs["training"] == epochs["affine"] == 3 and epochs["comparable"] <= 3
    assert list(report.folder.glob("figures/distillation.png"))


@pytest.mark.parametrize(
    ("experiment", "few", "end"),
    [
        ("affine_minimum", {"embedding_epochs": 1, "ball_points": 1, "directions": 1}, "default/train/loss"),
        ("initialization", {"initialization": "default", "hessian_products": 50}, "after/train/loss"),
        ("distillation", {"distillation_epochs": 9}, "trained/train/loss"),
    ],
)
def test_all_diverged_is_undecided_and_the_report_is_written(experiment, few, end, tmp_path):
    network = {"model": "mlp", "width": 16, "depth": 1, "seed": 0}
    report = run(experiment, tmp_path, **DATA, **network, epochs=9, learning_rate=1e6, **few)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()
    assert "## Diverged" in (report.folder / "report.md").read_text()
    assert end not in report.results.table  # a last loss that happens to be finite is no result


# -- as a process


def start(folder, *arguments):
    command = [sys.executable, "run_local_minima.py", f"--out_dir={folder}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at(process, folder, stage, delay):
    """SIGKILL the process some seconds after a stage's first checkpoint; returns the epochs that it holds."""
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


@pytest.mark.slow  # three starts of TensorFlow; tests/harness/test_runner.py has the same without a process
def test_a_killed_process_goes_on_and_ends_in_the_same_bits(tmp_path):
    options = {**TINY, "embedding_epochs": 200, "epochs": 400, "seed": 0}
    whole = run("affine_minimum", tmp_path / "whole", **options)
    text = [f"--{k}={'-'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in options.items()]
    text.append(f"--threads_per_config={threads_of_process()}")
    folder = tmp_path / "killed"
    first = kill_at(start(folder, *text), folder, "embedding", 0.0)
    second = kill_at(start(folder, *text), folder, "default", 0.3)
    assert 1 <= len(first) < 200 and 1 <= len(second) < 400, "killed too late for the test to mean anything"
    assert not list(folder.rglob("result.json"))
    resumed = run("affine_minimum", folder, **options)
    same_bits(whole, resumed)
    (name,) = whole.results.histories
    curves = [report.results.histories[name] for report in (whole, resumed)]
    pd.testing.assert_frame_equal(*(curve.drop(columns="seconds") for curve in curves), check_exact=True)
    # The epochs before each kill were not trained again: the seconds that they took are those of the killed processes.
    for stage, rows in (("embedding", first), ("default", second)):
        kept = curves[1][curves[1]["stage"] == stage]["seconds"].tolist()[: len(rows)]
        np.testing.assert_allclose(kept, [row["seconds"] for row in rows], rtol=1e-12)


@pytest.mark.slow
def test_bad_input_is_one_line_and_status_1(tmp_path):
    process = start(tmp_path / "out", "--model=mpl")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1 and out == ""
    assert err.startswith("error: unknown model 'mpl' (did you mean mlp?)") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
