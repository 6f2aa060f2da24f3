"""Growing data: an earlier run's parts stay what they were, new rows join, and both are scored before and after."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from small_runs import WORDS, save_base
from tiny import tiny_base
from typer.testing import CliRunner

from domaintune import Recipe, growth, load, predict, tune
from domaintune.bases.load import load_base
from domaintune.cli import app
from domaintune.data.rows import Row
from domaintune.errors import DataError, RecipeError
from domaintune.growth import grown
from domaintune.options import recipe_from
from domaintune.preview import check
from domaintune.settings import TokenClassificationSettings
from domaintune.tasks.token_classification import TokenClassification


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
    test_line = before["test"][str(folder / "train.csv")][0][0]
    with (folder / "new.csv").open("a") as stream:  # a row of the old test part among the new ones
        stream.write(text[test_line - 1] + "\n")
    result = grow(folder, "v1", new, "v2")
    assert result.exit_code == 0, result.output
    after, scores = read(folder / "v2/parts.json"), read(folder / "v2/scores.json")
    old = str(folder / "train.csv")
    for part in ("train", "dev", "test"):
        assert after[part][old] == before[part][old]
    news = {part: after[part].get(new, []) for part in ("train", "dev", "test")}
    assert sorted(line for lines in news.values() for line, _ in lines) == list(
        range(2, 62)
    )  # the leaked row is in none
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


def test_a_recipe_takes_over_what_it_does_not_say(folder: Path) -> None:
    training = {"epochs": 1, "learning_rate": 0.003, "batch_size": 8}
    method = {"name": "lora", "rank": 3}
    settings = {"balance": {"keep": 0.9}, "evaluation": {"draws": 150}, "trust_remote_code": True}
    first_run(folder, training=training, seed=4, method=method, **settings)
    new = table(folder / "new.csv", 30, start=500)
    least = {"base": str(folder / "v1"), "add": new, "output": str(folder / "v2")}
    (folder / "grow.yaml").write_text(yaml.safe_dump(least))
    made = Recipe.make(least)
    assert made == Recipe.read(folder / "grow.yaml")
    assert made == Recipe.read(None, [f"add={new}"], base=least["base"], output=least["output"])
    options = {"base": least["base"], "add": [new], "output": least["output"]}
    assert made == recipe_from({**options, "recipe": None})
    earlier = Recipe.make(read(folder / "v1/recipe.json"))
    changed = {"base": least["base"], "add": new, "output": least["output"]}
    assert made == earlier.model_copy(update=changed)
    assert (made.training.learning_rate, made.seed, made.evaluation.draws, made.threads) == (0.003, 4, 150, 1)
    other = Recipe.make(
        {**least, "task": "text-classification", "training": {"epochs": 2}, "method": "lora", "data": {"folds": 3}}
    )
    assert (other.training.epochs, other.training.learning_rate, other.training.batch_size) == (2, 0.003, 8)
    assert (other.method.rank, other.data.folds, other.data.fold_below) == (3, 3, 10)  # type: ignore[union-attr]
    freeze = Recipe.make({**least, "method": "freeze"})
    assert (freeze.training.learning_rate, freeze.training.epochs) == (None, 1)
    rows = [{"text": "a clean room on day 900", "label": "positive"}]
    assert Recipe.make({**least, "add": rows}).training == made.training
    tune(made)
    resolved = Recipe.make(read(folder / "v2/resolved.json"))
    assert (resolved.training.epochs, resolved.training.learning_rate) == (1, 0.003)
    again = Recipe.make({"base": str(folder / "v2"), "add": new, "output": str(folder / "v3")})
    assert again.train == (str(folder / "train.csv"), new)
    assert Recipe.make(made.plain()) == made
    (folder / "v1").rename(folder / "gone")
    assert Recipe.make(made.plain()) == made
    with pytest.raises(RecipeError, match="is no run folder, or its run is not finished"):
        Recipe.make(least)


def test_code_of_the_base_runs_where_the_recipe_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the earlier run's did not ask."""
    first_run(folder, training={"epochs": 1}, trust_remote_code=True)
    least = {"base": str(folder / "v1"), "add": table(folder / "new.csv", 30, start=500), "output": str(folder / "v2")}
    asked = []

    def noted(name: str, **given: Any) -> Any:
        asked.append(given["trust_remote_code"])
        return load_base(name, **given)

    monkeypatch.setattr(predict, "load_base", noted)
    for more, wanted in (({}, True), ({"trust_remote_code": False}, False)):
        asked.clear()
        predict.open_base(grown(Recipe.make({**least, **more})))
        assert asked == [wanted]


def rows_of(path: str) -> list[dict[str, str]]:
    lines = Path(path).read_text().splitlines()[1:]
    return [dict(zip(("text", "label"), line.rsplit(",", 1), strict=True)) for line in lines]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_of_rows_in_memory_grows_wherever_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.chdir(folder)
    rows = rows_of(table(folder / "t.csv", 60))
    new, newer = (rows_of(table(folder / "t.csv", 20, start=start)) for start in (500, 700))
    first_run(folder, train=rows, output="runs/v1", seeds=seeds, training={"epochs": 1})
    (folder / "runs/v1").rename(folder / "runs/old")
    tune(Recipe.make({"base": "runs/old", "add": new, "output": "runs/v2"}))
    inner = "seeds/0/" if seeds == 2 else ""
    before = {p: [place[1:] for place in held] for p, held in places(folder, f"runs/old/{inner}").items()}
    (folder / "runs").rename(folder / "moved")
    last = tune(Recipe.make({"base": str(folder / "moved/v2"), "add": newer, "output": "moved/v3"}))
    after = places(last.path.parent, last.path.name)
    assert {Path(place[0]).parts[-3] for part in after.values() for place in part} == {"old", "v2", "v3"}
    for part, held in before.items():
        assert [place[1:] for place in after[part] if "old/data" in place[0]] == held
    assert sum(map(len, after.values())) == 100


def test_new_labels_come_behind_the_old_ones(folder: Path) -> None:
    first_run(folder)
    result = grow(folder, "v1", table(folder / "new.csv", 60, start=500, third=True), "v2")
    assert result.exit_code == 0, result.output
    assert read(folder / "v2/tasks.json")["domain"]["labels"] == ["negative", "positive", "mixed"]
    growth = read(folder / "v2/scores.json")["growth"]
    assert growth["new"]["before"] is None
    assert growth["old"]["before"] is not None


def test_of_entities_new_types_are_told_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("distilbert", "token-classification")

    def entities(*types: str) -> TokenClassification:
        rows = [Row({"tokens": ["a", "b"], "tags": [f"B-{name}", f"I-{name}"]}, "x", n) for n, name in enumerate(types)]
        return TokenClassification.build(rows, base, TokenClassificationSettings(name="token-classification"))

    monkeypatch.setattr(growth, "RunFolder", SimpleNamespace(existing=Path))
    monkeypatch.setattr(growth, "saved_tasks", lambda run: {"domain": entities("PER")})
    notes: list[str] = []
    assert growth.extended(entities("LOC", "PER"), "run", notes).head().labels == (
        "O",
        "B-PER",
        "I-PER",
        "B-LOC",
        "I-LOC",
    )
    growth.extended(entities("PER", "ORG", "LOC"), "run", notes)
    growth.extended(entities("PER"), "run", notes)
    assert notes == [
        "1 entity type that the earlier run does not know: 'LOC'.",
        "2 entity types that the earlier run does not know: 'LOC', 'ORG'.",
    ]


def test_the_check_sees_the_parts_with_their_new_rows(folder: Path) -> None:
    """Not the files: rows that the earlier run left out of its parts are in none of them any more."""
    test = lines_of(folder, "test.csv", 30, start=200)
    test[:4] = [line.rsplit(",", 1)[0] + ",mixed" for line in test[:4]]
    (folder / "test.csv").write_text("\n".join(["text,label", *test]) + "\n")
    third = Path(table(folder / "given.csv", 60, third=True))
    third.write_text(third.read_text() + "\n".join(test[4:14]) + "\n")
    first_run(folder, train=str(third), test=str(folder / "test.csv"), training={"epochs": 1})
    assert {"leaks", "rare-in-test"} <= {f["name"] for f in read(folder / "v1/scores.json")["findings"]}
    new = Path(table(folder / "new.csv", 90, start=500, third=True))
    new.write_text(new.read_text().replace(",positive", ",Positive"))
    checked = check(Recipe.make({"base": str(folder / "v1"), "add": str(new), "output": str(folder / "v2")}))
    found = {finding.name: finding.message for finding in checked.findings}
    assert found["like-labels"] == "'positive' and 'Positive' are different labels."
    assert not found.keys() & {"leaks", "rare-in-test", "unseen-labels"}
    assert "1 label that the earlier run does not know: 'Positive'." in checked.notes


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
    assert grow(folder, "v1", new, "v2").exit_code == 0
    newer = table(folder / "newer.csv", 30, start=700)
    table(folder / "new.csv", 31, start=500)
    result = grow(folder, "v2", newer, "v3")
    assert isinstance(result.exception, DataError)
    assert "rows of add are not those" in str(result.exception)
    table(folder / "train.csv", 121)
    result = grow(folder, "v1", new, "v3")
    assert isinstance(result.exception, DataError)
    assert "rows of train are not those" in str(result.exception)
    assert not (folder / "v3/run.json").exists()


def places(folder: Path, run: str) -> dict[str, list[Any]]:
    parts = read(folder / run / "parts.json")
    return {name: [(file, *place) for file, held in files.items() for place in held] for name, files in parts.items()}


def test_rows_of_one_line_keep_their_parts(folder: Path) -> None:
    rows = [dict(zip(("text", "label"), line.rsplit(",", 1), strict=True)) for line in lines_of(folder, "some.csv", 60)]
    (folder / "train.json").write_text(json.dumps(rows))
    first_run(folder, train=str(folder / "train.json"))
    before = places(folder, "v1")
    assert len({place for part in before.values() for place in part}) == 60
    result = grow(folder, "v1", table(folder / "new.csv", 30, start=500), "v2")
    assert result.exit_code == 0, result.output
    after = places(folder, "v2")
    for part, held in before.items():
        assert after[part][: len(held)] == held
    texts = [row["input"] for row in map(json.loads, (folder / "v2/predictions/test.jsonl").read_text().splitlines())]
    assert texts[: len(before["test"])] == [rows[number]["text"] for _, _, number in before["test"]]


def lines_of(folder: Path, name: str, count: int, start: int = 0) -> list[str]:
    return Path(table(folder / name, count, start=start)).read_text().splitlines()[1:]


def test_rows_that_the_earlier_run_has_are_not_new(folder: Path) -> None:
    """The new file is a full export: every old row once more, and some new ones."""
    first_run(folder)
    old, new = lines_of(folder, "old.csv", 120), lines_of(folder, "more.csv", 30, start=500)
    (folder / "export.csv").write_text("\n".join(["text,label", *old, *new]) + "\n")
    result = grow(folder, "v1", str(folder / "export.csv"), "v2")
    assert result.exit_code == 0, result.output
    before, after = places(folder, "v1"), places(folder, "v2")
    for part, held in before.items():
        assert after[part][: len(held)] == held
        assert all(line > 121 for file, line, _ in after[part][len(held) :])
    assert sum(map(len, after.values())) == 150
    assert any("also stand in train; removed from add" in note for note in read(folder / "v2/scores.json")["notes"])


def test_new_rows_of_an_old_group_join_its_part(folder: Path) -> None:
    def grouped(name: str, count: int, start: int = 0) -> str:
        lines = [f"{line},p{number % 30}" for number, line in enumerate(lines_of(folder, name, count, start))]
        (folder / name).write_text("\n".join(["text,label,patient", *lines]) + "\n")
        return str(folder / name)

    data = {"fold_below": 10, "group_column": "patient"}
    first_run(folder, train=grouped("visits.csv", 120), data=data)
    result = grow(folder, "v1", grouped("new.csv", 60, start=500), "v2")
    assert result.exit_code == 0, result.output
    patients: dict[int, set[str]] = {}
    for part, held in places(folder, "v2").items():
        for _, line, _ in held:
            patients.setdefault((line - 2) % 30, set()).add(part)
    assert all(len(parts) == 1 for parts in patients.values())
    assert sum(map(len, places(folder, "v2").values())) == 180


def test_one_new_row_joins_train(folder: Path) -> None:
    first_run(folder)
    result = grow(folder, "v1", table(folder / "new.csv", 1, start=500), "v2")
    assert result.exit_code == 0, result.output
    before, after = places(folder, "v1"), places(folder, "v2")
    assert {name: len(after[name]) - len(before[name]) for name in after} == {"train": 1, "dev": 0, "test": 0}


def test_balanced_class_weights_grow_too(folder: Path) -> None:
    first_run(folder, task={"name": "text-classification", "class_weights": "balanced"})
    result = grow(folder, "v1", table(folder / "new.csv", 60, start=500, third=True), "v2")
    assert result.exit_code == 0, result.output
    weights = read(folder / "v2/tasks.json")["domain"]["weights"]
    assert len(weights) == 3
    assert weights[2] > max(weights[:2])  # the rare new one


def test_running_text_is_cut_as_before(tmp_path: Path) -> None:
    base = tiny_base("gpt2", "generation")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    for name, word in (("first", "a clean room"), ("second", "Überraschend, daß ...")):
        (tmp_path / f"{name}.txt").write_text("".join(f"{word} {number}.\n" for number in range(400)))
    first_run(
        tmp_path, task="generation", train=str(tmp_path / "first.txt"), training={"epochs": 1}, data={}, method="full"
    )
    result = grow(tmp_path, "v1", str(tmp_path / "second.txt"), "v2", "--set", "training.epochs=1")
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = places(tmp_path, "v1"), places(tmp_path, "v2")
    assert all(after[part][: len(held)] == held for part, held in before.items())


def test_a_prompt_of_many_rows_stays_one(tmp_path: Path) -> None:
    """Also where new rows of other prompts are so many that it is one of few rows now: else none of its new rows would count."""
    base = tiny_base("gpt2", "generation")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")

    def pairs(name: str, prompts: list[str], *, start: int) -> str:
        lines = [
            {"prompt": prompt, "completion": f"{'vwxyz'[n % 5] * 9} {n * 7919}"}
            for n, prompt in enumerate(prompts, start)
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
        return str(tmp_path / name)

    old = pairs("old.jsonl", ["Say it."] * 40, start=0)
    first_run(tmp_path, task="generation", train=old, training={"epochs": 1}, data={}, method="full")
    others = [f"{'klmnop'[n % 6] * 9} {n * 7907}" for n in range(700)]
    new = pairs("new.jsonl", [*["Say it."] * 20, *others], start=100)
    result = grow(tmp_path, "v1", new, "v2", "--set", "training.epochs=1")
    assert result.exit_code == 0, (result.output, result.exception)
    after = places(tmp_path, "v2")
    assert sum(map(len, after.values())) == 40 + 720
    growth = read(tmp_path / "v2/scores.json")["growth"]
    assert growth["new"]["change"]["value"] == pytest.approx(
        growth["new"]["before"]["value"] - growth["new"]["after"]["value"], abs=1e-9
    )


def test_new_rows_are_cut_with_the_seed_of_the_data(folder: Path) -> None:
    first_run(folder)
    new = table(folder / "new.csv", 60, start=500)
    for number, seed in enumerate((0, 7)):
        result = grow(folder, "v1", new, f"g{number}", "--set", "data.seed=3", "--set", f"seed={seed}")
        assert result.exit_code == 0, result.output
    assert read(folder / "g0/parts.json") == read(folder / "g1/parts.json")


def test_new_rows_almost_equal_to_old_ones_join_their_part(folder: Path) -> None:
    draw = random.Random(0)
    text = ["text,label"]
    for number in range(120):
        words = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(12)]
        text.append(f"{' '.join(words)},{('negative', 'positive')[number % 2]}")
    (folder / "words.csv").write_text("\n".join(text) + "\n")
    first_run(folder, train=str(folder / "words.csv"))
    before = read(folder / "v1/parts.json")
    lines, homes = ["text,label"], []
    for part in ("test", "dev", "train"):
        for line, _ in before[part][str(folder / "words.csv")][:5]:
            words, label = text[line - 1].rsplit(",", 1)
            lines.append(f"{words} now,{label}")
            homes.append(part)
    (folder / "like.csv").write_text("\n".join(lines) + "\n")
    result = grow(folder, "v1", str(folder / "like.csv"), "like")
    assert result.exit_code == 0, result.output
    after = read(folder / "like/parts.json")
    found = {line: part for part in after for line, _ in after[part].get(str(folder / "like.csv"), [])}
    assert [found[line] for line in range(2, len(lines) + 1)] == homes


def test_old_rows_that_were_given_as_a_part_are_not_said_to_have_been_cut(folder: Path) -> None:
    """All rows follow one pattern, which the two given parts share with train; only new rows are cut."""
    dev, test = (table(folder / f"{start}.csv", 30, start=start) for start in (200, 300))
    first_run(folder, dev=dev, test=test, training={"epochs": 1})

    def said(new: Path) -> list[str]:
        made = check(Recipe.make({"base": str(folder / "v1"), "add": str(new), "output": str(folder / "v2")}))
        return [note for note in made.notes if "too many rows follow one pattern" in note]

    table(folder / "new.csv", 60, start=500)
    counts = [int(note.split()[0]) for note in said(folder / "new.csv")]
    assert len(counts) == 2
    assert sum(counts) <= 60
    other = [f"{'xyz'[n % 3] * 9} {n * 7919} {n * 104729},{('negative', 'positive')[n % 2]}" for n in range(40)]
    (folder / "other.csv").write_text("\n".join(["text,label", *other]) + "\n")
    assert said(folder / "other.csv") == []


def test_a_cap_of_train_holds_for_old_and_new_rows_together(folder: Path) -> None:
    first_run(folder, data={"fold_below": 10, "max_train_rows": 20})
    result = grow(folder, "v1", table(folder / "new.csv", 60, start=500), "v2")
    assert result.exit_code == 0, result.output
    assert read(folder / "v2/scores.json")["rows"]["train"] == 20
    assert "train was capped at 20 rows (data.max_train_rows)" in " ".join(result.output.split())


@pytest.mark.parametrize("whole", [False, True], ids=["a file", "an archive"])
def test_files_may_have_other_paths(folder: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.chdir(folder)
    (folder / "then").mkdir()
    table(folder / "then/train.csv", 120)
    with zipfile.ZipFile(folder / "then/all.zip", "w") as archive:
        archive.write(folder / "then/train.csv", "train.csv")
    given = "all.zip" if whole else "train.csv"
    first_run(folder, train=f"./then/{given}", training={"epochs": 1})
    new, newer = (table(folder / f"{start}.csv", 30, start=start) for start in (500, 700))
    (folder / "then").rename(folder / "now")
    train = folder / "now" / given
    result = grow(folder, "v1", new, "v2", "--train", str(train))
    assert result.exit_code == 0, (result.output, result.exception)
    before, after = places(folder, "v1"), places(folder, "v2")
    for part, held in before.items():
        assert [place[1:] for place in after[part][: len(held)]] == [place[1:] for place in held]
        assert {place[0] for place in after[part][: len(held)]} == {str(train / "train.csv" if whole else train)}
    (folder / "500.csv").rename(folder / "now.csv")
    old = folder / "now.csv"
    result = grow(folder, "v2", newer, "v3", "--train", str(train), "--train", str(old))
    assert result.exit_code == 0, (result.output, result.exception)
    assert {part: [place[1:] for place in held] for part, held in after.items()} == {
        part: [place[1:] for place in held[: len(after[part])]] for part, held in places(folder, "v3").items()
    }
    old.write_text(old.read_text() + "a clean room,positive\n")
    result = grow(folder, "v2", newer, "v4", "--train", str(train), "--train", str(old))
    assert "the rows of add are not those" in str(result.exception)
