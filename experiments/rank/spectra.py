"""What does training do to the rank of a network's operators?  Goldblum et al. 2020, section 5.

All singular values of every convolution and dense layer, before, during and after training, natural or adversarial, and
after RankMin or RankMax. With train=false the spectra of a network as it is, such as those of a person's own .keras
file.
"""
import dataclasses
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.conv_operators import model_operators, model_spectra, relative_rank
from analysis.evaluation import evaluate_splits
from analysis.statistics import paired_difference
from experiments.rank import layer_spectra, rank_edits
from experiments.rank.layer_spectra import RANK_COLUMNS, Lines
from experiments.rank.rank_edits import EDIT_COLUMNS, EDIT_GRID, AdversaryConfig, EditConfig, join_words
from harness import grid as grids
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_factor, format_interval
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network, build_network

CLAIM = Claim(
    "Training draws the weights to low rank.",
    source="a bias to low rank is shown for linear networks, Arora et al. 2019; "
    "examined in Goldblum et al. 2020, section 5",
)
# Without edits: the claim is of training, and its time is better spent on seeds.
GRID = {"model": ["mlp", "convnet"], "train_epsilon": [0.0, 8.0], "seed": [0, 1, 2], "edit": ["none"], **EDIT_GRID}
COLUMNS = {
    "untrained/rank": "relative effective rank before training",
    "untrained/rank/stable": "stable rank before training",
    "untrained/rank/nuclear": "nuclear rank before training",
    "untrained/rank/entropy": "entropy rank before training",
    "trained/rank": "trained",
    **RANK_COLUMNS,
    "rank/relative": "at the end, edits included",
    **EDIT_COLUMNS,
    **evaluation_columns(),
}
TABLE = (
    "untrained/rank", "trained/rank", "rank/relative", "rank/effective", "rank/stable", "rank/entropy", "test/accuracy",
)  # fmt: skip
OTHER_RANKS = ("stable", "nuclear", "entropy")  # told beside the effective rank, which is the paper's and is judged
EDIT_FIELDS = tuple(grids.leaves(EditConfig))
# Fields that no untrained network depends on.
TRAINING_FIELDS = ("train", *grids.leaves(TrainingConfig), *grids.leaves(AdversaryConfig), *EDIT_FIELDS)


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="convnet", width=8)
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=15, batch_size=64, learning_rate=0.05)
    adversary: AdversaryConfig = AdversaryConfig()
    edit: EditConfig = EditConfig()
    train: bool = field(default=True, metadata={"help": "train the network; if not, its spectra as it is"})
    pad: bool = field(
        default=True,
        metadata={"help": "zero-pad inputs smaller than a kernel or no multiple of its strides, or refuse"},
    )
    seed: int = seed_field()

    def __post_init__(self):
        adversary, edit = self.adversary, self.edit
        if not self.train:
            adversary, edit = dataclasses.replace(adversary, train_epsilon=0.0), dataclasses.replace(edit, edit="none")
        object.__setattr__(self, "adversary", adversary.relevant())
        object.__setattr__(self, "edit", edit.relevant())

    def validate(self) -> None:
        """Its parts are validated by themselves, and its own fields have no wrong value."""


def check(config: Config, data: Data, run: Run) -> None:
    find = model_operators if config.edit.edit == "none" else rank_edits.editable
    ask_network((find.__name__, config.pad), config, data, run, lambda model: list(find(model, pad=config.pad)))


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Ranks and spectra before training, their course in it, and those at the end, after the edits if there are any."""
    model = build_network(config, data)
    numbers, arrays, spectra = layer_spectra.spectrum_measures(model, config.pad)
    run.histograms("singular_values", 0, spectra)
    result = {f"untrained/{name}": value for name, value in arrays.items()}
    result["untrained/rank"] = numbers["rank/relative"]
    result.update({f"untrained/rank/{kind}": numbers[f"rank/{kind}"] for kind in OTHER_RANKS})
    if config.train:
        model, found = trained_course(config, data, run, arrays["relative_rank"])
        result.update(found)
        if not result["diverged_epoch"] and config.edit.edit != "none":
            history = rank_edits.finetune(model, data, config, run)
            result.update(rank_edits.edit_measures(history.probes), diverged_epoch=history.diverged_epoch)
        if result["diverged_epoch"]:
            return result
        numbers, arrays, spectra = layer_spectra.spectrum_measures(model, config.pad)
        run.histograms("singular_values", config.training.epochs, spectra)
    return {**result, **evaluate_splits(model, data, config.training.loss), **numbers, **arrays}


def trained_course(
    config: Config, data: Data, run: Run, untrained: np.ndarray
) -> tuple[keras.Model, dict[str, object]]:
    """(model, measures) of the trained network: relative rank of each layer at about eight epochs, and its last mean.

    untrained: relative rank of each layer before training.
    """
    epochs = {0, *np.unique(np.geomspace(1, config.training.epochs, 8).round().astype(int))}

    def probe(model, epoch):
        if epoch in epochs:
            spectra = model_spectra(getattr(model, "network", model), pad=config.pad).values()
            return {"relative": np.array([relative_rank(s.values) for s in spectra])}

    probe_key = ("relative rank by layer", config.pad)
    model, history = rank_edits.trained_base(config, data, run, probe=probe, probe_key=probe_key)
    if history.diverged_epoch:
        return model, {"diverged_epoch": history.diverged_epoch}
    course = {0: {"relative": untrained}, **history.probes}
    relative = np.array([course[epoch]["relative"] for epoch in sorted(course)])  # [epochs, layers]
    return model, {
        "diverged_epoch": None,
        "course/epochs": np.array(sorted(course)),
        "course/relative": relative,
        "trained/rank": float(relative[-1].mean()),
    }


def trainings(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """[(label, rows)]: one row per seed of each way of training; edited networks share it with the unedited one."""
    groups = results.measured("trained/rank").groups()
    return [(group.label, group.rows.drop_duplicates("seed")) for group in groups]


def judge(results: Results) -> Verdict:
    """Low rank where the paired change of the relative effective rank by training falls, group by group."""
    groups, margin = trainings(results), results.margins["margin"]
    test = (
        "Per network and training, one-sided paired t-tests over seeds of the change in relative effective rank (mean "
        f"over layers) from before to after training. Supported where it falls in all, refuted where it falls by less "
        f"than {margin:g} in one, or rises."
    )
    if not groups:
        measured = results.measured("rank/relative").groups()
        if not measured:
            return Verdict("undecided", "Every network diverged.", test)
        ranks = "; ".join(f"{group.label}: {group.rows['rank/relative'].mean():.3g}" for group in measured)
        return Verdict("undecided", f"No trained network to compare (relative effective rank of {ranks}).", test)
    findings = []
    for label, rows in groups:
        change = paired_difference(rows["trained/rank"], rows["untrained/rank"], results.confidence)
        others = describe_other_ranks(rows, results.confidence)
        findings.append(Finding(
            label,
            f"{format_interval(change, sign=True)} over {change.n} seeds{others}",
            supports=(Statement("falls", (below(change),)),),
            refutes=(Statement("falls by less than the margin", (above(change, -margin),)),),
        ))  # fmt: skip
    return decide(results, findings, test, opening="Change of the relative effective rank by training: ")


def describe_other_ranks(rows: pd.DataFrame, confidence: float) -> str:
    """` (stable rank times 0.8 [0.7, 0.9], ..)`: what training does to other measures of rank; of unedited networks."""
    rows, parts = rows[rows["edit"] == "none"], []
    for kind in OTHER_RANKS:
        names = f"rank/{kind}", f"untrained/rank/{kind}"
        if all(name in rows for name in names):
            after, before = (np.log10(rows[name].where(rows[name] > 0)) for name in names)
            change = paired_difference(after, before, confidence)
            parts += [f"{kind} rank times {format_factor(change, 2)}"] if change.n else []
    return f" ({', '.join(parts)})" if parts else ""


# -- figures


def figures(results: Results) -> dict[str, Figure]:
    """Spectra and rank by layer for each model; and the course of the rank over training."""
    result = {}
    models = list(dict.fromkeys(results.table["model"]))
    for model in models:
        name = model.split("/")[-1].removesuffix(".keras")
        if f"spectra_{name}" in result:  # another file of one name
            name = f"{name}_{models.index(model) + 1}"
        lines = variants(results, model)
        if lines:
            result[f"spectra_{name}"] = layer_spectra.plot_spectra(lines)
            result[f"effective_rank_{name}"] = layer_spectra.plot_rank_by_layer(lines)
    groups = trainings(results)
    if groups:
        result["rank_over_training"] = plot_rank_over_training(results, groups)
    return result


def variants(results: Results, model: str) -> Lines:
    """[(name, [arrays of a seed])] of one model: untrained, and at the end of each training and edit."""
    untrained = of_model(results.measured("untrained/rank").groups(apart=TRAINING_FIELDS), model)
    trained = of_model(results.measured("trained/rank", "rank/relative").groups(), model)
    name, prefix = "before training" if trained else "as it is", "untrained/"
    lines = []
    for label, group in zip(rank_edits.short_labels(untrained), untrained):
        rows = group.rows.drop_duplicates("seed").sort_values("seed")
        arrays = [results.arrays[identity] for identity in rows["config_id"]]
        start = [{k.removeprefix(prefix): v for k, v in a.items() if k.startswith(prefix)} for a in arrays]
        lines.append((join_words(label, name), start))
    for label, group in zip(rank_edits.short_labels(trained), trained):
        for name, rows in by_edit(group):
            arrays = [results.arrays[identity] for identity in rows.sort_values("seed")["config_id"]]
            lines.append((join_words(label, name), arrays))
    return lines


def of_model(groups: list[Group], model: str) -> list[Group]:
    """Those of the groups whose network is of this model."""
    return [group for group in groups if group.first["model"] == model]


def by_edit(group: Group) -> list[tuple[str, pd.DataFrame]]:
    """[(name, rows)] of a group: the unedited networks once, whatever fine-tuning they were spared, and each edit."""
    is_plain = group.rows["edit"] == "none"
    plain = [("plain", group.rows[is_plain].drop_duplicates("seed"))] if is_plain.any() else []
    edited = rank_edits.split_by_edit(dataclasses.replace(group, rows=group.rows[~is_plain]), EDIT_FIELDS)
    return [*plain, *((name, rows) for name, _, rows in edited)]


def plot_rank_over_training(results: Results, groups: list[tuple[str, pd.DataFrame]]) -> Figure:
    """Mean relative effective rank over the epochs, one line per seed of each network and training."""
    figure, axis = layer_spectra.new_with_legend([label for label, _ in groups], width=6)
    for (label, rows), style in zip(groups, plots.styles()):
        look = {**style, "markersize": 4, "alpha": 0.8}
        for i, identity in enumerate(rows["config_id"]):
            arrays = results.arrays[identity]
            means = arrays["course/relative"].mean(axis=1)
            axis.plot(arrays["course/epochs"], means, label=label if i == 0 else None, **look)
    axis.set(xlabel="epoch", ylabel="relative effective rank, mean over layers", xscale="symlog")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("base", "rank_min", "rank_max", "random"),
    apart=EDIT_FIELDS,
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=lambda config: rank_edits.treatment(config.adversary.train_epsilon, config.edit, config.train),
    margins={"margin": (0.01, "relative effective rank lost by training")},
    max_seeds=6,
)
