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
from domaintune.evaluation.intervals import bootstrap_weights
from domaintune.evaluation.over_seeds import OverSeeds
from domaintune.evaluation.paired import difference, holm
from domaintune.evaluation.records import ScoredRows, load_records, scored_rows
from domaintune.finished.evaluate import Evaluation, evaluate
from domaintune.finished.strength import moved, spoken
from domaintune.predict import load
from domaintune.run import SEEDS_SUMMARY, RunFolder, read_json, read_lines
from domaintune.stored import damage_told, saved_tasks
from domaintune.tasks.base import Record, Task

DRAWS, DRAWS_OF_PAIR = 2000, 40
"""Draws of a paired test: so many at least, and so many for every pair compared, so that a corrected p-value can fall to 1 / 40."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One run at its strength, or one over several seeds with each at its own: its facts, and its records on the rows that all are
    compared on."""

    name: str
    task: Task
    facts: dict[str, Any]
    rows: ScoredRows
    places: list[str]
    """ "file:line" of each row."""
    records: list[list[Record]]
    """A list for each seed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One run's records at its strength and at 0, and what it says of that side."""

    folder: RunFolder
    strength: float
    own: dict[str, float]
    side: dict[str, Any]
    rows: ScoredRows
    places: list[str]
    at: list[Record]
    base: list[Record]
    seen: int | None
    notes: list[str]


def compare(paths: Sequence[str | Path], *, data: str | None = None, encoding: str | None = None) -> dict[str, Any]:
    """The runs' facts, and for each pair the difference of the primary scores (second minus first, of losses first minus second:
    positive where the second is better) with its interval and the p-value of a paired test, as it is and corrected for the number of pairs. Rows that any of the
    runs groups are resampled and swapped together, whatever the order of the runs.

    Of a run over several seeds the means over all (`compared_seeds`), each at its own strength (`strengths`), with what seeds add to
    the intervals; where another strength was set since, of the one that stands for it (`used_seed`) alone. `own_strengths`: what was
    set for single domains; `seen_rows`, `notes`: of `data`, as `evaluate` says them.

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
    ordered = [
        [[r[i] for i in order] for r in candidate.records] for candidate, order in zip(made, orders, strict=True)
    ]
    ordered, unit = _in_one_unit(names, first, ordered)
    places = list(combinations(range(len(made)), 2))
    draws = max(DRAWS, DRAWS_OF_PAIR * len(places))
    groupings = [_grouping(candidate, order) for candidate, order in zip(made, orders, strict=True)]
    groups = _joined(groupings)
    weights = bootstrap_weights(len(groups), draws=DRAWS, seed=SEED, groups=groups)
    pairs: list[dict[str, Any]] = []
    for i, j in places:
        found, p = difference(first.task, ordered[j], ordered[i], weights, draws=draws, seed=SEED, groups=groups)
        pairs.append({"first": names[i], "second": names[j], "difference": found.plain(), "p": p})
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_corrected"] = corrected
    return {
        "task": first.task.name,
        "primary": first.task.primary.name,
        "data": data or "test",
        "rows": len(first.places),
        "notes": [*unit, *_told_groupings(names, groupings)],
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
    task, state = _task(folder), folder.read("run.json")
    whole = RunFolder(Path(name)).read("run.json")
    summary = read_json(Path(name) / SEEDS_SUMMARY) if "used_seed" in whole and not moved(folder.path) else None
    members = [folder] if summary is None else [RunFolder.existing(Path(name) / r["folder"]) for r in summary["runs"]]
    scored = [_scored(name, task, member, data, encoding) for member in members]
    first, times = scored[0], [member.read("provenance.json") for member in members]
    facts = _alone(task, first) if summary is None else _over_seeds(task, scored, summary)
    return Candidate(
        name,
        task,
        {
            "run": name,
            "seeds": whole.get("seeds", 1),
            "compared_seeds": len(members),
            "used_seed": whole.get("used_seed"),
            "method": state["method"],
            "base": state["base"],
            "strengths": [member.strength for member in scored],
            "own_strengths": first.own,
            **facts,
            "trainable_parameters": folder.read("scores.json")["trainable_parameters"],
            **{key: float(np.mean([own[key] for own in times])) for key in ("training_seconds", "seconds")},
            "seen_rows": first.seen,
            "notes": list(dict.fromkeys(note for member in scored for note in member.notes)),
        },
        first.rows,
        first.places,
        [member.at for member in scored],
    )


def _scored(name: str, task: Task, folder: RunFolder, data: str | None, encoding: str | None) -> Scored:
    dial = folder.read("strength.json")
    strength, own = float(dial["chosen"]), dial.get("own", {})
    if data is not None:
        made: Evaluation = evaluate(load(folder.path), data, encoding=encoding)
        at, base = made.side.records[strength], made.side.records[0.0]
        places = [example.where for example in made.examples]
        rows = scored_rows(task, made.examples)
        return Scored(folder, strength, own, made.side.plain(), rows, places, at, base, made.seen, made.notes)
    rows, records = load_records(folder.path / "records" / "test.safetensors")
    if f"{strength:g}" not in records or own:
        raise RunError(
            f"was set to strength {spoken({'': strength, **own})}, at which it was not scored on its test part.",
            where=name,
            remedy="Give labelled rows with --data.",
        )
    side = folder.read("scores.json")["domain"]
    return Scored(folder, strength, own, side, rows, _places(folder), records[f"{strength:g}"], records["0"], None, [])


def _alone(task: Task, scored: Scored) -> dict[str, Any]:
    """What is said of a single run's scores."""
    scores, key, primary = scored.folder.read("scores.json"), f"{scored.strength:g}", task.primary.name
    general = scores["general"]
    return {
        "base_score": scored.side["scores"]["0"][primary],
        "score": scored.side["scores"][key][primary],
        "gain": scored.side["change"][key],
        "retention": None if general is None else general["change"].get(key),
        "retention_kind": None if general is None else general["kind"],
        "verdict": None if moved(scored.folder.path) else scores["verdict"]["kind"],
    }


def _over_seeds(task: Task, scored: Sequence[Scored], summary: dict[str, Any]) -> dict[str, Any]:
    """The same of the means over seeds; `summary`: what seeds.json holds."""
    recipe, primary, general = scored[0].folder.read("recipe.json"), task.primary.name, summary["general"]
    draws, seed = recipe["evaluation"]["draws"], recipe["seed"]
    groups = scored[0].rows.group_names()
    side = OverSeeds.of(
        task,
        {"base": [member.base for member in scored], "chosen": [member.at for member in scored]},
        bootstrap_weights(len(groups), draws=draws, seed=seed, groups=groups),
        seed=seed,
        keys={"base": ["0"] * len(scored), "chosen": [f"{member.strength:g}" for member in scored]},
        confirmed=[member.side for member in scored],
    )
    return {
        "base_score": side.score("base", primary).plain(),
        "score": side.score("chosen", primary).plain(),
        "gain": side.gain("chosen").plain(),
        "retention": None if general is None else general["change"]["chosen"],
        "retention_kind": None if general is None else general["kind"],
        "verdict": summary["verdict"]["kind"],
    }


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
    return f"{len(lacking)} of the {len(candidate.places)} rows of {candidate.name} are not among those of {other.name}{told}"


def _in_one_unit(
    names: Sequence[str], first: Candidate, ordered: list[list[list[Record]]]
) -> tuple[list[list[list[Record]]], list[str]]:
    """The runs' records in order, and what is to be said of their unit. A loss is a mean over tokens: where runs split the same targets
    into other numbers of them (another tokenizer, chat template or limit), it is taken over the targets' characters.

    Raises:
        RunError: a target was not scored whole, so that its characters were not counted.
    """
    if first.task.primary.counts != ("cross_entropy",):
        return ordered, []
    rows = np.sort(first.rows.checksums).tolist()
    tokens = [sorted((row, r["cross_entropy"][1]) for row, r in zip(rows, one[0], strict=True)) for one in ordered]
    if all(counts == tokens[0] for counts in tokens):
        return ordered, []
    for name, (one, *_) in zip(names, ordered, strict=True):
        if uncounted := sum("characters" not in record for record in one):
            raise RunError(
                f"the runs split the same targets into other numbers of tokens, so that nats per token cannot be compared, and for "
                f"{uncounted} of {len(one)} rows {name} has no count of characters to compare them by (targets that its limit cuts, "
                "running text, and test parts of older versions have none).",
                where="compare",
                remedy="Give prompts with completions that no run's task.max_length cuts with --data, or compare runs of one tokenizer, "
                "chat template and task.max_length.",
            )
    by_character = [[[_by_character(record) for record in one] for one in seeds] for seeds in ordered]
    return by_character, [
        "the runs split the same targets into other numbers of tokens (another tokenizer, chat template or limit): differences and p are "
        "of nats per character of the targets; each run's own scores are in nats per token of its own, and say nothing beside each other."
    ]


def _by_character(record: Record) -> Record:
    return {**record, "cross_entropy": np.array([record["cross_entropy"][0], record["characters"][0]])}
