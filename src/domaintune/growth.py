"""Growing data: a run that trains from an earlier run's own base on its rows and new ones, and what that did to both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from domaintune.counting import counted, listed
from domaintune.data.formats import files_of
from domaintune.errors import DataError, RecipeError
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate, score_estimates
from domaintune.inheritance import with_carried_rows
from domaintune.inputs import checksums, sides_of
from domaintune.memory import carried
from domaintune.own_head import with_units
from domaintune.predict import load
from domaintune.recipe import Recipe
from domaintune.run import RunFolder, is_run
from domaintune.stored import saved_tasks
from domaintune.tasks.base import Record, Task
from domaintune.tasks.token_classification import TokenClassification

CUT = ("characters_per_token", "max_length")
"""Of tasks without labels, what decides where running text is cut."""
SHARED = "shared_prompts"
"""Of those with prompts, which of them their completions tell apart."""
PLACES = "parts.json"
OWN = ("train", "dev", "test")

Place = tuple[str, int, int]
"""File, line, and how many examples of the same line stand before: a line may hold several."""


def grown(recipe: Recipe) -> Recipe:
    """The recipe with that run's own base for its base, and the run as what it grows from, where `add` is given.

    Raises:
        RecipeError: the base is no run, or one of another task.
        DataError: the earlier run's rows changed since.
    """
    if recipe.add is None or recipe.grown_from is not None:
        return recipe
    if not is_run(Path(recipe.base)):
        raise RecipeError("needs an earlier run as --base.", where="--add", remedy="Give the folder of a run.")
    earlier = RunFolder.existing(recipe.base)
    before = with_carried_rows(earlier.read("recipe.json"), earlier.path)
    if before["task"]["name"] != recipe.task.name:
        raise RecipeError(f"is a run of {before['task']['name']}, not of {recipe.task.name}.", where=recipe.base)
    known, given = earlier.read("provenance.json")["data"], recipe
    parts: tuple[str, ...] = OWN
    if before.get("add") is not None:  # whose train and added rows together are this one's train part
        together, count = files_of(recipe.train), len(files_of(before["train"]))
        parts = (*OWN, "add")
        given = recipe.model_copy(update={"train": tuple(together[:count]), "add": tuple(together[count:])})
    now = checksums(given)
    changed = [name for name in parts if known.get(name) != now.get(name)]
    if changed:
        raise DataError(
            f"the rows of {', '.join(changed)} are not those that this run was made from.",
            where=recipe.base,
            remedy="Restore the files, and give the new rows by --add alone.",
        )
    return recipe.model_copy(update={"grown_from": recipe.base, "base": earlier.read("resolved.json")["base"]})


def extended(task: Task, run: str, notes: list[str]) -> Task:
    """The task with the earlier run's labels first, in their order, and new ones, which a note names, behind them: old rows keep their
    targets. Running text is cut into blocks as before, and prompts that were shared stay so."""
    earlier = saved_tasks(RunFolder.existing(run))["domain"]
    old = earlier.head().labels
    if not old:
        kept = {name: getattr(earlier, name) for name in CUT if name in type(task).model_fields}
        if SHARED in type(task).model_fields:
            kept[SHARED] = tuple(sorted({*getattr(earlier, SHARED), *getattr(task, SHARED)}))
        return task.model_copy(update=kept)
    new = [label for label in task.head().labels if label not in old]
    if new:
        entities = isinstance(task, TokenClassification)
        names = [f"'{name}'" for name in (dict.fromkeys(tag[2:] for tag in new) if entities else new)]
        told = counted(len(names), "[entity type|entity types]" if entities else "[label|labels]")
        notes.append(f"{told} that the earlier run does not know: {listed(names)}.")
    return with_units(task, [*old, *new])


def places_of(examples: Iterable[Any]) -> list[Place]:
    """Where each of a part's examples stands, all of them given in the order of reading."""
    met: Counter[tuple[str, int]] = Counter()
    made = []
    for example in examples:
        place = (example.file, example.line)
        made.append((*place, met[place]))
        met[place] += 1
    return made


def as_before(recipe: Recipe, parts: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    """The examples of these parts of a recipe in the parts of the run that it grows from, by their places; those that it left out stay out.

    Raises:
        DataError: a row of the earlier run is gone.
    """
    assert recipe.grown_from is not None
    earlier = RunFolder.existing(recipe.grown_from)
    before, places = earlier.read("recipe.json"), earlier.read(PLACES)
    moved = _moved(recipe, with_carried_rows(before, earlier.path))
    found = {place: example for part in parts for place, example in zip(places_of(part), part, strict=True)}
    made: dict[str, list[Any]] = {}
    for part, files in places.items():
        here = {
            _here(carried(file, output=before["output"], run=earlier.path), moved): lines
            for file, lines in files.items()
        }
        wanted = [(file, line, number) for file, lines in here.items() for line, number in lines]
        missing = [place for place in wanted if place not in found]
        if missing:
            raise DataError(
                "a row of the earlier run is not there any more.",
                where=f"{missing[0][0]}:{missing[0][1]}",
                remedy="Give the earlier run's files as they were given then, by their names of now.",
            )
        made[part] = [found[place] for place in wanted]
    return made


def _moved(recipe: Recipe, before: Mapping[str, Any]) -> dict[str, str]:
    """What the earlier recipe (`before`) named in its own parts -> what this one names in the same place; files may have other paths
    now."""
    made: dict[str, str] = {}
    for part in OWN:
        old = _sides(before.get(part)) + (_sides(before.get("add")) if part == "train" else [])
        new = _sides(getattr(recipe, part))
        made |= dict(zip(old, new, strict=True)) if len(old) == len(new) else {}
    return made


def _sides(given: str | Sequence[str] | None) -> list[str]:
    try:
        return sides_of(given or ())
    except DataError:  # a glob that fits nothing where this runs
        return []


def _here(file: str, moved: Mapping[str, str]) -> str:
    """The file, or the one that it is in a folder or an archive that moved."""
    around = [old for old in moved if Path(file).is_relative_to(old)]
    if not around:
        return file
    inmost = max(around, key=lambda old: len(Path(old).parts))
    return str(Path(moved[inmost]) / Path(file).relative_to(inmost))


def growth_scores(
    recipe: Recipe, task: Task, examples: Sequence[Any], records: Sequence[Record], *, standing: int
) -> dict[str, Any] | None:
    """The primary score before (the earlier run at its strength) and after (`records` of the new one at its own) on the earlier
    run's test rows, the first `standing` of `examples`, and on the new ones, with the paired change; None where nothing grew.

    Where there are labels that the earlier run does not know, new rows have no score before.
    """
    if recipe.grown_from is None:
        return None
    earlier = load(recipe.grown_from, device=recipe.device)
    new_labels = len(task.head().labels) > len(earlier.task.head().labels)
    made: dict[str, Any] = {"from": recipe.grown_from, "strength_then": earlier.strength}
    primary, evaluation = task.primary.name, recipe.evaluation
    for name, part in (("old", slice(0, standing)), ("new", slice(standing, None))):
        rows, after = examples[part], records[part]
        if not rows:
            continue
        groups = [e.group for e in rows]
        weights = bootstrap_weights(len(rows), draws=evaluation.draws, seed=recipe.seed, groups=groups)
        made[name] = {"rows": len(rows), "before": None, "change": None}
        made[name]["after"] = score_estimates(task, after, weights)[primary].plain()
        if name == "old" or not new_labels:
            wanted, budget = frozenset({primary}), evaluation.batch_budget
            predictions = earlier.predictions(earlier.task, rows, earlier.strengths(), wanted=wanted, budget=budget)
            before = [earlier.task.statistics(p, e) for p, e in zip(predictions, rows, strict=True)]
            made[name]["before"] = score_estimates(earlier.task, before, weights)[primary].plain()
            made[name]["change"] = gain_estimate(task, after, before, weights).plain()
    return made
