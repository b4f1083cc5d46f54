"""Does the norm of the minimum-norm solution tell how well it generalises?  Zhang et al. 2017, section 5.

Kernel interpolation without regularization: alpha = K^+ Y, the solution of least norm that gradient descent from 0 reaches. The
squared norm tr(alpha' K alpha) against test error, over kernels on the same true labels, and over shares of random labels.
"""
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel

import models
from analysis.kernels import kernel_regression
from analysis.ntk import empirical_ntk
from analysis.statistics import rank_correlation, t_interval
from experiments.networks import short
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig

CLAIM = Claim(
    "The norm of the minimum-norm solution tells how well it generalises.",
    source="the minimum-norm intuition that Zhang et al. 2017, section 5, examine",
)
KERNELS = ("linear", "gaussian", "ntk")
NETWORK = NetworkConfig(width=256, depth=2, dtype="float64")
GRID = {
    "kernel": list(KERNELS),
    "bandwidth": [0.1, 0.3, 1.0, 3.0],
    "label_noise": [0.0, 0.5, 1.0],
    "train_size": [50, 500],
    "seed": [0, 1, 2, 3],
}
MEASURES = {
    "norm": "norm of the solution",
    "test/error": "test error",
    "train/error": "training error",
    "residual": "relative residual on the training set",
    "condition": "condition number of the kernel",
}
EXACT = 1e-6  # relative residual of an interpolation
ENOUGH = 3  # seeds
LARGEST = 20000  # training images


@dataclass(frozen=True)
class Config:
    """The network matters for kernel=ntk only, the bandwidth for kernel=gaussian only: elsewhere they keep their defaults."""

    network: NetworkConfig = NETWORK
    data: DataConfig = DataConfig(train_size=500)
    kernel: str = field(default="gaussian", metadata={"help": f"kernel, one of {', '.join(KERNELS)}"})
    bandwidth: float = field(
        default=1.0, metadata={"help": "kernel=gaussian: sigma in units of the median distance of training images"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights and data subset; 0,1,2 for several"})

    def __post_init__(self):
        if self.kernel != "ntk":
            object.__setattr__(self, "network", NETWORK)
        if self.kernel != "gaussian":
            object.__setattr__(self, "bandwidth", 1.0)

    @property
    def label(self):
        return self.kernel + (f"-{self.bandwidth:g}" if self.kernel == "gaussian" else "")

    def validate(self):
        if self.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {self.kernel!r}: allowed are {', '.join(KERNELS)}")
        if not (self.bandwidth > 0 and np.isfinite(self.bandwidth)):
            raise ValueError(f"bandwidth must be a finite number > 0, got {self.bandwidth}")
        if self.data.augment:
            raise ValueError("augment changes images in training, but minimum_norm solves a linear system")


def check(config, data):
    if len(data.x_train) > LARGEST:
        raise ValueError(
            f"the kernel of {len(data.x_train)} training images is too large to decompose: allowed are {LARGEST}, so use a "
            "smaller --train_size"
        )


def kernels(config, data):
    """(K [n, n], K of the test images [t, n]), scaled so that the mean of K(x, x) over the training set is 1.

    Without that scale a norm says nothing: c K has 1 / sqrt(c) of the norm of K, and the same predictions.
    """
    x, test = (a.reshape(len(a), -1).astype(np.float64) for a in (data.x_train, data.x_test))
    if config.kernel == "ntk":
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
        pair = (
            empirical_ntk(model, data.x_train, outputs="trace"),
            empirical_ntk(model, data.x_test, data.x_train, outputs="trace"),
        )
    elif config.kernel == "linear":
        pair = linear_kernel(x), linear_kernel(test, x)
    else:
        # The median over some images does for a unit; all pairs of thousands would need gigabytes.
        sigma = config.bandwidth * np.median(pdist(x[:2000]))
        pair = tuple(rbf_kernel(a, x, gamma=1 / (2 * sigma**2)) for a in (x, test))
    scale = np.trace(pair[0]) / len(x)
    return pair[0] / scale, pair[1] / scale


def measure(config, data, run):
    kernel, cross = kernels(config, data)
    centre = 1 / data.num_classes  # so that 0, where no training image reaches, favours no class
    y = data.y_train.astype(np.float64) - centre
    # Both sets in one product: the training predictions are part of what has to be exact.
    found = kernel_regression(kernel, y, np.concatenate([kernel, cross]))
    predicted = found.predictions.argmax(axis=1)
    n = len(y)
    return {
        "norm": float(np.sqrt(np.sum(found.coefficients * (kernel @ found.coefficients)))),
        "test/error": float(np.mean(predicted[n:] != data.y_test.argmax(axis=1))),
        "train/error": float(np.mean(predicted[:n] != data.y_train.argmax(axis=1))),
        "residual": found.relative_residual,
        "condition": found.condition_number,
        "rank": found.rank,
        "interpolates": bool(found.relative_residual < EXACT),
    }


def kernel_name(row):
    """`linear`, `Gaussian, 0.3`, `NTK, mlp`."""
    if row["kernel"] == "ntk":
        parts = [short(row["model"])] + [f"{f} {row[f]}" for f in ("depth", "width") if row[f] == row[f] and row[f] is not None]
        return "NTK, " + " ".join(map(str, parts)).replace(".0", "")
    return "linear" if row["kernel"] == "linear" else f"Gaussian, {row['bandwidth']:g}"


def over_kernels(rows):
    """Interval over seeds of the rank correlation, over kernels on the same true labels, of norm and test error."""
    chosen = rows[rows["label_noise"] == 0]
    by_seed = [group for _, group in chosen.groupby("seed") if len(group) > 2]
    return t_interval([rank_correlation(group["norm"], group["test/error"]).correlation for group in by_seed])


def over_noise(rows):
    """{kernel: rank correlation, over shares of random labels and seeds, of norm and test error}."""
    groups = dict(list(rows.groupby(rows.apply(kernel_name, axis=1), sort=False)))
    return {name: rank_correlation(group["norm"], group["test/error"])
            for name, group in groups.items() if group["label_noise"].nunique() > 1}  # fmt: skip


def outcome(kernels_interval, noise):
    """What one training set says, from both correlations of norm and test error."""
    if kernels_interval.n < ENOUGH:
        return "undecided"
    if kernels_interval.high < 0 or any(r.high < 0 for r in noise.values()):
        return "refuted"
    if kernels_interval.low > 0 and all(r.low > 0 for r in noise.values()):
        return "supported"
    return "undecided"


def data_sets(table):
    """[(name, rows)] by everything of the data but its label noise."""
    fields = ["dataset", "train_size", "test_size", "normalize", "pixel_noise"]
    varying = [f for f in fields if table[f].nunique() > 1 or f == "train_size"]
    names = {"train_size": lambda v: f"n = {v or 'all'}"}
    return [
        (", ".join(names.get(f, lambda v: str(v))(rows[f].iloc[0]) for f in varying), rows)
        for _, rows in table.groupby(fields, sort=False)
    ]


def judge(results):
    test = (
        "Spearman's correlation of norm and test error among solutions that are exact on their training set: over kernels "
        f"on the same true labels (t-interval over at least {ENOUGH} seeds), per kernel over label noise and seeds. "
        "Supported where all intervals (95 %) lie above 0 in every training set, refuted where one lies below."
    )
    parts, outcomes = [], set()
    for name, rows in data_sets(results.table):
        exact = rows[rows["interpolates"].astype(bool)]
        correlation, noise = over_kernels(exact), over_noise(exact) if len(exact) else {}
        outcomes.add(outcome(correlation, noise))
        text = f"{name} ({outcome(correlation, noise)}): {len(exact)} of {len(rows)} solutions are exact"
        if correlation.n:
            bounds = f"[{correlation.low:.2g}, {correlation.high:.2g}]"
            text += f"; over kernels {correlation.mean:.2g} {bounds} ({correlation.n} seeds)"
        if noise:
            text += "; over label noise " + ", ".join(
                f"{kernel}: {r.correlation:.2g} [{r.low:.2g}, {r.high:.2g}]" for kernel, r in noise.items()
            )
        parts.append(text)
    verdict = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(verdict, "Correlation of norm and test error: " + ". ".join(parts) + ".", test)


def figures(results):
    """Test error against the norm of every solution: a colour and marker per kernel, the fuller the truer its labels."""
    groups = data_sets(results.table)
    figure, axes = plots.new(1, len(groups), width=4.6, height=4)
    handles = {}
    for axis, (name, rows) in zip(axes.flat, groups):
        for (kernel, group), style in zip(rows.groupby(rows.apply(kernel_name, axis=1), sort=False), plots.styles()):
            for _, row in group.iterrows():
                edge, exact = style["color"], bool(row["interpolates"])
                face = edge if row["label_noise"] == 0 else "white" if row["label_noise"] == 1 else "0.8"
                (point,) = axis.plot(row["norm"], row["test/error"], linestyle="none", marker=style["marker"], markersize=6,
                                     markeredgecolor=edge, markerfacecolor=face, alpha=1 if exact else 0.35)  # fmt: skip
                if row["label_noise"] == results.table["label_noise"].min():
                    handles.setdefault(kernel, point)
        axis.set(xlabel="norm of the solution", ylabel="test error", xscale="log", ylim=(0, 1), title=name)
    figure.legend(handles.values(), handles, loc="outside right center",
                  title="full: true labels\nwhite: random labels\ngrey: in between\npale: not exact")  # fmt: skip
    return {"error_against_norm": figure}
