"""Chats: three shapes become one, what is left out is counted, and the supervised tokens are those of the last answer alone."""

from __future__ import annotations

import copy
import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_base

from domaintune.bases.base import Base
from domaintune.data.chats import chat_rows, has_chat, messages_of
from domaintune.data.formats import read_part
from domaintune.data.rows import LeftOut, Note, Row, Wanted
from domaintune.errors import DataError
from domaintune.settings import GenerationSettings
from domaintune.tasks.base import Item
from domaintune.tasks.decoding import Output, generation_config
from domaintune.tasks.generation import Generation, PromptExample

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


def test_alpacas_history_stands_before_the_question(tmp_path: Path) -> None:
    asked = {"instruction": "And when do you close?", "output": "At nine.", "system": "Be brief."}
    before = [["When do you open?", "At eight."], ["Every day?", "Yes."]]
    path = write(
        tmp_path / "a.jsonl",
        {**asked, "input": "", "history": before},
        {**asked, "history": []},
        {**asked, "history": "none"},  # the user's own column
        {"instruction": "And now?", "history": before},
    )
    made = read_part(path, CHATS).rows
    told = [[(m["role"], m["content"]) for m in row.values["messages"]] for row in made]
    pairs = [(role, text) for pair in before for role, text in zip(("user", "assistant"), pair, strict=True)]
    last = [("user", asked["instruction"]), ("assistant", "At nine.")]
    assert told[0] == [("system", "Be brief."), *pairs, *last]
    assert told[1] == told[2] == [("system", "Be brief."), *last]
    assert told[3] == [*pairs, ("user", "And now?")]
    assert [row.values.get("history") for row in made] == [None, None, "none", None]
    for bad in ([["When?"]], ["When?", "At eight."], [["When?", None]]):
        with pytest.raises(DataError, match="entry 1 of 'history' is no pair of texts") as caught:
            read_part(write(tmp_path / "b.jsonl", {**asked, "history": bad}), CHATS)
        assert caught.value.where.endswith("b.jsonl:1")


def test_calls_of_tools_are_left_out_in_every_shape() -> None:
    """Also where a role says it; raw ShareGPT names the model."""
    chats = [
        [("human", "a"), ("function_call", "{}"), ("observation", "3"), ("gpt", "b")],
        [("user", "a"), ("tool_call", "{}"), ("tool_response", "3"), ("assistant", "b")],
        [("human", "a"), ("chatgpt", "b")],
    ]
    rows = [
        Row({"conversations": [{"from": role, "value": text} for role, text in chat]}, "x", number)
        for number, chat in enumerate(chats, start=1)
    ]
    rows.append(Row({"messages": [{"role": "Tool_Call", "content": "{}"}, ANSWER]}, "x", 4))
    made = list(chat_rows(rows, replace(CHATS, targets=True)))
    assert [(e.reason, e.line) for e in made if isinstance(e, LeftOut)] == [
        ("chats that call tools", 1),
        ("chats that call tools", 2),
        ("chats that call tools", 4),
    ]
    (kept,) = (entry for entry in made if isinstance(entry, Row))
    assert [m["role"] for m in kept.values["messages"]] == ["user", "assistant"]


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


WANTED = Wanted("generation", targets=True)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate.') }}{% endif %}"
    "{{ '[' + m['role'] + '] ' + m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
QUESTION = {"role": "user", "content": "the quick brown fox"}
ANSWER = {"role": "assistant", "content": "jumps over the lazy dog"}


def row(line: int = 1, **values: Any) -> Row:
    return Row(values, "chats.jsonl", line)


def shaped(*rows: Row, labelled: bool = True) -> list[Any]:
    return list(chat_rows(rows, replace(WANTED, targets=labelled)))


def base_with(template: str | None, *, special: bool = True) -> Base:
    """A base whose tokenizer is its own copy, with a chat template; `special`: the marks of ChatML are single tokens."""
    base = tiny_base("llama", "generation")
    tokenizer = copy.deepcopy(base.processor)
    if special:
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = template
    return Base(name="tiny-chat", model=base.model, processor=tokenizer)


def chats(*messages: list[dict[str, str]]) -> list[Row]:
    return [row(line, messages=entry) for line, entry in enumerate(messages, start=1)]


def prepared(base: Base, *messages: list[dict[str, str]], **settings: Any) -> tuple[Generation, list[Item]]:
    task = Generation.build(chats(*messages), base, GenerationSettings(**settings))
    return task, [item for example in task.read(chats(*messages)) for item in task.prepare(base, example)]


def test_openai_messages_stay_with_the_other_columns() -> None:
    system = {"role": "system", "content": "Antworte auf Deutsch."}
    (made,) = shaped(row(7, messages=[system, QUESTION, ANSWER], id="a", topic="Füchse"))
    assert made == Row(
        {"id": "a", "topic": "Füchse", "messages": [system, QUESTION, ANSWER]}, file="chats.jsonl", line=7
    )


def test_parts_of_content_are_joined() -> None:
    parts = [{"type": "text", "text": "服务"}, {"type": "text", "text": "很好"}]
    (made,) = shaped(row(messages=[{"role": "user", "content": parts}, ANSWER]))
    assert made.values["messages"][0] == {"role": "user", "content": "服务很好"}


def test_sharegpt_roles_become_canonical() -> None:
    told = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello"), ("human", "房间?"), ("gpt", "干净")]
    (made,) = shaped(row(conversations=[{"from": who, "value": text} for who, text in told], id=3))
    assert set(made.values) == {"messages", "id"}
    assert [tuple(message.values()) for message in made.values["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "房间?"),
        ("assistant", "干净"),
    ]


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, "Translate."),
        ({"input": ""}, "Translate."),
        ({"input": None}, "Translate."),
        ({"input": "soup"}, "Translate.\n\nsoup"),
    ],
)
def test_alpaca_is_a_question_and_an_answer(more: dict[str, Any], asked: str) -> None:
    (made,) = shaped(row(instruction="Translate.", output="Suppe", level=2, **more))
    assert made.values == {
        "level": 2,
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "Suppe"}],
    }


def test_a_system_column_is_the_first_message() -> None:
    made = shaped(
        row(1, system="Be brief.", messages=[QUESTION, ANSWER]),
        row(2, system="Be long.", messages=[{"role": "developer", "content": "Be brief."}, QUESTION, ANSWER]),
        row(3, system=" ", messages=[QUESTION, ANSWER]),
    )
    roles = [[message["role"] for message in entry.values["messages"]] for entry in made]
    assert roles == [["system", "user", "assistant"]] * 2 + [["user", "assistant"]]
    assert made[0].values["messages"][0]["content"] == made[1].values["messages"][0]["content"] == "Be brief."
    assert ["system" in entry.values for entry in made] == [False, True, True]


def test_the_users_name_of_the_column() -> None:
    wanted = Wanted("generation", {"messages": "dialogue"}, targets=True)
    assert has_chat(row(dialogue=[QUESTION, ANSWER]), wanted)
    assert not has_chat(row(messages=[QUESTION, ANSWER]), wanted)
    (made,) = chat_rows([row(conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}])], wanted)
    assert isinstance(made, Row)
    assert list(made.values) == ["dialogue"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"messages": []}, True),
        ({"conversations": []}, True),
        ({"conversations": "a talk", "text": "b"}, False),
        ({"instruction": "a", "output": "b"}, True),
        ({"instruction": "a", "prompt": "b"}, False),
        ({"prompt": "a", "messages": []}, True),
        ({"prompt": "a", "completion": "b", "messages": []}, False),
        ({"text": "a"}, False),
    ],
)
def test_what_a_chat_is(values: dict[str, Any], expected: bool) -> None:
    assert has_chat(row(**values), WANTED) is expected


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": []}, "empty chats"),
        ({"instruction": " ", "output": "b"}, "empty chats"),
        ({"messages": [QUESTION]}, "chats without an assistant message"),
        ({"messages": [QUESTION, ANSWER, QUESTION]}, "chats whose last message is not the assistant's"),
        ({"messages": [QUESTION, {"role": "assistant", "content": " \n"}]}, "chats whose last answer is empty"),
        ({"messages": [ANSWER]}, "chats with nothing before the answer"),
        ({"messages": [QUESTION, CALL, {"role": "tool", "content": "21"}, ANSWER]}, "chats that call tools"),
    ],
)
def test_left_out_with_its_reason(values: dict[str, Any], reason: str) -> None:
    made = shaped(row(1, messages=[QUESTION, ANSWER]), row(4, **values))
    assert made[1:] == [LeftOut(reason, "chats.jsonl", 4)]


def test_rows_to_be_answered_need_no_answer() -> None:
    rows = [row(messages=[QUESTION, ANSWER, QUESTION]), row(instruction="Translate."), row(messages=[QUESTION, ANSWER])]
    made = shaped(*rows, row(messages=[ANSWER]), row(messages=[]), labelled=False)
    assert [len(entry.values["messages"]) for entry in made[:3]] == [3, 1, 2]
    assert [entry.reason for entry in made[3:]] == ["chats with nothing before the answer", "empty chats"]


def test_unused_fields_of_messages_are_noted() -> None:
    *_, note = shaped(row(messages=[{**QUESTION, "name": "Ann"}, {**ANSWER, "weight": 1}]))
    assert note == Note("of a chat's messages only role and content are used, not name, weight.")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"messages": [{"role": "robot", "content": "a"}]},
            "message 1 has the unknown role 'robot'. Allowed are system, developer",
        ),
        (
            {"conversations": [{"from": "robot", "value": "a"}]},
            "message 1 has the unknown role 'robot'. Allowed are system",
        ),
        ({"messages": "hello"}, "'messages' must be a list of messages, got str."),
        ({"messages": [QUESTION, "b"]}, "message 2 has no role and content (got: str)."),
        ({"messages": [{"speaker": "a", "text": "b"}]}, "message 1 has no role and content (got: speaker, text)."),
        ({"messages": [{"role": "user", "content": 3}]}, "the content of message 1 must be text, got int."),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "message 1 has the unknown role ['user']."),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "message 1 holds parts that are not text.",
        ),
        ({"instruction": "a"}, "no column 'output'"),
        ({"instruction": "a", "output": 3}, "'output' must be text, got int."),
        (
            {"text": "a"},
            "no chat (columns: text). A chat has 'messages', 'conversations', or 'instruction' and 'output'.",
        ),
    ],
)
def test_other_shapes_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as error:
        shaped(row(9, **values))
    assert str(error.value).startswith(f"chats.jsonl:9: {told}")


def test_a_chatml_answer_alone_is_supervised() -> None:
    base = base_with(CHATML)
    tokenizer = base.processor
    turns = [
        {"role": "system", "content": "Press %s"},
        QUESTION,
        ANSWER,
        {"role": "user", "content": "in May ?"},
        ANSWER,
    ]
    task, (item,) = prepared(base, turns)
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert item.inputs["prompt_ids"] + item.targets["completion_ids"] == whole
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answer = tokenizer(ANSWER["content"], add_special_tokens=False)["input_ids"]
    assert item.targets["completion_ids"] == [*answer, end]
    batch = task.collate(base, [item], "train")
    supervised = [token for token in batch.targets["next_tokens"][0].tolist() if token >= 0]
    assert supervised == [*answer, end]
    assert task.units(batch) == {"cross_entropy": len(answer) + 1}
    assert task.turn_end_ids == (end,)
    ends = generation_config(base.model, tokenizer, task.decoding()).eos_token_id
    assert ends == [tokenizer.eos_token_id, end]
    assert not list(task.check(list(task.read(chats(turns)))))


@pytest.mark.parametrize("said", ["end", "|", "start", "assistant", "user", "the quick brown fox"])
def test_an_answer_that_occurs_in_the_template_is_found(said: str) -> None:
    base = base_with(CHATML)
    _, (item,) = prepared(base, [QUESTION, {"role": "assistant", "content": said}])
    expected = base.processor(f"{said}<|im_end|>", add_special_tokens=False)["input_ids"]
    assert item.targets["completion_ids"] == expected
    assert len(expected) >= 2


def test_a_template_without_special_tokens_ends_with_the_tokenizers_end() -> None:
    base = base_with(STRICT, special=False)
    task, (item,) = prepared(base, [QUESTION, {"role": "assistant", "content": " the lazy dog\n"}])
    answer = base.processor("the lazy dog", add_special_tokens=False)["input_ids"]
    assert item.targets["completion_ids"] == [*answer, task.end_id]
    prompt = base.processor("[user] the quick brown fox[assistant]", add_special_tokens=False)["input_ids"]
    assert item.inputs["prompt_ids"] == prompt


@pytest.mark.parametrize("end", ["", "</s>"])
def test_text_that_a_template_puts_behind_an_answer_ends_it(end: str) -> None:
    """Whether a special token follows or not: it is learned, and no part of the output or of what is compared."""
    base = base_with(CHATML.replace("<|im_end|>", "<|im_end|>" + end), special=False)
    base.processor.add_tokens(["<|im_start|>", "<|im_end|>"])
    task, (item,) = prepared(base, [QUESTION, ANSWER])
    completion = base.processor.decode(item.targets["completion_ids"], skip_special_tokens=True)
    assert completion.split() == [*ANSWER["content"].split(), "<|im_end|>"]
    assert item.targets["completion_ids"][-1] == task.end_id
    assert task.decoding().stop == ("<|im_end|>",)
    (example,) = task.read(chats([QUESTION, ANSWER]))
    assert task.statistics({"text": ANSWER["content"]}, example)["exact_match"].tolist() == [1, 1]
    assert prepared(base_with(CHATML), [QUESTION, ANSWER])[0].decoding().stop == ()


def test_the_date_of_a_template_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime(2031, 3, 4)

    base = replace(base_with("{{ strftime_now('in %B') }}" + CHATML), date="2026-05-02")
    task, (item,) = prepared(base, [QUESTION, ANSWER])
    assert task.date == "2026-05-02"
    assert base.processor.decode(item.inputs["prompt_ids"]).startswith("in May")
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    saved = Generation.model_validate_json(task.model_dump_json())
    (example,) = saved.read(chats([QUESTION, ANSWER]))
    assert saved.prepare(base, example) == (item,)
    (later,) = task.model_copy(update={"date": None}).prepare(base, example)  # as runs of older versions
    assert later != item
    assert prepared(base_with(CHATML), [QUESTION, ANSWER])[0].date is None


def test_a_beginning_of_text_in_the_template_is_never_cut() -> None:
    base = base_with("{{ bos_token }}" + CHATML)
    _, (item,) = prepared(base, [{"role": "user", "content": "the quick brown fox " * 30}, ANSWER], max_length=32)
    ids = [*item.inputs["prompt_ids"], *item.targets["completion_ids"]]
    assert len(ids) == 32
    assert ids[0] == base.processor.bos_token_id
    assert base.processor.bos_token_id not in ids[1:]
    assert ids[-1] == base.processor.convert_tokens_to_ids("<|im_end|>")


def test_a_template_that_begins_whole_chats_otherwise() -> None:
    thinking = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    base = base_with(thinking)
    _, (item,) = prepared(base, [QUESTION, ANSWER])
    answer = base.processor(ANSWER["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert item.targets["completion_ids"] == answer


def test_what_a_template_puts_before_every_answer_is_no_part_of_it() -> None:
    """As an empty thought: it is trained, and stands in the prompt that is continued."""
    thought = CHATML.replace(
        "\n{{ m['content'] }}", "\n{% if m['role'] == 'assistant' %}quick\n{% endif %}{{ m['content'] }}"
    )
    assert thought != CHATML
    base = base_with(thought)
    _, (item,) = prepared(base, [QUESTION, ANSWER])
    ids = base.processor.convert_ids_to_tokens
    prompt, begun = item.inputs["prompt_ids"], item.inputs["decode_ids"]
    assert begun[: len(prompt)] == prompt
    assert "quick" in "".join(ids(begun[len(prompt) :]))
    assert item.targets["completion_ids"][: len(begun) - len(prompt)] == begun[len(prompt) :]


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set said = m.content.split('</think>') %}"
    "{% if loop.last %}<think>\n{{ said[0].split('<think>')[-1].strip() if said | length > 1 }}\n</think>\n\n{% endif %}"
    "{{ said[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen3's: the thought of the last answer is written anew, an empty one where it has none; those before are left out."""
FORGETTING = (
    "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|><think>\n{% endif %}"
)
"""As DeepSeek-R1's: thoughts are left out, and prompts open one."""
THOUGHT = {"role": "assistant", "content": "<think>\nthe dog runs\n</think>\n\njumps over"}


def thinker(template: str) -> Base:
    base = base_with(template)
    base.processor.add_tokens(["<think>", "</think>"])
    return base


def supervised(item: Item, base: Base) -> list[str]:
    return [token for token in base.processor.convert_ids_to_tokens(item.targets["completion_ids"]) if token != "\n"]


@pytest.mark.parametrize("content", [THOUGHT["content"], "<think>the dog runs</think>jumps over"])
@pytest.mark.parametrize("template", [THINKING, FORGETTING])
def test_thoughts_are_learned_with_their_answers(template: str, content: str) -> None:
    base = thinker(template)
    thought = ["the", "dog", "runs", "</think>", "jumps", "over", "<|im_end|>"]
    for before in ([QUESTION], [QUESTION, THOUGHT, QUESTION]):
        task, (item,) = prepared(base, [*before, {"role": "assistant", "content": content}])
        whole = base.processor.convert_ids_to_tokens([*item.inputs["prompt_ids"], *item.targets["completion_ids"]])
        assert [token for token in whole if token != "\n"][-8:] == ["<think>", *thought]
        assert supervised(item, base)[-7:] == thought
        # Nothing is put before what is decoded: these answers bring their thought along.
        begun = item.inputs["decode_ids"]
        assert begun == item.inputs["prompt_ids"][-len(begun) :]
        (asked,) = task.read(chats([*before]), labelled=False)
        assert task.prepare(base, asked)[0].inputs["decode_ids"] == begun


def test_an_empty_thought_is_generated_where_other_answers_have_one() -> None:
    """And is no part of the output, as where it stands in the prompt."""
    base = thinker(THINKING)
    plain = Generation.build(chats([QUESTION, ANSWER]), base, GenerationSettings())
    assert plain.free_opening is None
    both = chats([QUESTION, ANSWER], [QUESTION, THOUGHT])
    task = Generation.build(both, base, GenerationSettings(max_new_tokens=4))
    assert (task.free_opening or "").split() == ["<think>", "</think>"]
    first, second = (task.prepare(base, example)[0] for example in task.read(both))
    assert supervised(first, base)[:3] == ["<think>", "</think>", "jumps"]
    assert first.inputs["decode_ids"] == second.inputs["decode_ids"] == second.inputs["prompt_ids"]
    written = base.processor.decode(first.targets["completion_ids"], skip_special_tokens=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "domaintune.tasks.generation.decode",
            lambda *_: [Output(text, (), unfinished=False) for text in (written, "runs")],
        )
        batch = task.collate(base, [first, second], "score")
        made = task.predict(base, base.model, batch, frozenset({"exact_match"}))
    (example, _) = task.read(both)
    assert task.statistics(made[0], example)["exact_match"].tolist() == [1, 1]
    assert made[1]["text"] == "runs"


def test_a_template_that_changes_the_answer_is_refused() -> None:
    with pytest.raises(DataError, match=r"^chats.jsonl:1: .* leaves the last answer out, or changes it"):
        prepared(base_with(CHATML.replace("m['content'] }}", "m['content'] | upper }}")), [QUESTION, ANSWER])


def test_a_template_that_refuses_or_drops_says_where() -> None:
    base = base_with(STRICT)
    task = Generation.build(chats([QUESTION, ANSWER]), base, GenerationSettings())
    (example,) = task.read([row(5, messages=[QUESTION, QUESTION, ANSWER])])
    with pytest.raises(DataError, match=r"^chats.jsonl:5: .* refuses the roles user, user \(Roles must alternate\)"):
        task.prepare(base, example)
    silent = base_with("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(DataError, match=r"^chats.jsonl:1: .* leaves the last answer out"):
        prepared(silent, [QUESTION, ANSWER])


def test_without_a_template_lines_are_written_and_told() -> None:
    base = base_with(None)
    task, (item,) = prepared(base, [QUESTION, ANSWER])
    ids = base.processor("user: the quick brown fox\nassistant:", add_special_tokens=False)["input_ids"]
    answer = base.processor(" jumps over the lazy dog", add_special_tokens=False)["input_ids"]
    (example,) = task.read(chats([QUESTION, ANSWER]))
    written = {"text": " jumps  over", "ids": (), "unfinished": False, "cut": False}
    assert task.join(example, [written])["text"] == "jumps  over"
    assert item.inputs["prompt_ids"] == [*task.front_ids, *ids]
    assert item.targets["completion_ids"] == [*answer, task.end_id]
    (finding,) = task.check(list(task.read(chats([QUESTION, ANSWER], [QUESTION, ANSWER]))))
    assert (finding.name, finding.severity) == ("no-chat-template", "note")
    assert "2 chats are written as lines" in finding.message
    assert Generation.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize("template", [CHATML, None])
def test_chats_to_be_answered(template: str | None) -> None:
    base = base_with(template)
    task, (trained,) = prepared(base, [QUESTION, ANSWER])
    for messages in ([QUESTION], [QUESTION, ANSWER]):
        (example,) = task.read(chats(messages), labelled=False)
        assert example.completion is None
        (item,) = task.prepare(base, example)
        assert item.targets == {}
        assert item.inputs["prompt_ids"] == item.inputs["decode_ids"] == trained.inputs["decode_ids"]
    assert not task.has_target(chats([QUESTION])[0])
    assert task.has_target(chats([QUESTION, ANSWER])[0])


def test_an_end_that_an_answer_brings_along_stands_once() -> None:
    base = base_with(CHATML)
    task, (bare,) = prepared(base, [QUESTION, ANSWER])
    for end in ("</s>", "<|im_end|>", "<|im_end|>\n"):
        (example,) = task.read(chats([QUESTION, {**ANSWER, "content": ANSWER["content"] + end}]))
        assert example.completion == ANSWER["content"]
        assert task.prepare(base, example) == (bare,)


def test_examples_keep_the_messages_and_keys_are_their_text() -> None:
    base = base_with(CHATML)
    task = Generation.build(chats([QUESTION, ANSWER]), base, GenerationSettings())
    (example,) = task.read(chats([QUESTION, ANSWER]))
    assert example == PromptExample(
        file="chats.jsonl",
        line=1,
        prompt="the quick brown fox",
        completion=ANSWER["content"],
        messages=(QUESTION,),
    )
    assert "thequickbrownfox" in task.keys(example).input
    assert task.keys(example).target == ANSWER["content"]
    written = base.processor("runs away", add_special_tokens=False)["input_ids"]
    (item,) = task.prepare(base, task.as_reference({"text": "runs away", "ids": written}, example))
    assert item.targets["completion_ids"] == written  # and no end, as none was written
    assert item.inputs["prompt_ids"] == task.prepare(base, example)[0].inputs["prompt_ids"]


@pytest.mark.parametrize(
    ("messages", "told"),
    [([QUESTION], "has no answer at its end"), ([ANSWER], "has nothing before an answer"), ([], "")],
)
def test_a_labelled_chat_needs_its_answer(messages: list[dict[str, str]], told: str) -> None:
    task = Generation.build(chats([QUESTION, ANSWER]), base_with(CHATML), GenerationSettings())
    with pytest.raises(DataError, match=f"^chats.jsonl:3: the chat {told}"):
        list(task.read([row(3, messages=messages)]))


def test_messages_that_call_tools_are_no_text() -> None:
    with pytest.raises(DataError, match="calls tools"):
        messages_of(row(messages=[QUESTION, CALL]), "messages")


def test_pairs_and_plain_text_are_read_as_before() -> None:
    task = Generation.build([row(prompt="the dog", completion="runs")], base_with(CHATML), GenerationSettings())
    (example,) = task.read([row(prompt="the dog", completion="runs", messages=[QUESTION])])
    assert example.messages is None
    assert not task.chats_as_lines
    assert task.turn_end_ids == ()


def test_chats_are_scored_and_answered_with_pairs_in_one_batch() -> None:
    base = base_with(CHATML)
    rows = [*chats([QUESTION, ANSWER], [QUESTION, ANSWER, QUESTION, ANSWER]), row(prompt="the dog", completion="runs")]
    task = Generation.build(rows, base, GenerationSettings(max_new_tokens=4))
    items = [item for example in task.read(rows) for item in task.prepare(base, example)]
    batch = task.collate(base, items, "score")
    made = task.predict(base, base.model, batch, frozenset({"cross_entropy", "exact_match"}))
    assert [entry["tokens"] for entry in made] == [len(item.targets["completion_ids"]) for item in items]
    alone = [
        task.predict(base, base.model, task.collate(base, [item], "score"), frozenset({"exact_match"}))[0]["text"]
        for item in items
    ]
    assert [entry["text"] for entry in made] == alone
    labels = batch.targets["next_tokens"]
    total = task.loss(base.model, batch)["cross_entropy"].item()
    assert total == pytest.approx(sum(entry["nll"] for entry in made), rel=1e-5)  # float32 sums in another order
    assert int((labels >= 0).sum()) == sum(entry["tokens"] for entry in made)


def test_a_bare_input_is_a_chat_where_chats_were_learned() -> None:
    base = base_with(CHATML)
    chat = Generation.build(chats([QUESTION, ANSWER]), base, GenerationSettings())
    assert chat.from_bare("the fox") == {"messages": [{"role": "user", "content": "the fox"}]}
    (bare,) = chat.read([Row(chat.from_bare("the fox"), "x", 1)], labelled=False)
    (asked,) = chat.read(chats([{"role": "user", "content": "the fox"}]), labelled=False)
    assert bare.prompt == asked.prompt
    assert bare.messages == asked.messages
    pairs = Generation.build([Row({"prompt": "a", "completion": "b"}, "x", 1)], base, GenerationSettings())
    assert pairs.from_bare("the fox") == {"prompt": "the fox"}


def test_where_inputs_are_wanted_every_column_stays() -> None:
    row = {"instruction": "Translate.", "input": "dog", "output": "Hund", "id": 1}
    (made,) = chat_rows([Row(row, "x", 1)], replace(CHATS, inputs=True))
    assert {name: value for name, value in made.values.items() if name != "messages"} == row
    (shared,) = chat_rows([Row(SHAPES["sharegpt"], "x", 1)], replace(CHATS, inputs=True))
    assert set(shared.values) == {"conversations", "messages"}
