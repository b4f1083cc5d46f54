"""experiments/norm/norm_profile.py: what is refused, and the verdict on tables made by hand."""
import dataclasses

import pytest

from experiments.norm import norm_profile, tuning
from experiments.norm.norm_profile import EXPERIMENT
from harness import grid
from reporting.run_folder import Run
from tests.experiments.norm.tables import SPREAD, diverged, judged, unmeasured
from training.data import load
from training.fit import fit


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multiple": 0}, "multiple must be a finite number > 0, got 0.0"),
        ({"multiple": [1, -1]}, "multiple must be a finite number > 0, got -1.0"),
        ({"coefficient": 0}, "needs regularizer=norm_bias with a coefficient > 0"),
        ({"regularizer": "none", "coefficient": 0}, "needs regularizer=norm_bias"),
        ({"norm_target": 5}, "its targets as multiple"),
        ({"rates": [(0.1, 0.1)]}, "rates must be finite numbers above 0, none of them twice"),
        ({"rates": [(0.1, -1.0)]}, "rates must be finite numbers above 0"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=message):
        grid.expand(EXPERIMENT, {"seed": [0, 1], **given})


def test_results_of_the_first_version_are_read_under_the_new_column():
    assert EXPERIMENT.modernize({"none/accuracy": 0.5, "test/accuracy": 0.6}) == {
        "none/test/accuracy": 0.5, "test/accuracy": 0.6,
    }  # fmt: skip


def profiled(accuracies, none=0.90, seeds=8, ratios=None, **fields):
    """Rows of {multiple: accuracy}; ratios: {multiple: the norm that was reached over the unregularized one}."""
    ratios = ratios or {m: m for m in accuracies}
    return [
        {"config_id": "x", "model": "mlp", "multiple": m, "seed": i, "test/accuracy": accuracy + (-1) ** j * SPREAD[i],
         "none/test/accuracy": none + 0.5 * SPREAD[i], "norm/over_none": ratios[m], "norm/all": 400 * ratios[m] + i,
         "diverged_epoch": None, **fields}
        for j, (m, accuracy) in enumerate(accuracies.items()) for i in range(seeds)
    ]  # fmt: skip


def verdict_on(rows):
    return judged(EXPERIMENT, rows)


def outcome(*arguments, **given):
    return verdict_on(profiled(*arguments, **given)).outcome


def test_supported_where_a_norm_below_the_unregularized_one_beats_all_others():
    falling = verdict_on(profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80}))
    assert falling.outcome == "supported" and "highest at 0.1" in falling.reason
    assert "mlp (supported: 0.1 beats every norm not below 1 and none): of 0.1, 1, 10 times" in falling.reason
    assert "; 0.1 minus none +5 [" in falling.reason and "(8 paired seeds)" in falling.reason
    assert "rank correlation of norm and test accuracy -1 [-1, -1] (mean of 8 seeds)" in falling.reason
    assert outcome({0.1: 0.95, 0.5: 0.95, 1.0: 0.90, 10.0: 0.80}) == "supported"  # two small norms are as good


def test_the_smallest_norm_must_not_be_worse_than_another_by_the_margin():
    for smallest, said in ((0.948, "supported"), (0.940, "undecided"), (0.80, "undecided")):
        assert outcome({0.1: smallest, 0.5: 0.95, 1.0: 0.90, 10.0: 0.80}) == said
    assert outcome({0.1: 0.95, 0.5: 0.80, 1.0: 0.90, 10.0: 0.80}) == "supported"  # the smallest is what counts
    rows = profiled({0.1: 0.93, 0.5: 0.95, 1.0: 0.90})
    assert judged(EXPERIMENT, rows, margin=0.03).outcome == "supported"


def test_refuted_where_another_norm_or_none_beats_all_smaller_ones():
    larger = verdict_on(profiled({0.1: 0.92, 0.5: 0.93, 1.0: 0.90, 10.0: 0.95}))
    assert larger.outcome == "refuted" and "mlp (refuted: 10 beats all below 1): of 0.1" in larger.reason
    assert outcome({0.1: 0.92, 0.5: 0.95, 1.0: 0.90, 10.0: 0.95}) == "undecided"  # not all
    without = verdict_on(profiled({0.1: 0.80, 1.0: 0.80, 10.0: 0.80}, none=0.85))
    assert without.outcome == "refuted"
    assert "(refuted: none beats all below 1, no norm below 1 gains the margin over none)" in without.reason


def test_refuted_where_no_smaller_norm_gains_the_margin():
    little = {0.1: 0.904, 1.0: 0.90, 10.0: 0.80}
    verdict = verdict_on(profiled(little))
    assert verdict.outcome == "refuted" and "(refuted: no norm below 1 gains the margin over none)" in verdict.reason
    assert judged(EXPERIMENT, profiled(little), margin=0.001).outcome == "supported"  # it is a gain
    assert outcome({0.1: 0.904, 0.5: 0.93, 1.0: 0.93}) == "undecided"  # another one does


def test_undecided_without_a_winner():
    assert outcome({0.1: 0.95, 1.0: 0.95}) == "undecided"  # as good at plain training's norm
    assert outcome({0.1: 0.95, 1.0: 0.90}, seeds=2) == "undecided"
    assert outcome({0.1: 0.95, 1.0: 0.90}, seeds=1) == "undecided"
    # What counts is the norm that was reached: here no target below 1 was.
    reached = {0.1: 1.1, 1.0: 1.1, 10.0: 5.0}
    for rows in (profiled({10.0: 0.95}), profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80}, ratios=reached)):
        verdict = verdict_on(rows)
        assert verdict.outcome == "undecided" and "; no norm is below 1; rank" in verdict.reason
        assert verdict.advice == "More seeds alone would not decide."


def test_diverged_runs_are_left_out():
    rows = profiled({10.0: 0.80, 0.1: 0.95, 1.0: 0.90})
    verdict = verdict_on(diverged(rows, 8))  # those at the largest norm
    assert verdict.outcome == "supported" and "of 0.1, 1 times" in verdict.reason
    lost = verdict_on(unmeasured(rows))
    assert lost.outcome == "undecided" and lost.reason.startswith("Every network diverged")
    partly = verdict_on(diverged(profiled({0.1: 0.95}, width=8), 8) + profiled({0.1: 0.95, 1.0: 0.90}, width=16))
    assert partly.outcome == "undecided" and "mlp, width 8 (undecided): every network diverged" in partly.reason


def test_networks_are_not_mixed():
    other = profiled({0.1: 0.80, 1.0: 0.90}, width=16)
    verdict = verdict_on(profiled({0.1: 0.95, 1.0: 0.80}, width=8) + other)
    assert verdict.outcome == "refuted"
    assert verdict.groups == (("mlp, width 8", "supported"), ("mlp, width 16", "refuted"))


def test_three_seeds_at_two_learning_rates_are_no_six_seeds():
    rows = [row for rate in (0.01, 0.1) for row in profiled({0.1: 0.95, 1.0: 0.90}, seeds=3, learning_rate=rate)]
    verdict = verdict_on(rows)
    assert verdict.reason.count("(mean of 3 seeds)") == verdict.reason.count("(3 paired seeds)") == 2
    assert [label for label, _ in verdict.groups] == ["mlp, learning rate 0.01", "mlp, learning rate 0.1"]


def test_scale_invariant_weights_have_a_correlation_of_their_own():
    rows = profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80})
    assert "scale-invariant" not in verdict_on(rows).reason
    rows = [{**row, "norm/scale_invariant": -row["norm/all"]} for row in rows]
    assert "of the norm of scale-invariant weights 1 [1, 1] (mean of 8 seeds)" in verdict_on(rows).reason
    rows = [{**row, "norm/scale_invariant": 90.0, "norm/kernels": 100.0, "norm/effective_rate": 2e-4} for row in rows]
    assert "90% of the kernels' squared norm cannot matter, as normalization follows" in verdict_on(rows).reason


TINY = {"train_size": 40, "test_size": 20, "width": 4, "depth": 1, "epochs": 2, "decay_epochs": ()}


def test_every_norm_takes_its_best_rate_without_a_look_at_the_test_images(tmp_path, monkeypatch):
    trained, score = [], {"none-rate=0.1": 0.7, "norm_bias-rate=0.3": 0.8}  # accuracy on held-out images

    def follow(model, data, training, seed, run, stage):
        trained.append((stage, training, data))
        return fit(model, data, training, seed=seed, run=run, stage=stage)

    monkeypatch.setattr(norm_profile, "fit", follow)
    monkeypatch.setattr(tuning, "fit", follow)
    monkeypatch.setattr(tuning, "evaluate", lambda model, x, y, loss: (1.0, score.get(trained[-1][0], 0.5)))
    (config,), _ = grid.expand(EXPERIMENT, {**TINY, "seed": 3, "multiple": 2.0, "rates": [(0.1, 0.3)]})
    data = load(config.data, seed=3)
    found = norm_profile.measure(config, data, Run(tmp_path, "a", {}))
    assert (found["none/learning_rate"], found["tuned/learning_rate"], found["tuned/accuracy"]) == (0.1, 0.3, 0.8)
    assert [(stage, training.learning_rate, training.regularizer) for stage, training, _ in trained] == [
        ("none-rate=0.1", 0.1, "none"), ("none-rate=0.3", 0.3, "none"), ("none", 0.1, "none"),
        ("norm_bias-rate=0.1", 0.1, "norm_bias"), ("norm_bias-rate=0.3", 0.3, "norm_bias"),
        ("norm_bias", 0.3, "norm_bias"),
    ]  # fmt: skip
    assert all(EXPERIMENT.knows_stage(stage) for stage, _, _ in trained)
    images = {image.tobytes() for image in data.x_train}
    for stage, training, used in trained:
        if "rate" in stage:
            assert {image.tobytes() for image in (*used.x_train, *used.x_test)} == images and len(used.x_test) == 10
        else:
            assert used is data
        if training.regularizer == "norm_bias":
            assert training.norm_target == found["norm/target"] == 2 * found["none/norm"]


def test_without_rates_nothing_is_held_out(tmp_path):
    (config,), _ = grid.expand(EXPERIMENT, {**TINY, "seed": 3, "multiple": 2.0})
    found = norm_profile.measure(config, load(config.data, seed=3), Run(tmp_path, "a", {}))
    assert not {"tuned/learning_rate", "none/learning_rate"} & found.keys()


def test_tuned_rates_are_told():
    rows = profiled({0.1: 0.95, 1.0: 0.90}, **{"tuned/learning_rate": 0.02, "none/learning_rate": 0.04})
    told = verdict_on(rows)
    assert "; medians of tuned learning rates 0.02 (0.1 times), 0.02 (1 times), 0.04 (none); 0.1 minus" in told.reason
    assert "tuned" not in verdict_on(profiled({0.1: 0.95, 1.0: 0.90})).reason


def test_too_few_images_for_tuning_are_refused():
    (config,), _ = grid.expand(EXPERIMENT, {**TINY, "train_size": 10, "seed": 0, "multiple": 1.0, "rates": [(0.1,)]})
    data = load(config.data, seed=0)
    EXPERIMENT.check(config, data, None)
    few = dataclasses.replace(data, x_train=data.x_train[:5])
    with pytest.raises(ValueError, match="too few training images to hold some out for the tuning, got 5"):
        EXPERIMENT.check(config, few, None)
