"""Plans: every item once, like lengths together, within the budget, and a pure function of seed and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from domaintune.data.batches import WINDOW_BATCHES, plan, scoring_plan, steps_in_epoch


def costs(count: int, *, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 120, count).tolist()


@pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (1, 4), (4, 4), (5, 4), (97, 8), (1203, 8), (450, 1)])
@pytest.mark.parametrize("budget", [None, 1, 200, 100_000])
def test_every_item_once_in_steps_of_the_batch_size(count: int, batch_size: int, budget: int | None) -> None:
    steps = plan(costs(count), batch_size=batch_size, budget=budget, seed=1, epoch=2)
    assert sorted(i for step in steps for part in step for i in part) == list(range(count))
    assert len(steps) == steps_in_epoch(count, batch_size=batch_size)
    sizes = sorted(sum(map(len, step)) for step in steps)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)
    assert all(part for step in steps for part in step)


@pytest.mark.parametrize("budget", [50, 119, 300])
def test_micro_batches_stay_within_the_budget(budget: int) -> None:
    cost = costs(500)
    steps = plan(cost, batch_size=16, budget=budget, seed=0, epoch=0)
    for step in steps:
        for number, part in enumerate(step):
            dearest = max(cost[i] for i in part)
            assert dearest * len(part) <= budget or len(part) == 1
            if number + 1 < len(step):  # and none could have taken one item more
                assert dearest * (len(part) + 1) > budget
    assert any(len(part) > 1 for step in steps for part in step)


def test_the_budget_does_not_change_which_items_form_a_step() -> None:
    whole = plan(costs(300), batch_size=8, budget=None, seed=3, epoch=1)
    split = plan(costs(300), batch_size=8, budget=150, seed=3, epoch=1)
    assert [part for step in whole for part in step] == [[i for part in step for i in part] for step in split]


def test_a_plan_depends_on_seed_and_epoch_alone() -> None:
    def made(seed: int = 5, epoch: int = 1) -> list[list[list[int]]]:
        return plan(costs(200), batch_size=8, budget=400, seed=seed, epoch=epoch)

    first = made()
    np.random.seed(9)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert made() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert made(seed=6) != first
    assert made(epoch=2) != first


def test_like_lengths_meet_within_a_window_and_windows_change() -> None:
    cost = list(range(1, 1 + 3 * 8 * WINDOW_BATCHES))
    steps = [step[0] for step in plan(cost, batch_size=8, budget=None, seed=0, epoch=0)]
    spans = [max(step) - min(step) for step in steps]
    # 400 of 1,200 ranks in a window: eight neighbours lie about 24 apart; unsorted they would be some 900 apart.
    assert 8 < np.mean(spans) < 60
    one_window = [step[0] for step in plan(cost[:400], batch_size=8, budget=None, seed=0, epoch=0)]
    assert all(max(step) - min(step) == 7 for step in one_window)
    firsts = [min(step) for step in one_window]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)
    again = [step[0] for step in plan(cost, batch_size=8, budget=None, seed=0, epoch=1)]
    assert {frozenset(s) for s in steps}.isdisjoint({frozenset(s) for s in again})


def test_a_plan_never_changes() -> None:
    """An unfinished run must find the same plan under a later version."""
    assert plan([5, 9, 2, 7, 7, 1], batch_size=4, budget=18, seed=0, epoch=0) == [[[1, 4], [3, 0]], [[2, 5]]]


LENGTHS = [41, 48, 4, 49, 29, 32, 38, 19, 58, 6, 18, 24, 35, 26, 10, 5, 3, 5, 11, 59, 13, 40, 45]
PLAN = [
    [[12, 5], [4, 13]], [[22, 0], [21, 6]], [[11, 7, 10], [20]], [[18, 14, 9, 15]], [[17, 2, 16]],
    [[19], [8], [3], [1]],
]  # fmt: skip
BY_PARITY = [
    [[12, 4], [5, 13]], [[22, 0], [6], [21]], [[11, 7], [10, 20]], [[18, 14], [9, 15]], [[17], [2, 16]],
    [[19], [3], [1], [8]],
]  # fmt: skip


@pytest.mark.parametrize("rows", [None, [range(i, i + 1) for i in range(len(LENGTHS))]])
@pytest.mark.parametrize(("groups", "expected"), [(None, PLAN), ([i % 2 for i in range(len(LENGTHS))], BY_PARITY)])
def test_rows_of_one_item_are_planned_as_their_items(rows: Any, groups: Any, expected: Any) -> None:
    made = plan(LENGTHS, batch_size=4, budget=90, seed=11, epoch=3, groups=groups, rows=rows)
    assert made == expected


def several(count: int, *, seed: int = 0) -> tuple[list[int], list[range]]:
    """Costs of items and rows of 1 to 12 of them."""
    generator = np.random.default_rng(seed)
    ends = np.cumsum(generator.integers(1, 13, count)).tolist()
    return costs(ends[-1], seed=seed), [range(*pair) for pair in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("budget", [None, 50, 300])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_step_holds_all_items_of_its_rows(budget: int | None, grouped: bool) -> None:
    cost, rows = several(83)
    groups = [number % 3 for number, row in enumerate(rows) for _ in row] if grouped else None
    steps = plan(cost, batch_size=8, budget=budget, seed=1, epoch=2, groups=groups, rows=rows)
    assert len(steps) == steps_in_epoch(len(rows), batch_size=8)
    owner = {item: number for number, row in enumerate(rows) for item in row}
    seen = []
    for step in steps:
        items = [i for part in step for i in part]
        owners = {owner[i] for i in items}
        assert sorted(items) == sorted(i for number in owners for i in rows[number])
        seen.append(len(owners))
        for part in step:
            dearest = max(cost[i] for i in part)
            assert budget is None or dearest * len(part) <= budget or len(part) == 1
            assert groups is None or len({groups[i] for i in part}) == 1
    assert sorted(seen) == [3, *[8] * 10]


def test_rows_of_many_full_items_meet_others_in_each_epoch() -> None:
    """Their number of items does not bind them to each other: the windows of long texts are all of one length."""
    rows = [range(sum(range(2, n)), sum(range(2, n + 1))) for n in range(2, 42)]
    cost = [64] * rows[-1].stop
    first, second = (plan(cost, batch_size=8, budget=256, seed=0, epoch=epoch, rows=rows) for epoch in (0, 1))
    steps = [{frozenset(i for part in step for i in part) for step in steps} for steps in (first, second)]
    assert steps[0].isdisjoint(steps[1])


@pytest.mark.parametrize("budget", [1, 119, 1000])
def test_scoring_goes_from_dear_to_cheap(budget: int) -> None:
    cost = costs(300)
    batches = scoring_plan(cost, budget)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(300))
    assert [cost[i] for i in flat] == sorted(cost, reverse=True)
    assert all(max(cost[i] for i in b) * len(b) <= budget or len(b) == 1 for b in batches)
    assert scoring_plan([], budget) == []
