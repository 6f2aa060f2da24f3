"""Two models on the same examples: is the difference more than luck? And several such questions at once. No task but its `reduce`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.special import stdtr

from domaintune.evaluation.intervals import (
    Estimate,
    are_few,
    decided_records,
    differing_records,
    drawn_units,
    gain_estimate,
    gained,
    percentiles,
    within_gains,
)
from domaintune.evaluation.over_seeds import means_over_seeds, reaching, spread, widened
from domaintune.tasks.base import Record, Task

CHUNK_DRAWS = 100
Runs = Sequence[Sequence[Record]]
"""One model's records of the same examples, a list for each seed that it was trained with."""


def difference(
    task: Task,
    ours: Runs,
    theirs: Runs,
    weights: np.ndarray,
    *,
    draws: int,
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> tuple[Estimate, float]:
    """Ours minus theirs of the primary score (for losses theirs minus ours), each the mean over its seeds, with its interval, and its
    two-sided p-value: of the swap test, with so many `draws`; where there are several seeds also of Student's t, and the larger counts,
    as swapped examples tell nothing of how much seeds vary. `weights`: resamples of the examples, for both at once, [draws, examples];
    seeds are resampled independently, and a single one adds nothing to the interval."""
    p = swap_test(task, ours, theirs, draws=draws, seed=seed, groups=groups)
    if len(ours) == len(theirs) == 1:
        return gain_estimate(task, ours[0], theirs[0], weights), p
    name = task.primary.name
    (each, drawn), (other, other_drawn) = (
        means_over_seeds(task, records, weights, seed=seed + side) for side, records in enumerate((ours, theirs))
    )
    both, rows = gained(task.primary, drawn[name], other_drawn[name]), drawn_units(weights)
    value = float(gained(task.primary, each[name].mean(), other[name].mean()))
    variance, freedom, _ = spread(both, (each[name], other[name]), rows=rows)
    if variance > 0:
        p = max(p, 2 * float(stdtr(freedom, -abs(value) / np.sqrt(variance))))
    made = widened(percentiles(value, both), both, each[name], other[name], rows=rows)
    few = [gain_estimate(task, a, b, weights) for a in ours for b in theirs if _few_differ(task, a, b, weights)]
    made = reaching(made, [estimate for estimate in few if estimate.how == "exact"])
    return within_gains(made, task.primary), p


def _few_differ(task: Task, ours: Sequence[Record], theirs: Sequence[Record], weights: np.ndarray) -> bool:
    if task.primary.binary and are_few(decided_records(ours, theirs), weights):
        return True
    return are_few(differing_records(task.primary, ours, theirs), weights)


def swap_test(
    task: Task,
    ours: Runs,
    theirs: Runs,
    *,
    draws: int,
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> float:
    """Two-sided p-value of the difference in the primary score if the two models were alike: (1 + draws at least as far from 0) /
    (1 + draws), where each draw swaps the two models' answers at every example, or every group of them, with probability 1/2. Those of
    all seeds of an example are swapped together.

    Source: Noreen 1989, approximate randomisation; for scores that are no means Yeh 2000 (arXiv cs/0008005).
    """
    count, name = len(ours[0]), task.primary.name
    marks: list[object] = [i if groups is None or groups[i] is None else groups[i] for i in range(count)]
    position = {mark: i for i, mark in enumerate(dict.fromkeys(marks))}
    member = np.array([position[mark] for mark in marks])
    pairs = list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else list(product(ours, theirs))

    def differences(swapped: np.ndarray) -> np.ndarray:
        """swapped: bool [draws, examples]. The mean over pairs of seeds, of all where the two have other numbers of seeds."""
        first = np.concatenate([~swapped, swapped], axis=1).astype(np.float64)
        made = [
            task.reduce(both, first)[name] - task.reduce(both, 1.0 - first)[name]
            for both in ([*a, *b] for a, b in pairs)
        ]
        return np.asarray(np.mean(made, axis=0))

    observed = abs(float(differences(np.zeros((1, count), dtype=bool))[0]))
    generator = np.random.default_rng([seed, count])
    reached = 0
    for start in range(0, draws, CHUNK_DRAWS):
        coins = generator.random((min(CHUNK_DRAWS, draws - start), len(position))) < 0.5
        # Rounding must not tell apart what is equal: two ways to sum the same numbers differ in their last bits.
        reached += int((np.abs(differences(coins[:, member])) >= observed - 1e-12).sum())
    return (1 + reached) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected so that the chance of any false finding among them is kept. Source: Holm 1979, step-down."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
