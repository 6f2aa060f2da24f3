"""Entities in columns: one word a line with its tag in the last column, a blank line between sentences."""

from __future__ import annotations

from collections.abc import Iterator

from domaintune.data.rows import Entry, Row, Wanted
from domaintune.data.sources import Source
from domaintune.data.tag_schemes import normalised_tags
from domaintune.errors import DataError

MOST_COLUMNS = 4


def read_conll(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One row a sentence, tags in BIO whatever the file's scheme; a row's line is the one that its sentence begins on.

    2 to 4 columns, between tabs or other white space; the first is the word, the last its tag. `-DOCSTART-` lines and comments
    (`# text`, of one or more than 4 columns, where no sentence is under way) are passed over.

    Raises:
        DataError: a line with another number of columns than the first one, or no sentence.
    """
    return normalised_tags(_sentences(source, wanted), wanted)


def _sentences(source: Source, wanted: Wanted) -> Iterator[Row]:
    tokens: list[str] = []
    tags: list[str] = []
    start = columns = 0
    empty = True
    with source.text(wanted.encoding) as stream:
        for number, line in enumerate(stream, start=1):
            cells = _cells(line)
            if not cells or cells[0] == "-DOCSTART-":
                if tokens:
                    yield _row(tokens, tags, source, start, wanted)
                    tokens, tags, empty = [], [], False
                continue
            if not tokens and cells[0].startswith("#") and len(cells) != (columns or 2):
                continue
            columns = columns or len(cells)
            if len(cells) != columns or not 2 <= columns <= MOST_COLUMNS:
                raise DataError(
                    f"{len(cells)} columns where {columns if columns >= 2 else '2 to 4'} were expected.",
                    where=f"{source}:{number}",
                    remedy="Write one word a line: the word, then its tag (up to 4 columns), a blank line between sentences.",
                )
            start = start if tokens else number
            tokens.append(cells[0])
            tags.append(cells[-1])
    if tokens:
        yield _row(tokens, tags, source, start, wanted)
    elif empty:
        raise DataError("the file is empty.", where=str(source), remedy="Give at least one sentence.")


def _cells(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    return cells if any(cells) else []


def _row(tokens: list[str], tags: list[str], source: Source, line: int, wanted: Wanted) -> Row:
    return Row({wanted.column("tokens"): tokens, wanted.column("tags"): tags}, str(source), line)
