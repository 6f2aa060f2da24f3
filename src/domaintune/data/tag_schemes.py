"""Schemes that mark entities with one tag a word, recognised over a whole file and converted to BIO. Tags only: what a broken BIO
sequence means is the task's business."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from domaintune.data.rows import Entry, Note, Row, Wanted

OUTSIDE = "O"
Scheme = Literal["BIO", "IO", "IO without I-", "IOB1", "BIOES", "BILOU", "BMES"]
ENDED_SCHEMES: dict[Scheme, str] = {"BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
"""Schemes that also mark where an entity ends, and their prefixes: begin, inside, last, single word."""
NO_BARE_TYPE = re.compile(r"[BIESLUM](?![^\W_]).*|.*[-_][BIESLUM]|[\W\d_]*")
"""Tags without a type, with other marks than PREFIX-TYPE, or without a letter: they are no types that stand for themselves."""


def recognised_scheme(sequences: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme that all tags of a file follow; None for tags of no known one.

    IO: no B- at all; without I-: types alone (PER). IOB1: some entities begin with I-, and B- stands only directly behind an entity of the same type. BIOES, BILOU
    and BMES: by their prefixes. BIO otherwise, also where I- continues nothing though B- begins entities elsewhere: that is broken
    BIO, and no conversion mends it. A file without entities is BIO.

    Source: seqeval, `scheme.auto_detect`.
    Differs: tells IO and IOB1 apart by where the tags stand.
    """
    prefixes: set[str] = set()
    bare = False
    beginnings: Counter[str] = Counter()
    for tags in sequences:
        before = OUTSIDE
        for tag in tags:
            if tag != OUTSIDE:
                if tag[1:2] == "-" and len(tag) > 2:
                    prefixes.add(tag[0])
                    beginnings[tag[0]] += before[2:] != tag[2:]
                elif NO_BARE_TYPE.fullmatch(tag):
                    return None
                else:
                    bare = True
            before = tag
    if bare:
        return None if prefixes else "IO without I-"
    if prefixes <= {"B", "I"}:
        if prefixes == {"I"}:
            return "IO"
        return "IOB1" if beginnings["I"] and not beginnings["B"] else "BIO"
    for scheme, letters in ENDED_SCHEMES.items():
        last = letters[2]
        if prefixes <= set(letters) and (last not in prefixes or "B" in prefixes):
            return scheme
    return None


def to_bio(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The tags of one sequence of `scheme` as BIO.

    BIOES and its like: a tag that goes on with an entity which has ended begins one of its own, so that the ended one keeps its end;
    one that continues nothing becomes I-, which is as broken in BIO.
    """
    if scheme == "BIO":
        return list(tags)
    return [_bio_tag(before, tag, scheme) for before, tag in zip((OUTSIDE, *tags), tags, strict=False)]


def _bio_tag(before: str, tag: str, scheme: Scheme) -> str:
    if tag == OUTSIDE:
        return tag
    if scheme == "IO without I-":
        return ("I-" if before == tag else "B-") + tag
    if scheme in ENDED_SCHEMES:
        begins = tag[0] in "BSU" or _goes_on_after_end(before, tag)
    else:
        begins = tag[0] == "B" or before[2:] != tag[2:]
    return ("B-" if begins else "I-") + tag[2:]


def _goes_on_after_end(before: str, tag: str) -> bool:
    return tag[0] not in "BSU" and before[0] in "ESLU" and before[2:] == tag[2:]


@dataclass(slots=True)
class Conversion:
    """Converts the sequences of one file and counts what it changed."""

    scheme: Scheme | None
    tags: int = 0
    changed: int = 0
    reopened: int = 0

    @property
    def needed(self) -> bool:
        return self.scheme not in (None, "BIO")

    def converted_(self, tags: Sequence[str]) -> list[str]:
        if self.scheme is None or self.scheme == "BIO":
            return list(tags)
        made = to_bio(tags, self.scheme)
        self.tags += len(tags)
        self.changed += sum(old != new for old, new in zip(tags, made, strict=True))
        if self.scheme in ENDED_SCHEMES:
            pairs = zip((OUTSIDE, *tags), tags, strict=False)
            self.reopened += sum(_goes_on_after_end(before, tag) for before, tag in pairs if tag != OUTSIDE)
        return made

    def notes(self, file: str) -> Iterator[Note]:
        """One note where a conversion was needed."""
        if not self.needed:
            return
        message = f"{file}: the tags are {self.scheme}; {self.changed} of {self.tags} changed to make them BIO."
        if self.scheme in ("IO", "IO without I-"):
            message += " Neighbouring entities of one type cannot be told apart in IO: they are one."
        if self.reopened:
            message += f" {self.reopened} went on with an entity that had ended and begin one of their own."
        yield Note(message)


def normalised_tags(rows: Iterable[Entry], wanted: Wanted) -> Iterator[Entry]:
    """Rows with tokens and tags, the tags as BIO, the scheme recognised file by file; a note for each file whose tags were converted.

    Rows whose tags are missing or no list of texts pass as they are: the task tells what is wrong with them. Reads all rows before
    the first comes out.
    """
    column = wanted.column("tags")
    entries = list(rows)
    sequences: dict[str, list[list[str]]] = {}
    for entry in entries:
        if isinstance(entry, Row) and _are_tags(entry.values.get(column)):
            sequences.setdefault(entry.file, []).append(entry.values[column])
    conversions = {file: Conversion(recognised_scheme(found)) for file, found in sequences.items()}
    for entry in entries:
        if isinstance(entry, Row) and _are_tags(entry.values.get(column)) and conversions[entry.file].needed:
            made = conversions[entry.file].converted_(entry.values[column])
            yield Row({**entry.values, column: made}, entry.file, entry.line)
        else:
            yield entry
    for file, conversion in conversions.items():
        yield from conversion.notes(file)


def _are_tags(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in value)
