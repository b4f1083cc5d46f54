"""training/fit.py and regularizers.py: the SGD step against NumPy, schedule, exact resume, divergence, several devices.
"""
import dataclasses
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.evaluation import evaluate
from analysis.parameters import get_parameters
from models import NetworkConfig, build
from reporting.run_folder import Run
from training.data import DataConfig, batches, load
from training.fit import TrainingConfig, fit, loss_reached, make_ready, on_epochs

SMALL = NetworkConfig(width=8, depth=1, dtype="float64")
TRAINING = TrainingConfig(loss="squared", epochs=3, batch_size=32, learning_rate=0.02)


@pytest.fixture(scope="module")
def data():
    return load(DataConfig(train_size=200, test_size=50), seed=0)


def network(data, seed=0, config=SMALL):
    return build(config, data.input_shape, data.num_classes, seed=seed)


def trained(data, training=TRAINING, seed=0, run=None, config=SMALL):
    model = network(data, seed, config)
    history = fit(model, data, training, seed=seed, run=run)
    return get_parameters(model), history


def test_sgd_with_momentum_schedule_and_weight_decay_against_numpy(data):
    """A linear model by hand: every step, its learning rate, momentum and L2 term in plain NumPy."""
    training = dataclasses.replace(
        TRAINING, epochs=4, decay_epochs=(1, 3), decay_factor=0.5, regularizer="weight_decay", coefficient=0.1
    )
    model = network(data, config=NetworkConfig(widths=(5,), activation="linear", dtype="float64"))
    theta = [v.numpy() for v in model.trainable_variables]
    momentum = float(np.float32(0.9))  # Keras casts it by way of float32, the rate too
    velocity = [np.zeros_like(t) for t in theta]
    pipeline, steps = batches(data, batch_size=32, seed=0, epochs=4, dtype="float64")
    for step, (x, y) in enumerate(pipeline.as_numpy_iterator()):
        w1, b1, w2, b2 = theta
        x = x.reshape(len(x), -1)
        h = x @ w1 + b1
        d = (h @ w2 + b2 - y) / len(x)
        gradients = [x.T @ d @ w2.T, (d @ w2.T).sum(0), h.T @ d, d.sum(0)]
        rate = float(np.float32(0.02 * 0.5 ** ((step >= steps) + (step >= 3 * steps))))
        velocity = [momentum * v - rate * (g + 0.1 * t) for v, g, t in zip(velocity, gradients, theta)]
        theta = [t + v for t, v in zip(theta, velocity)]
    history = fit(model, data, training, seed=0)
    for value, expected in zip(model.trainable_variables, theta):
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-11, atol=1e-13)  # the loss is not taken in float32
    assert [round(r["learning_rate"], 6) for r in history.rows] == [0.01, 0.01, 0.005, 0.005]  # at the epochs' ends


def test_norm_bias_with_target_zero_is_weight_decay(data):
    decay, _ = trained(data, dataclasses.replace(TRAINING, regularizer="weight_decay", coefficient=0.1))
    bias, _ = trained(data, dataclasses.replace(TRAINING, regularizer="norm_bias", coefficient=0.1))
    np.testing.assert_array_equal(decay, bias)


@pytest.mark.parametrize("regularize_all", [True, False])
def test_the_norm_that_is_regularized_settles_at_its_target(data, regularize_all):
    training = dataclasses.replace(TRAINING, epochs=40, regularizer="norm_bias", coefficient=0.05, norm_target=100.0)
    _, history = trained(data, dataclasses.replace(training, regularize_all=regularize_all))
    inside, outside = ("norm/all", "norm/kernels") if regularize_all else ("norm/kernels", "norm/all")
    assert abs(history.rows[0][inside] - 100) > 5  # it had to move
    assert max(abs(row[inside] / 100 - 1) for row in history.rows[-10:]) < 0.02
    assert history.rows[-1][outside] != history.rows[-1][inside]


def test_coefficient_zero_is_none_to_the_bit(data):
    plain, _ = trained(data)
    zero, _ = trained(data, dataclasses.replace(TRAINING, regularizer="norm_bias", coefficient=0.0, norm_target=5.0))
    np.testing.assert_array_equal(plain, zero)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_in_one_graph_has_the_bits_of_keras_own_loop_over_the_batches(augment):
    data = load(DataConfig(train_size=70, augment=augment), seed=0)
    training = dataclasses.replace(TRAINING, epochs=3, batch_size=32, decay_epochs=(2,))
    model, peer = (network(data, config=NetworkConfig(model="convnet", width=4)) for _ in range(2))
    history = fit(model, data, training, seed=5)
    make_ready(peer, training, len(data.x_train))
    pipeline, steps = batches(data, batch_size=32, seed=5, epochs=3)
    logs = peer.fit(pipeline, epochs=3, steps_per_epoch=steps, verbose=0).history
    for one, other in zip((*model.variables, *model.optimizer.variables), (*peer.variables, *peer.optimizer.variables)):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert [row["train/loss"] for row in history.rows] == logs["loss"]
    assert [row["train/accuracy"] for row in history.rows] == logs["accuracy"]


class TwiceTheLoss(keras.Model):
    """A model whose training step has logs of its own."""

    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "loss": 2 * logs["loss"], "own": 1.0}


def test_a_person_s_own_training_step_keeps_its_logs(data):
    base, peer = network(data), network(data)
    rows = fit(TwiceTheLoss(base.inputs, base.outputs), data, TRAINING, seed=0).rows
    plain = fit(peer, data, TRAINING, seed=0).rows
    # Keras gives the logs of the last step, a running mean over the epoch.
    assert [row["train/loss"] for row in rows] == [2 * row["train/loss"] for row in plain]


def test_a_model_that_was_built_on_a_device_s_strategy_trains_to_the_same_bits(data):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        scoped = network(data)
    plain = network(data)
    for model in (scoped, plain):
        fit(model, data, TRAINING, seed=0)
    for one, other in zip(scoped.variables, plain.variables):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_one_model_trains_with_augmentation_and_without(data):
    plain = load(DataConfig(train_size=70), seed=0)
    moved = dataclasses.replace(plain, augment=True)
    model, fresh = network(plain), network(plain)
    start = [v.numpy() for v in model.variables]
    fit(model, plain, TRAINING, seed=0)
    for variable, value in zip(model.variables, start):
        variable.assign(value)
    for each in (model, fresh):
        fit(each, moved, TRAINING, seed=0)
    for one, other in zip(model.variables, fresh.variables):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_model_keeps_no_hold_on_the_data_it_was_trained_on(data, monkeypatch):
    held = []

    def watched(*args, **kwargs):
        call = on_epochs(*args, **kwargs)  # holds the data
        held.append(weakref.ref(call))
        return call

    monkeypatch.setattr("training.fit.on_epochs", watched)
    model = network(data)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, TRAINING, seed=0, callbacks=[Interrupt(1)])
    fit(model, data, TRAINING, seed=0)
    gc.collect()
    assert [reference() for reference in held] == [None, None]


def test_same_seed_same_bits_other_seed_other_bits(data):
    first, history = trained(data)
    again, history_again = trained(data)
    np.testing.assert_array_equal(first, again)
    drop = lambda rows: [{k: v for k, v in r.items() if k != "seconds"} for r in rows]  # noqa: E731
    assert drop(history.rows) == drop(history_again.rows)
    other, _ = trained(data, seed=1)
    assert not np.array_equal(first, other)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        pytest.param(NetworkConfig("resnet", width=2, depth=1), marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(NetworkConfig(width=8, dropout=0.3), marks=pytest.mark.slow),
    ],
)
def test_resume_is_exact_from_any_epoch(data, tmp_path, config):
    training = dataclasses.replace(TRAINING, epochs=4, decay_epochs=(2,), regularizer="weight_decay", coefficient=1e-3)
    whole, history = trained(data, training, config=config)
    for epoch in (1, 3):
        model, run = network(data, config=config), Run(tmp_path / str(epoch), "a", {})
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, training, seed=0, run=run, callbacks=[Interrupt(epoch)])
        keras.backend.clear_session()
        model, run = network(data, seed=99, config=config), Run(tmp_path / str(epoch), "a", {})  # other initial weights
        resumed = fit(model, data, training, seed=0, run=run)
        np.testing.assert_array_equal(get_parameters(model), whole)
        assert [r["train/loss"] for r in resumed.rows] == [r["train/loss"] for r in history.rows]
        assert [r["epoch"] for r in run.history["training"]] == [1, 2, 3, 4]


def test_probes_survive_a_resume(data, tmp_path):
    """A run interrupted between two measured epochs ends with what an uninterrupted one saw."""
    training = dataclasses.replace(TRAINING, epochs=4)

    def probe(model, epoch):
        return {"sum": np.array(get_parameters(model).sum())} if epoch in (1, 4) else None

    whole = fit(network(data), data, training, seed=0, probe=probe)
    with pytest.raises(KeyboardInterrupt):
        run = Run(tmp_path, "a", {})
        fit(network(data), data, training, seed=0, run=run, callbacks=[Interrupt(3)], probe=probe)
    resumed = fit(network(data), data, training, seed=0, run=Run(tmp_path, "a", {}), probe=probe)
    assert sorted(resumed.probes) == [1, 4] and resumed.probes == whole.probes


def test_training_ends_at_the_first_epoch_that_reaches_the_loss(data, tmp_path):
    """The same bits as a training of so many epochs; taken up from an interruption, and not gone on with once ended."""
    training = dataclasses.replace(TRAINING, epochs=12)
    losses, target = [], 0.452

    def note(model, epoch):
        losses.append(evaluate(model, data.x_train, data.y_train, "squared")[0])

    fit(network(data), data, training, seed=0, probe=note)
    expected = 1 + next(i for i, loss in enumerate(losses) if loss <= target)
    assert 2 < expected < 12
    whole, _ = trained(data, dataclasses.replace(training, epochs=expected))
    until = loss_reached(data, "squared", target)
    with pytest.raises(KeyboardInterrupt):
        fit(
            network(data), data, training, seed=0, run=Run(tmp_path, "a", {}), until=until,
            callbacks=[Interrupt(expected - 1)],
        )  # fmt: skip
    for _ in range(2):
        model = network(data)
        history = fit(model, data, training, seed=0, run=Run(tmp_path, "a", {}), until=until)
        np.testing.assert_array_equal(get_parameters(model), whole)
        assert [row["epoch"] for row in history.rows] == list(range(1, expected + 1))
        assert "test/accuracy" in history.rows[-1] and history.diverged_epoch is None


def test_checkpoint_of_another_config_is_refused(data, tmp_path):
    run = Run(tmp_path, "a", {})
    trained(data, run=run)
    path = tmp_path / "runs" / "a" / "checkpoint" / "training.npz"
    other = tmp_path / "runs" / "b" / "checkpoint" / "training.npz"
    other.parent.mkdir(parents=True)
    path.rename(other)
    with pytest.raises(ValueError, match="belongs to another config"):
        trained(data, run=Run(tmp_path, "b", {}))
    assert other.exists()


def test_damaged_checkpoint_starts_again(data, tmp_path):
    whole, _ = trained(data, run=Run(tmp_path, "a", {}))
    path = tmp_path / "runs" / "a" / "checkpoint" / "training.npz"
    path.write_bytes(path.read_bytes()[:200])
    again, history = trained(data, run=Run(tmp_path, "a", {}))
    np.testing.assert_array_equal(again, whole)
    assert len(history.rows) == 3


def test_divergence_is_recorded_and_stops(data):
    _, history = trained(data, dataclasses.replace(TRAINING, epochs=20, learning_rate=1e6))
    assert history.diverged_epoch == len(history.rows) < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"momentum": 1.0}, "momentum"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"coefficient": -1.0, "regularizer": "weight_decay"}, "coefficient"),
        ({"coefficient": 0.1}, "needs a regularizer"),
        ({"norm_target": 1.0}, "needs regularizer norm_bias"),
        ({"regularizer": "l1"}, "unknown regularizer"),
        ({"decay_epochs": (5, 3)}, "decay_epochs"),
        ({"strategy": "horovod"}, "unknown strategy"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options).validate()


MIRRORED = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import dataclasses, numpy as np
from tests.training.test_fit import TRAINING, SMALL, network, trained
from analysis.parameters import get_parameters
from training.data import DataConfig, load
from training.fit import fit, scope
data = load(DataConfig(train_size=192, test_size=50), seed=0)
training = dataclasses.replace(TRAINING, strategy="mirrored", regularizer="norm_bias", coefficient=0.1, norm_target=3.0)
with scope(training, devices=["CPU:0", "CPU:1"]):
    model = network(data)
history = fit(model, data, training, seed=0)
single, _ = trained(data, dataclasses.replace(training, strategy="single"))
assert model.distribute_strategy.num_replicas_in_sync == 2
print(np.abs(get_parameters(model) - single).max())
"""


@pytest.mark.slow
def test_mirrored_on_two_devices_trains_the_same_network():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", MIRRORED], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 1e-12
