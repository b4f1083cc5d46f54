"""Does training reach a (nearly) global minimum from any initialization?  Goldblum et al. 2020, Table 1.

Loss, gradient norm, both ends of the Hessian's spectrum, inactive units and accuracies, before and after training, for
the paper's initializations. Weight decay enters loss and gradient exactly once (the original code under-counts it).
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.activations import inactive_fractions
from analysis.affine_minimum import embed
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.statistics import paired_difference
from experiments.affine_embedding import NEARLY, split, stable_rate
from experiments.options import leaves
from experiments.teacher import affine_optimum
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "Training reaches a nearly global minimum from any initialization.",
    source="Goldblum et al. 2020, section 2 and Table 1, on a folklore of deep-learning theory",
)


def biases(model, value):
    """Add value(shape) to every bias: of dense and convolution layers, and batch norm's shift."""
    for variable in model.trainable_variables:
        if variable.name in ("bias", "beta"):
            variable.assign(variable.numpy() + value(variable.shape))


def constant(model, value):
    """Set every trainable parameter to one value."""
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, value))


# name: what it does to a network of default initialization.
INITIALIZATIONS = {
    "default": lambda model, rng: None,
    "embedding": None,  # of the affine optimum: see prepare
    "bias+20": lambda model, rng: biases(model, lambda shape: 20.0),
    "bias-20": lambda model, rng: biases(model, lambda shape: -20.0),
    "bias_uniform_50": lambda model, rng: biases(model, lambda shape: rng.uniform(-50, 50, shape)),
    "bias_uniform_10_no_momentum": lambda model, rng: biases(model, lambda shape: rng.uniform(-10, 10, shape)),
    "zero": lambda model, rng: constant(model, 0.0),
    "equal": lambda model, rng: constant(model, 0.001),
}
GRID = {"initialization": list(INITIALIZATIONS), "seed": [0, 1, 2]}
MEASURES = {
    "before/loss": "loss before",
    "before/gradient_norm": "gradient norm",
    "before/smallest_eigenvalue": "smallest eigenvalue",
    "after/loss": "loss after",
    "after/gradient_norm": "gradient norm after",
    "after/smallest_eigenvalue": "smallest eigenvalue after",
    "after/inactive": "inactive units after",
    "after/accuracy": "training accuracy",
    "after/test_accuracy": "test accuracy",
}


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
        default=1.0, metadata={"help": "factor on the He-uniform kernels; 0.408 = 6^(-1/2): variance 1/(3 fan_in), PyTorch's"}
    )
    hessian_size: int = field(default=0, metadata={"help": "training images in the Hessian and gradient; 0: all"})
    hessian_products: int = field(default=200, metadata={"help": "Hessian-vector products at most for both ends"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    @property
    def label(self):
        return self.initialization

    def validate(self):
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


def applies(config):
    """initialization=embedding needs --model=mlp with --activation=relu"""
    return config.initialization != "embedding" or (
        config.network.model == "mlp" and config.network.activation == "relu"
    )


def check(config, data):
    if config.initialization == "embedding":
        affine = affine_optimum(data, config.training.loss)
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
        embed(affine, model, data.x_train[:1], shift=1.0)


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(config.kernel_scale * variable.numpy())
    if config.initialization == "embedding":
        embed(affine_optimum(data, config.training.loss), model, data.x_train)
    else:
        INITIALIZATIONS[config.initialization](model, np.random.default_rng([config.seed, 23]))
    training = config.training
    if config.initialization.endswith("no_momentum"):
        training = dataclasses.replace(training, momentum=0.0)
    before = state(config, model, data, "before")
    if config.initialization == "embedding":
        rate = min(training.learning_rate, stable_rate(training, before["before/largest_eigenvalue"]))
        training = dataclasses.replace(training, learning_rate=rate)
    history = fit(model, data, training, seed=config.seed, run=run)
    result = {**before, "diverged_epoch": history.diverged_epoch}
    return result if history.diverged_epoch else {**result, **state(config, model, data, "after")}


def state(config, model, data, prefix):
    """Everything Table 1 has of one network; the regularizer is part of loss, gradient and Hessian."""
    training = config.training
    size = config.hessian_size or len(data.x_train)
    x, y = data.x_train[:size], data.y_train[:size]
    decay = training.coefficient if training.regularizer == "weight_decay" else 0.0
    surface = TrainingLoss(model, x, y, training.loss, weight_decay=decay)
    value, gradient = surface.value_and_gradient()
    ends = extreme_eigenvalues(surface.hessian(), max_products=config.hessian_products, seed=config.seed)
    inactive = inactive_fractions(model, x)
    return {
        f"{prefix}/regularized_loss": value,
        f"{prefix}/gradient_norm": float(np.linalg.norm(gradient)),
        f"{prefix}/largest_eigenvalue": ends.largest,
        f"{prefix}/smallest_eigenvalue": ends.smallest,
        f"{prefix}/eigenvalues_converged": ends.largest_converged and ends.smallest_converged,
        f"{prefix}/inactive": float(np.mean([pairs for pairs, _ in inactive.values()])) if inactive else 0.0,
        **split(config, model, data, prefix),
    }


def judge(results):
    test = (
        "Paired t-interval (95 %) over seeds of the difference in final training loss from default initialization; a start "
        f"is trapped where it excludes 0 and the mean is more than {NEARLY:g} times the default's."
    )
    if "after/loss" not in results.table:
        return Verdict("undecided", "Every network diverged.", test)
    trapped, compared = [], 0
    # All that two starts must share to be compared: every field of the config but the start and the seed.
    networks = [c for c in leaves(Config) if c in results.table and c not in ("initialization", "seed")]
    for _, group in results.table.groupby(networks, dropna=False):
        finals = group.pivot(index="seed", columns="initialization", values="after/loss")
        if "default" not in finals:
            continue
        for name in finals.columns.drop("default"):
            pair = finals[["default", name]].dropna()
            if len(pair) < 2:
                continue
            compared += 1
            difference = paired_difference(pair[name], pair["default"])
            if difference.direction == "greater" and pair[name].mean() > NEARLY * pair["default"].mean():
                trapped.append(f"{group['model'].iloc[0]} from {name} ({pair[name].mean():.3g})")
    if not compared:
        return Verdict("undecided", "No start was compared with default initialization over two or more seeds.", test)
    base = results.table[results.table["initialization"] == "default"]["after/loss"].mean()
    if trapped:
        reason = f"{len(trapped)} of {compared} starts end above the default's loss ({base:.3g}): {', '.join(trapped)}."
        return Verdict("refuted", reason, test)
    return Verdict("undecided", f"None of {compared} starts ended measurably above default initialization's loss.", test)


def figures(results):
    """Final training loss by initialization, every seed, one panel per network."""
    groups = list(results.table.groupby(["model", "batch_norm", "skip"], dropna=False))
    figure, axes = plots.new(1, len(groups), width=5.6, height=3.8)
    for axis, ((model, *_), group) in zip(axes.flat, groups):
        names = list(dict.fromkeys(group["initialization"]))
        for i, when in enumerate(("before", "after")):
            if f"{when}/loss" not in group:
                continue
            where = [names.index(n) + 0.2 * (i - 0.5) for n in group["initialization"]]
            style = {"color": plots.COLOURS[i * 3], "marker": "os"[i]}
            axis.plot(where, group[f"{when}/loss"], linestyle="none", label=f"{when} training", **style)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axis.set(ylabel="training loss", yscale="log", title=model)
        axis.legend()
    return {"loss_by_initialization": figure}
