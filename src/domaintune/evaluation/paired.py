"""Two models on the same examples: is the difference more than luck? And several such questions at once. No task but its `reduce`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domaintune.tasks.base import Record, Task

CHUNK_DRAWS = 100


def swap_test(
    task: Task,
    ours: Sequence[Record],
    theirs: Sequence[Record],
    *,
    draws: int,
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> float:
    """Two-sided p-value of the difference in the primary score if the two models were alike: (1 + draws at least as far from 0) /
    (1 + draws), where each draw swaps the two models' answers at every example, or every group of them, with probability 1/2.

    Source: Noreen 1989, approximate randomisation; for scores that are no means Yeh 2000 (arXiv cs/0008005).
    """
    count, name = len(ours), task.primary.name
    marks: list[object] = [i if groups is None or groups[i] is None else groups[i] for i in range(count)]
    position = {mark: i for i, mark in enumerate(dict.fromkeys(marks))}
    member = np.array([position[mark] for mark in marks])
    both = [*ours, *theirs]

    def differences(swapped: np.ndarray) -> np.ndarray:
        """swapped: bool [draws, examples]."""
        first = np.concatenate([~swapped, swapped], axis=1).astype(np.float64)
        made: np.ndarray = task.reduce(both, first)[name] - task.reduce(both, 1.0 - first)[name]
        return made

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
