"""judging/verdict.py: three outcomes."""
import pytest

from judging.verdict import Verdict


def test_verdicts_are_of_three_kinds():
    assert str(Verdict("undecided", "Nothing moved.", "none")) == "UNDECIDED: Nothing moved."
    with pytest.raises(ValueError, match="one of supported, refuted, undecided, got 'guilty'"):
        Verdict("guilty", "", "")
