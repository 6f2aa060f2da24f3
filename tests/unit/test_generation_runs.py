"""Runs of generation from end to end: compared across tokenizers, answered with other settings, and what is told of what was cut."""

from __future__ import annotations

import datetime
import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny import TEXT, tiny_base, tokenizer
from transformers import AutoTokenizer

from domaintune import Recipe, Run, tune
from domaintune.errors import RunError
from domaintune.evaluation.records import load_records
from domaintune.finished.compare import compare
from domaintune.pipeline import opened

WORDS = " ".join(TEXT[:4]).split()


def rows(path: Path, count: int, *, seed: int) -> str:
    chance = random.Random(seed)
    made = [
        {"prompt": " ".join(chance.sample(WORDS, 6)), "completion": " ".join(chance.sample(WORDS, 3))}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("generation")
    base = tiny_base("gpt2", "generation")
    for name in ("words", "letters"):
        base.model.save_pretrained(made / name)
        tokenizer("causal").save_pretrained(made / name)
    file = made / "letters" / "tokenizer.json"
    state = json.loads(file.read_text())
    vocab = state["model"]["vocab"]
    state["model"]["vocab"] = {piece: n for piece, n in vocab.items() if len(piece.removeprefix("##")) == 1 or n < 7}
    file.write_text(json.dumps(state))
    assert len(AutoTokenizer.from_pretrained(made / "letters")("the dog")["input_ids"]) == 6
    for part, count in (("train", 24), ("dev", 8), ("test", 12)):
        rows(made / f"{part}.jsonl", count, seed=count)
    return made


def made_run(folder: Path, name: str, base: str = "words", **task: object) -> Run:
    values = {
        "task": {"name": "generation", "max_new_tokens": 4, **task}, "base": str(folder / base), "method": "lora",
        **{part: str(folder / f"{part}.jsonl") for part in ("train", "dev", "test")}, "output": str(folder / name),
        "training": {"epochs": 1, "learning_rate": 0.01}, "evaluation": {"draws": 100}, "threads": 1,
    }  # fmt: skip
    return tune(Recipe.make(values))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return made_run(folder, "run")


def test_a_run_that_is_resumed_keeps_its_date(folder: Path) -> None:
    recipe = Recipe.make(
        {"task": "generation", "base": str(folder / "words"), "train": str(folder / "train.jsonl"), "output": "x"}
    )
    base, _ = opened(recipe, started=datetime.datetime(2026, 3, 4, 12).timestamp())
    assert base.date == "2026-03-04"


def test_losses_of_other_tokens_are_compared_by_the_character(run: Run, folder: Path) -> None:
    other = made_run(folder, "other", "letters")
    made = compare([run.path, other.path])
    (note,) = made["notes"]
    assert "nats per character" in note
    targets = [json.loads(line)["completion"] for line in (folder / "test.jsonl").read_text().splitlines()]
    sums = []
    for one in (run, other):
        _, records = load_records(one.path / "records" / "test.safetensors")
        sums.append(np.sum([record["cross_entropy"] for record in records[f"{one.strength:g}"]], axis=0))
    assert sums[0][1] < sums[1][1]  # tokens
    expected = (sums[0][0] - sums[1][0]) / sum(map(len, targets))
    assert made["pairs"][0]["difference"]["value"] == pytest.approx(expected)
    assert compare([run.path, other.path], data=str(folder / "test.jsonl"))["pairs"] == made["pairs"]


def test_losses_of_cut_targets_are_not_compared_with_those_of_whole_ones(run: Run, folder: Path) -> None:
    other = made_run(folder, "short", "letters", max_length=16)
    with pytest.raises(RunError, match=r"numbers of tokens.*of 12 rows .*short has no count of characters"):
        compare([run.path, other.path])


def test_losses_of_the_same_tokens_are_compared_by_the_token(run: Run, folder: Path) -> None:
    made = compare([run.path, made_run(folder, "again", max_new_tokens=5).path])
    assert made["notes"] == []
    one, two = (facts["score"]["value"] for facts in made["runs"])
    assert made["pairs"][0]["difference"]["value"] == pytest.approx(one - two)
