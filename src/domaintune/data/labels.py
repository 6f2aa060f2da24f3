"""Other names for labels, joined between base, domain and general before any task sees them. Knows where labels stand in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from domaintune.data.box_pictures import with_boxes_at
from domaintune.data.rows import Row, Wanted
from domaintune.errors import DataError


def renamed(
    rows: Sequence[Row], wanted: Wanted, names: Mapping[str, str], *, separator: str | None = None
) -> list[Row]:
    """The rows with every label that `names` holds under its new name; of tags the part behind B- and I-.

    `separator` stands between the labels of one cell, where there may be several.
    """
    if not names:
        return list(rows)
    return [_changed(row, wanted, lambda label: names.get(label, label), separator) for row in rows]


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
    if separator is not None and isinstance(value, str | list):
        parts = value if isinstance(value, list) else [part for part in value.split(separator) if part.strip()]
        kept = [part for part in parts if str(part).strip() in labels]
        made: Any = kept if isinstance(value, list) else separator.join(kept)
        return Row({**row.values, column: made}, row.file, row.line), len(parts) - len(kept), len(kept)
    if value is None:
        return row, 0, 0
    return (row, 0, 1) if str(value).strip() in labels else (None, 1, 0)


def _changed(row: Row, wanted: Wanted, name_of: Callable[[str], str], separator: str | None) -> Row:
    column = _label_column(wanted)
    value = row.values.get(column)
    if value is None:
        return row
    if wanted.task == "token-classification" and isinstance(value, list):
        made: Any = [
            f"{tag[:2]}{name_of(tag[2:])}" if isinstance(tag, str) and tag[1:2] == "-" else tag for tag in value
        ]
    elif isinstance(value, list):
        made = (
            _once(name_of(str(label)) for label in value)
            if wanted.task == "text-classification"
            else [name_of(str(v)) for v in value]
        )
    elif separator is not None and isinstance(value, str):
        made = separator.join(_once(name_of(part.strip()) for part in value.split(separator) if part.strip()))
    elif isinstance(value, str | int) and not isinstance(value, bool):
        made = name_of(str(value).strip())
    else:
        return row  # no label: the task says so
    return Row({**row.values, column: made}, row.file, row.line)


def _once(labels: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(labels))


def _label_column(wanted: Wanted) -> str:
    if wanted.task == "token-classification":
        return wanted.column("tags")
    return "labels" if wanted.task == "object-detection" else wanted.column("label")
