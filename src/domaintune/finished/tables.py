"""Predicted rows as JSON lines or as a table: how values are written. What stands in a row is decided elsewhere."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from domaintune.data.rows import Row


def write_lines(stream: TextIO, chunk: Iterable[tuple[Row, Mapping[str, Any]]]) -> None:
    for _, values in chunk:
        stream.write(_json(values) + "\n")


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, default=str)  # dates of Parquet as their text


def _plain(value: Any) -> Any:
    """As JSON holds it: what is no number (NaN, infinities) is null, bytes are base64, as in rows from memory."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, dict) else value


class Table:
    """Rows as lines of a CSV or TSV file, under `columns`, all that rows have, and those of the answers; lists and objects as JSON."""

    def __init__(self, stream: TextIO, separator: str, columns: Iterable[str]) -> None:
        self.writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
        # A carriage return alone is quoted only where line ends have one.
        self.quoting = csv.writer(stream, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.header: list[str] = []
        self.columns = columns

    def write(self, chunk: Iterable[tuple[Row, Mapping[str, Any]]]) -> None:
        chunk = list(chunk)
        if not self.header:
            first = (name for _, values in chunk for name in values)
            self.header = list(dict.fromkeys([*first, *self.columns]))
            self.writer.writerow(self.header)
        for _, values in chunk:
            cells = [_cell(values.get(name)) for name in self.header]
            writer = self.quoting if any("\r" in cell for cell in cells) else self.writer
            writer.writerow(cells)


def _cell(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)
