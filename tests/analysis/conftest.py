"""Shared by the tests of analysis/."""
import keras
import pytest


@pytest.fixture
def float64():
    """Keras' global precision is float64 within the test."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)
