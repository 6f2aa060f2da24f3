"""Pictures and boxes as labelling tools write them: the same boxes from every format; archives that cannot reach outside."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from domaintune.checks.pictures import picture_findings
from domaintune.data.formats import read_part, stream_part
from domaintune.data.labels import labels_of, only, renamed
from domaintune.data.pictures import PictureLook, chained_pictures, like_pictures, look_at
from domaintune.data.rows import Reading, Wanted
from domaintune.data.splits import together
from domaintune.errors import DataError

BOXES, CLASSES = Wanted("object-detection"), Wanted("image-classification")
SIZE = (40, 20)
GIVEN = {"a.png": [("cat", (4, 2, 12, 8)), ("dog", (20, 10, 10, 5))], "b.png": [("cat", (0, 0, 40, 20))]}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMAINTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


def pictures(folder: Path, names: Any = tuple(GIVEN)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = np.random.default_rng(len(name)).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def voc(folder: Path, size: tuple[int, int] = SIZE) -> Path:
    pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, boxes in GIVEN.items():
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, (x, y, w, h) in boxes
        )
        (folder / "Annotations" / name.replace("png", "xml")).write_text(
            f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            f"{objects}</annotation>"
        )
    return folder


def yolo(folder: Path) -> Path:
    pictures(folder / "train" / "images")
    (folder / "train" / "labels").mkdir()
    for name, boxes in GIVEN.items():
        lines = [
            f"{['cat', 'dog'].index(label)} {(x + w / 2) / 40} {(y + h / 2) / 20} {w / 40} {h / 20}"
            for label, (x, y, w, h) in boxes
        ]
        (folder / "train" / "labels" / name.replace("png", "txt")).write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: ../train/images\n")
    return folder


def table(folder: Path) -> Path:
    pictures(folder)
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, boxes in GIVEN.items():
        lines += [f"{name},40,20,{label},{x},{y},{x + w},{y + h}" for label, (x, y, w, h) in boxes]
    (folder / "_annotations.csv").write_text("\n".join(lines))
    return folder


def cvat(folder: Path) -> Path:
    pictures(folder / "images")
    images = "".join(
        f'<image id="0" name="{name}" width="40" height="20">'
        + "".join(f'<box label="{k}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>' for k, (x, y, w, h) in boxes)
        + '<polygon label="cat" points="0,0;1,1"/></image>'
        for name, boxes in GIVEN.items()
    )
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    return folder / "annotations.xml"


def label_studio(folder: Path) -> Path:
    pictures(folder)
    tasks = []
    for name, boxes in GIVEN.items():
        results = [
            {
                "original_width": 40,
                "original_height": 20,
                "value": {
                    "x": x / 0.4, "y": y / 0.2, "width": w / 0.4, "height": h / 0.2, "rotation": 0, "rectanglelabels": [k],
                },
            }
            for k, (x, y, w, h) in boxes
        ]  # fmt: skip
        tasks.append({"data": {"image": f"/data/local-files/?d=x/{name}"}, "annotations": [{"result": results}]})
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def coco(folder: Path) -> Path:
    pictures(folder)
    images = [{"id": i, "file_name": n, "width": 40, "height": 20} for i, n in enumerate(GIVEN)]
    annotations = [
        {"id": 1, "image_id": i, "category_id": ["cat", "dog"].index(k), "bbox": list(box)}
        for i, boxes in enumerate(GIVEN.values())
        for k, box in boxes
    ]
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "_annotations.coco.json").write_text(text)
    return folder


def boxes_of(reading: Reading) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {
        Path(row.values["image"]).name: [
            (k, tuple(round(side, 6) for side in box))
            for k, box in zip(row.values["labels"], row.values["boxes"], strict=True)
        ]
        for row in reading.rows
    }


@pytest.mark.parametrize("write", [voc, yolo, table, cvat, label_studio, coco])
def test_every_format_gives_the_same_boxes(tmp_path: Path, write: Any) -> None:
    made = read_part(str(write(tmp_path / "set")), BOXES)
    assert boxes_of(made) == {name: [(k, tuple(map(float, b))) for k, b in boxes] for name, boxes in GIVEN.items()}
    assert all((row.values["width"], row.values["height"]) == SIZE for row in made.rows)
    assert len(made.notes) == (1 if write is cvat else 0)
    if write is not label_studio and write is not cvat:
        place = tmp_path / "packed.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in sorted((tmp_path / "set").rglob("*")):
                archive.write(file, Path("top") / file.relative_to(tmp_path / "set"))
        assert boxes_of(read_part(str(place), BOXES)) == boxes_of(made)


def test_sizes_of_zero_and_boxes_without_area_are_repaired_and_counted(tmp_path: Path) -> None:
    folder = voc(tmp_path / "set", size=(0, 0))
    file = folder / "Annotations" / "b.xml"
    file.write_text(file.read_text().replace("<xmax>40<", "<xmax>1<"))
    made = read_part(str(folder), BOXES)
    assert [row.values["width"] for row in made.rows] == [40, 40]
    assert made.rows[1].values["boxes"] == []
    assert sorted(note.split(" (")[0] for note in made.notes) == [
        "1 boxes without an area left away",
        "2 sizes of 0 replaced by the picture's own",
    ]


def test_faults_of_boxes_name_file_and_line(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "yolo")
    labels = folder / "train" / "labels" / "a.txt"
    for line, says in (("7 .5 .5 .1 .1", "class 7"), ("0 nan .5 .1 .1", "no usable number"), ("0 .5 .5", "3 values")):
        labels.write_text(f"0 .5 .5 .1 .1\n{line}\n")
        with pytest.raises(DataError, match=says) as caught:
            read_part(str(folder), BOXES)
        assert caught.value.where == f"{labels}:2"
    labels.unlink()
    assert boxes_of(read_part(str(folder), BOXES))["a.png"] == []  # no label file: nothing to be seen
    with pytest.raises(DataError, match="names no test part"):
        read_part(str(folder), BOXES, part="test")
    with pytest.raises(DataError, match="no boxes were found"):
        read_part(str(pictures(tmp_path / "bare")), BOXES, targets=True)
    bomb = voc(tmp_path / "voc") / "Annotations" / "a.xml"
    bomb.write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>')
    with pytest.raises(DataError, match="XML entity"):
        read_part(str(tmp_path / "voc"), BOXES)
    bomb.write_text('<?xml version="1.0" encoding="nobody-9"?><annotation/>')
    with pytest.raises(DataError, match="unknown encoding 'nobody-9'"):
        read_part(str(tmp_path / "voc"), BOXES)
    (folder / "data.yaml").write_text("names: cat\ntrain: train/images\n")
    with pytest.raises(DataError, match="has no 'names'"):
        read_part(str(folder), BOXES)


def test_tables_name_pictures_or_hold_them(tmp_path: Path) -> None:
    pictures(tmp_path / "p")
    (tmp_path / "t.csv").write_text("image,label,id\np/a.png,cat,1\np/b.png,dog,2\n")
    made = read_part(str(tmp_path / "t.csv"), CLASSES, targets=True)
    assert [(Path(r.values["image"]).name, r.values["label"], r.values["id"]) for r in made.rows] == [
        ("a.png", "cat", "1"),
        ("b.png", "dog", "2"),
    ]
    (tmp_path / "bad.csv").write_text("image,label\np/a.png,cat\np/c.png,dog\n")
    with pytest.raises(DataError, match="is not there") as caught:
        read_part(str(tmp_path / "bad.csv"), CLASSES)
    assert caught.value.where.endswith("bad.csv:3")
    import pyarrow
    import pyarrow.parquet

    data = (tmp_path / "p" / "a.png").read_bytes()
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [{"bytes": data, "path": None}], "label": ["cat"]}), tmp_path / "t.parquet"
    )
    (row,) = read_part(str(tmp_path / "t.parquet"), CLASSES).rows
    assert Path(row.values["image"]).read_bytes() == data
    pyarrow.parquet.write_table(pyarrow.table({"img": [{"bytes": data, "path": None}]}), tmp_path / "u.parquet")
    (row,) = stream_part(str(tmp_path / "u.parquet"), Wanted("image-classification", {"image": "img"}, inputs=True))
    assert row.values["img"] == row.values["image"]  # a path, which every output can hold
    (tmp_path / "r").mkdir()
    pictures(tmp_path / "r")
    (tmp_path / "r" / "_classes.csv").write_text("filename, cat, dog\na.png, 1, 0\nb.png, 1, 1\n")
    made = read_part(str(tmp_path / "r"), CLASSES)
    assert [row.values["label"] for row in made.rows] == ["cat"]
    assert [entry.reason for entry in made.left_out] == ["none or several classes"]


def test_labels_of_pictures_have_other_names_wherever_they_stand(tmp_path: Path) -> None:
    """A label column of any name, class folders and one-hot columns beside it: what the task reads is what is renamed."""
    pictures(tmp_path / "p")
    (tmp_path / "t.csv").write_text("file,class\np/a.png,husky\np/b.png,tabby\n")
    for name in ("husky", "tabby"):
        pictures(tmp_path / "folders" / name, ["a.png"])
    pictures(tmp_path / "r")
    (tmp_path / "r" / "_classes.csv").write_text("filename,husky,tabby\na.png,1,0\nb.png,0,1\n")
    wanted = Wanted("image-classification", {"image": "file", "label": "class"})
    for given in ("t.csv", "folders", "r"):
        rows = read_part(str(tmp_path / given), wanted, targets=True).rows
        made = renamed(rows, wanted, {"husky": "dog", "tabby": "cat"})
        assert [row.values["label"] for row in made] == ["dog", "cat"], given
        assert [label for row in rows for label in labels_of(row, wanted, None)] == ["husky", "tabby"]
        assert [row.values["label"] for row in only(made, wanted, ["dog"], where="x")[0]] == ["dog"]


def test_archives_are_unpacked_once_and_cannot_reach_outside(tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "cat")
    pictures(tmp_path / "set" / "dog")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "set", "set")
    for _ in range(2):
        assert len(read_part(str(tmp_path / "a.tar.xz"), CLASSES).rows) == 4
    for name in ("../out.png", "/tmp/out.png", "a/../../out.png", "c:\\out.png"):
        with zipfile.ZipFile(tmp_path / "slip.zip", "w") as bad:
            bad.writestr(zipfile.ZipInfo(name), b"x")
        with pytest.raises(DataError, match="leads outside"):
            read_part(str(tmp_path / "slip.zip"), CLASSES)
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="no plain file"):
        read_part(str(tmp_path / "link.tar"), CLASSES)
    with tarfile.open(tmp_path / "cut.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("cat/a.png")
        info.size = 1000
        tar.addfile(info, io.BytesIO(bytes(1000)))
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "cut.tar.gz").read_bytes()[:60])
    with pytest.raises(DataError):
        read_part(str(tmp_path / "cut.tar.gz"), CLASSES)


def test_like_pictures_lying_names_and_odd_sizes_are_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    for seed in range(4):
        blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((96, 96)).save(tmp_path / f"{seed}.png")
    Image.fromarray(noise).resize((96, 96)).save(tmp_path / "again.jpg", quality=70)
    Image.fromarray(noise).resize((200, 30)).save(tmp_path / "long.jpg", format="PNG")
    Image.new("RGB", (64, 64)).save(tmp_path / "flat.png")
    train = [(str(tmp_path / f"{seed}.png"), f"t:{seed}", f"{seed}") for seed in range(4)]
    train.append((str(tmp_path / "flat.png"), "t:9", "flat"))
    test = [(str(tmp_path / "again.jpg"), "e:1", "again"), (str(tmp_path / "long.jpg"), "e:2", "long")]
    test.append((str(tmp_path / "0.png"), "e:3", "0"))  # the same file is a leak, which is told as such
    findings = list(picture_findings({"train": train, "test": test}))
    found = {finding.name: finding.rows for finding in findings}
    assert found["wrong-suffix"] == ("e:2",)
    assert found["odd-size"] == ("e:2",)
    across, inside = (finding for finding in findings if finding.name == "like-pictures")
    assert (across.rows, inside.rows) == (("e:1", "e:2"), ("e:2", "e:3"))
    assert across.message == "2 pictures of test look like one of train, such as again.jpg like 0.png."


def test_twelve_bits_in_a_file_of_sixteen_are_told(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 4095, 60), (40, 1))
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "dark.png")
    Image.fromarray((ramp * 16).astype(np.uint16)).save(tmp_path / "whole.png")
    files = [(str(tmp_path / f"{name}.png"), f"t:{name}", name) for name in ("dark", "whole")]
    (found,) = (finding for finding in picture_findings({"train": files}) if finding.name == "dark-pictures")
    assert (found.severity, found.rows) == ("warning", ("t:dark",))
    assert "12 bits" in found.remedy


def test_blobs_of_one_hash_are_not_taken_for_one_picture(tmp_path: Path) -> None:
    """A dark blob before noise: the hash follows the blob, which all such pictures have."""
    looks = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        radii = generator.uniform(0.2, 0.9, 2)
        blob = 200 - generator.uniform(20, 150) * np.exp(-((x / radii[0]) ** 2 + (y / radii[1]) ** 2))
        Image.fromarray(blob.astype(np.uint8)).save(tmp_path / f"{seed}.png")
        looks.append(look_at(str(tmp_path / f"{seed}.png")))
    hashes = [look.hashed for look in looks]
    alike = sum((a ^ b).bit_count() <= 2 for a, b in itertools.combinations(hashes, 2))
    assert alike >= 5
    assert sum(len(others) for _, others in like_pictures(looks)) < alike
    # The very blob in other brightness and contrast, smaller and saved with loss, still is.
    with Image.open(tmp_path / "0.png") as picture:
        picture.resize((40, 40)).point(lambda value: int(value * 0.7 + 20)).save(tmp_path / "again.jpg", quality=60)
    ((place, others),) = like_pictures([looks[0], look_at(str(tmp_path / "again.jpg"))])
    assert (place, others.tolist()) == (0, [1])


def test_crowds_of_like_pictures_cost_little(tmp_path: Path) -> None:
    """A camera that does not move: every picture is like every other."""
    generator = np.random.default_rng(0)
    scenes = generator.integers(0, 255, (3, 256))

    def look(scene: int) -> PictureLook:
        grey = np.clip(scenes[scene] + generator.normal(0, 3, 256), 0, 255).astype(np.uint8).tobytes()
        return PictureLook((1 << 20) + scene, grey, "PNG", 640, 480, 255)

    looks = [look(number % 2) for number in range(1500)] + [look(2), PictureLook(0, bytes(256), "PNG", 640, 480, 0)]
    before = time.process_time()
    pairs = chained_pictures(looks)
    assert time.process_time() - before < 5, "of every pair by itself it takes 20 seconds"
    assert len(pairs) == 2 * 749
    root = together([str(number) for number in range(len(looks))], [None] * len(looks), pairs)
    assert Counter(root) == {0: 750, 1: 750, 1500: 1, 1501: 1}
    few = looks[:40]
    listed = [(place, other) for place, others in like_pictures(few) for other in others.tolist()]
    assert listed == [(a, b) for a, b in itertools.combinations(range(40), 2) if a % 2 == b % 2]
    for first in (1, 2, 30):
        assert {b for a, b in chained_pictures(few) if a < first <= b} == {b for a, b in listed if a < first <= b}
