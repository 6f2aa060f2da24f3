"""Boxes in tables, one a line, whatever the columns are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domaintune.data.box_pictures import PICTURE_FOLDERS, BoxPicture, Found, Passed, box_number
from domaintune.data.pictures import find_picture
from domaintune.data.rows import Row, Wanted
from domaintune.data.sources import Source
from domaintune.data.tables import read_csv
from domaintune.errors import DataError

USUAL: Mapping[str, Sequence[str]] = {
    "image": ("image", "filename", "file_name", "path", "file"),
    "label": ("class", "label", "category", "name"),
    "xmin": ("xmin", "x1"),
    "ymin": ("ymin", "y1"),
    "xmax": ("xmax", "x2"),
    "ymax": ("ymax", "y2"),
    "x": ("x",),
    "y": ("y",),
    "width": ("w", "width"),
    "height": ("h", "height"),
}
CORNERS, SIDES = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "width", "height")
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Columns:
    """The table's own names."""

    image: str
    label: str
    box: Mapping[str, str]
    """Of CORNERS or SIDES; empty where the table names pictures alone."""
    size: Sequence[str] = ()
    """Beside corners `width` and `height`, as Roboflow and TensorFlow write the picture's; empty without."""

    def box_of(self, row: Row) -> list[float] | None:
        """x, y, width, height in pixels; None where all four cells are blank."""
        cells = {edge: str(row.values[column]).strip() for edge, column in self.box.items()}
        if not any(cells.values()):
            return None
        numbers = [box_number(cell, row.where, self.box[edge]) for edge, cell in cells.items()]
        if "xmax" in cells:
            numbers[2:] = [numbers[2] - numbers[0], numbers[3] - numbers[1]]
        return numbers

    def size_of(self, row: Row) -> Size | None:
        """What the row says in `size`; None where it says nothing."""
        cells = [str(row.values[column]).strip() for column in self.size]
        if not cells or not all(cells):
            return None
        width, height = (int(box_number(cell, row.where, name)) for cell, name in zip(cells, self.size, strict=True))
        return width, height


def read_box_table(path: Path, wanted: Wanted) -> Iterator[Found]:
    """Gathered by picture; corners (xmin, ymin, xmax, ymax) or x, y, width, height, in pixels. A row whose box and label are blank
    is of a picture without objects. A table without columns of boxes and labels gives pictures alone, where boxes need not be there.

    Raises:
        DataError: columns that say no boxes; a box without a label, or the other way round; two sizes of one picture.
    """
    pictures: dict[str, BoxPicture] = {}
    blank: dict[str, str] = {}
    sizes: list[tuple[BoxPicture, Size, str]] = []
    of_boxes = True
    columns: _Columns | None = None
    for row in read_csv(Source(path), wanted):
        assert isinstance(row, Row)
        columns = columns or _columns(row, wanted)
        name, places = row.text(columns.image).strip(), [path.parent / inner for inner in PICTURE_FOLDERS]
        if not columns.box:
            image = str(find_picture(name, places, where=row.where))
            yield Row({**row.values, "image": image}, row.file, row.line)
            continue
        label, box = row.text(columns.label).strip(), columns.box_of(row)
        if name not in pictures:
            pictures[name] = BoxPicture(find_picture(name, places, where=row.where), row.file, row.line)
        if (size := columns.size_of(row)) is not None:
            sizes.append((pictures[name], size, row.where))
            of_boxes = of_boxes and (box is None or max(abs(size[0] - box[2]), abs(size[1] - box[3])) <= 1)
        if box is not None:
            pictures[name].add_(box, label, row.line)
        elif label:
            raise DataError(f"the label '{label:.40}' has no box.", where=row.where, remedy="Give both, or neither.")
        else:
            blank.setdefault(name, row.where)
    if not of_boxes:
        _give_sizes_(sizes)
    for name, picture in pictures.items():
        if name in blank and not picture.boxes:
            yield Passed("pictures without objects (rows without a box)", blank[name])
        yield picture


def _columns(row: Row, wanted: Wanted) -> _Columns:
    own = {str(name).strip().casefold(): str(name) for name in reversed(list(row.values))}

    def found(name: str) -> str | None:
        """The user's column, else one of the usual ones."""
        given = wanted.column(name)
        names = USUAL[name] if given == name else (given.strip().casefold(),)
        return next((own[other] for other in names if other in own), None)

    image, label = found("image"), found("label")
    named = any(wanted.column(edge) != edge for edge in SIDES)
    forms: list[dict[str, Any]] = [{edge: found(edge) for edge in form} for form in (CORNERS, SIDES)]
    box = next((form for form in (forms[::-1] if named else forms) if all(form.values())), None)
    marked = label or any(map(found, (*CORNERS, "x", "y")))  # width and height may be the picture's
    if image is not None and box is None and (wanted.inputs or not (wanted.targets or marked)):
        return _Columns(image, "", {})
    if image is None or label is None or box is None:
        raise DataError(
            f"the columns say no boxes ({', '.join(map(str, row.values))}).",
            where=row.where,
            remedy="Write filename,class,xmin,ymin,xmax,ymax or image,label,x,y,w,h; or say what yours are called: --image-column, "
            "--label-column, --set task.box_columns='{xmin: left, ymin: top, xmax: right, ymax: bottom}'.",
        )
    size = [own[side] for side in SIDES[2:] if side in own] if "xmax" in box else []
    return _Columns(image, label, box, size if len(size) == 2 else ())


def _give_sizes_(sizes: Iterable[tuple[BoxPicture, Size, str]]) -> None:
    """Give each picture the size that its rows say.

    Raises:
        DataError: they say several.
    """
    for picture, size, where in sizes:
        if picture.size not in (None, size):
            raise DataError(
                f"the picture is {size[0]} x {size[1]} pixels here, and {picture.size} in an earlier row.",
                where=where,
                remedy="Correct width and height; where they are the boxes', call them otherwise.",
            )
        picture.size = size
