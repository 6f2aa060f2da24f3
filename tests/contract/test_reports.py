"""Runs of all tasks, with the methods in turn: their records, their page and card, and what the page says to paste."""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import html5lib
import pytest
from cells import FAMILIES, METHODS, recipe, rows
from huggingface_hub import ModelCard
from PIL import Image
from rich.console import Console
from tiny import tiny_base

from domaintune import Recipe, tune
from domaintune.cli import show
from domaintune.report import answers

SHAPES = {
    "text-classification": "label",
    "token-classification": "entities",
    "translation": "translation",
    "generation": "output",
    "image-classification": "label",
    "object-detection": "objects",
}
METHOD = dict(zip(FAMILIES, ("lora", "freeze", "p-tuning-2", "p-tuning-1", "full", "dora"), strict=True))


def others(task: str, folder: Path) -> list[dict[str, Any]]:
    """The same rows with other inputs: words from right to left, pictures upside down."""
    made = []
    for number, row in enumerate(rows(task)):
        values = dict(row.values)
        if "image" in values:
            with Image.open(values["image"]) as picture:
                values["image"] = str(folder / f"turned-{number}.png")
                picture.rotate(180).save(values["image"])
        for name in values.keys() & {"text", "source", "prompt"}:
            values[name] = " ".join(reversed(values[name].split()))
        if "tokens" in values:
            values = {name: values[name][::-1] for name in ("tokens", "tags")}
            values["tags"] = ["O"] * len(values["tags"][:-1]) + ["B-LOC"]
        made.append(values)
    return made


def given_as(task: str, path: Path, values: list[dict[str, Any]]) -> Any:
    """Rows in memory; boxes, which have no such form, as a COCO file."""
    if task != "object-detection":
        return values
    names = sorted({label for row in values for label in row["labels"]})
    pictures = [
        {"id": n, "file_name": row["image"], "width": row["width"], "height": row["height"]}
        for n, row in enumerate(values)
    ]
    boxes = [
        {"image_id": n, "bbox": box, "category_id": names.index(label), "iscrowd": 0}
        for n, row in enumerate(values)
        for box, label in zip(row["boxes"], row["labels"], strict=True)
    ]
    annotations = [{"id": n, **box, "area": box["bbox"][2] * box["bbox"][3]} for n, box in enumerate(boxes)]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    path.write_text(json.dumps({"images": pictures, "annotations": annotations, "categories": categories}))
    return str(path)


def make(folder: Path, task: str, **more: Any) -> Path:
    base = tiny_base(FAMILIES[task][0], task)
    base.model.save_pretrained(folder / "base")
    base.processor.save_pretrained(folder / "base")
    mine, theirs = [dict(row.values) for row in rows(task)], others(task, folder)
    if task == "translation":  # without targets: agreement
        theirs = [{"source": row["source"]} for row in theirs]
    given = given_as(task, folder / "mine.json", mine)
    values = recipe(task, METHODS[METHOD[task]]).plain() | {
        "base": str(folder / "base"),
        "train": given,
        "dev": given,
        "test": given,
        "general": given_as(task, folder / "theirs.json", theirs),
        "output": str(folder / "a run"),
        "training": {"epochs": 1},
        "evaluation": {"draws": 100},
        "data": {"keep_leaks": True},
        "threads": 1,
        **more,
    }
    return tune(Recipe.make(values)).path


@pytest.mark.parametrize("task", FAMILIES)
def test_every_task_has_a_page_and_a_card(task: str, tmp_path: Path) -> None:
    run = make(tmp_path, task)
    test = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    shape = SHAPES[task]
    assert answers.shape_of(test) == shape
    for row, given in zip(test, rows(task), strict=True):
        values = given.values
        assert row["input"] in ({*map(str, values.values())} | {" ".join(values.get("tokens", ()))})
        target = row["target"][shape]
        if shape == "objects":
            assert [o["label"] for o in target] == values["labels"]
            assert [o["box"] for o in target] == values["boxes"]
        elif shape == "entities":
            assert row["target"]["tags"] == values["tags"]
            assert [e["type"] for e in target] == ["PER", "LOC"]
        else:
            assert target == values[{"translation": "target", "output": "completion"}.get(shape, "label")]
    if shape == "entities":
        found = json.loads((run / "scores.json").read_text())["calibration"].get("entities", {"count": 0})
        assert found["count"] == sum(len(row["entities"]) for row in test)
    page = (run / "report.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(page)
    assert json.loads((run / "scores.json").read_text())["verdict"]["sentence"] in html.unescape(page)
    general = [json.loads(line) for line in (run / "predictions" / "general.jsonl").read_text().splitlines()]
    assert ("target" in general[0]) == (task != "translation")
    lost = answers.flips(general)
    to_look_at = answers.mistakes(test, 9) or answers.samples(test, 9) or (lost is not None and lost.lost)
    assert ('<section id="rows">' in page) == bool(to_look_at)
    assert page.count("data:image/jpeg") == (0 if "image" not in rows(task)[0].values else page.count('class="thumb"'))
    card = ModelCard.load(run / "README.md")
    assert {result.dataset_type for result in card.data.eval_results} <= {"domain", "general"}
    if task == "translation":
        side = json.loads((run / "scores.json").read_text())["domain"]["scores"]
        (told,) = [r for r in card.data.eval_results if (r.dataset_type, r.metric_type) == ("domain", "bleu")]
        chosen = json.loads((run / "scores.json").read_text())["chosen_strength"]
        assert told.metric_value == pytest.approx(100 * side[f"{chosen:g}"]["bleu"]["value"], abs=1e-5)
        for text in (html.unescape(page), html.unescape(card.text)):
            assert "scale of 0 to 1" in text
            assert "tok:13a|smooth:exp" in text
    else:
        assert "sacrebleu" not in card.text
    assert card.data.pipeline_tag == {"generation": "text-generation"}.get(task, task)


def test_likelihood_of_the_base_s_answers_is_not_told_as_agreement(tmp_path: Path) -> None:
    theirs = [{"prompt": row["prompt"]} for row in others("generation", tmp_path)]
    run = make(tmp_path, "generation", general=theirs, balance={"keep_agreement": 0.001})
    scores = json.loads((run / "scores.json").read_text())
    losses = [scores["general"]["scores"][strength]["cross_entropy"]["value"] for strength in ("0", "1")]
    assert scores["general"]["kind"] == "kept likelihood of the base's answers"
    assert scores["general"]["change"]["1"]["value"] == pytest.approx(math.exp(losses[0] - losses[1]))
    assert scores["chosen_strength"] > 0
    general = [json.loads(line) for line in (run / "predictions" / "general.jsonl").read_text().splitlines()]
    assert "target" not in general[0]
    console = Console(file=io.StringIO(), width=120)
    show(console, run)
    page, card = ((run / name).read_text() for name in ("report.html", "README.md"))
    for told in (console.file.getvalue(), html.unescape(page), html.unescape(card)):  # type: ignore[attr-defined]
        assert "kept likelihood of the base's answers" in told
        assert "agreement" not in told.replace("keep_agreement", "")


def pasted(page: str, language: str) -> list[str]:
    return [html.unescape(code) for code in re.findall(rf'<code class="{language}">(.*?)</code>', page, re.DOTALL)]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_what_the_page_says_to_paste_runs(task: str, tmp_path: Path) -> None:
    run = make(tmp_path, task)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "domaintune"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m domaintune "$@"\n')
    command.chmod(0o755)
    source = str(Path(__file__).resolve().parents[2] / "src")
    path = f"{command.parent}:{os.environ['PATH']}"

    def run_it(words: list[str], folder: Path) -> str:
        environment = {**os.environ, "PATH": path, "PYTHONPATH": source}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    page, card = ((run / name).read_text(encoding="utf-8") for name in ("report.html", "README.md"))
    shell, python = pasted(page, "sh"), pasted(page, "python")
    assert (len(shell), len(python)) == (4, 1)
    told = [run_it(["sh", "-c", code], elsewhere) for code in shell]
    first = json.loads((run / "predictions" / "test.jsonl").read_text().splitlines()[0])
    assert json.loads(told[0])["label"] == first["label"]
    assert len((elsewhere / "answers.jsonl").read_text().splitlines()) == 8
    assert (run / "report.html").read_text(encoding="utf-8") == page, "the same page again"
    assert first["label"] in run_it([sys.executable, "-c", python[0]], elsewhere)
    (run.parent / "picture.jpg").write_bytes(Path(first["input"]).read_bytes() if "image" in task else b"")
    for language, starter in (("sh", ["sh", "-c"]), ("python", [sys.executable, "-c"])):
        (code,) = re.findall(rf"^```{language}\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)
        assert "label" in run_it([*starter, code], run.parent)
