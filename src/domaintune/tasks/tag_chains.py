"""Tags of words as one sequence: which may follow which, how much likelier than by chance, the likeliest sequence of all, and the
probabilities of its words. Pure functions, no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

KINDS = "OBI"
SMOOTHING = 0.5
"""Added to every count of what may follow what (Jeffreys' prior)."""

Transitions = tuple[tuple[float, float, float], ...]
"""[4, 3] in nats: rows the start of a text and after O, B, I; columns O, B, I. How much likelier a kind of tag is there than anywhere,
log P(kind | before) - log P(kind); 0 where it may not stand."""
NONE: Transitions = ((0.0, 0.0, 0.0),) * 4
FLOOR = 1e-100
"""Of a word's probabilities: a tag that a model excludes may be the only one that can follow."""
FORBIDDEN = ((0, 2), (1, 2))
"""Inside at the start of a text and after O."""


def transitions_of(sequences: Iterable[Sequence[str]]) -> Transitions:
    """Of the BIO tags of texts, by kind alone: what 200 rows can teach, the same for every type.

    Source: Bourlard and Morgan, Connectionist Speech Recognition, 1994: where a network gives the posterior of each place, that over its
    prior, times the transitions, is the score of a sequence.
    """
    counts = np.full((4, 3), SMOOTHING)
    for place in FORBIDDEN:
        counts[place] = 0
    for tags in sequences:
        kinds = [KINDS.index(tag[0]) for tag in tags]
        before = [0, *(kind + 1 for kind in kinds)]
        for place in zip(before, kinds, strict=False):
            counts[place] += place not in FORBIDDEN
    overall = counts.sum(0) / counts.sum()
    with np.errstate(divide="ignore"):
        ratios = np.log(counts / counts.sum(1, keepdims=True)) - np.log(overall)
    ratios[~np.isfinite(ratios)] = 0
    return tuple((float(o), float(b), float(i)) for o, b, i in ratios)


def between(start: Transitions | None, end: Transitions | None, strength: float) -> Transitions | None:
    """`start` at 0, `end` at 1, a straight line between."""
    if strength in (0, 1) or start == end:
        return end if strength == 1 else start
    mixed = (1 - strength) * np.array(start or NONE) + strength * np.array(end or NONE)
    return tuple((float(o), float(b), float(i)) for o, b, i in mixed)


@lru_cache(maxsize=64)
def tag_scores(tags: tuple[str, ...], transitions: Transitions | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the first tag [tags] and of each tag after each [before, tags], in nats; -inf where it may not stand."""
    kinds = np.array([KINDS.index(tag[0]) for tag in tags])
    types = np.array([tag[2:] for tag in tags])
    ratios = np.array(transitions or NONE)
    first = np.where(kinds == 2, -np.inf, ratios[0][kinds])
    goes_on = (kinds[:, None] > 0) & (types[:, None] == types)
    after = np.where((kinds == 2) & ~goes_on, -np.inf, ratios[1:][np.ix_(kinds, kinds)])
    return first, after


def marginals(probability: np.ndarray, tags: Sequence[str], transitions: Transitions | None) -> np.ndarray:
    """The probability of each tag at each word over all valid sequences [words, tags], where a sequence has the product of its words'
    probabilities and transitions. `probability` [words, tags], `tags` BIO with O among them.

    Source: Rabiner, A tutorial on hidden Markov models, 1989, the forward-backward procedure with scaling.
    """
    if not len(probability):
        return probability
    first, after = (np.exp(scores) for scores in tag_scores(tuple(tags), transitions))
    each = np.maximum(probability, FLOOR)
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
    """The valid sequence of BIO tags with the highest sum of log probabilities and transitions: positions in `tags`, one a word.
    `probability` [words, tags], `tags` with O among them.

    Source: Viterbi, Error bounds for convolutional codes, 1967.
    """
    path = np.zeros(len(probability), dtype=np.int64)
    if not len(path):
        return path
    first, after = tag_scores(tuple(tags), transitions)
    logs = np.log(np.maximum(probability, FLOOR))
    best, back = first + logs[0], np.zeros(probability.shape, dtype=np.int64)
    for word in range(1, len(path)):
        ways = best[:, None] + after
        back[word] = ways.argmax(0)
        best = ways.max(0) + logs[word]
    path[-1] = best.argmax()
    for word in range(len(path) - 1, 0, -1):
        path[word - 1] = back[word, path[word]]
    return path
