"""Text with marked stretches of characters -> words and BIO tags: plain spans, doccano, Label Studio, Prodigy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domaintune.data.rows import Entry, LeftOut, Note, Row, Wanted
from domaintune.data.words import word_spans
from domaintune.errors import DataError

LISTS = ("entities", "spans", "label", "labels")
STARTS, ENDS = ("start", "start_offset", "start_char"), ("end", "end_offset", "end_char")
KINDS = ("label", "labels", "type", "entity", "category")
OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) are an entity of this type."""

    start: int
    end: int
    kind: str


def has_spans(row: Row, wanted: Wanted) -> bool:
    """Whether the row is text with marked stretches, in one of the shapes that `span_rows` reads."""
    values = row.values
    if "annotations" in values and isinstance(values.get("data"), Mapping):
        return True
    return _text_of(values, wanted) is not None and any(isinstance(_decoded(values.get(n)), list) for n in LISTS)


def span_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Rows of words and BIO tags, the user's other columns kept. Words are the row's own `tokens` with offsets (Prodigy), else
    words and single punctuation marks, cut at every edge of a span so that none is lost.

    Of nested and overlapping spans the longest stays, of equal ones the first; they are named and counted in a note. Rows that
    their annotator rejected, skipped or has not seen are left out.

    Raises:
        DataError: no text, a span outside of it, empty, of white space alone, or without a type; names file and line.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in rows:
        reason = _unused(row.values)
        if reason is not None:
            yield LeftOut(reason, row.file, row.line)
            continue
        text, found = _parsed(row, wanted)
        spans, faults = _disjoint(_trimmed(text, found, row))
        for fault in faults:
            counts[fault] += 1
            first.setdefault(fault, row.where)
        edges = [edge for span in spans for edge in (span.start, span.end)]
        words = _own_words(row) or word_spans(text, edges)
        tokens, tags = _tagged(text, words, spans, row)
        if not tokens:
            yield LeftOut("no words", row.file, row.line)
            continue
        kept = {key: value for key, value in row.values.items() if key not in (*LISTS, "annotations")}
        yield Row({**kept, wanted.column("tokens"): tokens, wanted.column("tags"): tags}, row.file, row.line)
    for fault, count in counts.items():
        yield Note(f"{count} {fault} spans were dropped, the longer one kept (first: {first[fault]}).")


def _decoded(value: Any) -> Any:
    """A list that stands in a cell of text, such as in a CSV of Label Studio."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        import json

        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _text_of(values: Mapping[str, Any], wanted: Wanted) -> str | None:
    inner = values.get("data")
    places = [values, *([inner] if isinstance(inner, Mapping) else [])]
    for place in places:
        for name in (wanted.column("text"), "text", "data"):
            if isinstance(place.get(name), str):
                return str(place[name])
    return None


def _unused(values: Mapping[str, Any]) -> str | None:
    if values.get("answer") in ("reject", "ignore"):
        return f"answered '{values['answer']}'"
    if "annotations" in values and isinstance(values.get("data"), Mapping):
        annotations = values["annotations"]
        live = [a for a in annotations or [] if isinstance(a, Mapping) and not a.get("was_cancelled")]
        return None if live else "not annotated"
    return None


def _parsed(row: Row, wanted: Wanted) -> tuple[str, list[Span]]:
    text = _text_of(row.values, wanted)
    if text is None:
        raise DataError("the row has no text.", where=row.where, remedy=f'Write "{wanted.column("text")}": "...".')
    if "annotations" in row.values:
        live = next(a for a in row.values["annotations"] if isinstance(a, Mapping) and not a.get("was_cancelled"))
        results = live.get("result", [])
        entries = [r.get("value") for r in results if isinstance(r, Mapping) and r.get("type", "labels") == "labels"]
    else:
        entries = next((v for v in (_decoded(row.values.get(name)) for name in LISTS) if isinstance(v, list)), [])
    return text, [_span(entry, number, text, row) for number, entry in enumerate(entries, start=1)]


def _span(entry: Any, number: int, text: str, row: Row) -> Span:
    if isinstance(entry, Mapping):
        start = next((entry[name] for name in STARTS if name in entry), None)
        end = next((entry[name] for name in ENDS if name in entry), None)
        kind = next((entry[name] for name in KINDS if name in entry), None)
        kind = kind[0] if isinstance(kind, list) and kind else kind
    elif isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) == 3:
        start, end, kind = entry
    else:
        start = end = kind = None
    whole = isinstance(start, int) and isinstance(end, int) and not isinstance(start, bool)
    if not whole or not isinstance(kind, str) or not kind.strip():
        raise DataError(
            f"span {number} cannot be read (got {entry!r:.80}).",
            where=row.where,
            remedy='Write [start, end, "TYPE"] or {"start": ..., "end": ..., "label": "TYPE"}, in characters from 0.',
        )
    if not 0 <= start < end <= len(text):  # type: ignore[operator]
        raise DataError(
            f"span {number} ({start} to {end}, {kind}) does not lie in the text of {len(text)} characters.",
            where=row.where,
            remedy="Offsets count characters from 0, the end exclusive.",
        )
    return Span(start, end, kind.strip())  # type: ignore[arg-type]


def _trimmed(text: str, spans: Sequence[Span], row: Row) -> list[Span]:
    made = []
    for span in spans:
        inside = text[span.start : span.end]
        if not inside.strip():
            raise DataError(f"the {span.kind} span at {span.start} is white space.", where=row.where, remedy="Drop it.")
        left = len(inside) - len(inside.lstrip())
        made.append(Span(span.start + left, span.start + left + len(inside.strip()), span.kind))
    return made


def _disjoint(spans: Sequence[Span]) -> tuple[list[Span], list[str]]:
    """Spans that share no character, in order; and for each dropped one what it was: repeated, nested or overlapping."""
    kept: list[Span] = []
    faults = []
    for span in sorted(spans, key=lambda s: (s.start - s.end, s.start)):
        met = next((other for other in kept if span.start < other.end and other.start < span.end), None)
        if met is None:
            kept.append(span)
        elif span == met:
            faults.append("repeated")
        else:
            faults.append("nested" if met.start <= span.start and span.end <= met.end else "overlapping")
    return sorted(kept, key=lambda s: s.start), faults


def _own_words(row: Row) -> list[tuple[int, int]] | None:
    tokens = row.values.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, Mapping) and "start" in t and "end" in t for t in tokens):
        return None
    return [(int(token["start"]), int(token["end"])) for token in tokens if token["end"] > token["start"]]


def _tagged(
    text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span], row: Row
) -> tuple[list[str], list[str]]:
    tokens, tags, met = [], [], set()
    for start, end in words:
        token = text[start:end]
        if not token.strip():
            continue
        span = next((s for s in spans if s.start < end and start < s.end), None)
        tokens.append(token)
        tags.append(OUTSIDE if span is None else f"{'I' if span in met else 'B'}-{span.kind}")
        if span is not None:
            met.add(span)
    lost = next((span for span in spans if span not in met), None)
    if lost is not None:
        raise DataError(
            f"the {lost.kind} span at {lost.start} covers none of the row's tokens.", where=row.where, remedy="Mend it."
        )
    return tokens, tags
