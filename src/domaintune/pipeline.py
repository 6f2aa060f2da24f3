"""The whole main job on one screen: recipe -> rows -> base -> heads -> fit -> confirmation -> run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from domaintune.bases.base import Base
from domaintune.checks.table import plain
from domaintune.confirm import Confirmation, confirm
from domaintune.engine.train import Progress
from domaintune.fit import Fitted, General, fit, form_of, general_base, training_settings
from domaintune.methods import method_from
from domaintune.parts import Parts, assemble, checksums
from domaintune.predict import HEADS, Run, load, open_base, save_heads
from domaintune.recipe import Recipe
from domaintune.run import RunFolder, is_run, provenance, read_json, write_folder, write_json, write_lines
from domaintune.tasks.base import Finding, dataset

Report = Callable[[str, Progress | None], None]


def tune(recipe: Recipe, *, overwrite: bool = False, report: Report = lambda stage, progress: None) -> Run:
    """Train the base on the domain and leave a finished run in `recipe.output`; the same recipe resumes an unfinished one.

    `report` is told the stage ("data", "base", "starting head", "train", "fold-0", ..., "frontier", "confirmation") and, while
    training, its progress.

    Raises:
        DomainTuneError: anything the user can mend, with file and line where there are any.
    """
    started = time.monotonic()
    folder = RunFolder(Path(recipe.output))
    with folder.lock(), threads_restored():
        report("data", None)
        data = checksums(recipe)
        threads = recipe.threads or torch.get_num_threads()
        folder = RunFolder.start(recipe, data=data, threads=threads, overwrite=overwrite)
        torch.set_num_threads(folder.read("run.json").get("threads") or threads)
        report("base", None)
        base = open_base(recipe)
        parts = assemble(recipe, base, seen=seen_by(recipe.base))
        general = general_of(parts)
        base = general_base(recipe, base, general)
        fitted = fit(
            recipe,
            base,
            parts.task,
            rows=parts.train,
            dev=parts.dev,
            general=general,
            folder=folder.checkpoint,
            report=report,
        )
        confirmation = confirm(recipe, fitted, parts, report=report)
        write_run(folder, recipe, parts, fitted, confirmation, data=data, seconds=time.monotonic() - started)
    return load(recipe.output)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Torch's number of threads is afterwards what it was before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def general_of(parts: Parts) -> General | None:
    """The general set as fit may see it: never its report or check part."""
    g = parts.general
    return None if g is None else General(g.task, g.head, g.agreement, g.choose, g.learn)


def seen_by(base: str) -> list[str]:
    """Checksums of the rows that an earlier run (and those it was based on) trained or chose on; none for other bases."""
    path = Path(base)
    return list(read_json(path / "seen.json")) if is_run(path) else []


@dataclass(frozen=True, slots=True)
class Plan:
    """What `tune` would do."""

    rows: dict[str, int]
    labels: tuple[str, ...]
    trainable: int
    parameters: int
    cut: dict[str, int]
    """Part -> rows longer than the limit; `long_inputs` says what happens to them."""
    long_inputs: str
    notes: list[str]
    findings: list[str]


def plan(recipe: Recipe) -> Plan:
    """What `tune` would do with this recipe, without training or writing anything."""
    checksums(recipe)
    base = open_base(recipe)
    parts = assemble(recipe, base, seen=seen_by(recipe.base))
    task = parts.task
    headed = base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(recipe.seed))
    attached = method_from(recipe.method).attach(headed, generator=torch.Generator().manual_seed(recipe.seed))
    trained = sum(p.numel() for group in attached.parameter_groups() for p in group.parameters)
    named: dict[str, Any] = {"train": parts.train, "dev": parts.dev or (), "test": parts.test}
    if parts.general is not None:
        named |= {"general (choose)": parts.general.choose, parts.general.headline_name: parts.general.headline}
        named |= {"general (learn)": parts.general.learn} if parts.general.learn else {}
    cut = {}
    for name, rows in {"train": parts.train, "test": parts.test}.items():
        data = dataset(task, base, rows)
        cut[name] = sum(task.is_cut(data.items[span.start : span.stop]) for span in data.spans)
    return Plan(
        rows={name: len(rows) for name, rows in named.items()},
        labels=task.head().labels,
        trainable=trained,
        parameters=sum(p.numel() for p in headed.model.parameters()),
        cut=cut,
        long_inputs=task.long_inputs,
        notes=parts.notes,
        findings=[f"{finding.severity}: {finding.message} {finding.remedy}" for finding in parts.findings],
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """What was understood of the data and what is wrong with it. `shown`: rows as the model sees them, where asked for."""

    rows: dict[str, int]
    labels: tuple[str, ...]
    notes: list[str]
    findings: Sequence[Finding]
    shown: list[str]


def check(recipe: Recipe, *, show_tokens: int = 0) -> Checked:
    """Read the recipe's data and look for what would make training dishonest or impossible; trains and writes nothing.

    `show_tokens`: so many train rows as tokens, supervised ones in brackets.
    """
    checksums(recipe)
    base = open_base(recipe)
    parts = assemble(recipe, base, seen=seen_by(recipe.base))
    named: dict[str, Any] = {"train": parts.train, "dev": parts.dev or (), "test": parts.test}
    if parts.general is not None:
        named |= {
            "general": [*parts.general.learn, *parts.general.choose],
            parts.general.headline_name: parts.general.headline,
        }
    notes = list(parts.notes)
    data = dataset(parts.task, base, parts.train)
    cut = sum(parts.task.is_cut(data.items[span.start : span.stop]) for span in data.spans)
    if cut:
        notes.append(f"{cut} rows of train are longer than the model's limit: {parts.task.long_inputs}.")
    shown = [parts.task.shown(base, item) for item in data.items[:show_tokens]]
    rows = {name: len(examples) for name, examples in named.items()}
    return Checked(rows, parts.task.head().labels, notes, parts.findings, shown)


def resolved(recipe: Recipe, base: Base, parts: Parts) -> Recipe:
    """The recipe with what was decided at run time written out: it re-runs the same."""
    training = training_settings(recipe, parts.task, rows=len(parts.train))
    balance = recipe.balance.model_copy(update={"form": form_of(recipe, base)})
    return recipe.model_copy(update={"training": training, "balance": balance, "threads": torch.get_num_threads()})


def write_run(
    folder: RunFolder,
    recipe: Recipe,
    parts: Parts,
    fitted: Fitted,
    confirmation: Confirmation,
    *,
    data: dict[str, str],
    seconds: float,
) -> None:
    """Everything that `load` and a reader need, each file whole or not at all, `run.json` last; then the report, from these."""
    path, base = folder.path, fitted.base
    write_folder(path / "adapter", fitted.attached.save)
    write_folder(path / "predictions", lambda inner: write_predictions(inner, confirmation, parts, fitted.chosen))
    save_heads(base, path / HEADS)
    tasks = {"domain": parts.task.model_dump(mode="json")}
    if parts.general is not None and parts.general.head == "general":
        tasks["general"] = parts.general.task.model_dump(mode="json")
    write_json(path / "tasks.json", tasks)
    write_json(path / "resolved.json", resolved(recipe, base, parts).plain())
    write_json(path / "seen.json", sorted({*parts.seen(), *seen_by(recipe.base)}))
    write_json(path / "strength.json", {"chosen": fitted.chosen, "form": form_of(recipe, base)})
    write_json(path / "scores.json", scores_of(parts, fitted, confirmation))
    facts = provenance(
        base=dict(base.provenance),
        data=data,
        seed=recipe.seed,
        seconds=round(seconds, 3),
        training_seconds=round(sum(epoch.seconds for epoch in fitted.training.epochs), 3),
    )
    write_json(path / "provenance.json", facts)
    folder.finish(
        {
            "task": parts.task.name,
            "method": recipe.method.name,
            "base": recipe.base,
            "verdict": confirmation.verdict.kind,
            "chosen_strength": fitted.chosen,
        }
    )
    # Imported here: `check` and `--dry-run` need no plots, which take half a second to import.
    from domaintune.report.write import write_report

    write_report(path)


def scores_of(parts: Parts, fitted: Fitted, confirmation: Confirmation) -> dict[str, Any]:
    """scores.json."""
    return {
        "primary": parts.task.primary.name,
        "higher_is_better": parts.task.primary.higher_is_better,
        "start": fitted.start,
        "domain_probe": fitted.domain_probe,
        "rows": rows_of(parts),
        "trainable_parameters": sum(p.numel() for g in fitted.attached.parameter_groups() for p in g.parameters),
        "frontier": [point.plain() for point in fitted.frontier],
        "chosen_strength": fitted.chosen,
        "epochs": [epoch.plain() for epoch in fitted.training.epochs],
        "best_epoch": fitted.training.best_epoch,
        "folds": fitted.folds,
        "notes": parts.notes,
        "findings": plain(parts.findings),
        **confirmation.plain(),
    }


def rows_of(parts: Parts) -> dict[str, int]:
    """Rows of each part that the run used."""
    rows = {"train": len(parts.train), "dev": len(parts.dev or ()), "test": len(parts.test)}
    if (general := parts.general) is not None:
        rows |= {"general learn": len(general.learn), "general choose": len(general.choose)}
        rows |= {general.headline_name: len(general.headline)}
    return rows


def write_predictions(folder: Path, confirmation: Confirmation, parts: Parts, chosen: float) -> None:
    """test.jsonl and general.jsonl: file, line, input, the output at the chosen strength, the target in the same form under
    "target" (absent where the general rows carry none), and the base's output under "base"."""
    sides = [("test", parts.task, parts.test, confirmation.domain, True)]
    if (general := parts.general) is not None and confirmation.general is not None:
        sides.append(("general", general.task, general.headline, confirmation.general, not general.agreement))
    for name, task, examples, side, labelled in sides:
        rows = [
            {
                "file": e.file,
                "line": e.line,
                "input": task.render_input(e),
                **task.render(ours),
                **({"target": task.render_target(e, ours)} if labelled else {}),
                "base": task.render(theirs),
            }
            for e, ours, theirs in zip(examples, side.predictions[chosen], side.predictions[0.0], strict=True)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
