"""Does a two-layer ReLU network with 2n + d weights represent any function on n points?  Zhang et al. 2017, Theorem 1.

The network is built by the proof's construction, not trained, and run as a Keras model: what is left is rounding.
"""
from dataclasses import dataclass, field

import numpy as np

from analysis.evaluation import predict
from analysis.statistics import t_interval
from models import NetworkConfig
from models.relu_interpolant import relu_interpolant
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig

CLAIM = Claim(
    "A two-layer ReLU network with 2n + d weights represents any function on n points in d dimensions.",
    source="Zhang et al. 2017, Theorem 1",
)
TARGETS = ("labels", "random_labels", "gaussian")
GRID = {"width": [50, 100, 200, 500, 1000], "targets": list(TARGETS), "seed": [0, 1, 2]}
MEASURES = {
    "parameters": "weights",
    "parameters/theorem": "2n + d",
    "error/max": "largest error on the points",
    "gap/smallest": "smallest gap of the projections",
    "weights/largest": "largest weight",
    "test/error": "test error (nearest class)",
}
TOLERANCE = 1e-6
ENOUGH = 3  # seeds of each kind of values
LARGEST = 10000  # points: the triangular system is dense
CURVE = 15  # points of a curve in the figure


@dataclass(frozen=True)
class Config:
    """The network has one hidden layer, as wide as there are points: `width` is n."""

    network: NetworkConfig = NetworkConfig(width=500, depth=1, dtype="float64")
    data: DataConfig = DataConfig()
    targets: str = field(default="labels", metadata={"help": f"values at the points, one of {', '.join(TARGETS)}"})
    seed: int = field(default=0, metadata={"help": "seed of data, values and directions; 0,1,2 for several"})

    @property
    def label(self):
        return self.targets

    def validate(self):
        n, dtype = self.network.width, self.network.dtype
        if self.targets not in TARGETS:
            raise ValueError(f"unknown targets {self.targets!r}: allowed are {', '.join(TARGETS)}")
        if self.network != NetworkConfig(width=n, depth=1, dtype=dtype):
            raise ValueError(
                "expressivity builds its network: an mlp of depth 1 with ReLU, of which only --width (the number of points) "
                "and --dtype can be chosen; it takes no --model or other option of a network"
            )
        if n is None or not 2 <= n <= LARGEST:
            raise ValueError(f"width is the number of points here, from 2 to {LARGEST}, got {n}")
        if self.data.augment:
            raise ValueError("augment changes the points in training, but expressivity trains nothing")


def check(config, data):
    x, _ = data.sample(config.network.width)  # refuses more points than there are
    if len(np.unique(x, axis=0)) < len(x):
        raise ValueError(f"the {len(x)} points of dataset {config.data.dataset} must differ, but some images are equal")


def values(config, labels, classes):
    """What the network is to represent: class numbers, uniformly random ones, or standard normal values; [n]."""
    rng = np.random.default_rng([config.seed, TARGETS.index(config.targets)])
    drawn = {"random_labels": rng.integers(classes, size=len(labels)), "gaussian": rng.standard_normal(len(labels))}
    return drawn.get(config.targets, labels).astype(np.float64)


def measure(config, data, run):
    x, labels = data.sample(config.network.width)
    y = values(config, labels, data.num_classes)
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
    shown = order[:CURVE]
    grid = np.unique(np.concatenate([np.linspace(*z[shown[[0, -1]]], 200), z[shown], thresholds[1 : len(shown)]]))
    curve = np.maximum(grid[:, None] - thresholds, 0) @ weights[:, 0]
    return {**result, "curve/z": grid, "curve/c": curve, "points/z": z[shown], "points/y": y[shown]}


def judge(results):
    table = results.table
    test = (
        f"Largest error over the points below {TOLERANCE:g}, and 2n + d weights counted in the Keras model, for every "
        f"number of points, kind of values and at least {ENOUGH} seeds of them. The theorem is proved by construction: an "
        "error above that is rounding, and undecided."
    )
    counted = bool((table["parameters"] == table["parameters/theorem"]).all())
    exact = table["error/max"] < TOLERANCE
    worst = table.loc[table["error/max"].idxmax()]
    reason = (
        f"{int(exact.sum())} of {len(table)} networks of {table['width'].min()} to {table['width'].max()} units fit their "
        f"values, the largest error being {worst['error/max']:.2g} (n = {worst['width']}, {worst['targets']}); "
        f"{'all' if counted else 'not all'} have 2n + d weights"
    )
    known = table.loc[table["targets"] == "labels", "test/error"] if "test/error" in table else []
    if len(known):
        reason += (
            "; representing is not generalising: fitted to true labels, their test error is "
            f"{known.min():.3g} to {known.max():.3g}"
        )
    seeds = table.groupby(["width", "targets"])["seed"].nunique().min()
    return Verdict("supported" if counted and exact.all() and seeds >= ENOUGH else "undecided", reason + ".", test)


def figures(results):
    return {"error_against_points": errors(results.table), "constructed_functions": curves(results)}


def errors(table):
    """Largest error and smallest gap between projections against the number of points."""
    figure, axes = plots.new(1, 2)
    for (name, rows), style in zip(table.groupby("targets", sort=False), plots.styles()):
        by_width = dict(list(rows.groupby("width")))
        for axis, column in zip(axes.flat, ("error/max", "gap/smallest")):
            if axis.lines and column == "gap/smallest":
                continue  # the same points and directions, whatever the values
            # Powers of ten: the interval of the logarithms, which cannot reach below 0.
            found = [t_interval(np.log10(np.maximum(g[column], 1e-18))) for g in by_width.values()]
            axis.errorbar(
                list(by_width),
                [10**i.mean for i in found],
                [[10**i.mean - 10**low for i in found for low in [i.low if i.n > 1 else i.mean]],
                 [10**high - 10**i.mean for i in found for high in [i.high if i.n > 1 else i.mean]]],
                label=name.replace("_", " "), capsize=3, markersize=5, **style,
            )  # fmt: skip
    for axis, label in zip(axes.flat, ("largest error on the points", "smallest gap of the projections")):
        axis.set(xlabel="points n", ylabel=label, xscale="log", yscale="log")
    axes[0, 0].axhline(TOLERANCE, linestyle=":", color="0.4", label="tolerance")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def curves(results):
    """The built function along its direction: the first points of the fewest, of the first seed, per kind of values."""
    first = results.table[results.table["width"] == results.table["width"].min()].groupby("targets", sort=False).first()
    figure, axes = plots.new(1, len(first), width=4.4)
    for axis, (name, row) in zip(axes.flat, first.iterrows()):
        arrays = results.arrays[row["config_id"]]
        axis.plot(arrays["curve/z"], arrays["curve/c"], color=plots.COLOURS[0], linewidth=1.2, label="network")
        axis.plot(arrays["points/z"], arrays["points/y"], "o", color=plots.COLOURS[3], markersize=5, label="points")
        title = f"{name.replace('_', ' ')}, n = {row['width']} (first {CURVE})"
        axis.set(xlabel="projection $\\langle a, x \\rangle$", ylabel="output", title=title)
    axes[0, 0].legend()
    return figure
