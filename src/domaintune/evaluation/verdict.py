"""From gain and retention with their intervals to one of four verdicts, and what would decide an open one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from domaintune.evaluation.intervals import Estimate

Kind = Literal["deploy", "trade", "keep the base", "too close to call"]

MOST_ROWS = 10_000
NOTHING_LEFT = 0.995
UNLABELLED = {"agreement": "agreement with the base", "likelihood": "kept likelihood of the base's answers"}
"""What is told of general rows without labels, by kind: agreement, or of a primary score that is a loss exp(base - tuned) on the base's
answers. That is no share: no model is certain of its own answers, and another may be surer of them."""
TWO_SIDED, ONE_SIDED = (1 + 0.8416 / 1.96) ** 2, (1 + 0.8416 / 1.6449) ** 2
"""How many times the rows that give an interval of the wanted half-width, for a power of 80 %. Source: Cohen 1988."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One strength on the parts that nothing was chosen on. `retention` is None without general data; `kind`: what it is, by
    `intervals.retention_kind`, or agreement with the base or the kept likelihood of its answers. `told`: how the strength is named, where it is not the same in all runs
    that the estimates are of. `score`: the primary score, None of losses."""

    strength: float
    gain: Estimate
    retention: Estimate | None
    kind: Literal["ratio", "difference", "agreement", "likelihood"] = "ratio"
    told: str | None = None
    score: float | None = None


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

    `floor` bounds retention's one-sided lower bound (without labels there: the threshold itself). `full` is strength 1. `why_the_base` is told
    where strength 0 was chosen although strength 1 gains.
    """
    shown = chosen if chosen.strength > 0 else full
    gain, kept = shown.gain, shown.retention
    tail = "no general data, so what was lost is unknown" if kept is None else _told_kept(kept, shown.kind)
    at_one = "at strength 1: " if chosen.strength == 0 else ""
    told = f"{at_one}gain {_signed(gain)}, {tail}"
    constant = majority is not None and shown.score is not None and shown.score <= majority
    if chosen.strength > 0 and gain.low > 0 and (kept is None or kept.lower >= floor) and not constant:
        return Verdict("deploy", f"Deploy at {chosen.told or f'strength {chosen.strength:g}'}: {told}.")
    if chosen.strength == 0 and full.gain.low > 0 and not constant:
        return Verdict("trade", f"A trade: {why_the_base}; {told}.")
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
    word, setting = {
        **{kind: (kind, "balance.keep_agreement") for kind in UNLABELLED},
        "difference": ("change of the general score", "balance.floor less 1"),
    }.get(shown.kind, ("retention", "balance.floor"))
    least = floor - 1 if shown.kind == "difference" else floor
    if gain.low <= 0:
        if gain.value > 0 and gain.low in (-1.0, -math.inf):  # as far as it goes
            wants.append("the test part has too few rows, or groups of them, to show how far they vary")
        elif gain.value > 0:
            test_needed = _rows(test_rows, gain.value - gain.low, gain.value, TWO_SIDED)
            wants.append(
                f"about {test_needed:,} test rows (now {test_rows:,}) would show a gain of this size in 4 of 5 cases"
                if test_needed
                else f"a gain of this size would need more than {MOST_ROWS:,} test rows to show"
            )
        elif shown.score is not None and shown.score - gain.value >= NOTHING_LEFT:
            wants.append("the base leaves next to nothing to gain on the test part")
        else:
            wants.append("no gain is seen; more or better training rows would have to bring one")
    if kept is not None and kept.lower < floor:
        if kept.value > floor:
            general_needed = _rows(general_rows, kept.value - kept.lower, kept.value - floor, ONE_SIDED)
            wants.append(
                f"about {general_needed:,} rows in the general part that is told of (now {general_rows:,}) would settle the {word} in 4 "
                "of 5 cases"
                if general_needed
                else f"{word} is at the floor of {least:g}, above which only a lower strength can lift it"
            )
        else:
            wants.append(f"{word} is below the floor of {least:g} ({setting}): a lower strength would lose less")
    sentence = f"Too close to call: {told}" + (f"; {'; '.join(wants)}." if wants else ".")
    return Verdict("too close to call", sentence, test_needed, general_needed)


def _rows(now: int, margin: float, wanted: float, power: float) -> int | None:
    """Rows at which an interval of half-width `margin` so shrinks that it leaves out what is `wanted` away in 4 of 5 samples: widths go
    with 1 / sqrt(rows). None above what anyone would label."""
    needed = now * power * (margin / wanted) ** 2
    return math.ceil(needed / 10) * 10 if needed <= MOST_ROWS else None


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
