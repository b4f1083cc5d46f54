"""What the claims share that something of a wide network stays constant: grid, measures, rule, words of the verdict."""
import math

import numpy as np

from analysis.features import pearson
from analysis.kernels import centred_alignment, kernel_drift, label_alignment
from analysis.statistics import Trend, mean_correlation, t_interval
from experiments.ntk.limit_conditions import CONDITIONS, describe_missed
from judging.decision import Finding, Statement, above, below, decide
from judging.results import Group, Results
from judging.trends import format_trend, why_no_trend, width_trend
from judging.verdict import Verdict
from judging.wording import format_factor, format_interval

GRID = {
    "depth": [1, 3], "width": [64, 256, 1024], "epochs": [200], "target_loss": [0.1], **CONDITIONS, "seed": [0, 1, 2],
}  # fmt: skip
MARGINS = {
    "margin_factor": (1.1, "relative change, a doubling of the width"),
    "margin_level": (0.1, "relative change at the largest width"),
}
NOTHING = 1e-12  # a change below it is rounding, and counts as this much


def label_measures(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What two kernels [n, n] of the same inputs say of each other and of the labels [n] beyond kernel_drift."""
    return {
        "cka": centred_alignment(before, after),
        "label_alignment_before": label_alignment(before, labels),
        "label_alignment_after": label_alignment(after, labels),
    }


def redraw_measures(
    kernel: np.ndarray, other: np.ndarray, trace: np.ndarray, other_trace: np.ndarray
) -> dict[str, float]:
    """How much alike the kernels of two initializations are: what no training does to the correlations of a drift.

    kernel, other: [n, k, n, k] or [n, n].  trace, other_trace: [n, n].
    """
    drift = kernel_drift(kernel, other)
    return {
        "redraw/correlation": drift.correlation,
        "redraw/relative_change": drift.relative_change,
        "redraw/trace_correlation": pearson(trace.ravel(), other_trace.ravel()),
        "redraw/cka": centred_alignment(trace, other_trace),
    }


REDRAW_COLUMNS = {
    "redraw/correlation": "correlation of two initializations",
    "redraw/relative_change": "relative difference of two initializations",
    "redraw/trace_correlation": "correlation of the trace kernels of two initializations",
    "redraw/cka": "centred alignment of the trace kernels of two initializations",
}


def judge_constancy(results: Results, *, correlation: str, change: str, noun: str) -> Verdict:
    """The verdict of one claim: its change must be small at the largest width, and fall with width.

    correlation, change: columns.  noun: what they are measured on.
    """
    factor, size = results.margins["margin_factor"], results.margins["margin_level"]
    test = (
        f"Per network, one-sided t-tests over seeds of the slopes against log2(width) of the log2 of the {noun}'s "
        "relative change and of its correlation, and of the log10 of the relative change at the largest width. "
        f"Supported where the change lies below {size:g} at the largest width, and falls with width; refuted where it "
        f"is above {size:g} there, and falls by less than a factor of {factor:g} a doubling or the correlation falls. "
        "Of one width nothing is decided, nor of networks that did not reach the training loss at which they are "
        "compared."
    )
    if not len(results.measured(correlation)):
        return Verdict("undecided", "Every network diverged.", test)
    groups = results.groups()

    def describe(group):
        means = (format_interval(t_interval(group.rows[name], results.confidence)) for name in (correlation, change))
        return "correlation {}, relative change {}".format(*means)

    trends = {
        group.label: (
            width_trend(group, correlation, level=results.confidence),
            width_trend(group, change, power_law=True, level=results.confidence),
        )
        for group in groups
    }  # fmt: skip
    if not any(rising and rising.slope.n for rising, _ in trends.values()):
        measured = "; ".join(f"{group.label}: {describe(group)}" for group in results.groups(apart=()))
        return Verdict("undecided", f"{why_no_trend(groups)}. Measured: {measured}.", test)
    findings = []
    for group in groups:
        if not group.by_width:  # a stored model
            findings.append(Finding(group.label, f"no width, so no trend: {describe(group)}"))
            continue
        findings.append(find(group, *trends[group.label], correlation, change, factor, size, results.confidence))
    return decide(results, findings, test)


def find(
    group: Group, rising: Trend, falling: Trend, correlation: str, change: str, factor: float, size: float,
    confidence: float,
) -> Finding:  # fmt: skip
    """What the trends of one network with width say, and its level at the largest one.

    rising, falling: Trends of the correlation, and of the change as a power of the width.
    """
    width = max(group.by_width)
    widest = group.by_width[width]
    level = t_interval(np.log10(widest[change].astype(float).clip(lower=NOTHING)), confidence)
    at_last = format_interval(mean_correlation(widest[correlation], confidence))
    if "redraw/correlation" in widest and widest["redraw/correlation"].notna().any():
        baseline = format_interval(mean_correlation(widest["redraw/correlation"], confidence))
        at_last += f" (of two initializations {baseline})"
    text = (
        f"relative change {format_trend(falling, power_law=True)}, at width {width} {format_factor(level)}; "
        f"correlation {format_trend(rising)}, at width {width} {at_last}"
    )
    if level.mean > math.log10(size) and falling.direction == "decreasing":  # what would decide is no seed, but a width
        needed = width * 2 ** ((level.mean - math.log10(size)) * math.log2(10) / -falling.slope.mean)
        text += f"; at this exponent {size:g} is reached at a width of about {float(format(needed, '.2g')):g}"
    if missed := describe_missed(group.rows):
        return Finding(group.label, f"{missed}, so that nothing is judged: {text}")
    large = above(level, math.log10(size), single=True)
    return Finding(
        group.label,
        text,
        supports=(
            Statement(
                "constant within the margin, and more so with width",
                (below(level, math.log10(size), single=True), below(falling.slope)),
            ),
        ),
        refutes=(
            Statement("changes, and by less than the margin less with width",
                      (large, above(falling.slope, -math.log2(factor)))),
            Statement("changes, and is less correlated with width", (large, below(rising.slope))),
        ),
    )  # fmt: skip
