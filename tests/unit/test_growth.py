"""Growing data: an earlier run's parts stay what they were, new rows join, and both are scored before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import WORDS, save_base
from typer.testing import CliRunner

from domaintune import Recipe, load, tune
from domaintune.cli import app
from domaintune.errors import DataError, RecipeError


def table(path: Path, count: int, *, start: int = 0, third: bool = False) -> str:
    lines = ["text,label"]
    for number in range(start, start + count):
        label = ("negative", "positive")[number % 2] if not (third and number % 3 == 0) else "mixed"
        source = WORDS["positive" if number % 2 else "negative"]
        lines.append(f"a {source[number % 6]} and a {source[(number // 6) % 6]} on day {number},{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(tmp_path)
    return tmp_path


def first_run(folder: Path, **more: Any) -> Any:
    values = {
        "task": "text-classification",
        "base": str(folder / "base"),
        "train": table(folder / "train.csv", 120),
        "method": "lora",
        "output": str(folder / "v1"),
        "training": {"epochs": 2, "learning_rate": 0.01},
        "data": {"fold_below": 10},
        "evaluation": {"draws": 200},
        "threads": 1,
    }
    return tune(Recipe.make({**values, **more}))


SETTINGS = [
    "--set",
    "training.epochs=2",
    "--set",
    "training.learning_rate=0.01",
    "--set",
    "threads=1",
    "--set",
    "evaluation.draws=200",
]


def grow(folder: Path, run: str, rows: str, output: str, *more: str) -> Any:
    command = ["tune", "--base", str(folder / run), "--add", rows, "--output", str(folder / output), *SETTINGS, *more]
    return CliRunner().invoke(app, command, catch_exceptions=True)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_parts_stay_and_new_rows_join(folder: Path) -> None:
    first_run(folder)
    new = table(folder / "new.csv", 60, start=500)
    before = read(folder / "v1/parts.json")
    text = (folder / "train.csv").read_text().splitlines()
    test_line = before["test"][str(folder / "train.csv")][0]
    with (folder / "new.csv").open("a") as stream:  # a row of the old test part among the new ones
        stream.write(text[test_line - 1] + "\n")
    result = grow(folder, "v1", new, "v2")
    assert result.exit_code == 0, result.output
    after, scores = read(folder / "v2/parts.json"), read(folder / "v2/scores.json")
    old = str(folder / "train.csv")
    for part in ("train", "dev", "test"):
        assert after[part][old] == before[part][old]
    news = {part: after[part].get(new, []) for part in ("train", "dev", "test")}
    assert sorted(line for lines in news.values() for line in lines) == list(range(2, 62))  # the leaked row is in none
    assert all(news.values())
    growth = scores["growth"]
    assert growth["old"]["rows"] == len(before["test"][old])
    assert growth["new"]["rows"] == len(news["test"])
    # The score before is the earlier run's own confirmed one, at its strength.
    earlier = read(folder / "v1/scores.json")
    chosen = f"{earlier['chosen_strength']:g}"
    assert growth["old"]["before"]["value"] == pytest.approx(earlier["domain"]["scores"][chosen]["accuracy"]["value"])
    values = [growth[name]["after"]["value"] * growth[name]["rows"] for name in ("old", "new")]
    now = f"{scores['chosen_strength']:g}"
    whole = scores["domain"]["scores"][now]["accuracy"]["value"]
    assert sum(values) / scores["domain"]["rows"] == pytest.approx(whole)
    for name in ("old", "new"):
        part = growth[name]
        assert part["change"]["value"] == pytest.approx(part["after"]["value"] - part["before"]["value"])
    # It starts from the earlier run's own base, and loads without the earlier run.
    assert (
        read(folder / "v2/provenance.json")["base"]["weights_sha256"]
        == read(folder / "v1/provenance.json")["base"]["weights_sha256"]
    )
    (folder / "v1").rename(folder / "gone")
    assert len(load(folder / "v2").predict(["a clean room"])) == 1
    (folder / "gone").rename(folder / "v1")
    # And grows again, its own new rows being old ones then.
    third = grow(folder, "v2", table(folder / "newer.csv", 40, start=900), "v3")
    assert third.exit_code == 0, third.output
    last = read(folder / "v3/parts.json")
    for part in ("train", "dev", "test"):
        assert last[part][old] == before[part][old]
        assert last[part][new] == news[part]


def test_new_labels_come_behind_the_old_ones(folder: Path) -> None:
    first_run(folder)
    result = grow(folder, "v1", table(folder / "new.csv", 60, start=500, third=True), "v2")
    assert result.exit_code == 0, result.output
    assert read(folder / "v2/tasks.json")["domain"]["labels"] == ["negative", "positive", "mixed"]
    growth = read(folder / "v2/scores.json")["growth"]
    assert growth["new"]["before"] is None
    assert growth["old"]["before"] is not None


def test_runs_over_folds_grow_too(folder: Path) -> None:
    first_run(folder, data={"folds": 2})
    assert read(folder / "v1/parts.json")["dev"] == {}
    result = grow(folder, "v1", table(folder / "new.csv", 30, start=500), "v2")
    assert result.exit_code == 0, result.output
    assert read(folder / "v2/parts.json")["dev"] == {}


def test_what_cannot_grow_is_refused(folder: Path) -> None:
    first_run(folder)
    new = table(folder / "new.csv", 30, start=500)
    result = grow(folder, "base", new, "v2")
    assert "no run folder" in str(result.exception)
    with pytest.raises(RecipeError, match="earlier run"):
        tune(
            Recipe.make(
                {"task": "text-classification", "base": "minilm", "train": new, "add": new, "output": str(folder / "x")}
            )
        )
    table(folder / "train.csv", 121)
    result = grow(folder, "v1", new, "v2")
    assert isinstance(result.exception, DataError)
    assert "rows of train are not those" in str(result.exception)
    assert not (folder / "v2/run.json").exists()


def test_new_rows_are_cut_with_the_seed_of_the_data(folder: Path) -> None:
    first_run(folder)
    new = table(folder / "new.csv", 60, start=500)
    for number, seed in enumerate((0, 7)):
        result = grow(folder, "v1", new, f"g{number}", "--set", "data.seed=3", "--set", f"seed={seed}")
        assert result.exit_code == 0, result.output
    assert read(folder / "g0/parts.json") == read(folder / "g1/parts.json")
