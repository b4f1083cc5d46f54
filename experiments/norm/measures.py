"""Do norms, margins, sharpness or ranks tell which networks generalize?  Jiang et al. 2020, Dziugaite et al. 2020.

Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020 (1912.02178) train networks over a grid of hyperparameters, each until
its training loss is the same, and ask of each capacity measure how well it orders them by their generalization gap,
test error minus training error: by Kendall's tau, and by the granulated tau, for which only networks count that differ
in one hyperparameter. Dziugaite et al. 2020 (2010.11924) add that a mean over settings is not enough, and ask for the
worst environment, one change of one hyperparameter. analysis/generalization_measures.py has the measures,
analysis/rank_agreement.py the coefficients.

Each seed trains the whole grid on its own data, from its own weights: a seed has one tau of each measure, and tests are
over seeds. The measure to beat is what is known without any theory, the training loss that each network ended with.
"""
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluation import evaluate, evaluate_splits
from analysis.generalization_measures import MEASURES, check_chain, generalization_measures, kernels_of
from analysis.rank_agreement import (
    Pairs,
    agreement,
    bootstrap_granulated,
    granulated_by_block,
    granulated_tau,
    kendall_tau,
    sign_errors,
    single_changes,
)
from analysis.statistics import Interval, paired_difference, t_interval
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import field_text, field_texts, format_interval
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network, build_network, fit, loss_reached

CLAIM = Claim(
    "Norms, margins, sharpness or ranks, measured on the training set, tell which networks generalize.",
    source="Jiang et al. 2020, Dziugaite et al. 2020; low rank: Pinto et al. 2025",
)
AXES = ("width", "depth", "learning_rate", "batch_size", "coefficient")  # the hyperparameters
GRID = {
    "width": [32, 128],
    "depth": [1, 3],
    "learning_rate": [0.01, 0.03],
    "batch_size": [10, 40],
    "coefficient": [1e-4, 1e-3],
    "seed": [0, 1, 2, 3, 4, 5],
}
# The largest target at which nine of ten margins are above 0 for sure: what an error costs at least, times a tenth.
LARGEST_TARGET = {"cross_entropy": math.log(2) / 10, "squared": 0.025}
NAMES = {name: words for names in MEASURES.values() for name, words in names.items()}
LOSS = "train/loss"  # the measure to beat
PARAMETERS = "parameters"  # (20) of Jiang et al., told beside it
BASELINES = {LOSS: "training loss", PARAMETERS: "number of parameters"}
COLUMNS = {
    **evaluation_columns(),
    "trained/epochs": "epochs",
    "reached": "did the training loss reach its target",
    "gap": "generalization gap: training accuracy minus test accuracy",
    "gap/half_1": "the gap on every second test image",
    "gap/half_2": "the gap on the others",
    PARAMETERS: "parameters",
    **{f"measure/{name}": words for name, words in NAMES.items()},
}
TABLE = ("gap", "train/loss", "test/accuracy", "trained/epochs", "measure/path_norm", "measure/spectral_product_margin",
         "measure/adaptive_flatness", "measure/low_rank_capacity")  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(train_size=200)
    training: TrainingConfig = TrainingConfig(epochs=300, regularizer="weight_decay", coefficient=1e-4)
    target_loss: float = field(
        default=0.02, metadata={"help": "training loss at which training ends; networks that miss it do not count"}
    )
    epsilon: float = field(default=1e-3, metadata={"help": "size of the box of the sharpness"})
    adaptive_radius: float = field(
        default=0.5, metadata={"help": "radius of the adaptive sharpness, in units of the weights"}
    )
    rise: float = field(default=0.1, metadata={"help": "rise of the training loss at which PAC-Bayes' sigma is taken"})
    noise_draws: int = field(default=4, metadata={"help": "directions of noise over which that rise is averaged"})
    seed: int = seed_field()

    def validate(self) -> None:
        largest = LARGEST_TARGET.get(self.training.loss, math.inf)
        if not 0 < self.target_loss <= largest:
            raise ValueError(
                f"target_loss must lie in (0, {largest:.3g}], where nine of ten margins are above 0 for sure, got "
                f"{self.target_loss}"
            )
        for name in ("epsilon", "adaptive_radius", "rise", "noise_draws"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")


def check(config: Config, data: Data, run: Run) -> None:
    ask_network("chain", config, data, run, check_chain)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """One network, trained to the target: its generalization gap, and every measure on its training set."""
    model, loss = build_network(config, data), config.training.loss
    initial = kernels_of(model)
    until = loss_reached(data, loss, config.target_loss)
    history = fit(model, data, config.training, seed=config.seed, run=run, until=until)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    result = {"diverged_epoch": None, **evaluate_splits(model, data, loss), "trained/epochs": len(history.rows)}
    result["reached"] = bool(result["train/loss"] <= config.target_loss)
    if not result["reached"]:
        return result
    for column, x, y in (
        ("gap", data.x_test, data.y_test),
        ("gap/half_1", data.x_test[::2], data.y_test[::2]),
        ("gap/half_2", data.x_test[1::2], data.y_test[1::2]),
    ):
        if len(x):
            result[column] = result["train/accuracy"] - evaluate(model, x, y, loss)[1]
    found = generalization_measures(
        model, data.x_train, data.y_train, initial, loss=loss, epsilon=config.epsilon, radius=config.adaptive_radius,
        rise=config.rise, draws=config.noise_draws, seed=config.seed,
    )  # fmt: skip
    result[PARAMETERS] = model.count_params()
    return result | {f"measure/{name}": value for name, value in found.items()}


# -- the verdict


@dataclass(frozen=True)
class Agreement:
    """How far each measure orders the networks of one Group as their gap does.

    rows: of the networks that count.  settings: the place of each in the grid, [n].  columns: the measures.
    by_seed: granulated tau, [seeds, measures].  by_axis: psi over all seeds, [axes, measures].
    overall: Kendall's tau, [seeds, measures].  errors: sign errors, [environments, measures].
    """

    rows: pd.DataFrame
    settings: np.ndarray
    columns: list[str]
    pairs: Pairs
    agrees: np.ndarray
    by_seed: np.ndarray
    by_axis: np.ndarray
    overall: np.ndarray
    errors: np.ndarray

    def interval(self, column: str, level: float = 0.95) -> Interval:
        """The granulated tau of a measure, a t-interval over seeds."""
        return t_interval(self.values(column), level)

    def values(self, column: str) -> np.ndarray:
        """The granulated tau of a measure, [seeds]."""
        return self.by_seed[:, self.columns.index(column)]

    def worst(self, column: str) -> tuple[float, str]:
        """(sign error of the worst environment, `learning rate 0.01 to 0.03`)."""
        errors = self.errors[:, self.columns.index(column)]
        axis, low, high = self.pairs.environments[int(np.argmax(errors))]
        return float(errors.max()), f"{axis.replace('_', ' ')} {low} to {high}"

    def bootstrap(self, columns: list[str]) -> np.ndarray:
        """95 % intervals of the granulated taus of some measures over networks, [2, measures]."""
        places = [self.columns.index(column) for column in columns]
        return bootstrap_granulated(self.pairs, self.agrees[:, places], self.settings, draws=400)


def agreement_of(group: Group) -> Agreement | None:
    """The Agreement of one Group; None where no two networks that were measured differ in one hyperparameter alone."""
    columns = [*BASELINES, *(f"measure/{name}" for name in NAMES)]
    needed = ["gap", *columns]
    if not set(needed) <= set(group.rows):
        return None
    rows = group.rows.assign(width=group.widths)
    rows = rows[rows[needed].notna().all(axis=1)].sort_values("seed", kind="stable")
    axes = [name for name in AXES if name in rows]
    settings = list(zip(*(field_texts(rows[name].tolist()) for name in axes)))
    seeds = rows["seed"].tolist()
    # A width that is given may be the model's default, too: each setting of a seed once.
    kept = list({key: position for position, key in reversed(list(enumerate(zip(seeds, settings))))}.values())[::-1]
    rows, seeds, settings = rows.iloc[kept], [seeds[i] for i in kept], [settings[i] for i in kept]
    cells = {axis: values for axis, values in zip(axes, zip(*settings)) if len(set(values)) > 1}
    pairs = single_changes(cells, seeds)
    if not len(pairs.axis):
        return None
    places = {setting: i for i, setting in enumerate(dict.fromkeys(settings))}
    settings = np.array([places[setting] for setting in settings])
    values, gap = rows[columns].to_numpy(float), rows["gap"].to_numpy(float)
    agrees = agreement(pairs, values, gap)
    inside = [np.array(seeds) == seed for seed in pairs.blocks]
    overall = [kendall_tau(values[one], gap[one]) for one in inside]
    return Agreement(
        rows, settings, columns, pairs, agrees, granulated_by_block(pairs, agrees), granulated_tau(pairs, agrees)[0],
        np.array(overall), sign_errors(pairs, agrees),
    )  # fmt: skip


def judge(results: Results) -> Verdict:
    """Does the granulated tau of some measure exceed the margin, and that of the training loss?"""
    margin = results.margins["margin"]
    test = (
        "Over seeds, each of which trains the whole grid: t-tests of the granulated Kendall tau of every measure. "
        f"Supported where that of some measure exceeds {margin:g} and, paired by seed, that of the training loss at "
        f"which training ended, in whichever direction; refuted where those of all measures are below {margin:g}, or "
        "below that of the training loss. Networks that did not reach the training loss do not count."
    )
    if not len(results.measured("gap")):
        return Verdict("undecided", "No network was trained to the target.", test)
    return decide(results, [find_group(group, margin, results.confidence) for group in results.groups()], test)


def find_group(group: Group, margin: float, confidence: float) -> Finding:
    """The granulated taus of all measures in one Group, against the margin and the training loss."""
    found = agreement_of(group)
    if found is None:
        return Finding(group.label, "no two networks that reached the training loss differ in one hyperparameter alone")
    loss = found.values(LOSS)
    taus = {name: found.interval(f"measure/{name}", confidence) for name in NAMES}
    ahead = {name: paired_difference(found.values(f"measure/{name}"), loss, confidence) for name in NAMES}
    # The loss may tell by being small: to beat it in either direction is to exceed both its tau and the opposite.
    reversed_ = {name: paired_difference(found.values(f"measure/{name}"), -loss, confidence) for name in NAMES}
    return Finding(
        group.label,
        describe(group, found, taus, confidence),
        supports=tuple(
            Statement(
                f"{NAMES[name]} tells",
                (above(taus[name], margin, single=True), above(ahead[name]), above(reversed_[name])),
            )
            for name in NAMES
        ),
        refutes=(
            Statement("no measure tells", tuple(below(tau, margin, single=True) for tau in taus.values())),
            Statement("no measure tells as much as the training loss", tuple(below(d) for d in ahead.values())),
            Statement("none tells as much as a small training loss", tuple(below(d) for d in reversed_.values())),
        ),
    )


def describe(group: Group, found: Agreement, taus: dict[str, Interval], confidence: float) -> str:
    """All taus in words, and of the largest what else is known of it."""
    baselines = ", ".join(
        f"{words} {format_interval(found.interval(column, confidence), 2)}" for column, words in BASELINES.items()
    )
    families = "; ".join(
        f"{family}: " + ", ".join(f"{NAMES[name]} {format_interval(taus[name], 2)}" for name in names)
        for family, names in MEASURES.items()
    )
    best = max(NAMES, key=lambda name: np.nan_to_num(taus[name].mean, nan=-2))
    column = f"measure/{best}"
    place = found.columns.index(column)
    low, high = found.bootstrap([column])[:, 0]
    error, change = found.worst(column)
    axes = ", ".join(
        f"{axis.replace('_', ' ')} {value:.2g}" for axis, value in zip(found.pairs.axes, found.by_axis[:, place])
    )
    counted = len(found.rows)
    return (
        f"{counted} of {len(group.rows)} networks reached the training loss; granulated tau over {taus[best].n} seeds: "
        f"{baselines}; {families}. Of the largest, {NAMES[best]}: {axes}; bootstrap over networks {low:.2g} to "
        f"{high:.2g}; Kendall's tau over all pairs {np.nanmean(found.overall[:, place]):.2g}; its worst "
        f"environment is {change}, with a sign error of {error:.2g}{describe_noise(found)}"
    )


def describe_noise(found: Agreement) -> str:
    """How well the gap on half of the test images tells that on the others: its noise holds all taus down."""
    halves = ["gap/half_1", "gap/half_2"]
    if not set(halves) <= set(found.rows) or found.rows[halves].isna().any(axis=None):
        return ""
    first, second = (found.rows[name].to_numpy(float) for name in halves)
    tau = granulated_tau(found.pairs, agreement(found.pairs, first[:, None], second))[1][0]
    return f". Half of the test images tell the gap on the others with a granulated tau of {tau:.2g}"


# -- figures


def figures(results: Results) -> dict[str, Figure]:
    """Taus of all measures with intervals, by hyperparameter; gap over the best measure; where training ended."""
    drawn = {"training_loss_reached": draw_stops(results)} if "trained/epochs" in results.table else {}
    found = [(group.label, agreement_of(group)) for group in results.groups()]
    found = [(label, one) for label, one in found if one is not None]
    if found:
        drawn["granulated_tau"] = draw_taus(found, results.margins["margin"])
        drawn["tau_by_hyperparameter"] = draw_table(found)
        drawn["gap_over_best_measure"] = draw_best(found)
    return drawn


def words_of(column: str) -> str:
    """What the column of a measure or a baseline is called in a figure."""
    return BASELINES.get(column) or NAMES[column.removeprefix("measure/")]


def draw_taus(found: list[tuple[str, Agreement]], margin: float) -> Figure:
    """Granulated tau of every measure: t-interval over seeds, bootstrap interval over networks, a panel a group."""
    figure, axes = plots.new(1, len(found), width=6.4, height=6.2, sharey=True)
    families = {"baseline": list(BASELINES), **{f: [f"measure/{n}" for n in names] for f, names in MEASURES.items()}}
    for axis, (label, one) in zip(axes[0], found):
        bootstrap = one.bootstrap(one.columns)
        place, ticks = 0, {}
        for (family, columns), style in zip(families.items(), plots.styles()):
            for i, column in enumerate(columns):
                tau, column_place = one.interval(column), one.columns.index(column)
                low, high = bootstrap[:, column_place]
                axis.plot([low, high], [place, place], color=style["color"], alpha=0.3, linewidth=6,
                          solid_capstyle="butt", label="bootstrap over networks" if not place else None)  # fmt: skip
                spread = [[max(tau.mean - tau.low, 0)], [max(tau.high - tau.mean, 0)]] if tau.n > 1 else None
                axis.errorbar([tau.mean], [place], xerr=spread, capsize=3, markersize=5, linestyle="none",
                              color=style["color"], marker=style["marker"], label=None if i else family)  # fmt: skip
                ticks[place] = words_of(column)
                place += 1
            place += 0.5
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.axvline(margin, color="0.5", linewidth=0.8, linestyle=":", label="smallest that matters")
        axis.set_yticks(list(ticks), list(ticks.values()))
        axis.set(xlabel="granulated Kendall tau", xlim=(-1.02, 1.02))
        axis.set_title(label, loc="left")
    axes[0, 0].invert_yaxis()  # with a shared axis once is enough
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_table(found: list[tuple[str, Agreement]]) -> Figure:
    """psi of every measure by hyperparameter, granulated and overall tau and the worst sign error, as a heat map."""
    figure, axes = plots.new(1, len(found), width=7.6, height=6.6)
    for axis, (label, one) in zip(axes[0], found):
        names = [name.replace("_", " ") for name in one.pairs.axes]
        worst = one.errors.max(axis=0)
        means = [np.nanmean(values, axis=0) for values in (one.by_seed, one.overall)]
        # [measures, axes + 3]; a sign error of 1/2 has the colour of a tau of 0
        taus = np.vstack([one.by_axis, *means, 1 - 2 * worst]).T
        axis.imshow(taus, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        shown = taus.copy()
        shown[:, -1] = worst
        for i, row in enumerate(shown):
            for j, value in enumerate(row):
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8,
                          color="white" if abs(taus[i, j]) > 0.6 else "black")  # fmt: skip
        axis.set_xticks(range(taus.shape[1]), [*names, "granulated", "overall", "worst\nsign error"], rotation=30,
                        ha="right")  # fmt: skip
        axis.set_yticks(range(len(shown)), [words_of(column) for column in one.columns])
        axis.set_title(label, loc="left")
        axis.grid(False)
    return figure


def draw_best(found: list[tuple[str, Agreement]]) -> Figure:
    """The gap over the measure of the largest granulated tau, a point a network, coloured by width and depth."""
    figure, axes = plots.new(1, len(found), width=5.2, height=4.0)
    for axis, (label, one) in zip(axes[0], found):
        means = np.nanmean(one.by_seed, axis=0)[len(BASELINES):]
        column = one.columns[len(BASELINES) + int(np.argmax(means))]
        rows = one.rows
        shapes = rows[["width", "depth"]].map(field_text).agg(tuple, axis=1)
        for (width, depth), style in zip(dict.fromkeys(shapes), plots.styles()):
            part = rows[shapes == (width, depth)]
            axis.plot(part[column], part["gap"], linestyle="none", markersize=4, alpha=0.7, color=style["color"],
                      marker=style["marker"], label=f"depth {depth}, width {width}")  # fmt: skip
        axis.set(xlabel=words_of(column), ylabel="generalization gap")
        axis.set_title(label, loc="left")
        axis.legend(fontsize=8)
    return figure


def draw_stops(results: Results) -> Figure:
    """Epochs and training loss at the end of every network; those above the target do not count."""
    groups = results.measured("trained/epochs", LOSS).groups()
    figure, axes = plots.new(1, max(1, len(groups)), width=5.2, height=3.6)
    for axis, group in zip(axes[0], groups):
        target = group.first["target_loss"]
        for text, inside, style in zip(
            ("counts", "does not count"), (group.rows[LOSS] <= target, group.rows[LOSS] > target), plots.styles()
        ):
            part = group.rows[inside]
            look = {"color": style["color"], "marker": style["marker"], "linestyle": "none", "markersize": 4}
            axis.plot(part["trained/epochs"], part[LOSS], alpha=0.7, label=f"{text} ({len(part)})", **look)
        axis.axhline(target, color="0.5", linewidth=0.8, linestyle=":", label="target")
        axis.set(xlabel="epochs", ylabel="training loss", xscale="log", yscale="log")
        axis.set_title(group.label, loc="left")
        axis.legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=AXES,
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    margins={"margin": (0.2, "the granulated Kendall tau of a measure with the generalization gap")},
)
