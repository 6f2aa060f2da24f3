"""Full tuning: every parameter is trained, the reference that the other methods are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from domaintune.bases.anatomy import Anatomy
from domaintune.bases.base import Base
from domaintune.bases.parts import inside
from domaintune.methods.base import Attached, Method, ParameterGroup
from domaintune.methods.weights import (
    TunedWeights,
    canonical_names,
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

    With `layer_decay` d < 1 the learning rate of a block that has k blocks above it is multiplied by d^(k + 1), that of the
    embeddings by one d more than the lowest block's; head and norms above the blocks keep the whole. The blocks of all chains
    count in the order of computation (encoder before decoder, backbone first). Tied parameters are trained once and stay tied;
    parameters that the class itself keeps constant (sinusoidal positions) stay constant.
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
        groups: list[ParameterGroup] = []
        for exponent, names in _by_exponent(base, body, self.settings.layer_decay).items():
            label = f"layers -{exponent}" if exponent else "body"
            groups += split_by_decay(model, names, group=label, scale=self.settings.layer_decay**exponent)
        groups += split_by_decay(model, head, group="head", scale=HEAD_SCALE)
        return TunedWeights(base, model, groups=groups, settings=self.settings.model_dump(mode="json"))


def _by_exponent(base: Base, names: list[str], decay: float) -> dict[int, list[str]]:
    if decay == 1:
        return {0: names}
    groups: dict[int, list[str]] = {}
    aliases: dict[str, list[str]] = {}
    for alias, name in canonical_names(base.model).items():
        aliases.setdefault(name, []).append(alias)
    for name in names:  # a tied parameter is as deep as its deepest place
        exponent = max(layer_exponent(base.anatomy, alias) for alias in aliases[name])
        groups.setdefault(exponent, []).append(name)
    return dict(sorted(groups.items()))


def layer_exponent(anatomy: Anatomy, name: str) -> int:
    """How many times `layer_decay` applies to a parameter: 0 above all blocks, 1 in the top block, most in the embeddings.

    What follows a chain inside the body (a final norm, a neck) counts one less than that chain's top block.
    """
    exponent = sum(len(chain.blocks) for chain in anatomy.chains)
    if any(inside(name, path) for path in anatomy.embeddings):
        return exponent + 1
    for chain in anatomy.chains:
        for path in chain.blocks:
            if inside(name, path):
                return exponent
            exponent -= 1
        if any(inside(name, path) for path in chain.after):
            return exponent
    return 0
