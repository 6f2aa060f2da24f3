"""Numbers and strings as a reader sees them. Text from data never reaches a page but through `visible`."""

from __future__ import annotations

import datetime
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

LONGEST = 400
NONE = "–"
NEAR_ZERO = 0.05
"""A base's general score below which no ratio to it is told, but the change of the score."""
OWN = "the base's "
"""How the start of a run begins where that is a head of the base's own."""
LOSSES = {
    "cross_entropy": "nats per token, lower is better",
    "perplexity": "lower is better",
    "log_loss": "nats, lower is better",
}
"""What is to be said of scores that are not between 0 and 1 and better where higher."""
# Not what text is made of: control characters but tab and newline, halves of surrogate pairs, non-characters; and what turns the
# direction of all that follows it.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    + "".join(chr(plane * 0x10000 + last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def spelled_out(text: str) -> str:
    """Text without characters that nobody is to meet raw, each told by its number."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def visible(text: object, longest: int = LONGEST) -> str:
    """Text as `spelled_out`, cut after `longest` characters."""
    told = str(text)
    return spelled_out(told if len(told) <= longest else told[:longest].rstrip() + " …")


def known(value: float | None) -> TypeGuard[float]:
    """Whether a number is there and finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None) -> str:
    if not known(value):
        return NONE
    return f"{value:.1f}" if abs(value) >= 10 else f"{value + 0.0:.3f}"  # -0.0 is 0


def estimate(found: Mapping[str, Any] | None) -> str:
    """ "0.885 [0.860, 0.910]"."""
    if found is None or not known(found["value"]):
        return NONE
    return f"{number(found['value'])} {bounds(found, number)}"


def bounds(found: Mapping[str, Any], form: Callable[[float], str]) -> str:
    """The ends of an estimate's interval, which over one row or group has none."""
    low, high = found["low"], found["high"]
    return f"[{form(low)}, {form(high)}]" if known(low) and known(high) else "(no bounds)"


def change(found: Mapping[str, Any], kind: str) -> str:
    """A gain, or change of the general score, with its sign; anything else (retention, agreement) in percent."""
    if is_difference(kind):
        found = less_one(found)
    value = found["value"]
    if not known(value):
        return NONE
    if kind == "gain" or is_difference(kind):
        return f"{_signed(value)} {bounds(found, _signed)}"
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}% {bounds(found, lambda end: f'{100 * end:.1f}')}"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{number(value)}"


def is_difference(kind: str) -> bool:
    """Whether what is recorded as kept is 1 plus the change of the general score, as the base's is too near 0 for a ratio."""
    return "difference" in kind


def less_one(found: Mapping[str, Any]) -> dict[str, Any]:
    """The change of the general score, of what is recorded as kept."""
    return {**found, **{k: found[k] - 1 if known(found[k]) else None for k in ("value", "low", "high")}}


def kept(value: float | None, kind: str) -> str:
    """Retention or agreement in percent, or the change of the general score with its sign."""
    if not known(value):
        return NONE
    return f"{value - 1:+.3f}" if is_difference(kind) else f"{100 * value:.1f} %"


def kind_name(kind: str) -> str:
    """What a side's change is, in words."""
    return "change of the general score" if is_difference(kind) else spoken(kind)


def frontier_kind(scores: Mapping[str, Any]) -> str:
    """What is kept at each strength of the frontier, as a general side's `kind` says it: the choosing rows have a base's score of their
    own."""
    kind: str = (scores.get("general") or {"kind": "agreement"})["kind"]
    if not kind.startswith("retention"):
        return kind
    base = next(point["general"] for point in scores["frontier"] if point["strength"] == 0)
    near = scores.get("higher_is_better", True) and base is not None and base < NEAR_ZERO
    return "retention (difference)" if near else "retention (ratio)"


def share(value: float | None) -> str:
    return NONE if not known(value) else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def strength_name(strength: float) -> str:
    """ "base (0)", "tuned (1)" or the number."""
    return {0.0: "base (0)", 1.0: "tuned (1)"}.get(strength, f"{strength:g}")


def date(seconds: float | None) -> str:
    """Of seconds since 1970."""
    if seconds is None:
        return NONE
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def size(count_bytes: int | None) -> str:
    return NONE if count_bytes is None else f"{count_bytes / 2**20:,.0f} MiB"


def score_name(name: str) -> str:
    """A score's name, of a loss with its unit and that lower is better."""
    return f"{name} ({LOSSES[name]})" if name in LOSSES else name


def spoken(key: str) -> str:
    """A key of the records as words."""
    return key.replace("_", " ")


def decisions(task: str, labels: Mapping[str, Any]) -> str:
    """What stated probabilities are of, as calibration counts them; `labels`: the task in the run's tasks.json."""
    if task == "token-classification":
        return "tags of all words in and outside entities"
    return "yes-or-no decisions on each label of each row" if labels.get("multi_label") else "answers"


def entities_told(found: Mapping[str, float]) -> str:
    """How far the stated scores of answered entities can be believed."""
    return (
        f"Entities answered on test ({found['count']:,}) have a mean score of {found['confidence']:.2f}, and {found['accuracy']:.2f} of them are "
        f"right: calibration error {found['ece']:.3f}, where a perfect model would show {found['by_chance']:.3f} on as many."
    )


def base_told(scores: Mapping[str, Any]) -> str:
    """What strength 0 is: the base with which head."""
    start = scores["start"]
    if start.startswith(OWN):
        return f"Base (0) is the base as it came, with its {start.removeprefix(OWN)}."
    return f"Base (0) is the base with {start} and the body as it came: gains are over that."


def further(scores: Mapping[str, Any], *, run: str) -> str | None:
    """What another strength would gain and cost on the rows that strengths are compared on, where one gains much more beyond chance; where
    the base was chosen only of a trade. `run`: how commands name the run."""
    points = {point["strength"]: point for point in scores["frontier"]}
    chosen = points[scores["chosen_strength"]]
    if not (told := scores.get("alternative")) or not (chosen["strength"] or scores["verdict"]["kind"] == "trade"):
        return None
    found = points[told["strength"]]
    if chosen["retention"] is None:
        return (
            "Without general rows to choose on (--general) strength 1 is taken, though on the rows that strengths are compared on "
            f"{scores['primary']} is {found['domain']:.3f} at strength {found['strength']:g} and {chosen['domain']:.3f} at 1: {_command(run, found['strength'])}"
        )
    kind = frontier_kind(scores)
    name = {"agreement": "agreement with the base", "retention (ratio)": "retention"}.get(kind, kind_name(kind))
    return (
        f"More is to be had for more loss: at strength {found['strength']:g} {scores['primary']} is {found['domain']:.3f} "
        f"instead of {chosen['domain']:.3f} and {name} {kept(found['retention'], kind)} instead of "
        f"{kept(chosen['retention'], kind)} on the rows that the strength was chosen on: {_command(run, found['strength'])}"
    )


def _command(run: str, strength: float) -> str:
    return f"`domaintune balance {shlex.quote(run)} --strength {strength:g} --set-strength` takes it."


FORMATS = {
    f.__name__: f
    for f in (
        visible,
        number,
        estimate,
        change,
        share,
        count,
        strength_name,
        score_name,
        entities_told,
        kind_name,
        kept,
        date,
        duration,
        size,
        spoken,
    )
}


def silence_told(scores: Mapping[str, Any]) -> list[str]:
    """That the model shows no box on many pictures with objects; nothing where it does, or where the run is no detector's."""
    if not (found := scores.get("silence")):
        return []
    return [
        f"No box reaches a confidence of {found['threshold']:g} on {found['silent']:,} of {found['pictures']:,} test pictures with objects: "
        "the model shows nothing there, though scores count all its boxes. More labels or more epochs make it surer; a lower "
        "task.threshold shows more."
    ]
