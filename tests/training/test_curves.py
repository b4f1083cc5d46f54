"""training/curves.py: the network on a curve, its training, and that it resumes to the bit."""
import dataclasses

import numpy as np
import pytest

from analysis.parameters import get_parameters, set_parameters
from analysis.paths import barrier, bezier, line, measure_along
from models import NetworkConfig, build
from reporting.run_folder import Run
from training.curves import BezierCurve
from training.data import DataConfig, load
from training.fit import TrainingConfig, fit

TRAINING = TrainingConfig(epochs=6, learning_rate=0.05, batch_size=20)


@pytest.fixture(scope="module")
def data():
    return load(DataConfig(train_size=100, test_size=50), seed=0)


def ends(config, data):
    networks = [build(config, data.input_shape, data.num_classes, seed=seed) for seed in (0, 1)]
    return networks[0], *map(get_parameters, networks)


@pytest.mark.parametrize("config", [NetworkConfig("mlp", width=8), NetworkConfig("resnet", width=2, depth=1)])
def test_it_is_the_network_in_the_middle_and_trains_its_control_point_alone(config, data):
    network, a, b = ends(config, data)
    curve = BezierCurve(network, a, b, seed=0)
    assert len(curve.trainable_variables) == len(network.trainable_variables)
    np.testing.assert_allclose(curve.control_point, (a + b) / 2, atol=1e-7)
    middle = curve(data.x_test, training=False)
    np.testing.assert_array_equal(get_parameters(network), a)
    set_parameters(network, bezier(a, curve.control_point, b)(0.5))
    np.testing.assert_allclose(middle, network(data.x_test, training=False), rtol=1e-4, atol=1e-5)
    before = [v.numpy() for v in network.variables]
    history = fit(curve, data, TRAINING, seed=0)
    assert history.diverged_epoch is None and history.rows[-1]["train/loss"] < history.rows[0]["train/loss"]
    assert np.linalg.norm(curve.control_point - (a + b) / 2) > 0.01
    for variable, value in zip(network.variables, before):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_is_one_of_the_expected_loss_over_the_curve(decay, data):
    """One step on the whole training set: at the t that it drew, the chain rule gives 2 t (1 - t) of the gradient.

    Weight decay is that of the network at t, not of the control point.
    """
    import keras
    import tensorflow as tf

    from analysis.losses import LOSSES

    network, a, b = ends(NetworkConfig("mlp", width=8, depth=1, dtype="float64"), data)
    curve = BezierCurve(network, a, b, seed=3, weight_decay=decay)
    one = dataclasses.replace(TRAINING, epochs=1, batch_size=100, momentum=0.0)
    fit(curve, data, one, seed=0)
    t = float(keras.random.uniform((), dtype="float64", seed=keras.random.SeedGenerator(3)))
    set_parameters(network, bezier(a, (a + b) / 2, b)(t))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(LOSSES["cross_entropy"](data.y_train, network(data.x_train)))
    gradient = tape.gradient(loss, [v.value for v in network.trainable_variables])
    gradient = np.concatenate([np.asarray(g).ravel() for g in gradient]) + decay * get_parameters(network)
    step = curve.control_point - (a + b) / 2
    np.testing.assert_allclose(step, -0.05 * 2 * t * (1 - t) * gradient, rtol=1e-5, atol=1e-9)


def test_it_lowers_the_barrier_of_the_line(data):
    network, *_ = ends(NetworkConfig("mlp", width=16, depth=1), data)
    trained = []
    for seed in (0, 1):
        network.set_weights(build(NetworkConfig("mlp", width=16, depth=1), (8, 8, 1), 10, seed=seed).get_weights())
        fit(network, data, dataclasses.replace(TRAINING, epochs=40), seed=seed)
        trained.append(get_parameters(network))
    curve = BezierCurve(network, *trained, seed=0)
    fit(curve, data, dataclasses.replace(TRAINING, epochs=40), seed=0)
    times, sets = np.linspace(0, 1, 11), {"train": (data.x_train, data.y_train)}
    heights = [
        barrier(times, measure_along(network, path, times, sets, "cross_entropy")["train"][0]).height
        for path in (line(*trained), bezier(trained[0], curve.control_point, trained[1]))
    ]
    assert heights[1] < 0.2 * heights[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "config", [NetworkConfig("mlp", width=4, dropout=0.2), NetworkConfig("resnet", width=2, depth=1)]
)
def test_an_interrupted_training_ends_with_the_same_bits(config, data, tmp_path):
    def trained(run, probe=None):
        network, a, b = ends(config, data)
        curve = BezierCurve(network, a, b, seed=0)
        history = fit(curve, data, TRAINING, seed=0, run=run, stage="curve", probe=probe)
        return curve, history

    def kill(model, epoch):
        if epoch == 4:
            raise Killed

    whole, history = trained(None)
    with pytest.raises(Killed):
        trained(Run(tmp_path, "a", {}), kill)
    again, resumed = trained(Run(tmp_path, "a", {}))
    np.testing.assert_array_equal(again.control_point, whole.control_point)
    assert [row["test/loss"] for row in resumed.rows if "test/loss" in row] == [
        row["test/loss"] for row in history.rows if "test/loss" in row
    ]
