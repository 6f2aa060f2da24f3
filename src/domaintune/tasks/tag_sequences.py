"""Tags of words as entities, and entity scores: pure functions, no model, no reading."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from domaintune.data.splits import characters
from domaintune.data.tag_schemes import Scheme, recognised_scheme, to_bio
from domaintune.data.words import joined
from domaintune.errors import DataError

OUTSIDE = "O"


class Entity(NamedTuple):
    """Words `start` to `end` (exclusive) name something of `type`."""

    type: str
    start: int
    end: int


def is_tag(tag: str) -> bool:
    """Whether `tag` is O, B-TYPE or I-TYPE."""
    return tag == OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def tags_of(types: Sequence[str]) -> tuple[str, ...]:
    """Every tag of the entity types in unit order: O, then B and I of each type."""
    return (OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI"))


def scheme_of(labels: Sequence[str]) -> tuple[Scheme, set[str]]:
    """Of a head's labels: BIO, or one of the two kinds of IO, and the entity types.

    Raises:
        DataError: labels of another kind, or without O.
    """
    scheme = recognised_scheme([[label] for label in labels])
    if scheme not in ("BIO", "IO", "IO without I-") or OUTSIDE not in labels:
        wrong = next((label for label in labels if not is_tag(label)), None)
        raise DataError(
            f"they lack '{OUTSIDE}'." if wrong is None else f"'{wrong}' is no BIO tag.",
            where="the base's labels",
            remedy="Use a base whose tags are O, B-TYPE, I-TYPE, or O and types alone.",
        )
    return scheme, {to_bio([label], scheme)[0][2:] for label in labels if label != OUTSIDE}


def unknown_tag(tag: str, tags: Sequence[str], types: Sequence[str], *, where: str) -> DataError:
    near = difflib.get_close_matches(tag, tags, n=1)
    return DataError(
        f"unknown tag '{tag}' (known types: {', '.join(types)}).",
        where=where,
        remedy=f"Did you mean '{near[0]}'?"
        if near
        else "Mend the row, or train with the type: tune --set task.labels=[...].",
    )


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a BIO sequence, strictly: B-X and the I-X that follow it without a gap. An I-X after O or after another type
    belongs to nothing.

    Source: seqeval, `scheme.IOB2` in mode "strict".
    """
    found = []
    start: int | None = None
    for position, tag in enumerate((*tags, OUTSIDE)):
        if start is not None and not (tag[0] == "I" and tag[2:] == tags[start][2:]):
            found.append(Entity(tags[start][2:], start, position))
            start = None
        if tag[0] == "B":
            start = position
    return found


def rendered(tags: Sequence[str], tokens: Sequence[str]) -> dict[str, Any]:
    """`tags`, O where a word is in no entity (an I-TYPE that continues nothing), and `entities` with type, start, end (words, exclusive)
    and text."""
    found = entities(tags)
    inside = {place for e in found for place in range(e.start, e.end)}
    told = [{"type": e.type, "start": e.start, "end": e.end, "text": joined(tokens[e.start : e.end])} for e in found]
    return {"tags": [tag if place in inside else OUTSIDE for place, tag in enumerate(tags)], "entities": told}


def span_probability(
    probability: np.ndarray, chosen: np.ndarray, tags: Sequence[str], *, start: int, end: int
) -> float:
    """The probability, were words independent, that the words from `start` to `end` (exclusive) are just one entity: that each has its
    chosen tag, and that the next word, if there is one, does not go on with it. `probability` [words, tags]."""
    whole = probability[np.arange(start, end), chosen[start:end]].prod()
    going_on = f"I-{tags[chosen[start]][2:]}"
    if end < len(probability) and going_on in tags:
        whole *= 1 - probability[end, tags.index(going_on)]
    return float(whole)


def tagged_characters(tokens: Sequence[str], tags: Sequence[str]) -> str:
    """The tags over the characters that the tokens have in normal form: equal where texts differ in punctuation, or in where words are
    cut, and the same is marked in them. Of tokens without such characters (punctuation alone) the tags as they are."""
    runs: list[tuple[str, int]] = []
    begins = False
    for token, tag in zip(tokens, tags, strict=False):
        begins = tag[0] == "B" or (begins and tag[0] == "I")  # also where a bracket that is dropped begins it
        if not (count := characters(token)):
            continue
        if runs and not begins and runs[-1][0][1:] == tag[1:]:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((f"B{tag[1:]}" if begins else tag, count))
        begins = False
    return " ".join(f"{tag} {count}" for tag, count in runs) or " ".join(tags)


def broken_positions(tags: Sequence[str]) -> list[int]:
    """Words whose I-X follows neither B-X nor I-X."""
    previous = (OUTSIDE, *tags)
    return [
        position
        for position, (before, tag) in enumerate(zip(previous, tags, strict=False))
        if tag[0] == "I" and (before == OUTSIDE or before[2:] != tag[2:])
    ]


def entity_counts(predicted: Sequence[str], target: Sequence[str], types: Sequence[str]) -> dict[str, np.ndarray]:
    """Counts a type [types]: `hits` (same type and both ends), `predicted` and `target` entities."""
    index = {name: position for position, name in enumerate(types)}
    guesses, truths = set(entities(predicted)), set(entities(target))
    counts = {"hits": guesses & truths, "predicted": guesses, "target": truths}
    return {
        name: np.bincount([index[entity.type] for entity in found], minlength=len(types)).astype(np.int32)
        for name, found in counts.items()
    }


def reduce_entities(records: Sequence[Mapping[str, np.ndarray]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """f1, precision, recall (over all entities) and macro_f1 (mean over the types that occur in targets or predictions); 0 where
    undefined, but f1 1 where the base's answer is the target and neither side has an entity. weights [draws, records], one value a draw."""
    weights = np.asarray(weights, dtype=np.float64)
    hits, guesses, truths = (
        weights @ np.stack([record[name] for record in records]).astype(np.float64)
        for name in ("hits", "predicted", "target")
    )
    occurring = (guesses + truths) > 0
    by_type = _ratio(2 * hits, guesses + truths)
    f1 = _ratio(2 * hits.sum(1), guesses.sum(1) + truths.sum(1))
    if any("by_base" in record for record in records):
        f1 = np.where(occurring.any(1), f1, 1.0)
    return {
        "f1": f1,
        "precision": _ratio(hits.sum(1), guesses.sum(1)),
        "recall": _ratio(hits.sum(1), truths.sum(1)),
        "macro_f1": _ratio(by_type.sum(1), occurring.sum(1)),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.divide(above, below, out=np.zeros(np.shape(above), dtype=np.float64), where=below > 0)
    return result
