"""What a terminal shows: progress while a run is made, and its scores at the end, from its records alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from domaintune.counting import counted
from domaintune.finished.strength import spoken
from domaintune.report.wording import (
    NONE,
    base_told,
    bounds,
    entities_told,
    frontier_kind,
    is_difference,
    kept,
    kind_name,
    known,
    less_one,
    score_name,
    strength_name,
)

if TYPE_CHECKING:
    from domaintune.engine.epochs import Progress as TrainingProgress

Estimate = Mapping[str, Any]


class ProgressBar:
    """Callable that `tune` reports to. On something that is no terminal it prints a line for each new stage instead."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.row = self.bar.add_task("", total=None, told="")

    def __enter__(self) -> ProgressBar:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay above the bar."""
        for line in lines:
            self.console.print(line, highlight=False, markup=False)

    def __call__(self, stage: str, progress: TrainingProgress | None) -> None:
        if stage != self.stage:
            self.stage = stage
            self.bar.reset(self.row, total=None, description=stage, told="")
            if not self.console.is_terminal:
                self.console.print(stage, highlight=False)
        if progress is not None and self.console.is_terminal:
            told = f"epoch {progress.epoch + 1}, loss {progress.loss:.3f}, {progress.seconds_left:.0f} s left"
            self.bar.update(self.row, total=progress.total_steps, completed=progress.step, told=told)


@contextmanager
def row_progress(console: Console, *, total: int | None, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar while a file is predicted, as what is to be told rows done and the line of the last one; silent unless `shown`.

    `total` is the number of lines, from which the remaining time is estimated; None: unknown.
    """
    columns = (
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not shown)
    row = bar.add_task("", total=total, rows=0)
    with bar:
        yield lambda rows, line: bar.update(row, completed=line, rows=rows)


def scores_table(scores: Mapping[str, Any]) -> Table:
    """One run: base, chosen strength and strength 1, side by side, for both sides."""
    chosen, primary = scores["chosen_strength"], scores["primary"]
    strengths = sorted({0.0, chosen, 1.0})
    table = Table(title=f"{score_name(primary)}, with 95 % intervals", box=box.SIMPLE_HEAD)
    table.add_column("")
    for strength in strengths:
        table.add_column(strength_name(strength) + (", chosen" if strength == chosen else ""), no_wrap=True)
    for title, side in (("domain", scores["domain"]), ("general", scores["general"])):
        if side is None:
            continue
        values = [interval(side["scores"][f"{s:g}"][primary]) for s in strengths]
        table.add_row(f"{title}: {escape(side['name'])}\n{side['rows']:,} rows", *values)
        told = [changed(side["change"][f"{s:g}"], side["kind"]) if s > 0 else "" for s in strengths]
        table.add_row(kind_name(side["kind"]), *told)
    return table


def beside(scores: Mapping[str, Any]) -> str:
    """What stands beside a run's scores: what the base is, what a head alone reaches, and what no model at all does."""
    told = [base_told(scores)]
    if scores["domain_probe"] is not None:
        where = "out of fold" if scores["folds"] else "on dev"
        told.append(f"A head alone, fitted on the domain with the body frozen: {scores['domain_probe']:.3f} {where}.")
    if scores["majority"] is not None:
        told.append(f"Always the commonest answer: {scores['majority']:.3f} on test.")
    return " ".join(told)


def growth_lines(scores: Mapping[str, Any]) -> list[str]:
    """What growing did to the earlier run's test rows and to the new ones, a line each."""
    growth, primary, lines = scores.get("growth") or {}, score_name(scores["primary"]), []
    for name in ("old", "new"):
        if (side := growth.get(name)) is None:
            continue
        rows, after = counted(side["rows"], f"{name} test [row|rows]"), _value(side["after"])
        if side["before"] is None:
            lines.append(f"On {rows} {primary} is {after}; {growth['from']} did not know their labels.")
            continue
        before = f"{_value(side['before'])} ({growth['from']} at strength {growth['strength_then']:g})"
        change = signed(side["change"]).replace("\n", " ")
        lines.append(f"On {rows} {primary} goes from {before} to {after}, a gain of {change}.")
    return lines


def trust_lines(scores: Mapping[str, Any], *, of: str = "answers") -> list[str]:
    """How far stated probabilities, `of` these, can be believed, and which damage to the inputs moves the score most."""
    lines = []
    if calibration := scores.get("calibration"):
        before, after = (100 * calibration[name]["ece"] for name in ("before", "after"))
        chance = ""
        if "by_chance" in calibration:
            chance = f"; a perfect model would show {100 * calibration['by_chance']:.1f} on as many"
        lines.append(
            f"Stated probabilities of {of} are off by {after:.1f} points on test ({before:.1f} before calibration with temperature "
            f"{calibration['temperature']:.2f}{chance})."
        )
        if entities := calibration.get("entities"):
            lines.append(entities_told(entities))
    if (robustness := scores.get("robustness")) and known(robustness["clean"]["tuned"]["value"]):
        clean, kinds = robustness["clean"], robustness["kinds"]
        moved = {kind: abs(kinds[kind]["tuned"]["value"] - clean["tuned"]["value"]) for kind in kinds}
        worst = max(kinds, key=lambda kind: moved[kind])
        at = "" if scores["chosen_strength"] else " at strength 1"
        tuned, base = (f"{clean[m]['value']:.3f} to {kinds[worst][m]['value']:.3f}" for m in ("tuned", "base"))
        lines.append(
            f"Damaged inputs move {scores['primary']}{at} most by {worst}: {tuned} (base: {base}; {robustness['rows']} rows)."
            if moved[worst]
            else f"No damage to the inputs moves {scores['primary']}{at} ({robustness['rows']} rows)."
        )
    return lines


def comparison_table(compared: Mapping[str, Any]) -> Table:
    """What `compare` returns: a row for each run, at its strength."""
    on = f"{compared['rows']:,} rows ({escape(compared['data'])})"
    title = f"{score_name(compared['primary'])} on {on}, with 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # fits 80 columns
    for column in ("run", "base", "tuned", "gain", "kept", "trained"):
        table.add_column(column, no_wrap=column != "run")
    table.add_column("verdict", width=9)
    names = _names_of(compared)
    for run in compared["runs"]:
        name = names[run["run"]]
        table.add_row(
            f"{escape(name)}\n{'' if name == run['method'] else run['method'] + ', '}at {_span(run['strengths'])}",
            interval(run["base_score"]),
            interval(run["score"]),
            signed(run["gain"]),
            "unknown" if run["retention"] is None else kept_interval(run["retention"], run["retention_kind"]),
            f"{quantity(run['trainable_parameters'])}\n{run['training_seconds']:.0f} s",
            run["verdict"] or "unknown",
        )
    return table


def comparison_notes(compared: Mapping[str, Any]) -> list[str]:
    """What is to be said of the runs of a comparison and the rows that they were scored on; of which runs, where not of all."""
    names = _names_of(compared)
    runs: dict[str, list[str]] = {note: list(names.values()) for note in compared["notes"]}
    for run in compared["runs"]:
        own = run["own_strengths"]
        at = f"scored at strength {spoken({'': run['strengths'][0], **own})}."
        for note in [*([at] if own else []), *run["notes"]]:
            runs.setdefault(note, []).append(names[run["run"]])
    made = [note if len(told) == len(names) else f"{', '.join(told)}: {note}" for note, told in runs.items()]
    if len({run["compared_seeds"] for run in compared["runs"]} | {1}) > 1:
        made.append("of a run over several seeds the means over them are compared, each at its own strength.")
    for run in compared["runs"]:
        if run["compared_seeds"] < run["seeds"]:
            made.append(
                f"{names[run['run']]}: another strength was set since; of its seeds the one with the median dev score is compared."
            )
    return made


def _span(strengths: Sequence[float]) -> str:
    return f"{min(strengths):g}" if len(set(strengths)) == 1 else f"{min(strengths):g} to {max(strengths):g}"


def _names_of(compared: Mapping[str, Any]) -> dict[str, str]:
    """Of each run of a comparison, by its path."""
    names = short_names([run["run"] for run in compared["runs"]])
    for run in compared["runs"]:
        if run["compared_seeds"] > 1:
            names[run["run"]] += f" ({run['seeds']} seeds)"
        elif run["seeds"] > 1:
            names[run["run"]] += f" (seeds/{run['used_seed']} of {run['seeds']})"
    return names


def pairs_table(compared: Mapping[str, Any]) -> Table:
    """The paired tests of what `compare` returns."""
    title = f"Differences, paired; p corrected for {len(compared['pairs'])} comparisons (Holm)"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    names = _names_of(compared)
    for column in ("", "better by", "p", "corrected"):
        table.add_column(column, no_wrap=bool(column))
    for pair in compared["pairs"]:
        difference = signed(pair["difference"]).replace("\n", " ")
        told = escape(f"{names[pair['second']]} over {names[pair['first']]}")
        table.add_row(told, difference, f"{pair['p']:.4f}", f"{pair['p_corrected']:.4f}")
    return table


def evaluation_table(evaluation: Mapping[str, Any]) -> Table:
    """A run's scores on rows it was given later, a row for each score."""
    strength = f"{evaluation['strength']:g}"
    title = f"{evaluation['rows']:,} rows of {escape(evaluation['name'])}, with 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    own = {name: at for name, at in evaluation["domain_strengths"].items() if name in evaluation["domains"]}
    others = {name: at for name, at in own.items() if at != evaluation["strength"]}
    if others:
        table.caption = escape(f"by domain: strength {spoken({'': evaluation['strength'], **others})}")
    for column in ("", "base (0)", "by domain" if others else f"strength {strength}"):
        table.add_column(column, no_wrap=bool(column))
    for name, base in evaluation["scores"]["0"].items():
        values = [interval(e).replace("\n", " ") for e in (base, evaluation["scores"][strength][name])]
        table.add_row(f"{score_name(name)}{' (primary)' if name == evaluation['primary'] else ''}", *values)
    kind = evaluation["kind"]
    table.add_row(kind_name(kind), "", changed(evaluation["change"][strength], kind).replace("\n", " "))
    return table


def frontier_table(scores: Mapping[str, Any], strength: float) -> Table:
    """The scores at every strength on the parts that the choice was made on; `strength` is what the run predicts with."""
    table = Table(title=f"{score_name(scores['primary'])} where the strength was chosen", box=box.SIMPLE_HEAD)
    kind = frontier_kind(scores)
    for column in ("strength", "domain", "general", "change" if is_difference(kind) else "kept", ""):
        table.add_column(column, justify="left" if not column else "right")
    for point in scores["frontier"]:
        marks = ["used"] if point["strength"] == strength else []
        marks += ["chosen by tune"] if point["strength"] == scores["chosen_strength"] else []
        general, retention = point["general"], point["retention"]
        table.add_row(
            f"{point['strength']:g}",
            f"{point['domain']:.3f}",
            "unknown" if general is None else f"{general:.3f}",
            "unknown" if retention is None else kept(retention, kind),
            ", ".join(marks),
        )
    return table


def runs_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """What `list_runs` returns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("run, date", "task, base", "method", "verdict", "gain", "kept"):
        least = 20 if column == "task, base" else None
        table.add_column(column, overflow="fold", min_width=least, width=10 if column == "verdict" else None)
    for run in runs:
        if "damaged" in run:
            table.add_row(escape(run["run"]), escape(f"damaged: {run['damaged']}"))
            continue
        over = f", {run['seeds']} seeds" if run["seeds"] > 1 else ""
        own = "" if run["strength"] is None else f"\nstrength {run['strength']:g}"
        of = f", for {run['verdict_strength']:g}" if run["verdict_strength"] != run["strength"] else ""
        at = "\nat 1" if run["scored_strength"] != run["strength"] else ""
        table.add_row(
            f"{escape(run['run'])}\n{datetime.fromtimestamp(run['date']):%Y-%m-%d}",
            f"{run['task']}\n{escape(run['base'])}",
            f"{run['method']}{over}{own}",
            (run["verdict"] or "unfinished") + of,
            "" if run["gain"] is None else signed(run["gain"]).partition("\n")[0] + at,
            "" if run["retention"] is None else f"{_kept_told(run['retention']['value'], run['retention_kind'])}{at}",
        )
    return table


def seeds_table(summary: Mapping[str, Any]) -> Table:
    """What seeds.json holds: a row for each seed, and their mean with intervals over seeds and examples."""
    primary, domain, general = summary["primary"], summary["domain"], summary["general"]
    title = f"{score_name(primary)} over {len(summary['runs'])} seeds, intervals over seeds and examples"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for column in ("seed", "dev", "strength", "domain", "kept", "verdict"):
        table.add_column(column)
    for number, run in enumerate(summary["runs"]):
        table.add_row(
            f"{run['seed']}{' (used)' if number == summary['used_seed'] else ''}",
            f"{run['dev']:.3f}",
            f"{run['chosen_strength']:g}",
            f"{run['score']:.3f}",
            "unknown"
            if run["retention"] is None
            else _kept_told(run["retention"], run.get("retention_kind", general["kind"])),
            run["verdict"],
        )
    for name, key in (("base", "base"), ("chosen", "chosen"), ("tuned (1)", "tuned")):
        of_all = "unknown" if general is None else kept_interval(general["change"][key], general["kind"])
        table.add_row(
            f"mean, {name}", "", "", interval(domain["scores"][key][primary]), "" if key == "base" else of_all, ""
        )
    table.add_row("gain, chosen", "", "", signed(domain["change"]["chosen"]), "", "")
    return table


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last part of each path, or all of it where two would be the same."""
    last = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def quantity(count: int) -> str:
    """1234567 -> "1.2 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def interval(estimate: Estimate) -> str:
    """The value, and its interval on a second line."""
    return _two_lines(estimate, ".3f", ".2f")


def _value(estimate: Estimate) -> str:
    return interval(estimate).partition("\n")[0]


def signed(estimate: Estimate) -> str:
    return _two_lines(estimate, "+.3f", "+.2f")


def changed(estimate: Estimate, kind: str) -> str:
    """A side's change: a gain, what is kept, or how the general score changed."""
    if kind == "gain":
        return signed(estimate)
    if is_difference(kind):
        return signed(less_one(estimate))
    return _two_lines(estimate, ".1f", ".0f", scale=100, unit=" %")


def kept_interval(estimate: Estimate, kind: str) -> str:
    """What is kept, in a column that may hold other kinds too: a change of the general score says that it is one."""
    return f"score {changed(estimate, kind)}" if is_difference(kind) else changed(estimate, kind)


def _kept_told(value: float, kind: str) -> str:
    return f"score {kept(value, kind)}" if is_difference(kind) else kept(value, kind)


def _two_lines(estimate: Estimate, form: str, ends: str, *, scale: int = 1, unit: str = "") -> str:
    if not known(estimate["value"]):
        return NONE
    # -0.0 is 0
    return (
        f"{scale * estimate['value'] + 0.0:{form}}{unit}\n{bounds(estimate, lambda end: f'{scale * end + 0.0:{ends}}')}"
    )
