"""Conversations -> prompt and completion: OpenAI messages, ShareGPT, Alpaca. How a model wants them written is the task's business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from domaintune.data.rows import Entry, LeftOut, Row, Wanted
from domaintune.errors import DataError

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "bot": "assistant", "model": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip


def has_chat(row: Row, wanted: Wanted) -> bool:
    """Whether the row is a conversation in one of the shapes that `chat_rows` reads."""
    values = row.values
    named = isinstance(values.get(wanted.column("messages")), list) or isinstance(values.get("conversations"), list)
    return named or {"instruction", "output"} <= set(values)


def chat_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Rows whose messages column is [{"role", "content"}, ...] with the roles system, user, assistant and tool, the user's other
    columns kept. Where targets are wanted, conversations that do not end with an answer are left out.

    Raises:
        DataError: an unknown role or shape, naming file and line.
    """
    for row in rows:
        messages = _messages(row, wanted)
        if not messages:
            yield LeftOut("no messages", row.file, row.line)
        elif wanted.targets and messages[-1]["role"] != "assistant":
            yield LeftOut("the last message is not the assistant's", row.file, row.line)
        elif wanted.targets and not messages[-1]["content"].strip():
            yield LeftOut("the answer is empty", row.file, row.line)
        else:
            yield Row({**row.values, wanted.column("messages"): messages}, row.file, row.line)


def _messages(row: Row, wanted: Wanted) -> list[dict[str, str]]:
    values = row.values
    given = values.get(wanted.column("messages"), values.get("conversations"))
    if isinstance(given, list):
        made = [_message(entry, number, row) for number, entry in enumerate(given, start=1)]
        system = values.get("system")
        return [{"role": "system", "content": system}, *made] if isinstance(system, str) and system.strip() else made
    prompt = "\n\n".join(part for part in (row.text("instruction"), values.get("input") or "") if part)
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": row.text("output")}]


def _message(entry: Any, number: int, row: Row) -> dict[str, str]:
    if isinstance(entry, Mapping):
        role = ROLES.get(str(entry.get("role", entry.get("from"))).lower())
        content = entry.get("content", entry.get("value"))
        if isinstance(content, list) and all(
            isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content
        ):
            content = "".join(part["text"] for part in content)
        if role is not None and isinstance(content, str):
            return {"role": role, "content": content}
    raise DataError(
        f"message {number} cannot be read (got {entry!r:.80}).",
        where=row.where,
        remedy='Write {"role": "user", "content": "..."}; roles are system, user, assistant and tool.',
    )
