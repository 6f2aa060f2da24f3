"""The strength that a finished run predicts with: what its verdict was for, and setting another. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from domaintune.errors import RunError
from domaintune.run import RunFolder, check_strengths, moved_from, write_json


def set_strength(path: str | Path, strength: float | Mapping[str, float]) -> None:
    """Make `strength` what `predict` and `load` use from now on; nothing else of the run changes. A mapping sets single domains'
    by name, and "" that of all others; a plain number undoes what was set for single ones.

    Raises:
        RunError: no finished run, a strength outside [0, 1], or a domain that the run has learned no weight for.
    """
    folder = RunFolder.existing(path)
    stored = folder.read("strength.json")
    given = dict(strength) if isinstance(strength, Mapping) else {"": strength}
    check_strengths(given, stored.get("domains", {}))
    kept = {} if "" in given else stored.get("own", {})
    own = kept | {name: float(value) for name, value in given.items() if name}
    made = {**stored, "chosen": float(given.get("", stored["chosen"])), "own": own}
    write_json(folder.path / "strength.json", made)


def spoken(strengths: Mapping[str, float]) -> str:
    """Strengths by domain, "" for all others, in words."""
    return " and ".join(f"{value:g} for {name}" if name else f"{value:g}" for name, value in strengths.items())


def told(path: str | Path, strength: float | Mapping[str, float] | None, *, keep: bool) -> list[str]:
    """What is to be said of a strength that is looked at, and set where `keep`.

    Raises:
        RunError: as `set_strength`, or nothing to set.
    """
    folder = RunFolder.existing(path)
    if strength is None or strength == {}:
        if keep:
            raise RunError("needs a strength.", where="--set-strength", remedy="Add --strength S, S between 0 and 1.")
        return moved(path)
    given = dict(strength) if isinstance(strength, Mapping) else {"": strength}
    said = spoken(given)
    if keep:
        set_strength(path, given)
        return [f"{path} now predicts at strength {said}.", *moved(path)]
    check_strengths(given, folder.read("strength.json").get("domains", {}))
    measured = {point["strength"] for point in folder.read("scores.json")["frontier"]}
    where = "is in the table" if set(given) == {""} and given[""] in measured else "was not measured"
    options = " ".join(
        f"--strength {shlex.quote(f'{name}={value:g}' if name else f'{value:g}')}" for name, value in given.items()
    )
    return [
        f"Strength {said} {where}. `domaintune evaluate {shlex.quote(str(path))} DATA {options}` scores it on labelled "
        "rows; --set-strength makes it the run's.",
        *moved(path),
    ]


def moved(path: str | Path) -> list[str]:
    """A sentence where a run's strength is no longer the one that its verdict is for, and one for each domain with its own."""
    folder = RunFolder.existing(path)
    return moved_from(folder.read("scores.json"), folder.read("strength.json"), run=str(path))
