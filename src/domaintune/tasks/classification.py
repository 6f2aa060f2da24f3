"""What text and image classification share: label map, class weights, loss, records and scores. No reading of inputs."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from domaintune.bases.base import Base, HeadSpec
from domaintune.counting import listed
from domaintune.errors import DataError
from domaintune.tasks.base import Batch, Example, Finding, Prediction, Primary, RawPrediction, Record, Task
from domaintune.tasks.token_losses import disagreements, wide

FEW = 5
"""Of a label: fewer rows, pictures or entities are rare."""
NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")


def label_map(found: Sequence[str], *, given: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The label set in unit order: as given, else the labels found, sorted (numbers by value).

    Raises:
        DataError: fewer than two labels, or one given twice.
    """
    if given is not None:
        labels = tuple(given)
        if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
            raise DataError(f"the label '{twice[0]}' is given twice.", where="task.labels", remedy="Drop one.")
    else:
        distinct = set(found)
        numeric = all(label.removeprefix("-").isdecimal() for label in distinct)
        labels = tuple(sorted(distinct, key=lambda label: (int(label) if numeric else 0, label)))
    if len(set(labels)) < 2:
        raise DataError(
            f"only one label ({labels[0] if labels else 'none'}) was found.",
            where=where,
            remedy="A classifier needs at least two: check the label column, or give the label set with --set task.labels=[...].",
        )
    return labels


def label_index(label: str, labels: Sequence[str], *, where: str) -> int:
    """The position of `label`.

    Raises:
        DataError: an unknown label, with the nearest known one.
    """
    if label in labels:
        return labels.index(label)
    near = _equal_numbers(label, labels) or difflib.get_close_matches(label, labels, n=1)
    raise DataError(
        f"unknown label '{label}' (known: {listed(labels, most=10)}).",
        where=where,
        remedy=f"Did you mean '{near[0]}'?"
        if near
        else "Mend the row, or train with the label: tune --set task.labels=[...].",
    )


def _equal_numbers(label: str, labels: Sequence[str]) -> list[str]:
    """Those of the labels that are the same number otherwise written."""
    if not NUMBER.fullmatch(label):
        return []
    return [other for other in labels if NUMBER.fullmatch(other) and float(other) == float(label)]


def class_weights(targets: Sequence[int], *, count: int, kind: Literal["none", "balanced"]) -> tuple[float, ...] | None:
    """Weight of each class in the loss: n / (classes present * rows of the class), the mean over rows being 1; None for "none"."""
    if kind == "none":
        return None
    rows = Counter(targets)
    return tuple(len(targets) / (len(rows) * rows[index]) if rows[index] else 1.0 for index in range(count))


def multi_hot(labels: Sequence[int], count: int) -> np.ndarray:
    target = np.zeros(count, dtype=np.float32)
    target[list(labels)] = 1.0
    return target


def target_weights(targets: Tensor, weights: Sequence[float] | None, scales: Tensor) -> Tensor:
    """Weight of each row [batch]: that of its classes (the mean over them where it has several, 1 where it has none), times `scales`
    [batch].

    `targets` are multi-hot [batch, labels].
    """
    if weights is None:
        return scales
    per_class, count = targets.new_tensor(weights), targets.sum(1)
    return scales * torch.where(count > 0, targets @ per_class / count.clamp(min=1), 1.0)


def classification_loss(logits: Tensor, targets: Tensor, row_weights: Tensor, *, multi_label: bool) -> Tensor:
    """Weighted SUM over rows: cross-entropy, or for several labels the mean over labels of the binary cross-entropy.

    logits and multi-hot targets [batch, labels], row_weights [batch]. Computed in float32 at least.
    """
    logits = wide(logits)
    if multi_label:
        losses = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(1)
    else:
        losses = functional.cross_entropy(logits, targets.argmax(1), reduction="none")
    return (losses * row_weights.to(losses.dtype)).sum()


def probabilities(logits: Tensor, *, multi_label: bool) -> np.ndarray:
    """[batch, labels] in float64; softmax, or one sigmoid a label."""
    wide = logits.double()
    result: np.ndarray = (wide.sigmoid() if multi_label else wide.softmax(-1)).cpu().numpy()
    return result


def tempered(probability: np.ndarray, temperature: float, *, multi_label: bool = False) -> np.ndarray:
    """Probabilities [..., labels] of logits divided by a temperature: p ** (1 / T), normalised; of several labels each its own.

    Text windows are put together before it, so that the order of the labels stays.
    """
    eps = np.finfo(np.float64).eps
    logs = np.log(np.clip(probability, eps, 1.0)) / temperature
    if multi_label:
        others = np.log(np.clip(1 - np.asarray(probability), eps, 1.0)) / temperature
        return np.asarray(np.exp(logs - np.logaddexp(logs, others)))
    powers = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def with_shown(prediction: Prediction, temperature: float, *, multi_label: bool = False) -> Prediction:
    """The prediction with calibrated probabilities beside its own, from which the answer is still taken."""
    return {**prediction, "shown": tempered(prediction["probability"], temperature, multi_label=multi_label)}


def shown(prediction: Prediction) -> np.ndarray:
    """The probabilities [..., labels] that the user sees."""
    return np.asarray(prediction.get("shown", prediction["probability"]))


def label_confidences(records: Sequence[Record], *, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [decisions, classes] and right classes [decisions]: a decision is a row, or with several labels whether a row
    has a label (classes: no, yes)."""
    probability = np.stack([record["probability"] for record in records])
    target = np.stack([record["target"] for record in records])
    if not multi_label:
        return probability, target.argmax(1)
    return np.stack([1 - probability.ravel(), probability.ravel()], axis=1), target.ravel().astype(np.int64)


def class_scores(
    labels: Sequence[str], hits: np.ndarray, predicted: np.ndarray, target: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Support, precision, recall and f1 (0 where undefined) of each label from its counts [labels]."""
    rows = {}
    for label, right, guessed, wanted in zip(labels, hits.tolist(), predicted.tolist(), target.tolist(), strict=True):
        rows[label] = {
            "support": wanted,
            "precision": right / guessed if guessed else 0.0,
            "recall": right / wanted if wanted else 0.0,
            "f1": 2 * right / (guessed + wanted) if guessed + wanted else 0.0,
        }
    return rows


def label_scores(labels: Sequence[str], records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
    """`class_scores` of classification records."""
    predicted, target = (np.stack([record[name] for record in records]).astype(int) for name in ("predicted", "target"))
    return class_scores(labels, (predicted * target).sum(0), predicted.sum(0), target.sum(0))


def classification_divergence(tuned: Tensor, base: Tensor, *, multi_label: bool) -> Tensor:
    """Sum over rows of KL(base || tuned), of the label distribution or of each label's own."""
    if multi_label:
        p = base.double().sigmoid()
        terms = p * (functional.logsigmoid(base.double()) - functional.logsigmoid(tuned.double()))
        terms = terms + (1 - p) * (functional.logsigmoid(-base.double()) - functional.logsigmoid(-tuned.double()))
        return terms.sum()
    log_base = base.double().log_softmax(-1)
    return (log_base.exp() * (log_base - tuned.double().log_softmax(-1))).sum()


def classification_record(probability: np.ndarray, target: np.ndarray, *, multi_label: bool) -> Record:
    """One row's statistics from its probabilities [labels] and its multi-hot target [labels]."""
    eps = np.finfo(np.float64).eps  # as scikit-learn's log_loss clips
    clipped = np.clip(np.asarray(probability, dtype=np.float64), eps, 1 - eps)
    if multi_label:
        predicted = (probability >= 0.5).astype(np.int8)
        losses = -(target * np.log(clipped) + (1 - target) * np.log1p(-clipped))
        loss = losses.mean()
    else:
        predicted = np.zeros(len(target), dtype=np.int8)
        predicted[int(np.argmax(probability))] = 1
        loss = -np.log(clipped[int(np.argmax(target))])
    wanted = (target > 0).astype(np.int8)
    return {
        "correct": np.asarray((predicted == wanted).all(), dtype=np.float64),
        "predicted": predicted,
        "target": wanted,
        "log_loss": np.asarray(loss, dtype=np.float64),
        "probability": np.asarray(probability, dtype=np.float64),
    }


def reduce_classification(
    records: Sequence[Record], weights: np.ndarray, *, multi_label: bool
) -> dict[str, np.ndarray]:
    """accuracy (of the whole label set of a row), macro_f1, mcc (one label a row) and log_loss; weights [draws, rows].

    macro_f1 as scikit-learn: over the labels that occur in targets or predictions (several labels a row: over all labels),
    0 where undefined. Source: Gorodkin 2004 for the multi-class MCC (R_K).
    """
    weights = np.asarray(weights, dtype=np.float64)
    correct = np.array([r["correct"] for r in records], dtype=np.float64)
    loss = np.array([r["log_loss"] for r in records], dtype=np.float64)
    predicted = np.stack([r["predicted"] for r in records]).astype(np.float64)
    target = np.stack([r["target"] for r in records]).astype(np.float64)
    total = weights.sum(1)
    hits, guesses, truths = weights @ (predicted * target), weights @ predicted, weights @ target
    denominator = guesses + truths
    f1 = np.divide(2 * hits, denominator, out=np.zeros_like(hits), where=denominator > 0)
    counted = np.full(len(weights), f1.shape[1]) if multi_label else np.maximum((denominator > 0).sum(1), 1)
    scores = {
        "accuracy": weights @ correct / total,
        "macro_f1": f1.sum(1) / counted,
        "log_loss": weights @ loss / total,
    }
    if not multi_label:
        covariance = hits.sum(1) * total - (guesses * truths).sum(1)
        spread = (total**2 - (guesses**2).sum(1)) * (total**2 - (truths**2).sum(1))
        scores["mcc"] = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    return scores


def render_labels(prediction: Prediction, labels: Sequence[str], *, multi_label: bool) -> dict[str, Any]:
    """label (or labels) and probability (or probabilities) for the user."""
    chosen, stated = predicted_labels(prediction, multi_label=multi_label), shown(prediction)
    if multi_label:
        return {"labels": [labels[index] for index in chosen], "probabilities": [float(stated[i]) for i in chosen]}
    return {"label": labels[chosen[0]], "probability": float(stated[chosen[0]])}


def render_target_labels(
    targets: Sequence[int], probability: np.ndarray, labels: Sequence[str], *, multi_label: bool
) -> dict[str, Any]:
    """As `render_labels`, of the targets, with the probability of each."""
    names, shares = [labels[index] for index in targets], [float(probability[index]) for index in targets]
    if multi_label:
        return {"labels": names, "probabilities": shares}
    return {"label": names[0], "probability": shares[0]}


def predicted_labels(prediction: Mapping[str, Any], *, multi_label: bool) -> tuple[int, ...]:
    """Indices of the predicted labels."""
    probability = np.asarray(prediction["probability"])
    if multi_label:
        return tuple(int(index) for index in np.flatnonzero(probability >= 0.5))
    return (int(np.argmax(probability)),)


def majority_prediction(targets: Sequence[Sequence[int]], count: int, *, multi_label: bool) -> Prediction:
    """Whatever the input, the share of each label in the targets as probability: its arg max is the commonest label. Of several labels a row
    the commonest set of them, multi-hot: most often right as a whole."""
    if multi_label:
        sets = Counter(tuple(sorted(set(target))) for target in targets)
        commonest = min(sets, key=lambda held: (-sets[held], held), default=())
        return {"probability": multi_hot(commonest, count)}
    rows = Counter(index for target in targets for index in target)
    shares = np.array([rows[index] for index in range(count)], dtype=np.float64) / max(len(targets), 1)
    return {"probability": shares / max(shares.sum(), 1e-12)}


def rare_labels(rare: Sequence[str], *, few: int, unit: str, remedy: str) -> Iterator[Finding]:
    if rare:
        yield Finding(
            "rare-label",
            "warning",
            f"fewer than {few} {unit}: {listed(rare, most=10)}; their scores mean little.",
            (),
            f"{remedy}, or join them with others: --label-map OLD=NEW.",
            "What so few rows teach and test is chance.",
            len(rare),
        )


def no_target(example: Example) -> DataError:
    return DataError("the row has no label.", where=example.where, remedy="Give a label, or leave the row out.")


@dataclass(frozen=True, kw_only=True)
class LabelledExample(Example):
    labels: tuple[int, ...]
    """Positions in the task's label map; empty for an unlabelled row."""


class Classification(Task):
    """One label of a whole input, or several. Subclasses read inputs and collate `target`, multi-hot [batch, labels], and, where an
    example has several items, each one's `scale` [batch]."""

    primary: ClassVar[Primary] = Primary("accuracy", binary=True, counts=("correct",))
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "mcc", "log_loss")

    labels: tuple[str, ...]
    multi_label: bool = False
    weights: tuple[float, ...] | None
    scored: tuple[str, ...] | None = None
    """Of several labels: which count, in targets and answers; None: all."""

    def head(self) -> HeadSpec:
        kind = "multi_label_classification" if self.multi_label else None
        return HeadSpec(auto_class=self.auto_class, labels=self.labels, problem_type=kind)

    def relabelled(self, labels: Sequence[str]) -> Self:
        return self.model_copy(update={"labels": tuple(labels), "weights": None})

    def scoring(self, labels: Sequence[str]) -> Self:
        return self.model_copy(update={"scored": tuple(labels)}) if self.multi_label else self

    def fitted(self, train: Sequence[LabelledExample], base: Base, *, start: Sequence[Any] = ()) -> Self:
        if self.weights is None:
            return self
        found = [index for example in train for index in example.labels]
        return self.model_copy(update={"weights": class_weights(found, count=len(self.labels), kind="balanced")})

    @property
    def one_label(self) -> bool:
        return not self.multi_label

    def _rare(self, examples: Sequence[LabelledExample], *, unit: str, remedy: str) -> Iterator[Finding]:
        counts = np.bincount([index for e in examples for index in e.labels], minlength=len(self.labels))
        rare = [self.labels[index] for index in np.flatnonzero((counts > 0) & (counts < FEW))]
        yield from rare_labels(rare, few=FEW, unit=unit, remedy=remedy)

    def _row_weights(self, batch: Batch) -> Tensor:
        target = batch.targets["target"]
        return target_weights(target, self.weights, batch.targets.get("scale", target.new_ones(len(target))))

    def units(self, batch: Batch) -> dict[str, float]:
        return {"label": float(self._row_weights(batch).double().sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(**batch.inputs).logits
        weights = self._row_weights(batch)
        return {"label": classification_loss(logits, batch.targets["target"], weights, multi_label=self.multi_label)}

    def disagreement(self, model: nn.Module, first: Any, second: Any, batch: Batch) -> Tensor:
        if not self.multi_label:
            return disagreements(first.logits, second.logits).sum()
        a, b = wide(first.logits), wide(second.logits)
        return ((a.sigmoid() - b.sigmoid()) * (a - b)).mean(1).sum()

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        rows = probabilities(model(**batch.inputs).logits, multi_label=self.multi_label)
        return [{"probability": row} for row in rows]

    def join(self, example: LabelledExample, raw: Sequence[RawPrediction]) -> Prediction:
        return {"probability": np.mean([part["probability"] for part in raw], axis=0)}

    def statistics(self, prediction: Prediction, example: LabelledExample) -> Record:
        target, probability = multi_hot(example.labels, len(self.labels)), np.asarray(prediction["probability"])
        if self.scored is not None:
            counts = np.isin(self.labels, self.scored)
            target, probability = target[counts], probability[counts]
        return classification_record(probability, target, multi_label=self.multi_label)

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        return reduce_classification(records, weights, multi_label=self.multi_label)

    def classes(self, records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
        return label_scores([name for name in self.labels if self.scored is None or name in self.scored], records)

    def confidences(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        return label_confidences(records, multi_label=self.multi_label)

    def calibrated(self, prediction: Prediction, strength: float) -> Prediction:
        return with_shown(prediction, self.temperature(strength), multi_label=self.multi_label)

    def render(self, prediction: Prediction) -> dict[str, Any]:
        return render_labels(prediction, self.labels, multi_label=self.multi_label)

    def render_target(self, example: LabelledExample, prediction: Prediction) -> dict[str, Any]:
        return render_target_labels(example.labels, shown(prediction), self.labels, multi_label=self.multi_label)

    def as_reference(self, prediction: Prediction, example: LabelledExample) -> LabelledExample:
        return replace(example, labels=predicted_labels(prediction, multi_label=self.multi_label))

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """Over items."""
        ours, theirs = tuned(**batch.inputs).logits, base_model(**batch.inputs).logits
        return classification_divergence(ours, theirs, multi_label=self.multi_label), float(len(batch.items))

    def majority(self, train: Sequence[LabelledExample], examples: Sequence[LabelledExample]) -> list[Prediction]:
        made = majority_prediction([e.labels for e in train], len(self.labels), multi_label=self.multi_label)
        return [made] * len(examples)
