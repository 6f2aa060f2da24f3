"""Train and score one recipe on given rows: starting head, training, frontier, choice of strength; once, or over folds.

A function of recipe, rows and seed without global state. It never receives a test or report part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domaintune.balance.frontier import (
    Point,
    Records,
    Side,
    choose,
    domain_points,
    points,
    side_records,
    with_reference,
)
from domaintune.bases.base import Base
from domaintune.checks.shared import inseparable
from domaintune.data.splits import folds
from domaintune.engine.starting_head import linear_head, probe_head
from domaintune.engine.train import Progress, Training, train
from domaintune.errors import RecipeError
from domaintune.evaluation.calibration import temperatures
from domaintune.evaluation.score import (
    default_budget,
    named_domains,
    point_scores,
    predict_by_domain,
    primary_score,
    records_of,
)
from domaintune.methods import method_from
from domaintune.methods.base import Attached, Form
from domaintune.predict import torch_device
from domaintune.recipe import DEFAULT_LEARNING_RATES, Recipe, TrainingSettings
from domaintune.settings import FreezeSettings
from domaintune.tasks.base import Dataset, Task, dataset

OUTPUT_LAYER, DOMAIN_PROBE = "the base's output layer", "a head fitted on the domain's train part"
HEAD_LEARNING_RATE = 1e-3
FEWEST_EPOCHS, MOST_EPOCHS, WANTED_STEPS = 5, 30, 400

Report = Callable[[str, Progress | None], None]


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


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained method with what was learned about it on the choosing parts."""

    base: Base
    attached: Attached
    training: Training
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


def form_of(recipe: Recipe, base: Base) -> Form:
    """Views are merged, but kept as terms where 16-bit weights would swallow the change."""
    if recipe.balance.form is not None:
        return recipe.balance.form
    sixteen = next(base.model.parameters()).dtype in (torch.bfloat16, torch.float16)
    return "terms" if sixteen else "merged"


def keep_of(recipe: Recipe, general: General | None) -> float:
    """The retention (or agreement) at which a strength qualifies."""
    if general is not None and general.agreement:
        return recipe.balance.keep_agreement or general.task.keep_agreement
    return recipe.balance.keep


def training_settings(recipe: Recipe, task: Task, *, rows: int) -> TrainingSettings:
    """The recipe's training settings with epochs, micro-batch budget and learning rate written out, for `rows` training rows."""
    settings = recipe.training
    steps = max(1, math.ceil(rows / settings.batch_size))
    epochs = settings.epochs
    if epochs is None:
        epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(WANTED_STEPS / steps)))
    budget = settings.micro_batch_budget
    if budget is None and not settings.train_batch_norm:  # whose statistics are those of a whole step
        budget = default_budget(task, torch_device(recipe.device), training=True)
    rate = settings.learning_rate or DEFAULT_LEARNING_RATES[recipe.method.name]
    return settings.model_copy(update={"epochs": epochs, "micro_batch_budget": budget, "learning_rate": rate})


def sample(examples: Sequence[Any], count: int, *, seed: int) -> list[Any]:
    """At most `count` examples, drawn without replacement, in their order."""
    return [examples[i] for i in sampled(len(examples), count, seed=seed)]


def sampled(rows: int, count: int, *, seed: int) -> list[int]:
    """The positions that `sample` draws from so many rows."""
    if rows <= count:
        return list(range(rows))
    made: list[int] = np.sort(np.random.default_rng([seed, rows]).choice(rows, count, replace=False)).tolist()
    return made


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
        return base.with_given_head(
            "domain", probe_head(task, base, data, dev, budget=default_budget(task, base.device))
        )
    attached = method_from(FreezeSettings(train=("head",))).attach(
        base, generator=torch.Generator().manual_seed(recipe.seed)
    )
    settings = training_settings(recipe, task, rows=len(data.examples)).model_copy(
        update={"patience": None, "train_batch_norm": False}
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


def validator(
    task: Task, base: Base, attached: Attached, dev: Dataset, budget: int, precision: str
) -> Callable[[], float]:
    """Dev score of the model in training and in its precision, higher is better."""
    sign = 1.0 if task.primary.higher_is_better else -1.0
    name = task.primary.name

    def validate() -> float:
        with torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            made = predict_by_domain(
                task,
                base,
                attached.in_domain,
                dev,
                domains=attached.domain_weights(),
                wanted=frozenset({name}),
                budget=budget,
            )
        return sign * point_scores(task, records_of(task, dev, made))[name]

    return validate


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
    if dev is None and task.cross_validates:
        return _fit_over_folds(recipe, base, task, rows, general, folder, report)
    if dev is None:
        raise RecipeError("a dev part is needed for this task.", where="dev")
    data, dev_data = dataset(task, base, rows), dataset(task, base, dev)
    report("starting head", None)
    started, start = starting_base(recipe, base, task, data, dev_data, general)
    attached, training = _train(recipe, started, task, data, dev_data, folder, report, name="train")
    report("frontier", None)
    probe = domain_probe_score(recipe, started, task, data, dev_data, start)
    side = Side(task, dataset(task, base, sample(dev, recipe.balance.max_rows, seed=recipe.data_seed)))
    domain, general_records, general_side = _frontier_records(recipe, started, attached, side, general)
    frontier = points(task, domain, general_side, general_records)
    chosen = choose(frontier, keep=keep_of(recipe, general), primary=task.primary)
    by_domain = domain_points(task, side.data.examples, domain)
    return Fitted(
        started, attached, training, frontier, chosen, start, probe, [], temperatures(task, domain), by_domain
    )


def _train(
    recipe: Recipe,
    base: Base,
    task: Task,
    data: Dataset,
    dev: Dataset | None,
    folder: Path | None,
    report: Report,
    *,
    name: str,
    epochs_of_schedule: int | None = None,
    keep_epochs: bool = False,
) -> tuple[Attached, Training]:
    attached = method_from(recipe.method).attach(
        base, generator=torch.Generator().manual_seed(recipe.seed), domains=list(named_domains(data.examples))
    )
    settings = training_settings(recipe, task, rows=len(data.examples))
    assert settings.learning_rate is not None
    budget = recipe.evaluation.batch_budget or default_budget(task, base.device)
    validate = None if dev is None else validator(task, base, attached, dev, budget, settings.precision)
    latest: list[Progress] = []

    def tell(progress: Progress) -> None:
        latest[:] = [progress]
        report(name, progress)

    def validate_and_tell(validate: Callable[[], float]) -> float:
        score = validate()
        for progress in latest:
            report(name, replace(progress, score=score))
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
        fingerprint=f"base {base.provenance.get('weights_sha256') or base.provenance.get('revision')}",
    )
    attached.model.eval()
    return attached, training


def _frontier_records(
    recipe: Recipe, base: Base, attached: Attached, side: Side, general: General | None
) -> tuple[Records, Records, Side | None]:
    form = form_of(recipe, base)
    budget = recipe.evaluation.batch_budget
    strengths = recipe.balance.strengths
    wanted = frozenset({side.task.primary.name})
    domain = side_records(side, base, attached, strengths, form=form, wanted=wanted, budget=budget)
    if general is None or not general.choose:
        return domain, {}, None
    rows = sample(general.choose, recipe.balance.max_rows, seed=recipe.data_seed)
    other = Side(general.task, dataset(general.task, base, rows), general.head, general.agreement)
    other = with_reference(other, base, form=form, attached=attached, budget=budget)
    wanted = frozenset({general.task.primary.name})
    return domain, side_records(other, base, attached, strengths, form=form, wanted=wanted, budget=budget), other


def _fit_over_folds(
    recipe: Recipe,
    base: Base,
    task: Task,
    rows: Sequence[Any],
    general: General | None,
    folder: Path | None,
    report: Report,
) -> Fitted:
    """5 folds: each fits its own starting head and trains through all epochs; the epoch with the best mean score is chosen, its
    states give the out-of-fold frontier, and the final fit uses all rows for that many epochs under the same schedule."""
    keys = [task.keys(example) for example in rows]
    cuts = folds([k.stratum for k in keys], inseparable(task, rows), count=recipe.data.folds, seed=recipe.data_seed)
    # One schedule for the folds and for the final fit, whatever the number of rows in each.
    training_of_all = training_settings(recipe, task, rows=len(rows)).model_copy(update={"patience": None})
    patient = recipe.model_copy(update={"training": training_of_all})
    kept: list[tuple[Base, Attached, Training, Dataset]] = []
    probes = []
    for number, (inside, outside) in enumerate(cuts):
        data = dataset(task, base, [rows[i] for i in inside])
        dev = dataset(task, base, [rows[i] for i in outside])
        started, start = starting_base(recipe, base, task, data, dev, general)
        probes.append(domain_probe_score(recipe, started, task, data, dev, start))
        name = f"fold-{number}"
        attached, training = _train(patient, started, task, data, dev, folder, report, name=name, keep_epochs=True)
        kept.append((started, attached, training, dev))
    means = np.mean([[epoch.score or 0.0 for epoch in training.epochs] for _, _, training, _ in kept], axis=0)
    best = int(np.argmax(means)) if len(means) else 0
    report("frontier", None)
    domain: Records = {s: [] for s in recipe.balance.strengths}
    other: Records = {s: [] for s in recipe.balance.strengths}
    general_side = None
    for started, attached, training, dev in kept:
        if training.states:
            attached.load_(training.states[best])
        side = Side(task, dev)
        mine, theirs, general_side = _frontier_records(recipe, started, attached, side, general)
        for strength in recipe.balance.strengths:
            domain[strength] += mine[strength]
            other[strength] += theirs.get(strength, [])
    frontier = points(task, domain, general_side, other)
    chosen = choose(frontier, keep=keep_of(recipe, general), primary=task.primary)
    everything = dataset(task, base, rows)
    started, start = starting_base(recipe, base, task, everything, None, general)
    attached, training = _train(
        patient, started, task, everything, None, folder, report, name="train", epochs_of_schedule=best + 1
    )
    report_folds = [
        {"scores": [epoch.score for epoch in training.epochs], "rows": len(dev.examples)}
        for _, _, training, dev in kept
    ]
    probe_scores = [probe for probe in probes if probe is not None]
    probe = float(np.mean(probe_scores)) if probe_scores else None
    held_out = [example for _, _, _, dev in kept for example in dev.examples]
    by_domain = domain_points(task, held_out, domain)
    return Fitted(
        started, attached, training, frontier, chosen, start, probe, report_folds, temperatures(task, domain), by_domain
    )


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
