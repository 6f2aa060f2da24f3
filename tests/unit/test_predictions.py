"""Predictions of files and streams: columns kept, formats by name, whole files or none, bad rows named, nothing kept."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import shutil
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from small_runs import recipe, save_base, table
from tiny import TEXT, tiny_base
from typer.testing import CliRunner

from domaintune import Run, load, tune
from domaintune.cli import app
from domaintune.data.formats import read_rows, stream_part
from domaintune.data.rows import Row, Wanted
from domaintune.errors import DataError, RecipeError, RunError
from domaintune.finished import predictions
from domaintune.finished.evaluate import evaluate
from domaintune.finished.predictions import line_total, predict_file
from domaintune.finished.tables import Table
from domaintune.recipe import Recipe
from domaintune.tasks.bare_texts import given_rows, with_input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("predictions")
    save_base(made)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return tune(recipe(folder))


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Run:
    base = tiny_base("bert", "token-classification")
    base.model.save_pretrained(folder / "tags")
    base.processor.save_pretrained(folder / "tags")
    rows = []
    for text in TEXT * 3:
        tokens = text.split()
        rows.append({"tokens": tokens, "tags": ["B-PER", "I-PER", *["O"] * (len(tokens) - 3), "B-LOC"]})
    values: dict[str, Any] = {
        "task": "token-classification",
        "base": str(folder / "tags"),
        "output": str(folder / "runs/tagger"),
        "data": {"keep_leaks": True},
    }
    parts = {"train": rows, "dev": rows, "test": rows, "general": None}
    return tune(recipe(folder, **values, **parts, training={"epochs": 3, "learning_rate": 0.01}))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_columns_are_kept_and_chunks_change_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = table(folder / "new.csv", 30, start=900)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 7)
    predict_file(run, data, output=folder / "o.jsonl", strength=0.5, told=lambda *done: told.append(done))
    made = lines(folder / "o.jsonl")
    with open(data, encoding="utf-8") as stream:
        given = list(csv.DictReader(stream))
    assert [{name: row[name] for name in ("text", "label")} for row in made] == given
    expected = run.predict([row["text"] for row in given], strength=0.5)
    assert [row["predicted_label"] for row in made] == [e["label"] for e in expected]
    assert [row["probability"] for row in made] == pytest.approx(
        [e["probability"] for e in expected], abs=1e-5
    )  # other batches, float32
    assert told == [(7, 8), (14, 15), (21, 22), (28, 29), (30, 31)]
    assert line_total(data) == 31


def test_a_table_stays_a_table(run: Run, folder: Path) -> None:
    data = folder / "quoted.csv"
    data.write_text('id,text\n1,"a clean, ""warm"" room"\n2,"two\nlines"\n', encoding="utf-8")
    for suffix, separator in ((".csv", ","), (".TSV", "\t")):
        output = folder / f"out{suffix}"
        predict_file(run, str(data), output=output)
        with output.open(encoding="utf-8", newline="") as stream:
            made = list(csv.DictReader(stream, delimiter=separator))
        assert list(made[0]) == ["id", "text", "label", "probability"]
        assert [row["text"] for row in made] == ['a clean, "warm" room', "two\nlines"]
        assert float(made[0]["probability"]) > 0


def test_a_table_with_lone_carriage_returns_can_be_read_again(run: Run, folder: Path) -> None:
    data = folder / "old_mac.jsonl"
    rows = [{"text": "a room"}, {"text": "two\rlines"}, {"text": "one more"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(run, str(data), output=folder / "old_mac.csv")
    made = list(stream_part(str(folder / "old_mac.csv"), Wanted("text-classification")))
    assert [entry.values["text"] for entry in made] == [row["text"] for row in rows]  # type: ignore[union-attr]


class DataFrame:
    """What is asked of pandas' class, by name."""

    columns = ("text", "label")

    def __iter__(self) -> Any:
        return iter(self.columns)

    def itertuples(self, *, index: bool, name: None) -> list[tuple[object, ...]]:
        return [("a clean room", float("nan")), ("a cold soup", 1)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_odd_cells_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    values = {"a\tname\r": "first\tcell\nsecond line", "b": '"\t\r\n"', "label": "x", "c": "", "d": '"so,"\the\nsaid'}
    plain = {**dict.fromkeys(values, "plain"), "label": '"quoted" y'}
    with (tmp_path / f"a{suffix}").open("w", encoding="utf-8", newline="") as stream:
        Table(stream, predictions.TABLES[suffix], []).write([(Row({}, "x", 1), row) for row in (values, plain, values)])
    assert [row.values for row in read_rows(str(tmp_path / f"a{suffix}"))] == [values, plain, values]


def test_rows_in_memory_are_predicted_like_those_to_train_on(run: Run) -> None:
    texts = ["a clean room", "a cold soup"]
    expected = run.predict(texts)
    dataset = type(
        "Dataset",
        (),
        {
            "__module__": "datasets.arrow_dataset",
            "__iter__": lambda self: iter([{"text": text} for text in texts]),
            "features": type("Features", (), {"to_dict": lambda self: {"text": {"_type": "Value"}}})(),
        },
    )()
    for inputs in (
        DataFrame(),
        dataset,
        [{"text": text} for text in texts],
        iter(texts),
        [texts[0], {"text": texts[1]}],
    ):
        assert run.predict(inputs) == expected  # type: ignore[arg-type]


def test_pictures_in_memory_are_predicted(folder: Path) -> None:
    base = tiny_base("vit", "image-classification")
    base.model.save_pretrained(folder / "vit")
    base.processor.save_pretrained(folder / "vit")
    rows = [
        {"image": Image.new("RGB", (32, 32), (40 * number % 255, 90, 5 * number)), "label": "ab"[number % 2]}
        for number in range(24)
    ]
    parts = {"train": rows[:12], "dev": rows[12:18], "test": rows[18:], "general": None}
    values = {"task": "image-classification", "base": str(folder / "vit"), "output": str(folder / "runs/pictures")}
    made = tune(recipe(folder, **values, **parts, data={"keep_leaks": True}))
    rows[0]["image"].save(folder / "one.png")
    (answer,) = made.predict([rows[0]])
    assert [answer] == made.predict([str(folder / "one.png")]) == made.predict([folder / "one.png"])  # type: ignore[list-item]


def test_pictures_that_cannot_be_read_have_empty_answers(folder: Path, tmp_path: Path) -> None:
    made = load(folder / "runs/pictures")
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (32, 32), (90, 5, 5)).save(place / name)
    (place / "b.png").write_bytes((place / "a.png").read_bytes()[:40])
    (told,) = predict_file(made, str(place), output=tmp_path / "o.jsonl")
    assert told.startswith(f"1 picture cannot be read (first: {place}:2: '{place / 'b.png'}' cannot be used")
    answers = lines(tmp_path / "o.jsonl")
    assert [row["label"] is None for row in answers] == [False, True, False]
    assert answers[1]["probability"] is None
    for name in ("a.png", "c.png"):
        (place / name).unlink()
    with pytest.raises(DataError, match=r"b\.png"):
        predict_file(made, str(place), output=tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_pictures_of_columns_and_labels_under_other_names(folder: Path, tmp_path: Path) -> None:
    base = tiny_base("vit", "image-classification")
    base.model.save_pretrained(tmp_path / "vit")
    base.processor.save_pretrained(tmp_path / "vit")
    cells = ["photo,breed"]
    for number, breed in enumerate(["husky", "beagle", "tabby", "siamese"] * 3):
        Image.new("RGB", (32, 32), (20 * number, 90, 5 * number)).save(tmp_path / f"{number}.png")
        cells.append(f"{number}.png,{breed}")
    data = tmp_path / "t.csv"
    data.write_text("\n".join(cells), encoding="utf-8")
    task = {"name": "image-classification", "image_column": "photo", "label_column": "breed"}
    names = {"husky": "dog", "beagle": "dog", "tabby": "cat", "siamese": "cat"}
    made = tune(
        recipe(
            folder,
            task=task,
            base=str(tmp_path / "vit"),
            output=str(tmp_path / "run"),
            **dict.fromkeys(("train", "dev", "test"), str(data)),
            general=None,
            data={"keep_leaks": True, "label_map": names},
        )
    )
    assert made.task.head().labels == ("cat", "dog")
    assert evaluate(made, str(data)).side.rows == 12
    for given in (data, tmp_path / "0.png"):
        predict_file(made, str(given), output=tmp_path / "o.jsonl")
        key = "predicted_label" if given == data else "label"  # the table has labels of its own
        assert {row[key] for row in lines(tmp_path / "o.jsonl")} <= {"cat", "dog"}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("a room", r'one text, not a list of them. Write predict\(\["..."\]\)'),
        (b"a room", "one text"),
        (Path("a.png"), "one text"),
        ({"text": "a clean room", "label": "x"}, r"one row, not a list of them. Write predict\(\[row\]\)"),
        (7, "predict: got int"),
        (["a room", 3], r"input:2: got int. Give a text, a path, or a row"),
        ([("a room",)], r"input:1: got tuple"),
        (["a room", None], r"input:2: got NoneType"),
        (["a room", "a \ud83d"], r"input:2: holds half of a surrogate pair"),
        ([{"text": "a \ud83d"}], r"input:1: holds half of a surrogate pair"),
        ([{"text": 3}], r"input:1: 'text' must be text"),
        ([{"review": "a"}], r"input:1: no column 'text'"),
    ],
)
def test_inputs_that_are_none_are_named(run: Run, inputs: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        run.predict(inputs)


def test_the_encoding_is_that_of_the_file_not_of_the_training(folder: Path) -> None:
    train = folder / "latin.csv"
    table(train, 40)
    train.write_text(train.read_text().replace("room", "café"), encoding="latin-1")
    made = tune(
        recipe(folder, train=str(train), output=str(folder / "runs/latin"), data={"encoding": "latin-1"}, general=None)
    )
    texts = ["a clean café", "kühles Bier"]
    for name, encoding, asked in (
        ("a", "utf-8", None),
        ("b", "utf-8-sig", "latin-1"),
        ("c", "latin-1", "ISO_8859-1"),
        ("d", "utf-16-le", "UTF-16LE"),
    ):
        data = folder / f"{name}.csv"
        data.write_text("\n".join(["text", *texts]) + "\n", encoding=encoding)
        predict_file(made, str(data), output=folder / f"{name}.jsonl", encoding=asked)
        assert [row["text"] for row in lines(folder / f"{name}.jsonl")] == texts
    with pytest.raises(DataError, match=r"'ansi' is no known encoding"):
        predict_file(made, str(folder / "a.csv"), output=None, encoding="ansi")


def test_no_column_of_the_users_is_lost(run: Run, folder: Path) -> None:
    data = folder / "twice.csv"
    data.write_text("text,label,predicted_label\na room,mine,too\n", encoding="utf-8")
    predict_file(run, str(data), output=folder / "twice.jsonl")
    (made,) = lines(folder / "twice.jsonl")
    assert (made["label"], made["predicted_label"]) == ("mine", "too")
    assert made["predicted_predicted_label"] in ("negative", "positive")


def test_uneven_rows_of_a_file_make_a_table(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder / "uneven.jsonl"
    data.write_text('{"text": "a clean room"}\n{"text": "a room", "id": 3}\n', encoding="utf-8")
    predict_file(run, str(data), output=folder / "together.csv")
    assert (folder / "together.csv").read_text().startswith("text,label,probability,id\n")
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 1)
    predict_file(run, str(data), output=folder / "uneven.csv")
    header, first, second = (folder / "uneven.csv").read_text().splitlines()
    assert header == "text,label,probability,id"
    assert (first[-1], second[-2:]) == (",", ",3")
    predict_file(run, str(data), output=folder / "even.jsonl")
    assert lines(folder / "even.jsonl")[1]["id"] == 3


def test_a_failed_prediction_leaves_what_was_there(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 4)
    data, output = folder / "bad.csv", folder / "results" / "bad.jsonl"
    data.write_text("text,id\n" + "a room,1\n" * 9 + "a room\na room,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad.csv:11: 1 cells"):
        predict_file(run, str(data), output=output)
    assert not output.parent.exists()
    output.parent.mkdir()
    output.write_text("before")
    with pytest.raises(DataError, match=r"bad.csv:11"):
        predict_file(run, str(data), output=output)
    assert output.read_text() == "before"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(run, table(folder / "fine.csv", 9), output=output, told=killed)
    assert [path.name for path in output.parent.iterdir()] == ["bad.jsonl"]
    assert output.read_text() == "before"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "review\nfine\n", r"a.csv:2: no column 'text' \(columns: review\). The run reads the columns"),
        ("b.csv", "text\n", r"no rows"),
        ("c.jsonl", '{"text": "a"}\n{"text": 3}\n', r"c.jsonl:2: 'text' must be text"),
        ("d.jsonl", '{"text": "a"}\nnot json\n', r"d.jsonl:2: not valid JSON"),
        ("e.csv", "text,id\na,1\nb\n", r"e.csv:3: 1 cells"),
    ],
)
def test_bad_rows_are_named(run: Run, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        predict_file(run, str(tmp_path / name), output=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_blank_rows_get_empty_answers(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 2)
    texts = [" ", "", "a clean room", "a cold soup", "", "warm bread"]
    data = folder / "blank.csv"
    data.write_text("id,text\n" + "".join(f'{number},"{text}"\n' for number, text in enumerate(texts)))
    (note,) = predict_file(run, str(data), output=folder / "blank.out.jsonl")
    assert note == f"3 rows are blank (first: {data}:2): their answers are empty."
    expected = iter(run.predict([text for text in texts if text.strip()]))
    for number, (text, made) in enumerate(zip(texts, lines(folder / "blank.out.jsonl"), strict=True)):
        answer = next(expected) if text.strip() else {"label": None, "probability": None}
        assert made["label"] == answer["label"]
        assert list(made) == ["id", "text", "label", "probability"]
        assert (made["id"], made["text"]) == (str(number), text)
    predict_file(run, str(data), output=folder / "blank.out.csv")
    assert (folder / "blank.out.csv").read_text().splitlines()[1] == "0, ,,"
    rows = [{"text": None}, {"text": "a clean room", "label": "mine"}]
    (folder / "null.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert predict_file(run, str(folder / "null.jsonl"), output=folder / "null.out.jsonl")
    assert lines(folder / "null.out.jsonl")[0] == {"text": None, "predicted_label": None, "probability": None}
    (folder / "blank.txt").write_text("\n".join([*texts, ""]))
    (note,) = predict_file(run, str(folder / "blank.txt"), output=folder / "blank.out.jsonl")
    assert note == f"3 rows are blank (first: {folder / 'blank.txt'}:1): their answers are empty."
    assert [made["text"] for made in lines(folder / "blank.out.jsonl")] == texts
    assert [made["label"] is None for made in lines(folder / "blank.out.jsonl")] == [not text.strip() for text in texts]
    assert [row.line for row in read_rows(str(folder / "blank.txt"), Wanted("text-classification"))] == [3, 4, 6]
    with pytest.raises(DataError, match="'text' is empty"):
        run.predict(["a room", " "])


@pytest.mark.parametrize(
    ("task", "family", "row", "asked", "answer"),
    [
        ("translation", "marian", {"source": "a room", "target": "ein Raum"}, "source", "translation"),
        ("generation", "gpt2", {"prompt": "a room", "completion": " is clean"}, "prompt", "output"),
    ],
)
def test_blank_texts_of_tasks_that_write_get_none(
    tmp_path: Path, task: str, family: str, row: dict[str, str], asked: str, answer: str
) -> None:
    base = tiny_base(family, task)
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    rows = [{name: f"{value} {number}" for name, value in row.items()} for number in range(8)]
    parts = {"train": rows, "dev": rows[:4], "test": rows[4:], "general": None, "data": {"keep_leaks": True}}
    settings = {
        "name": task,
        **({"num_beams": 1, "max_target_length": 8} if task == "translation" else {"max_new_tokens": 4}),
    }
    made = tune(recipe(tmp_path, task=settings, training={"epochs": 1}, **parts))
    for name in (asked, "text"):
        (tmp_path / "in.csv").write_text(f'id,{name}\n1,a room\n2," "\n')
        note, *_ = predict_file(made, str(tmp_path / "in.csv"), output=tmp_path / "out.jsonl")
        assert note.startswith("1 row is blank (first: ")
        first, second = lines(tmp_path / "out.jsonl")
        assert isinstance(first[answer], str)
        assert (second["id"], second[name], second[answer]) == ("2", " ", None)
    given: list[dict[str, Any]] = [{"text": "a room", "id": 1}]
    if task == "translation":
        given += [
            {"translation": {"en": "a room", "de": "ein Raum"}},
            {"translation": {"de": "ein Raum", "en": "a room"}},
        ]
    assert made.predict(["a room", *given]) == made.predict(["a room"] * (1 + len(given)))


def test_bad_outputs_and_strengths_are_refused(run: Run, folder: Path) -> None:
    with pytest.raises(DataError, match=r"unknown format '.xlsx'. Allowed are .jsonl"):
        predict_file(run, "-", output=folder / "x.xlsx")
    (folder / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        predict_file(run, "-", output=folder / "folder.csv")
    with pytest.raises(RunError, match="strength"):
        predict_file(run, table(folder / "new.csv", 4), output=folder / "x.csv", strength=-0.1)


class Slow(io.BytesIO):
    """Gives what one `write` of the other side gave, and says how much had been answered by then."""

    def __init__(self, blocks: list[bytes], answered: io.StringIO) -> None:
        super().__init__()
        self.blocks, self.answered, self.seen = blocks, answered, []

    def read1(self, size: int | None = -1, /) -> bytes:
        self.seen.append(self.answered.getvalue().count("\n"))
        return self.blocks.pop(0) if self.blocks else b""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_of_another_machine_works_here(run: Run, tmp_path: Path) -> None:
    """As one that was made with `device: cuda`."""
    moved = tmp_path / "moved"
    shutil.copytree(run.path, moved)
    resolved = json.loads((moved / "resolved.json").read_text())
    (moved / "resolved.json").write_text(json.dumps({**resolved, "device": "cuda"}))
    with pytest.raises(RecipeError, match="--device"):
        load(moved)
    texts = ["a cold soup", "a warm bread"]
    assert load(moved, device="cpu").predict(texts) == run.predict(texts)
    (tmp_path / "in.csv").write_text("text,label\na cold soup,negative\na warm bread,positive\n")
    for command in ("predict", "evaluate"):
        told = CliRunner().invoke(app, [command, str(moved), str(tmp_path / "in.csv")])
        assert isinstance(told.exception, RecipeError)
        told = CliRunner().invoke(app, [command, str(moved), str(tmp_path / "in.csv"), "--device", "cpu"])
        assert told.exit_code == 0, told.output


def test_standard_input_is_answered_while_it_comes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = io.StringIO()
    blocks = [b"a clean room\r\n\nein fau", "ler Hund 服".encode()[:-1], "服".encode()[-1:] + b"\nlast"]
    stream = Slow(blocks, answered)
    monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": stream}))
    monkeypatch.setattr(sys, "stdout", answered)
    predict_file(run, "-", output=None)
    made = [json.loads(line) for line in answered.getvalue().splitlines()]
    assert [row["text"] for row in made] == ["a clean room", "ein fauler Hund 服", "last"]
    assert stream.seen == [0, 1, 1, 2]
    assert [row["label"] for row in made] == [e["label"] for e in run.predict([row["text"] for row in made])]
    monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": Slow([b"fine\nbad \xff\n"], answered)}))
    with pytest.raises(DataError, match=r"standard input:2: is not UTF-8"):
        predict_file(run, "-", output=None)


def test_entities_say_where_in_the_text_they_stand(tagger: Run, tmp_path: Path) -> None:
    texts = ["Angela  Merkel visited Paris.", "der Hund, 服务很好"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict_file(tagger, str(tmp_path / "texts.jsonl"), output=tmp_path / "out.jsonl")
    made = lines(tmp_path / "out.jsonl")
    assert [row["text"] for row in made] == texts
    found = [(row["text"], entity) for row in made for entity in row["entities"]]
    assert found, "the tagger marks something"
    for text, entity in found:
        assert text[entity["start_character"] : entity["end_character"]] == entity["text"]
    assert any("  " in entity["text"] for _, entity in found)
    from_python = tagger.predict(texts)
    assert from_python == [{k: v for k, v in row.items() if k != "text"} for row in made]
    assert all(len(row["tokens"]) == len(row["tags"]) for row in from_python)
    (of_row,) = tagger.predict([{"text": texts[0], "tokens": from_python[0]["tokens"], "id": ["7"]}])
    assert set(of_row) == {"tags", "entities"}
    places = [(e["start_character"], e["end_character"]) for e in from_python[0]["entities"]]
    assert [(e["start_character"], e["end_character"]) for e in of_row["entities"]] == places
    rows = [{"tokens": text.split(), "tags": ["x"] * 3} for text in texts]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(tagger, str(tmp_path / "words.jsonl"), output=tmp_path / "words_out.jsonl")
    for row, given in zip(lines(tmp_path / "words_out.jsonl"), rows, strict=True):
        assert row["tags"] == given["tags"]  # the user's, of whatever kind
        assert len(row["predicted_tags"]) == len(given["tokens"])


@pytest.mark.parametrize("shape", ["doccano", "prodigy", "label-studio", "tsv", "txt"])
def test_what_is_marked_in_texts_does_not_help_the_tagger(tagger: Run, tmp_path: Path, shape: str) -> None:
    """The answers are those of the bare texts, even where what is marked lies outside of them; the marks stay as they are."""
    texts = ["Angela Merkel visited Paris.", "Max saw Berlin"]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    predict_file(tagger, str(bare), output=tmp_path / "expected.jsonl")
    expected = [row["entities"] for row in lines(tmp_path / "expected.jsonl")]
    marks: list[Any] = [[0, 3, "PER"], [70, 90, "LOC"]]
    rows = {
        "doccano": [{"text": text, "entities": marks} for text in texts],
        "prodigy": [
            {"text": text, "spans": [{"start": 1, "end": 4, "label": "PER"}], "answer": "reject"} for text in texts
        ],
        "label-studio": [{"data": {"text": text}, "annotations": [], "id": 7} for text in texts],
    }
    if shape in rows:
        data = tmp_path / "marked.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[shape]))
    else:
        data = tmp_path / f"texts.{shape}"
        data.write_text(
            "\n".join([*(["id\ttext"] if shape == "tsv" else []), *(f"1\t{t}" if shape == "tsv" else t for t in texts)])
        )
    predict_file(tagger, str(data), output=tmp_path / "out.jsonl")
    made = lines(tmp_path / "out.jsonl")
    assert [row["text"] for row in made] == texts
    assert [row.get("predicted_entities", row.get("entities")) for row in made] == expected
    for row, given in zip(made, rows.get(shape, [{}, {}]), strict=True):
        assert row.items() >= given.items()


def test_words_and_tags_in_columns_are_read_as_such(tagger: Run, tmp_path: Path) -> None:
    for name in ("words.tsv", "words.txt"):
        (tmp_path / name).write_text("Angela\tB-PER\nslept\tO\n\nMax\tB-PER\nsaw\tO\nBerlin\tB-LOC\n")
        predict_file(tagger, str(tmp_path / name), output=tmp_path / "out.jsonl")
        assert [row["tokens"] for row in lines(tmp_path / "out.jsonl")] == [
            ["Angela", "slept"],
            ["Max", "saw", "Berlin"],
        ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tags"])
def test_reading_keeps_nothing(tmp_path: Path, kind: str) -> None:
    count, path = 40_000, tmp_path / f"large.{'csv' if kind == 'csv' else 'jsonl'}"
    with path.open("w", encoding="utf-8") as stream:
        stream.write("text,note\n" if kind == "csv" else "")
        for number in range(count):
            values: dict[str, Any] = {"text": f"room {number}", "note": "x" * 200}
            values |= {"tokens": ["a", "b"], "tags": ["O", "B-X"]} if kind == "tags" else {}
            line = ",".join(values.values()) if kind == "csv" else json.dumps(values)
            stream.write(line + "\n")
    wanted = Wanted("token-classification" if kind == "tags" else "text-classification", inputs=True)
    tracemalloc.start()
    assert sum(1 for _ in stream_part(str(path), wanted)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000 < path.stat().st_size  # a block of 1 MB as text, its lines, and little else


def test_an_answer_has_one_name_throughout_a_file(run: Run, folder: Path) -> None:
    """Where some rows have a column of its name, and the first has not."""
    data = folder / "uneven.jsonl"
    rows = [{"text": "a clean room"}, {"text": "a cold soup", "label": "mine"}, {"text": "warm bread"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_file(run, str(data), output=folder / "uneven.out.jsonl")
    assert [row.get("label") for row in lines(folder / "uneven.out.jsonl")] == [None, "mine", None]
    assert all("predicted_label" in row for row in lines(folder / "uneven.out.jsonl"))
    predict_file(run, str(data), output=folder / "uneven.out.csv")
    with (folder / "uneven.out.csv").open(encoding="utf-8", newline="") as stream:
        made = list(csv.DictReader(stream))
    assert [row["label"] for row in made] == ["", "mine", ""]
    assert all(row["predicted_label"] for row in made)


def test_an_answer_has_one_name_however_late_a_column_comes(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "CHUNK_ROWS", 2)
    data = folder / "late.jsonl"
    rows = [{"text": f"a room on day {n}", **({"label": "mine"} if n == 5 else {})} for n in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for suffix in ("jsonl", "csv"):
        predict_file(run, str(data), output=folder / f"late.out.{suffix}")
    made = lines(folder / "late.out.jsonl")
    assert [row.get("label") for row in made] == [None] * 5 + ["mine"]
    assert all(row["predicted_label"] in ("negative", "positive") for row in made)
    with (folder / "late.out.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["predicted_label"] for row in csv.DictReader(stream)] == [row["predicted_label"] for row in made]

    def growing(rows: int, line: int) -> None:
        with data.open("a") as stream:
            stream.write('{"text": "a room", "new": 1}\n')

    with pytest.raises(DataError, match=r"late.jsonl:7: the row has a column 'new', which was not there"):
        predict_file(run, str(data), output=folder / "late.grown.jsonl", told=growing)
    assert not (folder / "late.grown.jsonl").exists()


def test_what_json_does_not_hold_is_written_as_json(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({"text": ["a room"], "number": [math.nan], "list": [[math.inf, 1.5]], "bytes": [b"\xff"]})
    pyarrow.parquet.write_table(table, folder / "odd.parquet")
    for suffix in ("jsonl", "csv"):
        predict_file(run, str(folder / "odd.parquet"), output=folder / f"odd.{suffix}")
    (made,) = lines(folder / "odd.jsonl")
    assert (made["number"], made["list"], made["bytes"]) == (None, [None, 1.5], "/w==")
    assert (folder / "odd.csv").read_text().splitlines()[1].startswith('a room,,"[null, 1.5]",/w==,')
    monkeypatch.setenv("HOME", str(folder))
    predict_file(run, str(folder / "odd.parquet"), output=Path("~/at_home.jsonl"))
    assert lines(folder / "at_home.jsonl") == [made]


@pytest.mark.parametrize(
    ("first", "column"),
    [
        ('{"text": "a room", "id": 1}', "text"),
        ('id;"text"', "text"),
        ("text", "text"),
        ('{"id": 1}', None),
        ("a text, and more text", None),
        ('["text"]', None),
    ],
)
def test_a_table_on_standard_input_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, folder: Path, first: str, column: str | None
) -> None:
    content = f"\n{first}\na clean room\ntext\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    notes = predict_file(run, "-", output=folder / "piped.jsonl")
    assert [row["text"] for row in lines(folder / "piped.jsonl")] == [first, "a clean room", "text"]
    told = [f"the first line of standard input looks like that of a table with a column '{column}'"] if column else []
    assert [note.partition(":")[0] for note in notes] == told


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n"])
def test_standard_input_without_a_row_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(DataError, match=r"standard input: the file is empty\. Give at least one line of text"):
        predict_file(run, "-", output=tmp_path / "o.csv")
    assert not list(tmp_path.iterdir())


def test_standard_input_in_another_encoding(run: Run, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ein Café\n".encode("latin-1"))))
    predict_file(run, "-", output=folder / "latin.out.jsonl", encoding="latin-1")
    assert lines(folder / "latin.out.jsonl")[0]["text"] == "ein Café"
    for encoding in (None, "utf-8", "UTF8"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ein Café\n".encode("utf-8-sig"))))
        predict_file(run, "-", output=folder / "marked.out.jsonl", encoding=encoding)
        assert lines(folder / "marked.out.jsonl")[0]["text"] == "ein Café"
    for encoding, message in ((None, "is not UTF-8"), ("utf-16", "is not utf-16"), ("latin-99", "no known encoding")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ein Café\n".encode("latin-1"))))
        with pytest.raises(DataError, match=message):
            predict_file(run, "-", output=folder / "latin.out.jsonl", encoding=encoding)


def test_texts_of_any_name_are_cut_and_other_columns_pass(tagger: Run, tmp_path: Path) -> None:
    text = TEXT[0]
    words = [{"text": word, "start": 0, "end": len(word)} for word in text.split()[:1]]
    cells = {
        "a.jsonl": json.dumps({"data": text}) + "\n",
        "c.jsonl": json.dumps({"text": text, "tokens": words, "spans": [], "answer": "accept"}) + "\n",
        "d.jsonl": json.dumps({"text": text}) + "\n" + json.dumps({"tokens": text.split()}) + "\n",
        "b.csv": f"text,entities,label\n{text},['Paris'],\n",
    }
    for name, content in cells.items():
        (tmp_path / name).write_text(content)
        predict_file(tagger, str(tmp_path / name), output=tmp_path / "out.jsonl")
        row, *others = lines(tmp_path / "out.jsonl")
        assert len(others) == (name == "d.jsonl")
        found = row["predicted_entities" if name == "b.csv" else "entities"]
        assert found
        assert all(text[e["start_character"] : e["end_character"]] == e["text"] for e in found)
        if name == "b.csv":
            assert (row["entities"], row["label"]) == ("['Paris']", "")


def test_a_column_of_texts_asks_a_chat_where_chats_were_learned() -> None:
    wanted = Wanted("generation")
    for made, learned in (({"messages": [{"role": "user", "content": "hi"}]}, "chats"), ({"prompt": "hi"}, "pairs")):
        task: Any = SimpleNamespace(from_bare=lambda text, made=made: made)
        row = with_input(task, wanted, Row({"text": "hi", "id": 1}, "x", 1))
        assert row.values == {"text": "hi", "id": 1, **(made if learned == "chats" else {})}
        asked = Row({"prompt": "a", "text": "b"}, "x", 1)
        assert with_input(task, wanted, asked) is asked


def test_cells_of_dates_and_decimals_are_their_text() -> None:
    stream = io.StringIO()
    values = {
        "day": datetime.date(2024, 1, 2),
        "price": Decimal("1.10"),
        "n": 3,
        "sure": True,
        "list": ["a"],
        "none": None,
    }
    Table(stream, ",", []).write([(Row(values, "x", 1), values)])
    assert stream.getvalue().splitlines()[1] == '2024-01-02,1.10,3,true,"[""a""]",'


def test_rows_of_texts_with_entities_are_predicted_from_python(tagger: Run) -> None:
    text = TEXT[0]
    (expected,) = tagger.predict([text])
    words = [{"text": word, "start": 0, "end": len(word)} for word in text.split()[:1]]
    given: list[Any] = [
        {"text": text, "entities": [[0, 2, "PER"]]},
        text,
        {"text": text},
        {"data": text},
        {"text": text, "spans": [], "tokens": words, "answer": "accept"},
        {"data": {"text": text}, "annotations": [{"result": []}]},
    ]
    assert tagger.predict(given) == [expected] * len(given)
    (own,) = tagger.predict([{"tokens": text.split()}])
    assert list(own) == [name for name in expected if name != "tokens"]
    with pytest.raises(DataError, match=r"input:2: cannot be answered \(no words\)"):
        tagger.predict([text, {"text": " "}])
    with pytest.raises(DataError, match=r"input:2: no column 'tokens'"):
        tagger.predict([text, {"sentence": text}])


def test_rows_of_chats_are_shaped_from_python_as_from_files() -> None:
    made = Recipe.make({"task": "generation", "base": "minilm", "output": "run", "train": "chats.jsonl"})
    task: Any = SimpleNamespace(from_bare=lambda text: {"prompt": text})
    asked = [{"role": "user", "content": "hi"}]
    given: list[Any] = [
        {"instruction": "hi", "input": "", "output": "ho"},
        "hi",
        {"conversations": [{"from": "human", "value": "hi"}]},
        {"instruction": "hi", "input": "", "output": None},
        {"messages": asked},
    ]
    rows = given_rows(task, made, given)
    assert [row.line for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0].values["messages"] == [*asked, {"role": "assistant", "content": "ho"}]
    assert rows[1].values == {"prompt": "hi"}
    assert all(row.values["messages"] == asked for row in rows[2:])
    with pytest.raises(DataError, match=r"input:1: cannot be answered \(empty chats\)"):
        given_rows(task, made, [{"messages": []}])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 1, 2, 0)])
def test_blank_and_null_texts_for_entities_are_left_out(tagger: Run, tmp_path: Path, order: tuple[int, ...]) -> None:
    text = TEXT[0]
    given = [{"text": text}, {"text": ""}, {"text": None}, {"tokens": text.split()}]
    data = tmp_path / "in.jsonl"
    data.write_text("".join(json.dumps(given[place]) + "\n" for place in order))
    (note,) = predict_file(tagger, str(data), output=tmp_path / "out.jsonl")
    first = min(order.index(1), order.index(2)) + 1
    assert note == f"2 entries left out: no words (first: {data}:{first})."
    assert [row.get("text") for row in lines(tmp_path / "out.jsonl")] == [
        given[place].get("text") for place in order if place in (0, 3)
    ]
    (tmp_path / "in.txt").write_text(f"\n{text}\n \n{text}\n")
    (note,) = predict_file(tagger, str(tmp_path / "in.txt"), output=tmp_path / "out.jsonl")
    assert note == f"2 entries left out: no words (first: {tmp_path / 'in.txt'}:1)."
    assert len(lines(tmp_path / "out.jsonl")) == 2
    data.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"sentence": text}) + "\n")
    with pytest.raises(DataError, match=r"in.jsonl:2: no column 'tokens' \(columns: sentence\)"):
        predict_file(tagger, str(data), output=tmp_path / "out.jsonl")


def test_an_output_never_replaces_its_input(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    data = tmp_path / "rows/new.csv"
    table(data, 4, start=900)
    (tmp_path / "link.csv").symlink_to(data)
    before = data.read_bytes()
    own = [(data, data), (data, tmp_path / "rows/../rows/new.csv"), (data, tmp_path / "link.csv")]
    own += [
        (tmp_path / "link.csv", data),
        (tmp_path / "rows", tmp_path / "rows/a.csv"),
        (tmp_path / "rows/*.csv", data),
    ]
    for given, output in own:
        with pytest.raises(DataError, match=r"what is to be predicted\. Give another name"):
            predict_file(run, str(given), output=output)
        result = CliRunner().invoke(app, ["predict", str(run.path), str(given), "--output", str(output)])
        assert isinstance(result.exception, DataError)
    assert data.read_bytes() == before
    predict_file(run, str(data), output=tmp_path / "rows/answers.csv")
    assert len((tmp_path / "rows/answers.csv").read_text(encoding="utf-8").splitlines()) == 5
