"""Layer-wise decay of the learning rate: the lower a block lies, the less it moves."""

from __future__ import annotations

from dataclasses import replace

from domaintune.bases.base import Base
from domaintune.bases.parts import inside
from domaintune.methods.base import Attached, ParameterGroup


def decayed_groups(attached: Attached, decay: float) -> list[ParameterGroup]:
    """The method's parameter groups, each parted by height, with `decay` to the power of the number of blocks above in the scale.

    With two chains the later one's blocks (the decoder's) are above the earlier one's. No block is above the head and what a
    method adds outside of blocks, all blocks above the base's embeddings and whatever else stands in none.
    Source: arXiv 2003.10555, section 3.1.
    """
    groups = attached.parameter_groups()
    if decay == 1:
        return groups
    names = {id(parameter): name for name, parameter in attached.model.named_parameters()}
    made = []
    for group in groups:
        above = [blocks_above(attached.base, names.get(id(p), "")) for p in group.parameters]
        for count in sorted(set(above)):
            part = tuple(p for p, number in zip(group.parameters, above, strict=True) if number == count)
            made.append(replace(group, parameters=part, scale=group.scale * decay**count))
    return made


def blocks_above(base: Base, name: str) -> int:
    """How many blocks run after that of the parameter of this name."""
    chains = base.anatomy.chains
    heights = [block for chain in chains for block in chain.blocks]
    above = {block: len(heights) - 1 - height for height, block in enumerate(heights)}
    for chain in chains:
        above |= dict.fromkeys(chain.after, above[chain.blocks[-1]])
    above |= dict.fromkeys(base.heads["domain"].modules if "domain" in base.heads else (), 0)
    below = len(heights) if name in dict(base.model.named_parameters()) else 0
    return next((count for path, count in above.items() if inside(name, path)), below)
