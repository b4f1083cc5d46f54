"""experiments/ntk/evolution.py: geometric epochs, early against late, every network by its own seeds."""
import dataclasses

import numpy as np
import pytest

from experiments.ntk import evolution
from experiments.ntk.evolution import Config
from harness import grid
from tests.experiments.ntk.tables import results
from training.fit import TrainingConfig


def change(early, late, noise=0.01):
    rng = np.random.default_rng(0)
    return lambda fields: {
        "evolution/early_change": early + noise * rng.standard_normal(),
        "evolution/late_change": late + noise * rng.standard_normal(),
    }


def test_epochs_are_geometric_and_none_twice():
    assert Config().epochs == [1, 2, 4, 8, 16, 32, 64]
    assert Config(training=TrainingConfig(epochs=3), num_checkpoints=7).epochs == [1, 2, 3]


def test_the_former_name_of_the_checkpoints_keeps_ids_and_flags():
    fields = grid.identifying(Config(num_checkpoints=5))
    assert fields["moments"] == 5 and "num_checkpoints" not in fields
    former = {"moments": 5, "trained/test_loss": 1.0}
    assert evolution.EXPERIMENT.modernize(former) == {"num_checkpoints": 5, "test/loss": 1.0}


@pytest.mark.parametrize(
    ("early", "late", "noise", "expected"),
    [
        (1.0, 0.1, 0.01, "supported"),
        (0.1, 1.0, 0.01, "refuted"),
        (0.5, 0.5, 0.2, "undecided"),
        (0.5, 0.49, 0.001, "refuted"),  # the late change is smaller, but by nothing that matters: 98 %
        (0.5, 0.35, 0.001, "undecided"),  # it slows down, and does not stand still
        (0.5, 0.2, 0.001, "supported"),
    ],
)
def test_outcomes(early, late, noise, expected):
    assert evolution.judge(results(evolution.EXPERIMENT, change(early, late, noise), width=16)).outcome == expected


def test_three_seeds_count_as_three_beside_a_second_learning_rate():
    """They were pooled as six: with these numbers six pairs would decide, and three do not."""

    def barely(fields):
        late = 0.5 * (0.8, 0.6, 0.1)[fields["seed"]] - 0.01 * (fields["learning_rate"] == 0.1)
        return {"evolution/early_change": 0.5, "evolution/late_change": late}

    verdict = evolution.judge(results(evolution.EXPERIMENT, barely, width=16, depth=1, learning_rate=[0.01, 0.1]))
    assert verdict.outcome == "undecided" and verdict.reason.count("over 3 seeds") == 2
    assert "mlp, depth 1, width 16, learning rate 0.01 (undecided): " in verdict.reason


def test_every_width_is_a_network_of_its_own():
    def late_at_32(fields):
        noise = 1 + 0.01 * fields["seed"]
        early, late = (1.0, 0.1) if fields["width"] == 16 else (0.1, 1.0)
        return {"evolution/early_change": early, "evolution/late_change": late * noise}

    verdict = evolution.judge(results(evolution.EXPERIMENT, late_at_32, width=[16, 32], depth=1))
    assert verdict.outcome == "refuted" and "width 16 (supported: stands still late): 0.1" in verdict.reason
    assert "width 32 (refuted: does not slow down by the margin): 1" in verdict.reason


def test_a_network_that_diverged_keeps_from_support():
    def ended(fields):
        return change(1.0, 0.1)(fields) if fields["depth"] == 1 else {}

    verdict = evolution.judge(results(evolution.EXPERIMENT, ended, width=16, depth=[1, 3]))
    assert verdict.outcome == "undecided" and "width 16 (undecided): not measured over 0 seeds" in verdict.reason
    nothing = results(evolution.EXPERIMENT, lambda fields: {}, width=16)
    assert evolution.judge(nothing).reason == "Every network diverged." and evolution.figures(nothing) == {}


def test_a_kernel_that_never_moved_tells_nothing_and_one_that_stops_is_a_fall():
    seeds = list(range(6))
    frozen, stops = (results(evolution.EXPERIMENT, change(*c, 0.0), width=16, depth=1, seed=seeds)
                     for c in ((0.0, 0.0), (0.5, 0.0)))  # fmt: skip
    verdict = evolution.judge(frozen)  # 0 over 0 had counted as a ratio of 1, which refuted
    assert verdict.outcome == "undecided" and "not measured over 0 seeds" in verdict.reason
    assert evolution.judge(stops).outcome == "supported"


def test_one_seed_decides_nothing():
    verdict = evolution.judge(results(evolution.EXPERIMENT, change(1.0, 0.1), width=16, depth=1, seed=0))
    assert verdict.outcome == "undecided" and "over 1 seeds" in verdict.reason and "nan" not in verdict.reason


def test_a_curve_for_every_network_also_where_epochs_differ():
    found = results(evolution.EXPERIMENT, change(1.0, 0.1), width=16, depth=1, epochs=[2, 8], num_checkpoints=3)
    arrays, kinds = {}, ("relative_change", "step_change", "correlation", "step_correlation")
    for name, epochs in zip(found.table["config_id"], found.table["epochs"]):
        at = np.array([1, 2] if epochs == 2 else [1, 3, 8])
        arrays[name] = {"evolution/epochs": at, **{f"evolution/{kind}": 1 / at for kind in kinds}}
    found = dataclasses.replace(found, arrays=arrays)
    figure = evolution.figures(found)["ntk_evolution"]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [
        f"mlp, depth 1, width 16, epochs {epochs}: from {what}"
        for epochs in (2, 8) for what in ("initialization", "the previous one")
    ]  # fmt: skip


def test_standing_still_is_an_option_and_the_speed_per_epoch_is_told():
    changes = change(0.5, 0.35, 0.001)

    def measured(fields):
        return {**changes(fields), "evolution/speed_ratio": 0.05 * (1 + 0.01 * fields["seed"])}

    table = results(evolution.EXPERIMENT, measured, width=16, depth=1)
    strict, mild = (
        evolution.judge(dataclasses.replace(table, margins={**table.margins, "margin_level": level}))
        for level in (0.5, 0.8)
    )
    assert (strict.outcome, mild.outcome) == ("undecided", "supported") and ", per epoch 0.05" in strict.reason
