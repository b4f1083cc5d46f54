"""experiments/norm/norm_measures.py: squared norms, and when a norm has settled."""
import keras
import numpy as np
import pandas as pd
import pytest

from experiments.norm.norm_measures import FINAL_COLUMNS, final_measures, squared_norm, warn_unsettled
from training.fit import TrainingConfig


def final(values, target=100.0, model=None, **training):
    """final_measures of a network whose squared norm took the given values over the epochs."""
    model = model or keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    data = type("Data", (), {"x_train": np.ones((4, 2)), "y_train": np.eye(2)[[0, 1, 0, 1]]})
    data.x_test, data.y_test = data.x_train[:1], data.y_train[:1]
    training = TrainingConfig(regularizer="norm_bias", coefficient=1.0, norm_target=target, **training)
    history = type("History", (), {"rows": [{"norm/all": v, "norm/kernels": v / 2} for v in values]})
    return final_measures(model, data, training, history)


def test_settled_means_within_two_percent_and_staying_there():
    assert final([10, 99, 101.9])["norm/settled"] is True
    assert final([10, 99, 102.1])["norm/settled"] is False
    assert final([10, 60, 100])["norm/settled"] is False  # it only passes by
    assert final([60] * 20 + [99, 101], regularize_all=False)["norm/settled"] is False  # kernels have half
    assert final([198] * 2, regularize_all=False)["norm/settled"] is True
    assert final([10, 99, 101])["norm/over_target"] == pytest.approx(1.01)
    assert "norm/settled" not in final([1, 2], target=0.0)


def test_gaps_are_positive_where_the_training_set_is_fitted_better():
    found = final([1, 2])
    assert found["gap/accuracy"] == found["train/accuracy"] - found["test/accuracy"]
    assert found["gap/loss"] == found["test/loss"] - found["train/loss"] != 0
    assert (found["norm/all"], found["norm/kernels"]) == (2, 1) and found.keys() <= FINAL_COLUMNS.keys()


def test_only_what_batch_norm_follows_counts_as_scale_invariant():
    layers = [keras.Input((2,)), keras.layers.Dense(3, use_bias=False), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(2)])
    found = final([1, 2], model=model)
    assert found["norm/scale_invariant"] == squared_norm([model.layers[0].kernel])
    assert "norm/scale_invariant" not in final([1, 2])


def test_the_squared_norm_is_summed_in_float64():
    variables = [keras.Variable(np.full(10**6, 0.1, "float32")), keras.Variable(np.array([3.0, 4.0], "float32"))]
    assert squared_norm(variables) == pytest.approx(10**6 * float(np.float32(0.1)) ** 2 + 25, rel=1e-12)


def test_the_warning_counts_networks_with_a_target_only():
    table = pd.DataFrame({"norm/over_target": [0.5, 1.2, 1.0, np.nan], "norm/settled": [False, False, True, np.nan]})
    assert "in 2 of 3 networks" in warn_unsettled(table) and "ended at 0.5 to 1.2 of it" in warn_unsettled(table)
    assert warn_unsettled(table.iloc[2:]) == warn_unsettled(pd.DataFrame({"seed": [0]})) == ""
