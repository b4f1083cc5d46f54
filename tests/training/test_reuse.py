"""training/reuse.py: a lent model is a fresh one to the bit, and what may still be held or was edited is not lent."""
import gc
import weakref
from dataclasses import dataclass, replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from harness.memo import Memo
from models import NetworkConfig
from tests.marks import long_but
from training import reuse
from training.data import DataConfig, load
from training.fit import TrainingConfig, build_network, fit


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(width=6, depth=1)
    data: DataConfig = DataConfig(dataset="gaussian", train_size=40, test_size=20)
    training: TrainingConfig = TrainingConfig(epochs=2, batch_size=8)
    seed: int = 0


@pytest.fixture(autouse=True)
def nothing_at_rest():
    reuse.clear()
    yield
    reuse.clear()


def lent(config, use=lambda model: None):
    """The model that a config gets and gives back."""
    keras.utils.set_random_seed(config.seed)
    with reuse.lending():
        model = build_network(config, load(config.data, seed=config.seed))
        use(model)
    return model


def values(model):
    return [v.numpy() for v in model.variables]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# -- bits


NETWORKS = [
    NetworkConfig(width=6, depth=1),
    NetworkConfig(width=6, depth=1, dropout=0.5),
    NetworkConfig(width=6, depth=1, dtype="float64"),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_lent_model_has_the_variables_of_a_fresh_one(network):
    first = lent(Config(network), lambda model: [v.assign(v + 1) for v in model.variables])
    again = []
    assert lent(Config(network, seed=1), lambda model: again.extend(values(model))) is first
    data = load(Config().data, seed=1)
    keras.utils.set_random_seed(1)
    assert_same(again, values(build_network(Config(network, seed=1), data)))


TRAININGS = {
    "another learning rate": ({}, {"learning_rate": 0.2}),
    "another coefficient": ({"regularizer": "weight_decay", "coefficient": 0.01}, {"coefficient": 0.3}),
    "another target": (
        {"regularizer": "norm_bias", "coefficient": 0.01, "norm_target": 5.0}, {"norm_target": 300.0},
    ),
    "kernels only": (
        {"regularizer": "weight_decay", "coefficient": 0.01, "regularize_all": False}, {"coefficient": 0.3},
    ),
    "no regularizer": ({"regularizer": "weight_decay", "coefficient": 0.01}, {"coefficient": 0.0}),
    "a schedule": ({"decay_epochs": (1,)}, {"learning_rate": 0.2}),
    "another factor": ({"decay_epochs": (1,)}, {"decay_factor": 0.5}),
    "no momentum": ({}, {"momentum": 0.0}),
    "another loss": ({}, {"loss": "squared"}),
    "other batches": ({}, {"batch_size": 20}),
    "one batch": ({"batch_size": 40}, {"batch_size": 64}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("network", long_but(NETWORKS[:1], NETWORKS[:2]))
@pytest.mark.parametrize("name", TRAININGS)
def test_training_ends_in_the_bits_of_a_fresh_model(name, network):
    given, change = TRAININGS[name]
    before = replace(Config(network).training, **given)
    config = replace(Config(network, seed=1), training=replace(before, **change))
    found = []

    def train(config, model):
        history = fit(model, load(config.data, seed=config.seed), config.training, seed=config.seed)
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        found.append((rows, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]))

    first = replace(config, training=before, seed=0)
    trained = lent(first, lambda model: train(first, model))
    assert lent(config, lambda model: train(config, model)) is trained
    keras.utils.set_random_seed(config.seed)
    train(config, build_network(config, load(config.data, seed=config.seed)))
    assert found[1][0] == found[2][0]
    assert_same(found[1][1], found[2][1])


def test_hyperparameters_that_are_variables_need_no_second_trace():
    training = TrainingConfig(epochs=1, batch_size=8, regularizer="norm_bias", coefficient=0.1, norm_target=2.0)
    traces = []

    def train(config):
        def use(model):
            fit(model, load(config.data, seed=config.seed), config.training, seed=config.seed)
            traces.append((model._compiled_for["train_epoch"], model.optimizer))

        return use

    for changes in ({}, {"learning_rate": 0.3}, {"coefficient": 0.2}, {"norm_target": 9.0}, {"epochs": 3}):
        config = replace(Config(), training=replace(training, **changes), seed=len(traces))
        lent(config, train(config))
    assert len({id(function) for function, _ in traces}) == 1
    assert traces[0][0].experimental_get_tracing_count() == 1
    optimizer = traces[0][1]
    assert (optimizer.coefficient, optimizer.norm_target) == (0.1, 2.0)  # of the last
    assert optimizer.get_config()["norm_target"] == 2.0


def test_the_optimizer_refuses_to_gain_a_regularizer():
    model = build_network(Config(), load(Config().data, seed=0))
    fit(model, load(Config().data, seed=0), Config().training, seed=0)
    with pytest.raises(ValueError, match="part of the graph"):
        model.optimizer.restart(0.1, 0.5, 0.0)


# -- who gets it


def test_other_networks_and_data_shapes_get_models_of_their_own():
    first = lent(Config())
    assert lent(Config(NetworkConfig(width=7, depth=1))) is not first
    for shape, classes in (((8, 8, 2), 10), ((8, 8, 1), 3)):
        with reuse.lending():
            data = SimpleNamespace(input_shape=shape, num_classes=classes)
            model = build_network(Config(), data)
        assert model is not first and model.input_shape[1:] == shape and model.output_shape == (None, classes)
    assert lent(Config(seed=3)) is first


def test_two_models_of_one_config_are_two():
    models = []
    for seed in (0, 1):
        with reuse.lending():
            data = load(Config().data, seed=seed)
            models.append([build_network(Config(seed=seed), data) for _ in range(2)])
    assert models[0][0] is not models[0][1] and models[1][0] is not models[1][1]
    assert {id(m) for m in models[0]} == {id(m) for m in models[1]}


def test_outside_of_a_grid_every_model_is_fresh():
    data = load(Config().data, seed=0)
    first = lent(Config())
    assert len({id(m) for m in (first, build_network(Config(), data), build_network(Config(), data))}) == 3


EDITS = {
    "activation": lambda model: setattr(model.get_layer("dense_1"), "activation", keras.activations.tanh),
    "frozen": lambda model: setattr(model.get_layer("dense_1"), "trainable", False),
    "called": lambda model: model(keras.Input(model.input_shape[1:])),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_model_that_was_edited_is_not_lent_again(edit):
    first = lent(Config(), EDITS[edit])
    assert lent(Config(seed=1)) is not first


def test_the_model_of_a_config_that_failed_is_not_lent_again():
    models = []

    def fail(model):
        models.append(model)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        lent(Config(), fail)
    assert lent(Config()) is not models[0]


def test_a_model_that_the_run_keeps_is_not_lent_again():
    memo, data = Memo(), load(Config().data, seed=0)
    with reuse.lending():
        kept = memo.once("kept", lambda: {"models": [build_network(Config(), data)]})["models"][0]
        method = memo.once("method", lambda: build_network(Config(), data).predict)
        free = build_network(Config(), data)
        numbers = memo.once("numbers", lambda: [v.numpy() for v in build_network(Config(), data).variables])
    before = values(kept)
    with reuse.lending():
        again = [build_network(Config(seed=1), data) for _ in range(4)]
    assert len(numbers) == 4 and any(model is free for model in again)
    assert not any(model is kept or model is method.__self__ for model in again)
    assert_same(values(kept), before)


def test_a_persons_file_is_lent_by_its_content_and_layers_of_his_own_never(tmp_path):
    path = tmp_path / "net.keras"
    shape = load(Config().data, seed=0).input_shape

    def save(units, layer):
        inputs = keras.Input(shape)
        x = layer(keras.layers.Flatten()(inputs))
        classes = load(Config().data, seed=0).num_classes
        keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Dense(units)(x))).save(path)

    config = Config(NetworkConfig(model=str(path)))
    save(3, keras.layers.Dropout(0.5))
    first = lent(config)
    assert lent(replace(config, seed=1)) is first
    save(3, keras.layers.Dropout(0.5))
    assert lent(config) is not first  # other weights, so another file
    save(3, OfAPerson())
    first = lent(config)
    assert lent(config) is not first


@keras.saving.register_keras_serializable(package="tests")
class OfAPerson(keras.layers.Layer):
    def call(self, x):
        return x


def test_a_few_models_stay_and_the_others_go():
    watchers = [weakref.ref(lent(Config(NetworkConfig(width=w, depth=1)))) for w in range(2, 2 + 2 * reuse.MODELS)]
    gc.collect()
    assert [w() is not None for w in watchers] == [False] * reuse.MODELS + [True] * reuse.MODELS


def test_what_tensorflow_compiled_goes_after_some_models_went(monkeypatch):
    """A seed of the same network compiles nothing anew; other networks do, and so do models of a config's own."""
    emptied = []
    monkeypatch.setattr(reuse, "_shelf", reuse._Shelf())  # earlier tests may have let models go
    monkeypatch.setattr(reuse, "empty_compiled", lambda: emptied.append(1))
    first = Config()
    for seed in range(3 * reuse.COMPILED):
        lent(replace(first, seed=seed))
    assert not emptied
    for width in range(7, 7 + reuse.COMPILED):
        lent(replace(first, network=replace(first.network, width=width)))
    assert len(emptied) == 1
    for _ in range(reuse.COMPILED):
        with reuse.lending():
            pass
    assert len(emptied) == 2


def test_large_models_stay_alone(monkeypatch):
    monkeypatch.setattr(reuse, "BYTES", 1)
    first, second = lent(Config()), lent(Config(NetworkConfig(width=7, depth=1)))
    assert lent(Config(NetworkConfig(width=7, depth=1))) is second
    assert lent(Config()) is not first
