"""Pairs of source and target text, and what can be wrong with them, whatever their languages. No tokenizer, no model.

It stands below the task that calls it; findings that any task can have are in `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from domaintune.data.splits import normal_form
from domaintune.tasks.base import Example, Finding
from domaintune.tasks.text_scores import one_space

MAX_ROBUST_Z = 6.0
"""Of a pair's log length ratio. Lengths are spread wider than a normal distribution: 6 finds next to no good pair."""
LEAST_SPREAD = 0.1
LEAST_PAIRS = 20
"""Fewer pairs have no usual ratio and no usual script."""
LEAST_CHARACTERS = 20
"""Pairs whose lengths differ by less are no outliers: "OK" may well be "Einverstanden"."""
FOREIGN_LETTERS = 10
OWN_SHARE = 0.1

PLACEHOLDER = re.compile(r"%(?:\(\w+\)|\d+\$)?[-+0-9.]*[sdifgux]|\{[^{}\s]*\}")
ROLE = re.compile(r"(:[a-zA-Z][\w:.+-]*:)`([^`]+)`")
TAG = re.compile(
    r"</[a-zA-Z][\w:-]*\s*>"  # any closing tag; opening ones only where they are no words such as <empty>
    r"|<[a-zA-Z][\w:-]*\s[^<>]*=[^<>]*>"
    r"|<(?:a|abbr|b|br|code|div|em|h[1-6]|hr|i|kbd|li|ol|p|pre|s|small|span|strong|sub|sup|t[dhr]|tt|u|ul|var)\s*/?>"
    r"|\[/?(?:b|i|u|s|url|code|color|font|img|center)(?:=[^\]]*)?\]"
)
TAG_NAME = re.compile(r"[\s/]*[>=\]].*|\s.*", re.DOTALL)
TRANSLATED_ROLES = frozenset({":ref:", ":term:", ":doc:", ":guilabel:", ":menuselection:", ":dfn:", ":abbr:"})
"""Roles of reStructuredText whose text is meant for readers and may be translated where it has no <target>."""

SCRIPTS = ("Latin", "Greek", "Cyrillic", "Hebrew", "Arabic", "Indic", "Thai", "Chinese or Japanese", "Korean")
BLOCKS = (
    (0x41, "Latin"), (0x250, ""), (0x370, "Greek"), (0x400, "Cyrillic"), (0x530, ""), (0x590, "Hebrew"), (0x600, "Arabic"),
    (0x700, ""), (0x900, "Indic"), (0xE00, "Thai"), (0xE80, ""), (0x1100, "Korean"), (0x1200, ""), (0x1E00, "Latin"),
    (0x1F00, "Greek"), (0x2000, ""), (0x2E80, "Chinese or Japanese"), (0x3000, ""), (0x3040, "Chinese or Japanese"),
    (0xA000, ""), (0xAC00, "Korean"), (0xD7B0, ""), (0xF900, "Chinese or Japanese"), (0xFB00, ""),
    (0x20000, "Chinese or Japanese"), (0x32000, ""),
)  # fmt: skip
"""Where blocks of Unicode begin whose letters are of one script, or of none of SCRIPTS."""
SCRIPT_STARTS = np.array([start for start, _ in BLOCKS])
SCRIPT_OF = np.array([SCRIPTS.index(script) if script else -1 for _, script in BLOCKS])


@dataclass(frozen=True, kw_only=True)
class TranslationExample(Example):
    source: str
    target: str | None
    """None for a row without a target."""


def bitext_findings(pairs: Sequence[TranslationExample]) -> Iterator[Finding]:
    """What is wrong with the pairs, a finding a fault. Sources with several targets are found by `checks.shared` for all tasks."""
    whole = [pair for pair in pairs if pair.target is not None and pair.target.strip() and pair.source.strip()]
    yield from _found(
        "empty-source", (pair for pair in pairs if not pair.source.strip()), "no source text.",
        remedy="Drop them.", why="The model learns to make text out of nothing.",
    )  # fmt: skip
    yield from _found(
        "empty-target", (pair for pair in pairs if pair.target is not None and not pair.target.strip()), "an empty target.",
        remedy="Translate or drop them.", why="The model learns to say nothing.",
    )  # fmt: skip
    yield from _found(
        "untranslated", (pair for pair in whole if one_space(pair.source) == one_space(pair.target or "")),
        "a target equal to the source.", remedy="Drop those that should have been translated.",
        why="Names may stay; other copies teach the model to leave text as it is.",
    )  # fmt: skip
    yield from _found(
        "lost-placeholder", (pair for pair in whole if _placeholders(pair.source) != _placeholders(pair.target)),
        "other placeholders (such as %s or {name}) in the target than in the source.", remedy="Mend the targets.",
        why="A program that fills them in breaks on such texts, and the model learns to lose them.",
    )  # fmt: skip
    yield from _found(
        "lost-markup", (pair for pair in whole if _markup(pair.source) != _markup(pair.target)),
        "other mark-up (such as <b> or :meth:`name`) in the target than in the source.", remedy="Mend the targets.",
        why="The model learns to lose links and mark-up.",
    )  # fmt: skip
    yield from _found(
        "length-ratio", (whole[position] for position in length_outliers(whole)),
        "a target far longer or shorter than the other pairs let expect.",
        remedy="Look at them and drop those that are misaligned.", why="Most such pairs are no translations of each other.",
    )  # fmt: skip
    named = {pair.where for pair in whole if normal_form(pair.source) == normal_form(pair.target or "")}
    foreign = {where for where in wrong_scripts(whole) if where not in named}
    yield from _found(
        "wrong-script", (pair for pair in whole if pair.where in foreign), "a side in another script than the rest of that side.",
        remedy="Look at them and drop those in the wrong language.",
        why="The sides may be swapped, or the text is in another language.",
    )  # fmt: skip


def length_outliers(pairs: Sequence[TranslationExample]) -> list[int]:
    """Positions of pairs whose log of target length over source length (characters, mark-up and placeholders left out) lies more
    than `MAX_ROBUST_Z` robust standard deviations (1.4826 times the median distance from the median) from the median; none of
    fewer than 20 pairs."""
    if len(pairs) < LEAST_PAIRS:
        return []
    source = np.array([len(_bare(pair.source)) for pair in pairs], dtype=np.float64)
    target = np.array([len(_bare(pair.target or "")) for pair in pairs], dtype=np.float64)
    ratio = np.log((target + 1) / (source + 1))
    away = ratio - np.median(ratio)
    spread = max(1.4826 * float(np.median(np.abs(away))), LEAST_SPREAD)
    expected = source * np.exp(np.median(ratio))
    far = (np.abs(away) > MAX_ROBUST_Z * spread) & (np.abs(target - expected) >= LEAST_CHARACTERS)
    return [int(position) for position in np.flatnonzero(far)]


def script_counts(texts: Sequence[str]) -> np.ndarray:
    """Letters of each of SCRIPTS in each text, int64 [texts, scripts]."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    signs = (codes < 0xC0) & ~(((codes | 0x20) >= 0x61) & ((codes | 0x20) <= 0x7A)) | (codes == 0xD7) | (codes == 0xF7)
    scripts = np.where(signs, -1, SCRIPT_OF[np.maximum(np.searchsorted(SCRIPT_STARTS, codes, "right") - 1, 0)])
    known = scripts >= 0
    cells = owners[known] * len(SCRIPTS) + scripts[known]
    return np.bincount(cells, minlength=len(texts) * len(SCRIPTS)).reshape(len(texts), len(SCRIPTS))


def wrong_scripts(pairs: Sequence[TranslationExample]) -> Iterator[str]:
    """Where a side holds at least `FOREIGN_LETTERS` letters of which less than `OWN_SHARE` are of the script that most of that
    side's letters have; nothing of fewer than 20 pairs. A letter of a script without spaces counts as three."""
    if len(pairs) < LEAST_PAIRS:
        return
    for side in ([_bare(pair.source) for pair in pairs], [_bare(pair.target or "") for pair in pairs]):
        counts = script_counts(side)
        counts[:, SCRIPTS.index("Chinese or Japanese")] *= 3
        own = counts[:, counts.sum(0).argmax()]
        total = counts.sum(1)
        for position in np.flatnonzero((total >= FOREIGN_LETTERS) & (own < OWN_SHARE * total)):
            yield pairs[int(position)].where


def _bare(text: str) -> str:
    """The text without what is not translated anyway."""
    return PLACEHOLDER.sub(" ", TAG.sub(" ", ROLE.sub(" ", text))).strip()


def _placeholders(text: str | None) -> list[str]:
    return sorted(PLACEHOLDER.findall(text or ""))


def _markup(text: str | None) -> list[str]:
    kept = []
    for name, inner in ROLE.findall(text or ""):
        target = inner.rpartition("<")[2].rstrip(">").strip()  # `shown text <target>`, or the whole
        kept.append(name if name in TRANSLATED_ROLES else name + target)
    tags = [TAG_NAME.sub("", tag).lower() for tag in TAG.findall(ROLE.sub(" ", text or ""))]
    return sorted([*kept, *tags])


def _found(name: str, pairs: Iterable[TranslationExample], what: str, *, remedy: str, why: str) -> Iterator[Finding]:
    """A finding about the rows of these pairs, which have `what`; nothing of no pairs."""
    if rows := tuple(dict.fromkeys(pair.where for pair in pairs)):
        yield Finding.of(rows, name, "warning", f"[row has|rows have] {what}", remedy=remedy, why=why)
