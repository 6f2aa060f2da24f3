"""The task's labels beside those of the head that the base's weights came with. Reads no rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from domaintune.bases.base import Base
from domaintune.counting import counted
from domaintune.data.labels import alike
from domaintune.errors import DataError
from domaintune.tasks.base import Task
from domaintune.tasks.tag_sequences import tags_of
from domaintune.tasks.token_classification import TokenClassification

SHOWN = 8


def with_units(task: Task, labels: Sequence[str]) -> Task:
    """The task for these output units; class weights, where it has any, are 1 until the train part is known."""
    made = task.relabelled(labels)
    if getattr(task, "weights", None) is not None:
        made = made.model_copy(update={"weights": (1.0,) * len(labels)})
    return made


def of_own_head(task: Task, base: Base) -> Task | None:
    """The task with the labels of the base's own head, where these are others and the head is one for it."""
    own = base.own_labels
    return None if not own or set(own) == set(task.head().labels) else in_own_order(task, base)


def in_own_order(task: Task, base: Base) -> Task | None:
    """The task with the labels of the base's own head in its order; None where that is none for it."""
    try:
        kept = task.relabelled(base.own_labels)
    except DataError:  # a head for something else: the base is a body alone
        return None
    return kept.fitted((), base) if base.owns(kept.head()) else None


def with_whole_head(base: Base, task: Task, notes: list[str], *, given: bool) -> Task:
    """The task with all labels of the base's own head, where the rows' are some of them and each row has just one: then strength 0 is
    the base itself, and says what the base says. `given`: the user named the labels, which stay.

    Not where a row may have several labels, entities or boxes: there a label that no row has may be one that nobody looked for, and
    the base's answers would count as wrong. A note says how to keep the head all the same.
    """
    names = _more_names(base, task)
    if names is None:
        return task
    own, more = names
    shown = f"{', '.join(more[:SHOWN])}{', ...' if len(more) > SHOWN else ''}"
    if task.one_label and not given:
        made = with_units(task, base.own_labels)
        told = f"[label|labels] of the base's own head [is|are] in no row ({shown}); it is kept whole, so that base (0) is the base itself."
        notes.append(
            f"{counted(len(more), told)} For a head of the rows' labels alone: {_setting(task.head().labels)}."
        )
        return made
    notes.append(
        f"the base's own head knows these labels and {len(more):,} more ({shown}), and is not used: base (0) is the base with a head fitted "
        f"on your rows; to start from its own: {_setting(own)}."
    )
    return task


def head_left(base: Base, task: Task, general: Task) -> list[str]:
    """That the base's own head stays unused only because its labels are spelled otherwise, or nobody named them. `general`: the task of
    the general rows, which may use it; the same one without any."""
    spec, unnamed = task.head(), base.unnamed_labels
    if base.owns(spec) or base.owns(general.head()):
        return []
    if len(unnamed) == len(spec.labels) and base.owns(replace(spec, labels=unnamed)):
        order = _map(dict(zip(spec.labels[:SHOWN], unnamed, strict=False)))
        order += " ..." if len(unnamed) > SHOWN else ""
        return [
            f"the base's own head calls its {len(unnamed)} labels {unnamed[0]} to {unnamed[-1]} and is not used; to start from it, map yours "
            f"in the order that it was trained in, such as {order}."
        ]
    others = _alike(spec.labels, base.own_labels)
    mapped = [
        tag[:2] + others.get(tag[2:], tag[2:]) if tag[1:2] == "-" else others.get(tag, tag) for tag in spec.labels
    ]
    if not others or not base.owns(replace(spec, labels=tuple(mapped))):
        return []
    return [
        f"the base's own head knows these labels under other names and is not used; to start from it: {_map(others)}."
    ]


def general_head_told(task: Task, general: Task, learn: int) -> str:
    """That a head is fitted on so many general rows, whose labels are neither the domain's nor the base's own, as `general` has them."""
    others = _alike(general.head().labels, task.head().labels)
    told = f"the labels of the general rows are neither the domain's nor the base's own: a head for them is fitted on {learn:,} of these rows"
    return f"{told}; if they mean the same as the domain's: {_map(others)}." if others else f"{told}."


def _alike(labels: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """As `alike`, of tags by their types."""
    names, own = ({tag[2:] if tag[1:2] == "-" else tag for tag in tags} for tags in (labels, others))
    return alike(sorted(names), sorted(own))


def _map(names: Mapping[str, str]) -> str:
    return " ".join(f"--label-map {shlex.quote(f'{name}={other}')}" for name, other in names.items())


def _more_names(base: Base, task: Task) -> tuple[Sequence[str], Sequence[str]] | None:
    """The labels of the base's own head as `task.labels` takes them, and those that the task lacks, where it lacks some and knows no
    others; None elsewhere."""
    spec, own = task.head(), base.own_labels
    if not set(spec.labels) < set(own) or not base.owns(replace(spec, labels=own)):
        return None
    if not isinstance(task, TokenClassification):
        return own, [name for name in own if name not in spec.labels]
    types = tuple(dict.fromkeys(tag[2:] for tag in own if len(tag) > 2))
    return (types, [name for name in types if name not in task.types]) if set(tags_of(types)) == set(own) else None


def _setting(labels: Sequence[str]) -> str:
    return f"--set {shlex.quote(f'task.labels={json.dumps(labels, ensure_ascii=False)}')}"
