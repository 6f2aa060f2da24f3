"""What all readers of boxes share: a picture while its boxes are gathered, and the rows that come of it. No format here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from domaintune.data.pictures import readable_size
from domaintune.data.rows import Entry, LeftOut, Note, Row, Tally, Wanted
from domaintune.errors import DataError

PICTURE_FOLDERS = ("", "images", "JPEGImages")
NO_AREA = "boxes without an area left away"
NO_SIZE = "sizes of 0 replaced by the picture's own"
NO_LABELS = "pictures without labels, taken for pictures without objects"
SHARES = (-0.01, 1.01)
"""Where the numbers of boxes lie that are shares of the picture, rounded ones too."""


class Passed(NamedTuple):
    """Something that was passed over or changed; counted by `what`, a few words that fit behind a number."""

    what: str
    where: str


@dataclass(slots=True)
class BoxPicture:
    """One picture while its boxes are gathered; boxes are x, y, width, height in pixels."""

    path: Path
    file: str
    line: int
    size: tuple[int, int] | None = None
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Where each box stands in `file`."""
    crowd: list[bool] = field(default_factory=list)
    """Which are not trained on and not counted."""

    def add_(self, box: list[float], label: str | None, line: int, *, crowd: bool = False) -> None:
        """
        Raises:
            DataError: the box has no label.
        """
        name = (label or "").strip()
        if not name:
            raise DataError("the box has no label.", where=f"{self.file}:{line}", remedy="Name what is in it.")
        self.boxes.append(box)
        self.labels.append(name)
        self.lines.append(line)
        self.crowd.append(crowd)

    def row(self) -> Row:
        width, height = self.size or readable_size(str(self.path)) or (None, None)
        values = {"image": str(self.path), "width": width, "height": height, "boxes": self.boxes, "labels": self.labels}
        return Row({**values, "crowd": self.crowd, "lines": self.lines}, self.file, self.line)


@dataclass(frozen=True, slots=True)
class Unmarked:
    """A picture that nobody has annotated, as a row without boxes, and what it is beside others that are annotated."""

    row: Callable[[], Row]
    beside: BoxPicture | LeftOut


Found = BoxPicture | Unmarked | Passed | Entry
"""What readers of boxes yield."""


def finished(found: Iterable[Found], wanted: Wanted) -> Iterator[Entry]:
    """Rows of the pictures; boxes without an area go, and what was passed over is counted into notes. Pictures that nobody has annotated
    have no boxes where inputs alone are wanted, and where boxes need not be there and no picture has any.

    Raises:
        DataError: after the rows, boxes that are all shares of the picture.
    """
    counts, units = Tally(), _Units()
    for entry in _decided(found, wanted, counts):
        if isinstance(entry, Row | BoxPicture):
            row = _without_flat_boxes(entry, counts) if isinstance(entry, Row) else _row_of(entry, counts)
            units.see_(row)
            yield row
        elif isinstance(entry, Passed):
            counts.add_(*entry)
        else:
            yield entry
    if not wanted.inputs:
        units.require_pixels()
    yield from (Note(f"{told}.") for told in counts.told())


@dataclass(slots=True)
class _Units:
    """What the boxes of a file are measured in."""

    first: str = ""
    """Where the first box stands."""
    pixels: bool = False
    """Whether any box reaches beyond the first pixel."""

    def see_(self, row: Row) -> None:
        boxes, lines = row.values.get("boxes"), row.values.get("lines")
        if isinstance(boxes, list) and boxes and not self.pixels:
            self.first = self.first or (f"{row.file}:{lines[0]}" if isinstance(lines, list) and lines else row.where)
            self.pixels = not all(map(_is_share, boxes))

    def require_pixels(self) -> None:
        if self.first and not self.pixels:
            raise DataError(
                "every box lies within one pixel: they seem to be shares of the picture.",
                where=self.first,
                remedy="Write pixels: multiply by the picture's width and height.",
            )


def _is_share(box: Any) -> bool:
    return isinstance(box, list | tuple) and all(
        isinstance(v, int | float) and SHARES[0] <= v <= SHARES[1] for v in box
    )


def _decided(found: Iterable[Found], wanted: Wanted, counts: Tally) -> Iterator[BoxPicture | Passed | Entry]:
    """What every unmarked picture is."""
    held: list[Unmarked] | None = None if wanted.targets or wanted.inputs else []

    def beside(entry: Unmarked) -> BoxPicture | LeftOut:
        if isinstance(entry.beside, BoxPicture):
            counts.add_(NO_LABELS, f"{entry.beside.file}:{entry.beside.line}")
        return entry.beside

    for entry in found:
        if isinstance(entry, BoxPicture | Row | LeftOut) and held is not None:
            yield from map(beside, held)
            held = None
        if not isinstance(entry, Unmarked):
            yield entry
        elif held is not None:
            held.append(entry)
        else:
            yield entry.row() if wanted.inputs else beside(entry)
    yield from (entry.row() for entry in held or ())


def _row_of(picture: BoxPicture, counts: Tally) -> Row:
    """The picture's row without boxes that have no area, and without a size of 0."""
    good = []
    for place, (box, line) in enumerate(zip(picture.boxes, picture.lines, strict=True)):
        if box[2] > 0 and box[3] > 0:
            good.append(place)
        else:
            counts.add_(NO_AREA, f"{picture.file}:{line}")
    if picture.size is not None and min(picture.size) <= 0:
        counts.add_(NO_SIZE, f"{picture.file}:{picture.line}")
        picture = replace(picture, size=None)
    return with_boxes_at(picture.row(), good, of=len(picture.boxes))


def _without_flat_boxes(row: Row, counts: Tally) -> Row:
    """The same of a row that has its boxes as lists; what is no box at all stays for the task to refuse."""
    boxes = row.values.get("boxes")
    if not isinstance(boxes, list):
        return row
    kept = [place for place, box in enumerate(boxes) if not _is_flat(box)]
    counts.add_(NO_AREA, row.where, len(boxes) - len(kept))
    return row if len(kept) == len(boxes) else with_boxes_at(row, kept, of=len(boxes))


def with_boxes_at(row: Row, places: Sequence[int], *, of: int) -> Row:
    """The row with what is said of its boxes at these places alone; lists of another length than `of` stay for the task to refuse."""
    lists = {
        name: [held[place] for place in places]
        for name in ("boxes", "labels", "crowd", "lines")
        if isinstance(held := row.values.get(name), list) and len(held) == of
    }
    return Row({**row.values, **lists}, row.file, row.line)


def _is_flat(box: Any) -> bool:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    return any(isinstance(side, int | float) and not isinstance(side, bool) and side == 0 for side in box[2:])


def box_number(value: Any, where: str, what: str) -> float:
    """
    Raises:
        DataError: no finite number below 1e9; `what` names it.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 1e9:
        raise DataError(f"{what} is no usable number (got {value!r:.40}).", where=where, remedy="Mend the box.")
    return number
