"""Does the norm of the minimum-norm solution tell how well it generalizes?  Zhang et al. 2017, section 5.

Kernel interpolation without regularization: alpha = K^+ Y, the solution of least norm, which gradient descent from 0
reaches. The squared norm tr(alpha' K alpha) against test error, over kernels on the same true labels. Kernels are what
is sampled: `kernel=drawn` takes the kernel number `draw` of a fixed random sequence. A norm depends on the scale of its
kernel, c K having 1 / sqrt(c) of the norm of K and the same predictions, so two scales are judged. Shares of random
labels illustrate, and decide nothing: within one kernel noise raises both norm and error.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import special
from scipy.linalg import eigvalsh
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel

from analysis.arc_cosine import ORDERS, arc_cosine_kernel
from analysis.infinite_width_kernels import ACTIVATIONS, limit_kernels
from analysis.kernels import kernel_regression
from analysis.ntk import empirical_ntk
from analysis.statistics import RankCorrelation, rank_correlation, spearman_p
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, Test, decide
from judging.results import Group, Results, describe_network
from judging.verdict import Claim, Verdict
from judging.wording import field_label, field_text, format_correlation
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import build_network

CLAIM = Claim(
    "The norm of the minimum-norm solution tells how well it generalizes.",
    source="the minimum-norm intuition that Zhang et al. 2017, section 5, examine",
)
KERNELS = ("linear", "gaussian", "laplace", "arc_cosine", "limit_ntk", "ntk")
DRAWN = "drawn"  # stands for the kernel of a draw
NETWORK = NetworkConfig(width=256, depth=2, dtype="float64")
NETWORK_FIELDS = tuple(leaf.name for leaf in dataclasses.fields(NetworkConfig))
GRID = {
    "kernel": [DRAWN],
    "draw": list(range(40)),
    "label_noise": [0.0],
    "train_size": [50, 500],
    "seed": [0, 1, 2],
}
COLUMNS = {
    "norm": "norm of the solution, mean of K(x, x) being 1",
    "norm/largest_eigenvalue": "norm, largest eigenvalue being n",
    "test/error": "test error",
    "train/error": "training error",
    "residual": "relative residual on the training set",
    "condition": "condition number of the kernel",
    "rank": "rank of the kernel",
    "interpolates": "is the solution exact on the training set",
}
TABLE = ("norm", "norm/largest_eigenvalue", "test/error", "train/error", "residual", "condition")
EXACT = 1e-6  # relative residual of an interpolation
MIN_KERNELS = 20  # of a verdict: fewer are a choice of examples and no sample
FAMILIES = {"gaussian": "Gaussian", "laplace": "Laplacian", "arc_cosine": "arc-cosine",
            "limit_ntk": "NTK of infinite width", "ntk": "NTK of a network"}  # fmt: skip
NORMS = {"norm": "scaled to a mean diagonal of 1",
         "norm/largest_eigenvalue": "scaled to a largest eigenvalue of n"}  # fmt: skip
SMALLEST_ERROR = 1e-6  # a test error of 0 counts as this, which no test set is large enough to measure
MAX_IMAGES = 20000  # of the training set


# What each kernel uses; elsewhere these fields have their defaults.
USED = {
    "gaussian": ("bandwidth",),
    "laplace": ("bandwidth",),
    "arc_cosine": ("order", "kernel_depth"),
    "limit_ntk": ("kernel_activation", "kernel_depth", "weight_variance", "bias_variance"),
    DRAWN: ("draw",),
}


def draw_kernel(number: int) -> dict:
    """{field: value} of kernel `number` of the random sequence, the same for every data set and seed.

    Family: Gaussian, Laplacian, arc-cosine or NTK of infinite width, each as likely. Bandwidths are log-uniform over
    0.1 to 3 median distances; depths uniform over 1 to 5 hidden layers; orders and activations uniform; the variance of
    weights log-uniform over 0.5 to 4, that of biases uniform over 0 to 0.5. Three digits, so that names are short.
    """
    rng = np.random.default_rng([number, 47])
    kernel = str(rng.choice(["gaussian", "laplace", "arc_cosine", "limit_ntk"]))
    values = {
        "bandwidth": np.exp(rng.uniform(np.log(0.1), np.log(3.0))),
        "order": int(rng.choice(ORDERS)),
        "kernel_depth": int(rng.integers(1, 6)),
        "kernel_activation": str(rng.choice(ACTIVATIONS)),
        "weight_variance": np.exp(rng.uniform(np.log(0.5), np.log(4.0))),
        "bias_variance": rng.uniform(0.0, 0.5),
    }
    values = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}
    return {"kernel": kernel, **{name: values[name] for name in USED[kernel]}}


@dataclass(frozen=True)
class Config:
    """What a kernel does not use has its default. kernel=drawn becomes the kernel of its draw, and forgets the draw."""

    network: NetworkConfig = NETWORK
    data: DataConfig = DataConfig(train_size=500)
    kernel: str = field(default="gaussian", metadata={"help": f"kernel, one of {', '.join((*KERNELS, DRAWN))}"})
    bandwidth: float = field(
        default=1.0,
        metadata={"help": "kernel=gaussian or laplace: sigma in units of the median distance of training images"},
    )
    order: int = field(default=1, metadata={"help": "kernel=arc_cosine: 0, 1 or 2", "added": True})
    kernel_depth: int = field(
        default=1, metadata={"help": "kernel=arc_cosine or limit_ntk: hidden layers", "added": True}
    )
    kernel_activation: str = field(
        default="relu", metadata={"help": f"kernel=limit_ntk: one of {', '.join(ACTIVATIONS)}", "added": True}
    )
    weight_variance: float = field(default=2.0, metadata={"help": "kernel=limit_ntk: of weights", "added": True})
    bias_variance: float = field(default=0.1, metadata={"help": "kernel=limit_ntk: of biases", "added": True})
    draw: int | None = field(
        default=None, metadata={"help": "kernel=drawn: number in a fixed sequence of random kernels", "added": True}
    )
    seed: int = seed_field("weights and data subset")

    def __post_init__(self):
        changes = {} if self.kernel == "ntk" else {"network": NETWORK}
        defaults = {leaf.name: leaf.default for leaf in dataclasses.fields(self)}
        unused = {name for names in USED.values() for name in names} - {*USED.get(self.kernel, ())}
        changes.update({name: defaults[name] for name in unused})
        if self.kernel == DRAWN:
            given = [name for name in sorted(unused) if getattr(self, name) != defaults[name]]
            if given:
                raise ValueError(f"{' and '.join(given)} would be drawn: name the --kernel that it belongs to")
            if self.draw is None or self.draw < 0:
                raise ValueError(f"kernel=drawn needs a draw, a number from 0 on, got {self.draw}")
            changes |= {**draw_kernel(self.draw), "draw": None}
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    def validate(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {self.kernel!r}: allowed are {', '.join((*KERNELS, DRAWN))}")
        for name in ("bandwidth", "weight_variance"):
            if not (getattr(self, name) > 0 and np.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)}")
        if not (self.bias_variance >= 0 and np.isfinite(self.bias_variance)):
            raise ValueError(f"bias_variance must be a finite number >= 0, got {self.bias_variance}")
        for name, allowed in (("order", ORDERS), ("kernel_activation", ACTIVATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)}")
        if self.kernel_depth < 1:
            raise ValueError(f"kernel_depth must be at least 1, got {self.kernel_depth}")
        if self.data.augment:
            raise ValueError("augment changes images in training, but minimum_norm solves a linear system")


KERNEL_FIELDS = ("kernel", *dict.fromkeys(name for names in USED.values() for name in names), *NETWORK_FIELDS)


def label(config: Config) -> str:
    if config.kernel in ("gaussian", "laplace"):
        return f"{config.kernel}-{config.bandwidth:g}"
    values = dataclasses.asdict(config)
    return "-".join([config.kernel, *(f"{name}={values[name]}" for name in USED.get(config.kernel, ()))])


def check(config: Config, data: Data, run: Run) -> None:
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
    elif config.kernel == "arc_cosine":
        pair = tuple(arc_cosine_kernel(a, x, order=config.order, depth=config.kernel_depth) for a in (x, test))
    elif config.kernel == "limit_ntk":
        options = {
            "architecture": "fcn", "activation": config.kernel_activation, "weight_variance": config.weight_variance,
            "bias_variance": config.bias_variance, "depth": config.kernel_depth,
        }  # fmt: skip
        pair = limit_kernels(x, **options)[1], limit_kernels(test, x, **options)[1]
    else:
        # The median over some images does for a unit; all pairs of thousands would need gigabytes.
        sigma = config.bandwidth * np.median(pdist(x[:2000]))
        if config.kernel == "laplace":
            pair = tuple(np.exp(-cdist(a, x) / sigma) for a in (x, test))
        else:
            pair = tuple(rbf_kernel(a, x, gamma=1 / (2 * sigma**2)) for a in (x, test))
    scale = np.trace(pair[0]) / len(x)
    return pair[0] / scale, pair[1] / scale


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The minimum-norm solution of a kernel: its norm, its errors on both sets, and whether it interpolates."""
    kernel, cross = kernels(config, data)
    centre = 1 / data.num_classes  # so that 0, where no training image reaches, favours no class
    y = data.y_train.astype(np.float64) - centre
    # Both sets in one product: the training predictions are part of what has to be exact.
    found = kernel_regression(kernel, y, np.concatenate([kernel, cross]))
    predicted = found.predictions.argmax(axis=1)
    n = len(y)
    norm = float(np.sqrt(np.sum(found.coefficients * (kernel @ found.coefficients))))
    (largest,) = eigvalsh(kernel, subset_by_index=[n - 1, n - 1])
    return {
        "norm": norm,
        "norm/largest_eigenvalue": norm * float(np.sqrt(largest / n)),
        "test/error": float(np.mean(predicted[n:] != data.y_test.argmax(axis=1))),
        "train/error": float(np.mean(predicted[:n] != data.y_train.argmax(axis=1))),
        "residual": found.relative_residual,
        "condition": found.condition_number,
        "rank": found.rank,
        "interpolates": bool(found.relative_residual < EXACT),
    }


def kernel_name(row: dict) -> str:
    """`linear`, `Gaussian 0.3`, `NTK (mlp, depth 2, width 256)`: the kernel of a row with all that decides it."""
    if row["kernel"] in ("gaussian", "laplace"):
        return f"{'Gaussian' if row['kernel'] == 'gaussian' else 'Laplacian'} {field_text(row['bandwidth'])}"
    if row["kernel"] == "arc_cosine":
        return f"arc-cosine (order {row['order']}, depth {row['kernel_depth']})"
    if row["kernel"] == "limit_ntk":
        variances = f"variances {field_text(row['weight_variance'])}, {field_text(row['bias_variance'])}"
        return f"NTK of infinite width ({row['kernel_activation']}, depth {row['kernel_depth']}, {variances})"
    if row["kernel"] != "ntk":
        return row["kernel"]
    others = [field_label(name, row[name]) for name in ("dropout", "dtype") if row[name] != getattr(NETWORK, name)]
    return f"NTK ({', '.join([describe_network(row), *others])})"


def name_kernels(group: Group) -> pd.Series:
    """The name of each row's kernel. Networks of one name are one network (width none, and the width that it means),
    and the rows of the first alone are named.
    """
    fields = [name for name in KERNEL_FIELDS if name in group.rows]
    keys = group.keys(*fields)
    firsts, names, owners = {}, {}, {}
    for position, key in enumerate(keys):
        firsts.setdefault(key, position)
    for key, row in zip(firsts, group.rows[fields].iloc[list(firsts.values())].to_dict("records")):
        names[key] = kernel_name(row)
        owners.setdefault(names[key], key)
    named = [owners[names[key]] == key for key in keys]
    return pd.Series([names[key] for key in keys], group.rows.index)[named]


def over_kernels(rows: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """({norm: logarithms}, log test errors, seeds) of the kernels on true labels, each the mean over its seeds."""
    true = rows[rows["label_noise"] == 0]
    logs = pd.DataFrame({name: np.log(true[name]) if name in true else np.nan for name in NORMS}, true.index)
    logs["error"] = np.log(true["test/error"].clip(lower=SMALLEST_ERROR))
    means = logs.assign(name=true["name"]).groupby("name", sort=False).mean()
    return {name: means[name].to_numpy() for name in NORMS}, means["error"].to_numpy(), true["seed"].nunique()


def over_noise(rows: pd.DataFrame, confidence: float) -> dict[str, RankCorrelation]:
    """{kernel: rank correlation, over shares of random labels and seeds, of norm and test error}."""
    if rows["label_noise"].nunique() < 2:
        return {}
    return {
        name: rank_correlation(found["norm"], found["test/error"], confidence)
        for name, found in rows.groupby("name", sort=False) if found["label_noise"].nunique() > 1
    }  # fmt: skip


def correlation_test(found: RankCorrelation, sign: int) -> Test:
    """Is a RankCorrelation above 0 (sign 1), or below (sign -1)?"""
    return Test(spearman_p(sign * found.correlation, found.n), found.n)


def negligible_test(correlation: float, margin: float, n: int) -> Test:
    """Is the correlation over n kernels below the margin?  Fisher's transform, with the standard error of Bonett &
    Wright 2000; a perfect correlation counts as one that is a swap away from it.
    """
    nearest = 1 - 12 / (n * (n**2 - 1))
    r = float(np.clip(correlation, -nearest, nearest))
    error = np.sqrt((1 + r**2 / 2) / (n - 3))
    return Test(float(special.ndtr((np.arctanh(r) - np.arctanh(margin)) / error)), n)


def group_name(group: Group) -> str:
    """What sets a training set apart; its size where nothing does."""
    return group.label or field_label("train_size", group.first["train_size"])


def judge(results: Results) -> Verdict:
    """The rank correlation of norm and test error among the exact solutions of each training set, over its kernels.

    Seeds only make the values of a kernel more precise: other kernels might be ordered in another way. Both scales of
    a kernel have to say the same, in either direction.
    """
    margin = results.margins["margin"]
    test = (
        "Spearman's correlation over kernels of norm and test error, mean logarithms over seeds, among solutions on "
        f"true labels that are exact on their training set (relative residual below {EXACT:g}); kernels are what is "
        f"sampled, and {MIN_KERNELS} the least number. Norms are compared at two scales of the kernels, a mean "
        "diagonal of 1 and a largest eigenvalue of n. "
        f"Supported where it is above 0 at both scales, refuted where it is below 0, or below {margin:g} (Fisher's "
        "transform), at both. The correlation over label noise is not judged. More kernels would decide, not seeds."
    )
    groups = results.measured("norm", "test/error", "interpolates").groups()
    if not groups:
        return Verdict("undecided", "No solution was measured.", test)
    findings = [correlate(group, margin, results.confidence) for group in groups]
    return decide(results, findings, test, opening="Correlation of norm and test error: ")


def correlate(group: Group, margin: float, confidence: float) -> Finding:
    """Norms and test errors of the kernels of a Group, which is one training set."""
    names = name_kernels(group)
    exact = group.rows.loc[names.index].assign(name=names)
    exact = exact[exact["interpolates"].astype(bool)]
    text = f"{len(exact)} of {len(group.rows)} solutions are exact"
    norms, errors, seeds = over_kernels(exact)
    n = len(errors)
    found = {name: rank_correlation(values, errors, confidence) for name, values in norms.items()}
    shown = ", ".join(f"{format_correlation(found[name])} {words}" for name, words in NORMS.items())
    text += f", over {n} kernels {shown} (means over {seeds} seeds)"
    if n < MIN_KERNELS:
        text += f", where a verdict needs {MIN_KERNELS} kernels"
    if noise := over_noise(exact, confidence):
        text += ", over label noise " + ", ".join(f"{name}: {format_correlation(r)}" for name, r in noise.items())
    if n < MIN_KERNELS or any(np.isnan(one.correlation) or one.n < n for one in found.values()):
        return Finding(group_name(group), text)

    def both(test):
        return tuple(test(name) for name in NORMS)

    return Finding(
        group_name(group),
        text,
        supports=(
            Statement("error rises with the norm", both(lambda name: correlation_test(found[name], 1))),
        ),
        refutes=(
            Statement("error falls with the norm", both(lambda name: correlation_test(found[name], -1))),
            Statement(
                "correlated by less than the margin",
                both(lambda name: negligible_test(found[name].correlation, margin, n)),
            ),
        ),
    )


def figures(results: Results) -> dict[str, Figure]:
    """Test error against both norms of every solution: a colour and marker per family of kernels."""
    groups = results.measured("norm", "test/error", "interpolates").groups()
    if not groups:
        return {}
    shown = [name for name in NORMS if name in results.table]
    figure, axes = plots.new(len(groups), len(shown), width=4.6, height=4)
    looks, endless, handles = {}, plots.styles(), {}
    for row_of_axes, group in zip(axes, groups):
        for axis, norm in zip(row_of_axes, shown):
            for kernel, rows in group.split("kernel").items():
                if kernel not in looks:
                    looks[kernel] = next(endless)  # the same in every panel
                for _, row in rows.iterrows():
                    point = plot_solution(axis, row, norm, looks[kernel])
                    if row["label_noise"] == results.table["label_noise"].min():
                        handles.setdefault(FAMILIES.get(kernel, kernel), point)
            axis.set(xlabel=f"norm, kernel {NORMS[norm]}", ylabel="test error", xscale="log", title=group_name(group))
            axis.xaxis.set_minor_formatter("")  # two decades or less: its numbers would run into each other
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4,
                  title="full: true labels; white: random labels; grey: in between; pale: not exact")  # fmt: skip
    return {"error_against_norm": figure}


def plot_solution(axis: Axes, row: pd.Series, norm: str, style: dict) -> Line2D:
    """One solution: its face says how true its labels were, and it is pale where it is not exact; returns the point."""
    edge, p = style["color"], row["label_noise"]
    face, alpha = edge if p == 0 else "white" if p == 1 else "0.8", 1 if row["interpolates"] else 0.35
    (point,) = axis.plot(row[norm], row["test/error"], linestyle="none", marker=style["marker"], markersize=6,
                         markeredgecolor=edge, markerfacecolor=face, alpha=alpha)  # fmt: skip
    return point


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(),
    apart=(*KERNEL_FIELDS, "label_noise"),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=label,
    margins={"margin": (0.3, "rank correlation of norm and test error over kernels")},
)
