"""Examples of the domain -> train, dev and test: what stands in two parts is removed, what was not given is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from domaintune.checks.shared import agreed, inseparable
from domaintune.counting import counted
from domaintune.data.splits import Positions, contiguous_cut, cut, folds, leaks
from domaintune.errors import DataError
from domaintune.recipe import DataSettings, Recipe
from domaintune.tasks.base import Keys, Task

Whole = dict[int, int]
"""`id` of an example -> a number, equal for those that a cut may not part."""


def domain_parts(
    recipe: Recipe, task: Task, given: dict[str, list[Any]], notes: list[str]
) -> tuple[list[Any], list[Any] | None, list[Any], Whole]:
    """Train, dev and test, and what was kept whole in those of them that were cut."""
    whole: Whole = {}
    settings, train, dev, test = recipe.data, given["train"], given.get("dev"), given.get("test")
    if settings.drop_duplicates:
        train = without_duplicates(task, train, notes)
    if dev is not None:  # before a test part is cut from train, which could take the groups of dev
        train = without_groups(train, dev, "dev", settings, notes)
    if test is None:
        train, test, whole = split(task, train, fraction=settings.test_fraction, seed=recipe.data_seed)
        notes.append(f"no test part was given: {counted(len(test), '[row was|rows were] cut from train.')}")
    else:
        train = without_groups(without_leaks(task, train, test, "test", settings, notes), test, "test", settings, notes)
    if dev is not None:
        train = without_leaks(task, train, dev, "dev", settings, notes)
        if not settings.keep_leaks:
            dev = without_leaks(task, dev, test, "test", settings, notes, of="dev")
            dev = without_groups(dev, test, "test", settings, notes, of="dev")
    elif len(train) >= settings.fold_below or not task.cross_validates:
        train, dev, of_dev = split(task, train, fraction=settings.dev_fraction, seed=recipe.data_seed + 1)
        whole |= of_dev
        notes.append(f"no dev part was given: {counted(len(dev), '[row was|rows were] cut from train.')}")
    else:
        notes.append(f"no dev part was given and train is small: {settings.folds} folds stand in for it.")
    return _trained(recipe, task, train, dev, notes), dev, test, whole


def _trained(recipe: Recipe, task: Task, train: list[Any], dev: list[Any] | None, notes: list[str]) -> list[Any]:
    """`train` as it is trained on, which has to make folds where these stand in for `dev`: said here, before anything is written."""
    train = _capped(recipe, task, train, notes)
    if dev is None:
        fold_positions(recipe, task, train)
    return train


def fold_positions(recipe: Recipe, task: Task, train: Sequence[Any]) -> list[tuple[Positions, Positions]]:
    """(train, dev) of each fold, by position.

    Raises:
        DataError: too few rows that can be parted.
    """
    strata = [task.keys(example).stratum for example in train]
    return folds(strata, inseparable(task, train), count=recipe.data.folds, seed=recipe.data_seed)


def _capped(recipe: Recipe, task: Task, train: list[Any], notes: list[str]) -> list[Any]:
    most = recipe.data.max_train_rows
    if most is None or len(train) <= most:
        return train
    rest, train, _ = split(task, train, fraction=most / len(train), seed=recipe.data_seed + 2)
    train = _with_lost_labels(task, train[:most], rest, most=most)
    notes.append(f"train was capped at {len(train)} rows (data.max_train_rows).")
    return train


def _with_lost_labels(task: Task, train: list[Any], rest: Sequence[Any], *, most: int) -> list[Any]:
    """`train` and, of the `rest`, one example for each label that it has none of; room for them is made by examples of the commonest
    labels, none of which is lost by it."""
    labels = [task.keys(example).labels for example in train]
    counts = Counter(label for names in labels for label in names)
    made = []
    for example in rest:
        if any(not counts[label] for label in task.keys(example).labels):
            made.append(example)
            counts.update(task.keys(example).labels)
    kept = list(range(len(train)))
    while made and len(kept) + len(made) > most:
        place = max(kept, key=lambda p: (min((counts[label] for label in labels[p]), default=0), p))
        if min((counts[label] for label in labels[place]), default=0) < 2:
            made.pop()
            continue
        kept.remove(place)
        counts.subtract(labels[place])
    return [*(train[place] for place in kept), *made]


def grown_parts(
    recipe: Recipe, task: Task, old: dict[str, list[Any]], added: list[Any], notes: list[str]
) -> tuple[list[Any], list[Any] | None, list[Any], Whole]:
    """The earlier run's parts with a share of the new rows each, and what was kept whole. What stands in one of them already is no new
    row; rows that may not be parted from one of them (of its group, or almost equal to it) join its part."""
    settings = recipe.data
    never = settings.model_copy(update={"keep_leaks": False})
    for name in ("test", "dev", "train"):
        if old[name]:
            added = without_leaks(task, added, old[name], name, never, notes, of="add")
    if settings.drop_duplicates:
        added = without_duplicates(task, added, notes, of="add")
    bound, free, whole = _bound(task, old, added)
    train, test = _share(task, free, fraction=settings.test_fraction, seed=recipe.data_seed)
    test = [*bound["test"], *test]
    counts = [f"{len(test):,} of the {len(added):,} new rows joined the test part"]
    dev = None
    if old["dev"]:
        train, dev = _share(task, train, fraction=settings.dev_fraction, seed=recipe.data_seed + 1)
        counts.append(f"{len(bound['dev']) + len(dev):,} the dev part")
        dev = [*old["dev"], *bound["dev"], *dev]
    train = [*bound["train"], *train]
    notes.append(f"{', '.join(counts)}; train has {len(old['train']):,} old and {len(train):,} new ones.")
    if together := sum(map(len, bound.values())):
        told = "of the new rows [is|are] of the group of an old one or almost equal to one, and joined its part."
        notes.append(counted(together, told))
    train = [*old["train"], *train]
    if dev is None and (len(train) >= settings.fold_below or not task.cross_validates):
        train, dev, of_dev = split(task, train, fraction=settings.dev_fraction, seed=recipe.data_seed + 1)
        whole |= of_dev
        notes.append(f"the earlier run had no dev part: {counted(len(dev), '[row was|rows were] cut from train.')}")
    return _trained(recipe, task, train, dev, notes), dev, [*old["test"], *test], whole


def _bound(task: Task, old: Mapping[str, list[Any]], added: list[Any]) -> tuple[dict[str, list[Any]], list[Any], Whole]:
    """The new examples that may not be parted from old ones, by the part of these (test before dev before train); the others; and what
    may not be parted of all. Its group decides where an example goes, then what it is almost equal to."""
    bound: dict[str, list[Any]] = {"train": [], "dev": [], "test": []}
    free: list[Any] = []
    if task.contiguous:
        return bound, added, {}
    group = {e.group: name for name in bound for e in old[name] if e.group is not None}
    names = [name for name in bound for _ in old[name]] + [group.get(e.group, "") for e in added]
    together = [*(e for name in bound for e in old[name]), *added]
    numbers = inseparable(task, together)
    order = ("", *bound)
    home = {number: name for name, number in sorted(zip(names, numbers, strict=True), key=lambda e: order.index(e[0]))}
    before = len(names) - len(added)
    for example, name, number in zip(added, names[before:], numbers[before:], strict=True):
        bound.get(name or home[number], free).append(example)
    return bound, free, dict(zip(map(id, together), numbers, strict=True))


def _share(task: Task, added: list[Any], *, fraction: float, seed: int) -> tuple[list[Any], list[Any]]:
    """As `split`; of rows that are too few or too much alike to be parted, none for the part."""
    try:
        return split(task, added, fraction=fraction, seed=seed)[:2]
    except DataError:
        return added, []


def without_duplicates(task: Task, train: list[Any], notes: list[str], *, of: str = "train") -> list[Any]:
    """One example of each input; none of those whose targets disagree."""
    keys = [task.keys(example) for example in train]
    targets: dict[str, set[str]] = {}
    for key in keys:
        targets.setdefault(key.input, set()).add(agreed(key))
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key.input, position)
    kept = [train[place] for text, place in first.items() if len(targets[text]) == 1]
    conflicting = sum(len(targets[key.input]) > 1 for key in keys)
    if len(kept) < len(train):
        repeats = len(train) - len(kept) - conflicting
        told = (
            f"{counted(repeats, '[repeat|repeats]')} and {counted(conflicting, '[row|rows]')} with conflicting targets"
        )
        notes.append(f"{told} were dropped from {of}.")
    if not kept:
        raise DataError("every row is a duplicate with another target.", where=of, remedy="Mend the labels.")
    return kept


def without_leaks(
    task: Task,
    train: list[Any],
    other: Sequence[Any],
    name: str,
    settings: DataSettings,
    notes: list[str],
    *,
    of: str = "train",
) -> list[Any]:
    """`train` (the part named `of`) without the rows that stand in `other` (the part named `name`); of new rows it is told how many have
    another target there."""
    keys, others = ([task.keys(example) for example in part] for part in (train, other))
    found = set(leaks([key.input for key in keys], [key.input for key in others]))
    if not found:
        return train
    if settings.keep_leaks:
        notes.append(
            counted(
                len(found),
                f"[row|rows] of {of} also [stands|stand] in {name}; kept, as asked: the {name} score is too good.",
            )
        )
        return train
    targets = {(key.input, agreed(key)) for key in others}
    changed = sum((keys[place].input, agreed(keys[place])) not in targets for place in found) if of == "add" else 0
    old = (
        ", " + counted(changed, "of them with another target than there: the old [one stays|ones stay]")
        if changed
        else ""
    )
    notes.append(counted(len(found), f"[row|rows] of {of} also [stands|stand] in {name}; removed from {of}{old}."))
    kept = [example for position, example in enumerate(train) if position not in found]
    if not kept:
        raise DataError(f"every row of {of} also stands in {name}{old}.", where=of, remedy=_other_rows(of))
    return kept


def without_groups(
    train: list[Any], other: Sequence[Any], name: str, settings: DataSettings, notes: list[str], *, of: str = "train"
) -> list[Any]:
    """`train` (the part named `of`) without the rows whose group stands in `other` (the part named `name`)."""
    known = {example.group for example in other} - {None}
    kept = [example for example in train if example.group not in known]
    if len(kept) == len(train):
        return train
    told = counted(len(train) - len(kept), f"[row|rows] of {of} [is|are] of a group that stands in {name} too")
    if settings.keep_leaks:
        notes.append(f"{told}; kept, as asked: the {name} score is too good.")
        return train
    notes.append(f"{told}; removed from {of}.")
    if not kept:
        raise DataError(f"every group of {of} also stands in {name}.", where=of, remedy=_other_rows(of))
    return kept


def _other_rows(of: str) -> str:
    """New rows are never kept beside themselves."""
    return (
        "Give other rows." if of == "add" else "Give other rows; or --keep-leaks keeps them, and scores are too good."
    )


def split(task: Task, examples: list[Any], *, fraction: float, seed: int) -> tuple[list[Any], list[Any], Whole]:
    """(rest, part), stratified and grouped, and what was kept whole; running text is cut contiguously, none of it kept whole."""
    if not examples:
        return [], [], {}
    rest, part, numbers = split_positions(task, examples, fraction=fraction, seed=seed)
    whole = dict(zip(map(id, examples), numbers, strict=bool(numbers)))
    return [examples[i] for i in rest], [examples[i] for i in part], whole


def split_general(task: Task, examples: list[Any], *, fraction: float, seed: int) -> tuple[list[Any], list[Any], Whole]:
    """As `split`, of general rows.

    Raises:
        DataError: too few rows that can be parted.
    """
    try:
        return split(task, examples, fraction=fraction, seed=seed)
    except DataError as error:
        remedy = "Give more different general rows, or --general-check."
        raise DataError(error.what, where="--general", remedy=remedy) from None


def split_positions(
    task: Task, examples: Sequence[Any], *, fraction: float, seed: int
) -> tuple[Positions, Positions, list[int]]:
    """As `split`, by position; a number for each example, equal where they were kept whole.

    Raises:
        DataError: too few rows that can be parted.
    """
    if task.contiguous:
        return *contiguous_cut(len(examples), fraction), []
    keys, numbers = [task.keys(example) for example in examples], inseparable(task, examples)
    return *cut(_strata(task, keys), numbers, fraction=fraction, seed=seed), numbers


def _strata(task: Task, keys: Sequence[Keys]) -> list[str]:
    """Each row's stratum: the task's; of rows with several labels the rarest of them, as most combinations stand there once."""
    if not getattr(task, "multi_label", False):
        return [key.stratum for key in keys]
    counts = Counter(label for key in keys for label in key.labels)
    return [min(key.labels, key=lambda label: (counts[label], label), default="") for key in keys]
