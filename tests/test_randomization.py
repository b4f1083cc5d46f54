"""run_norm.py --experiment=randomization: fitted and stopped as told, resumed to the bit, the verdict's rule, bad input."""
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import run_norm
from experiments import randomization, randomization_verdict
from experiments.options import expand
from experiments.randomization import Config, fits
from experiments.runner import InvalidInput
from models import NetworkConfig
from reporting.run_folder import Run
from training.data import DataConfig, load
from training.fit import Keeper, TrainingConfig, fit

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

SMALL = {"depth": 1, "width": 128, "train_size": 100, "test_size": 200, "batch_size": 25, "learning_rate": 0.05}


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_norm.run("randomization", out_dir=folder, quiet=True, **{**SMALL, **options})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    options = {"label_noise": [0.0, 0.5, 1.0], "pixel_noise": ["none", "random"], "explicit": "none"}
    return run(tmp_path_factory.mktemp("randomization"), **options)


def test_noise_is_fitted_by_the_recipe_of_true_labels_and_tests_at_chance(report):
    table = report.results.table
    assert len(table) == 4 * 3 and table["fitted_epoch"].notna().all() and (table["train/accuracy"] > 0.97).all()
    noise = table[(table["label_noise"] == 1) | (table["pixel_noise"] == "random")]
    true = table[(table["label_noise"] == 0) & (table["pixel_noise"] == "none")]
    assert noise["test/accuracy"].between(0, 0.2).all() and true["test/accuracy"].min() > 0.7
    assert noise["fitted_epoch"].mean() > true["fitted_epoch"].mean()
    assert report.verdict.outcome == "refuted" and "random labels fitted in 3 of 3 runs" in report.verdict.reason
    names = ["label_corruption", "regularizers", "training_curves"]
    assert sorted(path.stem for path in (report.folder / "figures").iterdir()) == names


def test_training_ends_settle_epochs_after_the_first_fit(report):
    table = report.results.table
    np.testing.assert_array_equal(table["trained_epochs"], table["fitted_epoch"] + 5)
    for _, row in table.iterrows():
        assert len(report.results.histories[row["config_id"]]) == row["trained_epochs"]


def test_the_fitted_epoch_is_the_first_whose_evaluated_accuracy_reaches_99_percent(report):
    """Against training without the probe that stops, evaluated after every epoch."""
    row = report.results.over(label_noise=1.0, seed=0).iloc[0]
    data = load(DataConfig(train_size=100, test_size=200, label_noise=1.0), seed=0)
    model = randomization.models.build(NetworkConfig(width=128, depth=1), data.input_shape, 10, seed=0)
    accuracy = []
    training = TrainingConfig(epochs=int(row["fitted_epoch"]), batch_size=25, learning_rate=0.05)
    labels = data.y_train.argmax(axis=1)

    def probe(model, epoch):
        accuracy.append(np.mean(model.predict_on_batch(data.x_train).argmax(axis=1) == labels))

    fit(model, data, training, seed=0, probe=probe)
    assert accuracy[-1] >= 0.99 and max(accuracy[:-1]) < 0.99


def test_fits_counts_exactly():
    labels = np.arange(1000) % 4
    model = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
    for wrong, expected in ((0, True), (10, True), (11, False), (900, False)):
        guesses = np.where(np.arange(1000) >= 1000 - wrong, (labels + 1) % 4, labels)
        assert fits(model, np.eye(4, dtype=np.float32)[guesses], labels, block=300) is expected


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [-1, 0, 3, 5])
def test_an_interrupted_run_ends_with_the_same_bits(after, tmp_path, monkeypatch):
    """Killed before the fit, at it, between fit and stop, and once stopped but without a result."""
    config = Config(
        NetworkConfig(width=128, depth=1),
        DataConfig(train_size=100, test_size=100),
        TrainingConfig(epochs=60, batch_size=25, learning_rate=0.05),
        settle=5,
    )
    data = load(config.data, seed=0)
    expected = randomization.measure(config, data, Run(tmp_path, "whole", {}))
    kill_at = expected["fitted_epoch"] + after

    class Killed(Run):
        def save_checkpoint(self, stage, state):
            super().save_checkpoint(stage, state)
            if len(state["rows"]) == kill_at:
                raise Interrupted

    # A checkpoint after every epoch, not only when there is time for one.
    monkeypatch.setattr(Keeper, "report", lambda self, epoch, row, last: self.run.save_checkpoint(self.stage, self.state()))
    with pytest.raises(Interrupted):
        randomization.measure(config, data, Killed(tmp_path, "killed", {}))
    assert randomization.measure(config, data, Run(tmp_path, "killed", {})) == expected


def test_regularizers_are_switched_by_explicit_alone():
    given = {"explicit": list(randomization.EXPLICIT), "label_noise": 0.0, "pixel_noise": "none", "depth": 1, "seed": 0}
    configs, _ = expand(randomization, given)
    on = {c.explicit: (c.training.regularizer, c.training.coefficient, c.data.augment, c.network.dropout) for c in configs}
    assert on == {
        "none": ("none", 0.0, False, 0.0),
        "weight_decay": ("weight_decay", 5e-4, False, 0.0),
        "augment": ("none", 0.0, True, 0.0),
        "dropout": ("none", 0.0, False, 0.2),
        "all": ("weight_decay", 5e-4, True, 0.2),
    }


def test_dropout_is_left_out_where_the_model_has_none_and_corruptions_come_one_at_a_time():
    given = {"model": ["mlp", "alexnet"], "explicit": ["none", "dropout"], "depth": 1, "seed": 0}
    configs, _ = expand(randomization, given)
    assert {c.network.model for c in configs if c.explicit == "dropout"} == {"mlp"}
    seen = {(c.data.label_noise, c.data.pixel_noise) for c in configs}
    assert len(seen) == 6 and all(p == 0 or pixels == "none" for p, pixels in seen)
    assert len(configs) == 6 * 3


@pytest.mark.parametrize("options", [{"model": "inception", "batch_norm": [True, False]}, {"model": "alexnet"}])
def test_small_convolutional_networks_run_with_all_regularizers(options, tmp_path):
    given = {"width": 8, "explicit": "all", "label_noise": 1.0, "pixel_noise": "none", "epochs": 2, "seed": 0, **options}
    given["depth"] = None
    report = run_norm.run("randomization", out_dir=tmp_path, quiet=True, **{**SMALL, **given})
    assert report.verdict.outcome == "undecided" and report.results.table["train/accuracy"].notna().all()


def test_all_diverged_and_one_seed_are_undecided(tmp_path):
    report = run(tmp_path, learning_rate=1e8, label_noise=[0.0, 1.0], pixel_noise="none", explicit="none", seed=0, epochs=9)
    assert report.verdict.outcome == "undecided" and "every run diverged" in report.verdict.reason
    report = run(tmp_path, label_noise=[0.0, 1.0], pixel_noise="none", explicit="none", seed=0)
    assert report.verdict.outcome == "undecided" and "fitted in 1 of 1 runs" in report.verdict.reason


def rows(accuracies, fitted=10.0):
    return pd.DataFrame({"test/accuracy": accuracies, "fitted_epoch": fitted, "seed": range(len(accuracies))})


def test_the_rule_of_the_verdict():
    outcome = randomization_verdict.outcome
    good, chance = rows([0.9, 0.91, 0.92]), rows([0.09, 0.1, 0.11])
    assert outcome(good, chance, [], 0.1) == "refuted"
    assert outcome(good, rows([0.09, 0.1, 0.11], [10.0, None, 12.0]), [], 0.1) == "undecided"  # one was not fitted
    assert outcome(good, rows([0.107, 0.108, 0.106]), [], 0.1) == "refuted"  # so precise that chance lies outside by a hair
    assert outcome(good, rows([0.14, 0.15, 0.16]), [], 0.1) == "undecided"  # the interval reaches further
    assert outcome(good, rows([0.30, 0.31, 0.32]), [], 0.1) == "undecided"  # not at chance
    assert outcome(good.head(2), chance, [], 0.1) == "undecided"  # too few seeds
    assert outcome(chance, chance, [good], 0.1) == "supported"
    assert outcome(chance, chance, [rows([0.1, 0.12, 0.1])], 0.1) == "undecided"
    assert outcome(None, None, [], 0.1) == "undecided"


def test_slowdown_is_paired_by_seed():
    ratio = randomization_verdict.slowdown(rows([0.1] * 3, [20.0, 30.0, None]), rows([0.9] * 3, [10.0, 10.0, 10.0]))
    assert (ratio.mean, ratio.n) == (2.5, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explicit": "l1"}, "unknown explicit 'l1'"),
        ({"augment": True}, "augment is switched by explicit"),
        ({"regularizer": "norm_bias"}, "regularizer norm_bias does not apply here"),
        ({"explicit": "weight_decay", "coefficient": 0.0}, "needs a coefficient > 0"),
        ({"settle": -1}, "settle must be 0 or positive"),
        ({"label_noise": 0.5, "pixel_noise": "random"}, "One corruption at a time"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
