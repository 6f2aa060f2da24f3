"""Tables and text as rows: CSV, TSV, JSON lines, plain text. UTF-8 alone; every value as it stands in the file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, NoReturn

from domaintune.data.rows import Row
from domaintune.errors import DataError

BYTE_ORDER_MARKS_16 = (b"\xff\xfe", b"\xfe\xff")


def read_csv(path: Path) -> list[Row]:
    """Rows of a comma-separated table with a header row; every value stays text ("None", "1" too).

    Raises:
        DataError: no rows, a row with more or fewer cells than the header, bad quoting, NUL bytes, bytes that are not UTF-8.
    """
    return _table(path, ",")


def read_tsv(path: Path) -> list[Row]:
    """As `read_csv`, with tabs between the cells."""
    return _table(path, "\t")


def read_json_lines(path: Path) -> list[Row]:
    """One JSON object a line; blank lines are passed over.

    Raises:
        DataError: no rows, a line that is no JSON object, values that no text file can hold (NaN, half a surrogate pair).
    """
    rows = []
    for number, line in enumerate(decoded(path).split("\n"), start=1):  # not splitlines: JSON text may hold U+2028
        if not line.strip():
            continue
        where = f"{path}:{number}"
        value = parse_json(line, where=where)
        if not isinstance(value, dict):
            raise DataError(
                f"expected an object, got {type(value).__name__}.",
                where=where,
                remedy='Write one {"column": value, ...} a line.',
            )
        rows.append(Row(value, str(path), number))
    if not rows:
        raise DataError("the file is empty.", where=str(path), remedy="Give at least one row.")
    return rows


def read_plain_text(path: Path) -> list[Row]:
    """One row {"text": line} for each line that is not blank.

    Raises:
        DataError: no such line.
    """
    lines = enumerate(decoded(path).split("\n"), start=1)
    rows = [Row({"text": line.removesuffix("\r")}, str(path), number) for number, line in lines if line.strip()]
    if not rows:
        raise DataError("the file is empty.", where=str(path), remedy="Give at least one line of text.")
    return rows


def decoded(path: Path) -> str:
    """The file's text, a byte order mark removed.

    Raises:
        DataError: bytes that are not UTF-8, or NUL bytes, with the line.
    """
    data = path.read_bytes()
    if data.startswith(BYTE_ORDER_MARKS_16):
        raise DataError("the file is UTF-16.", where=f"{path}:1", remedy="Save it as UTF-8.")
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise DataError(
            "the line holds a NUL byte.", where=f"{path}:{line}", remedy="Save the file as plain UTF-8 text."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"the byte {data[error.start]:#04x} is not UTF-8.", where=f"{path}:{line}", remedy="Save the file as UTF-8."
        ) from None


def parse_json(text: str, *, where: str) -> Any:
    """A JSON value, strictly: no NaN or Infinity, no unpaired surrogates.

    Raises:
        DataError: no such value, or one nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:  # an unpaired half passes json and fails wherever the text is encoded
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataError(f"not valid JSON ({error.msg}, {place}).", where=where, remedy="Mend the line.") from None
    except RecursionError:
        raise DataError("the JSON is nested too deeply.", where=where, remedy="Write flat values.") from None
    except UnicodeEncodeError:
        raise DataError(
            "the JSON holds half of a surrogate pair.", where=where, remedy="Write the whole character."
        ) from None
    except ValueError as error:  # NaN, integers of thousands of digits
        raise DataError(
            f"not valid JSON ({str(error).split(';')[0]}).", where=where, remedy="Mend the value."
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _table(path: Path, delimiter: str) -> list[Row]:
    reader = csv.reader(io.StringIO(decoded(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows = []
    start = 1
    try:
        for cells in reader:
            where = f"{path}:{start}"
            if not cells:
                pass  # a blank line
            elif not header:
                header = _checked_header(cells, delimiter, where)
            elif len(cells) != len(header):
                raise DataError(
                    f"{len(cells)} cells, but the header has {len(header)} ({', '.join(header)}).",
                    where=where,
                    remedy='Put values that hold the separator or a line break into double quotes ("").',
                )
            else:
                rows.append(Row(dict(zip(header, cells, strict=True)), str(path), start))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"not a valid table ({error}).", where=f"{path}:{start}", remedy=_table_remedy(str(error))
        ) from None
    if not rows:
        what = "the file has a header but no rows." if header else "the file is empty."
        raise DataError(what, where=str(path), remedy="Give a header row and at least one row.")
    return rows


def _checked_header(cells: list[str], delimiter: str, where: str) -> list[str]:
    repeated = sorted({name for name in cells if cells.count(name) > 1})
    if repeated:
        raise DataError(f"the header names '{repeated[0]}' twice.", where=where, remedy="Rename or drop one column.")
    for other, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(cells) == 1 and other in cells[0] and other != delimiter:
            raise DataError(
                f"the cells seem to be separated by {name}.",
                where=where,
                remedy="Commas belong into a .csv file, tabs into a .tsv file.",
            )
    return cells


def _table_remedy(message: str) -> str:
    if "field limit" in message:
        return "Cells this long are for .jsonl files; or a double quote before it is never closed."
    return 'A double quote inside a quoted value is written twice (""), and every opening one needs its closing one.'
