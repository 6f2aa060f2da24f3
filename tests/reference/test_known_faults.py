"""The faults that the shared sets are known to have are found, with the counts of their README; differences are explained here."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from domaintune.checks.report import report_of
from domaintune.checks.shared import Part, repeats, shared_rows
from domaintune.checks.texts import text_findings
from domaintune.data.formats import read_part, read_rows
from domaintune.data.rows import Row, Wanted
from domaintune.data.splits import normal_form
from domaintune.tasks.base import Keys, Task
from domaintune.tasks.image_classification import ImageClassification
from domaintune.tasks.object_detection import ObjectDetection
from domaintune.tasks.tag_sequences import entities
from domaintune.tasks.unlikely_spans import TaggedRow, unlikely_spans

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
PICTURES = ("imgcls", "detection")
FOLDERS = {"sentiment": "sentiment", "textcls": "textcls", "ner": "ner", "mt": "mt", "instruct": "instruct"}
EXPLAINED: dict[tuple[str, str], dict[str, int]] = {
    ("pros_cons", "train"): {"repeats": 2318, "conflicts": 65},
    ("reddit_goemotions", "train"): {"repeats": 274, "conflicts": 3},
    ("reddit_goemotions", "dev"): {"leaks": 45},
    ("reddit_goemotions", "test"): {"leaks": 38},
    ("banking77", "train"): {"repeats": 30},
    ("banking77", "test"): {"leaks": 28},
    ("ncbi_disease", "train"): {"repeats": 34, "conflicts": 3},
    ("ncbi_disease", "dev"): {"repeats": 0, "conflicts": 0, "leaks": 5},
    ("ncbi_disease", "test"): {"leaks": 1},
    ("uner_en_ewt", "train"): {"repeats": 111, "conflicts": 13},
    ("uner_en_ewt", "test"): {"repeats": 140, "conflicts": 19, "leaks": 109},
    ("godot_ui_en_de", "train"): {"repeats": 228},
    ("godot_ui_en_de", "dev"): {"repeats": 17},
    ("godot_ui_en_zh", "train"): {"repeats": 240},
    ("pydocs_en_zh", "train"): {"repeats": 24, "conflicts": 22},
    ("pydocs_en_zh", "dev"): {"repeats": 1, "conflicts": 1},
    ("pydocs_en_zh", "test"): {"repeats": 6, "conflicts": 4},
    ("raccoon", "train"): {"conflicts": 3},
}
"""(set, part) -> our counts, where they differ from the README's on purpose; docs/known-faults.md says why."""

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")


def known(tasks: Collection[str]) -> list[tuple[str, str, dict[str, dict[str, int]]]]:
    """(task, set, part -> kind -> count) from the README's table."""
    if not SHARED.is_dir():
        return []
    found = []
    for line in (SHARED / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 13 or cells[1] not in tasks or cells[0] == "cifar10":
            continue
        parts: dict[str, dict[str, int]] = {}
        for entry in cells[10].split(";") if cells[10] != "clean" else ():
            name, _, counts = entry.strip().partition(":")
            parts[name] = {kind: int(n) for n, kind in re.findall(r"(\d+) (repeats|conflicting|in train)", counts)}
        found.append((cells[1], cells[0], parts))
    return found


def keys_of(task: str, row: Row) -> Keys:
    v: dict[str, Any] = dict(row.values)
    if task in ("sentiment", "textcls"):
        source, target = v["text"], v["label"]
    elif task == "ner":
        source, target = " ".join(v["tokens"]), " ".join(v["tags"])
    elif task == "mt":
        source, target = v["source"], v["target"]
    else:
        source, target = v["prompt"], v["completion"]
    return Keys(normal_form(source), target, target)


@pytest.mark.parametrize(
    ("task", "name", "expected"), known(FOLDERS), ids=lambda value: value if isinstance(value, str) else ""
)
def test_repeats_conflicts_and_leaks_have_the_known_counts(
    task: str, name: str, expected: dict[str, dict[str, int]]
) -> None:
    suffix = "csv" if task in ("sentiment", "textcls") else "jsonl"
    parts = {}
    for part in ("train", "dev", "test"):
        path = SHARED / FOLDERS[task] / name / f"{part}.{suffix}"
        if path.exists():
            rows = read_rows(str(path))
            parts[part] = Part(part, [keys_of(task, row) for row in rows], [row.where for row in rows])
    compare(name, parts, expected)


def compare(name: str, parts: dict[str, Part], expected: dict[str, dict[str, int]]) -> None:
    for part, seen in parts.items():
        found = {finding.name: finding.count for finding in repeats(seen)}
        if part != "train":
            found |= {finding.name: finding.count for finding in shared_rows(parts["train"], seen)}
        for ours, theirs in (("repeats", "repeats"), ("conflicts", "conflicting"), ("leaks", "in train")):
            want = EXPLAINED.get((name, part), {}).get(ours, expected.get(part, {}).get(theirs, 0))
            assert found.get(ours, 0) == want, (part, ours)


def test_broken_characters_have_the_known_counts() -> None:
    def counts(folder: str, columns: tuple[str, ...], suffix: str) -> dict[str, int]:
        total: dict[str, int] = {}
        for part in ("train", "dev", "test"):
            rows = read_rows(str(SHARED / folder / f"{part}.{suffix}"))
            texts = [tuple(str(row.values[column]) for column in columns) for row in rows]
            for finding in text_findings(part, texts, [row.where for row in rows]):
                total[finding.name] = total.get(finding.name, 0) + finding.count
        return total

    assert counts("sentiment/mr_movie", ("text",), "csv")["control-characters"] == 52
    assert counts("mt/wmt_sample_en_de", ("source", "target"), "jsonl")["replacement-characters"] == 34
    pros_cons = counts("sentiment/pros_cons", ("text",), "csv")
    assert pros_cons["html-entities"] == 527
    assert pros_cons["no-letters"] == 21


PICTURE_SETS = {"bccd_cells": "imgcls", "bccd": "detection", "fruit": "detection", "raccoon": "detection"}
"""The table's cifar10 is a draw from a larger set, which alone is kept."""


@functools.cache
def pictures_of(name: str) -> tuple[Task, dict[str, list[Any]]]:
    """The set's task, made without a base, and its examples by part."""
    folder, detection = SHARED / PICTURE_SETS[name] / name, PICTURE_SETS[name] == "detection"
    wanted = Wanted("object-detection" if detection else "image-classification")
    places = {part: folder / (f"{part}.json" if detection else part) for part in ("train", "dev", "test")}
    rows = {part: read_part(str(place), wanted, part=part).rows for part, place in places.items() if place.exists()}
    everything = [row for part in rows.values() for row in part]
    task: Task
    if detection:
        counts = Counter(label for row in everything for label in row.values["labels"])
        task = ObjectDetection(
            labels=tuple(counts), box_counts=tuple(counts.values()), height=64, width=64, queries=300, flip=True, threshold=0.5,
            max_detections=100, denoising=True,
        )  # fmt: skip
    else:
        labels = tuple(sorted({str(row.values["label"]) for row in everything}))
        task = ImageClassification(labels=labels, weights=None, flip=True, crop=1.0)
    return task, {part: list(task.read(mine)) for part, mine in rows.items()}


@pytest.mark.parametrize(("task", "name", "expected"), known(PICTURES), ids=lambda v: v if isinstance(v, str) else "")
def test_repeats_and_leaks_of_pictures_have_the_known_counts(
    task: str, name: str, expected: dict[str, dict[str, int]]
) -> None:
    made, examples = pictures_of(name)
    parts = {part: Part(part, [made.keys(e) for e in mine], [e.where for e in mine]) for part, mine in examples.items()}
    compare(name, parts, expected)


def test_other_faults_of_picture_sets_have_the_known_counts() -> None:
    def counts(name: str) -> dict[str, int]:
        task, parts = pictures_of(name)
        total: Counter[str] = Counter()
        for finding in report_of(task, parts):
            total[finding.name] += finding.count
        return dict(total)

    assert counts("fruit") == {"wrong-suffix": 14, "clipped-boxes": 7}
    assert counts("bccd") == {"like-pictures": 1}
    assert counts("bccd_cells") == {"like-pictures": 1, "prior-shift": 270}
    assert counts("raccoon")["like-pictures"] == 3


ODD_ENTITIES = {
    "uner_zh_gsdsimp": (10, 10, 7),
    "ncbi_disease": (1, 0, 33),
    "crossner_politics": (1, 2, 5),
    "wnut17": (5, 6, 0),
    "wikigold": (1, 0, 2),
    "uner_en_ewt": (0, 1, 5),
    "sec_finance": (0, 0, 1),
}
"""Set -> `ragged-spans`, `common-word-spans`, `missed-spans`."""


@pytest.mark.parametrize("name", ODD_ENTITIES)
def test_odd_entities_have_the_told_counts(name: str) -> None:
    files = sorted((SHARED / "ner" / name).glob("*.jsonl"))
    rows = [row for file in files for row in read_rows(str(file))]
    tagged = [TaggedRow(row.where, row.values["tokens"], entities(row.values["tags"])) for row in rows]
    found = {finding.name: finding for finding in unlikely_spans(tagged)}
    assert all(finding.severity == "note" for name, finding in found.items() if name != "ragged-spans")
    kinds = ("ragged-spans", "common-word-spans", "missed-spans")
    assert tuple(found[kind].count if kind in found else 0 for kind in kinds) == ODD_ENTITIES[name]
