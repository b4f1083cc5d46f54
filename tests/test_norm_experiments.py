"""experiments/norm_bias.py, norm_profile.py, norms.py: what is paired, scale invariance, and judges on tables made by hand."""
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from absl import flags

import run_norm
from experiments import command_line, norm_bias, norm_profile, norms, options
from experiments.runner import Results
from models import NetworkConfig, build, validate
from training.fit import TrainingConfig

ROOT = Path(__file__).parents[1]
PRESETS = sorted(path for path in ROOT.glob("presets/*/norm_*.cfg"))


# -- configs


def expanded(module, **given):
    return options.expand(module, {"seed": [0, 1], **given})[0]


def test_each_regularizer_has_its_own_coefficient_and_only_norm_bias_a_target():
    configs = expanded(norm_bias, decay_coefficient=0.1, bias_coefficient=0.2, norm_target=50)
    found = [(c.training.regularizer, c.training.coefficient, c.training.norm_target) for c in configs if c.seed == 0]
    assert found == [("none", 0.0, 0.0), ("weight_decay", 0.1, 0.0), ("norm_bias", 0.2, 50.0)]
    assert all(c.decay_coefficient is None and c.bias_coefficient is None for c in configs)
    assert len(configs) == 6  # three regularizers, two seeds


def test_an_axis_multiplies_only_the_regularizers_that_it_concerns():
    configs = expanded(norm_bias, seed=0, decay_coefficient=[0.1, 0.2], norm_target=[50, 60, 70])
    names = [c.training.regularizer for c in configs]
    assert [names.count(name) for name in ("none", "weight_decay", "norm_bias")] == [1, 2, 3]


def test_a_config_of_one_regularizer_can_be_made_by_hand():
    training = TrainingConfig(regularizer="norm_bias", coefficient=0.1, norm_target=5.0)
    config = norm_bias.Config(training=training)
    assert config.training == training and options.make(norm_bias.Config, options.flat(config)) == config
    assert config.label == "norm_bias-0.1-target=5"


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (norm_bias, {"decay_coefficient": -0.1}, "decay_coefficient must be a finite number >= 0, got -0.1"),
        (norm_bias, {"bias_coefficient": -0.1}, "bias_coefficient must be a finite number >= 0, got -0.1"),
        (norm_bias, {"bias_coefficient": float("nan")}, "bias_coefficient must be a finite number >= 0, got nan"),
        (norm_bias, {"norm_target": -1}, "norm_target must be a finite number >= 0, got -1.0"),
        (norm_bias, {"regularizer": ["none", "norm-bias"]}, "unknown regularizer 'norm-bias': allowed are none, weight_decay"),
        (norm_bias, {"coefficient": 0.1}, "coefficient=0.1 is not known to belong to weight_decay or norm_bias"),
        (norm_profile, {"multiple": 0}, "multiple must be a finite number > 0, got 0.0"),
        (norm_profile, {"multiple": [1, -1]}, "multiple must be a finite number > 0, got -1.0"),
        (norm_profile, {"coefficient": 0}, "needs regularizer=norm_bias with a coefficient > 0"),
        (norm_profile, {"regularizer": "none", "coefficient": 0}, "needs regularizer=norm_bias"),
        (norm_profile, {"norm_target": 5}, "its targets as multiple"),
    ],
)
def test_refused(module, given, message):
    with pytest.raises(ValueError, match=message):
        expanded(module, **given)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_span_valid_configs(path):
    values = flags.FlagValues()
    command_line.define(run_norm.EXPERIMENTS, values)
    values(["run_norm.py", f"--flagfile={path}"])
    module = run_norm.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in options.leaves(module.Config) if values[name].value is not None}
    configs, _ = options.expand(module, given)
    shapes = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
    for config in configs:
        validate(config.network, shapes[config.data.dataset], 100 if config.data.dataset == "cifar100" else 10)
    assert len({config.seed for config in configs}) >= getattr(module, "ENOUGH", 3)


def test_there_is_a_preset_for_every_network_of_the_paper():
    found = {}
    for path in PRESETS:
        lines = dict(line.lstrip("-").split("=") for line in path.read_text().splitlines() if "=" in line and line[0] == "-")
        if path.parent.name == "paper" and lines["experiment"] == "norm_bias":
            found[lines["model"]] = (float(lines["norm_target"]), float(lines["bias_coefficient"]))
    expected = {"resnet": (2500, 0.005), "densenet": (2500, 0.005), "mobilenet_v2": (5000, 0.001), "resnet_fixup": (1000, 5e-4)}
    assert found == expected


# -- scale-invariant weights


@pytest.mark.parametrize(
    ("config", "without"),
    [
        (NetworkConfig("resnet", width=4, depth=1), 1),  # all but the logits
        (NetworkConfig("resnet", width=4, depth=1, skip=False), 1),
        (NetworkConfig("densenet", width=4, depth=7), 1),  # concatenated and pooled on the way
        (NetworkConfig("mobilenet_v2", width=4), 1),
        (NetworkConfig("resnet", width=4, depth=1, batch_norm=False), None),
        (NetworkConfig("mlp", width=4), None),
        (NetworkConfig("resnet_fixup", width=4, depth=8), None),
    ],
    ids=lambda value: value.model if isinstance(value, NetworkConfig) else "",
)
def test_scale_invariant_kernels_are_all_that_batch_norm_follows(config, without):
    model = build(config, (8, 8, 1), 10, seed=0)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    found = norms.scale_invariant_kernels(model)
    assert len(found) == (0 if without is None else len(kernels) - without)
    assert all(any(v is kernel for kernel in kernels) for v in found)


def test_their_scale_does_not_change_the_function_and_that_of_others_does():
    inputs = keras.Input((8, 8, 2))
    conv = keras.layers.Conv2D(4, 3, name="biased")(inputs)
    conv = keras.layers.BatchNormalization(epsilon=1e-9, name="n1")(keras.layers.AveragePooling2D(2)(conv))
    active = keras.layers.Conv2D(4, 3, activation="tanh", name="active")(conv)
    x = keras.layers.BatchNormalization(epsilon=1e-9, name="n2")(keras.layers.Flatten()(active))
    x = keras.layers.Dense(5, name="normalized")(x)
    seen_twice = keras.layers.Dense(5, name="seen_twice")(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization(name="n3")(x), seen_twice])
    y = keras.layers.Dense(5, name="dense")(x)
    y = keras.layers.BatchNormalization(epsilon=1e-9, name="n4")(y)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(y))
    found = {v.path for v in norms.scale_invariant_kernels(model)}
    assert found == {"biased/kernel", "dense/kernel"}
    images = tf.constant(np.random.default_rng(0).standard_normal((16, 8, 8, 2)), tf.float32)
    before = model(images, training=True).numpy()
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            start = variable.numpy()
            variable.assign(3 * start)
            same = np.allclose(model(images, training=True).numpy(), before, rtol=1e-3, atol=1e-3)
            assert same == (variable.path in found), variable.path
            variable.assign(start)


def test_a_layer_used_twice_and_an_output_before_batch_norm_are_left_out():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    x = keras.layers.BatchNormalization()(shared(shared(inputs)))
    seen = keras.layers.Dense(4, name="seen")(x)
    model = keras.Model(inputs, [keras.layers.BatchNormalization()(seen), seen])
    assert norms.scale_invariant_kernels(model) == []


# -- did the norm settle?


def settled(values, target=100.0, **training):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    data = type("Data", (), {"x_train": np.ones((4, 2)), "y_train": np.eye(2)[[0, 1, 0, 1]]})
    data.x_test, data.y_test = data.x_train, data.y_train
    training = TrainingConfig(regularizer="norm_bias", coefficient=1.0, norm_target=target, **training)
    history = type("History", (), {"rows": [{"norm/all": v, "norm/kernels": v / 2} for v in values]})
    return norms.final_measures(model, data, training, history)


def test_settled_means_within_two_percent_and_staying_there():
    assert settled([10, 99, 101.9])["norm/settled"] is True
    assert settled([10, 99, 102.1])["norm/settled"] is False
    assert settled([10, 60, 100])["norm/settled"] is False  # it only passes by
    assert settled([60] * 20 + [99, 101], regularize_all=False)["norm/settled"] is False  # kernels have half
    assert settled([198] * 2, regularize_all=False)["norm/settled"] is True
    assert settled([10, 99, 101])["norm/over_target"] == pytest.approx(1.01)
    assert "norm/settled" not in settled([1, 2], target=0.0)


# -- judges, on tables made by hand


def judged(module, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = module.judge(Results(pd.DataFrame(rows), {}, {}))
    assert verdict.reason and verdict.test and "\n" not in str(verdict)
    return verdict


SPREAD = 1e-3 * np.array([1, -2, 3, 0, -1, 2, -3, 1])
NORMS = {"none": 400, "weight_decay": 100, "norm_bias": 1000}


def rows_of(regularizer, accuracy, seeds=8, norm=None, coefficient=0.1, target=1000.0, **fields):
    setting = {"none": (0.0, 0.0), "weight_decay": (coefficient, 0.0), "norm_bias": (coefficient, target)}[regularizer]
    start = {"regularizer": regularizer, "coefficient": setting[0], "norm_target": setting[1], "diverged_epoch": None}
    sign = {"none": 1, "weight_decay": -1, "norm_bias": 2}[regularizer]
    common = {"config_id": "x", "model": "mlp", **start, **fields}
    return [
        {**common, "seed": i, "test/accuracy": accuracy + sign * SPREAD[i], "norm/all": (norm or NORMS[regularizer]) + i % 3}
        for i in range(seeds)
    ]


def three(none, decay, bias, **fields):
    return rows_of("none", none, **fields) + rows_of("weight_decay", decay, **fields) + rows_of("norm_bias", bias, **fields)


def test_refuted_where_a_larger_norm_beats_a_weight_decay_that_does_no_harm():
    verdict = judged(norm_bias, three(0.90, 0.92, 0.94))
    assert verdict.outcome == "refuted" and "+2 [" in verdict.reason and "8 paired seeds" in verdict.reason
    assert "1e+03, 101, 401" in verdict.reason
    assert judged(norm_bias, three(0.92, 0.92, 0.94)).outcome == "refuted"  # weight decay does nothing
    assert judged(norm_bias, three(0.95, 0.90, 0.93)).outcome == "undecided"  # it was too strong
    low = rows_of("none", 0.90) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94, norm=50)
    assert judged(norm_bias, low).outcome == "undecided"  # norm-bias did not reach a larger norm


def test_supported_where_weight_decay_beats_both_at_the_smallest_norm():
    assert judged(norm_bias, three(0.90, 0.94, 0.91)).outcome == "supported"
    assert judged(norm_bias, three(0.94, 0.94, 0.91)).outcome == "undecided"  # it does not help
    assert judged(norm_bias, three(0.90, 0.94, 0.94)).outcome == "undecided"  # norm-bias helps as much
    larger = rows_of("none", 0.90, norm=50) + rows_of("weight_decay", 0.94) + rows_of("norm_bias", 0.91)
    assert judged(norm_bias, larger).outcome == "undecided"  # weight decay's norm is not the smallest


def test_six_paired_seeds_are_needed():
    few = judged(norm_bias, three(0.90, 0.92, 0.94, seeds=5))
    assert few.outcome == "undecided" and "Fewer than 6 paired seeds" in few.reason
    assert judged(norm_bias, three(0.90, 0.92, 0.94, seeds=6)).outcome == "refuted"
    unpaired = rows_of("none", 0.9) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94)[3:]
    assert "Fewer than 6" in judged(norm_bias, unpaired).reason
    assert judged(norm_bias, rows_of("none", 0.9) + rows_of("norm_bias", 0.94)).outcome == "undecided"
    assert judged(norm_bias, rows_of("weight_decay", 0.9) + rows_of("norm_bias", 0.94)).outcome == "undecided"


def test_every_weight_decay_of_a_network_must_be_beaten():
    rows = three(0.90, 0.92, 0.94)
    assert judged(norm_bias, rows + rows_of("weight_decay", 0.91, coefficient=0.2)).outcome == "refuted"
    assert judged(norm_bias, rows + rows_of("weight_decay", 0.94, coefficient=0.2)).outcome == "undecided"
    rows = three(0.90, 0.94, 0.91)
    assert judged(norm_bias, rows + rows_of("norm_bias", 0.91, target=2000.0, norm=2000)).outcome == "supported"
    assert judged(norm_bias, rows + rows_of("norm_bias", 0.94, target=2000.0, norm=2000)).outcome == "undecided"


def test_networks_are_not_mixed():
    refuting, supporting = three(0.90, 0.92, 0.94, width=8), three(0.70, 0.74, 0.71, width=16)
    verdict = judged(norm_bias, refuting + supporting)
    assert verdict.outcome == "refuted" and "mlp width=8" in verdict.reason and "width=16" not in verdict.reason
    assert judged(norm_bias, supporting + three(0.90, 0.94, 0.91, width=32)).outcome == "supported"
    assert judged(norm_bias, supporting + three(0.90, 0.91, 0.91, width=32)).outcome == "undecided"


def diverged(rows, count):
    return [{**row, "test/accuracy": np.nan, "norm/all": np.nan, "diverged_epoch": 3.0} for row in rows[:count]] + rows[count:]


def test_diverged_runs_are_counted_and_never_averaged():
    rows = diverged(rows_of("none", 0.9), 8) + rows_of("weight_decay", 0.92) + rows_of("norm_bias", 0.94)
    verdict = judged(norm_bias, rows)  # without a regularizer nothing trains: weight decay does no harm
    assert verdict.outcome == "refuted"
    rows = rows_of("none", 0.9) + rows_of("weight_decay", 0.92) + diverged(rows_of("norm_bias", 0.94), 3)
    assert judged(norm_bias, rows).outcome == "undecided"
    missing = [{k: v for k, v in row.items() if "/" not in k} for row in three(0.9, 0.9, 0.9)]
    assert judged(norm_bias, missing).outcome == "undecided"


def test_a_norm_away_from_its_target_is_told():
    rows = three(0.90, 0.92, 0.94)
    for row in rows[-8:]:
        row.update({"norm/over_target": 0.5 if row["seed"] < 2 else 1.0, "norm/settled": row["seed"] >= 2})
    verdict = judged(norm_bias, rows)
    assert "Warning: in 2 of 8 networks under norm_bias" in verdict.reason and "0.5 to 0.5 of it" in verdict.reason
    for row in rows[-8:]:
        row.update({"norm/over_target": 1.0, "norm/settled": True})
    assert "Warning" not in judged(norm_bias, rows).reason


def profiled(accuracies, none=0.90, seeds=8, ratios=None, **fields):
    ratios = ratios or {m: m for m in accuracies}
    return [
        {"config_id": "x", "model": "mlp", "multiple": m, "seed": i, "test/accuracy": accuracy + (-1) ** j * SPREAD[i],
         "none/accuracy": none + 0.5 * SPREAD[i], "norm/over_none": ratios[m], "norm/all": 400 * ratios[m] + i,
         "diverged_epoch": None, **fields}
        for j, (m, accuracy) in enumerate(accuracies.items()) for i in range(seeds)
    ]  # fmt: skip


def test_judge_of_norm_profile():
    falling = judged(norm_profile, profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80}))
    assert falling.outcome == "supported" and "highest at 0.1" in falling.reason and "-0.9" in falling.reason
    assert judged(norm_profile, profiled({0.1: 0.80, 1.0: 0.90, 10.0: 0.95})).outcome == "refuted"
    middle = judged(norm_profile, profiled({0.1: 0.80, 1.0: 0.90, 10.0: 0.80}, none=0.85))
    assert middle.outcome == "refuted" and "; 1 beats all below 1, the nearest by +10 [" in middle.reason
    without = judged(norm_profile, profiled({0.1: 0.80, 1.0: 0.80, 10.0: 0.80}, none=0.85))
    assert without.outcome == "refuted" and "; none beats all below 1" in without.reason
    assert judged(norm_profile, profiled({0.1: 0.80, 0.5: 0.95, 1.0: 0.90, 10.0: 0.80})).outcome == "supported"
    assert judged(norm_profile, profiled({0.1: 0.90, 1.0: 0.90, 10.0: 0.90})).outcome == "undecided"
    assert judged(norm_profile, profiled({0.1: 0.95, 1.0: 0.90}, none=0.95)).outcome == "undecided"  # as good without
    assert judged(norm_profile, profiled({0.1: 0.95, 1.0: 0.90}, seeds=5)).outcome == "undecided"
    assert judged(norm_profile, profiled({10.0: 0.95}, none=0.9)).outcome == "undecided"  # nothing is small
    # What counts is the norm that was reached: here no target below 1 was.
    reached = {0.1: 1.1, 1.0: 1.1, 10.0: 5.0}
    assert judged(norm_profile, profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80}, ratios=reached)).outcome == "undecided"


def test_judge_of_norm_profile_with_diverged_networks_and_several():
    rows = profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80})
    for row in rows[-8:]:
        row.update({"test/accuracy": np.nan, "norm/all": np.nan, "norm/over_none": np.nan, "diverged_epoch": 2.0})
    verdict = judged(norm_profile, rows)
    assert verdict.outcome == "supported"
    missing = [{k: v for k, v in row.items() if "/" not in k} for row in rows]
    assert judged(norm_profile, missing).outcome == "undecided"
    other = profiled({0.1: 0.80, 1.0: 0.90}, width=16)
    assert judged(norm_profile, profiled({0.1: 0.95, 1.0: 0.80}, width=8) + other).outcome == "refuted"
    with_norm = profiled({0.1: 0.95, 1.0: 0.90, 10.0: 0.80}, **{"norm/scale_invariant": 1.0})
    assert "scale-invariant weights" in judged(norm_profile, with_norm).reason
