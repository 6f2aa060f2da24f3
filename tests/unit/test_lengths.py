"""Texts longer than the limit: which tokens are read, and what the check says; and texts that were cut before."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TEXT, tiny_base

from domaintune import Recipe
from domaintune.checks.lengths import ends_within_a_sentence, length_findings
from domaintune.data.batches import plan as plan_batches
from domaintune.data.rows import Row
from domaintune.errors import BaseError
from domaintune.preview import check, plan
from domaintune.settings import GenerationSettings, TextClassificationSettings, TokenClassificationSettings
from domaintune.tasks import TASKS
from domaintune.tasks.base import Finding, dataset
from domaintune.tasks.generation import Generation
from domaintune.tasks.text_classification import TextClassification
from domaintune.tasks.token_classification import TokenClassification

LIMIT = 12
LONG = " ".join(TEXT[:3])


def rows(*texts: str) -> list[Row]:
    return [Row({"text": text, "label": "ab"[n % 2]}, "f.csv", n + 1) for n, text in enumerate(texts)]


def built(base: Any, kind: str) -> TextClassification:
    return TextClassification.build(
        rows(LONG, "the dog"), base, TextClassificationSettings(max_length=LIMIT, long_texts=kind)
    )


@pytest.mark.parametrize("kind", ["windows", "head"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_many_texts_at_once_become_what_each_becomes_alone(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domaintune.tasks.text_classification.AT_ONCE", 3)
    base = tiny_base(family, "text-classification")
    task = built(base, kind)
    texts = [LONG, "", "the dog", " ", LONG + LONG, "\u200b", "the\ndog \N{DOG FACE}" * 9, "\u72d7" * 40]
    examples = list(task.read([Row({"text": "x", "label": "a"}, "f.csv", 1) for text in texts]))
    examples = [replace(example, text=text) for example, text in zip(examples, texts, strict=True)]
    together = dataset(task, base, examples)
    assert len(together.spans) == len(texts)
    for example, span in zip(examples, together.spans, strict=True):
        alone = dataset(task, base, [example]).items
        ours = together.items[span.start : span.stop]
        assert [(item.inputs, item.part, item.cut) for item in ours] == [(i.inputs, i.part, i.cut) for i in alone]
        assert [item.targets["scale"] for item in ours] == [item.targets["scale"] for item in alone]
    assert dataset(task, base, []).items == []


@pytest.mark.parametrize(("kind", "part"), [("head", slice(None, LIMIT - 2)), ("tail", slice(2 - LIMIT, None))])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_head_and_tail_are_exactly_the_first_and_last_tokens(family: str, kind: str, part: slice) -> None:
    base = tiny_base(family, "text-classification")
    task = built(base, kind)
    plain = base.processor(LONG, add_special_tokens=False)["input_ids"]
    first, *_, last = base.processor("")["input_ids"]
    long, short = task.read(rows(LONG, "the dog"))
    (item,) = task.prepare(base, long)
    assert item.inputs["input_ids"] == [first, *plain[part], last]
    assert {len(values) for values in item.inputs.values()} == {LIMIT}
    assert (item.targets["scale"], task.is_long([item])) == (1.0, True)
    (item,) = task.prepare(base, short)
    assert item.inputs["input_ids"] == base.processor("the dog")["input_ids"]
    assert not task.is_long([item])


def test_one_item_a_row_except_in_windows_and_short_texts_are_read_alike() -> None:
    base = tiny_base("bert", "text-classification")
    texts = rows(LONG, "the dog", TEXT[1], LONG + LONG)
    counts = {}
    for kind in ("windows", "head", "tail"):
        task = built(base, kind)
        data = dataset(task, base, list(task.read(texts)))
        counts[kind] = [len(span) for span in data.spans]
        batch = task.collate(base, data.items, "train")
        assert batch.inputs["input_ids"].shape == (len(data.items), LIMIT)
        assert task.units(batch)["label"] == pytest.approx(4)
    assert counts["head"] == counts["tail"] == [1, 1, 1, 1]
    assert counts["windows"][1] == 1
    assert min(counts["windows"][0], counts["windows"][3]) > 1


def test_a_long_text_weighs_as_much_in_an_epoch_as_a_short_one() -> None:
    base = tiny_base("bert", "text-classification")
    task = built(base, "windows")
    data = dataset(task, base, list(task.read(rows(*["the dog jumps", " ".join([LONG] * 3)] * 40))))
    assert max(map(len, data.spans)) >= 10
    costs = [task.cost(item) for item in data.items]
    owner = {item: number for number, span in enumerate(data.spans) for item in span}
    weight = np.zeros(len(data.examples))
    steps = plan_batches(costs, batch_size=8, budget=64, seed=0, epoch=0, rows=data.rows())
    for step in steps:
        scales = {i: data.items[i].targets["scale"] for part in step for i in part}
        for item, scale in scales.items():
            weight[owner[item]] += scale / sum(scales.values())
    assert weight == pytest.approx(np.full(len(weight), len(steps) / len(weight)))


def test_a_task_saved_without_the_setting_reads_windows() -> None:
    task = built(tiny_base("bert", "text-classification"), "windows")
    saved = task.model_dump(mode="json")
    del saved["long_texts"]
    assert TextClassification.model_validate(saved) == task


def findings(kind: str) -> dict[str, Finding]:
    base = tiny_base("bert", "text-classification")
    task = built(base, kind)
    return {
        f.name: f for f in length_findings(task, base, {"train": list(task.read(rows(LONG, "the dog", LONG + ".")))})
    }


def test_the_check_counts_long_rows_and_says_what_happens_to_them() -> None:
    found = findings("windows")["long-rows"]
    assert (found.severity, found.rows) == ("note", ("f.csv:1", "f.csv:3"))
    assert found.message == (
        "2 of 3 rows of train are longer than the limit; such rows are taken in windows, whose scores are averaged."
    )
    assert "task.long_texts=head" in found.remedy
    for kind, word in (("head", "first"), ("tail", "last")):
        found = findings(kind)["long-rows"]
        assert (found.severity, found.count) == ("warning", 2)
        assert f"cut to their {word} {LIMIT} tokens" in found.message
    base = tiny_base("distilbert", "token-classification")
    values = {"tokens": LONG.split(), "tags": ["B-X", *["O"] * (len(LONG.split()) - 1)]}
    task = TokenClassification.build(
        [Row(values, "f", 1)], base, TokenClassificationSettings(max_length=LIMIT, stride=2)
    )
    (found,) = length_findings(task, base, {"test": list(task.read([Row(values, "f", 1)]))})
    assert (found.name, found.severity) == ("long-rows", "note")
    assert "windows that share 2 tokens" in found.message


def test_check_and_dry_run_say_it_of_each_given_part(tmp_path: Path) -> None:
    base = tiny_base("bert", "text-classification")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    for name, texts in (("train", [LONG, LONG + "!?", *TEXT]), ("test", [LONG + " dog", "a fox", "a dog"])):
        lines = [f'"{text} {n}",{"ab"[n % 2]}' for n, text in enumerate(texts)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    recipe = Recipe.make(
        {
            "task": {"name": "text-classification", "long_texts": "tail", "max_length": 32},
            "base": str(tmp_path / "base"),
            "train": str(tmp_path / "train.csv"),
            "test": str(tmp_path / "test.csv"),
            "method": "lora",
            "output": str(tmp_path / "run"),
        }
    )
    told = [finding.message for finding in check(recipe).findings if finding.name == "long-rows"]
    assert told == [
        "2 of 8 rows of train are longer than the limit; such rows are cut to their last 32 tokens.",
        "1 of 3 rows of test is longer than the limit; such rows are cut to their last 32 tokens.",
    ]
    dry = next(line for line in plan(recipe).findings if "longer than the limit" in line)
    assert dry.startswith(f"warning: {told[0]}")


@pytest.mark.parametrize("kind", ["text-classification", "token-classification", "translation", "generation"])
def test_a_script_that_the_tokenizer_does_not_know_is_told(kind: str) -> None:
    family = {"translation": "marian", "generation": "qwen3"}.get(kind, "bert")
    base = tiny_base(family, kind)
    assert base.processor.unk_token_id is not None

    def told(*texts: str) -> dict[str, Finding]:
        values = {
            "text-classification": [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)],
            "token-classification": [
                {"tokens": text.split(), "tags": ["B-X", *["O"] * (len(text.split()) - 1)]} for text in texts
            ],
            "translation": [{"source": "the dog", "target": text} for text in texts],
            "generation": [{"prompt": "the dog", "completion": text} for text in texts],
        }[kind]
        settings = Recipe.make({"task": kind, "base": "x", "train": "x", "output": "x"}).task
        made = [Row(value, "f", n) for n, value in enumerate(values, 1)]
        task = TASKS[kind].build(made, base, settings)
        return {f.name: f for f in length_findings(task, base, {"train": list(task.read(made))})}

    found = told("the lazy dog runs", "ру́сский текст здесь", "the fox", "снова тот же")["unknown-tokens"]
    assert (found.severity, found.rows, found.count) == ("warning", ("f:2", "f:4"), 2)
    assert base.name in found.message
    assert "a base that was trained on this language" in found.remedy
    clean = ["the lazy dog runs over the fox"] * 20
    assert "unknown-tokens" not in told(*clean, "the ж")  # one among many
    other = replace(base, processor=copy.deepcopy(base.processor))
    other.processor.eos_token = other.processor.unk_token  # as of GPT-2, whose tokens are bytes
    task = TextClassification.build(rows("й", "ж"), other, TextClassificationSettings())
    assert not list(length_findings(task, other, {"train": list(task.read(rows("й", "ж")))}))


def test_targets_that_stop_in_the_middle_at_one_length() -> None:
    base = tiny_base("qwen3", "generation")
    whole = [f"the {'quick ' * n}fox runs away ." for n in range(1, 7)]
    cut = [f"{word} jumps over the lazy dog and runs away from the quiet room and the"[:60] for word in
           ("a fox", "a dog", "a waiter", "a soup", "the fox", "the dog")]  # fmt: skip

    def found(completions: list[str]) -> list[Finding]:
        values = [Row({"prompt": f"say {n}", "completion": text}, "f", n) for n, text in enumerate(completions)]
        task = Generation.build(values, base, GenerationSettings())
        return [f for f in length_findings(task, base, {"train": list(task.read(values))}) if f.name == "stopped-short"]

    (finding,) = found([*whole, *cut])
    assert finding.severity == "note"
    assert (finding.count, finding.rows) == (6, tuple(f"f:{n}" for n in range(6, 12)))
    assert "all at 60 characters" in finding.message
    assert found(whole) == []
    assert found([*whole, *cut[:4]]) == []  # too few to be more than chance
    assert found([*whole, *[text[:-1] + "." for text in cut]]) == []  # sentences that are over
    assert found([*whole, cut[0] * 2, *cut]) == []  # not the greatest length
    assert found(["a complaint about the delivery time"] * 50) == []  # one answer many times is a label


def test_what_ends_within_a_sentence() -> None:
    assert all(map(ends_within_a_sentence, ["and then the", "first,", "服务很好，房间", "zum Beispiel –"]))
    assert not any(
        map(ends_within_a_sentence, ["", "Done.", "#### 42", "服务很好。", "(see above)", "return x;}", "“Ja!”"])
    )


@pytest.mark.parametrize("kind", ["windows", "head"])
def test_an_encoder_decoder_reads_one_end_token_a_text(kind: str) -> None:
    """</s> in a text, HTML's strike, is no end: its classifier wants as many ends in every row."""
    base = tiny_base("t5", "translation")
    task = built(base, kind)
    examples = list(task.read(rows("a dog", "a </s> dog </s> ran")))
    items = [item for example in examples for item in task.prepare(base, example)]
    assert {list(item.inputs["input_ids"]).count(base.processor.eos_token_id) for item in items} == {1}


def test_a_tokenizer_without_a_padding_token_is_refused() -> None:
    base = tiny_base("bert", "text-classification")
    bare = copy.deepcopy(base.processor)
    bare.pad_token = None
    with pytest.raises(BaseError, match="no padding token"):
        built(replace(base, processor=bare), "windows")
