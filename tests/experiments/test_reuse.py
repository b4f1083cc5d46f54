"""Every experiment measures the same bits with the models of earlier configs (training/reuse.py) as with fresh ones."""
import numpy as np
import pandas as pd
import pytest

from harness import runner
from tests.experiments.test_contract import EXPERIMENTS, SMALL, every_experiment, options
from training import reuse


@pytest.mark.slow
@every_experiment
def test_measures_are_those_of_fresh_models(name, tmp_path, monkeypatch):
    """The second of two seeds, and of two learning rates, finds what the first has left."""
    experiment, (script, title) = EXPERIMENTS[name], name.split(":")
    given = {axis: values[:1] for axis, values in experiment.grid.items()} | options(experiment, **SMALL)
    given |= options(experiment, steps=6, measure_every=1, control_steps=2)
    if "learning_rate" in experiment.fields and "learning_rate" not in experiment.apart:
        given["learning_rate"] = [0.01, 0.02]
    else:
        given["train_size"] = 100  # an experiment may have a sample of its own

    def run(folder):
        reuse.clear()
        return runner.run(script, experiment, given, name=title, out_dir=folder, quiet=True, max_seeds=0).results

    shared = run(tmp_path / "shared")
    monkeypatch.setattr(reuse, "network", lambda key, build: build())
    fresh = run(tmp_path / "fresh")
    tables = (results.table.drop(columns="seconds") for results in (shared, fresh))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for identity, arrays in fresh.arrays.items():
        assert arrays.keys() == shared.arrays[identity].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(shared.arrays[identity][key], value)
    for identity, history in fresh.histories.items():
        pd.testing.assert_frame_equal(
            *(h.drop(columns="seconds", errors="ignore") for h in (shared.histories[identity], history)),
            check_exact=True,
        )
