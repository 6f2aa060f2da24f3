"""Texts that say almost the same, found by hashing their character 5-grams: numpy over all texts at once, memory in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAM = 5
PERMUTATIONS, BANDS = 64, 16
CHUNK_CHARACTERS = 1 << 19
CHARACTERS_COMPARED = 2_000
"""Of long texts the beginning alone is compared."""
LARGEST_BUCKET = 64
"""Members of larger buckets are compared with their neighbours in it alone: thousands of like rows would make millions of pairs."""


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of different texts whose sets of character 5-grams have a Jaccard similarity of at least `threshold`.

    Candidates come from MinHash (64 permutations in 16 bands: a pair at .8 is missed once in 5,000 times), and each is verified
    exactly. Source: Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3.
    """
    signatures = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    generator = np.random.default_rng(seed)
    factors = generator.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) * 2 + 1
    for first, last in _chunks(texts):
        grams, starts = _grams(texts[first:last])
        for number, factor in enumerate(factors):
            mixed = ((grams * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[first:last, number] = np.minimum.reduceat(mixed, starts)
    pairs: set[tuple[int, int]] = set()
    rows = PERMUTATIONS // BANDS
    for band in range(BANDS):
        pairs.update(_in_one_bucket(signatures[:, band * rows : (band + 1) * rows]))
    sets: dict[int, np.ndarray] = {}
    return sorted(pair for pair in pairs if texts[pair[0]] != texts[pair[1]] and _similar(texts, pair, sets, threshold))


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for place, text in enumerate(texts):
        size += min(len(text), CHARACTERS_COMPARED) + 1
        if size >= CHUNK_CHARACTERS:
            yield start, place + 1
            start, size = place + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _grams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all 5-grams, text after text, and where each text's begin; a shorter text is one gram of itself."""
    cut = [(text[:CHARACTERS_COMPARED] or "\0").ljust(GRAM, "\0") for text in texts]
    lengths = np.array([len(text) for text in cut])
    codes = np.frombuffer("".join(cut).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    hashed = np.zeros(len(codes) - GRAM + 1, dtype=np.uint64)
    for place in range(GRAM):
        hashed = hashed * np.uint64(0x100000001B3) + codes[place : len(codes) - GRAM + 1 + place]
    hashed ^= hashed >> np.uint64(31)
    hashed *= np.uint64(0x9E3779B97F4A7C15)
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), dtype=bool)  # a gram may not reach into the next text
    for back in range(1, GRAM):
        inside[ends - back] = False
    counts = lengths - GRAM + 1
    return hashed[inside[: len(hashed)]], np.concatenate([[0], np.cumsum(counts)[:-1]])


def _in_one_bucket(part: np.ndarray) -> Iterator[tuple[int, int]]:
    key = np.ascontiguousarray(part).view(np.dtype((np.void, part.dtype.itemsize * part.shape[1]))).ravel()
    order = np.argsort(key, kind="stable")
    borders = np.flatnonzero(key[order][1:] != key[order][:-1]) + 1
    for bucket in np.split(order, borders) if len(order) else ():
        if len(bucket) < 2:
            continue
        members = np.sort(bucket).tolist()
        reach = len(members) if len(members) <= LARGEST_BUCKET else 2
        for place, left in enumerate(members):
            for right in members[place + 1 : place + reach]:
                yield left, right


def _similar(texts: Sequence[str], pair: tuple[int, int], sets: dict[int, np.ndarray], threshold: float) -> bool:
    for place in pair:
        if place not in sets:
            sets[place] = np.unique(_grams([texts[place]])[0])
    left, right = sets[pair[0]], sets[pair[1]]
    if min(len(left), len(right)) < threshold * max(len(left), len(right)):
        return False
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared >= threshold * (len(left) + len(right) - shared)
