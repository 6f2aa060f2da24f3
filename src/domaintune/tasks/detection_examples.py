"""Rows of boxes -> typed, checked examples; boxes in the forms that data, model and user want. No model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from domaintune.data.pictures import PictureFacts, examine_pictures
from domaintune.data.rows import Row
from domaintune.errors import DataError
from domaintune.tasks.base import Example
from domaintune.tasks.classification import label_index

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class DetectionExample(Example):
    """A picture and its boxes.

    `width` and `height` are those of the picture as it is shown: a rotation in its EXIF data is applied, and boxes are in those
    pixels. `boxes` are x, y, width, height, cut at the picture's edges; `labels` are positions in the task's label map; `crowd`
    marks regions with many objects, which are not trained on and not counted. `clipped` counts boxes that reached outside. `by_base`:
    the boxes are those that the base shows.
    """

    image: str
    width: int
    height: int
    boxes: tuple[Box, ...] = ()
    labels: tuple[int, ...] = ()
    crowd: tuple[bool, ...] = ()
    clipped: int = 0
    by_base: bool = False
    sha256: str


def read_examples(rows: Iterable[Row], labels: tuple[str, ...], *, labelled: bool) -> Iterator[DetectionExample]:
    """Rows as examples; their pictures are decoded once, coarsely, so that broken ones are found before training.

    Raises:
        DataError: pictures are missing or broken, all of which are named; where boxes are read, it is of another size than the row says, a box has not four
            numbers, no area, lies outside the picture or has an unknown label. Names file and line.
    """
    rows = list(rows)
    for row, facts in zip(rows, examine_pictures((row.text("image"), row.where) for row in rows), strict=True):
        yield _example(row, facts, labels, labelled=labelled)


def _example(row: Row, facts: PictureFacts, labels: tuple[str, ...], *, labelled: bool) -> DetectionExample:
    path = row.text("image")
    found: list[tuple[Box, int, bool, bool]] = []
    if labelled:
        _check_size(row, path, facts.width, facts.height)
        names, crowds = box_labels(row), _crowds(row)
        for number, (value, name, crowd) in enumerate(zip(_boxes(row), names, crowds, strict=True), start=1):
            where = _place(row, number)
            box = _numbers(value, where, number)
            inside = _inside(box, facts.width, facts.height, where, number)
            found.append((inside, label_index(name, labels, where=where), crowd, inside != box))
    return DetectionExample(
        file=row.file,
        line=row.line,
        image=path,
        width=facts.width,
        height=facts.height,
        boxes=tuple(box for box, _, _, _ in found),
        labels=tuple(label for _, label, _, _ in found),
        crowd=tuple(crowd for _, _, crowd, _ in found),
        clipped=sum(cut for _, _, _, cut in found),
        sha256=facts.sha256,
    )


def box_labels(row: Row) -> list[str]:
    """The label of every box of a row.

    Raises:
        DataError: no list of names, or another number of names than of boxes.
    """
    names = row.values.get("labels")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError("'labels' must be a list with one name a box.", where=row.where, remedy="Name every box.")
    if len(names) != len(_boxes(row)):
        raise DataError(
            f"{len(_boxes(row))} boxes but {len(names)} labels.", where=row.where, remedy="Give one label a box."
        )
    return names


def _boxes(row: Row) -> list[Any]:
    boxes = row.values.get("boxes")
    if not isinstance(boxes, list):
        raise DataError(
            "no 'boxes'.",
            where=row.where,
            remedy="Give a list of [x, y, width, height]; an empty one for a picture without.",
        )
    return boxes


def _crowds(row: Row) -> list[bool]:
    crowds = row.values.get("crowd")
    if crowds is None:
        return [False] * len(_boxes(row))
    if not isinstance(crowds, list) or len(crowds) != len(_boxes(row)):
        raise DataError(
            "'crowd' must be a list with one entry a box.", where=row.where, remedy="Mend it, or leave it out."
        )
    return [bool(crowd) for crowd in crowds]


def _place(row: Row, number: int) -> str:
    """Where box `number` (from 1) stands: its own line, where the reader gave one."""
    lines = row.values.get("lines")
    if isinstance(lines, list) and len(lines) >= number:
        return f"{row.file}:{lines[number - 1]}"
    return row.where


def _check_size(row: Row, path: str, width: int, height: int) -> None:
    said = (row.values.get("width"), row.values.get("height"))
    if said == (None, None) or said == (width, height):
        return
    turned = " Its EXIF data turn it by a quarter." if said == (height, width) else ""
    raise DataError(
        f"the picture is {width} x {height} pixels, the row says {said[0]} x {said[1]}.{turned}",
        where=row.where,
        remedy=f"Boxes would stand in the wrong place: correct width and height (and the boxes), or the file '{path}'.",
    )


def _numbers(value: Any, where: str, number: int) -> Box:
    numeric = isinstance(value, list | tuple) and all(
        isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part) for part in value
    )
    if not numeric or len(value) != 4:
        raise DataError(
            f"box {number} is {value!r}.", where=where, remedy="A box is four finite numbers: x, y, width, height."
        )
    x, y, width, height = (float(part) for part in value)
    if width <= 0 or height <= 0:
        raise DataError(
            f"box {number} is {width:g} x {height:g} pixels.",
            where=where,
            remedy="Width and height must be above 0: take the box out, or correct it (x, y, width, height; not two corners).",
        )
    return x, y, width, height


def _inside(box: Box, width: int, height: int, where: str, number: int) -> Box:
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        raise DataError(
            f"box {number} {list(box)} lies outside the picture of {width} x {height} pixels.",
            where=where,
            remedy="Take the box out, or correct it (x, y, width, height in pixels; not shares, not two corners).",
        )
    return left, top, right - left, bottom - top


def to_shares(example: DetectionExample) -> tuple[np.ndarray, np.ndarray]:
    """What a detector is trained on: boxes [n, 4] as centre x, centre y, width, height in shares of the picture (float64), and
    classes [n]; without crowds."""
    kept = [i for i, crowd in enumerate(example.crowd) if not crowd]
    boxes = np.array([example.boxes[i] for i in kept], dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] += boxes[:, 2:] / 2
    shares = boxes / np.array([example.width, example.height] * 2, dtype=np.float64)
    return shares, np.array([example.labels[i] for i in kept], dtype=np.int64)


def to_pixels(boxes: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """A detector's boxes [n, 4] (centre and size in shares) -> x, y, width, height in pixels (float64), cut at the edges."""
    boxes = boxes.astype(np.float64)
    low = (boxes[:, :2] - boxes[:, 2:] / 2).clip(0, 1)
    high = (boxes[:, :2] + boxes[:, 2:] / 2).clip(0, 1)
    return np.concatenate([low, high - low], axis=1) * np.array([width, height] * 2, dtype=np.float64)
