"""Does the NTK of a wide network stay constant during training?  Jacot et al. 2018; Goldblum et al. 2020, section 4.

The exact kernel of a class-balanced sample of training images, sorted by class, before and after training; and that of
another initialization of the same network, as kernels of wide networks are alike without any training.
"""
import dataclasses
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from analysis.evaluation import evaluate_splits
from analysis.features import pearson
from analysis.kernels import kernel_drift, trace_kernel
from analysis.ntk import empirical_ntk
from analysis.parameters import get_parameters
from experiments.ntk.constancy import (
    GRID,
    MARGINS,
    REDRAW_COLUMNS,
    judge_constancy,
    label_measures,
    redraw_measures,
)
from experiments.ntk.limit_conditions import (
    check_conditions,
    of_redraw,
    rate_scaling_field,
    stored_defaults,
    target_loss_field,
    train,
)
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network

CLAIM = Claim(
    "The NTK of a wide network stays constant during training.",
    source="Jacot et al. 2018, theorem 2; examined in Goldblum et al. 2020, section 4",
)
COLUMNS = {
    "ntk/correlation": "NTK correlation",
    "ntk/relative_change": "NTK relative change",
    "ntk/cosine": "cosine of the NTK before and after",
    "ntk/trace_correlation": "correlation of the trace kernel",
    "ntk/cka": "centred alignment of the trace kernel before and after",
    "ntk/label_alignment_before": "alignment with labels before",
    "ntk/label_alignment_after": "alignment with labels after",
    **REDRAW_COLUMNS,
    "ntk/norm_before": "NTK norm before",
    "ntk/norm_after": "NTK norm after",
    "ntk/condition_before": "condition number of the NTK before",
    "ntk/condition_after": "condition number of the NTK after",
    "parameters/norm_before": "norm of the parameters before",
    "parameters/norm_after": "norm of the parameters after",
    "parameters/change": "norm of the parameters' change",
    "parameters/relative_change": "parameters' relative change",
    **evaluation_columns(),
    "train/epochs": "epochs trained",
}
TABLE = (
    "ntk/relative_change", "ntk/correlation", "redraw/correlation", "ntk/trace_correlation", "ntk/cka",
    "ntk/label_alignment_before", "ntk/label_alignment_after", "train/loss", "train/accuracy", "test/accuracy",
)  # fmt: skip
Panel = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, kernel before and after, labels


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=0.05)
    ntk_sample: int = field(default=25, metadata={"help": "training images of the kernel, class-balanced"})
    rate_scaling: str = rate_scaling_field()
    target_loss: float | None = target_loss_field()
    seed: int = seed_field()

    def validate(self) -> None:
        check_conditions(self)
        if self.ntk_sample < 2:
            raise ValueError(f"ntk_sample must be at least 2 images, got {self.ntk_sample}")


def check(config: Config, data: Data, run: Run) -> None:
    data.first_balanced(config.ntk_sample)  # refuses more images than there are


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The kernel on the same images before and after training, how far both lie apart, and how the network ends."""
    model = build_network(config, data)
    x, labels = data.first_balanced(config.ntk_sample)
    start, before = get_parameters(model), empirical_ntk(model, x)  # [n, k, n, k]
    redrawn = of_redraw(lambda model: empirical_ntk(model, x), model, config, data)
    history = train(model, data, config, run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    after, parameters = empirical_ntk(model, x), get_parameters(model)
    change = float(np.linalg.norm(parameters - start))
    traces = [trace_kernel(kernel) for kernel in (before, after)]  # what `figures` draws
    return {
        "diverged_epoch": None,
        **{f"ntk/{name}": value for name, value in dataclasses.asdict(kernel_drift(before, after)).items()},
        "ntk/trace_correlation": pearson(*(trace.ravel() for trace in traces)),
        **{f"ntk/{name}": value for name, value in label_measures(*traces, labels).items()},
        **({} if redrawn is None else redraw_measures(before, redrawn, traces[0], trace_kernel(redrawn))),
        "parameters/norm_before": float(np.linalg.norm(start)),
        "parameters/norm_after": float(np.linalg.norm(parameters)),
        "parameters/change": change,
        "parameters/relative_change": change / float(np.linalg.norm(start)),
        **evaluate_splits(model, data, config.training.loss),
        "train/epochs": len(history.rows),
        "heat/before": traces[0],
        "heat/after": traces[1],
        "heat/labels": labels,
    }


def judge(results: Results) -> Verdict:
    """Constant: its relative change is small at the largest width, and falls with width (constancy.py)."""
    return judge_constancy(results, correlation="ntk/correlation", change="ntk/relative_change", noun="NTK")


def figures(results: Results) -> dict[str, Figure]:
    """Correlation, that of two initializations, and relative change against width; kernels of the widest networks."""
    results = results.measured("ntk/correlation")
    if not len(results):
        return {}
    groups = results.groups()
    figure, axes = plots.new(1, 3, width=4.2, height=3.6)
    axes[0, 1].sharey(axes[0, 0])
    plots.against_width(axes[0, 0], groups, "ntk/correlation", "correlation before and after training")
    plots.against_width(axes[0, 1], groups, "redraw/correlation", "correlation of two initializations")
    plots.against_width(axes[0, 2], groups, "ntk/relative_change", "relative change of the NTK", log=True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    panels = [panel for panel in (widest_kernels(group, results.arrays) for group in groups) if panel]
    return {"ntk_against_width": figure, **({"ntk_heat_maps": heat_maps(panels)} if panels else {})}


def widest_kernels(group: Group, arrays: dict[str, dict[str, np.ndarray]]) -> Panel | None:
    """(name, kernel before, after, labels) of the first seed of a group's widest network; None without its arrays."""
    name, rows, widths = group.label, group.rows, group.by_width
    if widths:  # a stored model has none
        rows = widths[max(widths)]
        name += "" if group.first["widths"] else f", width {max(widths)}"
    kernels = arrays.get(rows.iloc[0]["config_id"], {})
    if "heat/before" not in kernels:
        return None
    return name, kernels["heat/before"], kernels["heat/after"], kernels["heat/labels"]


def heat_maps(panels: list[Panel]) -> Figure:
    """Kernels before, after and their difference, one row per (name, before, after, labels); lines between classes."""
    figure, axes = plots.new(len(panels), 3, width=3.4, height=3.1)
    for row, (name, before, after, labels) in zip(axes, panels):
        borders = np.flatnonzero(np.diff(labels)) + 0.5
        top = max(before.max(), after.max())
        change = np.abs(after - before).max() or 1.0
        for axis, kernel, title, colours, low, high in (
            (row[0], before, "before training", "viridis", min(0, before.min()), top),
            (row[1], after, "after", "viridis", min(0, before.min()), top),
            (row[2], after - before, "after - before", "RdBu_r", -change, change),
        ):
            image = axis.imshow(kernel, cmap=colours, vmin=low, vmax=high)
            axis.grid(False)
            for border in borders:
                axis.axhline(border, color="white" if colours == "viridis" else "black", linewidth=0.4)
                axis.axvline(border, color="white" if colours == "viridis" else "black", linewidth=0.4)
            axis.set_title(f"{name}\n{title}" if name else title)
            axis.set(xticks=[], yticks=[])
            figure.colorbar(image, ax=axis, shrink=0.8)
        row[0].set(xlabel="training image, by class", ylabel="training image, by class")
    return figure


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("width",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    former_columns={**former_evaluation_columns("trained"), "trained/epochs": "train/epochs"},
    margins=MARGINS,
    stored_defaults=stored_defaults,
    max_seeds=5,
)
