"""The recipe's rows as examples in parts: read, relate the labels of domain and general, part them.

Nothing is trained or scored here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domaintune.bases.base import Base
from domaintune.checks.report import report_of, with_few_rows
from domaintune.checks.shared import parted
from domaintune.counting import counted
from domaintune.data.columns import wanted_of
from domaintune.data.formats import read_part
from domaintune.data.labels import labels_of, only, renamed, require_labels
from domaintune.data.rows import Row
from domaintune.errors import DataError, RecipeError
from domaintune.evaluation.units import with_kept_whole
from domaintune.growth import as_before, extended, places_of
from domaintune.inputs import DOMAIN, given_paths
from domaintune.own_head import general_head_told, head_left, in_own_order, of_own_head, with_whole_head
from domaintune.partition import domain_parts, grown_parts, split_general
from domaintune.recipe import DataSettings, Recipe
from domaintune.settings import TextClassificationSettings
from domaintune.tasks import TASKS
from domaintune.tasks.base import Finding, Task

LEARN_FRACTION = 0.25


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
    standing: int = 0
    """So many of the test rows, the first ones, were those of the earlier run that this one grows from."""
    places: Mapping[str, Mapping[str, list[tuple[int, int]]]] = field(default_factory=dict)
    """Part -> file -> (line, how many examples of the line stand before): where each example of the domain went."""
    caveats: Sequence[str] = ()
    """Why scores of the test part are better than they will be on new rows, where they are."""

    def calibrated(self, calibration: tuple[tuple[float, float], ...]) -> Parts:
        """The same with this calibration of the domain's task; a general set that shares its head shares it."""
        update, general = {"calibration": calibration}, self.general
        if general is not None and general.head == "domain":
            general = replace(general, task=general.task.model_copy(update=update))
        return replace(self, task=self.task.model_copy(update=update), general=general)

    def seen(self) -> list[str]:
        """Checksums of every input that this run trains or chooses on."""
        made, general = _checksums(self.task, [*self.train, *(self.dev or ())]), self.general
        if general is not None:
            made |= _checksums(general.task, [*general.learn, *general.choose])
        return sorted(made)


def input_checksum(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _checksums(task: Task, examples: Iterable[Any]) -> set[str]:
    return {input_checksum(task.keys(example).input) for example in examples}


def assemble(recipe: Recipe, base: Base, *, seen: Iterable[str] = ()) -> Parts:
    """Read everything that the recipe names and cut what it does not.

    `seen` are input checksums of rows that an earlier run trained or chose on; they never enter choose or report.

    Raises:
        DataError: a bad row (file and line), an empty part, labels that fit nothing.
    """
    notes: list[str] = []
    rows, declared = _read(recipe, notes)
    domain_rows = [row for name in DOMAIN for row in rows.get(name, ())]
    task = TASKS[recipe.task.name].build(domain_rows, base, recipe.task)
    found = task.head().labels
    if recipe.grown_from is not None:
        task = extended(task, recipe.grown_from, notes)
    else:
        task = with_whole_head(base, task, notes, given=getattr(recipe.task, "labels", None) is not None)
    examples = {name: _examples(task, rows[name], recipe.data) for name in DOMAIN if name in rows}
    numbered = {id(e): place for part in examples.values() for e, place in zip(part, places_of(part), strict=True)}
    standing = 0
    if recipe.grown_from is None:
        findings = report_of(task, examples, base, declared=declared)
        train, dev, test, whole = domain_parts(recipe, task, examples, notes)
    else:
        added, old = examples.pop("add"), as_before(recipe, examples.values())
        standing = len(old["test"])
        train, dev, test, whole = grown_parts(recipe, task, old, added, notes)
        # Not the files as read: what was left out of an earlier round is in none of its parts, and new rows are in all of them.
        used = {"train": train, "test": test} if dev is None else {"train": train, "dev": dev, "test": test}
        findings = report_of(task, used, base, declared=declared)
    if dev is None and recipe.training.patience is not None:
        notes.append("training.patience stops no training over folds: all epochs are trained.")
    for name, judged in (("dev", dev), ("test", test)):
        if judged is not None:
            remedy = f"Give a part with labels in it (--{name}), or more rows with labels to cut it from."
            _require_labels(task, judged, name, remedy=remedy)
    task = task.fitted(train, base)
    seen, own = set(seen), [*train, *(dev or ())]
    reported, known = _checksums(task, test), _checksums(task, own)
    caveats = _caveats(task, test, seen, known)
    cut = {name: _cut(part or (), examples.get(name, ())) for name, part in (("test", test), ("dev", dev))}
    caveats += _parted(task, cut["test"], own, "test [is|are] almost equal to one of train or dev")
    notes += caveats
    notes += _parted(task, cut["dev"], train, "dev [is|are] almost equal to one of train")
    general = None
    if "general" in rows or "general_check" in rows:
        general = _general_parts(recipe, base, task, found, rows, seen | known, reported, notes)
        _require_general_labels(general)
        if general.head == "general" and general.learn:
            notes.append(general_head_told(task, general.task, len(general.learn)))
        task, general = _with_learned(task, general, train, base)
    notes += head_left(base, task, task if general is None else general.task)
    places: dict[str, dict[str, list[tuple[int, int]]]] = {"train": {}, "dev": {}, "test": {}}
    for by_file, part in zip(places.values(), (train, dev or (), test), strict=True):
        for file, line, number in (numbered[id(example)] for example in part):
            by_file.setdefault(file, []).append((line, number))
    dev, test = dev and with_kept_whole(task, dev, whole), with_kept_whole(task, test, whole)
    headline = {} if general is None else {general.headline_name: general.headline}
    findings = with_few_rows(findings, {"dev": dev, "test": test, **headline})
    return Parts(task, train, dev, test, general, findings, notes, standing, places, caveats)


def bare(task: Task, part: Sequence[Any]) -> bool:
    """Whether a task has labels and no row of the part one: without an entity or a box in all of it there is nothing to find."""
    return bool(task.head().labels) and not any(task.keys(example).labels for example in part)


def _require_labels(task: Task, part: Sequence[Any], name: str, *, remedy: str) -> None:
    """
    Raises:
        DataError: the part is bare.
    """
    if bare(task, part):
        raise DataError("no row has a label, so that no score can be computed on it.", where=name, remedy=remedy)


def _require_general_labels(general: GeneralParts) -> None:
    remedy = "Give more general rows with labels, or rows without any: then agreement with the base is measured."
    for name, part in ((general.headline_name, general.headline), ("general (choosing part)", general.choose)):
        if part and not general.agreement:
            _require_labels(general.task, part, name, remedy=remedy)


def _caveats(task: Task, test: Sequence[Any], seen: set[str], own: set[str]) -> list[str]:
    """`seen` by the run that is the base, and by this run's `own` other parts."""
    inputs = [input_checksum(task.keys(example).input) for example in test]
    by_base = "[was|were] trained or chosen on by the run that is the base: both scores are too good."
    by_own = "[stands|stand] in train or dev too: the score there is too good."
    met = ((sum(key in others for key in inputs), what) for others, what in ((seen, by_base), (own, by_own)))
    return [counted(count, f"[row|rows] of test {what}") for count, what in met if count]


def _cut(part: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """The examples of a part that were cut for it, and not given as it."""
    named = set(map(id, given))
    return [example for example in part if id(example) not in named]


def _parted(task: Task, part: Sequence[Any], others: Sequence[Any], what: str) -> list[str]:
    """That a part which was cut holds rows almost equal to some of the others."""
    met = parted(task, part, others) if part and not task.contiguous else 0
    why = "too many rows follow one pattern to stay in one part, and the score there is too good."
    return [counted(met, f"[row|rows] of {what}: {why}")] if met else []


def _read(recipe: Recipe, notes: list[str]) -> tuple[dict[str, list[Row]], dict[int | str, str]]:
    """The rows of every part that the recipe names, labels under their mapped names, and the classes that the domain's files declare;
    notes say what was left out."""
    wanted, rows = wanted_of(recipe), {}
    declared: dict[int | str, str] = {}
    separator = label_separator(recipe)
    as_given: list[Row] = []
    general: list[Row] = []
    names = set()
    for name, given in given_paths(recipe).items():
        domain = name in DOMAIN
        part = "train" if name == "add" else name if domain else "test"
        reading = read_part(given, wanted, part=part, targets=domain)
        wanted = replace(wanted, used=wanted.used | {str(column) for column in reading.rows[0].values})
        notes += [f"{name}: {line}" for line in reading.summary()]
        as_given += reading.rows
        rows[name] = renamed(reading.rows, wanted, recipe.data.label_map, separator=separator)
        names |= set(reading.classes.values())
        if domain:
            declared |= {key: recipe.data.label_map.get(name, name) for key, name in reading.classes.items()}
        if not domain and recipe.data.general_labels is not None:
            general += rows[name]
            where = f"--general-labels ({name})"
            rows[name], dropped = only(rows[name], wanted, recipe.data.general_labels, where=where, separator=separator)
            told = counted(
                dropped, f"[label|labels] other than {', '.join(recipe.data.general_labels)} [was|were] left out."
            )
            notes.append(f"{name}: {told}")
    require_labels(recipe.data.label_map, as_given, wanted, where="--label-map", separator=separator, known=names)
    if any(labels_of(row, wanted, separator) for row in general):
        wanted_labels = recipe.data.general_labels or ()
        require_labels(wanted_labels, general, wanted, where="--general-labels", separator=separator, known=names)
    return rows, declared


def label_separator(recipe: Recipe) -> str | None:
    """What stands between the labels of one cell, where rows may have several."""
    settings = recipe.task
    several = isinstance(settings, TextClassificationSettings) and settings.multi_label
    return settings.label_separator if several else None  # type: ignore[union-attr]


def _examples(task: Task, rows: Sequence[Row], settings: DataSettings) -> list[Any]:
    """Examples of the domain, with the group and domain columns that the recipe names."""
    made = list(task.read(rows))
    named = {"group": settings.group_column, "domain": settings.domain_column}
    columns = {field_name: column for field_name, column in named.items() if column is not None}
    if columns and len(made) != len(rows):
        raise RecipeError(
            "rows are joined by this task, so that none has a group or domain of its own.",
            where="data.group_column, data.domain_column",
            remedy="Leave these keys out.",
        )
    if not columns:
        return made
    held = ({field_name: row.name(column) for field_name, column in columns.items()} for row in rows)
    return [replace(example, **names) for example, names in zip(made, held, strict=True)]


def examples_with_groups(
    task: Task, rows: Sequence[Row], settings: DataSettings, notes: list[str], *, labelled: bool
) -> list[Any]:
    """Examples of a general set or of other rows: each that lacks the group column is its own group, each that lacks the domain column
    has no domain; `notes` count these where others have it."""
    made = list(task.read(rows, labelled=labelled))
    if len(made) != len(rows):
        return made
    for field_name, column, without in (
        ("group", settings.group_column, "is a group of its own"),
        ("domain", settings.domain_column, "has no domain"),
    ):
        lacking = [row.where for row in rows if column not in row.values]
        if column is None or len(lacking) == len(rows):
            continue
        held = (row.name(column) if column in row.values else None for row in rows)
        made = [replace(example, **{field_name: name}) for example, name in zip(made, held, strict=True)]
        if lacking:
            many = counted(len(lacking), "[row has|rows have] no column")
            notes.append(f"{many} '{column}' (first: {lacking[0]}); such a row {without}.")
    return made


def _with_learned(task: Task, general: GeneralParts, train: Sequence[Any], base: Base) -> tuple[Task, GeneralParts]:
    """The domain's and the general task with what the learn part teaches, which the general head, or the one to start from, is fitted on."""
    learn = general.learn
    if not learn:
        return task, general
    if general.head == "general":
        return task, replace(general, task=general.task.fitted(learn, base))
    task, shared = (one.fitted(train, base, start=learn) for one in (task, general.task))
    return task, replace(general, task=shared)


def _general_parts(
    recipe: Recipe,
    base: Base,
    task: Task,
    found: Sequence[str],
    rows: dict[str, list[Row]],
    known: set[str],
    reported: set[str],
    notes: list[str],
) -> GeneralParts:
    """`found` are the labels of the domain's rows; `known` are input checksums of rows that were trained or chosen on, `reported` of the
    test part: on those nothing is chosen."""
    given = [row for name in ("general", "general_check") for row in rows.get(name, ())]
    labelled = [task.has_target(row) for row in given]
    if any(labelled) and not all(labelled):
        where = given[labelled.index(False)].where
        raise DataError("a general row without a label among labelled ones.", where=where, remedy="Label all or none.")
    agreement = not all(labelled)
    general_task, head, fits_head = _general_task(recipe, base, task, found, given, agreement=agreement)
    if recipe.data.general_labels is not None:
        general_task = general_task.scoring(recipe.data.general_labels)
    if agreement:
        what = "agreement with the base" if task.primary.higher_is_better else "how likely the base's own answers stay"
        notes.append(f"the general rows carry no labels: {what} is measured, not retention.")
    parts = {
        name: _without(
            general_task,
            examples_with_groups(general_task, rows[name], recipe.data, notes, labelled=not agreement),
            known,
            name,
            "rows that this or an earlier run trains or chooses on",
            notes,
        )
        for name in ("general", "general_check")
        if name in rows
    }
    check = parts.get("general_check")
    choose = parts.get("general", [])
    if choose:
        reported = reported | _checksums(general_task, check or ())
        why = "rows of test or of general_check, on which nothing may be chosen"
        choose = _without(general_task, choose, reported, "general", why, notes)
    learn: list[Any] = []
    if fits_head and not choose and head == "general":
        raise DataError(
            "the general-check set has labels of its own, and nothing to fit their head on.",
            where="--general-check",
            remedy="Give --general with the same labels, or a base whose head has them.",
        )
    if fits_head and choose:
        choose, learn, _ = split_general(general_task, choose, fraction=LEARN_FRACTION, seed=recipe.data_seed + 3)
        if len(learn) < 2:
            raise DataError("too few rows to fit a head on.", where="--general", remedy="Give more rows.")
    headline, name = check, "general-check"
    if headline is None:
        choose, cut, whole = split_general(general_task, choose, fraction=0.5, seed=recipe.data_seed + 4)
        headline, name = with_kept_whole(general_task, cut, whole), "general (report part)"
    return GeneralParts(general_task, head, agreement, learn, choose, headline, name)


def _without(task: Task, examples: list[Any], inputs: set[str], name: str, why: str, notes: list[str]) -> list[Any]:
    """The examples whose input checksum is not among `inputs`; the others are counted in a note."""
    kept = [example for example in examples if input_checksum(task.keys(example).input) not in inputs]
    if len(kept) < len(examples):
        notes.append(counted(len(examples) - len(kept), f"[row|rows] of {name} [was|were] left out: {why}."))
    if not kept:
        raise DataError(f"no row of {name} is left: all are {why}.", where=name, remedy="Give other rows.")
    return kept


def _labels_all(task: Task, rows: Sequence[Row]) -> bool:
    """Whether every row is one of this task, its labels among the task's, and some row has labels."""
    try:
        return any(task.keys(example).labels for example in list(task.read(rows)))
    except DataError:
        return False


def _general_task(
    recipe: Recipe, base: Base, task: Task, found: Sequence[str], rows: Sequence[Row], *, agreement: bool
) -> tuple[Task, str, bool]:
    """The general set's task, its head, and whether a head is to be fitted on its learn part.

    The head is the domain's where the labels are equal, its own or those `found` in its rows; else the base's own where that covers the
    general labels (it is what the base could do before); else the domain's where that covers them; else a new one.
    """
    domain_labels, own = set(task.head().labels), set(base.own_labels)
    if not domain_labels:
        return task, "domain", False
    if agreement:
        kept = of_own_head(task, base)
        return (task, "domain", False) if kept is None else (kept, "general", False)
    settings = recipe.task.model_copy(update={"labels": None} if "labels" in type(recipe.task).model_fields else {})
    try:
        built = TASKS[recipe.task.name].build(rows, base, settings)
    except DataError:  # labels that make no task of their own, such as a single one
        kept = of_own_head(task, base)
        if kept is not None and _labels_all(kept, rows):
            return kept, "general", False
        if _labels_all(task, rows):
            return task, "domain", False
        raise
    labels = set(built.head().labels)
    if labels not in (domain_labels, set(found)) and labels <= own:
        kept = in_own_order(built, base)
        if kept is not None:
            return kept, "general", False
    if labels <= domain_labels:
        return task, "domain", labels == domain_labels and not base.owns(task.head())
    return built, "general", not base.owns(built.head())
