"""judging/looks.py: shares of the error budget add up, and all looks together err no more often than one may."""
import numpy as np
import pytest

from analysis.statistics import t_interval
from judging.decision import above
from judging.looks import ERROR, FIRST_PLAN, LATER_PLAN, Look, Trial, plan_sizes


def shares(trial):
    return [entry["share"] for entry in trial.entries.values()]


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [(3, 12, (3, 6, 12)), (6, 12, (6, 8, 12)), (3, 3, (3,)), (3, 4, (3, 4)), (1, 2, (1, 2)), (5, 2, (5,)),
     (3, 200, (3, 24, 200))],
)  # fmt: skip
def test_plans_look_first_between_and_last(first, last, sizes):
    assert plan_sizes(first, last) == sizes


def test_a_plan_spends_as_kim_and_demets():
    trial = Trial()
    trial.plan(["a", "b", "c"], [3, 6, 12])
    assert np.cumsum(shares(trial)) == pytest.approx(FIRST_PLAN * np.array([1 / 16, 1 / 4, 1]))
    assert trial.left == pytest.approx(1 - FIRST_PLAN)
    before = dict(trial.entries)
    trial.plan(["a", "b", "c"], [3, 6, 12])  # again: it keeps its shares
    assert trial.entries == before


def test_later_plans_have_half_of_what_is_left():
    trial = Trial()
    trial.plan(["a"], [6])
    trial.plan(["a", "b", "c"], [6, 8, 12])  # "a" has its share already
    assert shares(trial)[0] == FIRST_PLAN
    assert sum(shares(trial)[1:]) == pytest.approx(LATER_PLAN * (1 - FIRST_PLAN))
    assert shares(trial)[2] / shares(trial)[1] == pytest.approx((144 - 64) / (64 - 36))
    assert [entry["planned"] for entry in trial.entries.values()] == [True, False, False]


def test_shares_never_add_up_to_more_than_the_budget():
    rng = np.random.default_rng(0)
    for _ in range(100):
        trial = Trial()
        for i in range(rng.integers(1, 15)):
            sizes = plan_sizes(int(rng.integers(2, 8)), int(rng.integers(2, 40)))
            keys = [f"{i if rng.random() < 0.5 else 'shared'}-{size}" for size in sizes]
            trial.plan(keys, sizes)
            assert all(share >= 0 for share in shares(trial))
            assert sum(shares(trial)) <= 1 + 1e-12 and 0 <= trial.left < 1


def test_a_hundred_looks_by_hand_leave_nothing_and_break_nothing():
    trial = Trial()
    for n in range(3, 120):
        trial.plan([str(n)], [n])
        look = trial.take(str(n), [n])
        assert look.share >= 0 and look.next_share >= 0
    assert sum(shares(trial)) <= 1 + 1e-12 and look.share < 1e-12 and look.number == 117


def test_looks_are_counted_when_they_are_taken():
    trial = Trial()
    trial.plan(["a", "b"], [3, 6])
    assert trial.take("b", [3, 6]).number == 1 and trial.take("a").number == 2 and trial.take("b").number == 1
    assert trial.take("b", [3, 6]) == Look(trial.entries["b"]["share"], 6, 1, True, (3, 6), trial.left)
    again = Trial(trial.entries)  # as read from the run folder
    assert again.take("a").number == 2 and again.left == trial.left
    with pytest.raises(KeyError):
        trial.take("unknown")


@pytest.mark.parametrize("seeds", [1, 2, 3, 6, 50])
def test_the_next_share_is_that_of_one_more_plan(seeds):
    trial = Trial()
    trial.plan(["now"], [seeds])
    look = trial.take("now", [seeds])
    sizes = plan_sizes(seeds, 2 * seeds)
    expected = look.next_share
    trial.plan(["now", *map(str, sizes[1:])], sizes)
    assert shares(trial)[-1] == pytest.approx(expected) and expected > 0
    assert Look().next_share == 0  # of a judge that is called alone, with the whole budget


def test_a_trial_over_all_looks_errs_no_more_often_than_one_look_may():
    """A person who plans up to 12 seeds and then adds them one by one until something is decided."""
    rng, trials, wrong = np.random.default_rng(1), 1500, 0
    trial = Trial()
    plan = plan_sizes(3, 12)
    trial.plan([str(n) for n in plan], plan)
    for n in range(13, 20):
        trial.plan([str(n)], [n])
    levels = {int(n): ERROR / 2 * entry["share"] for n, entry in trial.entries.items()}
    for _ in range(trials):
        values = rng.standard_normal(max(levels))
        wrong += any(above(t_interval(values[:n])).p_value <= level for n, level in levels.items())
    assert wrong / trials <= 0.025 + 3 * np.sqrt(0.025 / trials)
    assert wrong > 0
