"""Broken files of every format: each gives rows or one clear error, never anything else; whole ones lose no entry silently. The
command in a process of its own ends with 0, 1 or 2 on them, and never with a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_base

from domaintune.data.formats import read_part
from domaintune.data.rows import Wanted
from domaintune.errors import DataError

CASES_A_FORMAT = 55
ROWS = 12


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), "red").save(stream, "PNG")
    return stream.getvalue()


def lines(rows: list[object]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


TABLE = "text,label\n" + "".join(f'"Größe {i}, 服务很好",l{i % 3}\n' for i in range(ROWS))
COCO = {
    "images": [{"id": i, "file_name": "p.png", "width": 12, "height": 8} for i in range(ROWS)],
    "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(ROWS)],
    "categories": [{"id": 1, "name": "cat"}],
}
VOC = (
    "<annotation><filename>p.png</filename><size><width>12</width><height>8</height></size><object><name>cat</name>"
    + ("<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>")
)
XLIFF = "<xliff version='1.2'><file><body>" + (
    "<trans-unit id='1'><source>Hello</source><target>Hallo</target></trans-unit>" * ROWS + "</body></file></xliff>"
)
TMX = "<tmx><header srclang='en'/><body>" + (
    "<tu><tuv xml:lang='en'><seg>Hello</seg></tuv><tuv xml:lang='de'><seg>Hallo</seg></tuv></tu>" * ROWS
    + "</body></tmx>"
)
SHAPE = {
    "x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": ["cat"], "original_width": 12, "original_height": 8
}  # fmt: skip
STUDIO = [{"data": {"image": "p.png"}, "annotations": [{"result": [{"value": SHAPE, **SHAPE}]}]}] * ROWS
# name -> task, content, entries in it
FORMATS: dict[str, tuple[str, bytes, int]] = {
    "a.csv": ("text-classification", TABLE.encode(), ROWS),
    "utf16.csv": ("text-classification", TABLE.encode("utf-16"), ROWS),
    "a.tsv": ("text-classification", TABLE.replace(",", "\t").encode(), ROWS),
    "a.csv.gz": ("text-classification", gzip.compress(TABLE.encode()), ROWS),
    "a.jsonl": ("text-classification", lines([{"text": f"a {i}", "label": "x"} for i in range(ROWS)]), ROWS),
    "a.json": (
        "text-classification",
        json.dumps([{"text": f"a {i}", "label": "x"} for i in range(ROWS)]).encode(),
        ROWS,
    ),
    "n.jsonl": ("token-classification", lines([{"tokens": ["a", "b"], "tags": ["B-X", "O"]}] * ROWS), ROWS),
    "n.conll": ("token-classification", b"Anna B-PER\nsleeps O\n\n" * ROWS, ROWS),
    "spans.jsonl": ("token-classification", lines([{"text": "Anna sleeps", "label": [[0, 4, "PER"]]}] * ROWS), ROWS),
    "prodigy.jsonl": (
        "token-classification",
        lines([{"text": "Anna", "spans": [], "answer": a} for a in ("accept", "reject", "ignore")]),
        3,
    ),
    "de.po": ("translation", b'msgid "Open %s"\nmsgstr "%s auf"\n\n#, fuzzy\nmsgid "b"\nmsgstr "c"\n', 2),
    "a.tmx": ("translation", TMX.encode(), ROWS),
    "a.xlf": ("translation", XLIFF.encode(), ROWS),
    "t.jsonl": ("translation", lines([{"source": "a", "target": "b"}] * ROWS), ROWS),
    "chat.jsonl": (
        "generation",
        lines([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * ROWS),
        ROWS,
    ),
    "g.txt": ("generation", b"one line\n" * ROWS, ROWS),
    "coco.json": ("object-detection", json.dumps(COCO).encode(), ROWS),
    "boxes.csv": ("object-detection", b"filename,class,xmin,ymin,xmax,ymax\np.png,cat,1,1,5,5\n", 1),
    "cvat.xml": (
        "object-detection",
        b"<annotations><image name='p.png' width='12' height='8'><box label='c' xtl='1' ytl='1' xbr='4' ybr='4'/></image></annotations>",
        1,
    ),
    "studio.json": ("object-detection", json.dumps(STUDIO).encode(), ROWS),
    "min.json": ("object-detection", json.dumps([{"image": "p.png", "label": [SHAPE]}] * ROWS).encode(), ROWS),
    "rows.jsonl": (
        "object-detection",
        lines([{"image": "p.png", "objects": {"bbox": [[1, 1, 4, 4]], "category": ["cat"]}}] * ROWS),
        ROWS,
    ),
    "yolo/labels/p.txt": ("object-detection", b"0 0.5 0.5 0.4 0.4\n" * 3, 1),
    "yolo/data.yaml": ("object-detection", b"train: images\nnc: 1\nnames: [cat]\n", 1),
    "list.txt": ("object-detection", b"./p.png\n" * ROWS, ROWS),
    "voc/a.xml": ("object-detection", VOC.encode(), 1),
}

Mutation = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, r: random.Random) -> bytes:
    return data[: r.randrange(len(data))]


def flipped(data: bytes, r: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(r.randrange(1, 9)):
        made[r.randrange(len(made))] = r.randrange(256)
    return bytes(made)


def dropped(data: bytes, r: random.Random) -> bytes:
    start = r.randrange(len(data))
    return data[:start] + data[start + r.randrange(1, 30) :]


def repeated(data: bytes, r: random.Random) -> bytes:
    start = r.randrange(len(data))
    return data[:start] + data[start : start + 40] * r.randrange(2, 50) + data[start:]


def replaced(data: bytes, r: random.Random) -> bytes:
    pairs = [
        (b",", b";"), (b'"', b""), (b"\n", b"\r"), (b"{", b"["), (b"1", b"1e999"), (b"1", b"NaN"), (b"4", b"-" + b"9" * 400),
        (b"a", b"\xff"), (b"a", b"\0"), (b":", b" "), (b"<", b"<<"), (b"Hallo", b"&x;"), (b"[", b"[" * 3000), (b"cat", b""),
        (b"p.png", b"../../etc/passwd"), (b"p.png", b"a\0b"), (b"p.png", b"x" * 5000), (b"0", b"null"), (b"text", b"t"),
        (b"O", b"I-X"), (b"e", b"\xe2\x80\x8b"), (b"a", "\ud83d".encode("utf-8", "surrogatepass")), (b"a", b"word " * 100_000),
    ]  # fmt: skip
    old, new = r.choice(pairs)
    return data.replace(old, new, r.choice([1, 1, 2]))


def other(data: bytes, r: random.Random) -> bytes:
    bomb = b'<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><x>&c;</x>'
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../x.csv", "a,b\n1,2\n")
    nested = b"[" * 100_000
    return r.choice(
        [b"", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", picture(), bomb, packed.getvalue(), nested, b"{}", b"[]", b"null"]
    )


MUTATIONS: tuple[Mutation, ...] = (cut, flipped, dropped, repeated, replaced, replaced, other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    for place in (made, made / "voc", made / "yolo" / "images"):
        place.mkdir(exist_ok=True, parents=True)
        (place / "p.png").write_bytes(picture())
    for name in FORMATS:  # here, as each test may be a worker's first
        (made / name).parent.mkdir(exist_ok=True, parents=True)
    return made


def path_of(folder: Path, name: str) -> str:
    top, inner, _ = name.partition("/")
    return str(folder / top if inner else folder / name)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_lose_nothing(folder: Path, name: str) -> None:
    task, content, entries = FORMATS[name]
    (folder / name).write_bytes(content)
    made = read_part(path_of(folder, name), Wanted(task), targets=True)
    assert len(made.rows) + len(made.left_out) == entries


@pytest.mark.filterwarnings("ignore")  # what readers of broken bytes warn of
@pytest.mark.parametrize("name", FORMATS)
def test_broken_files_give_rows_or_a_clear_error(folder: Path, name: str) -> None:
    task, content, _ = FORMATS[name]
    generator = random.Random(name)
    refused: list[DataError] = []
    for case in range(CASES_A_FORMAT):
        broken = MUTATIONS[case % len(MUTATIONS)](content, generator)
        (folder / name).write_bytes(broken)
        try:
            read_part(path_of(folder, name), Wanted(task), targets=True)
        except DataError as error:
            refused.append(error)
    assert len(refused) >= CASES_A_FORMAT // 7  # the unreadable ones at least
    assert all(error.where and error.remedy for error in refused)


# --- the command

COMMANDS = ("a.csv", "utf16.csv", "a.csv.gz", "a.jsonl", "n.jsonl", "n.conll", "spans.jsonl", "coco.json", "voc/a.xml", "boxes.csv")  # fmt: skip
FAMILIES = {"text-classification": "bert", "token-classification": "distilbert", "object-detection": "rt-detr-v2"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("broken")
    (made / "voc").mkdir()
    for place in (made, made / "voc"):
        (place / "p.png").write_bytes(picture())
    for task, family in FAMILIES.items():
        base = tiny_base(family, task)
        base.model.save_pretrained(made / task)
        base.processor.save_pretrained(made / task)
    return made


def check(bases: Path, name: str) -> subprocess.CompletedProcess[str]:
    task = FORMATS[name][0]
    command = [sys.executable, "-m", "domaintune", "check", "--task", task, "--base", str(bases / task)]
    return subprocess.run(
        [*command, "--train", path_of(bases, name)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_whole_file_is_checked(bases: Path) -> None:
    (bases / "a.csv").write_bytes(FORMATS["a.csv"][1])
    done = check(bases, "a.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: " in done.stdout


@pytest.mark.parametrize(("number", "name"), list(enumerate(COMMANDS)), ids=str)
def test_broken_files_end_with_a_known_exit_code(bases: Path, number: int, name: str) -> None:
    generator = random.Random(f"command {name}")
    (bases / name).write_bytes(MUTATIONS[number % len(MUTATIONS)](FORMATS[name][1], generator))
    done = check(bases, name)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if done.returncode == 2:
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""
        assert "Data check" in done.stdout
