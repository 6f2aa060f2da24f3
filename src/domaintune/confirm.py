"""The confirmation: the chosen strength and strength 1 against the base, once, on parts that nothing was chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np

from domaintune.balance.frontier import Point, Side, divergence_at, predict_at, why_the_base, with_reference
from domaintune.bases.base import Base
from domaintune.evaluation.intervals import (
    Estimate,
    bootstrap_weights,
    gain_estimate,
    retention_estimate,
    score_estimates,
)
from domaintune.evaluation.score import named_domains, point_scores, records_of
from domaintune.evaluation.verdict import UNLABELLED, Confirmed, Verdict, judge
from domaintune.fit import Fitted, form_of, keep_of
from domaintune.methods.base import Attached
from domaintune.parts import Parts
from domaintune.recipe import Recipe
from domaintune.tasks.base import Prediction, Record, Task, dataset


class Tuned(Protocol):
    """A base with a method trained on it."""

    @property
    def base(self) -> Base: ...

    @property
    def attached(self) -> Attached: ...


@dataclass(frozen=True, slots=True)
class SideScores:
    """One side of the confirmation. Keys are strengths. `change` is the gain on the domain and the retention (or agreement) on
    the general side; `kind` says which."""

    rows: int
    name: str
    kind: str
    scores: dict[float, dict[str, Estimate]]
    change: dict[float, Estimate]
    divergence: dict[float, float]
    domains: dict[str, dict[str, Any]]
    """Domain -> its rows, primary score by strength, and gains, where rows name domains."""
    predictions: dict[float, list[Prediction]]
    records: dict[float, list[Record]]

    def plain(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "name": self.name,
            "kind": self.kind,
            "scores": {f"{s:g}": {k: e.plain() for k, e in v.items()} for s, v in self.scores.items()},
            "change": {f"{s:g}": e.plain() for s, e in self.change.items()},
            "mean_divergence": {f"{s:g}": value for s, value in self.divergence.items()},
            "domains": self.domains,
        }


@dataclass(frozen=True, slots=True)
class Confirmation:
    domain: SideScores
    general: SideScores | None
    majority: float | None
    verdict: Verdict

    def plain(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.plain(),
            "domain": self.domain.plain(),
            "general": self.general.plain() if self.general else None,
            "majority": self.majority,
        }


def confirm(recipe: Recipe, fitted: Fitted, parts: Parts, *, report: Callable[[str, None], None]) -> Confirmation:
    """Score test and the general headline part at strengths 0, chosen and 1, with paired intervals, and judge."""
    strengths = sorted({0.0, fitted.chosen, 1.0})
    report("confirmation", None)
    side = Side(parts.task, dataset(parts.task, fitted.base, parts.test))
    domain = side_scores(recipe, fitted, side, "test", strengths, drift=parts.general is None)
    general, agreement = None, False
    if (held := parts.general) is not None:
        agreement = held.agreement
        side = Side(held.task, dataset(held.task, fitted.base, held.headline), held.head, agreement)
        general = side_scores(recipe, fitted, side, held.headline_name, strengths, drift=agreement)

    def at(strength: float) -> Confirmed:
        gain, primary = domain.change[strength], parts.task.primary
        score = domain.scores[strength][primary.name].value if primary.higher_is_better else None
        if general is None:
            return Confirmed(strength, gain, None, score=score)
        return Confirmed(strength, gain, general.change[strength], kept_kind(general.kind), score=score)

    majority = majority_score(parts.task, parts.train, parts.test)
    rows = (domain.rows, general.rows if general else 0)
    verdict = judged(
        recipe,
        parts.task,
        fitted.frontier,
        at(fitted.chosen),
        at(1.0),
        agreement=agreement,
        rows=rows,
        majority=majority,
    )
    return Confirmation(domain, general, majority, verdict)


def judged(
    recipe: Recipe,
    task: Task,
    frontier: Sequence[Point],
    chosen: Confirmed,
    full: Confirmed,
    *,
    agreement: bool,
    rows: tuple[int, int],
    majority: float | None,
) -> Verdict:
    """The verdict by the recipe's bounds. `frontier` is what `chosen` was chosen on, `rows` count the test and general part."""
    keep = keep_of(recipe, task, agreement=agreement)
    why = why_the_base(frontier, keep=keep, primary=task.primary) if chosen.strength == 0 else ""
    return judge(
        chosen,
        full,
        floor=keep if agreement else recipe.balance.floor,
        test_rows=rows[0],
        general_rows=rows[1],
        why_the_base=why,
        majority=majority,
    )


def kept_kind(kind: str) -> Literal["ratio", "difference", "agreement", "likelihood"]:
    """Of the general side's `kind`, how what is kept is told."""
    if kind == "agreement":
        return "agreement"
    return "likelihood" if "likelihood" in kind else "difference" if "difference" in kind else "ratio"


def side_scores(
    recipe: Recipe,
    fitted: Tuned,
    side: Side,
    name: str,
    strengths: Sequence[float],
    *,
    drift: bool,
    by_domain: Mapping[float, Mapping[str, float]] = MappingProxyType({}),
) -> SideScores:
    """One side at `strengths`, 0 among them, with paired intervals; the one named "test" gives gains. `by_domain` has what a strength
    means in each domain where that is not strength x weight.

    `drift` asks for the mean divergence from the base's outputs, where no labels show what was lost.
    """
    form, budget = form_of(recipe, fitted.base), recipe.evaluation.batch_budget
    side = with_reference(side, fitted.base, form=form, attached=fitted.attached, budget=budget)
    task, examples = side.task, side.data.examples
    weights = bootstrap_weights(
        len(examples), draws=recipe.evaluation.draws, seed=recipe.seed, groups=[e.group for e in examples]
    )
    wanted = frozenset({*task.scores, "output"})
    records: dict[float, list[Record]] = {}
    predictions: dict[float, list[Prediction]] = {}
    divergence: dict[float, float] = {}
    for strength in strengths:
        predictions[strength] = predict_at(
            fitted.attached,
            fitted.base,
            side,
            by_domain.get(strength, strength),
            form=form,
            wanted=wanted,
            budget=budget,
        )
        records[strength] = records_of(task, side.data, predictions[strength])
        if strength > 0 and drift:
            divergence[strength] = divergence_at(fitted.attached, fitted.base, side, strength, form=form, budget=budget)
    scores = {s: score_estimates(task, records[s], weights) for s in strengths}
    if name == "test":
        change, kind = {s: gain_estimate(task, records[s], records[0.0], weights) for s in strengths}, "gain"
    elif side.agreement and task.primary.higher_is_better:
        change, kind = {s: scores[s][task.primary.name] for s in strengths}, "agreement"
    else:
        made = {s: retention_estimate(task, records[s], records[0.0], weights) for s in strengths}
        change = {s: estimate for s, (estimate, _) in made.items()}
        kind = UNLABELLED["likelihood"] if side.agreement else f"retention ({made[0.0][1]})"
    same = change[0.0].value  # the base is exactly what it is compared with
    change[0.0] = Estimate(same, same, same, same, "exact", 0)
    domains = domain_scores(task, examples, records, weights)
    return SideScores(len(examples), name, kind, scores, change, divergence, domains, predictions, records)


def domain_scores(
    task: Task, examples: Sequence[Any], records: Mapping[float, list[Record]], weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The breakdown by domain: `rows`, `scores` and `gain` by strength, from the same resamples as the whole."""
    made: dict[str, dict[str, Any]] = {}
    for name, inside in named_domains(examples).items():
        held = {s: [every[i] for i in inside] for s, every in records.items()}
        own = weights[:, inside]
        own = own[own.sum(1) > 0]
        primary = task.primary.name
        made[name] = {
            "rows": len(inside),
            "scores": {f"{s:g}": score_estimates(task, r, own)[primary].plain() for s, r in held.items()},
            "gain": {f"{s:g}": gain_estimate(task, r, held[0.0], own).plain() for s, r in held.items()},
        }
    return made


def majority_score(task: Task, train: Sequence[Any], test: Sequence[Any]) -> float | None:
    """The primary score of always predicting the commonest training target; None where that has no meaning."""
    if (made := task.majority(train, test)) is None:
        return None
    records = [task.statistics(p, e) for p, e in zip(made, test, strict=True)]
    return point_scores(task, records)[task.primary.name]
