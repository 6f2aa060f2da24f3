"""Settings of how answers are made, changed for a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from domaintune.errors import RecipeError
from domaintune.settings import TaskSettings
from domaintune.tasks.base import Task
from domaintune.validation import explain


def answering(task: Task, settings: TaskSettings, changes: Mapping[str, Any]) -> Task:
    """The task, made with `settings`, with changes of those that need no training (`settings.answering`).

    Raises:
        RecipeError: another key, a bad value, or one that has no meaning beside the others.
    """
    for key in changes:
        if key not in settings.answering:
            allowed = ", ".join(f"task.{name}" for name in settings.answering)
            raise RecipeError(
                "cannot be changed for a finished run.",
                where=f"task.{key}",
                remedy=f"Allowed are {allowed}."
                if allowed
                else f"No setting of {settings.name} can: train again with it.",
            )
    try:
        made = type(settings).model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise RecipeError(explain(error, type(settings)), where="task") from None
    made.check()
    update = (
        {"settings": made} if "settings" in type(task).model_fields else {key: getattr(made, key) for key in changes}
    )
    return task.model_copy(update=update)
