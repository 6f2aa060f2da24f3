"""Tags of words as one sequence: which may follow which, and how often; the likeliest sequence of all, and the probabilities of its
words. Pure functions, no model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

KINDS = "OBI"
SMOOTHING = 0.5
"""Added to every count of what may follow what (Jeffreys' prior)."""
FLOOR = 1e-100
"""Of a word's probabilities: a tag that a model excludes may be the only one that can follow."""

Transitions = tuple[tuple[float, float, float], ...]
"""Shares of the kinds of tags O, B, I (columns): of all words, and of those after O, B, I; [4, 3]."""


def transitions_of(sequences: Iterable[Sequence[str]]) -> Transitions:
    """Of the BIO tags of texts, by kind alone: what 200 rows can teach, the same for every type. An I after O, which may not stand, does
    not count."""
    overall, counts = np.zeros(3), np.full((3, 3), SMOOTHING)
    counts[0, 2] = 0
    for tags in sequences:
        kinds = [KINDS.index(tag[0]) for tag in tags]
        np.add.at(overall, kinds, 1)
        for before, kind in itertools.pairwise(kinds):
            counts[before, kind] += (before, kind) != (0, 2)
    return _table([overall + SMOOTHING, *counts])


def between(start: Transitions | None, end: Transitions | None, strength: float) -> Transitions | None:
    """`start` at 0, `end` at 1, a straight line between; None: as if each word were alone, all rows like the first."""
    if strength in (0, 1) or start == end:
        return end if strength == 1 else start
    first, last = (np.array(given or [(start or end or ())[0]] * 4) for given in (start, end))
    return _table((1 - strength) * first + strength * last)


def _table(rows: Any) -> Transitions:
    shares = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    return tuple((float(o), float(b), float(i)) for o, b, i in shares)


@lru_cache(maxsize=64)
def moves(tags: tuple[str, ...], transitions: Transitions | None) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the first tag [tags] and of each tag after each [before, tags]: 0 where it may not stand, else 1 at the start and the
    share of its kind after the one before (1 without `transitions`)."""
    kinds, types = np.array([KINDS.index(tag[0]) for tag in tags]), np.array([tag[2:] for tag in tags])
    goes_on = (kinds[:, None] > 0) & (types[:, None] == types)
    shares = np.ones((3, 3)) if transitions is None else np.array(transitions[1:])
    return (kinds < 2).astype(np.float64), np.where((kinds == 2) & ~goes_on, 0.0, shares[np.ix_(kinds, kinds)])


def evidence(probability: np.ndarray, tags: Sequence[str], transitions: Transitions | None) -> np.ndarray:
    """What each word says of its tag [words, tags], its probability over the prior of the tag's kind at its place: the mean of the
    share overall and of that which the model itself expects there, after what it takes the word before for. A model that reads whole
    texts has much of the transitions in its probabilities: over the share overall alone they would count twice.

    Source: Bourlard and Morgan, Connectionist Speech Recognition, 1994, for the division by a prior. Differs: the prior of the place.
    """
    each = np.maximum(probability, FLOOR)
    if transitions is None:
        return each
    table, kinds = np.array(transitions), [KINDS.index(tag[0]) for tag in tags]
    held = probability @ np.eye(3)[kinds]
    prior = (held[:-1] + table[0]) / 2 @ table[1:]
    each[1:] /= prior[:, kinds]
    return each


def marginals(probability: np.ndarray, tags: Sequence[str], transitions: Transitions | None) -> np.ndarray:
    """The probability of each tag at each word over all valid sequences [words, tags], where a sequence has the product of `moves` and
    `evidence`. `probability` [words, tags], `tags` BIO with O among them.

    Source: Rabiner, A tutorial on hidden Markov models, 1989, the forward-backward procedure with scaling.
    """
    if not len(probability):
        return probability
    (first, after), each = moves(tuple(tags), transitions), evidence(probability, tags, transitions)
    ahead, behind, scale = np.empty(each.shape), np.ones(each.shape), np.empty((len(each), 1))
    for word, row in enumerate(each):
        ahead[word] = (ahead[word - 1] @ after if word else first) * row
        scale[word] = ahead[word].sum()
        ahead[word] /= scale[word]
    for word in range(len(each) - 1, 0, -1):
        behind[word - 1] = after @ (each[word] * behind[word]) / scale[word]
    made: np.ndarray = ahead * behind
    return made / made.sum(1, keepdims=True)  # 1 but for rounding


def likeliest(probability: np.ndarray, tags: Sequence[str], transitions: Transitions | None) -> np.ndarray:
    """The valid sequence of BIO tags with the highest product of `moves` and `evidence`: positions in `tags`, one a word. `probability`
    [words, tags], `tags` with O among them.

    Source: Viterbi, Error bounds for convolutional codes, 1967.
    """
    path = np.zeros(len(probability), dtype=np.int64)
    if not len(path):
        return path
    with np.errstate(divide="ignore"):
        first, after = (np.log(factors) for factors in moves(tuple(tags), transitions))
    logs = np.log(evidence(probability, tags, transitions))
    best, back = first + logs[0], np.zeros(probability.shape, dtype=np.int64)
    for word in range(1, len(path)):
        ways = best[:, None] + after
        back[word] = ways.argmax(0)
        best = ways.max(0) + logs[word]
    path[-1] = best.argmax()
    for word in range(len(path) - 1, 0, -1):
        path[word - 1] = back[word, path[word]]
    return path
