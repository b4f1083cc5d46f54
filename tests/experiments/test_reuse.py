"""Every experiment measures the same bits with the models of earlier configs (training/reuse.py) as with fresh ones."""
import numpy as np
import pandas as pd
import pytest

from harness import runner
from tests.experiments.test_contract import EXPERIMENTS, SMALL, every_experiment, options
from training import reuse


@pytest.mark.slow
@pytest.mark.long
@every_experiment
def test_measures_are_those_of_fresh_models(name, tmp_path, monkeypatch):
    """The last config, the second of two seeds and of two learning rates, finds what the others have left."""
    experiment, (script, title) = EXPERIMENTS[name], name.split(":")
    given = {axis: values[:1] for axis, values in experiment.grid.items()} | options(experiment, **SMALL)
    given |= options(experiment, steps=6, measure_every=1, control_steps=2)
    if "learning_rate" in experiment.fields and "learning_rate" not in experiment.apart:
        given["learning_rate"] = [0.01, 0.02]
        last = {"seed": given["seed"][-1:], "learning_rate": given["learning_rate"][-1:]}
    else:
        given["train_size"] = 100  # an experiment may have a sample of its own
        last = {"seed": given["seed"][-1:]}

    def run(folder, asked):
        reuse.clear()
        return runner.run(script, experiment, asked, name=title, out_dir=folder, quiet=True, max_seeds=0).results

    shared = run(tmp_path / "shared", given)
    monkeypatch.setattr(reuse, "network", lambda key, build: build())
    fresh = run(tmp_path / "fresh", given | last)
    same = shared.table[shared.table["config_id"].isin(fresh.table["config_id"])].reset_index(drop=True)
    assert 0 < len(same) < len(shared.table)
    tables = (table.drop(columns="seconds").dropna(axis=1, how="all") for table in (same, fresh.table))
    pd.testing.assert_frame_equal(*tables, check_exact=True, check_dtype=False)
    for identity, arrays in fresh.arrays.items():
        assert arrays.keys() == shared.arrays[identity].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(shared.arrays[identity][key], value)
    for identity, history in fresh.histories.items():
        pd.testing.assert_frame_equal(
            *(h.drop(columns="seconds", errors="ignore") for h in (shared.histories[identity], history)),
            check_exact=True,
        )
