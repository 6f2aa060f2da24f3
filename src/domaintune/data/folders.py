"""Pictures as rows: a folder of class folders, and COCO JSON with its pictures. Files are named here, not opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domaintune.data.pictures import PICTURE_SUFFIXES, find_picture, readable_size
from domaintune.data.rows import Declared, LeftOut, Row, Wanted
from domaintune.data.sources import Source, entries_of
from domaintune.data.tables import parse_json
from domaintune.errors import DataError

COCO_KEYS = ("images", "annotations", "categories")
SAME_FILE = "of the same file as an earlier image, which has their boxes"


def read_class_folders(path: Path, wanted: Wanted) -> list[Row]:
    """Rows {"image": path, "label": folder name}, also under the user's names of these, in sorted order; a row's file is its class
    folder, its line the picture's number there. A folder that holds pictures alone gives rows without a label.

    Hidden files, and those that desktops leave behind, are passed over.

    Raises:
        DataError: no pictures, an empty class folder, pictures beside class folders, a file that is no picture, a deeper folder.
    """
    entries = entries_of(path)
    classes = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if not entry.is_dir()]
    if not entries:
        raise DataError(
            "the folder is empty.",
            where=str(path),
            remedy="Give one folder of pictures a class: FOLDER/class/picture.jpg.",
        )
    if not classes:
        return [Row(_named("image", str(file), wanted), str(path), number) for number, file in _pictures(path)]
    if loose:
        raise DataError(
            f"'{loose[0].name}' stands beside class folders ({classes[0].name}, ...).",
            where=str(path),
            remedy="Move it into its class's folder, or out of this one.",
        )
    return [
        Row(_named("image", str(file), wanted) | _named("label", folder.name, wanted), str(folder), number)
        for folder in classes
        for number, file in _pictures(folder)
    ]


def _named(name: str, value: str, wanted: Wanted) -> dict[str, str]:
    return {name: value, wanted.column(name): value}


def holds_pictures_alone(folder: Path) -> bool:
    entries = entries_of(folder)
    return bool(entries) and all(entry.suffix.lower() in PICTURE_SUFFIXES for entry in entries)


def _pictures(folder: Path) -> list[tuple[int, Path]]:
    files = entries_of(folder)
    if not files:
        raise DataError("the class folder is empty.", where=str(folder), remedy="Add pictures, or remove the folder.")
    for file in files:
        if file.suffix.lower() not in PICTURE_SUFFIXES or file.is_dir():
            raise DataError(
                f"'{file.name}' is a folder." if file.is_dir() else f"'{file.name}' is no picture by its name.",
                where=str(folder),
                remedy=f"A class folder holds pictures alone ({', '.join(sorted(PICTURE_SUFFIXES))}).",
            )
    return list(enumerate(files, start=1))


def read_coco(path: Path, wanted: Wanted) -> list[Row | Declared | LeftOut]:
    """The categories, and rows {"image", "width", "height", "boxes": [[x, y, width, height], ...] in pixels, "labels", "crowd"} in the order of the
    JSON's images; a row's line is the picture's number there. Boxes are as they stand in the file, faults included.

    Pictures are looked for in the folder named as the JSON, beside it, and in `images/`; those of annotations/instances_NAME.json
    beside its folder too, in `NAME/` and `images/`, as COCO is laid out. Width and height that the JSON lacks are those of the
    picture. Images of one file are one picture, the later ones left out. A file without the list of annotations gives pictures alone, where boxes
    need not be there.

    Raises:
        DataError: not COCO, no pictures, a picture that is not there, an annotation of an unknown picture or category or whose box
            is not four finite numbers.
    """
    with Source(path).text() as stream:
        content = parse_json(stream.read(), where=str(path))
    bare = isinstance(content, dict) and "annotations" not in content and (wanted.inputs or not wanted.targets)
    if not isinstance(content, dict) or any(
        not isinstance(content.get(k), list) for k in COCO_KEYS[: 1 if bare else 2]
    ):
        raise DataError(
            "not a COCO file: it needs the lists 'images', 'annotations' and 'categories'.",
            where=str(path),
            remedy="Rows of other tasks go into a .jsonl file, one object a line.",
        )
    images = _images(path, content["images"], bare=bare)
    rows = list({row.values["image"]: row for row in images.values()}.values())
    lines = {row.line for row in rows}
    again = [LeftOut(SAME_FILE, str(path), n) for n in range(1, len(images) + 1) if n not in lines]
    if bare:
        return [*again, *rows]
    names = _categories(content.get("categories"), str(path))
    for number, annotation in enumerate(content["annotations"], start=1):
        _add_(images, names, annotation, number, str(path))
    return [*again, Declared(names), *rows]


def _identifier(entry: object, key: str, what: str, where: str) -> int | str:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if isinstance(value, int | str):
        return value
    raise DataError(
        f"{what} has no usable '{key}' (got {value!r:.40}).", where=where, remedy="It must be a whole number or text."
    )


def _categories(entries: object, where: str) -> dict[int | str, str]:
    if not isinstance(entries, list) or not entries:
        raise DataError("no categories.", where=where, remedy='Give "categories": [{"id": 1, "name": "..."}, ...].')
    names: dict[int | str, str] = {}
    for number, entry in enumerate(entries, start=1):
        key = _identifier(entry, "id", f"category {number}", where)
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"category {number} (id {key}) has no name.", where=where, remedy="Name it.")
        if key in names:
            raise DataError(f"two categories have the id {key}.", where=where, remedy="Give each its own.")
        names[key] = name
    return names


def _images(path: Path, entries: Sequence[Any], *, bare: bool) -> dict[int | str, Row]:
    """Rows by the images' ids, those of one file one; without any boxes yet, or where they are `bare` without lists of them."""
    if not entries:
        raise DataError("the file lists no images.", where=str(path), remedy="Give at least one.")
    images: dict[int | str, Row] = {}
    files: dict[str, Row] = {}
    places = [path.with_suffix(""), path.parent, path.parent / "images"]
    if path.parent.name == "annotations":
        root, part = path.parent.parent, path.stem.removeprefix("instances_")
        places += [root / part, root / "images" / part, root / "images", root]
    for number, entry in enumerate(entries, start=1):
        where = f"{path}:{number}"
        key = _identifier(entry, "id", f"image {number}", where)
        if key in images:
            raise DataError(f"two images have the id {key}.", where=where, remedy="Give each its own.")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"image {number} (id {key}) has no 'file_name'.", where=where, remedy="Name its file.")
        file = find_picture(name, places, where=where)
        width, height = entry.get("width"), entry.get("height")
        if not (_is_size(width) and _is_size(height)):
            width, height = readable_size(str(file)) or (None, None)
        boxes: dict[str, list[Any]] = {} if bare else {"boxes": [], "labels": [], "crowd": []}
        row = Row({"image": str(file), "width": width, "height": height, **boxes}, str(path), number)
        images[key] = files.setdefault(str(file), row)
    return images


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _add_(
    images: Mapping[int | str, Row], names: Mapping[int | str, str], entry: object, number: int, path: str
) -> None:
    what = f"annotation {number}"
    key = _identifier(entry, "image_id", what, path)
    category = _identifier(entry, "category_id", what, path)
    assert isinstance(entry, Mapping)
    if key not in images:
        raise DataError(
            f"{what} belongs to an unknown image (image_id {key!r:.40}).",
            where=path,
            remedy="Add the image, or drop it.",
        )
    row = images[key]
    if category not in names:
        raise DataError(
            f"{what} has an unknown category (category_id {category!r:.40}; known: {', '.join(map(str, names)):.80}).",
            where=row.where,
            remedy="Add the category, or drop the annotation.",
        )
    row.values["boxes"].append(_box(entry.get("bbox"), what, row.where))
    row.values["labels"].append(names[category])
    row.values["crowd"].append(bool(entry.get("iscrowd", 0)))


def _box(value: object, what: str, where: str) -> list[float]:
    numbers = value if isinstance(value, list) else []
    try:
        box = [float(number) for number in numbers if isinstance(number, int | float) and not isinstance(number, bool)]
    except OverflowError:  # an integer beyond every float
        box = []
    if len(numbers) != 4 or len(box) != 4 or not all(map(math.isfinite, box)):
        raise DataError(
            f"{what} has no usable box (got {value!r:.60}).",
            where=where,
            remedy='Write "bbox": [x, y, width, height] in pixels.',
        )
    return box
