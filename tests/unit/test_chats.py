"""Conversations in the usual shapes; written by the tokenizer's own template; supervised on the answer alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_base

from domaintune.data.formats import read_part
from domaintune.data.rows import Wanted
from domaintune.errors import DataError
from domaintune.recipe import GenerationSettings
from domaintune.tasks.generation import Generation

CHATS = Wanted("generation")
CHAT = [("system", "the dog"), ("user", "the fox"), ("assistant", "the soup")]
TEMPLATE = (
    "{% for m in messages %}{% if loop.index0 and m.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }} {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
SHAPES: dict[str, dict[str, Any]] = {
    "openai": {"messages": [{"role": r, "content": c} for r, c in CHAT]},
    "openai parts": {"messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in CHAT]},
    "sharegpt": {
        "conversations": [
            {"from": {"system": "system", "user": "human", "assistant": "gpt"}[r], "value": c} for r, c in CHAT
        ]
    },
    "sharegpt system": {
        "system": "the dog",
        "conversations": [{"from": "human", "value": "the fox"}, {"from": "gpt", "value": "the soup"}],
    },
}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_messages(tmp_path: Path, shape: str) -> None:
    (row,) = read_part(write(tmp_path / "a.jsonl", SHAPES[shape]), CHATS, targets=True).rows
    assert [(m["role"], m["content"]) for m in row.values["messages"]] == CHAT


def test_alpaca_and_what_is_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"instruction": "Translate.", "input": "dog", "output": "Hund"},
        {"instruction": "Say hello.", "input": "", "output": "hello"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]},
    )
    made = read_part(path, CHATS, targets=True)
    assert [[m["content"] for m in row.values["messages"]] for row in made.rows] == [
        ["Translate.\n\ndog", "Hund"],
        ["Say hello.", "hello"],
    ]
    assert [entry.line for entry in made.left_out] == [3, 4, 5]
    assert len(read_part(path, CHATS).rows) == 4  # to be answered
    bad = write(tmp_path / "b.jsonl", {"messages": [{"role": "wizard", "content": "x"}]})
    with pytest.raises(DataError, match="message 1") as caught:
        read_part(bad, CHATS)
    assert caught.value.where.endswith("b.jsonl:1")


def test_the_template_writes_the_prompt_and_the_answer_alone_is_supervised(tmp_path: Path) -> None:
    base = tiny_base("gpt2", "generation")
    rows = read_part(write(tmp_path / "a.jsonl", SHAPES["openai"]), CHATS, targets=True).rows
    task = Generation.build(rows, base, GenerationSettings())
    (example,) = task.read(rows)
    (plain,) = task.prepare(base, example)
    decode = base.processor.decode
    told = decode(plain.inputs["prompt_ids"]).replace(" ", "").replace("[UNK]", ":")
    assert told == "system:thedoguser:thefoxassistant:"
    base.processor.chat_template = TEMPLATE
    try:
        (item,) = task.prepare(base, example)
        messages = rows[0].values["messages"]
        whole = base.processor.apply_chat_template(messages, tokenize=False)
        ids = base.processor(whole.rstrip("\n"), add_special_tokens=False)["input_ids"]
        prompt = base.processor(
            base.processor.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        )["input_ids"]
        assert item.inputs["prompt_ids"] == prompt
        assert item.targets["completion_ids"][-1] == task.end_id
        assert item.targets["completion_ids"].count(task.end_id) == 1
        assert decode([*prompt, *item.targets["completion_ids"]]).split() == decode(ids).split()
        assert "[" in task.shown(base, item)
        asked = list(task.read(rows, labelled=False))
        assert task.prepare(base, asked[0])[0].inputs["decode_ids"] == prompt
        twice = write(tmp_path / "b.jsonl", {"messages": [{"role": "user", "content": "x"}] * 2})
        bad = read_part(twice, CHATS).rows
        with pytest.raises(DataError, match="roles must alternate") as caught:
            task.prepare(base, next(iter(task.read(bad, labelled=False))))
        assert caught.value.where.endswith("b.jsonl:1")
    finally:
        base.processor.chat_template = None
