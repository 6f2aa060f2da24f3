"""Train and score one recipe on given rows: training, frontier, choice of strength; once, or over folds.

A function of recipe, rows and seed without global state. It never receives a test or report part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domaintune.balance.alternative import Alternative, alternative
from domaintune.balance.frontier import (
    Point,
    Records,
    Side,
    choose,
    domain_points,
    points,
    predict_at,
    side_records,
    with_reference,
)
from domaintune.bases.base import Base
from domaintune.engine.epochs import Progress, Training, better
from domaintune.engine.train import train
from domaintune.errors import RecipeError
from domaintune.evaluation.calibration import temperatures
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate
from domaintune.evaluation.score import (
    default_budget,
    named_domains,
    point_scores,
    predict_by_domain,
    records_of,
)
from domaintune.heads import General, domain_probe_score, starting_base
from domaintune.methods import method_from
from domaintune.methods.base import Attached, Form
from domaintune.partition import fold_positions
from domaintune.parts import bare
from domaintune.recipe import Recipe
from domaintune.resolve import training_settings
from domaintune.tasks.base import Dataset, Task, dataset

Report = Callable[[str, Progress | None], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained method with what was learned about it on the choosing parts."""

    base: Base
    attached: Attached
    training: Training
    """`averaged_epochs` is 0 where the best epoch's weights were kept."""
    dev_score: float | None
    """Primary score on dev of the weights that were kept; the mean over folds where these stand in for dev."""
    frontier: list[Point]
    chosen: float
    start: str
    """Where the starting head came from."""
    domain_probe: float | None
    """Dev score of a head fitted on the domain's train part, body frozen."""
    folds: list[dict[str, Any]]
    calibration: tuple[tuple[float, float], ...]
    """(strength, temperature) of the frontier, fitted on its domain side; empty where the task has no probabilities."""
    domain_frontier: dict[str, list[Any]] = field(default_factory=dict)
    """Domain -> [strength, primary score on the choosing part], where rows name domains."""
    alternative: Alternative | None = None


def form_of(recipe: Recipe, base: Base) -> Form:
    """Views are merged, but kept as terms where 16-bit weights would swallow the change."""
    if recipe.balance.form is not None:
        return recipe.balance.form
    sixteen = next(base.model.parameters()).dtype in (torch.bfloat16, torch.float16)
    return "terms" if sixteen else "merged"


def keep_of(recipe: Recipe, task: Task, *, agreement: bool) -> float:
    """The retention, or agreement on rows of `task`, at which a strength qualifies."""
    return (recipe.balance.keep_agreement or task.keep_agreement) if agreement else recipe.balance.keep


def sample(examples: Sequence[Any], count: int, *, seed: int) -> list[Any]:
    """At most `count` examples, drawn without replacement, in their order."""
    return [examples[i] for i in sampled(len(examples), count, seed=seed)]


def scorable_sample(task: Task, examples: Sequence[Any], count: int, *, seed: int) -> list[Any]:
    """As `sample`; drawn again where no row has a label and others have one, as no score could be computed."""
    made = sample(examples, count, seed=seed)
    while bare(task, made) and not bare(task, examples):
        seed += 1
        made = sample(examples, count, seed=seed)
    return made


def sampled(rows: int, count: int, *, seed: int) -> list[int]:
    """The positions that `sample` draws from so many rows."""
    if rows <= count:
        return list(range(rows))
    made: list[int] = np.sort(np.random.default_rng([seed, rows]).choice(rows, count, replace=False)).tolist()
    return made


def validator(task: Task, base: Base, attached: Attached, dev: Dataset, budget: int) -> Callable[[], float]:
    """Dev score of the model in training, higher is better."""
    sign = 1.0 if task.primary.higher_is_better else -1.0
    name = task.primary.name

    def validate() -> float:
        weights = attached.domain_weights()
        made = predict_by_domain(
            task,
            base,
            lambda domain: (weights.get(domain or "", 1.0), attached.in_domain(domain)),
            dev,
            domains=weights,
            wanted=frozenset({name}),
            budget=budget,
        )
        return sign * point_scores(task, records_of(task, dev, made))[name]

    return validate


@dataclass(frozen=True, slots=True)
class _Job:
    """What every training of one fit has in common."""

    recipe: Recipe
    base: Base
    task: Task
    general: General | None
    folder: Path | None
    report: Report

    def data(self, rows: Sequence[Any]) -> Dataset:
        return dataset(self.task, self.base, rows)

    def starting_base(self, data: Dataset, dev: Dataset | None, *, fold: str = "") -> tuple[Base, str]:
        stage, name = (f"starting head {fold}", f"head-{fold}") if fold else ("starting head", "head")
        self.report(stage, None)
        return starting_base(
            self.recipe, self.base, self.task, data, dev, self.general, folder=self.folder, name=name,
            on_progress=partial(self.report, stage),
        )  # fmt: skip

    def with_training(self, **settings: Any) -> _Job:
        training = self.recipe.training.model_copy(update=settings)
        return replace(self, recipe=self.recipe.model_copy(update={"training": training}))


def fit(
    recipe: Recipe,
    base: Base,
    task: Task,
    *,
    rows: Sequence[Any],
    dev: Sequence[Any] | None,
    general: General | None,
    folder: Path | None,
    report: Report,
) -> Fitted:
    """Train on `rows` and choose the strength on `dev` and the general choosing part; without dev, over folds.

    `base` may already hold a "general" head; it gets its "domain" head here. `folder` takes the checkpoints.
    """
    job = _Job(recipe, base, task, general, folder, report)
    if dev is None and task.cross_validates:
        return _fit_over_folds(job, rows)
    if dev is None:
        raise RecipeError("a dev part is needed for this task.", where="dev")
    data, dev_data = job.data(rows), job.data(dev)
    started, start = job.starting_base(data, dev_data)
    attached, training = _train(job, started, data, dev_data, name="train")
    report("weights", None)
    training, score = _settle_(recipe, started, attached, training, Side(task, dev_data))
    report("frontier", None)
    probe = domain_probe_score(recipe, started, task, data, dev_data, start)
    side = Side(task, job.data(scorable_sample(task, dev, recipe.balance.max_rows, seed=recipe.data_seed)))
    domain, general_records, general_side = _frontier_records(job, started, attached, side)
    frontier = points(task, domain, general_side, general_records)
    chosen = choose(
        frontier, keep=keep_of(recipe, task, agreement=general is not None and general.agreement), primary=task.primary
    )
    by_domain = domain_points(task, side.data.examples, domain)
    return Fitted(
        started, attached, training, score, frontier, chosen, start, probe, [], temperatures(task, domain), by_domain,
        alternative(task, frontier, chosen, domain, _draws(recipe, side.data.examples)),
    )  # fmt: skip


def _draws(recipe: Recipe, examples: Sequence[Any]) -> np.ndarray:
    groups = [example.group for example in examples]
    return bootstrap_weights(len(groups), draws=recipe.evaluation.draws, seed=recipe.seed, groups=groups)


def _settle_(
    recipe: Recipe, base: Base, attached: Attached, training: Training, dev: Side
) -> tuple[Training, float | None]:
    """Leave the method with the averaged weights, where there are any, unless dev shows the best epoch's, which it has, to be better
    beyond chance; and what the kept ones score there."""
    sign = 1.0 if dev.task.primary.higher_is_better else -1.0  # of scores while training more is better
    best = training.epochs[training.best_epoch].score if training.epochs else None
    best = None if best is None else sign * best
    is_best = training.averaged_epochs == 1 and training.best_epoch == len(training.epochs) - 1
    if training.averaged is None or is_best:
        return replace(training, averaged_epochs=0), best
    task, state, records = dev.task, attached.state(), []
    for weights in (state, training.averaged):
        attached.load_(weights)
        made = predict_at(
            attached, base, dev, 1.0, form=form_of(recipe, base), wanted=frozenset({task.primary.name}),
            budget=recipe.evaluation.batch_budget,
        )  # fmt: skip
        records.append(records_of(task, dev.data, made))
    if gain_estimate(task, records[0], records[1], _draws(recipe, dev.data.examples)).low > 0:
        attached.load_(state)
        return replace(training, averaged_epochs=0), best
    return training, point_scores(task, records[1])[task.primary.name]


def _train(
    job: _Job,
    base: Base,
    data: Dataset,
    dev: Dataset | None,
    *,
    name: str,
    epochs_of_schedule: int | None = None,
    keep_epochs: bool = False,
) -> tuple[Attached, Training]:
    recipe, task, folder = job.recipe, job.task, job.folder
    attached = method_from(recipe.method).attach(
        base, generator=torch.Generator().manual_seed(recipe.seed), domains=list(named_domains(data.examples))
    )
    settings = training_settings(recipe, task, base, data.examples)
    assert settings.learning_rate is not None
    budget = recipe.evaluation.batch_budget or default_budget(task, base.device)
    validate = None if dev is None else validator(task, base, attached, dev, budget)
    latest: list[Progress] = []

    def tell(progress: Progress) -> None:
        latest[:] = [progress]
        job.report(name, progress)

    def validate_and_tell(validate: Callable[[], float]) -> float:
        score = validate()
        for progress in latest:
            job.report(name, replace(progress, score=score))
        return score

    training = train(
        attached,
        task,
        base,
        data,
        settings,
        learning_rate=settings.learning_rate,
        seed=recipe.seed,
        validate=None if validate is None else partial(validate_and_tell, validate),
        folder=None if folder is None else folder / name,
        on_progress=tell,
        keep_epochs=keep_epochs,
        stop_after=epochs_of_schedule,
        fingerprint=f"base {base.checksum}",
    )
    attached.model.eval()
    return attached, training


_Frontier = tuple[Records, Records, Side | None]
"""Records of domain and general side by strength, and the general side."""


def _frontier_records(job: _Job, base: Base, attached: Attached, side: Side) -> _Frontier:
    recipe, general = job.recipe, job.general
    form = form_of(recipe, base)
    budget = recipe.evaluation.batch_budget
    strengths = recipe.balance.strengths
    wanted = frozenset({side.task.primary.name})
    domain = side_records(side, base, attached, strengths, form=form, wanted=wanted, budget=budget)
    if general is None or not general.choose:
        return domain, {}, None
    rows = scorable_sample(general.task, general.choose, recipe.balance.max_rows, seed=recipe.data_seed)
    other = Side(general.task, dataset(general.task, base, rows), general.head, general.agreement)
    other = with_reference(other, base, form=form, attached=attached, budget=budget)
    wanted = frozenset({general.task.primary.name})
    return domain, side_records(other, base, attached, strengths, form=form, wanted=wanted, budget=budget), other


def _fit_over_folds(job: _Job, rows: Sequence[Any]) -> Fitted:
    """5 folds: each fits its own starting head and trains through all epochs. Their averaged weights give the out-of-fold frontier; or
    the epoch with the best mean score is chosen, its states give it, and the final fit, on all rows, takes that many epochs under the
    same schedule."""
    recipe, task = job.recipe, job.task
    # One schedule for the folds and for the final fit, whatever the number of rows in each.
    job = job.with_training(**training_settings(recipe, task, job.base, rows).model_dump() | {"patience": None})
    average = recipe.training.weights == "averaged"
    kept = _train_folds(job, rows)
    job = job.with_training(precision=kept[0].training.precision)
    best = _best_epoch([fold.training for fold in kept])
    domain: Records = {s: [] for s in recipe.balance.strengths}
    other: Records = {s: [] for s in recipe.balance.strengths}
    general_side = None
    for fold in kept:
        mine, theirs, general_side = fold.records(best)
        for strength in recipe.balance.strengths:
            domain[strength] += mine[strength]
            other[strength] += theirs.get(strength, [])
    frontier = points(task, domain, general_side, other)
    chosen = choose(
        frontier,
        keep=keep_of(recipe, task, agreement=job.general is not None and job.general.agreement),
        primary=task.primary,
    )
    everything = job.data(rows)
    started, start = job.starting_base(everything, None)
    attached, training = _train(
        job, started, everything, None, name="train", epochs_of_schedule=None if average else best + 1
    )
    if training.averaged is not None:
        attached.load_(training.averaged)
    score = point_scores(task, domain[1.0])[task.primary.name] if kept else None
    report_folds = [
        {"scores": [epoch.score for epoch in fold.training.epochs], "rows": len(fold.dev.examples)} for fold in kept
    ]
    probe_scores = [fold.probe for fold in kept if fold.probe is not None]
    probe = float(np.mean(probe_scores)) if probe_scores else None
    held_out = [example for fold in kept for example in fold.dev.examples]
    by_domain = domain_points(task, held_out, domain)
    return Fitted(
        started, attached, training, score, frontier, chosen, start, probe, report_folds, temperatures(task, domain),
        by_domain, alternative(task, frontier, chosen, domain, _draws(recipe, held_out)),
    )  # fmt: skip


def _best_epoch(trainings: Sequence[Training]) -> int:
    """The epoch whose mean dev score over these trainings of one schedule is the best, as one training judges its own; 0 without any."""
    best, score = 0, None
    for number, epochs in enumerate(zip(*(training.epochs for training in trainings), strict=True)):
        held = [epoch.score for epoch in epochs if epoch.score is not None]
        if held and better(mean := math.fsum(held) / len(held), score):
            best, score = number, mean
    return best


@dataclass(frozen=True, slots=True)
class _Fold:
    """What is kept of one: its training (without averaged weights), the rows outside, their score of a fitted head, and the frontier's
    records there at the averaged weights, or at those of an epoch."""

    training: Training
    dev: Dataset
    probe: float | None
    records: Callable[[int], _Frontier]


def _train_folds(job: _Job, rows: Sequence[Any]) -> list[_Fold]:
    recipe, task = job.recipe, job.task
    kept = []
    for number, (inside, outside) in enumerate(fold_positions(recipe, task, rows)):
        data, dev = (job.data([rows[i] for i in part]) for part in (inside, outside))
        kept.append(_train_fold(job, data, dev, name=f"fold-{number}"))
        job = job.with_training(precision=kept[0].training.precision)  # the first fold's is that of all
    return kept


def _train_fold(job: _Job, data: Dataset, dev: Dataset, *, name: str) -> _Fold:
    """With averaged weights the records are made at once, so that no trained model need stay."""
    recipe, task = job.recipe, job.task
    started, start = job.starting_base(data, dev, fold=name)
    probe = domain_probe_score(recipe, started, task, data, dev, start)
    average = recipe.training.weights == "averaged"
    attached, training = _train(job, started, data, dev, name=name, keep_epochs=not average)

    def records(weights: Mapping[str, Tensor] | None) -> _Frontier:
        job.report("frontier", None)
        if weights is not None:
            attached.load_(weights)
        return _frontier_records(job, started, attached, Side(task, dev))

    if average:
        made = records(training.averaged)
        return _Fold(replace(training, averaged=None), dev, probe, lambda epoch: made)
    states = training.states
    return _Fold(training, dev, probe, lambda epoch: records(states[epoch]() if states else None))
