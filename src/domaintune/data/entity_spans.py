"""Texts with entities as character spans -> words and BIO tags. Which tool wrote them is `span_shapes`' business."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from domaintune.data.rows import Entry, LeftOut, Note, Row, Tally, Wanted
from domaintune.data.span_shapes import Annotated, Span, annotated, from_utf16, text_of
from domaintune.data.tag_schemes import OUTSIDE
from domaintune.data.words import WORD, word_spans
from domaintune.errors import DataError


def _has_words(row: Row, wanted: Wanted) -> bool:
    words = row.values.get(wanted.column("tokens"))
    return isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words)


def span_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Rows of tokens and BIO tags, the user's other columns kept; at the end a note for each file in which spans were dropped or
    changed, with counts by kind and the first place of each.

    White space at a span's ends is trimmed. Of spans that share characters the longest is kept, of equally long ones the first. Words
    are the tool's own or those of `WORD`, and end at every end of a kept span: each one is whole words.

    Raises:
        DataError: a row of no known shape; a span outside its text, empty, of white space alone, of unknown keys.
    """
    peculiar: dict[str, Tally] = {}
    for row in rows:
        found = annotated(row, wanted)
        if isinstance(found, LeftOut):
            yield found
            continue
        counts = peculiar.setdefault(row.file, Tally())
        values = _values(row, found, wanted, counts)
        yield Row(values, row.file, row.line) if values else LeftOut("no words", row.file, row.line)
    for file, counts in peculiar.items():
        if told := counts.told():
            yield Note(f"{file}: {'; '.join(told)}.")


def input_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Rows to predict on: every column as it stands, whatever is marked in it, and the text's words where the row has none. A null text
    is a blank one, and so are words of which there are none, without a text; a row with neither passes for its reader to refuse.

    Raises:
        DataError: a text beside a column of the words' name that holds something else, Prodigy's own words aside; a text that is none.
    """
    tokens, texts = wanted.column("tokens"), (wanted.column("text"), "text")
    for row in rows:
        found = None if _has_words(row, wanted) else text_of(row, wanted)
        if found is None:
            blank = _is_blank(row.values.get(tokens))
            if blank and (name := next((name for name in texts if name in row.values), None)) is not None:
                row.text(name)  # raises what it is instead
            yield LeftOut("no words", row.file, row.line) if blank and tokens in row.values else row
            continue
        text, others = found
        words = [text[start:end] for start, end in word_spans(text)]
        values = {**others, **row.values}
        if not _may_be_replaced(values.get(tokens)):
            raise _taken("a text", tokens, row.where)
        if words:
            yield Row({**values, tokens: words}, row.file, row.line)
        else:
            yield LeftOut("no words", row.file, row.line)


def _may_be_replaced(value: object) -> bool:
    """Whether nothing is there, or words with their places in the text."""
    places = isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
    return _is_blank(value) or places


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str | list) and not value)


def _taken(what: str, name: str, where: str) -> DataError:
    return DataError(
        f"the row has {what} and a column '{name}' as well.", where=where, remedy="Drop or rename the column."
    )


def _values(row: Row, found: Annotated, wanted: Wanted, counts: Tally) -> dict[str, object]:
    """The row's columns; none where the text holds no words."""
    for kind, number in found.passed_over.items():
        counts.add_(kind, row.where, number)
    spans = [trimmed(found.text, span) for span in found.spans]
    counts.add_("spans trimmed of white space", row.where, sum(a != b for a, b in zip(spans, found.spans, strict=True)))
    kept, dropped = without_overlaps(spans)
    for kind in dropped:
        counts.add_(kind, row.where)
    words = cut_words(found.text, kept) if found.words is None else cut_at_edges(found.words, kept)
    if not words:
        return {}
    if found.words is not None:
        counts.add_("words cut at a span's end", row.where, len(words) - len(found.words))
    elif len(words) > len(whole := word_spans(found.text)):
        moved = from_utf16(found.text, kept) or []
        are_utf16 = bool(moved) and not _in_words(whole, moved)
        _count_in_words_(counts, row.where, _in_words(whole, kept), are_utf16=are_utf16)
    columns = {
        wanted.column("tokens"): [found.text[start:end] for start, end in words],
        wanted.column("tags"): span_tags(words, kept, where=row.where),
    }
    taken = next((name for name in columns if name in found.rest), None)
    if taken is not None:
        raise _taken("spans", taken, row.where)
    return {**found.rest, **columns}


def _count_in_words_(counts: Tally, where: str, misplaced: list[int], *, are_utf16: bool) -> None:
    """`misplaced`: of spans that cut a word how many characters they end before it does. `are_utf16`: counted in UTF-16 units none cuts
    one."""
    counts.add_("spans that begin or end inside a word", where, len(misplaced))
    counts.add_("of them one character short of the word's end: are their ends inclusive?", where, misplaced.count(1))
    told = "of them whole words in UTF-16 units, in which an emoji is two: give the spans their text to have them counted so"
    counts.add_(told, where, len(misplaced) if are_utf16 else 0)


def _in_words(words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[int]:
    """For each span with an end inside a word, how many characters later the word ends that its own end cuts; 0 where none does."""
    starts, ends = [start for start, _ in words], [end for _, end in words]
    made = []
    for span in spans:
        first, last = bisect_right(ends, span.start), bisect_left(starts, span.end) - 1
        begins_inside = first < len(words) and starts[first] < span.start
        ends_inside = last >= 0 and ends[last] > span.end
        if begins_inside or ends_inside:
            made.append(ends[last] - span.end if ends_inside and not begins_inside else 0)
    return made


def trimmed(text: str, span: Span) -> Span:
    """Without white space at its ends."""
    covered = text[span.start : span.end]
    start = span.end - len(covered.lstrip())
    return Span(start, start + len(covered.strip()), span.label)


def without_overlaps(spans: Sequence[Span]) -> tuple[list[Span], list[str]]:
    """Spans that share no character, by place: the longest first, of equally long ones the leftmost, of equal places the first; and
    what was wrong with each of the others."""
    order = sorted(range(len(spans)), key=lambda i: (spans[i].start - spans[i].end, spans[i].start, i))
    kept: list[Span] = []
    dropped = []
    for span in (spans[index] for index in order):
        rivals = [other for other in kept if span.start < other.end and other.start < span.end]
        if not rivals:
            kept.append(span)
        elif span in rivals:
            dropped.append("duplicate spans dropped")
        elif any(span[:2] == other[:2] for other in rivals):
            dropped.append("spans dropped for another label on the same text")
        elif any(other.start <= span.start and span.end <= other.end for other in rivals):
            dropped.append("nested spans dropped, the longer kept")
        else:
            dropped.append("overlapping spans dropped, the longer kept")
    return sorted(kept), dropped


def cut_words(text: str, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Start and end of the text's words (`WORD`), no word crossing an end of a span."""
    edges = sorted({0, len(text), *(span.start for span in spans), *(span.end for span in spans)})
    return [match.span() for start, end in pairwise(edges) for match in WORD.finditer(text, start, end)]


def cut_at_edges(words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Given words, cut at every end of a span that lies inside one."""
    edges = sorted({span.start for span in spans} | {span.end for span in spans})
    pieces: list[tuple[int, int]] = []
    for start, end in words:
        inner = edges[bisect_right(edges, start) : bisect_left(edges, end)]
        pieces.extend(pairwise([start, *inner, end]))
    return pieces


def span_tags(words: Sequence[tuple[int, int]], spans: Sequence[Span], *, where: str) -> list[str]:
    """One BIO tag a word. The spans share no character, and no word crosses an end of one.

    Raises:
        DataError: a span begins or ends where no word does, which only given words can bring about.
    """
    tags = [OUTSIDE] * len(words)
    starts, ends = [start for start, _ in words], [end for _, end in words]
    for span in spans:
        first, after = bisect_left(starts, span.start), bisect_right(ends, span.end)
        if first >= after or starts[first] != span.start or ends[after - 1] != span.end:
            raise DataError(
                f"no words make up the span {span.start} to {span.end} ({span.label}).",
                where=where,
                remedy="Give words that cover it, or none.",
            )
        tags[first:after] = [f"B-{span.label}", *[f"I-{span.label}"] * (after - first - 1)]
    return tags
