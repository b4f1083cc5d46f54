"""How often may one look at a growing trial?  The error budget of a verdict, shared out over its looks.

A trial is one grid of configs without its seeds. Each set of seeds that is judged is a look, and every look may be the
one that errs: whoever adds seeds until something is decided, at 5 % each time, errs far more often than that. So each
look has a share of the budget, and all shares together are at most 1. A statement is made at a look if its p-value is
at most its level times the share: by Bonferroni's inequality over the looks the error is within the budget for any
test, any dependence, and any division of the level between several statements.

Planned looks (`--max_seeds`) share their plan's budget as Kim & DeMets 1987 (Biometrika 74, power family, rho = 2) do:
after n of N seeds (n / N)^2 of it is spent. `benchmarks/sequential_designs.py` compares this with two others, by
simulation: boundaries from the joint distribution of the looks (Lan & DeMets 1983), which find somewhat more but hold
for one normal statistic at a time and err more often than promised with t statistics of few seeds; and t-tests that
are valid at any time (Wang & Ramdas 2023), which need more seeds at these sizes.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

ERROR = 0.05  # the whole budget: a decided verdict is wrong with at most this probability
FIRST_PLAN = 0.9  # of the budget; the rest is for looks that were not planned at the start
LATER_PLAN = 0.5  # of what is left then
SPENDING_POWER = 2


@dataclass(frozen=True)
class Look:
    """One look at a trial.

    share: of the error budget.  seeds: how many it has.  number: 1 for the first look that was judged.  planned: is it
    part of the trial's first plan?  plan: numbers of seeds at the looks of its plan.  left: the share that is left for
    looks that are not planned yet.
    """

    share: float = 1.0
    seeds: int = 0
    number: int = 1
    planned: bool = True
    plan: tuple = ()
    left: float = 0.0

    @property
    def next_share(self) -> float:
        """The share of the last look of one more plan, from these seeds on to twice as many."""
        sizes = plan_sizes(max(1, self.seeds), 2 * max(1, self.seeds))
        seen, *_, before, whole = (size**SPENDING_POWER for size in (sizes[0], *sizes))
        return LATER_PLAN * self.left * (whole - before) / (whole - seen)


def plan_sizes(first: int, last: int) -> tuple:
    """Numbers of seeds at the looks of a plan: the first, one between (their geometric mean), and the last."""
    return tuple(sorted({first, round(math.sqrt(first * max(first, last))), max(first, last)}))


class Trial:
    """The looks at one trial that have a share of the budget: {what tells the look apart: its entry}.

    An entry is {"seeds": their number, "share": .., "planned": .., "judged": the look's number, or None}. All looks of
    a plan get their shares when the plan begins, so that an interrupted trial goes on with the same ones.
    """

    def __init__(self, entries: dict[str, dict] | None = None):
        self.entries = dict(entries or {})

    @property
    def left(self) -> float:
        """The share of the budget that no look has."""
        return max(0.0, 1 - sum(entry["share"] for entry in self.entries.values()))

    def plan(self, keys: Sequence[str], sizes: Sequence[int]) -> None:
        """Give every look of a plan its share; one that has a share already keeps it.

        keys: what tells the looks apart.  sizes: their numbers of seeds, ascending.
        """
        first = not self.entries
        budget = FIRST_PLAN if first else LATER_PLAN * self.left
        spent = [(size / sizes[-1]) ** SPENDING_POWER for size in sizes]
        steps = [after - before for before, after in zip([0.0, *spent], spent)]
        new = {key: (size, step) for key, size, step in zip(keys, sizes, steps) if key not in self.entries}
        whole = sum(step for _, step in new.values())
        for key, (size, step) in new.items():
            entry = {"seeds": size, "share": budget * step / whole, "planned": first, "judged": None}
            self.entries[key] = entry

    def take(self, key: str, sizes: Sequence[int] = ()) -> Look:
        """The Look of this key, counted when it is taken for the first time; sizes: those of its plan."""
        entry = self.entries[key]
        if entry["judged"] is None:
            entry["judged"] = 1 + sum(other["judged"] is not None for other in self.entries.values())
        return Look(entry["share"], entry["seeds"], entry["judged"], entry["planned"], tuple(sizes), self.left)
