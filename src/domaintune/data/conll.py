"""CoNLL files: one word a line with its tag in the last column, or alone where tags are to be predicted, a blank line between sentences."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from domaintune.data.rows import Entry, Note, Row, Wanted
from domaintune.data.sources import Source
from domaintune.data.tag_schemes import OUTSIDE, Conversion, recognised_scheme
from domaintune.errors import DataError

FEWEST_COLUMNS, MOST_COLUMNS = 2, 4
DOCUMENT_START = "-DOCSTART-"
TAG = re.compile(r"O|[A-Z]-.+")


def is_tag(cell: str) -> bool:
    return TAG.fullmatch(cell) is not None


def are_tagged(lines: Iterable[str]) -> bool:
    """Whether lines, none of them blank, are words with tags and no texts, which may all end in words like "U-Bahn" or "B-12": two to
    four columns, as many in each, half of the last ones tags, and of these one O."""
    columns, last = _Columns(""), list[str]()
    for line in (line.rstrip("\r\n") for line in lines):
        if line.split(maxsplit=1)[:1] == [DOCUMENT_START] or columns.is_comment(line):
            continue
        columns.tabs = columns.tabs or (not last and "\t" in line)
        cells = columns.cells(line)
        columns.count = columns.count or len(cells)
        if not FEWEST_COLUMNS <= len(cells) <= MOST_COLUMNS or len(cells) != columns.count:
            return False
        last.append(cells[-1].strip())
    return OUTSIDE in last and 2 * sum(map(is_tag, last)) >= len(last)


@dataclass(slots=True)
class _Sentence:
    line: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def numbered(self) -> bool:
        """Whether the words are 1, 2, 3, ..."""
        return self.tokens == [str(number) for number in range(1, len(self.tokens) + 1)]


def read_conll(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One row of tokens and BIO tags for each sentence; a note where the file's tags were of another scheme.

    Two to four columns, as many in each line: the word first, its tag last, those between not read. Tabs part the columns where the
    first word's line holds one, spaces and tabs otherwise. -DOCSTART- lines are passed over, and so are comments ("# ...", before a
    sentence's first word) unless the line's last column is a tag. The file is read twice: the scheme is a property of all of it. Where
    inputs alone are wanted the words may be all that there is: one column, and rows of tokens alone.

    Raises:
        DataError: no sentence, a line with too few, too many or other columns than the ones before, an empty word or tag, a first
            column that numbers the words.
    """
    fewest = 1 if wanted.inputs else FEWEST_COLUMNS
    columns = _Columns(str(source), fewest)
    conversion = Conversion(recognised_scheme(_all_tags(source, wanted, columns)))
    for sentence in _sentences(source, wanted, _Columns(str(source), fewest)):
        values = {wanted.column("tokens"): sentence.tokens}
        if columns.count > 1:
            values[wanted.column("tags")] = conversion.converted_(sentence.tags)
        yield Row(values, str(source), sentence.line)
    yield from conversion.notes(str(source))
    for place in columns.others_of_the_same():
        yield Note(f"{source}: column {place + 1} holds such tags too; the last column's were read.")


def _all_tags(source: Source, wanted: Wanted, columns: _Columns) -> Iterator[list[str]]:
    """The tags of every sentence, the file checked on the way."""
    first = 0
    numbered = True
    longest = 0
    for sentence in _sentences(source, wanted, columns):
        first = first or sentence.line
        numbered = numbered and sentence.numbered
        longest = max(longest, len(sentence.tokens))
        yield sentence.tags
    if not first:
        raise DataError("the file holds no sentence.", where=str(source), remedy="Give one word and its tag a line.")
    if numbered and longest > 1:
        raise DataError(
            "the first column numbers the words.",
            where=f"{source}:{first}",
            remedy="Drop it: the word stands first and its tag last.",
        )


def _sentences(source: Source, wanted: Wanted, columns: _Columns) -> Iterator[_Sentence]:
    sentence: _Sentence | None = None
    with source.text(wanted.encoding) as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.rstrip("\r\n")
            ends = not line.strip(" \t") or line.split(maxsplit=1)[:1] == [DOCUMENT_START]
            if ends or (sentence is None and columns.is_comment(line)):
                if sentence is not None:
                    yield sentence
                    sentence = None
                continue
            token, tag = columns.token_and_tag_(line, number)
            sentence = sentence or _Sentence(number)
            sentence.tokens.append(sys.intern(token))  # a word's object is seven times as large as the word
            sentence.tags.append(sys.intern(tag))
    if sentence is not None:
        yield sentence


@dataclass(slots=True)
class _Columns:
    """How the file's lines are parted: set by its first word's line."""

    file: str
    fewest: int = FEWEST_COLUMNS
    count: int = 0
    line: int = 0
    tabs: bool = False
    types: dict[int, set[str]] = field(default_factory=dict)
    """Of the last column, and of those between word and tag in which nothing but tags was met, the types."""

    def others_of_the_same(self) -> list[int]:
        """Columns beside the last one with tags of its types: a second layer, which chunks or parts of speech are not."""
        last = self.types.get(self.count - 1, set()) - {""}
        return [place for place, types in self.types.items() if place != self.count - 1 and types & last]

    def is_comment(self, line: str) -> bool:
        """A "#" of its own at the beginning, and no tag where the tag must stand."""
        if not line.startswith("#") or line[1:2] not in ("", " ", "\t") or (self.count == 1 and line == "#"):
            return False
        cells = self.cells(line)
        fits = len(cells) == self.count if self.count else FEWEST_COLUMNS <= len(cells) <= MOST_COLUMNS
        return not (fits and is_tag(cells[-1].strip()))

    def token_and_tag_(self, line: str, number: int) -> tuple[str, str]:
        if not self.count:
            self.tabs = "\t" in line
        cells = self.cells(line)
        where = f"{self.file}:{number}"
        if not self.fewest <= len(cells) <= MOST_COLUMNS or len(cells) != (self.count or len(cells)):
            fewest = "one" if self.fewest == 1 else "two"
            expected = f"line {self.line} has {self.count}" if self.count else f"{fewest} to four are allowed"
            raise DataError(
                f"{len(cells)} column{'s' * (len(cells) != 1)}, but {expected}.",
                where=where,
                remedy=f"Write the word, {'a tab' if self.tabs else 'a space or tab'} and its tag; leave a line blank "
                "between sentences.",
            )
        if not self.count:
            self.count, self.line = len(cells), number
            self.types = {place: set() for place in range(1, len(cells))}
        if self.count > FEWEST_COLUMNS:
            self.types = {p: t for p, t in self.types.items() if p == self.count - 1 or is_tag(cells[p].strip())}
            for place, types in self.types.items():
                types.add(cells[place].strip()[2:])
        token, tag = cells[0], cells[-1].strip() if len(cells) > 1 else OUTSIDE
        if not token or not tag:
            raise DataError(f"the {'tag' if token else 'word'} is empty.", where=where, remedy="Mend or drop the line.")
        return token, tag

    def cells(self, line: str) -> list[str]:
        # Not str.split(): a word of Chinese text can be U+3000, which is white space too.
        if self.tabs or (not self.count and "\t" in line):
            return line.split("\t")
        return re.split(r"[ \t]+", line.strip(" \t"))
