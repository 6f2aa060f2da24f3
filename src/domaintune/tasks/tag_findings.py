"""What the tags of a labelled set show: broken sequences, rare types, and spans that are probably not what was meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from domaintune.tasks.base import Finding
from domaintune.tasks.classification import FEW, rare_labels
from domaintune.tasks.tag_sequences import broken_positions, entities
from domaintune.tasks.unlikely_spans import TaggedRow, unlikely_spans


def tag_findings(rows: Sequence[tuple[str, Sequence[str], Sequence[str]]], types: Sequence[str]) -> Iterator[Finding]:
    """`broken-tags`, `rare-label` and those of `unlikely_spans`; `rows`: where each stands, its words and their BIO tags."""
    broken = tuple(where for where, _, tags in rows if broken_positions(tags))
    if broken:
        yield Finding.of(
            broken,
            "broken-tags",
            "warning",
            "[row has|rows have] an I-TYPE that continues nothing; such words count as no entity.",
            remedy="Begin every entity with B-TYPE.",
            why="Such words are trained on as the inside of an entity that has no beginning.",
        )
    tagged = [TaggedRow(where, words, entities(tags)) for where, words, tags in rows]
    counts = Counter(span.type for row in tagged for span in row.spans)
    rare = [name for name in sorted(types) if 0 < counts[name] < FEW]
    yield from rare_labels(rare, few=FEW, unit="entities", remedy="Label more rows with these types")
    yield from unlikely_spans(tagged)
