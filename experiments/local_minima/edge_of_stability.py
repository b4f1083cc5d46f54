"""Does gradient descent train at the edge of stability?  Cohen, Kaur, Li, Kolter & Talwalkar 2021 (2103.00065).

Full-batch gradient descent with step size eta is stable on a quadratic function whose largest Hessian eigenvalue, the
sharpness, is at most 2 / eta, with momentum b at most (2 + 2 b) / eta (the paper's section 2 and equation 1). The claim
(sections 3.1 and 3.2): on a network the sharpness rises to that threshold and then hovers there, while the training
loss rises over single steps and falls over many. Measured at chosen steps by Lanczos, for several step sizes; and, as a
control, at a tenth of the step size, whose threshold is ten times higher.
"""
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.evaluation import evaluate_splits
from analysis.hessian import TrainingLoss, largest_eigenvalue
from analysis.losses import LOSSES
from analysis.parameters import get_parameters, set_parameters
from analysis.statistics import t_interval
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide, fact, within
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import field_text, format_factor
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import ask_network, build_network
from training.gradient_descent import Descent, beside_parameters, descend

CLAIM = Claim(
    "Full-batch gradient descent raises the sharpness to 2 / step size and then stays there, for any step size.",
    source="Cohen et al. 2021",
)
GRID = {"learning_rate": [0.07, 0.1, 0.14], "seed": [0, 1, 2]}
NEAR = 0.1  # "within 10 %" of the threshold
TRAINED = 1e-3  # of the first loss: below, training is at its end, and a sharpness that stayed low has stayed low
CONTROL = 10  # the control's step size is this many times smaller
COLUMNS = {
    "late/ratio": "sharpness / threshold, last third",
    "late/spread": "standard deviation of its log10 over the measurements",
    "late/near": "share of it within 10 % of 1",
    "late/rising_steps": "share of single steps that raise the loss there",
    "late/loss_ratio": "loss at the end / where that third begins",
    "start/ratio": "sharpness / threshold at the start",
    "reached_step": "first measured step at the threshold",
    "control/ratio": "at a tenth of the step size: sharpness / this step size's threshold",
    "start/loss": "training loss at the start",
    **evaluation_columns(),
    "products": "Hessian-vector products a measurement, after the first",
    "residual": "largest relative residual of a measured eigenvalue",
}
TABLE = (
    "start/ratio", "late/ratio", "late/near", "late/rising_steps", "late/loss_ratio", "reached_step", "control/ratio",
    "train/loss", "products",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=32, depth=2, activation="tanh")
    data: DataConfig = DataConfig(train_size=100, normalize=False)
    loss: str = field(default="squared", metadata={"help": f"training loss, one of {', '.join(LOSSES)}"})
    learning_rate: float = field(default=0.1, metadata={"help": "step size of gradient descent"})
    momentum: float = field(default=0.0, metadata={"help": "momentum of gradient descent, in [0, 1)"})
    steps: int = field(default=1500, metadata={"help": "steps of full-batch gradient descent"})
    measure_every: int = field(default=20, metadata={"help": "steps between two measurements of the sharpness"})
    control_steps: int = field(default=1500, metadata={"help": "steps at a tenth of the step size; 0: no control"})
    seed: int = seed_field("weights and data subset")

    def validate(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: allowed are {', '.join(LOSSES)}")
        if not (self.learning_rate > 0 and np.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be a finite number above 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.measure_every < 1 or self.steps < 6 * self.measure_every:
            raise ValueError(
                "a last third needs two measurements or more: steps must be at least 6 times measure_every, got "
                f"{self.steps} and {self.measure_every}"
            )
        if self.control_steps and self.control_steps < 2 * self.measure_every:
            raise ValueError(
                f"control_steps must be 0 (no control) or at least twice measure_every, got {self.control_steps}"
            )
        if self.data.augment:
            raise ValueError("full-batch gradient descent has one training set: augment must be false")

    @property
    def threshold(self) -> float:
        """The largest sharpness at which gradient descent is stable on a quadratic function."""
        return (2 + 2 * self.momentum) / self.learning_rate


def check(config: Config, data: Data, run: Run) -> None:
    if reason := ask_network("beside parameters", config, data, run, beside_parameters):
        raise ValueError(f"edge_of_stability needs a network without batch norm and dropout, and this one has {reason}")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The sharpness along gradient descent, and along the control's from the same start."""
    model = build_network(config, data)
    start = get_parameters(model)
    surface = TrainingLoss(model, data.x_train, data.y_train, config.loss)
    plan = {"momentum": config.momentum, "every": config.measure_every, "probe": sharpness_probe(surface), "run": run}
    control = {}
    if config.control_steps:
        found = descend(
            surface, learning_rate=config.learning_rate / CONTROL, steps=config.control_steps, stage="control", **plan
        )
        if found.diverged_step is not None:
            return {"diverged_epoch": found.diverged_step}
        half = found.rows[len(found.rows) // 2 :]
        control["control/ratio"] = float(max(row["sharpness"] for row in half)) / config.threshold
        set_parameters(model, start)
    found = descend(surface, learning_rate=config.learning_rate, steps=config.steps, stage="descent", **plan)
    if found.diverged_step is not None:
        return {"diverged_epoch": found.diverged_step}
    return {
        "diverged_epoch": None,
        **summarize(config, found),
        **control,
        **evaluate_splits(model, data, config.loss),
    }


def sharpness_probe(surface: TrainingLoss) -> Callable:
    """A probe for `descend`: the largest Hessian eigenvalue; its eigenvector is where the next search begins."""
    def probe(step, kept):
        found = largest_eigenvalue(surface.hessian(), start=kept)
        numbers = {
            "sharpness": found.value, "relative_residual": found.relative_residual, "products": found.products
        }  # fmt: skip
        return numbers, found.vector

    return probe


def summarize(config: Config, found: Descent) -> dict[str, object]:
    """Measures of one descent; the late part is the last third of the measurements."""
    steps = np.array([row["epoch"] for row in found.rows])
    ratios = np.array([row["sharpness"] for row in found.rows]) / config.threshold
    late = len(ratios) - len(ratios) // 3
    first = steps[late]
    reached = np.flatnonzero((ratios[1:] >= 1) & (ratios[:-1] < 1))  # from below: a start above it has not risen to it
    return {
        # a sharpness that is not positive has no logarithm; at a minimum it is
        "late/ratio": float(np.exp(np.mean(np.log(np.maximum(ratios[late:], 1e-12))))),
        "late/spread": float(np.std(np.log10(np.maximum(ratios[late:], 1e-12)), ddof=1)),
        "late/near": float(np.mean(np.abs(ratios[late:] - 1) <= NEAR)),
        "late/rising_steps": float(np.mean(np.diff(found.losses[first:]) > 0)),
        "late/loss_ratio": float(found.losses[-1] / found.losses[first]),
        "start/ratio": float(ratios[0]),
        "reached_step": int(steps[reached[0] + 1]) if len(reached) else None,
        "start/loss": float(found.losses[0]),
        "products": float(np.mean([row["products"] for row in found.rows[1:]])),
        "residual": float(max(row["relative_residual"] for row in found.rows)),
        "curve/steps": steps,
        "curve/sharpness": ratios * config.threshold,
        "curve/losses": found.losses,
    }


def judge(results: Results) -> Verdict:
    """Does the sharpness of the last third lie at the threshold, at every step size of every group?"""
    factor = results.margins["margin_factor"]
    test = (
        "Over seeds, at each step size: t-tests of log10 of the ratio of sharpness and threshold, (2 + 2 momentum) / "
        "step size, as a geometric mean over the last third of the measured steps; a run's mean counts as no better "
        "known than its measurements spread. Supported where it lies within a "
        f"factor of {factor:g} of 1 at every step size (two one-sided tests each); refuted where it lies above at one, "
        "or below at one although it had reached the threshold, or training was at its end, in every run (loss below "
        f"{TRAINED:g} times the first)."
    )
    results = results.measured("late/ratio")
    if not len(results):
        return Verdict("undecided", "Every network diverged.", test)
    return decide(results, [find_group(group, factor, results.confidence) for group in results.groups()], test)


def find_group(group: Group, factor: float, confidence: float) -> Finding:
    """The ratio of sharpness and threshold at each step size of one Group."""
    margin, parts, supports, refutes = np.log10(factor), [], (), []
    for rate, rows in sorted(group.split("learning_rate").items()):
        ratio = t_interval(np.log10(rows["late/ratio"]), confidence)
        # A run's mean is known no better than its own measurements hover; earlier versions did not keep their spread.
        error = float(rows["late/spread"].fillna(0).mean()) if "late/spread" in rows else 0.0
        settled = bool((rows["reached_step"].notna() | (rows["train/loss"] < TRAINED * rows["start/loss"])).all())
        high, low = above(ratio, margin, error, single=True), below(ratio, -margin, error, single=True)
        supports += within(ratio, -margin, margin, error, single=True)
        refutes += [
            Statement(f"above the threshold at step size {rate:g}", (high,)),
            Statement(f"below the threshold at step size {rate:g}", (low, fact(settled))),
        ]
        parts.append(
            f"{format_factor(ratio)} times the threshold at step size {rate:g} over {ratio.n} seeds (within 10 % at "
            f"{100 * rows['late/near'].mean():.0f} % of the measurements, {100 * rows['late/rising_steps'].mean():.0f} "
            f"% of single steps raise the loss{describe_control(rows)})"
        )
    several = "at every step size tried" if len(parts) > 1 else "at the one step size tried"
    return Finding(
        group.label,
        f"late sharpness {'; '.join(parts)}",
        supports=(Statement(f"at the threshold {several}", tuple(supports)),),
        refutes=tuple(refutes),
    )


def describe_control(rows: pd.DataFrame) -> str:
    """What the sharpness does at a tenth of the step size; '' where no control was run."""
    if "control/ratio" not in rows or rows["control/ratio"].isna().all():
        return ""
    return f"; a tenth of the step size gets to {field_text(round(rows['control/ratio'].mean(), 2))} times it"


def figures(results: Results) -> dict[str, Figure]:
    """Sharpness over the steps, with the threshold of each step size as a line; and the training loss."""
    results = results.measured("late/ratio")
    if not len(results):
        return {}
    groups = results.groups()
    figure, axes = plots.new(len(groups), 2, width=5.2, height=3.6)
    looks = dict(zip(sorted(set(results.table["learning_rate"])), plots.styles()))
    handles = {}
    for (left, right), group in zip(axes, groups):
        for rate, rows in sorted(group.split("learning_rate").items()):
            look, marker = {"color": looks[rate]["color"], "linewidth": 1.1}, looks[rate]["marker"]
            left.axhline((2 + 2 * rows.iloc[0]["momentum"]) / rate, linestyle="--", **look)
            for identity in rows["config_id"]:
                arrays = results.arrays[identity]
                marks = {"marker": marker, "markersize": 4, "markevery": (0.05, 0.2), "alpha": 0.8}
                (line,) = left.plot(arrays["curve/steps"], arrays["curve/sharpness"], **look, **marks)
                handles.setdefault(f"step size {rate:g}", line)
                losses = arrays["curve/losses"]
                right.plot(np.arange(len(losses)), losses, alpha=0.8, **look)
        left.set(xlabel="step", ylabel="sharpness (largest Hessian eigenvalue)", yscale="log")
        left.set_title(group.label, loc="left")
        right.set(xlabel="step", ylabel="training loss", yscale="log")
    handles["threshold of stability"] = Line2D([], [], linestyle="--", color="0.3")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return {"sharpness_over_steps": figure}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("control", "descent"),
    apart=("learning_rate",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=lambda config: f"eta={config.learning_rate:g}",
    margins={"margin_factor": (1.1, "late sharpness over the threshold of stability, and the other way round")},
    max_seeds=6,
)
