"""What is wrong with pictures: near duplicates, names that lie about the format, odd sizes, pictures that are nearly black."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from domaintune.counting import counted
from domaintune.data.pictures import PictureLook, like_pictures, look_at
from domaintune.memory import UNKNOWN
from domaintune.tasks.base import Finding

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jfif"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "GIF": (".gif",),
    "WEBP": (".webp",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm"),
    "AVIF": (".avif",), "JPEG2000": (".jp2",),
}  # fmt: skip
STRETCHED, TINY = 5, 16
DARK = 16
"""The brightest grey value that 12 bits in a file of 16 can have."""


def _is_misnamed(path: str, look: PictureLook) -> bool:
    return Path(path).suffix.lower() not in (*SUFFIXES.get(look.format, ()), UNKNOWN)


def _is_odd(path: str, look: PictureLook) -> bool:
    shorter, longer = sorted((look.width, look.height))
    return shorter < TINY or longer > STRETCHED * shorter


KINDS: tuple[tuple[str, Literal["warning", "note"], str, Callable[[str, PictureLook], bool], str, str], ...] = (
    ("wrong-suffix", "note", "not in the format that [its|their] name says", _is_misnamed,
     "Rename them; they can be read as they are.", "Other programs may refuse them."),
    ("odd-size", "warning", "tiny or very long", _is_odd, "Look at them.", "Resized to the model's square, little of them is left."),
    ("dark-pictures", "warning", "black, or nearly so", lambda path, look: look.brightest <= DARK,
     "Look at them; 10 or 12 bits in files of 16 (microscopes, X-rays) are to be stretched to all 16, or saved with 8.",
     "The model sees no more in them than a few grey values."),
)  # fmt: skip


def picture_findings(parts: Mapping[str, Sequence[tuple[str, str, str]]]) -> Iterator[Finding]:
    """Of (path, "file:line", key that equal files share) by part: `like-pictures` within and across parts (equal files are told as
    repeats and leaks), `wrong-suffix`, `odd-size`, `dark-pictures`."""
    rows = [(name, *file) for name, files in parts.items() for file in files]
    looks = [look_at(path, where=where) for _, path, where, _ in rows]
    for (one, other), places in _first_alike([name for name, *_ in rows], [key for *_, key in rows], looks).items():
        inside = one == other
        shown = [Path(rows[place][1]).name for place in min(places.items())]
        yield Finding(
            "like-pictures", "warning",
            counted(len(places), f"[picture|pictures] of {other} [looks|look] like ")
            + f"{'an earlier one' if inside else f'one of {one}'}, such as {shown[0]} like {shown[1]}.",
            tuple(rows[place][2] for place in sorted(places)),
            "Look at them, and drop copies." if inside else f"Look at them, and drop copies from {one} or {other}.",
            "They add little to learn, and weigh more than others." if inside
            else "A score on pictures that were almost seen is better than it will be on new ones.",
            len(places),
        )  # fmt: skip
    for name in parts:
        for kind, severity, what, holds, remedy, why in KINDS:
            met = [at for at, row in enumerate(rows) if row[0] == name and holds(row[1], looks[at])]
            if met:
                message = counted(len(met), f"[picture|pictures] of {name} [is|are] {what}.")
                yield Finding(kind, severity, message, tuple(rows[at][2] for at in met), remedy, why, len(met))


def _first_alike(
    parts: Sequence[str], keys: Sequence[str], looks: Sequence[PictureLook]
) -> dict[tuple[str, str], dict[int, int]]:
    """(part, part) -> position in the second -> the first position in the first that looks like it and has another key."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    key_of, first = np.array([numbers[key] for key in keys]), {name: np.full(len(keys), -1) for name in parts}
    for place, alike in like_pictures(looks):
        held, others = first[parts[place]], alike[key_of[alike] != key_of[place]]
        held[others[held[others] < 0]] = place
    found: dict[tuple[str, str], dict[int, int]] = {}
    pairs = ((held[right], right, name) for name, held in first.items() for right in np.flatnonzero(held >= 0).tolist())
    for left, right, name in sorted(pairs):
        found.setdefault((name, parts[right]), {})[right] = int(left)
    return found
