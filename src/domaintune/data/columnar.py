"""Tables kept by columns: Parquet, Arrow, and folders that the `datasets` library saved. Read in batches, values as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from domaintune.data.rows import Entry, Row, part_names
from domaintune.data.tables import parse_json
from domaintune.errors import DataError
from domaintune.memory import with_class_names

BATCH_ROWS = 1024
STATE, INFO, PARTS = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` made this folder."""
    return (folder / STATE).is_file() or (folder / PARTS).is_file()


def dataset_files(folder: Path) -> list[Path]:
    """The files that `datasets.save_to_disk` wrote into this folder, those of every split, sorted. What its library keeps beside them
    (cache-*.arrow) is no part of the data.

    Raises:
        DataError: a list of them that cannot be read.
    """
    if (folder / PARTS).is_file():
        splits = [folder / str(name) for name in _content(folder / PARTS).get("splits", [])]
        return sorted([folder / PARTS, *(file for split in splits for file in dataset_files(split))])
    own = [folder / name for name in (STATE, INFO) if (folder / name).is_file()]
    return sorted([*own, *_data_files(folder)])


def _data_files(folder: Path) -> list[Path]:
    return [folder / Path(entry["filename"]).name for entry in _content(folder / STATE).get("_data_files", [])]


def read_parquet(path: Path) -> Iterator[Entry]:
    """Rows of a Parquet file; a row's line is its number from 1. Class numbers that carry names (`datasets`) become the names.

    Raises:
        DataError: no Parquet file, or one without rows.
    """
    import pyarrow.parquet

    count = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = _class_names((file.schema_arrow.metadata or {}).get(b"huggingface", b""), str(path))
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    count += 1
                    yield Row(with_class_names(values, names), str(path), count)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from None
    if not count:
        raise DataError("the file has no rows.", where=str(path), remedy="Give at least one row.")


def read_arrow(path: Path, start: int = 0) -> Iterator[Row]:
    """Rows of one Arrow file (stream or random access); lines count on from `start`. Class numbers become names as in Parquet, or by the
    description that `datasets` writes beside the file."""
    import pyarrow.ipc

    count = start
    info = path.with_name(INFO)
    names = _class_names(info.read_bytes() if info.is_file() else b"", str(info))
    try:
        with pyarrow.memory_map(str(path)) as mapped:
            for batch in _batches(mapped):
                names = _class_names((batch.schema.metadata or {}).get(b"huggingface", b""), str(path)) or names
                for values in batch.to_pylist():
                    count += 1
                    yield Row(with_class_names(values, names), str(path), count)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, "Arrow", error) from None


def _batches(mapped: Any) -> Iterator[Any]:
    import pyarrow.ipc

    try:
        yield from pyarrow.ipc.open_stream(mapped)
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        file = pyarrow.ipc.open_file(mapped)
        yield from (file.get_batch(number) for number in range(file.num_record_batches))


def read_saved_dataset(folder: Path, part: str) -> Iterator[Entry]:
    """Rows of a folder that `datasets.save_to_disk` wrote; of a DatasetDict the split that goes by the part's name.

    Raises:
        DataError: no such split, or files that are missing or broken.
    """
    if (folder / PARTS).is_file():
        splits = _content(folder / PARTS).get("splits", [])
        found = [name for name in part_names(part) if name in splits]
        if not found and len(splits) != 1:
            raise DataError(
                f"no split for {part} (splits: {', '.join(map(str, splits))}).",
                where=str(folder),
                remedy=f"Name one: {folder}/{splits[0] if splits else 'train'}.",
            )
        folder = folder / (found[0] if found else str(splits[0]))
    count = 0
    for file in _data_files(folder):
        for row in read_arrow(file, count):
            count += 1
            yield row
    if not count:
        raise DataError("the dataset has no rows.", where=str(folder), remedy="Give at least one row.")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "dataset", error) from None
    if not isinstance(content, dict):
        raise _unreadable(path, "dataset", "no object")
    return content


def _class_names(content: bytes, where: str) -> Mapping[str, Any]:
    """Column -> its feature, from what `datasets` wrote about the columns, of those that hold class numbers."""
    if not content:
        return {}
    info = parse_json(content.decode("utf-8", "replace"), where=where)
    features = (info.get("info", info) if isinstance(info, dict) else {}).get("features") or {}
    return {column: feature for column, feature in features.items() if "ClassLabel" in json.dumps(feature)}


def _unreadable(path: Path, kind: str, error: object) -> DataError:
    return DataError(
        f"is no readable {kind} file ({str(error).splitlines()[0]:.120}).", where=str(path), remedy="Write it again."
    )
