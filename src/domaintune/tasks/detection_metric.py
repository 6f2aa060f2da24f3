"""Mean average precision from per-picture matches and weighted pictures. Numpy alone; no model, no labels' names.

Two steps: `match_boxes` compares the scored boxes of one picture with its ground truth at the ten COCO overlaps; then
`mean_average_precision` ranks the boxes of all pictures, each counted as often as its picture is drawn.
Source: pycocotools' `COCOeval` (bbox, area "all", at most 100 boxes of a class in a picture), whose numbers are reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
CHUNK_ENTRIES = 1_000_000
"""Elements of the largest array made at once: 8 MB, which stays near the processor."""

Record = Mapping[str, np.ndarray]


def overlaps(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Intersection over union [found, truth] of boxes [n, 4] as x, y, width, height.

    Over a crowd the union is the found box alone. The order of operations is pycocotools', so that boxes on a threshold fall
    on the same side.
    """
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, :2] + found[:, None, 2:], truth[None, :, :2] + truth[None, :, 2:])
    sides = high - low
    shared = np.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    areas = found[:, 2] * found[:, 3]
    union = np.where(crowd[None, :], areas[:, None], areas[:, None] + truth[None, :, 2] * truth[None, :, 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match_boxes(
    *,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    truth_boxes: np.ndarray,
    truth_classes: np.ndarray,
    crowd: np.ndarray,
    num_classes: int,
) -> dict[str, np.ndarray]:
    """The statistics of one picture.

    Boxes [n, 4] are x, y, width, height in pixels (float64); `crowd` [truths] marks regions whose matches do not count.
    In falling order of score each box takes the free ground truth of its class that it overlaps most, if it overlaps it enough;
    else it may lie in a crowd, and then counts neither way.

    Returns: `scores` [n], `classes` [n], `matched` and `ignored` [10, n] (one row an overlap), in the order of the ranking;
    `counts` [num_classes], the ground truths that count.
    """
    crowd = crowd.astype(bool)
    order: list[np.ndarray] = []
    matched, ignored = [], []
    for label in np.unique(classes):
        mine = np.flatnonzero(classes == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")][:MAX_DETECTIONS]
        theirs = np.flatnonzero(truth_classes == label)
        theirs = theirs[np.argsort(crowd[theirs], kind="stable")]
        hit, passed = _match_class(overlaps(boxes[mine], truth_boxes[theirs], crowd[theirs]), crowd[theirs])
        order.append(mine)
        matched.append(hit)
        ignored.append(passed)
    rank = np.concatenate(order) if order else np.zeros(0, dtype=np.int64)
    empty = np.zeros((len(OVERLAPS), 0), dtype=bool)
    return {
        "scores": scores[rank].astype(np.float64),
        "classes": classes[rank].astype(np.int64),
        "matched": np.concatenate(matched, axis=1) if matched else empty,
        "ignored": np.concatenate(ignored, axis=1) if ignored else empty,
        "counts": np.bincount(truth_classes[~crowd].astype(np.int64), minlength=num_classes),
    }


def _match_class(overlap: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[boxes, truths], crowds last -> matched to a ground truth, and lying in a crowd: [10, boxes] each."""
    hit = np.zeros((len(OVERLAPS), len(overlap)), dtype=bool)
    passed = np.zeros_like(hit)
    if not overlap.size:
        return hit, passed
    least = np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
    free = np.broadcast_to(~crowd, (len(OVERLAPS), len(crowd))).copy()
    levels = np.arange(len(OVERLAPS))
    for box in np.flatnonzero(overlap.max(1) >= OVERLAPS[0]):
        row = overlap[box]
        enough = row >= least
        candidates = np.where(free & enough, row, -1.0)
        # Among equal overlaps pycocotools keeps the last.
        best = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(1)
        hit[:, box] = candidates[levels, best] >= 0
        free[levels[hit[:, box]], best[hit[:, box]]] = False
        passed[:, box] = ~hit[:, box] & (enough & crowd).any(1)
    return hit, passed


def mean_average_precision(records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
    """`mAP` (mean over overlaps .5 to .95) and `mAP50` for each draw of `weights` [draws, pictures].

    A weight is how often the picture occurs: a whole number. Precision is the best at this recall or a higher one, taken at 101
    recalls; classes without ground truth in a draw are left out of its mean; a draw without any ground truth gives nan.

    Raises:
        ValueError: a weight that is no count.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if (weights < 0).any() or (weights != np.round(weights)).any():
        raise ValueError("weights of pictures must be counts: how often each is drawn")
    draws = len(weights)
    truths = weights @ np.stack([record["counts"] for record in records]).astype(np.float64)
    sums, present = np.zeros((draws, len(OVERLAPS))), (truths > 0).sum(1)
    ranked = _ranked(records, weights)
    for label in np.flatnonzero(truths.any(0)):
        entries = ranked.get(int(label))
        if entries is None:
            continue
        step = max(1, CHUNK_ENTRIES // entries.size)
        for start in range(0, draws, step):
            part = slice(start, start + step)
            sums[part] += entries.average_precision(weights[part], truths[part, label])
    with np.errstate(invalid="ignore"):
        means = sums / np.where(present, present, np.nan)[:, None]
    return {"mAP": means.mean(1), "mAP50": means[:, 0]}


def average_precisions(records: Sequence[Record]) -> np.ndarray:
    """[classes]: each class's average precision (mean over overlaps .5 to .95); nan where there is no ground truth."""
    ones = np.ones((1, len(records)))
    truths = np.sum([record["counts"] for record in records], axis=0).astype(np.float64)
    ranked = _ranked(records, ones)
    made = np.where(truths > 0, 0.0, np.nan)
    for label in np.flatnonzero(truths):
        if (entries := ranked.get(int(label))) is not None:
            made[label] = entries.average_precision(ones, truths[None, label]).mean()
    return made


class _Ranking:
    """All scored boxes of one class, best first, with the picture each belongs to.

    `copy` is 0 for a box that stands for all copies of its picture, and j for the box of the j-th copy alone.
    """

    def __init__(self, picture: np.ndarray, copy: np.ndarray, matched: np.ndarray, ignored: np.ndarray) -> None:
        self._picture, self._copy = picture, copy
        self._matched, self._counted = matched, ~ignored
        self.size = max(1, len(picture))

    def average_precision(self, weights: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """[draws, pictures] and ground truths [draws] -> average precision [draws, 10]; 0 where there is no ground truth."""
        times = weights[:, self._picture]
        alone = self._copy > 0
        times[:, alone] = times[:, alone] >= self._copy[alone]
        made = np.zeros((len(weights), len(OVERLAPS)))
        ranks = np.cumsum(times, axis=1)
        for level, (matched, counted) in enumerate(zip(self._matched, self._counted, strict=True)):
            # Only where there is a match can the curve of precision rise, so only there is it looked at.
            columns = np.flatnonzero(matched)
            rank = ranks[:, columns] if counted.all() else np.cumsum(times * counted, axis=1)[:, columns]
            hits = np.cumsum(times[:, columns], axis=1)
            precision = hits / (rank + np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / np.where(truths > 0, truths, np.inf)[:, None]
            reached = np.searchsorted(RECALLS, recall, side="right").astype(np.float64)
            reached[hits == 0] = 0.0  # recall 0 is reached by the first match, not by its absence
            made[:, level] = (precision * np.diff(reached, axis=1, prepend=0.0)).sum(1) / len(RECALLS)
        return made


def _ranked(records: Sequence[Record], weights: np.ndarray) -> dict[int, _Ranking]:
    """Each class's ranking over all pictures. Equal scores keep the order of the pictures, as pycocotools' stable sort does."""
    if not sum(len(record["scores"]) for record in records):
        return {}
    picture = np.repeat(np.arange(len(records)), [len(record["scores"]) for record in records])
    scores, classes = (np.concatenate([record[key] for record in records]) for key in ("scores", "classes"))
    matched, ignored = (np.concatenate([record[key] for record in records], axis=1) for key in ("matched", "ignored"))
    most = weights.max(0).astype(np.int64)
    rankings = {}
    for label in np.unique(classes):
        mine = np.flatnonzero(classes == label)
        mine, copy = _spread_ties(mine, picture[mine], scores[mine], most)
        order = np.lexsort((copy, picture[mine], -scores[mine]))  # stable: boxes of a picture keep their order
        mine, copy = mine[order], copy[order]
        rankings[int(label)] = _Ranking(picture[mine], copy, matched[:, mine], ignored[:, mine])
    return rankings


def _spread_ties(
    mine: np.ndarray, picture: np.ndarray, scores: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (and the copy each belongs to) with ties inside one picture written out copy by copy.

    Boxes of one picture with equal scores follow each other once in every copy of the picture (a, b, a, b), which one entry a
    box with a weight (a, a, b, b) cannot say.
    """
    first = np.r_[True, (picture[1:] != picture[:-1]) | (scores[1:] != scores[:-1])]
    run = np.cumsum(first) - 1
    tied = np.bincount(run)[run] > 1
    if not tied.any():
        return mine, np.zeros(len(mine), dtype=np.int64)
    times = np.where(tied, np.maximum(most[picture], 1), 1)
    copies = np.concatenate([np.arange(1, n + 1) if t else [0] for n, t in zip(times, tied, strict=True)]).astype(
        np.int64
    )
    return np.repeat(mine, times), copies
