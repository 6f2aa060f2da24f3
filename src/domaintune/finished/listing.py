"""The runs below a folder, from their records alone. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from domaintune.errors import RunError
from domaintune.run import SEEDS_SUMMARY, RunFolder, is_run


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Facts of every run below `folder`, finished or not, by name; what lies inside a run is not looked at.

    `gain` and `retention` are estimates as in scores.json, at the strength that was confirmed (over several seeds their means, each
    at its own); `date` is seconds since 1970.

    Raises:
        RunError: no such folder, or no run in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError("is no folder.", where=str(folder), remedy="Give the folder that your runs lie in.")
    found: list[Path] = []
    for place, folders, _ in os.walk(root):
        if is_run(Path(place)):
            found.append(Path(place))
            folders.clear()
    if not found:
        raise RunError("holds no run.", where=str(folder), remedy="Give the folder that your runs lie in.")
    return [_facts(path) for path in sorted(found)]


def _facts(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    try:
        state = folder.read("run.json")
        recipe = folder.read("recipe.json")
        facts = {
            "run": str(path),
            "task": recipe["task"]["name"],
            "method": recipe["method"]["name"],
            "base": recipe["base"],
            "seeds": state.get("seeds", 1),
            "finished": bool(state["finished"]),
            "date": state.get("ended", state["started"]),
            "verdict": None,
            "gain": None,
            "retention": None,
        }
        if not state["finished"]:
            return facts
        if "used_seed" in state:
            scores, key = folder.read(SEEDS_SUMMARY), "chosen"
        else:
            scores = folder.read("scores.json")
            key = f"{scores['chosen_strength']:g}"
        general = scores["general"]
        return {
            **facts,
            "verdict": state["verdict"],
            "gain": scores["domain"]["change"][key],
            "retention": None if general is None else general["change"][key],
        }
    except (RunError, KeyError, TypeError, AttributeError) as error:
        return {"run": str(path), "damaged": f"{type(error).__name__}: {error}"}
