"""Texts and chats -> token ids: the tokenizer's own chat template where it has one, else lines "role: content". No rows here."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from domaintune.bases.base import Base
from domaintune.errors import DataError

Messages = Sequence[Mapping[str, str]]
ANSWER = "assistant"
MARK = "\ue000answer\ue000"
"""Stands for an answer to find its place in a rendered chat: the answer itself may occur elsewhere, even in the template."""
CODES = [f"%{code}" for code in ("-d", "-m", "-j", "-H", "-I", "-M", "-S", *"aAwdbBmyYHIpMSfjUWcxXuVGeFD", "%")]
CLOCK = (
    "{%- macro strftime_now(format) -%}{%- set said = namespace(text=format) -%}"
    "{%- for code, value in date_codes.items() -%}{%- set said.text = said.text.replace(code, value) -%}{%- endfor -%}"
    "{{ said.text }}{%- endmacro -%}{{ '' }}"
)
"""Before a template: its date is that of `date_codes`. Only data can be given to a template, so that it has to be written in it."""


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


def prints_date(base: Base) -> bool:
    """Whether the chat template prints the day on which it is used."""
    return "strftime_now" in str(base.processor.chat_template)


def template_ids(
    base: Base, messages: Messages, answer: str | None, *, date: str | None, where: str
) -> tuple[list[int], list[int], list[int]]:
    """Ids of the prompt, as the tokenizer's chat template renders `messages` with its beginning of an answer; of the answer with
    what the template puts before it (such as an empty thought) and after it up to the token that ends the turn (the tokenizer's end
    token where it puts none), empty without an answer; and of what it puts before every answer that does not bring it along (a thought).

    The first two are the ids of the whole chat up to the end of the turn, wherever the tokenizer keeps prompt and answer apart.
    An answer whose thought the template takes out follows the prompt as it is: as a model would write it. `date` (ISO): the day that a
    template prints, today where None.

    Raises:
        DataError: the template refuses the messages, or leaves the answer out.
    """
    prompt = _rendered(base, messages, where, date, begin_answer=True)
    ids = plain_ids(base, prompt)
    before, mark, behind = parted_at_mark(base, messages, where, date)
    opened = plain_ids(base, before) if mark and before.startswith(prompt) and before[len(prompt) :].strip() else []
    opening = opened[len(ids) :] if opened[: len(ids)] == ids else []
    if answer is None:
        return ids, [], opening
    chat = _rendered(base, [*messages, {"role": ANSWER, "content": answer}], where, date, begin_answer=False)
    chat, start, after = _answered(base, chat, answer, prompt, (before, mark, behind), where)
    end = first_special(base, chat, after)
    stop = after + len(chat[after:].rstrip()) if end is None else end[1]
    whole = plain_ids(base, chat[:stop])
    joined = chat.startswith(prompt) and whole[: len(ids)] == ids
    completion = whole[len(ids) :] if joined else plain_ids(base, chat[start:stop])
    return ids, completion if end is not None else [*completion, base.processor.eos_token_id], opening


def parted_at_mark(base: Base, messages: Messages, where: str, date: str | None) -> tuple[str, str, str]:
    """The chat with MARK for its answer, parted at MARK."""
    chat = [*messages, {"role": ANSWER, "content": MARK}]
    return _rendered(base, chat, where, date, begin_answer=False).partition(MARK)


def _answered(
    base: Base, chat: str, answer: str, prompt: str, marked: tuple[str, str, str], where: str
) -> tuple[str, int, int]:
    """The chat with its answer, and where in it what belongs to the answer starts and the answer ends. `marked` is the same chat with
    MARK for its answer, parted at MARK: what a template does to an answer (a thought in it) may also change what stands before."""
    before, mark, behind = marked
    after = len(chat) - len(behind)
    # A template may begin the answer of a prompt otherwise than that of a whole chat.
    start = next((len(text) for text in (prompt, before) if chat.startswith(text)), None)
    if mark and chat.endswith(behind) and start is not None:
        said, whole = _bare(chat[start:after]), _bare(answer)
        if _bare(chat[:after]).endswith(whole):
            return chat, start, after
        if said and whole.endswith(said):
            written = prompt + _continued(prompt, answer)
            return written + behind, len(prompt), len(written)
    raise DataError(
        f"the chat template of '{base.name}' leaves the last answer out, or changes it.",
        where=where,
        remedy="Mend the answer.",
    )


def _bare(text: str) -> str:
    """The text without white space, which templates change round thoughts and answers."""
    return "".join(text.split())


def _continued(prompt: str, answer: str) -> str:
    """The answer without what the prompt ends with, white space aside: a template's prompt may open a thought."""
    told, said = prompt.rstrip(), answer.lstrip()
    shared = next((size for size in range(min(len(told), len(said)), 0, -1) if told.endswith(said[:size])), 0)
    return said[shared:].lstrip() if shared else answer


def _rendered(base: Base, messages: Messages, where: str, date: str | None, *, begin_answer: bool) -> str:
    template, written = None, {}
    if date is not None:
        day = datetime.date.fromisoformat(date)
        template, written = CLOCK + base.processor.get_chat_template(), {code: day.strftime(code) for code in CODES}
    try:
        text: str = base.processor.apply_chat_template(
            [dict(message) for message in messages], chat_template=template, tokenize=False,
            add_generation_prompt=begin_answer, date_codes=written,
        )  # fmt: skip
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template of '{base.name}' refuses the roles {roles} ({str(error).rstrip('.')}).",
            where=where,
            remedy="Put the messages into the order that it wants, or drop the row.",
        ) from None
    return text


def first_special(base: Base, text: str, start: int) -> tuple[int, int] | None:
    """Where the first special token at or after `start` begins and ends; None where there is none."""
    tokenizer = base.processor
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    found = [(place, -len(token)) for token in special if token and (place := text.find(token, start)) >= 0]
    return (min(found)[0], min(found)[0] - min(found)[1]) if found else None
