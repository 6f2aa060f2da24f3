"""Words -> tokens -> overlapping windows, and which window speaks for which word. No labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from domaintune.errors import BaseError


@dataclass(frozen=True, slots=True)
class WordTokens:
    """Token ids of a text given as words. `first[w]` and `end[w]` (exclusive) are the positions of word w's tokens in `ids`;
    `prefix` and `suffix` are the special tokens that stand round every window."""

    ids: list[int]
    first: np.ndarray
    end: np.ndarray
    prefix: list[int]
    suffix: list[int]


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text, special tokens included. `words` are those whose prediction is taken from here, `positions` the places
    of their first tokens in `ids`."""

    ids: list[int]
    words: np.ndarray
    positions: np.ndarray


def require_fast(tokenizer: Any, *, instead: str = "") -> None:
    """`instead`: what else can be done, before the other remedy.

    Raises:
        BaseError: a tokenizer that cannot tell where its tokens stand, nor cut a text into windows.
    """
    if not tokenizer.is_fast:
        raise BaseError(
            f"{type(tokenizer).__name__} does not tell where its tokens stand in the text.",
            remedy=f"{instead or 'Use'} a base with a fast tokenizer (tokenizer.json).",
        )


def tokenize_words(tokenizer: Any, words: Sequence[str]) -> WordTokens:
    """Tokens of the words joined by spaces, mapped back to the words by their offsets.

    So a byte-level tokenizer sees the space before a word that it saw in pretraining. A word that leaves no token (zero-width
    characters, or one merged into its neighbour's token) gets the unknown token, so that words and predictions stay aligned.
    Differs: transformers' `is_split_into_words` drops such words and, for byte-level tokenizers, the spaces. Where neither
    matters (word pieces, sentence pieces) the tokens are the same.

    Raises:
        BaseError: a tokenizer that cannot tell where its tokens stand.
    """
    require_fast(tokenizer)
    text = " ".join(words)
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    inner = [position for position, special in enumerate(encoded["special_tokens_mask"]) if not special]
    before, after = (inner[0], inner[-1] + 1) if inner else (len(encoded["input_ids"]) // 2,) * 2
    all_ids = encoded["input_ids"]
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    owners = _words_of(encoded["offset_mapping"][before:after], ends, text)
    ids, first, end = _aligned(all_ids[before:after], owners, len(words), _stand_in(tokenizer))
    return WordTokens(ids, first, end, list(all_ids[:before]), list(all_ids[after:]))


def _words_of(offsets: Sequence[tuple[int, int]], ends: np.ndarray, text: str) -> list[int]:
    """The first word that each token's characters belong to, given where the words end in the text; -1 after the last word.

    The space before a word counts to the word, whether its token holds more than that space or not: the mark of a sentence piece
    that stands alone is then the word's first token, as `is_split_into_words` has it.
    """
    starts = [end - len(text[start:end].lstrip(" ")) for start, end in offsets]
    words = np.searchsorted(ends, starts, side="right")
    return np.where(words < len(ends), words, -1).tolist()


def _aligned(
    ids: Sequence[int], owners: Sequence[int], count: int, stand_in: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    made: list[int] = []
    first, end = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    current = -1

    def skip_to(word: int) -> None:
        for missing in range(current + 1, word):
            first[missing], end[missing] = len(made), len(made) + 1
            made.append(stand_in)

    for token, owner in zip(ids, owners, strict=True):
        if owner > current:
            skip_to(owner)
            current = owner
            first[owner] = len(made)
        made.append(token)
        if owner >= 0:
            end[current] = len(made)
    skip_to(count)
    return made, first, end


def _stand_in(tokenizer: Any) -> int:
    """The unknown token, or for byte-level tokenizers, which know no such thing, the padding token."""
    return int(tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id)


def windows(tokens: WordTokens, *, max_length: int, stride: int) -> list[Window]:
    """One window where the text fits into `max_length` tokens, special ones included; else windows that share `stride` tokens.

    Each word belongs to the window in which the nearest cut is farthest from its tokens (the text's own ends are no cuts); ties
    go to the earlier one.
    """
    size = max_length - len(tokens.prefix) - len(tokens.suffix)
    count = len(tokens.ids)
    assert 0 <= stride < size
    starts = np.arange(0, max(count - stride, 1), size - stride) if count > size else np.array([0])
    stops = np.minimum(starts + size, count)
    left = np.where(starts[:, None] == 0, np.inf, tokens.first[None] - starts[:, None])
    right = np.where(stops[:, None] == count, np.inf, stops[:, None] - tokens.end[None])
    context = np.minimum(left, right)
    context[(tokens.first[None] < starts[:, None]) | (tokens.first[None] >= stops[:, None])] = -np.inf
    owner = context.argmax(0)
    made = []
    for number, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        words = np.flatnonzero(owner == number)
        ids = [*tokens.prefix, *tokens.ids[start:stop], *tokens.suffix]
        made.append(Window(ids, words, tokens.first[words] - start + len(tokens.prefix)))
    return made
