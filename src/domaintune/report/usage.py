"""How to use a run: commands and Python that do what they say when they are pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from domaintune.report.records import Records

LONGEST_INPUT = 80
ANY_TEXT, ANY_PICTURE = "Write your own text here.", "picture.jpg"
PICTURE_TASKS = ("image-classification", "object-detection")


@dataclass(frozen=True, slots=True)
class Snippet:
    """`language` is "sh" or "python"."""

    title: str
    language: str
    code: str


def snippets(records: Records) -> list[Snippet]:
    """For the page that stays on this machine: the run by its full path, an input from its test part."""
    run, (given, domain) = str(records.path), example_input(records)
    quoted, command = shlex.quote(run), "domaintune predict"
    told = ", of no domain that has a weight" if records.dial.get("domains") else ""
    made = [Snippet(f"One input a line{told}", "sh", f"echo {shlex.quote(given)} | {command} {quoted} -")]
    rows = records.recipe.get("test") or records.recipe["train"]
    if isinstance(rows, str) and Path(rows).exists():
        file = shlex.quote(str(Path(rows).resolve()))
        encoding = records.recipe["data"].get("encoding")
        told = "" if encoding is None else f" --encoding {shlex.quote(encoding)}"
        made.append(Snippet("A whole file", "sh", f"{command} {quoted} {file}{told} --output answers.jsonl"))
    half = f"echo {shlex.quote(given)} | {command} {quoted} - --strength 0.5"
    made.append(Snippet("Elsewhere on the dial: 0 is the base, 1 fully tuned", "sh", half))
    made.append(Snippet("From Python", "python", python(run, [_row(records, given, domain)])))
    made.append(Snippet("This page again", "sh", f"domaintune report {quoted}"))
    return made


def card_snippets(records: Records) -> list[Snippet]:
    """For the card that may be published: the run by its folder's name, no row of the data."""
    given = ANY_PICTURE if records.state["task"] in PICTURE_TASKS else ANY_TEXT
    shell = f"echo {shlex.quote(given)} | domaintune predict {shlex.quote(records.folder_name)} -"
    return [Snippet("", "sh", shell), Snippet("", "python", python(records.folder_name, [_row(records, given, None)]))]


def python(run: str, inputs: Sequence[str | Mapping[str, str]]) -> str:
    given = ", ".join(json.dumps(value, ensure_ascii=False) for value in inputs)
    return "\n".join(
        [
            "from domaintune import load",
            "",
            f"run = load({json.dumps(run, ensure_ascii=False)})",
            f"print(run.predict([{given}]))",
            f"print(run.predict([{given}], strength=0.5))",
        ]
    )


def _row(records: Records, given: str, domain: str | None) -> str | dict[str, str]:
    """The input itself, where domains have weights as a row that names one (by default the first), as the scored rows did."""
    domains, column = list(records.dial.get("domains", {})), records.recipe["data"].get("domain_column")
    if not domains or column is None:
        return given
    return {_input_column(records): given, column: domains[0] if domain is None else domain}


def _input_column(records: Records) -> str:
    task, settings, made = records.state["task"], records.recipe["task"], records.tasks["domain"]
    if task in PICTURE_TASKS:
        return "image"
    if task == "generation" and not (made.get("turn_end_ids") or made.get("chats_as_lines")):
        return str(settings.get("prompt_column") or "prompt")
    return str(settings.get("text_column") or "text")


def example_input(records: Records) -> tuple[str, str | None]:
    """The first input of the test part that is plain to paste, and its domain, if it names one; a sentence of ours where there is none."""
    pictures = records.state["task"] in PICTURE_TASKS
    for row in records.test:
        text = str(row.get("input", ""))
        if pictures and Path(text).exists():
            text = str(Path(text).resolve())
        if _plain(text) and (pictures or len(text) <= LONGEST_INPUT):
            return text, row.get("domain")
    return ANY_PICTURE if pictures else ANY_TEXT, None


def _plain(text: str) -> bool:
    """Whether every shell's `echo` passes it on as it is."""
    return bool(text.strip()) and text.isprintable() and "\\" not in text and not text.startswith("-")
