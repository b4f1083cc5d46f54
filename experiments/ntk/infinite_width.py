"""How fast does the NTK of a finite network approach its infinite-width limit?  Jacot et al. 2018; Lee et al. 2019.

At initialization, in NTK parameterization: the exact kernel of the finite network against the limit in closed form.
"""
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from analysis.infinite_width_kernels import ARCHITECTURES, limit_kernels
from analysis.ntk import empirical_ntk
from analysis.statistics import t_interval
from experiments.ntk.limit_networks import build_finite, check_network, check_variances, groups_by_architecture
from harness.experiment import Experiment, seed_field
from judging.decision import Finding, Statement, above, below, decide, within
from judging.results import Group, Results
from judging.trends import format_trend, width_trend
from judging.verdict import Claim, Verdict
from judging.wording import format_interval
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig

CLAIM = Claim(
    "The NTK of a finite network approaches the infinite-width limit at a rate of about width^(-1/2).",
    source="Jacot et al. 2018; Lee et al. 2019",
)
GRID = {"depth": [1, 3], "width": [16, 32, 64, 128, 256, 512, 1024], "seed": list(range(6))}
COLUMNS = {
    "ntk/distance": "distance of the NTK from its limit",
    "ntk/trace_distance": "of the trace over logits",
    "ntk/mean_ratio": "mean diagonal / limit's",
}
TABLE = tuple(COLUMNS)
RATE = -0.5
DEFAULT_DEPTH = 3  # hidden layers where --depth is not given


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(activation="erf")
    data: DataConfig = DataConfig()
    architecture: str = field(default="fcn", metadata={"help": f"one of {', '.join(ARCHITECTURES)} (3x3, circular)"})
    weight_variance: float = field(default=1.5, metadata={"help": "variance of weights, times fan-in"})
    bias_variance: float = field(default=0.1, metadata={"help": "variance of biases"})
    ntk_sample: int = field(default=20, metadata={"help": "training images of the kernel, class-balanced"})
    seed: int = seed_field("weights and data subset")

    def validate(self) -> None:
        check_network(self)
        if self.ntk_sample < 2:
            raise ValueError(f"ntk_sample must be at least 2 images, got {self.ntk_sample}")
        check_variances(weight_variance=[self.weight_variance], bias_variance=[self.bias_variance])


def label(config: Config) -> str:
    return f"{config.architecture}-sw2={config.weight_variance:g}-sb2={config.bias_variance:g}"


def check(config: Config, data: Data, run: Run) -> None:
    data.first_balanced(config.ntk_sample)  # refuses more images than there are


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Relative Frobenius distances between a finite network's NTK on a sample of images and the limit of width."""
    x, _ = data.first_balanced(config.ntk_sample)
    depth = config.network.depth or DEFAULT_DEPTH
    model = build_finite(config, data, weight_variance=config.weight_variance, depth=depth)
    kernel = empirical_ntk(model, x)  # [n, k, n, k]
    # [n, n]; of the full kernel: times the identity in the logits
    _, limit = limit_kernels(
        x, architecture=config.architecture, activation=config.network.activation, depth=depth,
        weight_variance=config.weight_variance, bias_variance=config.bias_variance,
    )  # fmt: skip
    trace = np.einsum("iaja->ij", kernel) / data.num_classes
    off = kernel - limit[:, None, :, None] * np.eye(data.num_classes)[None, :, None, :]
    return {
        "ntk/distance": float(np.linalg.norm(off) / (np.linalg.norm(limit) * data.num_classes**0.5)),
        "ntk/trace_distance": float(np.linalg.norm(trace - limit) / np.linalg.norm(limit)),
        "ntk/mean_ratio": float(np.mean(np.diag(trace) / np.diag(limit))),
        "heat/finite": trace,
        "heat/limit": limit,
    }


def judge(results: Results) -> Verdict:
    """Is the exponent of the width, over seeds, about -1/2 in every network?"""
    margin = results.margins["margin"]
    test = (
        "Per network, t-tests over seeds of the exponent of the width in the relative Frobenius distance between the "
        "finite network's NTK [n, k, n, k] and its limit (least-squares slopes in log-log). Supported where it lies "
        f"within {RATE} +- {margin:g} (two one-sided tests), refuted where it lies outside."
    )
    if not len(results.measured("ntk/distance")):
        return Verdict("undecided", "No network was measured.", test)
    return decide(results, [find(group, margin, results.confidence) for group in groups_by_architecture(results)], test)


def find(group: Group, margin: float, confidence: float) -> Finding:
    """The exponent of the width in one Group, and the distance at its largest width."""
    trend = width_trend(group, "ntk/distance", power_law=True, level=confidence)
    if trend is None:
        return Finding(group.label, "no width, so no trend")
    widest = max(group.by_width)
    distance = format_interval(t_interval(group.by_width[widest]["ntk/distance"], confidence), 2)
    return Finding(
        group.label,
        f"{format_trend(trend, power_law=True)}, distance {distance} at width {widest}",
        supports=(Statement("at the rate", within(trend.slope, RATE - margin, RATE + margin)),),
        refutes=(
            Statement("faster than the rate", (below(trend.slope, RATE - margin),)),
            Statement("slower than the rate", (above(trend.slope, RATE + margin),)),
        ),
    )


def figures(results: Results) -> dict[str, Figure]:
    """Distance from the limit, beside lines of the claimed rate, and mean diagonal over the limit's, against width."""
    groups = [group for group in groups_by_architecture(results.measured("ntk/distance")) if group.by_width]
    if not groups:
        return {}
    figure, axes = plots.new(1, 2, width=5)
    plots.against_width(axes[0, 0], groups, "ntk/distance", "relative distance of the NTK from its limit", log=True)
    plots.against_width(axes[0, 1], groups, "ntk/mean_ratio", "mean diagonal of the NTK / of its limit")
    for i, group in enumerate(groups):
        widths = np.array(list(group.by_width))
        first = plots.log_interval(group.by_width[widths[0]]["ntk/distance"]).mean
        claimed = first * (widths / widths[0]) ** RATE
        text = "width$^{-1/2}$" if i == 0 else None
        axes[0, 0].plot(widths, claimed, ":", color="0.5", linewidth=1, zorder=0, label=text)
    axes[0, 1].axhline(1, color="0.5", linewidth=1)
    axes[0, 0].legend()
    return {"infinite_width": figure}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=(),
    apart=("width",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    label=label,
    margins={"margin": (0.1, f"exponent of the width, around {RATE}")},
)
