"""mAP against pycocotools: random and adversarial sets, and weighted pictures against sets in which they are repeated."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from domaintune.tasks.detection_metric import match_boxes, mean_average_precision

Picture = dict[str, np.ndarray]


def coco(pictures: list[Picture], num_classes: int) -> dict[str, float]:
    """pycocotools' own numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, p in enumerate(pictures, start=1):
        for box, label, crowd in zip(p["truth_boxes"], p["truth_classes"], p["crowd"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(crowd),
                }
            )
        for box, label, score in zip(p["boxes"], p["classes"], p["scores"], strict=True):
            detections.append(
                {"image_id": number, "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, len(pictures) + 1)],
            "annotations": annotations,
            "categories": [{"id": c} for c in range(1, num_classes + 1)],
        }
        truth.createIndex()
        found = truth.loadRes(detections) if detections else COCO()
        if not detections:
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"mAP": float(evaluation.stats[0]), "mAP50": float(evaluation.stats[1])}


def picture(
    generator: np.random.Generator, *, truths: int, found: int, classes: int, ties: int = 0, crowd: float = 0.0
) -> Picture:
    """Ground truth on a 100 px picture; found boxes are shaken copies of it and noise. `ties`: number of distinct scores."""
    truth = np.column_stack([generator.integers(0, 60, (truths, 2)), generator.integers(5, 40, (truths, 2))]).astype(
        float
    )
    labels = generator.integers(0, classes, truths)
    boxes = np.column_stack([generator.uniform(0, 60, (found, 2)), generator.uniform(1, 40, (found, 2))])
    guesses = generator.integers(0, classes, found)
    if truths:
        copied = generator.integers(0, truths, found)
        near = generator.random(found) < 0.7
        shake = generator.choice([0.0, 1.0, 4.0], found)[:, None] * generator.normal(size=(found, 4))
        boxes[near] = np.maximum(truth[copied] + shake, 0.5)[near]
        right = near & (generator.random(found) < 0.9)
        guesses[right] = labels[copied][right]
    scores = generator.random(found)
    if ties:
        scores = np.floor(scores * ties) / ties
    return {
        "boxes": boxes,
        "scores": scores,
        "classes": guesses,
        "truth_boxes": truth,
        "truth_classes": labels,
        "crowd": generator.random(truths) < crowd,
    }


def ours(pictures: list[Picture], weights: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    records = [match_boxes(**p, num_classes=num_classes) for p in pictures]
    return mean_average_precision(records, weights)


CASES = {
    "plain": {"truths": 4, "found": 12, "classes": 3},
    "ties": {"truths": 4, "found": 12, "classes": 2, "ties": 4},
    "all tied": {"truths": 3, "found": 10, "classes": 1, "ties": 1},
    "crowd": {"truths": 6, "found": 15, "classes": 2, "crowd": 0.4},
    "crowd and ties": {"truths": 6, "found": 15, "classes": 2, "crowd": 0.4, "ties": 3},
    "many classes": {"truths": 5, "found": 20, "classes": 40},
    "more than 100": {"truths": 30, "found": 160, "classes": 1, "ties": 50},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(case: str, seed: int) -> None:
    generator = np.random.default_rng([seed, len(case)])
    settings = CASES[case]
    pictures = [picture(generator, **settings) for _ in range(8)]
    pictures += [picture(generator, **{**settings, "truths": 0}), picture(generator, **{**settings, "found": 0})]
    expected = coco(pictures, settings["classes"])
    made = ours(pictures, np.ones((1, len(pictures))), settings["classes"])
    assert 0.01 < expected["mAP"] < 0.99
    for name, value in expected.items():
        assert made[name][0] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_repeated_pictures(case: str) -> None:
    generator = np.random.default_rng(len(case))
    settings = CASES[case]
    pictures = [picture(generator, **settings) for _ in range(6)]
    weights = generator.multinomial(6, np.full(6, 1 / 6), size=5)
    weights[0] = [0, 3, 0, 0, 3, 0]
    made = ours(pictures, weights.astype(float), settings["classes"])
    for draw, counts in enumerate(weights):
        repeated = [p for p, count in zip(pictures, counts, strict=True) for _ in range(count)]
        for name, value in coco(repeated, settings["classes"]).items():
            assert made[name][draw] == pytest.approx(value, abs=1e-9)


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=float).reshape(-1, 4)


def made_picture(found: np.ndarray, scores: list[float], truth: np.ndarray, crowd: list[bool] | None = None) -> Picture:
    return {
        "boxes": found,
        "scores": np.array(scores),
        "classes": np.zeros(len(found), dtype=int),
        "truth_boxes": truth,
        "truth_classes": np.zeros(len(truth), dtype=int),
        "crowd": np.array(crowd or [False] * len(truth), dtype=bool),
    }


ADVERSARIAL = {
    # Overlap exactly on a threshold: 10 x 10 against 10 x 5 is .5.
    "on the threshold": [made_picture(boxes([0, 0, 10, 5]), [0.9], boxes([0, 0, 10, 10]))],
    "duplicates": [made_picture(boxes(*[[0, 0, 10, 10]] * 4), [0.9, 0.9, 0.8, 0.7], boxes([0, 0, 10, 10]))],
    "equal overlaps": [
        made_picture(boxes([5, 0, 10, 10], [0, 0, 10, 10]), [0.9, 0.8], boxes([0, 0, 10, 10], [10, 0, 10, 10]))
    ],
    "same truth twice": [
        made_picture(boxes([0, 0, 10, 10], [0, 0, 10, 9]), [0.5, 0.5], boxes([0, 0, 10, 10], [0, 0, 10, 10]))
    ],
    "only a crowd beside": [
        made_picture(
            boxes([0, 0, 5, 5], [20, 20, 5, 5], [0, 0, 4, 4]),
            [0.9, 0.8, 0.7],
            boxes([0, 0, 30, 30], [20, 20, 5, 5]),
            [True, False],
        )
    ],
    "false alarm first": [
        made_picture(boxes([50, 50, 9, 9], [0, 0, 10, 10]), [0.9, 0.9], boxes([0, 0, 10, 10])),
        made_picture(boxes([0, 0, 10, 10]), [0.9], boxes([0, 0, 10, 10])),
    ],
    "nothing found": [made_picture(boxes(), [], boxes([0, 0, 10, 10]))],
    "box of no size": [made_picture(boxes([5, 5, 0, 0], [0, 0, 10, 10]), [0.9, 0.1], boxes([0, 0, 10, 10]))],
    "huge scores": [
        made_picture(boxes([0, 0, 10, 10], [1, 1, 9, 9]), [1.0, 1.0], boxes([0, 0, 10, 10], [40, 0, 10, 10]))
    ],
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_sets_equal_pycocotools(case: str) -> None:
    pictures = ADVERSARIAL[case]
    counts = np.arange(1, len(pictures) + 1) + 1
    made = ours(pictures, np.stack([np.ones(len(pictures)), counts]), 1)
    repeated = [p for p, count in zip(pictures, counts, strict=True) for _ in range(count)]
    for draw, data in enumerate((pictures, repeated)):
        for name, value in coco(data, 1).items():
            assert made[name][draw] == pytest.approx(value, abs=1e-9)


def test_a_perfect_set_scores_one_and_an_empty_draw_nothing() -> None:
    pictures = [
        made_picture(boxes([0, 0, 10, 10]), [0.3], boxes([0, 0, 10, 10])),
        made_picture(boxes([0, 0, 1, 1]), [0.9], boxes()),
    ]
    made = ours(pictures, np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 2)
    assert made["mAP"][0] == pytest.approx(1.0)
    assert np.isnan(made["mAP"][1])
    assert made["mAP"][2] == pytest.approx(0.5)  # the false alarm is ranked first


def test_weights_that_are_no_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        ours([made_picture(boxes(), [], boxes())], np.array([[0.5]]), 1)
