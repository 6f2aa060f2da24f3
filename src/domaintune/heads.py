"""The heads that training starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from domaintune.bases.base import Base, Head, fork
from domaintune.engine.checkpoint import CheckpointFolder
from domaintune.engine.epochs import Progress
from domaintune.engine.starting_head import linear_head, probe_head
from domaintune.engine.train import train
from domaintune.errors import DataError
from domaintune.evaluation.score import default_budget, primary_score
from domaintune.methods import method_from
from domaintune.partition import split_positions
from domaintune.recipe import Recipe, TrainingSettings
from domaintune.resolve import training_settings
from domaintune.settings import FreezeSettings
from domaintune.tasks.base import Dataset, Task, dataset

OUTPUT_LAYER, DOMAIN_PROBE = "the base's output layer", "a head fitted on the domain's train part"
GENERAL = "head-general"
"""The checkpoint of a head that is trained on the general learn part."""
HEAD_ALONE = FreezeSettings(train=("head",))
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


def with_fresh_head(recipe: Recipe, base: Base, task: Task) -> Base:
    """The base with a head for the task's labels, its own or a fresh one."""
    return base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(recipe.seed))


def takes_training(recipe: Recipe, base: Base, task: Task) -> bool:
    """Whether a head for the task's labels takes a training of its own: the base has none, and it is more than one linear layer."""
    spec = task.head()
    return bool(spec.labels) and not base.owns(spec) and linear_head(with_fresh_head(recipe, base, task)) is None


def starting_base(
    recipe: Recipe,
    base: Base,
    task: Task,
    data: Dataset,
    dev: Dataset | None,
    general: General | None,
    *,
    folder: Path | None = None,
    name: str = "head",
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Base, str]:
    """The base with its starting head, and a word on where that came from.

    In this order: the base's own head; the head fitted on the general learn part where its labels are the domain's; the head
    fitted on the domain's train part. Where it takes a training, `folder` takes the checkpoint, as `name`, and `on_progress` is told
    of it; that on the general learn part is the same for all folds, and made once.
    """
    spec = task.head()
    headed = with_fresh_head(recipe, base, task)
    if not spec.labels:
        return headed, OUTPUT_LAYER
    if base.owns(spec):
        return headed, "the base's own head"
    if not recipe.training.probe:
        return headed, "a fresh head"
    if general is not None and general.head == "domain" and general.learn:
        learn = dataset(task, base, general.learn)
        made = _probe(recipe, headed, task, learn, None, folder=_below(folder, GENERAL), on_progress=on_progress)
        return made, "a head fitted on the general learn part"
    made = _probe(recipe, headed, task, data, dev, folder=_below(folder, name), on_progress=on_progress)
    return made, DOMAIN_PROBE


def domain_probe_score(recipe: Recipe, base: Base, task: Task, data: Dataset, dev: Dataset, start: str) -> float | None:
    """Dev score of a head fitted on the domain's train part, body frozen; `base` holds the starting head.

    None where labels size nothing, or where such a head would need a training of its own that was not asked for.
    """
    if start == OUTPUT_LAYER or (start != DOMAIN_PROBE and linear_head(base) is None):
        return None
    probed = base if start == DOMAIN_PROBE else _probe(recipe, base, task, data, dev)
    return primary_score(task, probed, probed.model, dev, budget=recipe.evaluation.batch_budget)[0]


def _below(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def head_training(recipe: Recipe, task: Task, base: Base, examples: Sequence[Any]) -> TrainingSettings:
    """Of a head alone on these examples: as many epochs whatever the method."""
    of_head = recipe.model_copy(update={"method": HEAD_ALONE})
    update = {"patience": None, "train_batch_norm": False, "precision": "fp32"}
    return training_settings(of_head, task, base, examples).model_copy(update=update)


def _probe(
    recipe: Recipe,
    base: Base,
    task: Task,
    data: Dataset,
    dev: Dataset | None,
    *,
    folder: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Base:
    if linear_head(base) is not None:
        # On a CPU, whose memory is not what limits a forward, the head's last bits stay those of the default.
        given = None if base.device.type == "cpu" else recipe.evaluation.batch_budget
        budget = given or default_budget(task, base.device)
        held_out = _fifth(recipe, task, data) if dev is None else ()
        fitted = partial(probe_head, task, base, data, dev, held_out=held_out, budget=budget)
        return base.with_given_head("domain", fitted() if folder is None else _kept(base, folder, fitted))
    attached = method_from(HEAD_ALONE).attach(base, generator=torch.Generator().manual_seed(recipe.seed))
    train(
        attached,
        task,
        base,
        data,
        head_training(recipe, task, base, data.examples),
        learning_rate=HEAD_LEARNING_RATE,
        seed=recipe.seed,
        validate=None,
        folder=folder,
        on_progress=on_progress,
        fingerprint=f"base {base.checksum}",
    )
    head = base.heads["domain"]
    trained = attached.view(1.0)
    modules = {path: trained.get_submodule(path) for path in head.modules}
    return base.with_given_head("domain", replace(head, modules=modules))


def _kept(base: Base, folder: Path, fitted: Callable[[], Head]) -> Head:
    """The fitted head, or the one that `folder` holds: where two penalties are nearly as good another processor or version may fit
    another head than the one that training began from."""
    checkpoint, fingerprint, found = CheckpointFolder(folder), {"base": base.checksum}, linear_head(base)
    assert found is not None
    path, layer = found
    if not checkpoint.exists():
        made = fitted()
        tensors = {name: tensor.detach().cpu() for name, tensor in made.modules[path].named_parameters()}
        checkpoint.write({}, {"head": tensors}, fingerprint=fingerprint)
        return made
    checkpoint.read(fingerprint=fingerprint)
    held = {name: tensor.to(layer.weight.device) for name, tensor in checkpoint.read_tensors("head").items()}
    return replace(base.heads["domain"], modules={path: fork(layer, held)})


def _fifth(recipe: Recipe, task: Task, data: Dataset) -> Sequence[int]:
    """Positions of a fifth of the rows, stratified, equal inputs and groups together; none where there are too few to part."""
    try:
        return split_positions(task, data.examples, fraction=0.2, seed=recipe.data_seed)[1].tolist()
    except DataError:
        return ()


def general_base(
    recipe: Recipe,
    base: Base,
    general: General | None,
    *,
    folder: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Base:
    """The base with its "general" head, where the general labels are not the domain's: its own, else fitted on the learn part.
    `folder`, `on_progress`: as of `starting_base`."""
    if general is None or general.head != "general":
        return base
    spec = general.task.head()
    if base.owns(spec):
        return base.with_head("general", spec, generator=torch.Generator().manual_seed(recipe.seed))
    headed, learn = with_fresh_head(recipe, base, general.task), dataset(general.task, base, general.learn)
    fitted = _probe(recipe, headed, general.task, learn, None, folder=_below(folder, GENERAL), on_progress=on_progress)
    return base.with_given_head("general", fitted.heads["domain"])
