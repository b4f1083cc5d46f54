"""Shared by all tests: TensorFlow's start-up notes stay out of the output, and Keras' names start afresh."""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.backend.clear_session()
