"""One raw row with its origin, what was left out, and what a reader is asked for. No meaning of columns here: a task gives the
values theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from domaintune.errors import DataError

NAMES_OF_PARTS = {"train": ("train", "trainval"), "dev": ("val", "valid", "validation", "dev"), "test": ("test",)}


def name_of(value: object) -> str | None:
    """A value that names something as text without white space around it: whole numbers as their digits (also 1.0, which tools make of
    integers beside missing values), truth values as JSON spells them. None of what is no name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) else None


def part_names(part: str) -> tuple[str, ...]:
    """What files and folders call a part, the usual name first; of every other part (general) that of test."""
    return NAMES_OF_PARTS.get(part, NAMES_OF_PARTS["test"])


@dataclass(frozen=True, slots=True)
class Row:
    """Values by column name, and where they stand.

    `line` counts from 1 and is the line where the row starts; for pictures it is the picture's number in its folder or file.
    """

    values: Mapping[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str:
        """The value of a column that must be a string.

        Raises:
            DataError: the column is missing, or its value is not a string.
        """
        if column not in self.values:
            raise DataError(
                f"no column '{column}' (columns: {', '.join(map(str, self.values)) or 'none'}).", where=self.where
            )
        value = self.values[column]
        if not isinstance(value, str):
            what = f"'{column}' must be text, got {type(value).__name__}."
            raise DataError(what, where=self.where, remedy="Write it as text, or drop the row.")
        return value

    def name(self, column: str) -> str | None:
        """What stands in a column that names something, such as the row's group (`name_of`); None where it is blank or null.

        Raises:
            DataError: the column is missing, or its value is something else.
        """
        value = self.values.get(column, "")
        if value is None:
            return None
        found = name_of(value) if column in self.values else None
        return (self.text(column) if found is None else found) or None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of a file that was read and left out on purpose, such as an untranslated one. Counted by `reason`: a few words
    that fit behind "12 entries left out: "."""

    reason: str
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader did to a whole file that its user should know, such as converting a tag scheme."""

    message: str


@dataclass(frozen=True, slots=True)
class Declared:
    """Classes that a file lists, whether its rows use them or not: number or key -> name."""

    classes: Mapping[int | str, str]


Entry = Row | LeftOut | Note | Declared
"""What readers yield. Rows and left-out entries together are the file's entries: nothing is dropped silently."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader is to make of a file: rows for `task`, whose columns carry the user's names.

    `fixed`: the columns are those that a finished run was trained with. `used`: columns that other parts of the same recipe have.

    `columns` maps a canonical name (text, label, tokens, tags, source, target, prompt, completion, messages, image, xmin, ...) to
    the user's; names not in it are themselves. `encoding` is None where it is to be recognised. `targets`: rows without a target are
    of no use. `inputs`: what rows have for targets does not matter and passes as it stands, so that tables stream. `several`: a row of
    a classification may have several labels.
    """

    task: str
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    targets: bool = False
    inputs: bool = False
    fixed: bool = False
    several: bool = False
    used: frozenset[str] = frozenset()

    def column(self, name: str) -> str:
        return self.columns.get(name, name)


@dataclass(slots=True)
class Tally:
    """How often each kind of thing was met, and where first."""

    number: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add_(self, kind: str, where: str, number: int = 1) -> None:
        if number:
            self.number[kind] += number
            self.first.setdefault(kind, where)

    def told(self) -> list[str]:
        return [f"{number} {kind} (first: {self.first[kind]})" for kind, number in self.number.items()]


@dataclass(slots=True)
class Reading:
    """Everything that was read of one part."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: dict[int | str, str] = field(default_factory=dict)
    """That the files declare."""

    def add_(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if isinstance(entry, Row):
                self.rows.append(entry)
            elif isinstance(entry, LeftOut):
                self.left_out.append(entry)
            elif isinstance(entry, Declared):
                self.classes |= entry.classes
            elif entry.message not in self.notes:
                self.notes.append(entry.message)

    def summary(self) -> list[str]:
        """The notes, and one line a reason of what was left out."""
        counts = Tally()
        for entry in self.left_out:
            counts.add_(f"entries left out: {entry.reason}", entry.where)
        return [*self.notes, *(f"{told}." for told in counts.told())]
