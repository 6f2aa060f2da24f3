"""Which rows of a part count as one. Everything that draws, pairs or counts the rows of a scored part does so by their groups, and these
are set here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from domaintune.tasks.base import Task


def with_units(task: Task, examples: Sequence[Any], whole: Mapping[int, int] = MappingProxyType({})) -> list[Any]:
    """The examples of a part, each with its independent unit for its group: the group that its row names; else the rows that the cut
    kept whole (`whole`: `id` of an example -> their number), of parts that were given those of equal input, which are answered alike. A
    row that is alone in this has no group.
    """
    units: dict[Any, list[int]] = {}
    inputs = [task.keys(example).input for example in examples]
    for place, (example, text) in enumerate(zip(examples, inputs, strict=True)):
        if example.group is None:
            units.setdefault(whole.get(id(example), text), []).append(place)
    names = {place: f"\0{inputs[rows[0]]}" for rows in units.values() if len(rows) > 1 for place in rows}
    return [replace(e, group=names[place]) if place in names else e for place, e in enumerate(examples)]
