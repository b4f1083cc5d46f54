"""From tests over seeds to a verdict, with one error budget for everything that a report judges.

A judge says for each group what it found (`Finding`): the statements that support the claim there, and those that
refute it. A `Statement` is a conjunction of one-sided `Test`s, and is made if all of them pass (intersection-union:
Berger 1982), so it needs no correction for their number. `decide` does the rest, for every experiment alike:

- A wrong decided verdict has a probability of at most 5 % (ERROR), half of it for each direction, times the share of
  the look (judging/looks.py), whatever the dependence between tests.
- The claim is **refuted** where it is refuted in one group: over all refuting statements of all groups Holm's procedure
  (1979) holds the level, so that more groups, measures or comparisons do not make a wrong refutation more likely.
- The claim is **supported** where it is supported in every group, and refuted in none. That is an intersection-union
  test again: each group at the full level. Where a group offers several ways of support, they share its level.
- Of the single groups, whose outcomes are named beside the verdict, those are supported that Hochberg's procedure
  (1988) finds: it agrees with the overall verdict, and holds the level for positively dependent groups, such as
  networks of the same seeds.
- Statements may overlap: an effect above 0 and below the smallest one that matters (the margin) both supports and
  refutes. It is then refuted: there is an effect, but none worth having.
"""
import math
from dataclasses import dataclass

from analysis.statistics import one_sided_p
from judging.looks import ERROR
from judging.power import MAX_SEEDS, seeds_needed
from judging.verdict import Verdict

MIN_SEEDS = 3  # of any t-test: two values have no spread to speak of


@dataclass(frozen=True)
class Test:
    """One one-sided hypothesis test.

    p_value: nan where it cannot be made.  n: seeds (or other sampling units) it rests on.  effect: how far on the right
    side of the bound the mean lies, in standard deviations of one seed; nan where seeds are not what it needs.
    """

    __test__ = False  # for pytest: no test case

    p_value: float
    n: int = 0
    effect: float = math.nan


def above(estimate, bound: float = 0.0) -> Test:
    """Does the mean over seeds lie above the bound?  estimate: anything with mean, std and n, as t_interval gives."""
    return _t_test(estimate, bound, above=True)


def below(estimate, bound: float = 0.0) -> Test:
    """Does the mean over seeds lie below the bound?"""
    return _t_test(estimate, bound, above=False)


def within(estimate, low: float, high: float) -> tuple:
    """Does the mean over seeds lie between two bounds?  Two one-sided tests (Schuirmann 1987)."""
    return above(estimate, low), below(estimate, high)


def fact(holds: bool) -> Test:
    """What needs no test: it was proved or counted, or it was not."""
    return Test(0.0 if holds else 1.0)


def _t_test(estimate, bound, *, above):
    if estimate.n < MIN_SEEDS:
        return Test(math.nan, estimate.n)
    distance = (estimate.mean - bound) * (1 if above else -1)
    effect = distance / estimate.std if estimate.std > 0 else math.copysign(math.inf, distance)
    return Test(one_sided_p(estimate, bound, above=above), estimate.n, effect)


@dataclass(frozen=True)
class Statement:
    """A conjunction of tests; `text` says in a few words what they show together."""

    text: str
    tests: tuple

    @property
    def p_value(self) -> float:
        """The largest p-value of its tests; 1 where one of them cannot be made."""
        values = [test.p_value for test in self.tests]
        return 1.0 if not values or any(math.isnan(value) for value in values) else max(values)


@dataclass(frozen=True)
class Finding:
    """What one group of runs says of the claim.

    text: what was measured, with intervals.  supports, refutes: Statements; any one of them will do.
    """

    label: str
    text: str
    supports: tuple = ()
    refutes: tuple = ()

    @property
    def support_p(self) -> float:
        """The smallest p-value of the supporting statements, times their number (Bonferroni); 1 without any."""
        return min((1.0, *(len(self.supports) * statement.p_value for statement in self.supports)))


def holm(p_values, level: float) -> list:
    """[bool]: which hypotheses Holm's step-down procedure rejects, with family-wise error `level`."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if not p_values[i] <= level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def hochberg(p_values, level: float) -> list:
    """[bool]: which hypotheses Hochberg's step-up procedure rejects; all of them where all p-values are <= level."""
    order = sorted(range(len(p_values)), key=lambda i: -p_values[i])
    for rank, i in enumerate(order):
        if p_values[i] <= level / (rank + 1):
            return [value <= p_values[i] for value in p_values]
    return [False] * len(p_values)


def decide(results, findings, test: str, *, notes: str = "", opening: str = "") -> Verdict:
    """The Verdict on the findings of all groups; see the module's text for the procedure.

    results: judging.results.Results, for its look and what a seed costs.  test: the experiment's rule in words.
    notes: warnings that follow the reason.  opening: a sentence before the findings.
    """
    if not findings:
        return Verdict("undecided", f"Nothing was measured that could be judged.{notes}", test)
    level = ERROR / 2 * results.look.share
    statements = [(i, statement) for i, finding in enumerate(findings) for statement in finding.refutes]
    made = holm([statement.p_value for _, statement in statements], level)
    refuted = {}
    for (i, statement), rejected in zip(statements, made):
        if rejected:
            refuted.setdefault(i, statement)
    supported = hochberg([finding.support_p for finding in findings], level)
    outcomes = tuple(
        "refuted" if i in refuted else "supported" if supported[i] else "undecided" for i in range(len(findings))
    )
    outcome = "refuted" if refuted else "supported" if all(supported) else "undecided"
    parts = [describe(finding, outcomes[i], refuted.get(i)) for i, finding in enumerate(findings)]
    needed = None if outcome != "undecided" else find_seeds_needed(results, findings, len(statements))
    return Verdict(
        outcome,
        f"{opening}{'; '.join(parts)}.{notes}",
        test,
        family=describe_family(results.look, len(findings), len(statements)),
        groups=tuple((finding.label, one) for finding, one in zip(findings, outcomes)),
        seeds_needed=needed,
        advice=describe_need(results, needed) if outcome == "undecided" else "",
    )


def describe(finding, outcome, refuting):
    """`mlp, depth 1 (supported: falls with width): 0.4 [0.1, 0.7] over 6 seeds`."""
    says = outcome
    if refuting:
        says += f": {refuting.text}"
    elif outcome == "supported":
        best = min(finding.supports, key=lambda statement: statement.p_value)
        says += f": {best.text}"
    return f"{finding.label} ({says}): {finding.text}" if finding.label else f"({says}) {finding.text}"


def describe_family(look, groups, refuting):
    """What the error budget is shared out over, and what the intervals mean."""
    level = 100 * ERROR / 2 * look.share
    several = "the group" if groups == 1 else f"each of {groups} groups (intersection-union)"
    over = "one statement" if refuting == 1 else f"{refuting} statements (Holm)"
    text = (
        f"A decided verdict is wrong with a probability of at most {100 * ERROR:g} %: supported if its tests pass in "
        f"{several}, refuted by any of {over}, each direction at {level:.3g} %"
    )
    if len(look.plan) > 1 or not look.planned:
        *others, last = map(str, look.plan)
        sizes = f"{', '.join(others)} and {last}" if others else last
        planned = f"planned at {sizes} seeds" if look.planned else "not planned at the start"
        text += f", look {look.number} ({planned}) having {100 * look.share:.3g} % of the whole"
    return f"{text}. Intervals hold one by one, at {100 - 2 * level:.4g} %."


# -- what would decide


def find_seeds_needed(results, findings, refuting):
    """The least number of seeds that would decide, either way, at the effects and spreads seen; None beyond reach."""
    share = results.look.next_share or results.look.share
    level = ERROR / 2 * share
    wanted = []
    for statement in (statement for finding in findings for statement in finding.refutes):
        wanted.append(_needed([statement], level / max(1, refuting)))
    best = []
    for finding in findings:
        reachable = [(n, s) for s in finding.supports if (n := _needed([s], level / len(finding.supports)))]
        if not reachable:
            break
        best.append(min(reachable, key=lambda pair: pair[0])[1])
    else:
        wanted.append(_needed(best, level / max(len(finding.supports) for finding in findings)))
    return min((n for n in wanted if n), default=None)


def _needed(statements, level):
    tests = [test for statement in statements for test in statement.tests if test.p_value != 0]  # a fact is one
    if not tests or any(math.isnan(test.effect) for test in tests):
        return None
    return seeds_needed([test.effect for test in tests], level, at_least=MIN_SEEDS)


def describe_need(results, needed):
    """`About 14 seeds would decide ..`, with the time that they take."""
    seeds = results.table["seed"].nunique()
    if seeds < MIN_SEEDS:
        return f"A verdict needs {MIN_SEEDS} seeds or more."
    if needed is None:
        return f"At the effects and spreads seen, no number of seeds up to {MAX_SEEDS} would decide."
    if needed <= seeds:
        return ""
    seconds = results.table["seconds"].sum() / seeds * (needed - seeds) if "seconds" in results.table else math.nan
    time = "" if math.isnan(seconds) else f", some {format_seconds(seconds)} more"
    return f"About {needed} seeds would decide (80 % power at the effect and spread seen, both uncertain){time}."


def format_seconds(seconds):
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
