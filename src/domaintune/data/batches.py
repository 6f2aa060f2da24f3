"""Which items form a batch, from their costs alone: pure functions of costs, seed and epoch. No items, no tensors.

A plan is a list of steps, a step a list of micro-batches, a micro-batch a list of item positions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

# Rows of like length share a batch only within a window of this many batches: wide enough that little is padded, narrow enough
# that which rows meet still changes from epoch to epoch.
WINDOW_BATCHES = 50


def plan(
    costs: Sequence[int],
    *,
    batch_size: int,
    budget: int | None,
    seed: int,
    epoch: int,
    groups: Sequence[Hashable] | None = None,
    rows: Sequence[range] | None = None,
) -> list[list[list[int]]]:
    """The steps of one epoch: every row once, with all its items, `batch_size` rows a step (the remainder in one smaller step).

    `rows` are the positions of each row's items, at least one a row; by default each item is a row. A row whose items stood in
    several steps would count once in each of them, since a step is divided by its own units. Rows are shuffled, sorted by their
    dearest item within windows of 50 batches, cut into steps, and the steps shuffled. Each step's items, dearest first, are split
    into micro-batches of at most `budget` (largest cost x count, which is what padding makes of it); an item above the budget
    stands alone; without a budget a step is one micro-batch. Costs are tokens or pixels. With `groups`, one an item, a
    micro-batch holds items of one group.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    cost = np.asarray(costs, dtype=np.int64)
    whole = cost if rows is None else np.array([cost[row.start : row.stop].max() for row in rows], dtype=np.int64)
    shuffled = generator.permutation(len(whole))
    window = WINDOW_BATCHES * batch_size
    steps = []
    for start in range(0, len(whole), window):
        inside = shuffled[start : start + window]
        inside = _dearest_first(inside, whole)
        steps += [inside[first : first + batch_size] for first in range(0, len(inside), batch_size)]
    chosen = [steps[number] for number in generator.permutation(len(steps))]
    if rows is not None:
        chosen = [_dearest_first(np.concatenate([rows[row] for row in step]), cost) for step in chosen]
    return [
        [part for same in _by_group(step.tolist(), groups) for part in within_budget(same, cost, budget=budget)]
        for step in chosen
    ]


def _dearest_first(positions: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """As `within_budget` needs them; stable, so that equal costs stay in shuffled order."""
    return positions[np.argsort(-costs[positions], kind="stable")]


def _by_group(items: Sequence[int], groups: Sequence[Hashable] | None) -> list[list[int]]:
    if groups is None:
        return [list(items)]
    parts: dict[Hashable, list[int]] = {}
    for item in items:
        parts.setdefault(groups[item], []).append(item)
    return list(parts.values())


def steps_in_epoch(count: int, *, batch_size: int) -> int:
    """How many steps `plan` makes of `count` rows."""
    return -(-count // batch_size)


def scoring_plan(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Batches for a forward over everything, dearest first, so that what does not fit in memory shows at once."""
    cost = np.asarray(costs, dtype=np.int64)
    return within_budget(np.argsort(-cost, kind="stable").tolist(), cost, budget=budget)


def within_budget(items: Sequence[int], costs: Sequence[int] | np.ndarray, *, budget: int | None) -> list[list[int]]:
    """Cut `items`, positions in `costs` sorted dearest first, so that the first one's cost x count stays within the budget."""
    if budget is None:
        return [list(items)] if items else []
    parts = []
    start = 0
    while start < len(items):
        count = max(1, budget // max(1, int(costs[items[start]])))
        parts.append(list(items[start : start + count]))
        start += count
    return parts
