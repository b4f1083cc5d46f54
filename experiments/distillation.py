"""Is a network that imitates an affine optimum at a local minimum too?  After Goldblum et al. 2020, section 2.

The affine optimum is distilled into a network; then the network is trained on the true labels. Where it leaves the
teacher's loss, having the teacher's function was not enough: the embedding of Lemma 1 is a minimum by its parameters.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
from scipy.special import softmax

import models
from analysis.evaluation import evaluate, predict
from analysis.hessian import loss_and_gradient
from analysis.statistics import paired_difference
from experiments.affine_embedding import split
from experiments.networks import by_network
from experiments.norms import networks
from experiments.teacher import affine_optimum
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "A network that has learned the function of a suboptimal local minimum stays at its loss.",
    source="Goldblum et al. 2020, section 2 (the authors' distillation experiment)",
)
GRID = {"width": [32, 128], "seed": [0, 1, 2]}
MEASURES = {
    "teacher/loss": "teacher's loss",
    "distilled/loss": "loss after distillation",
    "distilled/agreement": "agreement with the teacher",
    "distilled/gradient_norm": "gradient norm there",
    "trained/loss": "loss after training on",
    "trained/test_accuracy": "test accuracy",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(model="mlp", width=64)
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=60, batch_size=64, learning_rate=0.05)
    distillation_epochs: int = field(default=60, metadata={"help": "epochs of imitating the affine optimum"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if self.distillation_epochs < 1:
            raise ValueError(f"distillation_epochs must be at least 1, got {self.distillation_epochs}")


def check(config, data):
    affine_optimum(data, config.training.loss)


def measure(config, data, run):
    training, loss = config.training, config.training.loss
    affine = affine_optimum(data, loss)
    outputs = [x.reshape(len(x), -1) @ affine.weight + affine.bias for x in (data.x_train, data.x_test)]
    # Cross-entropy against the teacher's probabilities is the Kullback-Leibler divergence up to a constant.
    soft = [(softmax(o, axis=1) if loss == "cross_entropy" else o).astype(np.float32) for o in outputs]
    imitation = dataclasses.replace(data, y_train=soft[0], y_test=soft[1])

    with scope(training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    plan = dataclasses.replace(training, epochs=config.distillation_epochs)
    history = fit(model, imitation, plan, seed=config.seed, run=run, stage="distillation")
    result = {"teacher/loss": affine.loss, "diverged_epoch": history.diverged_epoch}
    if history.diverged_epoch:
        return result
    result.update(split(config, model, data, "distilled"))
    result["distilled/imitation_loss"] = evaluate(model, data.x_train, soft[0], loss)[0]
    result["distilled/agreement"] = float(np.mean(predict(model, data.x_train).argmax(1) == outputs[0].argmax(1)))
    gradient = loss_and_gradient(model, data.x_train, data.y_train, loss)[1]
    result["distilled/gradient_norm"] = float(np.linalg.norm(gradient))

    history = fit(model, data, training, seed=config.seed, run=run, stage="training")
    result["diverged_epoch"] = history.diverged_epoch
    return result if history.diverged_epoch else {**result, **split(config, model, data, "trained")}


def judge(results):
    test = (
        "Paired t-interval (95 %) over seeds of the training loss after training on minus after distillation, per setting; "
        "refuted where every interval lies below 0."
    )
    differences, table = {}, results.table
    if "trained/loss" not in table:
        return Verdict("undecided", "Every network diverged.", test)
    for name, group in networks(table, Config, ()):  # what differs in anything but the seed is judged on its own
        pairs = group[["trained/loss", "distilled/loss"]].dropna()
        if len(pairs) > 1:
            differences[name] = paired_difference(pairs["trained/loss"], pairs["distilled/loss"])
    if not differences:
        return Verdict("undecided", "No network has two or more seeds that did not diverge.", test)
    reason = "; ".join(
        f"{name}: {d.mean:.3g} [{d.low:.3g}, {d.high:.3g}] over {d.n} seeds" for name, d in differences.items()
    )
    directions = {d.direction for d in differences.values()}
    outcome = "refuted" if directions == {"less"} else "undecided"
    return Verdict(outcome, f"Training on changes the loss of the distilled network by {reason}.", test)


def figures(results):
    """Training loss through distillation and training on, every seed, with the teacher's loss as a line."""
    groups = by_network(results.table, width=True)
    figure, axes = plots.new(1, len(groups), width=4.8, height=3.6)
    for axis, (name, group) in zip(axes.flat, groups):
        for i, (_, row) in enumerate(group.iterrows()):
            history = results.histories[row["config_id"]]
            first = history[history["stage"] == "distillation"]
            then = history[history["stage"] == "training"]
            if not len(then):
                continue  # diverged
            ends = [row["distilled/loss"], *then["train/loss"]]
            axis.plot(first["epoch"], first["train/loss"], ":", color=plots.COLOURS[0],
                      label="distillation: distance to the teacher" if i == 0 else None)  # fmt: skip
            axis.plot(range(len(first), len(first) + len(ends)), ends, "-", color=plots.COLOURS[3],
                      label="training on: loss on the labels" if i == 0 else None)  # fmt: skip
            axis.axhline(row["teacher/loss"], linestyle="--", color="black", label="teacher's loss" if i == 0 else None)
        axis.set(xlabel="epoch", ylabel="training loss", yscale="log", title=name)
        if axis.lines:
            axis.legend()
    return {"distillation": figure}
