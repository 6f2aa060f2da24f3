"""Growing data: a run that trains from an earlier run's own base on its rows and new ones, and what that did to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domaintune.errors import DataError, RecipeError
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate, score_estimates
from domaintune.predict import load
from domaintune.recipe import Recipe
from domaintune.run import RunFolder, is_run
from domaintune.tasks import TASKS
from domaintune.tasks.base import Record, Task

INHERITED = ("task", "train", "dev", "test", "general", "general_check", "method", "data")
PLACES = "parts.json"


def inherited(run: str) -> dict[str, Any]:
    """What a recipe with `add` takes over from the earlier run where it says nothing itself; rows that were new then are old now.

    Raises:
        RunError: no finished run there.
    """
    values = RunFolder.existing(run).read("recipe.json")
    made = {name: values[name] for name in INHERITED if values.get(name) is not None}
    if values.get("add") is not None:
        made["train"] = [*_several(made["train"]), *_several(values["add"])]
    return made


def _several(paths: Any) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def grown(recipe: Recipe, checksums: Mapping[str, str]) -> Recipe:
    """The recipe with that run's own base for its base, and the run as what it grows from, where `add` is given. `checksums`: of its data, by part.

    Raises:
        RecipeError: the base is no run, or one of another task.
        DataError: the earlier run's rows changed since.
    """
    if recipe.add is None or recipe.grown_from is not None:
        return recipe
    if not is_run(Path(recipe.base)):
        raise RecipeError("needs an earlier run as --base.", where="--add", remedy="Give the folder of a run.")
    earlier = RunFolder.existing(recipe.base)
    before = earlier.read("recipe.json")
    if before["task"]["name"] != recipe.task.name:
        raise RecipeError(f"is a run of {before['task']['name']}, not of {recipe.task.name}.", where=recipe.base)
    known = earlier.read("provenance.json")["data"]
    same = [name for name in ("train", "dev", "test") if before.get("add") is None or name != "train"]
    changed = [name for name in same if known.get(name) != checksums.get(name)]
    if changed:
        raise DataError(
            f"the rows of {', '.join(changed)} are not those that this run was made from.",
            where=recipe.base,
            remedy="Restore the files, and give the new rows by --add alone.",
        )
    return recipe.model_copy(update={"grown_from": recipe.base, "base": earlier.read("resolved.json")["base"]})


def extended(task: Task, run: str) -> Task:
    """The task with the earlier run's labels first, in their order, and new ones behind them: old rows keep their targets."""
    values = RunFolder.existing(run).read("tasks.json")["domain"]
    old = TASKS[task.name].model_validate(values, strict=False).head().labels
    new = [label for label in task.head().labels if label not in old]
    return task.relabelled([*old, *new]) if old else task


def as_before(run: str, examples: Sequence[Any]) -> dict[str, list[Any]]:
    """The examples in the parts of the earlier run, by file and line; those that it left out stay out.

    Raises:
        DataError: a row of the earlier run is gone.
    """
    places = RunFolder.existing(run).read(PLACES)
    found = {(example.file, example.line): example for example in examples}
    made: dict[str, list[Any]] = {}
    for part, files in places.items():
        wanted = [(file, line) for file, lines in files.items() for line in lines]
        missing = [place for place in wanted if place not in found]
        if missing:
            raise DataError(
                "a row of the earlier run is not there any more.",
                where=":".join(map(str, missing[0])),
                remedy="Run in the folder where the earlier run was made, with its files as they were.",
            )
        made[part] = [found[place] for place in wanted]
    return made


def growth_scores(
    run: str, task: Task, examples: Sequence[Any], records: Sequence[Record], *, standing: int, draws: int, seed: int
) -> dict[str, Any]:
    """The primary score before (the earlier run at its strength) and after (`records` of the new one at its own) on the earlier
    run's test rows, the first `standing` of `examples`, and on the new ones, with the paired change.

    Where there are labels that the earlier run does not know, new rows have no score before.
    """
    earlier = load(run)
    new_labels = len(task.head().labels) > len(earlier.task.head().labels)
    made: dict[str, Any] = {"from": run, "strength_then": earlier.strength}
    primary = task.primary.name
    for name, part in (("old", slice(0, standing)), ("new", slice(standing, None))):
        rows, after = examples[part], records[part]
        if not rows:
            continue
        weights = bootstrap_weights(len(rows), draws=draws, seed=seed, groups=[e.group for e in rows])
        made[name] = {"rows": len(rows), "before": None, "change": None}
        made[name]["after"] = score_estimates(task, after, weights)[primary].plain()
        if name == "old" or not new_labels:
            wanted = frozenset({primary})
            predictions = earlier.predictions(earlier.task, rows, earlier.strengths(), wanted=wanted)
            before = [earlier.task.statistics(p, e) for p, e in zip(predictions, rows, strict=True)]
            made[name]["before"] = score_estimates(earlier.task, before, weights)[primary].plain()
            made[name]["change"] = gain_estimate(task, after, before, weights).plain()
    return made
