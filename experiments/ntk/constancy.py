"""What the claims share that something of a wide network stays constant: grid, rule and words of the verdict."""
import math

from analysis.statistics import t_interval
from judging.decision import Finding, Statement, above, below, decide
from judging.trends import format_trend, why_no_trend, width_trend
from judging.verdict import Verdict
from judging.wording import format_interval

GRID = {"depth": [1, 3], "width": [32, 128, 512], "seed": [0, 1, 2]}
MARGINS = {"margin_factor": (1.1, "relative change, a doubling of the width")}


def judge_constancy(results, *, correlation: str, change: str, noun: str) -> Verdict:
    """The verdict of one claim: with width its correlation must rise and its change fall.

    correlation, change: columns.  noun: what they are measured on.
    """
    factor = results.margins["margin_factor"]
    test = (
        f"Per network, one-sided t-tests over seeds of the slopes against log2(width) of the {noun}'s correlation and "
        "of the log2 of its relative change. Supported where the correlation rises and the change falls with width; "
        f"refuted where the correlation falls, or the change falls by less than a factor of {factor:g} a doubling."
    )
    if not len(results.measured(correlation)):
        return Verdict("undecided", "Every network diverged.", test)
    groups = results.groups()
    trends = {
        group.label: (
            width_trend(group, correlation, level=results.confidence),
            width_trend(group, change, power_law=True, level=results.confidence),
        )
        for group in groups
    }  # fmt: skip

    def describe(group):
        means = (format_interval(t_interval(group.rows[name], results.confidence)) for name in (correlation, change))
        return "correlation {}, relative change {}".format(*means)

    if not any(rising and rising.slope.n for rising, _ in trends.values()):
        measured = "; ".join(f"{group.label}: {describe(group)}" for group in results.groups(apart=()))
        return Verdict("undecided", f"{why_no_trend(groups)}. Measured: {measured}.", test)
    findings = [find(group.label, *trends[group.label], factor, describe(group)) for group in groups]
    return decide(results, findings, test)


def find(label, correlation, change, factor, measured) -> Finding:
    """What the two trends with width say of one network; `change` is a power of the width.

    measured: what is said of a stored model, which has no width and whose trends are None.
    """
    if correlation is None:
        return Finding(label, f"no width, so no trend: {measured}")
    return Finding(
        label,
        f"correlation {format_trend(correlation)}, relative change {format_trend(change, power_law=True)}",
        supports=(Statement("constant in the limit", (above(correlation.slope), below(change.slope))),),
        refutes=(
            Statement("the correlation falls", (below(correlation.slope),)),
            Statement("the change falls by less than the margin", (above(change.slope, -math.log2(factor)),)),
        ),
    )
