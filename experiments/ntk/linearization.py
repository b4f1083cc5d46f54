"""Is a trained network the kernel machine of its NTK?  Jacot et al. 2018; Lee et al. 2019; Goldblum et al. 2020.

The network, trained on the squared loss, against the network linearized at its start and trained by the same steps
(Lee et al. 2019, theorem 2.1), and against where that one ends, f0(x) + Theta0(x, X) Theta0(X, X)^-1 (Y - f0(X)); on
demand also against kernel regression with the NTK after training.
"""
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.linalg
from matplotlib.figure import Figure

from analysis.evaluation import evaluate_splits, predict, score
from analysis.kernels import KernelRegression, kernel_regression
from analysis.linearized_training import linearized_predictions, momentum_share
from analysis.ntk import empirical_ntk
from analysis.statistics import paired_difference, t_interval
from experiments.ntk.limit_conditions import (
    CONDITIONS,
    check_conditions,
    check_kernel_size,
    describe_missed,
    rate_scaling_field,
    scaled_training,
    stored_defaults,
    target_loss_field,
    train,
)
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide, within
from judging.results import Group, Results
from judging.trends import format_trend, why_no_trend, width_trend
from judging.verdict import Claim, Verdict
from judging.wording import format_factor, format_interval, format_points
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network

CLAIM = Claim(
    "A wide trained network is the kernel machine of its initial NTK.",
    source="Jacot et al. 2018; Lee et al. 2019, theorem 2.1; examined in Goldblum et al. 2020, section 4",
)
# The final kernel, which is told and not judged, would double the time.
GRID = {"width": [64, 256, 1024], **CONDITIONS, "final_kernel": [False], "seed": [0, 1, 2]}
TRAINED = 0.99  # training accuracy below which training has failed, and nothing is judged
COLUMNS = {
    "linearized/distance": "distance of the linearized network after the same steps",
    "initial/distance": "of where it ends",
    "final/distance": "of the final NTK's regression",
    "linearized/step_size": "learning rate over the largest stable one",
    "linearized/test/accuracy": "linearized",
    "linearized/test/loss": "test loss, linearized network after the same steps",
    "linearized/agreement": "share of test images on which network and linearized network agree after the same steps",
    **evaluation_columns(name="network"),
    "train/epochs": "epochs trained",
    "initial/test/accuracy": "linearized, in the end",
    "final/test/accuracy": "final NTK",
    "initial/test/loss": "test loss, linearized network in the end",
    "final/test/loss": "test loss, final NTK",
    "initial/agreement": "share of test images on which network and linearized network in the end agree",
    "final/agreement": "share of test images on which network and final NTK agree",
    "initial/condition": "condition number of the initial NTK",
    "final/condition": "condition number of the final NTK",
    "initial/rank": "rank of the initial NTK",
    "final/rank": "rank of the final NTK",
    "initial/residual": "relative residual of the regression with the initial NTK",
    "final/residual": "relative residual of the regression with the final NTK",
}
TABLE = (
    "linearized/distance", "initial/distance", "test/accuracy", "linearized/test/accuracy", "initial/test/accuracy",
    "linearized/step_size", "train/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=2)
    data: DataConfig = DataConfig(normalize=False, train_size=100)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=400, learning_rate=0.02, momentum=0.9)
    ridge: float = field(default=0.0, metadata={"help": "ridge added to the kernel; 0 for interpolation"})
    final_kernel: bool = field(
        default=True, metadata={"help": "also compare with the regression of the NTK after training", "added": True}
    )
    rate_scaling: str = rate_scaling_field()
    target_loss: float | None = target_loss_field()
    seed: int = seed_field()

    def validate(self) -> None:
        check_conditions(self)
        if not 0 <= self.ridge < math.inf:
            raise ValueError(f"ridge must be 0 or a positive finite number, got {self.ridge}")
        if self.training.loss != "squared":
            raise ValueError(
                f"linearization compares with a regression: loss must be squared, got {self.training.loss}"
            )


def check(config: Config, data: Data, run: Run) -> None:
    check_kernel_size(data)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The trained network, and how far from its test predictions those of the linear networks lie."""
    model = build_network(config, data)
    x, test = data.x_train, data.x_test
    start = [predict(model, inputs).astype(np.float64) for inputs in (x, test)]
    kernel, cross, residual = empirical_ntk(model, x), empirical_ntk(model, test, x), data.y_train - start[0]
    eigen = scipy.linalg.eigh(kernel.reshape(residual.size, residual.size))
    initial = kernel_regression(kernel, residual, cross, start[1], ridge=config.ridge, eigen=eigen)
    history = train(model, data, config, run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    network = predict(model, test).astype(np.float64)
    moved = np.linalg.norm(network - start[1])
    result = {
        "diverged_epoch": None,
        **evaluate_splits(model, data, config.training.loss),
        "train/epochs": len(history.rows),
        **follow_steps(config, eigen, cross, residual, start[1], len(history.rows), network, moved, data),
        **compare("initial", initial.predictions, network, moved, data),
        **describe_regression("initial", initial),
    }
    if not config.final_kernel:
        return result
    kernel, cross = empirical_ntk(model, x), empirical_ntk(model, test, x)
    final = kernel_regression(kernel, data.y_train, cross, ridge=config.ridge)
    return {
        **result,
        **compare("final", final.predictions, network, moved, data),
        **describe_regression("final", final),
    }


def follow_steps(
    config: Config, eigen: tuple[np.ndarray, np.ndarray], cross: np.ndarray, residual: np.ndarray, start: np.ndarray,
    epochs: int, network: np.ndarray, moved: float, data: Data,
) -> dict[str, float]:  # fmt: skip
    """The linearized network after the steps that the network took; without distance where it diverges.

    Batches smaller than the training set are followed in the mean, by full-batch steps. Empty with a regularizer, for
    which there is no linearized network here.
    """
    training = scaled_training(config)
    if training.coefficient:
        return {}
    m = len(residual)
    steps = m // min(training.batch_size, m)
    rates = [
        training.learning_rate * training.decay_factor ** sum(epoch >= decay for decay in training.decay_epochs)
        for epoch in range(epochs)
        for _ in range(steps)
    ]
    values = np.maximum(eigen[0], np.finfo(float).tiny)
    share = momentum_share(values, rates, training.momentum, m)
    largest = 2 * (1 + training.momentum) * m / float(values[-1])
    result = {"linearized/step_size": training.learning_rate / largest}
    with np.errstate(over="ignore", invalid="ignore"):
        predictions = linearized_predictions((values, eigen[1]), cross, share, residual, start)
        distance = np.linalg.norm(predictions - network)
    if not np.isfinite(distance):
        return result
    return {**result, **compare("linearized", predictions, network, moved, data)}


def compare(
    name: str, predictions: np.ndarray, network: np.ndarray, moved: float, data: Data
) -> dict[str, float]:
    """What a linear network predicts on the test set, [n, k], and its distance from the network's predictions there.

    moved: how far training moved the network's test predictions, the unit of the distance.
    """
    loss, accuracy = score(predictions, data.y_test, "squared")
    return {
        f"{name}/test/loss": loss,
        f"{name}/test/accuracy": accuracy,
        f"{name}/distance": float(np.linalg.norm(predictions - network) / moved),
        f"{name}/agreement": float(np.mean(predictions.argmax(1) == network.argmax(1))),
    }


def describe_regression(name: str, regression: KernelRegression) -> dict[str, float]:
    """How far to trust a KernelRegression."""
    return {
        f"{name}/condition": regression.condition_number,
        f"{name}/rank": regression.rank,
        f"{name}/residual": regression.relative_residual,
    }


def judge(results: Results) -> Verdict:
    """Is the widest network the linearized one, within margins, and does it come closer with width?"""
    margin, factor, near = (results.margins[name] for name in ("margin", "margin_factor", "margin_level"))
    test = (
        "Per network, t-tests over seeds of the distance between the test predictions of the network and of the "
        "linearized network after the same steps, in units of how far training moved them, and of the paired "
        "difference of their test accuracies. Supported where at the largest width the distance lies below "
        f"{near:g} and the accuracies differ by less than {100 * margin:g} points (equivalence: two one-sided tests), "
        f"and the distance falls with width; refuted where it lies above {near:g} there, and falls by less than a "
        f"factor of {factor:g} a doubling. Of one width nothing is decided, nor where training failed (training "
        f"accuracy below {TRAINED:g}), or its learning rate is beyond the linearized network's largest stable one."
    )
    if not len(results.measured("initial/distance")):
        return Verdict("undecided", "Every network diverged.", test)
    groups = results.groups()
    if any(group.by_width for group in groups):
        findings = [judge_network(group, margin, factor, near, results.confidence) for group in groups]
        return decide(results, findings, test)
    measured = "; ".join(f"{group.label}: {describe_stored(group, results.confidence)}" for group in groups)
    return Verdict("undecided", f"{why_no_trend(groups)}. Measured: {measured}.", test)


def describe_stored(group: Group, confidence: float) -> str:
    """What was measured of a Group without widths, whose seeds are all of one network."""
    name = "linearized" if "linearized/distance" in group.rows else "initial"
    columns = (f"{name}/distance", "test/accuracy", f"{name}/test/accuracy")
    means = (format_interval(t_interval(group.rows[column], confidence)) for column in columns)
    return "distance {}, test accuracy {}, linearized {}".format(*means)


def why_not_judged(rows: pd.DataFrame) -> str:
    """What keeps the runs of a group from being judged, in words; "" where nothing does."""
    runs = len(rows)
    if missed := describe_missed(rows):
        return missed
    if "train/accuracy" in rows and (failed := rows[rows["train/accuracy"] < TRAINED]).size:
        return (
            f"training failed in {len(failed)} of {runs} runs (training accuracy down to "
            f"{failed['train/accuracy'].min():.2g}, where {TRAINED:g} is asked for)"
        )
    if "linearized/step_size" in rows and (beyond := int((rows["linearized/step_size"] >= 1).sum())):
        return f"in {beyond} of {runs} runs the learning rate lies beyond the linearized network's largest stable one"
    ended = rows[rows["initial/distance"].notna()]
    if "linearized/distance" not in rows or ended["linearized/distance"].isna().any():
        return (
            "some runs did not follow the linearized network (they have a regularizer, or are of an earlier version: "
            "--overwrite computes them again)"
        )
    return ""


def judge_network(group: Group, margin: float, factor: float, near: float, confidence: float) -> Finding:
    """The distance of one network over its widths, and its accuracy against the linearized one's at the largest."""
    if not group.by_width:
        return Finding(group.label, f"no width, so no trend: {describe_stored(group, confidence)}")
    why = why_not_judged(group.rows)
    name = "linearized" if "linearized/distance" in group.rows else "initial"
    trend = width_trend(group, f"{name}/distance", power_law=True, level=confidence)
    width = max(group.by_width)
    widest = group.by_width[width]
    distance = t_interval(np.log10(widest[f"{name}/distance"].astype(float)), confidence)
    gap = paired_difference(widest["test/accuracy"], widest[f"{name}/test/accuracy"], confidence)
    text = (
        f"distance {format_trend(trend, power_law=True)}, at width {width} {format_factor(distance, 2)}; network minus "
        f"linearized test accuracy there {format_points(gap)} over {gap.n} seeds"
    )
    if why:
        return Finding(group.label, f"{why}, so that nothing is judged: {text}")
    bound = math.log10(near)
    # The claim is of a limit: a distance or a gap at some width is evidence against it only where it does not shrink.
    return Finding(
        group.label,
        text,
        supports=(
            Statement("the same within the margins, and closer with width",
                      (below(distance, bound, single=True), *within(gap, -margin, margin), below(trend.slope))),
        ),
        refutes=(
            Statement("apart, and no closer with width",
                      (above(distance, bound, single=True), above(trend.slope, -math.log2(factor)))),
        ),
    )  # fmt: skip


def figures(results: Results) -> dict[str, Figure]:
    """Distance from the linearized network, and test accuracies of network and kernel machines, against width."""
    groups = results.measured("initial/distance").groups()
    if not groups:
        return {}
    figure, axes = plots.new(1, 2, width=5, height=4)
    distances = {"linearized/distance": "after the same steps", "initial/distance": "in the end"}
    plots.against_width(axes[0, 0], groups, distances, "distance of test predictions / movement")
    axes[0, 0].legend(title="network against the linearized one")
    kinds = {"": "network", "linearized/": "linearized", "initial/": "linearized, in the end", "final/": "final NTK"}
    accuracies = {f"{kind}test/accuracy": label for kind, label in kinds.items()}
    plots.against_width(axes[0, 1], groups, accuracies, "test accuracy")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), ncols=2, loc="outside lower center")
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
        "margin_level": (0.1, "distance of the linearized network at the largest width"),
    },
    stored_defaults=stored_defaults,
    max_seeds=6,
)
