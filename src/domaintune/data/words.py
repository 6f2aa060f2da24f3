"""Running text as words: no tokenizer, no language. Shared by readers of entities and by the task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MARKS = "\u0300-\u036f\u200d"
LETTER = rf"[^\W{CJK}][{MARKS}]*"
WORD = re.compile(rf"[{CJK}]|(?:{LETTER})+(?:\.(?:{LETTER})+)*|(?<=\w)['’](?:{LETTER})+|\S[{MARKS}]*")
"""Hyphens stand alone and endings with an apostrophe ("'s") too: names mostly end there. Dots inside stay ("3.5", "U.S"), and marks that
are put over letters belong to them."""


def word_spans(text: str, edges: Iterable[int] = ()) -> list[tuple[int, int]]:
    """(start, end) in characters of words and single punctuation marks, Chinese and Japanese characters one by one; a word that
    one of the `edges` lies inside is cut there."""
    cuts = sorted(set(edges))
    spans = []
    for match in WORD.finditer(text):
        places = [match.start(), *(edge for edge in cuts if match.start() < edge < match.end()), match.end()]
        spans += list(pairwise(places))
    return spans


def joined(tokens: Sequence[str]) -> str:
    """The words as one text: spaces between them, but none next to a Chinese or Japanese character."""
    return re.sub(rf"(?<=[{CJK}]) | (?=[{CJK}])", "", " ".join(tokens))
