"""Is a small norm what generalizes?  Goldblum et al. 2020, section 3: none, weight decay, norm-bias on the same seeds.

Weight decay draws the parameters to 0, norm-bias to a sphere ||theta||^2 = norm_target that may lie far outside.
Networks of one seed share their data, their initial weights and the order of their batches, so that only the
regularizer differs.
"""
import dataclasses
import functools
import math
from dataclasses import dataclass, field

from analysis.statistics import PairedDifference, t_interval
from experiments.norm.norm_measures import FINAL_COLUMNS, MIN_SEEDS, final_measures, squared_norm, warn_unsettled
from harness.experiment import Experiment, seed_field
from judging.results import paired_by_seed
from judging.verdict import Claim, Verdict
from judging.wording import format_points
from models import NetworkConfig
from reporting import figures as plots
from training.data import DataConfig
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
    "norm_target": [300.0, 1000.0],
    "seed": list(range(10)),
}
COLUMNS = {**FINAL_COLUMNS, "norm/start": "squared norm at the start"}
TABLE = (
    "test/accuracy", "train/accuracy", "gap/accuracy", "test/loss", "train/loss", "norm/all", "norm/over_target",
    "norm/scale_invariant",
)  # fmt: skip
STORED_MULTIPLES = (0.75, 2.5)  # 300 and 1000 over the 394 that a relu mlp of 3 x 64 starts with on average
SETTING = ("regularizer", "coefficient", "norm_target")


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

    def validate(self):
        """Nothing is left to refuse: both coefficients were checked when they were taken over."""


def stored_defaults(file, asked) -> dict:
    """Targets for a .keras file: the multiples of its own squared norm that GRID's are of the default mlp's start."""
    norm = file.squared_norm if asked.get("regularize_all", True) not in (False, [False]) else file.kernel_norm
    return {"norm_target": [float(f"{multiple * norm:.4g}") for multiple in STORED_MULTIPLES]}


def label(config: Config) -> str:
    return setting_name(config.training.regularizer, config.training.coefficient, config.training.norm_target)


def setting_name(regularizer: str, coefficient: float, target: float) -> str:
    """`none`, `weight_decay-0.0005`, `norm_bias-0.005-target=2500`: a regularizer with its numbers, for config ids."""
    parts = {"none": (), "weight_decay": (f"{coefficient:g}",), "norm_bias": (f"{coefficient:g}", f"target={target:g}")}
    return "-".join((regularizer, *parts[regularizer]))


def measure(config, data, run):
    """Train once with the config's regularizer: accuracy, loss and norms at the end, and the norm at the start."""
    model = build_network(config, data)
    start = squared_norm(model.trainable_variables)
    history = fit(model, data, config.training, seed=config.seed, run=run)
    result = {"norm/start": start, "diverged_epoch": history.diverged_epoch}
    return result if history.diverged_epoch else {**result, **final_measures(model, data, config.training, history)}


@dataclass(frozen=True)
class Comparison:
    """One norm-bias, one weight decay and no regularizer on the same seeds; differences in test accuracy and norm."""

    network: str
    decay: str
    bias: str
    bias_decay: PairedDifference
    decay_none: PairedDifference
    larger_norm: bool       # of norm-bias against weight decay, measurably
    smaller_norm: bool      # of weight decay against both others, measurably
    final_norms: str

    @property
    def outcome(self):
        """What this comparison alone says.

        Refuted: with a larger norm than weight decay's a network generalizes better, although weight decay does no
        harm (a decay too strong would lose to anything). Supported: the smallest norm, weight decay's, generalizes
        better than both others. Norms are the measured ones, whatever the target was.
        """
        if self.bias_decay.n < MIN_SEEDS:
            return "undecided"
        known = self.decay_none.n + self.decay_none.dropped >= MIN_SEEDS  # without a regularizer some may diverge
        harmless = known and self.decay_none.direction != "less"
        if self.bias_decay.direction == "greater" and self.larger_norm and harmless:
            return "refuted"
        helps = self.decay_none.direction == "greater" and self.decay_none.n >= MIN_SEEDS
        if self.bias_decay.direction == "less" and helps and self.smaller_norm:
            return "supported"
        return "undecided"

    def __str__(self):
        seeds = " and ".join(map(str, dict.fromkeys((self.bias_decay.n, self.decay_none.n))))
        return (
            f"{self.network}: {self.bias} against {self.decay} {format_points(self.bias_decay)}, {self.decay} against "
            f"none {format_points(self.decay_none)} over {seeds} paired seeds (squared norms {self.final_norms})"
        )


def compare(groups) -> tuple[list[Comparison], float]:
    """(comparisons, level): every norm-bias of a group with every weight decay of it, and no regularizer.

    The level holds for all comparisons together (Bonferroni).
    """
    triples = []
    for group in groups:
        settings = group.split(*SETTING)
        of = {name: [key for key in settings if key[0] == name] for name in REGULARIZERS}
        if of["none"]:
            none = settings[of["none"][0]]
            triples += [
                (group, b, d, settings[b], settings[d], none) for b in of["norm_bias"] for d in of["weight_decay"]
            ]
    level = 1 - 0.05 / max(1, len(triples))
    return [
        compare_settings(group.label, setting_name(*b), setting_name(*d), bias, decay, none, level)
        for group, b, d, bias, decay, none in triples
    ], level


def compare_settings(network, bias_name, decay_name, bias, decay, none, level) -> Comparison:
    """The comparison of the rows with norm-bias, with weight decay and with no regularizer."""
    norms = [paired_by_seed(decay, other, "norm/all", level).direction for other in (bias, none)]
    means = [t_interval(rows.get("norm/all", [])).mean for rows in (bias, decay, none)]
    return Comparison(
        network,
        decay_name,
        bias_name,
        paired_by_seed(bias, decay, "test/accuracy", level),
        paired_by_seed(decay, none, "test/accuracy", level),
        larger_norm=norms[0] == "less",
        smaller_norm=norms == ["less", "less"],
        final_norms=", ".join(f"{m:.3g}" for m in means),
    )


def outcomes(comparisons, **values) -> set:
    """The outcomes of the comparisons whose fields have the given values."""
    return {c.outcome for c in comparisons if all(getattr(c, name) == value for name, value in values.items())}


def judge(results):
    """Paired differences in test accuracy of norm-bias, weight decay and none, of each network on the same seeds.

    Refuted where in some network a norm-bias of larger norm beats every weight decay, none of which harms; supported
    where in every network some weight decay, at the smallest norm, beats none and every norm-bias.
    """
    comparisons, level = compare(results.groups())
    test = (
        f"Paired t-intervals ({level:.4g} level, Bonferroni over comparisons) of the difference in test accuracy over "
        f"at least {MIN_SEEDS} seeds. Refuted where norm-bias, at a measurably larger norm, beats every weight decay "
        "of its network and weight decay does not harm; supported where in every network a weight decay, at the "
        "smallest norm, beats none and norm-bias."
    )
    notes = warn_unsettled(results.table)
    if not comparisons:
        return Verdict("undecided", f"No network has all of none, weight_decay and norm_bias.{notes}", test)
    of = functools.partial(outcomes, comparisons)
    refuting = [c for c in comparisons if of(network=c.network, bias=c.bias) == {"refuted"}]
    supporting = [c for c in comparisons if of(network=c.network, decay=c.decay) == {"supported"}]
    if refuting:
        reason = f"Norm-bias generalizes better at a larger norm than weight decay's: {'; '.join(map(str, refuting))}"
        return Verdict("refuted", f"{reason}.{notes}", test)
    more = f"; and {len(comparisons) - 4} more" if len(comparisons) > 4 else ""
    listed = "; ".join(map(str, comparisons[:4])) + more
    if {c.network for c in supporting} == {c.network for c in comparisons}:
        reason = "Of the norms that were tried the smallest, weight decay's, generalizes best"
        return Verdict("supported", f"{reason}: {listed}.{notes}", test)
    few = all(c.bias_decay.n < MIN_SEEDS for c in comparisons)
    reason = f"Fewer than {MIN_SEEDS} paired seeds" if few else "The differences do not tell"
    return Verdict("undecided", f"{reason}: {listed}.{notes}", test)


def figures(results):
    """Test accuracy by regularizer, where any run was measured, and ||theta||^2 over the epochs; a panel a network."""
    groups = results.groups()
    result = {"norm_over_training": plot_norms(groups, results.histories)}
    if len(results.measured("test/accuracy")):
        result = {"accuracy_by_regularizer": plot_accuracies(groups), **result}
    return result


def plot_accuracies(groups):
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


def plot_norms(groups, histories):
    """||theta||^2 over the epochs, every seed, with the target as a line."""
    figure, axes = plots.panel_grid(len(groups), width=5, height=3.8)
    for axis, group in zip(axes, groups):
        for (key, rows), style in zip(group.split(*SETTING).items(), plots.styles()):
            name, target = setting_name(*key), key[2]
            for _, row in rows.iterrows():
                history = histories.get(row["config_id"], ())
                if not len(history):
                    continue
                column = "norm/all" if row["regularize_all"] else "norm/kernels"
                epochs, values = list(history["epoch"]), list(history[column])
                if row["regularize_all"]:  # the norm at the start is that of all parameters
                    epochs, values = [0, *epochs], [row.get("norm/start", math.nan), *values]
                axis.plot(epochs, values, color=style["color"], linestyle=style["linestyle"], alpha=0.7, linewidth=1.2,
                          label=name)  # fmt: skip
                name = None  # one entry in the legend for all seeds
            if target > 0:
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
    stages=("training",),
    apart=(*SETTING, "decay_coefficient", "bias_coefficient"),
    measure=measure,
    judge=judge,
    figures=figures,
    label=label,
    stored_defaults=stored_defaults,
)
