"""A file or a stream of any size through a run: rows are read, predicted and written in chunks, and nothing is kept."""

from __future__ import annotations

import codecs
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from PIL import Image

from domaintune.counting import counted
from domaintune.data.columns import INPUTS, wanted_of
from domaintune.data.formats import WITH_PICTURES, stream_part
from domaintune.data.pictures import PICTURE_SUFFIXES, open_picture
from domaintune.data.rows import Entry, LeftOut, Note, Row, Tally, Wanted
from domaintune.data.sources import known_encoding
from domaintune.errors import DataError
from domaintune.finished.tables import Table, write_lines
from domaintune.inputs import sides_of
from domaintune.predict import Run, Strength, unknown_told
from domaintune.run import writing
from domaintune.tasks.bare_texts import bare_values, is_blank, with_input

CHUNK_ROWS = 512
READ_BYTES = 1 << 16
STANDARD_INPUT = "-"
TABLES = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")

ANSWERED = {
    "blank": "[row is|rows are] blank (first: {first}): [its answer is|their answers are] empty.",
    "cut": "[input is|inputs are] longer than the model reads, and cut (first: {first}).",
    "unfinished": "[output was|outputs were] cut at the limit of new tokens (first: {first}): {remedy}",
}
"""What is told of rows that were answered in another way than asked."""

Told = Callable[[int, int], None]
"""Receives (rows predicted, line of the last of them) after each chunk."""


@dataclass(slots=True)
class Passed:
    """What a reader left out or noted, and what was answered in another way than asked, counted."""

    notes: dict[str, None] = field(default_factory=dict)
    left_out: Tally = field(default_factory=Tally)
    unreadable: list[DataError] = field(default_factory=list)
    """Of each picture that cannot be read."""
    answered: Tally = field(default_factory=Tally)
    """Inputs that are "blank" or were "cut", and outputs that are "unfinished"."""
    remedy: str = ""
    """What to do about outputs that are unfinished."""
    unknown: int = 0
    """Rows that name no domain that the run knows, where it knows any."""

    def lines(self) -> list[str]:
        told = [f"{line}." for line in self.left_out.told()]
        for kind, sentence in ANSWERED.items():
            if number := self.answered.number[kind]:
                told.append(counted(number, sentence.format(first=self.answered.first[kind], remedy=self.remedy)))
        if self.unreadable:
            told.append(
                counted(
                    len(self.unreadable),
                    f"[picture|pictures] cannot be read (first: {self.unreadable[0].where}: {self.unreadable[0].what}): "
                    "[its answer is|their answers are] empty.",
                )
            )
        return [*self.notes, *told, *unknown_told(self.unknown)]


def predict_file(
    run: Run,
    given: str,
    *,
    output: Path | None,
    strength: Strength | None = None,
    encoding: str | None = None,
    told: Told = lambda rows, line: None,
) -> list[str]:
    """Predict every row of `given` (a file as in training, or "-": standard input, one input a line) and write it with the user's
    columns and the answer, whose names get "predicted_" in front where a column of any row has them already: a file is read twice.

    `output` is a table or JSON lines by its suffix, and is there whole or not at all; None: JSON lines on standard output, each
    chunk as soon as it is predicted. A row whose text is blank or null, or whose picture cannot be read, gets empty answers. `encoding` of text files; None: recognised.
    Returns notes on what was left out.

    Raises:
        DataError: a bad row (file and line), no row at all, no picture that can be read, another suffix, a file that something writes to,
            an output that would replace its own input.
        RunError: a strength outside [0, 1].
    """
    checked_output(output, given)
    free = "max_new_tokens" in run.recipe.task.answering
    passed = Passed(
        remedy="--set task.max_new_tokens=... sets another." if free else "it is the run's task.max_target_length."
    )
    columns: dict[str, None] = {}
    if given == STANDARD_INPUT:
        chunks = _input_chunks(run, cast(BufferedReader, sys.stdin.buffer), encoding, passed)
    else:
        wanted = replace(wanted_of(run.recipe), encoding=encoding, inputs=True)
        columns = dict.fromkeys(name for row in _given_rows(run, given, wanted, Passed()) for name in row.values)
        chunks = _file_chunks(run, given, wanted, passed)
    answers = _answers(run, chunks, strength, told, passed, columns)
    if output is None:
        for chunk in answers:
            write_lines(sys.stdout, chunk)
            sys.stdout.flush()
    else:
        with writing(output.expanduser()) as stream:
            separator = TABLES.get(output.suffix.lower())
            write = partial(write_lines, stream) if separator is None else Table(stream, separator, columns).write
            for chunk in answers:
                write(chunk)
    return passed.lines()


def checked_output(output: Path | None, given: str) -> None:
    """
    Raises:
        DataError: a suffix that is no format of predictions, a folder, or what would replace the rows that are `given`.
    """
    if output is None:
        return
    where = f"--output {output}"
    if output.suffix.lower() not in (*TABLES, *LINES):
        raise DataError(
            f"unknown format '{output.suffix}'.", where=where, remedy=f"Allowed are {', '.join((*LINES, *TABLES))}."
        )
    if output.expanduser().is_dir():
        raise DataError("is a folder.", where=where, remedy="Give the name of a file.")
    inputs = [] if given == STANDARD_INPUT else sides_of(given)
    target = Path(os.path.realpath(output.expanduser()))
    if any(target.is_relative_to(os.path.realpath(path)) for path in inputs):
        raise DataError("is, or lies in, what is to be predicted.", where=where, remedy="Give another name.")


def line_total(given: str) -> int | None:
    """The lines of one uncompressed text file, for an estimate of what remains; None for everything else."""
    path = Path(given)
    if path.suffix.lower() not in (*TABLES, *LINES, ".txt") or not path.is_file():
        return None
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


# --- rows


def _given_rows(run: Run, given: str, wanted: Wanted, passed: Passed) -> Iterator[Row]:
    """The rows of a file; `passed` is told what is left out."""
    path = Path(given)
    is_picture = wanted.task in WITH_PICTURES and path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
    entries: Iterable[Entry] = [Row({"image": given}, given, 1)] if is_picture else stream_part(given, wanted)
    for entry in entries:
        if isinstance(entry, Row):
            yield with_input(run.task, wanted, entry)
        elif isinstance(entry, LeftOut):
            passed.left_out.add_(f"entries left out: {entry.reason}", entry.where)
        elif isinstance(entry, Note):
            passed.notes[entry.message] = None


def _file_chunks(run: Run, given: str, wanted: Wanted, passed: Passed) -> Iterator[list[Row]]:
    rows = _given_rows(run, given, wanted, passed)
    count = 0
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        count += len(chunk)
        yield chunk
    if not count:
        raise DataError(f"no row is left. {' '.join(passed.lines())}".strip(), where=given, remedy="Give other rows.")


def _input_chunks(run: Run, stream: BufferedReader, encoding: str | None, passed: Passed) -> Iterator[list[Row]]:
    """Standard input: a chunk is what is there, so that a slow writer gets its answers while it writes. Blank lines are passed over.

    Raises:
        DataError: bytes of another encoding, no line that is not blank.
    """
    name, number, rest, first = "standard input", 0, "", True
    asked = codecs.lookup(known_encoding(encoding or "utf-8")).name
    decoder = codecs.getincrementaldecoder("utf-8-sig" if asked == "utf-8" else asked)()
    while True:
        block = stream.read1(READ_BYTES)
        try:
            *whole, rest = (rest + decoder.decode(block, final=not block)).split("\n")
        except UnicodeError as error:
            line = number + 1
            if isinstance(error, UnicodeDecodeError):
                line += error.object.count(b"\n", 0, error.start)
            what = f"is not {encoding or 'UTF-8'}."
            raise DataError(
                what, where=f"{name}:{line}", remedy="Convert it to UTF-8, or name its --encoding."
            ) from None
        lines = whole if block else [*whole, rest]
        numbered = [(number + place, line.removesuffix("\r")) for place, line in enumerate(lines, start=1)]
        number += len(lines)
        rows = [Row(bare_values(run.task, line), name, place) for place, line in numbered if line.strip()]
        if rows and first:
            first = False
            _note_table_(run, next(line for _, line in numbered if line.strip()), passed)
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows[start : start + CHUNK_ROWS]
        if not block:
            break
    if first:
        raise DataError("the file is empty.", where=name, remedy="Give at least one line of text.")


def _note_table_(run: Run, line: str, passed: Passed) -> None:
    """Says so where the first line is that of a table with the run's columns, which would be a file's."""
    wanted = wanted_of(run.recipe)
    known = {wanted.column("text"), *(wanted.column(name) for name in INPUTS[wanted.task])}
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        held = None
    cells = list(held) if isinstance(held, dict) else [cell.strip(' "') for cell in re.split("[,;\t]", line)]
    if found := [cell for cell in cells if cell in known]:
        note = f"the first line of standard input looks like that of a table with a column '{found[0]}': each line was taken for an input"
        passed.notes[f"{note} of its own. For a table give a file: domaintune predict RUN FILE."] = None


# --- answers


def _answers(
    run: Run,
    chunks: Iterable[Sequence[Row]],
    strength: Strength | None,
    told: Told,
    passed: Passed,
    columns: Iterable[str],
) -> Iterator[list[tuple[Row, dict[str, Any]]]]:
    wanted, empty = wanted_of(run.recipe), dict[str, None]()
    done, taken, names = 0, set(columns), dict[str, str]()
    for rows in chunks:
        blank = [row for row in rows if is_blank(wanted, row)]
        asked, made = _predicted(run, [row for row in rows if not is_blank(wanted, row)], strength, passed)
        for row in blank:
            passed.answered.add_("blank", row.where)
        if len(asked) < len(rows):
            empty = empty or dict.fromkeys(made[0] if made else run.predict([_sample(wanted)])[0])
        passed.unknown += run.unknown_domains(asked)
        if not names:
            taken.update(*(row.values for row in rows))  # of standard input nothing is known before
            names = {key: _free(key, taken) for key in (made[0] if made else empty)}
        _require_known(rows, taken)
        answers = {id(row): answer for row, answer in zip(asked, made, strict=True)}
        yield [(row, _joined(row, answers.get(id(row), empty), names)) for row in rows]
        done += len(rows)
        told(done, rows[-1].line)
    if done and len(passed.unreadable) == done:
        raise passed.unreadable[0]


def _predicted(
    run: Run, rows: Sequence[Row], strength: Strength | None, passed: Passed
) -> tuple[Sequence[Row], list[dict[str, Any]]]:
    """The rows that can be answered, and their answers: all, but for pictures that cannot be read."""
    try:
        return rows, run.predict_rows(rows, strength=strength, told=passed.answered.add_) if rows else []
    except DataError:
        bad = [_fault(row) for row in rows] if run.recipe.task.name in WITH_PICTURES else []
        if not any(bad):
            raise
    passed.unreadable += filter(None, bad)
    good = [row for row, fault in zip(rows, bad, strict=True) if fault is None]
    return good, run.predict_rows(good, strength=strength, told=passed.answered.add_) if good else []


def _fault(row: Row) -> DataError | None:
    try:
        open_picture(row.text("image"), where=row.where)
    except DataError as error:
        return error
    return None


def _sample(wanted: Wanted) -> str | dict[str, Any]:
    """An input that every run of the task answers."""
    return {wanted.column("image"): Image.new("RGB", (64, 64))} if wanted.task in WITH_PICTURES else "."


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"predicted_{name}"
    return name


def _require_known(rows: Iterable[Row], columns: Collection[str]) -> None:
    for row in rows:
        if new := [name for name in row.values if name not in columns]:
            raise DataError(
                f"the row has a column '{new[0]}', which was not there when the file was read for its columns.",
                where=row.where,
                remedy="Predict it again when nothing writes to it any more.",
            )


def _joined(row: Row, answer: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The row with its answer under its `names`, which are those of no column."""
    return {**row.values, **{names[key]: value for key, value in answer.items()}}
