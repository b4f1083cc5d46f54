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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scipy import special

from analysis.statistics import one_sided_p
from judging.looks import ERROR, Look
from judging.power import MAX_SEEDS, seeds_needed
from judging.replicates import describe_replicates
from judging.verdict import Verdict
from judging.wording import list_words

if TYPE_CHECKING:
    from judging.results import Results  # which imports Keras

MIN_SEEDS = 3  # of any t-test: two values have no spread to speak of
ROUNDING = 1e-12  # of the mean: a spread below it is none, as one_sided_p has it
SKEW = 2.5  # what the p-value of a single value's t-test is multiplied by: see `above`
NAMED = 3  # of the statements that refute a group, so many are named


@dataclass(frozen=True)
class Test:
    """One one-sided hypothesis test.

    p_value: nan where it cannot be made.  n: seeds (or other sampling units) it rests on; 0 of a fact.  effect: how far
    on the right side of the bound the mean lies, in standard deviations of one seed; nan where it is not known, and
    where seeds are not what it needs.  cost: what the p-value has been multiplied by.
    """

    __test__ = False  # for pytest: no test case

    p_value: float
    n: int = 0
    effect: float = math.nan
    cost: float = 1.0

    @property
    def is_fact(self) -> bool:
        """Was it proved or counted?"""
        return self.n == 0 and not math.isnan(self.p_value)


def above(estimate: Any, bound: float = 0.0, error: float = 0.0, *, single: bool = False) -> Test:
    """Does the mean over seeds lie above the bound?  estimate: anything with mean, std and n, as t_interval gives.

    error: standard deviation that the value of one seed has by itself, such as that of an accuracy on few images. A few
    values may lie closer together than that by luck, most of all skewed ones; so the test must pass with this spread
    too, as a z-test. It guards where seeds differ by little more than this.
    single: the values are no differences or slopes, which lose most of a skew. With lognormal values (skewness 1.75) a
    t-test at 2.5 % errs in up to 8 % of trials in the worse direction and hardly ever in the other; at 1 %, as here by
    SKEW, in at most 4.4 % (3 to 24 seeds, 200 000 trials each).
    """
    return _t_test(estimate, bound, error, single, above=True)


def below(estimate: Any, bound: float = 0.0, error: float = 0.0, *, single: bool = False) -> Test:
    """Does the mean over seeds lie below the bound?"""
    return _t_test(estimate, bound, error, single, above=False)


def within(
    estimate: Any, low: float, high: float, error: float = 0.0, *, single: bool = False
) -> tuple[Test, Test]:
    """Does the mean over seeds lie between two bounds?  Two one-sided tests (Schuirmann 1987)."""
    return above(estimate, low, error, single=single), below(estimate, high, error, single=single)


def fact(holds: bool) -> Test:
    """What needs no test: it was proved or counted, or it was not."""
    return Test(0.0 if holds else 1.0)


def _t_test(estimate, bound, error, single, *, above):
    if estimate.n < MIN_SEEDS:
        return Test(math.nan, estimate.n)
    distance = (estimate.mean - bound) * (1 if above else -1)
    std = max(estimate.std, error)
    spread = std > ROUNDING * max(abs(estimate.mean), abs(bound))
    effect = distance / std if spread else math.inf if distance > 0 else 0.0
    cost = SKEW if single else 1.0
    p_value = min(1.0, cost * one_sided_p(estimate, bound, above=above))
    if error > 0:
        p_value = max(p_value, float(special.ndtr(-distance / (error / math.sqrt(estimate.n)))))
    return Test(p_value, estimate.n, effect, cost)


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
        """The smallest p-value of the supporting statements, times their number (Bonferroni); 1 where there is none."""
        return min([1.0, *(len(self.supports) * statement.p_value for statement in self.supports)])


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """[bool]: which hypotheses Holm's step-down procedure rejects, with family-wise error `level`."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for rank, i in enumerate(order):
        if not p_values[i] <= level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def hochberg(p_values: Sequence[float], level: float) -> list[bool]:
    """[bool]: which hypotheses Hochberg's step-up procedure rejects; all of them where all p-values are <= level."""
    order = sorted(range(len(p_values)), key=lambda i: -p_values[i])
    for rank, i in enumerate(order):
        if p_values[i] <= level / (rank + 1):
            return [value <= p_values[i] for value in p_values]
    return [False] * len(p_values)


def decide(
    results: "Results", findings: Sequence[Finding], test: str, *, notes: str = "", opening: str = ""
) -> Verdict:
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
            refuted.setdefault(i, []).append(statement)
    supported = hochberg([finding.support_p for finding in findings], level)
    outcomes = tuple(
        "refuted" if i in refuted else "supported" if supported[i] else "undecided" for i in range(len(findings))
    )
    outcome = "refuted" if refuted else "supported" if all(supported) else "undecided"
    parts = [describe(finding, outcomes[i], refuted.get(i)) for i, finding in enumerate(findings)]
    needed = None if outcome != "undecided" else find_seeds_needed(results, findings)
    return Verdict(
        outcome,
        f"{opening}{'; '.join(parts)}.{notes}",
        test,
        family=describe_family(results.look, findings) + describe_replicates(results),
        groups=tuple((finding.label, one) for finding, one in zip(findings, outcomes)),
        measured=tuple(finding.text for finding in findings),
        deciding=deciding_group(findings, outcome, outcomes, refuted),
        seeds_needed=needed,
        advice=describe_need(results, findings, needed) if outcome == "undecided" else "",
    )


def deciding_group(
    findings: Sequence[Finding], outcome: str, outcomes: Sequence[str], refuted: dict[int, list[Statement]]
) -> int:
    """Which group a verdict hangs on: the most clearly refuted one; the least clearly supported one, as all are needed;
    of undecided ones that which is furthest from support.
    """
    if outcome == "refuted":
        return min(refuted, key=lambda i: min(statement.p_value for statement in refuted[i]))
    return max((i for i, one in enumerate(outcomes) if one == outcome), key=lambda i: findings[i].support_p)


def describe(finding: Finding, outcome: str, refuting: list[Statement] | None) -> str:
    """`mlp, depth 1 (supported: falls with width): 0.4 [0.1, 0.7] over 6 seeds`."""
    says = outcome
    if refuting:
        more = f", and {len(refuting) - NAMED} more" if len(refuting) > NAMED else ""
        says += f": {', '.join(statement.text for statement in refuting[:NAMED])}{more}"
    elif outcome == "supported":
        best = min(finding.supports, key=lambda statement: statement.p_value)
        says += f": {best.text}"
    return f"{finding.label} ({says}): {finding.text}" if finding.label else f"({says}) {finding.text}"


def describe_family(look: Look, findings: Sequence[Finding]) -> str:
    """What the error budget is shared out over, and what the intervals mean."""
    refuting = [statement for finding in findings for statement in finding.refutes]
    level = 100 * ERROR / 2 * look.share
    intervals = f"Intervals hold one by one, at {100 - 2 * level:.4g} %."
    if all(test.is_fact for statement in _statements(findings) for test in statement.tests):
        return f"What would decide is proved or counted, so there is no error to share out. {intervals}"
    several = "the group" if len(findings) == 1 else f"each of {len(findings)} groups (intersection-union)"
    parts = []
    if any(finding.supports for finding in findings):
        parts.append(f"supported if its tests pass in {several}")
    if refuting:
        any_of = "one statement" if len(refuting) == 1 else f"any of {len(refuting)} statements (Holm)"
        parts.append(f"refuted by {any_of}")
    text = (
        f"A decided verdict is wrong with a probability of at most {100 * ERROR:g} %, for independent seeds and noise "
        f"that is not too skewed: {', '.join(parts)}, each direction at {level:.3g} %"
    )
    if any(test.cost > 1 for statement in _statements(findings) for test in statement.tests):
        text += f", and t-tests of single values at 1/{SKEW:g} of it"
    if look.share < 1:
        sizes = list_words(list(map(str, look.plan or [look.seeds])))
        planned = f"planned at {sizes} seeds" if look.planned else "not planned at the start"
        text += f", look {look.number} ({planned}) having {100 * look.share:.3g} % of the whole"
    return f"{text}. {intervals}"


# -- what would decide


def _statements(findings):
    return [statement for finding in findings for statement in (*finding.supports, *finding.refutes)]


def find_seeds_needed(results: "Results", findings: Sequence[Finding]) -> int | None:
    """The least number of seeds that would decide, either way, at the effects and spreads seen.

    None where no number within reason would, or seeds are not what is needed.
    """
    seeds = results.seeds
    level = ERROR / 2 * (results.look.next_share or results.look.share)
    refuting = [statement for finding in findings for statement in finding.refutes]
    wanted = [_needed([statement], level / len(refuting), seeds) for statement in refuting]
    best = []
    for finding in findings:
        share = level / max(1, len(finding.supports))
        reachable = [(n, i) for i, s in enumerate(finding.supports) if (n := _needed([s], share, seeds))]
        if not reachable:
            break
        best.append(finding.supports[min(reachable)[1]])
    else:
        wanted.append(_needed(best, level / max(len(finding.supports) for finding in findings), seeds))
    needed = min((n for n in wanted if n), default=None)
    return needed and max(needed, seeds + 1)  # the level of the next look may be above that of this one


def _needed(statements, level, seeds):
    """Seeds at which all of these statements would be made; as many of them as now lack what is compared."""
    tests = [test for statement in statements for test in statement.tests]
    effects = [test.effect for test in tests if not (test.is_fact and test.p_value <= level)]
    if not effects:
        return None
    needed = seeds_needed(effects, level / max(test.cost for test in tests), at_least=MIN_SEEDS)
    if needed is None:
        return None
    used = min(test.n for test in tests if not test.is_fact)
    needed = math.ceil(needed * max(seeds, used) / used)
    return needed if needed <= MAX_SEEDS else None


def describe_need(results: "Results", findings: Sequence[Finding], needed: int | None) -> str:
    """`About 14 seeds would decide ..`, with the time that they take."""
    seeds = results.seeds
    tests = [test for statement in _statements(findings) for test in statement.tests if not test.is_fact]
    if needed is None:
        if any(math.isnan(test.p_value) for test in tests):
            if seeds < MIN_SEEDS:
                return f"A verdict needs {MIN_SEEDS} seeds or more."
            return f"Too few of the {seeds} seeds have all that is compared: a test needs {MIN_SEEDS}."
        if all(math.isnan(test.effect) for test in tests):
            return "More seeds alone would not decide."
        return f"At the effects and spreads seen, no number of seeds up to {MAX_SEEDS} would decide."
    seconds = results.table["seconds"].sum() / seeds * (needed - seeds) if "seconds" in results.table else math.nan
    time = "" if math.isnan(seconds) else f", some {format_seconds(seconds)} more"
    return f"About {needed} seeds would decide (80 % power at the effect and spread seen, both uncertain){time}."


def format_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
