"""The whole main job on one screen: recipe -> rows -> base -> heads -> fit -> confirmation -> run folder."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from domaintune.bases.base import Base
from domaintune.bases.device_memory import weights_within_memory
from domaintune.checks.table import plain
from domaintune.confirm import Confirmation, SideScores, confirm, kept_kind
from domaintune.engine.epochs import Progress
from domaintune.errors import CheckpointError
from domaintune.evaluation.records import save_records, scored_rows
from domaintune.evaluation.verdict import UNLABELLED
from domaintune.fit import Fitted, fit, form_of
from domaintune.growth import PLACES, grown, growth_scores
from domaintune.heads import General, general_base
from domaintune.inputs import checksums, files
from domaintune.methods import method_from
from domaintune.methods.base import Attached
from domaintune.parts import Parts, assemble
from domaintune.predict import Run, load, open_base, unknown_told
from domaintune.provenance import provenance
from domaintune.recipe import Recipe
from domaintune.resolve import budgeted, training_settings
from domaintune.run import RunFolder, write_folder, write_json, write_lines
from domaintune.seeds import tune_seeds
from domaintune.settings import Precision
from domaintune.stored import HEADS, save_heads
from domaintune.tasks.base import Finding, Task
from domaintune.tracking import require, tracked
from domaintune.trust import trust

Report = Callable[[str, Progress | None], None]
Say = Callable[[list[str]], None]


def tune(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    report: Report = lambda stage, progress: None,
    say: Say = lambda lines: None,
    revision: str | None = None,
) -> Run:
    """Train the base on the domain and leave a finished run in `recipe.output`; the same recipe resumes an unfinished one.

    `report` is told the stage ("data", "base", "general head", "starting head", "train", "starting head fold-0", "fold-0", ..., "weights", "frontier", "confirmation",
    "robustness") and, while training, its progress; `say`, before training, what was done with the data and found in it. A recipe of
    several seeds leaves a run for each and their summary; see `seeds`. `revision`: the commit of a base of the Hub to begin with, by
    default the latest; a run that is resumed goes on with its own. `overwrite` removes an earlier run once base and
    data are read and fit the method; it also drops a checkpoint that cannot be gone on with.

    Raises:
        DomainTuneError: anything the user can mend, with file and line where there are any.
    """
    if recipe.seeds > 1:
        made: Run = tune_seeds(recipe, tune, _tried, _write_page, overwrite=overwrite, report=report, say=say)
        return made
    started = time.monotonic()
    require(recipe.track)
    folder = RunFolder(Path(recipe.output))
    with folder.lock(), threads_restored(), weights_within_memory():
        report("data", None)
        data = checksums(recipe)
        as_given, recipe = recipe, grown(recipe)
        fate = folder.fate(as_given, data=data, inputs=files(as_given), overwrite=overwrite)
        held = folder.read("run.json") if fate == "take up" else {}
        if held.get("finished"):
            return _reported(folder)
        threads = held.get("threads") or recipe.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        report("base", None)
        base, parts = opened(recipe, revision=held.get("revision") or revision, started=held.get("started"))
        parts = with_method_notes(recipe, base, parts)
        if fate == "remove":  # not before all that the recipe names is known to fit
            untrained(recipe, base, parts)
        recipe = budgeted(recipe, parts.task, remembered=held.get("micro_batch_budget"))
        budget, revision = recipe.training.micro_batch_budget, base.provenance.get("revision")
        folder.start(as_given, fate, data=data, threads=threads, micro_batch_budget=budget, revision=revision)
        say([*(f"note: {note}" for note in parts.notes), *told_findings(parts.findings)])
        with tracked(recipe, report, say) as told:
            general = general_of(parts)
            fitted = _fitted(folder, recipe, base, parts, general, told, overwrite=overwrite)
            parts = _unknown_domains_told(parts.calibrated(fitted.calibration), fitted.attached.domain_weights(), say)
            confirmation = confirm(recipe, fitted, parts, report=told)
            more = trust(recipe, fitted, parts, confirmation.domain, report=told)
            records = confirmation.domain.records[fitted.chosen]
            more["growth"] = growth_scores(recipe, parts.task, parts.test, records, standing=parts.standing)
            seconds = time.monotonic() - started
            write_run(folder, recipe, parts, fitted, confirmation, more, data=data, seconds=seconds)
            run = _reported(folder)
            told.result(folder)
            return run


def opened(recipe: Recipe, *, revision: str | None = None, started: float | None = None) -> tuple[Base, Parts]:
    """The recipe's base, of the Hub at `revision`, and its rows in parts, with notes on what the base's weights lack, and on a run at
    strength 0 as the base; of a run that was `started` (seconds since 1970) on another day with that day's date."""
    base = open_base(recipe, revision=revision)
    if started is not None:
        base = replace(base, date=datetime.date.fromtimestamp(started).isoformat())
    parts = assemble(recipe, base, seen=seen_by(base))
    head = parts.task.head()
    if lacking := base.lacking_beside(head):
        fate = "trained and stored with the head" if head.labels else "trained only where the method trains it"
        note = f"The base's weights lack {', '.join(lacking)}: made anew, and {fate}."
        parts = replace(parts, notes=[note, *parts.notes])
    if base.provenance.get("strength") == 0:
        note = f"{base.name} is taken at its strength, which is 0: as the base that it was made on, without what it learned."
        parts = replace(parts, notes=[note, *parts.notes])
    return base, parts


def with_method_notes(recipe: Recipe, base: Base, parts: Parts) -> Parts:
    """The parts with what the method says of the base before their notes."""
    return replace(parts, notes=[*method_from(recipe.method).notes(base), *parts.notes])


def untrained(recipe: Recipe, base: Base, parts: Parts) -> Attached:
    """The method on the base with a fresh head.

    Raises:
        MethodError: the method does not fit the base.
    """
    headed = base.with_head("domain", parts.task.head(), generator=torch.Generator().manual_seed(recipe.seed))
    return method_from(recipe.method).attach(headed, generator=torch.Generator().manual_seed(recipe.seed))


def _unknown_domains_told(parts: Parts, weights: Mapping[str, float], say: Say) -> Parts:
    """The parts with a note, which is said too, on test rows of no domain that learned a weight, where others did."""
    unknown = sum(example.domain not in weights for example in parts.test) if weights else 0
    notes = [f"test: {note}" for note in unknown_told(unknown)]
    if notes:
        say([f"note: {note}" for note in notes])
    return replace(parts, notes=[*parts.notes, *notes])


def _tried(recipe: Recipe) -> None:
    """Raises what `tune` would raise before training."""
    recipe = grown(recipe)
    untrained(recipe, *opened(recipe))


def _fitted(
    folder: RunFolder,
    recipe: Recipe,
    base: Base,
    parts: Parts,
    general: General | None,
    report: Report,
    *,
    overwrite: bool,
) -> Fitted:
    def again() -> Fitted:
        headed = general_base(
            recipe, base, general, folder=folder.checkpoint, on_progress=partial(report, "general head")
        )
        return fit(
            recipe, headed, parts.task, rows=parts.train, dev=parts.dev, general=general, folder=folder.checkpoint, report=report
        )  # fmt: skip

    try:
        return again()
    except CheckpointError:
        if not overwrite:
            raise
        shutil.rmtree(folder.checkpoint)
        return again()


def _reported(folder: RunFolder) -> Run:
    """A finished run, its page and card written where they are not there yet."""
    if not folder.reported:
        _write_page(folder)
    return load(folder.path)


def _write_page(folder: RunFolder) -> None:
    # Imported here: `check` and `--dry-run` need no plots, which take half a second to import.
    from domaintune.report.write import write_report

    write_report(folder.path)


def told_findings(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.severity}: {finding.message} {finding.remedy}" for finding in findings]


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


def seen_by(base: Base) -> list[str]:
    """Checksums of the rows that the base, an earlier run (and those it was based on), trained or chose on; none for other bases."""
    run = base.provenance.get("run")  # where it was found: a recipe of another day or folder may name another place
    return [] if run is None else list(RunFolder.existing(run).read("seen.json"))


def resolved(recipe: Recipe, base: Base, parts: Parts, precision: Precision) -> Recipe:
    """The recipe with what was decided at run time written out: it re-runs the same."""
    settings = training_settings(recipe, parts.task, base, parts.train)
    training = settings.model_copy(update={"precision": precision})
    balance = recipe.balance.model_copy(update={"form": form_of(recipe, base)})
    return recipe.model_copy(update={"training": training, "balance": balance, "threads": torch.get_num_threads()})


def write_run(
    folder: RunFolder,
    recipe: Recipe,
    parts: Parts,
    fitted: Fitted,
    confirmation: Confirmation,
    more: dict[str, Any],
    *,
    data: dict[str, str],
    seconds: float,
) -> None:
    """Everything that `load` and a reader need, each file whole or not at all, `run.json` last."""
    path, base = folder.path, fitted.base
    write_folder(path / "adapter", fitted.attached.save)
    write_folder(path / "predictions", lambda inner: write_predictions(inner, confirmation, parts, fitted.chosen))
    write_folder(path / "records", lambda inner: write_records(inner, confirmation, parts))
    save_heads(base, path / HEADS)
    tasks = {"domain": parts.task.model_dump(mode="json")}
    if parts.general is not None and parts.general.head == "general":
        tasks["general"] = parts.general.task.model_dump(mode="json")
    write_json(path / "tasks.json", tasks)
    write_json(path / PLACES, parts.places)
    write_json(path / "resolved.json", resolved(recipe, base, parts, fitted.training.precision).plain())
    write_json(path / "seen.json", sorted({*parts.seen(), *seen_by(base)}))
    write_json(
        path / "strength.json",
        {"chosen": fitted.chosen, "form": form_of(recipe, base), "domains": fitted.attached.domain_weights()},
    )
    write_json(path / "scores.json", scores_of(parts, fitted, confirmation) | more)
    trained = sum(epoch.seconds for epoch in fitted.training.epochs)
    facts = provenance(
        base=dict(base.provenance),
        data=data,
        seed=recipe.seed,
        seconds=round(max(seconds, trained), 3),  # of a resumed run, the training before counts
        training_seconds=round(trained, 3),
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


def scores_of(parts: Parts, fitted: Fitted, confirmation: Confirmation) -> dict[str, Any]:
    """What `scores.json` holds; docs/run-folder.md describes it."""
    return {
        "primary": parts.task.primary.name,
        "higher_is_better": parts.task.primary.higher_is_better,
        "start": fitted.start,
        "domain_probe": fitted.domain_probe,
        "rows": rows_of(parts),
        "trainable_parameters": sum(p.numel() for g in fitted.attached.parameter_groups() for p in g.parameters),
        "frontier": [point.plain() for point in fitted.frontier],
        "chosen_strength": fitted.chosen,
        "alternative": fitted.alternative and fitted.alternative.plain(),
        "domain_weights": fitted.attached.domain_weights(),
        "domain_frontier": fitted.domain_frontier,
        "epochs": [epoch.plain() for epoch in fitted.training.epochs],
        "best_epoch": fitted.training.best_epoch,
        "averaged_epochs": fitted.training.averaged_epochs,
        "dev": fitted.dev_score,
        "folds": fitted.folds,
        "notes": parts.notes,
        "caveats": parts.caveats,
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


def sides(confirmation: Confirmation, parts: Parts) -> list[tuple[str, Task, Sequence[Any], SideScores]]:
    """(name of its files, task, examples, scores) of each side that was confirmed."""
    made: list[tuple[str, Task, Sequence[Any], SideScores]] = [("test", parts.task, parts.test, confirmation.domain)]
    if parts.general is not None and confirmation.general is not None:
        made.append(("general", parts.general.task, parts.general.headline, confirmation.general))
    return made


def write_records(folder: Path, confirmation: Confirmation, parts: Parts) -> None:
    """test.safetensors and general.safetensors: what every score is computed from, by strength and example."""
    for name, task, examples, side in sides(confirmation, parts):
        save_records(folder / f"{name}.safetensors", scored_rows(task, examples), side.records)


def write_predictions(folder: Path, confirmation: Confirmation, parts: Parts, chosen: float) -> None:
    """test.jsonl and general.jsonl: file, line, input, the domain that the row names, the output at the chosen strength, the target in the same form under
    "target" (absent where the general rows carry none), and the base's output under "base"."""
    for name, task, examples, side in sides(confirmation, parts):
        labelled = name == "test" or kept_kind(side.kind) not in UNLABELLED
        ours = [task.calibrated(prediction, chosen) for prediction in side.predictions[chosen]]
        rows = [
            {
                "file": e.file,
                "line": e.line,
                "input": task.render_input(e),
                **({} if e.domain is None else {"domain": e.domain}),
                **task.render(mine),
                **({"target": task.render_target(e, mine)} if labelled else {}),
                "base": task.render(task.calibrated(theirs, 0.0)),
            }
            for e, mine, theirs in zip(examples, ours, side.predictions[0.0], strict=True)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
