"""Boxes as labelling tools write them, whatever the tool: which reader a file or folder is for. All become rows as COCO's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from domaintune.data.box_json import box_rows
from domaintune.data.box_pictures import finished
from domaintune.data.box_tables import read_box_table
from domaintune.data.box_xml import CVAT_ROOT, read_box_xml, voc_files
from domaintune.data.box_yolo import CONFIGURATIONS, is_yolo_folder, read_yolo, read_yolo_folder, read_yolo_list
from domaintune.data.folders import holds_pictures_alone, read_class_folders, read_coco
from domaintune.data.rows import Entry, Wanted, part_names
from domaintune.data.sources import Source, entries_of, is_passed_over
from domaintune.data.tables import read_json, read_json_lines
from domaintune.data.xml_elements import root_name
from domaintune.errors import DataError

ROBOFLOW = ("_annotations.coco.json", "_annotations.csv")
REMEDY = (
    "Give COCO or Label Studio .json, .jsonl of image, boxes and labels, .csv (one box a line), CVAT .xml, a YOLO data.yaml, "
    "or a folder of these with its pictures, in the layout of Pascal VOC, COCO, YOLO (images/ and labels/) or Roboflow."
)


def read_boxes(path: Path, wanted: Wanted, part: str) -> Iterator[Entry]:
    """Rows {"image", "width", "height", "boxes", "labels", "crowd", "lines"} of whatever the path is; `lines` are those of the boxes
    in the row's file, where the format has any. Of a folder with splits the one that goes by `part` is read. Rows {"image"} of pictures
    without boxes, where these need not be there.

    Boxes without an area are left away and counted, as are shapes that are no boxes.

    Raises:
        DataError: no format that is known, a picture that is not there, a box that cannot be read; names file and line.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path, wanted, part)
    if suffix == ".json":
        return _json(path, wanted)
    if suffix in (".jsonl", ".ndjson"):
        return box_rows(read_json_lines(Source(path), wanted), wanted, path.parent)
    if suffix == ".csv":
        return finished(read_box_table(path, wanted), wanted)
    if suffix == ".xml":
        return finished(read_box_xml(path, path.parent), wanted)
    if suffix in (".yaml", ".yml", ".data"):
        return finished(read_yolo(path, part), wanted)
    if suffix == ".txt":
        return finished(read_yolo_list(path), wanted)
    raise DataError(f"unknown format '{suffix}' of boxes.", where=str(path), remedy=REMEDY)


def _json(path: Path, wanted: Wanted) -> Iterator[Entry]:
    with Source(path).text() as stream:
        beginning = stream.read(64).lstrip("\ufeff \t\r\n")
    if beginning.startswith("["):
        return box_rows(read_json(Source(path), wanted), wanted, path.parent)
    return finished(read_coco(path, wanted), wanted)


def _folder(path: Path, wanted: Wanted, part: str) -> Iterator[Entry]:
    for name in (*CONFIGURATIONS, *ROBOFLOW):
        if (path / name).is_file():
            return read_boxes(path / name, wanted, part)
    coco = [file for file in sorted((path / "annotations").glob("*.json")) if not is_passed_over(file.name)]
    if coco:
        boxes = [file for file in coco if file.stem.startswith("instances")]
        return read_boxes(_of_part(boxes or coco, path / "annotations", part), wanted, part)
    cvat = path / "annotations.xml"
    if cvat.is_file() and root_name(Source(cvat)) == CVAT_ROOT:
        return read_boxes(cvat, wanted, part)
    splits = {name: path / name for p in ("train", "dev", "test") for name in part_names(p) if (path / name).is_dir()}
    if splits:
        chosen = next((splits[name] for name in part_names(part) if name in splits), None)
        if chosen is None:
            found = ", ".join(splits)
            raise DataError(f"has no {part} part (folders: {found}).", where=str(path), remedy="Name a folder.")
        return _folder(chosen, wanted, part)
    if is_yolo_folder(path):
        return finished(read_yolo_folder(path, part), wanted)
    files = voc_files(path, part)
    if files:
        return finished((found for file in files for found in read_box_xml(file, path)), wanted)
    loose = [file for file in entries_of(path) if file.suffix.lower() in (".json", ".jsonl", ".csv")]
    if loose:
        return read_boxes(_of_part(loose, path, part), wanted, part)
    if not wanted.targets and holds_pictures_alone(path):
        return iter(read_class_folders(path, wanted))
    raise DataError("no boxes were found in the folder.", where=str(path), remedy=REMEDY)


def _of_part(files: Sequence[Path], folder: Path, part: str) -> Path:
    """The file that is named after the part, as instances_train2017.json is; the only one, where none is named after any.

    Raises:
        DataError: none or several.
    """
    words = {file: re.findall(r"[a-z]+", file.stem.lower()) for file in files}
    named = {file for p in ("train", "dev", "test") for name in part_names(p) for file in files if name in words[file]}
    chosen = [file for file in files if any(name in words[file] for name in part_names(part))] if named else list(files)
    if len(chosen) == 1:
        return chosen[0]
    raise DataError(
        f"holds {'several files' if chosen else 'none'} for {part} ({', '.join(file.name for file in files):.200}).",
        where=str(folder),
        remedy="Name the file itself.",
    )
