"""The recipe's rows as examples in parts: read, relate the labels of domain and general, remove leaks, cut what was not given.

Nothing is trained or scored here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domaintune.bases.base import Base
from domaintune.data.formats import read_rows
from domaintune.data.rows import Row
from domaintune.data.splits import contiguous_cut, cut, leaks, together
from domaintune.errors import DataError
from domaintune.recipe import DataSettings, Recipe
from domaintune.run import data_checksum
from domaintune.tasks import TASKS
from domaintune.tasks.base import Finding, Task

LEARN_FRACTION = 0.25
GIVEN = ("train", "dev", "test", "general", "general_check")


@dataclass(frozen=True, slots=True)
class GeneralParts:
    """The general set in its parts. `head`, `agreement`: see `fit.General`. `headline` is what the confirmation reports on:
    the general-check set, or the report part of the one set."""

    task: Task
    head: str
    agreement: bool
    learn: Sequence[Any]
    choose: Sequence[Any]
    headline: Sequence[Any]
    headline_name: str


@dataclass(frozen=True, slots=True)
class Parts:
    """All examples of a run. `dev` is None where cross-validation stands in for it; `notes` says what was removed or cut."""

    task: Task
    train: Sequence[Any]
    dev: Sequence[Any] | None
    test: Sequence[Any]
    general: GeneralParts | None
    findings: Sequence[Finding]
    notes: list[str] = field(default_factory=list)

    def seen(self) -> list[str]:
        """Checksums of every input that this run trains or chooses on."""
        general = [*self.general.learn, *self.general.choose] if self.general else []
        task = self.general.task if self.general else self.task
        keys = [self.task.keys(e).input for e in [*self.train, *(self.dev or ())]] + [
            task.keys(e).input for e in general
        ]
        return sorted({input_checksum(key) for key in keys})


def input_checksum(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def given_paths(recipe: Recipe) -> dict[str, str]:
    """Part -> path, for the parts that the recipe names."""
    paths = {name: getattr(recipe, name) for name in GIVEN}
    return {name: path for name, path in paths.items() if path is not None}


def checksums(recipe: Recipe) -> dict[str, str]:
    """Part -> sha256 of its data.

    Raises:
        DataError: a path that does not exist.
    """
    made = {}
    for name, path in given_paths(recipe).items():
        try:
            made[name] = data_checksum(path)
        except OSError as error:
            flag = f"--{name.replace('_', '-')}"
            raise DataError(
                f"cannot be read ({error.strerror}).", where=f"{flag} {path}", remedy="Check the path."
            ) from None
    return made


def assemble(recipe: Recipe, base: Base, *, seen: Iterable[str] = ()) -> Parts:
    """Read everything that the recipe names and cut what it does not.

    `seen` are input checksums of rows that an earlier run trained or chose on; they never enter choose or report.

    Raises:
        DataError: a bad row (file and line), an empty part, labels that fit nothing.
    """
    rows = {name: read_rows(path) for name, path in given_paths(recipe).items()}
    domain_rows = [row for name in ("train", "dev", "test") for row in rows.get(name, ())]
    task = TASKS[recipe.task.name].build(domain_rows, base, recipe.task)
    notes: list[str] = []
    given: tuple[str, ...] = ("train", "dev", "test")
    examples = {name: _examples(task, rows[name], recipe.data) for name in given if name in rows}
    train, dev, test = _domain_parts(recipe, task, examples, notes)
    general = None
    if "general" in rows or "general_check" in rows:
        known = {input_checksum(task.keys(e).input) for e in train} | set(seen)
        general = _general_parts(recipe, base, task, rows, known, notes)
    findings = list(task.check([*train, *(dev or ()), *test]))
    return Parts(task, train, dev, test, general, findings, notes)


def _examples(task: Task, rows: Sequence[Row], settings: DataSettings, *, labelled: bool = True) -> list[Any]:
    made = list(task.read(rows, labelled=labelled))
    named = {"group": settings.group_column, "domain": settings.domain_column}
    columns = {field_name: column for field_name, column in named.items() if column is not None}
    if not columns or len(made) != len(rows):
        return made
    return [
        replace(example, **{field_name: row.text(column) for field_name, column in columns.items()})
        for example, row in zip(made, rows, strict=True)
    ]


def _without_leaks(
    task: Task, train: list[Any], other: Sequence[Any], name: str, settings: DataSettings, notes: list[str]
) -> list[Any]:
    found = set(leaks([task.keys(e).input for e in train], [task.keys(e).input for e in other]))
    if not found:
        return train
    if settings.keep_leaks:
        notes.append(f"{len(found)} rows of train also stand in {name}; kept, as asked: the {name} score is too good.")
        return train
    notes.append(f"{len(found)} rows of train also stand in {name}; removed from train.")
    kept = [example for position, example in enumerate(train) if position not in found]
    if not kept:
        raise DataError(f"every row of train also stands in {name}.", where="train", remedy="Give other rows.")
    return kept


def _split(task: Task, examples: list[Any], *, fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
    """(rest, part), stratified and grouped; running text is cut contiguously."""
    keys = [task.keys(example) for example in examples]
    if task.contiguous:
        rest, part = contiguous_cut(len(examples), fraction)
    else:
        rest, part = cut(
            [k.stratum for k in keys],
            together([k.input for k in keys], [k.group for k in keys]),
            fraction=fraction,
            seed=seed,
        )
    return [examples[i] for i in rest], [examples[i] for i in part]


def _domain_parts(
    recipe: Recipe, task: Task, given: dict[str, list[Any]], notes: list[str]
) -> tuple[list[Any], list[Any] | None, list[Any]]:
    settings, train, dev, test = recipe.data, given["train"], given.get("dev"), given.get("test")
    if test is None:
        train, test = _split(task, train, fraction=settings.test_fraction, seed=recipe.seed)
        notes.append(f"no test part was given: {len(test)} rows were cut from train.")
    else:
        train = _without_leaks(task, train, test, "test", settings, notes)
    if dev is not None:
        train = _without_leaks(task, train, dev, "dev", settings, notes)
        dev = dev if settings.keep_leaks else _without_leaks(task, dev, test, "test (from dev)", settings, notes)
    elif len(train) >= settings.fold_below or not task.cross_validates:
        train, dev = _split(task, train, fraction=settings.dev_fraction, seed=recipe.seed + 1)
        notes.append(f"no dev part was given: {len(dev)} rows were cut from train.")
    else:
        notes.append(f"no dev part was given and train is small: {settings.folds} folds stand in for it.")
    if settings.max_train_rows is not None and len(train) > settings.max_train_rows:
        share = settings.max_train_rows / len(train)
        train = _split(task, train, fraction=share, seed=recipe.seed + 2)[1][: settings.max_train_rows]
        notes.append(f"train was capped at {len(train)} rows.")
    return train, dev, test


def _general_parts(
    recipe: Recipe, base: Base, task: Task, rows: dict[str, list[Row]], known: set[str], notes: list[str]
) -> GeneralParts:
    given = [row for name in ("general", "general_check") for row in rows.get(name, ())]
    labelled = [task.has_target(row) for row in given]
    if any(labelled) and not all(labelled):
        row = given[labelled.index(False)]
        raise DataError(
            "a general row without a label among labelled ones.", where=row.where, remedy="Label all or none."
        )
    agreement = not all(labelled)
    general_task, head, fits_head = _general_task(recipe, base, task, given, agreement=agreement)
    parts = {
        name: _unseen(
            general_task, _examples(general_task, rows[name], recipe.data, labelled=not agreement), known, name, notes
        )
        for name in ("general", "general_check")
        if name in rows
    }
    check = parts.get("general_check")
    choose = parts.get("general", [])
    learn: list[Any] = []
    if fits_head and not choose and head == "general":
        raise DataError(
            "the general-check set has labels of its own, and nothing to fit their head on.",
            where="--general-check",
            remedy="Give --general with the same labels, or a base whose head has them.",
        )
    if fits_head and choose:
        choose, learn = _split(general_task, choose, fraction=LEARN_FRACTION, seed=recipe.seed + 3)
    headline, name = check, "general-check"
    if headline is None:
        choose, headline = _split(general_task, choose, fraction=0.5, seed=recipe.seed + 4)
        name = "general (report part)"
    return GeneralParts(general_task, head, agreement, learn, choose, headline, name)


def _unseen(task: Task, examples: list[Any], known: set[str], name: str, notes: list[str]) -> list[Any]:
    kept = [example for example in examples if input_checksum(task.keys(example).input) not in known]
    if len(kept) < len(examples):
        notes.append(
            f"{len(examples) - len(kept)} rows of {name} were left out: training rows of this or an earlier run."
        )
    if not kept:
        raise DataError(
            f"every row of {name} was trained on before.", where=name, remedy="Give rows that no run has seen."
        )
    return kept


def _general_task(
    recipe: Recipe, base: Base, task: Task, rows: Sequence[Row], *, agreement: bool
) -> tuple[Task, str, bool]:
    """The general set's task, its head, and whether a head is to be fitted on its learn part.

    The head is the domain's where its labels cover the general ones; else the base's own where that covers them; else a new one.
    """
    domain_labels, own = set(task.head().labels), set(base.own_labels)
    if not domain_labels:
        return task, "domain", False
    if agreement:
        if not own or own == domain_labels:
            return task, "domain", False
        return task.relabelled(base.own_labels), "general", False
    settings = recipe.task.model_copy(update={"labels": None} if "labels" in type(recipe.task).model_fields else {})
    built = TASKS[recipe.task.name].build(rows, base, settings)
    labels = set(built.head().labels)
    if labels <= domain_labels:
        return task, "domain", labels == domain_labels and not base.owns(task.head())
    if labels <= own:
        return built.relabelled(base.own_labels), "general", False
    return built, "general", True
