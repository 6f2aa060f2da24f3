"""What generation finds out once from its rows, the base's tokenizer and its chat template, and keeps in the task."""

from __future__ import annotations

from collections.abc import Sequence

from domaintune.bases.base import Base
from domaintune.data.rows import Row
from domaintune.settings import GenerationSettings
from domaintune.tasks.chat_rendering import first_special, parted_at_mark, plain_ids, template_ids
from domaintune.tasks.generation_examples import PromptExample, is_plain, pair_example

SAMPLE_CHARACTERS = 200_000


def chat_ids(base: Base, chat: PromptExample, *, date: str | None) -> tuple[list[int], list[int], list[int]]:
    """`template_ids` of an example."""
    return template_ids(base, chat.messages or (), chat.completion, date=date, where=chat.where)


def turn_end_ids(base: Base, chats: Sequence[PromptExample], *, date: str | None) -> tuple[int, ...]:
    """What ends an answer in the chat template; nothing without chats."""
    return tuple(token for chat in chats[:1] for token in chat_ids(base, chat, date=date)[1][-1:])


def turn_end_mark(base: Base, chats: Sequence[PromptExample], *, date: str | None) -> str:
    """The text, as the tokenizer decodes it, that the chat template puts between an answer and the token that ends it."""
    for chat in chats[:1]:
        _, _, behind = parted_at_mark(base, chat.messages or (), chat.where, date)
        special = first_special(base, behind, 0)
        mark = plain_ids(base, behind[: special[0] if special else len(behind)].strip())
        return str(base.processor.decode(mark, skip_special_tokens=True)).strip()
    return ""


def free_opening(base: Base, chats: Sequence[PromptExample], *, date: str | None) -> str | None:
    """The text that the chat template puts before an answer where some answers of the chats begin otherwise; None where none do."""
    opening = chat_ids(base, chats[0], date=date)[2] if chats else []
    # A template looks for thoughts by the marks that it writes: no other answers need to be rendered.
    marks = base.processor.decode(opening).split()
    told = (chat for chat in chats if any(mark in (chat.completion or "") for mark in marks))
    if all(chat_ids(base, chat, date=date)[1][: len(opening)] == opening for chat in told):
        return None
    text: str = base.processor.decode(opening, skip_special_tokens=True)
    return text


def special_text(base: Base, ids: Sequence[int]) -> str:
    """How special tokens are written in a text, where they stand in it."""
    return "".join(base.processor.convert_ids_to_tokens(list(ids)))


def characters_per_token(base: Base, rows: Sequence[Row], settings: GenerationSettings) -> float:
    """Measured on the first rows, some 200,000 characters of them."""
    characters, tokens = 0, 0
    for row in rows:
        if is_plain(row, settings):
            text = row.text(settings.text_column) + "\n"
        else:
            example = pair_example(row, settings, labelled=True)
            text = f"{example.prompt}\n{example.completion}\n"
        characters += len(text)
        tokens += len(plain_ids(base, text))
        if characters > SAMPLE_CHARACTERS:
            break
    return characters / max(tokens, 1)
