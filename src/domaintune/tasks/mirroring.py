"""Whether mirror images of pictures keep their labels, as far as the labels' names say. No pictures, no model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from domaintune.tasks.base import Finding

SIDES = frozenset({
    "left", "right", "links", "rechts", "linke", "linker", "linkes", "rechte", "rechter", "rechtes", "gauche", "droite", "droit",
    "izquierda", "izquierdo", "derecha", "derecho", "sinistra", "sinistro", "destra", "destro", "esquerda", "direita",
})  # fmt: skip
SIDE_CHARACTERS = "左右"
WORD = re.compile(r"[^\W\d_][^\W\d_A-Z]*")
"""Letters up to the next capital: `turnLeft` has two."""
FEW_SIGNS = 3


def sides(labels: Sequence[str]) -> list[str]:
    """The labels that name the left or the right side of something."""
    return [
        label
        for label in labels
        if any(word.casefold() in SIDES for word in (*WORD.findall(label), *WORD.findall(label.casefold())))
        or any(character in label for character in SIDE_CHARACTERS)
    ]


def mirrors(given: bool | None, labels: Sequence[str]) -> bool:
    """Whether pictures are mirrored while training: as given, else where no label names a side."""
    return not sides(labels) if given is None else given


def mirror_findings(flip: bool, labels: Sequence[str]) -> Iterator[Finding]:
    """`mirrored-labels`: labels that name sides, or that may be letters and digits, whose mirror images are something else."""
    found = sides(labels)
    why = "Of what has a side the mirror image is another class, and teaches the wrong one."
    shown = ", ".join(found[:5])
    if found and flip:
        what = f"labels name sides ({shown}), and pictures are mirrored in training."
        yield Finding(
            "mirrored-labels", "warning", what, (), "Leave them as they are: --set task.flip=false.", why, len(found)
        )
    elif found:
        what = f"labels name sides ({shown}): pictures are not mirrored in training."
        yield Finding(
            "mirrored-labels", "note", what, (), "Where mirror images keep their label: --set task.flip=true.", why, len(found)
        )  # fmt: skip
    signs = [label for label in labels if re.fullmatch("[0-9A-Za-z]", label)]
    if flip and len(signs) >= max(FEW_SIGNS, len(labels) / 2):
        what = f"labels are single letters or digits ({', '.join(signs[:5])}), and pictures are mirrored in training."
        why = "The mirror image of a letter is no letter, or another one (b, d)."
        remedy = "If that is what the pictures show: --set task.flip=false."
        yield Finding("mirrored-labels", "note", what, (), remedy, why, len(signs))
