"""Which norm of the parameters generalizes best?  After Goldblum et al. 2020, section 3.

Norm-bias holds ||theta||^2 at multiples, far below 1 to far above, of what training without a regularizer ends with
on the same seed. Where batch norm follows, the scale of a kernel cannot change the function: such kernels are measured
apart. The norm that suits a learning rate is not the best one of another: with `rates` every norm, and no regularizer,
takes its best of them on images that are held out of the seed's own training set.
"""
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.statistics import PairedDifference, mean_correlation, paired_difference, rank_correlation, t_interval
from experiments.norm import tuning
from experiments.norm.norm_measures import (
    FINAL_COLUMNS,
    SETTLED,
    describe_scale_invariance,
    final_measures,
    regularized_norm,
    squared_norm,
    warn_unsettled,
)
from harness.experiment import Experiment, check_distinct, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_interval, format_points
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit
from training.regularizers import is_kernel

CLAIM = Claim(
    "Networks whose parameters have a small norm generalize best.",
    source="Goldblum et al. 2020, section 3, on a folklore of deep-learning theory",
)
GRID = {"multiple": [0.1, 0.3, 1.0, 3.0, 10.0], "seed": list(range(6))}
COLUMNS = {
    **FINAL_COLUMNS,
    "norm/start": "regularized squared norm at the start",
    "norm/target": "target of the regularized squared norm",
    "norm/over_none": "regularized squared norm / without regularizer",
    "tuned/learning_rate": "tuned learning rate",
    "tuned/accuracy": "accuracy on held-out images",
    "none/norm": "squared norm without regularizer",
    "none/test/accuracy": "its test accuracy",
    "none/learning_rate": "its tuned learning rate",
}
TABLE = (
    "test/accuracy", "train/accuracy", "gap/accuracy", "test/loss", "norm/all", "norm/over_target",
    "norm/least_equivalent", "norm/scale_invariant", "norm/effective_rate", "tuned/learning_rate", "none/norm",
    "none/test/accuracy", "none/learning_rate",
)  # fmt: skip
BESIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "title_fontsize": 9}  # a legend that hides no point
Gain = Callable[[float | str, float | str], PairedDifference]  # of test accuracy, a multiple or "none" over another


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
    rates: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "learning rates of which every norm, and no regularizer, takes its best by accuracy on "
            f"{100 * tuning.HELD_OUT:g} % of the training images, held out for it; none: learning_rate for all",
            "added": True,
        },
    )
    seed: int = seed_field()

    def validate(self) -> None:
        check_distinct(self, "rates")
        if not (self.multiple > 0 and math.isfinite(self.multiple)):
            raise ValueError(f"multiple must be a finite number > 0, got {self.multiple}")
        training = self.training
        if training.regularizer != "norm_bias" or not training.coefficient or training.norm_target:
            raise ValueError(
                "norm_profile needs regularizer=norm_bias with a coefficient > 0, and its targets as multiple, got "
                f"{training.regularizer}, coefficient={training.coefficient}, norm_target={training.norm_target}"
            )


def label(config: Config) -> str:
    return f"multiple={config.multiple:g}"


def check(config: Config, data: Data, run: Run) -> None:
    if config.rates:
        tuning.check_size(data)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Train with norm-bias towards a multiple of where unregularized training ends, and measure the end."""
    every_multiple = dataclasses.replace(config, multiple=1.0)
    reference = run.once(("unregularized", every_multiple), lambda: train_unregularized(config, data, run))
    if reference["diverged_epoch"]:
        return {"diverged_epoch": reference["diverged_epoch"]}
    target = config.multiple * reference["norm"]
    training, tuned = tune(config, data, run, dataclasses.replace(config.training, norm_target=target), "norm_bias")
    model, start = build(config, data)
    history = fit(model, data, training, seed=config.seed, run=run, stage="norm_bias")
    result = {
        **tuned,
        **{f"none/{name}": reference[name] for name in ("norm", "test/accuracy", "learning_rate") if name in reference},
        "norm/start": start,
        "norm/target": target,
        "diverged_epoch": history.diverged_epoch,
    }
    if history.diverged_epoch:
        return result
    final = final_measures(model, data, training, history)
    return {**result, **final, "norm/over_none": final[regularized_norm(training)] / reference["norm"]}


def tune(
    config: Config, data: Data, run: Run, training: TrainingConfig, stage: str
) -> tuple[TrainingConfig, dict[str, float]]:
    """(settings, measures): `training` with the best of the rates (`tuning.choose`), or as it is without any."""
    if not config.rates:
        return training, {}
    plans = {f"{stage}-rate={rate:g}": dataclasses.replace(training, learning_rate=rate) for rate in config.rates}
    return tuning.choose(config, data, run, plans, ("learning_rate",))


def build(config: Config, data: Data) -> tuple[keras.Model, float]:
    """(model, the squared norm that the regularizer acts on) at the start."""
    model = build_network(config, data)
    chosen = [v for v in model.trainable_variables if config.training.regularize_all or is_kernel(v)]
    return model, squared_norm(chosen)


def train_unregularized(config: Config, data: Data, run: Run) -> dict[str, float | None]:
    """Norm and test accuracy that training without a regularizer ends with, or the epoch at which it diverged.

    With rates, which of them it was, too.
    """
    plain = dataclasses.replace(config.training, regularizer="none", coefficient=0.0)
    training, tuned = tune(config, data, run, plain, "none")
    model, _ = build(config, data)
    history = fit(model, data, training, seed=config.seed, run=run, stage="none")
    found = {"diverged_epoch": history.diverged_epoch}
    if not history.diverged_epoch:
        final = final_measures(model, data, training, history)
        found.update({"norm": final[regularized_norm(training)], "test/accuracy": final["test/accuracy"]})
    if tuned:
        found["learning_rate"] = tuned["tuned/learning_rate"]
    return found


def judge(results: Results) -> Verdict:
    """Paired differences in test accuracy between the norms of each network, no regularizer included.

    A norm is small where it ended below that of unregularized training.
    """
    margin = results.margins["margin"]
    test = (
        "One-sided paired t-tests over seeds of differences in test accuracy. Small is a norm below that of "
        "unregularized training. Supported where a small norm beats every norm that is not small, and no regularizer, "
        f"and the smallest of all is less than {100 * margin:g} points worse than any other small one; refuted where "
        "a norm that is not small, or no regularizer, beats all small ones, or where no small one gains "
        f"{100 * margin:g} points over no regularizer."
    )
    notes = warn_unsettled(results.table)
    if not len(results.measured("test/accuracy")):
        return Verdict("undecided", f"Every network diverged.{notes}", test)
    findings = [compare_norms(group, margin, results.confidence) for group in results.groups()]
    return decide(results, findings, test, notes=notes)


def compare_norms(group: Group, margin: float, confidence: float) -> Finding:
    """The norms of a Group against each other, and against no regularizer."""
    rows = group.rows
    means = {m: t_interval(part["test/accuracy"]).mean for m, part in sorted(group.split("multiple").items())}
    means = {m: mean for m, mean in means.items() if mean == mean}
    if not means:
        return Finding(group.label, "every network diverged")
    accuracy = rows.pivot(index="seed", columns="multiple", values="test/accuracy")
    accuracy["none"] = rows.groupby("seed")["none/test/accuracy"].first()
    ratio = rows.groupby("multiple")["norm/over_none"].mean()
    small = [m for m in means if ratio[m] < 1 - SETTLED]
    large = [*(m for m in means if m not in small), "none"]

    @cache
    def gain(a, b):
        return paired_difference(accuracy[a], accuracy[b], confidence)

    top = max(means, key=means.get)
    text = (
        f"of {', '.join(f'{m:g}' for m in means)} times the unregularized squared norm, mean test accuracy is highest "
        f"at {top:g} ({means[top]:.4g}; without regularizer {accuracy['none'].mean():.4g})"
        f"{describe_rates(rows)}{describe_gains(small, gain)}{describe_correlations(rows, confidence)}"
        f"{describe_scale_invariance(rows)}"
    )
    if not small:
        return Finding(group.label, text)
    smallest = min(small, key=ratio.get)
    return Finding(group.label, text, *statements(small, large, smallest, gain, margin))


def statements(
    small: list[float], large: list[float | str], smallest: float, gain: Gain, margin: float
) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    """(supports, refutes) of one network.

    small: the multiples that ended below the unregularized norm.  large: the others, and "none".
    smallest: the multiple that ended with the smallest norm.
    """

    def beats(name, others):
        return tuple(above(gain(name, other)) for other in others)

    # That two small norms are as good speaks for small norms; that the smallest is worse would not.
    not_worse = tuple(above(gain(smallest, other), -margin) for other in small if other != smallest)
    supports = tuple(
        Statement(f"{m:g} beats every norm not below 1 and none", (*beats(m, large), *not_worse)) for m in small
    )
    refutes = tuple(Statement(f"{m if m == 'none' else f'{m:g}'} beats all below 1", beats(m, small)) for m in large)
    useless = tuple(below(gain(m, "none"), margin) for m in small)
    return supports, (*refutes, Statement("no norm below 1 gains the margin over none", useless))


def describe_rates(rows: pd.DataFrame) -> str:
    """`; medians of tuned learning rates 0.01 (0.1 times), 0.02 (none)`, or nothing where none was tuned."""
    if not {"tuned/learning_rate", "none/learning_rate"} <= {*rows.columns[rows.notna().any()]}:
        return ""
    medians = {f"{m:g} times": part["tuned/learning_rate"].median() for m, part in rows.groupby("multiple")}
    medians["none"] = rows.groupby("seed")["none/learning_rate"].first().median()
    return f"; medians of tuned learning rates {', '.join(f'{rate:g} ({name})' for name, rate in medians.items())}"


def describe_gains(small: list[float], gain: Gain) -> str:
    """`; 0.1 minus none +5 [4, 6] points (8 paired seeds)` of each norm below 1, or that there is none."""
    found = {m: gain(m, "none") for m in small}
    texts = (f"; {m:g} minus none {format_points(one)} ({one.n} paired seeds)" for m, one in found.items())
    return "".join(texts) or "; no norm is below 1"


def describe_correlations(rows: pd.DataFrame, confidence: float) -> str:
    """Rank correlations with test accuracy: of the norm, and of that of scale-invariant weights where there are any."""
    text = f"; rank correlation of norm and test accuracy {describe_correlation(rows, 'norm/all', confidence)}"
    if "norm/scale_invariant" in rows and rows["norm/scale_invariant"].notna().any():
        found = describe_correlation(rows, "norm/scale_invariant", confidence)
        text += f", of the norm of scale-invariant weights {found}"
    return text


def describe_correlation(rows: pd.DataFrame, column: str, confidence: float) -> str:
    """`-0.9 [-1, -0.7]`: rank correlation of a norm and test accuracy over a seed's multiples, the mean over seeds.

    Networks of one seed share data and initial weights: all of them together would be no sample of networks.
    """
    by_seed = [
        rank_correlation(of_seed[column], of_seed["test/accuracy"]).correlation for _, of_seed in rows.groupby("seed")
    ]
    found = mean_correlation(by_seed, confidence)
    return f"{format_interval(found, 2)}{f' (mean of {found.n} seeds)' if found.n else ''}"


def figures(results: Results) -> dict[str, Figure]:
    """Test accuracy against the final norm, where any run was measured, and norms over epochs; a panel a network."""
    groups = results.groups()
    result = {"norm_over_training": plot_norms(groups, results.histories)}
    if len(results.measured("test/accuracy")):
        result = {"accuracy_against_norm": plot_accuracies(groups), **result}
    return result


def plot_accuracies(groups: list[Group]) -> Figure:
    """Test accuracy against the final norm, of all parameters and of those whose scale cannot matter; every seed."""
    groups = [group for group in groups if group.rows["test/accuracy"].notna().any()]
    columns = {
        "norm/all": "$\\|\\theta\\|^2$ at the end",
        "norm/scale_invariant": "squared norm of scale-invariant weights",
    }
    columns = {c: name for c, name in columns.items() if any(c in g.rows and g.rows[c].notna().any() for g in groups)}
    figure, axes = plots.new(len(groups), len(columns), width=5.2, height=3.8)
    for row_of_axes, group in zip(axes, groups):
        for axis, (column, name) in zip(row_of_axes, columns.items()):
            if not group.rows[column].notna().any():
                axis.set_visible(False)  # a network without batch norm
                continue
            plot_profile(axis, group, column)
            axis.set(xscale="log", xlabel=name, ylabel="accuracy", title=group.label)
        if row_of_axes[0].lines:
            row_of_axes[0].legend(title="test; target\nin units of none's", **BESIDE)
    return figure


def plot_profile(axis: Axes, group: Group, column: str) -> None:
    """Every seed's test accuracy against one norm, the means of both accuracies, and what no regularizer ends with."""
    rows = group.rows
    for (multiple, part), style in zip(sorted(group.split("multiple").items()), plots.styles()):
        axis.plot(part[column], part["test/accuracy"], color=style["color"], marker=style["marker"],
                  linestyle="none", markersize=5, alpha=0.75, label=f"{multiple:g}")  # fmt: skip
    means = rows.groupby("multiple")[["test/accuracy", "train/accuracy"]].mean()
    middle = rows.groupby("multiple")[column].median()
    axis.plot(middle, means["test/accuracy"], "-", color="0.4", linewidth=1, zorder=0, label="mean")
    axis.plot(middle, means["train/accuracy"], ":", color="0.4", linewidth=1, zorder=0, label="mean, training")
    if column == "norm/all":
        first = rows.groupby("seed")[["none/norm", "none/test/accuracy"]].first()
        axis.axvline(first["none/norm"].mean(), color="black", linestyle="--", linewidth=1, label="none: mean norm")
        axis.plot(first["none/norm"], first["none/test/accuracy"], "*", color="black", markersize=7, label="none")


def plot_norms(groups: list[Group], histories: dict[str, pd.DataFrame]) -> Figure:
    """The regularized squared norm over the epochs, one line per seed, with the targets."""
    figure, axes = plots.panel_grid(len(groups), width=5.6, height=3.8)
    for axis, group in zip(axes, groups):
        for (multiple, rows), style in zip(sorted(group.split("multiple").items()), plots.styles()):
            name = f"{multiple:g}"
            for _, row in rows.iterrows():
                history = histories.get(row["config_id"], ())
                history = history[history["stage"] == "norm_bias"] if len(history) else history
                if not len(history):
                    continue  # training without a regularizer diverged
                values = history["norm/all" if row["regularize_all"] else "norm/kernels"]
                axis.plot([0, *history["epoch"]], [row.get("norm/start", math.nan), *values], color=style["color"],
                          alpha=0.7, linestyle=style["linestyle"], linewidth=1.2, label=name)  # fmt: skip
                name = None  # one entry in the legend for all seeds
            if "norm/target" in rows and rows["norm/target"].notna().any():
                axis.axhline(np.nanmean(rows["norm/target"]), linestyle=":", linewidth=1, color=style["color"])
        axis.set(xlabel="epoch", ylabel="$\\|\\theta\\|^2$", yscale="log")
        axis.set_title(f"{group.label} (dotted: mean targets)")
        if axis.lines:
            axis.legend(title="target\nin units of none's", **BESIDE)
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("none", "none-rate=<rate>", "norm_bias", "norm_bias-rate=<rate>"),
    apart=("multiple",),
    check=check,
    measure=measure,
    judge=judge,
    figures=figures,
    label=label,
    former_columns={"none/accuracy": "none/test/accuracy"},
    margins={"margin": (0.01, "test accuracy gained by a small norm over no regularizer")},
    max_seeds=10,
)
