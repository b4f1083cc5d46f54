"""Which norm of the parameters generalises best?  After Goldblum et al. 2020, section 3.

Norm-bias holds ||theta||^2 at multiples, far below 1 to far above, of what training without a regularizer ends with on the
same seed. Where batch norm follows, the scale of a kernel cannot change the function: such kernels are measured apart.
"""
import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.statistics import paired_difference, rank_correlation, t_interval
from experiments import norms
from experiments.norms import ENOUGH, SETTLED, points
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope
from training.regularizers import is_kernel

CLAIM = Claim(
    "Networks whose parameters have a small norm generalise best.",
    source="Goldblum et al. 2020, section 3, on a folklore of deep-learning theory",
)
GRID = {"multiple": [0.1, 0.3, 1.0, 3.0, 10.0], "seed": list(range(6))}
MEASURES = {
    "test/accuracy": "test accuracy",
    "train/accuracy": "training accuracy",
    "gap/accuracy": "gap",
    "test/loss": "test loss",
    "norm/all": "squared norm",
    "norm/over_target": "squared norm / target",
    "norm/scale_invariant": "of scale-invariant weights",
    "none/norm": "squared norm without regularizer",
    "none/accuracy": "its test accuracy",
}
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "title_fontsize": 9}  # a legend that hides no point
_unregularized = {}  # by config without its multiple: all multiples of a seed share one


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=64)
    data: DataConfig = DataConfig(train_size=200)
    training: TrainingConfig = TrainingConfig(
        epochs=100, batch_size=50, learning_rate=0.02, decay_epochs=(70,), regularizer="norm_bias", coefficient=0.075
    )
    multiple: float = field(
        default=1.0, metadata={"help": "target of ||theta||^2, in units of where unregularized training ends"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    @property
    def label(self):
        return f"multiple={self.multiple:g}"

    def validate(self):
        if not (self.multiple > 0 and math.isfinite(self.multiple)):
            raise ValueError(f"multiple must be a finite number > 0, got {self.multiple}")
        training = self.training
        if training.regularizer != "norm_bias" or not training.coefficient or training.norm_target:
            raise ValueError(
                "norm_profile needs regularizer=norm_bias with a coefficient > 0, and its targets as multiple, got "
                f"{training.regularizer}, coefficient={training.coefficient}, norm_target={training.norm_target}"
            )


def measure(config, data, run):
    reference = unregularized(config, data, run)
    if reference["diverged_epoch"]:
        return {"diverged_epoch": reference["diverged_epoch"]}
    target = config.multiple * reference["norm"]
    training = dataclasses.replace(config.training, norm_target=target)
    model, start = build(config, data)
    history = fit(model, data, training, seed=config.seed, run=run, stage="norm_bias")
    result = {
        "none/norm": reference["norm"],
        "none/accuracy": reference["accuracy"],
        "norm/start": start,
        "norm/target": target,
        "diverged_epoch": history.diverged_epoch,
    }
    if history.diverged_epoch:
        return result
    final = norms.final_measures(model, data, training, history)
    return {**result, **final, "norm/over_none": final[norms.regularized_norm(training)] / reference["norm"]}


def build(config, data):
    """(model, the norm that the regularizer acts on) at the start."""
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    chosen = [v for v in model.trainable_variables if config.training.regularize_all or is_kernel(v)]
    return model, norms.squared_norm(chosen)


def unregularized(config, data, run):
    """Norm and test accuracy that training without a regularizer ends with; trained once for all multiples of a seed."""
    key = dataclasses.replace(config, multiple=1.0)
    if key not in _unregularized:
        model, _ = build(config, data)
        training = dataclasses.replace(config.training, regularizer="none", coefficient=0.0)
        history = fit(model, data, training, seed=config.seed, run=run, stage="none")
        found = {"diverged_epoch": history.diverged_epoch}
        if not history.diverged_epoch:
            final = norms.final_measures(model, data, training, history)
            found.update(norm=final[norms.regularized_norm(training)], accuracy=final["test/accuracy"])
        _unregularized[key] = found
    return _unregularized[key]


@dataclass(frozen=True)
class Profile:
    """Test accuracy over norms of one network, and what it says."""

    network: str
    outcome: str
    text: str


def profile(network, rows, level):
    """The outcome of one network at a level that is shared out over the norms that could win."""
    best = {m: t_interval(group["test/accuracy"]).mean for m, group in rows.groupby("multiple")}
    best = {m: value for m, value in best.items() if value == value}
    if not best:
        return Profile(network, "undecided", f"{network}: every network diverged")
    accuracy = rows.pivot(index="seed", columns="multiple", values="test/accuracy")
    ratio = rows.groupby("multiple")["norm/over_none"].mean()
    small = [m for m in best if ratio[m] < 1 - SETTLED]
    large = ["none", *(m for m in best if m not in small)]
    accuracy["none"] = rows.groupby("seed")["none/accuracy"].first()

    def winner(candidates, others):
        """(candidate, its least convincing difference) of one that beats all others; None where none does."""
        for name in sorted(candidates, key=lambda m: -accuracy[m].mean()):
            share = 1 - (1 - level) / len(candidates)
            differences = [paired_difference(accuracy[name], accuracy[other], share) for other in others]
            if differences and all(d.direction == "greater" and d.n >= ENOUGH for d in differences):
                return name, min(differences, key=lambda d: d.low)
        return None

    smaller, larger = winner(small, large), winner(large, small)
    outcome, found = ("supported", smaller) if smaller else ("refuted", larger) if larger else ("undecided", None)
    top = max(best, key=best.get)
    text = (
        f"{network}: of {', '.join(f'{m:g}' for m in best)} times the unregularized squared norm, mean test accuracy is "
        f"highest at {top:g} ({best[top]:.4g}; without regularizer {accuracy['none'].mean():.4g})"
    )
    if found:
        name = found[0] if found[0] == "none" else f"{found[0]:g}"
        beaten = "all that are not below 1" if smaller else "all below 1"
        text += f"; {name} beats {beaten}, the nearest by {points(found[1])} over {found[1].n} paired seeds"
    text += f"; rank correlation of norm and test accuracy {correlation(rows, 'norm/all')}"
    if "norm/scale_invariant" in rows and rows["norm/scale_invariant"].notna().any():
        text += f", of the norm of scale-invariant weights {correlation(rows, 'norm/scale_invariant')}"
    return Profile(network, outcome, text)


def correlation(rows, column):
    r = rank_correlation(rows[column], rows["test/accuracy"])
    return f"{r.correlation:.2g} [{r.low:.2g}, {r.high:.2g}] over {r.n} networks"


def judge(results):
    test = (
        "Paired t-intervals (95 %, Bonferroni over norms and networks) of the difference in test accuracy over at least "
        f"{ENOUGH} seeds. Supported where, in every network, a norm below that of unregularized training beats all others, no "
        "regularizer included; refuted where in a network a norm not below it, or no regularizer, beats all smaller ones."
    )
    notes = norms.warnings(results.table)
    if "test/accuracy" not in results.table:
        return Verdict("undecided", f"Every network diverged.{notes}", test)
    groups = norms.networks(results.table, Config, ("multiple",))
    found = [profile(network, rows, 1 - 0.05 / len(groups)) for network, rows in groups]
    outcomes = {p.outcome for p in found}
    outcome = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(outcome, f"{'; '.join(p.text for p in found)}.{notes}", test)


def figures(results):
    return {"accuracy_against_norm": accuracies(results), "norm_over_training": training_norms(results)}


def accuracies(results):
    """Test accuracy against the final norm, of all parameters and of those whose scale cannot matter; every seed."""
    groups = norms.networks(results.table, Config, ("multiple",))
    columns = {"norm/all": "$\\|\\theta\\|^2$ at the end", "norm/scale_invariant": "squared norm of scale-invariant weights"}
    columns = {c: name for c, name in columns.items() if c in results.table and results.table[c].notna().any()}
    figure, axes = plots.new(len(groups), max(1, len(columns)), width=5.2, height=3.8)
    for row_of_axes, (network, rows) in zip(axes, groups):
        for axis, (column, name) in zip(row_of_axes, columns.items()):
            if not rows[column].notna().any():
                axis.set_visible(False)  # a network without batch norm
                continue
            for (multiple, group), style in zip(rows.groupby("multiple"), plots.styles()):
                axis.plot(group[column], group["test/accuracy"], color=style["color"], marker=style["marker"],
                          linestyle="none", markersize=5, alpha=0.75, label=f"{multiple:g}")  # fmt: skip
            means = rows.groupby("multiple")[["test/accuracy", "train/accuracy"]].mean()
            middle = rows.groupby("multiple")[column].median()
            axis.plot(middle, means["test/accuracy"], "-", color="0.4", linewidth=1, zorder=0, label="mean")
            axis.plot(middle, means["train/accuracy"], ":", color="0.4", linewidth=1, zorder=0, label="mean, training")
            if column == "norm/all":
                first = rows.groupby("seed").first()
                axis.axvline(first["none/norm"].mean(), color="black", linestyle="--", linewidth=1, label="none")
                axis.plot(first["none/norm"], first["none/accuracy"], "*", color="black", markersize=7)
            axis.set(xscale="log", xlabel=name, ylabel="accuracy", title=network)
        if row_of_axes[0].lines:
            row_of_axes[0].legend(title="test; target\nin units of none's", **BESIDE)
    return figure


def training_norms(results):
    """The regularized squared norm over the epochs, one line per seed, with the targets."""
    groups = norms.networks(results.table, Config, ("multiple",))
    figure, axes = plots.new(1, len(groups), width=5.6, height=3.8)
    for axis, (network, rows) in zip(axes.flat, groups):
        for (multiple, group), style in zip(rows.groupby("multiple"), plots.styles()):
            for i, (_, row) in enumerate(group.iterrows()):
                history = results.histories[row["config_id"]]
                history = history[history["stage"] == "norm_bias"] if len(history) else history
                if not len(history):
                    continue  # training without a regularizer diverged
                values = history["norm/all" if row["regularize_all"] else "norm/kernels"]
                axis.plot([0, *history["epoch"]], [row["norm/start"], *values], color=style["color"], alpha=0.7,
                          linestyle=style["linestyle"], linewidth=1.2, label=f"{multiple:g}" if i == 0 else None)  # fmt: skip
            if "norm/target" in group and group["norm/target"].notna().any():
                axis.axhline(np.nanmean(group["norm/target"]), linestyle=":", linewidth=1, color=style["color"])
        axis.set(xlabel="epoch", ylabel="$\\|\\theta\\|^2$", yscale="log", title=f"{network} (dotted: mean targets)")
        if axis.lines:
            axis.legend(title="target\nin units of none's", **BESIDE)
    return figure
