"""Rows from Python: stored in the run, so that it can be made again; labels under other names and some of them alone."""

from __future__ import annotations

import datetime
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domaintune.checks.pictures import picture_findings
from domaintune.checks.shared import inseparable
from domaintune.data import formats
from domaintune.data.columns import wanted_of
from domaintune.data.formats import read_rows
from domaintune.data.labels import only, renamed, require_labels
from domaintune.data.rows import Row, Wanted
from domaintune.data.span_shapes import accepted
from domaintune.data.splits import together
from domaintune.errors import DataError
from domaintune.memory import given_inputs
from domaintune.recipe import Recipe
from domaintune.tasks.base import Keys
from domaintune.tasks.text_classification import TextClassification


class DataFrame:
    """What is asked of pandas' class, by name."""

    columns = ("text", "label")

    def itertuples(self, *, index: bool, name: None) -> list[tuple[object, ...]]:
        assert not index
        return [("a", np.int64(1)), ("None", np.int64(0))]


CLASSES = {"names": ["neg", "pos"], "_type": "ClassLabel"}


def of_library(module: str, name: str, rows: list[dict[str, object]], **attributes: object) -> object:
    """A stand-in for a library's class: its name, its rows, and what else is asked of it."""
    members = {"__module__": module, "__iter__": lambda self: iter(rows), **attributes}
    return type(name, (), members)()


def stored(tmp_path: Path, given: object, task: str = "text-classification") -> list[dict[str, object]]:
    recipe = Recipe.make({"task": task, "base": "minilm", "output": str(tmp_path / "run"), "train": given})
    return [dict(row.values) for row in read_rows(str(recipe.train))]


def test_class_numbers_of_datasets_become_their_names(tmp_path: Path) -> None:
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": CLASSES,
        "tags": {"feature": CLASSES, "_type": "List"},
        "objects": {"feature": {"bbox": {"_type": "Value"}, "category": CLASSES}, "_type": "List"},
        "lists": {"feature": {"category": CLASSES}, "_type": "Sequence"},
    }
    rows: list[dict[str, object]] = [
        {
            "text": "a",
            "label": 1,
            "tags": [0, 1],
            "objects": [{"bbox": [1], "category": 0}],
            "lists": {"category": [1]},
        },
        {"text": "b", "label": -1, "tags": [], "objects": [], "lists": {"category": []}},  # -1: no label
    ]
    to_dict = type("Features", (), {"to_dict": lambda self: features})()
    made = stored(tmp_path, of_library("datasets.arrow_dataset", "Dataset", rows, features=to_dict))
    assert made == [
        {
            "text": "a", "label": "pos", "tags": ["neg", "pos"], "objects": [{"bbox": [1], "category": "neg"}],
            "lists": {"category": ["pos"]},
        },
        rows[1] | {"label": None},
    ]  # fmt: skip
    bare = of_library("datasets.iterable_dataset", "IterableDataset", rows[:1], features=None)
    assert stored(tmp_path, bare) == rows[:1]


def test_what_tables_hold_beside_texts_and_numbers(tmp_path: Path) -> None:
    """Missing cells of pandas, dates and decimals stop nothing; a NaN in plain rows is a fault."""
    missing = type("NAType", (), {})()
    cells = [("a", float("nan"), datetime.date(2024, 1, 2)), ("b", missing, Decimal("1.50"))]
    frame = of_library(
        "pandas.core.frame",
        "DataFrame",
        [],
        columns=("text", "label", "when"),
        itertuples=lambda self, *, index, name: cells,
    )
    assert stored(tmp_path, frame) == [
        {"text": "a", "label": None, "when": "2024-01-02"},
        {"text": "b", "label": None, "when": "1.50"},
    ]
    rows = [{"text": "a", "label": None}]
    polars = of_library("polars.dataframe.frame", "DataFrame", [], iter_rows=lambda self, *, named: iter(rows))
    assert stored(tmp_path, polars) == rows
    with pytest.raises(DataError, match="cannot be stored"):
        stored(tmp_path, [{"label": float("nan")}])


def test_rows_become_files_of_the_run(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    values = {"task": "text-classification", "base": "minilm", "output": str(tmp_path / "run")}
    made = Recipe.make(
        {
            **values,
            "train": DataFrame(),
            "test": [{"text": "é", "label": "x", "image": picture}],
            "general": Path("g.csv"),
        }
    )
    assert [dict(row.values) for row in read_rows(str(made.train))] == [
        {"text": "a", "label": 1},
        {"text": "None", "label": 0},
    ]
    (row,) = read_rows(str(made.test))
    with Image.open(tmp_path / "run/data" / row.values["image"]) as stored:
        assert stored.size == (4, 4)
    assert made.general == "g.csv"
    again = Recipe.make({**values, "train": DataFrame(), "test": made.test, "general": ["g.csv", "h.csv"]})
    assert again.train == made.train
    assert again.general == ("g.csv", "h.csv")
    for bad in ([], [1], [{"a": float("nan")}], 7, {"text": "a"}, [{"a": object()}]):
        with pytest.raises(DataError):
            Recipe.make({**values, "train": bad})


def test_labels_under_other_names() -> None:
    classes = Wanted("text-classification")
    rows = [
        Row({"text": "a", "label": "POS"}, "a", 1),
        Row({"text": "b", "label": "x"}, "a", 2),
        Row({"text": "c"}, "a", 3),
    ]
    assert [row.values.get("label") for row in renamed(rows, classes, {"POS": "positive"})] == ["positive", "x", None]
    several = renamed([Row({"label": "POS|x|GOOD"}, "a", 1)], classes, {"POS": "p", "GOOD": "p"}, separator="|")
    assert several[0].values["label"] == "p|x"
    tags = [Row({"tags": ["B-PER", "I-PER", "O", "B-LOC"]}, "a", 1)]
    entities = Wanted("token-classification")
    assert renamed(tags, entities, {"PER": "person"})[0].values["tags"] == ["B-person", "I-person", "O", "B-LOC"]
    assert [
        (r.values["tags"], n)
        for r, n in [(only(tags, entities, ["PER"], where="x")[0][0], only(tags, entities, ["PER"], where="x")[1])]
    ] == [(["B-PER", "I-PER", "O", "O"], 1)]
    boxes = [Row({"boxes": [[1], [2]], "labels": ["a", "b"], "crowd": [False, True]}, "a", 1)]
    kept, dropped = only(boxes, Wanted("object-detection"), ["b"], where="x")
    assert (kept[0].values["boxes"], kept[0].values["crowd"], dropped) == ([[2]], [True], 1)
    assert [row.line for row in only(rows, classes, ["x"], where="x")[0]] == [2, 3]
    several = [Row({"label": value}, "f", n) for n, value in enumerate(["x|y", ["x", "y"], "y", "", ["y"]])]
    kept, dropped = only(several, classes, ["x"], where="x", separator="|")
    assert [row.values["label"] for row in kept] == ["x", ["x"], "", "", []]
    assert dropped == 4
    for given, wanted, separator in (
        (tags, entities, None),
        (boxes, Wanted("object-detection"), None),
        (several, classes, "|"),
    ):
        with pytest.raises(DataError, match="no row has one of the labels typo"):
            only(given, wanted, ["typo"], where="x", separator=separator)


def test_near_duplicates_stay_in_one_part() -> None:
    assert together(["a", "b", "c", "a"], [None] * 4, [(1, 2)]) == [0, 1, 1, 0]

    class Texts:
        def keys(self, example: str) -> Keys:
            return Keys(example, "", "")

        def texts(self, example: str) -> tuple[str, ...]:
            return (example,)

        def picture(self, example: str) -> None:
            return None

    texts = ["the room was very clean and quiet", "the room was very clean and quiet!!", "another text of other words"]
    assert inseparable(Texts(), texts) == [0, 0, 2]  # type: ignore[arg-type]
    pattern = [f"the room with number {i} was very clean and quiet and bright" for i in range(30)]
    assert inseparable(Texts(), pattern) == list(range(30))  # type: ignore[arg-type]


def labels_read(rows: list[dict], **settings: object) -> list[tuple[str, ...]]:
    task_settings = {"name": "text-classification", **settings}
    made = Recipe.make({"task": task_settings, "base": "minilm", "train": "x", "output": "y"})
    entries = [Row(values, "a.jsonl", n) for n, values in enumerate(rows, start=1)]
    shaped = [e for e in formats.shaped(entries, wanted_of(made), Path()) if isinstance(e, Row)]
    task = TextClassification(
        labels=(), multi_label=made.task.multi_label, max_length=64, text_column="text", label_column="label",
        label_separator="|", weights=None,
    )  # fmt: skip
    return [tuple(task._label_names(row)) for row in shaped]


def test_labels_as_tools_write_them() -> None:
    """Class numbers, also as pandas writes them beside missing values, truth values, one label in a list."""
    given = [1, 2.0, True, " a ", ["b"], [3.0]]
    assert labels_read([{"text": "t", "label": value} for value in given]) == [
        ("1",), ("2",), ("true",), ("a",), ("b",), ("3",)
    ]  # fmt: skip
    for value, told in (
        (None, "'label' is empty. Give a label"),
        ([], "'label' holds 0 labels"),
        (["a", "b"], "'label' holds 2 labels.*--set task.multi_label=true"),
        (1.5, "must be text, got float. Write it as text"),
        ({"a": 1}, "must be text, got dict"),
    ):
        with pytest.raises(DataError, match=told):
            labels_read([{"text": "t", "label": value}])


def test_several_labels_as_tools_write_them() -> None:
    given = [["a ", " b", ""], '["a", "b"]', "a| b|", "[]", [], "a", "[urgent]|[billing]", "[1, 2]"]
    expected = [("a", "b"), ("a", "b"), ("a", "b"), (), (), ("a",), ("[urgent]", "[billing]"), ("1", "2")]
    assert labels_read([{"text": "t", "label": value} for value in given], multi_label=True) == expected
    with pytest.raises(DataError, match="is no JSON"):
        labels_read([{"text": "t", "label": "['a', 'b']"}], multi_label=True)
    with pytest.raises(DataError, match="'label' is empty"):  # "no label applies" is an empty list or cell
        labels_read([{"text": "t", "label": None}], multi_label=True)


def test_what_prodigy_rejected_is_no_row() -> None:
    rows = [
        {"text": "a", "label": "POS", "answer": "accept", "_task_hash": 1},
        {"text": "b", "label": "POS", "answer": "reject", "_task_hash": 2},
        {"text": "c", "label": "POS", "answer": "ignore", "_task_hash": 3},
        {"text": "d", "options": [{"id": "POS"}, {"id": "NEG"}], "accept": ["NEG"], "answer": "accept"},
        {"text": "e", "label": "NEG", "answer": "42"},
    ]
    assert labels_read(rows) == [("POS",), ("NEG",), ("NEG",)]
    entries = [Row(values, "a.jsonl", n) for n, values in enumerate(rows, start=1)]
    left_out = [e.reason for e in accepted(entries, Wanted("text-classification")) if not isinstance(e, Row)]
    assert left_out == ["rejected", "ignored"]
    own = [Row({"text": "a", "topic": "x", "answer": "reject"}, "a", 1)]
    assert list(accepted(own, Wanted("text-classification", {"label": "topic"}))) == own


def test_blank_labels_are_none_where_some_alone_are_scored() -> None:
    rows = [Row({"text": "a", "label": value}, "a", 1) for value in ("", None, "pos", "neg")]
    kept, dropped = only(rows, Wanted("text-classification"), ["pos"], where="x")
    assert [row.values["label"] for row in kept] == ["", None, "pos"]
    assert dropped == 1


def test_a_label_that_no_row_has_is_named() -> None:
    rows = [Row({"label": "POS"}, "a", 1), Row({"label": "NEG"}, "a", 2)]
    wanted = Wanted("text-classification")
    require_labels(["POS", "NEG", "gone"], rows, wanted, where="--label-map", separator=None, known=["gone"])
    with pytest.raises(DataError, match=r"no row has the label 'PSO'. Did you mean 'POS'\?"):
        require_labels(["PSO"], rows, wanted, where="--label-map", separator=None)
    tags = [Row({"tags": ["B-PER", "O"]}, "a", 1)]
    require_labels(["PER"], tags, Wanted("token-classification"), where="x", separator=None)


def test_pictures_in_memory_are_those_of_their_files(tmp_path: Path) -> None:
    """Turned as their file says, and in a mode that PNG holds."""
    turned = Image.effect_noise((40, 20), 50).convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    with (
        Image.open(tmp_path / "a.jpg") as held,
        given_inputs([{"image": held}]) as (row,),
        Image.open(row["image"]) as made,
    ):
        assert made.size == (20, 40)
    inks = Image.new("CMYK", (8, 8), (10, 20, 30, 40))
    with given_inputs([{"image": inks}]) as (row,), Image.open(row["image"]) as made:
        assert made.mode == "RGB"
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    with (
        Image.open(tmp_path / "cut.jpg") as cut,
        pytest.raises(DataError, match="input:2: holds a picture"),
        given_inputs([{"image": inks}, {"image": cut}]),
    ):
        pass


def test_pictures_of_stored_rows_move_with_them(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "red")
    rows = {
        "image-classification": {"image": picture, "label": "red"},
        "object-detection": {"image": picture, "boxes": [[1, 1, 2, 2]], "labels": ["red"]},
    }
    for task, row in rows.items():
        made = Recipe.make({"task": task, "base": "x", "output": str(tmp_path / "run"), "train": [row]})
        (tmp_path / "run").rename(tmp_path / task)
        moved = tmp_path / task / "data" / Path(str(made.train)).name
        (found,) = formats.read_part(str(moved), wanted_of(made)).rows
        with Image.open(found.values["image"]) as stored:
            assert stored.size == (8, 4)


def test_bytes_of_pictures_are_called_nothing_that_they_are_not(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 90).save(stream, "JPEG")
    given = [{"image": {"bytes": stream.getvalue(), "path": "a.jpg"}, "label": "x"}]
    made = Recipe.make({"task": "image-classification", "base": "x", "output": str(tmp_path / "run"), "train": given})
    (row,) = formats.read_part(str(made.train), wanted_of(made)).rows
    path = row.values["image"]
    assert Path(path).read_bytes() == stream.getvalue()
    assert list(picture_findings({"train": [(path, "t:1", "a")]})) == []


def test_nested_lists_of_a_data_frame_are_lists(tmp_path: Path) -> None:
    """pandas reads lists of lists from Parquet as arrays of arrays."""
    boxes = np.empty(2, dtype=object)
    boxes[:] = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])]
    picture = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(picture)
    objects = {"bbox": boxes, "category": np.array(["cat", "dog"], dtype=object)}
    given = type(
        "DataFrame",
        (DataFrame,),
        {"columns": ("image", "objects"), "itertuples": lambda self, *, index, name: [(str(picture), objects)]},
    )()
    (row,) = stored(tmp_path, given, "object-detection")
    assert row["objects"] == {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "category": ["cat", "dog"]}
