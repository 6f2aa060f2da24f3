"""Freeze: the head and chosen parts of the body are trained, the rest stays the base's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from domaintune.bases.base import Base
from domaintune.bases.selectors import chain_nearest_output
from domaintune.errors import MethodError
from domaintune.methods.base import Attached, Method
from domaintune.methods.weights import (
    TunedWeights,
    body_parameters,
    head_parameters,
    read_config,
    split_by_decay,
    trained_fork,
)
from domaintune.settings import FreezeSettings

# Freeze's default learning rate is 2e-4; a fresh linear layer wants several times that.
HEAD_SCALE = 4.0
TOP = 4


def default_selector(base: Base) -> str:
    """The top four blocks of the chain nearest the output; of a chain that has no more (the stages of a ResNet or Swin, which hold
    nearly all weights) the upper half, at least one."""
    blocks = len(chain_nearest_output(base.anatomy).blocks)
    return f"top:{TOP if blocks > TOP else max(1, blocks // 2)}"


@dataclass(frozen=True)
class Freeze(Method):
    """W1 = W0 outside the chosen parameters, trained inside them; W(s) = W0 + s (W1 - W0).

    `train` names the parts (see the recipe); the domain's head is always trained. For `head` alone on a task without a head of
    its own (text generation, translation) the output embedding is trained, provided that it is not tied to the input's.
    """

    settings: FreezeSettings

    def attach(self, base: Base, *, generator: torch.Generator, domains: Sequence[str] = ()) -> Attached:
        head = head_parameters(base)
        chosen = (default_selector(base),) if self.settings.train is None else self.settings.train
        selectors = tuple(selector for selector in chosen if selector != "head")
        body = body_parameters(base, selectors)
        if selectors and not body:
            raise MethodError(
                f"'{', '.join(selectors)}' chooses no parameter outside the head.",
                where="method.train",
                remedy="Name other parts, or train: [head].",
            )
        if not selectors and not head:
            head = output_embedding(base)
        model = trained_fork(base, [*body, *head])
        groups = split_by_decay(model, body, group="body") + split_by_decay(model, head, group="head", scale=HEAD_SCALE)
        return TunedWeights(
            base, model, groups=groups, settings={**self.settings.model_dump(mode="json"), "train": list(chosen)}
        )

    def as_saved(self, base: Base, folder: Path) -> Freeze:
        """Adapters that do not say what was trained are from when the default was the top four blocks, or all where there are fewer."""
        if self.settings.train is not None:
            return self
        blocks = len(chain_nearest_output(base.anatomy).blocks)
        held = read_config(folder).get("train") or (f"top:{min(TOP, blocks)}",)
        return Freeze(self.settings.model_copy(update={"train": tuple(held)}))


def output_embedding(base: Base) -> list[str]:
    """Names of the output embedding's parameters.

    Raises:
        MethodError: there is none, or it is tied to the input embedding, so that training it changes the body.
    """
    model = base.model
    get = model.get_output_embeddings
    assert callable(get)
    output: nn.Module | None = get()
    if output is None:
        raise MethodError("has neither a head for this task nor an output embedding.", where=base.name)
    names = [name for name, parameter in model.named_parameters() for p in output.parameters() if p is parameter]
    inputs = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    if any(id(p) in inputs for p in output.parameters()):
        raise MethodError(
            "its output embedding is tied to the input embedding, so there is no head to train alone.",
            where=base.name,
            remedy="Set method.train to top:2 (or more blocks), or use lora.",
        )
    return names
