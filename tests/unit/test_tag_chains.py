"""Tags as one sequence: the likeliest one against every sequence, transitions against counts, the dial between two sets of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from domaintune.tasks.tag_chains import Transitions, between, evidence, likeliest, marginals, moves, transitions_of
from domaintune.tasks.tag_sequences import broken_positions, tags_of

TAGS = tags_of(["PER", "LOC"])


def weight(
    path: Sequence[int], probability: np.ndarray, tags: tuple[str, ...], transitions: Transitions | None
) -> float:
    """By the definition: shares after the word before, probabilities over the mean of the overall share and of that expected there."""
    made, kinds = 1.0, ["OBI".index(tag[0]) for tag in tags]
    for place, tag in enumerate(path):
        before = tags[path[place - 1]] if place else "O"
        if tags[tag][0] == "I" and before[1:] != tags[tag][1:]:
            return 0.0
        made *= probability[place, tag]
        if transitions is not None and place:
            believed = [
                sum(p for p, k in zip(probability[place - 1], kinds, strict=True) if k == kind) for kind in range(3)
            ]
            column = [row[kinds[tag]] for row in transitions[1:]]
            prior = sum((b + o) / 2 * share for b, o, share in zip(believed, transitions[0], column, strict=True))
            made *= column[kinds[path[place - 1]]] / prior
    return made


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("learned", [False, True])
def test_it_is_the_best_of_all_sequences(seed: int, learned: bool) -> None:
    generator = np.random.default_rng(seed)
    tags = tuple(generator.permutation(TAGS).tolist())
    probability = generator.dirichlet(np.full(len(tags), 0.3), size=int(generator.integers(1, 6)))
    texts = [["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "O"], ["B-LOC", "B-PER", "I-PER", "I-PER"]]
    transitions = transitions_of(texts) if learned else None
    found = likeliest(probability, tags, transitions)
    every = itertools.product(range(len(tags)), repeat=len(probability))
    best = max(weight(path, probability, tags, transitions) for path in every)
    assert weight(found.tolist(), probability, tags, transitions) == pytest.approx(best)
    assert not broken_positions([tags[index] for index in found])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("learned", [False, True])
def test_marginals_are_sums_over_all_sequences(seed: int, learned: bool) -> None:
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.full(len(TAGS), 0.3), size=4)
    transitions = transitions_of([["O", "B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]) if learned else None
    expected = np.zeros(probability.shape)
    for path in itertools.product(range(len(TAGS)), repeat=4):
        expected[range(4), path] += weight(path, probability, TAGS, transitions)
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


def test_transitions_are_smoothed_shares() -> None:
    overall, outside, begin, inside = transitions_of([["O", "B-X", "I-X", "I-X"], ["O", "O"]])
    assert overall == pytest.approx((3.5 / 7.5, 1.5 / 7.5, 2.5 / 7.5))
    assert outside == pytest.approx((0.5, 0.5, 0))  # one O, one B
    assert begin == pytest.approx((0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5))  # one I
    assert inside == pytest.approx((0.5 / 2.5, 0.5 / 2.5, 1.5 / 2.5))  # one I
    assert transitions_of([["O", "I-X"]])[1] == pytest.approx((0.5, 0.5, 0)), (
        "an I that continues nothing is no transition"
    )


def test_the_prior_of_a_place_is_half_what_the_model_expects_there() -> None:
    table = transitions_of([["O", "B-PER", "I-PER", "O", "O"]] * 100)
    sure = np.array([[1.0, 0, 0, 0, 0], [0.7, 0.2, 0.0, 0.1, 0.0]])
    of_kinds = np.array(table[1])  # after O
    prior = (of_kinds + np.array(table[0]) @ np.array(table[1:])) / 2
    np.testing.assert_allclose(evidence(sure, TAGS, table)[1], sure[1] / prior[[0, 1, 2, 1, 2]], atol=1e-90)
    np.testing.assert_allclose(evidence(sure, TAGS, None), np.maximum(sure, 1e-100))


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
        first, after = moves(TAGS, transitions)
        assert np.isfinite(first).all()
        assert np.isfinite(after).all()
    assert likeliest(np.zeros((0, len(TAGS))), TAGS, None).shape == (0,)


def test_the_dial_goes_from_one_to_the_other() -> None:
    learned, other = transitions_of([["O", "B-X", "I-X"]]), transitions_of([["B-X", "O"]] * 9)
    assert between(None, learned, 0) is None
    assert between(None, learned, 1) is learned
    assert between(learned, learned, 0.3) is learned
    np.testing.assert_allclose(between(learned, other, 0.25), 0.75 * np.array(learned) + 0.25 * np.array(other))
    probability = np.random.default_rng(0).dirichlet(np.ones(len(TAGS)), size=6)
    steps = [marginals(probability, TAGS, between(None, learned, s)) for s in (0, 1e-6, 0.5, 1 - 1e-6, 1)]
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-4)
    np.testing.assert_allclose(steps[3], steps[4], atol=1e-4)
    assert np.abs(steps[4] - steps[0]).max() > 0.01
