"""Running text as words: no tokenizer, no language. Shared by readers of entities and by the task."""

from __future__ import annotations

from collections.abc import Sequence

import regex as re

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED = f"{CJK}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Chinese and Japanese; Thai and Lao, Burmese, Khmer: written without spaces between words."""
MARKS = r"\p{M}\u200c\u200d"
LETTER = rf"(?:[^\W{UNSPACED}]|\p{{No}})[{MARKS}]*"
"""Numbers such as those of m² and CO₂ too, which `regex` does not count as word characters."""
WORD = re.compile(rf"[{UNSPACED}][{MARKS}]*|(?:{LETTER})+(?:\.(?:{LETTER})+)*|(?<=\w)['’](?:{LETTER})+|\S[{MARKS}]*")
"""Hyphens stand alone and endings with an apostrophe ("'s") too: names mostly end there. Dots inside stay ("3.5", "U.S"), and marks that
are put on letters belong to them (accents, the vowels of Devanagari or Thai, joiners)."""


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) in characters of words and single punctuation marks, letters of scripts without spaces one by one."""
    return [match.span() for match in WORD.finditer(text)]


def joined(tokens: Sequence[str]) -> str:
    """The words as one text: spaces between them, but none next to a letter of a script without spaces."""
    return re.sub(rf"(?<=[{UNSPACED}][{MARKS}]*) | (?=[{UNSPACED}])", "", " ".join(tokens))
