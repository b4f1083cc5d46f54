"""analysis/evaluation.py: loss and accuracy by hand, blocks, precision, inference mode, both sets of a data set."""
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from analysis.evaluation import dtype_of, evaluate, evaluate_splits, predict, score
from models import NetworkConfig, build

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 4)).astype("float32")


def linear(weights, dtype="float32"):
    layer = keras.layers.Dense(weights.shape[1], use_bias=False, dtype=dtype)
    model = keras.Sequential([keras.Input((len(weights),), dtype=dtype), layer])
    layer.kernel.assign(weights)
    return model


def test_score_by_hand():
    logits, y = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), np.eye(2)[[0, 1, 1, 1]]
    loss, accuracy = score(logits, y, "squared")  # per example 1/2, 1/2, 0, 9/2
    assert loss == pytest.approx(5.5 / 4) and accuracy == 0.5  # a tie goes to the first class
    loss, _ = score(np.zeros((4, 2)), y, "cross_entropy")
    assert loss == pytest.approx(np.log(2), rel=1e-15)
    shifted = score(logits.astype("float32") + np.float32(1e4), y, "cross_entropy")[0]
    assert shifted == pytest.approx(score(logits, y, "cross_entropy")[0], rel=1e-12)  # in float64


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_evaluate_is_the_mean_over_all_examples_whatever_the_blocks(batch_size):
    weights, y = RNG.standard_normal((4, 3)), np.eye(3)[RNG.integers(3, size=7)]
    model = linear(weights, "float64")
    logits = X.astype(float) @ weights
    np.testing.assert_allclose(predict(model, X, batch_size=batch_size), logits, rtol=1e-12)
    loss, accuracy = evaluate(model, X, y, "squared", batch_size=batch_size)
    assert loss == pytest.approx(0.5 * np.mean(np.sum((logits - y) ** 2, axis=1)), rel=1e-12)
    assert accuracy == np.mean(logits.argmax(1) == y.argmax(1))


def test_inference_mode_and_new_weights_with_one_trace():
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)])
    state = [v.numpy() for v in model.non_trainable_variables]
    first = predict(model, X)
    np.testing.assert_array_equal(predict(model, X), first)
    np.testing.assert_array_equal(first, model(X, training=False))
    for variable, before in zip(model.non_trainable_variables, state):
        np.testing.assert_array_equal(variable, before)
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    np.testing.assert_allclose(predict(model, X), 2 * first, rtol=1e-5)
    predict(model, X, batch_size=3)
    (graph,) = model._inference_graphs.values()
    assert graph.experimental_get_tracing_count() == 1


def test_precision_is_that_of_the_outputs():
    assert dtype_of(linear(np.ones((4, 2)), "float64")) == "float64"
    assert dtype_of(build(NetworkConfig(width=3, depth=1, dtype="float64"), (4,), 2, seed=0)) == "float64"
    assert dtype_of(linear(np.ones((4, 2)))) == "float32" and predict(linear(np.ones((4, 2))), X).dtype == np.float32

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    assert dtype_of(Subclassed(dtype="float64")) == "float64"


def test_both_sets_by_name_and_in_order():
    y = np.eye(2)[[0, 1, 0, 1, 0, 1, 0]]
    data = SimpleNamespace(x_train=X[:5], y_train=y[:5], x_test=X[5:], y_test=y[5:])
    model = linear(RNG.standard_normal((4, 2)))
    names = ["train/loss", "train/accuracy", "test/loss", "test/accuracy"]
    values = [*evaluate(model, X[:5], y[:5], "squared"), *evaluate(model, X[5:], y[5:], "squared")]
    found = evaluate_splits(model, data, "squared")
    assert list(found) == names and list(found.values()) == values and all(type(v) is float for v in values)
    staged = evaluate_splits(model, data, "squared", "base")
    assert list(staged) == [f"base/{name}" for name in names] and list(staged.values()) == values
