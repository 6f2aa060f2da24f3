"""Sentences agree with the number that they tell."""

import pytest

from domaintune.counting import counted, listed


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 rows were kept (as given)"), (1, "1 row was kept (as given)"), (1234, "1,234 rows were kept (as given)")],
)
def test_numbers_and_verbs_agree(count, expected):
    assert counted(count, "[row was|rows were] kept (as given)") == expected


def test_other_brackets_stay():
    assert counted(2, "[row|rows] of data[0] and [x] [is|are] a|b") == "2 rows of data[0] and [x] are a|b"


def test_names_that_are_left_out_are_told_of():
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(8))) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert listed(map(str, range(9))) == "0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert listed("abc", most=2) == "a, b, ..."
