"""What the claims share that something of a wide network stays constant: grid, rule and words of the verdict."""
from analysis.statistics import Trend
from judging.trends import format_trend, why_no_trend, width_trend
from judging.verdict import Verdict, combine_outcomes

GRID = {"depth": [1, 3], "width": [32, 128, 512], "seed": [0, 1, 2]}


def outcome(correlation: Trend, change: Trend) -> str:
    """What the two trends with width say of one network: constant in the limit, or not, or neither shown."""
    if correlation.direction == "increasing" and change.direction == "decreasing":
        return "supported"
    if correlation.direction == "decreasing" or change.direction == "increasing":
        return "refuted"
    return "undecided"


def judge_constancy(results, *, correlation: str, change: str, noun: str) -> Verdict:
    """The verdict of one claim: with width its correlation must rise and its change fall.

    correlation, change: columns.  noun: what they are measured on.
    """
    test = (
        f"Per network, over seeds: slope of the {noun}'s correlation, and of the log2 of its relative change, against "
        "log2(width) (95 % t-interval), and Page's trend test. Supported where correlation rises and change falls "
        "with width, refuted where either does the opposite, undecided otherwise; over several networks, one "
        "refutation refutes."
    )
    if not len(results.measured(correlation)):
        return Verdict("undecided", "Every network diverged.", test)
    groups = results.groups()
    trends = {
        group.label: (width_trend(group, correlation), width_trend(group, change, power_law=True))
        for group in groups if not group.widths.isna().any()
    }  # fmt: skip
    if not any(rising.slope.n for rising, _ in trends.values()):
        measured = "; ".join(
            f"{group.label}: correlation {group.rows[correlation].mean():.3g}, "
            f"relative change {group.rows[change].mean():.3g}"
            for group in results.groups(apart=())
        )
        return Verdict("undecided", f"{why_no_trend(groups)}. Measured: {measured}.", test)
    outcomes = {name: outcome(*found) for name, found in trends.items()}
    reason = "; ".join(
        f"{name}: {outcomes[name]}, correlation {format_trend(rising)}, "
        f"relative change {format_trend(falling, power_law=True)}"
        for name, (rising, falling) in trends.items()
    )
    return Verdict(combine_outcomes(outcomes.values()), reason + ".", test)
