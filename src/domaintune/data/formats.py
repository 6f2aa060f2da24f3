"""Paths -> rows: which reader a file or folder is for, and the shape of its rows. What columns mean is a task's business."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from domaintune.data.archives import is_archive, unpacked
from domaintune.data.bitexts import read_aligned, read_po, read_tmx, read_xliff, translation_rows
from domaintune.data.box_formats import read_boxes
from domaintune.data.box_json import box_rows
from domaintune.data.chats import chat_rows, has_chat
from domaintune.data.columnar import is_saved_dataset, read_arrow, read_parquet, read_saved_dataset
from domaintune.data.columns import require_columns
from domaintune.data.conll import are_tagged, is_tag, read_conll
from domaintune.data.docbin import read_docbin
from domaintune.data.entity_spans import input_rows, span_rows
from domaintune.data.folders import read_class_folders
from domaintune.data.picture_tables import table_pictures
from domaintune.data.rows import Entry, Reading, Row, Wanted
from domaintune.data.sources import COMPRESSIONS, Source, entries_of, is_passed_over
from domaintune.data.span_shapes import accepted, shape_of, span_columns
from domaintune.data.tables import lists_in_cells, read_csv, read_json, read_json_lines, read_plain_text, read_tsv
from domaintune.data.tag_schemes import normalised_tags
from domaintune.errors import DataError
from domaintune.recipe import ALIGNED

Reader = Callable[[Source, Wanted], Iterator[Entry]]

TABLES: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".txt": read_plain_text,
}
TAGGED: dict[str, Reader] = dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".tsv", ".txt"), read_conll)
TAGGED[".spacy"] = read_docbin
PAIRED: dict[str, Reader] = {".tmx": read_tmx, ".po": read_po, ".xlf": read_xliff, ".xliff": read_xliff}
BY_TASK: dict[str, dict[str, Reader]] = {"token-classification": TAGGED, "translation": PAIRED}
WITH_PICTURES = ("image-classification", "object-detection")
SNIFFED_LINES = 200
LABELS_IN_CELL = r"\[\s*[\"'\d\]]"
ANY = Wanted("")


def read_rows(path: str, wanted: Wanted = ANY) -> list[Row]:
    """The rows of one path; see `read_part`. Without a task, tables keep their columns and a COCO file is recognised."""
    return read_part(path, wanted).rows


def read_part(given: str | Sequence[str], wanted: Wanted, *, part: str = "train", targets: bool = False) -> Reading:
    """Every row of one part: of a path, a glob, several of them, or two aligned files "SOURCE::TARGET"; at least one row.

    `part` (train, dev, test) chooses among the splits that some folders hold; `targets`: the target column has to be there too.

    Raises:
        DataError: nothing there (with the nearest name), an unknown format, a file that is not what its name says, columns that
            the task needs and the rows lack.
    """
    reading, wanted = Reading(), replace(wanted, targets=targets)
    reading.add_(stream_part(given, wanted, part=part))
    if not reading.rows:
        why = "; ".join(reading.summary())
        raise DataError(f"no row is left. {why}".strip(), where=str(given), remedy="Give rows that can be used.")
    if wanted.task and wanted.task != "object-detection":
        require_columns(reading.rows[0], wanted)
    return reading


def stream_part(given: str | Sequence[str], wanted: Wanted, *, part: str = "test") -> Iterator[Entry]:
    """Every entry of one part as it is read: nothing is kept of formats that are read row by row.

    Raises:
        DataError: as `read_part`, but for missing columns and for a part without rows.
    """
    for path in files_of(given):
        try:
            yield from _entries(path, wanted, part)
        except (OSError, ValueError) as error:  # such as a name that is too long, or one with a NUL
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(
                f"cannot be read ({what}).", where=path, remedy="Check the file and its permissions."
            ) from None


def files_of(given: str | Sequence[str]) -> list[str]:
    """The paths that a recipe's entry names, globs expanded in sorted order; an aligned pair stays one.

    Raises:
        DataError: a glob that fits nothing.
    """
    paths: list[str] = []
    for name in [given] if isinstance(given, str) else given:
        if ALIGNED not in name and glob.has_magic(name) and not os.path.exists(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise DataError("fits no file.", where=name, remedy="Check the pattern.")
            paths += found
        else:
            paths.append(name)
    return paths


def _entries(path: str, wanted: Wanted, part: str) -> Iterator[Entry]:
    if ALIGNED in path:
        source, target = path.split(ALIGNED, 1)
        for side in (source, target):
            if not Path(side).is_file():
                raise _missing(side)
        return read_aligned(Source(Path(source)), Source(Path(target)), wanted)
    place = Path(path)
    if not place.exists():
        raise _missing(path)
    if wanted.task in WITH_PICTURES and place.is_file() and is_archive(place):
        place = unpacked(place)
    if place.is_dir():
        return _folder(place, wanted, part)
    if place.suffix.lower() == ".zip":
        return itertools.chain.from_iterable(_file(source, wanted, part) for source in _members(place, wanted))
    return _file(Source(place), wanted, part)


def _folder(place: Path, wanted: Wanted, part: str) -> Iterator[Entry]:
    if is_saved_dataset(place):
        return shaped(read_saved_dataset(place, part), wanted, place)
    if wanted.task == "object-detection":
        return read_boxes(place, wanted, part)
    tables = [entry for entry in entries_of(place) if entry.suffix.lower() in (".csv", ".tsv", ".jsonl")]
    if wanted.task == "image-classification" and len(tables) == 1:
        return _file(Source(tables[0]), wanted, part)
    if wanted.task in ("", "image-classification"):
        return iter(read_class_folders(place, wanted))
    raise DataError(
        "is a folder.",
        where=str(place),
        remedy=f"Give a file, or a glob such as '{place}/*.csv'; a folder may also be one that `datasets` saved.",
    )


def _members(place: Path, wanted: Wanted) -> list[Source]:
    """The data files in a zip, in sorted order; they are read in place, nothing is unpacked."""
    known = {*TABLES, *BY_TASK.get(wanted.task, {})}
    try:
        with zipfile.ZipFile(place) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in known)
    except zipfile.BadZipFile as error:
        raise DataError(f"is no zip file ({error}).", where=str(place), remedy="Pack it again.") from None
    names = [name for name in names if not any(map(is_passed_over, PurePosixPath(name).parts))]
    if not names:
        raise DataError(f"holds no data file ({', '.join(sorted(known))}).", where=str(place), remedy="Pack it again.")
    return [Source(place, name) for name in names]


def _file(source: Source, wanted: Wanted, part: str) -> Iterator[Entry]:
    suffix = source.suffix
    special = BY_TASK.get(wanted.task, {}).get(suffix)
    if special is not None and _is_special(source, wanted):
        return special(source, wanted)
    if suffix == ".parquet":
        return shaped(read_parquet(source.path), wanted, source.path.parent)
    if suffix == ".arrow":
        return shaped(read_arrow(source.path), wanted, source.path.parent)
    if wanted.task == "object-detection" or (wanted.task == "" and suffix == ".json" and _is_object(source)):
        return read_boxes(source.path, wanted, part)
    reader = TABLES.get(suffix)
    if reader is None:
        allowed = [*TABLES, ".parquet", ".arrow", *BY_TASK.get(wanted.task, {})]
        raise DataError(
            f"unknown format '{suffix}'.",
            where=str(source),
            remedy=f"Allowed are {', '.join(dict.fromkeys(allowed))}, each also as {', '.join(COMPRESSIONS)}, and folders.",
        )
    return shaped(reader(source, wanted), wanted, source.path.parent)


def _is_special(source: Source, wanted: Wanted) -> bool:
    """Whether a file of the task's own formats is none of the tables that end alike: a .tsv with named columns, and where inputs alone
    are wanted a .tsv or .txt whose lines are no words with tags."""
    if source.suffix not in TABLES:
        return True
    with source.text(wanted.encoding) as stream:
        lines = list(itertools.islice(filter(str.strip, stream), SNIFFED_LINES))
    if source.suffix == ".tsv":
        first = lines[0].rstrip("\r\n").split("\t") if lines else []
        names = {wanted.column(name) for name in ("tokens", "tags", "text")} | {"text", *span_columns(wanted)}
        if names.intersection(first) and not is_tag(first[-1]):
            return False
    return not wanted.inputs or are_tagged(lines)


def _is_object(source: Source) -> bool:
    with source.open() as stream:
        return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def shaped(entries: Iterable[Entry], wanted: Wanted, folder: Path) -> Iterator[Entry]:
    """Rows of a table in the shape that the task reads, by the keys of the first one."""
    if wanted.task == "token-classification":
        spans = span_columns(wanted)
        marked = () if wanted.inputs else (wanted.column("tags"), *spans)
        entries = lists_in_cells(entries, (wanted.column("tokens"), *marked), may_be_blank=spans)
    if wanted.task == "text-classification" and not wanted.inputs:
        entries = accepted(entries, wanted)
        if wanted.several:
            entries = lists_in_cells(entries, (wanted.column("label"),), begin=LABELS_IN_CELL)
    entries = iter(entries)
    before: list[Entry] = []
    first = None
    for entry in entries:
        before.append(entry)
        if isinstance(entry, Row):
            first = entry
            break
    everything = itertools.chain(before, entries)
    if first is None or not wanted.task:
        return everything
    if wanted.task == "token-classification":
        if wanted.inputs:
            return _through(everything, lambda rows: input_rows(rows, wanted))
        if wanted.column("tags") not in first.values and shape_of(first, wanted) is not None:
            return _through(everything, lambda rows: span_rows(rows, wanted))
        return normalised_tags(everything, wanted)
    if wanted.task == "translation" and isinstance(first.values.get("translation"), dict):
        return _through(everything, lambda rows: translation_rows(rows, wanted))
    if wanted.task == "generation" and has_chat(first, wanted):
        return _through(everything, lambda rows: chat_rows(rows, wanted))
    if wanted.task == "image-classification":
        return _through(everything, lambda rows: table_pictures(rows, wanted, folder))
    if wanted.task == "object-detection":
        return box_rows(everything, wanted, folder)
    return everything


def _through(entries: Iterable[Entry], shape: Callable[[Iterable[Row]], Iterator[Entry]]) -> Iterator[Entry]:
    """Rows through a shape, streamed; what is no row follows them."""
    others: list[Entry] = []

    def rows() -> Iterator[Row]:
        for entry in entries:
            if isinstance(entry, Row):
                yield entry
            else:
                others.append(entry)

    yield from shape(rows())
    yield from others


def _missing(path: str) -> DataError:
    place = Path(path)
    folder = place.parent
    while not folder.is_dir() and folder != folder.parent:
        place, folder = folder, folder.parent
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    near = difflib.get_close_matches(place.name, names, n=3)
    if near:
        remedy = f"Did you mean {' or '.join(repr(str(folder / name)) for name in near)}?"
    else:
        remedy = f"'{folder}' holds {', '.join(sorted(names)[:8]) or 'nothing'}."
    return DataError("no such file or folder.", where=path, remedy=remedy)
