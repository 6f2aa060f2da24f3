"""The shapes in which annotation tools write entities as character spans of a text, and labels of whole texts, brought to one. What
becomes of the spans is not decided here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeGuard

from domaintune.data.rows import Entry, LeftOut, Row, Wanted
from domaintune.errors import DataError

Shape = Literal["label-studio", "prodigy", "plain"]
SPAN_COLUMNS = ("entities", "spans", "label", "labels")
TOOLS_OWN_KEYS = ("id", "user", "score", "source", "rank", "token_start", "token_end", "globalOffsets", "pattern")
SPAN_KEYS = frozenset(("start", "end", "start_offset", "end_offset", "label", "labels", "text", *TOOLS_OWN_KEYS))
"""Everything that the tools write into a span. A key that is none of these may mean anything, so it is an error."""
PRODIGYS_OWN = ("_task_hash", "_input_hash", "_view_id", "options")
ANSWERS = {"accept": None, "reject": "rejected", "ignore": "ignored"}
"""Prodigy's, and why a row with that answer is left out."""
JSON_MIN = {"id", "annotator"}
"""Keys of each row of Label Studio's JSON_MIN, which has none for spans where nothing was marked."""
NOT_ANNOTATED = "not annotated"
REMEDY = 'Write a span as {"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"]: characters, end exclusive.'
IN_UTF16 = (
    'In UTF-16 units, where an emoji is two, it is: give each span its text ("text": "...") to have them counted so.'
)


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text are called `label`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Annotated:
    """A text with its spans, inside the text and not empty, in the file's order; the tool's own words where it gave any."""

    text: str
    spans: tuple[Span, ...]
    words: tuple[tuple[int, int], ...] | None
    rest: Mapping[str, Any]
    """The row's columns but those of the spans and of the tool's words."""
    passed_over: Mapping[str, int]
    """What else was there and was not used, counted by kind."""


def shape_of(row: Row, wanted: Wanted) -> Shape | None:
    """Which shape the row's columns have; None where they are no text with spans.

    label-studio: "data" with "annotations". prodigy: "text" with "spans" or "tokens" that have places in the text. plain, which also
    is doccano's and Label Studio's JSON_MIN: a text with a list of spans, not of names, in one of `SPAN_COLUMNS`.
    """
    values = row.values
    if isinstance(values.get("data"), dict) and isinstance(values.get("annotations"), list):
        return "label-studio"
    if _text(row, wanted) is None:
        return None
    tokens = values.get("tokens")
    if isinstance(tokens, list) and tokens and all(isinstance(token, dict) for token in tokens):
        return "prodigy"
    if "answer" in values and (tokens == [] or is_span_list(values.get("spans"))):
        return "prodigy"
    if isinstance(values.get(wanted.column("tokens")), list):
        return None  # words and tags already
    if values.get("answer") in tuple(ANSWERS):
        return "prodigy"  # nothing was marked
    if any(is_span_list(values.get(name)) for name in span_columns(wanted)):
        return "plain"
    elsewhere = any(str(value).startswith(("[{", "[[")) for value in values.values())  # as lists or, in CSV, as text
    return "plain" if set(values) >= JSON_MIN and not elsewhere else None


def annotated(row: Row, wanted: Wanted) -> Annotated | LeftOut:
    """The row's text and spans.

    Raises:
        DataError: the row has none of the shapes; spans that are outside the text, empty, of unknown keys, or whose text is another one.
    """
    shape = shape_of(row, wanted)
    if shape == "label-studio":
        return _label_studio(row, wanted)
    if shape is None:
        raise DataError(
            f"no text with spans (columns: {', '.join(map(str, row.values)) or 'none'}).",
            where=row.where,
            remedy=f'Give "text" and a list in one of {", ".join(SPAN_COLUMNS)}. {REMEDY}',
        )
    if shape == "prodigy":
        return _prodigy(row, wanted)
    return _plain(row, wanted)


def text_of(row: Row, wanted: Wanted) -> tuple[str, Mapping[str, Any]] | None:
    """The text alone, empty where it is null, and the columns that stand beside it in an object of the row; None where no column is a
    text.

    Raises:
        DataError: Label Studio's object holds no text, or several and none by name.
    """
    data = row.values.get("data")
    if shape_of(row, wanted) == "label-studio" and isinstance(data, dict):
        return data[_label_studio_text(row, data, wanted)], data
    text = _text(row, wanted)
    if text is not None:
        return text, {}
    return ("", {}) if any(row.values.get(name, "") is None for name in _text_names(wanted)) else None


def _text(row: Row, wanted: Wanted) -> str | None:
    values = map(row.values.get, _text_names(wanted))
    return next((value for value in values if isinstance(value, str)), None)


def _text_names(wanted: Wanted) -> tuple[str, ...]:
    return wanted.column("text"), "text", "data"


def span_columns(wanted: Wanted) -> tuple[str, ...]:
    """Where spans may stand: in the user's column for them, where it was named."""
    return (wanted.columns["spans"],) if "spans" in wanted.columns else SPAN_COLUMNS


def is_span_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, list | dict) for entry in value)


def _plain(row: Row, wanted: Wanted) -> Annotated:
    found = [name for name in span_columns(wanted) if is_span_list(row.values.get(name))]
    filled = [name for name in found if row.values[name]]
    if len(filled) > 1:
        raise DataError(
            f"both '{filled[0]}' and '{filled[1]}' hold spans.", where=row.where, remedy="Keep one of the two."
        )
    used = next(iter(filled or found), None)
    text = _text(row, wanted)
    assert text is not None
    spans, passed_over = checked_spans(text, [] if used is None else row.values[used], row.where)
    rest = {name: value for name, value in row.values.items() if name != used}
    return Annotated(text, spans, None, rest, passed_over)


def _prodigy(row: Row, wanted: Wanted) -> Annotated | LeftOut:
    answer = row.values.get("answer", "accept")
    if answer not in tuple(ANSWERS):
        raise DataError(f"'answer' is {answer!r}.", where=row.where, remedy="It is accept, reject or ignore.")
    reason = ANSWERS[answer]
    if reason is not None:
        return LeftOut(reason, row.file, row.line)
    text = _text(row, wanted)
    assert text is not None
    written = row.values.get("spans") or []
    if not is_span_list(written):
        raise DataError("'spans' must be a list of spans.", where=row.where, remedy=REMEDY)
    spans, passed_over = checked_spans(text, written, row.where)
    tokens = row.values.get("tokens")
    words = _places(text, tokens, row.where) if tokens else None
    rest = {name: value for name, value in row.values.items() if name not in ("spans", "tokens")}
    return Annotated(text, spans, words, rest, passed_over)


def accepted(entries: Iterable[Entry], wanted: Wanted) -> Iterator[Entry]:
    """Rows of a classification as Prodigy exports them: those that were rejected or ignored are left out, and where options were
    chosen from, the chosen ones are the label. Other rows pass as they stand, also those that have an answer of their own."""
    label = wanted.column("label")
    for entry in entries:
        own = isinstance(entry, Row) and any(key in entry.values for key in PRODIGYS_OWN)
        answer = entry.values.get("answer") if isinstance(entry, Row) and own else None
        if not isinstance(entry, Row) or answer not in tuple(ANSWERS):
            yield entry
        elif reason := ANSWERS[answer]:
            yield LeftOut(reason, entry.file, entry.line)
        elif label not in entry.values and isinstance(entry.values.get("accept"), list):
            yield Row({**entry.values, label: entry.values["accept"]}, entry.file, entry.line)
        else:
            yield entry


def _places(text: str, tokens: list[dict[str, Any]], where: str) -> tuple[tuple[int, int], ...]:
    """Where the words stand; words of white space, which Prodigy writes for line ends, left out."""
    places: list[tuple[int, int]] = []
    last = 0
    for token in tokens:
        start, end = token.get("start"), token.get("end")
        if not _is_place(start) or not _is_place(end) or not last <= start < end <= len(text):
            raise DataError(
                f"a token stands at {start} to {end}, but the one before ends at {last} and the text at {len(text)}.",
                where=where,
                remedy="Export the rows from Prodigy again.",
            )
        if token.get("text", text[start:end]) != text[start:end]:
            raise DataError(
                f"the token {token['text']!r} stands at {start} to {end}, where the text has {text[start:end]!r}.",
                where=where,
                remedy="Export the rows from Prodigy again.",
            )
        last = end
        if text[start:end].strip():
            places.append((start, end))
    return tuple(places)


def _label_studio(row: Row, wanted: Wanted) -> Annotated | LeftOut:
    data = row.values["data"]
    annotations = row.values["annotations"]
    if any(not isinstance(entry, dict) for entry in annotations):
        raise DataError("'annotations' must be a list of objects.", where=row.where, remedy="Export as JSON again.")
    kept = [entry for entry in annotations if not entry.get("was_cancelled")]
    if not kept:
        return LeftOut(NOT_ANNOTATED, row.file, row.line)
    chosen = next((entry for entry in kept if entry.get("ground_truth")), kept[0])
    results = chosen.get("result")
    if not isinstance(results, list) or any(not isinstance(result, dict) for result in results):
        raise DataError("an annotation has no list 'result'.", where=row.where, remedy="Export as JSON again.")
    values = [result.get("value") for result in results]
    marked = [value for value in values if isinstance(value, dict) and ("start" in value or "labels" in value)]
    column = _label_studio_text(row, data, wanted)
    spans, passed_over = checked_spans(data[column], marked, row.where)
    counts = {
        **passed_over,
        "further annotations of a text unused": len(kept) - 1,
        "results that are no spans passed over": len(values) - len(marked),
    }
    return Annotated(data[column], spans, None, data, counts)


def _label_studio_text(row: Row, data: dict[str, Any], wanted: Wanted) -> str:
    texts = [name for name, value in data.items() if isinstance(value, str)]
    for name in (wanted.column("text"), "text"):
        if name in texts:
            return name
    if len(texts) != 1:
        raise DataError(
            f"which entry of 'data' is the text? (texts: {', '.join(texts) or 'none'})",
            where=row.where,
            remedy="Say it: --text-column NAME.",
        )
    return texts[0]


def checked_spans(text: str, written: list[Any], where: str) -> tuple[tuple[Span, ...], dict[str, int]]:
    """The spans as written by a tool, and counts of what was peculiar about them.

    Where spans carry their text, it must be what stands there: counted in characters or, in all spans of the row alike, in UTF-16
    units as JavaScript counts, which differ from the first emoji on.

    Raises:
        DataError: a span of unknown keys, outside the text, empty, or of another text.
    """
    spans: list[Span] = []
    quotes: list[str | None] = []
    for entry in written:
        start, end, names, quote = _parts(entry, where)
        spans.extend(Span(start, end, name) for name in names)
        quotes.extend(quote for _ in names)
    counts: dict[str, int] = {}
    if not _all_quoted(text, spans, quotes):
        moved = from_utf16(text, spans)
        if moved is not None and _all_quoted(text, moved, quotes):
            spans = moved
            counts["spans counted in UTF-16 units"] = len(spans)
    for span, quote in zip(spans, quotes, strict=True):
        if not 0 <= span.start <= span.end <= len(text):
            what = (
                f"the span {span.start} to {span.end} ({span.label}) is not inside the text of {len(text)} characters."
            )
            raise DataError(what, where=where, remedy=REMEDY if from_utf16(text, spans) is None else IN_UTF16)
        if span.start == span.end:
            raise DataError(f"the span at {span.start} ({span.label}) is empty.", where=where, remedy=REMEDY)
        found = text[span.start : span.end]
        if not _same_text(found, quote):
            raise DataError(
                f"the span {span.start} to {span.end} ({span.label}) says {quote!r}, but the text has {found!r}.",
                where=where,
                remedy="Count in characters from the text's beginning, end exclusive.",
            )
        if not found.strip():
            what = f"the span {span.start} to {span.end} ({span.label}) covers only white space."
            raise DataError(what, where=where, remedy="Drop it or move its ends.")
    return tuple(spans), counts


def _parts(entry: Any, where: str) -> tuple[int, int, list[str], str | None]:
    """Start, end, labels (several where a tool lets a span have several), and the text that the span says it covers."""
    if isinstance(entry, list) and len(entry) == 3:
        start, end, label = entry
        quote = None
    elif isinstance(entry, dict):
        unknown = sorted(set(entry) - SPAN_KEYS)
        if unknown:
            raise DataError(f"a span has the unknown key '{unknown[0]}'.", where=where, remedy=REMEDY)
        start = entry.get("start", entry.get("start_offset"))
        end = entry.get("end", entry.get("end_offset"))
        label = entry.get("label", entry.get("labels"))
        quote = entry.get("text")
    else:
        raise DataError(f"{entry!r} is no span.", where=where, remedy=REMEDY)
    names = label if isinstance(label, list) else [label]
    if not _is_place(start) or not _is_place(end):
        raise DataError(f"a span's start and end are {start!r} and {end!r}.", where=where, remedy=REMEDY)
    if not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise DataError(f"the label of the span {start} to {end} is {label!r}.", where=where, remedy=REMEDY)
    if quote is not None and not isinstance(quote, str):
        raise DataError(f"the text of the span {start} to {end} is {quote!r}.", where=where, remedy=REMEDY)
    return start, end, [name.strip() for name in names], quote


def _is_place(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _same_text(found: str, quote: str | None) -> bool:
    """White space aside: Label Studio trims it, and writes a line break as the two characters backslash and n."""
    return quote is None or found == quote or found.split() == quote.replace("\\n", "\n").split()


def _all_quoted(text: str, spans: list[Span], quotes: list[str | None]) -> bool:
    return all(_same_text(text[span.start : span.end], quote) for span, quote in zip(spans, quotes, strict=True))


def from_utf16(text: str, spans: Sequence[Span]) -> list[Span] | None:
    """The spans in characters, counted in UTF-16 units before; None where one is outside the text then, or cuts a character."""
    units = text.encode("utf-16-le", "surrogatepass")
    made = []
    for span in spans:
        if not 0 <= span.start <= span.end <= len(units) // 2:
            return None
        try:
            before = len(units[: 2 * span.start].decode("utf-16-le"))
            end = before + len(units[2 * span.start : 2 * span.end].decode("utf-16-le"))
        except UnicodeDecodeError:
            return None
        made.append(Span(before, end, span.label))
    return made
