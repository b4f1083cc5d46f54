"""Does the test loss descend a second time, past the width that just fits the training set?  Belkin et al. 2019.

Belkin, Hsu, Ma & Mandal 2019 (1812.11118, figures 1 and 2): as a model widens the test loss falls, rises towards the
interpolation threshold, at which its n k numbers can just be fitted (n images, k outputs), and falls again beyond. With
train=false the first layers stay as they start and the last one is the least-squares solution of minimum norm: random
features, exact in float64, with the threshold at a width of n. With train=true all layers are trained by SGD (Nakkiran
et al. 2020, 1912.02292), and their test loss is drawn over epochs, too. One width and several numbers of images ask the
same along the images: more of them hurt up to the threshold (their section 7). Beside it ridge regression with its
penalty chosen by leave-one-out, which is said to remove the peak (Nakkiran et al. 2021, 2003.01897).
"""
from collections.abc import Iterable
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluation import evaluate_splits, score
from analysis.features import penultimate_features
from analysis.minimum_norm import minimum_norm_solution, ridge_solution
from analysis.parameters import get_parameters
from analysis.statistics import Interval, t_interval
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Results, paired_by_seed
from judging.verdict import Claim, Verdict
from judging.wording import field_label, format_factor
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit

CLAIM = Claim(
    "Past the width that just fits the training set, the test loss descends a second time.",
    source="double descent: Belkin et al. 2019, Nakkiran et al. 2020",
)
GRID = {
    "width": [10, 25, 50, 100, 150, 200, 250, 300, 400, 800, 1600, 3200],
    "label_noise": [0.0, 0.2],
    "seed": [0, 1, 2],
}
PENALTIES = np.logspace(-8, 4, 49)  # of ridge regression, times the mean squared length of a feature vector
NEAR = 1.25  # a capacity within this factor of the threshold stands for it
BEFORE = 0.25  # the peak is compared with this share of the threshold's capacity, within a factor of 2
BEYOND = 4  # and with the largest capacity, which must be this many times the threshold's
COLUMNS = {
    "capacity": "capacity / interpolation threshold",
    **evaluation_columns(),
    "ridge/train/loss": "training loss with ridge regression",
    "ridge/test/loss": "test loss with ridge regression",
    "ridge/test/accuracy": "test accuracy with ridge regression",
    "ridge/penalty": "its penalty, chosen by leave-one-out",
    "rank": "rank of the features",
    "norm": "norm of the last layer's weights",
}
TABLE = ("capacity", "train/loss", "test/loss", "test/accuracy", "ridge/test/loss", "ridge/test/accuracy", "norm")


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=1, width=200, dtype="float64")
    data: DataConfig = DataConfig(train_size=200, label_noise=0.2)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=1000, learning_rate=0.02, batch_size=50)
    train: bool = field(
        default=False, metadata={"help": "train all layers by SGD; if not, the last one is solved exactly"}
    )
    seed: int = seed_field("weights of the first layers")

    def validate(self) -> None:
        if self.training.loss != "squared":
            raise ValueError(f"the threshold is that of the squared loss, got loss {self.training.loss!r}")
        if self.data.augment and not self.train:
            raise ValueError("an exact solution has one training set: augment must be false")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Loss and accuracy of one width, and its capacity in units of the interpolation threshold."""
    model = build_network(config, data)
    if not config.train:
        return {"diverged_epoch": None, **solve_last_layer(model, data)}
    parameters = get_parameters(model).size
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    return {
        "diverged_epoch": None,
        "capacity": parameters / data.y_train.size,
        **evaluate_splits(model, data, config.training.loss),
    }


def solve_last_layer(model: keras.Model, data: Data) -> dict[str, float]:
    """Measures of the minimum-norm and the ridge solution of the model's last layer, without a bias."""
    train, test = (penultimate_features(model, x) for x in (data.x_train, data.x_test))
    weights, rank = minimum_norm_solution(train, data.y_train)
    scale = np.mean(np.sum(train**2, axis=1))
    ridge, penalty = ridge_solution(train, data.y_train, PENALTIES * scale)

    def scores(solution):
        for split, h, y in (("train", train, data.y_train), ("test", test, data.y_test)):
            loss, accuracy = score(h @ solution, y, "squared")
            yield from ((f"{split}/loss", loss), (f"{split}/accuracy", accuracy))

    ridge_scores = {f"ridge/{name}": value for name, value in scores(ridge)}
    ridge_scores.pop("ridge/train/accuracy")
    return {
        "capacity": train.shape[1] / len(train),
        **dict(scores(weights)),
        **ridge_scores,
        "ridge/penalty": penalty,
        "rank": rank,
        "norm": float(np.linalg.norm(weights)),
    }


def judge(results: Results) -> Verdict:
    """Does the test loss rise towards the interpolation threshold, and fall beyond it?"""
    factor = results.margins["margin_factor"]
    test = (
        "Over seeds: paired t-tests of the log10 test loss at the capacity nearest to the interpolation threshold "
        f"(within a factor of {NEAR:g}), minus that at the capacity nearest to {BEFORE:g} of it, and minus that at the "
        f"largest (at least {BEYOND} times it): capacities are those of the widths, or of the numbers of images where "
        "there is one width, and do not depend on the losses. Supported where both are above 0; refuted where one is "
        f"below a factor of {factor:g}."
    )
    measured = results.measured("capacity", "test/loss")
    if not len(measured):
        return Verdict("undecided", "Every network diverged.", test)
    found = [find_group(label, levels, factor, results.confidence) for label, levels in compared_levels(results)]
    return decide(measured, found, test)


def compared_field(results: Results) -> str:
    """The field whose values are compared: train_size where no group has two widths, whether they diverged or not."""
    single = all(len(group.by_width) < 2 for group in results.groups())
    return "train_size" if single and results.table["train_size"].nunique() > 1 else "width"


def compared_rows(results: Results) -> list[tuple[str, dict[int, pd.DataFrame]]]:
    """[(label, {value of the compared field: rows that did not diverge, a seed once})] of every group."""
    measured = results.measured("capacity", "test/loss")
    if compared_field(results) == "width":
        return [(group.label, group.by_width) for group in measured.groups()]
    return [(group.label, group.split("train_size")) for group in measured.groups(apart=("train_size",))]


def compared_levels(results: Results) -> list[tuple[str, dict[float, pd.DataFrame]]]:
    """[(label, {capacity: rows, a seed once})] of every group, ascending."""
    found = []
    for label, parts in compared_rows(results):
        levels = {}
        for rows in parts.values():  # train_size 0 may be one of the other numbers
            levels.setdefault(float(rows["capacity"].iloc[0]), rows)
        found.append((label, dict(sorted(levels.items()))))
    return found


def choose_levels(levels: dict[float, pd.DataFrame]) -> dict[str, pd.DataFrame] | None:
    """{"before", "threshold", "beyond": rows at that capacity} of {capacity: rows}; None where one has no level."""

    def nearest(target, within):
        capacity = min(levels, key=lambda value: abs(np.log(value / target)))
        return levels[capacity] if max(capacity / target, target / capacity) <= within else None

    if not levels or max(levels) < BEYOND:
        return None
    chosen = {"before": nearest(BEFORE, 2), "threshold": nearest(1, NEAR), "beyond": levels[max(levels)]}
    return None if any(rows is None for rows in chosen.values()) else chosen


def find_group(label: str, levels: dict[float, pd.DataFrame], factor: float, confidence: float) -> Finding:
    """The test loss at the threshold, against a smaller capacity and the largest of {capacity: rows}."""
    chosen = choose_levels(levels)
    if chosen is None:
        return Finding(
            label, f"no capacities of {BEFORE:g}, 1 and at least {BEYOND} times the threshold: nothing to compare"
        )
    losses = {name: rows.assign(log_loss=np.log10(rows["test/loss"])) for name, rows in chosen.items()}
    rise, descent = (
        paired_by_seed(losses["threshold"], losses[name], "log_loss", confidence) for name in ("before", "beyond")
    )
    margin = np.log10(factor)
    at = {name: f"{rows['capacity'].iloc[0]:.2g}" for name, rows in chosen.items()}
    ridge = describe_ridge(chosen, confidence)
    seeds = f"{rise.n}" if rise.n == descent.n else f"{rise.n} and {descent.n}"
    return Finding(
        label,
        f"test loss at {at['threshold']} times the threshold {format_factor(rise)} times that at {at['before']}, and "
        f"{format_factor(descent)} times that at {at['beyond']}, over {seeds} seeds{ridge}",
        supports=(Statement("a peak at the threshold and a second descent", (above(rise), above(descent))),),
        refutes=(
            Statement("no rise towards the threshold", (below(rise, margin),)),
            Statement("no second descent", (below(descent, margin),)),
        ),
    )


def describe_ridge(chosen: dict[str, pd.DataFrame], confidence: float) -> str:
    """What is left of the peak with ridge regression; '' where it was not solved."""
    rows = chosen["threshold"]
    if "ridge/test/loss" not in rows or rows["ridge/test/loss"].isna().all():
        return ""
    logs = {name: part.assign(log_loss=np.log10(part["ridge/test/loss"])) for name, part in chosen.items()}
    left = paired_by_seed(logs["threshold"], logs["beyond"], "log_loss", confidence)
    return f" (with ridge regression {format_factor(left)} times)"


def figures(results: Results) -> dict[str, Figure]:
    """Losses and test accuracy over capacity, and over epochs where networks were trained by SGD."""
    drawn = {}
    if levels := [(label, found) for label, found in compared_levels(results) if found]:
        drawn["double_descent"] = draw_capacities(levels)
    trained = [(label, histories_by_value(results, parts)) for label, parts in compared_rows(results)]
    if trained := [(label, histories) for label, histories in trained if histories]:
        drawn["epochs"] = draw_epochs(trained, compared_field(results))
    return drawn


def draw_capacities(groups: list[tuple[str, dict[float, pd.DataFrame]]]) -> Figure:
    """Test loss, training loss and test accuracy over capacity, minimum norm and ridge; the threshold is a line."""
    figure, axes = plots.new(1, 3, width=4.4, height=3.8)
    panels = (("test/loss", "test loss"), ("train/loss", "training loss"), ("test/accuracy", "test accuracy"))
    for axis, (column, label) in zip(axes.flat, panels):
        looks = plots.styles()
        for group, levels in groups:
            for prefix, suffix in (("", ""), ("ridge/", ", ridge")):
                name = f"{prefix}{column}"
                rows = {c: part[name].dropna() for c, part in levels.items() if name in part}
                rows = {c: np.maximum(values, 1e-30) for c, values in rows.items() if len(values)}
                if rows:
                    plots.interval_line(axis, list(rows), intervals(column, rows.values()), label=group + suffix,
                                        **next(looks))  # fmt: skip
        axis.axvline(1, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xlabel="capacity / interpolation threshold", ylabel=label)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        if column != "test/accuracy":
            axis.set_yscale("log")
    axes[0, 1].set_ylim(1e-8, 1)  # what is fitted exactly lies below
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def histories_by_value(results: Results, parts: dict[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
    """{value: every epoch with a test loss, of all seeds} of the networks among {value: rows} that SGD trained."""
    found = {}
    for value, rows in sorted(parts.items()):
        known = [results.histories.get(name, pd.DataFrame()) for name in rows["config_id"]]
        if known := [history for history in known if "test/loss" in history]:
            found[value] = pd.concat(known).dropna(subset=["test/loss"])
    return found


def draw_epochs(groups: list[tuple[str, dict[int, pd.DataFrame]]], field_name: str) -> Figure:
    """Test loss over epochs, a panel a group and a line a value of the field: means over seeds."""
    figure, axes = plots.panel_grid(len(groups), width=5.2, height=3.8)
    for axis, (label, histories) in zip(axes, groups):
        for (value, history), look in zip(histories.items(), plots.styles()):
            losses = history.groupby("epoch")["test/loss"].mean()
            axis.plot(losses.index, losses, label=field_label(field_name, value), markersize=4, **look)
        axis.set(title=label, xlabel="epoch", ylabel="test loss (mean over seeds)", xscale="log", yscale="log")
        axis.legend(ncols=1 + len(histories) // 7)
    return figure


def intervals(column: str, values: Iterable[pd.Series]) -> list[Interval]:
    """t-intervals over seeds at each width; of a loss those of its logarithm, so that none is below 0."""
    if not column.endswith("loss"):
        return [t_interval(v) for v in values]
    return [plots.log_interval(v) for v in values]


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("width",),
    measure=measure,
    judge=judge,
    figures=figures,
    margins={"margin_factor": (1.1, "the test loss at the interpolation threshold over that before and beyond it")},
    max_seeds=6,
)
