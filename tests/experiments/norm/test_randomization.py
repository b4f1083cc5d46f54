"""experiments/norm/randomization.py: fitted and stopped as told, resumed to the bit, regularizers by one flag."""
import keras
import numpy as np
import pytest

from experiments.norm import randomization
from experiments.norm.randomization import EXPERIMENT, EXPLICIT_REGULARIZERS, Config, fits
from harness.grid import expand, identifying
from models import NetworkConfig, build
from reporting.run_folder import Run
from training.data import DataConfig, load
from training.fit import Keeper, TrainingConfig, fit

CONFIG = Config(
    NetworkConfig(width=128, depth=1),
    DataConfig(train_size=100, test_size=100, label_noise=1.0),
    TrainingConfig(epochs=60, batch_size=25, learning_rate=0.05),
)


@pytest.fixture(scope="module")
def data():
    return load(CONFIG.data, seed=0)


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """What an uninterrupted run measures."""
    return randomization.measure(CONFIG, data, Run(tmp_path_factory.mktemp("whole"), "whole", {}))


def test_fits_counts_exactly():
    labels = np.arange(1000) % 4
    model = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
    for wrong, answer in ((0, True), (10, True), (11, False), (900, False)):
        guesses = np.where(np.arange(1000) >= 1000 - wrong, (labels + 1) % 4, labels)
        assert fits(model, np.eye(4, dtype=np.float32)[guesses], labels, block=300) is answer


def test_the_fitted_epoch_is_the_first_whose_evaluated_accuracy_reaches_99_percent(data, expected):
    """Against training without the probe that stops, evaluated after every epoch."""
    model = build(CONFIG.network, data.input_shape, 10, seed=0)
    accuracy = []
    training = TrainingConfig(epochs=expected["fitted_epoch"], batch_size=25, learning_rate=0.05)
    labels = data.y_train.argmax(axis=1)

    def probe(model, epoch):
        accuracy.append(np.mean(model.predict_on_batch(data.x_train).argmax(axis=1) == labels))

    fit(model, data, training, seed=0, probe=probe)
    assert accuracy[-1] >= 0.99 and max(accuracy[:-1]) < 0.99
    assert expected["trained_epochs"] == expected["fitted_epoch"] + CONFIG.epochs_after_fit


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [-1, *(pytest.param(epochs, marks=pytest.mark.slow) for epochs in (0, 3)), 5])
def test_an_interrupted_run_ends_with_the_same_bits(after, data, expected, tmp_path, monkeypatch):
    """Killed before the fit, at it, between fit and stop, and once stopped but without a result."""
    kill_at = expected["fitted_epoch"] + after

    class Killed(Run):
        def save_checkpoint(self, stage, state):
            super().save_checkpoint(stage, state)
            if len(state["rows"]) == kill_at:
                raise Interrupted

    # A checkpoint after every epoch, not only when there is time for one.
    def report(self, epoch, row, last):
        self.run.save_checkpoint(self.stage, self.state())

    monkeypatch.setattr(Keeper, "report", report)
    with pytest.raises(Interrupted):
        randomization.measure(CONFIG, data, Killed(tmp_path, "killed", {}))
    assert randomization.measure(CONFIG, data, Run(tmp_path, "killed", {})) == expected


def test_regularizers_are_switched_by_one_flag():
    given = {"explicit_regularizer": list(EXPLICIT_REGULARIZERS), "label_noise": 0.0, "pixel_noise": "none", "depth": 1}
    configs, _ = expand(EXPERIMENT, {**given, "seed": 0})
    on = {
        c.explicit_regularizer: (c.training.regularizer, c.training.coefficient, c.data.augment, c.network.dropout)
        for c in configs
    }
    assert on == {
        "none": ("none", 0.0, False, 0.0),
        "weight_decay": ("weight_decay", 5e-4, False, 0.0),
        "augment": ("none", 0.0, True, 0.0),
        "dropout": ("none", 0.0, False, 0.2),
        "all": ("weight_decay", 5e-4, True, 0.2),
    }


def test_dropout_is_left_out_where_the_model_has_none_and_corruptions_come_one_at_a_time():
    given = {"model": ["mlp", "alexnet"], "explicit_regularizer": ["none", "dropout"], "depth": 1, "seed": 0}
    configs, _ = expand(EXPERIMENT, given)
    assert {c.network.model for c in configs if c.explicit_regularizer == "dropout"} == {"mlp"}
    seen = {(c.data.label_noise, c.data.pixel_noise) for c in configs}
    assert len(seen) == 6 and all(p == 0 or pixels == "none" for p, pixels in seen)
    assert len(configs) == 6 * 3


def test_renamed_fields_go_by_their_earlier_names_in_ids():
    fields = identifying(Config(explicit_regularizer="augment", epochs_after_fit=7))
    assert fields["explicit"] == "augment" and fields["settle"] == 7
    assert not fields.keys() & {"explicit_regularizer", "epochs_after_fit"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explicit_regularizer": "l1"}, "unknown explicit_regularizer 'l1'"),
        ({"augment": True}, "augment is switched by explicit_regularizer"),
        ({"regularizer": "norm_bias"}, "regularizer norm_bias does not apply here"),
        ({"explicit_regularizer": "weight_decay", "coefficient": 0.0}, "needs a coefficient > 0"),
        ({"epochs_after_fit": -1}, "epochs_after_fit must be 0 or positive"),
        ({"label_noise": 0.5, "pixel_noise": "random"}, "One corruption at a time"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        expand(EXPERIMENT, options)
