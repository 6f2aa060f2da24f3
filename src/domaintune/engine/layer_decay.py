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
    places: dict[int, list[str]] = {}
    for name, parameter in attached.model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    own = {name for name, _ in attached.base.model.named_parameters(remove_duplicate=False)}
    ran = attached.base.anatomy.blocks_later
    depths: dict[int, int] = {}
    for key, names in places.items():
        # A tied parameter is as deep as its deepest place; a second module that holds it and never runs (a detector's boxes) is none.
        running = [name for name in names if name.rpartition(".")[0] in ran] or names
        depths[key] = max(depth_of(attached.base, name, own=name in own) for name in running)
    made = []
    for group in groups:
        found = [depths.get(id(p), 0) for p in group.parameters]
        for depth in sorted(set(found)):
            part = tuple(p for p, d in zip(group.parameters, found, strict=True) if d == depth)
            made.append(replace(group, parameters=part, scale=group.scale * decay**depth))
    return made


def depth_of(base: Base, name: str, *, own: bool = True) -> int:
    """0 for the head and what first runs behind all blocks, 1 in the top block, 2 in the one below, one more than in the lowest block
    for the embeddings and whatever else of the base's `own` runs before the blocks. What a method adds outside of blocks has depth 0.

    The blocks of all chains count in order of computation (encoder before decoder). What follows a chain inside the body (a final
    norm, a neck), or first runs between two blocks (a detector's boxes, refined behind each), is one less deep than the block before.
    """
    head = base.heads["domain"].modules if "domain" in base.heads else ()
    if any(inside(name, path) for path in head):
        return 0
    owner = name.rpartition(".")[0]
    blocks = depth = sum(len(chain.blocks) for chain in base.anatomy.chains)
    for chain in base.anatomy.chains:
        for path in chain.blocks:
            if inside(name, path):
                return depth
            depth -= 1
        if owner in chain.after:
            return depth
    if not own:
        return 0
    if any(inside(name, path) for path in base.anatomy.embeddings):
        return blocks + 1
    while owner and owner not in base.anatomy.blocks_later:  # what did not run by itself counts as what holds it
        owner = owner.rpartition(".")[0]
    later = base.anatomy.blocks_later.get(owner, blocks)
    return later + 1 if later == blocks else later
