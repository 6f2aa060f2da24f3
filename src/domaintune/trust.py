"""What else the confirmation's predictions say of a model: calibration, scores of each class, and what damaged inputs do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from domaintune.balance.frontier import Side, predict_at
from domaintune.confirm import SideScores
from domaintune.evaluation.calibration import calibration_report, of_answers
from domaintune.evaluation.robustness import perturbed_scores
from domaintune.fit import Fitted, form_of, sampled
from domaintune.parts import Parts
from domaintune.recipe import Recipe
from domaintune.tasks.base import Dataset, Prediction, Task
from domaintune.tasks.object_detection import ObjectDetection

MANY_SILENT = 0.2
"""Share of the test pictures with objects."""


def trust(
    recipe: Recipe, fitted: Fitted, parts: Parts, side: SideScores, *, report: Callable[[str, None], None]
) -> dict[str, Any]:
    """`calibration` of the chosen strength on test, `classes` and `robustness` beside the base's of the chosen strength or, where that is
    the base itself, of 1; `silence`; each None where it does not apply. `side` is the confirmation on test."""
    judged = fitted.chosen or 1.0
    wanted = recipe.evaluation.robustness
    on = parts.task.cross_validates if wanted is None else wanted  # both are dear where predicting is
    return {
        "calibration": calibration(parts, side, fitted.chosen),
        "classes": classes(parts.task, side, judged),
        "silence": silence(parts, side, fitted.chosen),
        "robustness": _robustness(recipe, fitted, parts, side, judged, report) if on else None,
    }


def silence(parts: Parts, side: SideScores, chosen: float) -> dict[str, Any] | None:
    """On how many test pictures with objects no box reaches the threshold, where these are many; `side` is the confirmation on test."""
    task = parts.task
    if not isinstance(task, ObjectDetection):
        return None
    made = [answer for answer, example in zip(side.predictions[chosen], parts.test, strict=True) if example.boxes]
    silent = sum(not task.render(answer)["objects"] for answer in made)
    many = made and silent >= MANY_SILENT * len(made)
    return {"pictures": len(made), "silent": silent, "threshold": task.threshold} if many else None


def calibration(parts: Parts, side: SideScores, chosen: float) -> dict[str, Any] | None:
    """Errors before and after the temperature of the chosen strength, with those of answered `entities` where there are any."""
    found = parts.task.confidences(side.records[chosen])
    if found is None:
        return None
    entities = answered_entities(parts.task, parts.test, side.predictions[chosen], chosen)
    return {
        **calibration_report(*found, parts.task.temperature(chosen)),
        **({"entities": entities} if entities else {}),
    }


def answered_entities(
    task: Task, examples: Sequence[Any], predictions: Sequence[Prediction], strength: float
) -> dict[str, float] | None:
    """How far the stated scores of the entities that are answered can be believed; right is one of the target's type and words. Most
    words are outside any and surely so: over all of them an error of the entities alone does not show."""
    scores, right = [], []
    for example, prediction in zip(examples, predictions, strict=True):
        answer = task.render(task.calibrated(prediction, strength))
        if "entities" not in answer:
            return None
        true = {_place(entity) for entity in task.render_target(example, prediction)["entities"]}
        scores += [entity["score"] for entity in answer["entities"]]
        right += [_place(entity) in true for entity in answer["entities"]]
    return of_answers(np.array(scores), np.array(right)) if scores else None


def _place(entity: Mapping[str, Any]) -> tuple[Any, ...]:
    return entity["type"], entity["start"], entity["end"]


def classes(task: Task, side: SideScores, strength: float) -> list[dict[str, Any]] | None:
    """Each label's scores, and the base's under "base_"."""
    tuned, base = task.classes(side.records[strength]), task.classes(side.records[0.0])
    rows = [
        {"label": label, **scores, **{f"base_{key}": v for key, v in base[label].items() if key != "support"}}
        for label, scores in tuned.items()
    ]
    return rows or None


def _robustness(
    recipe: Recipe,
    fitted: Fitted,
    parts: Parts,
    side: SideScores,
    judged: float,
    report: Callable[[str, None], None],
) -> dict[str, Any] | None:
    report("robustness", None)
    rows = sampled(len(parts.test), recipe.evaluation.robustness_rows, seed=recipe.seed)
    strengths = {"base": 0.0, "tuned": judged}

    def predictor(strength: float, data: Dataset) -> list[Prediction]:
        return predict_at(
            fitted.attached,
            fitted.base,
            Side(parts.task, data),
            strength,
            form=form_of(recipe, fitted.base),
            wanted=frozenset({parts.task.primary.name}),
            budget=recipe.evaluation.batch_budget,
        )

    made = perturbed_scores(
        parts.task,
        fitted.base,
        predictor,
        [parts.test[row] for row in rows],
        {strength: [side.records[strength][row] for row in rows] for strength in set(strengths.values())},
        seed=recipe.seed,
        draws=recipe.evaluation.draws,
    )
    named = {
        kind: {name: by_strength[s].plain() for name, s in strengths.items()} for kind, by_strength in made.items()
    }
    clean = named.pop("clean")
    return {"seed": recipe.seed, "rows": len(rows), "clean": clean, "kinds": named} if named else None
