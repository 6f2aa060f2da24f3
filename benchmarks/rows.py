"""Benchmark rows: one JSON file a row, keyed by code, data, settings and seed, so that none is measured twice. A row keeps the key
that it was measured with; which later code is known to give the same numbers is told in equal_code.json."""

from __future__ import annotations

import ast
import contextlib
import contextvars
import functools
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domaintune.provenance import provenance
from domaintune.recipe import Recipe
from domaintune.resolve import epochs_for, learning_rate_for
from domaintune.run import flatten, write_text
from domaintune.tasks.base import Record

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "domaintune"
START = (
    "bases", "tasks/__init__.py", "tasks/base.py", "tasks/classification.py", "engine/starting_head.py", "heads.py", "partition.py",
    "evaluation/score.py", "data/batches.py", "data/splits.py", "data/near_duplicates.py", "checks/shared.py",
)  # fmt: skip
"""Which rows there are, the head to start from, losses and scoring: what peers have from us."""
MEASURED = (*START, "methods", "engine", "fit.py", "evaluation/intervals.py", "balance/frontier.py")
"""What decides the numbers of a row of ours. Settings stand in the key by their values."""
EQUAL = HERE / "equal_code.json"
"""Hash of code -> the later hash that gives the same numbers, and how that is known."""
HASHES = ("code", "peer", "start_code")
TASKS = {
    "text-classification": ("tasks/text_classification.py", "tasks/token_losses.py", "tasks/word_windows.py"),
    "token-classification": (
        "tasks/token_classification.py", "tasks/tag_sequences.py", "tasks/tag_chains.py", "tasks/token_losses.py",
        "tasks/word_windows.py",
    ),
    "image-classification": ("tasks/image_classification.py", "tasks/token_losses.py"),
}  # fmt: skip
SIZES = (100, 200, 500, 1000, 2000)
"""Of train parts: their numbers of epochs stand in the key."""


def code_hash(*tasks: str) -> str:
    """Of the code that decides the numbers of a row of these tasks, as it was when first asked: what this process has loaded.
    Comments, docstrings and layout do not count."""
    return _hash(MEASURED, tasks)


def start_hash() -> str:
    """Of what the peers of all text rows have from us."""
    return _hash(START, ("text-classification", "token-classification"))


@functools.cache
def _hash(parts: Sequence[str], tasks: Sequence[str]) -> str:
    found: set[Path] = set()
    for part in (*parts, *(file for task in tasks for file in TASKS[task])):
        path = SOURCE / part
        found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return meanings([(file.relative_to(SOURCE).as_posix(), file) for file in sorted(found)])


@functools.cache
def peers_hash() -> str:
    """Of the peers' code; what the kinds are set to stands in their keys."""
    return meanings([("peers.py", HERE / "peers.py")])


def meanings(files: Sequence[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(json.dumps([name, meaning(ast.parse(file.read_text(encoding="utf-8")))]).encode())
    return digest.hexdigest()[:12]


@functools.cache
def equal_code() -> dict[str, dict[str, str]]:
    made: dict[str, dict[str, str]] = json.loads(EQUAL.read_text(encoding="utf-8")) if EQUAL.exists() else {}
    return made


def today(code: str | None) -> str | None:
    """The last hash of the code that gives the numbers of this one."""
    while code in equal_code():
        code = equal_code()[code]["later"]
    return code


def alike(stored: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    """Whether two keys are of the same numbers: equal hashes of code or such that are known to give the same, and equal in all else; a
    setting that did not exist when one of them was made has its default."""
    before, now = flatten(stored), flatten(key)
    for name in before.keys() | now.keys():
        if name in HASHES:
            if today(before.get(name)) != today(now.get(name)):
                return False
        elif before.get(name, _default(name, now)) != now.get(name, _default(name, before)):
            return False
    return True


def _default(name: str, key: Mapping[str, Any]) -> Any:
    if not name.startswith("recipe."):
        return None
    named = {part: {"name": key[f"recipe.{part}.name"]} for part in ("task", "method") if f"recipe.{part}.name" in key}
    needed = {"task": "text-classification", "base": "any", "train": "any", "output": "any"}
    plain = Recipe.make({**needed, **named}).plain()
    return flatten({"recipe": plain}).get(name)


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


def commit() -> str:
    """The checkout's commit, with a mark where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src") else "")


class NotStoredError(Exception):
    """A row would have to be measured."""


_stored_alone = contextvars.ContextVar("stored_alone", default=False)


@contextlib.contextmanager
def stored_alone() -> Iterator[None]:
    """Within it `row` measures nothing and raises NotStoredError in its place."""
    token = _stored_alone.set(True)
    try:
        yield
    finally:
        _stored_alone.reset(token)


def row(results: Path, name: str, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The stored row of this name and key, else the measured one, stored."""
    path = results / f"{name}.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if alike(stored["key"], key):
            return stored
    if _stored_alone.get():
        raise NotStoredError(name)
    made = {"key": dict(key), "commit": commit(), **measure(), "provenance": provenance()}
    write_text(path, json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")  # long lists of small numbers
    return made


def wants_third_rate(peer: Mapping[str, Any]) -> bool:
    """Whether a peer's row has the higher of two rates for its better one."""
    tried = sorted(map(float, peer.get("dev", {})))
    return len(tried) == 2 and bool(peer["rate"] == tried[1])


def plain_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{name: np.asarray(value).tolist() for name, value in record.items()} for record in records]


def as_records(stored: Sequence[Mapping[str, Any]]) -> list[Record]:
    return [{name: np.asarray(value) for name, value in record.items()} for record in stored]
