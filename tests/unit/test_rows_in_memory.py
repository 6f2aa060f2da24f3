"""Rows from Python: stored in the run, so that it can be made again; labels under other names and some of them alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domaintune.checks.shared import inseparable
from domaintune.data.formats import read_rows
from domaintune.data.labels import only, renamed
from domaintune.data.rows import Row, Wanted
from domaintune.data.splits import together
from domaintune.errors import DataError
from domaintune.recipe import Recipe


class DataFrame:
    """What is asked of pandas' class, by name."""

    columns = ("text", "label")

    def itertuples(self, *, index: bool, name: None) -> list[tuple[object, ...]]:
        assert not index
        return [("a", np.int64(1)), ("None", np.int64(0))]


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
    with Image.open(row.values["image"]) as stored:
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
        (r.values["tags"], n) for r, n in [(only(tags, entities, ["PER"])[0][0], only(tags, entities, ["PER"])[1])]
    ] == [(["B-PER", "I-PER", "O", "O"], 1)]
    boxes = [Row({"boxes": [[1], [2]], "labels": ["a", "b"], "crowd": [False, True]}, "a", 1)]
    kept, dropped = only(boxes, Wanted("object-detection"), ["b"])
    assert (kept[0].values["boxes"], kept[0].values["crowd"], dropped) == ([[2]], [True], 1)
    assert [row.line for row in only(rows, classes, ["x"])[0]] == [2, 3]


def test_near_duplicates_stay_in_one_part() -> None:
    assert together(["a", "b", "c", "a"], [None] * 4, [(1, 2)]) == [0, 1, 1, 0]

    class Texts:
        def keys(self, example: str) -> object:
            return type("K", (), {"input": example, "group": None})()

        def texts(self, example: str) -> tuple[str, ...]:
            return (example,)

    texts = ["the room was very clean and quiet", "the room was very clean and quiet!!", "another text of other words"]
    assert inseparable(Texts(), texts) == [0, 0, 2]  # type: ignore[arg-type]
    pattern = [f"the room with number {i} was very clean and quiet and bright" for i in range(30)]
    assert inseparable(Texts(), pattern) == list(range(30))  # type: ignore[arg-type]
