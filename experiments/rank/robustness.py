"""Does low rank make networks generalize and robust?  Goldblum et al. 2020, section 5.

Networks are trained naturally or on adversarial examples, then fine-tuned with RankMin (small singular values become
0), with RankMax (large ones are capped), with random edits as large as RankMin's, or unedited for the same epochs:
networks of one seed differ in nothing but the edit. Each network's attack is checked by stronger ones.
"""
import math
import textwrap
from dataclasses import dataclass, field, replace

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.evaluation import evaluate, evaluate_splits, predict
from analysis.statistics import PairedDifference, t_interval
from experiments.rank import layer_spectra, rank_edits
from experiments.rank.layer_spectra import RANK_COLUMNS
from experiments.rank.rank_edits import EDIT_COLUMNS, EDIT_GRID, EDITS, SETTING, AdversaryConfig, EditConfig, join_words
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, Test, above, below, decide, fact
from judging.results import Group, Results, paired_by_seed
from judging.verdict import Claim, Verdict
from judging.wording import format_points
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.attacks import check_attack, pgd, robust_accuracy, strong_attacks_installed, strong_robust_accuracy
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network

CLAIM = Claim(
    "Low-rank weights generalize better, and low rank makes networks robust.",
    source="Langenberg et al. 2019 and others, examined in Goldblum et al. 2020, section 5",
)
GRID = {"train_epsilon": [0.0, 24.0], "seed": [0, 1, 2], "edit": list(EDITS), **EDIT_GRID, "train_size": [1000],
        "check_size": [60]}  # fmt: skip
COLUMNS = {
    "base/test/loss": "test loss before fine-tuning",
    "base/test/accuracy": "test accuracy before fine-tuning",
    **evaluation_columns(),
    "test/accuracy": "clean accuracy",
    "robust/<epsilon>": "robust accuracy at a test epsilon",
    "robust/mean": "robust accuracy (mean over epsilons)",
    "strong/pgd": "at the largest epsilon under PGD",
    "strong/apgd_ce": "under APGD-CE",
    "strong/square": "under Square",
    "strong/worst": "under all three",
    "attack/loss_clean": "cross-entropy of the checked images, without attack",
    "attack/loss_few": "under a quarter of the steps",
    "attack/loss": "under the test's attack at the largest epsilon",
    "attack/loss_strong": "under four times the steps and three restarts",
    "attack/accuracy": "robust accuracy of the checked images",
    "attack/accuracy_strong": "checked by stronger attacks",
    **RANK_COLUMNS,
    **EDIT_COLUMNS,
}
TABLE = (
    "test/accuracy", "robust/mean", "attack/accuracy", "attack/accuracy_strong", "strong/pgd", "strong/apgd_ce",
    "strong/square", "train/accuracy", "rank/relative", "edit/rank_before", "edit/rank_asked", "edit/rank_after",
    "edit/size",
)  # fmt: skip
NUM_EXAMPLES = 6  # images shown with their adversarial examples
MAX_EXAMPLE_GROUPS = 6  # networks whose examples are shown
ATTACK_TOLERANCE = 0.05  # robust accuracy that stronger attacks may take away from a sound one
ROUNDING = 1e-9  # of a difference of two shares of images
LOSS_TOLERANCE = 0.02  # share by which a sound attack's loss may fall with more steps, being that of its last step
LOSSES = ("attack/loss_clean", "attack/loss_few", "attack/loss", "attack/loss_strong")
Gains = dict[str, tuple[PairedDifference, tuple[Test, ...]]]  # what `gains` finds


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
    check_size: int = field(
        default=0,
        metadata={"help": "attacked test images, at most, on which stronger attacks check the attack; 0: none",
                  "added": True},
    )  # fmt: skip
    pad: bool = field(
        default=True,
        metadata={"help": "zero-pad inputs smaller than a kernel or no multiple of its strides, or refuse"},
    )
    seed: int = seed_field()

    def __post_init__(self):
        object.__setattr__(self, "adversary", self.adversary.relevant())
        object.__setattr__(self, "edit", self.edit.relevant())

    def validate(self) -> None:
        epsilons = list(self.test_epsilons)
        possible = all(e >= 0 and math.isfinite(e) for e in epsilons)
        if not epsilons or not possible or epsilons != sorted(set(epsilons)):
            raise ValueError(f"test_epsilons must be increasing numbers >= 0 (in 1/255), got {epsilons}")
        if self.test_steps < 1 or self.test_restarts < 1 or self.robust_size < 0:
            raise ValueError(
                "test_steps and test_restarts must be at least 1 and robust_size 0 (all) or more, got "
                f"{self.test_steps}, {self.test_restarts} and {self.robust_size}"
            )
        if self.check_size < 0:
            raise ValueError(f"check_size must be a number of images, or 0 for no check, got {self.check_size}")
        if self.strong_attacks and not strong_attacks_installed():
            raise ValueError(
                "strong_attacks need adversarial-robustness-toolbox: pip install -r requirements-attacks.txt"
            )


def check(config: Config, data: Data, run: Run) -> None:
    find = rank_edits.editable
    ask_network((find.__name__, config.pad), config, data, run, lambda model: list(find(model, config.pad)))
    if config.robust_size > len(data.x_test):
        raise ValueError(f"robust_size {config.robust_size} was asked of {len(data.x_test)} test images")


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Accuracy, robust accuracy and ranks of a network that was trained, then fine-tuned with the edit."""
    model, history = rank_edits.trained_base(config, data, run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    loss, accuracy = evaluate(model, data.x_test, data.y_test, config.training.loss)
    history = rank_edits.finetune(model, data, config, run)
    result = {"base/test/loss": loss, "base/test/accuracy": accuracy, "diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    result.update(evaluate_splits(model, data, config.training.loss))
    result.update(robust_measures(config, model, data))
    numbers, arrays, spectra = layer_spectra.spectrum_measures(model, config.pad)
    run.histograms("singular_values", config.edit.finetune_epochs, spectra)
    return {**result, **numbers, **arrays, **rank_edits.edit_measures(history.probes)}


def robust_measures(config: Config, model: keras.Model, data: Data) -> dict[str, object]:
    """Robust accuracy at each epsilon, its mean over them, and some images with their adversarial examples."""
    size = config.robust_size or len(data.x_test)
    x, y = data.x_test[:size], data.y_test[:size]
    options = {"mean": data.mean, "std": data.std, "seed": config.seed}
    result = {}
    for epsilon in config.test_epsilons:
        attack = config.adversary.attack(epsilon, config.test_steps, restarts=config.test_restarts)
        result[f"robust/{epsilon:g}"] = robust_accuracy(model, x, y, attack, **options)
    result["robust/mean"] = float(np.mean(list(result.values())))
    if config.check_size:  # `attack` has the largest epsilon
        checked = check_attack(model, x[: config.check_size], y[: config.check_size], attack, **options)
        result.update({f"attack/{name}": value for name, value in checked.items()})
    if config.strong_attacks:
        strong = strong_robust_accuracy(model, x, y, attack, **options)
        result.update({f"strong/{name}": value for name, value in strong.items()})
    x, y = x[:NUM_EXAMPLES], y[:NUM_EXAMPLES]
    moved = pgd(
        model, x, y, epsilon=attack.epsilon, step_size=attack.step_size, steps=attack.steps, norm=attack.norm, **options
    )
    for name, images in (("clean", x), ("adversarial", moved)):
        result[f"examples/{name}"] = images * data.std + data.mean
        result[f"examples/{name}_class"] = predict(model, images).argmax(axis=1)
    return {**result, "examples/class": y.argmax(axis=1)}


# -- verdict


def judge(results: Results) -> Verdict:
    """Low rank helps where RankMin gains clean and robust accuracy on no edit and on a random one, paired by seed."""
    margin = results.margins["margin"]
    test = (
        "One-sided paired t-tests over seeds of an edited minus the unedited network's clean accuracy, robust accuracy "
        "(mean over the test epsilons) and effective rank; every statement asks that the edit moved the rank as it "
        "should, and one on robust accuracy that no stronger attack shows a compared network's attack to be weak. "
        "Supported where a setting of RankMin gains clean and robust accuracy on the unedited network and on a random "
        f"edit of the same Frobenius size; refuted where it gains less than {100 * margin:g} points of either on one "
        "of them, or RankMax gains either. What RankMax costs supports nothing."
    )
    measured = results.measured("robust/mean")
    if not len(measured):
        return Verdict("undecided", "Every network diverged.", test)
    findings = [compare_edits(group, margin, results.confidence) for group in results.groups()]
    return decide(results, findings, test, notes=warn_weak_attacks(measured.table))


def weak_attacks(table: pd.DataFrame) -> np.ndarray:
    """[bool] of each network: do its losses not rise with steps and restarts, or do stronger attacks find much more?

    One that was not checked has no attack to rely on either.
    """
    if "attack/accuracy_strong" not in table:
        return np.ones(len(table), bool)
    losses = np.column_stack([table[name].to_numpy(float) for name in LOSSES])
    rises = losses[:, 1:] >= (1 - LOSS_TOLERANCE) * losses[:, :-1]  # False for what was not measured
    gap = table["attack/accuracy"].to_numpy(float) - table["attack/accuracy_strong"].to_numpy(float)
    return ~(rises.all(axis=1) & (gap <= ATTACK_TOLERANCE + ROUNDING))


def warn_weak_attacks(table: pd.DataFrame) -> str:
    """` Warning: ..` on the networks whose attack is shown to be weak, or was not checked; "" where there are none."""
    checked, parts = np.zeros(len(table), bool), []
    if "attack/accuracy_strong" in table:
        checked = table["attack/accuracy_strong"].notna().to_numpy()
    if unchecked := int((~checked).sum()):
        parts.append(f"the attacks on {unchecked} of {len(table)} networks were not checked (--check_size=60 does)")
    weak = table[checked & weak_attacks(table)]
    if len(weak):
        gap = (weak["attack/accuracy"] - weak["attack/accuracy_strong"]).max()
        parts.append(
            f"on {len(weak)} of {len(table)} networks the attack is weak: its loss does not rise with steps and "
            f"restarts, or stronger attacks take away more than {100 * ATTACK_TOLERANCE:g} points of robust accuracy "
            f"(up to {100 * gap:.2g}); more --test_steps and --test_restarts are needed"
        )
    return f" Warning: {'; '.join(parts)}. Nothing is said of their robust accuracy." if parts else ""


def compare_edits(group: Group, margin: float, confidence: float) -> Finding:
    """Every edit of a Group against the unedited network of its seed, and RankMin against random edits as large."""
    weak = weak_attacks(group.rows) & group.rows["robust/mean"].notna()
    edits = rank_edits.split_by_edit(replace(group, rows=group.rows.assign(weak_attack=weak)))
    plain = [rows for _, edit, rows in edits if edit.edit == "none"]
    edited = [(name, edit, rows) for name, edit, rows in edits if edit.edit != "none"]
    if not plain or not edited:
        return Finding(group.label, "an edited and an unedited network are needed to compare")
    randoms = {(edit.rank_cut, edit.edit_epochs): rows for _, edit, rows in edits if edit.edit == "random"}
    texts, supports, refutes = [], [], []
    for name, edit, rows in edited:
        found = gains(rows, plain[0], confidence)
        rank = paired_by_seed(rows, plain[0], "rank/relative", confidence)
        text, direction = f"{name}: {format_gains(found)} over {found['clean'][0].n} seeds", rank.direction
        if edit.edit == "rank_min":
            direction, control = "less", randoms.get((edit.rank_cut, edit.edit_epochs))
            over = None if control is None else gains(rows, control, confidence)
            text += f", on a random edit {format_gains(over)}" if over else ", no random edit of its size to compare"
            helps, fails = judge_rank_min(name, rank, found, over, margin)
            supports += helps
            refutes += fails
        elif edit.edit == "rank_max":
            direction = "greater"
            refutes += [
                Statement(f"{name} gains {kind} accuracy", (above(rank), above(gain), *also))
                for kind, (gain, also) in found.items()
            ]
        text += "" if rank.direction == direction else " (its rank did not measurably move as it should)"
        texts.append(text)
    return Finding(group.label, ", ".join(texts), tuple(supports), tuple(refutes))


def gains(rows: pd.DataFrame, others: pd.DataFrame, confidence: float) -> Gains:
    """{kind: (gain in accuracy of some networks over others, paired by seed; further tests of what is said of it)}."""
    sound = fact(not (rows["weak_attack"].any() or others["weak_attack"].any()))
    return {
        "clean": (paired_by_seed(rows, others, "test/accuracy", confidence), ()),
        "robust": (paired_by_seed(rows, others, "robust/mean", confidence), (sound,)),
    }


def judge_rank_min(
    name: str, rank: PairedDifference, found: Gains, over: Gains | None, margin: float
) -> tuple[list[Statement], list[Statement]]:
    """(supports, refutes) of one setting of RankMin: its gains on the unedited network, and `over` a random edit.

    Without a random edit to compare with (None) nothing supports.
    """
    compared = {"none": found} | ({} if over is None else {"a random edit": over})
    tests = [test for pairs in compared.values() for gain, also in pairs.values() for test in (above(gain), *also)]
    supports = [Statement(f"{name} gains clean and robust accuracy", (below(rank), *tests))] if over else []
    refutes = [
        Statement(
            f"{name} gains less {kind} accuracy than the margin" + (on != "none") * f" on {on}",
            (below(rank), below(gain, margin), *also),
        )
        for on, pairs in compared.items() for kind, (gain, also) in pairs.items()
    ]  # fmt: skip
    return supports, refutes


def format_gains(pairs: Gains) -> str:
    """`clean +1 [0, 2] points, robust -1 [-2, 0] points`."""
    return ", ".join(f"{kind} {format_points(gain)}" for kind, (gain, _) in pairs.items())


# -- figures


def figures(results: Results) -> dict[str, Figure]:
    """Accuracy against the test epsilon, rank by layer, spectra, and images with their adversarial examples."""
    groups = results.measured("robust/mean").groups()
    lines = [
        (join_words(label, name), rows.sort_values("seed"))
        for label, group in zip(rank_edits.short_labels(groups), groups)
        for name, _, rows in rank_edits.split_by_edit(group)
    ]
    if not lines:
        return {}
    result = {"robust_accuracy": plot_robust_accuracy(lines)}
    spectra = [(name, [results.arrays[identity] for identity in rows["config_id"]]) for name, rows in lines]
    result["effective_rank"] = layer_spectra.plot_rank_by_layer(spectra)
    result["spectra"] = layer_spectra.plot_spectra(spectra)
    result["adversarial_examples"] = plot_examples(results, groups)
    return result


def plot_robust_accuracy(lines: list[tuple[str, pd.DataFrame]]) -> Figure:
    """Accuracy against the test epsilon, clean accuracy at 0; lines: [(name, rows of all seeds)]."""
    figure, axis = layer_spectra.new_with_legend([name for name, _ in lines], width=6)
    for (name, rows), style in zip(lines, plots.styles()):
        epsilons = rows.iloc[0]["test_epsilons"]
        intervals = [t_interval(rows[column]) for column in ("test/accuracy", *(f"robust/{e:g}" for e in epsilons))]
        plots.interval_line(axis, [0.0, *epsilons], intervals, label=name, **style)
    axis.set(xlabel="epsilon of the test attack (1/255 of the pixel range)", ylabel="accuracy under attack")
    axis.set_ylim(0, 1)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_examples(results: Results, groups: list[Group]) -> Figure:
    """Images of each group's first seed and their adversarial examples, a pair of rows a group, with their classes."""
    groups = groups[:MAX_EXAMPLE_GROUPS]
    chosen = []
    for group in groups:
        plain = group.rows[group.rows["edit"] == "none"]
        chosen.append((plain if len(plain) else group.rows).sort_values("seed").iloc[0])
    shown = [results.arrays[row["config_id"]] for row in chosen]
    count = max(len(arrays["examples/class"]) for arrays in shown)
    figure, axes = plots.new(2 * len(chosen), count, width=1.5, height=1.75)
    pairs = axes.reshape(len(chosen), 2, count)
    for pair, label, row, arrays in zip(pairs, rank_edits.short_labels(groups), chosen, shown):
        for axis_row, kind in zip(pair, ("clean", "adversarial")):
            images, guesses = arrays[f"examples/{kind}"], arrays[f"examples/{kind}_class"]
            plot_predictions(axis_row, images, guesses, arrays["examples/class"])
            attack = "" if kind == "clean" else f"{row['test_epsilons'][-1]:g}/255"
            words = [*textwrap.wrap(label, 28), join_words(kind, attack)]
            axis_row[0].set_ylabel("\n".join(words), fontsize=8)
    figure.suptitle("Predicted classes without attack and at the largest test epsilon", fontsize=10)
    return figure


def plot_predictions(axes: np.ndarray, images: np.ndarray, guesses: np.ndarray, labels: np.ndarray) -> None:
    """A row of images, each with its predicted class and whether that is right."""
    for axis, image, guess, label in zip(axes, images, guesses, labels):
        axis.imshow(image.squeeze().clip(0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"{guess} {'✓' if guess == label else f'(is {label})'}", fontsize=8)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for axis in axes[len(images) :]:
        axis.set_visible(False)


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("base", "finetune", "rank_min", "rank_max", "random"),
    apart=SETTING,
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=lambda config: rank_edits.treatment(config.adversary.train_epsilon, config.edit),
    former_columns={"base/test_loss": "base/test/loss", "base/test_accuracy": "base/test/accuracy"},
    margins={"margin": (0.01, "clean or robust accuracy gained by RankMin")},
)
