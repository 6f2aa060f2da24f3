"""Boxes as labelling tools write them: Pascal VOC, YOLO, tables, CVAT, Label Studio, COCO. All become rows as COCO's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree.ElementTree import Element, ParseError

import yaml

from domaintune.data.folders import read_coco
from domaintune.data.pictures import PICTURE_SUFFIXES, examine_picture, find_picture
from domaintune.data.rows import Declared, Entry, Note, Row, Wanted
from domaintune.data.sources import Source
from domaintune.data.tables import parse_json, read_csv
from domaintune.errors import DataError

SPLITS = {"train": ("train",), "dev": ("val", "valid", "validation", "dev"), "test": ("test",)}
FILE_COLUMNS = ("filename", "file_name", "image", "path", "file")
LABEL_COLUMNS = ("class", "label", "category", "name")
PICTURE_FOLDERS = ("", "images", "JPEGImages")


@dataclass(slots=True)
class _Picture:
    """One picture while its boxes are gathered; boxes are x, y, width, height in pixels."""

    path: Path
    file: str
    line: int
    size: tuple[int, int] | None = None
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def row(self) -> Row:
        if self.size is None:
            facts = examine_picture(str(self.path), where=f"{self.file}:{self.line}")
            self.size = facts.width, facts.height
        width, height = self.size
        values = {"image": str(self.path), "width": width, "height": height, "boxes": self.boxes, "labels": self.labels}
        return Row({**values, "crowd": [False] * len(self.boxes)}, self.file, self.line)


def read_boxes(path: Path, wanted: Wanted, part: str) -> Iterator[Entry]:
    """Rows {"image", "width", "height", "boxes", "labels", "crowd"} of whatever the path is: a COCO or Label Studio .json, a .csv
    with one box a line, a CVAT .xml, a YOLO data.yaml, or a folder of VOC, YOLO, CSV or COCO files; of a folder with splits the
    one that goes by `part`.

    Boxes without an area are left away and counted, as are shapes that are no boxes.

    Raises:
        DataError: none of these, a picture that is not there, a box that cannot be read; names file and line.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path, wanted, part)
    if suffix == ".json":
        return _read_json(path)
    if suffix == ".csv":
        return _finished(_table(path, wanted))
    if suffix == ".xml":
        return _finished(_cvat(path))
    if suffix in (".yaml", ".yml"):
        return _finished(_yolo(path, part))
    raise DataError(f"unknown format '{suffix}' of boxes.", where=str(path), remedy=_REMEDY)


_REMEDY = (
    "Give COCO or Label Studio .json, .csv (one box a line), CVAT .xml, a YOLO data.yaml, or a folder of Pascal VOC .xml,"
    " YOLO (images/ and labels/ beside a data.yaml), or a Roboflow export."
)


def _folder(path: Path, wanted: Wanted, part: str) -> Iterator[Entry]:
    for name in ("data.yaml", "data.yml", "_annotations.coco.json", "_annotations.csv"):
        if (path / name).is_file():
            return read_boxes(path / name, wanted, part)
    inner = next((path / name for name in SPLITS.get(part, ("test",)) if (path / name).is_dir()), None)
    if inner is not None:
        return _folder(inner, wanted, part)
    places = [path / "Annotations", path]
    files = next((found for found in (sorted(p.glob("*.xml")) for p in places if p.is_dir()) if found), [])
    if files:
        return _finished(_voc(file, path) for file in files)
    raise DataError("no boxes were found in the folder.", where=str(path), remedy=_REMEDY)


def _finished(pictures: Iterable[_Picture | Declared | str]) -> Iterator[Entry]:
    """Rows of the pictures; boxes without an area go, and strings (what was passed over) are counted into notes."""
    passed: Counter[str] = Counter()
    first: dict[str, str] = {}
    for picture in pictures:
        if isinstance(picture, str):
            passed[picture] += 1
            continue
        if isinstance(picture, Declared):
            yield picture
            continue
        good = [place for place, box in enumerate(picture.boxes) if box[2] > 0 and box[3] > 0]
        if len(good) < len(picture.boxes):
            passed["boxes without an area left away"] += len(picture.boxes) - len(good)
            first.setdefault("boxes without an area left away", f"{picture.file}:{picture.line}")
        picture.boxes = [picture.boxes[place] for place in good]
        picture.labels = [picture.labels[place] for place in good]
        if picture.size is not None and min(picture.size) <= 0:
            passed["sizes of 0 replaced by the picture's own"] += 1
            first.setdefault("sizes of 0 replaced by the picture's own", f"{picture.file}:{picture.line}")
            picture.size = None
        yield picture.row()
    for what, count in passed.items():
        yield Note(f"{count} {what}{f' (first: {first[what]})' if what in first else ''}.")


def _number(value: Any, where: str, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < 1e9:
        raise DataError(f"{what} is no usable number (got {value!r:.40}).", where=where, remedy="Mend the box.")
    return number


# --- XML


def _xml(path: Path) -> Element:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        return fromstring(Source(path).read())
    except ParseError as error:
        line = getattr(error, "position", (1, 0))[0]
        raise DataError(f"not valid XML ({error}).", where=f"{path}:{line}", remedy="Mend the file.") from None
    except DefusedXmlException:
        raise DataError("declares XML entities.", where=str(path), remedy="Write plain values.") from None
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise DataError(f"not valid XML ({error}).", where=str(path), remedy="Save it as UTF-8.") from None


def _voc(path: Path, folder: Path) -> _Picture:
    """Pascal VOC counts pixels from 1: a box from xmin to xmax is xmin - 1 to xmax in edges."""
    root, where = _xml(path), f"{path}:1"
    name = root.findtext("filename") or f"{path.stem}.jpg"
    places = [path.parent, *(folder / inner for inner in PICTURE_FOLDERS), path.parent.parent / "JPEGImages"]
    size = [int(_number(root.findtext(f"size/{side}", "0"), where, side)) for side in ("width", "height")]
    picture = _Picture(find_picture(Path(name).name, places, where=where), str(path), 1, (size[0], size[1]))
    for thing in root.iter("object"):
        x0, y0, x1, y1 = (
            _number(thing.findtext(f"bndbox/{edge}"), where, edge) for edge in ("xmin", "ymin", "xmax", "ymax")
        )
        # Zero sides are kept as such: xmin = xmax is what broken exports write, not a box of one pixel.
        wide, high = (x1 - x0 + 1 if x1 > x0 else 0.0), (y1 - y0 + 1 if y1 > y0 else 0.0)
        picture.boxes.append([x0 - 1, y0 - 1, wide, high])
        picture.labels.append((thing.findtext("name") or "").strip())
    return picture


def _cvat(path: Path) -> Iterator[_Picture | str]:
    """CVAT for images 1.1."""
    for number, image in enumerate(_xml(path).iter("image"), start=1):
        where = f"{path}:{number}"
        name = image.get("name") or ""
        places = [path.parent / inner for inner in PICTURE_FOLDERS]
        size = [int(_number(image.get(side), where, side)) for side in ("width", "height")]
        picture = _Picture(find_picture(name, places, where=where), str(path), number, (size[0], size[1]))
        for shape in image:
            if shape.tag != "box":
                yield f"{shape.tag} shapes, which are no boxes, passed over"
                continue
            x0, y0, x1, y1 = (_number(shape.get(edge), where, edge) for edge in ("xtl", "ytl", "xbr", "ybr"))
            picture.boxes.append([x0, y0, x1 - x0, y1 - y0])
            picture.labels.append(shape.get("label") or "")
        yield picture


# --- YOLO


def _yolo(path: Path, part: str) -> Iterator[_Picture | Declared | str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not valid YAML ({error!s:.100}).", where=str(path), remedy="Mend the file.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = {int(key): str(value) for key, value in names.items() if str(key).isdigit()}
    elif isinstance(names, list):
        names = dict(enumerate(map(str, names)))
    else:
        names = None
    if not names:
        raise DataError("has no 'names'.", where=str(path), remedy="Write names: [first, second, ...].")
    yield Declared(names)
    given = next((content[name] for name in SPLITS.get(part, ("test",)) if content.get(name)), None)
    if given is None:
        raise DataError(
            f"names no {part} part.", where=str(path), remedy=f"Write {SPLITS.get(part, ('test',))[0]}: FOLDER."
        )
    root = path.parent / str(content.get("path") or "")
    listed = [str(entry) for entry in (given if isinstance(given, list) else [given])]
    # Exports often say ../train/images though the folder stands beside the file.
    tried = [
        place
        for entry in listed
        for place in (root / entry, path.parent / entry, path.parent / entry.removeprefix("../"))
    ]
    folders = [place for place in dict.fromkeys(tried) if place.is_dir()]
    if not folders:
        raise DataError(f"the folder '{listed[0]}' is not there.", where=str(path), remedy="Mend the path.")
    for folder in folders[: len(listed)]:
        pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        for number, file in enumerate(pictures, start=1):
            yield from _yolo_picture(file, folder, number, names)


def _yolo_picture(file: Path, folder: Path, number: int, names: Mapping[int, str]) -> Iterator[_Picture | str]:
    *before, last = folder.parts
    labels = Path(*before, "labels") if last == "images" else folder
    if "images" in before:
        place = len(before) - 1 - before[::-1].index("images")
        labels = Path(*before[:place], "labels", *before[place + 1 :], last)
    text = labels / f"{file.stem}.txt"
    facts = examine_picture(str(file), where=str(file))
    lines = Source(text).read().decode("utf-8", "replace").splitlines() if text.is_file() else []
    picture = _Picture(file, str(text) if text.is_file() else str(folder), 1 if text.is_file() else number)
    picture.size = facts.width, facts.height
    for line, content in enumerate(lines, start=1):
        cells = content.split()
        if not cells:
            continue
        where = f"{text}:{line}"
        numbers = [_number(cell, where, f"value {place}") for place, cell in enumerate(cells, start=1)]
        if int(numbers[0]) not in names or numbers[0] != int(numbers[0]):
            raise DataError(f"class {cells[0]} has no name.", where=where, remedy="Name it in data.yaml.")
        if len(numbers) >= 7 and len(numbers) % 2:
            xs, ys = numbers[1::2], numbers[2::2]
            x, y, wide, high = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
            yield "polygons became their bounding boxes"
        elif len(numbers) == 5:
            x, y, wide, high = numbers[1] - numbers[3] / 2, numbers[2] - numbers[4] / 2, numbers[3], numbers[4]
        else:
            raise DataError(f"{len(numbers)} values.", where=where, remedy="Write: class x y width height, as shares.")
        picture.boxes.append([x * facts.width, y * facts.height, wide * facts.width, high * facts.height])
        picture.labels.append(names[int(numbers[0])])
    yield picture


# --- tables and JSON


def _table(path: Path, wanted: Wanted) -> Iterator[_Picture]:
    """One box a line, gathered by picture; corners (xmin, ymin, xmax, ymax) or x, y, width, height, in pixels."""
    pictures: dict[str, _Picture] = {}
    for row in read_csv(Source(path), wanted):
        assert isinstance(row, Row)
        columns = {str(name).strip().lower(): value for name, value in row.values.items()}
        name = next((columns[c] for c in (wanted.column("image"), *FILE_COLUMNS) if c in columns), None)
        label = next((columns[c] for c in LABEL_COLUMNS if c in columns), None)
        corners = all(edge in columns for edge in ("xmin", "ymin", "xmax", "ymax"))
        sides = [next((c for c in pair if c in columns), None) for pair in (("w", "width"), ("h", "height"))]
        if name is None or label is None or not (corners or ({"x", "y"} <= set(columns) and all(sides))):
            raise DataError(
                f"the columns say no boxes ({', '.join(columns)}).", where=row.where,
                remedy="Write filename,class,xmin,ymin,xmax,ymax or image,label,x,y,w,h.",
            )  # fmt: skip
        if name not in pictures:
            places = [path.parent / inner for inner in PICTURE_FOLDERS]
            pictures[name] = _Picture(find_picture(name, places, where=row.where), row.file, row.line)
        if corners:
            x0, y0, x1, y1 = (_number(columns[edge], row.where, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
            box = [x0, y0, x1 - x0, y1 - y0]
        else:
            box = [_number(columns[str(edge)], row.where, str(edge)) for edge in ("x", "y", *sides)]
        pictures[name].boxes.append(box)
        pictures[name].labels.append(label.strip())
    yield from pictures.values()


def _read_json(path: Path) -> Iterator[Entry]:
    with Source(path).text() as stream:
        beginning = stream.read(64).lstrip("\ufeff \t\r\n")
    return _finished(_label_studio(path)) if beginning.startswith("[") else iter(read_coco(path))


def _label_studio(path: Path) -> Iterator[_Picture | str]:
    """Rectangles in percent of the picture; rotated ones are passed over."""
    with Source(path).text() as stream:
        content = parse_json(stream.read(), where=str(path))
    for number, task in enumerate(content, start=1):
        where = f"{path}:{number}"
        data = task.get("data") if isinstance(task, dict) else None
        given = next((v for v in (data or {}).values() if isinstance(v, str)), None)
        live = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")] if given else []
        if given is None:
            raise DataError("the task names no picture.", where=where, remedy="Export JSON from Label Studio.")
        if not live:
            yield "tasks that nobody annotated left out"
            continue
        address = urlparse(given)
        name = unquote(parse_qs(address.query).get("d", [address.path])[0])
        places = [path.parent / inner for inner in ("", "images", "upload")]
        tried = [place / Path(name).name for place in places] + [path.parent / name.lstrip("/")]
        file = next((place for place in tried if place.is_file()), None) or find_picture(
            Path(name).name, places, where=where
        )
        picture = _Picture(file, str(path), number)
        for result in live[0].get("result", []):
            value = result.get("value") or {}
            if not value.get("rectanglelabels") or value.get("rotation"):
                yield "shapes that are no upright rectangles passed over"
                continue
            scale = [_number(result.get(f"original_{side}"), where, side) / 100 for side in ("width", "height")]
            x, y, wide, high = (_number(value.get(key), where, key) for key in ("x", "y", "width", "height"))
            picture.boxes.append([x * scale[0], y * scale[1], wide * scale[0], high * scale[1]])
            picture.labels.append(str(value["rectanglelabels"][0]))
        yield picture
