"""Finished runs side by side, and paired tests between them on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from domaintune.data.splits import together
from domaintune.errors import RunError
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate
from domaintune.evaluation.paired import holm, swap_test
from domaintune.evaluation.records import ScoredRows, load_records, scored_rows
from domaintune.finished.evaluate import Evaluation, evaluate
from domaintune.finished.strength import spoken
from domaintune.predict import load, saved_tasks
from domaintune.run import RunFolder, read_lines
from domaintune.stored import damage_told
from domaintune.tasks.base import Record, Task

DRAWS, DRAWS_OF_PAIR = 2000, 40
"""Draws of a paired test: so many at least, and so many for every pair compared, so that a corrected p-value can fall to 1 / 40."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One run at its strength: its facts, and its records on the rows that all are compared on."""

    name: str
    task: Task
    facts: dict[str, Any]
    rows: ScoredRows
    places: list[str]
    """ "file:line" of each row."""
    records: list[Record]


def compare(paths: Sequence[str | Path], *, data: str | None = None, encoding: str | None = None) -> dict[str, Any]:
    """The runs' facts, and for each pair the difference of the primary scores (second minus first, positive where the second is
    better) with its interval and the p-value of a paired test, as it is and corrected for the number of pairs. Rows that any of the
    runs groups are resampled and swapped together, whatever the order of the runs.

    Facts of a run over several seeds are those of the one that stands for it (`used_seed`); `own_strengths`: what was set for single
    domains; `seen_rows`, `notes`: of `data`, as `evaluate` says them.

    `data`: labelled rows to score all runs on, by default each run's own test part, which has to be the same.

    Raises:
        RunError: fewer than two runs, one that is named twice, other tasks or labels, or other test rows; says which differ.
        DataError: a bad row of `data`.
    """
    names = [str(path) for path in paths]
    repeated = [name for name in names if sum(Path(name).resolve() == Path(other).resolve() for other in names) > 1]
    if len(names) < 2 or repeated:
        what = f"'{repeated[0]}' is named twice." if repeated else "got one run."
        raise RunError(what, where="compare", remedy="Give two or more different runs.")
    folders = [RunFolder.existing(name) for name in names]
    _same_tasks(names, folders)
    made = []
    for name, folder in zip(names, folders, strict=True):
        with damage_told(name):
            made.append(_candidate(name, folder, data, encoding))
    first = made[0]
    orders = [_order(candidate, first) for candidate in made]
    places = list(combinations(range(len(made)), 2))
    draws = max(DRAWS, DRAWS_OF_PAIR * len(places))
    groupings = [_grouping(candidate, order) for candidate, order in zip(made, orders, strict=True)]
    groups = _joined(groupings)
    pairs = [_pair(made[i], made[j], orders[i], orders[j], groups, draws) for i, j in places]
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_corrected"] = corrected
    return {
        "task": first.task.name,
        "primary": first.task.primary.name,
        "data": data or "test",
        "rows": len(first.records),
        "notes": _told_groupings(names, groupings),
        "runs": [candidate.facts for candidate in made],
        "pairs": pairs,
    }


def _same_tasks(names: Sequence[str], folders: Sequence[RunFolder]) -> None:
    kinds = {name: folder.read("run.json")["task"] for name, folder in zip(names, folders, strict=True)}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise RunError(f"runs of different tasks: {told}.", where="compare", remedy="Compare runs of one task.")
    labels = [tuple(_task(folder).head().labels) for folder in folders]
    for name, own in zip(names, labels, strict=True):
        if own != labels[0]:
            odd = sorted(set(own) ^ set(labels[0]))
            raise RunError(
                f"{name} has other labels than {names[0]} ({', '.join(odd[:5]) or 'in another order'}).",
                where="compare",
                remedy="Give all runs the same --set task.labels=[...].",
            )


def _task(folder: RunFolder) -> Task:
    with damage_told(folder.path):
        return saved_tasks(folder)["domain"]


def _candidate(name: str, folder: RunFolder, data: str | None, encoding: str | None) -> Candidate:
    """`folder`: the run, or of one over several seeds the one that stands for it."""
    scores, state, facts = folder.read("scores.json"), folder.read("run.json"), folder.read("provenance.json")
    dial, task = folder.read("strength.json"), _task(folder)
    strength, own = float(dial["chosen"]), dial.get("own", {})
    key = f"{strength:g}"
    whole = RunFolder(Path(name)).read("run.json")
    seeds, used = whole.get("seeds", 1), whole.get("used_seed")
    seen, notes = None, list[str]()
    if data is None:
        rows, records = load_records(folder.path / "records" / "test.safetensors")
        if key not in records or own:
            raise RunError(
                f"was set to strength {spoken({'': strength, **own})}, at which it was not scored on its test part.",
                where=name,
                remedy="Give labelled rows with --data.",
            )
        side, mine, places = scores["domain"], records[key], _places(folder)
    else:
        evaluation: Evaluation = evaluate(load(folder.path), data, encoding=encoding)
        seen, notes = evaluation.seen, evaluation.notes
        side, mine = evaluation.side.plain(), evaluation.side.records[strength]
        rows = scored_rows(task, evaluation.examples)
        places = [example.where for example in evaluation.examples]
    primary, general = scores["primary"], scores["general"]
    kept = None if general is None else general["change"].get(key)
    return Candidate(
        name,
        task,
        {
            "run": name,
            "seeds": seeds,
            "used_seed": used,
            "method": state["method"],
            "base": state["base"],
            "strength": strength,
            "own_strengths": own,
            "base_score": side["scores"]["0"][primary],
            "score": side["scores"][key][primary],
            "gain": side["change"][key],
            "retention": kept,
            "retention_kind": None if general is None else general["kind"],
            "verdict": scores["verdict"]["kind"] if strength == scores["chosen_strength"] and not own else None,
            "trainable_parameters": scores["trainable_parameters"],
            "training_seconds": facts["training_seconds"],
            "seconds": facts["seconds"],
            "seen_rows": seen,
            "notes": notes,
        },
        rows,
        places,
        mine,
    )


def _places(folder: RunFolder) -> list[str]:
    return [f"{row['file']}:{row['line']}" for row in read_lines(folder.path / "predictions" / "test.jsonl")]


def _order(candidate: Candidate, first: Candidate) -> np.ndarray:
    """Positions of the candidate's rows that put them into the order of their checksums, in which all runs are compared: rows that
    say the same may stand anywhere."""
    mine, theirs = candidate.rows.checksums, first.rows.checksums
    order: np.ndarray = np.lexsort((candidate.rows.groups, mine))
    if len(mine) != len(theirs) or not np.array_equal(mine[order], np.sort(theirs)):
        raise RunError(
            f"{candidate.name} was tested on other rows than {first.name}: {_missing(candidate, first)}, and "
            f"{_missing(first, candidate)}.",
            where="compare",
            remedy="Give labelled rows for all with --data.",
        )
    return order


def _grouping(candidate: Candidate, order: np.ndarray) -> list[int]:
    """A number for each row in order, equal where the candidate groups them."""
    names = candidate.rows.group_names()
    return together([str(row) for row in order], [names[row] for row in order])


def _joined(groupings: Sequence[Sequence[int]]) -> list[str]:
    """A name for each row, equal where any of the groupings joins them, directly or through others."""
    rows = [str(row) for row in range(len(groupings[0]))]
    links = [(row, first) for grouping in groupings for row, first in enumerate(grouping)]
    return [str(first) for first in together(rows, [None] * len(rows), links)]


def _told_groupings(names: Sequence[str], groupings: Sequence[Sequence[int]]) -> list[str]:
    """What is to be said where the runs do not group the rows alike."""
    if all(grouping == groupings[0] for grouping in groupings):
        return []
    counts = ", ".join(f"{name} {len(set(made)):,}" for name, made in zip(names, groupings, strict=True))
    return [
        f"the runs group the {len(groupings[0]):,} rows differently (groups and rows of their own: {counts}); rows that any of them groups "
        "were resampled and swapped together."
    ]


def _missing(candidate: Candidate, other: Candidate) -> str:
    lacking = [
        place
        for place, known in zip(candidate.places, np.isin(candidate.rows.checksums, other.rows.checksums), strict=True)
        if not known
    ]
    told = f" ({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''})" if lacking else ""
    return f"{len(lacking)} of the {len(candidate.records)} rows of {candidate.name} are not among those of {other.name}{told}"


def _pair(
    first: Candidate,
    second: Candidate,
    first_order: np.ndarray,
    second_order: np.ndarray,
    groups: Sequence[str],
    draws: int,
) -> dict[str, Any]:
    task = first.task
    one = [first.records[i] for i in first_order]
    two = [second.records[i] for i in second_order]
    weights = bootstrap_weights(len(one), draws=DRAWS, seed=SEED, groups=groups)
    return {
        "first": first.name,
        "second": second.name,
        "difference": gain_estimate(task, two, one, weights).plain(),
        "p": swap_test(task, two, one, draws=draws, seed=SEED, groups=groups),
    }
