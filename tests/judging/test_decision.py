"""judging/decision.py: closed forms, families of tests by simulation, and what would break a verdict or its advice."""
import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import paired_difference, t_interval
from judging import decision
from judging.decision import Finding, Statement, Test, above, below, decide, fact, hochberg, holm, within
from judging.looks import Look
from judging.power import MAX_SEEDS
from judging.results import Results

LEVEL = 0.025
NARROW = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02]


WHOLE = Look()


def results(seeds=6, look=WHOLE):
    table = pd.DataFrame({"seed": range(seeds), "seconds": 2.0})
    return Results(table, {}, {}, ("seed",), look=look)


def made(p_value, n=6, effect=1.0, text="so"):
    """A Statement of one test."""
    return Statement(text, (Test(p_value, n, effect),))


def finding(*, supports=(), refutes=(), label="g", text="measured"):
    return Finding(label, text, tuple(supports), tuple(refutes))


# -- tests and statements


@pytest.mark.parametrize("bound", [0.0, 0.9, 1.3])
def test_one_sided_tests_are_scipys(bound):
    interval = t_interval(NARROW)
    for function, alternative in ((above, "greater"), (below, "less")):
        expected = stats.ttest_1samp(NARROW, bound, alternative=alternative).pvalue
        assert function(interval, bound).p_value == pytest.approx(expected, rel=1e-9)
    assert above(interval, bound).effect == pytest.approx((np.mean(NARROW) - bound) / np.std(NARROW, ddof=1))
    assert below(interval, bound).effect == -above(interval, bound).effect and above(interval, bound).n == 6
    pairs = paired_difference(np.add(NARROW, 5), np.full(6, 5.0))
    assert above(pairs, bound).p_value == pytest.approx(above(interval, bound).p_value)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_seeds_make_no_test(n):
    test = above(t_interval([5.0, 5.1][:n]))
    assert math.isnan(test.p_value) and math.isnan(test.effect) and test.n == n and not test.is_fact
    assert Statement("so", (test, fact(True))).p_value == 1.0


@pytest.mark.parametrize("values", [[2.0] * 6, [2.0, 2.0 + 4e-16, 2.0, 2.0, 2.0, 2.0]])
def test_values_without_spread_are_worth_their_number(values):
    """n equal values are as much as n coins that fall alike; rounding is no spread."""
    interval = t_interval(values)
    assert above(interval).p_value == 2**-6 and above(interval).effect == math.inf
    assert below(interval).p_value == 1.0 and below(interval).effect == 0.0


@pytest.mark.parametrize("function", [above, below])
def test_equal_values_on_the_bound_show_nothing(function):
    """copysign(inf, 0.0) made an infinite effect of no difference at all."""
    assert function(t_interval([0.0] * 6)).p_value == 1.0 and function(t_interval([0.0] * 6)).effect == 0.0
    assert function(t_interval([0.3] * 6), 0.3).p_value == 1.0 and function(t_interval([0.3] * 6), 0.3).effect == 0.0


def test_a_spread_counts_as_no_smaller_than_the_error_of_a_single_value():
    close = t_interval([1.0, 1.001, 0.999])
    assert above(close, 0.0, 2.0).p_value == pytest.approx(stats.norm.sf(np.sqrt(3) / 2))
    assert above(close, 0.0, 2.0).effect == pytest.approx(0.5)
    far = t_interval([1.0, 3.0, 5.0])
    assert above(far, 0.0, 0.1).p_value == above(far).p_value  # its own spread is larger
    assert below(close, 2.0, 0.1).p_value == pytest.approx(below(close, 2.0).p_value)
    assert [test.p_value for test in within(close, 0.0, 2.0, 2.0)] == [above(close, 0.0, 2.0).p_value] * 2
    assert above(t_interval([1.0, 1.0, 1.0]), 0.0, 1.0).p_value == pytest.approx(max(stats.norm.sf(np.sqrt(3)), 1 / 8))


def test_a_conjunction_has_its_largest_p_value():
    assert Statement("so", (Test(0.01, 5), Test(0.2, 5), fact(True))).p_value == 0.2
    assert Statement("so", (Test(0.0, 5), Test(math.nan, 2))).p_value == 1.0
    assert Statement("so", (Test(0.001, 5), fact(False))).p_value == 1.0
    assert Statement("an empty conjunction is nothing that was shown", ()).p_value == 1.0


def test_equivalence_is_two_tests():
    low, high = within(t_interval(NARROW), 0.8, 1.2)
    assert (low, high) == (above(t_interval(NARROW), 0.8), below(t_interval(NARROW), 1.2))
    assert Statement("so", within(t_interval(NARROW), 0.8, 1.2)).p_value < 0.025
    assert Statement("so", within(t_interval(NARROW), 1.02, 1.2)).p_value > 0.5
    wide = t_interval(10 * np.array(NARROW) - 9)
    assert Statement("imprecise", within(wide, 0.8, 1.2)).p_value > 0.2


def test_several_ways_of_support_share_the_level():
    assert finding(supports=[made(0.01), made(0.4)]).support_p == 0.02
    assert finding(supports=[made(0.6), made(0.7)]).support_p == 1.0
    assert finding(supports=[made(math.nan)]).support_p == 1.0
    assert finding().support_p == 1.0  # no statement is none that was shown: 0 * 1 had made it certain


# -- Holm and Hochberg


@pytest.mark.parametrize(
    ("p_values", "by_holm", "by_hochberg"),
    [
        ([], [], []),
        ([0.02], [True], [True]),
        ([0.03], [False], [False]),
        ([0.01, 0.02], [True, True], [True, True]),
        ([0.02, 0.024], [False, False], [True, True]),  # all below the level
        ([0.001, 0.013, 0.2], [True, False, False], [True, False, False]),
        ([0.2, 0.001, 0.012], [False, True, True], [False, True, True]),
        ([0.025, 0.025], [False, False], [True, True]),  # "at most" the level
        ([1.0, 0.0], [False, True], [False, True]),
    ],
)
def test_closed_forms(p_values, by_holm, by_hochberg):
    assert holm(p_values, LEVEL) == by_holm and hochberg(p_values, LEVEL) == by_hochberg


def by_closure(p_values, level):
    """Holm's procedure as the closed test of Bonferroni's: every intersection that holds the hypothesis is rejected."""
    indices = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    rejected = {s: min(p_values[i] for i in s) <= level / len(s) for s in subsets}
    return [all(rejected[s] for s in subsets if i in s) for i in indices]


def test_holm_is_the_closure_of_bonferroni_and_hochberg_finds_no_less():
    rng = np.random.default_rng(0)
    for _ in range(300):
        p_values = list(rng.uniform(0, 1, rng.integers(1, 6)) ** 3)
        found = holm(p_values, 0.1)
        assert found == by_closure(p_values, 0.1)
        assert all(more or not one for one, more in zip(found, hochberg(p_values, 0.1)))
        assert all(hochberg(p_values, 0.1)) == (max(p_values) <= 0.1)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("true", [0, 3])
def test_the_family_wise_error_is_held(correlation, true):
    """Four true null hypotheses beside others that are evidently false, with independent and with like statistics."""
    rng, nulls, trials = np.random.default_rng(1), 4, 4000
    shared = rng.standard_normal((trials, 1))
    noise = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * rng.standard_normal((trials, nulls + true))
    p_values = stats.norm.sf(noise + np.array([0.0] * nulls + [5.0] * true))
    for procedure in (holm, hochberg):
        found = np.array([procedure(list(row), 0.05) for row in p_values])
        wrong = found[:, :nulls].any(axis=1).mean()
        assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
        assert not true or found[:, nulls:].mean() > 0.9
        if not correlation:
            assert wrong > 0.03  # and it is not held by finding nothing


def test_a_conjunction_errs_less_often_than_its_level_and_most_where_one_part_is_evident():
    rng, trials = np.random.default_rng(2), 3000

    def share(effects):
        said = 0
        for _ in range(trials):
            tests = [above(t_interval(effect + rng.standard_normal(5))) for effect in effects]
            said += Statement("both", tuple(tests)).p_value <= 0.05
        return said / trials

    edge, both = share([0.0, 30.0]), share([0.0, 0.0])
    assert 0.04 < edge < 0.062 and both < 0.01


# -- the verdict


def test_one_refuted_group_refutes_and_support_needs_all():
    good, bad, open_ = finding(supports=[made(0.001)]), finding(refutes=[made(0.001)]), finding(supports=[made(0.3)])
    assert decide(results(), [good, good], "rule").outcome == "supported"
    verdict = decide(results(), [good, bad, open_], "rule")
    assert verdict.outcome == "refuted" and [one for _, one in verdict.groups] == ["supported", "refuted", "undecided"]
    assert decide(results(), [good, open_], "rule").outcome == "undecided"
    nothing = decide(results(), [], "rule", notes=" A note.")
    assert str(nothing) == "UNDECIDED: Nothing was measured that could be judged. A note."


def test_a_verdict_names_the_group_that_it_hangs_on_and_what_was_measured_in_each():
    sure, good, open_ = (finding(supports=[made(p)], text=f"p is {p}") for p in (1e-6, 0.001, 0.3))
    bad, worse = (finding(refutes=[made(0.2), made(p)], text=f"p is {p}") for p in (0.001, 1e-6))
    for findings, outcome, deciding in (
        ([sure, good, sure], "supported", 1),
        ([sure, bad, worse, open_], "refuted", 2),
        ([sure, open_], "undecided", 1),
        ([finding(), open_], "undecided", 0),
    ):
        verdict = decide(results(), findings, "rule")
        assert (verdict.outcome, verdict.deciding) == (outcome, deciding)
        assert verdict.measured == tuple(one.text for one in findings)


@pytest.mark.parametrize("others", [1, 5])
def test_a_group_without_statements_is_never_supported(others):
    silent, good = finding(label="silent", text="one width"), finding(supports=[made(1e-6)])
    verdict = decide(results(), [silent, *[good] * others], "rule")
    assert verdict.outcome == "undecided" and verdict.groups[0] == ("silent", "undecided")
    assert "silent (undecided): one width" in verdict.reason
    assert decide(results(), [silent], "rule").outcome == "undecided"
    assert decide(results(), [silent, finding(refutes=[made(1e-6)])], "rule").outcome == "refuted"


def test_an_effect_that_is_real_and_negligible_is_refuted():
    small = t_interval(0.1 * np.array(NARROW))
    both = finding(
        supports=[Statement("above 0", (above(small),))], refutes=[Statement("below the margin", (below(small, 0.5),))]
    )
    verdict = decide(results(), [both], "rule")
    assert verdict.outcome == "refuted" and verdict.groups == (("g", "refuted"),)
    assert "(refuted: below the margin)" in verdict.reason


def test_refutation_is_corrected_for_every_statement_of_every_group():
    alone = finding(refutes=[made(0.02)])
    assert decide(results(), [alone], "rule").outcome == "refuted"
    assert decide(results(), [alone, finding(refutes=[made(0.9)])], "rule").outcome == "undecided"
    assert decide(results(), [finding(refutes=[made(0.02), made(math.nan)])], "rule").outcome == "undecided"
    assert decide(results(), [alone] * 2, "rule").outcome == "undecided"


def test_the_looks_share_shrinks_every_level():
    whole = [finding(supports=[made(0.02)])]
    assert decide(results(), whole, "rule").outcome == "supported"
    assert decide(results(look=Look(share=0.5)), whole, "rule").outcome == "undecided"
    nothing_left = decide(results(look=Look(share=0.0, planned=False)), whole, "rule")
    assert nothing_left.outcome == "undecided" and 0 < results(look=Look(share=0.0)).confidence < 1
    proof = [finding(refutes=[Statement("proved", (fact(True),))])]
    assert decide(results(look=Look(share=0.0)), proof, "rule").outcome == "refuted"


@pytest.mark.parametrize("groups", [1, 3])
def test_a_wrong_verdict_is_rare_with_overlapping_statements_and_any_number_of_groups(groups):
    """Where the true effect is the margin, neither direction is right to say more often than in 2.5 %."""
    rng, trials, refuted, supported = np.random.default_rng(3), 1500, 0, 0
    for _ in range(trials):
        effects = [t_interval(rng.standard_normal(5)) for _ in range(groups)]  # 0 is the margin and the bound
        findings = [
            finding(supports=[Statement("up", (above(e),))], refutes=[Statement("not up", (below(e),))])
            for e in effects
        ]
        outcome = decide(results(5), findings, "rule").outcome
        refuted, supported = refuted + (outcome == "refuted"), supported + (outcome == "supported")
    assert refuted / trials < 0.025 + 3 * math.sqrt(0.025 / trials)
    assert supported / trials < 0.025 + 3 * math.sqrt(0.025 / trials)


def test_groups_are_named_with_what_was_shown():
    several = [made(0.001, text=f"part {i}") for i in range(5)]
    assert "g (refuted: part 0, part 1, part 2, and 2 more): measured" in decide(
        results(), [finding(refutes=several)], "rule").reason
    best = finding(supports=[made(0.01, text="one way"), made(0.001, text="another")], label="")
    assert decide(results(), [best], "rule", opening="First. ", notes=" Last.").reason == (
        "First. (supported: another) measured. Last."
    )


def test_the_family_is_named():
    one, two = [made(0.5)], [made(0.5), made(0.6)]
    alone = decide(results(), [finding(supports=one, refutes=one)], "rule").family
    assert "supported if its tests pass in the group, refuted by one statement, each direction at 2.5 %. " in alone
    many = decide(results(look=Look(0.5, 6, 2, True, (6, 12))), [finding(supports=one, refutes=two)] * 3, "rule").family
    assert "in each of 3 groups (intersection-union), refuted by any of 6 statements (Holm), each" in many
    assert "at 1.25 %, look 2 (planned at 6 and 12 seeds) having 50 % of the whole. Intervals hold one by" in many
    late = decide(results(look=Look(0.05, 7, 2, planned=False)), [finding(refutes=one)], "rule").family
    assert "look 2 (not planned at the start) having 5 % of the whole" in late and "supported if" not in late
    assert "planned at 6 seeds" in decide(results(look=Look(0.9, 6)), [finding(refutes=one)], "rule").family
    proof = decide(results(), [finding(refutes=[Statement("proved", (fact(True),))])], "rule").family
    assert proof.startswith("What would decide is proved or counted")


# -- what would decide


def noisy(mean, n=6):
    """An interval of n values of this mean and a standard deviation of 1."""
    values = np.arange(n) - (n - 1) / 2
    return t_interval(mean + values / values.std(ddof=1))


def advised(findings, **options):
    verdict = decide(results(**options), findings, "rule")
    assert verdict.outcome == "undecided"
    return verdict


def up(estimate):
    refutes = [Statement("not up by the margin", (below(estimate, 0.5),))]
    return finding(supports=[Statement("up", (above(estimate),))], refutes=refutes)


def test_advice_says_how_many_seeds_would_decide_and_what_they_cost():
    verdict = advised([up(noisy(0.9))])
    needed = verdict.seeds_needed
    assert 6 < needed < 30 and f"About {needed} seeds would decide" in verdict.advice
    assert f"some {decision.format_seconds(2.0 * (needed - 6))} more" in verdict.advice
    # Enough of them, drawn again with this effect, decide in about 80 % of trials.
    rng = np.random.default_rng(4)
    found = [above(t_interval(0.9 + rng.standard_normal(needed))).p_value <= LEVEL for _ in range(2000)]
    assert 0.77 < np.mean(found) < 0.9


def test_advice_takes_the_cheaper_of_both_directions():
    towards_refutation = advised([up(noisy(0.0))]).seeds_needed  # 0.5 below the margin
    assert towards_refutation > 30
    nowhere = advised([up(noisy(0.4999)), up(noisy(0.25))])  # 0.25 either way
    assert nowhere.seeds_needed > towards_refutation


def test_decided_verdicts_have_no_advice():
    verdict = decide(results(), [up(noisy(5.0))], "rule")
    assert verdict.outcome == "supported" and verdict.advice == "" and verdict.seeds_needed is None


def test_effects_without_spread_need_as_many_seeds_as_coins():
    """Three equal values are 1/8; the advice had been silence, as if an infinite effect needed no more seeds."""
    verdict = advised([up(t_interval([2.0] * 3))], seeds=3)
    assert verdict.seeds_needed == 6  # 2^-6 = 0.0156 <= 0.025
    assert decide(results(6), [up(t_interval([2.0] * 6))], "rule").outcome == "supported"
    nothing = advised([finding(supports=[Statement("up", (above(t_interval([0.0] * 3)),))])], seeds=3)
    assert nothing.seeds_needed is None and f"no number of seeds up to {MAX_SEEDS} would decide" in nothing.advice


def test_a_mean_on_the_wrong_side_or_a_tiny_effect_is_beyond_reach():
    only_support = [finding(supports=[Statement("up", (above(noisy(-0.2)),))])]
    assert advised(only_support).seeds_needed is None
    assert f"up to {MAX_SEEDS}" in advised(only_support).advice
    assert advised([finding(supports=[Statement("up", (above(noisy(1e-200)),))])]).seeds_needed is None


def test_too_few_seeds_are_said_to_be_too_few():
    assert advised([up(t_interval([1.0, 1.1]))], seeds=2).advice == "A verdict needs 3 seeds or more."
    lost = advised([up(t_interval([1.0, 1.1])), finding(supports=[Statement("up", (above(noisy(9.0)),))])])
    assert lost.seeds_needed is None and "Too few of the 6 seeds have all that is compared" in lost.advice


def test_lost_runs_raise_the_number_of_seeds():
    """A group that keeps three of six seeds needs twice the seeds for as many values."""
    whole, half = advised([up(noisy(1.0, 6))], seeds=6), advised([up(noisy(1.0, 6))], seeds=12)
    assert half.seeds_needed == 2 * whole.seeds_needed and half.seeds_needed > 12


@pytest.mark.parametrize("seeds", [1, 6])
@pytest.mark.parametrize(
    "findings",
    [
        [finding(text="one width")],
        [finding(supports=[Statement("kernels", (Test(0.2, 5),))])],  # its sampling unit is no seed
        [finding(supports=[Statement("counted", (fact(False),))])],
        [finding(refutes=[Statement("counted", (fact(False), fact(True)))])],
    ],
)
def test_where_seeds_are_not_what_is_lacking_no_number_of_them_is_advised(findings, seeds):
    verdict = advised(findings, seeds=seeds)
    assert verdict.advice == "More seeds alone would not decide." and verdict.seeds_needed is None


def test_a_fact_that_holds_is_no_obstacle_and_one_that_fails_is():
    tests = above(noisy(0.9))
    holds = advised([finding(supports=[Statement("up", (tests, fact(True)))])])
    assert holds.seeds_needed == advised([finding(supports=[Statement("up", (tests,))])]).seeds_needed
    assert advised([finding(supports=[Statement("up", (tests, fact(False)))])]).seeds_needed is None


def test_one_group_that_cannot_be_judged_leaves_refutation_as_the_only_way():
    silent = finding(text="one width")
    assert advised([silent, up(noisy(5.0))]).seeds_needed is None
    assert advised([silent, up(noisy(-0.2))]).seeds_needed > 6


def test_more_seeds_than_there_are_are_advised_also_after_a_look_with_a_small_share():
    look = Look(share=1e-4, seeds=6, left=0.1)  # the first of a long plan, seen again
    verdict = advised([up(noisy(1.8))], look=look)
    assert verdict.seeds_needed > 6
    later = Look(share=0.9, seeds=6, left=0.1)
    assert advised([up(noisy(0.9))], look=later).seeds_needed > advised([up(noisy(0.9))]).seeds_needed


def test_advice_without_times():
    verdict = dataclasses.replace(results(), table=pd.DataFrame({"seed": range(6)}))
    assert decide(verdict, [up(noisy(0.9))], "rule").advice.endswith("both uncertain).")


@pytest.mark.parametrize(("seconds", "text"), [(39.2, "40 s"), (100, "2 min"), (5990, "100 min"), (9000, "2.5 h")])
def test_format_seconds(seconds, text):
    assert decision.format_seconds(seconds) == text


def test_a_single_skewed_value_a_seed_is_tested_at_a_smaller_level_that_the_advice_knows():
    plain, single = above(noisy(1.0)), above(noisy(1.0), single=True)
    assert single.p_value == pytest.approx(decision.SKEW * plain.p_value) and single.effect == plain.effect
    assert below(noisy(1.0), single=True).p_value == 1.0
    both = within(noisy(1.0), 0.0, 2.0, single=True)
    assert [test.cost for test in both] == [decision.SKEW, decision.SKEW] and both[0].p_value == single.p_value
    verdicts = [advised([finding(supports=[Statement("up", (test,))])]) for test in (above(noisy(0.9)),
                                                                                    above(noisy(0.9), single=True))]
    assert verdicts[1].seeds_needed > verdicts[0].seeds_needed
    assert "single values" in verdicts[1].family and "single values" not in verdicts[0].family


def test_at_that_level_lognormal_values_err_in_less_than_5_percent():
    rng = np.random.default_rng(0)
    for n in (3, 6, 12):
        values = np.exp(0.5 * rng.standard_normal((4000, n))) - np.exp(1 / 8)
        wrong = [np.mean([below(t_interval(row), single=single).p_value <= 0.025 for row in values])
                 for single in (False, True)]  # fmt: skip
        assert wrong[0] > 0.055 > 0.05 > wrong[1]
