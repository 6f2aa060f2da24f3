"""Layer-wise decay of the learning rate: the lower a block lies, the less it moves."""

from __future__ import annotations

from dataclasses import replace

from domaintune.bases.base import Base
from domaintune.bases.parts import inside
from domaintune.methods.base import Attached, ParameterGroup


def decayed_groups(attached: Attached, decay: float) -> list[ParameterGroup]:
    """The method's parameter groups, each parted by depth: a parameter of depth k learns at `decay` to the power of k times the rate.

    Source: arXiv 2106.08254 (BEiT), appendix; first in arXiv 1801.06146.
    """
    groups = attached.parameter_groups()
    if decay == 1:
        return groups
    depths: dict[int, int] = {}
    own = {name for name, _ in attached.base.model.named_parameters(remove_duplicate=False)}
    for name, parameter in attached.model.named_parameters(remove_duplicate=False):
        # A tied parameter is as deep as its deepest place.
        depths[id(parameter)] = max(depths.get(id(parameter), 0), depth_of(attached.base, name, own=name in own))
    made = []
    for group in groups:
        found = [depths.get(id(p), 0) for p in group.parameters]
        for depth in sorted(set(found)):
            part = tuple(p for p, d in zip(group.parameters, found, strict=True) if d == depth)
            made.append(replace(group, parameters=part, scale=group.scale * decay**depth))
    return made


def depth_of(base: Base, name: str, *, own: bool = True) -> int:
    """0 for the head and what follows all blocks, 1 in the top block, 2 in the one below, one more than in the lowest block for the
    embeddings and whatever else of the base's `own` stands in no block. What a method adds outside of blocks has depth 0.

    The blocks of all chains count in order of computation (encoder before decoder). What follows a chain inside the body (a final
    norm, a neck) is one less deep than that chain's top block.
    """
    head = base.heads["domain"].modules if "domain" in base.heads else ()
    if any(inside(name, path) for path in head):
        return 0
    depth = sum(len(chain.blocks) for chain in base.anatomy.chains)
    lowest = depth + 1 if own else 0
    for chain in base.anatomy.chains:
        for path in chain.blocks:
            if inside(name, path):
                return depth
            depth -= 1
        if any(inside(name, path) for path in chain.after):
            return depth
    return lowest
