"""Inputs as users give them: as rows of a task, and where in texts the words and entities of an answer stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from domaintune.data.columns import INPUTS, RENAME, wanted_of
from domaintune.data.formats import WITH_PICTURES, shaped
from domaintune.data.rows import LeftOut, Row, Wanted
from domaintune.data.words import word_spans
from domaintune.errors import DataError
from domaintune.recipe import Recipe
from domaintune.tasks.base import Task

TEXTS = ("text-classification", "translation", "generation")
"""Of entities readers leave blank texts out."""


def given_rows(task: Task, recipe: Recipe, given: Sequence[str | Mapping[str, Any]]) -> list[Row]:
    """One row an input, in order: of a bare text or path, or of a row as in the training file, brought to the task's shape as there.
    Rows with the same columns are shaped together, like those of one file.

    Raises:
        DataError: a row without the task's input, or one that files of the task leave out, with its number.
    """
    wanted = replace(wanted_of(recipe), inputs=True)
    made: dict[int, Row] = {}
    alike: dict[frozenset[str], list[Row]] = {}
    for number, value in enumerate(given, start=1):
        if isinstance(value, str):
            made[number] = Row(bare_values(task, value), "input", number)
        else:
            alike.setdefault(frozenset(value), []).append(Row(value, "input", number))
    for rows in alike.values():
        for entry in shaped(rows, wanted, Path()):
            if isinstance(entry, LeftOut):
                raise DataError(f"cannot be answered ({entry.reason}).", where=entry.where, remedy="Drop the row.")
            if isinstance(entry, Row):
                made[entry.line] = with_input(task, wanted, entry)
    return [made[number] for number in range(1, len(given) + 1)]


def is_blank(wanted: Wanted, row: Row) -> bool:
    """Whether the row has the text that a task of texts answers, and nothing in it."""
    if wanted.task not in TEXTS:
        return False
    held = [wanted.column(name) for name in INPUTS[wanted.task] if wanted.column(name) in row.values]
    held = held or [name for name in (wanted.column("text"), "text") if name in row.values]
    values = [row.values[name] for name in held]
    return bool(held) and all(value is None or (isinstance(value, str) and not value.strip()) for value in values)


def with_input(task: Task, wanted: Wanted, row: Row) -> Row:
    """The row itself where it has the task's input, else the one that its "text" makes.

    Raises:
        DataError: it has neither.
    """
    if is_blank(wanted, row) or (wanted.task in WITH_PICTURES and "image" in row.values):
        return row
    names = [wanted.column(name) for name in INPUTS[wanted.task]]
    text = row.values.get(wanted.column("text"), row.values.get("text"))
    bare = task.from_bare(text) if isinstance(text, str) else {}
    chat = wanted.column("messages") in bare  # whose users ask plain questions
    if any(name in row.values for name in names if not (chat and name == wanted.column("text"))):
        return row
    if bare:
        return Row({**row.values, **bare}, row.file, row.line)
    raise DataError(
        f"no column '{names[0]}' (columns: {', '.join(map(str, row.values)) or 'none'}).",
        where=row.where,
        remedy=RENAME,
    )


def bare_values(task: Task, text: str) -> dict[str, Any]:
    """The values of the row that one bare input makes, itself among them."""
    values = dict(task.from_bare(text))
    return values if text in values.values() else {"text": text, **values}


def with_words(given: str | Mapping[str, Any], values: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of tags beside the words that they are for, where those are the row's (`values`) and not the input's own (`given`); any
    other as it is."""
    own = {} if isinstance(given, str) else given
    made = {name: value for name, value in values.items() if isinstance(value, list) and own.get(name) != value}
    return {**(made if "tags" in answer else {}), **answer}


def placed(values: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Entities of words that were cut from a text of the row also say at which characters of it they stand, end exclusive."""
    made, names = dict(answer), [name for name in ("entities", "base_entities") if name in answer]
    found = _text_of_words(values) if names else None
    if found is not None:
        made |= {name: [_at_characters(entity, *found) for entity in made[name]] for name in names}
    return made


def _text_of_words(values: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]] | None:
    """The text that the row's words were cut from, and where they stand in it."""
    words = [value for value in values.values() if isinstance(value, list) and value]
    for text in (value for value in values.values() if isinstance(value, str)):
        spans = word_spans(text)
        if [text[start:end] for start, end in spans] in words:
            return text, spans
    return None


def _at_characters(entity: Mapping[str, Any], text: str, spans: Sequence[tuple[int, int]]) -> dict[str, Any]:
    start, end = spans[entity["start"]][0], spans[entity["end"] - 1][1]
    return {**entity, "text": text[start:end], "start_character": start, "end_character": end}
