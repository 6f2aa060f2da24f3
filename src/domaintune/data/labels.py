"""Other names for labels, joined between base, domain and general before any task sees them. Knows where labels stand in rows."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from domaintune.data.box_pictures import with_boxes_at
from domaintune.data.rows import Row, Wanted, name_of
from domaintune.errors import DataError

WHOLE = re.compile(r"[+-]?\d+\.0+")


def renamed(
    rows: Sequence[Row], wanted: Wanted, names: Mapping[str, str], *, separator: str | None = None
) -> list[Row]:
    """The rows with every label that `names` holds under its new name; of tags the part behind B- and I-.

    `separator` stands between the labels of one cell, where there may be several.
    """
    if not names:
        return list(rows)
    return [_changed(row, wanted, lambda label: names.get(label, label), separator) for row in rows]


def folded(label: str) -> str:
    """The label without what spellings of one name differ in: case, the form of a letter, characters that nobody sees; of a whole number
    the zeros behind its point."""
    plain = unicodedata.normalize("NFKC", label).casefold()
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    return plain.partition(".")[0] if WHOLE.fullmatch(plain) else plain


def alike(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Each of the names -> that of the others which is spelled alike; empty unless all have one, and where none differs."""
    known = {folded(other): other for other in others}
    made = {name: known.get(folded(name)) for name in names}
    if any(other is None for other in made.values()):
        return {}
    return {name: other for name, other in made.items() if other is not None and other != name}


def require_labels(
    names: Iterable[str],
    rows: Iterable[Row],
    wanted: Wanted,
    *,
    where: str,
    separator: str | None,
    known: Collection[str] = (),
) -> None:
    """
    Raises:
        DataError: one of the names is the label of no row and none of `known`, with the nearest that is.
    """
    names = list(names)
    if not names:
        return
    held = {*known, *(label for row in rows for label in labels_of(row, wanted, separator))}
    for name in names:
        if name not in held:
            near = difflib.get_close_matches(name, held, n=1) or sorted(held)[:8]
            remedy = f"Did you mean {' or '.join(map(repr, near))}?" if near else "The rows have no labels."
            raise DataError(f"no row has the label '{name}'.", where=where, remedy=remedy)


def labels_of(row: Row, wanted: Wanted, separator: str | None) -> list[str]:
    """Every label of the row as it stands there, entity types without B- and I-; what is no label is left out."""
    met: list[str] = []

    def kept(label: str) -> str:
        met.append(label)
        return label

    _changed(row, wanted, kept, separator)
    return met


def only(
    rows: Sequence[Row], wanted: Wanted, labels: Sequence[str], *, where: str, separator: str | None = None
) -> tuple[list[Row], int]:
    """The rows without labels other than these, and how many such labels there were: tags become O, boxes go, of rows that may have
    several labels (`separator` between them) the others stay, and rows whose one label it was go too.

    Raises:
        DataError: there are labels, and none of them is one of these.
    """
    kept, dropped, held = [], 0, 0
    for row in rows:
        made, gone, stayed = _without_others(row, wanted, set(labels), separator)
        dropped, held = dropped + gone, held + stayed
        if made is not None:
            kept.append(made)
    if dropped and not held:
        raise DataError(f"no row has one of the labels {', '.join(labels)}.", where=where, remedy="Check their names.")
    return kept, dropped


def _without_others(row: Row, wanted: Wanted, labels: set[str], separator: str | None) -> tuple[Row | None, int, int]:
    """The row without other labels, how many of them went, and how many stay."""
    column = _label_column(wanted)
    value = row.values.get(column)
    if wanted.task == "token-classification" and isinstance(value, list):
        tags = [tag if not isinstance(tag, str) or tag == "O" or tag[2:] in labels else "O" for tag in value]
        begun = [isinstance(tag, str) and tag.startswith("B-") for tag in value]
        stayed = sum(a and tag != "O" for a, tag in zip(begun, tags, strict=True))
        return Row({**row.values, column: tags}, row.file, row.line), sum(begun) - stayed, stayed
    if wanted.task == "object-detection" and isinstance(value, list):
        places = [place for place, label in enumerate(value) if label in labels]
        return with_boxes_at(row, places, of=len(value)), len(value) - len(places), len(places)
    if isinstance(value, list) or (separator is not None and isinstance(value, str)):
        parts = value if isinstance(value, list) else [part for part in value.split(separator) if part.strip()]
        kept = [part for part in parts if name_of(part) in labels]
        if separator is None and not kept:
            return None, len(parts), 0
        made: Any = kept if isinstance(value, list) else str(separator).join(kept)
        return Row({**row.values, column: made}, row.file, row.line), len(parts) - len(kept), len(kept)
    if value is None or name_of(value) == "":
        return row, 0, 0
    return (row, 0, 1) if name_of(value) in labels else (None, 1, 0)


def _changed(row: Row, wanted: Wanted, renamed_to: Callable[[str], str], separator: str | None) -> Row:
    column = _label_column(wanted)
    value = row.values.get(column)
    if value is None:
        return row
    if wanted.task == "token-classification" and isinstance(value, list):
        made: Any = [
            f"{tag[:2]}{renamed_to(tag[2:])}" if isinstance(tag, str) and tag[1:2] == "-" else tag for tag in value
        ]
    elif isinstance(value, list):
        made = [entry if (name := name_of(entry)) is None else renamed_to(name) for entry in value]
        made = list(dict.fromkeys(made)) if wanted.task == "text-classification" and all(map(name_of, value)) else made
    elif separator is not None and isinstance(value, str):
        parts = (part.strip() for part in value.split(separator))
        made = separator.join(dict.fromkeys(renamed_to(part) for part in parts if part))
    elif (name := name_of(value)) is not None:
        made = renamed_to(name)
    else:
        return row  # no label: the task says so
    return Row({**row.values, column: made}, row.file, row.line)


def _label_column(wanted: Wanted) -> str:
    """Where the task reads labels: those of pictures under one name, whatever the user's table calls them."""
    pictures = {"image-classification": "label", "object-detection": "labels"}
    column = "tags" if wanted.task == "token-classification" else "label"
    return pictures.get(wanted.task) or wanted.column(column)
