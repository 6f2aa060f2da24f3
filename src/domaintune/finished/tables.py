"""Predicted rows as JSON lines or as a table: how values are written. What stands in a row is decided elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from domaintune.data.rows import Row
from domaintune.memory import jsonable


def write_lines(stream: TextIO, chunk: Iterable[tuple[Row, Mapping[str, Any]]]) -> None:
    for _, values in chunk:
        stream.write(_json(values) + "\n")


def _json(value: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, default=str)  # dates of Parquet as their text


class Table:
    """Rows as lines of a CSV or TSV file, under `columns`, all that rows have, and those of the answers; lists and objects as JSON."""

    def __init__(self, stream: TextIO, separator: str, columns: Iterable[str]) -> None:
        self.writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
        # Else a carriage return is quoted only where line ends have one, and readers of TSV refuse tabs beside line breaks.
        self.quoting = csv.writer(stream, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self.header: list[str] = []
        self.columns = columns

    def write(self, chunk: Iterable[tuple[Row, Mapping[str, Any]]]) -> None:
        chunk = list(chunk)
        if not self.header:
            first = (name for _, values in chunk for name in values)
            self.header = list(dict.fromkeys([*first, *self.columns]))
            self._write_row(self.header)
        for _, values in chunk:
            self._write_row([_cell(values.get(name)) for name in self.header])

    def _write_row(self, cells: list[str]) -> None:
        quoted = any("\r" in cell or ("\t" in cell and "\n" in cell) for cell in cells)
        (self.quoting if quoted else self.writer).writerow(cells)


def _cell(value: Any) -> str:
    value = jsonable(value)
    if value is None:
        return ""
    return _json(value) if isinstance(value, list | dict | int | float) else str(value)
