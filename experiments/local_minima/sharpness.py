"""Do large batches find sharp minima, which generalize worse?  Keskar et al. 2017 (1609.04836).

For every seed one network is trained twice from the same initial weights: with small batches, and with large ones (a
tenth of the training set, as in the paper). Measured at both solutions: test accuracy, the paper's sharpness in the
full space and in a random subspace, the largest Hessian eigenvalue, and an adaptive sharpness that does not depend on
the scale of single layers (Kwon et al. 2021), as the other two do (Dinh et al. 2017); and losses and accuracies along
the line through both.

A network that has not got as far down is at no minimum, and its sharpness is that of a slope. So the two are judged
only where they reach the same training loss, within a factor of TOLERANCE. They can be trained for equal epochs, for
equal steps, or to an equal loss: the small batch until its loss is below the target, the large one until it is as low
as that. Either takes the same learning rate, or the one of several that is best for it on a validation set.
"""
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluation import evaluate, evaluate_splits
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters
from analysis.sharpness import adaptive_sharpness, sharpness
from analysis.statistics import PairedDifference, mean_correlation, paired_difference, rank_correlation, t_interval
from harness.experiment import Experiment, check_distinct, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results, positive
from judging.verdict import Claim, Verdict
from judging.wording import format_factor, format_interval, format_points
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network, build_network, fit, loss_reached

CLAIM = Claim(
    "Large batches find sharp minima, which generalize worse.",
    source="Keskar et al. 2017",
)
GRID = {"equal": ["loss"], "seed": [0, 1, 2, 3, 4, 5]}
BATCHES = ("small", "large")
EQUAL = ("epochs", "steps", "loss")
TOLERANCE = 1.1  # two training losses are the same within this factor
VALIDATION = 0.2  # of the training set, where learning rates are chosen
SHARPNESS = {  # the measures of sharpness, in words
    "sharpness": "sharpness",
    "largest_eigenvalue": "largest Hessian eigenvalue",
    "adaptive_sharpness": "adaptive sharpness",
}
SWEPT = (  # fields over which networks of one data set are ranked by sharpness and by accuracy
    "equal", "learning_rate", "rates", "momentum", "batch_size", "large_fraction", "epochs", "large_epochs",
    "target_loss", "max_epochs",
)  # fmt: skip
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
    "small/adaptive_sharpness": "adaptive sharpness, small batch",
    "large/adaptive_sharpness": "adaptive, large",
    "loss_ratio": "training loss, large / small",
    "small/epochs": "epochs, small batch",
    "large/epochs": "epochs, large",
    "small/learning_rate": "learning rate, small batch",
    "large/learning_rate": "learning rate, large batch",
    "small/validation_accuracy": "accuracy on the validation set at the learning rate chosen, small batch",
    "large/validation_accuracy": "accuracy on the validation set at the learning rate chosen, large batch",
    "small/batch_size": "images in a small batch",
    "large/batch_size": "images in a large batch",
    "small/distance": "distance from the start, small batch",
    "large/distance": "distance from the start, large batch",
    "distance_ratio": "distance from the start, small / large",
}
TABLE = (
    "small/test/accuracy", "large/test/accuracy", "small/train/loss", "large/train/loss", "small/sharpness",
    "large/sharpness", "small/subspace_sharpness", "large/subspace_sharpness", "small/largest_eigenvalue",
    "large/largest_eigenvalue", "small/adaptive_sharpness", "large/adaptive_sharpness", "small/epochs", "large/epochs",
    "distance_ratio",
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
    equal: str = field(
        default="epochs",
        metadata={
            "help": f"what the training of both batch sizes has in common, one of {', '.join(EQUAL)}; only networks of "
            "the same training loss are judged",
            "added": True,
        },
    )
    target_loss: float = field(
        default=0.001, metadata={"help": "training loss at which training ends, where equal is loss", "added": True}
    )
    max_epochs: int = field(
        default=2000, metadata={"help": "epochs of either batch at most, where equal is loss", "added": True}
    )
    rates: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": f"learning rates of which either batch size takes its best, by accuracy on {100 * VALIDATION:g} % "
            "of the training set that are left out for it; none: learning_rate for both",
            "added": True,
        },
    )
    adaptive_radius: float = field(
        default=0.5, metadata={"help": "radius of the adaptive sharpness, in units of the weights", "added": True}
    )
    seed: int = seed_field()

    def validate(self) -> None:
        if self.equal not in EQUAL:
            raise ValueError(f"unknown equal {self.equal!r}: allowed are {', '.join(EQUAL)}")
        if self.large_epochs and self.equal != "epochs":
            raise ValueError(f"large_epochs {self.large_epochs} needs equal epochs, got equal {self.equal}")
        if self.max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, got {self.max_epochs}")
        check_distinct(self, "rates")
        if not 0 < self.large_fraction <= 1:
            raise ValueError(f"large_fraction must lie in (0, 1], got {self.large_fraction}")
        for name in ("epsilon", "subspace", "sharpness_iterations", "target_loss", "adaptive_radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number greater than 0, got {getattr(self, name)}")
        if self.large_epochs < 0:
            raise ValueError(f"large_epochs must be 0 (as many as epochs) or positive, got {self.large_epochs}")
        if self.hessian_products < 20:
            raise ValueError(f"hessian_products must be at least 20, got {self.hessian_products}")
        if self.training.regularizer != "none":
            raise ValueError("sharpness is one of the plain training loss: regularizer must be none")


def large_batch(config: Config, data: Data) -> int:
    """Images in a large batch."""
    return max(1, round(config.large_fraction * len(data.x_train)))


def check(config: Config, data: Data, run: Run) -> None:
    if large_batch(config, data) <= config.training.batch_size:
        raise ValueError(
            f"the large batch must be larger than the small one: large_fraction {config.large_fraction:g} of "
            f"{len(data.x_train)} images is {large_batch(config, data)}, batch_size {config.training.batch_size}"
        )
    if config.rates and validation_size(data) < 1:
        raise ValueError(f"rates need a validation set, and {len(data.x_train)} training images are too few for one")
    count = ask_network("parameters", config, data, run, lambda model: model.count_params())
    if config.subspace > count:
        raise ValueError(f"subspace must be at most the network's {count} parameters, got {config.subspace}")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Both trainings from the same initial weights, where each of them ends, and the line through the two ends."""
    model = build_network(config, data)
    initial = [v.numpy() for v in model.variables]
    start, result, ends = get_parameters(model), {"diverged_epoch": None}, {}
    surface = TrainingLoss(model, data.x_train, data.y_train, config.training.loss)
    for name in BATCHES:
        plan, chosen = plan_training(config, data, run, model, initial, name)
        if plan is None:
            return chosen
        target = config.target_loss if name == "small" else result["small/train/loss"]
        assign(model, initial)
        history = fit(
            model, data, plan, seed=config.seed, run=run, stage=name, until=reaches(config, data, target)
        )
        if history.diverged_epoch:
            return {"diverged_epoch": history.diverged_epoch}
        result.update(measure_solution(config, model, data, surface, name))
        result.update(chosen)
        result[f"{name}/batch_size"] = plan.batch_size
        result[f"{name}/learning_rate"] = plan.learning_rate
        result[f"{name}/epochs"] = len(history.rows)
        result[f"{name}/distance"] = float(np.linalg.norm(get_parameters(model) - start))
        ends[name] = [v.numpy() for v in model.variables]
    result["loss_ratio"] = result["large/train/loss"] / max(result["small/train/loss"], 1e-300)
    result["distance_ratio"] = result["small/distance"] / result["large/distance"]
    result.update(measure_line(model, data, config.training.loss, ends))
    return result


def plan_training(
    config: Config, data: Data, run: Run, model: keras.Model, initial: list[np.ndarray], name: str
) -> tuple[TrainingConfig | None, dict[str, float]]:
    """(TrainingConfig of one batch size, columns of how its learning rate was chosen).

    (None, columns of a run that diverged) where no learning rate tried trains the network.
    """
    n, small = len(data.x_train), config.training
    batch = small.batch_size if name == "small" else large_batch(config, data)
    epochs = small.epochs
    if config.equal == "loss":
        epochs = config.max_epochs
    elif name == "large" and config.equal == "steps":
        epochs = math.ceil(small.epochs * (n // small.batch_size) / (n // batch))
    elif name == "large":
        epochs = config.large_epochs or epochs
    plan = dataclasses.replace(small, batch_size=batch, epochs=epochs)
    return choose_rate(config, data, run, model, initial, name, plan) if config.rates else (plan, {})


def choose_rate(
    config: Config, data: Data, run: Run, model: keras.Model, initial: list[np.ndarray], name: str, plan: TrainingConfig
) -> tuple[TrainingConfig | None, dict[str, float]]:
    """plan_training's plan with the learning rate whose network, trained without a validation set, is best on it.

    By accuracy, then by loss; networks that missed the training loss that they were meant to reach stand behind.
    """
    order = np.random.default_rng([config.seed, 29]).permutation(len(data.x_train))
    kept, left_out = np.sort(order[validation_size(data):]), np.sort(order[:validation_size(data)])
    x, y = data.x_train, data.y_train
    split = dataclasses.replace(data, x_train=x[kept], y_train=y[kept], x_test=x[left_out], y_test=y[left_out])
    until = reaches(config, split, config.target_loss)
    found, diverged = [], None
    for rate in config.rates:
        assign(model, initial)
        tried = dataclasses.replace(plan, learning_rate=rate)
        history = fit(model, split, tried, seed=config.seed, run=run, stage=f"{name}-rate={rate:g}", until=until)
        if history.diverged_epoch:
            diverged = history.diverged_epoch
            continue
        loss, accuracy = evaluate(model, split.x_test, split.y_test, plan.loss)
        missed = bool(until and not until(model))
        found.append(((missed, -accuracy, loss), tried))
    if not found:
        return None, {"diverged_epoch": diverged}
    (_, accuracy, _), best = min(found, key=lambda pair: pair[0])
    return best, {f"{name}/validation_accuracy": -accuracy}


def validation_size(data: Data) -> int:
    """Training images that are left out where learning rates are chosen."""
    return int(VALIDATION * len(data.x_train))


def reaches(config: Config, data: Data, target: float) -> Callable | None:
    """`until` of fit: is the training loss of the whole set at most the target?  None where losses are not made equal.
    """
    if config.equal != "loss":
        return None
    return loss_reached(data, config.training.loss, target)


def assign(model: keras.Model, values: list[np.ndarray]) -> None:
    """Set all variables of the model, those of batch norm too."""
    for variable, value in zip(model.variables, values):
        variable.assign(value)


def measure_solution(
    config: Config, model: keras.Model, data: Data, surface: TrainingLoss, name: str
) -> dict[str, float]:
    """Losses, sharpness and curvature where one of the two trainings ended."""
    search = {"epsilon": config.epsilon, "iterations": config.sharpness_iterations, "seed": config.seed}
    full, part = sharpness(surface, **search), sharpness(surface, dimension=config.subspace, **search)
    adaptive = adaptive_sharpness(surface, radius=config.adaptive_radius, seed=config.seed)
    curvature = extreme_eigenvalues(
        surface.hessian(), tolerance=1e-3, max_products=config.hessian_products, seed=config.seed, basis_size=20
    )
    gradient = surface.value_and_gradient_at(get_parameters(model))[1]
    return {
        **evaluate_splits(model, data, config.training.loss, name),
        f"{name}/sharpness": full.value,
        f"{name}/subspace_sharpness": part.value,
        f"{name}/adaptive_sharpness": adaptive.value,
        f"{name}/gradient_norm": float(np.linalg.norm(gradient)),
        f"{name}/largest_eigenvalue": curvature.largest,
        f"{name}/eigenvalue_residual": curvature.largest_relative_residual,
    }


def measure_line(model: keras.Model, data: Data, loss: str, ends: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
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


def judge(results: Results) -> Verdict:
    """Every group of runs alike but for their seed: is the large batch sharper, and is it worse, and by how much?"""
    margin, factor = results.margins["margin"], results.margins["margin_factor"]
    test = (
        "One-sided paired t-tests over seeds, per setting (runs alike in all but the seed), where the training losses "
        f"of both batches agree within a factor of {TOLERANCE:g} in every run: log10 sharpness (Keskar et al.'s, full "
        "space) of the large batch minus that of the small one, and test accuracy of the small batch minus that of the "
        f"large one. Supported where both lie above 0; refuted where the sharpness rises by less than a factor of "
        f"{factor:g}, or the accuracy falls by less than {100 * margin:g} points."
    )
    results = results.measured("small/sharpness")
    groups = results.groups()
    if not groups:
        return Verdict("undecided", "Every network diverged.", test)
    findings = [compare_batches(group, margin, factor, results.confidence) for group in groups]
    return decide(results, findings, test, notes=describe_sweep(results))


def compare_batches(group: Group, margin: float, factor: float, confidence: float) -> Finding:
    """Sharpness and test accuracy of a Group's large batches against its small ones, paired by seed.

    Equal epochs, steps and losses are arms of one group; those with the same training loss are judged, all of them.
    """
    texts, supports, refutes = [], [], []
    arms = group.split("equal")
    for equal, rows in arms.items():
        text, sharper, worse = compare_arm(rows, confidence)
        same = same_loss(rows)
        where = f"equal {equal}: " if len(arms) > 1 else ""
        if not same.all():
            texts.append(
                f"{where}not judged, as the training losses differ by more than {TOLERANCE:g} times in "
                f"{(~same).sum()} of {len(same)} runs ({text})"
            )
            continue
        texts.append(where + text)
        supports += [above(sharper), above(worse)]
        refutes += [
            Statement(f"{where}not sharper by the margin", (below(sharper, np.log10(factor)),)),
            Statement(f"{where}not worse by the margin", (below(worse, margin),)),
        ]
    return Finding(
        group.label,
        "; ".join(texts),
        supports=(Statement("sharper and worse", tuple(supports)),) if supports else (),
        refutes=tuple(refutes),
    )


def same_loss(rows: pd.DataFrame) -> np.ndarray:
    """[bool] a row: do both networks have the same training loss?"""
    small, large = (np.log(positive(rows, f"{batch}/train/loss")) for batch in BATCHES)
    return np.abs(large - small) <= math.log(TOLERANCE)


def compare_arm(rows: pd.DataFrame, confidence: float) -> tuple[str, PairedDifference, PairedDifference]:
    """(text, log10 ratio of Keskar's sharpness, difference of accuracies) of the rows of one arm, paired by seed."""
    ratios = {}
    for measure, name in SHARPNESS.items():
        small, large = (np.log10(positive(rows, f"{batch}/{measure}")) for batch in BATCHES)
        ratios[name] = paired_difference(large, small, confidence)
    worse = paired_difference(rows["small/test/accuracy"], rows["large/test/accuracy"], confidence)
    losses = [rows.get(f"{batch}/train/loss", np.array([np.nan])).mean() for batch in BATCHES]
    sharper = ratios["sharpness"]
    others = ", ".join(
        f"{name} {format_factor(ratio)} times" for name, ratio in ratios.items() if name != "sharpness" and ratio.n
    )
    text = (
        f"training losses {losses[0]:.3g} (small batch) and {losses[1]:.3g} (large), sharpness of the large batch "
        f"{format_factor(sharper)} times that of the small one{others and f' ({others})'}, test accuracy of the small "
        f"batch minus that of the large one {format_points(worse)} ({sharper.n} paired seeds)"
    )
    return text, sharper, worse


def sweeps(results: Results) -> list[tuple[Group, dict[str, np.ndarray], int]]:
    """[(Group, {measure: rank correlation with test accuracy, one for each seed}, networks a seed)] of each sweep.

    Over the networks of both batch sizes at every rate, batch size and length of training that was tried, if their
    training losses agree within each config. Fewer than four networks of a seed have no correlation.
    """
    found = []
    for group in results.groups(apart=SWEPT):
        rows = group.rows[same_loss(group.rows)]
        if rows["config_id"].nunique() <= rows["seed"].nunique():
            continue
        networks = pooled(rows)
        seeds = [part for _, part in networks.groupby("seed") if len(part) >= 4]
        if not seeds:
            continue
        correlations = {
            measure: np.array([rank_correlation(part[measure], part["accuracy"]).correlation for part in seeds])
            for measure in SHARPNESS if networks[measure].notna().any()
        }  # fmt: skip
        found.append((group, correlations, max(map(len, seeds))))
    return found


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a network of some configs: seed, batch, the measures of sharpness, test accuracy."""
    parts = []
    for batch in BATCHES:
        columns = {f"{batch}/{measure}": measure for measure in SHARPNESS} | {f"{batch}/test/accuracy": "accuracy"}
        parts.append(rows.reindex(columns=["seed", *columns]).rename(columns=columns).assign(batch=batch))
    return pd.concat(parts, ignore_index=True)


def describe_sweep(results: Results) -> str:
    """Rank correlations with test accuracy over the networks of a sweep, in words; '' where there was none."""
    texts = []
    for group, correlations, count in sweeps(results):
        parts = [
            f"{SHARPNESS[measure]} {format_interval(mean_correlation(values, results.confidence), 2, sign=True)}"
            for measure, values in correlations.items()
        ]
        seeds = max(map(len, correlations.values()))
        texts.append(
            f" Rank correlation with test accuracy over {count} networks ({group.label}, mean over {seeds} of the "
            f"seeds, not judged): {', '.join(parts)}."
        )
    return "".join(texts)


def figures(results: Results) -> dict[str, Figure]:
    """Loss and accuracy on the line through both solutions; sharpness, curvature and accuracy of both batches."""
    results = results.measured("small/sharpness")
    if not len(results):
        return {}
    groups = results.groups(apart=())
    drawn = {
        "line_between_the_solutions": plot_lines(groups, results.arrays),
        "small_against_large_batch": plot_pairs(groups),
    }
    found = sweeps(results)
    return {**drawn, "sharpness_against_accuracy": plot_sweeps(found)} if found else drawn


def plot_lines(groups: list[Group], arrays: dict[str, dict[str, np.ndarray]]) -> Figure:
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


def plot_pairs(groups: list[Group]) -> Figure:
    """Sharpness, curvature and test accuracy of both batches, a line per seed, the mean with its interval."""
    panels = (
        ("sharpness", "sharpness, full space (%)", "log"),
        ("subspace_sharpness", "sharpness, random subspace (%)", "log"),
        ("largest_eigenvalue", "largest Hessian eigenvalue", "log"),
        ("adaptive_sharpness", "adaptive sharpness", "log"),
        ("test/accuracy", "test accuracy", "linear"),
    )
    panels = [panel for panel in panels if all(f"small/{panel[0]}" in group.rows for group in groups)]
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


def plot_sweeps(found: list[tuple[Group, dict[str, np.ndarray], int]]) -> Figure:
    """Test accuracy against each measure of sharpness over the networks of a sweep, one row a sweep, every seed."""
    figure, axes = plots.new(len(found), len(SHARPNESS), width=3.4, height=3.2)
    for line, (group, correlations, _) in zip(axes, found):
        networks = pooled(group.rows[same_loss(group.rows)])
        for axis, (measure, name) in zip(line, SHARPNESS.items()):
            for (batch, part), style in zip(networks.groupby("batch", sort=False), plots.styles()):
                look = {"color": style["color"], "marker": style["marker"], "alpha": 0.6, "linestyle": "none"}
                axis.plot(part[measure], part["accuracy"], label=f"{batch} batch", **look)
            says = format_interval(mean_correlation(correlations.get(measure, ())), 2, sign=True)
            axis.set(xscale="log", xlabel=name, ylabel="test accuracy", title=f"rank correlation {says}")
        line[0].legend(title=group.label)
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(*BATCHES, *(f"{batch}-rate=<rate>" for batch in BATCHES)),
    apart=("equal",),
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
