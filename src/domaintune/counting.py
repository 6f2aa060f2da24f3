"""Sentences that count."""

from __future__ import annotations

import re

CHOICE = re.compile(r"\[([^\[\]|]*)\|([^\[\]|]*)\]")


def counted(count: int, sentence: str) -> str:
    """`sentence` with `count` before it, and of each "[one|many]" in it what goes with that count."""
    return f"{count:,} " + CHOICE.sub(lambda found: found.group(1 if count == 1 else 2), sentence)
