"""Shared by all tests: TensorFlow's start-up notes stay out of the output, and Keras' names start afresh."""
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")

import keras
import pytest
from keras.src.random import seed_generator
from tensorflow.python.framework import random_seed

from harness.experiment import ProtocolError


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="session")
def no_global_random_numbers():
    """The global generators of TensorFlow and Keras go on from config to config (harness/runner.py, begin_anew)."""

    def refuse(*args):
        raise ProtocolError("drawn from a global generator; give a seed (CONTRIBUTING.md)")  # a run must not go on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_seed, "get_seed", refuse)
        patch.setattr(seed_generator, "global_seed_generator", refuse)
        yield


@pytest.fixture(autouse=True, scope="module")
def collected_once_a_file():
    """A collection before every test took 0.1 s each: it looked through all that earlier tests had left."""
    gc.collect()
    gc.freeze()
