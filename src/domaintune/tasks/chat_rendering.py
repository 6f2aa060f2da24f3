"""Texts and chats -> token ids: the tokenizer's own chat template where it has one, else lines "role: content". No rows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from domaintune.bases.base import Base
from domaintune.errors import DataError

Messages = Sequence[Mapping[str, str]]
ANSWER = "assistant"
MARK = "\ue000answer\ue000"
"""Stands for an answer to find its place in a rendered chat: the answer itself may occur elsewhere, even in the template."""


def plain_ids(base: Base, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    ids: list[int] = base.processor(text, add_special_tokens=False)["input_ids"]
    return ids


def front_ids(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text."""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return tuple(whole[:start])


def has_template(base: Base) -> bool:
    return bool(base.processor.chat_template)


def as_lines(messages: Messages) -> str:
    """The plain form: a line "role: content" for each message and "assistant:", which the answer follows after a space."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + f"{ANSWER}:"


def template_ids(
    base: Base, messages: Messages, answer: str | None, *, end_id: int, where: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids of the prompt, as the tokenizer's chat template renders `messages` with its beginning of an answer; of the answer with
    what the template puts before it (such as an empty thought) and after it up to the token that ends the turn (`end_id` where it
    puts none), empty without an answer; and of what it puts before every answer.

    The first two are the ids of the whole chat up to the end of the turn, wherever the tokenizer keeps prompt and answer apart.

    Raises:
        DataError: the template refuses the messages, or leaves the answer out.
    """
    prompt = _rendered(base, messages, where, begin_answer=True)
    ids = plain_ids(base, prompt)
    marked = _rendered(base, [*messages, {"role": ANSWER, "content": MARK}], where, begin_answer=False)
    before, mark, behind = marked.partition(MARK)
    opened = plain_ids(base, before) if mark and before.startswith(prompt) and before[len(prompt) :].strip() else []
    opening = opened[len(ids) :] if opened[: len(ids)] == ids else []
    if answer is None:
        return ids, [], opening
    chat = _rendered(base, [*messages, {"role": ANSWER, "content": answer}], where, begin_answer=False)
    after = len(chat) - len(behind)
    if not (mark and chat.startswith(before) and chat.endswith(behind) and answer.strip() in chat[len(before) : after]):
        raise DataError(
            f"the chat template of '{base.name}' leaves the last answer out, or changes it.",
            where=where,
            remedy="Mend the answer.",
        )
    # A template may begin the answer of a prompt otherwise than that of a whole chat.
    start = len(prompt) if chat.startswith(prompt) else len(before)
    end = _turn_end(base, chat, after)
    stop = after + len(chat[after:].rstrip()) if end is None else end
    whole = plain_ids(base, chat[:stop])
    joined = chat.startswith(prompt) and whole[: len(ids)] == ids
    completion = whole[len(ids) :] if joined else plain_ids(base, chat[start:stop])
    return ids, completion if end is not None else [*completion, end_id], opening


def _rendered(base: Base, messages: Messages, where: str, *, begin_answer: bool) -> str:
    try:
        text: str = base.processor.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=begin_answer
        )
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template of '{base.name}' refuses the roles {roles} ({str(error).rstrip('.')}).",
            where=where,
            remedy="Put the messages into the order that it wants, or drop the row.",
        ) from None
    return text


def _turn_end(base: Base, chat: str, start: int) -> int | None:
    """Where the first special token at or after `start` ends; None where there is none."""
    tokenizer = base.processor
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    found = [(place, -len(token)) for token in special if token and (place := chat.find(token, start)) >= 0]
    return min(found)[0] - min(found)[1] if found else None
