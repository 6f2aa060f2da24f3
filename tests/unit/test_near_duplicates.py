"""Near duplicates against brute force over all pairs."""

from __future__ import annotations

import random
import time
from itertools import combinations

import numpy as np
import pytest

from domaintune.data.near_duplicates import near_duplicates

TEXT = "the room was clean but waiter brought cold soup and lovely view over harbour made up for it twice a day"
WORDS = TEXT.split()


def grams(text: str) -> set[str]:
    text = text.ljust(5, "\0")
    return {text[i : i + 5] for i in range(len(text) - 4)}


def similarities(texts: list[str]) -> dict[tuple[int, int], float]:
    sets = [grams(text) for text in texts]
    return {(i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(texts)), 2)}


def above(values: dict[tuple[int, int], float], threshold: float) -> set[tuple[int, int]]:
    return {pair for pair, value in values.items() if value >= threshold}


def made(count: int, alphabet: list[str], joint: str, length: int = 30) -> list[str]:
    """Random texts, half of them followed by a copy with one or two places changed."""
    generator = random.Random(1)
    texts: list[str] = []
    while len(texts) < count:
        words = [generator.choice(alphabet) + str(generator.randrange(30)) for _ in range(length)]
        texts.append(joint.join(words))
        if generator.random() < 0.5:
            for _ in range(generator.randrange(1, 4)):
                words[generator.randrange(length)] = generator.choice(alphabet)
            texts.append(joint.join(words))
    return list(dict.fromkeys(texts))[:count]


@pytest.mark.parametrize("seed", [0, 1])
def test_brute_force_agrees(seed: int) -> None:
    texts = made(500, WORDS, " ")
    found = near_duplicates(texts, threshold=0.8, seed=seed)
    assert found == sorted(set(found))
    values = similarities(texts)
    sure, right = above(values, 0.85), above(values, 0.8)
    assert len(sure) > 50
    assert set(found) <= right
    assert len(sure & set(found)) >= 0.95 * len(sure)
    assert len(set(found)) >= 0.9 * len(right)


def test_chinese_texts() -> None:
    texts = made(200, list("我今天在北京见到了他们的老师并且一起吃饭很高兴"), "")
    expected = above(similarities(texts), 0.8)
    found = set(near_duplicates(texts, threshold=0.8))
    assert expected
    assert found <= expected
    assert len(found) >= 0.95 * len(expected)


def test_short_empty_and_lone_texts() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates(["one"]) == []
    assert near_duplicates(["", "", ""]) == []
    assert near_duplicates(["a", "b", "ab", "", "no", "yes", "abcde"]) == []
    assert near_duplicates(["a", "b", "", "a"]) == [(0, 3)]
    assert near_duplicates(["\ud800 lone surrogate", "\ud800 lone surrogate"]) == [(0, 1)]


def test_a_very_long_text() -> None:
    generator = random.Random(2)
    words = [f"{generator.choice(WORDS)}{generator.randrange(10_000)}" for _ in range(100_000)]
    changed = [word if generator.random() > 0.005 else "else" for word in words]
    texts = ["short one", " ".join(words), "another", " ".join(changed)]
    assert near_duplicates(texts) == [(1, 3)]


def test_crowds_of_alike_texts_stay_cheap() -> None:
    base = " ".join(WORDS) * 3
    texts = [f"{base} {number}" for number in range(3000)]
    found = near_duplicates(texts)
    assert {row for pair in found for row in pair} == set(range(3000))
    assert len(found) < 100_000


def test_later_texts_of_a_crowd_are_compared_with_the_first_ones() -> None:
    base = " ".join(WORDS) * 3
    texts = [f"{base} {number}" for number in range(3000)]
    found = near_duplicates(texts, first=2000)
    assert {right for left, right in found if left < 2000 <= right} == set(range(2000, 3000))
    assert set(near_duplicates(texts)) < set(found)
    assert len(found) < 150_000


def test_the_similarities_are_exact_at_the_threshold() -> None:
    texts = made(60, WORDS, " ", length=12)
    values = similarities(texts)
    high = sorted(value for value in values.values() if value > 0.6)
    middle = high[len(high) // 2]
    found = set(near_duplicates(texts, threshold=middle))
    assert found
    assert found <= above(values, middle)


@pytest.mark.slow
def test_twenty_thousand_texts_take_seconds() -> None:
    generator = np.random.default_rng(0)
    vocabulary = ["".join(chr(97 + c) for c in generator.integers(0, 26, 5)) for _ in range(5000)]
    texts = [" ".join(vocabulary[i] for i in generator.integers(0, 5000, 20)) for _ in range(20_000)]
    start = time.process_time()
    near_duplicates(texts)
    assert time.process_time() - start < 6  # 3 seconds on a free core
