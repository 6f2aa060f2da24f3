"""Boxes as YOLO's tools write them: a text file beside each picture, in shares of it; data.yaml, Darknet's obj.data, or neither."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from domaintune.data.box_pictures import BoxPicture, Found, Passed, Unmarked, box_number
from domaintune.data.pictures import PICTURE_SUFFIXES, first_picture, readable_size
from domaintune.data.rows import Declared, LeftOut, Note, Row, part_names
from domaintune.data.sources import Source, files_below, lines_of
from domaintune.errors import DataError

CONFIGURATIONS = ("data.yaml", "data.yml", "obj.data")
NAME_LISTS = ("classes.txt", "obj.names")
Named = tuple[Path, str, int]
"""A picture, and the folder or list that names it, with its number there."""
TOLERANCE = 0.01
"""How far values may lie outside of 0 to 1: what tools write of boxes at the edge. Source: Ultralytics, `verify_image_label`."""


@dataclass(frozen=True, slots=True)
class _Classes:
    """What the numbers in label files mean."""

    names: Mapping[int, str] | None
    """None: nobody says, classes are called by their numbers."""
    keypoints: bool = False
    """Whether further values behind a box are keypoints, not a polygon."""

    def name(self, cell: str, where: str) -> str:
        number = box_number(cell, where, "value 1")
        if number == int(number) and number >= 0:
            found = str(int(number)) if self.names is None else self.names.get(int(number))
            if found is not None:
                return found
        raise DataError(f"class {cell} has no name.", where=where, remedy="Name it in data.yaml or classes.txt.")


def read_yolo(path: Path, part: str) -> Iterator[Found]:
    """The part's pictures, by a data.yaml or obj.data; its entries are folders or lists of pictures (.txt).

    Raises:
        DataError: no names, `nc` that is another number than there are names, no such part, a folder or picture that is not there,
            a class without a name, a line that is no box.
    """
    content = _configuration(path)
    names = _names(content)
    if not names:
        raise DataError("has no 'names'.", where=str(path), remedy="Write names: [first, second, ...].")
    count = content.get("nc")
    if count is not None and str(count) != str(len(names)):
        raise DataError(
            f"says nc: {count}, but names {len(names)} classes ({', '.join(names.values()):.80}).",
            where=f"{path}:{_line_of_count(path)}",
            remedy="The numbers in the label files count the names from 0: correct whichever is wrong.",
        )
    yield Declared(dict(names.items()))
    given = next((content[name] for name in part_names(part) if content.get(name)), None)
    if given is None:
        raise DataError(f"names no {part} part.", where=str(path), remedy=f"Write {part_names(part)[0]}: FOLDER.")
    root = path.parent / str(content.get("path") or "")
    classes = _Classes(names, keypoints="kpt_shape" in content)
    for entry in given if isinstance(given, list) else [given]:
        place = _place(str(entry), root, path)
        pictures = _pictures_in(place) if place.is_dir() else _pictures_of(place, (root, path.parent))
        yield from _labelled(pictures, classes)
        yield from _left_labels(place)


def read_yolo_list(path: Path) -> Iterator[Found]:
    """The pictures that a text file lists, one a line, with the class names that stand beside it."""
    yield from _by_near_names(_pictures_of(path, (path.parent,)), (path.parent,), path)


def is_yolo_folder(folder: Path) -> bool:
    """Whether images/ and labels/ stand in it, or class names beside pictures."""
    apart = (folder / "images").is_dir() and (folder / "labels").is_dir()
    return apart or any((folder / name).is_file() for name in NAME_LISTS)


def read_yolo_folder(folder: Path, part: str) -> Iterator[Found]:
    """A folder without a data.yaml: images/ and labels/ (with a folder for each part, or none), or labels beside their pictures.
    Class names are those of classes.txt or obj.names; without either, classes are called by their numbers, with a note.

    Raises:
        DataError: no pictures; folders for other parts than this one.
    """
    place = folder / "images" if (folder / "images").is_dir() else folder
    known = [name for p in ("train", "dev", "test") for name in part_names(p) if (place / name).is_dir()]
    if known:
        chosen = next((name for name in part_names(part) if name in known), None)
        if chosen is None:
            raise DataError(
                f"has no {part} part (folders: {', '.join(known)}).",
                where=str(place),
                remedy=f"Make a folder '{part_names(part)[0]}', or give another path.",
            )
        place = place / chosen
    pictures = _pictures_in(place)
    yield from _by_near_names(pictures, (folder, folder / "labels", folder.parent), folder)
    yield from _left_labels(place)


def _by_near_names(pictures: Iterable[Named], folders: Iterable[Path], told: Path) -> Iterator[Found]:
    near = [folder / name for folder in folders for name in (*CONFIGURATIONS, *NAME_LISTS)]
    file = next((file for file in near if file.is_file()), None)
    if file is None:
        yield Note(f"{told} has no {' or '.join(NAME_LISTS)}: its classes are called by their numbers.")
        yield from _labelled(pictures, _Classes(None))
    else:
        content = _configuration(file)
        yield from _labelled(pictures, _Classes(_names(content), keypoints="kpt_shape" in content))


# --- what the classes are called


def _configuration(path: Path) -> dict[str, Any]:
    """data.yaml's content, that of Darknet's obj.data in the same form, or the names of a list."""
    if path.name in NAME_LISTS:
        return {"names": _list_of_names(path)}
    if path.suffix == ".data":
        pairs = (line.partition("=") for _, line in _lines(path))
        content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
        names = _place(content.get("names", NAME_LISTS[1]), path.parent, path)
        return {**content, "nc": content.get("classes"), "names": _list_of_names(names)}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DataError(f"not valid YAML ({error!s:.100}).", where=where, remedy="Mend the file.") from None
    return content if isinstance(content, dict) else {}


def _list_of_names(path: Path) -> list[str]:
    return [line for _, line in _lines(path)]


def _names(content: Mapping[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, dict):
        return {int(key): str(value) for key, value in names.items() if str(key).isdigit()}
    return dict(enumerate(map(str, names))) if isinstance(names, list) else {}


def _line_of_count(path: Path) -> int:
    return next((number for number, line in _lines(path) if line.startswith(("nc", "classes"))), 1)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their number from 1."""
    with Source(path).text() as stream:
        for number, line in enumerate(lines_of(stream), start=1):
            if line.strip():
                yield number, line.strip()


# --- where the pictures are


def _place(entry: str, root: Path, path: Path) -> Path:
    """The folder or file that an entry names. Exports often say ../train/images though the folder stands beside the file, and
    data/train.txt though the list does."""
    bare = entry.removeprefix("../")
    tried = (root / entry, path.parent / entry, path.parent / bare, path.parent / bare.partition("/")[2])
    found = next((place for place in tried[: 4 if "/" in bare else 3] if place.exists()), None)
    if found is None:
        raise DataError(f"'{entry}' is not there.", where=str(path), remedy="Mend the path.")
    return found


def _pictures_in(folder: Path) -> Iterator[Named]:
    """The pictures of the folder and of those below it, and where each is named."""
    found = [file for file in files_below(folder) if file.suffix.lower() in PICTURE_SUFFIXES]
    if not found:
        raise DataError(
            "holds no pictures.", where=str(folder), remedy=f"Put them there ({', '.join(sorted(PICTURE_SUFFIXES))})."
        )
    for number, file in enumerate(found, start=1):
        yield file, str(folder), number


def _pictures_of(listing: Path, roots: Iterable[Path]) -> Iterator[Named]:
    """The pictures that a list names, relative to one of the roots or to a folder that the list was moved from."""
    roots = list(dict.fromkeys((*roots, listing.parent)))
    looked_in = ", ".join(f"'{root}'" for root in roots)
    for number, line in _lines(listing):
        parts = Path(line.replace("\\", "/")).parts
        tried = (root.joinpath(*parts[first:]) for first in range(len(parts)) for root in roots)
        yield first_picture(line, tried, where=f"{listing}:{number}", looked_in=looked_in), str(listing), number


# --- labels


def _label_file(picture: Path) -> Path | None:
    """The one below labels/ in the place of the last images/ of the path, else the one beside the picture; None: neither is there."""
    places = [place for place in (_beside_images(picture.parent), picture.parent) if place is not None]
    return next((file for place in places if (file := place / f"{picture.stem}.txt").is_file()), None)


def _beside_images(folder: Path) -> Path | None:
    """The folder below labels/ in the place of the last images/ of the path; None: there is none in it."""
    parts = list(folder.parts)
    if "images" not in parts:
        return None
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _left_labels(folder: Path) -> Iterator[Passed]:
    """Label files of the folder's pictures that no picture goes with, such as those of photographs in .heic."""
    if not folder.is_dir():
        return
    files = [file.relative_to(folder) for file in files_below(folder)]
    pictures = {file.with_suffix("") for file in files if file.suffix.lower() in PICTURE_SUFFIXES}
    others = {file.with_suffix("") for file in files if file.suffix.lower() != ".txt"}
    apart = _beside_images(folder)
    labels = (
        files if apart is None else [file.relative_to(apart) for file in files_below(apart)] if apart.is_dir() else []
    )
    for file in labels:
        named = file.with_suffix("")
        lacks = named not in pictures and (apart is not None or named in others)
        if file.suffix == ".txt" and file.name not in NAME_LISTS and lacks:
            yield Passed(
                "files of labels without a picture that can be read passed over", f"{(apart or folder) / file}:1"
            )


def _labelled(pictures: Iterable[Named], classes: _Classes) -> Iterator[Found]:
    for file, place, line in pictures:
        text = _label_file(file)
        if text is None:
            yield Unmarked(functools.partial(Row, {"image": str(file)}, place, line), BoxPicture(file, place, line))
            continue
        size = readable_size(str(file))
        picture = BoxPicture(file, str(text), 1, size)
        if size is None:
            yield picture
            continue
        outside = 0
        for number, content in _lines(text):
            cells, where = content.split(), f"{text}:{number}"
            label = classes.name(cells[0], where)
            x, y, wide, high, polygon = _shares(cells, where, keypoints=classes.keypoints)
            if polygon:
                yield Passed("polygons became their bounding boxes", where)
            if not outside and any(not -TOLERANCE <= share <= 1 + TOLERANCE for share in (x, y, wide, high)):
                outside = number
            x, y = x - wide / 2, y - high / 2
            box = [x * size[0], y * size[1], wide * size[0], high * size[1]]
            picture.add_(box, label, number)
        # Without that box the picture would teach that nothing is there.
        yield LeftOut("a box with values outside of 0 to 1", str(text), outside) if outside else picture


def _shares(cells: list[str], where: str, *, keypoints: bool) -> tuple[float, float, float, float, bool]:
    """Centre and size of a line's box, in shares of the picture, and whether a polygon was written."""
    numbers = [box_number(cell, where, f"value {place}") for place, cell in enumerate(cells, start=1)]
    if len(numbers) == 5 or (keypoints and len(numbers) > 5):
        return numbers[1], numbers[2], numbers[3], numbers[4], False
    if len(numbers) >= 7 and len(numbers) % 2:
        xs, ys = numbers[1::2], numbers[2::2]
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        return x, y, max(xs) - min(xs), max(ys) - min(ys), True
    raise DataError(f"{len(numbers)} values.", where=where, remedy="Write: class x y width height, as shares.")
