"""Rows that a Python user holds in memory: stored as a file of the run, so that the run can be made again, or as inputs to be
predicted; and values as JSON holds them. No torch."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from domaintune.errors import DataError

PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
FOLDER = "data"
STORED = re.compile(r"\w+-[0-9a-f]{16}\.jsonl")
"""The names of files of stored rows: the part's, and a checksum."""
NO_CLASS = -1
"""The class number of rows without a label, as in the test parts of many sets."""
PATHS = (str, os.PathLike)
Keep = Callable[[bytes, str], str]
"""Makes a file of a picture's bytes, with this suffix, and names it."""
UNKNOWN = ".img"
"""The suffix of bytes in whatever format."""


def stored_rows(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The recipe's values with rows in memory (under any of `names`) written to OUTPUT/data/NAME-CHECKSUM.jsonl and replaced by
    that path. Rows are a DataFrame (pandas, polars), a `datasets.Dataset`, or an iterable of mappings; pictures in them (PIL)
    become files beside, class numbers that carry names become those, missing cells of pandas null, dates text.

    Raises:
        DataError: something else, no rows, or a value that JSON cannot hold.
    """
    made = dict(values)
    for name in names:
        given = made.get(name)
        are_paths = isinstance(given, list | tuple) and given and all(isinstance(entry, str) for entry in given)
        if given is not None and not isinstance(given, str) and not are_paths:
            made[name] = _store(given, name, Path(str(made.get("output", "."))) / FOLDER)
    return made


def carried(path: str, *, output: str, run: Path) -> str:
    """Where a file that a run's recipe names lies now: rows that were given in memory lie in that run's folder, or in one beside it, and
    moved with it. `output`: the folder in the recipe; `run`: where it is now."""
    if Path(path).parent.name != FOLDER or not STORED.fullmatch(Path(path).name):
        return path
    here = os.path.normpath(run / os.path.relpath(path, output))
    return here if os.path.isfile(here) else path


@contextmanager
def given_inputs(inputs: Any) -> Iterator[Sequence[str | dict[str, Any]]]:
    """Inputs to be predicted: texts and paths as they are, rows (of whatever `stored_rows` takes) with plain values. Pictures in rows
    are files until the block ends.

    Raises:
        DataError: one text or row alone, or an input that is neither, with its number.
    """
    if isinstance(inputs, (Mapping, bytes, *PATHS)):
        what, remedy = ("row", "[row]") if isinstance(inputs, Mapping) else ("text", '["..."]')
        raise DataError(f"got one {what}, not a list of them.", where="predict", remedy=f"Write predict({remedy}).")
    items = [os.fspath(item) if isinstance(item, PATHS) else item for item in _rows(inputs, "predict")]
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str | Mapping):
            raise DataError(
                f"got {type(item).__name__}.",
                where=f"input:{number}",
                remedy='Give a text, a path, or a row: {"column": value}.',
            )
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items):
        _require_whole(texts)
        yield texts
        return
    with tempfile.TemporaryDirectory() as folder:
        numbered = enumerate(items, start=1)

        def keep(data: bytes, suffix: str) -> str:
            return str(_picture(data, Path(folder), suffix).resolve())

        rows = [i if isinstance(i, str) else _plain_row(i, f"input:{n}", keep) for n, i in numbered]
        _require_whole([json.dumps(row, ensure_ascii=False, default=str) for row in rows])
        yield rows


def _require_whole(texts: Iterable[str]) -> None:
    for number, text in enumerate(texts, start=1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            what, remedy = "holds half of a surrogate pair.", "Give the whole character."
            raise DataError(what, where=f"input:{number}", remedy=remedy) from None


def _store(given: Any, name: str, folder: Path) -> str:
    def keep(data: bytes, suffix: str) -> str:
        return _picture(data, folder, suffix).relative_to(folder).as_posix()  # both may be moved

    lines = [_line(row, name, number, keep) for number, row in enumerate(_rows(given, name), start=1)]
    if not lines:
        raise DataError("no rows.", where=name, remedy="Give at least one.")
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    path = folder / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    write_once(path, content)
    return str(path)


def _rows(given: Any, name: str) -> Iterable[Mapping[str, Any]]:
    kind = f"{type(given).__module__.partition('.')[0]}.{type(given).__name__}"
    if kind == "polars.DataFrame":
        return given.iter_rows(named=True)
    if kind.endswith(".DataFrame"):
        columns = [str(column) for column in given.columns]
        tuples = given.itertuples(index=False, name=None)
        return (dict(zip(columns, map(_or_none, values), strict=True)) for values in tuples)
    if kind in ("datasets.Dataset", "datasets.IterableDataset") and given.features is not None:
        features = given.features.to_dict()
        return (with_class_names(row, features) for row in given)
    if isinstance(given, Iterable) and not isinstance(given, Mapping | bytes):
        return given
    raise DataError(
        f"got {type(given).__name__}.", where=name, remedy="Give a path, a DataFrame, a Dataset or a list of rows."
    )


def _or_none(value: Any) -> Any:
    """None for what pandas puts where nothing is."""
    missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def with_class_names(values: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """The row with names in the place of class numbers, null in that of no class, by the features of its columns as `datasets` writes
    them."""
    return {**values, **{column: _named(values.get(column), feature) for column, feature in features.items()}}


def _named(value: Any, feature: Any) -> Any:
    """However deep in lists and objects the classes are."""
    if isinstance(feature, list):
        feature = feature[0] if feature else {}
    if not isinstance(feature, dict):
        return value
    inner = feature["feature"] if "_type" in feature and "feature" in feature else feature
    if isinstance(value, dict):  # a list of objects may be kept as an object of lists
        return {
            key: _named(entry, inner.get(key)) if isinstance(inner, dict) else entry for key, entry in value.items()
        }
    if isinstance(value, list):
        return [_named(entry, inner) for entry in value]
    known = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    if not known or not isinstance(value, int):
        return value
    return None if value == NO_CLASS else known[value] if 0 <= value < len(known) else value


def _line(row: Any, name: str, number: int, keep: Keep) -> str:
    where = f"{name}:{number}"
    if not isinstance(row, Mapping):
        raise DataError(f"expected a row, got {type(row).__name__}.", where=where, remedy='Rows are {"column": value}.')
    values = _plain_row(row, where, keep)
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"holds a value that cannot be stored ({error}).", where=where, remedy="Give texts, numbers and lists."
        ) from None
    return text


def _plain_row(row: Mapping[str, Any], where: str, keep: Keep) -> dict[str, Any]:
    try:
        return {str(key): _plain(value, keep) for key, value in row.items()}
    except OSError as error:
        raise DataError(
            f"holds a picture that cannot be stored ({error}).", where=where, remedy="Drop the row."
        ) from None


def _plain(value: Any, keep: Keep) -> Any:
    if hasattr(value, "save") and hasattr(value, "getexif"):  # a PIL picture
        from PIL import ImageOps

        stream = io.BytesIO()
        upright = ImageOps.exif_transpose(value)  # as it is read from its file
        (upright if upright.mode in PNG_MODES else upright.convert("RGB")).save(stream, format="PNG")
        return keep(stream.getvalue(), ".png")
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return keep(value["bytes"], UNKNOWN)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist(), keep)  # of a data frame's nested lists: arrays of arrays
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, date | time | Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(entry, keep) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, keep) for key, entry in value.items()}
    return value


def jsonable(value: Any) -> Any:
    """As JSON holds it: what is no finite number (NaN, infinities) is null, bytes are base64, as in rows from memory."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    return {key: jsonable(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def _picture(data: bytes, folder: Path, suffix: str) -> Path:
    path = folder / "pictures" / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    write_once(path, data)
    return path


def write_once(path: Path, content: bytes) -> None:
    """Write a file that is named by its content: whole or not at all, and not again."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
