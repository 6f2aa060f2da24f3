"""The strength that is told beside the chosen one, because more is to be had there on the domain, beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from domaintune.balance.frontier import Point, Records
from domaintune.evaluation.intervals import Estimate, gain_estimate
from domaintune.tasks.base import Primary, Task

MUCH_MORE = 1.25
"""How many times the chosen strength's gain another's must be."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another strength, with what it gains over the chosen one on the rows that strengths are compared on."""

    strength: float
    gain: Estimate

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def alternative(
    task: Task, frontier: Sequence[Point], chosen: float, records: Records, weights: np.ndarray
) -> Alternative | None:
    """The first candidate whose paired interval against the chosen strength lies above 0; `weights`: resamples of the domain's
    `records`."""
    for strength in candidates(frontier, chosen, primary=task.primary):
        gain = gain_estimate(task, records[strength], records[chosen], weights)
        if gain.low > 0:
            return Alternative(strength, gain)
    return None


def candidates(frontier: Sequence[Point], chosen: float, *, primary: Primary) -> list[float]:
    """Strengths by their scores alone, in the order in which they are looked at: those above the chosen one that gain much more; the
    best one, where the base was chosen, or where nothing tells what is lost and it gains much more than 1."""
    sign = 1.0 if primary.higher_is_better else -1.0
    points = {point.strength: point for point in frontier}
    gained = {strength: sign * (point.domain - points[0.0].domain) for strength, point in points.items()}
    best = max(gained, key=lambda strength: (gained[strength], -strength))
    if points[chosen].retention is None:
        return [best] if gained[best] > max(MUCH_MORE * gained[chosen], gained[chosen]) else []
    if not chosen:
        return [best] if best else []
    return [s for s in sorted(points) if s > chosen and gained[s] >= MUCH_MORE * gained[chosen]]
