"""The checkpoint folder: tensors in safetensors files that are never changed, and one JSON file that says which of them count.

`checkpoint.json` is replaced in one rename after every file that it names is on the disk, and only then are files that it does
not name removed: a process killed at any moment leaves the old checkpoint or the new one, whole. A file's name stands for its
content, so that what two checkpoints share (the best epoch's weights, the epoch's start) is written once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from domaintune.errors import CheckpointError, RunError
from domaintune.run import flatten, read_json, sync, write_file, write_text

FORMAT = 1
MANIFEST = "checkpoint.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder that holds one checkpoint, or none."""

    path: Path

    def exists(self) -> bool:
        return (self.path / MANIFEST).is_file()

    def write(
        self, scalars: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], *, fingerprint: Mapping[str, Any]
    ) -> None:
        """Replace the checkpoint. Tensors are on the CPU; files that the present checkpoint has under the same name stay.

        `scalars` are plain JSON values; floats come back exactly, as JSON holds their shortest exact form.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = set(read_json(self.path / MANIFEST)["files"]) if self.exists() else set()
        for name, tensors in files.items():
            if name not in held:
                self._write_tensors(name, tensors)
        sync(self.path)  # the new names must be on the disk before the manifest that counts on them
        manifest = {"format": FORMAT, "fingerprint": fingerprint, "files": sorted(files), "scalars": scalars}
        write_text(self.path / MANIFEST, json.dumps(manifest) + "\n")  # a score that is no number comes back as none
        sync(self.path)
        needed = {MANIFEST, *(f"{name}{SUFFIX}" for name in files)}
        for entry in self.path.iterdir():
            if entry.name not in needed:
                entry.unlink()

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save_file

        plain = {key: tensor.contiguous() for key, tensor in tensors.items()}
        write_file(self.path / f"{name}{SUFFIX}", lambda temporary: save_file(plain, temporary))

    def read(self, *, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        """The scalars of the checkpoint.

        Raises:
            CheckpointError: it belongs to another training, with everything that differs, or it cannot be read.
        """
        manifest = self._manifest()
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                "was written by another version of domaintune.",
                where=str(self.path),
                remedy="Add --overwrite to begin anew.",
            )
        if not all(isinstance(manifest.get(key), dict) for key in ("fingerprint", "scalars")):
            raise _damaged(self.path / MANIFEST, "it lacks parts")
        before, now = flatten(manifest["fingerprint"]), flatten(dict(fingerprint))
        differing = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if differing:
            raise CheckpointError(
                f"is the checkpoint of another training ({'; '.join(differing)}).",
                where=str(self.path),
                remedy="Restore what differs to go on with it, or add --overwrite to begin anew.",
            )
        scalars: dict[str, Any] = manifest["scalars"]
        return scalars

    def _manifest(self) -> dict[str, Any]:
        try:
            manifest = read_json(self.path / MANIFEST)
        except RunError as error:
            raise _damaged(self.path / MANIFEST, error.what.rstrip(".")) from None
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise _damaged(self.path / MANIFEST, "it is no object with a format")
        return manifest

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file of the checkpoint.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / f"{name}{SUFFIX}"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> CheckpointError:
    return CheckpointError(f"cannot be read ({why}).", where=str(path), remedy="Add --overwrite to begin anew.")
