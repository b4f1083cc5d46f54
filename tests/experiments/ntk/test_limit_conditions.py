"""experiments/ntk/limit_conditions.py: rates that go with width, equal losses, other initializations, bad input."""
import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis.evaluation import evaluate
from analysis.parameters import get_parameters
from experiments.ntk import drift, evolution, features, linearization
from experiments.ntk.limit_conditions import describe_missed, of_redraw, scaled_training, train
from harness import grid, runner
from harness.runner import InvalidInput
from models import NetworkConfig
from training.data import DataConfig, load
from training.fit import TrainingConfig, build_network, fit

EXPERIMENTS = (drift.EXPERIMENT, evolution.EXPERIMENT, features.EXPERIMENT, linearization.EXPERIMENT)
DATA = DataConfig(dataset="gaussian", train_size=40, test_size=10)


@pytest.mark.parametrize(
    ("network", "factor"),
    [
        (NetworkConfig(width=256), 1 / 4),
        (NetworkConfig(), 1),  # the model's own width, 64
        (NetworkConfig("resnet", width=16), 4),
        (NetworkConfig("mlp_ntk", width=256), 1),  # one rate for all widths
    ],
)
def test_the_rate_is_in_proportion_to_1_over_width(network, factor):
    config = drift.Config(network=network, rate_scaling="width", training=TrainingConfig(learning_rate=0.08))
    assert scaled_training(config) == dataclasses.replace(config.training, learning_rate=0.08 * factor)
    assert scaled_training(dataclasses.replace(config, rate_scaling="none")) is config.training


def test_training_uses_the_scaled_rate_to_the_bit():
    config = drift.Config(
        network=NetworkConfig(width=128, depth=1), data=DATA, rate_scaling="width",
        training=TrainingConfig(learning_rate=0.1, epochs=2, batch_size=20),
    )  # fmt: skip
    data = load(DATA, seed=0)
    scaled, plain = (build_network(config, data) for _ in range(2))
    train(scaled, data, config, None)
    fit(plain, data, dataclasses.replace(config.training, learning_rate=0.05), seed=0)
    np.testing.assert_array_equal(get_parameters(scaled), get_parameters(plain))


def test_training_ends_at_the_target_loss():
    config = drift.Config(
        network=NetworkConfig(width=64, depth=1), data=DATA, target_loss=0.5,
        training=TrainingConfig(learning_rate=0.1, epochs=200, batch_size=20),
    )  # fmt: skip
    data = load(DATA, seed=0)
    model = build_network(config, data)
    history = train(model, data, config, None)
    assert 1 < len(history.rows) < 200
    assert evaluate(model, data.x_train, data.y_train, "cross_entropy")[0] <= 0.5


def test_another_initialization_is_that_of_no_seed_and_repeats():
    data = load(DATA, seed=0)
    config = drift.Config(network=NetworkConfig(width=4, depth=1), data=DATA)
    model = build_network(config, data)
    own = get_parameters(model)
    other, again = (of_redraw(get_parameters, model, config, data) for _ in range(2))
    np.testing.assert_array_equal(other, again)
    np.testing.assert_array_equal(get_parameters(model), own)
    assert of_redraw(lambda asked: asked is model, model, config, data)  # so that what was traced of it serves both
    for seed in (0, 1, 2):
        assert not np.array_equal(other, get_parameters(build_network(dataclasses.replace(config, seed=seed), data)))


def test_runs_that_missed_their_loss_are_counted():
    rows = pd.DataFrame({"target_loss": [0.1, 0.1, 0.1, 0.1], "train/loss": [0.09, 0.2, 0.1, np.nan]})
    assert describe_missed(rows) == "1 of 4 runs did not reach the training loss of 0.1"  # one diverged
    assert describe_missed(rows.assign(target_loss=None)) == ""


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.measure.__module__.split(".")[-1])
def test_ids_of_earlier_configs_stay(experiment):
    """The new fields at their defaults do what was done before, and are not part of an id."""
    config = experiment.config()
    assert {"rate_scaling", "target_loss"}.isdisjoint(grid.identifying(config))
    changed = dataclasses.replace(config, rate_scaling="width")
    assert runner.config_id(experiment, changed) != runner.config_id(experiment, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_scaling": "depth"}, "unknown rate_scaling 'depth': allowed are none, width"),
        ({"widths": (8, 4)}, "rate_scaling width needs a model by name and one --width"),
        ({"target_loss": 0.0}, "target_loss must be a finite number above 0"),
        ({"target_loss": float("inf")}, "target_loss must be a finite number above 0"),
        ({"model": "nowhere.keras"}, "model file nowhere.keras does not exist"),
        ({"model": "damaged.keras"}, "model file damaged.keras cannot be loaded"),
    ],
)
def test_bad_input_ends_before_any_training(tmp_path, monkeypatch, options, message):
    import run_ntk

    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.keras").write_text("no zip")
    with pytest.raises(InvalidInput, match=message):
        run_ntk.run("drift", out_dir=tmp_path / "out", quiet=True, **options)
    assert not (tmp_path / "out").exists()


def test_a_stored_file_keeps_its_own_rate(tmp_path):
    data = load(DATA, seed=0)
    model = build_network(drift.Config(network=NetworkConfig(width=4, depth=1)), data)
    path = tmp_path / "mine.keras"
    model.save(path)
    configs, _ = grid.expand(drift.EXPERIMENT, {"model": str(path), "dataset": "gaussian", "seed": 0})
    assert {config.rate_scaling for config in configs} == {"none"}
    assert of_redraw(get_parameters, model, configs[0], data) is None
