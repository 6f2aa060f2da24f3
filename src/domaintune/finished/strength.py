"""The strength that a finished run predicts with: what its verdict was for, and setting another. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from domaintune.errors import RunError
from domaintune.run import RunFolder, write_json


def set_strength(path: str | Path, strength: float) -> None:
    """Make `strength` what `predict` and `load` use from now on; nothing else of the run changes.

    Raises:
        RunError: no finished run, or a strength outside [0, 1].
    """
    folder = RunFolder.existing(path)
    if not 0 <= strength <= 1:
        raise RunError(f"strength must lie in [0, 1], got {strength:g}.", where="--strength")
    write_json(folder.path / "strength.json", {**folder.read("strength.json"), "chosen": float(strength)})


def told(path: str | Path, strength: float | None, *, keep: bool) -> list[str]:
    """What is to be said of a strength that is looked at, and set where `keep`.

    Raises:
        RunError: as `set_strength`, or nothing to set.
    """
    folder = RunFolder.existing(path)
    if keep and strength is None:
        raise RunError("needs a strength.", where="--set-strength", remedy="Add --strength S, S between 0 and 1.")
    if keep and strength is not None:
        set_strength(path, strength)
        return [f"{path} now predicts at strength {strength:g}.", *moved(path)]
    if strength is None:
        return moved(path)
    if not 0 <= strength <= 1:
        raise RunError(f"strength must lie in [0, 1], got {strength:g}.", where="--strength")
    measured = {point["strength"] for point in folder.read("scores.json")["frontier"]}
    where = "is in the table" if strength in measured else "was not measured"
    return [
        f"Strength {strength:g} {where}. `domaintune evaluate {path} DATA --strength {strength:g}` scores it on labelled "
        "rows; --set-strength makes it the run's.",
        *moved(path),
    ]


def moved(path: str | Path) -> list[str]:
    """One sentence where a run's strength is no longer the one that its verdict is for."""
    folder = RunFolder.existing(path)
    scores, strength = folder.read("scores.json"), folder.read("strength.json")["chosen"]
    if strength == scores["chosen_strength"]:
        return []
    return [
        f'The verdict "{scores["verdict"]["kind"]}" was for strength {scores["chosen_strength"]:g}, not for {strength:g}: '
        f"`domaintune evaluate {path} DATA` scores that on labelled rows."
    ]
