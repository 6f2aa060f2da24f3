"""Conversations as the text that a model was trained on: by its tokenizer's own chat template, else in plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from domaintune.bases.base import Base
from domaintune.data.rows import Row
from domaintune.errors import DataError

Messages = tuple[tuple[str, str], ...]
"""(role, content) in order."""
ASSISTANT = "assistant"


def messages_of(row: Row, column: str) -> Messages:
    """
    Raises:
        DataError: the column holds no list of messages.
    """
    value = row.values.get(column)
    entries = value if isinstance(value, list) else []
    made = tuple((e.get("role"), e.get("content")) for e in entries if isinstance(e, Mapping))
    if not made or len(made) != len(entries) or not all(isinstance(r, str) and isinstance(c, str) for r, c in made):
        raise DataError(
            f"'{column}' is no list of messages.", where=row.where, remedy='Write [{"role": "user", "content": "..."}].'
        )
    return made  # type: ignore[return-value]


def has_template(base: Base) -> bool:
    return bool(getattr(base.processor, "chat_template", None))


def rendered(base: Base, messages: Messages, *, where: str) -> tuple[str, str | None]:
    """(prompt, completion): everything before the last assistant message, and that message with what the template puts after it;
    no completion where the last message is somebody else's. Without a template, lines "role: content".

    Raises:
        DataError: the template refuses the conversation (such as two user messages in a row).
    """
    answered = messages[-1][0] == ASSISTANT
    before = messages[:-1] if answered else messages
    if not has_template(base):
        prompt = "".join(f"{role}: {content}\n" for role, content in before) + f"{ASSISTANT}:"
        return prompt, f" {messages[-1][1]}" if answered else None
    prompt = _templated(base, before, where, answer_follows=True)
    if not answered:
        return prompt, None
    whole = _templated(base, messages, where, answer_follows=False)
    # Templates that strip or add something before an answer: then the content itself follows the prompt.
    completion = whole[len(prompt) :] if whole.startswith(prompt) else messages[-1][1]
    return prompt, completion.rstrip("\n")


def _templated(base: Base, messages: Sequence[tuple[str, str]], where: str, *, answer_follows: bool) -> str:
    given: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in messages]
    try:
        text = base.processor.apply_chat_template(given, tokenize=False, add_generation_prompt=answer_follows)
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"the base's chat template refuses the conversation ({error!s:.100}).",
            where=where,
            remedy="Mend the order of roles: system first, then user and assistant in turn.",
        ) from None
    return str(text)
