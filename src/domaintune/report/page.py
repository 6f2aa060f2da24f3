"""The run's page: one HTML file that needs nothing else, escaped throughout. `templates/page.html` is its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from domaintune.report import answers, figures
from domaintune.report.answers import Case
from domaintune.report.records import Records
from domaintune.report.thumbnails import Thumbnail, thumbnail
from domaintune.report.usage import PICTURE_TASKS, snippets
from domaintune.report.wording import FORMATS, base_told, frontier_kind, further, silence_told, strength_name
from domaintune.run import flatten

MOST_CASES = 8
COLOURS = {0.0: figures.BASE, 1.0: figures.TUNED}
VERDICTS = {"deploy": "good", "trade": "mixed", "keep the base": "bad"}


def render_page(records: Records) -> str:
    """The whole page as HTML text."""
    environment = Environment(
        loader=PackageLoader("domaintune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FORMATS)
    for name in ("estimate", "change", "kept"):
        environment.filters[name] = _unbroken(FORMATS[name])
    return environment.get_template("page.html").render(facts(records)) + "\n"


def _unbroken(form: Callable[..., str]) -> Callable[..., str]:
    """An interval stays on one line, a number with its sign of percent."""
    return lambda *given: form(*given).replace(", ", ",\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def facts(records: Records) -> dict[str, Any]:
    """What the template shows, by name; sections that a run has no records for are None or empty."""
    scores, suspects = records.scores, answers.suspects(records.test, MOST_CASES)
    general = answers.scored(records.general, records.recipe["data"].get("general_labels"))
    shown = {case.place for case in suspects}
    mistakes = [case for case in answers.mistakes(records.test, 2 * MOST_CASES) if case.place not in shown]
    return {
        "records": records,
        "scores": scores,
        "verdict_class": VERDICTS.get(records.verdict["kind"], "open"),
        "further": further(scores, run=str(records.path)),
        "frontier_kind": frontier_kind(scores),
        "base_told": base_told(scores),
        "answered": "0 (the base)" if records.chosen == 0 else f"{records.chosen:g}",
        "plots": plots(records),
        "confusion": answers.confusion(records.test, records.labels),
        "by_domain": scores["domain"].get("domains"),
        "growth": scores.get("growth"),
        "classes": records.classes,
        "class_scores": records.class_scores,
        "class_word": "type" if answers.shape_of(records.test) == "entities" else "label",
        "calibration": scores.get("calibration"),
        "robustness": scores.get("robustness"),
        "silence": silence_told(scores),
        "mistakes": mistakes[:MOST_CASES],
        "suspects": suspects,
        "samples": answers.samples(records.test, MOST_CASES),
        "flips": {"test": answers.flips(records.test), "general": answers.flips(general)},
        "picture": lambda case: picture(case, records.state["task"]),
        "settings": settings(records.recipe),
        "snippets": snippets(records),
        "most": MOST_CASES,
    }


def plots(records: Records) -> dict[str, Markup]:
    """SVG by name, of those that the run has records for."""
    scores, primary = records.scores, records.primary
    general = scores.get("general") or {}
    word = "agreement" if general.get("kind") == "agreement" and scores.get("higher_is_better", True) else primary
    better = "" if scores.get("higher_is_better", True) else "(lower is better)"
    frontier = figures.frontier(scores["frontier"], chosen=records.chosen, primary=primary, general=word, better=better)
    made = {"frontier": frontier}
    for name, side in records.sides.items():
        rows = [
            (
                f"{strength_name(s)}, chosen" if s == records.chosen else strength_name(s),
                COLOURS.get(s, figures.CHOSEN),
                side["scores"][f"{s:g}"][primary],
            )
            for s in records.strengths
        ]
        made[f"intervals-{name}"] = figures.intervals(
            rows, name=f"intervals-{name}", label=f"{primary}, {name} {better}".rstrip()
        )
    if scores["epochs"]:
        losses = [epoch["train_loss"] for epoch in scores["epochs"]]
        best = None if scores.get("averaged_epochs") else scores.get("best_epoch")
        made["curves"] = figures.curves(losses, records.dev_scores, best=best, primary=primary, better=better)
    if scores.get("calibration"):
        made["reliability"] = figures.reliability(scores["calibration"]["bins"])
    if robust := scores.get("robustness"):
        made["robustness"] = figures.robustness(
            robust["kinds"], robust["clean"], primary=f"{primary} {better}".rstrip()
        )
    return {name: Markup(svg) for name, svg in made.items()}  # numbers and our own words


def picture(case: Case, task: str) -> Thumbnail | None:
    """The picture of a row of a picture task, where it can still be read; of objects with the given and the wrong boxes."""
    if task not in PICTURE_TASKS:
        return None
    if case.shape != "objects":
        return thumbnail(case.row["input"])
    given = [o["box"] for o in case.row["target"]["objects"]]
    wrong, _ = answers.wrong_and_missed(case.row)
    return thumbnail(case.row["input"], given=given, wrong=[o["box"] for o in wrong])


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What was set of task, method, training, balance and data, by dotted key and as in a recipe, without what is empty."""
    shown = {key: recipe[key] for key in ("task", "method", "training", "balance", "data")}
    held = {key: value for key, value in flatten(shown).items() if value not in (None, [], {}) and value != ""}
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in held.items()
    }
