"""Tables that name pictures, or hold their bytes, with a label beside."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from domaintune.data.archives import cache_folder
from domaintune.data.pictures import first_picture
from domaintune.data.rows import Entry, LeftOut, Row, Wanted
from domaintune.errors import DataError
from domaintune.memory import UNKNOWN, write_once

LABEL = "label"


def table_pictures(rows: Iterable[Row], wanted: Wanted, folder: Path) -> Iterator[Entry]:
    """Rows with `image`, the path of a file, and `label`, beside the user's columns. Paths are relative to `folder`, the table's;
    bytes (Parquet of `datasets`) are written once into the cache folder. One-hot columns of 0 and 1 (Roboflow's `_classes.csv`)
    are a label too; rows of several or no ones are left out.

    Raises:
        DataError: no such file, no picture column; names file and line.
    """
    image, label = wanted.column("image"), wanted.column(LABEL)
    for row in rows:
        values = dict(row.values)
        key = image if image in values else "filename"
        path = picture_path(values.get(key), row, folder)
        if not isinstance(values[key], str) or values[key].startswith("data:"):
            values[key] = path
        if label in values:
            values[LABEL] = values[label]
        elif (
            key == "filename"
            and len(values) > 2
            and all(str(v).strip() in ("0", "1") for k, v in values.items() if k != key)
        ):
            ones = [str(name).strip() for name, value in values.items() if name != key and str(value).strip() == "1"]
            if len(ones) != 1:
                yield LeftOut("none or several classes", row.file, row.line)
                continue
            values[LABEL] = values[label] = ones[0]
            values[image] = values[key]
        yield Row({**values, "image": path}, row.file, row.line)


def picture_path(value: Any, row: Row, folder: Path) -> str:
    """The file of a picture that a cell names (relative to `folder` or to the working folder) or holds, as bytes or base64.

    Raises:
        DataError: neither, or no such file.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith("data:image/"):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except binascii.Error:
            raise DataError("the picture's data cannot be read.", where=row.where, remedy="Write base64.") from None
    if isinstance(value, bytes) and value:
        return str(_stored(value))
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            "the row names no picture.", where=row.where, remedy="Give a column of paths: --image-column NAME."
        )
    places = (folder / value, Path(value))
    return str(first_picture(value, places, where=row.where, looked_in=f"'{folder}' and the working folder"))


def _stored(data: bytes) -> Path:
    path = cache_folder() / "pictures" / f"{hashlib.sha256(data).hexdigest()[:32]}{UNKNOWN}"
    write_once(path, data)
    return path
