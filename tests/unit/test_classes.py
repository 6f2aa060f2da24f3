"""Classes that files declare and no row has, gaps in their numbers, and labels that training never sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import tiny_base

from domaintune import Recipe
from domaintune.checks.classes import class_findings
from domaintune.checks.shared import Part, unseen_labels
from domaintune.data.formats import read_part
from domaintune.data.rows import Wanted
from domaintune.preview import check
from domaintune.tasks.base import Finding, Keys
from domaintune.tasks.classification import rare_labels


def test_declared_classes_without_rows_and_gaps_in_their_numbers() -> None:
    assert list(class_findings({0: "cat", 1: "dog"}, ["cat", "dog"])) == []
    assert list(class_findings({}, ["cat", "dog"])) == []
    unused, gaps = class_findings({1: "cat", 2: "dog", 5: "cow"}, ["cat", "dog"])
    assert (unused.name, unused.severity, unused.count) == ("unused-classes", "note", 1)
    assert unused.message == "1 of 3 classes that the files declare is in no row: cow."
    assert (gaps.name, gaps.severity) == ("class-number-gaps", "note")
    assert gaps.message == "classes are numbered from 1 to 5 without 3, 4."
    assert all(finding.why and finding.remedy for finding in (unused, gaps))


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["0", "1", "3"], "2"),
        (["1", "2", "4", "5"], "3"),
        (["0", "1", "2"], None),
        (["10", "50", "100"], None),  # amounts, no counting
        (["1", "2", "4", "other"], None),
        (["0", "5"], None),
    ],
)
def test_labels_that_are_numbers(names: list[str], missing: str | None) -> None:
    found = [finding.message for finding in class_findings({}, names)]
    assert found == (
        [] if missing is None else [f"classes are numbered from {names[0]} to {names[-1]} without {missing}."]
    )


def test_labels_of_dev_and_test_that_train_has_not() -> None:
    def part(name: str, *labels: tuple[str, ...]) -> Part:
        keys = [Keys(f"{name}{n}", "", "", labels=entry) for n, entry in enumerate(labels)]
        return Part(name, keys, [f"{name}:{n}" for n in range(len(keys))])

    train = part("train", ("cat",), ("cat", "dog"), ())
    (found,) = unseen_labels({"train": train, "test": part("test", (), ("cat",), ("cow", "dog"))}, severity="warning")
    assert (found.name, found.severity, found.rows, found.count) == ("unseen-labels", "warning", ("test:2",), 1)
    assert "cow" in found.message
    assert list(unseen_labels({"train": train, "test": part("test", (), ("dog",))}, severity="warning")) == []


def test_more_labels_than_are_named_are_told_of() -> None:
    names = [f"l{n:02d}" for n in range(11)]
    parts = {
        name: Part(name, [Keys(name, "", "", labels=tuple(of))], [name]) for name, of in (("train", ()), ("dev", names))
    }
    (unseen,) = unseen_labels(parts, severity="warning")
    assert unseen.message.endswith(": l00, l01, l02, l03, l04, l05, l06, l07, ...."), unseen.message
    (rare,) = rare_labels(names, few=5, unit="rows", remedy="")
    assert rare.message == f"fewer than 5 rows: {', '.join(names[:10])}, ...; their scores mean little."
    (whole,) = rare_labels(names[:10], few=5, unit="rows", remedy="")
    assert "..." not in whole.message


def coco(folder: Path, name: str, labels: list[int], categories: dict[int, str]) -> str:
    entries: dict[str, Any] = {"images": [], "annotations": []}
    entries["categories"] = [{"id": key, "name": label} for key, label in categories.items()]
    for number, label in enumerate(labels):
        file = folder / f"{name}{number}.png"
        picture = Image.effect_noise((64, 64), 90)
        picture.save(file)
        entries["images"].append({"id": number, "file_name": file.name, "width": 64, "height": 64})
        box = {"id": number, "image_id": number, "category_id": label, "bbox": [4, 4, 30, 30]}
        entries["annotations"].append(box)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def test_the_check_tells_of_a_detection_set(tmp_path: Path) -> None:
    base = tiny_base("rt-detr-v2", "object-detection")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    names = {0: "things", 1: "cat", 2: "dog", 4: "cow"}
    recipe = Recipe.make(
        {
            "task": "object-detection",
            "base": str(tmp_path / "base"),
            "train": coco(tmp_path, "train", [1] * 12, names),
            "dev": coco(tmp_path, "dev", [1] * 3, names),
            "test": coco(tmp_path, "test", [1, 1, 2], names),
            "method": "lora",
            "output": str(tmp_path / "run"),
            "data": {"label_map": {"cow": "cattle"}},
        }
    )
    found: dict[str, Finding] = {finding.name: finding for finding in check(recipe).findings}
    assert found["unused-classes"].message == "2 of 4 classes that the files declare are in no row: things, cattle."
    assert "without 3" in found["class-number-gaps"].message
    assert (found["unseen-labels"].severity, found["unseen-labels"].rows) == ("warning", (f"{tmp_path}/test.json:3",))
    assert "fewer than 10 boxes: dog (1)" in found["few-boxes"].message
    assert not any(finding.severity == "error" for finding in found.values())


def test_names_of_a_yolo_file_are_declared(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "train/images/a.png")
    (tmp_path / "train/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (tmp_path / "data.yaml").write_text("train: train/images\nnames: {0: cat, 3: dog}\n", encoding="utf-8")
    reading = read_part(str(tmp_path / "data.yaml"), Wanted("object-detection"))
    assert reading.classes == {0: "cat", 3: "dog"}
    assert [row.values["labels"] for row in reading.rows] == [["cat"]]
