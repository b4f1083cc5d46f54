"""harness/memo.py: a value is computed once for an equal content, and a changed .keras file is another content."""
from dataclasses import dataclass

import pytest

from harness.memo import Memo, content
from models import NetworkConfig
from training.data import DataConfig


def counted(calls, value=1):
    def function():
        calls.append(value)
        return value

    return function


def test_equal_configs_share_and_others_do_not():
    memo, calls = Memo(), []
    for _ in range(2):
        assert memo.once(("base", NetworkConfig(width=8), DataConfig(), 0), counted(calls)) == 1
    assert calls == [1]
    for key in (
        ("other", NetworkConfig(width=8), DataConfig(), 0),
        ("base", NetworkConfig(width=9), DataConfig(), 0),
        ("base", NetworkConfig(width=8), DataConfig(train_size=5), 0),
        ("base", NetworkConfig(width=8), DataConfig(), 1),
    ):
        memo.once(key, counted(calls))
    assert len(calls) == 5
    assert Memo().once(("base", NetworkConfig(width=8), DataConfig(), 0), counted(calls, 2)) == 2  # another run


def test_a_model_saved_again_is_another_one(tmp_path):
    path, copy = tmp_path / "a.keras", tmp_path / "b.keras"
    path.write_bytes(b"first")
    copy.write_bytes(b"first")
    memo, calls = Memo(), []
    memo.once((NetworkConfig(model=str(path)),), counted(calls))
    memo.once((NetworkConfig(model=str(copy)),), counted(calls))
    assert len(calls) == 1
    path.write_bytes(b"second")
    memo.once((NetworkConfig(model=str(path)),), counted(calls))
    assert len(calls) == 2


def test_configs_of_different_classes_differ_though_their_fields_are_equal():
    @dataclass(frozen=True)
    class A:
        x: int = 1

    @dataclass(frozen=True)
    class B:
        x: int = 1

    assert content(A()) != content(B()) and content(A()) == content(A(1))


def test_an_error_is_raised_again_and_not_computed_again():
    memo, calls = Memo(), []

    def fails():
        calls.append(0)
        raise ValueError("separable")

    for _ in range(2):
        with pytest.raises(ValueError, match="separable"):
            memo.once(("affine",), fails)
    assert len(calls) == 1
