"""Pictures of a run's rows, small enough to stand inside a page. A picture that is no longer there is left out."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

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
    """None where the file is gone, is no picture, or is larger than Pillow thinks safe."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(Path(path)) as opened:
                turned = opened.getexif().get(0x0112) in (5, 6, 7, 8)
                width, height = opened.size[::-1] if turned else opened.size
                opened.draft("RGB", (SIDE, SIDE))
                shown = ImageOps.exif_transpose(opened).convert("RGB")
                shown.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    stream = io.BytesIO()
    shown.save(stream, format="JPEG", quality=80)
    return Thumbnail(
        f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", width, height, given, wrong
    )
