"""Is a small norm what generalizes?  Goldblum et al. 2020, section 3: none, weight decay, norm-bias on the same seeds.

Weight decay draws the parameters to 0, norm-bias to a sphere ||theta||^2 = norm_target that may lie far outside.
Networks of one seed share their data, their initial weights and the order of their batches, so that only the
regularizer differs, and what was tuned for it: with tuning_trials every regularizer, none included, has as many trials
to choose its learning rate, coefficient and target on images that are held out of the seed's own training set.
"""
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.statistics import PairedDifference, t_interval
from experiments.norm import tuning
from experiments.norm.norm_measures import (
    FINAL_COLUMNS,
    describe_scale_invariance,
    final_measures,
    squared_norm,
    warn_unsettled,
)
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results, paired_by_seed, positive
from judging.verdict import Claim, Verdict
from judging.wording import format_points
from models import NetworkConfig
from models.stored_file import StoredFile
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit
from training.regularizers import REGULARIZERS

CLAIM = Claim(
    "Small-norm parameters generalize best, which is why weight decay helps.",
    source="Goldblum et al. 2020, section 3, on a folklore of deep-learning theory",
)
GRID = {
    "regularizer": list(REGULARIZERS),
    "decay_coefficient": [0.005],
    "bias_coefficient": [0.005],
    "norm_target": [550.0],
    "tuning_trials": [3],
    "seed": list(range(6)),
}
COLUMNS = {
    **FINAL_COLUMNS,
    "norm/start": "squared norm at the start",
    "tuned/learning_rate": "tuned learning rate",
    "tuned/coefficient": "tuned coefficient",
    "tuned/norm_target": "tuned target",
    "tuned/accuracy": "accuracy on held-out images",
}
TABLE = (
    "test/accuracy", "train/accuracy", "gap/accuracy", "test/loss", "train/loss", "norm/all", "norm/over_target",
    "norm/least_equivalent", "norm/scale_invariant", "norm/effective_rate", "tuned/learning_rate", "tuned/coefficient",
    "tuned/norm_target",
)  # fmt: skip
STORED_MULTIPLES = (1.4,)  # 550 over the 394 that a relu mlp of 3 x 64 starts with on average
# The first trial has the settings that were given; the others draw them log-uniformly within these factors.
FACTORS = {"learning_rate": 10**0.5, "coefficient": 10.0, "norm_target": 2.0}
SETTING = ("regularizer", "coefficient", "norm_target")
Setting = tuple[str, float, float]  # values of these
SHOWN = 8  # differences in the text of a network


@dataclass(frozen=True)
class Config:
    """decay_coefficient and bias_coefficient give weight_decay and norm_bias each its own coefficient in one grid.

    The config of one regularizer takes its own of the two over as training.coefficient and forgets both; norm_target it
    keeps for norm_bias only. So two settings that train the same network are one config.
    """

    network: NetworkConfig = NetworkConfig(model="mlp", width=64)
    data: DataConfig = DataConfig(train_size=200)
    training: TrainingConfig = TrainingConfig(epochs=100, batch_size=50, learning_rate=0.05, decay_epochs=(70,))
    decay_coefficient: float | None = field(
        default=None, metadata={"help": "coefficient of weight_decay in the gradient: coefficient * theta"}
    )
    bias_coefficient: float | None = field(
        default=None, metadata={"help": "coefficient of norm_bias in the gradient: coefficient * sign * theta"}
    )
    tuning_trials: int = field(
        default=0,
        metadata={"help": "trials of every regularizer, none too, to choose its learning rate, coefficient and target "
                          "on held-out training images; 0: as they are given", "added": True},
    )  # fmt: skip
    seed: int = seed_field()

    def __post_init__(self):
        given = {"decay_coefficient": self.decay_coefficient, "bias_coefficient": self.bias_coefficient}
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return
        for name, value in given.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number >= 0, got {value}")
        training = self.training
        if training.coefficient:
            raise ValueError(
                f"coefficient={training.coefficient} is not known to belong to weight_decay or norm_bias: give "
                "decay_coefficient or bias_coefficient"
            )
        own = {"weight_decay": self.decay_coefficient, "norm_bias": self.bias_coefficient}.get(training.regularizer)
        target = training.norm_target if training.regularizer == "norm_bias" else 0.0
        training = dataclasses.replace(training, coefficient=own or 0.0, norm_target=target)
        for name, value in (("training", training), ("decay_coefficient", None), ("bias_coefficient", None)):
            object.__setattr__(self, name, value)

    def validate(self) -> None:
        if self.tuning_trials < 0:
            raise ValueError(f"tuning_trials must be a number of trials, or 0 for none, got {self.tuning_trials}")


def stored_defaults(file: StoredFile, asked: dict) -> dict[str, list[float]]:
    """Targets for a .keras file: the multiples of its own squared norm that GRID's are of the default mlp's start."""
    norm = file.squared_norm if asked.get("regularize_all", True) not in (False, [False]) else file.kernel_norm
    return {"norm_target": [float(f"{multiple * norm:.4g}") for multiple in STORED_MULTIPLES]}


def label(config: Config) -> str:
    name = setting_name(config.training.regularizer, config.training.coefficient, config.training.norm_target)
    return f"{name}-tuned={config.tuning_trials}" if config.tuning_trials else name


def setting_name(regularizer: str, coefficient: float, target: float) -> str:
    """`none`, `weight_decay-0.0005`, `norm_bias-0.005-target=2500`: a regularizer with its numbers, for config ids."""
    parts = {"none": (), "weight_decay": (f"{coefficient:g}",), "norm_bias": (f"{coefficient:g}", f"target={target:g}")}
    return "-".join((regularizer, *parts[regularizer]))


def check(config: Config, data: Data, run: Run) -> None:
    if config.tuning_trials:
        tuning.check_size(data)


def trials(config: Config) -> list[TrainingConfig]:
    """The TrainingConfigs among which a regularizer's settings are chosen: the given ones, and random ones near them.

    All regularizers of a seed draw the same learning rates.
    """
    rng, training = np.random.default_rng([config.seed, 83]), config.training
    found = [training]
    for _ in range(config.tuning_trials - 1):
        draws = {name: factor ** rng.uniform(-1, 1) for name, factor in FACTORS.items()}
        found.append(
            dataclasses.replace(training, **{name: getattr(training, name) * draw for name, draw in draws.items()})
        )
    return found


def tune(config: Config, data: Data, run: Run) -> tuple[TrainingConfig, dict[str, float]]:
    """(settings, measures): the best of a regularizer's trials, and what was chosen (`tuning.choose`)."""
    if not config.tuning_trials:
        return config.training, {}
    plans = {f"trial-{number}": training for number, training in enumerate(trials(config))}
    return tuning.choose(config, data, run, plans, FACTORS)


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Train once with the config's regularizer, tuned or as given: accuracy, loss and norms at the end, norm before."""
    training, tuned = tune(config, data, run)
    model = build_network(config, data)
    start = squared_norm(model.trainable_variables)
    history = fit(model, data, training, seed=config.seed, run=run)
    result = {**tuned, "norm/start": start, "diverged_epoch": history.diverged_epoch}
    return result if history.diverged_epoch else {**result, **final_measures(model, data, training, history)}


def judge(results: Results) -> Verdict:
    """Differences in test accuracy of norm-bias, weight decay and none, of each network on the same seeds.

    The claim stands or falls with what a small norm gains: weight decay's over both others, at the smallest norm.
    """
    margin = results.margins["margin"]
    test = (
        "One-sided paired t-tests over seeds of differences in test accuracy and in the log10 of the squared norm that "
        "was reached. Supported where a weight decay, at the smallest norm, beats none and every norm-bias of its "
        "network; refuted where a norm-bias beats none and every weight decay at a norm above all of theirs, or where "
        f"no weight decay tried gains {100 * margin:g} points over none."
    )
    notes = warn_unsettled(results.table)
    if not len(results.measured("test/accuracy")):
        return Verdict("undecided", f"Every network diverged.{notes}", test)
    findings = [compare(group, margin, results.confidence) for group in results.groups()]
    return decide(results, findings, test, notes=notes)


def compare(group: Group, margin: float, confidence: float) -> Finding:
    """Every weight decay and norm-bias of a Group against each other and against no regularizer."""
    settings = group.split(*SETTING)
    none, decays, biases = ([key for key in settings if key[0] == name] for name in REGULARIZERS)
    if not (none and decays and biases):
        return Finding(group.label, "none, weight_decay and norm_bias are needed to compare")
    rows = {key: with_log_norm(part) for key, part in settings.items()}
    (plain,) = none

    @cache
    def gain(a, b):
        return paired_by_seed(rows[a], rows[b], "test/accuracy", confidence)

    @cache
    def growth(a, b):
        return paired_by_seed(rows[a], rows[b], "norm/log10", confidence)

    supports = tuple(
        Statement(
            f"{setting_name(*decay)} beats the others at the smallest norm",
            tuple(test for b in (plain, *biases) for test in (above(gain(decay, b)), below(growth(decay, b)))),
        )
        for decay in decays
    )
    refutes = [
        Statement(
            f"{setting_name(*bias)} beats the others at a norm above weight decay's",
            (above(gain(bias, plain)),
             *(test for decay in decays for test in (above(gain(bias, decay)), above(growth(bias, decay))))),
        )
        for bias in biases
    ]  # fmt: skip
    useless = tuple(below(gain(decay, plain), margin) for decay in decays)
    refutes.append(Statement("no weight decay tried gains the margin over none", useless))
    pairs = [(a, plain) for a in (*decays, *biases)] + [(bias, decay) for bias in biases for decay in decays]
    text = describe(settings, pairs, gain) + describe_tuning(group) + describe_scale_invariance(group.rows)
    return Finding(group.label, text, supports, tuple(refutes))


def describe_tuning(group: Group) -> str:
    """What was tuned; that nothing was, where the settings were given: then they may have decided."""
    trials = group.first.get("tuning_trials", 0)
    if not trials:
        return "; the settings were given and not tuned"
    return f"; each regularizer tuned in {trials} trials a seed"


def with_log_norm(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the log10 of their squared norm, as norms are compared by ratios."""
    return rows.assign(**{"norm/log10": np.log10(positive(rows, "norm/all"))})


def describe(
    settings: dict[Setting, pd.DataFrame], pairs: list[tuple[Setting, Setting]],
    gain: Callable[[Setting, Setting], PairedDifference],
) -> str:  # fmt: skip
    """Differences in test accuracy of pairs of settings, and the squared norm that each setting reached."""
    texts = []
    for a, b in pairs[:SHOWN]:
        found = gain(a, b)
        seeds = f" ({found.n} paired seeds)" if found.n else ""
        texts.append(f"{setting_name(*a)} minus {setting_name(*b)} {format_points(found)}{seeds}")
    if len(pairs) > SHOWN:
        texts.append(f"{len(pairs) - SHOWN} more")
    means = {key: t_interval(rows.get("norm/all", [])) for key, rows in settings.items()}
    norms = ", ".join(f"{setting_name(*key)} {found.mean:.3g}" for key, found in means.items() if found.n)
    return f"test accuracy {', '.join(texts)}; squared norms {norms or 'not measured'}"


def figures(results: Results) -> dict[str, Figure]:
    """Test accuracy by regularizer, where any run was measured, and ||theta||^2 over the epochs; a panel a network."""
    groups = results.groups()
    result = {"norm_over_training": plot_norms(groups, results.histories)}
    if len(results.measured("test/accuracy")):
        result = {"accuracy_by_regularizer": plot_accuracies(groups), **result}
    return result


def plot_accuracies(groups: list[Group]) -> Figure:
    """Test accuracy of every network, lines between those of one seed, and each setting's mean with its interval."""
    groups = [group for group in groups if group.rows["test/accuracy"].notna().any()]
    figure, axes = plots.panel_grid(len(groups), width=5, height=3.8)
    for axis, group in zip(axes, groups):
        settings = group.split(*SETTING)
        for seed in sorted(set(group.rows["seed"])):
            values = [rows.loc[rows["seed"] == seed, "test/accuracy"] for rows in settings.values()]
            values = [v.iloc[0] if len(v) else math.nan for v in values]
            axis.plot(range(len(values)), values, "o-", color="0.65", linewidth=0.8, markersize=4)
        for i, (rows, style) in enumerate(zip(settings.values(), plots.styles())):
            mean = t_interval(rows["test/accuracy"])
            plots.interval_line(axis, [i + 0.12], [mean], label=None, **{**style, "linestyle": "none"})
        axis.set_xticks(range(len(settings)), [setting_name(*key).replace("-", "\n") for key in settings])
        axis.set(xlim=(-0.3, len(settings) - 0.5), ylabel="test accuracy")
        axis.set_title(f"{group.label} (grey: one seed; colour: mean, 95 %)")
    return figure


def plot_norms(groups: list[Group], histories: dict[str, pd.DataFrame]) -> Figure:
    """||theta||^2 over the epochs, every seed, with the target as a line."""
    figure, axes = plots.panel_grid(len(groups), width=5, height=3.8)
    for axis, group in zip(axes, groups):
        for (key, rows), style in zip(group.split(*SETTING).items(), plots.styles()):
            name, target = setting_name(*key), key[2]
            for _, row in rows.iterrows():
                history = histories.get(row["config_id"], ())
                if not len(history):
                    continue
                history = history[history["stage"] == "training"]  # and not of the trials
                column = "norm/all" if row["regularize_all"] else "norm/kernels"
                epochs, values = list(history["epoch"]), list(history[column])
                if row["regularize_all"]:  # the norm at the start is that of all parameters
                    epochs, values = [0, *epochs], [row.get("norm/start", math.nan), *values]
                axis.plot(epochs, values, color=style["color"], linestyle=style["linestyle"], alpha=0.7, linewidth=1.2,
                          label=name)  # fmt: skip
                name = None  # one entry in the legend for all seeds
            if target > 0 and not group.first.get("tuning_trials"):
                axis.axhline(target, linestyle=":", color=style["color"], label="its target")
        axis.set(xlabel="epoch", ylabel="$\\|\\theta\\|^2$", yscale="log", title=group.label)
        if axis.lines:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("trial-<number>", "training"),
    apart=(*SETTING, "decay_coefficient", "bias_coefficient"),
    measure=measure,
    judge=judge,
    figures=figures,
    label=label,
    margins={"margin": (0.01, "test accuracy gained by weight decay")},
    check=check,
    stored_defaults=stored_defaults,
)
