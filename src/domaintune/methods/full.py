"""Full tuning: every parameter is trained, the reference that the other methods are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from domaintune.bases.base import Base
from domaintune.methods.base import Attached, Method
from domaintune.methods.weights import (
    TunedWeights,
    constant_parameters,
    head_parameters,
    split_by_decay,
    trained_fork,
)
from domaintune.settings import FullSettings

# Under full tuning's default learning rate of 5e-5 the head learns at 2e-4, nearer to what a linear layer alone wants.
HEAD_SCALE = 4.0


@dataclass(frozen=True)
class Full(Method):
    """W1 = W0 + what AdamW made of every parameter; W(s) = W0 + s (W1 - W0).

    Tied parameters are trained once and stay tied; parameters that the class itself keeps constant (sinusoidal positions) stay
    constant.
    """

    settings: FullSettings

    def attach(self, base: Base, *, generator: torch.Generator, domains: Sequence[str] = ()) -> Attached:
        constant = constant_parameters(base.model)
        head = head_parameters(base)
        body = [
            name for name, p in base.model.named_parameters()
            if name not in constant and name not in set(head) and p.is_floating_point()
        ]  # fmt: skip
        model = trained_fork(base, [*body, *head])
        groups = split_by_decay(model, body, group="body") + split_by_decay(model, head, group="head", scale=HEAD_SCALE)
        return TunedWeights(base, model, groups=groups, settings=self.settings.model_dump(mode="json"))
