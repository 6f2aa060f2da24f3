"""Temperatures, calibration error and scores of each class against brute force, naive loops, scikit-learn, seqeval and pycocotools."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from reference.test_entity_f1 import ADVERSARIAL, TYPES, random_sequence
from reference.test_mean_average_precision import coco, picture
from scipy.special import softmax
from seqeval.metrics import classification_report as entity_report
from seqeval.scheme import IOB2
from sklearn import metrics

from domaintune.evaluation.calibration import (
    calibration_error,
    calibration_report,
    fit_temperature,
    mean_log_loss,
    temperatures,
)
from domaintune.evaluation.intervals import differing_records
from domaintune.tasks.classification import (
    class_scores,
    classification_record,
    label_confidences,
    label_scores,
    multi_hot,
    tempered,
)
from domaintune.tasks.detection_metric import average_precisions, match_boxes
from domaintune.tasks.tag_sequences import entity_counts
from domaintune.tasks.text_classification import TextClassification


def drawn(rows: int, labels: int, *, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right at this temperature: classes drawn from softmax(logits / T), softmax(logits) stated."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3.0, size=(rows, labels))
    truth = np.array([generator.choice(labels, p=p) for p in softmax(logits / temperature, axis=1)])
    return softmax(logits, axis=1), truth


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("labels", [2, 6])
def test_the_temperature_is_the_minimum_of_brute_force(temperature: float, labels: int) -> None:
    probability, truth = drawn(300, labels, temperature=temperature)
    grid = np.exp(np.linspace(-1.5, 1.5, 601))
    losses = [
        -np.log(softmax(np.log(probability) / t, axis=1)[np.arange(300), truth]).sum() + 4 * math.log(t) ** 2 / 2
        for t in grid
    ]
    best = int(np.argmin(losses))
    assert grid[best - 1] < fit_temperature(probability, truth) < grid[best + 1]
    mean = metrics.log_loss(truth, softmax(np.log(probability) / grid[best], axis=1), labels=range(labels))
    assert 300 * mean + 4 * math.log(grid[best]) ** 2 / 2 == pytest.approx(losses[best])


def test_the_true_temperature_is_found_and_mends_the_error() -> None:
    probability, truth = drawn(5_000, 4, temperature=2.0)
    found = fit_temperature(probability, truth)
    assert found == pytest.approx(2.0, rel=0.05)
    report = calibration_report(*drawn(5_000, 4, temperature=2.0, seed=1), found)
    assert report["before"]["ece"] > 0.1
    assert report["after"]["ece"] < 0.04
    assert report["after"]["log_loss"] < report["before"]["log_loss"]


def test_all_right_does_not_mean_certain() -> None:
    probability = np.tile([0.8, 0.2], (80, 1))
    assert 0.2 < fit_temperature(probability, np.zeros(80, dtype=int)) < 1
    assert 0.9 < fit_temperature(probability[:1], np.zeros(1, dtype=int)) < 1


@pytest.mark.parametrize("rows", [10, 20, 40, 300])
def test_few_decisions_do_not_make_probabilities_worse(rows: int) -> None:
    """Log loss on fresh decisions against that of the probabilities as they came, over models that are right at temperatures about 1."""
    generator, changes = np.random.default_rng(rows), []
    for number in range(80):
        hidden = math.exp(generator.normal(0.0, 0.4))
        made = fit_temperature(*drawn(rows, 2, temperature=hidden, seed=2 * number))
        fresh, truth = drawn(1500, 2, temperature=hidden, seed=2 * number + 1)
        changes.append(mean_log_loss(tempered(fresh, made), truth) - mean_log_loss(fresh, truth))
    assert np.mean(changes) < 0.001
    assert np.mean(np.array(changes) > 0.01) < 0.25


@pytest.mark.parametrize("rows", [4, 59, 97, 500])
def test_the_error_is_that_of_a_naive_loop(rows: int) -> None:
    probability, truth = drawn(rows, 3, temperature=2.0)
    order = sorted(range(rows), key=lambda i: max(probability[i]))
    bins, start = {4: 1, 59: 1, 97: 3, 500: 15}[rows], 0
    expected = 0.0
    for number in range(bins):
        size = rows // bins + (number < rows % bins)
        chosen, start = order[start : start + size], start + size
        confidence = sum(max(probability[i]) for i in chosen) / size
        accuracy = sum(list(probability[i]).index(max(probability[i])) == truth[i] for i in chosen) / size
        expected += abs(confidence - accuracy) * size / rows
    assert calibration_error(probability, truth) == pytest.approx(expected, abs=1e-12)


def test_the_bins_add_up_to_the_errors() -> None:
    probability, truth = drawn(200, 3, temperature=2.0)
    report = calibration_report(probability, truth, 1.7)
    bins = report["bins"]
    assert sum(b["count"] for b in bins) == 200
    for suffix, name in (("_before", "before"), ("", "after")):
        error = sum(b["count"] * abs(b[f"confidence{suffix}"] - b[f"accuracy{suffix}"]) for b in bins) / 200
        assert error == pytest.approx(report[name]["ece"], abs=1e-12)
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in bins)
    assert report["after"]["log_loss"] == pytest.approx(
        metrics.log_loss(truth, softmax(np.log(probability) / 1.7, axis=1)), abs=1e-10
    )


def test_tempering_keeps_the_order_and_one_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    probability = softmax(generator.normal(scale=20, size=(50, 5)), axis=1)
    assert tempered(probability, 1.0) == pytest.approx(probability, abs=1e-12)
    each = generator.random((50, 5))
    assert tempered(each, 1.0, multi_label=True) == pytest.approx(each, abs=1e-12)
    for temperature in (0.05, 0.7, 20.0):
        made = tempered(probability, temperature)
        assert made.sum(1) == pytest.approx(1.0)
        assert (made.argmax(1) == probability.argmax(1)).all()
        logits = np.log(each / (1 - each)) / temperature
        assert tempered(each, temperature, multi_label=True) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-9)
    assert np.isfinite(tempered(np.array([0.0, 1.0]), 3.0, multi_label=True)).all()


def records(probability: np.ndarray, target: np.ndarray, *, multi_label: bool) -> list:
    return [classification_record(p, t, multi_label=multi_label) for p, t in zip(probability, target, strict=True)]


def test_several_labels_are_decisions_of_their_own() -> None:
    generator = np.random.default_rng(2)
    probability, target = generator.random((60, 4)), (generator.random((60, 4)) < 0.4).astype(int)
    pairs, truth = label_confidences(records(probability, target, multi_label=True), multi_label=True)
    expected = np.mean([metrics.log_loss(target[:, k], probability[:, k], labels=[0, 1]) for k in range(4)])
    assert mean_log_loss(pairs, truth) == pytest.approx(expected, abs=1e-10)
    both = tempered(pairs, 1.9)[:, 1].reshape(60, 4)
    assert both == pytest.approx(tempered(probability, 1.9, multi_label=True), abs=1e-12)


def text_task(**more: object) -> TextClassification:
    columns = {"text_column": "text", "label_column": "label", "label_separator": "|"}
    return TextClassification(labels=("a", "b", "c"), multi_label=False, max_length=8, weights=None, **columns, **more)


def test_a_temperature_for_each_strength_and_on_the_line_between() -> None:
    task = text_task()
    by_strength = {}
    for strength, hidden in ((1.0, 3.0), (0.0, 1.0), (0.5, 2.0)):
        probability, truth = drawn(3000, 3, temperature=hidden)
        by_strength[strength] = records(probability, np.eye(3, dtype=int)[truth], multi_label=False)
    fitted = temperatures(task, by_strength)
    assert [strength for strength, _ in fitted] == [0.0, 0.5, 1.0]
    assert [t for _, t in fitted] == pytest.approx([1.0, 2.0, 3.0], rel=0.1)
    saved = TextClassification.model_validate_json(text_task(calibration=fitted).model_dump_json())
    assert saved.temperature(0.5) == fitted[1][1]
    assert saved.temperature(0.75) == pytest.approx(math.sqrt(fitted[1][1] * fitted[2][1]))
    assert task.temperature(0.75) == 1.0


def test_the_answer_and_every_score_stay() -> None:
    task = text_task(calibration=((0.0, 1.0), (1.0, 19.0)))
    close = {"probability": np.array([0.25, 0.3749999999999999, 0.375])}  # tempered, the last two are equal
    made = task.calibrated(close, 1.0)
    assert task.render(made)["label"] == task.render(close)["label"] == "c"
    assert task.render(made)["probability"] == pytest.approx(1 / 3, abs=0.01)
    assert task.render(close)["probability"] == 0.375


def test_models_that_differ_in_probabilities_alone_do_not_differ() -> None:
    one, two = (
        classification_record(np.array(p), multi_hot([1], 2), multi_label=False) for p in ([0.3, 0.7], [0.4, 0.6])
    )
    assert not any(differing_records(text_task().primary, [one], [two]))


@pytest.mark.parametrize("labels", [2, 7])
def test_scores_of_each_label_equal_scikit_learn(labels: int) -> None:
    generator = np.random.default_rng(labels)
    probability, target = generator.dirichlet(np.ones(labels), 60), generator.integers(max(labels - 1, 2), size=60)
    probability[:, 0] = 0.0  # a label that is never predicted, and with 7 one that never occurs
    made = label_scores(
        [str(i) for i in range(labels)], records(probability, np.eye(labels, dtype=int)[target], multi_label=False)
    )
    same(
        made,
        metrics.precision_recall_fscore_support(target, probability.argmax(1), labels=range(labels), zero_division=0),
    )


def test_scores_of_each_of_several_labels_equal_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    probability, target = generator.random((50, 4)), (generator.random((50, 4)) < 0.3).astype(int)
    made = label_scores(list("abcd"), records(probability, target, multi_label=True))
    same(made, metrics.precision_recall_fscore_support(target, probability >= 0.5, zero_division=0))


def same(made: dict, expected: tuple) -> None:
    for index, scores in enumerate(made.values()):
        assert scores["support"] == expected[3][index]
        assert [scores[n] for n in ("precision", "recall", "f1")] == pytest.approx([e[index] for e in expected[:3]])


def test_scores_of_each_type_equal_seqeval() -> None:
    generator = np.random.default_rng(5)
    lengths = [len(tags) for tags in ADVERSARIAL] + generator.integers(1, 12, 40).tolist()
    targets = [*ADVERSARIAL, *(random_sequence(generator, n) for n in lengths[len(ADVERSARIAL) :])]
    guesses = [
        [
            tag if generator.random() < 0.7 else other
            for tag, other in zip(tags, random_sequence(generator, n), strict=True)
        ]
        for tags, n in zip(targets, lengths, strict=True)
    ]
    counts = [entity_counts(g, t, TYPES) for g, t in zip(guesses, targets, strict=True)]
    made = class_scores(TYPES, *(sum(c[name] for c in counts) for name in ("hits", "predicted", "target")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = entity_report(targets, guesses, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    for name in TYPES:
        assert made[name] == pytest.approx(
            {
                "support": expected[name]["support"],
                "precision": expected[name]["precision"],
                "recall": expected[name]["recall"],
                "f1": expected[name]["f1-score"],
            }
        )


def test_average_precision_of_each_class_equals_pycocotools() -> None:
    generator = np.random.default_rng(7)
    pictures = [picture(generator, truths=6, found=12, classes=3, crowd=0.1) for _ in range(12)]
    found = average_precisions([match_boxes(**p, num_classes=4) for p in pictures])
    for label in range(3):
        alone = []
        for p in pictures:
            ours, theirs = p["classes"] == label, p["truth_classes"] == label
            kept = {k: p[k][ours] for k in ("boxes", "scores", "classes")}
            alone.append({**kept, **{k: p[k][theirs] for k in ("truth_boxes", "truth_classes", "crowd")}})
        assert found[label] == pytest.approx(coco(alone, 4)["mAP"], abs=1e-10)
    assert np.isnan(found[3])


@pytest.mark.parametrize("rows", [20, 60, 200, 2000])
def test_what_a_perfect_model_shows_stands_beside_the_error(rows: int) -> None:
    """Drawn from its own probabilities a model is calibrated: its error is chance, and `by_chance` says how much of that is seen."""
    made = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        probability = generator.dirichlet([1.0, 1.0, 1.0], size=rows)
        truth = (generator.random(rows)[:, None] > probability.cumsum(1)).sum(1)
        report = calibration_report(probability, truth, 1.0)
        made.append((report["after"]["ece"], report["by_chance"]))
    error, by_chance = np.mean(made, axis=0)
    assert by_chance == pytest.approx(error, rel=0.25)
    assert by_chance < 0.1, "bins hold at least 30 rows"
