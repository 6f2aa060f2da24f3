"""Sentences that count, and names in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

CHOICE = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")


def counted(count: int, sentence: str) -> str:
    """`sentence` with `count` before it, and of each "[one|many]" in it what goes with that count."""
    return f"{count:,} " + CHOICE.sub(lambda found: found.group(1 if count == 1 else 2), sentence)


def listed(names: Iterable[str], *, most: int = 8) -> str:
    """The first names, and "..." where there are more."""
    held = list(names)
    return ", ".join(held[:most]) + (", ..." if len(held) > most else "")
