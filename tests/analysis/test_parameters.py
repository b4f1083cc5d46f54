"""analysis/parameters.py: one vector for all trainable variables, in order, there and back."""
import keras
import numpy as np
import pytest

from analysis.parameters import get_parameters, set_parameters, split_like


@pytest.fixture
def model():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2, use_bias=False)]
    )


def test_the_vector_has_every_trainable_variable_in_order(model):
    names = [v.path.split("/")[-1] for v in model.trainable_variables]
    assert names == ["kernel", "bias", "gamma", "beta", "kernel"]
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(np.full(variable.shape, float(i)))
    vector = get_parameters(model)
    assert vector.dtype == np.float64
    np.testing.assert_array_equal(vector, np.repeat([0.0, 1, 2, 3, 4], [12, 4, 4, 4, 8]))


def test_there_and_back_leaves_moving_statistics_alone(model):
    statistics = [v.numpy() for v in model.non_trainable_variables]
    vector = np.random.default_rng(0).standard_normal(32).astype("float32")
    set_parameters(model, vector)
    np.testing.assert_array_equal(get_parameters(model), vector)
    np.testing.assert_array_equal(model.layers[0].kernel, vector[:12].reshape(3, 4))  # row by row
    for before, variable in zip(statistics, model.non_trainable_variables):
        np.testing.assert_array_equal(variable, before)
    model.layers[0].trainable = False
    assert len(get_parameters(model)) == 16


def test_parts_have_the_shapes_of_the_variables(model):
    parts = split_like(model, np.arange(32.0))
    assert [part.shape for part in parts] == [tuple(v.shape) for v in model.trainable_variables]
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), np.arange(32.0))


@pytest.mark.parametrize("shape", [(31,), (33,), (32, 1), ()])
def test_a_vector_of_another_size_is_refused_and_assigns_nothing(model, shape):
    before = get_parameters(model)
    with pytest.raises(ValueError, match="expected a vector of the model's 32 trainable parameters, got shape"):
        set_parameters(model, np.zeros(shape))
    np.testing.assert_array_equal(get_parameters(model), before)
