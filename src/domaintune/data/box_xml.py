"""Boxes in XML: Pascal VOC and CVAT for images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from domaintune.data.box_pictures import PICTURE_FOLDERS, BoxPicture, Found, Passed, box_number
from domaintune.data.pictures import find_picture
from domaintune.data.rows import part_names
from domaintune.data.sources import Source, entries_of, lines_of
from domaintune.data.xml_elements import root_name, xml_elements
from domaintune.errors import DataError

CVAT_ROOT = "annotations"
SETS = Path("ImageSets", "Main")


def read_box_xml(path: Path, folder: Path) -> Iterator[Found]:
    """The pictures of one file, CVAT's or VOC's by its root element; those of VOC are looked for in `folder` too."""
    return _cvat(path) if root_name(Source(path)) == CVAT_ROOT else _voc(path, folder)


def voc_files(folder: Path, part: str) -> list[Path]:
    """The annotation files of a folder in Pascal VOC's layout; those that its ImageSets/Main lists for the part, where it lists
    any part.

    Raises:
        DataError: there are lists, but none for this part; a listed file is not there.
    """
    place = next((place for name in ("Annotations", "annotations") if (place := folder / name).is_dir()), folder)
    lists = {name: folder / SETS / f"{name}.txt" for p in ("train", "dev", "test") for name in part_names(p)}
    lists = {name: file for name, file in lists.items() if file.is_file()}
    if not lists:
        return [file for file in entries_of(place) if file.suffix == ".xml"]
    chosen = next((lists[name] for name in part_names(part) if name in lists), None)
    if chosen is None:
        raise DataError(
            f"lists no {part} part (lists: {', '.join(lists)}).",
            where=str(folder / SETS),
            remedy=f"Write {part_names(part)[0]}.txt; or give '{place}', which is all of them.",
        )
    with Source(chosen).text() as stream:
        names = [(number, line.strip().strip('"')) for number, line in enumerate(lines_of(stream), start=1)]
    return [_listed(place, name, f"{chosen}:{number}") for number, name in names if name]


def _listed(place: Path, name: str, where: str) -> Path:
    for known in (name, name.split()[0]):
        if (file := place / f"{known}.xml").is_file():
            return file
    raise DataError(f"'{name}.xml' is not there.", where=where, remedy=f"Looked in '{place}'.")


def _voc(path: Path, folder: Path) -> Iterator[Found]:
    """Pascal VOC counts pixels from 1: a box from xmin to xmax is xmin - 1 to xmax in edges. Its `difficult` objects are not counted.

    Source: Everingham et al. 2010, The Pascal Visual Object Classes Challenge, section 4.2.
    """
    elements = list(xml_elements(Source(path), {"filename", "size", "object"}, root="annotation"))
    given = next((element for element in elements if element.name == "filename"), None)
    name = (given.text if given else "") or f"{path.stem}.jpg"
    where = f"{path}:{given.line if given else 1}"
    places = [path.parent, *(folder / inner for inner in PICTURE_FOLDERS), path.parent.parent / "JPEGImages"]
    picture = BoxPicture(find_picture(Path(name).name, places, where=where), str(path), 1, (0, 0))
    for element in elements:
        where = f"{path}:{element.line}"
        if element.name == "size":
            wide, high = (int(box_number(element.text_of(side) or 0, where, side)) for side in ("width", "height"))
            picture.size = wide, high
        elif element.name == "object":
            edges = next(iter(element.children("bndbox")), element)
            x0, y0, x1, y1 = (box_number(edges.text_of(edge), where, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
            # Zero sides are kept as such: xmin = xmax is what broken exports write, not a box of one pixel.
            sides = [x1 - x0 + 1 if x1 > x0 else 0.0, y1 - y0 + 1 if y1 > y0 else 0.0]
            hard = element.text_of("difficult") == "1"
            if hard:
                yield Passed("boxes marked as difficult neither trained on nor counted", where)
            picture.add_([x0 - 1, y0 - 1, *sides], element.text_of("name"), element.line, crowd=hard)
    yield picture


def _cvat(path: Path) -> Iterator[Found]:
    """CVAT for images 1.1."""
    for image in xml_elements(Source(path), {"image", "track"}, root=CVAT_ROOT):
        where = f"{path}:{image.line}"
        if image.name == "track":
            raise DataError("holds tracks of a video.", where=where, remedy="Export it as CVAT for images.")
        subset = image.attributes.get("subset", "")
        places = [path.parent / inner for inner in (*PICTURE_FOLDERS, f"images/{subset}")]
        size = [int(box_number(image.attributes.get(side), where, side)) for side in ("width", "height")]
        file = find_picture(image.attributes.get("name", ""), places, where=where)
        picture = BoxPicture(file, str(path), image.line, (size[0], size[1]))
        for shape in image.elements():
            where, given = f"{path}:{shape.line}", shape.attributes
            if shape.name != "box":
                yield Passed(f"{shape.name} shapes, which are no boxes, passed over", where)
            elif box_number(given.get("rotation", 0), where, "rotation"):
                yield Passed("boxes that are turned passed over", where)
            else:
                x0, y0, x1, y1 = (box_number(given.get(edge), where, edge) for edge in ("xtl", "ytl", "xbr", "ybr"))
                picture.add_([x0, y0, x1 - x0, y1 - y0], given.get("label"), shape.line)
        yield picture
