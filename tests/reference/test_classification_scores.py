"""Classification scores equal scikit-learn's, on random and on adversarial inputs, and weights equal repetition."""

import numpy as np
import pytest
from sklearn import metrics

from domaintune.tasks.classification import classification_record, multi_hot, reduce_classification


def _random(generator, rows, labels, kind):
    probability = generator.dirichlet(np.ones(labels), size=rows)
    target = generator.integers(labels, size=rows)
    if kind == "one class predicted":
        probability[:, 0] += 10
        probability /= probability.sum(1, keepdims=True)
    elif kind == "one class in targets":
        target[:] = labels - 1
    elif kind == "perfect":
        probability = np.eye(labels)[target]
    elif kind == "all wrong":
        probability = np.eye(labels)[(target + 1) % labels]
    return probability, target


@pytest.mark.parametrize("kind", ["random", "one class predicted", "one class in targets", "perfect", "all wrong"])
@pytest.mark.parametrize("labels", [2, 7])
def test_single_label_equals_scikit_learn(kind, labels):
    generator = np.random.default_rng(labels)
    probability, target = _random(generator, 60, labels, kind)
    records = [
        classification_record(p, multi_hot([t], labels), multi_label=False)
        for p, t in zip(probability, target, strict=True)
    ]
    repeats = generator.integers(0, 4, size=60)
    repeats[0] = 2
    scores = reduce_classification(records, np.stack([np.ones(60), repeats]), multi_label=False)
    for draw, times in enumerate([np.ones(60, int), repeats]):
        y, p = np.repeat(target, times), np.repeat(probability, times, axis=0)
        guess = p.argmax(1)
        expected = {
            "accuracy": metrics.accuracy_score(y, guess),
            "macro_f1": metrics.f1_score(y, guess, average="macro", zero_division=0),
            "mcc": metrics.matthews_corrcoef(y, guess),
            "log_loss": metrics.log_loss(y, p, labels=range(labels)),
        }
        for name, value in expected.items():
            assert scores[name][draw] == pytest.approx(value, abs=1e-10), name


def test_several_labels_equal_scikit_learn():
    generator = np.random.default_rng(3)
    probability = generator.random((50, 4))
    target = (generator.random((50, 4)) < 0.3).astype(int)
    target[:, 3] = 0  # a label that never occurs
    records = [classification_record(p, t, multi_label=True) for p, t in zip(probability, target, strict=True)]
    scores = reduce_classification(records, np.ones((1, 50)), multi_label=True)
    guess = (probability >= 0.5).astype(int)
    assert scores["accuracy"][0] == pytest.approx(metrics.accuracy_score(target, guess), abs=1e-12)
    assert scores["macro_f1"][0] == pytest.approx(
        metrics.f1_score(target, guess, average="macro", zero_division=0), abs=1e-12
    )
    expected = np.mean([metrics.log_loss(target[:, k], probability[:, k], labels=[0, 1]) for k in range(4)])
    assert scores["log_loss"][0] == pytest.approx(expected, abs=1e-10)
