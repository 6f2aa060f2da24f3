"""Texts as users type them: as rows of a task, and where in them the words and entities of an answer stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domaintune.data.words import word_spans
from domaintune.tasks.base import Task


def bare_values(task: Task, text: str) -> dict[str, Any]:
    """The values of the row that one bare input makes, itself among them."""
    values = dict(task.from_bare(text))
    return values if text in values.values() else {"text": text, **values}


def with_words(values: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of tags beside the words of the row that they are for; any other as it is."""
    words = {name: value for name, value in values.items() if isinstance(value, list)} if "tags" in answer else {}
    return {**words, **answer}


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
