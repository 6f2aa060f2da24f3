"""Benchmark rows: one JSON file a row, keyed by code, data, settings and seed, so that none is measured twice."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domaintune.recipe import Recipe
from domaintune.resolve import epochs_for, learning_rate_for
from domaintune.run import provenance, write_text
from domaintune.tasks.base import Record

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "domaintune"
MEASURED = (
    "bases", "tasks/__init__.py", "tasks/base.py", "tasks/classification.py", "methods", "engine", "fit.py", "heads.py",
    "evaluation/score.py", "evaluation/intervals.py", "balance/frontier.py", "data/batches.py", "data/splits.py",
)  # fmt: skip
"""Settings stand in the key by their values."""


TASKS = {
    "text": (
        "tasks/text_classification.py", "tasks/token_classification.py", "tasks/tag_sequences.py", "tasks/token_losses.py",
        "tasks/word_windows.py",
    ),
    "pictures": ("tasks/image_classification.py",),
}  # fmt: skip
SIZES = (100, 200, 500, 1000, 2000)
"""Of train parts: their numbers of epochs stand in the key."""


@functools.cache
def code_hash(tasks: str = "text") -> str:
    """Of the code that decides the numbers of a row of these tasks, as it was when first asked: what this process has loaded.
    Comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for part in (*MEASURED, *TASKS[tasks]):
        path = SOURCE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            digest.update(json.dumps([file.relative_to(SOURCE).as_posix(), meaning(tree)]).encode())
    return digest.hexdigest()[:12]


def meaning(node: Any) -> Any:
    """A syntax tree as nested lists, the same in every version of Python, without expressions that are a string alone."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind")
        return [type(node).__name__, *([name, meaning(value)] for name, value in fields)]
    if isinstance(node, list):
        return [meaning(value) for value in node if not is_docstring(value)]
    return repr(node)


def is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """All values of a recipe, and what its open ones come to: the learning rate, and the epochs of sets of such sizes with known and
    with new labels."""
    epochs = {str(rows): [epochs_for(recipe, rows=rows, new_labels=new) for new in (False, True)] for rows in SIZES}
    return {**recipe.plain(), "learning_rate": learning_rate_for(recipe), "epochs": epochs}


def digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src") else "")


def row(results: Path, name: str, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The stored row of this name and key, else the measured one, stored."""
    path = results / f"{name}.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == dict(key):
            return stored
    made = {"key": dict(key), "commit": commit(), **measure(), "provenance": provenance()}
    write_text(path, json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")  # long lists of small numbers
    return made


def plain_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{name: np.asarray(value).tolist() for name, value in record.items()} for record in records]


def as_records(stored: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [{name: np.asarray(value) for name, value in record.items()} for record in stored]
