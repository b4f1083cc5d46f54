"""Do local minima get better with depth and width?  Kawaguchi, Huang, Kaelbling 2019, Neural Computation 31(7).

Networks are trained to stationary points of the squared loss: SGD, then L-BFGS, then Newton steps. Beside the
loss stands the theorem's value, 1/2 ||(I - P[J]) vec Y||^2 with its terms by layer: it equals the loss at every differentiable
stationary point and lies below it elsewhere, so that the gap tells which runs have converged. ReLU and
leaky ReLU may stop at a kink, where the theorem says nothing; tanh has none, but its minima may lie at infinity.
"""
import math
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

import models
from analysis.dense_mlp import SMOOTH, DenseMLP
from analysis.evaluation import evaluate
from analysis.parameters import get_parameters, set_parameters
from analysis.projection import project_targets
from analysis.statistics import monotone_trend, t_interval
from experiments.options import leaves
from experiments.teacher import affine_optimum
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "Local minima get better as the network gets deeper and wider.",
    source="Kawaguchi, Huang, Kaelbling 2019",
)
GRID = {"dataset": ["digits", "gaussian"], "depth": [1, 3], "width": [2, 4, 8], "seed": [0, 1, 2]}
MEASURES = {
    "final/loss": "loss",
    "theorem/value": "theorem's value",
    "theorem/relative_gap": "gap / (||Y||^2 / 2n)",
    "final/converged": "converged",
    "final/at_kink": "at a kink",
    "final/gradient_norm": "gradient norm",
    "hessian/smallest": "smallest Hessian eigenvalue",
    "affine/loss": "affine optimum's loss",
    "final/test_accuracy": "test accuracy",
}
CONVERGED = 1e-8  # gap to the theorem's value, relative to 1/2 ||Y||^2
KINK = 1e-5  # a pre-activation this small, relative to its layer's largest, sits at a kink
LARGEST = 8000  # parameters: every Newton step takes all eigenvalues of a dense Hessian, a minute at this size


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", activation="leaky_relu", dtype="float64")
    data: DataConfig = DataConfig(train_size=150)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=20, batch_size=20, learning_rate=0.005)
    lbfgs_iterations: int = field(default=1000, metadata={"help": "L-BFGS iterations after SGD, at most"})
    newton_iterations: int = field(default=6, metadata={"help": "damped Newton steps after L-BFGS, at most"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        for name in ("lbfgs_iterations", "newton_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.training.loss != "squared":
            raise ValueError(f"depth_width has a theorem of the squared loss: loss must be squared, got {self.training.loss!r}")
        if self.training.regularizer != "none" or self.data.augment:
            raise ValueError("depth_width looks for stationary points of the plain training loss: no regularizer, no augment")
        if self.network.dtype != "float64" or self.network.dropout:
            raise ValueError("depth_width needs dtype=float64 and dropout=0: stationary points are checked to 1e-8")


def applies(config):
    """experiment depth_width needs --model=mlp"""
    return config.network.model == "mlp"


def hidden_widths(network):
    """The hidden widths of an mlp's config, as models.mlp takes them."""
    defaults = models.mlp.__kwdefaults__
    return network.widths or (network.width or defaults["width"],) * (network.depth or defaults["depth"])


def check(config, data):
    dense = DenseMLP(data.x_train, data.y_train, hidden_widths(config.network), config.network.activation)
    if dense.parameter_count > LARGEST:
        raise ValueError(
            f"depth_width has a dense Hessian: allowed are {LARGEST} parameters, got {dense.parameter_count}"
        )


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    dense = DenseMLP(data.x_train, data.y_train, hidden_widths(config.network), config.network.activation)
    result = {"diverged_epoch": None, "sgd/loss": dense.value_and_gradient(get_parameters(model))[0]}
    theta, counts = stationary_point(dense, get_parameters(model), config.lbfgs_iterations, config.newton_iterations)
    set_parameters(model, theta)
    loss, gradient = dense.value_and_gradient(theta)
    projection = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), dense.y)
    relative = projection.gap / projection.target
    curvature = np.linalg.eigvalsh(dense.hessian(theta))
    kinks = 0 if config.network.activation in SMOOTH else count_kinks(dense, theta)
    return {
        **result,
        **counts,
        "final/loss": loss,
        "final/gradient_norm": float(np.linalg.norm(gradient)),
        "final/parameter_norm": float(np.linalg.norm(theta)),
        "final/converged": int(relative <= CONVERGED),
        "final/kinks": kinks,
        "final/at_kink": int(kinks > 0 and relative > CONVERGED),
        "final/accuracy": evaluate(model, data.x_train, data.y_train, "squared")[1],
        "final/test_accuracy": evaluate(model, data.x_test, data.y_test, "squared")[1],
        "theorem/value": projection.value,
        "theorem/gap": projection.gap,
        "theorem/relative_gap": relative,
        "theorem/target": projection.target,
        "theorem/rank": int(projection.ranks.sum()),
        "theorem/outputs": dense.y.size,
        "theorem/terms": projection.terms,  # [layers]
        "hessian/smallest": float(curvature[0]),
        "hessian/largest": float(curvature[-1]),
        "affine/loss": affine_optimum(data, "squared").loss,
        "parameters": dense.parameter_count,
    }


def count_kinks(dense, theta):
    """(example, unit) pairs whose pre-activation is 0, where a ReLU has no derivative, to KINK of its layer's largest."""
    return sum(int(np.sum(np.abs(z) <= KINK * np.abs(z).max())) for z in dense.preactivations(theta))


def stationary_point(dense, theta, lbfgs_iterations, newton_iterations):
    """(theta, iteration counts): from theta downhill to a stationary point, as far as the iterations take it."""
    counts = {"lbfgs/iterations": 0, "newton/iterations": 0}
    if lbfgs_iterations:
        options = {"maxiter": lbfgs_iterations, "maxfun": 2 * lbfgs_iterations, "maxcor": 30, "ftol": 0, "gtol": 1e-12}
        found = minimize(dense.value_and_gradient, theta, jac=True, method="L-BFGS-B", options=options)
        theta, counts["lbfgs/iterations"] = found.x, found.nit
    theta, counts["newton/iterations"] = newton(dense, theta, newton_iterations)
    return theta, counts


def newton(dense, theta, iterations, tolerance=1e-13):
    """(theta, steps): damped Newton steps on the absolute Hessian, sum_i -u_i (u_i . g) / (|lambda_i| + damping).

    In the eigenbasis negative curvature is descended too, and a singular Hessian (dead pixels) takes no special care. Ends
    when the decrease that is still expected, 1/2 sum (u_i . g)^2 / |lambda_i|, is below `tolerance` or no step is lower.
    """
    value, gradient = dense.value_and_gradient(theta)
    damping, steps = None, 0
    for _ in range(iterations):
        eigenvalues, vectors = np.linalg.eigh(dense.hessian(theta))
        sizes = np.abs(eigenvalues) + 1e-14 * np.abs(eigenvalues).max()
        components = vectors.T @ gradient
        if 0.5 * np.sum(components**2 / sizes) < tolerance:
            break
        damping = 1e-3 * sizes.max() if damping is None else damping
        for _ in range(30):
            move = -components / (sizes + damping)
            expected = -(components @ move + 0.5 * eigenvalues @ move**2)
            lower, slope = dense.value_and_gradient(theta + vectors @ move)
            if value - lower > 1e-4 * abs(expected):
                break
            damping *= 4
        else:
            break  # nothing lower: rounding, or a kink
        ratio = (value - lower) / expected if expected > 0 else 1.0
        theta, value, gradient, steps = theta + vectors @ move, lower, slope, steps + 1
        damping *= 0.1 if ratio > 0.75 else 1.0 if ratio > 0.25 else 4.0
    return theta, steps


def panels(table):
    """[(name, rows)]: all that two networks must share to be compared, which is every field but width, depth and seed."""
    fields = [c for c in leaves(Config) if c in table and c not in ("width", "depth", "seed")]
    fields = [c for c in fields if table[c].map(str).nunique() > 1] or ["dataset"]
    return [(", ".join(map(str, key)), rows) for key, rows in table.groupby(fields, sort=False, dropna=False)]


def axis_trends(rows, axis, level=0.95):
    """{other level: Trend of the loss along `axis`}: width at each depth, or depth at each width."""
    other = {"width": "depth", "depth": "width"}[axis]
    rows = rows.dropna(subset=[axis, other, "final/loss"])
    found = {
        value: monotone_trend(group[axis], group["final/loss"], group["seed"], level)
        for value, group in rows.groupby(other)
    }
    return {value: trend for value, trend in found.items() if trend.slope.n}


def judge(results):
    test = (
        "Over seeds: slope of the training loss against log2(width) at each depth, and against log2(depth) at each width "
        "(95 % t-interval) and Page's trend test. Supported where every one of them decreases; refuted where any increases "
        "(Bonferroni over all of them); undecided otherwise."
    )
    table = results.table
    if "final/loss" not in table:
        return Verdict("undecided", "Every network diverged.", test)
    table = table[table["final/loss"].notna()]
    names = [(name, rows) for name, rows in panels(table)]
    found = {(n, axis): axis_trends(rows, axis) for n, rows in names for axis in ("width", "depth")}
    count = sum(map(len, found.values()))
    level = 1 - 0.05 / max(1, count)
    strict = {(n, axis): axis_trends(rows, axis, level) for n, rows in names for axis in ("width", "depth")}
    rising = any(t.direction == "increasing" for trends in strict.values() for t in trends.values())
    falling = all(trends and all(t.direction == "decreasing" for t in trends.values()) for trends in found.values())
    verdict = "refuted" if rising else "supported" if falling else "undecided"
    parts = [f"{n}: {said(found[n, 'width'], 'width', 'depth')}, {said(found[n, 'depth'], 'depth', 'width')}" for n, _ in names]
    converged = table["final/converged"] == 1
    kinks = int(table["final/at_kink"].sum())
    gap = f" (largest relative gap {table['theorem/relative_gap'][converged].max():.1g})" if converged.any() else ""
    reason = (
        f"Mean training loss; {'; '.join(parts)}. {int(converged.sum())} of {len(table)} runs converged to the theorem's "
        f"value{gap}, {kinks} stopped at a kink, {int((~converged).sum()) - kinks} did not converge."
    )
    return Verdict(verdict, reason, test)


def said(trends, axis, other):
    """`falls with width at 2 of 3 depths (slopes -0.1, -0.2, 0.01 per doubling)`."""
    if not trends:
        return f"no trend with {axis} (two levels or more are needed)"
    falls = sum(t.direction == "decreasing" for t in trends.values())
    rises = sum(t.direction == "increasing" for t in trends.values())
    slopes = ", ".join(
        f"{int(value)}: {t.slope.mean:.2g} [{t.slope.low:.2g}, {t.slope.high:.2g}]" for value, t in trends.items()
    )
    also = f" and rises at {rises}" if rises else ""
    return f"falls with {axis} at {falls} of {len(trends)} {other}s{also} (slope per doubling at {other} {slopes})"


def figures(results):
    if "final/loss" not in results.table:
        return {}
    table = results.table[results.table["final/loss"].notna()]
    return {
        "loss_over_width_and_depth": losses(table),
        "gap_to_the_theorem": gaps(table),
        "terms_by_layer": terms(table, results.arrays),
    }


def losses(table):
    """Mean loss against width, a line per depth; crosses are the theorem's value, below it where runs have not converged."""
    found = panels(table.assign(depth=[d if d == d else len(w) for d, w in zip(table["depth"].astype(float), table["widths"])]))
    figure, axes = plots.new(1, len(found), width=5, height=3.8)
    for axis, (name, rows) in zip(axes.flat, found):
        ticks = sorted(rows["width"].dropna().unique())
        for (depth, group), style in zip(rows.dropna(subset="width").groupby("depth"), plots.styles()):
            by = group.groupby("width")
            levels = list(by.groups)
            intervals = [t_interval(by.get_group(w)["final/loss"]) for w in levels]
            plots.interval_line(axis, levels, intervals, label=f"depth {int(depth)}", **style)
            axis.plot(levels, [by.get_group(w)["theorem/value"].mean() for w in levels], "x", color=style["color"])
        axis.plot([], [], "x", color="black", label="theorem's value")
        axis.axhline(rows["affine/loss"].mean(), linestyle=":", color="black", label="affine optimum")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{w:g}" for w in ticks], minor=False)
        axis.set(xlabel="width", ylabel="training loss", title=name)
    axes.flat[0].legend()
    return figure


def gaps(table):
    """Relative gap against gradient norm, one point a run; rounding keeps both off 0 on the logarithmic axes."""
    figure, axes = plots.new(width=5.4, height=3.8)
    axis = axes[0, 0]
    for (name, rows), style in zip(panels(table), plots.styles()):
        for kink, marker in ((0, style["marker"]), (1, "x")):
            chosen = rows[rows["final/at_kink"] == kink]
            if len(chosen):
                x, y = chosen["final/gradient_norm"].clip(lower=1e-17), chosen["theorem/relative_gap"].clip(lower=1e-20)
                label = name + (", at a kink" if kink else "")
                axis.plot(x, y, marker, color=style["color"], markersize=5, alpha=0.7, label=label)
    axis.axhline(CONVERGED, linestyle="--", color="black", label="converged below")
    axis.set(xscale="log", yscale="log", xlabel="gradient norm", ylabel="gap / $\\frac{1}{2n}\\|Y\\|^2$")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def terms(table, arrays):
    """The share of 1/2 ||Y||^2 that each layer's block of the Jacobian takes off, mean over seeds, and what is left."""
    found = panels(table)
    figure, axes = plots.new(len(found), 1, width=8, height=3)
    for axis, (name, rows) in zip(axes.flat, found):
        groups = list(rows.groupby([rows["depth"].map(str), rows["width"].map(str), rows["widths"].map(str)], sort=False))
        deepest = max(len(arrays[i]["theorem/terms"]) for i in rows["config_id"])
        shares = np.zeros((len(groups), deepest))
        for i, (_, group) in enumerate(groups):
            values = [arrays[r["config_id"]]["theorem/terms"] / r["theorem/target"] for _, r in group.iterrows()]
            shares[i, : len(values[0])] = np.mean(values, axis=0)
        bottom = np.zeros(len(groups))
        for l, colour in zip(range(deepest), (s["color"] for s in plots.styles())):
            axis.bar(range(len(groups)), shares[:, l], bottom=bottom, color=colour, edgecolor="white",
                     hatch=["", "//", "..", "xx"][l % 4], label=f"layer {l + 1}")  # fmt: skip
            bottom += shares[:, l]
        axis.bar(range(len(groups)), 1 - bottom, bottom=bottom, color="0.85", edgecolor="white", label="left: the loss")
        labels = ["-".join(map(str, models_widths(group.iloc[0]))) for _, group in groups]
        axis.set_xticks(range(len(groups)), labels, rotation=30, ha="right")
        low = max(0.0, math.floor(10 * shares[:, 0].min() - 1) / 10)
        axis.set(ylabel="share of $\\|Y\\|^2$", xlabel="hidden widths", title=name, ylim=(low, 1))
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def models_widths(row):
    """Hidden widths of a row's network."""
    count = lambda value: None if value is None or value != value else int(value)  # noqa: E731
    return hidden_widths(NetworkConfig(width=count(row["width"]), depth=count(row["depth"]), widths=row["widths"]))
