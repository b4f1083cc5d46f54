"""Do large batches find sharp minima, which generalise worse?  Keskar et al. 2017 (1609.04836).

For every seed one network is trained twice from the same initial weights: with small batches, and with large ones (a tenth of
the training set, as in the paper). Measured at both solutions: test accuracy, the paper's sharpness in the full space and in a
random subspace, the largest Hessian eigenvalue; and losses and accuracies along the line through both.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.evaluation import evaluate
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters
from analysis.sharpness import sharpness
from analysis.statistics import paired_difference, t_interval
from experiments.affine_embedding import split
from experiments.networks import by_network
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "Large batches find sharp minima, which generalise worse.",
    source="Keskar et al. 2017",
)
GRID = {"seed": [0, 1, 2, 3, 4, 5]}
MEASURES = {
    "small/test_accuracy": "test accuracy, small batch",
    "large/test_accuracy": "large",
    "small/loss": "training loss, small batch",
    "large/loss": "large batch",
    "small/sharpness": "sharpness (%), small batch",
    "large/sharpness": "sharpness (%), large",
    "small/subspace_sharpness": "in a random subspace, small batch",
    "large/subspace_sharpness": "in a random subspace, large",
    "small/largest_eigenvalue": "largest Hessian eigenvalue, small batch",
    "large/largest_eigenvalue": "eigenvalue, large",
    "distance_ratio": "distance from the start, small / large",
}
BATCHES = ("small", "large")
LINE = np.linspace(-1, 2, 25)  # the paper's range and number of points: 0 is the small-batch solution, 1 the large-batch one


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=64, depth=3)
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig(epochs=40, batch_size=16, learning_rate=0.02)
    large_fraction: float = field(default=0.1, metadata={"help": "large batch, as a share of the training set"})
    large_epochs: int = field(default=0, metadata={"help": "epochs with the large batch; 0: as many as with the small one"})
    epsilon: float = field(default=1e-3, metadata={"help": "size of the box in which the loss is maximised"})
    subspace: int = field(default=100, metadata={"help": "dimension of the random subspace"})
    sharpness_iterations: int = field(default=10, metadata={"help": "L-BFGS-B iterations of the maximisation, at most"})
    hessian_products: int = field(default=60, metadata={"help": "Hessian-vector products at most"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if not 0 < self.large_fraction <= 1:
            raise ValueError(f"large_fraction must lie in (0, 1], got {self.large_fraction}")
        for name in ("epsilon", "subspace", "sharpness_iterations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if self.large_epochs < 0:
            raise ValueError(f"large_epochs must be 0 (as many as epochs) or positive, got {self.large_epochs}")
        if self.hessian_products < 20:
            raise ValueError(f"hessian_products must be at least 20, got {self.hessian_products}")
        if self.training.regularizer != "none":
            raise ValueError("sharpness is one of the plain training loss: regularizer must be none")


def large_batch(config, data):
    return max(1, round(config.large_fraction * len(data.x_train)))


def check(config, data):
    if large_batch(config, data) <= config.training.batch_size:
        raise ValueError(
            f"the large batch must be larger than the small one: large_fraction {config.large_fraction:g} of "
            f"{len(data.x_train)} images is {large_batch(config, data)}, batch_size {config.training.batch_size}"
        )
    model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    if config.subspace > model.count_params():
        raise ValueError(f"subspace must be at most the network's {model.count_params()} parameters, got {config.subspace}")


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    initial = [v.numpy() for v in model.variables]
    start, result, ends = get_parameters(model), {"diverged_epoch": None}, {}
    surface = TrainingLoss(model, data.x_train, data.y_train, config.training.loss)
    plans = {
        "small": config.training,
        "large": dataclasses.replace(
            config.training,
            batch_size=large_batch(config, data),
            epochs=config.large_epochs or config.training.epochs,
        ),
    }
    for name, plan in plans.items():
        assign(model, initial)
        history = fit(model, data, plan, seed=config.seed, run=run, stage=name)
        if history.diverged_epoch:
            return {"diverged_epoch": history.diverged_epoch}
        result.update(solution(config, model, data, surface, name))
        result[f"{name}/batch_size"] = plan.batch_size
        result[f"{name}/distance"] = float(np.linalg.norm(get_parameters(model) - start))
        ends[name] = [v.numpy() for v in model.variables]
    result["distance_ratio"] = result["small/distance"] / result["large/distance"]
    result.update(line(model, data, config.training.loss, ends))
    return result


def assign(model, values):
    for variable, value in zip(model.variables, values):
        variable.assign(value)


def solution(config, model, data, surface, name):
    """Losses, sharpness and curvature where one of the two trainings ended."""
    search = {"epsilon": config.epsilon, "iterations": config.sharpness_iterations, "seed": config.seed}
    full, part = sharpness(surface, **search), sharpness(surface, dimension=config.subspace, **search)
    curvature = extreme_eigenvalues(
        surface.hessian(), tolerance=1e-3, max_products=config.hessian_products, seed=config.seed, basis_size=20
    )
    gradient = surface.value_and_gradient()[1]
    return {
        **split(config, model, data, name),
        f"{name}/sharpness": full.value,
        f"{name}/subspace_sharpness": part.value,
        f"{name}/gradient_norm": float(np.linalg.norm(gradient)),
        f"{name}/largest_eigenvalue": curvature.largest,
        f"{name}/eigenvalue_residual": curvature.largest_relative_residual,
    }


def line(model, data, loss, ends):
    """Loss and accuracy on both sets at (1 - t) small + t large; moving statistics of batch norm go along, variances >= 0."""
    rows = []
    for t in LINE:
        for variable, small, large in zip(model.variables, ends["small"], ends["large"]):
            if np.issubdtype(small.dtype, np.floating):
                value = (1 - t) * small + t * large
                variable.assign(np.maximum(value, 0) if variable.path.endswith("moving_variance") else value)
        train, test = (evaluate(model, x, y, loss) for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)))
        rows.append((*train, *test))
    names = ("loss", "accuracy", "test_loss", "test_accuracy")
    return {"line/positions": LINE, **{f"line/{name}": np.array(values) for name, values in zip(names, zip(*rows))}}


@dataclass(frozen=True)
class Comparison:
    """Large against small batch on one network, over paired seeds."""

    network: str
    sharper: object         # paired difference of log10 sharpness, large - small
    worse: object           # paired difference of test accuracy, small - large

    @property
    def outcome(self):
        directions = (self.sharper.direction, self.worse.direction)
        if directions == ("greater", "greater"):
            return "supported"
        return "refuted" if "less" in directions else "undecided"

    def __str__(self):
        s, w = self.sharper, self.worse
        return (
            f"{self.network}: sharpness of the large batch {10**s.mean:.3g} [{10**s.low:.3g}, {10**s.high:.3g}] times that of "
            f"the small one, its test accuracy {100 * w.mean:.2g} [{100 * w.low:.2g}, {100 * w.high:.2g}] "
            f"points lower ({s.n} paired seeds)"
        )


def judge(results):
    test = (
        "Paired t-intervals (95 %) over seeds, per network: log10 sharpness (full space) of the large batch minus that of the "
        "small one, and test accuracy of the small batch minus that of the large one. Supported where both lie above 0, "
        "refuted where either lies below, undecided otherwise; over several networks, one refutation refutes."
    )
    if "small/sharpness" not in results.table:
        return Verdict("undecided", "Every network diverged.", test)
    table = results.table[results.table["small/sharpness"].notna()]
    found = [
        Comparison(
            name,
            paired_difference(*(np.log10(rows[f"{b}/sharpness"].clip(lower=1e-300)) for b in ("large", "small"))),
            paired_difference(rows["small/test_accuracy"], rows["large/test_accuracy"]),
        )
        for name, rows in by_network(table, width=True)
    ]
    outcomes = {c.outcome for c in found}
    verdict = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(verdict, "; ".join(map(str, found)) + ".", test)


def figures(results):
    if "small/sharpness" not in results.table:
        return {}
    table = results.table[results.table["small/sharpness"].notna()]
    return {"line_between_the_solutions": lines(table, results.arrays), "small_against_large_batch": pairs(table)}


def lines(table, arrays):
    """Loss and accuracy along the line from the small-batch to the large-batch solution, every seed and the mean."""
    found = by_network(table, width=True)
    figure, axes = plots.new(len(found), 2, width=4.8, height=3.4)
    for (left, right), (name, rows) in zip(axes, found):
        for axis, measure in ((left, "loss"), (right, "accuracy")):
            for prefix, colour, dashes in (("", plots.COLOURS[0], "-"), ("test_", plots.COLOURS[3], "--")):
                curves = np.stack([arrays[i][f"line/{prefix}{measure}"] for i in rows["config_id"]])
                axis.plot(LINE, curves.T, dashes, color=colour, alpha=0.25, linewidth=0.8)
                label = "test" if prefix else "training"
                axis.plot(LINE, curves.mean(axis=0), dashes, color=colour, linewidth=2, label=label)
            for where, text in ((0, "small"), (1, "large")):
                axis.axvline(where, linestyle=":", color="black", linewidth=1)
                axis.text(where, 1.0, text, transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
            scale = "log" if measure == "loss" else "linear"
            axis.set(xlabel="position on the line between the solutions", ylabel=measure, yscale=scale)
        left.set_title(name, loc="left", pad=16)
        left.legend()
    return figure


def pairs(table):
    """Sharpness, curvature and test accuracy of both batches, a line per seed, the mean with its interval."""
    panels = (
        ("sharpness", "sharpness, full space (%)", "log"),
        ("subspace_sharpness", "sharpness, random subspace (%)", "log"),
        ("largest_eigenvalue", "largest Hessian eigenvalue", "log"),
        ("test_accuracy", "test accuracy", "linear"),
    )
    found = by_network(table, width=True)
    figure, axes = plots.new(1, len(panels), width=3.2, height=3.4)
    for axis, (measure, label, scale) in zip(axes.flat, panels):
        for i, ((name, rows), style) in enumerate(zip(found, plots.styles())):
            where = np.array([0, 1]) + 0.06 * i
            values = rows[[f"{b}/{measure}" for b in BATCHES]].to_numpy(float)
            axis.plot(where, values.T, color=style["color"], alpha=0.3, linewidth=0.8)
            means = [t_interval(column) for column in values.T]
            plots.interval_line(axis, where, means, label=name, **{**style, "linestyle": "none"})
        axis.set_xticks([0, 1], ["small batch", "large batch"])
        axis.set(xlim=(-0.3, 1.4), ylabel=label, yscale=scale)
    axes.flat[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure
