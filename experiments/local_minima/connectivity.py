"""Are the minima that SGD finds connected, by a curve, and up to the order of hidden units by a straight line?

Draxler et al. 2018 (1803.00885) and Garipov et al. 2018 (1802.10026): by a curve along which the loss stays low. After
Entezari et al. 2022 (2110.06296, conjecture 1) and Ainsworth et al. 2023 (2209.04836): if networks are wide enough,
even by the straight line, once the hidden units of one are put into the order of the other's. Two networks are trained
from independent starts, on the same images in independent orders; measured are the barriers (analysis/paths.py) of the
straight line, of the line after weight matching (analysis/permutations.py), and of a trained quadratic Bezier curve.
Beside them, of the straight line from a certified suboptimal minimum (analysis/affine_minimum.py) to a trained network,
whose loss cannot lie below the certificate's floor as long as it is in the certified ball.
"""
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import models
from analysis.affine_minimum import Certificate, certify, embed
from analysis.evaluation import evaluate_splits, predict
from analysis.parameters import get_parameters
from analysis.paths import barrier, bezier, constant_predictor_loss, line, measure_along
from analysis.permutations import find_symmetries, match_weights
from analysis.statistics import Trend, monotone_trend, t_interval
from experiments.local_minima.affine_start import affine_optimum, check_embeddable
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.trends import format_trend
from judging.verdict import Claim, Verdict
from judging.wording import format_interval
from models import NetworkConfig
from models.redraw import redraw
from reporting import figures as plots
from reporting.run_folder import Run
from training.curves import BezierCurve
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network, build_network, fit

CLAIM = Claim(
    "Minima found by SGD are connected by a trained curve of low loss, and after matching of hidden units by a line.",
    source="Draxler et al. 2018, Garipov et al. 2018; Entezari et al. 2022, Ainsworth et al. 2023",
)
GRID = {"width": [32, 128, 512], "seed": [0, 1, 2]}
FITTED = 0.99  # training accuracy from which on a network counts as at a minimum
LOWEST, HIGHEST = 1e-6, 1e6  # barriers count as at least this in slopes, and at most this anywhere
# The squared loss has larger gradients: a smaller step, and more of them.
SQUARED_RATE, SQUARED_EPOCHS = 0.2, 2
ROUNDING = 1e-9  # of a loss in float64 at an embedded minimum, whose units are far from 0
INSIDE = 8  # points of the line from the certified minimum that lie in the certified ball
PATHS = {"line": "straight line", "matched": "line after matching", "curve": "trained curve"}
BARRIERS = {  # losses in units of the best constant predictor's on the training set
    "barrier": "barrier",
    "at": "where it is highest",
    "test_barrier": "barrier, test set",
    "error_barrier": "rise of training error",
    "test_error_barrier": "rise of test error",
}
COLUMNS = {
    **{
        f"{path}/{name}": f"{text}: {what}"
        for path, text in PATHS.items()
        for name, what in BARRIERS.items()
    },
    "line/distance": "distance of the two networks / root mean square of their norms",
    "matched/distance": "distance / norm after matching",
    "matched/moved": "share of the hidden units that matching moves",
    "matched/sweeps": "sweeps of matching over all layers",
    "matched/function_error": "largest change of a logit by the permutation / largest logit",
    **evaluation_columns("first", "first network"),
    **evaluation_columns("second", "second network"),
    "certified/barrier": "line from a certified minimum: barrier",
    "certified/bound": "what the certificate says that barrier is at least",
    "certified/floor": "no network in the certified ball has a lower loss",
    "certified/end_loss": "loss of the trained network at the other end",
    "certified/lowest_inside": "its lowest loss in the certified ball - floor",
    "certified/reach": "the ball's radius / length of the line",
}  # fmt: skip
TABLE = (
    "line/barrier", "matched/barrier", "curve/barrier", "matched/error_barrier", "curve/error_barrier",
    "matched/distance", "first/train/accuracy", "second/train/accuracy", "certified/barrier", "certified/lowest_inside",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=3)
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=0.05, batch_size=128)
    match: bool = field(
        default=True, metadata={"help": "measure the straight line after matching; if not, only the curve is judged"}
    )
    curve_epochs: int = field(default=30, metadata={"help": "epochs in which the curve is trained"})
    points: int = field(default=25, metadata={"help": "points of a path at which the loss is measured, with both ends"})
    certified_width: int = field(
        default=32,
        metadata={"help": "widest ReLU mlp of which the line from a certified minimum is measured; 0: none"},
    )
    seed: int = seed_field("weights and order of both trainings, data subset")

    def validate(self) -> None:
        if self.curve_epochs < 1:
            raise ValueError(f"curve_epochs must be at least 1, got {self.curve_epochs}")
        if self.certified_width < 0:
            raise ValueError(f"certified_width must be a width, or 0 for none, got {self.certified_width}")
        if self.points < 3:
            raise ValueError(f"a path needs its ends and a point between them: points must be >= 3, got {self.points}")
        if self.training.strategy != "single":
            raise ValueError(f"a curve is trained on one device: strategy must be single, got {self.training.strategy}")
        if self.training.regularizer == "norm_bias":
            raise ValueError("a curve has no norm of its own to aim at: regularizer must be none or weight_decay")

    @property
    def partner(self) -> int:
        """The second network's seed."""
        return int(np.random.SeedSequence([self.seed, 89]).generate_state(1)[0])


def check(config: Config, data: Data, run: Run) -> None:
    if not config.match:
        return
    try:
        ask_network("symmetries", config, data, run, lambda model: find_symmetries(model).sizes)
    except ValueError as error:
        raise ValueError(f"{error}; --match=false judges the curve alone") from error


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Barriers between two trained networks on three paths, and on the line from a certified minimum."""
    model = build_network(config, data)
    starts = {
        "first": (config.seed, model.get_weights()),
        "second": (config.partner, second_start(config, data, model)),
    }
    result, weights, vectors = {"diverged_epoch": None}, [], []
    for stage, (seed, start) in starts.items():
        model.set_weights(start)
        history = fit(model, data, config.training, seed=seed, run=run, stage=stage)
        if history.diverged_epoch:
            return {"diverged_epoch": history.diverged_epoch}
        result |= evaluate_splits(model, data, config.training.loss, stage)
        weights.append(model.get_weights())
        vectors.append(get_parameters(model))
    first, second = vectors
    result |= {"line/distance": distance(first, second), **summarize("line", config, data, model, line(first, second))}
    if config.match:
        result |= match(config, data, model, weights, first)
    if config.network.model == "mlp" and width_of(config.network) <= config.certified_width:
        result |= from_certified(config, data, run, starts["first"][1])
    training, decay = config.training, config.training.coefficient
    curve = BezierCurve(
        model, first, second, seed=config.seed, weight_decay=decay, kernels_only=not training.regularize_all
    )
    training = dataclasses.replace(training, epochs=config.curve_epochs, regularizer="none", coefficient=0.0)
    history = fit(curve, data, training, seed=config.seed, run=run, stage="curve")
    if history.diverged_epoch:
        return {**result, "diverged_epoch": history.diverged_epoch}
    path = bezier(first, curve.control_point, second)
    return {**result, **summarize("curve", config, data, model, path)}


def width_of(network: NetworkConfig) -> int:
    """The units of an mlp's widest hidden layer."""
    return max(network.widths or (network.width or models.default_width(network.model),))


def second_start(config: Config, data: Data, model: keras.Model) -> list[np.ndarray]:
    """The second network's weights before training: of its own seed, also where a stored file has the first one's."""
    if config.network.model.endswith(".keras"):
        return redraw(model, config.partner)
    return models.build(config.network, data.input_shape, data.num_classes, seed=config.partner).get_weights()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of vectors [p], in units of the root mean square of their norms: sqrt(2) for orthogonal ones."""
    return float(np.linalg.norm(a - b) / np.sqrt((a @ a + b @ b) / 2))


def summarize(name: str, config: Config, data: Data, model: keras.Model, path: Callable) -> dict[str, object]:
    """Barriers of one path and the losses along it; the model ends at the path's end."""
    times, loss = np.linspace(0, 1, config.points), config.training.loss
    sets = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    found = measure_along(model, path, times, sets, loss, statistics_of=data.x_train)
    scale = constant_predictor_loss(data.y_train, loss)
    highest = barrier(times, found["train"][0])
    return {
        f"{name}/barrier": min(highest.height / scale, HIGHEST),
        f"{name}/at": highest.at,
        f"{name}/test_barrier": min(barrier(times, found["test"][0]).height / scale, HIGHEST),
        f"{name}/error_barrier": barrier(times, found["train"][1]).height,
        f"{name}/test_error_barrier": barrier(times, found["test"][1]).height,
        **{f"path/{name}/{split}_{what}": values
           for split, pair in found.items() for what, values in zip(("losses", "errors"), pair)},
    }  # fmt: skip


def match(
    config: Config, data: Data, model: keras.Model, weights: list[list[np.ndarray]], first: np.ndarray
) -> dict[str, object]:
    """The second network, its hidden units in the order of the first one's, and the straight line to it.

    weights: of both networks, as get_weights has them.  first: parameters [p] of the first one.
    """
    found = match_weights(*weights, find_symmetries(model), seed=config.seed)
    logits = []
    for values in (weights[1], found.weights):
        model.set_weights(values)
        logits.append(predict(model, data.x_test))
    permuted = get_parameters(model)
    return {
        "matched/distance": distance(first, permuted),
        "matched/moved": found.moved,
        "matched/sweeps": len(found.similarity) - 1,
        "matched/function_error": float(np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max()),
        **summarize("matched", config, data, model, line(first, permuted)),
    }


def from_certified(config: Config, data: Data, run: Run, start: list[np.ndarray]) -> dict[str, object]:
    """The straight line from a certified minimum of the squared loss to a network that was trained on it.

    {} where the network cannot equal an affine map, nothing is certified, or the training diverged.
    start: the weights from which it is trained, as get_weights has them.
    """
    config = with_squared_loss(config)
    try:
        check_embeddable(config, data, run)
    except ValueError:  # no ReLU mlp, or too narrow
        return {}
    model = build_network(config, data)
    affine = affine_optimum(config, data, run)
    embed(affine, model, data.x_train)
    certificate = certify(model, affine, data.x_train, data.y_train, loss="squared")
    minimum = get_parameters(model)
    if not certificate.radius > 0:
        return {}
    model.set_weights(start)
    if fit(model, data, config.training, seed=config.seed, run=run, stage="squared").diverged_epoch:
        return {}
    return summarize_certified(config, data, model, certificate, line(minimum, get_parameters(model)))


def with_squared_loss(config: Config) -> Config:
    """The config of training on the squared loss in float64, as a certified ball may be too small for float32 steps."""
    rate, epochs = SQUARED_RATE * config.training.learning_rate, SQUARED_EPOCHS * config.training.epochs
    return dataclasses.replace(
        config,
        network=dataclasses.replace(config.network, dtype="float64"),
        training=dataclasses.replace(config.training, loss="squared", learning_rate=rate, epochs=epochs),
    )


def summarize_certified(
    config: Config, data: Data, model: keras.Model, certificate: Certificate, path: Callable
) -> dict[str, object]:
    """Barrier of a path that begins at a certified minimum, its losses, and whether they keep to the certificate."""
    x, y, minimum = data.x_train, data.y_train, path(0.0)
    reach = certificate.radius / np.linalg.norm(path(1.0) - minimum)
    times = np.unique([*(reach * np.linspace(0, 1, INSIDE)), *np.linspace(0, 1, config.points)])
    losses = measure_along(model, path, times, {"train": (x, y)}, "squared")["train"][0]
    scale = constant_predictor_loss(y, "squared")
    # Where the line leaves the ball its loss is still at least the floor, and the interpolation already lower.
    interpolated = (1 - reach) * losses[0] + reach * losses[-1]
    return {
        "certified/barrier": min(barrier(times, losses).height / scale, HIGHEST),
        "certified/bound": max(0.0, certificate.loss_floor - interpolated) / scale,
        "certified/floor": certificate.loss_floor,
        "certified/end_loss": float(losses[-1]),
        "certified/lowest_inside": float(losses[times <= reach].min() - certificate.loss_floor),
        "certified/reach": float(reach),
        "path/certified/times": times,
        "path/certified/losses": losses,
    }


def judge(results: Results) -> Verdict:
    """Are the barriers of curve and matched line below the level at the largest width of every group?"""
    level, factor = results.margins["margin_level"], results.margins["margin_factor"]
    test = (
        "Over seeds, each a pair of independent trainings: t-tests of the barrier (training loss above the "
        "interpolation of the ends') at the largest width, as a share of a constant predictor's loss, against "
        f"{level:g}. Supported where the trained curve's lies below, and that of the straight line after weight "
        "matching; refuted where the curve's lies above, or the line's does and falls with width by less than a factor "
        f"of {factor:g} a doubling. Networks with a training accuracy below {FITTED:g} are at no minimum and decide "
        "nothing."
    )
    results = results.measured("curve/barrier")
    if not len(results):
        return Verdict("undecided", "Every network or curve diverged.", test)
    findings = [finding for group in results.groups() for finding in find_group(group, results)]
    return decide(results, findings, test, notes=describe_certified(results.table))


def find_group(group: Group, results: Results) -> Iterator[Finding]:
    """Findings of one Group: of the trained curve, and of the line after matching where that was measured."""
    level, factor = results.margins["margin_level"], results.margins["margin_factor"]
    widths = group.by_width or {None: group.rows.drop_duplicates("seed")}
    largest = max(widths, key=lambda width: width or 0)
    rows, where = widths[largest], f" at width {largest}" if largest else ""
    kinds = {"curve": "curve"}
    if "matched/barrier" in rows and rows["matched/barrier"].notna().any():
        kinds["matched"] = "line after matching"
    for kind, name in kinds.items():
        label = f"{group.label}, {name}" if group.label else name
        found = t_interval(rows[f"{kind}/barrier"], results.confidence)
        before = t_interval(rows["line/barrier"], results.confidence)
        trend = fitted_trend(widths, f"{kind}/barrier", results.confidence)
        text = (
            f"barrier {format_interval(found)}{where} over {found.n} seeds, "
            f"{100 * rows[f'{kind}/error_barrier'].mean():.2g} points of training error"
            + (f"; before matching {format_interval(before)}" if kind == "matched" else "")
            + (f"; with width {format_trend(trend, power_law=True)}" if len(widths) > 1 else "")
        )
        low = fitted(rows)
        if not low.all():
            text += f"; not judged, as {(~low).sum()} of {len(rows)} pairs have a training accuracy below {FITTED:g}"
            yield Finding(label, text)
            continue
        tests = (above(found, level, single=True),)
        if kind == "matched":
            tests = (*tests, above(trend.slope, -np.log2(factor)))
        yield Finding(
            label,
            text,
            supports=(Statement(f"barrier below {level:g}", (below(found, level, single=True),)),),
            refutes=(Statement(f"barrier above {level:g}" + (", not falling" if kind == "matched" else ""), tests),),
        )


def fitted(rows: pd.DataFrame) -> np.ndarray:
    """Which pairs are at minima, [pairs]: both networks fit the training set."""
    first, second = (rows[f"{name}/train/accuracy"].to_numpy(float) for name in ("first", "second"))
    return np.fmin(first, second) >= FITTED


def fitted_trend(widths: dict[int | None, pd.DataFrame], column: str, level: float) -> Trend:
    """statistics.Trend of a barrier's log2 with width, over the widths whose pairs are all at minima."""
    tables = {width: rows for width, rows in widths.items() if width and fitted(rows).all()}
    levels = [width for width, rows in tables.items() for _ in range(len(rows))]
    values = [value for rows in tables.values() for value in rows[column].tolist()]
    seeds = [seed for rows in tables.values() for seed in rows["seed"].tolist()]
    return monotone_trend(levels, np.log2(np.maximum(values, LOWEST)), seeds, level)


def describe_certified(table: pd.DataFrame) -> str:
    """What the lines from certified minima say, as a sentence; '' where there are none."""
    columns = [f"certified/{name}" for name in ("barrier", "bound", "lowest_inside", "floor", "end_loss")]
    if not set(columns) <= set(table):
        return ""
    rows = table.dropna(subset=columns)
    rows = rows[rows["certified/end_loss"] < rows["certified/floor"]]
    if not len(rows):
        return ""
    inside, barriers, bounds = rows["certified/lowest_inside"], rows["certified/barrier"], rows["certified/bound"]
    kept = (inside >= -ROUNDING) & (barriers >= bounds - ROUNDING)
    return (
        f" On {kept.sum()} of {len(rows)} straight lines from a certified minimum to a network of a loss below its "
        "floor the loss keeps to the certificate: not below the floor within the ball; "
        f"their barriers are {barriers.min():.0f} to {barriers.max():.0f} "
        "times a constant predictor's loss."
    )


def figures(results: Results) -> dict[str, Figure]:
    """The loss along the paths of every width, the barriers against width, and the line from a certified minimum."""
    results = results.measured("curve/barrier")
    if not len(results):
        return {}
    groups = results.groups()
    found = {"loss_along_paths": draw_paths(results, groups), "barrier_against_width": draw_barriers(results, groups)}
    certified = results.measured("certified/barrier")
    if len(certified):
        found["line_from_certified_minimum"] = draw_certified(certified)
    return found


def draw_paths(results: Results, groups: list[Group]) -> Figure:
    """Training loss along the three paths, a panel for each width and a line a seed."""
    panels = [
        (f"{group.label}, width {width}" if width else group.label, rows)
        for group in groups
        for width, rows in (group.by_width or {None: group.rows}).items()
    ]
    figure, axes = plots.panel_grid(len(panels), columns=3, width=3.8, height=3.0)
    for axis, (title, rows) in zip(axes, panels):
        for (path, text), style in zip(PATHS.items(), plots.styles()):
            for i, identity in enumerate(rows["config_id"]):
                losses = results.arrays[identity].get(f"path/{path}/train_losses")
                if losses is not None:
                    times = np.linspace(0, 1, len(losses))
                    look = {**style, "markersize": 3, "markevery": (0.1, 0.25), "linewidth": 1.1, "alpha": 0.8}
                    axis.plot(times, np.maximum(losses, 1e-12), label=None if i else text, **look)
        axis.set(yscale="log", xlabel="place on the path, t", ylabel="training loss")
        axis.set_title(title, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3 if len(panels) > 1 else 1)
    return figure


def draw_barriers(results: Results, groups: list[Group]) -> Figure:
    """The three barriers against width, with the level below which networks count as connected."""
    figure, axes = plots.panel_grid(len(groups), columns=3, width=5.0, height=3.6)
    for axis, group in zip(axes, groups):
        lines = [
            dataclasses.replace(group, label=text, rows=group.rows.assign(height=group.rows[column].clip(lower=LOWEST)))
            for column, text in ((f"{path}/barrier", text) for path, text in PATHS.items())
            if column in group.rows
        ]
        plots.against_width(axis, lines, "height", "barrier / constant predictor's loss", log=True)
        level = results.margins["margin_level"]
        axis.axhline(level, color="0.4", linestyle=":", label=f"level {level:g}")
        axis.set_title(group.label, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4 if len(groups) > 1 else 2)
    return figure


def draw_certified(results: Results) -> Figure:
    """Loss above the floor along the lines from certified minima: from the ball's edge on it may fall below."""
    figure, axes = plots.new(1, 1, width=5.6, height=3.8)
    axis = axes[0, 0]
    groups = results.groups(())
    for group, style in zip(groups, plots.styles()):
        for i, (_, row) in enumerate(group.rows.iterrows()):
            arrays = results.arrays[row["config_id"]]
            times, losses = arrays["path/certified/times"][1:], arrays["path/certified/losses"][1:]
            rise = np.where(losses > row["certified/floor"], losses - row["certified/floor"], np.nan)
            look = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.1, "alpha": 0.8}
            axis.plot(times / row["certified/reach"], rise, label=None if i else group.label, **look)
    axis.axvline(1, color="0.4", linestyle=":", label="edge of the certified ball")
    axis.set(xlabel="distance from the minimum / certified radius", ylabel="training loss - certified floor")
    axis.set(xscale="log", yscale="log")
    axis.legend()
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("first", "second", "squared", "curve"),
    apart=("width",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    margins={
        "margin_level": (0.02, "the barrier, as a share of a constant predictor's loss"),
        "margin_factor": (1.1, "the barrier after matching over that at twice the width"),
    },
    max_seeds=6,
)
