"""Claims and verdicts: what was put on trial, and what the measurements say of it."""
from dataclasses import dataclass

OUTCOMES = ("supported", "refuted", "undecided")


@dataclass(frozen=True)
class Claim:
    """A statement of deep-learning theory, in one sentence, and where it is made or examined."""

    sentence: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What the measurements of one run say of its claim.

    outcome: supported, refuted or undecided.  reason: the numbers it rests on.  test: the rule, or the proof, that
    decides.  family: what the error budget was shared out over.  groups: ((label, outcome), ..) of the single groups.
    measured: what was measured in each of them, with intervals.  deciding: which of them the verdict hangs on, None
    where there are none.  seeds_needed: how many seeds would decide an undecided one, None where none would or where
    that is not known.  advice: the same in words.
    """

    outcome: str
    reason: str
    test: str
    family: str = ""
    groups: tuple = ()
    measured: tuple = ()
    deciding: int | None = None
    seeds_needed: int | None = None
    advice: str = ""

    def __post_init__(self):
        if self.outcome not in OUTCOMES:
            raise ValueError(f"a verdict is one of {', '.join(OUTCOMES)}, got {self.outcome!r}")

    def __str__(self) -> str:
        return f"{self.outcome.upper()}: {self.reason}{self.advice and ' '}{self.advice}"
