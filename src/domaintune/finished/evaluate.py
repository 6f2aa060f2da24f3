"""A run scored on labelled rows that it was given later, at one strength beside its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domaintune.balance.frontier import Side
from domaintune.checks.lengths import limit_findings
from domaintune.confirm import SideScores, side_scores
from domaintune.counting import counted, listed
from domaintune.data.columns import wanted_of
from domaintune.data.formats import read_part
from domaintune.data.labels import only, renamed
from domaintune.data.rows import Row
from domaintune.errors import DataError, RunError
from domaintune.parts import examples_with_groups, input_checksum, label_separator
from domaintune.predict import Run, Strength, unknown_told
from domaintune.run import RunFolder
from domaintune.tasks.base import Record, Task, dataset


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run on `data`: `side` holds the scores at strength 0 and at `strength`, and the change from one to the other."""

    data: str
    strengths: Mapping[str, float]
    """By domain; "": of rows that name none, by which `side` names all."""
    side: SideScores
    examples: Sequence[Any]
    primary: str
    seen: int
    """Rows that the run, or one before it, trained or chose on."""
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "strength": self.strengths[""],
            "domain_strengths": {name: at for name, at in self.strengths.items() if name},
            "primary": self.primary,
            "seen_rows": self.seen,
            "notes": self.notes,
            **self.side.plain(),
        }


def evaluate(
    run: Run,
    data: str,
    *,
    strength: Strength | None = None,
    general: bool = False,
    encoding: str | None = None,
) -> Evaluation:
    """Every score of the run's task on labelled rows at a strength (by default the run's; one for each domain as in `Run.predict`)
    and at the base, with 95 % intervals, and the paired gain. `general`: the rows are of what the base could do before; its head
    answers, and retention is measured. `encoding` of text files; None: recognised.

    Raises:
        DataError: a bad row, or one without a target.
        RunError: a strength outside [0, 1], or a domain that the run does not know.
    """
    at = run.strengths(strength)
    chosen = at[""]
    if not chosen and any(at.values()):
        raise RunError(
            "rows of no known domain would be the base's, beside which the others are scored.",
            where="--strength",
            remedy="Give them a strength above 0 too: --strength S --strength NAME=S.",
        )
    task, head = run.task, "domain"
    if general and run.general_task is not None:
        task, head = run.general_task, "general"
    rows, notes = _labelled_rows(run, task, data, encoding, general=general)
    if general and run.recipe.data.general_labels is not None:
        task = task.scoring(run.recipe.data.general_labels)
    examples = examples_with_groups(task, rows, run.recipe.data, notes, labelled=True)
    side = Side(task, dataset(task, run.base, examples), head)
    strengths = sorted({0.0, chosen})
    scored = side_scores(
        run.recipe, run, side, "general" if general else "test", strengths, drift=False, by_domain={chosen: at}
    )
    notes += [
        f"{found.message} (first: {found.rows[0]})"
        for found in limit_findings(task, data, side.data)
        if found.severity == "warning"
    ]
    if run.domains:
        notes += unknown_told(sum(example.domain not in run.domains for example in examples))
    known = set(RunFolder.existing(run.path).read("seen.json"))
    seen = sum(input_checksum(task.keys(example).input) in known for example in examples)
    if seen:
        notes.append(
            f"{seen:,} of {len(examples):,} rows were trained or chosen on by this run: both scores are too good."
        )
    notes += absent_told(task, scored.records[chosen])
    return Evaluation(data, at, replace(scored, name=data), examples, task.primary.name, seen, notes)


def absent_told(task: Task, records: Sequence[Record]) -> list[str]:
    """What labels that no row has do to macro_f1: with several labels a row it is over all of them, whatever is answered."""
    facts = task.classes(records) if "macro_f1" in task.scores else {}
    absent = [f"'{label}'" for label, of_label in facts.items() if not of_label["support"]]
    if not absent:
        return []
    told = listed(absent)
    if task.head().problem_type == "multi_label_classification":
        return [f"no row has {told}: macro_f1 counts such labels with F1 0."]
    return [f"no row is {told}: macro_f1 counts such labels with F1 0 where answers have them."]


def _labelled_rows(
    run: Run, task: Task, data: str, encoding: str | None, *, general: bool
) -> tuple[list[Row], list[str]]:
    recipe, wanted = run.recipe, replace(wanted_of(run.recipe), encoding=encoding, fixed=True)
    reading = read_part(data, wanted, part="test")
    rows = renamed(reading.rows, wanted, recipe.data.label_map, separator=label_separator(recipe))
    bare = next((row for row in rows if not task.has_target(row)), None)
    if bare is not None:
        raise DataError(
            "the row has no target, so there is nothing to score against.",
            where=bare.where,
            remedy="Label every row; for answers alone use `domaintune predict`.",
        )
    notes = reading.summary()
    if general and recipe.data.general_labels is not None:
        separator, names = label_separator(recipe), ", ".join(recipe.data.general_labels)
        rows, dropped = only(rows, wanted, recipe.data.general_labels, where=data, separator=separator)
        notes.append(counted(dropped, f"[label|labels] other than {names} [was|were] left out."))
    return rows, notes
