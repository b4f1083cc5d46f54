"""Does the test loss descend a second time, past the width that just fits the training set?  Belkin et al. 2019.

Belkin, Hsu, Ma & Mandal 2019 (1812.11118, figures 1 and 2): as a model widens the test loss falls, rises towards the
interpolation threshold, at which its n k numbers can just be fitted (n images, k outputs), and falls again beyond. With
train=false the first layers stay as they start and the last one is the least-squares solution of minimum norm: random
features, exact in float64, with the threshold at a width of n. With train=true all layers are trained by SGD (Nakkiran
et al. 2020, 1912.02292). Beside it ridge regression with its penalty chosen by leave-one-out, which is said to remove
the peak (Nakkiran et al. 2021, 2003.01897).
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

from analysis.evaluation import evaluate_splits, score
from analysis.features import penultimate_features
from analysis.minimum_norm import minimum_norm_solution, ridge_solution
from analysis.parameters import get_parameters
from analysis.statistics import t_interval
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import paired_by_seed
from judging.verdict import Claim, Verdict
from judging.wording import format_factor
from models import NetworkConfig
from reporting import figures as plots
from training.data import DataConfig
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
NEAR = 1.25  # a width whose capacity is within this factor of the threshold stands for it
BEFORE = 0.25  # the peak is compared with this share of the threshold's capacity, within a factor of 2
WIDE = 4  # and with the widest network, whose capacity must be this many times the threshold's
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

    def validate(self):
        if self.training.loss != "squared":
            raise ValueError(f"the threshold is that of the squared loss, got loss {self.training.loss!r}")
        if self.data.augment and not self.train:
            raise ValueError("an exact solution has one training set: augment must be false")


def measure(config, data, run):
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


def solve_last_layer(model, data):
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


def judge(results):
    """Does the test loss rise towards the interpolation threshold, and fall beyond it?"""
    factor = results.margins["margin_factor"]
    test = (
        "Over seeds: paired t-tests of the log10 test loss at the width whose capacity is nearest to the interpolation "
        f"threshold (within a factor of {NEAR:g}), minus that at the width nearest to {BEFORE:g} of it, and minus that "
        f"of the widest network (at least {WIDE} times it): widths that do not depend on the losses. Supported where "
        f"both are above 0; refuted where one is below a factor of {factor:g}."
    )
    results = results.measured("capacity", "test/loss")
    if not len(results):
        return Verdict("undecided", "Every network diverged.", test)
    return decide(results, [find_group(group, factor, results.confidence) for group in results.groups()], test)


def chosen_widths(group):
    """{"before", "threshold", "widest": rows at that width} of one Group; None where there is none for one of them."""
    widths = {float(rows["capacity"].iloc[0]): rows for rows in group.by_width.values()}

    def nearest(target, within):
        capacity = min(widths, key=lambda value: abs(np.log(value / target)))
        return widths[capacity] if max(capacity / target, target / capacity) <= within else None

    if not widths:
        return None
    chosen = {"before": nearest(BEFORE, 2), "threshold": nearest(1, NEAR)}
    chosen["widest"] = widths[max(widths)] if max(widths) >= WIDE else None
    return None if any(rows is None for rows in chosen.values()) else chosen


def find_group(group, factor, confidence) -> Finding:
    """The test loss at the threshold of one Group, against a narrower and the widest network."""
    chosen = chosen_widths(group)
    if chosen is None:
        return Finding(
            group.label,
            f"no widths at {BEFORE:g}, 1 and at least {WIDE} times the capacity that interpolates: nothing to compare",
        )
    losses = {name: rows.assign(log_loss=np.log10(rows["test/loss"])) for name, rows in chosen.items()}
    rise, descent = (
        paired_by_seed(losses["threshold"], losses[name], "log_loss", confidence) for name in ("before", "widest")
    )
    margin = np.log10(factor)
    at = {name: f"{rows['capacity'].iloc[0]:.2g}" for name, rows in chosen.items()}
    ridge = describe_ridge(chosen, confidence)
    return Finding(
        group.label,
        f"test loss at {at['threshold']} times the threshold {format_factor(rise)} times that at {at['before']}, and "
        f"{format_factor(descent)} times that at {at['widest']}, over {rise.n} seeds{ridge}",
        supports=(Statement("a peak at the threshold and a second descent", (above(rise), above(descent))),),
        refutes=(
            Statement("no rise towards the threshold", (below(rise, margin),)),
            Statement("no second descent", (below(descent, margin),)),
        ),
    )


def describe_ridge(chosen, confidence):
    """What is left of the peak with ridge regression; '' where it was not solved."""
    rows = chosen["threshold"]
    if "ridge/test/loss" not in rows or rows["ridge/test/loss"].isna().all():
        return ""
    logs = {name: part.assign(log_loss=np.log10(part["ridge/test/loss"])) for name, part in chosen.items()}
    left = paired_by_seed(logs["threshold"], logs["widest"], "log_loss", confidence)
    return f" (with ridge regression {format_factor(left)} times)"


def figures(results):
    """Test loss, training loss and test accuracy over capacity, minimum norm and ridge; the threshold is a line."""
    groups = [group for group in results.measured("capacity", "test/loss").groups() if group.by_width]
    if not groups:
        return {}
    figure, axes = plots.new(1, 3, width=4.4, height=3.8)
    panels = (("test/loss", "test loss"), ("train/loss", "training loss"), ("test/accuracy", "test accuracy"))
    for axis, (column, label) in zip(axes.flat, panels):
        looks = plots.styles()
        for group in groups:
            for prefix, suffix in (("", ""), ("ridge/", ", ridge")):
                rows = [part for part in group.by_width.values() if f"{prefix}{column}" in part]
                rows = [part for part in rows if part[f"{prefix}{column}"].notna().any()]
                if rows:
                    values = [np.maximum(part[f"{prefix}{column}"].dropna(), 1e-30) for part in rows]
                    capacities = [part["capacity"].iloc[0] for part in rows]
                    plots.interval_line(axis, capacities, intervals(column, values), label=group.label + suffix,
                                        **next(looks))  # fmt: skip
        axis.axvline(1, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xlabel="capacity / interpolation threshold", ylabel=label, xscale="log")
        if column != "test/accuracy":
            axis.set_yscale("log")
    axes[0, 1].set_ylim(1e-8, 1)  # what is fitted exactly lies below
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return {"double_descent": figure}


def intervals(column, values):
    """t-intervals over seeds at each width; of a loss those of its logarithm, so that none is below 0."""
    if not column.endswith("loss"):
        return [t_interval(v) for v in values]
    found = (t_interval(np.log10(v)) for v in values)
    return [dataclasses.replace(i, mean=10.0**i.mean, low=10.0**i.low, high=10.0**i.high) for i in found]


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
