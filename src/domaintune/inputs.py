"""The data that a recipe names, as paths: which parts, and their checksums. Nothing is parsed here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from domaintune.data.columnar import dataset_files, is_saved_dataset
from domaintune.data.formats import files_of
from domaintune.data.sources import files_below
from domaintune.errors import DataError
from domaintune.inheritance import PARTS
from domaintune.recipe import ALIGNED, Recipe
from domaintune.run import file_sha256

DOMAIN = ("train", "dev", "test", "add")


def given_paths(recipe: Recipe) -> dict[str, str | tuple[str, ...]]:
    """Part -> path or paths, for the parts that the recipe names."""
    return {name: given for name in PARTS if (given := getattr(recipe, name)) is not None}


def files(recipe: Recipe) -> list[str]:
    """Every file or folder that the recipe's parts name, globs expanded and aligned pairs taken apart.

    Raises:
        DataError: a glob that fits nothing.
    """
    return [side for given in given_paths(recipe).values() for side in sides_of(given)]


def sides_of(given: str | Sequence[str]) -> list[str]:
    """As `files`, of one part."""
    return [side for entry in files_of(given) for side in entry.split(ALIGNED)]


def data_checksum(path: str) -> str:
    """sha256 of a file, or of the names and contents of the files in a folder, but for those that readers pass over (a COCO file's
    pictures are not part of it)."""
    root = Path(path)
    if not root.is_dir():
        return file_sha256(root)
    digest = hashlib.sha256()
    for entry in dataset_files(root) if is_saved_dataset(root) else files_below(root):
        digest.update(f"{entry.relative_to(root)}\0{file_sha256(entry)}\n".encode())
    return digest.hexdigest()


def checksums(recipe: Recipe) -> dict[str, str]:
    """Part -> sha256 of its data.

    Raises:
        DataError: a path that does not exist.
    """
    made = {}
    for name, given in given_paths(recipe).items():
        digests = []
        for path in sides_of(given):
            try:
                digests.append(data_checksum(path))
            except (OSError, ValueError) as error:
                flag = f"--{name.replace('_', '-')}"
                what = error.strerror if isinstance(error, OSError) else str(error)
                raise DataError(f"cannot be read ({what}).", where=f"{flag} {path}", remedy="Check the path.") from None
        made[name] = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return made
