"""judging/verdict.py: three outcomes, and what several groups say together."""
import pytest

from judging.verdict import Verdict, combine_outcomes


def test_verdicts_are_of_three_kinds():
    assert str(Verdict("undecided", "Nothing moved.", "none")) == "UNDECIDED: Nothing moved."
    with pytest.raises(ValueError, match="one of supported, refuted, undecided, got 'guilty'"):
        Verdict("guilty", "", "")


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["supported", "refuted", "undecided"], "refuted"),
        (["undecided"], "undecided"),
        ([], "undecided"),
    ],
)
def test_one_refutation_refutes_and_support_needs_all(outcomes, together):
    assert combine_outcomes(outcomes) == together
