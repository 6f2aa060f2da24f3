"""Answers of a run, row by row: what is right, which mistakes are the most confident, which labels are likely wrong.

Works on the shapes that `Task.render` writes (a label, labels, entities, objects, or a text), not on tasks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
SHAPES = ("label", "labels", "entities", "objects", "translation", "output")
TEXTS = ("translation", "output")
LARGEST_MATRIX = 15
SAME_BOX = 0.5
"""Intersection over union from which two boxes are one."""


def shape_of(rows: Sequence[Row]) -> str | None:
    """Which of `SHAPES` the rows have; None without rows."""
    return next((shape for shape in SHAPES if rows and shape in rows[0]), None)


def told(answer: Row | None, shape: str) -> str:
    """An answer or target in one line."""
    value = None if answer is None else answer.get(shape)
    if value is None:
        return "–"
    if shape == "labels":
        return ", ".join(value) or "none"
    if shape == "entities":
        return "; ".join(f"{e['text']} ({e['type']})" for e in value) or "none"
    if shape == "objects":
        return ", ".join(f"{n} x {label}" for label, n in Counter(o["label"] for o in value).items()) or "none"
    return str(value)


def essence(answer: Row, shape: str) -> Any:
    """What of an answer has to agree for two to be the same; boxes in whole pixels."""
    value = answer.get(shape)
    if value is None:
        return None
    if shape == "labels":
        return frozenset(value)
    if shape == "entities":
        return frozenset((e["start"], e["end"], e["type"]) for e in value)
    if shape == "objects":
        return frozenset((o["label"], *(round(side) for side in o["box"])) for o in value)
    return " ".join(str(value).split())


@dataclass(frozen=True, slots=True)
class Case:
    """One row to show. `confidence` is the probability of what is wrong in the answer."""

    row: Row
    shape: str
    confidence: float

    @property
    def place(self) -> tuple[str, int, str]:
        """What no other row of the part has."""
        return str(self.row["file"]), int(self.row["line"]), str(self.row.get("row", ""))

    @property
    def where(self) -> str:
        file, line, row = self.place
        return f"{file.rpartition('/')[2]}:{line}" + (f", {row}" if row else "")

    @property
    def lines(self) -> dict[str, str]:
        """What was given and answered, in words; of entities and objects what is wrong and what was missed."""
        target, shape = self.row.get("target"), self.shape
        if target and shape == "entities":
            missed = wrong_entities({**target, "target": self.row})
            return {"wrong": told({shape: wrong_entities(self.row)}, shape), "missed": told({shape: missed}, shape)}
        if target and shape == "objects":
            wrong, missed = wrong_and_missed(self.row)
            return {
                "wrong": told({shape: wrong}, shape),
                "missed": told({shape: missed}, shape),
                "given": told(target, shape),
            }
        given = {"given": told(target, shape)} if target else {}
        return {**given, "answered": told(self.row, shape), "base": told(self.row.get("base"), shape)}


def scored(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """The rows with nothing but the labels or entity types that count in scores, of answer, target and base's answer; `names` None: all.
    Of one label a row all count, as rows of other labels are left out before."""
    if names is None or shape_of(rows) not in ("labels", "entities"):
        return list(rows)
    answers = ("target", "base")
    return [_only(row, names) | {key: _only(row[key], names) for key in answers if key in row} for row in rows]


def _only(answer: Row, names: Sequence[str]) -> dict[str, Any]:
    if "entities" in answer:
        return {**answer, "entities": [e for e in answer["entities"] if e["type"] in names]}
    kept = [place for place, name in enumerate(answer["labels"]) if name in names]
    return {**answer, **{key: [answer[key][i] for i in kept] for key in ("labels", "probabilities") if key in answer}}


def mistakes(rows: Sequence[Row], most: int) -> list[Case]:
    """The rows whose wrong answers the model was surest of; then those where it missed objects alone. Texts have no such thing."""
    shape = shape_of(rows)
    if shape is None or shape in TEXTS:
        return []
    found = [Case(row, shape, sure) for row in rows if (sure := _sure_and_wrong(row, shape)) is not None]
    return sorted(found, key=lambda case: -case.confidence)[:most]


def _sure_and_wrong(row: Row, shape: str) -> float | None:
    target = row.get("target")
    if not target:
        return None
    if shape == "label":
        return float(row["probability"]) if row["label"] != target["label"] else None
    if shape == "labels":
        ours, theirs = (dict(zip(r["labels"], r["probabilities"], strict=True)) for r in (row, target))
        sure = [ours[name] for name in ours.keys() - theirs] + [1 - theirs[name] for name in theirs.keys() - ours]
        return max(sure, default=None)
    if shape == "objects":
        wrong, missed = wrong_and_missed(row)
        return max((float(entry["score"]) for entry in wrong), default=0.0 if missed else None)
    return max((float(entry["score"]) for entry in wrong_entities(row)), default=None)


def wrong_entities(row: Row) -> list[Row]:
    """Entities of the answer that are not in the target."""
    given = essence(row["target"], "entities")
    return [e for e in row["entities"] if (e["start"], e["end"], e["type"]) not in given]


def wrong_and_missed(row: Row) -> tuple[list[Row], list[Row]]:
    """Objects of the answer that meet no free object of the target with the same label, the surest first to choose; and those of the
    target that no object of the answer meets."""
    free = [o for o in row["target"]["objects"] if not o.get("crowd")]
    crowds = [o for o in row["target"]["objects"] if o.get("crowd")]
    wrong = []
    for made in sorted(row["objects"], key=lambda o: -o["score"]):
        same = [o for o in free if o["label"] == made["label"] and overlap(o["box"], made["box"]) >= SAME_BOX]
        if same:
            free.remove(max(same, key=lambda o: overlap(o["box"], made["box"])))
        elif not any(overlap(o["box"], made["box"]) > 0 for o in crowds):
            wrong.append(made)
    return wrong, free


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    whole = one[2] * one[3] + other[2] * other[3] - shared
    return shared / whole if whole > 0 else 0.0


def suspects(rows: Sequence[Row], most: int) -> list[Case]:
    """Rows of one label that are probably labelled wrong: the answer's probability is at least what rows of that label get on
    average, and the given label is another; the least probable given labels first.

    Source: Northcutt et al. 2021, confident learning, arXiv 1911.00068, equation 2; ranked by self-confidence.
    """
    if shape_of(rows) != "label" or not all("probability" in row.get("target", ()) for row in rows):
        return []
    given = defaultdict(list)
    for row in rows:
        given[row["target"]["label"]].append(row["target"]["probability"])
    usual = {label: sum(values) / len(values) for label, values in given.items()}
    found = [
        Case(row, "label", float(row["probability"]))
        for row in rows
        if row["label"] != row["target"]["label"] and row["probability"] >= usual.get(row["label"], 1.0)
    ]
    return sorted(found, key=lambda case: case.row["target"]["probability"])[:most]


@dataclass(frozen=True, slots=True)
class Flips:
    """How rows of a side changed from the base to the chosen strength, against the target or, without one, the base's answer."""

    lost: list[Case]
    won: int
    labelled: bool


def flips(rows: Sequence[Row]) -> Flips | None:
    """None for objects, of which nearly all move a little, and for texts."""
    shape = shape_of(rows)
    if shape is None or shape in TEXTS or shape == "objects":
        return None
    lost, won, labelled = [], 0, "target" in rows[0]
    for row in rows:
        wanted = essence(row["target"] if labelled else row["base"], shape)
        ours, theirs = (essence(answer, shape) == wanted for answer in (row, row["base"]))
        won += ours and not theirs
        if theirs and not ours:
            lost.append(Case(row, shape, float(row.get("probability", 0.0))))
    return Flips(sorted(lost, key=lambda case: -case.confidence), won, labelled)


def samples(rows: Sequence[Row], most: int) -> list[Case]:
    """Of texts, the first rows in which the answer is not the base's."""
    shape = shape_of(rows)
    if shape not in TEXTS:
        return []
    return [Case(r, shape, 0.0) for r in rows if essence(r, shape) != essence(r["base"], shape)][:most]


@dataclass(frozen=True, slots=True)
class Confusion:
    """`matrix[given][answered]` counts rows of the test part over `labels`; with more than 15 labels it is None. `pairs` are the
    commonest (given, answered, rows) that differ."""

    labels: list[str]
    matrix: list[list[int]] | None
    pairs: list[tuple[str, str, int]]


def confusion(rows: Sequence[Row], labels: Sequence[str], most: int = 15) -> Confusion | None:
    """None but for one label a row."""
    if shape_of(rows) != "label" or not all("target" in row for row in rows):
        return None
    counts = Counter((row["target"]["label"], row["label"]) for row in rows)
    present = {label for pair in counts for label in pair}
    known = [label for label in labels if label in present]
    names = known + sorted(present - set(known))
    matrix = [[counts[given, made] for made in names] for given in names] if len(names) <= LARGEST_MATRIX else None
    wrong = [(given, made, n) for (given, made), n in counts.most_common() if given != made]
    return Confusion(names, matrix, wrong[:most])
