"""Do networks that generalize well train lazily, as kernel machines?  Chizat et al. 2019; Woodworth et al. 2020.

Chizat, Oyallon & Bach (1812.07956, section 1) train the centred model alpha (f(w) - f(w0)) on the loss divided by
alpha^2. The larger alpha, the less the parameters have to move for the same outputs; in the limit (their section 2) the
network is its own linearization, the kernel machine of its initial neural tangent kernel: training is lazy. The smaller
alpha, the further features move (the rich regime of Woodworth et al. 2020, 2002.09277). On the squared loss this is
ordinary training towards the targets f(w0) + y / alpha, so that every scale descends from the same start to the same
training loss, and nothing but alpha differs.
"""
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import brentq

from analysis.evaluation import predict, score
from analysis.hessian import TrainingLoss
from analysis.kernels import kernel_drift, kernel_regression, label_alignment, trace_kernel
from analysis.linearized_training import linearized_predictions
from analysis.ntk import empirical_ntk
from analysis.parameters import get_parameters
from analysis.statistics import PairedDifference, t_interval
from experiments.ntk.limit_conditions import check_kernel_size
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results, paired_by_seed
from judging.verdict import Claim, Verdict
from judging.wording import field_text, format_interval, format_points
from models import DTYPES, NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import ask_network, build_network
from training.gradient_descent import beside_parameters, descend

CLAIM = Claim(
    "Networks generalize as well where they are trained lazily, as kernel machines of their initial NTK.",
    source="put on trial by Chizat et al. 2019, section 3; Woodworth et al. 2020",
)
GRID = {"alpha": [0.01, 0.1, 1.0, 100.0, 1e4], "seed": [0, 1, 2]}
OWN = 1.0  # the scale of the network as it is: scales up to it are compared with the largest one
EVERY = 10  # steps between two looks at the training loss
ROUNDING = 0.01  # of a target that is lost where alpha multiplies the rounding of outputs of order 1
COLUMNS = {
    "kernel/relative_change": "relative change of the NTK",
    "kernel/correlation": "correlation of the NTK before and after",
    "kernel/label_alignment_before": "centred alignment of NTK and labels before training",
    "kernel/label_alignment": "centred alignment of NTK and labels after it",
    "parameters/distance": "relative distance of the parameters from the start",
    "machine/distance": "distance from the kernel machine at the same loss",
    "machine/agreement": "share of test images on which network and kernel machine agree",
    "machine/test/accuracy": "kernel machine's test accuracy",
    "machine/test/loss": "kernel machine's test loss",
    "machine/end_distance": "distance from the kernel machine that fits the training set",
    "machine/end_accuracy": "that one's test accuracy",
    **evaluation_columns(name="network"),
    "fitted": "training reached the loss",
    "train/steps": "steps",
    "gradients": "gradients computed",
}
TABLE = (
    "kernel/relative_change", "parameters/distance", "machine/distance", "test/accuracy", "machine/test/accuracy",
    "kernel/label_alignment", "train/loss", "train/steps",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=2, width=128, dtype="float64")
    data: DataConfig = DataConfig(train_size=100, normalize=False)
    alpha: float = field(default=OWN, metadata={"help": "scale of the centred model alpha (f(w) - f(w0))"})
    final_loss: float = field(
        default=0.02, metadata={"help": "squared training loss of the scaled model at which training ends"}
    )
    max_steps: int = field(default=5000, metadata={"help": "steps of full-batch gradient descent at most"})
    seed: int = seed_field()

    def validate(self) -> None:
        for name in ("alpha", "final_loss"):
            value = getattr(self, name)
            if not (value > 0 and np.isfinite(value)):
                raise ValueError(f"{name} must be a finite number above 0, got {value}")
        rounding = np.finfo(self.network.dtype).eps if self.network.dtype in DTYPES else 0.0
        if self.alpha * rounding > ROUNDING:
            raise ValueError(
                f"alpha multiplies the rounding of the network's outputs: in {self.network.dtype} it may be at most "
                f"{ROUNDING / rounding:.3g}, got {self.alpha:g}"
            )
        if self.max_steps < EVERY:
            raise ValueError(f"max_steps must be at least {EVERY}, got {self.max_steps}")
        if self.data.augment:
            raise ValueError("full-batch gradient descent has one training set: augment must be false")


def check(config: Config, data: Data, run: Run) -> None:
    check_kernel_size(data)
    if reason := ask_network("beside parameters", config, data, run, beside_parameters):
        raise ValueError(f"lazy trains a network as it is in inference, and this one has {reason}")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The network trained at scale alpha to the final loss, and how far from the kernel machine it has got there."""
    model = build_network(config, data)
    x, test = data.x_train, data.x_test
    start = [predict(model, inputs).astype(np.float64) for inputs in (x, test)]
    first = get_parameters(model)
    kernel, cross = empirical_ntk(model, x), empirical_ntk(model, test, x)
    surface = TrainingLoss(model, x, start[0] + data.y_train / config.alpha, "squared")
    found = descend(
        surface, learning_rate=1.0, search=True, steps=config.max_steps, every=EVERY, run=run,
        probe=lambda step, kept: ({}, None),
        until=lambda rows: config.alpha**2 * rows[-1]["train/loss"] <= config.final_loss,
    )  # fmt: skip
    if found.diverged_step is not None:
        return {"diverged_epoch": found.diverged_step}
    on_train, on_test = (
        config.alpha * (predict(model, inputs).astype(np.float64) - before)
        for inputs, before in zip((x, test), start)
    )
    result = {"diverged_epoch": None, "train/steps": found.rows[-1]["epoch"], "gradients": found.gradients}
    for split, outputs, y in (("train", on_train, data.y_train), ("test", on_test, data.y_test)):
        result[f"{split}/loss"], result[f"{split}/accuracy"] = score(outputs, y, "squared")
    result["fitted"] = bool(result["train/loss"] <= config.final_loss * (1 + 1e-3))  # but for rounding
    after, labels = empirical_ntk(model, x), data.y_train.argmax(axis=1)
    drift = kernel_drift(kernel, after)
    moved = np.linalg.norm(get_parameters(model) - first) / np.linalg.norm(first)
    return {
        **result,
        "kernel/relative_change": drift.relative_change,
        "kernel/correlation": drift.correlation,
        "kernel/label_alignment_before": label_alignment(trace_kernel(kernel), labels),
        "kernel/label_alignment": label_alignment(trace_kernel(after), labels),
        "parameters/distance": float(moved),
        **compare(kernel, cross, data, result["train/loss"], on_test),
    }


def compare(
    kernel: np.ndarray, cross: np.ndarray, data: Data, loss: float, network: np.ndarray
) -> dict[str, float]:
    """The kernel machine of Theta0 [m, k, m, k] at the same training loss and in the end, against the network.

    network: outputs of the scaled network on the test set, [test, k], which training moved from 0.
    """
    y = np.asarray(data.y_train, np.float64)
    values, vectors = scipy.linalg.eigh(kernel.reshape(y.size, y.size))
    values = np.maximum(values, np.finfo(float).tiny)
    zero = np.zeros_like(network)
    share = -np.expm1(-values * time_of_loss(values, vectors.T @ y.ravel(), loss, len(y)))
    machine = linearized_predictions((values, vectors), cross, share, y, zero)
    end = kernel_regression(kernel, y, cross, zero, eigen=(values, vectors)).predictions
    moved = np.linalg.norm(network)
    test_loss, accuracy = score(machine, data.y_test, "squared")
    return {
        "machine/distance": float(np.linalg.norm(machine - network) / moved),
        "machine/agreement": float(np.mean(machine.argmax(1) == network.argmax(1))),
        "machine/test/accuracy": accuracy,
        "machine/test/loss": test_loss,
        "machine/end_distance": float(np.linalg.norm(end - network) / moved),
        "machine/end_accuracy": score(end, data.y_test, "squared")[1],
    }


def time_of_loss(values: np.ndarray, coefficients: np.ndarray, loss: float, examples: int) -> float:
    """When gradient flow of a kernel machine reaches a training loss, in units of the flow's time over `examples`.

    values, coefficients [m k]: eigenvalues of the kernel, and the targets in its eigenvectors. The loss at time t is
    1 / (2 m) sum of (coefficient exp(-value t))^2 (Lee et al. 2019, equation 9). 0 where it is never above `loss`.
    """
    def excess(log_time):
        left = coefficients * np.exp(-values * np.exp(log_time))
        return np.log(np.sum(left**2) / (2 * examples) + np.finfo(float).tiny) - np.log(loss)

    low, high = np.log(1e-6 / values[-1]), np.log(1e6 / values[values > 1e-12 * values[-1]].min())
    if excess(low) <= 0:
        return 0.0
    return float(np.exp(brentq(excess, low, high))) if excess(high) < 0 else float(np.exp(high))


def judge(results: Results) -> Verdict:
    """Does any scale at which features may move, alpha = 1 or below, generalize better than lazy training?"""
    margin, level = results.margins["margin"], results.margins["margin_level"]
    test = (
        "Over seeds: one-sided paired t-tests of the test accuracy at each alpha of at most 1 against the largest "
        f"alpha, at the same training loss. Refuted where one of them gains more than {100 * margin:g} points; "
        f"supported where each gains less. Nothing is decided where the largest alpha is not lazy (NTK changed by more "
        f"than {level:g}) or all are (by less, at every alpha); runs that did not reach the training loss are left "
        "out, and a scale with all its runs."
    )
    measured = results.measured("test/accuracy")
    if not len(measured):
        return Verdict("undecided", "Every network diverged.", test)
    return decide(
        results, [find_group(group, margin, level, results.confidence) for group in measured.groups()], test
    )


def find_group(group: Group, margin: float, level: float, confidence: float) -> Finding:
    """What the scales of one Group gain over its largest one."""
    scales = dict(sorted(group.split("alpha").items()))
    fitted = {alpha: rows[rows["fitted"].astype(bool)] for alpha, rows in scales.items()}
    left_out = describe_left_out(scales, fitted)
    fitted = {alpha: rows for alpha, rows in fitted.items() if len(rows)}
    largest = max(scales)
    compared = {alpha: rows for alpha, rows in fitted.items() if alpha <= OWN and alpha != largest}
    if largest not in fitted or not compared:
        return Finding(group.label, f"no scale of at most {OWN:g} to compare with a larger one{left_out}")
    gains = {
        alpha: paired_by_seed(rows, fitted[largest], "test/accuracy", confidence) for alpha, rows in compared.items()
    }
    text = describe_scales(largest, fitted[largest], gains, confidence)
    if why := why_not_judged(fitted[largest], compared, level):
        return Finding(group.label, f"{text}{why}, so that nothing is judged{left_out}")
    return Finding(
        group.label,
        text + left_out,
        supports=(
            Statement("lazy training is as good", tuple(below(gain, margin) for gain in gains.values())),
        ),
        refutes=tuple(
            Statement(f"training at alpha {alpha:g} is better", (above(gain, margin),))
            for alpha, gain in gains.items()
        ),
    )  # fmt: skip


def describe_left_out(scales: dict[float, pd.DataFrame], fitted: dict[float, pd.DataFrame]) -> str:
    """`; at alpha 1 2 of 3 runs did not reach the training loss`, for each scale with such runs.

    scales: {alpha: rows}.  fitted: those of them that reached it.
    """
    missing = {alpha: len(rows) - len(fitted[alpha]) for alpha, rows in scales.items()}
    return "".join(
        f"; at alpha {alpha:g} {n} of {len(scales[alpha])} runs did not reach the training loss"
        for alpha, n in missing.items() if n
    )  # fmt: skip


def describe_scales(
    largest: float, lazy: pd.DataFrame, gains: dict[float, PairedDifference], confidence: float
) -> str:
    """How lazy training is at the largest alpha and how well it generalizes; what each smaller one gains over it."""
    change = float(lazy["kernel/relative_change"].astype(float).max())
    accuracy = format_interval(t_interval(lazy["test/accuracy"].astype(float), confidence), 3)
    text = (
        f"at alpha {largest:g} (NTK changed by at most {change:.2g}, outputs "
        f"{lazy['machine/distance'].astype(float).max():.2g} or less from the kernel machine's) test accuracy "
        f"{accuracy}"
    )
    return "; ".join(
        [text, *(f"at alpha {alpha:g} {format_points(gain)} more over {gain.n} seeds" for alpha, gain in gains.items())]
    )


def why_not_judged(lazy: pd.DataFrame, compared: dict[float, pd.DataFrame], level: float) -> str:
    """Why lazy training cannot be compared here with training that is not; "" where it can."""
    if float(lazy["kernel/relative_change"].astype(float).max()) > level:
        return ", which is not lazy"
    moved = max(float(rows["kernel/relative_change"].astype(float).min()) for rows in compared.values())
    if moved > level:
        return ""
    return (
        f"; but training is lazy at every alpha (at one of at most {OWN:g} the NTK changed by {moved:.2g} in the run "
        "that moved least)"
    )


def figures(results: Results) -> dict[str, Figure]:
    """Test accuracy, the change of the NTK and the distance from the kernel machine, over the scale."""
    results = results.measured("test/accuracy")
    if not len(results):
        return {}
    groups = results.groups()
    figure, axes = plots.new(len(groups), 3, width=4.2, height=3.4)
    for line, group in zip(axes, groups):
        for axis, (curves, label, scale) in zip(line, PANELS):
            for (column, name), style in zip(curves.items(), plots.styles()):
                draw(axis, group, column, results.confidence, scale=scale, label=name, **style)
            axis.set(xlabel="alpha (large: lazy)", ylabel=label, xscale="log", yscale=scale)
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        line[0].set_ylabel(f"{group.label}\n{line[0].get_ylabel()}")
    return {"over_alpha": figure}


PANELS = (
    ({"test/accuracy": "network", "machine/test/accuracy": "kernel machine, same loss"}, "test accuracy", "linear"),
    ({"kernel/relative_change": "NTK", "parameters/distance": "parameters"}, "relative change", "log"),
    ({"machine/distance": "at the same loss", "machine/end_distance": "fully trained"},
     "distance from the kernel machine", "log"),
)  # fmt: skip


def draw(axis: Axes, group: Group, column: str, confidence: float, *, scale: str, **style: Any) -> None:
    """Mean and interval of a column over seeds, at each alpha; geometric ones on a logarithmic scale."""
    scales = {alpha: rows[column].astype(float) for alpha, rows in sorted(group.split("alpha").items())}
    interval = plots.log_interval if scale == "log" else t_interval
    found = [interval(values, confidence) for values in scales.values()]
    plots.interval_line(axis, list(scales), found, **style)


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("descent",),
    apart=("alpha",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=lambda config: f"alpha={field_text(config.alpha)}",
    margins={
        "margin": (0.01, "test accuracy, at a small alpha against the largest"),
        "margin_level": (0.1, "relative change of the NTK that still counts as lazy"),
    },
    max_seeds=6,
)
