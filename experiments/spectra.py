"""What does training do to the rank of a network's operators?  Goldblum et al. 2020, section 5.

All singular values of every convolution and dense layer, before, during and after training, natural or adversarial, and after
RankMin or RankMax. With train=false the spectra of a network as it is, such as those of a person's own .keras file.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np

from analysis.conv_operators import model_operators, model_spectra
from analysis.statistics import paired_difference, t_interval
from experiments import norms, options, ranks
from experiments.ranks import EDITS, SETTING, AdversaryConfig, EditConfig
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig

CLAIM = Claim(
    "Training draws the weights to low rank.",
    source="a bias to low rank is shown for linear networks, Arora et al. 2019; examined in Goldblum et al. 2020, section 5",
)
GRID = {"model": ["mlp", "convnet"], "epsilon": [0.0, 8.0], "seed": [0, 1, 2], "edit": list(EDITS), **ranks.EDIT_GRID}
MEASURES = {
    "untrained/rank": "relative effective rank before training",
    "trained/rank": "trained",
    "rank/relative": "at the end, edits included",
    "rank/effective": "effective rank, l1/l2 of the singular values, mean over layers",
    "rank/stable": "stable rank, (l2/max)^2",
    "rank/entropy": "entropy rank, exp of their entropy",
    "test/accuracy": "test accuracy",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="convnet", width=8)
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=15, batch_size=64, learning_rate=0.05)
    adversary: AdversaryConfig = AdversaryConfig()
    edit: EditConfig = EditConfig()
    train: bool = field(default=True, metadata={"help": "train the network; if not, its spectra as it is"})
    pad: bool = field(
        default=True, metadata={"help": "zero-pad inputs smaller than a kernel or no multiple of its strides, or refuse"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def __post_init__(self):
        adversary, edit = self.adversary, self.edit
        if not self.train:
            adversary, edit = dataclasses.replace(adversary, epsilon=0.0), dataclasses.replace(edit, edit="none")
        object.__setattr__(self, "adversary", adversary.relevant())
        object.__setattr__(self, "edit", edit.relevant())

    @property
    def label(self):
        return ranks.treatment(self.adversary.epsilon, self.edit.name, self.train).replace(", ", "-").replace(" ", "=")

    def validate(self):
        self.adversary.validate()
        self.edit.validate()


def check(config, data):
    model = ranks.build(config, data)
    model_operators(model, pad=config.pad)
    if config.edit.edit != "none":
        ranks.editable(model, config.pad)


def measure(config, data, run):
    model = ranks.build(config, data)
    numbers, arrays, spectra = ranks.spectrum_measures(model, config)
    run.histograms("singular_values", 0, spectra)
    result = {"untrained/rank": numbers["rank/relative"], **{f"untrained/{name}": value for name, value in arrays.items()}}
    if config.train:
        last = config.training.epochs
        epochs = {0, *np.unique(np.geomspace(1, last, 8).round().astype(int))}

        def probe(model, epoch):
            if epoch in epochs:
                spectra = model_spectra(getattr(model, "network", model), pad=config.pad).values()
                return {"relative": np.array([ranks.relative_rank(s.values) for s in spectra])}

        model, history = ranks.trained_base(config, data, run, probe=probe)
        result["diverged_epoch"] = history.diverged_epoch
        if history.diverged_epoch:
            return result
        course = {0: {"relative": arrays["relative_rank"]}, **history.probes}
        result["course/epochs"] = np.array(sorted(course))
        result["course/relative"] = np.array([course[e]["relative"] for e in sorted(course)])  # [epochs, layers]
        result["trained/rank"] = float(result["course/relative"][-1].mean())
        if config.edit.edit != "none":
            history = ranks.finetune(model, data, config, run)
            result.update(ranks.edit_measures(history.probes), diverged_epoch=history.diverged_epoch)
            if history.diverged_epoch:
                return result
        numbers, arrays, spectra = ranks.spectrum_measures(model, config)
        run.histograms("singular_values", last, spectra)
    result.update(norms.both_sets(model, data, config.training.loss))
    return {**result, **numbers, **arrays}


def trainings(table):
    """[(name, rows)]: one row per seed of each way of training; edited networks share it with the unedited one."""
    trained = table[table["train"].astype(bool)]
    if "trained/rank" not in trained:
        return []
    trained = trained.dropna(subset="trained/rank")
    groups = norms.networks(trained, Config, options.leaves(EditConfig))
    names = [ranks.readable(name) for name, _ in groups]
    return [(name, rows.drop_duplicates("seed")) for name, (_, rows) in zip(names, groups)]


def judge(results):
    groups = trainings(results.table)
    level = 1 - 0.05 / max(1, len(groups))
    test = (
        f"Per network and training, paired t-interval ({level:.4g} level, Bonferroni) over seeds of the change in relative "
        "effective rank (mean over layers) from before to after training. Supported where it falls in all, refuted "
        "where it rises in one."
    )
    if not groups:
        ranks_of = t_interval(results.table["rank/relative"]) if "rank/relative" in results.table else t_interval([])
        return Verdict("undecided", f"No trained network to compare (relative effective rank {ranks_of.mean:.3g}).", test)
    changes = {name: paired_difference(rows["trained/rank"], rows["untrained/rank"], level) for name, rows in groups}
    directions = {d.direction for d in changes.values()}
    outcome = "supported" if directions == {"less"} else "refuted" if "greater" in directions else "undecided"
    parts = [f"{name}: {d.mean:+.3g} [{d.low:.2g}, {d.high:.2g}] over {d.n} seeds" for name, d in changes.items()]
    return Verdict(outcome, f"Change of the relative effective rank by training: {'; '.join(parts)}.", test)


def figures(results):
    result = {}
    for model, rows in results.table.groupby("model", sort=False):
        name = model.split("/")[-1].removesuffix(".keras")
        lines = variants(results, rows)
        if lines:
            result[f"spectra_{name}"] = ranks.spectra(lines)
            result[f"effective_rank_{name}"] = ranks.by_layer(lines)
    groups = trainings(results.table)
    if groups:
        result["rank_over_training"] = course(results, groups)
    return result


def variants(results, rows):
    """[(name, [arrays of a seed])] of one model: untrained, and at the end of each training and edit."""
    rows = rows.sort_values("seed")
    several = [c for c in ("width", "depth", "batch_norm", "skip") if rows[c].astype(str).nunique() > 1]
    lines = []
    for key, group in rows.groupby(["train", "epsilon", *SETTING, *several], sort=False, dropna=False):
        name = ranks.treatment(key[1], EditConfig(*key[2:6]).relevant().name, key[0])
        name += "".join(f", {field}={value}" for field, value in zip(several, key[6:]))
        arrays = [results.arrays[identity] for identity in group["config_id"]]
        if key[0] and name.startswith("natural, plain"):
            start = [{k.removeprefix("untrained/"): v for k, v in a.items() if k.startswith("untrained/")} for a in arrays]
            lines.append((name.replace("natural, plain", "before training"), start))
        lines.append((name, [a for a in arrays if "relative_rank" in a]))
    return [(name, seeds) for name, seeds in lines if seeds]


def course(results, groups):
    """Mean relative effective rank over the epochs, one line per seed of each network and training."""
    figure, axes = plots.new(width=6, height=4)
    for (name, rows), style in zip(groups, plots.styles()):
        for i, identity in enumerate(rows["config_id"]):
            arrays = results.arrays[identity]
            axes[0, 0].plot(arrays["course/epochs"], arrays["course/relative"].mean(axis=1), label=name if i == 0 else None,
                            **{**style, "markersize": 4, "alpha": 0.8})  # fmt: skip
    axes[0, 0].set(xlabel="epoch", ylabel="relative effective rank, mean over layers", xscale="symlog")
    axes[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
