"""Scores of one recipe over several seeds: what seeds and examples both add to the uncertainty of their means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtridf, stdtrit

from domaintune.evaluation.intervals import (
    MEANS_OF_CLASSES,
    Estimate,
    Kind,
    above_zero,
    bootstrap_weights,
    drawn_units,
    gained,
    kept,
    percentiles,
    retention_kind,
    within_gains,
    within_range,
)
from domaintune.tasks.base import Record, Task


@dataclass(frozen=True)
class OverSeeds:
    """The scores of one side over seeds and resamples.

    Resamples draw seeds and examples independently, as the seeds were all scored on the same examples. Source: Owen 2007, the
    pigeonhole bootstrap (arXiv 0711.0083). Where a run's own interval is exact, because its models differ on few examples, the
    interval reaches at least as far as that of every run. Few seeds tell little of how much seeds vary: intervals are widened as
    Student's t is wider than the normal distribution, see `spread`. `points` and
    `draws`: "base", "chosen" (each run at its own choice), "tuned" -> score -> the mean over seeds, once and by draw.
    """

    task: Task
    count: int
    units: int
    """Rows, or the groups that are resampled whole."""
    points: dict[str, dict[str, float]]
    each: dict[str, dict[str, np.ndarray]]
    """As `points`, seed by seed."""
    draws: dict[str, dict[str, np.ndarray]]
    keys: dict[str, Sequence[str]]
    confirmed: Sequence[Mapping[str, Any]]
    """What each run's scores.json says of this side."""

    def gain(self, name: str) -> Estimate:
        primary = self.task.primary
        tuned, base = (np.array(self.points[key][primary.name]) for key in (name, "base"))
        value = float(gained(primary, tuned, base))
        draws = gained(primary, self.draws[name][primary.name], self.draws["base"][primary.name])
        made = self._reaching(self._interval(value, draws, self.gains(name)), name, _change)
        return within_gains(made, primary)

    def gains(self, name: str) -> np.ndarray:
        """Seed by seed."""
        primary = self.task.primary
        return gained(primary, self.each[name][primary.name], self.each["base"][primary.name])

    def _interval(self, value: float, draws: np.ndarray, each: np.ndarray) -> Estimate:
        return widened(percentiles(value, draws), draws, each, rows=self.units)

    @property
    def kind(self) -> Kind:
        """How retention is told, by the mean of the base's scores."""
        return retention_kind(self.task.primary, self.points["base"][self.task.primary.name])

    def change(self, name: str, *, agreement: bool) -> Estimate:
        """Retention: of the means over seeds; or agreement."""
        primary, each = self.task.primary, self.changes(name, agreement=agreement)
        value, base = self.points[name][primary.name], self.points["base"][primary.name]
        draws, base_draws = self.draws[name][primary.name], self.draws["base"][primary.name]
        if agreement and primary.higher_is_better:
            return within_range(self._reaching(self._interval(value, draws, each), name, _change), primary.name)
        kind = self.kind
        whole = kept(primary, np.array(value), np.array(base), kind)
        made = self._interval(float(whole), kept(primary, draws, base_draws, kind), each)
        made = above_zero(made) if kind == "ratio" else made
        return self._reaching(made, name, _change)

    def changes(self, name: str, *, agreement: bool) -> np.ndarray:
        """Seed by seed."""
        primary = self.task.primary
        each, base = self.each[name][primary.name], self.each["base"][primary.name]
        return each if agreement and primary.higher_is_better else kept(primary, each, base, self.kind)

    def score(self, name: str, score: str) -> Estimate:
        value, draws = self.points[name][score], self.draws[name][score]
        draws = 2 * value - draws if score in MEANS_OF_CLASSES else draws
        made = self._interval(value, draws, self.each[name][score])
        return self._reaching(within_range(made, score), name, lambda side, key: side["scores"][key][score])

    def _reaching(
        self, made: Estimate, name: str, of: Callable[[Mapping[str, Any], str], Mapping[str, Any] | None]
    ) -> Estimate:
        own = [of(side, key) for side, key in zip(self.confirmed, self.keys[name], strict=True)]
        return reaching(made, [Estimate.of(estimate) for estimate in own if estimate and estimate["how"] == "exact"])

    def plain(self, *, change: Callable[[str], Estimate], kind: str) -> dict[str, Any]:
        scores = {name: {key: self.score(name, key).plain() for key in points} for name, points in self.points.items()}
        changes = {name: change(name).plain() for name in self.points}
        return {"rows": self.count, "kind": kind, "scores": scores, "change": changes}

    @classmethod
    def of(
        cls,
        task: Task,
        records: Mapping[str, Sequence[Sequence[Record]]],
        weights: np.ndarray,
        *,
        seed: int,
        keys: Mapping[str, Sequence[str]],
        confirmed: Sequence[Mapping[str, Any]],
    ) -> OverSeeds:
        """`records`: name -> one list of the same examples for each seed; `weights`: of the examples, [draws, examples]."""
        points, each, drawn = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for name, of_seeds in records.items():
            each[name], drawn[name] = means_over_seeds(task, of_seeds, weights, seed=seed)
            points[name] = {key: float(values.mean()) for key, values in each[name].items()}
        return cls(task, weights.shape[1], drawn_units(weights), points, each, drawn, dict(keys), confirmed)


def _change(side: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """A run's change at a strength; none of its base, which is exactly what it is compared with."""
    found: Mapping[str, Any] = side["change"][key]
    return None if key == "0" else found


def means_over_seeds(
    task: Task, records: Sequence[Sequence[Record]], weights: np.ndarray, *, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each score by seed, [seeds], and its mean over resampled seeds and examples, [draws]."""
    over_seeds = seed_weights(len(records), draws=len(weights), seed=seed)
    once = [task.reduce(one, np.ones((1, weights.shape[1]))) for one in records]
    often = [task.reduce(one, weights) for one in records]
    each = {key: np.array([one[key][0] for one in once]) for key in once[0]}
    return each, {key: (over_seeds * np.stack([one[key] for one in often], axis=1)).sum(1) for key in once[0]}


def reaching(made: Estimate, exact: Sequence[Estimate]) -> Estimate:
    """An interval that reaches at least as far as those of single runs that are exact."""
    if not exact:
        return made
    return replace(
        made,
        low=min(made.low, *(e.low for e in exact)),
        high=max(made.high, *(e.high for e in exact)),
        lower=min(made.lower, *(e.lower for e in exact)),
        how="exact",
        differing=max((e.differing for e in exact if e.differing is not None), default=None),
    )


def widened(made: Estimate, draws: np.ndarray, *each: np.ndarray, rows: int) -> Estimate:
    """The interval of a mean over few seeds, or of the difference of two, `each` a seed's value: as much wider as Student's t is than
    the normal distribution, with the degrees of freedom of `spread`; `rows` are so many."""
    if rows == 1:
        return replace(made, low=-np.inf, high=np.inf, lower=-np.inf)
    variance, freedom, more = spread(draws, each, rows=rows)
    if not variance > 0:  # also where it is no number
        return made
    two, one = (float(stdtrit(freedom, level) / ndtri(level) * more) for level in (0.975, 0.95))
    low, high, lower = (
        made.value + (end - made.value) * by for end, by in ((made.low, two), (made.high, two), (made.lower, one))
    )
    return replace(made, low=low, high=high, lower=lower)


def spread(draws: np.ndarray, each: Sequence[np.ndarray], *, rows: int) -> tuple[float, float, float]:
    """Variance of the mean or difference, unbiased, its degrees of freedom, and by how much its root is larger than the draws' own; no
    numbers where nothing varies.

    The degrees of freedom are those with which Student's t gives the 95 % half-width whose square is the sum of the squares of the
    seeds' part and the rows' part, each with its own t. Those of Satterthwaite for the sum of both are too many where a few seeds
    happen to lie close together: they jump to the rows' hundreds.
    Source: Zou and Donner 2008, Construction of Confidence Limits about Effect Measures (squares of half-widths); for the two sides'
    seeds Welch 1947.
    """
    of_seeds = [float(values.var(ddof=1)) / len(values) for values in each if len(values) > 1]
    finite = draws[np.isfinite(draws)]
    of_rows = max(float(finite.var()) - sum(of_seeds), 0.0) if finite.size else 0.0
    if rows == 1 or not sum(of_seeds) + of_rows > 0:
        return np.nan, np.nan, np.nan
    unbiased = of_rows * rows / (rows - 1)
    variance = sum(of_seeds) + unbiased
    half_width = np.hypot(seeds_half_width(each), stdtrit(rows - 1, 0.975) * np.sqrt(unbiased))
    freedom = float(stdtridf(0.975, half_width / np.sqrt(variance)))
    return variance, freedom, float(np.sqrt(variance / (sum(of_seeds) + of_rows)))


def seeds_half_width(each: Sequence[np.ndarray], *, level: float = 0.975) -> float:
    """What the seeds alone add to the half-width of the interval of a mean, or of a difference of two: with endless rows it would be this."""
    parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in each if len(values) > 1]
    variance = sum(part for part, _ in parts)
    if not variance > 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    return float(stdtrit(freedom, level) * np.sqrt(variance))


def seed_weights(seeds: int, *, draws: int, seed: int) -> np.ndarray:
    """Weights of seeds in resampled means of their scores, [draws, seeds]; one seed is always itself.

    Those of a plain bootstrap, further from equal by sqrt(n / (n - 1)): the mean's variance over draws is then the unbiased s^2 / n.
    Without it two seeds would give half of that. Source: Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans.
    """
    if seeds == 1:
        return np.ones((draws, 1))
    equal = 1.0 / seeds
    drawn = bootstrap_weights(seeds, draws=draws, seed=seed) / seeds
    made: np.ndarray = equal + (drawn - equal) * np.sqrt(seeds / (seeds - 1))
    return made
