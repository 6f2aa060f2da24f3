"""Which rows of a part count as one. Everything that draws, pairs or counts the rows of a scored part does so by their groups, and of
parts that were cut these are set here; of a given part every row was drawn for itself, also one that says what another says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from domaintune.tasks.base import Task


def with_kept_whole(task: Task, examples: Sequence[Any], whole: Mapping[int, int]) -> list[Any]:
    """The examples of a part that was cut, each with its independent unit for its group: the group that its row names; else the rows that
    the cut kept whole (`whole`: `id` of an example -> their number). A row that is alone in this has no group.
    """
    units: dict[int, list[int]] = {}
    for place, example in enumerate(examples):
        if example.group is None and id(example) in whole:
            units.setdefault(whole[id(example)], []).append(place)
    told = {
        place: f"\0{task.keys(examples[rows[0]]).input}" for rows in units.values() if len(rows) > 1 for place in rows
    }
    return [replace(e, group=told[place]) if place in told else e for place, e in enumerate(examples)]
