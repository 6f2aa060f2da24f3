"""The console that every command writes to: it shows text of data as it is. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from domaintune.report.wording import spelled_out


class Screen(Console):
    """No ":name:" becomes an emoji, and characters that would steer the terminal are told by their numbers."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Before lines are broken, so that widths are those of what is shown."""
        if isinstance(renderable, str):
            renderable = spelled_out(renderable)
        elif isinstance(renderable, Text) and (shown := spelled_out(renderable.plain)) != renderable.plain:
            renderable = Text(shown, renderable.style)
        return super().render(renderable, options)


def say(console: Console, *lines: str, soft_wrap: bool = False) -> None:
    """Print lines without markup, and without colours for their numbers."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=soft_wrap)
