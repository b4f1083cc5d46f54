"""An experiment whose measure costs nothing: what is left is the cost of the grid itself (benchmarks/grid.py)."""
from dataclasses import dataclass
from pathlib import Path

from harness.experiment import Experiment, seed_field
from judging.verdict import Claim, Verdict
from models import NetworkConfig
from reporting import figures, files
from training.data import DataConfig


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(width=4, depth=1)
    data: DataConfig = DataConfig(dataset="gaussian", train_size=20, test_size=20)
    seed: int = seed_field()

    def validate(self):
        """Nothing can be wrong with it."""


def measure(config, data, run):
    return {"seed/squared": float(config.seed) ** 2}


def judge(results):
    return Verdict("undecided", f"{len(results.table)} rows.", "none")


def draw(results):
    return {"nothing": figures.new()[0]}


def instant(experiment, config, identity, fields, place, desk, model):
    """In place of cluster.measure: a worker that has the result already."""
    content = {
        "config_id": identity, "config": fields, "measures": measure(config, None, None), "files": {},
        "seconds": 0.0, "versions": {},
    }  # fmt: skip
    files.write_json(Path(place.folder) / "runs" / identity / "result.json", content)


EXPERIMENT = Experiment(
    claim=Claim("A grid costs nothing.", source="nobody"),
    config=Config,
    grid={},
    columns={"seed/squared": "square of the seed"},
    table=("seed/squared",),
    stages=(),
    apart=(),
    measure=measure,
    judge=judge,
    figures=draw,
)
