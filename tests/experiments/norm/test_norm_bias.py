"""experiments/norm/norm_bias.py: the configs of a grid over regularizers, and the verdict on tables made by hand."""
import dataclasses
from types import SimpleNamespace

import pytest

from experiments.norm import norm_bias, tuning
from experiments.norm.norm_bias import EXPERIMENT
from harness import grid
from reporting.run_folder import Run
from tests.experiments.norm.tables import SPREAD, diverged, judged, unmeasured
from training.data import load
from training.fit import TrainingConfig

NORMS = {"none": 400, "weight_decay": 100, "norm_bias": 1000}


def expanded(**given):
    return grid.expand(EXPERIMENT, {"seed": [0, 1], **given})[0]


def test_each_regularizer_has_its_own_coefficient_and_only_norm_bias_a_target():
    configs = expanded(decay_coefficient=0.1, bias_coefficient=0.2, norm_target=50)
    found = [(c.training.regularizer, c.training.coefficient, c.training.norm_target) for c in configs if c.seed == 0]
    assert found == [("none", 0.0, 0.0), ("weight_decay", 0.1, 0.0), ("norm_bias", 0.2, 50.0)]
    assert all(c.decay_coefficient is None and c.bias_coefficient is None for c in configs)
    assert len(configs) == 6  # three regularizers, two seeds


def test_all_regularizers_have_one_budget_and_the_same_learning_rates():
    configs = expanded(seed=3, tuning_trials=4, decay_coefficient=0.1, bias_coefficient=0.2, norm_target=50)
    found = {c.training.regularizer: norm_bias.trials(c) for c in configs}
    assert {len(trials) for trials in found.values()} == {4} and len({*found["norm_bias"]}) == 4
    assert all(trials[0] == c.training for c, trials in zip(configs, found.values()))  # the given ones are tried too
    rates = [[trial.learning_rate for trial in trials] for trials in found.values()]
    assert rates[0] == rates[1] == rates[2] and len({*rates[0]}) == 4
    for trial in found["norm_bias"]:
        trial.validate()
        assert 0.05 / 3.17 < trial.learning_rate < 0.05 * 3.17
        assert 0.02 <= trial.coefficient <= 2 and 25 <= trial.norm_target <= 100
    assert {trial.coefficient for trial in found["none"]} == {0.0}
    assert norm_bias.trials(configs[0]) != norm_bias.trials(dataclasses.replace(configs[0], seed=4))


def test_the_trials_see_no_test_image_and_the_best_is_chosen(monkeypatch):
    (config,) = expanded(seed=0, regularizer="none", tuning_trials=3, train_size=40, test_size=20)
    data = load(config.data, seed=0)
    seen = []

    def fit(model, data, training, seed, run, stage):
        seen.append((data, training))
        assert stage == f"trial-{len(seen) - 1}" and EXPERIMENT.knows_stage(stage)
        return SimpleNamespace(diverged_epoch=1 if len(seen) == 1 else None)

    monkeypatch.setattr(tuning, "fit", fit)
    monkeypatch.setattr(tuning, "evaluate", lambda model, x, y, loss: (0.1 * len(seen), 0.5))
    best, measures = norm_bias.tune(config, data, None)
    assert best == norm_bias.trials(config)[1] and measures["tuned/accuracy"] == 0.5  # the lower loss of equal ones
    assert measures["tuned/learning_rate"] == best.learning_rate
    images = {image.tobytes() for image in data.x_train}
    for inner, _ in seen:
        assert (len(inner.x_train), len(inner.x_test)) == (30, 10)
        assert {image.tobytes() for image in (*inner.x_train, *inner.x_test)} == images
    assert norm_bias.tune(dataclasses.replace(config, tuning_trials=0), data, None) == (config.training, {})


def test_an_interrupted_tuning_goes_on_at_its_trial_and_ends_in_the_same_bits(tmp_path, monkeypatch):
    options = {"tuning_trials": 2, "train_size": 40, "test_size": 20, "width": 4, "depth": 1, "epochs": 2}
    (config,) = expanded(seed=0, regularizer="weight_decay", **options)
    data = load(config.data, seed=0)
    whole = norm_bias.measure(config, data, Run(tmp_path, "whole", {}))

    class Killed(Run):
        def begin(self, stage):
            if stage == "training":
                raise KeyboardInterrupt
            super().begin(stage)

    with pytest.raises(KeyboardInterrupt):
        norm_bias.measure(config, data, Killed(tmp_path, "killed", {}))
    kept = (tmp_path / "runs" / "killed" / "checkpoint").iterdir()
    assert sorted(path.stem for path in kept) == ["trial-0", "trial-1"]

    def refuse(*_, **__):
        raise AssertionError("a finished trial was trained again")

    run = Run(tmp_path, "killed", {})
    with monkeypatch.context() as patch:
        patch.setattr("training.fit.batches", refuse)
        assert norm_bias.tune(config, data, run)[1].items() <= whole.items()
    assert norm_bias.measure(config, data, Run(tmp_path, "killed", {})) == whole


def test_an_axis_multiplies_only_the_regularizers_that_it_concerns():
    configs = expanded(seed=0, decay_coefficient=[0.1, 0.2], norm_target=[50, 60, 70])
    names = [c.training.regularizer for c in configs]
    assert [names.count(name) for name in ("none", "weight_decay", "norm_bias")] == [1, 2, 3]


def test_a_config_of_one_regularizer_can_be_made_by_hand():
    training = TrainingConfig(regularizer="norm_bias", coefficient=0.1, norm_target=5.0)
    config = norm_bias.Config(training=training)
    assert config.training == training and grid.make(norm_bias.Config, grid.flat(config)) == config
    assert EXPERIMENT.label(config) == "norm_bias-0.1-target=5"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"decay_coefficient": -0.1}, "decay_coefficient must be a finite number >= 0, got -0.1"),
        ({"bias_coefficient": -0.1}, "bias_coefficient must be a finite number >= 0, got -0.1"),
        ({"bias_coefficient": float("nan")}, "bias_coefficient must be a finite number >= 0, got nan"),
        ({"tuning_trials": -1}, "tuning_trials must be a number of trials"),
        ({"norm_target": -1}, "norm_target must be a finite number >= 0, got -1.0"),
        ({"regularizer": ["none", "norm-bias"]}, "unknown regularizer 'norm-bias': allowed are none, weight_decay"),
        ({"coefficient": 0.1}, "coefficient=0.1 is not known to belong to weight_decay or norm_bias"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=message):
        expanded(**given)


# -- the verdict


def rows_of(regularizer, accuracy, seeds=8, norm=None, coefficient=0.1, target=1000.0, **fields):
    setting = {"none": (0.0, 0.0), "weight_decay": (coefficient, 0.0), "norm_bias": (coefficient, target)}[regularizer]
    start = {"regularizer": regularizer, "coefficient": setting[0], "norm_target": setting[1], "diverged_epoch": None}
    sign = {"none": 1, "weight_decay": -1, "norm_bias": 2}[regularizer]
    common = {"config_id": "x", "model": "mlp", **start, **fields}
    norm = norm or NORMS[regularizer]
    return [
        {**common, "seed": i, "test/accuracy": accuracy + sign * SPREAD[i], "norm/all": norm + i % 3}
        for i in range(seeds)
    ]


def three(none, decay, bias, **fields):
    accuracies = {"none": none, "weight_decay": decay, "norm_bias": bias}
    return [row for regularizer, value in accuracies.items() for row in rows_of(regularizer, value, **fields)]


def verdict_on(rows):
    return judged(EXPERIMENT, rows)


def outcome(rows):
    return verdict_on(rows).outcome


def test_refuted_where_a_larger_norm_beats_none_and_every_weight_decay():
    verdict = verdict_on(three(0.90, 0.92, 0.94))
    assert verdict.outcome == "refuted" and "+2 [" in verdict.reason and "8 paired seeds" in verdict.reason
    assert "(refuted: norm_bias-0.1-target=1000 beats the others at a norm above weight decay's)" in verdict.reason
    assert "squared norms none 401, weight_decay-0.1 101, norm_bias-0.1-target=1000 1e+03;" in verdict.reason
    assert "; the settings were given and not tuned." in verdict.reason
    low = rows_of("none", 0.90) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94, norm=50)
    assert outcome(low) == "undecided"  # norm-bias did not reach a larger norm
    assert outcome(three(0.90, 0.92, 0.92)) == "undecided"  # norm-bias gains no more than weight decay


def test_norm_bias_must_beat_none_to_refute_weight_decay():
    """The review's example: a decay that harms, and a norm-bias that equals none, refuted in 22 % of tables.

    That no decay gains is another statement, which is about weight decay and not about norm-bias.
    """
    verdict = verdict_on(three(0.92, 0.90, 0.92))
    assert "beats the others at a norm above" not in verdict.reason
    assert "no weight decay tried gains the margin over none" in verdict.reason


def test_what_was_tuned_and_where_the_norm_cannot_matter_is_told():
    rows = [{**row, "tuning_trials": 3, "norm/least_equivalent": row["norm/all"] / 2} for row in three(0.9, 0.92, 0.94)]
    reason = verdict_on(rows).reason
    assert "; each regularizer tuned in 3 trials a seed; rescaling layers" in reason and "squared norm to 50%" in reason
    rows = [{**row, "norm/scale_invariant": 80.0, "norm/kernels": 80.0, "norm/effective_rate": 0.01} for row in rows]
    reason = verdict_on(rows).reason
    assert "100% of the kernels' squared norm cannot matter" in reason and "effective learning rate (0.01 to" in reason


def test_refuted_where_no_weight_decay_gains_the_margin():
    for none, decay in ((0.92, 0.92), (0.92, 0.924), (0.95, 0.90)):  # nothing, little, harm
        verdict = verdict_on(three(none, decay, 0.80))
        assert verdict.outcome == "refuted"
        assert "(refuted: no weight decay tried gains the margin over none)" in verdict.reason
    assert outcome(three(0.92, 0.94, 0.95) + rows_of("weight_decay", 0.92, coefficient=0.2)) == "refuted"
    assert outcome(three(0.92, 0.94, 0.94) + rows_of("weight_decay", 0.92, coefficient=0.2)) == "undecided"


def test_a_gain_below_the_margin_is_real_and_not_worth_having():
    rows = three(0.920, 0.924, 0.910)
    assert outcome(rows) == "refuted" and judged(EXPERIMENT, rows, margin=1e-4).outcome == "supported"


def test_supported_where_weight_decay_beats_both_at_the_smallest_norm():
    verdict = verdict_on(three(0.90, 0.94, 0.91))
    assert verdict.outcome == "supported"
    assert "mlp (supported: weight_decay-0.1 beats the others at the smallest norm): test" in verdict.reason
    assert outcome(three(0.90, 0.94, 0.94)) == "undecided"  # norm-bias helps as much
    larger = rows_of("none", 0.90, norm=50) + rows_of("weight_decay", 0.94) + rows_of("norm_bias", 0.91)
    assert outcome(larger) == "undecided"  # weight decay's norm is not the smallest
    larger = rows_of("none", 0.90) + rows_of("weight_decay", 0.94) + rows_of("norm_bias", 0.91, norm=50)
    assert outcome(larger) == "undecided"


def test_two_pairs_decide_nothing():
    few = verdict_on(three(0.90, 0.92, 0.94, seeds=2))
    assert few.outcome == "undecided" and few.advice == "A verdict needs 3 seeds or more."
    unpaired = rows_of("none", 0.9) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94)[6:]
    assert "norm_bias-0.1-target=1000 minus none +3.9 [" in verdict_on(unpaired).reason
    assert outcome(unpaired) == "undecided"


def test_seeds_that_would_decide_are_told():
    rows = three(0.9000, 0.9200, 0.9180)  # 2 points over none, and a little more than norm-bias
    verdict = verdict_on(rows)
    assert verdict.outcome == "undecided" and 8 < verdict.seeds_needed < 200


@pytest.mark.parametrize("missing", ["none", "weight_decay", "norm_bias"])
def test_all_three_are_needed(missing):
    rows = [row for row in three(0.90, 0.94, 0.91) if row["regularizer"] != missing]
    verdict = verdict_on(rows)
    assert verdict.outcome == "undecided" and "none, weight_decay and norm_bias are needed" in verdict.reason
    assert verdict.advice == "More seeds alone would not decide."
    assert outcome([{**row, "width": 8} for row in rows] + three(0.90, 0.94, 0.91, width=16)) == "undecided"


def test_three_seeds_at_two_learning_rates_are_no_six_pairs():
    given = [three(0.90, 0.92, 0.94, seeds=3, learning_rate=rate) for rate in (0.01, 0.1)]
    verdict = verdict_on(given[0] + given[1])
    assert "(3 paired seeds)" in verdict.reason and "(6 paired seeds)" not in verdict.reason
    assert [label for label, _ in verdict.groups] == ["mlp, learning rate 0.01", "mlp, learning rate 0.1"]


def test_one_seed_has_no_interval():
    verdict = verdict_on(three(0.90, 0.92, 0.94, seeds=1))
    assert verdict.outcome == "undecided" and "nan" not in verdict.reason and "(1 paired seeds)" in verdict.reason


def test_every_weight_decay_of_a_network_must_be_beaten():
    rows = three(0.90, 0.92, 0.94)
    assert outcome(rows + rows_of("weight_decay", 0.91, coefficient=0.2)) == "refuted"
    assert outcome(rows + rows_of("weight_decay", 0.94, coefficient=0.2)) == "undecided"
    rows = three(0.90, 0.94, 0.91)
    assert outcome(rows + rows_of("norm_bias", 0.91, target=2000.0, norm=2000)) == "supported"
    assert outcome(rows + rows_of("norm_bias", 0.94, target=2000.0, norm=2000)) == "undecided"
    assert outcome(rows + rows_of("weight_decay", 0.80, coefficient=0.2)) == "supported"  # one decay will do


def test_a_long_list_of_differences_is_cut():
    rows = three(0.90, 0.94, 0.91)
    rows += [row for c in (0.2, 0.3) for row in rows_of("weight_decay", 0.91, coefficient=c)]
    rows += rows_of("norm_bias", 0.91, target=2000.0, norm=2000)
    assert "points (8 paired seeds), 3 more; squared norms" in verdict_on(rows).reason  # of 5 + 6


def test_networks_are_not_mixed():
    refuting, supporting = three(0.90, 0.92, 0.94, width=8), three(0.70, 0.74, 0.71, width=16)
    verdict = verdict_on(refuting + supporting)
    assert verdict.outcome == "refuted"
    assert verdict.groups == (("mlp, width 8", "refuted"), ("mlp, width 16", "supported"))
    assert outcome(supporting + three(0.90, 0.94, 0.91, width=32)) == "supported"
    assert outcome(supporting + three(0.90, 0.92, 0.92, width=32)) == "undecided"


def test_diverged_runs_are_counted_and_never_averaged():
    rows = diverged(rows_of("none", 0.9), 8) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94)
    assert outcome(rows) == "undecided"  # nothing to gain over
    rows = rows_of("none", 0.9) + rows_of("weight_decay", 0.92) + diverged(rows_of("norm_bias", 0.94), 6)
    assert outcome(rows) == "undecided" and "norm_bias-0.1-target=1000 minus none" in verdict_on(rows).reason
    verdict = verdict_on(unmeasured(three(0.9, 0.9, 0.9)))
    assert verdict.outcome == "undecided" and verdict.reason.startswith("Every network diverged")


def test_a_norm_away_from_its_target_is_told():
    rows = three(0.90, 0.92, 0.94)
    for row in rows[-8:]:
        row.update({"norm/over_target": 0.5 if row["seed"] < 2 else 1.0, "norm/settled": row["seed"] >= 2})
    verdict = verdict_on(rows)
    assert "Warning: in 2 of 8 networks under norm_bias" in verdict.reason and "0.5 to 0.5 of it" in verdict.reason
    for row in rows[-8:]:
        row.update({"norm/over_target": 1.0, "norm/settled": True})
    assert "Warning" not in verdict_on(rows).reason
