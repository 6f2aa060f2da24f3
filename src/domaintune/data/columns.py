"""Which columns a task needs, what the user calls them, and what to propose where they are not there. Proposed, never guessed."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence

from domaintune.data.rows import Row, Wanted
from domaintune.data.span_shapes import is_span_list
from domaintune.errors import DataError
from domaintune.recipe import Recipe
from domaintune.settings import ObjectDetectionSettings, TextClassificationSettings, TranslationSettings

INPUTS: Mapping[str, Sequence[str]] = {
    "text-classification": ("text",),
    "token-classification": ("tokens",),
    "translation": ("source",),
    "generation": ("prompt", "text", "messages"),
    "image-classification": ("image",),
    "object-detection": ("image",),
}
"""What an input needs; of several names one is enough."""
TARGETS: Mapping[str, str] = {
    "text-classification": "label",
    "token-classification": "tags",
    "translation": "target",
    "image-classification": "label",
}
USUAL: Mapping[str, Sequence[str]] = {
    "text": (
        "text",
        "review",
        "sentence",
        "content",
        "comment",
        "body",
        "utterance",
        "question",
        "message",
        "document",
        "tweet",
    ),
    "label": ("label", "labels", "class", "category", "sentiment", "intent", "target", "topic", "rating", "stars", "y"),
    "tokens": ("tokens", "words", "token"),
    "tags": ("tags", "ner_tags", "labels", "ner"),
    "spans": ("entities", "spans", "label", "labels", "annotations"),
    "source": ("source", "src", "en", "input", "english"),
    "target": ("target", "tgt", "translation", "output", "de", "zh"),
    "prompt": ("prompt", "instruction", "question", "input", "query"),
    "messages": ("messages", "conversations", "chat"),
    "image": ("image", "file", "path", "file_name", "filename", "picture", "img"),
}
SENTENCES = (
    "A row is a whole sentence: a list of tokens and one of tags, or a text with spans of its characters. One word a row goes into a "
    ".conll file: word and tag, a blank line between sentences."
)
RENAME = "The run reads the columns that it was trained with: rename yours."
ONE_NAME = "one name holds for all files, and others have it."


def wanted_of(recipe: Recipe) -> Wanted:
    """What a recipe asks of its readers."""
    settings = recipe.task
    fields = [field for field in type(settings).model_fields if field.endswith("_column")]
    columns = {field.removesuffix("_column"): getattr(settings, field) for field in fields}
    named = {name: column for name, column in columns.items() if column is not None}
    if isinstance(settings, TranslationSettings):
        languages = {"source_language": settings.source_language, "target_language": settings.target_language}
        named |= {name: code for name, code in languages.items() if code is not None}
    if isinstance(settings, ObjectDetectionSettings):
        named |= {str(edge): column for edge, column in settings.box_columns.items()}
    several = isinstance(settings, TextClassificationSettings) and settings.multi_label
    return Wanted(recipe.task.name, named, recipe.data.encoding, several=several)


def require_columns(row: Row, wanted: Wanted) -> None:
    """
    Raises:
        DataError: the row lacks a column that the task needs; columns that it may be are proposed as options.
    """
    inputs = [wanted.column(name) for name in INPUTS[wanted.task]]
    lacking = [] if any(name in row.values for name in inputs) else [INPUTS[wanted.task][0]]
    target = TARGETS.get(wanted.task)
    if wanted.targets and target is not None and wanted.column(target) not in row.values:
        lacking.append(target)
    if not lacking:
        return
    columns = [str(name) for name in row.values]
    proposed = _of_entities(row, lacking) if wanted.task == "token-classification" else _proposals(lacking, columns)
    met = any(proposed.values())
    options = " ".join(f"--{name}-column {shlex.quote(found) if found else 'NAME'}" for name, found in proposed.items())
    remedy = f"Did you mean {options}?" if met else f"Say which: {options}."
    if not met and wanted.task == "token-classification":
        remedy = SENTENCES
    elif any(wanted.column(name) in wanted.used for name in (proposed if met else lacking)):
        remedy = f"Rename {' and '.join(filter(None, proposed.values())) or 'the column'} in this file: {ONE_NAME}"
    names = " and ".join(f"'{wanted.column(name)}'" for name in lacking)
    raise DataError(
        f"no column {names} (columns: {', '.join(columns) or 'none'}).",
        where=row.where,
        remedy=RENAME if wanted.fixed else remedy,
    )


def _proposals(lacking: Sequence[str], columns: Sequence[str]) -> dict[str, str | None]:
    return {name: _proposal(name, columns) for name in lacking}


def _of_entities(row: Row, lacking: Sequence[str]) -> dict[str, str | None]:
    """Of a row with a text and a list of spans these two; else of its columns that hold lists."""
    lists = {str(name): value for name, value in row.values.items() if isinstance(value, list)}
    spans = [name for name, value in lists.items() if value and is_span_list(value)]
    texts = [str(name) for name, value in row.values.items() if isinstance(value, str)]
    if spans and texts:
        return {"text": _proposal("text", texts) or texts[0], "spans": _proposal("spans", spans) or spans[0]}
    return _proposals(lacking, [name for name in lists if name not in spans])


def _proposal(name: str, columns: Sequence[str]) -> str | None:
    """The column whose name is usual for this purpose, else the one that is spelled most alike."""
    lowered = {column.casefold(): column for column in reversed(columns)}
    for usual in USUAL.get(name, ()):
        if usual in lowered:
            return lowered[usual]
    near = difflib.get_close_matches(name, list(lowered), n=1, cutoff=0.6)
    return lowered[near[0]] if near else None
