"""Texts that are almost the same, found without comparing each with each. Plain texts in, positions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

WIDTH = 5
"""Characters in an n-gram. Shorter texts count as one n-gram, filled up with NUL."""
PERMUTATIONS = 64
CHUNK_CHARACTERS = 500_000
CHUNK_GRAMS = 1_000_000
CERTAINTY = 0.98
"""Least chance that a pair right at the threshold becomes a candidate."""
CROWD = 64
"""Texts that share a band and are all compared with each other. In a larger crowd each is compared with the `REACH` after it:
thousands of alike rows would make millions of pairs."""
REACH = 4
SPREAD = 8
"""Of the first texts so many are compared with each later one of a larger crowd."""
KEY_BITS = 44
"""Bits of an n-gram's hash in a sort key; the others hold the position of its text in the chunk."""


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, seed: int = 0, *, first: int = 0
) -> list[tuple[int, int]]:
    """Pairs of positions (first below second, ascending) whose sets of character 5-grams have a Jaccard similarity of at least
    `threshold`, a number in (0, 1]. Equal texts pair too: leave them out before. Empty texts pair with nothing.

    MinHash (64 permutations) and bands propose pairs, each is verified on the whole sets (of 44-bit hashes): what is returned is
    right, a pair just above the threshold is missed in at most 2 % of cases, one well above it hardly ever. In a crowd of over
    64 texts that are alike not every pair is listed; `first`: texts after the first so many are compared with some of these there.
    `seed` chooses the permutations.

    Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive
    Datasets", section 3.4 (bands).
    """
    rows = np.array([position for position, text in enumerate(texts) if text], dtype=np.int64)
    if len(rows) < 2:
        return []
    filled = [texts[row] for row in rows]
    candidates = _candidates(_bands(filled, threshold, seed), int(np.searchsorted(rows, first)))
    order = np.concatenate(
        [pairs[_similarities(filled, pairs) >= threshold] for pairs in _pair_chunks(filled, candidates)]
        or [np.empty((0, 2), dtype=np.int64)]
    )
    return [(int(rows[left]), int(rows[right])) for left, right in order]


def rows_per_band(threshold: float) -> int:
    """The largest r for which 64 // r bands of r permutations find a pair at the threshold with chance `CERTAINTY`:
    1 - (1 - threshold^r)^(64 // r)."""
    fitting = [r for r in range(1, 17) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= CERTAINTY]
    return max(fitting, default=1)


def _chunks(lengths: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of positions whose lengths sum to about `limit`, each of at least one position and at most 2^19."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        done = ends[start - 1] if start else 0
        end = int(np.searchsorted(ends, done + limit, side="right"))
        end = min(max(end, start + 1), start + 2**19)
        yield start, end
        start = end


def _grams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of all n-grams of all texts one after the other, and the number of each text's."""
    padded = [text if len(text) >= WIDTH else text.ljust(WIDTH, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    hashes = codes[: len(codes) - WIDTH + 1].astype(np.uint64)
    for offset in range(1, WIDTH):  # a polynomial modulo 2^64; uint64 arrays wrap round silently
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += codes[offset : len(codes) - WIDTH + 1 + offset]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    whole = np.ones(len(codes), dtype=bool)
    whole[(np.cumsum(lengths)[:, None] - np.arange(1, WIDTH)).ravel()] = False  # would reach into the next text
    return hashes[whole[: len(hashes)]], lengths - WIDTH + 1


def _bands(texts: Sequence[str], threshold: float, seed: int) -> np.ndarray:
    """One uint32 a band and text [bands, texts]: equal where the band's minima are equal."""
    size = rows_per_band(threshold)
    generator = np.random.default_rng(seed)
    count = PERMUTATIONS // size
    # x -> a x + b modulo 2^32 with odd a is a permutation, and its order is that of well mixed bits.
    factors = generator.integers(0, 2**32, (count, size), dtype=np.uint32) | np.uint32(1)
    shifts = generator.integers(0, 2**32, (count, size), dtype=np.uint32)
    made = np.empty((count, len(texts)), dtype=np.uint32)
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    for start, end in _chunks(lengths, CHUNK_CHARACTERS):
        grams, counts = _grams(texts[start:end])
        bits = (grams >> np.uint64(32)).astype(np.uint32)
        starts = np.cumsum(counts) - counts
        moved = np.empty_like(bits)
        for band in range(count):
            key = np.zeros(end - start, dtype=np.uint32)
            for factor, shift in zip(factors[band], shifts[band], strict=True):
                np.multiply(bits, factor, out=moved)
                np.add(moved, shift, out=moved)
                key = (key ^ np.minimum.reduceat(moved, starts)) * np.uint32(0x85EBCA6B)
                key ^= key >> np.uint32(15)
            made[band, start:end] = key
    return made


def _candidates(bands: np.ndarray, first: int) -> np.ndarray:
    """Pairs [pairs, 2], ascending, each once, that share a band."""
    count = bands.shape[1]
    codes = np.empty(0, dtype=np.int64)
    for band in bands:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        sizes = np.diff(begins, append=count)
        small = np.repeat(sizes <= CROWD, sizes)
        found = [codes]
        for step in range(1, min(int(sizes.max()), CROWD)):
            same = np.flatnonzero((ordered[step:] == ordered[:-step]) & (small[step:] | (step <= REACH)))
            found.append(order[same] * count + order[same + step])
        crowds = [order[begins[at] : begins[at] + sizes[at]] for at in np.flatnonzero(sizes > CROWD)]
        found += [left * count + right for left, right in _across(crowds, first)]
        codes = _distinct(np.concatenate(found))
    return np.stack([codes // count, codes % count], axis=1)


def _across(crowds: Sequence[np.ndarray], first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each crowd (ascending positions) the pairs of the texts from `first` on with `SPREAD` of those before, evenly drawn."""
    for crowd in crowds:
        known = int(np.searchsorted(crowd, first))
        for place in {known * step // SPREAD for step in range(SPREAD if known else 0)}:
            yield np.full(len(crowd) - known, crowd[place]), crowd[known:]


def _pair_chunks(texts: Sequence[str], pairs: np.ndarray) -> Iterator[np.ndarray]:
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    for start, end in _chunks(lengths[pairs].sum(1), CHUNK_GRAMS):
        yield pairs[start:end]


def _similarities(texts: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Jaccard similarity of each pair."""
    rows, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    grams, counts = _grams([texts[row] for row in rows])
    keys = _distinct(_keyed(grams, np.repeat(np.arange(len(rows)), counts)))
    owners = (keys >> np.uint64(KEY_BITS)).astype(np.int64)
    sizes = np.bincount(owners, minlength=len(rows))
    starts = np.cumsum(sizes) - sizes
    members = keys << np.uint64(64 - KEY_BITS)
    both = sizes[places]  # [pairs, 2]
    flat, lengths = starts[places].ravel(), both.ravel()
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    taken = members[np.repeat(flat, lengths) + inside]
    keyed = np.sort(
        _keyed(taken, np.repeat(np.arange(len(pairs)), both.sum(1))), kind="stable"
    )  # two runs a pair: merged
    equal = (keyed[:-1][keyed[1:] == keyed[:-1]] >> np.uint64(KEY_BITS)).astype(np.int64)
    shared = np.bincount(equal, minlength=len(pairs))
    similarities: np.ndarray = shared / (both.sum(1) - shared)
    return similarities


def _distinct(values: np.ndarray) -> np.ndarray:
    """Ascending, each once. Sorting is many times faster here than `np.unique`, which hashes integers."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _keyed(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    return (owners.astype(np.uint64) << np.uint64(KEY_BITS)) | (hashes >> np.uint64(64 - KEY_BITS))
