"""Does a two-layer ReLU network with 2n + d weights represent any function on n points?  Zhang et al. 2017, Theorem 1.

The network is built by the proof's construction, not trained, and run as a Keras model: what is left is rounding.
"""
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evaluation import predict
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, decide, fact
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from models import NetworkConfig
from models.relu_interpolant import relu_interpolant
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig

CLAIM = Claim(
    "A two-layer ReLU network with 2n + d weights represents any function on n points in d dimensions.",
    source="Zhang et al. 2017, Theorem 1",
)
TARGETS = ("labels", "random_labels", "gaussian")
GRID = {"width": [50, 100, 200, 500, 1000], "targets": list(TARGETS), "seed": [0, 1, 2]}
COLUMNS = {
    "parameters": "weights",
    "parameters/theorem": "2n + d",
    "error/max": "largest error on the points",
    "gap/smallest": "smallest gap of the projections",
    "weights/largest": "largest weight",
    "test/error": "test error (nearest class)",
}
TABLE = ("parameters", "parameters/theorem", "error/max", "gap/smallest", "weights/largest", "test/error")
TOLERANCE = 1e-6
MAX_POINTS = 10000  # the triangular system is dense
CURVE = 15  # points of a curve in the figure


@dataclass(frozen=True)
class Config:
    """The network has one hidden layer, as wide as there are points: `width` is n."""

    network: NetworkConfig = NetworkConfig(width=500, depth=1, dtype="float64")
    data: DataConfig = DataConfig()
    targets: str = field(default="labels", metadata={"help": f"values at the points, one of {', '.join(TARGETS)}"})
    seed: int = seed_field("data, values and directions")

    def validate(self) -> None:
        n, dtype = self.network.width, self.network.dtype
        if self.targets not in TARGETS:
            raise ValueError(f"unknown targets {self.targets!r}: allowed are {', '.join(TARGETS)}")
        if self.network != NetworkConfig(width=n, depth=1, dtype=dtype):
            raise ValueError(
                "expressivity builds its network: an mlp of depth 1 with ReLU, of which only --width (the number of "
                "points) and --dtype can be chosen; it takes no --model or other option of a network"
            )
        if n is None or not 2 <= n <= MAX_POINTS:
            raise ValueError(f"width is the number of points here, from 2 to {MAX_POINTS}, got {n}")
        if self.data.augment:
            raise ValueError("augment changes the points in training, but expressivity trains nothing")


def label(config: Config) -> str:
    return config.targets


def check(config: Config, data: Data, run: Run) -> None:
    x, _ = data.first_balanced(config.network.width)  # refuses more points than there are
    if len(np.unique(x, axis=0)) < len(x):
        raise ValueError(f"the {len(x)} points of dataset {config.data.dataset} must differ, but some images are equal")


def draw_values(config: Config, labels: np.ndarray, classes: int) -> np.ndarray:
    """What the network is to represent: class numbers, uniformly random ones, or standard normal values; [n]."""
    rng = np.random.default_rng([config.seed, TARGETS.index(config.targets)])
    drawn = {"random_labels": rng.integers(classes, size=len(labels)), "gaussian": rng.standard_normal(len(labels))}
    return drawn.get(config.targets, labels).astype(np.float64)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Build the network of the proof: its weights counted, its largest error on the points, its test error."""
    x, labels = data.first_balanced(config.network.width)
    y = draw_values(config, labels, data.num_classes)
    model = relu_interpolant(x, y, seed=config.seed, dtype=config.network.dtype)
    direction, thresholds, weights = (np.asarray(w, np.float64) for w in model.get_weights())
    z = x.reshape(len(x), -1) @ direction[:, 0]
    order = z.argsort()
    result = {
        "parameters": model.count_params(),
        "parameters/theorem": 2 * len(x) + x[0].size,
        "error/max": float(np.abs(predict(model, x)[:, 0] - y).max()),
        "gap/smallest": float(np.diff(z[order]).min()),
        "weights/largest": float(np.abs(weights).max()),
    }
    if config.targets != "gaussian":
        nearest = np.clip(np.rint(predict(model, data.x_test)[:, 0]), 0, data.num_classes - 1)
        result["test/error"] = float(np.mean(nearest != data.y_test.argmax(axis=1)))
    first = order[:CURVE]
    grid = np.unique(np.concatenate([np.linspace(*z[first[[0, -1]]], 200), z[first], thresholds[1 : len(first)]]))
    curve = np.maximum(grid[:, None] - thresholds, 0) @ weights[:, 0]
    return {**result, "curve/z": grid, "curve/c": curve, "points/z": z[first], "points/y": y[first]}


def judge(results: Results) -> Verdict:
    """Errors and weights against the theorem's, for each group of networks that share data and precision.

    Supported where every network is exact with 2n + d weights, for every size and kind of values: counted, not tested.
    """
    test = (
        f"Largest error over the points below {TOLERANCE:g}, and 2n + d weights counted in the Keras model, for every "
        "number of points, kind of values and seed. The theorem is proved by construction: an error above that is "
        "rounding, and undecided."
    )
    groups = results.measured("error/max").groups()
    if not groups:
        return Verdict("undecided", "No network was measured.", test)
    return decide(results, [check_networks(group) for group in groups], test)


def check_networks(group: Group) -> Finding:
    """Are the networks of a Group, which differ in nothing but size, kind of values and seed, what the proof says?"""
    rows = group.rows
    counted = bool((rows["parameters"] == rows["parameters/theorem"]).all())
    exact = rows["error/max"] < TOLERANCE
    worst = rows.loc[rows["error/max"].idxmax()]
    text = (
        f"{int(exact.sum())} of {len(rows)} networks of {rows['width'].min():g} to {rows['width'].max():g} units fit "
        f"their values, the largest error being {worst['error/max']:.2g} (n = {worst['width']:g}, {worst['targets']}), "
        f"and {'all' if counted else 'not all'} have 2n + d weights"
    )
    known = rows.loc[rows["targets"] == "labels", "test/error"] if "test/error" in rows else []
    if len(known):
        text += (
            ", but representing is not generalizing: fitted to true labels, their test error is "
            f"{known.min():.3g} to {known.max():.3g}"
        )
    holds = fact(counted and bool(exact.all()))
    return Finding(group.label, text, supports=(Statement("every network fits with 2n + d weights", (holds,)),))


def figures(results: Results) -> dict[str, Figure]:
    """Errors and gaps against the number of points, and the first constructed functions."""
    groups = results.measured("error/max").groups()
    if not groups:
        return {}
    return {
        "error_against_points": plot_errors(groups),
        "constructed_functions": plot_functions(groups, results.arrays),
    }


def line_name(group: Group, targets: str, groups: list[Group]) -> str:
    """`random labels`, behind what sets its group apart where there are several."""
    name = targets.replace("_", " ")
    return f"{group.label}: {name}" if len(groups) > 1 else name


def plot_errors(groups: list[Group]) -> Figure:
    """Largest error and smallest gap between projections against the number of points, one line per kind of values."""
    figure, axes = plots.new(1, 2)
    styles = plots.styles()
    for group in groups:
        for i, (targets, rows) in enumerate(group.split("targets").items()):
            name, style = line_name(group, targets, groups), next(styles)
            plot_powers(axes[0, 0], rows, "error/max", name, style)
            if i == 0:  # the gaps are those of the same points and directions, whatever the values
                plot_powers(axes[0, 1], rows, "gap/smallest", name, style)
    for axis, text in zip(axes.flat, ("largest error on the points", "smallest gap of the projections")):
        axis.set(xlabel="points n", ylabel=text, xscale="log", yscale="log")
    axes[0, 0].axhline(TOLERANCE, linestyle=":", color="0.4", label="tolerance")
    columns = 4 if len(groups) == 1 else 2
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def plot_powers(axis: Axes, rows: pd.DataFrame, column: str, name: str, style: dict) -> None:
    """A column against the number of points, with the intervals of its logarithm, which cannot reach below 0."""
    by_width = dict(list(rows.groupby("width")))
    found = [plots.log_interval(np.maximum(part[column], 1e-18)) for part in by_width.values()]
    plots.interval_line(axis, list(by_width), found, label=name, **style)


def plot_functions(groups: list[Group], arrays: dict[str, dict[str, np.ndarray]]) -> Figure:
    """The built function along its direction: the first points of the fewest, of the first seed, per kind of values."""
    fewest = [group.rows[group.rows["width"] == group.rows["width"].min()] for group in groups]
    chosen = [
        (line_name(group, targets, groups), part.iloc[0])
        for group, rows in zip(groups, fewest) for targets, part in rows.groupby("targets", sort=False)
    ]  # fmt: skip
    figure, axes = plots.panel_grid(len(chosen), width=4.4)
    for axis, (name, row) in zip(axes, chosen):
        found = arrays[row["config_id"]]
        axis.plot(found["curve/z"], found["curve/c"], color=plots.COLOURS[0], linewidth=1.2, label="network")
        axis.plot(found["points/z"], found["points/y"], "o", color=plots.COLOURS[3], markersize=5, label="points")
        title = f"{name}, n = {row['width']:g} (first {CURVE})"
        axis.set(xlabel="projection $\\langle a, x \\rangle$", ylabel="output", title=title)
    axes[0].legend()
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(),
    apart=("width", "targets"),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=label,
)
