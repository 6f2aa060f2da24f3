"""Object detection: labelled boxes in pictures, by detectors that answer with a set of queries (RT-DETR, D-FINE, YOLOS, ...)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor, nn
from torch.nn import functional

from domaintune.bases.base import Base, HeadSpec
from domaintune.counting import listed
from domaintune.data.pictures import open_picture
from domaintune.data.rows import Row
from domaintune.errors import DataError
from domaintune.settings import ObjectDetectionSettings
from domaintune.tasks.base import Batch, Finding, Item, Keys, Mode, Prediction, Primary, RawPrediction, Record, Task
from domaintune.tasks.detection_examples import DetectionExample, box_labels, read_examples, to_pixels, to_shares
from domaintune.tasks.detection_loss import detection_loss, detection_units, family_of, query_count
from domaintune.tasks.detection_metric import average_precisions, match_boxes, mean_average_precision
from domaintune.tasks.mirroring import mirror_findings, mirrors
from domaintune.tasks.picture_sizes import detector_size

FEW_BOXES = 10
MANY_CLIPPED = 0.2
"""Share of all boxes: of corners that were taken for sizes most reach outside, of true sizes few do."""


class ObjectDetection(Task):
    """Labelled boxes in a picture.

    Every picture is resized to one size (the image processor's own; the square of its shortest edge where that keeps the
    aspect), so nothing is padded and a prediction never depends on the rest of its batch. Boxes are x, y, width, height in
    pixels of the picture as it is shown, for the user, in examples and in predictions.
    """

    name: ClassVar[str] = "object-detection"
    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    primary: ClassVar[Primary] = Primary("mAP")
    scores: ClassVar[tuple[str, ...]] = ("mAP", "mAP50")
    input_kind: ClassVar[Literal["boxes"]] = "boxes"
    # A box moved by a few pixels finds the same object and yet fails at the higher overlaps of mAP, and a confidence that
    # crosses the threshold makes a whole box differ: agreement falls well below 1 between models that a user would call equal.
    keep_agreement: ClassVar[float] = 0.8
    cross_validates: ClassVar[bool] = False

    labels: tuple[str, ...]
    box_counts: tuple[int, ...]
    """Boxes of each label in the rows that the task was built from."""
    height: int
    width: int
    queries: int
    flip: bool
    threshold: float
    max_detections: int
    denoising: bool
    scored: tuple[str, ...] | None = None
    """The labels that count in scores; None: all."""

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: ObjectDetectionSettings) -> ObjectDetection:
        family_of(base.model)
        counts = Counter(name for row in rows for name in box_labels(row))
        if not counts:
            raise DataError(
                "no picture has a box.",
                where=rows[0].file if rows else "train",
                remedy="A detector learns from boxes: check the annotations.",
            )
        labels = settings.labels or tuple(sorted(counts))
        height, width = detector_size(base, settings.image_size)
        return cls(
            labels=labels,
            box_counts=tuple(counts[label] for label in labels),
            height=height,
            width=width,
            queries=query_count(base.model),
            flip=mirrors(settings.flip, labels),
            threshold=settings.threshold,
            max_detections=settings.max_detections,
            denoising=settings.denoising,
        )

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[DetectionExample]:
        return read_examples(rows, self.labels, labelled=labelled)

    def from_bare(self, value: str) -> dict[str, Any]:
        return {"image": value}

    def has_target(self, row: Row) -> bool:
        return "boxes" in row.values

    def head(self) -> HeadSpec:
        return HeadSpec(auto_class=self.auto_class, labels=self.labels, whole=False)

    def relabelled(self, labels: Sequence[str]) -> ObjectDetection:
        counts = dict(zip(self.labels, self.box_counts, strict=True))
        update = {"labels": tuple(labels), "box_counts": tuple(counts.get(label, 0) for label in labels)}
        return self.model_copy(update=update)

    def check(self, examples: Sequence[DetectionExample]) -> Iterator[Finding]:
        yield from mirror_findings(self.flip, self.labels)
        counts = Counter(label for example in examples for label in example.labels)
        rare = [f"{label} ({counts[i]})" for i, label in enumerate(self.labels) if counts[i] < FEW_BOXES]
        if rare:
            yield Finding(
                "few-boxes",
                "warning",
                f"fewer than {FEW_BOXES} boxes: {listed(rare, most=10)}; their scores mean little.",
                (),
                "Label more boxes of these classes, or join them with others: --label-map OLD=NEW.",
                "What so few boxes teach and test is chance.",
                len(rare),
            )
        if empty := tuple(example.where for example in examples if not example.boxes):
            yield Finding.of(
                empty,
                "no-boxes",
                "note",
                "[picture has|pictures have] no box: [it teaches and tests|they teach and test] what is no object.",
                remedy="If objects can be seen in them, label them.",
                why="Objects without a box teach the model to pass such objects over.",
            )
        if clipped := tuple(example.where for example in examples if example.clipped):
            many = sum(e.clipped for e in examples) >= MANY_CLIPPED * sum(len(e.boxes) for e in examples)
            yield Finding.of(
                clipped,
                "clipped-boxes",
                "warning" if many else "note",
                "[picture has|pictures have] boxes that reach outside; they were cut at the edge.",
                remedy="Look whether the boxes belong to these files, are x, y, width, height (not two corners: x1, y1, x2, y2) and count "
                "pixels from 0; if so, nothing needs to be done.",
                why="Far outside, they often belong to another picture or another size of this one; corners taken for a size reach outside too.",
            )
        double = tuple(e.where for e in examples if len(set(zip(e.boxes, e.labels, strict=True))) < len(e.boxes))
        if double:
            yield Finding.of(
                double,
                "double-boxes",
                "warning",
                "[picture holds|pictures hold] the same box twice.",
                remedy="Remove the copies.",
                why="One object then counts twice, in the loss and in the scores.",
            )
        crowded = tuple(e.where for e in examples if len(e.boxes) - sum(e.crowd) > self.queries)
        if crowded:
            yield Finding.of(
                crowded,
                "many-boxes",
                "warning",
                f"[picture has|pictures have] more boxes than the model can find ({self.queries}).",
                remedy="Cut these pictures into parts, or take a base with more queries.",
                why="The boxes beyond that number can never be found.",
            )

    def keys(self, example: DetectionExample) -> Keys:
        boxes = sorted(zip((self.labels[i] for i in example.labels), example.boxes, strict=True))
        rarest = min(example.labels, key=lambda i: (self.box_counts[i], i), default=None)
        stratum = "" if rarest is None else self.labels[rarest]
        names = tuple(self.labels[i] for i in sorted(set(example.labels)))
        return Keys(example.sha256, repr(boxes), stratum, example.group, example.domain, names)

    def picture(self, example: DetectionExample) -> str:
        return example.image

    def prepare(self, base: Base, example: DetectionExample) -> tuple[Item, ...]:
        boxes, classes = to_shares(example)
        inputs = {
            "image": example.image,
            "where": example.where,
            "size": (example.width, example.height),
            "flip": False,
        }
        return (Item(inputs, {"boxes": boxes, "classes": classes}),)

    def augment(self, item: Item, generator: torch.Generator) -> Item:
        if not self.flip or torch.rand((), generator=generator) < 0.5:
            return item
        return replace(item, inputs={**item.inputs, "flip": not item.inputs["flip"]})

    def cost(self, item: Item) -> int:
        return self.height * self.width

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        pictures = []
        for item in items:
            picture = open_picture(item.inputs["image"], where=item.inputs["where"])
            pictures.append(ImageOps.mirror(picture) if item.inputs["flip"] else picture)
        made = base.processor(
            images=pictures,
            do_resize=True,
            size={"height": self.height, "width": self.width},
            do_pad=False,
            return_tensors="pt",
        )
        inputs = {"pixel_values": made["pixel_values"].to(base.model.dtype)}
        if mode == "predict":
            return Batch(inputs, {}, items)
        units = detection_units(base.model, [len(item.targets["classes"]) for item in items])
        return Batch(inputs, {"pictures": [_target(item) for item in items], "units": units}, items)

    def units(self, batch: Batch) -> dict[str, float]:
        return dict(batch.targets["units"])

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return detection_loss(model, batch.inputs, batch.targets["pictures"], denoising=self.denoising)

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        outputs = model(**batch.inputs)
        no_object = family_of(base.model) == "queries"
        predictions: list[RawPrediction] = []
        for logits, boxes, item in zip(outputs.logits, outputs.pred_boxes, batch.items, strict=True):
            scores, classes, queries = best_queries(logits.cpu(), limit=self.max_detections, no_object=no_object)
            width, height = item.inputs["size"]
            pixels = to_pixels(boxes.cpu().double().numpy()[queries], width=width, height=height)
            predictions.append({"boxes": pixels, "scores": scores, "classes": classes})
        return predictions

    def join(self, example: DetectionExample, raw: Sequence[RawPrediction]) -> Prediction:
        return raw[0]

    def scoring(self, labels: Sequence[str]) -> ObjectDetection:
        return self.model_copy(update={"scored": tuple(labels)})

    @property
    def _counted(self) -> list[int]:
        return [i for i, label in enumerate(self.labels) if self.scored is None or label in self.scored]

    def statistics(self, prediction: Prediction, example: DetectionExample) -> Record:
        counted = self._counted
        truth = np.array(example.labels, dtype=np.int64)
        ours, theirs = np.isin(prediction["classes"], counted), np.isin(truth, counted)
        shown = {"shown": np.asarray(ours[self._shown(prediction)].sum())} if example.by_base else {}
        return shown | match_boxes(
            boxes=prediction["boxes"][ours],
            scores=prediction["scores"][ours],
            classes=prediction["classes"][ours],
            truth_boxes=np.array(example.boxes, dtype=np.float64).reshape(-1, 4)[theirs],
            truth_classes=truth[theirs],
            crowd=np.array(example.crowd, dtype=bool)[theirs],
            num_classes=len(self.labels),
        )

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Where boxes of the base are the truth and it shows none in a draw: 1 where the model shows none either, else 0."""
        made = mean_average_precision(records, weights)
        if not all("shown" in record for record in records):
            return made
        alike = weights @ np.array([float(record["shown"]) for record in records]) == 0
        return {name: np.where(np.isnan(values), alike, values) for name, values in made.items()}

    def classes(self, records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
        """`ap` over the overlaps of mAP; None where no picture has such an object."""
        support, precision = np.sum([record["counts"] for record in records], axis=0), average_precisions(records)
        return {
            self.labels[i]: {"support": int(support[i]), "ap": float(precision[i]) if support[i] else None}
            for i in self._counted
        }

    def altered(self, example: DetectionExample, change: Callable[[Sequence[str]], Sequence[str]]) -> DetectionExample:
        return replace(example, image=change([example.image])[0])

    def _shown(self, prediction: Prediction) -> np.ndarray:
        """Places of the boxes that are confident enough, and have an area, best first."""
        enough = (prediction["scores"] >= self.threshold) & (prediction["boxes"][:, 2:] > 0).all(1)
        return np.flatnonzero(enough)

    def render(self, prediction: Prediction) -> dict[str, Any]:
        return {
            "objects": [
                {
                    "label": self.labels[prediction["classes"][i]],
                    "score": float(prediction["scores"][i]),
                    "box": [float(side) for side in prediction["boxes"][i]],
                }
                for i in self._shown(prediction)
            ]
        }

    def render_target(self, example: DetectionExample, prediction: Prediction) -> dict[str, Any]:
        """`crowd` marks regions that are not counted."""
        rows = zip(example.labels, example.boxes, example.crowd, strict=True)
        found = [
            {"label": self.labels[label], "box": list(box)} | ({"crowd": True} if c else {}) for label, box, c in rows
        ]
        return {"objects": found}

    def as_reference(self, prediction: Prediction, example: DetectionExample) -> DetectionExample:
        shown = self._shown(prediction)
        return replace(
            example,
            boxes=tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in prediction["boxes"][shown]),
            labels=tuple(int(label) for label in prediction["classes"][shown]),
            crowd=(False,) * len(shown),
            clipped=0,
            by_base=True,
        )

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """KL of the class distributions, query by query: over classes and "no object", or summed over yes/no per class.

        In two-stage models (RT-DETR, D-FINE) a query is the proposal of that rank, not of that place.
        """
        ours, theirs = tuned(**batch.inputs).logits, base_model(**batch.inputs).logits
        units = float(ours.shape[0] * ours.shape[1])
        if family_of(base_model) == "queries":
            return _divergence(ours.log_softmax(-1), theirs.log_softmax(-1)), units
        yes = _divergence(functional.logsigmoid(ours), functional.logsigmoid(theirs))
        return yes + _divergence(functional.logsigmoid(-ours), functional.logsigmoid(-theirs)), units


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True)


def _target(item: Item) -> dict[str, Tensor]:
    boxes = torch.tensor(item.targets["boxes"], dtype=torch.float32)
    if item.inputs["flip"]:
        boxes[:, 0] = 1 - boxes[:, 0]
    return {"class_labels": torch.tensor(item.targets["classes"], dtype=torch.int64), "boxes": boxes}


def best_queries(logits: Tensor, *, limit: int, no_object: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, classes and queries [at most limit] of one picture's logits [queries, classes], best first.

    With `no_object` (the last class of a softmax) a query stands for its best class; without, every class of every query is a
    candidate of its own, its score the sigmoid. Source: `post_process_object_detection` of transformers' image processors.
    """
    logits = logits.double()  # in 32 bits a sigmoid is 1 from a logit of 17 on, and the ranking is lost
    if no_object:
        best, classes = logits.softmax(-1)[:, :-1].max(-1)
        scores, queries = best.topk(min(limit, len(best)))
        return scores.numpy(), classes[queries].numpy(), queries.numpy()
    scores, places = logits.sigmoid().flatten().topk(min(limit, logits.numel()))
    return scores.numpy(), (places % logits.shape[1]).numpy(), (places // logits.shape[1]).numpy()
