"""presets/*/local_minima_*.cfg: every one spans a valid grid of several seeds, under today's flags."""
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import run_local_minima
from experiments.local_minima.depth_width import MAX_PARAMETERS, hidden_widths
from harness import command_line, grid
from models import validate

PRESETS = sorted((Path(run_local_minima.__file__).parent / "presets").glob("*/local_minima_*.cfg"))
SHAPES = {"digits": (8, 8, 1), "gaussian": (8, 8, 1), "mnist": (28, 28, 1)}


def test_there_are_presets():
    names = ("depth_width", "elimination", "sharpness")
    assert {(path.parent.name, path.stem.removeprefix("local_minima_")) for path in PRESETS} >= {
        (folder, name) for folder in ("paper", "quick") for name in names
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_span_valid_grids_of_several_seeds(path, capsys):
    values = flags.FlagValues()
    command_line.define(run_local_minima.EXPERIMENTS, values, run_local_minima.FORMER)
    command_line.parse(["run_local_minima.py", f"--flagfile={path}"], values)
    assert capsys.readouterr().err == ""  # no flag has another name by now
    experiment = run_local_minima.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in experiment.fields if values[name].value is not None}
    configs, _ = grid.expand(experiment, given)
    least = 3 if values.experiment == "edge_of_stability" else 5  # five minutes a config
    assert len({config.seed for config in configs}) >= least
    for config in configs:
        shape = SHAPES.get(config.data.dataset, (32, 32, 3))
        validate(config.network, shape, 10)
        if values.experiment == "depth_width":  # its dense Hessian fits
            sizes = [config.inputs or int(np.prod(shape)), *hidden_widths(config.network), 10]
            assert sum((i + 1) * o for i, o in itertools.pairwise(sizes)) <= MAX_PARAMETERS
    command = re.search(r"--flagfile=(\S+\.cfg)", path.read_text())[1]
    assert command == f"presets/{path.parent.name}/{path.name}"
