"""Splits and duplicates over keys: plain sequences of strings in, positions out. No rows, no labels' meaning."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from domaintune.counting import counted
from domaintune.errors import DataError

Positions = np.ndarray
"""Ascending int64 positions."""
GIVE_PARTS = "Give more different rows, or give the parts yourself (--dev, --test)."


@functools.lru_cache(maxsize=1 << 16)  # duplicates, leaks, checks and checksums each ask for a row's
def normal_form(text: str) -> str:
    """What two texts share when they say the same: NFKC, case folded, without punctuation, spaces and control characters.

    Letters, digits, marks and symbols (emoji, currency, mathematics) of every script stay, and signs that change a meaning: those
    between two digits (3.5 is not 35), a minus, a percent sign, the one of C#. A text of nothing else stays as it is, so that "..."
    and "???" do not count as one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    pieces = _MEANT.split(folded)  # signs stand at the odd places
    return "".join(piece if place % 2 else piece.translate(_KEPT) for place, piece in enumerate(pieces)) or text


def without_signs(normal: str) -> str:
    """A normal form without the signs that change a meaning, but for those between digits."""
    return _SIGNS.sub("", normal) or normal


@functools.lru_cache(maxsize=1 << 16)
def characters(text: str) -> int:
    """How many characters of a text stay in normal form, punctuation of any meaning aside."""
    return len(unicodedata.normalize("NFKC", text).casefold().translate(_KEPT))


class _Kept(dict[int, int | None]):
    """For `str.translate`: each character to itself, or to nothing; looked up once."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code))[0] in "PZC" else code
        return self[code]


_KEPT = _Kept()
_SIGNS = re.compile(r"(?<=\d)%(?!\d)|(?<=[^\W\d_])#|(?<!\d)-(?=\d)")
_MEANT = re.compile(r"((?<=\d)[^\w\s](?=\d)|(?<=\d)%|(?<=\d\s)%|(?<=[^\W\d_])#(?!\w)|(?<![\w-])-(?=\d))")


def together(inputs: Sequence[str], groups: Sequence[str | None], links: Iterable[tuple[int, int]] = ()) -> list[int]:
    """A number for each row, equal for rows that may not be parted: equal inputs, equal groups, the pairs of positions in `links`
    (near duplicates), and whatever these connect."""
    parent = list(range(len(inputs)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, (text, group) in enumerate(zip(inputs, groups, strict=True)):
        keys = [("input", text)] if group is None else [("input", text), ("group", group)]
        for key in keys:
            left, right = sorted((root(row), root(first.setdefault(key, row))))
            parent[right] = left
    for pair in links:
        left, right = sorted((root(pair[0]), root(pair[1])))
        parent[right] = left
    return [root(row) for row in range(len(inputs))]


def cut(
    strata: Sequence[Hashable], groups: Sequence[Hashable], *, fraction: float, seed: int
) -> tuple[Positions, Positions]:
    """(rest, part): a random part of about `fraction` of the rows, stratified, groups kept whole.

    A group belongs to the stratum that most of its rows have. Strata get their share of the part by largest remainder, of equal ones
    those that are drawn (and not those that come first in the file: of many small strata the same would always go without). Every
    stratum of two or more groups keeps at least one in the rest; strata of a single group stay in the rest, unless there are no
    others: then all are drawn as one.

    Raises:
        DataError: fewer than two groups, so that one part would be empty.
    """
    members = _by_stratum(strata, groups)
    if sum(map(len, members)) < 2:
        raise _too_few(len(strata), sum(map(len, members)), "two parts")
    generator = np.random.default_rng(seed)
    divisible = [rows for rows in members if len(rows) > 1] or [[group for rows in members for group in rows]]
    quotas = _largest_remainder([sum(map(len, rows)) for rows in divisible], fraction, seed)
    part: list[int] = []
    for rows, quota in zip(divisible, quotas, strict=True):
        part += _draw(rows, quota, generator)
    if not part:  # every group is larger than its stratum's quota: the smallest one is the least wrong
        part = min((group for rows in divisible for group in rows), key=len)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[part] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def folds(
    strata: Sequence[Hashable], groups: Sequence[Hashable], *, count: int, seed: int
) -> list[tuple[Positions, Positions]]:
    """`count` pairs (train, dev) whose dev parts cover every row once, stratified, groups kept whole.

    Each stratum's groups, largest first, go to the fold with the fewest rows of that stratum, then with the fewest rows.

    Raises:
        DataError: fewer groups than folds.
    """
    members = _by_stratum(strata, groups)
    if (found := sum(map(len, members))) < count:
        fewer = f"--set data.folds={found}, or give a dev part (--dev)." if found > 1 else GIVE_PARTS
        raise _too_few(len(strata), found, f"{count} folds", remedy=fewer)
    generator = np.random.default_rng(seed)
    fold_of = np.full(len(strata), -1)
    sizes = np.zeros(count, dtype=np.int64)
    for rows in members:
        mine = np.zeros(count, dtype=np.int64)
        order = [rows[position] for position in generator.permutation(len(rows))]
        for group in sorted(order, key=len, reverse=True):
            fold = min(range(count), key=lambda f: (mine[f], sizes[f], f))
            fold_of[group] = fold
            mine[fold] += len(group)
            sizes[fold] += len(group)
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(count)]


def leaks(train_inputs: Sequence[str], other_inputs: Sequence[str]) -> Positions:
    """Positions of the train rows whose input (in normal form) stands in the other part too."""
    other = set(other_inputs)
    return np.array([row for row, text in enumerate(train_inputs) if text in other], dtype=np.int64)


def contiguous_cut(count: int, fraction: float) -> tuple[Positions, Positions]:
    """(rest, part) of running text: the last `fraction` of `count` rows, at least one on either side.

    Raises:
        DataError: fewer than two rows.
    """
    if count < 2:
        raise _too_few(count, count, "two parts")
    size = min(max(round(count * fraction), 1), count - 1)
    return np.arange(count - size), np.arange(count - size, count)


def _too_few(rows: int, groups: int, wanted: str, *, remedy: str = GIVE_PARTS) -> DataError:
    stay = "equal inputs, almost equal ones and groups stay together"
    told = (
        f"{counted(rows, '[row|rows]')} in {counted(groups, '[group|groups]')} that cannot be parted further ({stay})"
    )
    return DataError(f"{told} do not make {wanted}.", where="split", remedy=remedy)


def _by_stratum(strata: Sequence[Hashable], groups: Sequence[Hashable]) -> list[list[list[int]]]:
    """Strata in the order of their first row -> their groups in the same order -> positions of the rows."""
    rows_of: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    members: dict[Hashable, list[list[int]]] = {}
    for rows in rows_of.values():
        stratum = Counter(strata[row] for row in rows).most_common(1)[0][0]
        members.setdefault(stratum, []).append(rows)
    return list(members.values())


def _largest_remainder(sizes: Sequence[int], fraction: float, seed: int) -> list[int]:
    """Whole quotas close to `fraction` of each size that add up to that of the sum, at least 1; equal remainders in random order."""
    exact = np.array(sizes, dtype=np.float64) * fraction
    quotas = np.floor(exact).astype(np.int64)
    missing = max(round(sum(sizes) * fraction), 1) - int(quotas.sum())
    order = np.random.default_rng([seed, len(sizes)]).permutation(len(sizes))
    by_remainder = order[np.argsort(-(exact - quotas)[order].round(9), kind="stable")]
    quotas[by_remainder[: max(missing, 0)]] += 1
    return [int(quota) for quota in quotas]


def _draw(groups: Sequence[list[int]], quota: int, generator: np.random.Generator) -> list[int]:
    """Rows of random whole groups, as near to `quota` rows as one pass comes, and never all of the groups."""
    order = [groups[position] for position in generator.permutation(len(groups))]
    taken: list[int] = []
    skipped = 0
    for number, group in enumerate(order):
        last_left = number == len(order) - 1 and skipped == 0
        closer = abs(quota - len(taken) - len(group)) < abs(quota - len(taken))
        if closer and not last_left:
            taken += group
        else:
            skipped += 1
    return taken
