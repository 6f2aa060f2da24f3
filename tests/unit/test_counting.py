"""Sentences agree with the number that they tell."""

import pytest

from domaintune.counting import counted


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 rows were kept (as given)"), (1, "1 row was kept (as given)"), (1234, "1,234 rows were kept (as given)")],
)
def test_numbers_and_verbs_agree(count, expected):
    assert counted(count, "[row was|rows were] kept (as given)") == expected


def test_other_brackets_stay():
    assert counted(2, "[row|rows] of data[0] and [x] [is|are] a|b") == "2 rows of data[0] and [x] are a|b"
