"""The runs below a folder, from their records alone. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from domaintune.errors import RunError
from domaintune.run import SEEDS_SUMMARY, RunFolder, is_run


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Facts of every run below `folder`, finished or not, by name; what lies inside a run is not looked at.

    `strength` is what the run predicts with, `verdict_strength` what its verdict is for. `gain` and `retention` are estimates as in
    scores.json at `scored_strength`: `strength`, or 1 where that is the base itself; None where it was set to one that was not scored.
    `retention_kind`: as `kind` there.
    Over several seeds they are means, each run's at its own strength or at 1. `date` is seconds since 1970.

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
            "verdict_strength": None,
            "strength": None,
            "scored_strength": None,
            "gain": None,
            "retention": None,
            "retention_kind": None,
        }
        if not state["finished"]:
            return facts
        used = RunFolder.existing(path)
        dial, chosen = used.read("strength.json"), used.read("scores.json")["chosen_strength"]
        strength = dial["chosen"]
        facts |= {"verdict": state["verdict"], "verdict_strength": chosen, "strength": strength}
        at = strength or 1.0
        if "used_seed" in state:
            scores = folder.read(SEEDS_SUMMARY)
            key = "chosen" if strength == chosen > 0 else "tuned" if at == 1 else None
        else:
            scores, key = folder.read("scores.json"), f"{at:g}"
        if key not in scores["domain"]["change"] or dial.get("own"):
            return facts
        general = scores["general"]
        return {
            **facts,
            "scored_strength": at,
            "gain": scores["domain"]["change"][key],
            "retention": None if general is None else general["change"][key],
            "retention_kind": None if general is None else general["kind"],
        }
    except (RunError, KeyError, TypeError, AttributeError) as error:
        return {"run": str(path), "damaged": f"{type(error).__name__}: {error}"}
