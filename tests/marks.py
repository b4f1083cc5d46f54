"""Which values of a parametrized test CI leaves to `make test-long`."""
import pytest


def long_but(kept, values):
    """[value or pytest.param] for parametrize: all but the `kept` ones of a slow test's values are marked long."""
    assert all(value in values for value in kept), f"not among the values: {kept}"
    return [value if value in kept else pytest.param(value, marks=pytest.mark.long) for value in values]
