"""Tags as one sequence: the likeliest one against every sequence, transitions against counts, the dial between two sets of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from domaintune.tasks.tag_chains import NONE, between, likeliest, marginals, tag_scores, transitions_of
from domaintune.tasks.tag_sequences import broken_positions, tags_of

TAGS = tags_of(["PER", "LOC"])


def score(path: tuple[int, ...], logs: np.ndarray, tags: tuple[str, ...], transitions) -> float:
    first, after = tag_scores(tags, transitions)
    moves = sum(after[a, b] for a, b in itertools.pairwise(path))
    return float(first[path[0]] + moves + sum(logs[place, tag] for place, tag in enumerate(path)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("learned", [False, True])
def test_it_is_the_best_of_all_sequences(seed: int, learned: bool) -> None:
    generator = np.random.default_rng(seed)
    tags = tuple(generator.permutation(TAGS).tolist())
    probability = generator.dirichlet(np.full(len(tags), 0.3), size=int(generator.integers(1, 6)))
    texts = [["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "O"], ["B-LOC", "B-PER", "I-PER", "I-PER"]]
    transitions = transitions_of(texts) if learned else None
    found = likeliest(probability, tags, transitions)
    logs = np.log(probability)
    every = itertools.product(range(len(tags)), repeat=len(probability))
    best = max(every, key=lambda path: score(path, logs, tags, transitions))
    assert score(tuple(found), logs, tags, transitions) == pytest.approx(score(best, logs, tags, transitions))
    assert not broken_positions([tags[index] for index in found])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("learned", [False, True])
def test_marginals_are_sums_over_all_sequences(seed: int, learned: bool) -> None:
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.full(len(TAGS), 0.3), size=4)
    transitions = transitions_of([["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]) if learned else None
    logs, expected = np.log(probability), np.zeros(probability.shape)
    for path in itertools.product(range(len(TAGS)), repeat=4):
        expected[range(4), path] += math.exp(score(path, logs, TAGS, transitions))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(marginals(probability, TAGS, transitions), expected, atol=1e-12)


def test_marginals_of_long_and_of_impossible_texts_are_probabilities() -> None:
    generator = np.random.default_rng(0)
    long = generator.dirichlet(np.full(len(TAGS), 0.1), size=3000)
    certain = np.eye(len(TAGS))[[2, 4, 0, 2] * 500]  # I-PER, I-LOC, O, I-PER
    for probability in (long, certain, np.zeros((5, len(TAGS)))):
        made = marginals(probability, TAGS, transitions_of([["B-X", "I-X", "I-X"]] * 1000))
        assert np.isfinite(made).all()
        np.testing.assert_allclose(made.sum(1), 1, atol=1e-12)
    assert marginals(np.zeros((0, len(TAGS))), TAGS, None).shape == (0, len(TAGS))


def test_a_valid_sequence_of_likeliest_tags_stays_where_nothing_is_learned() -> None:
    generator = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        probability = generator.dirichlet(np.full(len(TAGS), 0.3), size=4)
        greedy = probability.argmax(1)
        if not broken_positions([TAGS[index] for index in greedy]):
            kept += 1
            assert likeliest(probability, TAGS, None).tolist() == greedy.tolist()
    assert kept > 20


def test_transitions_are_log_ratios_of_smoothed_counts() -> None:
    found = transitions_of([["O", "B-X", "I-X", "I-X"], ["O", "O"]])
    # start: O 2; after O: O 1, B 1; after B: I 1; after I: I 1. Half a count more each, and none where a tag may not stand.
    total = 6 + 10 * 0.5
    overall = {"O": (3 + 2) / total, "B": (1 + 2) / total, "I": (2 + 1) / total}
    assert found[0] == pytest.approx((math.log(2.5 / 3 / overall["O"]), math.log(0.5 / 3 / overall["B"]), 0))
    assert found[1] == pytest.approx((math.log(1.5 / 3 / overall["O"]), math.log(1.5 / 3 / overall["B"]), 0))
    assert found[2][2] == pytest.approx(math.log(1.5 / 2.5 / overall["I"]))


def test_a_learned_chain_joins_a_name_that_words_alone_leave_apart() -> None:
    """Three words of one name, the middle one slightly likelier outside."""
    probability = np.array([[0.05, 0.9, 0.05, 0, 0], [0.5, 0.05, 0.45, 0, 0], [0.1, 0.02, 0.88, 0, 0]])
    transitions = transitions_of([["O", "B-PER", "I-PER", "I-PER", "O", "O"]] * 50)
    assert [TAGS[index] for index in likeliest(probability, TAGS, transitions)] == ["B-PER", "I-PER", "I-PER"]
    assert [TAGS[index] for index in probability.argmax(1)] == ["B-PER", "O", "I-PER"]


def test_what_may_not_stand_is_never_chosen_and_no_score_is_undefined() -> None:
    certain = np.eye(len(TAGS))[[2, 4, 0, 2]]  # I-PER, I-LOC, O, I-PER
    for transitions in (None, transitions_of([]), transitions_of([["I-X"], ["O", "I-X"]])):
        found = likeliest(certain, TAGS, transitions)
        assert not broken_positions([TAGS[index] for index in found])
        first, after = tag_scores(TAGS, transitions)
        assert not np.isnan(first).any()
        assert not np.isnan(after).any()
    assert likeliest(np.zeros((0, len(TAGS))), TAGS, None).shape == (0,)


def test_the_dial_goes_from_one_to_the_other() -> None:
    learned = transitions_of([["O", "B-X", "I-X"]])
    assert between(None, learned, 0) is None
    assert between(None, learned, 1) is learned
    assert between(learned, learned, 0.3) is learned
    half = between(None, learned, 0.5)
    assert half is not None
    np.testing.assert_allclose(np.array(half), np.array(learned) / 2)
    np.testing.assert_allclose(np.array(between(learned, None, 0.25)), np.array(learned) * 0.75)
    assert np.shape(NONE) == np.shape(learned)
