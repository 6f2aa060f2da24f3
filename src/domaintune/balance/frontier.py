"""Domain and general score at several strengths, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from domaintune.bases.base import Base
from domaintune.evaluation.intervals import retention_estimate, retention_kind
from domaintune.evaluation.score import (
    by_domain,
    divergence,
    named_domains,
    point_scores,
    predict_by_domain,
    records_of,
    subset,
)
from domaintune.methods.base import Attached, Form
from domaintune.tasks.base import Dataset, Mode, Prediction, Primary, Record, Task, dataset

ROUNDING = 1e-9
"""By how much a retention may fall short of the bound that it meets: 49/85 / (50/85) is less than 49/50."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the balance: what is scored, with which task and head. `agreement`: the data carries no labels of its own,
    and the base's predictions are the reference."""

    task: Task
    data: Dataset
    head: str = "domain"
    agreement: bool = False

    def groups(self) -> list[str | None]:
        return [example.group for example in self.data.examples]


@dataclass(frozen=True, slots=True)
class Point:
    """One strength on the choosing parts. `retention` is None without general data."""

    strength: float
    domain: float
    general: float | None
    retention: float | None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


Records = dict[float, list[Record]]


def predict_at(
    attached: Attached,
    base: Base,
    side: Side,
    strength: float | Mapping[str, float],
    *,
    form: Form,
    wanted: frozenset[str],
    mode: Mode = "score",
    budget: int | None = None,
) -> list[Prediction]:
    """Predictions of a side at a strength: each example from a view at strength x weight of its domain (1 where it has none), or at
    the strength that a mapping has for it ("": where it has none)."""
    weights = attached.domain_weights()

    def models(name: str | None) -> tuple[float, AbstractContextManager[nn.Module]]:
        at = strength[name or ""] if isinstance(strength, Mapping) else strength * weights.get(name or "", 1.0)
        return at, nullcontext(attached.view(at, head=side.head, form=form))

    return predict_by_domain(
        side.task, base, models, side.data, domains=weights, wanted=wanted, mode=mode, budget=budget
    )


def with_reference(side: Side, base: Base, *, form: Form, attached: Attached, budget: int | None) -> Side:
    """An agreement side whose targets are the base's own predictions; other sides unchanged."""
    if not side.agreement:
        return side
    made = predict_at(attached, base, side, 0.0, form=form, wanted=frozenset({"output"}), mode="predict", budget=budget)
    examples = [side.task.as_reference(p, e) for p, e in zip(made, side.data.examples, strict=True)]
    return replace(side, data=dataset(side.task, base, examples))


def divergence_at(
    attached: Attached, base: Base, side: Side, strength: float, *, form: Form, budget: int | None = None
) -> float:
    """Mean over units of KL(base || tuned) of the outputs, in nats; every example at strength x weight of its domain."""
    weights = attached.domain_weights()
    base_view = attached.view(0.0, head=side.head, form=form)
    total, units = 0.0, 0.0
    for name, positions in by_domain(side.data.examples, weights).items():
        view = attached.view(strength * weights.get(name or "", 1.0), head=side.head, form=form)
        part, count = divergence(side.task, base, view, base_view, subset(side.data, positions), budget=budget)
        total, units = total + part, units + count
    return total / max(units, 1.0)


def side_records(
    side: Side,
    base: Base,
    attached: Attached,
    strengths: Sequence[float],
    *,
    form: Form,
    wanted: frozenset[str],
    budget: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Records:
    """Records of a side at each strength, each from a view of its own."""
    made: Records = {}
    for strength in strengths:
        predictions = predict_at(attached, base, side, strength, form=form, wanted=wanted, budget=budget)
        made[strength] = records_of(side.task, side.data, predictions)
        if on_step is not None:
            on_step()
    return made


def points(domain_task: Task, domain: Records, general_side: Side | None, general: Records) -> list[Point]:
    """The frontier from the records of both sides, by rising strength."""
    name = domain_task.primary.name
    made = []
    for strength in sorted(domain):
        score, kept = None, None
        if general_side is not None:
            task = general_side.task
            score = point_scores(task, general[strength])[task.primary.name]
            if general_side.agreement and task.primary.higher_is_better:
                kept = score
            else:  # of a loss against the base's outputs too: the base itself does not predict them with certainty
                one = np.ones((1, len(general[strength])))
                kept = retention_estimate(task, general[strength], general[0.0], one)[0].value
        made.append(Point(strength, point_scores(domain_task, domain[strength])[name], score, kept))
    return made


def domain_points(
    task: Task, examples: Sequence[Any], records: Mapping[float, Sequence[Record]]
) -> dict[str, list[Any]]:
    """Domain -> its own primary score at every strength, as [strength, score]; empty where rows name no domain."""
    return {
        name: [
            [strength, point_scores(task, [held[i] for i in inside])[task.primary.name]]
            for strength, held in sorted(records.items())
        ]
        for name, inside in named_domains(examples).items()
    }


def choose(frontier: Sequence[Point], *, keep: float, primary: Primary) -> float:
    """The strength with the best domain score among those that keep at least `keep`; ties take the lower.

    Strength 0 always qualifies; without general data 1 is chosen.
    """
    if all(point.retention is None for point in frontier):
        return 1.0
    sign = 1.0 if primary.higher_is_better else -1.0
    qualified = [p for p in frontier if p.strength == 0 or (p.retention is not None and p.retention >= keep - ROUNDING)]
    best = max(sign * p.domain for p in qualified)
    return min(p.strength for p in qualified if sign * p.domain == best)


def why_the_base(frontier: Sequence[Point], *, keep: float, primary: Primary) -> str:
    """Why `choose` took strength 0 of a frontier with general data."""
    most, at = max((p.retention, -p.strength) for p in frontier if p.strength > 0 and p.retention is not None)
    if most >= keep - ROUNDING:
        return "where strengths are chosen, none that keeps enough is better than the base"
    base = next(p.general for p in frontier if p.strength == 0)
    if base is not None and retention_kind(primary, base) == "difference":
        change, least = f"{most - 1:+.3f}", f"{keep - 1:+.3g}"
        return f"where strengths are chosen, none above 0 changes the general score by {least} or better (best: {change}, at {-at:g})"
    return f"where strengths are chosen, none above 0 keeps {100 * keep:.4g} % (most: {100 * most:.4g} %, at {-at:g})"
