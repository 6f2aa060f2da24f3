"""Strict entity scores against seqeval, on random and on adversarial tag sequences, weighted and not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2, Tokens

from domaintune.tasks.tag_sequences import broken_positions, entities, entity_counts, reduce_entities, tags_of

TYPES = ("LOC", "creative-work", "人")
TAGS = tags_of(TYPES)

ADVERSARIAL = [
    ["I-LOC"],
    ["I-LOC", "I-LOC", "B-LOC", "I-LOC"],
    ["O", "I-LOC", "O"],
    ["B-LOC", "I-creative-work", "I-LOC"],
    ["B-LOC", "I-creative-work", "I-creative-work"],
    ["B-LOC", "B-LOC", "I-LOC", "O", "I-LOC"],
    ["B-creative-work", "I-creative-work", "B-creative-work"],
    ["O", "O"],
    ["O"],
    ["B-人"],
    ["B-人", "O", "B-人", "I-人", "I-LOC"],
]


def random_sequence(generator: np.random.Generator, count: int) -> list[str]:
    return [TAGS[i] for i in generator.integers(0, len(TAGS), count)]


def seqeval_scores(targets: list[list[str]], guesses: list[list[str]]) -> dict[str, float]:
    with warnings.catch_warnings():  # seqeval divides by zero where there are no entities
        warnings.simplefilter("ignore")
        options = {"scheme": IOB2, "zero_division": 0}
        precision, recall, f1, _ = precision_recall_fscore_support(targets, guesses, average="micro", **options)
        macro = precision_recall_fscore_support(targets, guesses, average="macro", **options)[2]
    values = {"f1": f1, "precision": precision, "recall": recall, "macro_f1": macro}
    return {name: float(np.nan_to_num(np.squeeze(value))) for name, value in values.items()}


def ours(
    targets: list[list[str]], guesses: list[list[str]], weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    records = [entity_counts(guess, target, TYPES) for guess, target in zip(guesses, targets, strict=True)]
    return reduce_entities(records, np.ones((1, len(records))) if weights is None else weights)


@pytest.mark.parametrize("seed", range(30))
def test_entities_equal_seqeval_on_random_sequences(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for tags in [*ADVERSARIAL, *(random_sequence(generator, n) for n in generator.integers(1, 12, 10))]:
        expected = [(entity.tag, entity.start, entity.end) for entity in Tokens(tags, IOB2).entities]
        assert [tuple(entity) for entity in entities(tags)] == expected, tags


def test_every_sequence_of_four_tags_equals_seqeval() -> None:
    tags = tags_of(("A", "B"))
    for code in range(len(tags) ** 4):
        sequence = [tags[code // len(tags) ** place % len(tags)] for place in range(4)]
        expected = [(entity.tag, entity.start, entity.end) for entity in Tokens(sequence, IOB2).entities]
        assert [tuple(entity) for entity in entities(sequence)] == expected, sequence


@pytest.mark.parametrize("seed", range(40))
def test_scores_equal_seqeval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = [random_sequence(generator, n) for n in generator.integers(1, 9, 12)] + ADVERSARIAL
    guesses = [list(t) if generator.random() < 0.6 else random_sequence(generator, len(t)) for t in targets]
    expected, got = seqeval_scores(targets, guesses), ours(targets, guesses)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name][0], value, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("target", "guess"),
    [
        ("O O", "O O"),
        ("O O", "B-LOC I-LOC"),
        ("B-LOC O", "O O"),
        ("B-LOC I-LOC", "I-LOC I-LOC"),
        ("I-LOC O", "I-LOC O"),
    ],
)
def test_undefined_scores_are_zero(target: str, guess: str) -> None:
    for value in ours([target.split()], [guess.split()]).values():
        assert value.tolist() == [0.0]


@pytest.mark.parametrize("seed", range(10))
def test_weights_are_repetitions_of_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = [random_sequence(generator, 6) for _ in range(9)]
    guesses = [list(t) if generator.random() < 0.6 else random_sequence(generator, 6) for t in targets]
    weights = generator.integers(0, 4, (5, 9))
    weights[0, :8] = 0
    weights[:, 8] += 1
    got = ours(targets, guesses, weights)
    for draw, counts in enumerate(weights):
        expected = seqeval_scores(
            [t for t, n in zip(targets, counts, strict=True) for _ in range(n)],
            [g for g, n in zip(guesses, counts, strict=True) for _ in range(n)],
        )
        for name, value in expected.items():
            np.testing.assert_allclose(got[name][draw], value, atol=1e-12, err_msg=name)


def test_broken_positions_are_the_words_that_continue_nothing() -> None:
    assert broken_positions(["I-LOC", "I-LOC", "O", "I-LOC", "B-LOC", "I-人", "I-人"]) == [0, 3, 5]
    assert broken_positions(["B-LOC", "I-LOC", "B-LOC", "O"]) == []
