"""The heads that training starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from domaintune.bases.base import Base
from domaintune.engine.starting_head import linear_head, probe_head
from domaintune.engine.train import train
from domaintune.errors import DataError
from domaintune.evaluation.score import default_budget, primary_score
from domaintune.methods import method_from
from domaintune.partition import split_positions
from domaintune.recipe import Recipe
from domaintune.resolve import training_settings
from domaintune.settings import FreezeSettings
from domaintune.tasks.base import Dataset, Task, dataset

OUTPUT_LAYER, DOMAIN_PROBE = "the base's output layer", "a head fitted on the domain's train part"
HEAD_LEARNING_RATE = 1e-3
"""Of a head that is trained alone, by Freeze, which multiplies it by 4 for heads."""


@dataclass(frozen=True, slots=True)
class General:
    """The general set as fit sees it: its choosing part, and its learn part where a starting head comes from it.

    `head` is "domain" where the labels are the domain's, else "general". `agreement`: no labels of its own.
    """

    task: Task
    head: str
    agreement: bool
    choose: Sequence[Any]
    learn: Sequence[Any] = ()


def starting_base(
    recipe: Recipe, base: Base, task: Task, data: Dataset, dev: Dataset | None, general: General | None
) -> tuple[Base, str]:
    """The base with its starting head, and a word on where that came from.

    In this order: the base's own head; the head fitted on the general learn part where its labels are the domain's; the head
    fitted on the domain's train part.
    """
    spec = task.head()
    headed = base.with_head("domain", spec, generator=torch.Generator().manual_seed(recipe.seed))
    if not spec.labels:
        return headed, OUTPUT_LAYER
    if base.owns(spec):
        return headed, "the base's own head"
    if not recipe.training.probe:
        return headed, "a fresh head"
    if general is not None and general.head == "domain" and general.learn:
        learn = dataset(task, base, general.learn)
        return _probe(recipe, headed, task, learn, None), "a head fitted on the general learn part"
    return _probe(recipe, headed, task, data, dev), DOMAIN_PROBE


def domain_probe_score(recipe: Recipe, base: Base, task: Task, data: Dataset, dev: Dataset, start: str) -> float | None:
    """Dev score of a head fitted on the domain's train part, body frozen; `base` holds the starting head.

    None where labels size nothing, or where such a head would need a training of its own that was not asked for.
    """
    if start == OUTPUT_LAYER or (start != DOMAIN_PROBE and linear_head(base) is None):
        return None
    probed = base if start == DOMAIN_PROBE else _probe(recipe, base, task, data, dev)
    return primary_score(task, probed, probed.model, dev, budget=recipe.evaluation.batch_budget)[0]


def _probe(recipe: Recipe, base: Base, task: Task, data: Dataset, dev: Dataset | None) -> Base:
    if linear_head(base) is not None:
        # On a CPU, whose memory is not what limits a forward, the head's last bits stay those of the default.
        given = None if base.device.type == "cpu" else recipe.evaluation.batch_budget
        budget = given or default_budget(task, base.device)
        held_out = _fifth(recipe, task, data) if dev is None else ()
        return base.with_given_head("domain", probe_head(task, base, data, dev, held_out=held_out, budget=budget))
    alone = FreezeSettings(train=("head",))
    attached = method_from(alone).attach(base, generator=torch.Generator().manual_seed(recipe.seed))
    of_head = recipe.model_copy(update={"method": alone})  # as many epochs whatever the method
    settings = training_settings(of_head, task, base, data.examples).model_copy(
        update={"patience": None, "train_batch_norm": False, "precision": "fp32"}
    )
    train(
        attached,
        task,
        base,
        data,
        settings,
        learning_rate=HEAD_LEARNING_RATE,
        seed=recipe.seed,
        validate=None,
        folder=None,
    )
    head = base.heads["domain"]
    trained = attached.view(1.0)
    modules = {path: trained.get_submodule(path) for path in head.modules}
    return base.with_given_head("domain", replace(head, modules=modules))


def _fifth(recipe: Recipe, task: Task, data: Dataset) -> Sequence[int]:
    """Positions of a fifth of the rows, stratified, equal inputs and groups together; none where there are too few to part."""
    try:
        return split_positions(task, data.examples, fraction=0.2, seed=recipe.data_seed)[1].tolist()
    except DataError:
        return ()


def general_base(recipe: Recipe, base: Base, general: General | None) -> Base:
    """The base with its "general" head, where the general labels are not the domain's: its own, else fitted on the learn part."""
    if general is None or general.head != "general":
        return base
    spec = general.task.head()
    generator = torch.Generator().manual_seed(recipe.seed)
    if base.owns(spec):
        return base.with_head("general", spec, generator=generator)
    headed = base.with_head("domain", spec, generator=generator)
    fitted = _probe(recipe, headed, general.task, dataset(general.task, base, general.learn), None)
    return base.with_given_head("general", fitted.heads["domain"])
