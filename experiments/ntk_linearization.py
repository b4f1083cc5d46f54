"""Is a trained network the kernel machine of its NTK?  Jacot et al. 2018; Lee et al. 2019; Goldblum et al. 2020.

The network, trained on the squared loss, against the network linearised at its start,
f0(x) + Theta0(x, X) Theta0(X, X)^-1 (Y - f0(X)), and against kernel regression with the NTK after training.
"""
from dataclasses import dataclass, field

import numpy as np

import models
from analysis.evaluation import predict, score
from analysis.kernels import kernel_regression
from analysis.ntk import empirical_ntk
from analysis.statistics import paired_difference, t_interval
from experiments.affine_embedding import ended
from experiments.networks import actual_width, against_width, by_network, describe_trend, trends, without_trend
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "A wide trained network is the kernel machine of its initial NTK.",
    source="Jacot et al. 2018; Lee et al. 2019; examined in Goldblum et al. 2020, section 4",
)
GRID = {"width": [32, 128, 512], "seed": [0, 1, 2]}
MEASURES = {
    "initial/distance": "distance of the linearised network",
    "final/distance": "of the final NTK's regression",
    "trained/test_accuracy": "test accuracy, network",
    "initial/test_accuracy": "linearised",
    "final/test_accuracy": "final NTK",
    "initial/condition": "condition number of the initial NTK",
    "trained/accuracy": "training accuracy, network",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=2)
    data: DataConfig = DataConfig(normalize=False, train_size=100)
    training: TrainingConfig = TrainingConfig(loss="squared", epochs=400, learning_rate=0.02, momentum=0.9)
    ridge: float = field(default=0.0, metadata={"help": "ridge added to the kernel; 0 for interpolation"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if not self.ridge >= 0:
            raise ValueError(f"ridge must be 0 or positive, got {self.ridge}")
        if self.training.loss != "squared":
            raise ValueError(f"linearization compares with a regression: loss must be squared, got {self.training.loss}")


def check(config, data):
    size = len(data.x_train) * data.num_classes
    if size > 20000:
        raise ValueError(
            f"the kernel of {len(data.x_train)} images and {data.num_classes} classes is a {size} x {size} matrix, too large "
            "to solve: allowed are 20000 rows, so use a smaller --train_size"
        )


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    x, test = data.x_train, data.x_test
    start = [predict(model, inputs).astype(np.float64) for inputs in (x, test)]
    initial = kernel_regression(
        empirical_ntk(model, x), data.y_train - start[0], empirical_ntk(model, test, x), start[1], ridge=config.ridge
    )
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    final = kernel_regression(empirical_ntk(model, x), data.y_train, empirical_ntk(model, test, x), ridge=config.ridge)
    network = predict(model, test).astype(np.float64)
    result = {"diverged_epoch": None, **ended("trained", config, model, data, history)}
    for name, regression in (("initial", initial), ("final", final)):
        loss, accuracy = score(regression.predictions, data.y_test, "squared")
        # In units of how far training moved the network's own test predictions.
        moved = np.linalg.norm(network - start[1])
        result.update(
            {
                f"{name}/test_loss": loss,
                f"{name}/test_accuracy": accuracy,
                f"{name}/distance": float(np.linalg.norm(regression.predictions - network) / moved),
                f"{name}/agreement": float(np.mean(regression.predictions.argmax(1) == network.argmax(1))),
                f"{name}/condition": regression.condition_number,
                f"{name}/rank": regression.rank,
                f"{name}/residual": regression.relative_residual,
            }
        )
    return result


def judge(results):
    test = (
        "Supported where the distance between the network's and the linearised network's test predictions falls with width "
        "(over seeds: t-interval of its power of the width, Page's test) and their test accuracies at the largest width do not "
        "differ measurably (paired t-interval, 95 %); refuted where the distance does not fall and the accuracies differ."
    )
    table = results.table
    if "initial/distance" not in table:
        return Verdict("undecided", "Every network diverged.", test)
    parts, outcomes = [], set()
    for name, trend in trends(table, "initial/distance", power_law=True).items():
        rows = dict(by_network(table))[name]
        widest = rows[rows.apply(actual_width, axis=1) == rows.apply(actual_width, axis=1).max()]
        gap = paired_difference(widest["trained/test_accuracy"], widest["initial/test_accuracy"])
        distance = t_interval(widest["initial/distance"])
        closer, differ = trend.direction == "decreasing", gap.direction != "undecided"
        same = closer and gap.n > 1 and not differ
        outcomes.add("supported" if same else "refuted" if differ and not closer else "undecided")
        parts.append(
            f"{name}: distance {describe_trend(trend, power_law=True)}, at the largest width {distance.mean:.2g}; network "
            f"minus linearised test accuracy there {gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}] over {gap.n} seeds"
        )
    if not parts:
        measured = "; ".join(
            f"{name}: distance {rows['initial/distance'].mean():.2g}, test accuracy "
            f"{rows['trained/test_accuracy'].mean():.3g}, linearised {rows['initial/test_accuracy'].mean():.3g}"
            for name, rows in by_network(table)
        )
        return Verdict("undecided", f"{without_trend(table)}. Measured: {measured}.", test)
    outcome = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(outcome, "; ".join(parts) + ".", test)


def figures(results):
    table = results.table
    if "initial/distance" not in table:
        return {}
    figure, axes = plots.new(1, 2, width=5, height=4)
    against_width(axes[0, 0], table, "initial/distance", "distance of test predictions / movement")
    axes[0, 0].legend(title="linearised at the start, against the network")
    kinds = {"trained": "network", "initial": "linearised at the start", "final": "final NTK"}
    against_width(axes[0, 1], table, {f"{k}/test_accuracy": label for k, label in kinds.items()}, "test accuracy")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    return {"linearization": figure}
