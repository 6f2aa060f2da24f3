"""What a run stores as files beside its adapter: the heads. Nothing is trained or predicted here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from domaintune.bases.base import Base, Head, fork
from domaintune.errors import RunError
from domaintune.tasks.base import Task

HEADS = "heads.safetensors"


def save_heads(base: Base, path: Path) -> None:
    """All heads as the base holds them (where training started, and the general one): "domain/name" -> tensor."""
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().contiguous().clone()
        for name, head in base.heads.items()
        for key, tensor in head.state().items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary)
    temporary.replace(path)


def with_saved_heads(base: Base, tasks: Mapping[str, Task], path: Path) -> Base:
    """The base with the heads that `save_heads` wrote; `tasks` maps the head's name to its task."""
    tensors = load_file(path)
    for name, task in tasks.items():
        if task.head().labels:
            base = base.with_head(name, task.head(), generator=torch.Generator().manual_seed(0))
            base = base.with_given_head(name, _filled(base.heads[name], name, tensors))
    return base


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
