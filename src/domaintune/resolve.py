"""What the settings that a recipe leaves open come to, for given rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from domaintune.bases.base import Base
from domaintune.bases.load import torch_device
from domaintune.evaluation.score import default_budget
from domaintune.recipe import DEFAULT_LEARNING_RATES, Recipe, TrainingSettings
from domaintune.tasks.base import Task

FEWEST_EPOCHS, MOST_EPOCHS, WANTED_STEPS = 5, 30, 400
NEW_LABELS = 2
"""So many times the steps where the base brings no head for the labels."""
MORE_STEPS = {"p-tuning": 2}
"""Methods that learn slowly, and so many times the steps, and the most epochs, that they take at least."""


def epochs_for(recipe: Recipe, *, rows: int, new_labels: bool) -> int:
    """The recipe's number of epochs, else so many that this many rows make the wanted number of steps."""
    if recipe.training.epochs is not None:
        return recipe.training.epochs
    slow = MORE_STEPS.get(recipe.method.name, 1)
    steps = WANTED_STEPS * max(slow, NEW_LABELS if new_labels else 1)
    in_epoch = max(1, math.ceil(rows / recipe.training.batch_size))
    return min(MOST_EPOCHS * slow, max(FEWEST_EPOCHS, math.ceil(steps / in_epoch)))


def has_new_labels(task: Task, base: Base) -> bool:
    """Whether the task needs a head that the base's weights did not come with."""
    spec = task.head()
    return bool(spec.labels) and not base.owns(spec)


def learning_rate_for(recipe: Recipe) -> float:
    """The recipe's learning rate, else its method's."""
    return recipe.training.learning_rate or DEFAULT_LEARNING_RATES[recipe.method.name]


def micro_batch_budget(recipe: Recipe, task: Task) -> int | None:
    """The recipe's tokens or pixels in one forward, else the device's; None: a whole step."""
    given = recipe.training.micro_batch_budget
    if given is not None or recipe.training.train_batch_norm:  # whose statistics are those of a whole step
        return given
    return default_budget(task, torch_device(recipe.device), training=True)


def budgeted(recipe: Recipe, task: Task, *, remembered: int | None) -> Recipe:
    """The recipe with its micro-batch budget written out: of a run that began elsewhere the one that it remembers."""
    budget = remembered or micro_batch_budget(recipe, task)
    training = recipe.training.model_copy(update={"micro_batch_budget": budget})
    return recipe.model_copy(update={"training": training})


def training_settings(recipe: Recipe, task: Task, base: Base, examples: Sequence[Any]) -> TrainingSettings:
    """The recipe's training settings with epochs, micro-batch budget and learning rate written out, for these training examples."""
    found = {
        "epochs": epochs_for(recipe, rows=len(examples), new_labels=has_new_labels(task, base)),
        "micro_batch_budget": micro_batch_budget(recipe, task),
        "learning_rate": learning_rate_for(recipe),
    }
    return recipe.training.model_copy(update=found)
