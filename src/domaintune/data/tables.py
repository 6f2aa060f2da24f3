"""Tables and text as rows: CSV, TSV, JSON, JSON lines, plain text. Every value as it stands in the file; streamed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from domaintune.counting import counted
from domaintune.data.rows import Entry, Row, Wanted
from domaintune.data.sources import Source, lines_of
from domaintune.errors import DataError

WHITE = re.compile(r"[ \t\n\r]*")
SHARED_VALUES = 256
ROWS = ("data", "rows", "examples", "train")
"""Under which an object of JSON holds its rows."""
SEPARATOR = re.compile("sep=(.)", re.IGNORECASE)


def read_csv(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Rows of a table with a header row, its cells separated by commas, or by semicolons where the header shows it; every value stays
    text ("None", "1" too).

    Raises:
        DataError: no rows, a row with more or fewer cells than the header, bad quoting, NUL bytes, bytes of another encoding.
    """
    return _table(source, ",;", wanted)


def read_tsv(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """As `read_csv`, with tabs between the cells."""
    return _table(source, "\t", wanted)


def read_json_lines(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One JSON object a line; blank lines are passed over.

    Raises:
        DataError: no rows, a line that is no JSON object, values that no text file can hold (NaN, half a surrogate pair).
    """
    yield from _of_lines(_lines(source, wanted), str(source))


def _of_lines(lines: Iterable[tuple[int, str]], name: str) -> Iterator[Row]:
    empty = True
    for number, line in lines:
        if not line.strip():
            continue
        empty = False
        yield Row(_object(parse_json(line, where=f"{name}:{number}"), f"{name}:{number}"), name, number)
    if empty:
        raise DataError("the file is empty.", where=name, remedy="Give at least one row.")


def _is_by_lines(text: str) -> bool:
    """Whether the first line is an object of its own and another follows, or none and the first does not hold the rows."""
    first, _, rest = text.partition("\n")
    rest = rest.lstrip()
    if rest and not rest.startswith("{"):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and (bool(rest) or not _holds_rows(value))


def _holds_rows(value: dict[str, Any]) -> bool:
    """Whether rows stand under one of `ROWS`, or are all that the object has (and no turns of a chat)."""
    named = set(value) & set(ROWS) or (set(value) - {"messages", "conversations"} if len(value) == 1 else set())
    lists = [value[name] for name in named if isinstance(value[name], list)]
    return any(all(isinstance(entry, dict) for entry in entries) for entries in lists)


def read_json(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """The objects of one JSON array, also where it stands under one of `ROWS`; or JSON lines under another name, one line too. A row's
    line is the one that its object begins on.

    Raises:
        DataError: no such array, or an entry that is no object.
    """
    with source.text(wanted.encoding) as stream:
        text = stream.read().removeprefix("\ufeff")
    name = str(source)
    start = WHITE.match(text).end()  # type: ignore[union-attr]
    if not text[start:].startswith("["):
        if _is_by_lines(text[start:]):
            yield from _of_lines(enumerate(text.split("\n"), start=1), name)
            return
        content = parse_json(text, where=name)
        lists = [key for key, value in content.items() if isinstance(value, list)] if isinstance(content, dict) else []
        if len(lists) != 1:
            raise DataError(
                "not a JSON array of objects.",
                where=name,
                remedy='Write [{"column": value, ...}, ...], or one object a line (.jsonl).',
            )
        for number, value in enumerate(content[lists[0]], start=1):
            yield Row(_object(value, f"{name}:{number}"), name, number)
        return
    yield from _array(text, start, name)


def _array(text: str, start: int, name: str) -> Iterator[Row]:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    place, line, counted, first = start + 1, 1, 0, True
    while True:
        place = WHITE.match(text, place).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, place), place
        where = f"{name}:{line}"
        if text.startswith("]", place):
            if text[place + 1 :].strip():
                raise DataError(
                    "something follows the end of the JSON array.",
                    where=where,
                    remedy="Write one array, or one object a line (.jsonl).",
                )
            break
        if not first:
            if not text.startswith(",", place):
                raise DataError("not valid JSON (a comma or ] is missing).", where=where, remedy="Mend the file.")
            place = WHITE.match(text, place + 1).end()  # type: ignore[union-attr]
            line, counted = line + text.count("\n", counted, place), place
            where = f"{name}:{line}"
        with _json_faults(where):
            value, place = decoder.raw_decode(text, place)
            _refuse_half_pairs(text[counted:place], value)
        yield Row(_object(value, where), name, line)
        first = False
    if first:
        raise DataError("the file is empty.", where=name, remedy="Give at least one row.")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"expected an object, got {type(value).__name__}.",
            where=where,
            remedy='Write one {"column": value, ...} a row.',
        )
    return value


def read_plain_text(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One row {"text": line} for each line that is not blank; where inputs alone are wanted blank ones are rows too, so that answers stay
    beside their lines.

    Raises:
        DataError: no line that is not blank.
    """
    empty = True
    for number, line in _lines(source, wanted):
        blank = not line.strip()
        empty = empty and blank
        if wanted.inputs or not blank:
            yield Row({wanted.column("text"): line}, str(source), number)
    if empty:
        raise DataError("the file is empty.", where=str(source), remedy="Give at least one line of text.")


def _lines(source: Source, wanted: Wanted) -> Iterator[tuple[int, str]]:
    """Lines with their number from 1."""
    with source.text(wanted.encoding) as stream:
        yield from enumerate(lines_of(stream), start=1)


@contextmanager
def _json_faults(where: str) -> Iterator[None]:
    """Turns what json raises into errors with a place."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataError(f"not valid JSON ({error.msg}, {place}).", where=where, remedy="Mend it.") from None
    except RecursionError:
        raise DataError("the JSON is nested too deeply.", where=where, remedy="Write flat values.") from None
    except UnicodeEncodeError:
        raise DataError(
            "the JSON holds half of a surrogate pair.", where=where, remedy="Write the whole character."
        ) from None
    except ValueError as error:  # NaN, integers of thousands of digits
        what = str(error).split(";")[0]
        raise DataError(f"not valid JSON ({what}).", where=where, remedy="Mend the value.") from None


def parse_json(text: str, *, where: str) -> Any:
    """A JSON value, strictly: no NaN or Infinity, no unpaired surrogates.

    Raises:
        DataError: no such value, or one nested too deeply.
    """
    with _json_faults(where):
        value = json.loads(text, parse_constant=_refuse_constant)
        _refuse_half_pairs(text, value)
        return value


def lists_in_cells(
    entries: Iterable[Entry], columns: Collection[str], *, may_be_blank: Collection[str] = (), begin: str = r"\["
) -> Iterator[Entry]:
    """The rows with the lists that a table of texts holds as JSON in these columns; a blank cell of `may_be_blank` is an empty list.
    Other text in brackets passes where it does not `begin` so (a regular expression).

    Raises:
        DataError: a cell in square brackets that is no JSON.
    """
    for entry in entries:
        made: dict[str, Any] = {}
        for column in columns if isinstance(entry, Row) else ():
            value = entry.values.get(column)  # type: ignore[union-attr]
            cell = value.strip() if isinstance(value, str) else None
            if cell == "" and column in may_be_blank:
                made[column] = []
            elif cell and cell[-1] == "]" and re.match(begin, cell):
                made[column] = _cell(cell, column, entry.where)  # type: ignore[union-attr]
        yield Row({**entry.values, **made}, entry.file, entry.line) if made else entry  # type: ignore[union-attr]


def _cell(cell: str, column: str, where: str) -> Any:
    try:
        return parse_json(cell, where=where)
    except DataError:
        raise DataError(
            f"the list in '{column}' is no JSON ({cell:.40}).",
            where=where,
            remedy="Write it with json.dumps, or save the rows as JSON lines (.jsonl).",
        ) from None


def _refuse_half_pairs(text: str, value: Any) -> None:
    if "\\ud" in text or "\\uD" in text:  # an unpaired half passes json and fails wherever the text is encoded
        json.dumps(value, ensure_ascii=False).encode("utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _table(source: Source, delimiters: str, wanted: Wanted) -> Iterator[Row]:
    header: list[str] = []
    known: list[dict[str, str]] = []
    with source.text(wanted.encoding) as stream:
        above, ahead, delimiter = _beginning(stream, delimiters)
        start, empty, written = len(above) + 1, True, list[str]()
        lines = itertools.chain(ahead, stream)
        reader = csv.reader(_copied_(lines, written) if delimiter == "\t" else lines, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                where = f"{source}:{start}"
                if not cells:
                    pass  # a blank line
                elif not header:
                    header = _checked_header(cells, delimiter, where)
                    known = [{} for _ in header]
                elif len(cells) != len(header):
                    raise DataError(
                        f"{len(cells)} cells, but the header has {len(header)} ({', '.join(header)}).",
                        where=where,
                        remedy='Put values that hold the separator or a line break into double quotes ("").',
                    )
                else:
                    if delimiter == "\t":
                        _refuse_swallowed(cells, written, where)
                    empty = False
                    yield Row(dict(zip(header, map(_shared, cells, known), strict=True)), str(source), start)
                start = len(above) + reader.line_num + 1
                written.clear()
        except csv.Error as error:
            raise DataError(
                f"not a valid table ({error}).", where=f"{source}:{start}", remedy=_table_remedy(str(error))
            ) from None
    if empty:
        what = "the file has a header but no rows." if header else "the file is empty."
        raise DataError(what, where=str(source), remedy="Give a header row and at least one row.")


def _copied_(lines: Iterable[str], copy: list[str]) -> Iterator[str]:
    for line in lines:
        copy.append(line)
        yield line


def _refuse_swallowed(cells: list[str], written: list[str], where: str) -> None:
    """
    Raises:
        DataError: a cell of a tab-separated table that holds tabs and line breaks: rows between two quotation marks of texts. They are
            one value where every cell of the row is `written` in quotes, which quotation marks of texts do not bring about.
    """
    cell = next((cell for cell in cells if "\t" in cell and "\n" in cell), None)
    if cell is not None and "".join(written).rstrip("\r\n") != _quoted(cells):
        ends = counted(cell.count("\n"), "[line|lines] later")
        raise DataError(
            f"a cell that begins with a double quote ends {ends}: tabs and line breaks would be one value ({cell[:40]!r}).",
            where=where,
            remedy='A value that begins with a quotation mark stands in quotes, its own written twice ("""So,"" he said"), and so do all values of a row where one is to hold tabs and line breaks; or save as .csv.',
        )


def _quoted(cells: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", lineterminator="", quoting=csv.QUOTE_ALL).writerow(cells)
    return stream.getvalue()


def _beginning(stream: Iterator[str], delimiters: str) -> tuple[list[str], list[str], str]:
    """The lines above the header, those read ahead from the header on, and what separates the cells: the first of `delimiters`, or
    another that stands in the header without it, or more often where the first row has as many cells; or what Excel's line "sep=;"
    says."""
    above: list[str] = []
    for line in stream:
        named = SEPARATOR.fullmatch(line.strip("\ufeff\r\n"))
        if named and named[1] in delimiters:
            delimiters = named[1]
        elif line.strip():
            ahead = [line]
            break
        above.append(line)
    else:
        return above, [], delimiters[0]
    first, others = delimiters[0], delimiters[1:]
    bare = re.sub('"[^"]*("|$)', "", ahead[0])
    for other in others:
        alone = other in bare and first not in bare
        if alone or (bare.count(other) > bare.count(first) and _is_even(ahead, stream, other)):
            return above, ahead, other
    return above, ahead, first


def _is_even(ahead: list[str], stream: Iterator[str], delimiter: str) -> bool:
    """Whether the first two records have as many cells each; what is read for it joins `ahead`."""

    def lines() -> Iterator[str]:
        yield from list(ahead)
        for line in stream:
            ahead.append(line)
            yield line

    try:
        records = itertools.islice(filter(None, csv.reader(lines(), delimiter=delimiter, strict=True)), 2)
        return len({len(cells) for cells in records}) == 1
    except csv.Error:
        return False


def _shared(cell: str, known: dict[str, str]) -> str:
    """One object for equal cells of a column, as far as it has few values: of short rows labels are a tenth of all memory."""
    if cell in known or len(known) < SHARED_VALUES:
        return known.setdefault(cell, cell)
    return cell


def _checked_header(cells: list[str], delimiter: str, where: str) -> list[str]:
    repeated = sorted({name for name in cells if cells.count(name) > 1})
    if repeated:
        raise DataError(f"the header names '{repeated[0]}' twice.", where=where, remedy="Rename or drop one column.")
    for other, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")):
        if len(cells) == 1 and other in cells[0] and other != delimiter:
            raise DataError(
                f"the cells seem to be separated by {name}.",
                where=where,
                remedy="Commas and semicolons belong into a .csv file, tabs into a .tsv file.",
            )
    return cells


def _table_remedy(message: str) -> str:
    if "field limit" in message:
        return "Cells this long are for .jsonl files; or a double quote before it is never closed."
    return 'A double quote inside a quoted value is written twice (""), and every opening one needs its closing one.'
