"""How fast does the NTK of a finite network approach its infinite-width limit?  Jacot et al. 2018; Lee et al. 2019.

At initialization, in NTK parameterisation: the exact kernel of the finite network against the limit in closed form.
"""
from dataclasses import dataclass, field

import numpy as np

from analysis.kernel_limit import ACTIVATIONS, ARCHITECTURES, limit_kernels
from analysis.ntk import empirical_ntk
from analysis.statistics import t_interval
from experiments.networks import actual_width, by_network, describe_trend, trends
from models import NetworkConfig
from models.ntk_parameterized import ntk_parameterized
from reporting import figures as plots
from reporting.verdict import Claim, Verdict
from training.data import DataConfig

CLAIM = Claim(
    "The NTK of a finite network approaches the infinite-width limit at a rate of about width^(-1/2).",
    source="Jacot et al. 2018; Lee et al. 2019",
)
GRID = {"depth": [1, 3], "width": [16, 32, 64, 128, 256, 512, 1024], "seed": list(range(6))}
MEASURES = {
    "ntk/distance": "distance of the NTK from its limit",
    "ntk/trace_distance": "of the trace over logits",
    "ntk/mean_ratio": "mean diagonal / limit's",
}
RATE, TOLERANCE = -0.5, 0.1  # "about": the exponent's interval must lie within this of the rate


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig(activation="erf")
    data: DataConfig = DataConfig()
    architecture: str = field(default="fcn", metadata={"help": f"one of {', '.join(ARCHITECTURES)} (3x3, circular)"})
    weight_variance: float = field(default=1.5, metadata={"help": "variance of weights, times fan-in"})
    bias_variance: float = field(default=0.1, metadata={"help": "variance of biases"})
    ntk_sample: int = field(default=20, metadata={"help": "training images of the kernel, class-balanced"})
    seed: int = field(default=0, metadata={"help": "seed of weights and data subset; 0,1,2 for several"})

    @property
    def label(self):
        return f"{self.architecture}-sw2={self.weight_variance:g}-sb2={self.bias_variance:g}"

    def validate(self):
        check_network(self)
        if self.ntk_sample < 2:
            raise ValueError(f"ntk_sample must be at least 2 images, got {self.ntk_sample}")
        check_variances(weight_variance=[self.weight_variance], bias_variance=[self.bias_variance])


def check_variances(*, weight_variance, bias_variance):
    if not all(0 < v < np.inf for v in weight_variance):
        raise ValueError(f"weight variances must be finite and > 0, got {weight_variance}")
    if not all(0 <= v < np.inf for v in bias_variance):
        raise ValueError(f"bias_variance must be finite and >= 0, got {bias_variance}")


def check_network(config):
    """The networks are built here, in NTK parameterisation: of NetworkConfig they have width, depth, activation, dtype."""
    network = config.network
    if network.model != "mlp" or network.widths or network.dropout:
        raise ValueError(
            "this experiment builds its own networks, in NTK parameterisation, from --architecture, --width, --depth and "
            "--activation; it takes no --model, --widths or --dropout"
        )
    if network.activation not in ACTIVATIONS:
        raise ValueError(f"activation must have kernels in closed form ({', '.join(ACTIVATIONS)}), got {network.activation!r}")
    if config.architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {config.architecture!r}: allowed are {', '.join(ARCHITECTURES)}")


def check(config, data):
    data.sample(config.ntk_sample)  # refuses more images than there are


def measure(config, data, run):
    network = config.network
    x, _ = data.sample(config.ntk_sample)
    setting = {
        "architecture": config.architecture,
        "activation": network.activation,
        "weight_variance": config.weight_variance,
        "bias_variance": config.bias_variance,
        "depth": network.depth or 3,
    }
    model = ntk_parameterized(
        data.input_shape, data.num_classes, width=actual_width({"width": network.width, "model": "mlp"}), seed=config.seed,
        dtype=network.dtype, **setting,
    )  # fmt: skip
    kernel = empirical_ntk(model, x)  # [n, k, n, k]
    _, limit = limit_kernels(x, **setting)  # [n, n]; of the full kernel: times the identity in the logits
    trace = np.einsum("iaja->ij", kernel) / data.num_classes
    off = kernel - limit[:, None, :, None] * np.eye(data.num_classes)[None, :, None, :]
    return {
        "ntk/distance": float(np.linalg.norm(off) / (np.linalg.norm(limit) * data.num_classes**0.5)),
        "ntk/trace_distance": float(np.linalg.norm(trace - limit) / np.linalg.norm(limit)),
        "ntk/mean_ratio": float(np.mean(np.diag(trace) / np.diag(limit))),
        "heat/finite": trace,
        "heat/limit": limit,
    }


def groups(table):
    """[(name, rows)] of each network: depth and activation, architecture and variances, but not width or seed."""
    varying = ["architecture", "weight_variance", "bias_variance"]
    found = []
    for name, rows in by_network(table):
        for values, part in rows.groupby(varying, sort=False):
            name_of_part = name.replace("mlp", values[0])
            if table[varying[1:]].drop_duplicates().shape[0] > 1:
                name_of_part += f", $\\sigma_w^2$ = {values[1]:g}, $\\sigma_b^2$ = {values[2]:g}"
            found.append((name_of_part, part))
    return found


def outcome(trend):
    slope = trend.slope
    if slope.n < 2:
        return "undecided"
    if max(abs(slope.low - RATE), abs(slope.high - RATE)) <= TOLERANCE:
        return "supported"
    return "refuted" if slope.high < RATE - TOLERANCE or slope.low > RATE + TOLERANCE else "undecided"


def judge(results):
    test = (
        "Per network, over seeds: exponent of the width in the relative Frobenius distance between the finite network's NTK "
        f"[n, k, n, k] and its limit (95 % t-interval of least-squares slopes in log-log). Supported where every interval lies "
        f"within {RATE} +- {TOLERANCE}, refuted where one lies outside, undecided otherwise."
    )
    found = [(name, next(iter(trends(rows, "ntk/distance", power_law=True).values()))) for name, rows in groups(results.table)]
    outcomes = {outcome(trend) for _, trend in found}
    parts = []
    for name, trend in found:
        rows = dict(groups(results.table))[name]
        widths = rows.apply(actual_width, axis=1)
        last = t_interval(rows["ntk/distance"][widths == widths.max()])
        parts.append(f"{name}: {describe_trend(trend, power_law=True)}, distance {last.mean:.2g} at width {widths.max()}")
    verdict = "refuted" if "refuted" in outcomes else "supported" if outcomes == {"supported"} else "undecided"
    return Verdict(verdict, "; ".join(parts).replace("$", "").replace("\\", "") + ".", test)


def figures(results):
    figure, axes = plots.new(1, 2, width=5)
    styles = plots.styles()
    for name, rows in groups(results.table):
        style = next(styles)
        widths = rows.apply(actual_width, axis=1)
        levels = sorted(set(widths))
        for axis, measure_name in zip(axes[0], ("ntk/distance", "ntk/mean_ratio")):
            intervals = [t_interval(rows[measure_name][widths == w]) for w in levels]
            plots.interval_line(axis, levels, intervals, label=name, **style)
        middle = t_interval(rows["ntk/distance"][widths == levels[0]]).mean
        axes[0, 0].plot(levels, middle * (np.array(levels) / levels[0]) ** RATE, ":", color="0.5", linewidth=1, zorder=0,
                        label="width$^{-1/2}$" if style["marker"] == "o" else None)  # fmt: skip
    ticks = sorted(set(results.table.apply(actual_width, axis=1)))
    for axis in axes[0]:
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, ticks)
        axis.set_xlabel("width")
    axes[0, 0].set(yscale="log", ylabel="relative distance of the NTK from its limit")
    axes[0, 1].set_ylabel("mean diagonal of the NTK / of its limit")
    axes[0, 1].axhline(1, color="0.5", linewidth=1)
    axes[0, 0].legend()
    return {"infinite_width": figure}
