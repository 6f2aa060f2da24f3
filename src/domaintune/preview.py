"""What `tune` would do with a recipe and its data: the dry run, and the data check. Trains and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from domaintune.bases.base import Base
from domaintune.bases.device_memory import weights_within_memory
from domaintune.engine.epochs import judged
from domaintune.engine.pace import pace
from domaintune.growth import grown
from domaintune.heads import head_training, takes_training
from domaintune.inputs import checksums, files
from domaintune.parts import Parts
from domaintune.pipeline import general_of, opened, threads_restored, told_findings, untrained, with_method_notes
from domaintune.recipe import Recipe, TrainingSettings
from domaintune.resolve import training_settings
from domaintune.run import RunFolder
from domaintune.tasks.base import Finding, dataset
from domaintune.tracking import require


@dataclass(frozen=True, slots=True)
class Plan:
    """What `tune` would do."""

    rows: dict[str, int]
    labels: tuple[str, ...]
    trainable: int
    parameters: int
    notes: list[str]
    findings: list[str]
    minutes: float
    """About how long training and validation will take here, from a few steps."""
    memory: int
    """Peak in bytes that training comes to, by those steps, the dearest one among them."""


def training_cost(recipe: Recipe, settings: TrainingSettings, *, train: int, dev: int | None) -> float:
    """Tokens or pixels that go through forward and backward in all trainings of the recipe, from those of its train and dev rows; without
    dev, folds stand in for it. `settings` has its epochs written out."""
    epochs, folds = settings.epochs or 0, recipe.data.folds
    patience = settings.patience if dev is not None else None
    # Without dev each fold trains on the others' rows and scores its own; the last training takes all rows.
    trained, scored = (train, dev) if dev is not None else (train * (folds - 1) + train, train)
    # A forward alone takes about a third of forward and backward.
    return recipe.seeds * (epochs * trained + len(judged(epochs, patience=patience)) * scored / 3)


def heads_cost(recipe: Recipe, settings: TrainingSettings, base: Base, parts: Parts, *, train: int) -> float:
    """As `training_cost`, of the heads that take a training of their own before; the body is frozen: forwards, nearly alone."""
    task, general, cost = parts.task, general_of(parts), 0
    learn = 0 if general is None else sum(map(general.task.cost, dataset(general.task, base, general.learn).items))
    if general is not None and general.head == "general" and takes_training(recipe, base, general.task):
        cost += learn * (head_training(recipe, general.task, base, general.learn).epochs or 0)
    if recipe.training.probe and takes_training(recipe, base, task):
        on_general = general is not None and general.head == "domain" and bool(general.learn)
        rows = general.learn if general is not None and on_general else parts.train
        # Over folds all heads take the epochs of the trainings; on train there is one for each fold and one more, on all rows.
        epochs = settings.epochs if parts.dev is None else head_training(recipe, task, base, rows).epochs
        trainings = 1 if parts.dev is not None else recipe.data.folds
        cost += (learn if on_general else train * trainings) * (epochs or 0)
    return recipe.seeds * cost / 3


def plan(recipe: Recipe, *, overwrite: bool = False) -> Plan:
    """What `tune` would do with this recipe, without training or writing anything. `overwrite`: as `tune` is asked to.

    Raises:
        DomainTuneError: what `tune` would raise before training.
    """
    require(recipe.track)
    with threads_restored(), weights_within_memory():
        torch.set_num_threads(recipe.threads or torch.get_num_threads())
        return _planned(recipe, overwrite=overwrite)


def _planned(recipe: Recipe, *, overwrite: bool) -> Plan:
    RunFolder(Path(recipe.output)).fate(recipe, data=checksums(recipe), inputs=files(recipe), overwrite=overwrite)
    recipe = grown(recipe)
    base, parts = opened(recipe)
    parts = with_method_notes(recipe, base, parts)
    task = parts.task
    attached = untrained(recipe, base, parts)
    data = dataset(task, attached.base, parts.train)
    trained = sum(p.numel() for group in attached.parameter_groups() for p in group.parameters)
    named: dict[str, Any] = {"train": parts.train, "dev": parts.dev or (), "test": parts.test}
    if parts.general is not None:
        named |= {"general (choose)": parts.general.choose, parts.general.headline_name: parts.general.headline}
        named |= {"general (learn)": parts.general.learn} if parts.general.learn else {}
    settings = training_settings(recipe, task, base, parts.train)
    measured = pace(attached, task, attached.base, data, settings, seed=recipe.seed)
    train, dev = (sum(map(task.cost, made.items)) for made in (data, dataset(task, attached.base, parts.dev or ())))
    cost = training_cost(recipe, settings, train=train, dev=None if parts.dev is None else dev)
    cost += heads_cost(recipe, settings, base, parts, train=train)
    return Plan(
        rows={name: len(rows) for name, rows in named.items()},
        labels=task.head().labels,
        trainable=trained,
        parameters=sum(p.numel() for p in attached.base.model.parameters()),
        notes=parts.notes,
        findings=told_findings(parts.findings),
        minutes=measured.seconds_per_cost * cost / 60,
        memory=measured.peak_memory,
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """What was understood of the data and what is wrong with it. `shown`: rows as the model sees them, where asked for."""

    rows: dict[str, int]
    labels: tuple[str, ...]
    notes: list[str]
    findings: Sequence[Finding]
    shown: list[str]


def check(recipe: Recipe, *, show_tokens: int = 0) -> Checked:
    """Read the recipe's data and look for what would make training dishonest or impossible; trains and writes nothing.

    `show_tokens`: so many train rows as tokens, supervised ones in brackets.
    """
    base, parts = opened(grown(recipe))
    named: dict[str, Any] = {"train": parts.train, "dev": parts.dev or (), "test": parts.test}
    if parts.general is not None:
        named |= {
            "general": [*parts.general.learn, *parts.general.choose],
            parts.general.headline_name: parts.general.headline,
        }
    items = dataset(parts.task, base, parts.train[:show_tokens]).items
    shown = [parts.task.shown(base, item) for item in items[:show_tokens]]
    rows = {name: len(examples) for name, examples in named.items()}
    return Checked(rows, parts.task.head().labels, parts.notes, parts.findings, shown)
