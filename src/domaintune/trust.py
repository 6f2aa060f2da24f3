"""What else the confirmation's predictions say of a model: calibration, scores of each class, and what damaged inputs do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domaintune.balance.frontier import Side, predict_at
from domaintune.confirm import SideScores
from domaintune.evaluation.calibration import calibration_report
from domaintune.evaluation.robustness import perturbed_scores
from domaintune.fit import Fitted, form_of, sampled
from domaintune.parts import Parts
from domaintune.recipe import Recipe
from domaintune.tasks.base import Dataset, Prediction, Task


def trust(
    recipe: Recipe, fitted: Fitted, parts: Parts, side: SideScores, *, report: Callable[[str, None], None]
) -> dict[str, Any]:
    """`calibration` of the chosen strength on test, `classes` and `robustness` beside the base's of the chosen strength or, where that is
    the base itself, of 1; each None where it does not apply. `side` is the confirmation on test."""
    judged = fitted.chosen or 1.0
    wanted = recipe.evaluation.robustness
    on = parts.task.cross_validates if wanted is None else wanted  # both are dear where predicting is
    return {
        "calibration": calibration(parts.task, side, fitted.chosen),
        "classes": classes(parts.task, side, judged),
        "robustness": _robustness(recipe, fitted, parts, side, judged, report) if on else None,
    }


def calibration(task: Task, side: SideScores, chosen: float) -> dict[str, Any] | None:
    """Errors before and after the temperature of the chosen strength."""
    found = task.confidences(side.records[chosen])
    return None if found is None else calibration_report(*found, task.temperature(chosen))


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
