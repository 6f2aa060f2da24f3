"""Runs of generation from end to end: compared across tokenizers, answered with other settings, and what is told of what was cut."""

from __future__ import annotations

import datetime
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TEXT, tiny_base, tokenizer
from transformers import AutoTokenizer
from typer.testing import CliRunner

from domaintune import Recipe, Run, tune
from domaintune.checks.lengths import length_findings
from domaintune.cli import app
from domaintune.data.formats import read_rows
from domaintune.data.rows import Wanted
from domaintune.errors import RecipeError, RunError
from domaintune.evaluation.records import load_records
from domaintune.finished.compare import compare
from domaintune.finished.evaluate import evaluate
from domaintune.memory import jsonable
from domaintune.options import answering_from
from domaintune.pipeline import opened
from domaintune.settings import ObjectDetectionSettings, TextClassificationSettings
from domaintune.tasks.answering import answering
from domaintune.tasks.object_detection import ObjectDetection

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


def made_run(
    folder: Path, name: str, base: str = "words", *, general: str | None = None, seeds: int = 1, **task: object
) -> Run:
    values = {
        "task": {"name": "generation", "max_new_tokens": 4, **task}, "base": str(folder / base), "method": "lora",
        **{part: str(folder / f"{part}.jsonl") for part in ("train", "dev", "test")}, "output": str(folder / name),
        "training": {"epochs": 1, "learning_rate": 0.01}, "evaluation": {"draws": 100}, "threads": 1,
        "general": general, "seeds": seeds,
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


# --- how answers are made, without another training


def test_answers_of_a_finished_run_are_made_with_other_settings(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = [json.loads(line)["prompt"] for line in (folder / "test.jsonl").read_text().splitlines()]
    short, long = (made.predict(texts) for made in (run, run.answering({"max_new_tokens": 12})))
    assert any(len(two["output"]) > len(one["output"]) for one, two in zip(short, long, strict=True))
    assert all(two["output"].startswith(one["output"]) for one, two in zip(short, long, strict=True))
    assert run.task.settings.max_new_tokens == 4
    output = tmp_path / "out.jsonl"
    command = ["predict", str(run.path), str(folder / "test.jsonl"), "--output", str(output), "--set"]
    result = CliRunner().invoke(app, [*command, "task.max_new_tokens=12"], catch_exceptions=False)
    assert result.exit_code == 0
    assert [json.loads(line)["output"] for line in output.read_text().splitlines()] == [
        entry["output"] for entry in long
    ]
    stopping = run.answering({"max_new_tokens": 12, "stop": ["e"]})
    assert all("e" not in entry["output"] for entry in stopping.predict(texts))
    scored = CliRunner().invoke(
        app,
        ["evaluate", str(run.path), str(folder / "test.jsonl"), "--set", "task.num_beams=2", "--json"],
        catch_exceptions=False,
    )
    expected = evaluate(run.answering({"num_beams": 2}), str(folder / "test.jsonl"))
    assert json.loads(scored.output)["scores"]["0"] == jsonable(expected.plain())["scores"]["0"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_length": 16}, r"^task.max_length: cannot be changed.*task.max_new_tokens, .*task.stop"),
        ({"max_new_tokens": "many"}, r"max_new_tokens.*valid integer"),
        ({"temperature": 0.5}, r"^task.temperature: got temperature=0.5.*task.sample=true"),
        ({"sample": True, "num_beams": 2}, r"^task.sample"),
    ],
)
def test_other_settings_of_a_finished_run_are_refused(run: Run, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        run.answering(changes)


@pytest.mark.parametrize("given", ["method.rank=3", "max_new_tokens=3", "task.stop"])
def test_what_is_no_setting_of_answers_is_refused_on_the_command_line(given: str) -> None:
    with pytest.raises(RecipeError, match=r"--set: got .*task.KEY=VALUE"):
        answering_from([given])


def test_tasks_have_settings_of_their_own() -> None:
    detection = ObjectDetectionSettings()
    task = ObjectDetection.model_construct(threshold=0.5)
    assert answering(task, detection, {"threshold": 0.2}).threshold == 0.2
    with pytest.raises(RecipeError, match="No setting of text-classification can"):
        answering(task, TextClassificationSettings(), {"max_length": 8})


def test_what_is_cut_is_told(run: Run, folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "long.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "the dog " * n, "completion": "runs"}) + "\n" for n in (2, 90, 100)))
    command = ["predict", str(run.path), str(rows), "--output", str(tmp_path / "o.csv")]
    told = " ".join(CliRunner().invoke(app, command, catch_exceptions=False).stderr.split())
    assert f"2 inputs are longer than the model reads, and cut (first: {rows}:2)" in told
    assert re.search(
        r"3 outputs were cut at the limit of new tokens \(first: .*long.jsonl:1\): --set task.max_new_tokens", told
    )
    (note,) = evaluate(run, str(rows)).notes
    assert re.fullmatch(r"2 of 3 rows of .* are longer than the limit; .* \(first: .*long.jsonl:2\)", note)


def test_the_check_tells_targets_that_outputs_cannot_reach(run: Run, folder: Path) -> None:
    for most, expected in ((2, [12]), (3, [])):
        task = run.answering({"max_new_tokens": most}).task
        examples = list(task.read(read_rows(str(folder / "test.jsonl"), Wanted("generation"))))
        found = list(length_findings(task, run.base, {"test": examples}))
        assert [f.count for f in found if f.name == "long-outputs"] == expected


def test_over_seeds_the_kept_likelihood_is_told_as_such(folder: Path) -> None:
    """It is no share of answers that agree, and may exceed 100 %."""
    prompts = folder / "prompts.jsonl"
    given = [json.loads(line)["prompt"] for line in Path(rows(prompts, 12, seed=99)).read_text().splitlines()]
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in given), encoding="utf-8")
    one = json.loads((made_run(folder, "kept", general=str(prompts)).path / "scores.json").read_text())
    made_run(folder, "seeds", general=str(prompts), seeds=2)
    whole = json.loads((folder / "seeds" / "seeds.json").read_text())
    assert "likelihood" in one["general"]["kind"]
    assert whole["general"]["kind"] == one["general"]["kind"]
    assert "kept likelihood of the base's answers" in whole["verdict"]["sentence"]
