"""What a recipe with new rows for an earlier run takes over from that run's own recipe. Plain values; no torch, no run folder but two
of its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from domaintune.errors import RecipeError
from domaintune.memory import carried

PARTS = ("train", "dev", "test", "add", "general", "general_check")
SETTINGS = (
    "task", "method", "training", "balance", "data", "evaluation", "seed", "seeds", "threads", "trust_remote_code"
)  # fmt: skip
REQUIRED = ("task", "train")


def with_inherited(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe, where it has `add` with what it does not say itself from the earlier run that is its base: mappings key by
    key; a learning rate only for the same method. Rows that were new for that run are old ones now.

    Raises:
        RecipeError: no finished run there, and something required is to be taken over.
    """
    base = values.get("base")
    if values.get("add") is None or values.get("grown_from") is not None or not isinstance(base, str | os.PathLike):
        return dict(values)
    earlier = _finished(Path(base))
    if earlier is None:
        if all(values.get(name) is not None for name in REQUIRED):
            return dict(values)
        raise RecipeError(
            f"'{base}' is no run folder, or its run is not finished.",
            where="add",
            remedy="Give the folder of a finished run as the base, or --task and --train as well.",
        )
    taken = {name: earlier[name] for name in (*PARTS, *SETTINGS) if earlier.get(name) is not None}
    added = taken.pop("add", None)
    if added is not None:
        taken["train"] = [*_several(taken["train"]), *_several(added)]
    own = _named(values.get("method"))
    if isinstance(own, Mapping) and own.get("name") not in (None, taken["method"]["name"]):
        taken["training"] = {**taken["training"], "learning_rate": None}
    return filled(values, taken)


def filled(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with what they lack from `defaults`, mappings by key; of a mapping with another name nothing is taken over."""
    made = {**defaults, **values}
    for key in values.keys() & defaults.keys():
        given, other = _named(values[key]) if key in ("task", "method") else values[key], defaults[key]
        if isinstance(given, dict) and isinstance(other, dict) and given.get("name") in (None, other.get("name")):
            made[key] = filled(given, other)
    return made


def _named(value: Any) -> Any:
    """A task or method that is a name alone as a mapping."""
    return {"name": value} if isinstance(value, str) else value


def with_carried_rows(recipe: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """The plain recipe of an earlier run with the rows that it carries where the run is now."""
    here = partial(carried, output=recipe["output"], run=run)
    named = {name: recipe[name] for name in PARTS if recipe.get(name) is not None}
    moved = {name: here(given) if isinstance(given, str) else list(map(here, given)) for name, given in named.items()}
    return {**recipe, **moved}


def _finished(run: Path) -> dict[str, Any] | None:
    """The recipe as given to a finished run; None where there is none."""
    try:
        state = json.loads((run / "run.json").read_text(encoding="utf-8"))
        made: dict[str, Any] = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return with_carried_rows(made, run) if state.get("finished") else None


def _several(paths: Any) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)
