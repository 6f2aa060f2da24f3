"""What is wrong with texts: lost and broken characters; and with pairs of them: copies, lengths, scripts, many targets for one source."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from domaintune.tasks.base import Finding

ENTITY = re.compile(r"&(?:[a-zA-Z][a-zA-Z0-9]{1,30}|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
HIDDEN = re.compile("[\u200b\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
SUSPECT = re.compile("[ÃÂâðÐÑ][\u0080-\u00bf\u2018-\u2122œžšŒŽŠŸ\u0192\u02c6\u02dc€]")
RATIO_Z = 4.0
FEWEST_FOR_RATIO = 50


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
    ("control-characters", "hold control characters", CONTROL.search, "Remove them.", "They are traces of a wrong conversion."),
    ("replacement-characters", "hold U+FFFD: characters were lost", lambda t: "\ufffd" in t, "Export them again.",
     "What was there is gone, and new data will not look like this."),
    ("mojibake", "hold text in a wrong encoding (such as Ã©)", has_mojibake, "Convert them: ftfy mends such text.",
     "The model would learn from letters that nobody wrote."),
    ("html-entities", "hold HTML entities (such as &amp;)", ENTITY.search, "Decode them: Python's html.unescape.",
     "New data may not be written so."),
    ("hidden-characters", "hold characters that cannot be seen (zero width, direction marks)", HIDDEN.search, "Remove them.",
     "They split words and make equal texts differ."),
    ("no-letters", "hold no letter or digit", lambda t: not any(c.isalnum() for c in t), "Look at them.",
     "There may be nothing to learn from."),
)  # fmt: skip


def text_findings(name: str, texts: Sequence[Sequence[str]], where: Sequence[str]) -> Iterator[Finding]:
    """One finding a kind over the texts of one part (each row may have several)."""
    for kind, what, holds, remedy, why in KINDS:
        rows = tuple(place for row, place in zip(texts, where, strict=True) if any(holds(text) for text in row))
        if rows:
            yield Finding(kind, "warning", f"{len(rows)} rows of {name} {what}.", rows, remedy, why, len(rows))


def pair_findings(name: str, pairs: Sequence[tuple[str, str]], where: Sequence[str]) -> Iterator[Finding]:
    """Of (source, target) of one part: one source with many targets, lengths that do not fit, another script than the others."""
    targets: dict[str, set[str]] = defaultdict(set)
    for source, target in pairs:
        targets[source].add(target)
    many = tuple(place for (source, _), place in zip(pairs, where, strict=True) if len(targets[source]) > 1)
    if many:
        yield Finding(
            "many-targets", "warning", f"{len(many)} rows of {name} have a source with several targets.", many,
            "Add the context that decides, or keep one.", "Only one of them can be produced.", len(many),
        )  # fmt: skip
    yield from _odd_lengths(name, pairs, where)
    for side, texts in (("source", [a for a, _ in pairs]), ("target", [b for _, b in pairs])):
        yield from _wrong_script(name, side, texts, where)


def _odd_lengths(name: str, pairs: Sequence[tuple[str, str]], where: Sequence[str]) -> Iterator[Finding]:
    if len(pairs) < FEWEST_FOR_RATIO:
        return
    # A few characters more or less say nothing about short texts: 10 are added on either side.
    ratios = np.array([np.log((len(target) + 10) / (len(source) + 10)) for source, target in pairs])
    middle = np.median(ratios)
    spread = max(float(np.median(np.abs(ratios - middle))) * 1.4826, 0.1)
    odd = np.flatnonzero(np.abs(ratios - middle) > RATIO_Z * spread)
    if len(odd):
        yield Finding(
            "length-ratio", "warning", f"{len(odd)} rows of {name} have a target of unlikely length for its source.",
            tuple(where[int(place)] for place in odd), "Check that these lines belong together.",
            "Misaligned lines teach the model to invent.", len(odd),
        )  # fmt: skip


def script_of(text: str) -> str | None:
    """The commonest script of the letters, by the first word of their Unicode names; None without letters."""
    letters = Counter(unicodedata.name(c, "?").split()[0] for c in text[:200] if c.isalpha())
    return letters.most_common(1)[0][0] if letters else None


def _wrong_script(name: str, side: str, texts: Sequence[str], where: Sequence[str]) -> Iterator[Finding]:
    scripts = [script_of(text) for text in texts]
    known = Counter(script for script in scripts if script is not None)
    if not known:
        return
    usual, count = known.most_common(1)[0]
    if count < 0.8 * sum(known.values()):
        return
    odd = tuple(place for script, place in zip(scripts, where, strict=True) if script not in (usual, None))
    if odd:
        yield Finding(
            "wrong-script", "note", f"{len(odd)} rows of {name} have a {side} that is mostly not in {usual.title()} letters.",
            odd, "Drop those that are not translated.", "They may be in another language.", len(odd),
        )  # fmt: skip
