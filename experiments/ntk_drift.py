"""Does the NTK of a wide network stay constant during training?  Jacot et al. 2018; Goldblum et al. 2020, section 4.

The exact kernel of a class-balanced sample of training images, sorted by class, before and after training.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

import models
from analysis.kernels import kernel_drift
from analysis.ntk import empirical_ntk
from analysis.parameters import get_parameters
from experiments.affine_embedding import ended
from experiments.networks import against_width, architecture, by_network, describe_trend, trends, without_trend
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "The NTK of a wide network stays constant during training.",
    source="Jacot et al. 2018; examined in Goldblum et al. 2020, section 4",
)
GRID = {"depth": [1, 3], "width": [32, 128, 512], "seed": [0, 1, 2]}
MEASURES = {
    "ntk/correlation": "NTK correlation",
    "ntk/relative_change": "NTK relative change",
    "ntk/norm_before": "NTK norm before",
    "ntk/norm_after": "NTK norm after",
    "parameters/relative_change": "parameters' relative change",
    "trained/accuracy": "training accuracy",
    "trained/test_accuracy": "test accuracy",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=0.05)
    ntk_sample: int = field(default=25, metadata={"help": "training images of the kernel, class-balanced"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if self.ntk_sample < 2:
            raise ValueError(f"ntk_sample must be at least 2 images, got {self.ntk_sample}")


def check(config, data):
    data.sample(config.ntk_sample)  # refuses more images than there are


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    x, labels = data.sample(config.ntk_sample)
    start, before = get_parameters(model), empirical_ntk(model, x)  # [n, k, n, k]
    history = fit(model, data, config.training, seed=config.seed, run=run)
    result = {"diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    after, parameters = empirical_ntk(model, x), get_parameters(model)
    result.update({f"ntk/{name}": value for name, value in dataclasses.asdict(kernel_drift(before, after)).items()})
    result["parameters/norm_before"] = float(np.linalg.norm(start))
    result["parameters/norm_after"] = float(np.linalg.norm(parameters))
    result["parameters/change"] = float(np.linalg.norm(parameters - start))
    result["parameters/relative_change"] = result["parameters/change"] / result["parameters/norm_before"]
    result.update(ended("trained", config, model, data, history))
    # Figures show the trace form, sum_a Theta[i, a, j, a] / k.
    traces = {when: np.einsum("iaja->ij", kernel) / kernel.shape[1] for when, kernel in (("before", before), ("after", after))}
    run.image("ntk", heat_maps([("", traces["before"], traces["after"], labels)]))
    return {**result, "heat/before": traces["before"], "heat/after": traces["after"], "heat/labels": labels}


def outcome(correlation, change):
    """What the two trends say of one architecture: constant in the limit of large width, or not, or neither shown."""
    if correlation.direction == "increasing" and change.direction == "decreasing":
        return "supported"
    if correlation.direction == "decreasing" or change.direction == "increasing":
        return "refuted"
    return "undecided"


def judge(results, measures=("ntk/correlation", "ntk/relative_change"), noun="NTK"):
    """Judged per architecture; measures: one that must rise with width, and one that must fall, for the claim to hold."""
    test = (
        f"Per architecture, over seeds: slope of the {noun}'s correlation, and of the log2 of its relative change, against "
        "log2(width) (95 % t-interval), and Page's trend test. Supported where correlation rises and change falls with width, "
        "refuted where either does the opposite, undecided otherwise; over several architectures, one refutation refutes."
    )
    table = results.table
    if measures[0] not in table:
        return Verdict("undecided", "Every network diverged.", test)
    rising, falling = trends(table, measures[0]), trends(table, measures[1], power_law=True)
    outcomes = {name: outcome(rising[name], falling[name]) for name in rising}
    if not any(trend.slope.n for trend in rising.values()):
        measured = "; ".join(
            f"{name}: correlation {rows[measures[0]].mean():.3g}, relative change {rows[measures[1]].mean():.3g}"
            for name, rows in by_network(table, width=True)
        )
        return Verdict("undecided", f"{without_trend(table)}. Measured: {measured}.", test)
    reason = "; ".join(
        f"{name}: {outcomes[name]}, correlation {describe_trend(rising[name])}, relative change "
        f"{describe_trend(falling[name], power_law=True)}"
        for name in outcomes
    )
    found = set(outcomes.values())
    verdict = "refuted" if "refuted" in found else "supported" if found == {"supported"} else "undecided"
    return Verdict(verdict, reason + ".", test)


def figures(results):
    table = results.table
    if "ntk/correlation" not in table:
        return {}
    figure, axes = plots.new(1, 2)
    against_width(axes[0, 0], table, "ntk/correlation", "correlation of NTK before and after")
    against_width(axes[0, 1], table, "ntk/relative_change", "relative change of the NTK")
    if (table["ntk/relative_change"] > 0).any():
        axes[0, 1].set_yscale("log")
    axes[0, 0].legend()
    panels = []
    for _, rows in by_network(table.dropna(subset="ntk/correlation")):
        row = rows.loc[pd.to_numeric(rows["width"]).fillna(0).idxmax()]  # the widest
        arrays = results.arrays[row["config_id"]]
        panels.append((architecture(row, width=True), arrays["heat/before"], arrays["heat/after"], arrays["heat/labels"]))
    return {"ntk_against_width": figure, "ntk_heat_maps": heat_maps(panels)}


def heat_maps(panels):
    """Kernels before, after and their difference, one row per (name, before, after, labels); lines between classes."""
    figure, axes = plots.new(len(panels), 3, width=3.4, height=3.1)
    for row, (name, before, after, labels) in zip(axes, panels):
        borders = np.flatnonzero(np.diff(labels)) + 0.5
        top = max(before.max(), after.max())
        change = np.abs(after - before).max() or 1.0
        for axis, kernel, title, colours, low, high in (
            (row[0], before, "before training", "viridis", min(0, before.min()), top),
            (row[1], after, "after", "viridis", min(0, before.min()), top),
            (row[2], after - before, "after - before", "RdBu_r", -change, change),
        ):
            image = axis.imshow(kernel, cmap=colours, vmin=low, vmax=high)
            axis.grid(False)
            for border in borders:
                axis.axhline(border, color="white" if colours == "viridis" else "black", linewidth=0.4)
                axis.axvline(border, color="white" if colours == "viridis" else "black", linewidth=0.4)
            axis.set_title(f"{name}\n{title}" if name else title)
            axis.set(xticks=[], yticks=[])
            figure.colorbar(image, ax=axis, shrink=0.8)
        row[0].set(xlabel="training image, by class", ylabel="training image, by class")
    return figure
