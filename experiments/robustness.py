"""Does low rank make networks generalise and robust?  Goldblum et al. 2020, section 5.

Networks are trained naturally or on adversarial examples, then fine-tuned with RankMin (small singular values become 0), with
RankMax (large ones are capped), or unedited for the same epochs: networks of one seed differ in nothing but the edit.
"""
import math
from dataclasses import dataclass, field

import numpy as np

from analysis.evaluation import evaluate, predict
from analysis.statistics import rank_correlation, t_interval
from experiments import norms, ranks
from experiments.ranks import EDITS, SETTING, AdversaryConfig, EditConfig
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.attacks import pgd, robust_accuracy, strong_attacks_installed, strong_robust_accuracy
from training.data import DataConfig
from training.fit import TrainingConfig

CLAIM = Claim(
    "Low-rank weights generalise better, and low rank makes networks robust.",
    source="Langenberg et al. 2019 and others, examined in Goldblum et al. 2020, section 5",
)
GRID = {"epsilon": [0.0, 24.0], "seed": [0, 1, 2], "edit": list(EDITS), **ranks.EDIT_GRID}
MEASURES = {
    "test/accuracy": "clean accuracy",
    "robust/mean": "robust accuracy (mean over epsilons)",
    "strong/pgd": "at the largest epsilon under PGD",
    "strong/apgd_ce": "under APGD-CE",
    "strong/square": "under Square",
    "train/accuracy": "training accuracy",
    "rank/relative": "relative effective rank",
    "edit/rank_before": "before the first edit",
    "edit/rank_asked": "asked",
    "edit/rank_after": "after",
}
EXAMPLES = 6  # images shown with their adversarial examples
ENOUGH = 3  # paired seeds for a verdict


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="convnet", width=8)
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=15, batch_size=64, learning_rate=0.02)
    adversary: AdversaryConfig = AdversaryConfig()
    edit: EditConfig = EditConfig()
    test_epsilons: tuple[float, ...] = field(
        default=(16.0, 32.0), metadata={"help": "radii of the test attacks in 1/255 of the pixel range: 1-8"}
    )
    test_steps: int = field(default=20, metadata={"help": "steps of PGD in the test"})
    test_restarts: int = field(default=1, metadata={"help": "attacks on each test image, of which the worst counts"})
    robust_size: int = field(default=0, metadata={"help": "test images that are attacked; 0: all"})
    strong_attacks: bool = field(
        default=False, metadata={"help": "also APGD-CE and Square at the largest epsilon (requirements-attacks.txt)"}
    )
    pad: bool = field(
        default=True, metadata={"help": "zero-pad inputs smaller than a kernel or no multiple of its strides, or refuse"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def __post_init__(self):
        object.__setattr__(self, "adversary", self.adversary.relevant())
        object.__setattr__(self, "edit", self.edit.relevant())

    @property
    def label(self):
        return ranks.treatment(self.adversary.epsilon, self.edit.name).replace(", ", "-").replace(" ", "=")

    def validate(self):
        self.adversary.validate()
        self.edit.validate()
        epsilons = self.test_epsilons
        if not epsilons or any(not (e >= 0 and math.isfinite(e)) for e in epsilons) or list(epsilons) != sorted(set(epsilons)):
            raise ValueError(f"test_epsilons must be increasing numbers >= 0 (in 1/255), got {list(epsilons)}")
        if self.test_steps < 1 or self.test_restarts < 1 or self.robust_size < 0:
            raise ValueError(
                "test_steps and test_restarts must be at least 1 and robust_size 0 (all) or more, got "
                f"{self.test_steps}, {self.test_restarts} and {self.robust_size}"
            )
        if self.strong_attacks and not strong_attacks_installed():
            raise ValueError("strong_attacks need adversarial-robustness-toolbox: pip install -r requirements-attacks.txt")


def check(config, data):
    ranks.editable(ranks.build(config, data), config.pad)
    if config.robust_size > len(data.x_test):
        raise ValueError(f"robust_size {config.robust_size} was asked of {len(data.x_test)} test images")


def measure(config, data, run):
    model, history = ranks.trained_base(config, data, run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    start = dict(zip(("base/test_loss", "base/test_accuracy"), evaluate(model, data.x_test, data.y_test, config.training.loss)))
    history = ranks.finetune(model, data, config, run)
    result = {**start, "diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    result.update(norms.both_sets(model, data, config.training.loss))
    result.update(robustness(config, model, data))
    numbers, arrays, spectra = ranks.spectrum_measures(model, config)
    run.histograms("singular_values", config.edit.finetune_epochs, spectra)
    return {**result, **numbers, **arrays, **ranks.edit_measures(history.probes)}


def robustness(config, model, data):
    """Robust accuracy at each epsilon, its mean over them, and some images with their adversarial examples."""
    size = config.robust_size or len(data.x_test)
    x, y = data.x_test[:size], data.y_test[:size]
    options = {"mean": data.mean, "std": data.std, "seed": config.seed}
    result = {}
    for epsilon in config.test_epsilons:
        attack = config.adversary.attack(epsilon, config.test_steps, restarts=config.test_restarts)
        result[f"robust/{epsilon:g}"] = robust_accuracy(model, x, y, attack, **options)
    result["robust/mean"] = float(np.mean(list(result.values())))
    if config.strong_attacks:  # `attack` has the largest epsilon
        strong = strong_robust_accuracy(model, x, y, attack, **options)
        result.update({f"strong/{name}": value for name, value in strong.items()})
    x, y = x[:EXAMPLES], y[:EXAMPLES]
    moved = pgd(
        model, x, y, epsilon=attack.epsilon, step_size=attack.step_size, steps=attack.steps, norm=attack.norm, **options
    )
    scale = {"clean": x, "adversarial": moved}
    result.update({f"examples/{name}": images * data.std + data.mean for name, images in scale.items()})
    result.update({f"examples/{name}_class": predict(model, images).argmax(axis=1) for name, images in scale.items()})
    return {**result, "examples/class": y.argmax(axis=1)}


@dataclass(frozen=True)
class Comparison:
    """An edited against the unedited network of each seed, in one training: differences in accuracy and in rank."""

    network: str
    edit: str
    clean: object
    robust: object
    rank: object

    @property
    def moved(self):
        """Did the edit measurably change the rank the way that it should?"""
        return self.rank.direction == ("less" if self.edit.startswith("rank_min") else "greater")

    def outcome(self, measure):
        """What this says of "low rank helps": a gain of RankMin supports it, a loss refutes it; of RankMax the other way."""
        difference = {"clean": self.clean, "robust": self.robust}[measure]
        if not self.moved or difference.n < ENOUGH or difference.direction == "undecided":
            return "undecided"
        low_rank_gains = (difference.direction == "greater") == self.edit.startswith("rank_min")
        return "supported" if low_rank_gains else "refuted"

    def __str__(self):
        return (
            f"{self.network} {self.edit}: clean {norms.points(self.clean)}, robust {norms.points(self.robust)}"
            f"{'' if self.moved else ' (its rank did not measurably move as it should)'}"
        )


def compare(table):
    """[Comparison] and their level, at which all of them hold together (Bonferroni over comparisons and measures)."""
    pairs = []
    for network, rows in norms.networks(table, Config, SETTING):
        name = ranks.readable(network)
        settings = list(rows.groupby(list(SETTING), sort=False, dropna=False))
        plain = [group for key, group in settings if key[0] == "none"]
        edited = [(setting(key).replace("=", " "), group) for key, group in settings if key[0] != "none"]
        pairs += [(name, edit, group, plain[0]) for edit, group in edited if plain]
    level = 1 - 0.05 / max(1, 2 * len(pairs))
    columns = ("test/accuracy", "robust/mean", "rank/relative")
    comparisons = [
        Comparison(name, edit, *(norms.by_seed(rows, plain, column, level) for column in columns))
        for name, edit, rows, plain in pairs
    ]
    return comparisons, level


def setting(key):
    return EditConfig(*key).relevant().name


def judge(results):
    comparisons, level = compare(results.table)
    test = (
        f"Paired t-intervals ({level:.4g} level, Bonferroni) over at least {ENOUGH} seeds of the differences in clean and in "
        "robust accuracy (mean over the test epsilons) between an edited and the unedited network, where the edit measurably "
        "moved the effective rank. A gain of RankMin or a loss of RankMax supports a claim, the opposite refutes it; the "
        "verdict is refuted where one of the two claims is refuted and none supported, supported where both are."
    )
    if "robust/mean" not in results.table:
        return Verdict("undecided", "Every network diverged.", test)
    if not comparisons:
        return Verdict("undecided", "An edited and an unedited network are needed to compare.", test)
    claims = {}
    for measure, name in (("clean", "generalisation"), ("robust", "robustness")):
        found = {c.outcome(measure) for c in comparisons} - {"undecided"}
        claims[name] = found.pop() if len(found) == 1 else "undecided"
    outcomes = set(claims.values())
    outcome = "undecided"
    if "refuted" in outcomes and "supported" not in outcomes:
        outcome = "refuted"
    elif outcomes == {"supported"}:
        outcome = "supported"
    parts = [f"low rank for {name}: {found}" for name, found in claims.items()]
    parts += [str(c) for c in comparisons[:4]]
    parts += [f"and {len(comparisons) - 4} more comparisons in results.csv"] if len(comparisons) > 4 else []
    for training, rows in (("natural", results.table["epsilon"] == 0), ("adversarial", results.table["epsilon"] > 0)):
        r = rank_correlation(results.table["rank/relative"][rows], results.table["robust/mean"][rows])
        if r.n > 3:
            parts.append(
                f"rank correlation of effective rank and robust accuracy over {r.n} {training} networks "
                f"{r.correlation:.2g} [{r.low:.2g}, {r.high:.2g}]"
            )
    return Verdict(outcome, "; ".join(parts) + ".", test)


def figures(results):
    if "robust/mean" not in results.table:
        return {}
    table = results.table.dropna(subset="robust/mean")
    by_seed = [(name, rows.sort_values("seed")["config_id"]) for name, rows in variants(table)]
    lines = [(name, [results.arrays[identity] for identity in identities]) for name, identities in by_seed]
    return {
        "robust_accuracy": robust_curves(table),
        "effective_rank": ranks.by_layer(lines),
        "spectra": ranks.spectra(lines),
        "adversarial_examples": examples(results, table),
    }


def variants(table):
    """[(name, rows)]: natural and adversarial networks by edit."""
    several = table["model"].nunique() > 1
    for (model, epsilon, *key), rows in table.groupby(["model", "epsilon", *SETTING], sort=False, dropna=False):
        yield f"{model + ', ' if several else ''}{ranks.treatment(epsilon, setting(key))}", rows


def robust_curves(table):
    """Accuracy against the test epsilon, clean accuracy at 0."""
    figure, axes = plots.new(width=6, height=4)
    columns = [c for c in table if c.startswith("robust/") and c != "robust/mean"]
    epsilons = [0.0, *(float(c.split("/")[1]) for c in columns)]
    for (name, rows), style in zip(variants(table), plots.styles()):
        means = [t_interval(rows[c]) for c in ("test/accuracy", *columns)]
        plots.interval_line(axes[0, 0], epsilons, means, label=name, **style)
    axes[0, 0].set(xlabel="epsilon of the test attack (1/255 of the pixel range)", ylabel="accuracy under attack", ylim=(0, 1))
    axes[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def examples(results, table):
    """Images of the first seed and their adversarial examples, with class and prediction, one pair of rows per training."""
    plain = table[table["edit"] == "none"]
    chosen = (plain if len(plain) else table).sort_values("seed").drop_duplicates("epsilon").sort_values("epsilon")
    count = len(results.arrays[chosen["config_id"].iloc[0]]["examples/class"])
    figure, axes = plots.new(2 * len(chosen), count, width=1.5, height=1.75)
    for pair, (_, row) in zip(axes.reshape(len(chosen), 2, count), chosen.iterrows()):
        arrays = results.arrays[row["config_id"]]
        for axis_row, kind in zip(pair, ("clean", "adversarial")):
            for axis, image, guess, label in zip(
                axis_row, arrays[f"examples/{kind}"], arrays[f"examples/{kind}_class"], arrays["examples/class"]
            ):
                axis.imshow(image.squeeze().clip(0, 1), cmap="gray", vmin=0, vmax=1)
                axis.set_title(f"{guess} {'✓' if guess == label else f'(is {label})'}", fontsize=8)
                axis.set(xticks=[], yticks=[])
                axis.grid(False)
            training = "adversarially trained" if row["epsilon"] else "naturally trained"
            axis_row[0].set_ylabel(f"{training}\n{kind}", fontsize=8)
    figure.suptitle(f"Predicted classes at epsilon = {chosen['test_epsilons'].iloc[0][-1]:g}/255", fontsize=10)
    return figure
