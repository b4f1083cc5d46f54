"""What is claimed: a room for each script, in it one module a claim, and beside them what only its claims share."""
import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.experiment import Experiment  # which imports TensorFlow


def _import_tensorflow_quietly():
    """TensorFlow prints notes on its libraries before any log level applies; a script's output stays clean."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules or os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        return
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # touches CUDA, which has its notes too
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
    # "5 out of the last 5 calls triggered retracing": a grid builds a graph for every network, as it must.
    tf.get_logger().setLevel("ERROR")


_import_tensorflow_quietly()


def load_experiments(package: str, *names: str) -> dict[str, "Experiment"]:
    """{name: harness.experiment.Experiment} of the modules `package.name`: an experiment is called like its file."""
    return {name: importlib.import_module(f"{package}.{name}").EXPERIMENT for name in names}
