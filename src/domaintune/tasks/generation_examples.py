"""Rows -> examples of generation: prompts, chats and running text. No tokens here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePath

from domaintune.data.chats import messages_of
from domaintune.data.rows import Row
from domaintune.errors import DataError
from domaintune.settings import GenerationSettings
from domaintune.tasks.base import Example
from domaintune.tasks.chat_rendering import ANSWER

TEXT_FILE = ".txt"


@dataclass(frozen=True, kw_only=True)
class PromptExample(Example):
    prompt: str
    completion: str | None
    """None for a row without a target."""
    messages: tuple[Mapping[str, str], ...] | None = None
    """Of a chat: all before the completion. `prompt` is then their contents; the model sees what the tokenizer's template makes of them."""
    written: tuple[int, ...] | None = None
    """The tokens of the completion, where a model wrote it."""


@dataclass(frozen=True, kw_only=True)
class TextExample(Example):
    """A block of running text; `line` is where it starts."""

    text: str


def is_plain(row: Row, settings: GenerationSettings) -> bool:
    """Plain text: the row has the text column, no prompt and no messages."""
    others = {settings.prompt_column, settings.messages_column}
    return settings.text_column in row.values and others.isdisjoint(row.values)


def is_chat(row: Row, settings: GenerationSettings) -> bool:
    """A chat: the row has messages, and is no pair of prompt and completion."""
    pair = {settings.prompt_column, settings.completion_column}
    return settings.messages_column in row.values and not pair <= set(row.values)


def has_answer(row: Row, settings: GenerationSettings) -> bool:
    """Whether a chat ends with an answer."""
    messages = messages_of(row, settings.messages_column)
    return bool(messages) and messages[-1]["role"] == ANSWER


def chat_example(row: Row, settings: GenerationSettings, *, labelled: bool) -> PromptExample:
    """The last answer as the completion, all before it as the prompt.

    Raises:
        DataError: no such answer in a labelled row, or nothing before it.
    """
    messages = messages_of(row, settings.messages_column)
    answer = messages.pop()["content"] if messages and messages[-1]["role"] == ANSWER else ""
    if not messages or (labelled and not answer.strip()):
        what = "has no answer at its end" if messages else "has nothing before an answer"
        raise DataError(f"the chat {what}.", where=row.where, remedy="Write it, or drop the row.")
    return PromptExample(
        file=row.file,
        line=row.line,
        prompt=contents(messages),
        completion=answer if labelled else None,
        messages=tuple(messages),
    )


def pair_example(row: Row, settings: GenerationSettings, *, labelled: bool) -> PromptExample:
    """A chat, a prompt with its completion, or, unlabelled, a text to go on from.

    Raises:
        DataError: a value that is no text; no completion in a labelled row.
    """
    if is_chat(row, settings):
        return chat_example(row, settings, labelled=labelled)
    prompt = row.text(settings.text_column if is_plain(row, settings) else settings.prompt_column)
    completion = row.text(settings.completion_column) if labelled else None
    if completion is not None and not completion.strip():
        raise DataError(
            f"'{settings.completion_column}' is empty.", where=row.where, remedy="Write it, or drop the row."
        )
    return PromptExample(file=row.file, line=row.line, prompt=prompt, completion=completion)


def unmarked(example: PromptExample, front: str, ends: Sequence[str]) -> PromptExample:
    """The example without the special tokens that its texts bring along and the tokenizer or a chat template puts there too: `front` before
    a prompt, one of `ends` behind a completion.

    Raises:
        DataError: nothing else in the completion.
    """
    prompt = example.prompt if example.messages is not None else example.prompt.removeprefix(front)
    completion = example.completion
    end = next((end for end in ends if (completion or "").rstrip().endswith(end)), None)
    if completion is not None and end is not None:
        completion = completion.rstrip().removesuffix(end)
        if not completion.strip():
            raise DataError(
                f"the completion is '{end}' alone.", where=example.where, remedy="Write it, or drop the row."
            )
    return replace(example, prompt=prompt, completion=completion)


def contents(messages: Iterable[Mapping[str, str]]) -> str:
    """What the messages say, a line each."""
    return "\n".join(message["content"] for message in messages)


def altered_prompt(example: PromptExample, change: Callable[[Sequence[str]], Sequence[str]]) -> PromptExample:
    """The example with its prompt changed; of a chat what is neither an answer nor an instruction of the system."""
    if example.messages is None:
        return replace(example, prompt=change([example.prompt])[0])
    asked = [n for n, message in enumerate(example.messages) if message["role"] not in (ANSWER, "system")]
    messages = list(example.messages)
    for place, content in zip(asked, change([messages[n]["content"] for n in asked]), strict=True):
        messages[place] = {**messages[place], "content": content}
    return replace(example, prompt=contents(messages), messages=tuple(messages))


def documents(rows: Iterable[Row], column: str, end: str) -> Iterator[tuple[Row, str, str]]:
    """Each row with its text and what ends it: rows of tables are texts of their own, ended by `end` (where a task knows one), lines of a
    text file go on in the next one."""
    for lines, part in groupby(rows, key=lambda row: not end or TEXT_FILE in PurePath(row.file).suffixes):
        if lines:
            yield from ((row, text, "") for row, text in with_breaks(part, column))
        else:
            yield from ((row, row.text(column).rstrip().removesuffix(end), end) for row in part)


def with_breaks(rows: Iterable[Row], column: str) -> Iterator[tuple[Row, str]]:
    """Each row with its text and a line break after it; and with one before it where lines were left out in between, which is
    where a reader dropped blank lines and paragraphs part."""
    following = None
    for row in rows:
        text = row.text(column)
        gap = following is not None and row.line > following
        following = row.line + text.count("\n") + 1
        yield row, ("\n" if gap else "") + text + "\n"


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` characters, cut after white space where there is some."""
    while len(text) > limit:
        end = max(text.rfind(space, 0, limit) for space in " \n\t") + 1 or limit
        yield text[:end]
        text = text[end:]
    yield text
