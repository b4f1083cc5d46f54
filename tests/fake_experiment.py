"""An experiment that trains nothing, for tests of the harness and of reports."""
from dataclasses import dataclass, field

import numpy as np

from harness.experiment import Experiment, seed_field
from judging.verdict import Claim, Verdict
from models import NetworkConfig
from reporting import figures as plots
from training.data import DataConfig
from training.fit import TrainingConfig


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(width=4, depth=1)
    data: DataConfig = DataConfig(dataset="gaussian", train_size=20, test_size=20)
    training: TrainingConfig = TrainingConfig(epochs=2, batch_size=20)
    factor: float = field(default=1.0, metadata={"help": "a factor"})
    seed: int = seed_field()

    def validate(self):
        if self.factor < 0:
            raise ValueError(f"factor must be positive, got {self.factor}")


class Fake:
    """Counts what it is asked to measure; `measured` adds to the measures, and may train."""

    def __init__(self, measured=None, *, check=None, max_seeds=None, margins=None, **grid):
        self.calls, self.measured, self.results = [], measured or (lambda config, data, run: {}), None
        self.experiment = Experiment(
            claim=Claim("Every factor is one.", source="nobody"),
            config=Config,
            grid=grid,
            columns={"final/loss": "final loss", "random": "a random number", "extra/<name>": "whatever"},
            table=("final/loss",),
            stages=("training", "real"),
            apart=("factor",),
            measure=self.measure,
            judge=self.judge,
            figures=self.figures,
            check=check,
            former_columns={"last/loss": "final/loss"},
            max_seeds=max_seeds,
            margins=margins or {},
        )

    def measure(self, config, data, run):
        self.calls.append(config)
        common = {
            "final/loss": config.factor / 3 + config.seed,
            "diverged_epoch": None,
            "curve": np.arange(3.0) + config.seed,
        }
        run.epoch("training", {"stage": "training", "epoch": 1, "train/loss": config.factor}, 1)
        return {**common, "random": float(np.random.rand()), **self.measured(config, data, run)}

    def judge(self, results):
        self.results = results
        return Verdict("undecided", f"{len(results.table)} rows.", "none")

    def figures(self, results):
        return {"nothing": plots.new()[0]}

    def asked(self):
        """(factor, seed) of the configs measured since the last call."""
        found = [(config.factor, config.seed) for config in self.calls]
        self.calls.clear()
        return found
