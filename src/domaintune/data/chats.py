"""Chats as people have them -> rows with one list of messages {"role", "content"}. Nothing about templates or tokens here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domaintune.data.rows import Entry, LeftOut, Note, Row, Wanted
from domaintune.errors import DataError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "bot": "assistant", "model": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
"""What files call a role, in lower case -> OpenAI's name of it."""
CALLING = ("function_call", "tool_call", "observation")
"""Roles of calls and of what comes back, as LLaMA-Factory and ms-swift write them."""
SHAREGPT = "conversations"
SYSTEM = "system"
ALPACA = ("instruction", "input", "output")
HISTORY = "history"
CALLS = ("tool_calls", "function_call")
USED = {"role", "content", "from", "value", *CALLS}

Message = dict[str, str]


def has_chat(row: Row, wanted: Wanted) -> bool:
    """Whether the row's columns are those of a chat: OpenAI's "messages", ShareGPT's "conversations", or Alpaca's "instruction" (with
    LLaMA-Factory's "history").

    A row with both a prompt and a completion is a pair, whatever else it holds.
    """
    return _column(row, wanted) is not None


def chat_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Each row with its messages in the column `wanted.column("messages")`; the user's other columns stay, and where inputs alone are
    wanted all of them. A column "system" beside the messages is the first of them where none is.

    Left out are chats without messages, without an answer at the end or with nothing before it, and those that call tools. Where
    no targets are wanted, the last message may be anyone's, and Alpaca's output may be missing.

    Raises:
        DataError: a row of another shape, an unknown role, content that is no text.
    """
    unused: set[str] = set()
    for row in rows:
        column = _column(row, wanted)
        if column is None:
            raise DataError(
                f"no chat (columns: {', '.join(map(str, row.values)) or 'none'}).",
                where=row.where,
                remedy=f"A chat has '{wanted.column('messages')}', '{SHAREGPT}', or '{ALPACA[0]}' and '{ALPACA[2]}'.",
            )
        if column == ALPACA[0]:
            taken: tuple[str, ...] = (*ALPACA, HISTORY) if _has_history(row) else ALPACA
            messages = _alpaca(row, labelled=wanted.targets)
        else:
            taken = (column,)
            if _calls_tools(row.values[column]):
                yield LeftOut("chats that call tools", row.file, row.line)
                continue
            messages = messages_of(row, column)
            unused |= {key for message in row.values[column] for key in message} - USED
        told = row.values.get(SYSTEM)
        if isinstance(told, str) and told.strip() and messages and messages[0]["role"] != SYSTEM:
            messages, taken = [{"role": SYSTEM, "content": told}, *messages], (*taken, SYSTEM)
        reason = _reason(messages, labelled=wanted.targets)
        if reason is not None:
            yield LeftOut(reason, row.file, row.line)
            continue
        others = {name: value for name, value in row.values.items() if wanted.inputs or name not in taken}
        yield Row({**others, wanted.column("messages"): messages}, row.file, row.line)
    if unused:
        yield Note(f"of a chat's messages only role and content are used, not {', '.join(sorted(map(str, unused)))}.")


def messages_of(row: Row, column: str) -> list[Message]:
    """The messages of OpenAI's or ShareGPT's shape with canonical roles (system, user, assistant, tool) and plain text.

    Raises:
        DataError: no list of such messages; one that calls tools.
    """
    value = row.values[column]
    if not isinstance(value, list | tuple):
        raise DataError(
            f"'{column}' must be a list of messages, got {type(value).__name__}.",
            where=row.where,
            remedy='Write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        )
    if _calls_tools(value):
        raise DataError("the chat calls tools.", where=row.where, remedy="Drop the row; calls are no text to learn.")
    return [_message(entry, number, row.where) for number, entry in enumerate(value, start=1)]


def _column(row: Row, wanted: Wanted) -> str | None:
    names = row.values
    if wanted.column("prompt") in names and wanted.column("completion") in names:
        return None
    if wanted.column("messages") in names:
        return wanted.column("messages")
    if isinstance(names.get(SHAREGPT), list | tuple):
        return SHAREGPT
    return ALPACA[0] if ALPACA[0] in names and wanted.column("prompt") not in names else None


def _message(entry: Any, number: int, where: str) -> Message:
    if isinstance(entry, Mapping) and "role" in entry and "content" in entry:
        role, content = entry["role"], entry["content"]
    elif isinstance(entry, Mapping) and "from" in entry and "value" in entry:
        role, content = entry["from"], entry["value"]
    else:
        got = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise DataError(
            f"message {number} has no role and content (got: {got or 'nothing'}).",
            where=where,
            remedy='A message is {"role": ..., "content": ...} or {"from": ..., "value": ...}.',
        )
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise DataError(
            f"message {number} has the unknown role {role!r:.40}.",
            where=where,
            remedy=f"Allowed are {', '.join(ROLES)}.",
        )
    return {"role": ROLES[role.lower()], "content": _content(content, number, where)}


def _content(content: Any, number: int, where: str) -> str:
    """Text, or the joined text of OpenAI's parts {"type": "text", "text": ...}."""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        texts = [
            part["text"]
            for part in content
            if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        ]
        if len(texts) == len(content):
            return "".join(texts)
        raise DataError(
            f"message {number} holds parts that are not text.",
            where=where,
            remedy='Parts are {"type": "text", "text": "..."}; drop rows with pictures or sound.',
        )
    raise DataError(
        f"the content of message {number} must be text, got {type(content).__name__}.",
        where=where,
        remedy="Write the text, or drop the row.",
    )


def _alpaca(row: Row, *, labelled: bool) -> list[Message]:
    """The pairs of its history, one question, its input below it after a blank line, and the answer."""
    instruction, extra, output = ALPACA
    asked = [row.text(instruction)]
    if row.values.get(extra) is not None:
        asked.append(row.text(extra))
    question = {"role": "user", "content": "\n\n".join(part for part in asked if part.strip())}
    if not question["content"]:
        return []
    asked_before = _history(row) if _has_history(row) else []
    if not labelled and row.values.get(output) is None:
        return [*asked_before, question]
    return [*asked_before, question, {"role": "assistant", "content": row.text(output)}]


def _has_history(row: Row) -> bool:
    return isinstance(row.values.get(HISTORY), list | tuple)


def _history(row: Row) -> list[Message]:
    """Questions and answers before the instruction, oldest first."""
    made: list[Message] = []
    for number, pair in enumerate(row.values[HISTORY], start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(
                f"entry {number} of '{HISTORY}' is no pair of texts (got {pair!r:.40}).",
                where=row.where,
                remedy='Write [["question", "answer"], ...], oldest first.',
            )
        made += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return made


def _calls_tools(value: Any) -> bool:
    entries = [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []
    return any(
        any(entry.get(key) for key in CALLS) or str(entry.get("role", entry.get("from"))).lower() in CALLING
        for entry in entries
    )


def _reason(messages: list[Message], *, labelled: bool) -> str | None:
    if not messages:
        return "empty chats"
    answered = messages[-1]["role"] == "assistant"
    if not labelled:
        return "chats with nothing before the answer" if answered and len(messages) == 1 else None
    if all(message["role"] != "assistant" for message in messages):
        return "chats without an assistant message"
    if not answered:
        return "chats whose last message is not the assistant's"
    if not messages[-1]["content"].strip():
        return "chats whose last answer is empty"
    return "chats with nothing before the answer" if len(messages) == 1 else None
