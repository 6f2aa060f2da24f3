"""What is wrong with texts: lost, broken and hidden characters. Pairs of texts are judged by their task (`tasks/bitexts.py`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from domaintune.counting import counted
from domaintune.tasks.base import Finding

ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
HIDDEN = re.compile("[\u200b\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
SUSPECT = re.compile("[ÃÂâðÐÑ][\u0080-\u00bf\u2018-\u2122œžšŒŽŠŸ\u0192\u02c6\u02dc€]")


def has_mojibake(text: str) -> bool:
    """UTF-8 that was read as Windows-1252: it gets shorter when that is undone."""
    if not SUSPECT.search(text):
        return False
    for match in re.finditer("[\u0080-\u00ff\u2018-\u2122œžšŒŽŠŸ\u0192\u02c6\u02dc€]{2,}", text):
        try:
            if len(match[0].encode("cp1252").decode("utf-8")) < len(match[0]):
                return True
        except UnicodeError:
            continue
    return False


KINDS: tuple[tuple[str, str, Callable[[str], object], str, str], ...] = (
    ("control-characters", "[holds|hold] control characters", CONTROL.search, "Remove them.", "They are traces of a wrong conversion."),
    ("replacement-characters", "[holds|hold] U+FFFD: characters were lost", lambda t: "\ufffd" in t, "Export them again.",
     "What was there is gone, and new data will not look like this."),
    ("mojibake", "[holds|hold] text in a wrong encoding (such as Ã©)", has_mojibake, "Convert them: ftfy mends such text.",
     "The model would learn from letters that nobody wrote."),
    ("html-entities", "[holds|hold] HTML entities (such as &amp;)", ENTITY.search, "Decode them: Python's html.unescape.",
     "New data may not be written so."),
    ("hidden-characters", "[holds|hold] characters that cannot be seen (zero width, direction marks)", HIDDEN.search, "Remove them.",
     "They split words and make equal texts differ."),
    ("no-letters", "[holds|hold] punctuation alone", lambda t: not any(unicodedata.category(c)[0] in "LNS" for c in t), "Look at them.",
     "There may be nothing to learn from."),
)  # fmt: skip


def text_findings(name: str, texts: Sequence[Sequence[str]], where: Sequence[str]) -> Iterator[Finding]:
    """One finding a kind over the texts of one part (each row may have several)."""
    for kind, what, holds, remedy, why in KINDS:
        rows = tuple(place for row, place in zip(texts, where, strict=True) if any(holds(text) for text in row))
        if rows:
            yield Finding(
                kind, "warning", counted(len(rows), f"[row|rows] of {name} {what}."), rows, remedy, why, len(rows)
            )
