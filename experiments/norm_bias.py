"""Is a small norm what generalises?  Goldblum et al. 2020, section 3: none, weight decay and norm-bias on the same seeds.

Weight decay draws the parameters to 0, norm-bias to a sphere ||theta||^2 = norm_target that may lie far outside. Networks of
one seed share their data, their initial weights and the order of their batches, so that only the regularizer differs.
"""
import dataclasses
import math
from dataclasses import dataclass, field

import models
from analysis.statistics import PairedDifference, t_interval
from experiments import norms
from experiments.norms import ENOUGH, by_seed, points
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope
from training.regularizers import REGULARIZERS

CLAIM = Claim(
    "Small-norm parameters generalise best, which is why weight decay helps.",
    source="Goldblum et al. 2020, section 3, on a folklore of deep-learning theory",
)
GRID = {
    "regularizer": list(REGULARIZERS),
    "decay_coefficient": [0.005],
    "bias_coefficient": [0.005],
    "norm_target": [300.0, 1000.0],
    "seed": list(range(10)),
}
MEASURES = {
    "test/accuracy": "test accuracy",
    "train/accuracy": "training accuracy",
    "gap/accuracy": "gap",
    "test/loss": "test loss",
    "train/loss": "training loss",
    "norm/all": "squared norm",
    "norm/over_target": "squared norm / target",
    "norm/scale_invariant": "of scale-invariant weights",
}
SETTING = ("regularizer", "coefficient", "norm_target")


@dataclass(frozen=True)
class Config:
    """decay_coefficient and bias_coefficient are how a grid over regularizers gives each its own coefficient.

    A config keeps the one that its regularizer has, as training.coefficient, and no target that its regularizer lacks:
    what does not change a network makes no other config of it.
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
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

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

    @property
    def label(self):
        return setting_name(self.training.regularizer, self.training.coefficient, self.training.norm_target)


def setting_name(regularizer, coefficient, target):
    """`none`, `weight_decay 0.0005`, `norm_bias 0.005 to 2500`, with '=' and '-' as a config id needs it."""
    parts = {"none": (), "weight_decay": (f"{coefficient:g}",), "norm_bias": (f"{coefficient:g}", f"target={target:g}")}
    return "-".join((regularizer, *parts[regularizer]))


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    start = norms.squared_norm(model.trainable_variables)
    history = fit(model, data, config.training, seed=config.seed, run=run)
    result = {"norm/start": start, "diverged_epoch": history.diverged_epoch}
    return result if history.diverged_epoch else {**result, **norms.final_measures(model, data, config.training, history)}


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

        Refuted: with a larger norm than weight decay's a network generalises better, although weight decay does no
        harm (a decay too strong would lose to anything). Supported: the smallest norm, weight decay's, generalises
        better than both others. Norms are the measured ones, whatever the target was.
        """
        if self.bias_decay.n < ENOUGH:
            return "undecided"
        known = self.decay_none.n + self.decay_none.dropped >= ENOUGH  # without a regularizer some may diverge
        if self.bias_decay.direction == "greater" and self.larger_norm and known and self.decay_none.direction != "less":
            return "refuted"
        helps = self.decay_none.direction == "greater" and self.decay_none.n >= ENOUGH
        if self.bias_decay.direction == "less" and helps and self.smaller_norm:
            return "supported"
        return "undecided"

    def __str__(self):
        seeds = self.bias_decay.n if self.bias_decay.n == self.decay_none.n else f"{self.bias_decay.n} and {self.decay_none.n}"
        return (
            f"{self.network}: {self.bias} against {self.decay} {points(self.bias_decay)}, {self.decay} against none "
            f"{points(self.decay_none)} over {seeds} paired seeds (squared norms {self.final_norms})"
        )


def compare(table):
    """Every norm-bias of a network with every weight decay of it, at a level that holds for all of them together."""
    pairs = []
    for network, rows in norms.networks(table, Config, SETTING):
        settings = {key: group for key, group in rows.groupby(list(SETTING), sort=False)}
        of = {name: [key for key in settings if key[0] == name] for name in REGULARIZERS}
        pairs += [
            (network, setting_name(*d), setting_name(*b), settings[b], settings[d], settings[of["none"][0]])
            for b in of["norm_bias"] for d in of["weight_decay"] if of["none"]
        ]  # fmt: skip
    level = 1 - 0.05 / max(1, len(pairs))  # Bonferroni
    result = []
    for network, decay_name, bias_name, bias, decay, none in pairs:
        norm = [by_seed(decay, other, "norm/all", level).direction for other in (bias, none)]
        means = [t_interval(rows["norm/all"]).mean if "norm/all" in rows else math.nan for rows in (bias, decay, none)]
        result.append(
            Comparison(
                network,
                decay_name,
                bias_name,
                by_seed(bias, decay, "test/accuracy", level),
                by_seed(decay, none, "test/accuracy", level),
                larger_norm=norm[0] == "less",
                smaller_norm=norm == ["less", "less"],
                final_norms=", ".join(f"{m:.3g}" for m in means),
            )
        )
    return result, level


def judge(results):
    comparisons, level = compare(results.table)
    test = (
        f"Paired t-intervals ({level:.4g} level, Bonferroni over comparisons) of the difference in test accuracy over at "
        f"least {ENOUGH} seeds. Refuted where norm-bias, at a measurably larger norm, beats every weight decay of its network "
        "and weight decay does not harm; supported where in every network a weight decay, at the smallest norm, beats none "
        "and norm-bias."
    )
    notes = norms.warnings(results.table)
    if not comparisons:
        return Verdict("undecided", f"No network has all of none, weight_decay and norm_bias.{notes}", test)

    def of(**values):
        return [c for c in comparisons if all(getattr(c, name) == value for name, value in values.items())]

    def outcomes(network, **values):
        return {c.outcome for c in of(network=network, **values)}

    names = list(dict.fromkeys(c.network for c in comparisons))
    larger = [(n, b) for n in names for b in {c.bias for c in of(network=n)} if outcomes(n, bias=b) == {"refuted"}]
    smaller = [n for n in names if any(outcomes(n, decay=c.decay) == {"supported"} for c in of(network=n))]
    shown = "; ".join(map(str, comparisons[:4])) + (f"; and {len(comparisons) - 4} more" if len(comparisons) > 4 else "")
    if larger:
        ours = "; ".join(str(c) for n, b in larger for c in of(network=n, bias=b))
        return Verdict("refuted", f"Norm-bias generalises better at a larger norm than weight decay's: {ours}.{notes}", test)
    if len(smaller) == len(names):
        reason = "Of the norms that were tried the smallest, weight decay's, generalises best"
        return Verdict("supported", f"{reason}: {shown}.{notes}", test)
    few = [c for c in comparisons if c.bias_decay.n < ENOUGH]
    reason = f"Fewer than {ENOUGH} paired seeds" if len(few) == len(comparisons) else "The differences do not tell"
    return Verdict("undecided", f"{reason}: {shown}.{notes}", test)


def figures(results):
    return {"accuracy_by_regularizer": accuracies(results), "norm_over_training": training_norms(results)}


def panels(results):
    """(figure, [(axis, network, {setting: rows})]): one panel per network."""
    found = norms.networks(results.table, Config, SETTING)
    columns = min(3, len(found))
    figure, axes = plots.new(-(-len(found) // columns), columns, width=5, height=3.8)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    settings = [{setting_name(*key): group for key, group in rows.groupby(list(SETTING), sort=False)} for _, rows in found]
    return figure, [(axis, network, by) for axis, (network, _), by in zip(axes.flat, found, settings)]


def accuracies(results):
    """Test accuracy of every network, lines between those of one seed, and the mean of each setting with its interval."""
    figure, found = panels(results)
    for axis, network, settings in found:
        if all("test/accuracy" not in rows for rows in settings.values()):
            continue  # all diverged
        for seed in sorted(set().union(*(rows["seed"] for rows in settings.values()))):
            values = [rows.loc[rows["seed"] == seed, "test/accuracy"] for rows in settings.values()]
            values = [v.iloc[0] if len(v) else math.nan for v in values]
            axis.plot(range(len(values)), values, "o-", color="0.65", linewidth=0.8, markersize=4)
        for i, (rows, style) in enumerate(zip(settings.values(), plots.styles())):
            mean = t_interval(rows["test/accuracy"]) if "test/accuracy" in rows else t_interval([])
            plots.interval_line(axis, [i + 0.12], [mean], label=None, **{**style, "linestyle": "none"})
        axis.set_xticks(range(len(settings)), [name.replace("-", "\n") for name in settings])
        axis.set(xlim=(-0.3, len(settings) - 0.5), ylabel="test accuracy")
        axis.set_title(f"{network} (grey: one seed; colour: mean, 95 %)")
    return figure


def training_norms(results):
    """||theta||^2 over the epochs, every seed, with the target as a line."""
    figure, found = panels(results)
    for axis, network, settings in found:
        for (name, rows), style in zip(settings.items(), plots.styles()):
            for i, (_, row) in enumerate(rows.iterrows()):
                history = results.histories[row["config_id"]]
                column = "norm/all" if row["regularize_all"] else "norm/kernels"
                epochs, values = [0, *history["epoch"]], [row["norm/start"], *history[column]]
                epochs, values = (epochs, values) if row["regularize_all"] else (epochs[1:], values[1:])
                axis.plot(epochs, values, color=style["color"], linestyle=style["linestyle"], alpha=0.7, linewidth=1.2,
                          label=name if i == 0 else None)  # fmt: skip
            if rows["norm_target"].iloc[0] > 0:
                axis.axhline(rows["norm_target"].iloc[0], linestyle=":", color=style["color"], label="its target")
        axis.set(xlabel="epoch", ylabel="$\\|\\theta\\|^2$", yscale="log", title=network)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure
