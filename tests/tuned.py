"""What the tests of full, Freeze and LoRA share: bases with heads, inputs, a few optimiser steps."""

from __future__ import annotations

import functools

import torch
from tiny import AUTO, tiny_base
from torch import Tensor, nn

from domaintune.bases.base import Base, HeadSpec
from domaintune.methods.base import Attached

FAMILIES = {
    "bert": "text-classification",
    "roberta": "token-classification",
    "distilbert": "text-classification",
    "gpt2": "generation",
    "qwen3": "generation",
    "marian": "translation",
    "vit": "image-classification",
    "resnet": "image-classification",
    "swin": "image-classification",
    "mobilenet-v2": "image-classification",
    "yolos": "object-detection",
    "rt-detr-v2": "object-detection",
    "d-fine": "object-detection",
    "llama": "generation",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh_base(family: str) -> Base:
    """A tiny base with a head for four labels, where the task has labels."""
    task = FAMILIES[family]
    base = tiny_base(family, task)
    if task in ("generation", "translation"):
        return base
    spec = HeadSpec(AUTO[task], ("a", "b", "c", "d"), whole=task != "object-detection")
    return base.with_head("domain", spec, generator=generator(2))


# One base serves many tests: that nothing changes it is part of what they show.
shared_base = functools.cache(fresh_base)


def inputs(family: str) -> dict[str, Tensor]:
    task = FAMILIES[family]
    if task in ("image-classification", "object-detection"):
        side = 32 if task == "image-classification" else 64
        return {"pixel_values": torch.randn(2, 3, side, side, generator=generator(1))}
    made = {"input_ids": torch.randint(7, 300, (2, 9), generator=generator(1))}
    if task == "translation":
        made["decoder_input_ids"] = torch.randint(7, 300, (2, 5), generator=generator(3))
    return made


@torch.no_grad()
def logits(model: nn.Module, family: str) -> Tensor:
    return model(**inputs(family)).logits


def train_(attached: Attached, family: str, *, steps: int = 2) -> None:
    """Optimiser steps on a meaningless loss, in whatever mode the model is."""
    parameters = [p for group in attached.parameter_groups() for p in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        attached.model(**inputs(family)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def versions(model: nn.Module) -> dict[str, int]:
    """How often each tensor was written in place."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: tensor._version for name, tensor in named}
