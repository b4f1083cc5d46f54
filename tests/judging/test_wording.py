"""judging/wording.py: numbers and names as people read them."""
import numpy as np
import pytest

from analysis.statistics import t_interval
from judging.wording import field_label, field_text, format_factor, format_interval, format_points, short_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, 2), "1-2"), ((), "none"), (None, "none"), (np.nan, "none"), (64.0, "64"), (np.int64(3), "3"), (0.1, "0.1"),
        (1e22, "1e+22"), (True, "true"), (np.bool_(False), "false"), ("digits", "digits"), ([0.5, 1.0], "0.5-1"),
    ],
)  # fmt: skip
def test_values_as_a_person_writes_them(value, text):
    assert field_text(value) == text


@pytest.mark.parametrize(
    ("name", "value", "label"),
    [
        ("learning_rate", 0.1, "learning rate 0.1"), ("dataset", "digits", "digits"), ("skip", False, "no skip"),
        ("train_epsilon", 8.0, "adversarial 8"), ("train_epsilon", 0.0, "natural"), ("augment", True, "augment"),
        ("augment", False, "no augment"), ("train_size", 0, "n = all"), ("train_size", 50, "n = 50"),
    ],
)  # fmt: skip
def test_fields_in_words(name, value, label):
    assert field_label(name, value) == label


def test_intervals_with_none_one_and_several_values():
    assert format_interval(t_interval([])) == "not measured"
    assert format_interval(t_interval([0.25])) == "0.25"
    low, high = t_interval([1.0, 2.0, 3.0]).low, t_interval([1.0, 2.0, 3.0]).high
    assert format_interval(t_interval([1.0, 2.0, 3.0]), 2, sign=True) == f"+2 [{low:.2g}, {high:.2g}]"


def test_ratios_and_points():
    assert format_factor(t_interval([1.0])) == "10" and format_factor(t_interval([2.0, 2.0])) == "100 [100, 100]"
    assert (
        format_points(t_interval([0.01, 0.01])) == "+1 [1, 1] points"
        and format_points(t_interval([])) == "not measured"
    )


def test_long_paths_are_cut_and_stay_apart():
    first, second = (f"{'folder/' * 10}{name}/net.keras" for name in "ab")
    assert short_name("mlp") == "mlp"
    assert short_name(first) != short_name(second) and len(short_name(first)) <= 42
