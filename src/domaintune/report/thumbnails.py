"""Pictures of a run's rows, small enough to stand inside a page. A picture that is no longer there is left out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from domaintune.data.pictures import open_picture
from domaintune.errors import DataError

SIDE = 200
"""Pixels of the longer side."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """`width` and `height` are those of the whole picture, in whose pixels boxes are; `given` and `wrong` are x, y, width, height."""

    source: str
    width: int
    height: int
    given: Sequence[Sequence[float]]
    wrong: Sequence[Sequence[float]]


def thumbnail(
    path: str, *, given: Sequence[Sequence[float]] = (), wrong: Sequence[Sequence[float]] = ()
) -> Thumbnail | None:
    """As the model sees it; None where the file is gone or cannot be read."""
    try:
        shown = open_picture(path)
    except DataError:
        return None
    width, height = shown.size
    shown.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    shown.save(stream, format="JPEG", quality=80)
    return Thumbnail(
        f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", width, height, given, wrong
    )
