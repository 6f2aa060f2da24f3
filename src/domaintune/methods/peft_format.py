"""PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`, written and read without PEFT.

`peft.PeftModel.from_pretrained(stock_model, folder)` on the stock transformers class gives the strength-1 outputs. Where the base
is a body with a pooling of its own, the adapter is that of the body (`AutoModel`) and the head stands in `head.safetensors`.

What PEFT itself cannot run (0.21): dilated convolutions and convolutions with a padding mode other than zeros before
`merge_and_unload()`; models that read a convolution's attributes from outside (MobileNet), likewise; models without
`get_input_embeddings` (RT-DETR, D-FINE, DEIMv2), until they are given one; LW-DETR and RF-DETR, whose heads stand in a list; Falcon-H1 and
other mixtures with Mamba. Of mixtures of experts with dense layers beside them, which transformers reads as it reads Qwen2-MoE (DeepSeek V2
and V3, GLM-4-MoE, Qwen3-Next and others), PEFT takes the dense layers' updates for the experts' and gives other outputs without
an error. `read_adapter` and the merged model are right for all of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from domaintune.bases.base import Base
from domaintune.bases.pooled import PooledClassifier
from domaintune.errors import MethodError
from domaintune.methods.lora_layers import LoRAConv1D, LoRAConv1d, LoRAConv2d, LoRALayer, weight_rows
from domaintune.methods.weights import ChangedTensors, read_tensors, write_tensors
from domaintune.settings import LoRASettings

PREFIX = "base_model.model."
ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
HEAD_FILE = "head.safetensors"


def write_adapter(
    folder: Path, *, base: Base, layers: Mapping[str, LoRALayer], changed: ChangedTensors, settings: LoRASettings
) -> None:
    """Write the adapter; see the module."""
    body = _body_prefix(base)
    tensors: dict[str, Tensor] = {}
    for path, layer in layers.items():
        tensors |= {f"{PREFIX}{path.removeprefix(body)}.{name}": t for name, t in _layer_tensors(layer).items()}
    model = changed.model
    modules = [path for path in _saved_modules(base, changed) if path.startswith(body)]
    for path in modules:
        prefix = f"{PREFIX}{path.removeprefix(body)}."
        tensors |= {f"{prefix}{name}": t for name, t in model.get_submodule(path).state_dict().items()}
    if body:
        head = {name: p.detach() for name, p in changed.parameters().items() if not name.startswith(body)}
        _save(folder / HEAD_FILE, head)
    _save(folder / ADAPTER_FILE, tensors)
    names = [path.removeprefix(body) for path, _ in model.named_modules() if path.startswith(body)]
    config = adapter_config(
        settings,
        source=_source(base),
        targets=target_modules([path.removeprefix(body) for path in layers], names),
        modules_to_save=[path.removeprefix(body) for path in modules],
        transposed=any(isinstance(layer, LoRAConv1D) for layer in layers.values()),
    )
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _source(base: Base) -> str:
    """Where PEFT finds the base: on the Hub, if it is there as it is."""
    known = base.provenance
    return str((None if "run" in known else known.get("hub")) or known.get("source", base.name))


def read_adapter(
    folder: Path, *, base: Base, layers: Mapping[str, LoRALayer], changed: ChangedTensors, settings: LoRASettings
) -> dict[str, Tensor]:
    """The state that `write_adapter` wrote.

    Raises:
        MethodError: a file or tensor is missing, or the adapter has other settings.
    """
    _check_config(folder / CONFIG_FILE, settings)
    body = _body_prefix(base)
    held = {
        (name.removeprefix(PREFIX) if not body else body + name.removeprefix(PREFIX)): tensor
        for name, tensor in read_tensors(folder / ADAPTER_FILE).items()
    }
    if body:
        held |= read_tensors(folder / HEAD_FILE)
    state: dict[str, Tensor] = {}
    try:
        for path, layer in layers.items():
            down, up = held[f"{path}.lora_A.weight"], held[f"{path}.lora_B.weight"]
            rank = settings.rank
            state[f"{path}.low_rank.A"], state[f"{path}.low_rank.B"] = down[:rank], up[:, :rank]
            if layer.low_rank.A0 is not None:
                state[f"{path}.low_rank.A0"], state[f"{path}.low_rank.B0"] = down[rank:], -up[:, rank:]
            if layer.low_rank.magnitude is not None:
                magnitude = held[f"{path}.lora_magnitude_vector"].flatten()
                assert layer.low_rank.weight_squared is not None
                undefined = layer.low_rank.weight_squared.cpu() == 0
                state[f"{path}.low_rank.magnitude"] = magnitude.masked_fill(undefined, 0.0)
        state |= {name: held[name] for name in changed.names}
    except KeyError as error:
        remedy = "It belongs to another base or recipe."
        raise MethodError(f"lacks the tensor {error}.", where=str(folder / ADAPTER_FILE), remedy=remedy) from None
    return state | {name: held[name] for name in changed.statistics() if name in held}


def adapter_config(
    settings: LoRASettings, *, source: str, targets: list[str] | str, modules_to_save: list[str], transposed: bool
) -> dict[str, Any]:
    """PEFT's `LoraConfig` as plain values. `transposed`: the targets are GPT-2's Conv1D."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": source,
        **_rank_and_alpha(settings),
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilised,
        "use_dora": settings.dora,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": targets,
        "modules_to_save": modules_to_save or None,
    }


def _rank_and_alpha(settings: LoRASettings) -> dict[str, float]:
    """A start from principal components is stored as an update of twice the rank, its alpha such that the scale stays."""
    if settings.initialise == "zero":
        return {"r": settings.rank, "lora_alpha": settings.alpha}
    return {"r": 2 * settings.rank, "lora_alpha": settings.alpha * (math.sqrt(2) if settings.rank_stabilised else 2)}


def target_modules(paths: Collection[str], names: Collection[str]) -> list[str] | str:
    """PEFT matches a listed path also as the tail of a longer one; where that would reach another module of `names`, one
    regular expression of the whole paths instead of the list."""
    chosen = set(paths)
    tails = tuple(f".{path}" for path in chosen)
    if any(name.endswith(tails) for name in names if name not in chosen):
        return "|".join(re.escape(path) for path in sorted(chosen))
    return sorted(chosen)


def _body_prefix(base: Base) -> str:
    return f"{PooledClassifier.base_model_prefix}." if isinstance(base.model, PooledClassifier) else ""


def _saved_modules(base: Base, changed: ChangedTensors) -> list[str]:
    """Paths of the modules that PEFT stores whole: the head's, and batch norms whose statistics moved."""
    head = list(base.heads["domain"].modules) if "domain" in base.heads else []
    moved = [name.rpartition(".")[0] for name in changed.moved()]
    wanted = tuple(dict.fromkeys([*head, *moved]))
    # PEFT takes every module whose path ends with one of these texts, and then wants its tensors too.
    paths = [path for path, _ in changed.model.named_modules(remove_duplicate=False)]
    return [path for path in paths if wanted and path.endswith(wanted)]


def _layer_tensors(layer: LoRALayer) -> dict[str, Tensor]:
    low_rank = layer.low_rank
    tensors: dict[str, Tensor] = {"lora_A.weight": low_rank.down, "lora_B.weight": low_rank.up}
    if low_rank.magnitude is not None:
        assert low_rank.weight_squared is not None
        # PEFT divides by the norm of the updated row also where W0's row is zero: equal to it, the factor is 1, as here.
        norm = low_rank.norm(weight_rows(layer))
        magnitude = torch.where(low_rank.weight_squared > 0, low_rank.magnitude, norm)
        kernel = layer.kernel_size if isinstance(layer, LoRAConv1d | LoRAConv2d) else ()
        tensors["lora_magnitude_vector"] = magnitude.view(1, -1, *(1 for _ in kernel)) if kernel else magnitude
    return tensors


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_tensors(path, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()})


def _check_config(path: Path, settings: LoRASettings) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MethodError(f"cannot be read ({error}).", where=str(path)) from None
    expected = {
        "peft_type": "LORA",
        **_rank_and_alpha(settings),
        "use_rslora": settings.rank_stabilised,
        "use_dora": settings.dora,
    }
    for key, value in expected.items():
        if config.get(key) != value:
            raise MethodError(
                f"'{key}' is {config.get(key)!r} here and {value!r} in the recipe.",
                where=str(path),
                remedy="Use the recipe that the adapter was trained with.",
            )
