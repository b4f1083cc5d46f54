"""When does the NTK move?  Goldblum et al. 2020 (evolution over geometric epochs); Fort et al. 2020.

The exact kernel at geometrically spaced epochs, against the one at initialization and against the previous one.
"""
import itertools
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.kernels import kernel_drift
from analysis.ntk import empirical_ntk
from analysis.statistics import paired_difference, t_interval
from experiments.affine_embedding import ended
from experiments.networks import by_network
from experiments.ntk_drift import check  # noqa: F401  (the runner calls it)
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "The NTK moves at the start of training and then stands still.",
    source="Fort et al. 2020, Deep learning versus kernel learning; evolution runs of Goldblum et al. 2020",
)
GRID = {"depth": [1, 3], "width": [256], "seed": [0, 1, 2]}
MEASURES = {
    "ntk/correlation": "correlation, first to last",
    "ntk/relative_change": "relative change, first to last",
    "evolution/early_change": "mean relative change, early intervals",
    "evolution/late_change": "late intervals",
    "trained/accuracy": "training accuracy",
    "trained/test_accuracy": "test accuracy",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=64, learning_rate=0.05)
    ntk_sample: int = field(default=25, metadata={"help": "training images of the kernel, class-balanced"})
    moments: int = field(default=7, metadata={"help": "geometrically spaced epochs at which the kernel is measured"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if self.ntk_sample < 2 or self.moments < 2:
            raise ValueError(f"ntk_sample and moments must be at least 2, got {self.ntk_sample} and {self.moments}")
        if len(self.epochs) < 2:
            raise ValueError(f"evolution needs at least 2 epochs, got {self.training.epochs}")

    @property
    def epochs(self):
        """The epochs at which the kernel is measured."""
        return sorted({round(e) for e in np.geomspace(1, self.training.epochs, self.moments)})


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    x, _ = data.sample(config.ntk_sample)
    initial = empirical_ntk(model, x)  # [n, k, n, k]

    def probe(model, epoch):
        return {"ntk": empirical_ntk(model, x)} if epoch in config.epochs else None

    history = fit(model, data, config.training, seed=config.seed, run=run, probe=probe)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    kernels = [initial, *(history.probes[epoch]["ntk"] for epoch in config.epochs)]
    from_start = [kernel_drift(initial, kernel) for kernel in kernels[1:]]
    steps = [kernel_drift(before, after) for before, after in itertools.pairwise(kernels)]
    # Intervals are equal in log(epoch): "the start" is their first half, the middle one is left out.
    half, changes = len(steps) // 2, [drift.relative_change for drift in steps]
    return {
        "diverged_epoch": None,
        "ntk/correlation": from_start[-1].correlation,
        "ntk/relative_change": from_start[-1].relative_change,
        "evolution/early_change": float(np.mean(changes[:half])),
        "evolution/late_change": float(np.mean(changes[-half:])),
        **ended("trained", config, model, data, history),
        "evolution/epochs": np.array(config.epochs),
        "evolution/correlation": np.array([drift.correlation for drift in from_start]),
        "evolution/relative_change": np.array([drift.relative_change for drift in from_start]),
        "evolution/step_correlation": np.array([drift.correlation for drift in steps]),
        "evolution/step_change": np.array(changes),
    }


def judge(results):
    test = (
        "Per network: paired t-interval (95 %) over seeds of the kernel's mean relative change in the late half of the "
        "intervals between moments (equal in log epoch) minus that in the early half. Supported "
        "where every interval lies below 0, refuted where one lies above."
    )
    table = results.table
    if "evolution/late_change" not in table:
        return Verdict("undecided", "Every network diverged.", test)
    found = {
        name: paired_difference(rows["evolution/late_change"], rows["evolution/early_change"])
        for name, rows in by_network(table, width=True)
    }
    reason = "Late minus early change: " + "; ".join(
        f"{name}: {d.mean:.3g} [{d.low:.3g}, {d.high:.3g}] over {d.n} seeds" for name, d in found.items()
    )
    directions = {d.direction for d in found.values()}
    outcome = "refuted" if "greater" in directions else "supported" if directions == {"less"} else "undecided"
    return Verdict(outcome, reason + ".", test)


def figures(results):
    """Correlation and relative change against epochs, from initialization and from one moment to the next."""
    figure, axes = plots.new(1, 2, width=5.2, height=3.8)
    names = (("correlation", "step_correlation", "correlation"), ("relative_change", "step_change", "relative change"))
    for axis, (whole, step, label) in zip(axes.flat, names):
        for (name, rows), style in zip(by_network(results.table, width=True), plots.styles()):
            arrays = [results.arrays[i] for i in rows["config_id"] if "evolution/epochs" in results.arrays[i]]
            if not arrays:
                continue
            for key, kind, dashes in ((whole, "from initialization", "-"), (step, "from the previous one", ":")):
                curves = np.stack([a[f"evolution/{key}"] for a in arrays])  # [seeds, moments]
                intervals = [t_interval(values) for values in curves.T]
                look = {**style, "linestyle": dashes}
                plots.interval_line(axis, arrays[0]["evolution/epochs"], intervals, label=f"{name}: {kind}", **look)
        axis.set(xlabel="epoch", ylabel=f"{label} of the NTK", xscale="log")
    axes[0, 1].set_yscale("log")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"ntk_evolution": figure}
