"""When does the NTK move?  Goldblum et al. 2020 (evolution over geometric epochs); Fort et al. 2020.

The exact kernel at geometrically spaced epochs, against the one at initialization and against the previous one; and
that of another initialization, as kernels of wide networks are alike without any training.
"""
import itertools
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from analysis.evaluation import evaluate_splits
from analysis.features import pearson
from analysis.kernels import kernel_drift, trace_kernel
from analysis.ntk import empirical_ntk
from analysis.statistics import paired_difference, t_interval
from experiments.ntk.constancy import REDRAW_COLUMNS, label_measures, redraw_measures
from experiments.ntk.limit_conditions import check_conditions, of_redraw, rate_scaling_field, stored_defaults, train
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.verdict import Claim, Verdict
from judging.wording import format_factor
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network

CLAIM = Claim(
    "The NTK moves at the start of training and then stands still.",
    source="Fort et al. 2020, Deep learning versus kernel learning; evolution runs of Goldblum et al. 2020",
)
GRID = {"depth": [1, 3], "width": [256], "seed": [0, 1, 2]}
COLUMNS = {
    "ntk/correlation": "correlation, first to last",
    "ntk/relative_change": "relative change, first to last",
    "evolution/early_change": "mean relative change, early intervals",
    "evolution/late_change": "late intervals",
    "evolution/speed_ratio": "late over early change per epoch",
    "ntk/trace_correlation": "correlation of the trace kernel, first to last",
    "ntk/cka": "centred alignment of the trace kernel, first to last",
    "ntk/label_alignment_before": "alignment with labels before",
    "ntk/label_alignment_after": "alignment with labels after",
    **REDRAW_COLUMNS,
    **evaluation_columns(),
    "train/epochs": "epochs trained",
}
TABLE = (
    "evolution/early_change", "evolution/late_change", "evolution/speed_ratio", "ntk/relative_change",
    "ntk/correlation", "redraw/correlation", "ntk/label_alignment_before", "ntk/label_alignment_after",
    "train/accuracy", "test/accuracy",
)  # fmt: skip
MAX_CHECKPOINTS = 1000  # each has a kernel in memory


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=64, learning_rate=0.05)
    ntk_sample: int = field(default=25, metadata={"help": "training images of the kernel, class-balanced"})
    num_checkpoints: int = field(
        default=7,
        metadata={"help": "geometrically spaced epochs at which the kernel is measured", "formerly": "moments"},
    )
    rate_scaling: str = rate_scaling_field()
    seed: int = seed_field()

    def validate(self) -> None:
        check_conditions(self)
        if self.ntk_sample < 2 or self.num_checkpoints < 2:
            raise ValueError(
                f"ntk_sample and num_checkpoints must be at least 2, got {self.ntk_sample} and {self.num_checkpoints}"
            )
        if self.num_checkpoints > MAX_CHECKPOINTS:
            raise ValueError(f"num_checkpoints must be at most {MAX_CHECKPOINTS}, got {self.num_checkpoints}")
        if len(self.epochs) < 2:
            raise ValueError(f"evolution needs at least 2 epochs, got {self.training.epochs}")

    @property
    def epochs(self) -> list[int]:
        """The epochs at which the kernel is measured."""
        return sorted({round(e) for e in np.geomspace(1, self.training.epochs, self.num_checkpoints)})


def check(config: Config, data: Data, run: Run) -> None:
    data.first_balanced(config.ntk_sample)  # refuses more images than there are


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """The kernel's drift from initialization, and from one checkpoint to the next, early and late in training."""
    model = build_network(config, data)
    x, labels = data.first_balanced(config.ntk_sample)
    initial = empirical_ntk(model, x)  # kernels are [n, k, n, k]
    redrawn = of_redraw(lambda model: empirical_ntk(model, x), model, config, data)

    def probe(model, epoch):
        return {"ntk": empirical_ntk(model, x)} if epoch in config.epochs else None

    history = train(model, data, config, run, probe=probe)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    kernels = [initial, *(history.probes[epoch]["ntk"] for epoch in config.epochs)]
    from_start = [kernel_drift(initial, kernel) for kernel in kernels[1:]]
    steps = [kernel_drift(before, after) for before, after in itertools.pairwise(kernels)]
    traces = [trace_kernel(kernel) for kernel in (kernels[0], kernels[-1])]
    # Intervals are equal in log(epoch): "the start" is their first half, the middle one is left out.
    half, changes = len(steps) // 2, [drift.relative_change for drift in steps]
    speeds = np.array(changes) / np.diff(config.epochs, prepend=0)  # per epoch, as Fort et al. 2020
    early_speed = float(np.mean(speeds[:half]))
    return {
        "diverged_epoch": None,
        "ntk/correlation": from_start[-1].correlation,
        "ntk/relative_change": from_start[-1].relative_change,
        "evolution/early_change": float(np.mean(changes[:half])),
        "evolution/late_change": float(np.mean(changes[-half:])),
        "evolution/speed_ratio": float(np.mean(speeds[-half:])) / early_speed if early_speed else np.nan,
        "ntk/trace_correlation": pearson(*(trace.ravel() for trace in traces)),
        **{f"ntk/{name}": value for name, value in label_measures(*traces, labels).items()},
        **({} if redrawn is None else redraw_measures(initial, redrawn, traces[0], trace_kernel(redrawn))),
        **evaluate_splits(model, data, config.training.loss),
        "train/epochs": len(history.rows),
        "evolution/epochs": np.array(config.epochs),
        "evolution/correlation": np.array([drift.correlation for drift in from_start]),
        "evolution/relative_change": np.array([drift.relative_change for drift in from_start]),
        "evolution/step_correlation": np.array([drift.correlation for drift in steps]),
        "evolution/step_change": np.array(changes),
    }


def judge(results: Results) -> Verdict:
    """Does every network's kernel change less in the late half of training (in log epoch) than in the early half?"""
    factor, still = results.margins["margin_factor"], results.margins["margin_level"]
    test = (
        "Per network, one-sided paired t-tests over seeds of log10 of the kernel's mean relative change in the late "
        "half of the intervals between checkpoints (equal in log epoch) over that in the early half. Supported where "
        f"the late change is less than {still:g} times the early one; refuted where it is less than {factor:g} times "
        "smaller, or larger."
    )
    if not len(results.measured("evolution/late_change")):
        return Verdict("undecided", "Every network diverged.", test)
    findings = [compare_halves(group, factor, still, results.confidence) for group in results.groups()]
    return decide(results, findings, test, opening="Late change over early change: ")


def compare_halves(group: Group, factor: float, still: float, confidence: float) -> Finding:
    """The late against the early change of one Group, paired by seed."""
    late, early = (group.rows[f"evolution/{half}_change"].astype(float) for half in ("late", "early"))
    # A kernel that never moved says nothing of when it moves; one that stopped to the last bit has no logarithm.
    moved = (late > 0) | (early > 0)
    late, early = (np.log10(change.clip(lower=1e-12).where(moved)) for change in (late, early))
    ratio = paired_difference(late, early, confidence)
    text = f"{format_factor(ratio)} over {ratio.n} seeds"
    if "evolution/speed_ratio" in group.rows and group.rows["evolution/speed_ratio"].notna().any():
        speed = np.log10(group.rows["evolution/speed_ratio"].astype(float).clip(lower=1e-12))
        text += f", per epoch {format_factor(t_interval(speed, confidence))}"
    return Finding(
        group.label,
        text,
        supports=(Statement("stands still late", (below(ratio, np.log10(still)),)),),
        refutes=(Statement("does not slow down by the margin", (above(ratio, -np.log10(factor)),)),),
    )


def figures(results: Results) -> dict[str, Figure]:
    """Correlation and relative change against epochs, from initialization and from one checkpoint to the next."""
    found = {group.label: curves(group, results.arrays) for group in results.groups()}
    found = {name: seeds for name, seeds in found.items() if seeds}
    if not found:
        return {}
    figure, axes = plots.new(1, 2, width=5.2, height=3.8)
    kinds = (("correlation", "step_correlation", "correlation"), ("relative_change", "step_change", "relative change"))
    moved = any((arrays["evolution/step_change"] > 0).any() for seeds in found.values() for arrays in seeds)
    for axis, (whole, step, label) in zip(axes.flat, kinds):
        log = moved and label == "relative change"
        for (name, seeds), style in zip(found.items(), plots.styles()):
            for key, kind, dashes in ((whole, "from initialization", "-"), (step, "from the previous one", ":")):
                values = np.stack([arrays[f"evolution/{key}"] for arrays in seeds])  # [seeds, checkpoints]
                intervals = [(plots.log_interval if log else t_interval)(column) for column in values.T]
                look = {**style, "linestyle": dashes}
                plots.interval_line(axis, seeds[0]["evolution/epochs"], intervals, label=f"{name}: {kind}", **look)
        axis.set(xlabel="epoch", ylabel=f"{label} of the NTK", xscale="log", yscale="log" if log else "linear")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return {"ntk_evolution": figure}


def curves(group: Group, arrays: dict[str, dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Arrays of every seed of a group that has them; all are measured at the same epochs."""
    return [arrays[name] for name in group.rows["config_id"] if "evolution/epochs" in arrays.get(name, {})]


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
    former_columns={**former_evaluation_columns("trained"), "trained/epochs": "train/epochs"},
    margins={
        "margin_factor": (1.1, "early over late change of the NTK: less is no slowing down"),
        "margin_level": (0.5, "late over early change of the NTK: less is standing still"),
    },
    stored_defaults=stored_defaults,
    max_seeds=6,
)
