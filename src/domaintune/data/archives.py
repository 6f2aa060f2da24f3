"""Archives of pictures, unpacked once into a cache folder; nothing in them can reach outside of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from domaintune.data.sources import entries_of
from domaintune.errors import DataError

MOST_BYTES = 8 << 30
TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """By its name: zip, tar, or a compressed tar."""
    return path.name.lower().endswith((".zip", *TARS))


def cache_folder() -> Path:
    """$DOMAINTUNE_CACHE, else ~/.cache/domaintune."""
    return Path(os.environ.get("DOMAINTUNE_CACHE") or Path.home() / ".cache" / "domaintune")


def unpacked(path: Path) -> Path:
    """The folder that the archive's files lie in, by the archive's checksum; its only folder, where there is but one.

    Raises:
        DataError: no archive, a member that leads outside (absolute, "..") or is no plain file, more than 8 GiB.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    folder = cache_folder() / "unpacked" / digest
    if not folder.is_dir():
        temporary = folder.with_name(f".{digest}.{os.getpid()}")
        temporary.mkdir(parents=True)
        try:
            _unpack(path, temporary)
            if not folder.is_dir():
                temporary.rename(folder)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise DataError(f"cannot be unpacked ({error!s:.100}).", where=str(path), remedy="Pack it again.") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    inner = entries_of(folder)
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder


def _unpack(path: Path, folder: Path) -> None:
    total = 0
    for name, stream in _members(path):
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or ":" in parts.parts[0]:
            raise _bad(path, name, "leads outside of the archive")
        place = folder.joinpath(*parts.parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as sink:
            while block := stream.read(1 << 20):
                total += len(block)
                if total > MOST_BYTES:
                    raise _bad(path, name, "makes it more than 8 GiB unpacked")
                sink.write(block)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise _bad(path, info.filename, "is a link")
                if not info.is_dir():
                    with archive.open(info) as stream:
                        yield info.filename, stream
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise _bad(path, member.name, "is no plain file")
            yield member.name, content


def _bad(path: Path, name: str, why: str) -> DataError:
    return DataError(f"the member '{name:.100}' {why}.", where=str(path), remedy="Pack plain files alone.")
