"""Boxes in JSON that is no COCO: Label Studio's two exports, and rows of image, boxes and labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from domaintune.data.box_pictures import BoxPicture, Found, Passed, Unmarked, box_number, finished
from domaintune.data.picture_tables import picture_path
from domaintune.data.pictures import PICTURE_SUFFIXES, find_picture
from domaintune.data.rows import Entry, LeftOut, Row, Wanted
from domaintune.errors import DataError

FOLDERS = ("", "images", "upload", "media/upload")
UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of a file that was uploaded."""
LABEL_KEYS = ("category", "category_name", "categories", "label", "labels", "class", "name")
NOT_ANNOTATED = "not annotated"


def box_rows(rows: Iterable[Entry], wanted: Wanted, folder: Path) -> Iterator[Entry]:
    """Rows of boxes out of rows of JSON: Label Studio's JSON (`data` with `annotations`) and JSON_MIN, whose rectangles are in
    percent of the picture; or rows that have `boxes` and `labels` already, or `objects` as data sets of the Hub do. Rows of pictures
    alone where boxes need not be there (`finished`).

    Raises:
        DataError: none of these, a picture that is not there, a rectangle that cannot be read.
    """
    yield from finished(_found(rows, wanted, folder), wanted)


def _found(rows: Iterable[Entry], wanted: Wanted, folder: Path) -> Iterator[Found]:
    for row in rows:
        if not isinstance(row, Row):
            yield row
        elif "boxes" in row.values or "objects" in row.values:
            boxes = {} if "boxes" in row.values else _objects(row)
            image = picture_path(row.values.get(wanted.column("image")), row, folder)
            yield Row({**row.values, **boxes, "image": image}, row.file, row.line)
        else:
            yield from _label_studio(row, wanted, folder)


def _objects(row: Row) -> dict[str, Any]:
    """Boxes and labels of a column `objects`, as data sets of the Hub have them: a list of objects, or an object of lists."""
    objects = row.values["objects"]
    if isinstance(objects, dict) and all(isinstance(values, list) for values in objects.values()):
        known = {key: values for key, values in objects.items() if key in ("bbox", "iscrowd", *LABEL_KEYS)}
        known = {key: values for key, values in known.items() if values or not known.get("bbox")}
        if len({len(values) for values in known.values()}) > 1:
            told = ", ".join(f"{len(values)} of '{key}'" for key, values in known.items())
            raise DataError(f"'objects' has {told}.", where=row.where, remedy="Give as many of each.")
        objects = [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]
    if not isinstance(objects, list) or not all(isinstance(entry, dict) and "bbox" in entry for entry in objects):
        raise DataError("'objects' has no 'bbox'.", where=row.where, remedy="Give columns image, boxes and labels.")
    key = next((key for key in LABEL_KEYS if objects and key in objects[0]), LABEL_KEYS[0])
    made = {"boxes": [e["bbox"] for e in objects], "labels": [str(e.get(key, "")) for e in objects]}
    return made | ({"crowd": [bool(e["iscrowd"]) for e in objects]} if all("iscrowd" in e for e in objects) else {})


def _label_studio(row: Row, wanted: Wanted, folder: Path) -> Iterator[Found]:
    data, annotations = row.values.get("data"), row.values.get("annotations")
    if isinstance(data, dict) and isinstance(annotations, list):
        live = [entry for entry in annotations if isinstance(entry, dict) and not entry.get("was_cancelled")]
        yield from (Passed("further annotations of a picture unused", row.where) for _ in live[1:])
        chosen = next((entry for entry in live if entry.get("ground_truth")), live[0] if live else None)
        results = chosen.get("result") if chosen else None
    else:
        data = row.values
        marked = [value for value in data.values() if isinstance(value, list)]
        results = [shape for shapes in marked for shape in shapes] if marked or "annotation_id" in data else None
    name = _picture_name(data, wanted)
    if name is None and (
        isinstance(results, list) or not isinstance(data.get(wanted.column("image")), Mapping | bytes)
    ):
        raise DataError(
            f"no boxes and no picture of Label Studio (columns: {', '.join(map(str, row.values))}).",
            where=row.where,
            remedy="Export JSON or JSON_MIN, or write image, boxes and labels; --image-column names the picture's.",
        )
    if not isinstance(results, list):
        left_out = LeftOut(NOT_ANNOTATED, row.file, row.line)
        yield Unmarked(lambda: _bare(row, data.get(wanted.column("image")), name, folder), left_out)
        return
    assert name is not None
    picture = BoxPicture(_file(name, row, folder), row.file, row.line)
    for result in results:
        shape = _shape(result)
        labels = shape.get("rectanglelabels") or (shape.get("labels") if "width" in shape else None)
        if not isinstance(labels, list) or not labels or shape.get("rotation") or shape.get("image_rotation"):
            yield Passed("shapes that are no upright rectangles passed over", row.where)
            continue
        size = [box_number(shape.get(f"original_{side}"), row.where, side) for side in ("width", "height")]
        x, y, wide, high = (box_number(shape.get(key), row.where, key) / 100 for key in ("x", "y", "width", "height"))
        picture.size = int(size[0]), int(size[1])
        picture.add_([x * size[0], y * size[1], wide * size[0], high * size[1]], str(labels[0]), row.line)
    yield picture


def _bare(row: Row, held: Any, name: str | None, folder: Path) -> Row:
    """The row of a picture alone: of what its column holds, or else of the address of Label Studio that is `name`."""
    try:
        image = picture_path(held, row, folder)
    except DataError:
        if name is None:
            raise
        image = str(_file(name, row, folder))
    values = {key: image if value is held and not isinstance(held, str) else value for key, value in row.values.items()}
    return Row({**values, "image": image}, row.file, row.line)


def _shape(result: Any) -> Mapping[str, Any]:
    """Of JSON the value lies in it, in JSON_MIN it is the shape."""
    if not isinstance(result, dict):
        return {}
    value = result.get("value")
    return {**result, **value} if isinstance(value, dict) else result


def _picture_name(data: Mapping[str, Any], wanted: Wanted) -> str | None:
    """The path in the address of the picture: of the user's column, else of the first that is a picture by its name."""
    named = data.get(wanted.column("image"))
    paths = [_path_of(value) for value in data.values() if isinstance(value, str)]
    if isinstance(named, str) and named.strip():
        return _path_of(named)
    return next((path for path in paths if PurePosixPath(path).suffix.lower() in PICTURE_SUFFIXES), None)


def _path_of(address: str) -> str:
    """Of /data/upload/3/ab12cd34-name.jpg, s3://bucket/name.jpg, or /data/local-files/?d=folder/name.jpg."""
    try:
        parts = urlparse(address)
    except ValueError:
        return address
    return unquote(parse_qs(parts.query).get("d", [parts.path])[0])


def _file(name: str, row: Row, folder: Path) -> Path:
    base = PurePosixPath(name.replace("\\", "/")).name
    names = (name.lstrip("/"), base, UPLOAD_PREFIX.sub("", base, count=1))
    return find_picture(base, [folder / inner for inner in FOLDERS], where=row.where, other_names=names)
