"""Boxes in the layouts that tools export: what is read from each, which part, and what faults say. Every file is made as the tool
makes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, features
from tiny import tiny_base

from domaintune.data.columns import wanted_of
from domaintune.data.formats import read_part, stream_part
from domaintune.data.labels import only
from domaintune.data.rows import Reading, Row, Wanted
from domaintune.errors import DataError
from domaintune.recipe import Recipe
from domaintune.settings import ObjectDetectionSettings
from domaintune.tasks.detection_examples import read_examples
from domaintune.tasks.object_detection import ObjectDetection

BOXES = Wanted("object-detection")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAINTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path) -> Path:
    """40 x 20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def read(path: Path, part: str = "train", wanted: Wanted = BOXES) -> Reading:
    return read_part(str(path), wanted, part=part, targets=part != "general")


def found(reading: Reading) -> dict[str, list[tuple[str, list[float]]]]:
    return {
        Path(row.values["image"]).name: [
            (label, [round(side, 6) for side in box])
            for label, box in zip(row.values["labels"], row.values["boxes"], strict=True)
        ]
        for row in reading.rows
    }


def fault(path: Path, says: str, part: str = "train", wanted: Wanted = BOXES) -> DataError:
    with pytest.raises(DataError, match=says) as caught:
        read(path, part, wanted)
    return caught.value


class TestYolo:
    """Ultralytics' data.yaml and lists, Label Studio's and LabelImg's classes.txt, CVAT's YOLO 1.1 (Darknet)."""

    def test_every_suffix_of_pictures_counts_and_labels_without_a_picture_are_told(self, tmp_path: Path) -> None:
        noise = Image.open(picture(tmp_path / "images" / "p.png"))
        kinds = {"q.jfif": "JPEG", "s.jp2": "JPEG2000"} | ({"r.avif": "AVIF"} if features.check("avif") else {})
        for name, kind in kinds.items():
            noise.save(tmp_path / "images" / name, format=kind)
        (tmp_path / "images" / "t.heic").write_bytes(b"ftypheic")
        for stem in (*"pqrst", "gone"):
            write(tmp_path / "labels" / f"{stem}.txt", "0 .5 .5 .2 .2\n")
        write(tmp_path / "labels" / "classes.txt", "cat\n")
        reading = read(tmp_path)
        assert {name: len(boxes) for name, boxes in found(reading).items()} == dict.fromkeys(("p.png", *kinds), 1)
        count, first = 5 - len(kinds), tmp_path / "labels" / "gone.txt"
        told = f"{count} files of labels without a picture that can be read passed over (first: {first}:1)."
        assert told in reading.notes
        beside = tmp_path / "beside"
        picture(beside / "a.png")
        (beside / "b.heic").write_bytes(b"ftypheic")
        for name in ("a.txt", "b.txt", "train.txt"):
            write(beside / name, "0 .5 .5 .2 .2\n")
        write(beside / "classes.txt", "cat\n")
        assert [note[:17] for note in read(beside).notes] == ["1 files of labels"]

    def test_lists_of_pictures(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png", "c.png"):
            picture(tmp_path / "images" / "train2017" / name)
        write(tmp_path / "labels" / "train2017" / "a.txt", "1 0.5 0.5 0.5 0.5\n")
        write(tmp_path / "train2017.txt", "./images/train2017/a.png\n\nimages\\train2017\\b.png\n")
        write(tmp_path / "val2017.txt", "/mnt/elsewhere/coco/images/train2017/c.png\n")
        yaml = write(
            tmp_path / "data.yaml", "path: .\ntrain: train2017.txt\nval: [val2017.txt]\nnames: {0: cat, 1: dog}\n"
        )
        assert found(read(yaml)) == {"a.png": [("dog", [10, 5, 20, 10])], "b.png": []}
        assert found(read(yaml, "dev")) == {"c.png": []}
        assert found(read(tmp_path / "train2017.txt")) == found(read(yaml))  # names of the yaml beside it
        (tmp_path / "images" / "train2017" / "b.png").unlink()
        assert fault(yaml, "is not there").where == f"{tmp_path}/train2017.txt:3"

    def test_darknet_as_cvat_writes_it(self, tmp_path: Path) -> None:
        picture(tmp_path / "obj_train_data" / "a.png")
        write(tmp_path / "obj_train_data" / "a.txt", "0 0.25 0.5 0.5 1.0\n")
        write(tmp_path / "train.txt", "data/obj_train_data/a.png\n")
        write(tmp_path / "obj.names", "cat\ndog\n")
        data = write(
            tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
        )
        assert found(read(tmp_path)) == {"a.png": [("cat", [0, 0, 20, 20])]}
        write(data, "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n")
        assert fault(tmp_path, "says nc: 3, but names 2 classes").where == f"{data}:1"

    def test_without_a_yaml(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png")
        write(tmp_path / "labels" / "a.txt", "1 0.5 0.5 0.5 0.5\n")
        made = read(tmp_path)
        assert found(made) == {"a.png": [("1", [10, 5, 20, 10])]}
        assert made.notes == [f"{tmp_path} has no classes.txt or obj.names: its classes are called by their numbers."]
        write(tmp_path / "classes.txt", "cat\ndog\n")
        write(tmp_path / "notes.json", '{"categories": []}')  # Label Studio's
        made = read(tmp_path)
        assert (found(made), made.notes) == ({"a.png": [("dog", [10, 5, 20, 10])]}, [])

    def test_a_folder_for_each_part(self, tmp_path: Path) -> None:
        for part, name in (("train", "a.png"), ("val", "b.png")):
            picture(tmp_path / "images" / part / name)
            write(tmp_path / "labels" / part / name.replace("png", "txt"), "0 0.5 0.5 0.5 0.5\n")
        write(tmp_path / "classes.txt", "cat\n")
        assert list(found(read(tmp_path))) == ["a.png"]
        assert found(read(tmp_path, "dev")) == {"b.png": [("cat", [10, 5, 20, 10])]}
        assert "train, val" in fault(tmp_path, "no test part", "test").what

    def test_labels_beside_pictures(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        write(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5\n")
        write(tmp_path / "classes.txt", "cat\n")
        assert found(read(tmp_path)) == {"a.png": [("cat", [10, 5, 20, 10])]}

    @pytest.mark.parametrize("outer", ["pictures/fruit", "images/fruit", "images"])
    def test_labels_beside_pictures_wherever_the_folder_stands(self, tmp_path: Path, outer: str) -> None:
        """Above the set a folder may be called images, and hold labels of other pictures beside it."""
        folder = tmp_path / outer
        picture(folder / "a.png")
        picture(tmp_path / "labels" / "fruit" / "other.png")
        write(folder / "a.txt", "0 0.5 0.5 0.5 0.5\n")
        names = write(folder / "classes.txt", "cat\n")
        listing = write(folder / "list.txt", "a.png\n")
        for given in (folder, listing):
            assert found(read(given)) == {"a.png": [("cat", [10, 5, 20, 10])]}
        yaml = write(folder / "data.yaml", "train: .\nnames: [cat]\n")
        names.unlink()
        assert found(read(yaml)) == {"a.png": [("cat", [10, 5, 20, 10])]}

    def test_pictures_in_folders_below(self, tmp_path: Path) -> None:
        """As Ultralytics finds them; what has no label file is told."""
        for name in ("a.png", "one/b.png", "one/two/c.png", ".hidden/d.png", "one/._b.png"):
            picture(tmp_path / "images" / "train" / name)
        for name in ("a", "one/b"):
            write(tmp_path / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.5 0.5\n")
        yaml = write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
        box = [("cat", [10, 5, 20, 10])]
        made = read(yaml)
        assert found(made) == {"a.png": box, "b.png": box, "c.png": []}
        train = tmp_path / "images" / "train"
        assert made.notes == [f"1 pictures without labels, taken for pictures without objects (first: {train}:3)."]
        yaml.unlink()
        assert found(read(tmp_path)) == found(made) | {n: [("0", b[0][1])] for n, b in found(made).items() if b}

    def test_values_outside_leave_the_picture_out(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png", "c.png"):
            picture(tmp_path / "images" / name)
        write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 1.005 0.5\n")  # rounding at the edge
        write(tmp_path / "labels" / "b.txt", "0 0.5 0.5 0.5 0.5\n0 0.5 1.2 0.1 0.1\n0 -0.5 0.5 0.1 0.1\n")
        write(tmp_path / "labels" / "c.txt", "0 20 10 5 5\n")
        made = read(tmp_path)
        assert [(Path(row.values["image"]).name, len(row.values["boxes"])) for row in made.rows] == [("a.png", 1)]
        labels = tmp_path / "labels"
        assert [entry.where for entry in made.left_out] == [f"{labels / 'b.txt'}:2", f"{labels / 'c.txt'}:1"]
        assert made.summary()[-1] == (
            f"2 entries left out: a box with values outside of 0 to 1 (first: {labels / 'b.txt'}:2)."
        )

    def test_keypoints_are_no_polygon(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png")
        write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.9 0.2 0.8\n")
        yaml = write(tmp_path / "data.yaml", "train: images\nkpt_shape: [2, 2]\nnames: [cat]\n")
        assert found(read(yaml)) == {"a.png": [("cat", [10, 5, 20, 10])]}
        write(yaml, "train: images\nnames: [cat]\n")
        assert read(yaml).notes[0].startswith("1 polygons became their bounding boxes (first: ")

    @pytest.mark.parametrize(("text", "line"), [("names: [cat, dog]\nnc: 3\n", 2), ("{names: {0: cat}, nc: 2}", 1)])
    def test_a_count_that_disagrees_with_the_names(self, tmp_path: Path, text: str, line: int) -> None:
        yaml = write(tmp_path / "data.yaml", text)
        error = fault(yaml, r"says nc: \d, but names \d classes")
        assert error.where == f"{yaml}:{line}"
        write(yaml, "names: [cat, dog\ntrain: x\n")
        assert fault(yaml, "not valid YAML").where == f"{yaml}:2"


VOC = """<annotation>
  <filename>{name}.png</filename>
  <size><width>40</width><height>20</height></size>
  <object>
    <name>{label}</name>
    <bndbox><xmin>{xmin}</xmin><ymin>1</ymin><xmax>{xmax}</xmax><ymax>10</ymax></bndbox>
  </object>
</annotation>
"""


def voc(folder: Path, name: str, label: str = "cat", xmin: object = 1, xmax: object = 10) -> Path:
    picture(folder / "JPEGImages" / f"{name}.png")
    return write(folder / "Annotations" / f"{name}.xml", VOC.format(name=name, label=label, xmin=xmin, xmax=xmax))


class TestVoc:
    def test_parts_by_the_image_sets(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c d"):
            voc(tmp_path, name)
        assert list(found(read(tmp_path))) == ["a.png", "b.png", "c d.png"]  # no lists: all of them
        lists = tmp_path / "ImageSets" / "Main"
        write(lists / "default.txt", "a\n")  # CVAT's, which names no part
        assert len(read(tmp_path).rows) == 3
        write(lists / "train.txt", "a\nb  1\n")
        write(lists / "val.txt", '"c d"\n')
        write(lists / "cat_train.txt", "a 1\nb -1\n")
        assert list(found(read(tmp_path))) == ["a.png", "b.png"]
        assert list(found(read(tmp_path, "dev"))) == ["c d.png"]
        error = fault(tmp_path, "no test part", "test")
        assert "train, val" in error.what
        assert "Annotations" in error.remedy
        write(lists / "val.txt", "a\n\nmissing\n")
        assert fault(tmp_path, "'missing.xml' is not there", "dev").where == f"{lists}/val.txt:3"

    def test_faults_carry_the_line_of_the_object(self, tmp_path: Path) -> None:
        file = voc(tmp_path, "a", label="")
        assert fault(tmp_path, "no label").where == f"{file}:4"
        voc(tmp_path, "a", xmin="wide")
        assert fault(tmp_path, "xmin is no usable number").where == f"{file}:4"
        voc(tmp_path, "a", xmin=60, xmax=70)
        (row,) = read(tmp_path).rows
        with pytest.raises(DataError, match="outside the picture") as caught:
            next(read_examples([row], ("cat",), labelled=True))
        assert caught.value.where == f"{file}:4"

    def test_negative_boxes(self, tmp_path: Path) -> None:
        file = voc(tmp_path, "a", xmin=10, xmax=4)  # the corners are swapped
        made = read(tmp_path)
        assert (found(made), made.notes) == ({"a.png": []}, [f"1 boxes without an area left away (first: {file}:4)."])
        voc(tmp_path, "a", xmin=-4)
        (row,) = read(tmp_path).rows
        example = next(read_examples([row], ("cat",), labelled=True))
        assert (example.boxes, example.clipped) == (((0, 0, 10, 10),), 1)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>t</name></task></meta>
  <image id="0" name="a.png" subset="Train" width="40" height="20">
    <box label="cat" source="manual" occluded="0" xtl="{xtl}" ytl="2.00" xbr="16.00" ybr="10.00" z_order="0">
      <attribute name="age">old</attribute>
    </box>
    <box label="cat" xtl="4.00" ytl="2.00" xbr="16.00" ybr="10.00" rotation="30.0"/>
    <polygon label="cat" points="0.00,0.00;1.00,1.00"/>
  </image>
  <image id="1" name="b.png" width="40" height="20"/>
</annotations>
"""


class TestCvat:
    def test_a_folder_of_it_is_not_voc(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "Train" / "a.png")  # projects with subsets have folders
        picture(tmp_path / "images" / "b.png")
        file = write(tmp_path / "annotations.xml", CVAT.format(xtl="4.00"))
        made = read(tmp_path)
        assert found(made) == {"a.png": [("cat", [4, 2, 12, 8])], "b.png": []}
        assert [row.line for row in made.rows] == [5, 12]
        assert made.notes == [
            f"1 boxes that are turned passed over (first: {file}:9).",
            f"1 polygon shapes, which are no boxes, passed over (first: {file}:10).",
        ]

    def test_faults_carry_lines(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png")
        file = write(tmp_path / "annotations.xml", CVAT.format(xtl="left"))
        assert fault(file, "xtl is no usable number").where == f"{file}:6"
        write(file, CVAT.format(xtl="4.00"))
        assert fault(file, "'b.png' is not there").where == f"{file}:12"
        write(file, CVAT.format(xtl="4.00").replace('<box label="cat"', "<box"))
        assert fault(file, "no label").where == f"{file}:6"
        write(file, "<annotations>\n<track/></annotations>")
        assert fault(file, "tracks of a video").where == f"{file}:2"


def rectangle(**changes: Any) -> dict[str, Any]:
    shape = {"x": 10.0, "y": 10.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["cat"]}
    return {**shape, **changes}


SIZE = {"original_width": 40, "original_height": 20}


class TestLabelStudio:
    def test_json_min(self, tmp_path: Path) -> None:
        rows = [
            {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "label": [{**rectangle(), **SIZE}], "annotator": 1,
             "annotation_id": 7, "created_at": "2024-01-01T00:00:00Z"},
            {"image": "/data/upload/1/0a1b2c3d-b.png", "id": 2, "annotator": 1, "annotation_id": 8},
            {"image": "/data/upload/1/0a1b2c3d-c.png", "id": 3},
        ]  # fmt: skip
        picture(tmp_path / "images" / "a.png")  # the user's own name
        picture(tmp_path / "images" / "0a1b2c3d-b.png")  # the server's
        file = write(tmp_path / "project-1.json", json.dumps(rows, indent=1))
        made = read(tmp_path)
        assert found(made) == {"a.png": [("cat", [4, 2, 12, 8])], "0a1b2c3d-b.png": []}
        assert [(entry.reason, entry.line) for entry in made.left_out] == [("not annotated", 29)]
        assert found(read(file)) == found(made)

    def test_json(self, tmp_path: Path) -> None:
        picture(tmp_path / "my picture.png")
        result = {"type": "rectanglelabels", **SIZE, "image_rotation": 0, "value": rectangle()}
        other = {**result, "value": rectangle(rectanglelabels=["dog"])}
        turned = {**result, "value": rectangle(rotation=15)}
        annotations = [
            {"was_cancelled": True, "result": []},
            {"was_cancelled": False, "result": [other]},
            {"was_cancelled": False, "ground_truth": True, "result": [result, turned, {"value": {"choices": ["x"]}}]},
        ]
        data = {"note": "seen.by", "image": "/data/upload/3/0a1b2c3d-my%20picture.png"}
        task = {"data": data, "annotations": annotations, "file_upload": "0a1b2c3d-my picture.png"}
        file = write(tmp_path / "export.json", json.dumps([task, {"data": data, "annotations": []}]))
        made = read(file)
        assert found(made) == {"my picture.png": [("cat", [4, 2, 12, 8])]}
        assert made.notes == [
            f"1 further annotations of a picture unused (first: {file}:1).",
            f"2 shapes that are no upright rectangles passed over (first: {file}:1).",
        ]
        assert [entry.reason for entry in made.left_out] == ["not annotated"]

    def test_faults(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.json", '[\n{"image": "/data/upload/1/0a1b2c3d-a.png", "annotation_id": 1}]')
        error = fault(file, "'0a1b2c3d-a.png' is not there")
        assert error.where == f"{file}:2"
        write(file, '[{"text": "no picture", "id": 1}]')
        assert "JSON_MIN" in fault(file, "no picture of Label Studio").remedy
        picture(tmp_path / "a.png")
        write(file, json.dumps([{"image": "a.png", "l": [{**rectangle(width=None), **SIZE}]}]))
        fault(file, "width is no usable number")
        # The boxes are of another picture than the one that is here.
        write(
            file, json.dumps([{"image": "a.png", "l": [{**rectangle(), "original_width": 80, "original_height": 40}]}])
        )
        with pytest.raises(DataError, match="the row says 80 x 40"):
            next(read_examples([read(file).rows[0]], ("cat",), labelled=True))


def coco(path: Path, name: str) -> Path:
    content = {
        "images": [{"id": 1, "file_name": name, "width": 40, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 2, 12, 8], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    return write(path, json.dumps(content))


class TestCoco:
    @pytest.mark.parametrize("inner", ["train2017", "images/train2017", "images"])
    def test_the_original_layout(self, tmp_path: Path, inner: str) -> None:
        picture(tmp_path / inner / "a.png")
        picture(tmp_path / "val2017" / "b.png")
        file = coco(tmp_path / "annotations" / "instances_train2017.json", "a.png")
        coco(tmp_path / "annotations" / "instances_val2017.json", "b.png")
        write(tmp_path / "annotations" / "captions_train2017.json", "{}")
        assert found(read(tmp_path)) == {"a.png": [("cat", [4, 2, 12, 8])]}
        assert list(found(read(tmp_path, "dev"))) == ["b.png"]
        assert found(read(file)) == found(read(tmp_path))
        assert "instances_val2017.json" in fault(tmp_path, "holds none for test", "test").what

    def test_cvats_coco_names_no_part(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png")
        coco(tmp_path / "annotations" / "instances_default.json", "a.png")
        assert list(found(read(tmp_path))) == list(found(read(tmp_path, "test"))) == ["a.png"]


class TestTables:
    def test_rows_without_a_box_are_pictures_without_objects(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png", "c.png"):
            picture(tmp_path / name)
        lines = ["filename,class,xmin,ymin,xmax,ymax", "a.png,cat,4,2,16,10", "b.png,,,,,", "c.png,,,,,", "a.png,,,,,"]
        file = write(tmp_path / "boxes.csv", "\n".join(lines))
        made = read(tmp_path)  # the folder's only table
        assert found(made) == {"a.png": [("cat", [4, 2, 12, 8])], "b.png": [], "c.png": []}
        assert made.notes == [f"2 pictures without objects (rows without a box) (first: {file}:3)."]
        for row, says in (
            ("b.png,cat,,,,", "the label 'cat' has no box"),
            ("b.png,,4,2,16,10", "the box has no label"),
            ("b.png,cat,4,2,,10", "xmax is no usable number"),
        ):
            write(file, "\n".join([*lines[:2], row]))
            assert fault(file, says).where == f"{file}:3"

    def test_columns_under_the_users_names(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        file = write(tmp_path / "t.csv", "Datei,Klasse,links,oben,rechts,unten,label\na.png,cat,4,2,16,10,7\n")
        assert "task.box_columns" in fault(file, "say no boxes").remedy
        task = {
            "name": "object-detection", "image_column": "Datei", "label_column": "Klasse",
            "box_columns": {"xmin": "links", "ymin": "oben", "xmax": "rechts", "ymax": "unten"},
        }  # fmt: skip
        recipe = {"base": "b", "train": str(file), "output": str(tmp_path / "o")}
        wanted = wanted_of(Recipe.make({**recipe, "task": task}))
        assert found(read(file, wanted=wanted)) == {"a.png": [("cat", [4, 2, 12, 8])]}
        sides = {**task, "box_columns": {"x": "links", "y": "oben", "width": "rechts", "height": "unten"}}
        wanted = wanted_of(Recipe.make({**recipe, "task": sides}))
        assert found(read(file, wanted=wanted)) == {"a.png": [("cat", [4, 2, 16, 10])]}
        wanted = wanted_of(Recipe.make({**recipe, "task": {**task, "label_column": "Class"}}))
        fault(file, "say no boxes", wanted=wanted)  # a name that was given is never replaced by a usual one

    def test_shares_are_refused(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        file = write(tmp_path / "t.csv", "image,label,x1,y1,x2,y2\na.png,cat,0.1,0.1,0.4,0.5\n")
        assert fault(file, "shares of the picture").where == f"{file}:2"
        write(file, "image,label,x1,y1,x2,y2\na.png,cat,0.1,0.1,0.4,0.5\na.png,cat,4,2,16,10\n")
        assert len(read(file).rows[0].values["boxes"]) == 2

    def test_columns_of_the_pictures_size_are_compared_with_it(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        file = write(tmp_path / "t.csv", head + "a.png,80,40,cat,8,4,32,20\n")
        with pytest.raises(DataError, match="40 x 20 pixels, the row says 80 x 40") as caught:
            next(read_examples([read(file).rows[0]], ("cat",), labelled=True))
        assert caught.value.where == f"{file}:2"
        write(file, head + "a.png,40,20,cat,8,4,32,20\na.png,,,dog,8,4,32,20\n")
        assert next(read_examples([read(file).rows[0]], ("cat", "dog"), labelled=True)).boxes[0] == (8, 4, 24, 16)
        write(file, head + "a.png,24,16,cat,8,4,32,20\na.png,6,5,cat,2,2,8,7\n")  # the boxes' own
        assert len(next(read_examples([read(file).rows[0]], ("cat",), labelled=True)).boxes) == 2
        write(file, head + "a.png,40,20,cat,8,4,32,20\na.png,80,40,cat,2,2,8,7\n")
        assert fault(file, "80 x 40 pixels here").where == f"{file}:3"

    def test_shares_are_refused_in_every_format(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        box = [0.1, 0.2, 0.95, 0.95]  # also as corners, or centre and size
        rows = write(tmp_path / "r.jsonl", json.dumps({"image": "a.png", "boxes": [box], "labels": ["cat"]}))
        assert fault(rows, "shares of the picture").where == f"{rows}:1"
        objects = {"image": "a.png", "objects": {"bbox": [box], "category": ["cat"]}}
        fault(write(tmp_path / "o.jsonl", json.dumps(objects)), "shares of the picture")
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": box}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        fault(write(tmp_path / "c.json", json.dumps(content)), "shares of the picture")
        content["annotations"].append({"image_id": 1, "category_id": 1, "bbox": [4, 2, 12, 8]})
        assert len(read(write(tmp_path / "c.json", json.dumps(content))).rows) == 1

    def test_many_boxes_that_reach_outside_are_a_warning_that_names_corners(self, tmp_path: Path) -> None:
        image = str(picture(tmp_path / "a.png"))
        corners = [[20, 10, 30, 18], [4, 2, 16, 10]]
        for boxes, severity in ((corners, "warning"), ([*corners, *[[4, 2, 12, 8]] * 8], "note")):
            row = Row({"image": image, "boxes": boxes, "labels": ["cat"] * len(boxes)}, "r.jsonl", 1)
            example = next(read_examples([row], ("cat",), labelled=True))
            base = tiny_base("yolos", "object-detection")
            task = ObjectDetection.build([row], base, ObjectDetectionSettings())
            finding = next(f for f in task.check([example]) if f.name == "clipped-boxes")
            assert (finding.severity, "two corners" in finding.remedy) == (severity, True)


class TestWhatFormatsSay:
    def test_difficult_boxes_of_voc_are_not_counted(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        objects = "".join(
            f"<object><name>cat</name><difficult>{hard}</difficult><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>{x}</xmax>"
            "<ymax>12</ymax></bndbox></object>\n"
            for hard, x in ((1, 20), (0, 5), (0, 30))
        )
        write(tmp_path / "a.xml", f"<annotation><filename>a.png</filename>\n{objects}</annotation>")
        reading = read(tmp_path / "a.xml")
        assert reading.rows[0].values["crowd"] == [True, False]
        told = f"1 boxes marked as difficult neither trained on nor counted (first: {tmp_path / 'a.xml'}:2)."
        assert told in reading.notes

    def test_coco_of_pictures_alone_and_of_one_file_under_two_ids(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        file = write(tmp_path / "test.json", json.dumps(content))
        (row,) = stream_part(str(file), replace(BOXES, inputs=True))
        assert isinstance(row, Row)
        assert (row.values["image"], "boxes" in row.values) == (str(tmp_path / "a.png"), False)
        fault(file, "needs the lists")
        content["images"].append({"id": 2, "file_name": "a.png"})
        content["annotations"] = [
            {"image_id": number, "category_id": 1, "bbox": [number, 2, 12, 8]} for number in (1, 2)
        ]
        reading = read(write(tmp_path / "train.json", json.dumps(content)))
        assert found(reading) == {"a.png": [("cat", [1, 2, 12, 8]), ("cat", [2, 2, 12, 8])]}
        (left,) = reading.left_out
        assert (left.reason, left.line) == ("of the same file as an earlier image, which has their boxes", 2)


class TestRows:
    def test_rows_from_python_are_read_back(self, tmp_path: Path) -> None:
        image = str(picture(tmp_path / "a.png"))
        given = [{"image": image, "boxes": [[4, 2, 12, 8]], "labels": ["cat"]}]
        task = {"task": "object-detection", "base": "b", "output": str(tmp_path / "run")}
        made = read(Path(str(Recipe.make({**task, "train": given}).train)))
        assert found(made) == {"a.png": [("cat", [4, 2, 12, 8])]}
        objects = [{"image": image, "objects": {"bbox": [[4, 2, 12, 8]], "category": ["cat"]}}]
        assert found(read(Path(str(Recipe.make({**task, "train": objects}).train)))) == found(made)
        file = write(tmp_path / "r.jsonl", '{"image": "a.png", "objects": [{"bbox": [4, 2, 12, 8], "label": "cat"}]}')
        assert found(read(file)) == found(made)
        others = [{"image": image, "objects": {**objects[0]["objects"], "segmentation": [], "iscrowd": [1]}}]
        crowded = read(Path(str(Recipe.make({**task, "train": others}).train)))
        assert found(crowded) == found(made)
        assert crowded.rows[0].values["crowd"] == [True]
        uneven = [{"image": image, "objects": {"bbox": [[4, 2, 12, 8]], "category": ["cat", "dog"]}}]
        fault(Path(str(Recipe.make({**task, "train": uneven}).train)), "1 of 'bbox', 2 of 'category'")
        write(file, '{"image": "a.png", "objects": [{"box": 1}]}')
        assert fault(file, "no 'bbox'").where == f"{file}:1"

    def test_parquet_of_the_datasets_library(self, tmp_path: Path) -> None:
        category = {"names": ["dog", "cat"], "_type": "ClassLabel"}
        info = {"features": {"objects": {"feature": {"category": category}, "_type": "List"}}}
        content = picture(tmp_path / "a.png").read_bytes()
        rows = {
            "image": [{"bytes": content, "path": None}] * 2,
            "objects": [[{"bbox": [4.0, 2.0, 12.0, 8.0], "category": 1}], []],
        }
        table = pyarrow.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": info})})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        made = read(tmp_path / "a.parquet")
        assert [row.values["labels"] for row in made.rows] == [["cat"], []]
        assert made.rows[0].values["boxes"] == [[4, 2, 12, 8]]
        assert Path(made.rows[0].values["image"]).read_bytes() == content

    def test_other_labels_go_with_their_lines(self, tmp_path: Path) -> None:
        picture(tmp_path / "a.png")
        file = write(tmp_path / "t.csv", "image,label,x,y,w,h\na.png,cat,4,2,2,2\na.png,dog,70,2,4,4\n")
        kept, _ = only(read(file).rows, BOXES, ["dog"], where="x")
        with pytest.raises(DataError, match="outside the picture") as caught:
            next(read_examples([kept[0]], ("dog",), labelled=True))
        assert caught.value.where == f"{file}:3"


class TestPicturesAlone:
    """Where boxes need not be there: general sets and what is to be predicted."""

    def test_every_way_to_give_them(self, tmp_path: Path) -> None:
        content = picture(tmp_path / "p" / "a.png").read_bytes()
        picture(tmp_path / "p" / "b.png")
        rows = [{"image": f"p/{name}", "id": number} for number, name in enumerate(("a.png", "b.png"))]
        served = [{"image": f"/data/upload/1/0a1b2c3d-{name}", "id": 1} for name in ("a.png", "b.png")]
        tasks = [{"data": row, "annotations": []} for row in served]
        pyarrow.parquet.write_table(
            pyarrow.table({"image": [{"bytes": content, "path": None}] * 2}), tmp_path / "a.parquet"
        )
        for name in ("yolo/images/test/a.png", "yolo/images/test/b.png", "studio/a.png", "studio/images/b.png"):
            picture(tmp_path / name)
        for given in (
            tmp_path / "p",
            tmp_path / "a.parquet",
            write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows))),
            write(tmp_path / "t.csv", "filename,width,height\np/a.png,40,20\np/b.png,40,20\n"),
            write(tmp_path / "yolo" / "data.yaml", "test: images/test\nnames: [cat]\n"),
            write(tmp_path / "studio" / "min.json", json.dumps(served)),
            write(tmp_path / "studio" / "tasks.json", json.dumps(tasks)),
        ):
            made = read(given, "general")
            assert [set(row.values) & {"image", "boxes"} for row in made.rows] == [{"image"}] * 2, given
            assert all(Path(row.values["image"]).is_file() for row in made.rows)
            assert (made.left_out, made.notes) == ([], [])
            entries = stream_part(str(given), replace(BOXES, inputs=True))
            assert [entry for entry in entries if isinstance(entry, Row)] == made.rows
            assert [next(read_examples([row], ("cat",), labelled=False)).width for row in made.rows] == [40, 40]

    def test_training_wants_boxes(self, tmp_path: Path) -> None:
        picture(tmp_path / "p" / "a.png")
        rows = write(tmp_path / "r.jsonl", '{"image": "p/a.png"}')
        table = write(tmp_path / "t.csv", "filename\np/a.png\n")
        for given, says in ((tmp_path / "p", "no boxes were found"), (rows, "not annotated"), (table, "say no boxes")):
            with pytest.raises(DataError, match=says):
                read_part(str(given), BOXES, targets=True)
        write(table, "filename,class\np/a.png,cat\n")
        fault(table, "say no boxes", "general")  # labels without boxes are no picture alone
        assert [set(row.values) for row in stream_part(str(table), replace(BOXES, inputs=True))] == [  # type: ignore[union-attr]
            {"filename", "class", "image"}
        ]

    def test_beside_others_with_boxes_they_are_what_they_were(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png", "c.png"):
            picture(tmp_path / name)
        shape = {"l": [{**rectangle(), **SIZE}]}
        rows = [{"image": "a.png"}, {"image": "b.png", **shape}, {"image": "gone.png"}]
        made = read(write(tmp_path / "l.json", json.dumps(rows)), "general")
        assert found(made) == {"b.png": [("cat", [4, 2, 12, 8])]}
        assert [entry.reason for entry in made.left_out] == ["not annotated"] * 2
        write(tmp_path / "b.txt", "0 0.5 0.5 0.5 0.5\n")
        made = read(write(tmp_path / "list.txt", "a.png\nb.png\nc.png\n"), "general")
        assert found(made) == {"a.png": [], "b.png": [("0", [10, 5, 20, 10])], "c.png": []}
        assert (
            f"2 pictures without labels, taken for pictures without objects (first: {tmp_path}/list.txt:1)."
            in made.notes
        )
