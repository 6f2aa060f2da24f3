"""From gain and retention with their intervals to one of four verdicts, and what would decide an open one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from domaintune.evaluation.intervals import Estimate

Kind = Literal["deploy", "trade", "keep the base", "too close to call"]

MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One strength on the parts that nothing was chosen on. `retention` is None without general data; `kind`: what it is, by
    `intervals.retention_kind`, or agreement with the base. `told`: how the strength is named, where it is not the same in all runs
    that the estimates are of."""

    strength: float
    gain: Estimate
    retention: Estimate | None
    kind: Literal["ratio", "difference", "agreement"] = "ratio"
    told: str | None = None


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
) -> Verdict:
    """The first that holds of deploy, trade, keep the base; else too close to call.

    `floor` bounds retention's one-sided lower bound (for agreement: the threshold itself). `full` is strength 1. `why_the_base` is told
    where strength 0 was chosen although strength 1 gains.
    """
    shown = chosen if chosen.strength > 0 else full
    gain, kept = shown.gain, shown.retention
    tail = "no general data, so what was lost is unknown" if kept is None else _told_kept(kept, shown.kind)
    at_one = "at strength 1: " if chosen.strength == 0 else ""
    told = f"{at_one}gain {_signed(gain)}, {tail}"
    if chosen.strength > 0 and gain.low > 0 and (kept is None or kept.lower >= floor):
        return Verdict("deploy", f"Deploy at {chosen.told or f'strength {chosen.strength:g}'}: {told}.")
    if chosen.strength == 0 and full.gain.low > 0:
        return Verdict("trade", f"A trade: {why_the_base}; {told}.")
    whole = floor if shown.kind == "agreement" else 1.0
    if gain.high < 0 or (gain.low <= 0 and kept is not None and kept.high < whole):
        return Verdict("keep the base", f"Keep the base: {told}.")
    return _open(shown, told, floor=floor, test_rows=test_rows, general_rows=general_rows)


def _open(shown: Confirmed, told: str, *, floor: float, test_rows: int, general_rows: int) -> Verdict:
    gain, kept = shown.gain, shown.retention
    test_needed = general_needed = None
    wants = []
    word, setting = (
        ("agreement", "balance.keep_agreement") if shown.kind == "agreement" else ("retention", "balance.floor")
    )
    if gain.low <= 0:
        if gain.value > 0 and gain.low in (-1.0, -math.inf):  # as far as it goes
            wants.append("the test part has too few rows, or groups of them, to show how far they vary")
        elif gain.value > 0:
            test_needed = _rows(test_rows, gain.value - gain.low, gain.value)
            wants.append(
                f"about {test_needed:,} test rows would show a gain of this size"
                if test_needed
                else f"a gain of this size would need more than {MOST_ROWS:,} test rows to show"
            )
        else:
            wants.append("no gain is seen; more or better training rows would have to bring one")
    if kept is not None and kept.lower < floor:
        if kept.value > floor:
            general_needed = _rows(general_rows, kept.value - kept.lower, kept.value - floor)
            wants.append(
                f"about {general_needed:,} general rows would settle the {word}"
                if general_needed
                else f"{word} is at the floor of {floor:g}, above which only a lower strength can lift it"
            )
        else:
            wants.append(f"{word} is below the floor of {floor:g}: lower the strength or the floor ({setting})")
    sentence = f"Too close to call: {told}" + (f"; {'; '.join(wants)}." if wants else ".")
    return Verdict("too close to call", sentence, test_needed, general_needed)


def _rows(now: int, margin: float, wanted: float) -> int | None:
    """Rows at which an interval of half-width `margin` shrinks to `wanted`: widths go with 1 / sqrt(rows). None above what anyone
    would label."""
    needed = now * (margin / wanted) ** 2
    return math.ceil(needed / 10) * 10 if needed <= MOST_ROWS else None


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _told_kept(kept: Estimate, kind: str) -> str:
    if kind == "difference":
        change = Estimate(kept.value - 1, kept.low - 1, kept.high - 1, kept.lower - 1)
        return f"general score {_signed(change)} (the base's is too near 0 for a ratio)"
    word = "agreement with the base" if kind == "agreement" else "retention"
    return f"{word} {100 * kept.value:.1f} % [{100 * kept.low:.1f}, {100 * kept.high:.1f}]"
