"""A path -> rows: tables, JSON lines, plain text, folders of pictures, COCO. One family a file; what columns mean is a task's business."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from domaintune.data.folders import read_class_folders, read_coco
from domaintune.data.rows import Row
from domaintune.data.tables import read_csv, read_json_lines, read_plain_text, read_tsv
from domaintune.errors import DataError

READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json_lines,
    ".txt": read_plain_text,
    ".json": read_coco,
}


def read_rows(path: str) -> list[Row]:
    """Every row of a file, or of a folder of class folders; at least one.

    `.csv` and `.tsv` (header row, all values text), `.jsonl` (one object a line), `.txt` (one row {"text": line} a non-empty
    line), `.json` (COCO), a folder (one folder a class, or pictures alone: rows without a label).

    Raises:
        DataError: nothing there (with the nearest name), an unknown format, or a file that is not what its name says.
    """
    place = Path(path)
    try:
        if place.is_dir():
            return read_class_folders(place)
        found = place.is_file()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"cannot be read ({error.strerror}).", where=path, remedy="Check the path.") from None
    if not found:
        raise _missing(place, path)
    reader = READERS.get(place.suffix.lower())
    if reader is None:
        raise DataError(
            f"unknown format '{place.suffix}'.",
            where=path,
            remedy=f"Allowed are {', '.join(READERS)} and folders of pictures.",
        )
    try:
        return reader(place)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}).", where=path, remedy="Check the file and its permissions."
        ) from None


def _missing(place: Path, path: str) -> DataError:
    folder = place.parent
    while not folder.is_dir() and folder != folder.parent:
        place, folder = folder, folder.parent
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    near = difflib.get_close_matches(place.name, names, n=3)
    if near:
        remedy = f"Did you mean {' or '.join(repr(str(folder / name)) for name in near)}?"
    else:
        remedy = f"'{folder}' holds {', '.join(sorted(names)[:8]) or 'nothing'}."
    return DataError("no such file or folder.", where=path, remedy=remedy)
