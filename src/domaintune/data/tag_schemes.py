"""Schemes of entity tags: which one a file uses, and every one of them as BIO. Pure functions over tags, and over rows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from domaintune.data.rows import Entry, Note, Row, Wanted

Scheme = Literal["BIO", "IO", "IOB1", "BIOES", "BILOU"]
OUTSIDE = "O"
SINGLE, LAST = frozenset("SU"), frozenset("EL")


def parted(tag: str) -> tuple[str, str]:
    """Prefix and type: ("B", "PER") of "B-PER", ("O", "") of "O"; ("", tag) of a tag without a prefix."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    head, dash, kind = tag.partition("-")
    return (head, kind) if dash and len(head) == 1 and head in "BIESLU" else ("", tag)


def recognised_scheme(sequences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a whole file. E- or S- (L-, U-) mark BIOES (BILOU); no B- at all, or types without prefixes, is IO; entities
    that begin with I-, and B- only right after an entity of the same type, is IOB1; else BIO, broken or not."""
    begins = bare = inside_begins = proper = 0
    for tags in sequences:
        before = (OUTSIDE, "")
        for tag in tags:
            prefix, kind = parted(tag)
            if prefix in ("E", "S"):
                return "BIOES"
            if prefix in ("L", "U"):
                return "BILOU"
            bare += prefix == ""
            touching = before[1] == kind and before[0] != OUTSIDE
            begins += prefix == "B"
            proper += prefix == "B" and not touching
            inside_begins += prefix == "I" and not touching
            before = (prefix, kind)
    if bare or (inside_begins and not begins):
        return "IO"
    return "IOB1" if begins and inside_begins and not proper else "BIO"


def to_bio(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The tags of one sentence in BIO. In IO, neighbours of one type are one entity: what marks their border is lost there."""
    if scheme == "BIO":
        return list(tags)
    made: list[str] = []
    open_kind = ""  # of the entity that the word before is inside of, and that has not ended
    for tag in tags:
        prefix, kind = parted(tag)
        if prefix == OUTSIDE:
            made.append(OUTSIDE)
            open_kind = ""
            continue
        starts = prefix == "B" or prefix in SINGLE or kind != open_kind
        made.append(f"{'B' if starts else 'I'}-{kind}")
        open_kind = "" if prefix in SINGLE or prefix in LAST else kind
    return made


def normalised_tags(entries: Iterable[Entry], wanted: Wanted) -> Iterator[Entry]:
    """Rows of tokens and tags with tags in BIO; a note where another scheme was converted. Rows without tags pass."""
    held = list(entries)
    column = wanted.column("tags")
    tagged = [entry.values[column] for entry in held if isinstance(entry, Row) and _is_tags(entry.values.get(column))]
    scheme = recognised_scheme(tagged)
    changed = 0
    for entry in held:
        if scheme == "BIO" or not isinstance(entry, Row) or not _is_tags(entry.values.get(column)):
            yield entry
            continue
        made = to_bio(entry.values[column], scheme)
        changed += sum(a != b for a, b in zip(made, entry.values[column], strict=True))
        yield Row({**entry.values, column: made}, entry.file, entry.line)
    if changed:
        yield Note(f"the tags are {scheme}; {changed} of them were rewritten as BIO.")


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in value)
