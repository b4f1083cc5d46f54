"""Do local minima get better with depth and width?  Kawaguchi, Huang, Kaelbling 2019, Neural Computation 31(7).

Networks are trained to stationary points of the squared loss: SGD, then L-BFGS and BFGS, then Newton steps. Beside the
loss stands the theorem's value, 1/(2n) ||(I - P[J]) vec Y||^2 with its terms by layer: it equals the loss at every
differentiable stationary point and lies below it elsewhere, so that the gap tells which runs have converged. A ReLU or
leaky ReLU network may be stationary at kinks, with slopes there that lie between those of both sides: the theorem's
proof needs no more than a zero gradient, so its value is taken with the Jacobian of these slopes. Minima of tanh
networks may lie at infinity. Only runs at a stationary point are judged; the others are counted.
"""
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import models
from analysis.dense_mlp import LEAKS, SMOOTH, DenseMLP
from analysis.evaluation import evaluate_splits
from analysis.kink_points import KinkPoint, fixed, kink_point, null_space
from analysis.parameters import get_parameters, set_parameters
from analysis.projection import project_targets
from analysis.stationary_points import count_kinks, stationary_point
from analysis.statistics import Interval, monotone_trend, t_interval
from experiments.local_minima.affine_start import affine_optimum
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_interval, is_missing
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit

CLAIM = Claim(
    "Local minima get better as the network gets deeper and wider.",
    source="Kawaguchi, Huang, Kaelbling 2019",
)
# Few inputs and many examples: with more of the one or fewer of the other, or wider and deeper, the units of most
# networks become steps between examples, whose minima lie at infinity. Chosen by that alone: docs/verdicts.md.
GRID = {
    "train_size": [1400], "inputs": [3], "activation": ["relu", "leaky_relu", "tanh"], "depth": [1, 2],
    "width": [1, 2], "batch_size": [50], "hold_kinks": [True], "bfgs_iterations": [2000],
    "newton_iterations": [20], "starts": [4], "seed": [0, 1, 2],
}  # fmt: skip
COLUMNS = {
    "sgd/loss": "loss after SGD",
    "starts/taken": "starts until a stationary point",
    "lbfgs/iterations": "L-BFGS iterations taken",
    "bfgs/iterations": "BFGS iterations taken",
    "newton/iterations": "Newton steps taken",
    "final/loss": "loss",  # of analysis.dense_mlp, in float64 throughout
    "final/gradient_norm": "gradient norm",
    "final/parameter_norm": "norm of the parameters",
    "final/converged": "converged",
    "final/kinks": "(example, unit) pairs at a kink",
    "final/at_kink": "not converged, at a kink",
    "final/ridges": "kinks whose both sides are lower",
    "final/outside": "kinks one side of which is lower",
    "train/accuracy": "training accuracy",
    "test/accuracy": "test accuracy",
    "theorem/value": "theorem's value",
    "theorem/gap": "loss minus the theorem's value",
    "theorem/relative_gap": "gap / (||Y||^2 / 2n)",
    "theorem/target": "||Y||^2 / 2n",
    "theorem/rank": "rank of the Jacobian",
    "theorem/outputs": "rows of the Jacobian: examples times outputs",
    "hessian/smallest": "smallest Hessian eigenvalue",
    "hessian/largest": "largest Hessian eigenvalue",
    "affine/loss": "affine optimum's loss",
    "parameters": "number of parameters",
}
TABLE = (
    "final/loss", "theorem/value", "theorem/relative_gap", "final/converged", "final/at_kink", "final/gradient_norm",
    "hessian/smallest", "affine/loss", "test/accuracy",
)  # fmt: skip
SHAPE = ["width", "depth", "widths"]  # the fields that say how wide and deep a network is
AXES = {"units": ("width", "depth"), "layers": ("depth", "width")}  # columns of with_shape: along what, at each of what
CONVERGED = 1e-8  # gap to the theorem's value, relative to ||Y||^2 / 2n
REACHED = 0.8  # share of the runs along a trend that must be at stationary points for it to be judged
MAX_PARAMETERS = 8000  # every Newton step takes all eigenvalues of a dense Hessian, a minute at this size


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", activation="leaky_relu", dtype="float64")
    data: DataConfig = DataConfig(train_size=150)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=20, batch_size=20, learning_rate=0.005)
    lbfgs_iterations: int = field(default=1000, metadata={"help": "L-BFGS iterations after SGD, at most"})
    newton_iterations: int = field(default=6, metadata={"help": "damped Newton steps after L-BFGS, at most"})
    bfgs_iterations: int = field(
        default=0, metadata={"help": "BFGS iterations between L-BFGS and Newton steps, at most", "added": True}
    )
    hold_kinks: bool = field(
        default=False,
        metadata={"help": "relu, leaky_relu: go to stationary points at kinks, by smoothing them first", "added": True},
    )
    starts: int = field(
        default=1,
        metadata={
            "help": "where the end is no stationary point, begin again from other initial weights, without SGD: starts "
            "in all, at most",
            "added": True,
        },
    )
    inputs: int = field(
        default=0,
        metadata={"help": "principal components of the images that are the inputs; 0: all pixels", "added": True},
    )
    seed: int = seed_field()

    def validate(self) -> None:
        for name in ("lbfgs_iterations", "newton_iterations", "bfgs_iterations", "inputs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.starts < 1:
            raise ValueError(f"starts must be at least 1, got {self.starts}")
        if self.training.loss != "squared":
            message = "depth_width has a theorem of the squared loss: loss must be squared"
            raise ValueError(f"{message}, got {self.training.loss!r}")
        if self.training.regularizer != "none" or self.data.augment:
            plain = "depth_width looks for stationary points of the plain training loss"
            raise ValueError(f"{plain}: no regularizer, no augment")
        if self.network.dtype != "float64" or self.network.dropout:
            raise ValueError("depth_width needs dtype=float64 and dropout=0: stationary points are checked to 1e-8")


def applies(config: Config) -> bool:
    return config.network.model == "mlp"


def hidden_widths(network: NetworkConfig) -> tuple[int, ...]:
    """The hidden widths of an mlp's config, as models.mlp takes them."""
    defaults = models.mlp.__kwdefaults__
    return network.widths or (network.width or defaults["width"],) * (network.depth or defaults["depth"])


def dense_network(config: Config, data: Data) -> DenseMLP:
    """The config's network as a DenseMLP on its training set."""
    return DenseMLP(data.x_train, data.y_train, hidden_widths(config.network), config.network.activation)


def check(config: Config, data: Data, run: Run) -> None:
    most = min(len(data.x_train), data.x_train[0].size)
    if config.inputs > most:
        raise ValueError(f"inputs: these data have {most} principal components, got {config.inputs}")
    count = dense_network(config, principal_components(data, config.inputs)).parameter_count
    if count > MAX_PARAMETERS:
        raise ValueError(f"depth_width has a dense Hessian: allowed are {MAX_PARAMETERS} parameters, got {count}")


def principal_components(data: Data, count: int) -> Data:
    """The data with the first `count` principal components of the training set as inputs, each with a mean square of 1.

    Those of the test set are taken along the same directions. count 0: the data as they are.
    """
    if not count:
        return data
    train, test = (x.reshape(len(x), -1).astype(np.float64) for x in (data.x_train, data.x_test))
    mean = train.mean(axis=0)
    _, sizes, directions = np.linalg.svd(train - mean, full_matrices=False)
    scale = np.where(sizes[:count] > 0, sizes[:count], 1) / math.sqrt(len(train))
    train, test = (((x - mean) @ directions[:count].T / scale).astype(np.float32) for x in (train, test))
    return dataclasses.replace(data, x_train=train, x_test=test)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """A stationary point downhill from where SGD ends: its loss, the theorem's value there, how far to trust both."""
    data = principal_components(data, config.inputs)
    model = build_network(config, data)
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    dense, start = dense_network(config, data), get_parameters(model)
    sgd = dense.value_and_gradient(start)[0]
    for taken in range(1, config.starts + 1):
        theta, measured = descend(dense, start, config)
        if measured["final/converged"] or taken == config.starts:
            break
        another = dataclasses.replace(config, seed=config.seed + taken * 10**6)
        start = get_parameters(build_network(another, data))
    set_parameters(model, theta)
    evaluated = evaluate_splits(model, data, "squared")
    return {
        "diverged_epoch": None,
        "sgd/loss": sgd,
        "starts/taken": taken,
        **measured,
        **{name: evaluated[name] for name in ("train/accuracy", "test/accuracy")},  # final/loss is the exact loss
        "affine/loss": affine_optimum(config, data, run).loss,
        "parameters": dense.parameter_count,
    }


def descend(dense: DenseMLP, start: np.ndarray, config: Config) -> tuple[np.ndarray, dict[str, object]]:
    """(theta [p], {column: value}) of the point downhill from the parameters start [p]."""
    activation = config.network.activation
    iterations = {
        f"{name}_iterations": getattr(config, f"{name}_iterations") for name in ("lbfgs", "bfgs", "newton")
    }  # fmt: skip
    if config.hold_kinks and activation in LEAKS:
        point = kink_point(dense, start, LEAKS[activation], **iterations)
        return point.theta, {**point.counts, **measure_kink_point(dense, point)}
    theta, counts = stationary_point(dense, start, **iterations)
    kinks = 0 if activation in SMOOTH else count_kinks(dense, theta)
    return theta, {**counts, **measure_point(dense, theta, kinks=kinks)}


def measure_kink_point(dense: DenseMLP, point: KinkPoint) -> dict[str, object]:
    """measure_point at a KinkPoint, with its slopes; no stationary point where a side of a kink is lower."""
    smooth = dense.with_activations([fixed(slopes) for slopes in point.slopes])
    kept = null_space(smooth.preactivation_gradients(point.theta, point.held), len(point.theta))
    found = measure_point(smooth, point.theta, kinks=point.kinks, kept=kept)
    stationary = found["final/converged"] and not (point.ridges or point.outside)
    return {
        **found,
        "final/converged": stationary,
        "final/at_kink": int(point.kinks > 0 and not stationary),
        "final/ridges": point.ridges,
        "final/outside": point.outside,
    }


def measure_point(
    dense: DenseMLP, theta: np.ndarray, *, kinks: int, kept: np.ndarray | None = None
) -> dict[str, object]:
    """Loss, theorem and curvature at parameters theta [p].

    kinks: how many it lies at.  kept: an orthonormal basis [p, m] of the directions whose curvature counts; all when
    None.
    """
    loss, gradient = dense.value_and_gradient(theta)
    projection = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), dense.y)
    relative = projection.gap / projection.target
    hessian = dense.hessian(theta)
    curvature = np.linalg.eigvalsh(hessian if kept is None else kept.T @ hessian @ kept)
    return {
        "final/loss": loss,
        "final/gradient_norm": float(np.linalg.norm(gradient)),
        "final/parameter_norm": float(np.linalg.norm(theta)),
        "final/converged": bool(relative <= CONVERGED),
        "final/kinks": kinks,
        "final/at_kink": int(kinks > 0 and relative > CONVERGED),
        "theorem/value": projection.value,
        "theorem/gap": projection.gap,
        "theorem/relative_gap": relative,
        "theorem/target": projection.target,
        "theorem/rank": int(projection.ranks.sum()),
        "theorem/outputs": dense.y.size,
        "theorem/terms": projection.terms,  # [layers]
        "hessian/smallest": float(curvature[0]) if len(curvature) else 0.0,
        "hessian/largest": float(curvature[-1]) if len(curvature) else 0.0,
    }


def with_shape(group: Group) -> pd.DataFrame:
    """A Group's rows with the hidden width and depth of their networks as columns `units` and `layers`.

    One row for each network and seed (width none is the model's own), and none of a network that has a list of widths.
    """
    if group.first["widths"]:
        return group.rows.iloc[:0].assign(units=[], layers=[])
    keys = group.keys(*SHAPE)
    shapes = {key: shape_of(*key) for key in set(keys)}
    positions = {}
    for position, (key, seed) in enumerate(zip(keys, group.rows["seed"].tolist())):
        positions.setdefault((shapes[key][0], len(shapes[key]), seed), position)
    units, layers, _ = zip(*positions)
    return group.rows.iloc[list(positions.values())].assign(units=units, layers=layers)


def shape_of(
    width: np.integer | float | None, depth: np.integer | float | None, widths: Sequence[int]
) -> tuple[int, ...]:
    """The hidden widths of a row's network; pandas makes floats of whole numbers beside none."""
    width, depth = (None if is_missing(value) else int(value) for value in (width, depth))
    return hidden_widths(NetworkConfig(width=width, depth=depth, widths=tuple(widths)))


def is_stationary(rows: pd.DataFrame) -> pd.Series:
    """Which rows are at a stationary point, [bool]."""
    return rows["final/converged"] == 1  # True, or 1 in results of earlier versions


def axis_slopes(rows: pd.DataFrame, loss: np.ndarray, axis: str, confidence: float) -> dict[int, Interval]:
    """{other level: Interval over seeds of the slope of log2 loss against log2 of `axis`}.

    Along `units` at every number of `layers`, or the reverse, wherever there are two levels or more: over the seeds
    with a stationary point at each level. Of nothing, where fewer than REACHED of the runs are at one.

    rows: with_shape.  loss: its log2, [rows]; nan away from a stationary point.
    """
    other = {"units": "layers", "layers": "units"}[axis]
    along, across, seed = (rows[name].to_numpy() for name in (axis, other, "seed"))
    slopes = {}
    for value in np.unique(across).tolist():
        inside = across == value
        if len(np.unique(along[inside])) > 1:
            reached = np.isfinite(loss[inside]).mean() >= REACHED
            trend = monotone_trend(along[inside], loss[inside], seed[inside], confidence)
            slopes[value] = trend.slope if reached else t_interval([], confidence)
    return slopes


def judge(results: Results) -> Verdict:
    """Does the loss fall along width at every depth, and along depth at every width, in every group?"""
    factor = results.margins["margin_factor"]
    test = (
        "One-sided t-tests over seeds of the slope of log2 training loss against log2(width) at each depth, and "
        "against log2(depth) at each width. Supported where every one of them lies below 0; refuted where any shows "
        f"that the loss falls by less than a factor of {factor:g} a doubling, or rises. Only stationary points count "
        f"(gap to the theorem's value at most {CONVERGED:g} of ||Y||^2 / 2n), and of a trend nothing is decided where "
        f"fewer than {100 * REACHED:g} % of its runs reached one."
    )
    measured = results.measured("final/loss")
    if not len(measured):
        return Verdict("undecided", "Every network diverged.", test)
    findings = [judge_shapes(group, factor, results.confidence) for group in measured.groups()]
    return decide(results, findings, test, opening="Training loss: ", notes=f" {describe_convergence(measured.table)}")


def judge_shapes(group: Group, factor: float, confidence: float) -> Finding:
    """The trends of a Group's loss with width and depth; support needs both axes."""
    rows = with_shape(group)
    # Below the square of float64's rounding a loss is 0, which has no logarithm, and says nothing of width or depth.
    loss = np.where(is_stationary(rows), np.log2(np.maximum(rows["final/loss"].to_numpy(float), 1e-32)), np.nan)
    slopes = {axis: axis_slopes(rows, loss, axis, confidence) for axis in AXES}
    falls, flat = [], []
    for axis, found in slopes.items():
        for value, slope in found.items():
            falls.append(below(slope))
            text = f"no gain with {AXES[axis][0]} at {AXES[axis][1]} {value}"
            flat.append(Statement(text, (above(slope, -math.log2(factor)),)))
    both = all(slopes.values())
    reached = is_stationary(group.rows)
    return Finding(
        group.label,
        f"{int(reached.sum())} of {len(reached)} runs at a stationary point, "
        + ", ".join(describe_slopes(found, axis) for axis, found in slopes.items()),
        supports=(Statement("falls with width and depth everywhere", tuple(falls)),) if both else (),
        refutes=tuple(flat),
    )


def describe_slopes(slopes: dict[int, Interval], axis: str) -> str:
    """`falls with width at 2 of 3 depths (as a power of the width, at depth 1: -0.1 [-0.2, -0.05], ..)`."""
    name, other = AXES[axis]
    if not slopes:
        return f"no trend with {name} (two levels or more are needed)"
    falls = sum(slope.high < 0 for slope in slopes.values())  # nan of one seed is neither
    rises = sum(slope.low > 0 for slope in slopes.values())
    exponents = ", ".join(f"{value}: {format_interval(slope, 2)}" for value, slope in slopes.items())
    also = f" and rises at {rises}" if rises else ""
    return f"falls with {name} at {falls} of {len(slopes)} {other}s{also} (exponent at {other} {exponents})"


def describe_convergence(table: pd.DataFrame) -> str:
    """How many runs reached the theorem's value, at kinks or not, stopped at a kink, or neither."""
    reached = is_stationary(table)
    stopped = int(table["final/at_kink"].sum())
    gap = ""
    if reached.any():
        kinks = int((table["final/kinks"][reached] > 0).sum()) if "final/kinks" in table else 0
        gap = f" (largest relative gap {table['theorem/relative_gap'][reached].max():.1g}), {kinks} of them at kinks"
    return (
        f"{int(reached.sum())} of {len(table)} runs converged to the theorem's value{gap}; {stopped} stopped at a "
        f"kink, {int((~reached).sum()) - stopped} did not converge, and these are left out."
    )


def figures(results: Results) -> dict[str, Figure]:
    """Loss over width and depth, gap against gradient norm, and what each layer's block takes off the targets."""
    results = results.measured("final/loss")
    if not len(results):
        return {}
    groups = results.groups()
    drawn = {"gap_to_the_theorem": plot_gaps(groups), "terms_by_layer": plot_terms(groups, results.arrays)}
    square = [(group.label, rows) for group in groups if len(rows := with_shape(group))]
    return {"loss_over_width_and_depth": plot_losses(square), **drawn} if square else drawn


def plot_losses(panels: list[tuple[str, pd.DataFrame]]) -> Figure:
    """Mean loss against width, a line per depth; crosses are the theorem's value, below it where runs did not converge.

    panels: [(title, rows of with_shape)].
    """
    figure, axes = plots.panel_grid(len(panels), width=5, height=3.8)
    for axis, (name, rows) in zip(axes, panels):
        ticks = sorted(rows["units"].unique())
        for (depth, line), style in zip(rows.groupby("layers"), plots.styles()):
            by_width = dict(list(line.groupby("units")))
            intervals = [t_interval(found["final/loss"]) for found in by_width.values()]
            plots.interval_line(axis, list(by_width), intervals, label=f"depth {depth}", **style)
            values = [found["theorem/value"].mean() for found in by_width.values()]
            axis.plot(list(by_width), values, "x", color=style["color"])
        axis.plot([], [], "x", color="black", label="theorem's value")
        axis.axhline(rows["affine/loss"].mean(), linestyle=":", color="black", label="affine optimum")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{width}" for width in ticks], minor=False)
        axis.set(xlabel="width", ylabel="training loss", title=name)
    axes[0].legend()
    return figure


def plot_gaps(groups: list[Group]) -> Figure:
    """Relative gap against gradient norm, one point a run; rounding keeps both off 0 on the logarithmic axes."""
    figure, axes = plots.new(width=5.4, height=3.8)
    axis = axes[0, 0]
    for group, style in zip(groups, plots.styles()):
        for kink, marker in ((0, style["marker"]), (1, "x")):
            chosen = group.rows[group.rows["final/at_kink"] == kink]
            if len(chosen):
                x, y = chosen["final/gradient_norm"].clip(lower=1e-17), chosen["theorem/relative_gap"].clip(lower=1e-20)
                label = group.label + (", at a kink" if kink else "")
                axis.plot(x, y, marker, color=style["color"], markersize=5, alpha=0.7, label=label)
    axis.axhline(CONVERGED, linestyle="--", color="black", label="converged below")
    axis.set(xscale="log", yscale="log", xlabel="gradient norm", ylabel="gap / $\\frac{1}{2n}\\|Y\\|^2$")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_terms(groups: list[Group], arrays: dict[str, dict[str, np.ndarray]]) -> Figure:
    """The share of ||Y||^2 / 2n that each layer's block of the Jacobian takes off, mean over seeds, and the rest."""
    figure, axes = plots.panel_grid(len(groups), columns=1, width=8, height=3)
    for axis, group in zip(axes, groups):
        networks = list(group.split("depth", "width").values())
        shares = layer_shares(networks, arrays)  # [networks, layers]
        bottom = np.zeros(len(networks))
        for l, style in zip(range(shares.shape[1]), plots.styles()):
            axis.bar(range(len(networks)), shares[:, l], bottom=bottom, color=style["color"], edgecolor="white",
                     hatch=["", "//", "..", "xx"][l % 4], label=f"layer {l + 1}")  # fmt: skip
            bottom += shares[:, l]
        rest = {"color": "0.85", "edgecolor": "white", "label": "left: the loss"}
        axis.bar(range(len(networks)), 1 - bottom, bottom=bottom, **rest)
        labels = ["-".join(map(str, shape_of(*rows.iloc[0][SHAPE]))) for rows in networks]
        axis.set_xticks(range(len(networks)), labels, rotation=30, ha="right")
        low = max(0.0, math.floor(10 * shares[:, 0].min() - 1) / 10)
        axis.set(ylabel="share of $\\|Y\\|^2$", xlabel="hidden widths", title=group.label, ylim=(low, 1))
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def layer_shares(networks: list[pd.DataFrame], arrays: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """theorem/terms relative to ||Y||^2 / 2n, mean over the rows of each network: [networks, layers of the deepest]."""
    found = []
    for rows in networks:
        terms = [arrays[identity]["theorem/terms"] for identity in rows["config_id"]]
        found.append(np.mean([term / target for term, target in zip(terms, rows["theorem/target"])], axis=0))
    shares = np.zeros((len(found), max(map(len, found))))
    for i, values in enumerate(found):
        shares[i, : len(values)] = values
    return shares


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("width", "depth"),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    applies=applies,
    needs="experiment depth_width needs --model=mlp",
    former_columns={"final/accuracy": "train/accuracy", "final/test_accuracy": "test/accuracy"},
    margins={"margin_factor": (1.1, "training loss, a doubling of the width or the depth")},
    # no max_seeds: the three seeds of the grid take most of the two minutes that a default run may
)
