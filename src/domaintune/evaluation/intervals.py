"""Intervals for scores, gains and retention: bootstrap over examples or groups, exact binomial bounds where few examples differ.

Pure functions of records and weights. Nothing here knows a task but through its `reduce` and `primary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from domaintune.tasks.base import Primary, Record, Task

Kind = Literal["ratio", "difference"]

FEW = 5
LOSSES, SIGNED = ("log_loss", "cross_entropy", "perplexity"), ("mcc",)
"""Scores that are not between 0 and 1: from 0 up, and from -1 to 1."""
MEANS_OF_CLASSES = {"macro_f1", "mAP", "mAP50"}
"""Scores that resamples shift, as they lose rare classes and hold answers several times: their intervals are mirrored at the value (basic
bootstrap). Source: Davison and Hinkley 1997, section 5.2."""
UNDEFINED_BELOW = 0.05


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its two-sided 95 % interval [low, high] and one-sided 95 % lower bound.

    `how` is "bootstrap" or "exact"; `differing` counts the examples on which the two compared models differ (None: one model).
    With fewer than 5 of them, or all in fewer than 5 of many groups, a bootstrap interval is too narrow, and "exact" bounds of their
    share widen it.
    """

    value: float
    low: float
    high: float
    lower: float
    how: Literal["bootstrap", "exact"] = "bootstrap"
    differing: int | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Estimate:
        """As `plain` gave it, read back from JSON, where what is no finite number is null."""
        unknown = {"value": np.nan, "low": -np.inf, "high": np.inf, "lower": -np.inf}
        known: dict[str, Any] = {key: unknown.get(key) if value is None else value for key, value in plain.items()}
        return cls(**known)


def bootstrap_weights(count: int, *, draws: int, seed: int, groups: Sequence[str | None] | None = None) -> np.ndarray:
    """Multinomial weights [draws, count]: how often each example occurs in each resample.

    With `groups` whole groups are drawn (an example without a group is its own).
    """
    generator = np.random.default_rng([seed, count])
    if groups is None or all(group is None for group in groups):
        return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    names = [("row", i) if group is None else ("group", group) for i, group in enumerate(groups)]
    position = {name: i for i, name in enumerate(dict.fromkeys(names))}
    drawn = generator.multinomial(len(position), np.full(len(position), 1 / len(position)), size=draws)
    return drawn[:, [position[name] for name in names]].astype(np.float64)


def percentiles(value: float, draws: np.ndarray, *, units: int | None = None) -> Estimate:
    """Percentile interval of bootstrap draws (draws that are not finite are left out).

    With `units`, the number of things that were resampled, the interval is as much wider as Student's t with n - 1 degrees of freedom
    is than the normal distribution, times sqrt(n / (n - 1)) for the resamples' variance: percentiles alone hold the truth 73 % of
    the time over three things, and over one have no width. One thing gives no bounds.
    """
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    low, high, lower = (float(end) for end in np.quantile(finite, [0.025, 0.975, 0.05]))
    if units == 1:
        low, high, lower = -np.inf, np.inf, -np.inf
    elif units is not None:
        unbiased = np.sqrt(units / (units - 1))
        two, one = (float(stdtrit(units - 1, level) / ndtri(level) * unbiased) for level in (0.975, 0.95))
        low, high, lower = value + (low - value) * two, value + (high - value) * two, value + (lower - value) * one
    return Estimate(value, low, high, lower)


def drawn_units(weights: np.ndarray) -> int:
    """How many things the draws resample: examples, or the groups whose examples have the same weights in every draw."""
    return len(np.unique(_units(weights)))


def _units(weights: np.ndarray) -> np.ndarray:
    """A number for each example, equal for those that are drawn together."""
    told_apart: np.ndarray = np.random.default_rng(0).random(len(weights)) @ weights
    return np.round(told_apart, 6)  # equal columns may differ in their sums' last bits


def are_few(marked: Sequence[bool], weights: np.ndarray) -> bool:
    """Whether fewer than 5 examples are marked, or those that are lie in fewer than 5 of at least twice as many things that the draws
    resample (where most of all hold some, the draws show how they vary)."""
    if sum(marked) < FEW:
        return True
    units = _units(weights)
    holding = len(np.unique(units[np.array(marked)]))
    return holding < FEW and 2 * holding <= len(np.unique(units))


def binomial_bounds(successes: float, trials: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a proportion. Source: Clopper and Pearson 1934."""
    tail = (1 - level) / 2
    low = 0.0 if successes <= 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes >= trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return low, high


def score_estimates(task: Task, records: Sequence[Record], weights: np.ndarray) -> dict[str, Estimate]:
    """Every score of one model with its interval; a binary primary with few rights or wrongs gets exact bounds."""
    points = {name: float(once[0]) for name, once in task.reduce(records, np.ones((1, len(records)))).items()}
    draws, units = task.reduce(records, weights), drawn_units(weights)
    for name in MEANS_OF_CLASSES & draws.keys():
        draws[name] = 2 * points[name] - draws[name]
    made = {name: within_range(percentiles(value, draws[name], units=units), name) for name, value in points.items()}
    if task.primary.binary:
        right = int(sum(float(r["correct"]) for r in records))
        if any(are_few([float(r["correct"]) == answer for r in records], weights) for answer in (0, 1)):
            rights = units * right / len(records)
            low, high = binomial_bounds(rights, units)
            lower = binomial_bounds(rights, units, level=0.9)[0]
            exact, name = Estimate(right / len(records), low, high, lower, "exact"), task.primary.name
            made[name] = exact if min(right, len(records) - right) < FEW else _reaching(made[name], exact)
    for name in made.keys() - {*LOSSES}:
        # The same in every draw, of however few examples.
        if made[name].low == made[name].high and made[name].value in (0.0, 1.0):
            if name in SIGNED and made[name].value == 0.0:
                continue  # one answer to all, which says nothing of how far from 0 another could be
            low, high = binomial_bounds(units * made[name].value, units)
            lower = binomial_bounds(units * made[name].value, units, level=0.9)[0]
            if name in SIGNED:
                low, lower = 2 * low - 1, 2 * lower - 1
            made[name] = Estimate(made[name].value, low, high, lower, "exact")
    return made


def within_range(made: Estimate, score: str) -> Estimate:
    """The estimate of a score, its interval cut at the smallest and largest value that the score can have."""
    least, most = (0.0, np.inf) if score in LOSSES else (-1.0, 1.0) if score in SIGNED else (0.0, 1.0)
    low, high, lower = (float(np.clip(end, least, most)) for end in (made.low, made.high, made.lower))
    return replace(made, low=low, high=high, lower=lower)


def differing_records(primary: Primary, ours: Sequence[Record], theirs: Sequence[Record]) -> list[bool]:
    """On which examples two models' statistics differ in what the primary score is made of; where it does not say what that is, in
    what is no loss or probability (in those every example does; so do boxes, which move a little)."""
    return [
        any(not _same(a[key], b[key]) for key in primary.counts or (k for k in a if k not in (*LOSSES, "probability")))
        for a, b in zip(ours, theirs, strict=True)
    ]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Counts of tasks with other numbers of types are compared in sum."""
    return bool(np.array_equal(a, b) if np.shape(a) == np.shape(b) else np.sum(a) == np.sum(b))


def decided_records(ours: Sequence[Record], theirs: Sequence[Record]) -> list[bool]:
    """On which examples just one of two models is right: all that a difference of accuracies rests on."""
    return [float(a["correct"]) != float(b["correct"]) for a, b in zip(ours, theirs, strict=True)]


def gain_estimate(task: Task, tuned: Sequence[Record], base: Sequence[Record], weights: np.ndarray) -> Estimate:
    """Tuned minus base of the primary score (for losses base minus tuned), paired: the same resamples for both."""
    name, units = task.primary.name, drawn_units(weights)
    ones = np.ones((1, len(base)))
    value = float(gained(task.primary, task.reduce(tuned, ones)[name][0], task.reduce(base, ones)[name][0]))
    draws = gained(task.primary, task.reduce(tuned, weights)[name], task.reduce(base, weights)[name])
    made = _with_exact_bounds(task, percentiles(value, draws, units=units), tuned, base, weights)
    return within_gains(made, task.primary)


def gained(primary: Primary, tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Gains from scores of equal shape. Where nothing changes 0, of losses too, which a change of sign would make -0."""
    return np.asarray(tuned - base if primary.higher_is_better else base - tuned)


def within_gains(made: Estimate, primary: Primary) -> Estimate:
    """A gain, its interval cut where a score between 0 and 1 cannot gain or lose more; of a loss as it is."""
    if not primary.higher_is_better:
        return made
    return replace(made, low=max(made.low, -1.0), high=min(made.high, 1.0), lower=max(made.lower, -1.0))


def _with_exact_bounds(
    task: Task,
    made: Estimate,
    tuned: Sequence[Record],
    base: Sequence[Record],
    weights: np.ndarray,
    *,
    equal: float = 0.0,
    scale: float = 1.0,
) -> Estimate:
    """A change, `equal` where there is none, in units of `scale`, with the count of examples that differ. Where they are few: of
    accuracies `_exact_difference`, beside the bootstrap's where only groups are few; of other scores an interval that reaches as far as a
    score between 0 and 1 would move in which as many examples as may differ by exact bounds lost or won all."""
    marked, units = differing_records(task.primary, tuned, base), drawn_units(weights)
    made = replace(made, differing=sum(marked))
    if task.primary.binary:
        decided = decided_records(tuned, base)
        if not are_few(decided, weights):
            return made
        gain = _exact_difference(tuned, base, units=units)
        value, low, high, lower = (equal + x / scale for x in (gain.value, gain.low, gain.high, gain.lower))
        exact = Estimate(value, low, high, lower, "exact", made.differing)
        return exact if sum(decided) < FEW else _reaching(made, exact)
    if not task.primary.higher_is_better or not are_few(marked, weights):
        return made
    two, one = (binomial_bounds(units * sum(marked) / len(base), units, level=level)[1] for level in (0.95, 0.9))
    low, high, lower = made.value - two / scale, made.value + two / scale, made.value - one / scale
    return _reaching(made, replace(made, low=low, high=high, lower=lower))


def _reaching(made: Estimate, exact: Estimate) -> Estimate:
    """The estimate with an interval that reaches at least as far as the exact one."""
    low, high, lower = min(made.low, exact.low), max(made.high, exact.high), min(made.lower, exact.lower)
    return replace(made, low=low, high=high, lower=lower, how="exact")


def _exact_difference(tuned: Sequence[Record], base: Sequence[Record], *, units: int) -> Estimate:
    """Difference of two accuracies from the counts of examples won and lost, each with exact bounds at half the error; shares of so many
    `units` where groups of examples hang together."""
    delta = np.array([float(a["correct"]) - float(b["correct"]) for a, b in zip(tuned, base, strict=True)])
    won, lost = (units * int(part.sum()) / len(delta) for part in (delta > 0, delta < 0))
    bounds = {
        level: (binomial_bounds(won, units, level=level), binomial_bounds(lost, units, level=level))
        for level in (0.975, 0.95)
    }
    (won_low, won_high), (lost_low, lost_high) = bounds[0.975]
    one_sided = bounds[0.95][0][0] - bounds[0.95][1][1]
    return Estimate(float(delta.mean()), won_low - lost_high, won_high - lost_low, one_sided, "exact")


def retention_estimate(
    task: Task, tuned: Sequence[Record], base: Sequence[Record], weights: np.ndarray
) -> tuple[Estimate, Kind]:
    """What is kept of the general score, 1 = all: tuned / base; of a loss exp(base - tuned).

    Where the base's score is below .05 the ratio is undefined, and 1 - (base - tuned) stands for it ("difference").
    """
    name, ones, units = task.primary.name, np.ones((1, len(base))), drawn_units(weights)
    b, t = task.reduce(base, ones)[name][0], task.reduce(tuned, ones)[name][0]
    kind = retention_kind(task.primary, float(b))
    draws = kept(task.primary, task.reduce(tuned, weights)[name], task.reduce(base, weights)[name], kind)
    made = percentiles(float(kept(task.primary, t, b, kind)), draws, units=units)
    scale = float(b) if kind == "ratio" else 1.0
    made = _with_exact_bounds(task, made, tuned, base, weights, equal=1.0, scale=scale)
    return above_zero(made) if kind == "ratio" else made, kind


def above_zero(made: Estimate) -> Estimate:
    """A retention told as a ratio: not below 0."""
    return replace(made, low=max(made.low, 0.0), lower=max(made.lower, 0.0))


def retention_kind(primary: Primary, base: float) -> Kind:
    """How retention is told where the base has this score: a ratio, or below .05 a difference."""
    return "difference" if primary.higher_is_better and base < UNDEFINED_BELOW else "ratio"


def kept(primary: Primary, tuned: np.ndarray, base: np.ndarray, kind: Kind) -> np.ndarray:
    """Retention from scores of equal shape."""
    if not primary.higher_is_better:
        return np.asarray(np.exp(base - tuned))
    if kind == "difference":
        return np.asarray(1 - (base - tuned))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(tuned / base)
