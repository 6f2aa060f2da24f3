"""How to use a run: commands and Python that do what they say when they are pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
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
    run, given = str(records.path), example_input(records)
    quoted, command = shlex.quote(run), "domaintune predict"
    made = [Snippet("One input a line", "sh", f"echo {shlex.quote(given)} | {command} {quoted} -")]
    rows = records.recipe.get("test") or records.recipe["train"]
    if isinstance(rows, str) and Path(rows).exists():
        file = shlex.quote(str(Path(rows).resolve()))
        encoding = records.recipe["data"].get("encoding")
        told = "" if encoding is None else f" --encoding {shlex.quote(encoding)}"
        made.append(Snippet("A whole file", "sh", f"{command} {quoted} {file}{told} --output answers.jsonl"))
    half = f"echo {shlex.quote(given)} | {command} {quoted} - --strength 0.5"
    made.append(Snippet("Elsewhere on the dial: 0 is the base, 1 fully tuned", "sh", half))
    made.append(Snippet("From Python", "python", python(run, [given])))
    made.append(Snippet("This page again", "sh", f"domaintune report {quoted}"))
    return made


def card_snippets(records: Records) -> list[Snippet]:
    """For the card that may be published: the run by its folder's name, no row of the data."""
    given = ANY_PICTURE if records.state["task"] in PICTURE_TASKS else ANY_TEXT
    shell = f"echo {shlex.quote(given)} | domaintune predict {shlex.quote(records.name)} -"
    return [Snippet("", "sh", shell), Snippet("", "python", python(records.name, [given]))]


def python(run: str, inputs: Sequence[str]) -> str:
    given = ", ".join(json.dumps(text, ensure_ascii=False) for text in inputs)
    return "\n".join(
        [
            "from domaintune import load",
            "",
            f"run = load({json.dumps(run, ensure_ascii=False)})",
            f"print(run.predict([{given}]))",
            f"print(run.predict([{given}], strength=0.5))",
        ]
    )


def example_input(records: Records) -> str:
    """The first input of the test part that is plain to paste; a sentence of ours where there is none."""
    pictures = records.state["task"] in PICTURE_TASKS
    for row in records.test:
        text = str(row.get("input", ""))
        if pictures and Path(text).exists():
            text = str(Path(text).resolve())
        if _plain(text) and (pictures or len(text) <= LONGEST_INPUT):
            return text
    return ANY_PICTURE if pictures else ANY_TEXT


def _plain(text: str) -> bool:
    """Whether every shell's `echo` passes it on as it is."""
    return bool(text.strip()) and text.isprintable() and "\\" not in text and not text.startswith("-")
