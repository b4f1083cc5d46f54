"""Is a network that imitates an affine optimum at a local minimum too?  After Goldblum et al. 2020, section 2.

The affine optimum is distilled into a network; then the network is trained on the true labels. Where it leaves the
teacher's loss, having the teacher's function was not enough: the embedding of Lemma 1 is a minimum by its parameters.
Further training lowers almost any loss, so the same training is given to two controls: the affine model at its optimum,
which has the function and nowhere to go, and the same network trained from scratch on the labels down to the loss of
the distilled one, which has the loss without the function.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import softmax

import models
from analysis.affine_minimum import AffineMinimum
from analysis.evaluation import evaluate, evaluate_splits, predict
from analysis.hessian import loss_and_gradient
from analysis.parameters import set_parameters
from analysis.statistics import paired_difference, t_interval
from experiments.local_minima.affine_start import affine_optimum
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, below, decide, within
from judging.results import Group, Results, positive
from judging.verdict import Claim, Verdict
from judging.wording import format_factor, format_interval
from models import NetworkConfig
from models.redraw import redraw
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network, fit, scope

CLAIM = Claim(
    "A network that has learned the function of a suboptimal local minimum stays at its loss.",
    source="Goldblum et al. 2020, section 2 (the authors' distillation experiment)",
)
GRID = {"width": [32, 128], "seed": [0, 1, 2]}
COLUMNS = {
    "teacher/loss": "teacher's loss",
    **evaluation_columns("distilled", "after distillation"),
    "distilled/train/loss": "loss after distillation",
    "distilled/imitation_loss": "loss against the teacher's outputs after distillation",
    "distilled/agreement": "agreement with the teacher",
    "distilled/gradient_norm": "gradient norm there",
    **evaluation_columns("trained", "after training on"),
    "trained/train/loss": "loss after training on",
    "trained/test/accuracy": "test accuracy",
    "affine/train/loss": "affine model after the same training",
    "comparable/epochs": "epochs from scratch to that loss",
    "comparable/train/loss": "loss of a network from scratch",
    "control/train/loss": "that network after the same training",
}
TABLE = (
    "teacher/loss", "distilled/train/loss", "distilled/agreement", "distilled/gradient_norm", "trained/train/loss",
    "affine/train/loss", "comparable/train/loss", "control/train/loss", "trained/test/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=64)
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=60, batch_size=64, learning_rate=0.05)
    distillation_epochs: int = field(default=60, metadata={"help": "epochs of imitating the affine optimum"})
    seed: int = seed_field()

    def validate(self) -> None:
        if self.distillation_epochs < 1:
            raise ValueError(f"distillation_epochs must be at least 1, got {self.distillation_epochs}")


def check(config: Config, data: Data, run: Run) -> None:
    affine_optimum(config, data, run)  # refuses data on which cross-entropy has none


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Distil the affine optimum into the network, then train on with the labels; both ends on both sets."""
    training, loss = config.training, config.training.loss
    affine = affine_optimum(config, data, run)
    outputs = [x.reshape(len(x), -1) @ affine.weight + affine.bias for x in (data.x_train, data.x_test)]
    # Cross-entropy against the teacher's probabilities is the Kullback-Leibler divergence up to a constant.
    soft = [(softmax(o, axis=1) if loss == "cross_entropy" else o).astype(np.float32) for o in outputs]
    imitation = dataclasses.replace(data, y_train=soft[0], y_test=soft[1])

    model = build_network(config, data)
    plan = dataclasses.replace(training, epochs=config.distillation_epochs)
    history = fit(model, imitation, plan, seed=config.seed, run=run, stage="distillation")
    result = {"teacher/loss": affine.loss, "diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    result.update(evaluate_splits(model, data, loss, "distilled"))
    result["distilled/imitation_loss"] = evaluate(model, data.x_train, soft[0], loss)[0]
    result["distilled/agreement"] = float(np.mean(predict(model, data.x_train).argmax(1) == outputs[0].argmax(1)))
    gradient = loss_and_gradient(model, data.x_train, data.y_train, loss)[1]
    result["distilled/gradient_norm"] = float(np.linalg.norm(gradient))

    history = fit(model, data, training, seed=config.seed, run=run, stage="training")
    result["diverged_epoch"] = history.diverged_epoch
    if history.diverged_epoch:
        return result
    result.update(evaluate_splits(model, data, loss, "trained"))
    return {
        **result,
        **train_affine(config, data, run, affine),
        **train_comparable(config, data, run, result["distilled/train/loss"]),
    }


def train_affine(config: Config, data: Data, run: Run, affine: AffineMinimum) -> dict[str, float]:
    """The same further training of the affine model at its optimum; nothing where it diverged."""
    with scope(config.training):
        model = models.mlp(
            data.input_shape, data.num_classes, depth=0, seed=config.seed, dtype=config.network.dtype, name="affine"
        )
    set_parameters(model, np.concatenate([affine.weight.ravel(), affine.bias.ravel()]))
    history = fit(model, data, config.training, seed=config.seed, run=run, stage="affine")
    if history.diverged_epoch:
        return {}
    return {"affine/train/loss": evaluate(model, data.x_train, data.y_train, config.training.loss)[0]}


def train_comparable(config: Config, data: Data, run: Run, target: float) -> dict[str, float]:
    """The same network trained on the labels until its training loss is at most `target`, and then as further training.

    Nothing where it diverged, or did not get there within the epochs of training.
    """
    training, stage = config.training, "comparable"
    model = build_network(config, data)
    if config.network.model.endswith(".keras"):  # from scratch, and not from the file's weights
        model.set_weights(redraw(model, config.seed))

    def loss():
        return evaluate(model, data.x_train, data.y_train, training.loss)[0]

    def probe(trained, epoch):
        if loss() <= target:
            trained.stop_training = True
            return {"reached": np.array(epoch)}

    state = run.load_checkpoint(stage) or {"arrays": {}, "rows": []}
    reached = any(name.startswith("probe/") for name in state["arrays"])  # interrupted after this stage: it is done
    plan = dataclasses.replace(training, epochs=len(state["rows"])) if reached else training
    history = fit(model, data, plan, seed=config.seed, run=run, stage=stage, probe=probe)
    if history.diverged_epoch or not history.probes:
        return {}
    result = {"comparable/epochs": max(history.probes), "comparable/train/loss": loss()}
    history = fit(model, data, training, seed=config.seed, run=run, stage="control")
    return result if history.diverged_epoch else {**result, "control/train/loss": loss()}


def judge(results: Results) -> Verdict:
    """Does training on lower the training loss of the distilled network by more than the margin, or not move it?"""
    factor = results.margins["margin_factor"]
    test = (
        "One-sided paired t-tests over seeds, per setting (runs alike in all but the seed): log10 of the training loss "
        f"after training on minus after distillation. Refuted where training on lowers the loss by more than a factor "
        f"of {factor:g}, and by more than that beyond what it does to the affine model; supported where it changes the "
        "loss by less than that, in either direction."
    )
    groups = results.measured("distilled/train/loss", "trained/train/loss").groups()
    if not groups:
        return Verdict("undecided", "Every network diverged.", test)
    findings = [compare_losses(group, factor, results.confidence) for group in groups]
    return decide(results, findings, test, opening="Training on changes the loss of the distilled network: ")


def logarithms(rows: pd.DataFrame, column: str) -> np.ndarray:
    """log10 of a column of losses, [rows]; nan where the rows lack it."""
    return np.log10(positive(rows, column))


def compare_losses(group: Group, factor: float, confidence: float) -> Finding:
    """The training loss of a Group's networks after training on against after distillation, paired by seed.

    The controls: the affine model, from the teacher's loss; and a network from scratch, from a comparable loss.
    """
    rows, limit = group.rows, np.log10(factor)
    change = paired_difference(rows["trained/train/loss"], rows["distilled/train/loss"], confidence)
    after, before = (logarithms(rows, f"{stage}/train/loss") for stage in ("trained", "distilled"))
    ratio = paired_difference(after, before, confidence)
    affine = logarithms(rows, "affine/train/loss") - logarithms(rows, "teacher/loss")
    scratch = logarithms(rows, "control/train/loss") - logarithms(rows, "comparable/train/loss")
    lower, text = (below(ratio, -limit),), ""
    if np.isfinite(affine).any():  # results of earlier versions have no controls
        beyond = paired_difference(after - before, affine, confidence)
        lower += (below(beyond, -limit),)
        text += f"; the affine model's goes to {format_factor(t_interval(affine, confidence))} times"
    if np.isfinite(scratch).any():
        text += (
            f"; that of a network from scratch, from a comparable loss, to "
            f"{format_factor(t_interval(scratch, confidence))} times"
        )
    return Finding(
        group.label,
        f"by {format_interval(change)}, to {format_factor(ratio)} times, over {ratio.n} seeds{text}",
        supports=(Statement("it stays", within(ratio, -limit, limit)),),
        refutes=(Statement("training on lowers it by more than the margin", lower),),
    )


def figures(results: Results) -> dict[str, Figure]:
    """Training loss through distillation and training on, every seed, with the teacher's loss as a line."""
    distilled = results.measured("distilled/train/loss")
    kept = np.array([len(results.histories.get(name, ())) > 0 for name in distilled.table["config_id"]], bool)
    groups = dataclasses.replace(distilled, table=distilled.table[kept]).groups()
    if not groups:
        return {}
    figure, axes = plots.panel_grid(len(groups), 4, height=3.6)
    for axis, group in zip(axes, groups):
        for i, (_, row) in enumerate(group.rows.iterrows()):
            history = results.histories[row["config_id"]]
            first = history[history["stage"] == "distillation"]
            ends = [row["distilled/train/loss"], *history["train/loss"][history["stage"] == "training"]]
            axis.plot(first["epoch"], first["train/loss"], ":", color=plots.COLOURS[0],
                      label="distillation: distance to the teacher" if i == 0 else None)  # fmt: skip
            axis.plot(range(len(first), len(first) + len(ends)), ends, "-", color=plots.COLOURS[3],
                      label="training on: loss on the labels" if i == 0 else None)  # fmt: skip
            axis.axhline(row["teacher/loss"], linestyle="--", color="black", label="teacher's loss" if i == 0 else None)
        axis.set(xlabel="epoch", ylabel="training loss", yscale="log", title=group.label)
        axis.legend()
    return {"distillation": figure}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("distillation", "training", "affine", "comparable", "control"),
    apart=(),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    former_columns={
        **former_evaluation_columns("distilled", "distilled"),
        **former_evaluation_columns("trained", "trained"),
    },
    margins={"margin_factor": (1.1, "training loss after distillation over that after training on")},
    max_seeds=12,
)
