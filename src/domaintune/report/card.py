"""The model card: README.md with the Hub's front matter. Holds scores, names and counts, no row of the data.

Whatever stands in the card is escaped but what this package wrote itself (`Plain`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from domaintune.report.records import Records
from domaintune.report.usage import card_snippets
from domaintune.report.wording import FORMATS, base_told, estimate, further, known, visible

SPECIAL = re.compile(r"[\\`*_{}\[\]<>|#$~&!@\"]|:(?=//)|(?<=www)\.|^[-+=:]|(?<=^\d)[.)](?=\s|$)|[\n\u2028\u2029]")
LANGUAGE = re.compile("[a-z]{2,3}")
PERCENT = frozenset({"bleu", "chrf"})
"""Scores that the Hub's metrics, as sacrebleu, give from 0 to 100."""
HUB_TASKS = {"generation": "text-generation"}
ADAPTERS = {"lora", "p-tuning"}


class Plain(str):
    """Text of our own that goes into the card as it is."""

    __slots__ = ()


def escaped(value: object) -> str:
    """Text that Markdown and HTML show as it is, in one line; a `Plain` one unchanged.

    Special characters become character references, which every Markdown dialect reads alike (tables and formulas included).
    """
    if isinstance(value, Plain):
        return value
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};" if not found[0].isspace() else " ", visible(value, 1000))


def render_card(records: Records) -> str:
    """The whole card as text."""
    environment = Environment(
        loader=PackageLoader("domaintune.report"),
        autoescape=False,  # Markdown: `finalize` escapes
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({n: _plain(f) if n not in ("visible", "spoken") else f for n, f in FORMATS.items()})
    environment.filters["fenced"] = fenced
    front = yaml.safe_dump(front_matter(records), sort_keys=False, allow_unicode=True, width=120)
    body = environment.get_template("card.md").render(
        records=records, scores=records.scores, snippets=card_snippets(records), further=further(records.scores, run=records.folder_name),
        base_told=base_told(records.scores), findings=counted_findings(records),
    )  # fmt: skip
    return f"---\n{front}---\n\n{body}\n"


def counted_findings(records: Records) -> dict[tuple[str, str], int]:
    """(severity, name) -> count of the data check's findings, those of all parts together."""
    made: Counter[tuple[str, str]] = Counter()
    for found in records.findings:
        if "severity" in found:
            made[found["severity"], found["name"]] += found["count"]
    return made


def _plain(form: Any) -> Any:
    return lambda *given: Plain(form(*given))


def fenced(code: str, language: str) -> Plain:
    """A code block whose fence is longer than any that stands in the code."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return Plain(f"{fence}{language}\n{visible(code, len(code))}\n{fence}")


def front_matter(records: Records) -> dict[str, Any]:
    """The Hub's metadata. `base_model` is only there where the base is on the Hub, `language` where the recipe names one."""
    task, method = records.state["task"], records.state["method"]
    hub_task = HUB_TASKS.get(task, task)
    base = records.provenance.get("base", {})
    # What is learned on an earlier run does not fit the model that this one began from.
    hub = None if base.get("run") else base.get("hub")
    given = records.recipe.get("task", {})
    codes = [given.get("source_language"), given.get("target_language")]
    languages = [code for code in codes if isinstance(code, str) and LANGUAGE.fullmatch(code)]
    made: dict[str, Any] = {}
    if languages:
        made["language"] = languages
    made |= {"library_name": "domaintune", "pipeline_tag": hub_task, "tags": ["domaintune", str(method)]}
    if hub:
        made["base_model"] = visible(hub)
        made["base_model_relation"] = "adapter" if method in ADAPTERS else "finetune"
    made["metrics"] = [records.primary]
    results = [_result(hub_task, name, side, records) for name, side in records.sides.items()]
    made["model-index"] = [{"name": visible(records.name), "results": results}]
    return made


def _result(task: str, name: str, side: Mapping[str, Any], records: Records) -> dict[str, Any]:
    found = side["scores"][f"{records.chosen:g}"]
    metrics = [
        {"type": score, "value": round(value["value"], 6), "name": f"{score} {estimate(value)}"}
        for score, value in ((score, _on_the_hub(score, value)) for score, value in found.items())
        if known(value["value"])
    ]
    dataset = {"name": f"{name}: {side['name']}, {side['rows']} rows", "type": name}
    return {"task": {"type": task}, "dataset": dataset, "metrics": metrics}


def _on_the_hub(score: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A score's estimate on the scale that the Hub has it on."""
    times = 100 if score in PERCENT else 1
    return {**found, **{key: times * found[key] for key in ("value", "low", "high") if known(found[key])}}
