"""Does training reach a (nearly) global minimum from any initialization?  Goldblum et al. 2020, Table 1.

Loss, gradient norm, both ends of the Hessian's spectrum, inactive units and accuracies, before and after training, for
the paper's initializations. Weight decay enters loss and gradient exactly once (the original code under-counts it).

A start that ends at a high loss has found a bad minimum only if training has come to rest there. So the verdict counts
a start only where its run ends (nearly) at a stationary point of the loss that was trained, L with its weight decay:

    ||grad L|| ||theta|| <= NEAR L          to first order, moving theta by its own norm changes L by at most 1 %
    smallest eigenvalue >= -NEAR largest    no direction is curved downwards by more than 1 % of the largest curvature

The second only where both eigenvalues converged: until then a Ritz value bounds the smallest one from above. Both are
free of the scale of loss and weights. Dead units and steps too small to move are told apart by them: weight decay pulls
at a network that merely did not move.
"""
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.activations import inactive_fractions
from analysis.affine_minimum import embed
from analysis.evaluation import evaluate_splits
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters
from experiments.local_minima.affine_start import affine_optimum, check_embeddable, stable_rate
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide, fact
from judging.results import Group, Results, paired_by_seed, positive
from judging.verdict import Claim, Verdict
from judging.wording import format_factor
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit

CLAIM = Claim(
    "Training reaches a nearly global minimum from any initialization.",
    source="Goldblum et al. 2020, section 2 and Table 1, on a folklore of deep-learning theory",
)


def shift_biases(model: keras.Model, shift: Callable) -> None:
    """Add shift(shape) to every bias: of dense and convolution layers, and batch norm's shift."""
    for variable in model.trainable_variables:
        if variable.name in ("bias", "beta"):
            variable.assign(variable.numpy() + shift(variable.shape))


def set_all(model: keras.Model, value: float) -> None:
    """Set every trainable parameter to one value."""
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, value))


# name: what it does to a network of default initialization.
INITIALIZATIONS = {
    "default": lambda model, rng: None,
    "embedding": None,  # of the affine optimum, which depends on the data: see initialize
    "bias+20": lambda model, rng: shift_biases(model, lambda shape: 20.0),
    "bias-20": lambda model, rng: shift_biases(model, lambda shape: -20.0),
    "bias_uniform_50": lambda model, rng: shift_biases(model, lambda shape: rng.uniform(-50, 50, shape)),
    "bias_uniform_10_no_momentum": lambda model, rng: shift_biases(model, lambda shape: rng.uniform(-10, 10, shape)),
    "zero": lambda model, rng: set_all(model, 0.0),
    "equal": lambda model, rng: set_all(model, 0.001),
}
GRID = {"initialization": list(INITIALIZATIONS), "seed": [0, 1, 2]}
NEAR = 0.01  # of "nearly" stationary: see above
TOLERANCES = {"float32": 1e-4, "float64": 1e-6}  # of eigenvalues' residuals: single precision need not reach 1e-6


def state_columns(stage: str) -> dict[str, str]:
    """The columns of measure_state with their meaning; stage: before or after training."""
    return {
        f"{stage}/regularized_loss": f"training loss with weight decay {stage}",
        f"{stage}/gradient_norm": f"gradient norm {stage}",
        f"{stage}/parameter_norm": f"norm of the parameters {stage}",
        f"{stage}/relative_gradient": f"gradient norm times parameter norm / loss with weight decay {stage}",
        f"{stage}/largest_eigenvalue": f"largest eigenvalue {stage}",
        f"{stage}/smallest_eigenvalue": f"smallest eigenvalue {stage}",
        f"{stage}/eigenvalues_converged": f"did both eigenvalues converge {stage}?",
        f"{stage}/inactive": f"inactive units {stage}",
        **evaluation_columns(stage, f"{stage} training"),
        f"{stage}/train/loss": f"loss {stage}",
    }


COLUMNS = {
    **state_columns("before"),
    "before/gradient_norm": "gradient norm",
    "before/smallest_eigenvalue": "smallest eigenvalue",
    **state_columns("after"),
    "after/train/accuracy": "training accuracy",
    "after/test/accuracy": "test accuracy",
    "after/stationary": "nearly stationary after?",
    "training/learning_rate": "learning rate of this start",
}
TABLE = (
    "training/learning_rate", "before/train/loss", "before/gradient_norm", "before/smallest_eigenvalue",
    "after/train/loss", "after/gradient_norm", "after/relative_gradient", "after/smallest_eigenvalue",
    "after/largest_eigenvalue", "after/stationary", "after/inactive", "after/train/accuracy", "after/test/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    initialization: str = field(default="default", metadata={"help": f"start, one of {', '.join(INITIALIZATIONS)}"})
    network: NetworkConfig = NetworkConfig(model="mlp", width=64, dtype="float64")
    # The digits are separable: cross-entropy has no affine minimum on them that could be embedded.
    data: DataConfig = DataConfig(dataset="gaussian", train_size=1500)
    training: TrainingConfig = TrainingConfig(
        epochs=60, batch_size=64, learning_rate=0.01, regularizer="weight_decay", coefficient=5e-4
    )
    kernel_scale: float = field(
        default=1.0,
        metadata={"help": "factor on the He-uniform kernels; 0.408 = 6^(-1/2): variance 1/(3 fan_in), PyTorch's"},
    )
    hessian_size: int = field(default=0, metadata={"help": "training images in the Hessian; 0: all"})
    hessian_products: int = field(default=200, metadata={"help": "Hessian-vector products at most for both ends"})
    seed: int = seed_field()

    def validate(self) -> None:
        if self.initialization not in INITIALIZATIONS:
            raise ValueError(
                f"unknown initialization {self.initialization!r}: allowed are {', '.join(INITIALIZATIONS)}"
            )
        if self.training.regularizer == "weight_decay" and not self.training.regularize_all:
            raise ValueError("initialization measures weight decay of all parameters: regularize_all must be true")
        if not 0 < self.kernel_scale < np.inf:
            raise ValueError(f"kernel_scale must be a finite number > 0, got {self.kernel_scale}")
        if self.hessian_products < 50 or self.hessian_size < 0:
            raise ValueError(
                f"hessian_products must be at least 50 and hessian_size 0 (all) or more, got {self.hessian_products} "
                f"and {self.hessian_size}"
            )


def applies(config: Config) -> bool:
    return config.initialization != "embedding" or (
        config.network.model == "mlp" and config.network.activation == "relu"
    )


def check(config: Config, data: Data, run: Run) -> None:
    if config.initialization == "embedding":
        check_embeddable(config, data, run)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Everything that Table 1 has of the network, before and after training from the config's start."""
    model = initialize(config, data, run)
    before = measure_state(config, model, data, "before")
    training = config.training
    if config.initialization.endswith("no_momentum"):
        training = dataclasses.replace(training, momentum=0.0)
    if config.initialization == "embedding":
        rate = min(training.learning_rate, stable_rate(training, before["before/largest_eigenvalue"]))
        training = dataclasses.replace(training, learning_rate=rate)
    history = fit(model, data, training, seed=config.seed, run=run)
    result = {**before, "training/learning_rate": training.learning_rate, "diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    after = measure_state(config, model, data, "after")
    return {**result, **after, "after/stationary": bool(is_stationary(after))}


def is_stationary(after: dict[str, Any]) -> np.bool_ | np.ndarray:
    """Is it (nearly) a stationary point without downward curvature?  after: one row's or a table's measures after it.

    False where the gradient was not measured relative to the parameters, as by earlier versions, and where an
    eigenvalue did not converge.
    """
    curvature = after["after/smallest_eigenvalue"] >= -NEAR * abs(after["after/largest_eigenvalue"])
    converged = np.equal(after["after/eigenvalues_converged"], 1)  # what was not measured is not known
    return (after["after/relative_gradient"] <= NEAR) & curvature & converged


def initialize(config: Config, data: Data, run: Run) -> keras.Model:
    """The network at the config's start: kernels scaled first, then the initialization of that name."""
    model = build_network(config, data)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(config.kernel_scale * variable.numpy())
    if config.initialization == "embedding":
        embed(affine_optimum(config, data, run), model, data.x_train)
    else:
        INITIALIZATIONS[config.initialization](model, np.random.default_rng([config.seed, 23]))
    return model


def measure_state(config: Config, model: keras.Model, data: Data, stage: str) -> dict[str, float]:
    """Everything Table 1 has of one network; the regularizer is part of loss, gradient and Hessian."""
    training = config.training
    decay = training.coefficient if training.regularizer == "weight_decay" else 0.0
    surface = TrainingLoss(model, data.x_train, data.y_train, training.loss, weight_decay=decay)
    value, gradient = surface.value_and_gradient()
    size = config.hessian_size or len(data.x_train)
    x, y = data.x_train[:size], data.y_train[:size]
    if size < len(data.x_train):
        surface = TrainingLoss(model, x, y, training.loss, weight_decay=decay)
    ends = extreme_eigenvalues(
        surface.hessian(), tolerance=TOLERANCES[model.trainable_variables[0].dtype],
        max_products=config.hessian_products, seed=config.seed,
    )  # fmt: skip
    inactive = inactive_fractions(model, x)
    slope, size = float(np.linalg.norm(gradient)), float(np.linalg.norm(get_parameters(model)))
    return {
        f"{stage}/regularized_loss": value,
        f"{stage}/gradient_norm": slope,
        f"{stage}/parameter_norm": size,
        f"{stage}/relative_gradient": slope * size / value if value > 0 else float(slope > 0),
        f"{stage}/largest_eigenvalue": ends.largest,
        f"{stage}/smallest_eigenvalue": ends.smallest,
        f"{stage}/eigenvalues_converged": ends.largest_converged and ends.smallest_converged,
        f"{stage}/inactive": float(np.mean([pairs for pairs, _ in inactive.values()])) if inactive else 0.0,
        **evaluate_splits(model, data, training.loss, stage),
    }


def judge(results: Results) -> Verdict:
    """Does a start end clearly above default initialization, paired by seed, or none of those tried?"""
    factor = results.margins["margin_factor"]
    test = (
        "One-sided paired t-tests over seeds, per setting (runs alike in all but seed and start): log10 of the final "
        f"training loss minus default initialization's. Refuted where a start ends more than {factor:g} times above, "
        f"(nearly) at a stationary point in every run: gradient norm times parameter norm at most {NEAR:g} of the "
        f"loss, and, converged, no eigenvalue below -{NEAR:g} of the largest. Supported, of the starts tried, where "
        f"all of them end within {factor:g} times."
    )
    if not len(results.measured("after/train/loss")):
        return Verdict("undecided", "Every network diverged.", test)
    groups = [group for group in results.groups() if group.rows["after/train/loss"].notna().any()]
    findings = [compare_starts(group, factor, results.confidence) for group in groups]
    unknown = results.table["after/train/loss"].notna() & results.table.reindex(
        columns=["after/relative_gradient"]
    )["after/relative_gradient"].isna()
    notes = (
        f" {unknown.sum()} runs of an earlier version count as not stationary, as it was not measured: --overwrite "
        "computes them again." if unknown.any() else ""
    )  # fmt: skip
    return decide(results, findings, test, opening="Final training loss: ", notes=notes)


def compare_starts(group: Group, factor: float, confidence: float) -> Finding:
    """Every start of a Group against its default initialization, paired by seed.

    A start that always diverged stays in the conjunction, as one that cannot be judged: it never ended low. One that
    ends high on its way somewhere bars support, and refutes nothing.
    """
    log_loss = np.log10(positive(group.rows, "after/train/loss"))
    rows = group.rows.assign(log_loss=log_loss, at_rest=ends_at_rest(group.rows))
    starts = dataclasses.replace(group, rows=rows).split("initialization")
    default = starts.pop("default", rows.iloc[:0])
    if not starts or not default["log_loss"].notna().any():
        return Finding(group.label, "no start was compared with default initialization")
    ratios = {name: paired_by_seed(rows, default, "log_loss", confidence) for name, rows in starts.items()}
    ends = [f"from default {default['after/train/loss'].mean():.3g}"]
    rests = {name: rows["at_rest"][rows["log_loss"].notna()] for name, rows in starts.items()}
    for name, ratio in ratios.items():
        mean = starts[name]["after/train/loss"].mean()
        ends.append(
            f"from {name} {mean:.3g}, {format_factor(ratio)} times that over {ratio.n} seeds "
            f"({rests[name].sum()} of {len(rests[name])} runs end nearly stationary)" if ratio.n
            else f"from {name} not measured on a seed of the default"
        )  # fmt: skip
    limit = np.log10(factor)
    return Finding(
        group.label,
        ", ".join(ends),
        supports=(
            Statement("no start tried ends above", tuple(below(ratio, limit) for ratio in ratios.values())),
        ),
        refutes=tuple(
            Statement(f"{name} is trapped", (above(ratio, limit), fact(len(rests[name]) and rests[name].all())))
            for name, ratio in ratios.items()
        ),
    )


def ends_at_rest(rows: pd.DataFrame) -> np.bool_ | np.ndarray:
    """[bool] of some runs: did they end at a (nearly) stationary point?  False where that was not measured."""
    columns = [f"after/{name}" for name in ("relative_gradient", "smallest_eigenvalue", "largest_eigenvalue",
                                            "eigenvalues_converged")]  # fmt: skip
    return is_stationary({name: rows[name].to_numpy(float) if name in rows else np.nan for name in columns})


def figures(results: Results) -> dict[str, Figure]:
    """Final training loss by initialization, every seed, one panel per network."""
    groups = results.measured("before/train/loss").groups()
    if not groups:
        return {}
    figure, axes = plots.panel_grid(len(groups), 3, width=5.6, height=3.8)
    for axis, group in zip(axes, groups):
        names = list(group.split("initialization"))
        for i, when in enumerate(("before", "after")):
            if f"{when}/train/loss" not in group.rows:
                continue
            where = [names.index(name) + 0.2 * (i - 0.5) for name in group.rows["initialization"]]
            style = {"color": plots.COLOURS[i * 3], "marker": "os"[i]}
            axis.plot(where, group.rows[f"{when}/train/loss"], linestyle="none", label=f"{when} training", **style)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set(ylabel="training loss", yscale="log", title=group.label)
        axis.legend()
    return {"loss_by_initialization": figure}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("initialization",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    applies=applies,
    needs="initialization=embedding needs --model=mlp with --activation=relu",
    label=lambda config: config.initialization,
    former_columns={**former_evaluation_columns("before", "before"), **former_evaluation_columns("after", "after")},
    margins={"margin_factor": (1.1, "final training loss over that of default initialization")},
    # no max_seeds: the three seeds of the grid take most of the two minutes that a default run may
)
