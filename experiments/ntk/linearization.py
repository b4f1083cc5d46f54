"""Is a trained network the kernel machine of its NTK?  Jacot et al. 2018; Lee et al. 2019; Goldblum et al. 2020.

The network, trained on the squared loss, against the network linearized at its start,
f0(x) + Theta0(x, X) Theta0(X, X)^-1 (Y - f0(X)), and against kernel regression with the NTK after training.
"""
import math
from dataclasses import dataclass, field

import numpy as np

from analysis.evaluation import evaluate_splits, predict, score
from analysis.kernels import kernel_regression
from analysis.ntk import empirical_ntk
from analysis.statistics import paired_difference, t_interval
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide, within
from judging.trends import format_trend, why_no_trend, width_trend
from judging.verdict import Claim, Verdict
from judging.wording import format_interval, format_points
from models import NetworkConfig
from reporting import figures as plots
from training.data import DataConfig
from training.fit import TrainingConfig, build_network, fit

CLAIM = Claim(
    "A wide trained network is the kernel machine of its initial NTK.",
    source="Jacot et al. 2018; Lee et al. 2019; examined in Goldblum et al. 2020, section 4",
)
GRID = {"width": [32, 128, 512], "seed": [0, 1, 2]}
MAX_ROWS = 20000  # of the kernel matrix that is solved
COLUMNS = {
    "initial/distance": "distance of the linearized network",
    "final/distance": "of the final NTK's regression",
    **evaluation_columns(name="network"),
    "train/epochs": "epochs trained",
    "initial/test/accuracy": "linearized",
    "final/test/accuracy": "final NTK",
    "initial/test/loss": "test loss, linearized",
    "final/test/loss": "test loss, final NTK",
    "initial/agreement": "share of test images on which network and linearized network agree",
    "final/agreement": "share of test images on which network and final NTK agree",
    "initial/condition": "condition number of the initial NTK",
    "final/condition": "condition number of the final NTK",
    "initial/rank": "rank of the initial NTK",
    "final/rank": "rank of the final NTK",
    "initial/residual": "relative residual of the regression with the initial NTK",
    "final/residual": "relative residual of the regression with the final NTK",
}
TABLE = (
    "initial/distance", "final/distance", "test/accuracy", "initial/test/accuracy", "final/test/accuracy",
    "initial/condition", "train/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=2)
    data: DataConfig = DataConfig(normalize=False, train_size=100)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=400, learning_rate=0.02, momentum=0.9)
    ridge: float = field(default=0.0, metadata={"help": "ridge added to the kernel; 0 for interpolation"})
    seed: int = seed_field()

    def validate(self):
        if not self.ridge >= 0:
            raise ValueError(f"ridge must be 0 or positive, got {self.ridge}")
        if self.training.loss != "squared":
            raise ValueError(
                f"linearization compares with a regression: loss must be squared, got {self.training.loss}"
            )


def check(config, data, run):
    """Refuses kernels that are too large to solve."""
    size = len(data.x_train) * data.num_classes
    if size > MAX_ROWS:
        raise ValueError(
            f"the kernel of {len(data.x_train)} images and {data.num_classes} classes is a {size} x {size} matrix, too "
            f"large to solve: allowed are {MAX_ROWS} rows, so use a smaller --train_size"
        )


def measure(config, data, run):
    """The trained network, and how far from its test predictions those of the two kernel machines lie."""
    model = build_network(config, data)
    x, test = data.x_train, data.x_test
    start = [predict(model, inputs).astype(np.float64) for inputs in (x, test)]
    initial = kernel_regression(
        empirical_ntk(model, x), data.y_train - start[0], empirical_ntk(model, test, x), start[1], ridge=config.ridge
    )
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    final = kernel_regression(empirical_ntk(model, x), data.y_train, empirical_ntk(model, test, x), ridge=config.ridge)
    network = predict(model, test).astype(np.float64)
    moved = np.linalg.norm(network - start[1])
    return {
        "diverged_epoch": None,
        **evaluate_splits(model, data, config.training.loss),
        "train/epochs": len(history.rows),
        **compare("initial", initial, network, moved, data),
        **compare("final", final, network, moved, data),
    }


def compare(name, regression, network, moved, data):
    """What a kernel machine predicts on the test set, and its distance from the network's predictions [n, k] there.

    moved: how far training moved the network's test predictions, the unit of the distance.
    """
    loss, accuracy = score(regression.predictions, data.y_test, "squared")
    return {
        f"{name}/test/loss": loss,
        f"{name}/test/accuracy": accuracy,
        f"{name}/distance": float(np.linalg.norm(regression.predictions - network) / moved),
        f"{name}/agreement": float(np.mean(regression.predictions.argmax(1) == network.argmax(1))),
        f"{name}/condition": regression.condition_number,
        f"{name}/rank": regression.rank,
        f"{name}/residual": regression.relative_residual,
    }


def judge(results):
    """Does the network come closer to the linearized one with width, and is it as accurate where it is widest?"""
    margin, factor = results.margins["margin"], results.margins["margin_factor"]
    test = (
        "Per network, t-tests over seeds of the distance between the network's and the linearized network's test "
        "predictions, as a power of the width, and of the paired difference of their test accuracies at the largest "
        f"width. Supported where the distance falls and the accuracies differ by less than {100 * margin:g} points "
        f"(two one-sided tests); refuted where the distance falls by less than a factor of {factor:g} a doubling of "
        "the width, or the accuracies differ by more. Of one width nothing is decided."
    )
    if not len(results.measured("initial/distance")):
        return Verdict("undecided", "Every network diverged.", test)
    groups = results.groups()
    if any(group.by_width for group in groups):
        return decide(results, [judge_network(group, margin, factor, results.confidence) for group in groups], test)
    measured = "; ".join(f"{group.label}: {describe_stored(group, results.confidence)}" for group in groups)
    return Verdict("undecided", f"{why_no_trend(groups)}. Measured: {measured}.", test)


def describe_stored(group, confidence):
    """What was measured of a Group without widths, whose seeds are all of one network."""
    columns = ("initial/distance", "test/accuracy", "initial/test/accuracy")
    means = (format_interval(t_interval(group.rows[column], confidence)) for column in columns)
    return "distance {}, test accuracy {}, linearized {}".format(*means)


def judge_network(group, margin, factor, confidence) -> Finding:
    """The distance of one network over its widths, and its accuracy against the linearized one's at the largest."""
    trend = width_trend(group, "initial/distance", power_law=True, level=confidence)
    if trend is None:
        return Finding(group.label, f"no width, so no trend: {describe_stored(group, confidence)}")
    widest = group.by_width[max(group.by_width)]
    distance = format_interval(t_interval(widest["initial/distance"], confidence), 2)
    gap = paired_difference(widest["test/accuracy"], widest["initial/test/accuracy"], confidence)
    text = (
        f"distance {format_trend(trend, power_law=True)}, at the largest width {distance}; network minus linearized "
        f"test accuracy there {format_points(gap)} over {gap.n} seeds"
    )
    if not trend.slope.n:  # the claim is of a limit: what one width does is no evidence against it
        return Finding(group.label, text)
    same = (below(trend.slope), *within(gap, -margin, margin))
    return Finding(
        group.label,
        text,
        supports=(Statement("closer with width, and as accurate", same),),
        refutes=(
            Statement("no closer with width", (above(trend.slope, -math.log2(factor)),)),
            Statement("more accurate than the linearized network", (above(gap, margin),)),
            Statement("less accurate than the linearized network", (below(gap, -margin),)),
        ),
    )


def figures(results):
    """Distance from the linearized network, and test accuracies of network and kernel machines, against width."""
    groups = results.measured("initial/distance").groups()
    if not groups:
        return {}
    figure, axes = plots.new(1, 2, width=5, height=4)
    plots.against_width(axes[0, 0], groups, "initial/distance", "distance of test predictions / movement")
    axes[0, 0].legend(title="linearized at the start, against the network")
    kinds = {"": "network", "initial/": "linearized at the start", "final/": "final NTK"}
    accuracies = {f"{kind}test/accuracy": label for kind, label in kinds.items()}
    plots.against_width(axes[0, 1], groups, accuracies, "test accuracy")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    return {"linearization": figure}


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
    check=check,
    former_columns={
        **former_evaluation_columns("trained"),
        "trained/epochs": "train/epochs",
        "initial/test_loss": "initial/test/loss",
        "initial/test_accuracy": "initial/test/accuracy",
        "final/test_loss": "final/test/loss",
        "final/test_accuracy": "final/test/accuracy",
    },
    margins={
        "margin": (0.01, "test accuracy of the network against the linearized one, at the largest width"),
        "margin_factor": (1.1, "distance of the linearized network, a doubling of the width"),
    },
    max_seeds=6,
)
