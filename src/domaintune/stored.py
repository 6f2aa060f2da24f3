"""What stands in a run's files: its heads, and the checksum of what it learned. Nothing is trained or predicted here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from domaintune.bases.base import Base, Head, fork
from domaintune.errors import RunError
from domaintune.methods.weights import write_tensors
from domaintune.provenance import provenance
from domaintune.run import RunFolder, file_sha256
from domaintune.tasks import TASKS
from domaintune.tasks.base import Task

HEADS = "heads.safetensors"
FILES = "files"
"""How a run that was made on another records that its `weights_sha256` is a `learned_checksum`."""


@contextmanager
def damage_told(path: str | Path) -> Iterator[None]:
    """Turns what a run's torn or edited files raise into a RunError."""
    try:
        yield
    except PermissionError as error:
        raise RunError(
            f"may not be read ({error.filename or error}).",
            where=str(path),
            remedy="Ask its owner for the right to read it.",
        ) from error
    except (OSError, SafetensorError, ValidationError, KeyError) as error:
        raise RunError(
            f"is damaged ({type(error).__name__}: {str(error).splitlines()[0]}).",
            where=str(path),
            remedy="Restore the folder, or make the run again with --overwrite.",
        ) from error


def saved_tasks(folder: RunFolder) -> dict[str, Task]:
    """A run's tasks by the name of their head; needs no base."""
    kind = TASKS[folder.read("resolved.json")["task"]["name"]]
    return {name: kind.model_validate_json(json.dumps(values)) for name, values in folder.read("tasks.json").items()}


def save_heads(base: Base, path: Path) -> None:
    """All heads as the base holds them (where training started, and the general one): "domain/name" -> tensor."""
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().contiguous().clone()
        for name, head in base.heads.items()
        for key, tensor in head.state().items()
    }
    write_tensors(path, tensors)


def with_saved_heads(base: Base, tasks: Mapping[str, Task], path: Path) -> Base:
    """The base with the heads that `save_heads` wrote; `tasks` maps the head's name to its task."""
    tensors = load_file(path)
    for name, task in tasks.items():
        if task.head().labels:
            base = base.with_head(name, task.head(), generator=torch.Generator().manual_seed(0))
            base = base.with_given_head(name, _filled(_as_stored(base, name, tensors), name, tensors))
    return base


def _as_stored(base: Base, name: str, tensors: Mapping[str, Tensor]) -> Head:
    """The head without what the base's weights lack, where a run is older than that it was trained and stored."""
    head = base.heads[name]
    older = [path for path in base.lacking if not any(key.startswith(f"{name}/{path}.") for key in tensors)]
    return replace(head, modules={path: module for path, module in head.modules.items() if path not in older})


def _filled(head: Head, name: str, tensors: Mapping[str, Tensor]) -> Head:
    made: dict[int, nn.Module] = {}
    for path, module in head.modules.items():
        if id(module) not in made:
            inner = {}
            for key, tensor in module.named_parameters():
                saved = tensors.get(f"{name}/{path}.{key}")
                if saved is None or saved.shape != tensor.shape:
                    raise RunError(f"lacks the tensor {path}.{key} of the {name} head.", where=HEADS)
                inner[key] = saved.to(device=tensor.device, dtype=tensor.dtype)
            made[id(module)] = fork(module, inner)
    return Head(head.spec, {path: made[id(module)] for path, module in head.modules.items()}, head.config)


def learned_checksum(folder: Path, *, strength: float, base: str | None) -> str:
    """sha256 of all that a run's merged weights come from: its adapter's and its heads' files, the strength, and its own base's
    checksum. The merged weights themselves have other last bits on other processors."""
    written = sorted(file for file in (folder / "adapter").iterdir() if file.suffix in (".safetensors", ".json"))
    files = [(file.name, file_sha256(file)) for file in (*written, folder / HEADS)]
    parts = [files, float(strength), base]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def tensors_checksum(model: nn.Module) -> str:
    """sha256 over names and bytes of all tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_changed(made_on: Mapping[str, Any], digest: str, model: nn.Module) -> bool:
    """Whether a run's weights are other ones than those that a run of this provenance was made on. Older runs recorded the checksum of
    the merged weights, whose last bits hang on processor and torch: it is compared where both are the same."""
    origin = made_on["base"]
    if origin.get("checksum_of") == FILES:
        return bool(digest != origin["weights_sha256"])
    here = provenance()
    same = all(
        made_on.get(kind, {}).get(key) == here[kind][key]
        for kind, key in (("machine", "processor"), ("versions", "torch"))
    )
    return same and tensors_checksum(model) != origin["weights_sha256"]
