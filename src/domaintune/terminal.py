"""What a terminal shows: progress while a run is made, and its scores at the end, from its records alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from domaintune.engine.train import Progress as TrainingProgress

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

    def __call__(self, stage: str, progress: TrainingProgress | None) -> None:
        if stage != self.stage:
            self.stage = stage
            self.bar.reset(self.row, total=None, description=stage, told="")
            if not self.console.is_terminal:
                self.console.print(stage, highlight=False)
        if progress is not None and self.console.is_terminal:
            told = f"epoch {progress.epoch + 1}, loss {progress.loss:.3f}, {progress.seconds_left:.0f} s left"
            self.bar.update(self.row, total=progress.total_steps, completed=progress.step, told=told)


def scores_table(scores: Mapping[str, Any]) -> Table:
    """One run: base, chosen strength and strength 1, side by side, for both sides."""
    chosen, primary = scores["chosen_strength"], scores["primary"]
    strengths = sorted({0.0, chosen, 1.0})
    table = Table(title=f"{primary}, with 95 % intervals", box=box.SIMPLE_HEAD)
    table.add_column("")
    for strength in strengths:
        label = {0.0: "base (0)", 1.0: "tuned (1)"}.get(strength, f"{strength:g}")
        table.add_column(f"{label}, chosen" if strength == chosen else label, no_wrap=True)
    for title, side in (("domain", scores["domain"]), ("general", scores["general"])):
        if side is None:
            continue
        values = [interval(side["scores"][f"{s:g}"][primary]) for s in strengths]
        table.add_row(f"{title}: {side['name']}\n{side['rows']:,} rows", *values)
        form = signed if side["kind"] == "gain" else percent
        table.add_row(side["kind"], *[form(side["change"][f"{s:g}"]) if s > 0 else "" for s in strengths])
    return table


def beside(scores: Mapping[str, Any]) -> str:
    """What stands beside a run's scores: where its head came from, what a head alone reaches, and what no model at all does."""
    told = [f"It started from {scores['start']}."]
    if scores["domain_probe"] is not None:
        told.append(f"A head alone, fitted on the domain with the body frozen: {scores['domain_probe']:.3f} on dev.")
    if scores["majority"] is not None:
        told.append(f"Always the commonest answer: {scores['majority']:.3f} on test.")
    return " ".join(told)


def trust_lines(scores: Mapping[str, Any]) -> list[str]:
    """How far stated probabilities can be believed, and which damage to the inputs moves the score most; one line each."""
    lines = []
    if calibration := scores.get("calibration"):
        before, after = (100 * calibration[name]["ece"] for name in ("before", "after"))
        lines.append(
            f"Stated probabilities are off by {after:.1f} points on test ({before:.1f} before calibration, "
            f"temperature {calibration['temperature']:.2f})."
        )
    if robustness := scores.get("robustness"):
        clean, kinds = robustness["clean"], robustness["kinds"]
        worst = max(kinds, key=lambda kind: abs(kinds[kind]["tuned"]["value"] - clean["tuned"]["value"]))
        tuned, base = (f"{clean[m]['value']:.3f} to {kinds[worst][m]['value']:.3f}" for m in ("tuned", "base"))
        lines.append(
            f"Damaged inputs move {scores['primary']} most by {worst}: {tuned} (base: {base}; {robustness['rows']} rows)."
        )
    return lines


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several runs from one base on the same data: a row each, at the chosen strength."""
    primary = next(iter(runs.values()))["primary"]
    title = f"{primary} before and after, with 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)  # fits 80 columns
    for column in ("method", "strength", "base", "tuned", "gain", "kept"):
        table.add_column(column, no_wrap=True)
    table.add_column("verdict", width=9)
    for name, scores in runs.items():
        chosen, general = f"{scores['chosen_strength']:g}", scores["general"]
        table.add_row(
            name,
            chosen,
            interval(scores["domain"]["scores"]["0"][primary]),
            interval(scores["domain"]["scores"][chosen][primary]),
            signed(scores["domain"]["change"][chosen]),
            "unknown" if general is None else percent(general["change"][chosen]),
            scores["verdict"]["kind"],
        )
    return table


def interval(estimate: Estimate) -> str:
    """The value, and its interval on a second line."""
    return f"{estimate['value']:.3f}\n[{estimate['low']:.2f}, {estimate['high']:.2f}]"


def signed(estimate: Estimate) -> str:
    return f"{estimate['value']:+.3f}\n[{estimate['low']:+.2f}, {estimate['high']:+.2f}]"


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate['value']:.1f} %\n[{100 * estimate['low']:.0f}, {100 * estimate['high']:.0f}]"
