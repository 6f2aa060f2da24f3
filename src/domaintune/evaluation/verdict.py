"""From gain and retention with their intervals to one of four verdicts, and what would decide an open one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import gammaincinv, ndtri

from domaintune.evaluation.intervals import FEW, Estimate

Kind = Literal["deploy", "trade", "keep the base", "too close to call"]

MOST_ROWS = 10_000
NOTHING_LEFT = 0.995
UNLABELLED = {"agreement": "agreement with the base", "likelihood": "kept likelihood of the base's answers"}
"""What is told of general rows without labels, by kind: agreement, or of a primary score that is a loss exp(base - tuned) on the base's
answers. That is no share: no model is certain of its own answers, and another may be surer of them."""
TWO_SIDED, ONE_SIDED, POWER = 0.975, 0.95, 0.8
"""The quantiles behind an estimate's `low` and `lower`, and the share of samples in which asked rows are to show what they are asked for."""
SURELY_FEW = FEW + 2
"""Where so many rows are expected to differ, 4 of 5 samples hold the 5 of which a bootstrap is made."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One strength on the parts that nothing was chosen on. `retention` is None without general data; `kind`: what it is, by
    `intervals.retention_kind`, or agreement with the base or the kept likelihood of its answers. `told`: how the strength is named, where it is not the same in all runs
    that the estimates are of. `score`: the primary score, None of losses. Of several seeds their number, and what they alone add to the
    half-widths, of the gain (two-sided) and of what is kept (one-sided): no number of rows narrows that."""

    strength: float
    gain: Estimate
    retention: Estimate | None
    kind: Literal["ratio", "difference", "agreement", "likelihood"] = "ratio"
    told: str | None = None
    score: float | None = None
    seeds: int = 1
    gain_of_seeds: float = 0.0
    kept_of_seeds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    sentence: str
    test_rows_needed: int | None = None
    general_rows_needed: int | None = None

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    chosen: Confirmed,
    full: Confirmed,
    *,
    floor: float,
    test_rows: int,
    general_rows: int,
    why_the_base: str,
    majority: float | None = None,
) -> Verdict:
    """The first that holds of deploy, trade, keep the base; else too close to call, as is a model that scores no more than always giving
    the commonest answer (`majority`).

    `floor` bounds retention (without labels there: the threshold itself): to deploy its one-sided lower bound, for a trade its interval. `full`
    is strength 1. `why_the_base` is told where strength 0 was chosen although strength 1 gains.
    """
    shown = chosen if chosen.strength > 0 else full
    gain, kept = shown.gain, shown.retention
    tail = "no general data, so what was lost is unknown" if kept is None else _told_kept(kept, shown.kind)
    at_one = "at strength 1: " if chosen.strength == 0 else ""
    at = chosen.told or f"strength {chosen.strength:g}"
    told = f"{at_one}gain {_signed(gain)}, {tail}"
    constant = majority is not None and shown.score is not None and shown.score <= majority
    if chosen.strength > 0 and gain.low > 0 and (kept is None or kept.lower >= floor) and not constant:
        return Verdict("deploy", f"Deploy at {at}: {told}.")
    if chosen.strength == 0 and full.gain.low > 0 and not constant:
        return Verdict("trade", f"A trade: {why_the_base}; {told}.")
    if chosen.strength > 0 and gain.low > 0 and kept is not None and kept.high < floor and not constant:
        word, setting, least = _floor_told(shown.kind, floor)
        paid = f"{word} is below the floor of {least:g} ({setting}); at {at}: {told}"
        return Verdict("trade", f"A trade: {paid}; a lower strength would lose less.")
    whole = floor if shown.kind in UNLABELLED else 1.0
    if gain.high < 0 or (gain.low <= 0 and kept is not None and kept.high < whole):
        return Verdict("keep the base", f"Keep the base: {told}.")
    wants = (
        [f"always the commonest answer scores {majority:.3f} as well: rare labels need more rows or weight"]
        if constant
        else []
    )
    return _open(shown, told, wants, floor=floor, test_rows=test_rows, general_rows=general_rows)


def _open(shown: Confirmed, told: str, wants: list[str], *, floor: float, test_rows: int, general_rows: int) -> Verdict:
    gain, kept = shown.gain, shown.retention
    test_needed = general_needed = None
    word, setting, least = _floor_told(shown.kind, floor)
    if gain.low <= 0:
        if gain.value > 0 and gain.low in (-1.0, -math.inf):  # as far as it goes
            wants.append("the test part has too few rows, or groups of them, to show how far they vary")
        elif gain.value > 0:
            test_needed, seeds = _rows(test_rows, gain, gain.value, level=TWO_SIDED, of_seeds=shown.gain_of_seeds)
            wants.append(
                f"about {test_needed:,} test rows (now {test_rows:,}) would show a gain of this size in 4 of 5 cases"
                if test_needed
                else f"more seeds (now {shown.seeds}) are needed to show a gain of this size: test rows alone would not"
                if seeds
                else f"a gain of this size would need more than {MOST_ROWS:,} test rows to show"
            )
        elif shown.score is not None and shown.score - gain.value >= NOTHING_LEFT:
            wants.append("the base leaves next to nothing to gain on the test part")
        else:
            wants.append("no gain is seen; more or better training rows would have to bring one")
    if kept is not None and kept.lower < floor:
        if kept.value > floor:
            above = kept.value - floor
            general_needed, seeds = _rows(general_rows, kept, above, level=ONE_SIDED, of_seeds=shown.kept_of_seeds)
            wants.append(
                f"about {general_needed:,} rows in the general part that is told of (now {general_rows:,}) would settle the {word} in 4 "
                "of 5 cases"
                if general_needed
                else f"more seeds (now {shown.seeds}) are needed to settle the {word}: general rows alone would not"
                if seeds
                else f"{word} is too little above the floor of {least:g} for {MOST_ROWS:,} general rows to show; a lower strength would lift it"
            )
        else:
            wants.append(f"{word} is below the floor of {least:g} ({setting}): a lower strength would lose less")
    sentence = f"Too close to call: {told}" + (f"; {'; '.join(wants)}." if wants else ".")
    return Verdict("too close to call", sentence, test_needed, general_needed)


def _floor_told(kind: str, floor: float) -> tuple[str, str, float]:
    """What is kept, as it is named beside its floor, the setting of that, and the floor as it is told."""
    word, setting = {
        **{kind: (kind, "balance.keep_agreement") for kind in UNLABELLED},
        "difference": ("change of the general score", "balance.floor less 1"),
    }.get(kind, ("retention", "balance.floor"))
    return word, setting, floor - 1 if kind == "difference" else floor


def _rows(now: int, seen: Estimate, wanted: float, *, level: float, of_seeds: float) -> tuple[int | None, bool]:
    """The fewest rows above `now` at which the interval leaves out what lies `wanted` below the value in 4 of 5 samples, were all rates
    as seen; None above what anyone would label, and then whether it is the seeds' part of the half-width that stands in the way.

    The rows' part goes with 1 / sqrt(rows). Where so few rows differ that bounds are exact it goes with how far these reach from the
    count, about 1 / rows, until enough differ for the bootstrap. Source: Cohen 1988, for the power.
    """
    margin = seen.value - (seen.low if level == TWO_SIDED else seen.lower)
    if not math.isfinite(margin):
        return None, False
    of_rows = math.sqrt(max(margin**2 - of_seeds**2, 0.0))
    rows = np.arange(now // 10 * 10 + 10, MOST_ROWS + 1, 10)
    if seen.how == "exact":
        few = (1 - seen.value) * now if seen.differing is None else seen.differing
        # Of shares of not many rows exact bounds lie nearer than those of counts, by about half the reach over the rows.
        differing, scale = few * rows / now, of_rows * (now / _reach(few, level=level) + 0.5)
        error = scale * np.sqrt(differing * (1 - few / now)) / rows
        exact = scale * _reach(differing, level=level) / rows
        bound = np.where(differing < SURELY_FEW, exact, ndtri(level) * error)
    else:
        bound = of_rows * np.sqrt(now / rows)
        error = bound / ndtri(level)
    for fixed in (of_seeds, 0.0):
        enough = np.hypot(fixed, bound) + ndtri(POWER) * error <= wanted
        if enough.any():
            return (int(rows[enough.argmax()]), False) if fixed == of_seeds else (None, True)
    return None, False


def _reach(count: Any, *, level: float) -> Any:
    """How far above a count, or an array of them, its exact bound lies, at half the error, as of a difference of two. Source: Garwood
    1936, for counts of rare things."""
    return gammaincinv(count + 1, (1 + level) / 2) - count


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} {_bounds(estimate, '+.3f')}"


def _bounds(estimate: Estimate, form: str, *, scale: int = 1) -> str:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "(no bounds)"
    return f"[{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"


def _told_kept(kept: Estimate, kind: str) -> str:
    if kind == "difference":
        change = Estimate(kept.value - 1, kept.low - 1, kept.high - 1, kept.lower - 1)
        return f"general score {_signed(change)} (the base's is too near 0 for a ratio)"
    return f"{UNLABELLED.get(kind, 'retention')} {100 * kept.value:.1f} % {_bounds(kept, '.1f', scale=100)}"
