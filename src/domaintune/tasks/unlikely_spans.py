"""Entities that are probably not what an annotator meant: spans of tagged words in, findings out. No labels, no tokenizer, no language.

What is usual is taken from the set itself: its lengths, and the words that it hardly ever tags.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from domaintune.counting import counted
from domaintune.data.words import joined
from domaintune.tasks.base import Finding
from domaintune.tasks.tag_sequences import Entity

LONG_WORDS, TIMES_USUAL = 10, 3.0
"""A span is long with more words than 10 and than 3 times the set's 95th percentile: of seven public sets 1 in 700 is."""
NEVER_FIRST = frozenset(",;:.!?)]}，。、；：！？）】》」』”")
NEVER_LAST = frozenset(",;:([{，。、；：（【《「『“")
BRACKETS = ("()", "[]", "{}", "（）", "【】", "《》", "「」", "『』", "“”")
ABBREVIATION = 4
"""Letters that a word before a full stop may have, as in "Inc." and "Corp."; a longer one ended a sentence."""
COMMON_SHARE, COMMON_ROWS, COMMON_TAGGED = 0.01, 20, 0.05
"""A word is common that stands outside entities in 1 % of the rows, at least 20, for fewer than 1 in 20 times that it is one."""
OTHERWISE_ROWS, OTHERWISE_TIMES = 10, 4
MISSED_TAGGED, MISSED_SHARE = 10, 0.1
SHOWN, LETTERS = 3, 40
RARELY = "[word or name is|words or names are] an entity in few places and none in many"
MISSED = "[row leaves|rows leave] untagged what mostly is an entity"

Form = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaggedRow:
    """The words of one row and its entities."""

    where: str
    words: Sequence[str]
    spans: Sequence[Entity]

    def text(self, span: Entity) -> str:
        return joined(self.words[span.start : span.end])


def unlikely_spans(rows: Sequence[TaggedRow]) -> Iterator[Finding]:
    """`long-spans`, `ragged-spans`, `common-word-spans`, `rarely-tagged` and `missed-spans`."""
    lengths = [span.end - span.start for row in rows for span in row.spans]
    if not lengths:
        return
    limit = max(LONG_WORDS, int(TIMES_USUAL * np.quantile(lengths, 0.95)))
    yield from _spans(
        rows, lambda row, span: span.end - span.start > limit,
        ("long-spans", "note", f"entities have more than {limit} words"),
        "Look whether two were marked as one; --set task.max_length=... must leave room for the long ones.",
        "Scores are strict: a span of many words is hardly ever found with both its ends.",
    )  # fmt: skip
    yield from _spans(
        rows, lambda row, span: is_ragged(row.text(span)),
        ("ragged-spans", "warning", "entities begin or end with punctuation, or are nothing else"),
        "Mark the words alone; where words carry their commas, part them from the punctuation first.",
        "Both ends count: a comma more or less makes a found entity a wrong one.",
    )  # fmt: skip
    common = common_words(rows)
    yield from _spans(
        rows, lambda row, span: _is_common(row.words[span.start : span.end], common),
        ("common-word-spans", "note", "entities are one small letter, or one common word that is tagged hardly anywhere else"),
        "Look at these rows, and take the tags away where a slip of the mouse made them.",
        "The model learns that a common word may be an entity anywhere.",
    )  # fmt: skip
    yield from _otherwise(rows, common)


def is_ragged(text: str) -> bool:
    """Whether punctuation that no name begins or ends with stands there: `Paris ,`, `( Paris` and `Paris .`, but neither `Inc.` nor `U.S.`
    nor `Yahoo!`; or nothing but punctuation."""
    if all(unicodedata.category(character)[0] in "PZ" for character in text):
        return True
    before = text.rstrip(" .").rpartition(" ")[2]
    stopped = (
        text.endswith(".")
        and not text.endswith(("..", ". ."))
        and "." not in before
        and len(before) > ABBREVIATION
        and before.isalpha()
    )
    torn = any(
        (text[0] == pair[0] and pair[1] not in text) or (text[-1] == pair[1] and pair[0] not in text)
        for pair in BRACKETS
    )
    return (text[0] in NEVER_FIRST and not text[1:2].isalnum()) or text[-1] in NEVER_LAST or stopped or torn


def common_words(rows: Sequence[TaggedRow]) -> frozenset[str]:
    """The set's own stop words: frequent outside entities, and hardly ever an entity by themselves."""
    untagged: Counter[str] = Counter()
    tagged: Counter[str] = Counter()
    for row in rows:
        inside = {place for span in row.spans for place in range(span.start, span.end)}
        untagged.update({word for place, word in enumerate(row.words) if place not in inside})
        tagged.update(row.words[span.start] for span in row.spans if span.end - span.start == 1)
    least = max(COMMON_ROWS, COMMON_SHARE * len(rows))
    return frozenset(
        word for word, count in untagged.items() if count >= least and tagged[word] < COMMON_TAGGED * count
    )


def _is_common(words: Sequence[str], common: frozenset[str]) -> bool:
    return len(words) == 1 and (words[0] in common or (len(words[0]) == 1 and words[0].islower()))


def _spans(
    rows: Sequence[TaggedRow],
    odd: Callable[[TaggedRow, Entity], bool],
    said: tuple[str, Literal["warning", "note"], str],
    remedy: str,
    why: str,
) -> Iterator[Finding]:
    """One finding over all entities that are `odd`; `said` is its name, severity and message."""
    name, severity, message = said
    found = [(row, span) for row in rows for span in row.spans if odd(row, span)]
    if found:
        total = sum(len(row.spans) for row in rows)
        told = f"{len(found)} of {total} {message}{_such(row.text(span) for row, span in found)}."
        where = tuple(dict.fromkeys(row.where for row, _ in found))
        yield Finding(name, severity, told, where, remedy, why, len(found))


def _such(texts: Iterator[str]) -> str:
    """The commonest of the texts, as examples."""
    shown = [
        f"'{text if len(text) <= LETTERS else f'{text:.{LETTERS}}...'}'"
        for text, _ in Counter(texts).most_common(SHOWN)
    ]
    return f", such as {', '.join(shown)}"


def _otherwise(rows: Sequence[TaggedRow], common: frozenset[str]) -> Iterator[Finding]:
    """`rarely-tagged`: words that are an entity in some places and none in many more. `missed-spans`: the few places where words
    are none that mostly are one."""
    tagged: Counter[Form] = Counter()
    for row in rows:
        tagged.update(tuple(row.words[span.start : span.end]) for span in row.spans)
    forms = {form for form in tagged if _is_told_apart(form, common)}
    lengths: dict[str, list[int]] = defaultdict(list)
    for first, length in sorted({(form[0], len(form)) for form in forms}, reverse=True):
        lengths[first].append(length)
    places: dict[Form, list[TaggedRow]] = defaultdict(list)
    for row in rows:
        for form in _untagged(row, forms, lengths):
            places[form].append(row)
    ordered = sorted(places, key=lambda form: (-len(places[form]), form))
    rare = [f for f in ordered if len(places[f]) >= max(OTHERWISE_ROWS, OTHERWISE_TIMES * tagged[f])]
    if rare:
        shown = ", ".join(f"'{joined(form)}' ({tagged[form]} tagged, {len(places[form])} not)" for form in rare[:SHOWN])
        yield Finding(
            "rarely-tagged", "note", counted(len(rare), RARELY) + f": {shown}.",
            tuple(dict.fromkeys(row.where for form in rare for row in places[form])),
            "Where the meaning is the same, tag all or none of them.",
            "Missed tags teach the model to pass such names over; a word of two meanings is no fault.", len(rare),
        )  # fmt: skip
    missed = [f for f in ordered if tagged[f] >= MISSED_TAGGED and len(places[f]) <= MISSED_SHARE * tagged[f]]
    if missed:
        shown = ", ".join(
            f"'{joined(form)}' ({tagged[form]} tagged, {len(places[form])} not)" for form in missed[:SHOWN]
        )
        where = tuple(dict.fromkeys(row.where for form in missed for row in places[form]))
        yield Finding(
            "missed-spans", "note", counted(len(where), MISSED) + f": {shown}.",
            where, "Look at these rows first: such tags were probably missed.",
            "Missed tags teach the model to pass entities over, and lower its score where it finds them.", len(where),
        )  # fmt: skip


def _is_told_apart(form: Form, common: frozenset[str]) -> bool:
    """Whether it matters that these words stand untagged elsewhere: not single characters, numbers and common words."""
    return sum(map(len, form)) > 1 and any(c.isalpha() for word in form for c in word) and not _is_common(form, common)


def _untagged(row: TaggedRow, forms: set[Form], lengths: Mapping[str, Sequence[int]]) -> Iterator[Form]:
    """The forms whose words stand in the row outside all entities, once for each place, longest first where they overlap.
    `lengths`: of the forms that begin with a word, the longest first."""
    inside = {place for span in row.spans for place in range(span.start, span.end)}
    place = 0
    while place < len(row.words):
        for length in lengths.get(row.words[place], ()):
            form = tuple(row.words[place : place + length])
            if form in forms and inside.isdisjoint(range(place, place + length)):
                yield form
                place += length - 1
                break
        place += 1
