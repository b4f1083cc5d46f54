"""experiments/local_minima/distillation.py: its judge and figures on results made by hand."""
import keras
import numpy as np
import pandas as pd
import pytest

import run_local_minima
import training.fit
from experiments.local_minima import distillation
from experiments.local_minima.distillation import EXPERIMENT
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results

LOW, HIGH = [0.10, 0.11, 0.09], [0.5, 0.52, 0.49]


def distilled(before, after, **changes):
    return [
        {**NETWORK, **changes, "seed": i, "distilled/train/loss": b, "trained/train/loss": a}
        for i, (b, a) in enumerate(zip(before, after))
    ]


def test_training_on_that_lowers_the_loss_refutes():
    verdict = judged(EXPERIMENT, distilled(HIGH, LOW))
    assert verdict.outcome == "refuted"
    assert "width 16 (refuted: training on lowers it by more than the margin): by -0.403 [" in verdict.reason
    assert "to 0.198 [0.166, 0.236] times, over 3 seeds." in verdict.reason
    assert judged(EXPERIMENT, distilled(HIGH, LOW) + distilled(LOW, HIGH, model="resnet")).outcome == "refuted"


@pytest.mark.parametrize(
    ("factors", "outcome"),
    [
        ([0.99, 0.97, 1.0], "supported"),  # lower, and measurably so, but by nothing that matters
        ([1.01, 1.02, 1.03], "supported"),
        ([0.8, 0.81, 0.79], "refuted"),
        ([1.2, 1.21, 1.19], "undecided"),  # it leaves the loss, but upwards
        ([0.5, 1.0, 0.9], "undecided"),
        ([0.8, 0.81], "undecided"),
    ],
)
def test_the_margin_is_a_factor_of_the_loss(factors, outcome):
    before = np.array(HIGH[: len(factors)])
    assert judged(EXPERIMENT, distilled(before, before * factors)).outcome == outcome


def test_a_wider_margin_makes_a_change_of_nothing():
    table = pd.DataFrame(distilled(HIGH, np.array(HIGH) * [0.8, 0.81, 0.79]))
    assert EXPERIMENT.judge(EXPERIMENT.results(table, margins={"margin_factor": 1.5})).outcome == "supported"


def test_the_affine_model_and_a_network_of_comparable_loss_are_controls():
    rows = distilled(HIGH, LOW)
    for row, affine in zip(rows, (0.11, 0.1, 0.12)):
        row.update({"teacher/loss": 0.5, "affine/train/loss": affine, "comparable/train/loss": 0.5,
                    "control/train/loss": 0.25})  # fmt: skip
    verdict = judged(EXPERIMENT, rows)  # what does the same to an affine model is no leaving of the minimum
    assert verdict.outcome == "undecided" and "the affine model's goes to 0.219 [0.175, 0.275] times" in verdict.reason
    assert "of a network from scratch, from a comparable loss, to 0.5 [0.5, 0.5] times" in verdict.reason
    still = [{**row, "affine/train/loss": 0.5 + 0.001 * i} for i, row in enumerate(rows)]
    assert judged(EXPERIMENT, still).outcome == "refuted"
    assert judged(EXPERIMENT, [{**row, "affine/train/loss": np.nan} for row in rows]).outcome == "refuted"


def test_the_controls_are_measured(tmp_path):
    options = {"width": 16, "train_size": 200, "test_size": 50, "epochs": 6, "distillation_epochs": 3, "seed": 0}
    report = run_local_minima.run("distillation", out_dir=tmp_path, quiet=True, **options)
    row = report.results.table.iloc[0]
    assert row["affine/train/loss"] == pytest.approx(row["teacher/loss"], rel=0.5)
    assert row["affine/train/loss"] >= row["teacher/loss"] * (1 - 1e-5)  # which is the lowest that affine maps have
    assert row["comparable/train/loss"] <= row["distilled/train/loss"] and 1 <= row["comparable/epochs"] <= 6
    assert row["control/train/loss"] < row["comparable/train/loss"]
    history = report.results.histories[row["config_id"]]
    assert (history["stage"] == "comparable").sum() == row["comparable/epochs"]


def test_from_scratch_is_not_from_the_weights_of_a_file(tmp_path, monkeypatch):
    starts = {}

    def fit(model, *arguments, stage, **options):
        starts[stage] = model.get_weights()
        return training.fit.fit(model, *arguments, stage=stage, **options)

    monkeypatch.setattr(distillation, "fit", fit)
    own = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    own.save(tmp_path / "own.keras")
    options = {"train_size": 200, "test_size": 50, "epochs": 3, "distillation_epochs": 2, "seed": 0}
    run_local_minima.run("distillation", out_dir=tmp_path, quiet=True, model=str(tmp_path / "own.keras"), **options)
    np.testing.assert_array_equal(starts["distillation"][0], own.get_weights()[0])
    assert np.abs(starts["comparable"][0] - own.get_weights()[0]).min() > 0


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        (distilled(HIGH[:1], LOW[:1]), "A verdict needs 3 seeds or more."),
        (distilled(HIGH, [np.nan, 0.1, np.nan]), "Too few of the 3 seeds have all that is compared: a test needs 3."),
    ],
)
def test_one_pair_decides_nothing(rows, advice):
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and verdict.advice == advice and "over 1 seeds." in verdict.reason


@pytest.mark.parametrize("rows", [distilled(HIGH, [np.nan] * 3), [{**NETWORK, "seed": 0, "diverged_epoch": 1}]])
def test_without_any_pair_it_is_undecided(rows):
    assert judged(EXPERIMENT, rows).reason == "Every network diverged."


def test_a_second_axis_is_another_setting_and_not_more_seeds():
    rows = distilled(HIGH, LOW, learning_rate=0.1) + distilled(LOW, HIGH, learning_rate=0.2)
    verdict = judged(EXPERIMENT, rows)
    assert [outcome for _, outcome in verdict.groups] == ["refuted", "undecided"]
    assert verdict.outcome == "refuted" and verdict.reason.count("over 3 seeds") == 2
    assert "margin): by -0.403 [" in verdict.reason and "learning rate 0.2 (undecided): by 0.403 [" in verdict.reason
    alike = distilled(HIGH, np.array(HIGH) * [0.99, 0.97, 1.0], learning_rate=0.1)
    apart = distilled(HIGH, np.array(HIGH) * [0.5, 1.0, 0.9], learning_rate=0.2)
    assert judged(EXPERIMENT, alike + apart).outcome == "undecided"  # support needs both


def test_figures_have_a_panel_for_each_setting_and_need_a_history():
    rows = [
        {**row, "config_id": f"{rate}-{row['seed']}", "teacher/loss": 0.4}
        for rate in (0.1, 0.2) for row in distilled(HIGH, LOW, learning_rate=rate)
    ]  # fmt: skip
    rows[-1]["trained/train/loss"] = np.nan  # diverged while it was trained on: it is drawn as far as it went
    stages = ["distillation", "distillation", "training", "training"]
    curve = pd.DataFrame({"stage": stages, "epoch": [1, 2, 1, 2], "train/loss": 0.5})
    (figure,) = EXPERIMENT.figures(results(EXPERIMENT, rows, (), {row["config_id"]: curve for row in rows})).values()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"mlp, depth 1, width 16, learning rate {rate}" for rate in (0.1, 0.2)]
    assert [len(axis.lines) for axis in figure.axes] == [9, 9]  # distillation, training on and the teacher, three seeds
    line = figure.axes[0].lines[1]
    assert line.get_xdata().tolist() == [2, 3, 4] and line.get_ydata().tolist() == [0.5, 0.5, 0.5]
    assert EXPERIMENT.figures(results(EXPERIMENT, rows)) == {}
    assert EXPERIMENT.figures(results(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}])) == {}
