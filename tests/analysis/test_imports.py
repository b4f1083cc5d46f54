"""Importing analysis/ or reporting/ changes nothing global, as logging, figures or precision."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, os, pkgutil, random, signal, sys, warnings
import keras, matplotlib, numpy as np, pandas as pd, tensorflow as tf
import matplotlib.figure, pandas.plotting, tqdm
import scipy.linalg, scipy.optimize, scipy.sparse.linalg, scipy.spatial.distance, scipy.special, scipy.stats
import threadpoolctl

def state():
    loggers = {name: (log.level, list(log.handlers), log.disabled, log.propagate)
               for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    threading = tf.config.threading
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "loggers": loggers,
        "warnings": list(warnings.filters),
        "rcParams": dict(matplotlib.rcParams),
        "floatx": (keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()),
        "dtype policy": keras.config.dtype_policy().name,
        "NumPy's print options and errors": (np.get_printoptions(), np.geterr()),
        "pandas": str(pd.get_option("display.max_rows")) + str(pd.get_option("display.max_columns")),
        "random state": (random.getstate(), np.random.get_state()[1].tolist()),
        "eager": (tf.executing_eagerly(), tf.config.functions_run_eagerly()),
        "threads": (threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()),
        "BLAS threads": [pool["num_threads"] for pool in threadpoolctl.threadpool_info()],
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.displayhook),
    }

before = state()
room = sys.argv[1]
names = [module.name for module in pkgutil.iter_modules(__import__(room).__path__)]
for name in names:
    __import__(f"{room}.{name}")
after = state()
for name, log in list(after["loggers"].items()):  # a library that is imported only now may have loggers of its own
    if name not in before["loggers"]:
        assert not name.startswith(room), name
        del after["loggers"][name]
changed = [key for key in before if before[key] != after[key]]
rooms = {"experiments", "harness", "judging", "models", "reporting", "training"}
print(len(names), changed, sorted({module.split(".")[0] for module in sys.modules} & rooms))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("room", "needs"), [("analysis", []), ("reporting", ["judging", "training"])])
def test_importing_a_room_changes_nothing_global(room, needs):
    done = subprocess.run([sys.executable, "-c", SCRIPT, room], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = len(list((ROOT / room).glob("[!_]*.py")))
    found = sorted({*needs, room} - {"analysis"})
    assert done.stdout.splitlines()[-1] == f"{modules} [] {found}"  # nor does it import what is built on it
