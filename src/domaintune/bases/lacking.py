"""What a model's weights lack: the modules that were made anew when it was loaded, and on which its outputs depend."""

from __future__ import annotations

import torch
from torch import nn

from domaintune.bases.base import fork
from domaintune.bases.parts import inside
from domaintune.bases.probe import probe_inputs, tensors_in


def lacking_modules(model: nn.Module, missing: set[str]) -> tuple[str, ...]:
    """Paths of the outermost modules of `model` that hold a parameter of `missing`. In the body only those count that an output
    depends on: a pooler that nothing reads does not."""
    body = getattr(model, "base_model_prefix", "")
    names = [name for name, _ in model.named_parameters() if name in missing]
    inner = [name for name in names if inside(name, body)]
    used = _used(model, inner) if inner else set()
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names if name in used or name not in inner)
    paths = [path for path in owners if path]
    return tuple(path for path in paths if not any(other != path and inside(path, other) for other in paths))


def _used(model: nn.Module, names: list[str]) -> set[str]:
    """Those of the named parameters that some output has a gradient for, on the probe's input."""
    trial = fork(model).eval()
    parameters = [trial.get_parameter(name).requires_grad_() for name in names]
    with torch.enable_grad():
        outputs = [tensor.float().sum() for tensor in tensors_in(trial(**probe_inputs(trial))) if tensor.requires_grad]
    if not outputs:
        return set()
    gradients = torch.autograd.grad(torch.stack(outputs).sum(), parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
