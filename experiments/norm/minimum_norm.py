"""Does the norm of the minimum-norm solution tell how well it generalizes?  Zhang et al. 2017, section 5.

Kernel interpolation without regularization: alpha = K^+ Y, the solution of least norm, which gradient descent from 0
reaches. The squared norm tr(alpha' K alpha) against test error, over kernels on the same true labels, and over shares
of random labels.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel

from analysis.kernels import kernel_regression
from analysis.ntk import empirical_ntk
from analysis.statistics import RankCorrelation, rank_correlation
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, Test, decide
from judging.results import describe_network
from judging.verdict import Claim, Verdict
from judging.wording import field_label, field_text, format_correlation
from models import NetworkConfig
from reporting import figures as plots
from training.data import Data, DataConfig
from training.fit import build_network

CLAIM = Claim(
    "The norm of the minimum-norm solution tells how well it generalizes.",
    source="the minimum-norm intuition that Zhang et al. 2017, section 5, examine",
)
KERNELS = ("linear", "gaussian", "ntk")
NETWORK = NetworkConfig(width=256, depth=2, dtype="float64")
NETWORK_FIELDS = tuple(leaf.name for leaf in dataclasses.fields(NetworkConfig))
GRID = {
    "kernel": list(KERNELS),
    "bandwidth": [0.1, 0.3, 1.0, 3.0],
    "label_noise": [0.0, 0.5, 1.0],
    "train_size": [50, 500],
    "seed": [0, 1, 2, 3],
}
COLUMNS = {
    "norm": "norm of the solution",
    "test/error": "test error",
    "train/error": "training error",
    "residual": "relative residual on the training set",
    "condition": "condition number of the kernel",
    "rank": "rank of the kernel",
    "interpolates": "is the solution exact on the training set",
}
TABLE = ("norm", "test/error", "train/error", "residual", "condition")
EXACT = 1e-6  # relative residual of an interpolation
MIN_KERNELS = 5  # of a correlation: of the 24 orders of four kernels not one is rare enough to decide
EXACT_KERNELS = 7  # up to so many every order is counted (7! = 5040); beyond, the t approximation is as good
SMALLEST_ERROR = 1e-6  # a test error of 0 counts as this, which no test set is large enough to measure
MAX_IMAGES = 20000  # of the training set


@dataclass(frozen=True)
class Config:
    """The network matters for kernel=ntk only, the bandwidth for kernel=gaussian only: elsewhere both have defaults."""

    network: NetworkConfig = NETWORK
    data: DataConfig = DataConfig(train_size=500)
    kernel: str = field(default="gaussian", metadata={"help": f"kernel, one of {', '.join(KERNELS)}"})
    bandwidth: float = field(
        default=1.0, metadata={"help": "kernel=gaussian: sigma in units of the median distance of training images"}
    )
    seed: int = seed_field("weights and data subset")

    def __post_init__(self):
        if self.kernel != "ntk":
            object.__setattr__(self, "network", NETWORK)
        if self.kernel != "gaussian":
            object.__setattr__(self, "bandwidth", 1.0)

    def validate(self):
        if self.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {self.kernel!r}: allowed are {', '.join(KERNELS)}")
        if not (self.bandwidth > 0 and np.isfinite(self.bandwidth)):
            raise ValueError(f"bandwidth must be a finite number > 0, got {self.bandwidth}")
        if self.data.augment:
            raise ValueError("augment changes images in training, but minimum_norm solves a linear system")


def label(config: Config) -> str:
    return config.kernel + (f"-{config.bandwidth:g}" if config.kernel == "gaussian" else "")


def check(config, data, run):
    if len(data.x_train) > MAX_IMAGES:
        raise ValueError(
            f"the kernel of {len(data.x_train)} training images is too large to decompose: allowed are {MAX_IMAGES}, "
            "so use a smaller --train_size"
        )


def kernels(config: Config, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """(K [n, n], K of the test images [t, n]), scaled so that the mean of K(x, x) over the training set is 1.

    Without that scale a norm says nothing: c K has 1 / sqrt(c) of the norm of K, and the same predictions.
    """
    x, test = (a.reshape(len(a), -1).astype(np.float64) for a in (data.x_train, data.x_test))
    if config.kernel == "ntk":
        model = build_network(config, data)
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
    """The minimum-norm solution of a kernel: its norm, its errors on both sets, and whether it interpolates."""
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


def kernel_name(row) -> str:
    """`linear`, `Gaussian 0.3`, `NTK (mlp, depth 2, width 256)`: the kernel of a row with all that decides it."""
    if row["kernel"] != "ntk":
        return "linear" if row["kernel"] == "linear" else f"Gaussian {field_text(row['bandwidth'])}"
    others = [field_label(name, row[name]) for name in ("dropout", "dtype") if row[name] != getattr(NETWORK, name)]
    return f"NTK ({', '.join([describe_network(row), *others])})"


def by_kernel(group) -> dict[str, pd.DataFrame]:
    """{name: rows} of a group's kernels; networks of one name (width none, and the width that it means) are one."""
    result = {}
    for rows in group.split("kernel", "bandwidth", *NETWORK_FIELDS).values():
        result.setdefault(kernel_name(rows.iloc[0]), rows)
    return result


def over_kernels(kernels: dict) -> tuple[np.ndarray, np.ndarray, int]:
    """(log norms, log test errors, seeds) of the kernels on true labels, each the mean over its seeds."""
    true = [rows[rows["label_noise"] == 0] for rows in kernels.values()]
    true = [rows for rows in true if len(rows)]
    norms = np.array([np.log(rows["norm"]).mean() for rows in true])
    errors = np.array([np.log(rows["test/error"].clip(lower=SMALLEST_ERROR)).mean() for rows in true])
    return norms, errors, len({seed for rows in true for seed in rows["seed"]})


def over_noise(kernels: dict, confidence) -> dict[str, RankCorrelation]:
    """{kernel: rank correlation, over shares of random labels and seeds, of norm and test error}."""
    return {
        name: rank_correlation(rows["norm"], rows["test/error"], confidence)
        for name, rows in kernels.items() if rows["label_noise"].nunique() > 1
    }  # fmt: skip


def correlation_test(x, y, alternative) -> Test:
    """Is Spearman's correlation of x and y [n] above 0 (`greater`) or below (`less`)?  Exact with few kernels."""
    if len(x) > EXACT_KERNELS:
        return Test(float(stats.spearmanr(x, y, alternative=alternative).pvalue), len(x))
    x, y = (stats.rankdata(values) for values in (x, y))
    y = y - y.mean()
    found = stats.permutation_test(
        (x,), lambda x, axis: (x * y).sum(axis=axis), permutation_type="pairings", vectorized=True,
        n_resamples=np.inf, alternative=alternative,
    )  # fmt: skip
    return Test(float(found.pvalue), len(x))


def negligible_test(correlation, margin, n) -> Test:
    """Is the correlation over n kernels below the margin?  Fisher's transform, with the standard error of Bonett &
    Wright 2000; a perfect correlation counts as one that is a swap away from it.
    """
    nearest = 1 - 12 / (n * (n**2 - 1))
    r = float(np.clip(correlation, -nearest, nearest))
    error = np.sqrt((1 + r**2 / 2) / (n - 3))
    return Test(float(special.ndtr((np.arctanh(r) - np.arctanh(margin)) / error)), n)


def group_name(group) -> str:
    """What sets a training set apart; its size where nothing does."""
    return group.label or field_label("train_size", group.first["train_size"])


def judge(results):
    """The rank correlation of norm and test error among the exact solutions of each training set, over its kernels.

    Seeds only make the values of a kernel more precise: other kernels might be ordered in another way.
    """
    margin = results.margins["margin"]
    test = (
        "Spearman's correlation over kernels of norm and test error, mean logarithms over seeds, among solutions on "
        f"true labels that are exact on their training set; kernels are what is sampled, and {MIN_KERNELS} the least "
        f"number. Supported where it is above 0 (permutation test), refuted where it is below 0 or below {margin:g} "
        "(Fisher's transform). The correlation over label noise is not judged. More kernels would decide, not seeds."
    )
    groups = results.measured("norm", "test/error", "interpolates").groups()
    if not groups:
        return Verdict("undecided", "No solution was measured.", test)
    findings = [correlate(group, margin, results.confidence) for group in groups]
    return decide(results, findings, test, opening="Correlation of norm and test error: ")


def correlate(group, margin, confidence) -> Finding:
    """Norms and test errors of the kernels of a Group, which is one training set."""
    exact = {name: rows[rows["interpolates"].astype(bool)] for name, rows in by_kernel(group).items()}
    found = sum(len(rows) for rows in exact.values())
    text = f"{found} of {len(group.rows)} solutions are exact"
    norms, errors, seeds = over_kernels(exact)
    n = len(norms)
    correlation = rank_correlation(norms, errors, confidence)
    text += f", over {n} kernels {format_correlation(correlation)} (means over {seeds} seeds)"
    if n < MIN_KERNELS:
        text += f", where a verdict needs {MIN_KERNELS} kernels"
    if noise := over_noise(exact, confidence):
        text += ", over label noise " + ", ".join(f"{name}: {format_correlation(r)}" for name, r in noise.items())
    if n < MIN_KERNELS or np.isnan(correlation.correlation):
        return Finding(group_name(group), text)
    return Finding(
        group_name(group),
        text,
        supports=(Statement("error rises with the norm", (correlation_test(norms, errors, "greater"),)),),
        refutes=(
            Statement("error falls with the norm", (correlation_test(norms, errors, "less"),)),
            Statement(
                "correlated by less than the margin", (negligible_test(correlation.correlation, margin, n),)
            ),
        ),
    )


def figures(results):
    """Test error against the norm of every solution: a colour and marker per kernel, fuller for truer labels."""
    groups = results.measured("norm", "test/error", "interpolates").groups()
    if not groups:
        return {}
    figure, axes = plots.panel_grid(len(groups), width=4.6, height=4)
    looks, endless, handles = {}, plots.styles(), {}
    for axis, group in zip(axes, groups):
        for name, rows in by_kernel(group).items():
            if name not in looks:
                looks[name] = next(endless)  # the same in every panel
            for _, row in rows.iterrows():
                point = plot_solution(axis, row, looks[name])
                if row["label_noise"] == results.table["label_noise"].min():
                    handles.setdefault(name, point)
        axis.set(xlabel="norm of the solution", ylabel="test error", xscale="log", ylim=(0, 1), title=group_name(group))
    figure.legend(handles.values(), handles, loc="outside right center",
                  title="full: true labels\nwhite: random labels\ngrey: in between\npale: not exact")  # fmt: skip
    return {"error_against_norm": figure}


def plot_solution(axis, row, style):
    """One solution: its face says how true its labels were, and it is pale where it is not exact; returns the point."""
    edge, p = style["color"], row["label_noise"]
    face, alpha = edge if p == 0 else "white" if p == 1 else "0.8", 1 if row["interpolates"] else 0.35
    (point,) = axis.plot(row["norm"], row["test/error"], linestyle="none", marker=style["marker"], markersize=6,
                         markeredgecolor=edge, markerfacecolor=face, alpha=alpha)  # fmt: skip
    return point


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(),
    apart=("kernel", "bandwidth", "label_noise", *NETWORK_FIELDS),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=label,
    margins={"margin": (0.3, "rank correlation of norm and test error over kernels")},
)
