"""Do large batches find sharp minima, which generalize worse?  Keskar et al. 2017 (1609.04836).

For every seed one network is trained twice from the same initial weights: with small batches, and with large ones (a
tenth of the training set, as in the paper). Measured at both solutions: test accuracy, the paper's sharpness in the
full space and in a random subspace, the largest Hessian eigenvalue; and losses and accuracies along the line through
both.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

from analysis.evaluation import evaluate_splits
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters
from analysis.sharpness import sharpness
from analysis.statistics import paired_difference, t_interval
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.verdict import Claim, Verdict
from judging.wording import format_factor, format_points
from models import NetworkConfig
from reporting import figures as plots
from training.data import DataConfig
from training.fit import TrainingConfig, build_network, fit

CLAIM = Claim(
    "Large batches find sharp minima, which generalize worse.",
    source="Keskar et al. 2017",
)
GRID = {"seed": [0, 1, 2, 3, 4, 5]}
BATCHES = ("small", "large")
COLUMNS = {
    **evaluation_columns("small", "small batch"),
    **evaluation_columns("large", "large batch"),
    "large/test/accuracy": "large",  # in the table it stands behind the small batch's
    "large/train/loss": "large batch",
    "small/sharpness": "sharpness (%), small batch",
    "large/sharpness": "sharpness (%), large",
    "small/subspace_sharpness": "in a random subspace, small batch",
    "large/subspace_sharpness": "in a random subspace, large",
    "small/gradient_norm": "norm of the training loss's gradient, small batch",
    "large/gradient_norm": "norm of the training loss's gradient, large batch",
    "small/largest_eigenvalue": "largest Hessian eigenvalue, small batch",
    "large/largest_eigenvalue": "eigenvalue, large",
    "small/eigenvalue_residual": "its relative residual, small batch",
    "large/eigenvalue_residual": "its relative residual, large batch",
    "small/batch_size": "images in a small batch",
    "large/batch_size": "images in a large batch",
    "small/distance": "distance from the start, small batch",
    "large/distance": "distance from the start, large batch",
    "distance_ratio": "distance from the start, small / large",
}
TABLE = (
    "small/test/accuracy", "large/test/accuracy", "small/train/loss", "large/train/loss", "small/sharpness",
    "large/sharpness", "small/subspace_sharpness", "large/subspace_sharpness", "small/largest_eigenvalue",
    "large/largest_eigenvalue", "distance_ratio",
)  # fmt: skip
LINE = np.linspace(-1, 2, 25)  # the paper's range and number of points; 0 is the small batch's solution, 1 the large's


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=64, depth=3)
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig(epochs=40, batch_size=16, learning_rate=0.02)
    large_fraction: float = field(default=0.1, metadata={"help": "large batch, as a share of the training set"})
    large_epochs: int = field(
        default=0, metadata={"help": "epochs with the large batch; 0: as many as with the small one"}
    )
    epsilon: float = field(default=1e-3, metadata={"help": "size of the box in which the loss is maximized"})
    subspace: int = field(default=100, metadata={"help": "dimension of the random subspace"})
    sharpness_iterations: int = field(default=10, metadata={"help": "L-BFGS-B iterations of the maximization, at most"})
    hessian_products: int = field(default=60, metadata={"help": "Hessian-vector products at most"})
    seed: int = seed_field()

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
    """Images in a large batch."""
    return max(1, round(config.large_fraction * len(data.x_train)))


def check(config, data, run):
    if large_batch(config, data) <= config.training.batch_size:
        raise ValueError(
            f"the large batch must be larger than the small one: large_fraction {config.large_fraction:g} of "
            f"{len(data.x_train)} images is {large_batch(config, data)}, batch_size {config.training.batch_size}"
        )
    count = run.once(
        ("number of parameters", config.network, data.input_shape, data.num_classes),
        lambda: build_network(config, data).count_params(),
    )
    if config.subspace > count:
        raise ValueError(f"subspace must be at most the network's {count} parameters, got {config.subspace}")


def measure(config, data, run):
    """Both trainings from the same initial weights, where each of them ends, and the line through the two ends."""
    model = build_network(config, data)
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
        result.update(measure_solution(config, model, data, surface, name))
        result[f"{name}/batch_size"] = plan.batch_size
        result[f"{name}/distance"] = float(np.linalg.norm(get_parameters(model) - start))
        ends[name] = [v.numpy() for v in model.variables]
    result["distance_ratio"] = result["small/distance"] / result["large/distance"]
    result.update(measure_line(model, data, config.training.loss, ends))
    return result


def assign(model, values):
    for variable, value in zip(model.variables, values):
        variable.assign(value)


def measure_solution(config, model, data, surface, name):
    """Losses, sharpness and curvature where one of the two trainings ended."""
    search = {"epsilon": config.epsilon, "iterations": config.sharpness_iterations, "seed": config.seed}
    full, part = sharpness(surface, **search), sharpness(surface, dimension=config.subspace, **search)
    curvature = extreme_eigenvalues(
        surface.hessian(), tolerance=1e-3, max_products=config.hessian_products, seed=config.seed, basis_size=20
    )
    gradient = surface.value_and_gradient()[1]
    return {
        **evaluate_splits(model, data, config.training.loss, name),
        f"{name}/sharpness": full.value,
        f"{name}/subspace_sharpness": part.value,
        f"{name}/gradient_norm": float(np.linalg.norm(gradient)),
        f"{name}/largest_eigenvalue": curvature.largest,
        f"{name}/eigenvalue_residual": curvature.largest_relative_residual,
    }


def measure_line(model, data, loss, ends):
    """Loss and accuracy on both sets at (1 - t) small + t large.

    Moving statistics of batch norm go along, variances as far as they are >= 0.
    """
    rows = []
    for t in LINE:
        for variable, small, large in zip(model.variables, ends["small"], ends["large"]):
            if np.issubdtype(small.dtype, np.floating):
                value = (1 - t) * small + t * large
                variable.assign(np.maximum(value, 0) if variable.path.endswith("moving_variance") else value)
        rows.append(evaluate_splits(model, data, loss))
    curves = {
        "line/loss": "train/loss",
        "line/accuracy": "train/accuracy",
        "line/test_loss": "test/loss",
        "line/test_accuracy": "test/accuracy",
    }
    losses = {name: np.array([row[column] for row in rows]) for name, column in curves.items()}
    return {"line/positions": LINE, **losses}


def judge(results):
    """Every group of runs alike but for their seed: is the large batch sharper, and is it worse, and by how much?"""
    margin, factor = results.margins["margin"], results.margins["margin_factor"]
    test = (
        "One-sided paired t-tests over seeds, per setting (runs alike in all but the seed): log10 sharpness (full "
        "space) of the large batch minus that of the small one, and test accuracy of the small batch minus that of the "
        f"large one. Supported where both lie above 0; refuted where the sharpness rises by less than a factor of "
        f"{factor:g}, or the accuracy falls by less than {100 * margin:g} points."
    )
    groups = results.measured("small/sharpness").groups()
    if not groups:
        return Verdict("undecided", "Every network diverged.", test)
    return decide(results, [compare_batches(group, margin, factor, results.confidence) for group in groups], test)


def compare_batches(group, margin, factor, confidence) -> Finding:
    """Sharpness and test accuracy of a Group's large batches against its small ones, paired by seed."""
    logarithms = {batch: np.log10(group.rows[f"{batch}/sharpness"].clip(lower=1e-300)) for batch in BATCHES}
    sharper = paired_difference(logarithms["large"], logarithms["small"], confidence)
    worse = paired_difference(group.rows["small/test/accuracy"], group.rows["large/test/accuracy"], confidence)
    return Finding(
        group.label,
        f"sharpness of the large batch {format_factor(sharper)} times that of the small one, test accuracy of the "
        f"small batch minus that of the large one {format_points(worse)} ({sharper.n} paired seeds)",
        supports=(Statement("sharper and worse", (above(sharper), above(worse))),),
        refutes=(
            Statement("not sharper by the margin", (below(sharper, np.log10(factor)),)),
            Statement("not worse by the margin", (below(worse, margin),)),
        ),
    )


def figures(results):
    """Loss and accuracy on the line through both solutions; sharpness, curvature and accuracy of both batches."""
    results = results.measured("small/sharpness")
    if not len(results):
        return {}
    groups = results.groups()
    return {
        "line_between_the_solutions": plot_lines(groups, results.arrays),
        "small_against_large_batch": plot_pairs(groups),
    }


def plot_lines(groups, arrays):
    """Loss and accuracy along the line from the small-batch to the large-batch solution, every seed and the mean."""
    figure, axes = plots.new(len(groups), 2, width=4.8, height=3.4)
    for (left, right), group in zip(axes, groups):
        for axis, measure in ((left, "loss"), (right, "accuracy")):
            for prefix, colour, dashes in (("", plots.COLOURS[0], "-"), ("test_", plots.COLOURS[3], "--")):
                curves = np.stack([arrays[i][f"line/{prefix}{measure}"] for i in group.rows["config_id"]])
                axis.plot(LINE, curves.T, dashes, color=colour, alpha=0.25, linewidth=0.8)
                label = "test" if prefix else "training"
                axis.plot(LINE, curves.mean(axis=0), dashes, color=colour, linewidth=2, label=label)
            for where, text in ((0, "small"), (1, "large")):
                axis.axvline(where, linestyle=":", color="black", linewidth=1)
                axis.text(where, 1.0, text, transform=axis.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)
            scale = "log" if measure == "loss" else "linear"
            axis.set(xlabel="position on the line between the solutions", ylabel=measure, yscale=scale)
        left.set_title(group.label, loc="left", pad=16)
        left.legend()
    return figure


def plot_pairs(groups):
    """Sharpness, curvature and test accuracy of both batches, a line per seed, the mean with its interval."""
    panels = (
        ("sharpness", "sharpness, full space (%)", "log"),
        ("subspace_sharpness", "sharpness, random subspace (%)", "log"),
        ("largest_eigenvalue", "largest Hessian eigenvalue", "log"),
        ("test/accuracy", "test accuracy", "linear"),
    )
    figure, axes = plots.new(1, len(panels), width=3.2, height=3.4)
    for axis, (measure, label, scale) in zip(axes.flat, panels):
        for i, (group, style) in enumerate(zip(groups, plots.styles())):
            where = np.array([0, 1]) + 0.06 * i
            values = group.rows[[f"{batch}/{measure}" for batch in BATCHES]].to_numpy(float)
            axis.plot(where, values.T, color=style["color"], alpha=0.3, linewidth=0.8)
            means = [t_interval(column) for column in values.T]
            plots.interval_line(axis, where, means, label=group.label, **{**style, "linestyle": "none"})
        axis.set_xticks([0, 1], ["small batch", "large batch"])
        axis.set(xlim=(-0.3, max(1.4, 1.1 + 0.06 * len(groups))), ylabel=label, yscale=scale)
    axes.flat[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=BATCHES,
    apart=(),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    former_columns={**former_evaluation_columns("small", "small"), **former_evaluation_columns("large", "large")},
    margins={
        "margin": (0.01, "test accuracy lost by large batches"),
        "margin_factor": (1.1, "sharpness of large batches over that of small ones"),
    },
    max_seeds=12,
)
