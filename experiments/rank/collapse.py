"""Do features go on collapsing to a simplex of class means once the training error is zero?  Papyan et al. 2020.

Papyan, Han & Donoho 2020 (2008.08186): in the terminal phase of training, from zero training error on, features fall to
their class means (NC1), the centred means to a simplex of equal lengths and largest angles (NC2), the classifier to the
means (NC3), and the network decides by the nearest class mean (NC4). Measured along training, on both sets, from the
first measured epoch without a training error to the last; with classes of equal or of unequal size.
"""
import dataclasses
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collapse import class_means, last_layer, neural_collapse
from analysis.evaluation import evaluate_splits
from analysis.features import penultimate_features
from analysis.statistics import t_interval
from harness.experiment import Experiment, evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide, fact
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_factor
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, ask_network, build_network, fit

CLAIM = Claim(
    "Past zero training error, last-layer features collapse to a simplex of class means, and the classifier to them.",
    source="neural collapse, NC1 to NC4: Papyan et al. 2020",
)
GRID = {"depth": [2, 3], "seed": [0, 1, 2]}
MEASURES = {"nc1": "NC1", "nc2_norms": "NC2, lengths", "nc2_angles": "NC2, angles", "nc3": "NC3", "nc4": "NC4"}
JUDGED = ("nc1", "nc2_norms", "nc2_angles", "nc3")  # those that fall towards 0; NC4 is a count
NEAREST = 0.01  # NC4: the network decides like the nearest class mean on all but this share of the training images
POINTS = 60  # measurements along training
LOWEST = 1e-12  # below which a measure counts as this: its logarithm is taken
COLUMNS = {
    "fitted/epoch": "first measured epoch without a training error",
    **{f"fitted/{name}": f"{text} there" for name, text in MEASURES.items()},
    "fitted/test_accuracy": "test accuracy there",
    **{f"change/{name}": f"{MEASURES[name]}, at the end / there" for name in JUDGED},
    **{f"end/{name}": f"{text} at the end" for name, text in MEASURES.items()},
    **{f"end/test_{name}": f"{text} at the end, test set" for name, text in MEASURES.items()},
    **evaluation_columns(),
}
TABLE = ("fitted/epoch", *(f"change/{name}" for name in JUDGED), "end/nc1", "end/nc4", "end/test_nc1", "test/accuracy")


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(depth=3, width=128)
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig(
        epochs=300, learning_rate=0.05, batch_size=128, regularizer="weight_decay", coefficient=5e-4
    )
    minority: float = field(
        default=1.0, metadata={"help": "share of its training images that the second half of the classes keeps"}
    )
    seed: int = seed_field()

    def validate(self) -> None:
        if not 0 < self.minority <= 1:
            raise ValueError(f"minority must be a share in (0, 1], got {self.minority}")


def check(config: Config, data: Data, run: Run) -> None:
    ask_network("last layer", config, data, run, lambda model: last_layer(model).name)
    thin_out(data, config.minority)  # refuses a class that would be empty


def thin_out(data: Data, share: float) -> Data:
    """The data with only the first `share` of the training images of each class in the second half of the classes."""
    if share == 1:
        return data
    labels = data.y_train.argmax(axis=1)
    kept = np.ones(len(labels), bool)
    for label in range((data.num_classes + 1) // 2, data.num_classes):
        members = np.flatnonzero(labels == label)
        count = round(share * len(members))
        if not count:
            raise ValueError(f"minority {share} of the {len(members)} training images of class {label} is none of them")
        kept[members[count:]] = False
    return dataclasses.replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept])


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The collapse along training: at the first measured epoch without a training error, and at the end."""
    data = thin_out(data, config.minority)
    model = build_network(config, data)
    probe = collapse_probe(model, data, every=max(1, config.training.epochs // POINTS), last=config.training.epochs)
    history = fit(model, data, config.training, seed=config.seed, run=run, probe=probe)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    return {
        "diverged_epoch": None,
        **summarize(history.probes, config.training.epochs),
        **evaluate_splits(model, data, config.training.loss),
    }


def collapse_probe(model: keras.Model, data: Data, *, every: int, last: int) -> Callable:
    """A probe for `fit`: {measure: array of (training set, test set)}, every so many epochs and at the last one."""
    classifier = last_layer(model)
    labels, test_labels = data.y_train.argmax(axis=1), data.y_test.argmax(axis=1)

    def probe(model, epoch):
        if epoch % every and epoch != last:
            return None
        kernel, bias = classifier.kernel.numpy(), classifier.bias.numpy() if classifier.use_bias else 0.0
        kernel = kernel.astype(np.float64)
        train, test = (penultimate_features(model, x) for x in (data.x_train, data.x_test))
        means = class_means(train, labels, data.num_classes)
        found = [
            {
                **dataclasses.asdict(neural_collapse(h, y, kernel, bias, means)),
                "accuracy": np.mean((h @ kernel + bias).argmax(axis=1) == y),
            }
            for h, y in ((train, labels), (test, test_labels))
        ]
        return {name: np.array([part[name] for part in found]) for name in found[0]}

    return probe


def summarize(probes: dict[int, dict[str, np.ndarray]], last: int) -> dict[str, object]:
    """Measures of one training from its probes, {epoch: {measure: (training set, test set)}}; `last` epoch.

    A change is only taken of a terminal phase that is at least as long as what came before it.
    """
    epochs = sorted(probes)
    curves = {name: np.array([probes[epoch][name] for epoch in epochs]) for name in probes[last]}  # [points, 2]
    result = {f"end/{name}": float(curves[name][-1, 0]) for name in MEASURES}
    result |= {f"end/test_{name}": float(curves[name][-1, 1]) for name in MEASURES}
    result |= {"curve/epochs": np.array(epochs), **{f"curve/{name}": curve for name, curve in curves.items()}}
    fitted = np.flatnonzero(curves["accuracy"][:, 0] == 1)
    if not len(fitted):
        return result
    first = fitted[0]
    result |= {f"fitted/{name}": float(curves[name][first, 0]) for name in MEASURES}
    result |= {"fitted/epoch": epochs[first], "fitted/test_accuracy": float(curves["accuracy"][first, 1])}
    if last >= 2 * epochs[first]:
        lowest = {name: np.maximum(curves[name][:, 0], LOWEST) for name in JUDGED}
        result |= {f"change/{name}": float(lowest[name][-1] / lowest[name][first]) for name in JUDGED}
    return result


def judge(results: Results) -> Verdict:
    """Does each of NC1 to NC3 fall over the terminal phase, and does the network decide as NC4 says at its end?"""
    factor = results.margins["margin_factor"]
    test = (
        "Over seeds: t-tests of log10 of each measure at the end over the same at the first measured epoch without a "
        "training error, at which at most half of the training was over. Supported where all of them fall (NC1, both "
        f"of NC2, NC3) and in every run at most {NEAREST:.0%} of the training images are decided unlike the nearest "
        f"class mean (NC4, a count); refuted where one of them falls by less than a factor of {factor:g}."
    )
    if not len(results.measured("end/nc1")):
        return Verdict("undecided", "Every network diverged.", test)
    results = results.measured("end/nc1")
    return decide(results, [find_group(group, factor, results.confidence) for group in results.groups()], test)


def find_group(group: Group, factor: float, confidence: float) -> Finding:
    """What the terminal phase did to the measures of one Group."""
    columns = [f"change/{name}" for name in JUDGED]
    rows = group.rows
    rows = rows[rows[columns].notna().all(axis=1)] if set(columns) <= set(rows) else rows.iloc[:0]
    short = len(group.rows) - len(rows)
    if not len(rows):
        return Finding(group.label, "no run had half of its epochs left when its training error was zero")
    changes = {name: t_interval(np.log10(rows[f"change/{name}"]), confidence) for name in JUDGED}
    nearest = fact(bool((rows["end/nc4"] <= NEAREST).all()) and not short)
    gain = 100 * (rows["test/accuracy"] - rows["fitted/test_accuracy"]).mean()
    described = ", ".join(f"{name} {format_factor(change)}" for name, change in changes.items())
    return Finding(
        group.label,
        f"from zero training error to the end {described} times over {len(rows)} seeds; at the end at most "
        f"{100 * rows['end/nc4'].max():.1f} % decided unlike the nearest class mean; test accuracy {gain:+.1f} points"
        + (f"; {short} of {len(group.rows)} runs were at zero training error too late or never" if short else ""),
        supports=(
            Statement("the features collapse", (*(below(change, single=True) for change in changes.values()), nearest)),
        ),
        refutes=tuple(
            Statement(f"{name} falls by less than {factor:g}", (above(change, -np.log10(factor), single=True),))
            for name, change in changes.items()
        ),
    )


def figures(results: Results) -> dict[str, Figure]:
    """NC1 to NC4 over the epochs, on both sets, a line a run; and the epoch of zero training error."""
    results = results.measured("end/nc1")
    if not len(results):
        return {}
    groups = results.groups()
    figure, axes = plots.new(len(groups), len(MEASURES), width=3.4, height=2.9)
    for line, group in zip(axes, groups):
        for axis, (name, text) in zip(line, MEASURES.items()):
            draw(axis, results, group, name)
            lowest, highest = axis.dataLim.intervaly
            if name == "nc1" and highest > 10 * lowest:
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0)  # complete collapse
            axis.set_title(text, loc="left")
        line[0].set_ylabel(textwrap.fill(group.label, width=24))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return {"collapse_over_epochs": figure}


def draw(axis: Axes, results: Results, group: Group, name: str) -> None:
    """One measure of one Group over the epochs: a line a run and set, and when the training error was zero."""
    for position, (identity, fitted) in enumerate(zip(group.rows["config_id"], fitted_epochs(group.rows))):
        arrays = results.arrays[identity]
        for split, (where, style) in enumerate(zip(("training set", "test set"), plots.styles())):
            look = {"color": style["color"], "linestyle": ("-", "--")[split], "linewidth": 1.1}
            label = None if position else where
            axis.plot(arrays["curve/epochs"], arrays[f"curve/{name}"][:, split], label=label, **look)
        if fitted:
            axis.axvline(fitted, color="0.5", linewidth=0.8, linestyle=":",
                         label=None if position else "zero training error")  # fmt: skip
    axis.set(xlabel="epoch", xscale="log")


def fitted_epochs(rows: pd.DataFrame) -> list[float | None]:
    """The epoch of zero training error of every row, None where there was none."""
    if "fitted/epoch" not in rows:
        return [None] * len(rows)
    return [None if np.isnan(epoch) else epoch for epoch in rows["fitted/epoch"].astype(float)]


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=(),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    margins={"margin_factor": (1.1, "each of NC1 to NC3 at zero training error over its value at the end")},
    max_seeds=5,
)
