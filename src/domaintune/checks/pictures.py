"""What is wrong with pictures: near duplicates, names that lie about the format, odd sizes, pictures that are nearly black."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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
        mine = [place for place, row in enumerate(rows) if row[0] == name]
        lying = [
            p for p in mine if Path(rows[p][1]).suffix.lower() not in (*SUFFIXES.get(looks[p].format, ()), UNKNOWN)
        ]
        if lying:
            yield Finding(
                "wrong-suffix", "note",
                counted(len(lying), f"[picture|pictures] of {name} [is|are] not in the format that [its|their] name says."),
                tuple(rows[place][2] for place in lying), "Rename them; they can be read as they are.",
                "Other programs may refuse them.", len(lying),
            )  # fmt: skip
        odd = [p for p in mine if _is_odd(looks[p].width, looks[p].height)]
        if odd:
            yield Finding(
                "odd-size", "warning", counted(len(odd), f"[picture|pictures] of {name} [is|are] tiny or very long."),
                tuple(rows[place][2] for place in odd), "Look at them.",
                "Resized to the model's square, little of them is left.", len(odd),
            )  # fmt: skip
        dark = [p for p in mine if looks[p].brightest <= DARK]
        if dark:
            yield Finding(
                "dark-pictures", "warning", counted(len(dark), f"[picture|pictures] of {name} [is|are] black, or nearly so."),
                tuple(rows[place][2] for place in dark),
                "Look at them; 10 or 12 bits in files of 16 (microscopes, X-rays) are to be stretched to all 16, or saved with 8.",
                "The model sees no more in them than a few grey values.", len(dark),
            )  # fmt: skip


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


def _is_odd(width: int, height: int) -> bool:
    return min(width, height) < TINY or max(width, height) > STRETCHED * min(width, height)
