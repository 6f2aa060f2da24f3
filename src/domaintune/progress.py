"""Progress on a terminal: one bar for the stage at hand, with the time that is left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from domaintune.engine.train import Progress as TrainingProgress


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
