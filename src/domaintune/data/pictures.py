"""Picture files: which are pictures, whether they can be read, and the one way to open them. No labels, no model."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from domaintune.errors import DataError

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"}
)
MAX_PIXELS = 89_478_485
"""Pillow's own limit: a few kilobytes can decompress to more memory than a machine has."""
ORIENTATION_TAG = 0x0112
TRANSPOSED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""
CHECK_SIZE = (32, 32)
SHOWN_BAD = 10
HASH_BITS = 6
LIKENESS = 0.98
"""Of the grey values of 16 x 16 cells. Together they find .8 to 1 of photographs that were saved again at a quarter of their size,
and 7 pairs among 12,000 pictures of 32 x 32 pixels, all of them true."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What a check of a picture file found. `width` and `height` are those of the picture as it is shown (EXIF orientation
    applied); `sha256` is that of the file's bytes."""

    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PictureLook:
    """What near-duplicate search and checks need of a file: `hashed`, 64 bits that like pictures share almost all of; `grey`, 16 x 16
    bytes of it; the format that its bytes are in ("PNG"); its size as shown; and its brightest grey value, 0 to 255."""

    hashed: int
    grey: bytes
    format: str
    width: int
    height: int
    brightest: int


def look_at(path: str, *, where: str = "") -> PictureLook:
    """Decode coarsely and hash: whether each of 8 x 8 cells is brighter than its right neighbour (a difference hash).

    Raises:
        DataError: as `open_picture`.
    """
    try:
        stamp = os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        stamp = 0  # reading says what is wrong
    return _look(path, where, stamp)


@functools.lru_cache(maxsize=1 << 16)
def _look(path: str, where: str, stamp: int) -> PictureLook:
    """Checks and cuts each ask; `stamp` is when the file was written."""
    image = _opened(_bytes(path, where), path, where)
    kind = image.format or ""
    width, height = _shown_size(image)
    image.draft("L", CHECK_SIZE)
    _load_(image, path, where)
    shown = _rgb(image, path, where).convert("L")
    small = np.asarray(shown.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    grey = shown.resize((16, 16), Image.Resampling.BOX).tobytes()
    brightest = int(np.asarray(shown).max())
    return PictureLook(int(np.packbits(bits).view(">u8")[0]), grey, kind, width, height, brightest)


def like_pictures(looks: Sequence[PictureLook]) -> Iterator[tuple[int, np.ndarray]]:
    """Each position, with those after it whose hashes differ in at most 6 of 64 bits and whose grey values correlate by at least
    `LIKENESS` (many pictures of one dark blob share a hash), where there are any. Flat pictures (all bits 0) are like none."""
    hashed = np.array([look.hashed for look in looks], dtype=np.uint64)
    grey = np.array([np.frombuffer(look.grey, dtype=np.uint8) for look in looks], dtype=np.float64)
    if len(grey):
        grey -= grey.mean(1, keepdims=True)
    sizes = np.linalg.norm(grey, axis=1) if len(grey) else grey
    for place in np.flatnonzero(hashed).tolist():
        near = place + 1 + np.flatnonzero(np.bitwise_count(hashed[place + 1 :] ^ hashed[place]) <= HASH_BITS)
        # A slice of a crowd that is all alike needs no copy.
        held = grey[place + 1 :] if len(near) == len(grey) - place - 1 else grey[near]
        with np.errstate(invalid="ignore"):  # of flat pictures no number, which is below the bound
            alike = near[held @ grey[place] / (sizes[near] * sizes[place]) >= LIKENESS]
        if len(alike):
            yield place, alike


def chained_pictures(looks: Sequence[PictureLook]) -> list[tuple[int, int]]:
    """Pairs of `like_pictures`, fewer than there are pictures, that join what all its pairs join: each joins two chains. A picture that is
    like one before any position is in a pair with one before that position."""
    chain, pairs = np.arange(len(looks)), list[tuple[int, int]]()
    for place, alike in like_pictures(looks):
        for other in alike[np.unique(chain[alike], return_index=True)[1]].tolist():
            if chain[other] != chain[place]:
                pairs.append((place, other))
                chain[chain == chain[other]] = chain[place]
    return pairs


def find_picture(name: str, folders: Iterable[Path], *, where: str, other_names: Iterable[str] = ()) -> Path:
    """The file of this name, or else of one of the others, in the first of the folders that holds it.

    Raises:
        DataError: in none of them; they are named.
    """
    folders = list(folders)
    places = (folder / known for known in dict.fromkeys((name, *other_names)) for folder in folders)
    return first_picture(name, places, where=where, looked_in=", ".join(f"'{folder}'" for folder in folders))


def first_picture(name: str, places: Iterable[Path], *, where: str, looked_in: str) -> Path:
    """The first of the places that is a file.

    Raises:
        DataError: none is; `looked_in` says where they lie.
    """
    try:
        found = next((place for place in places if place.is_file()), None)
    except (OSError, ValueError):  # a name that no file can have
        found = None
    if found is None:
        raise DataError(f"the picture '{name:.100}' is not there.", where=where, remedy=f"Looked in {looked_in}.")
    return found


def open_picture(path: str, *, where: str = "") -> Image.Image:
    """The picture as 8-bit RGB, EXIF orientation applied (an unreadable EXIF block is passed over, as viewers do).

    Transparent pixels are laid over white; 16-bit grey is divided by 257; of an animation the first frame is taken.
    Differs: `Image.convert("RGB")` alone shows whatever colour hides under a transparent pixel, and clips 16-bit grey to white.

    Raises:
        DataError: no such file, no picture, truncated, without pixels, or too many of them; `where` stands before the file's
            name.
    """
    image = _opened(_bytes(path, where), path, where)
    orientation = _orientation(image)
    _load_(image, path, where)
    rgb = _rgb(image, path, where)
    if 2 <= orientation <= 8:
        bare = rgb.copy()
        bare.info.clear()
        exif = bare.getexif()
        exif[ORIENTATION_TAG] = orientation
        rgb = ImageOps.exif_transpose(bare)
    return rgb


def examine_picture(path: str, *, where: str = "") -> PictureFacts:
    """Decode the picture coarsely (JPEG at an eighth of its size), so that a bad file is found before anything is trained.

    Raises:
        DataError: as `open_picture`.
    """
    data = _bytes(path, where)
    image = _opened(data, path, where)
    width, height = _shown_size(image)
    image.draft("RGB", CHECK_SIZE)
    _load_(image, path, where)
    if image.mode in ("I", "F"):  # their range is only known from the pixels
        _rgb(image, path, where)
    return PictureFacts(width, height, hashlib.sha256(data).hexdigest())


def examine_pictures(pictures: Iterable[tuple[str, str]]) -> list[PictureFacts]:
    """`examine_picture` of every (path, "file:line").

    Raises:
        DataError: as `open_picture`, of the first that is bad, naming the first ten.
    """
    found, bad = [], list[tuple[DataError, str]]()
    for path, where in pictures:
        try:
            found.append(examine_picture(path, where=where))
        except DataError as error:
            bad.append((error, where))
    if len(bad) == 1:
        raise bad[0][0]
    if bad:
        told = "; ".join(f"{place}: {error.what.removesuffix('.')}" for error, place in bad[:SHOWN_BAD])
        what = f"{len(bad)} pictures cannot be used: {told}{', ...' if len(bad) > SHOWN_BAD else ''}."
        raise DataError(what, where=bad[0][1], remedy="Replace the files, or take them out of the set.")
    return found


def readable_size(path: str) -> tuple[int, int] | None:
    """Width and height as the picture is shown; None of one that cannot be read, which the task refuses with all others."""
    try:
        facts = examine_picture(path)
    except DataError:
        return None
    return facts.width, facts.height


def _bytes(path: str, where: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}).", where=where, remedy="Check the path.") from None
    except ValueError as error:  # a NUL character in the name
        raise DataError(f"{path!r} cannot be read ({error}).", where=where, remedy="Check the path.") from None
    if not data:
        raise _bad(path, where, "the file is empty")
    return data


def _bad(path: str, where: str, reason: object) -> DataError:
    return DataError(
        f"'{path}' cannot be used as a picture: {str(reason).rstrip('.')}.",
        where=where,
        remedy="Replace the file, or take it out of the set.",
    )


def _opened(data: bytes, path: str, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _bad(path, where, f"it has more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise _bad(path, where, "no known picture format") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise whatever their parsing meets in broken bytes
        raise _bad(path, where, error) from None
    if image.width * image.height > MAX_PIXELS:
        raise _bad(path, where, f"it has more than {MAX_PIXELS:,} pixels")
    if image.width < 1 or image.height < 1:
        raise _bad(path, where, "it has no pixels")
    return image


def _load_(image: Image.Image, path: str, where: str) -> None:
    try:
        image.load()
    except Exception as error:  # noqa: BLE001  as above
        raise _bad(path, where, error) from None


def _shown_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _orientation(image) in TRANSPOSED else image.size


def _orientation(image: Image.Image) -> int:
    """What is left to be done: Pillow's TIFF reader gives the size as shown and turns the pixels itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001  broken EXIF says nothing about the picture
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image, path: str, where: str) -> Image.Image:
    if image.mode == "F":
        raise _bad(path, where, "floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise _bad(path, where, "its pixels do not fit into 16 bits; save it with 8 or 16 bits")
        return Image.fromarray(((values.astype(np.float64) / 257) + 0.5).astype(np.uint8)).convert("RGB")
    try:
        if image.has_transparency_data:
            shown = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise _bad(path, where, error) from None
