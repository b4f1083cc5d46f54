"""experiments/local_minima/distillation.py: its judge and figures on results made by hand."""
import numpy as np
import pandas as pd
import pytest

from experiments.local_minima.distillation import EXPERIMENT
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results

LOW, HIGH = [0.10, 0.11, 0.09], [0.5, 0.52, 0.49]


def distilled(before, after, **changes):
    return [
        {**NETWORK, **changes, "seed": i, "distilled/train/loss": b, "trained/train/loss": a}
        for i, (b, a) in enumerate(zip(before, after))
    ]


def test_judge():
    verdict = judged(EXPERIMENT, distilled(HIGH, LOW))
    assert verdict.outcome == "refuted" and "mlp, depth 1, width 16: -0.403 [" in verdict.reason
    assert judged(EXPERIMENT, distilled(LOW, LOW)).outcome == "undecided"
    assert judged(EXPERIMENT, distilled(HIGH, LOW) + distilled(LOW, HIGH, model="resnet")).outcome == "undecided"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (distilled(HIGH[:1], LOW[:1]), "No network has two or more seeds"),
        (distilled(HIGH, [np.nan, 0.1, np.nan]), "No network has two or more seeds"),
        (distilled(HIGH, [np.nan] * 3), "Every network diverged"),
        ([{**NETWORK, "seed": 0, "diverged_epoch": 1}], "Every network diverged"),
    ],
)
def test_without_two_pairs_it_is_undecided(rows, reason):
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and reason in verdict.reason


def test_a_second_axis_is_another_setting_and_not_more_seeds():
    rows = distilled(HIGH, LOW, learning_rate=0.1) + distilled(LOW, HIGH, learning_rate=0.2)
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and verdict.reason.count("over 3 seeds") == 2
    assert "learning rate 0.1: -0.403 [" in verdict.reason and "learning rate 0.2: 0.403 [" in verdict.reason


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
