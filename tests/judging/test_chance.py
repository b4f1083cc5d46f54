"""judging/chance.py: what guessing gets, and the warning on networks that get no more."""
import math

import numpy as np
import pandas as pd
import pytest

from judging.chance import chance_of, warn_at_chance


def one_hot(*counts):
    return np.repeat(np.eye(len(counts)), counts, axis=0)


def test_chance_is_the_largest_share_and_the_limit_follows_the_number_of_images():
    assert chance_of(one_hot(700, 300)) == pytest.approx((0.7, 0.75))  # three standard errors are 0.043
    chance, limit = chance_of(one_hot(*[5] * 10))
    assert chance == pytest.approx(0.1) and limit == pytest.approx(0.1 + 3 * math.sqrt(0.1 * 0.9 / 50))


@pytest.mark.parametrize("size", [20, 200, 5000])
def test_guesses_stay_below_the_limit(size):
    labels = one_hot(*[size // 10] * 10)
    guesses = np.random.default_rng(0).integers(10, size=(1000, size))
    accuracies = (guesses == labels.argmax(axis=1)).mean(axis=1)
    assert (accuracies > chance_of(labels)[1]).mean() < 0.01


def warned(columns, limits=(0.15, 0.15, 0.15)):
    ids = ["a", "b", "c"]
    table = pd.DataFrame({"config_id": ids, **columns})
    return warn_at_chance(table, {name: (limit - 0.05, limit) for name, limit in zip(ids, limits)})


def test_runs_at_chance_are_counted_once_with_their_columns():
    says = warned({"small/train/accuracy": [0.1, 0.9, 0.12], "large/train/accuracy": [0.1, 0.9, 0.8]})
    assert "in 2 of 3 runs" in says and "(small/train/accuracy, large/train/accuracy) of 0.1 to 0.12" in says
    assert says.startswith(" Warning: ") and says.endswith(".")


def test_each_run_is_compared_with_chance_of_its_own_data():
    assert "in 1 of 3 runs" in warned({"train/accuracy": [0.5, 0.5, 0.5]}, limits=(0.15, 0.6, 0.45))


@pytest.mark.parametrize("columns", [
    {"train/accuracy": [0.2, 0.9, 1.0]},
    {"train/accuracy": [None, np.nan, 1.0]},
    {"test/accuracy": [0.1, 0.1, 0.1]},
    {"before/train/accuracy": [0.1, 0.1, 0.1]},
    {},
], ids=["learned", "diverged", "test set", "untrained", "no accuracy"])  # fmt: skip
def test_no_warning_where_nothing_trained_is_at_chance(columns):
    columns = {name: np.array(values, dtype=float) for name, values in columns.items()}
    assert warned(columns) == ""
