"""The words in which a model's anatomy is told: chains of blocks, sites, cuts. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chain:
    """A sequence of blocks: each block's output is the next one's input. `blocks` are dotted paths, bottom first.

    `name` is "encoder", "decoder" or "backbone", numbered ("encoder.2") where a model has several of a kind, in order of
    execution. `path` is the list that holds the blocks. `after` are modules with parameters of their own that work on the
    chain's output before the next chain or the head does (final norms, pooler, necks): they belong to the chain's top.
    """

    name: str
    kind: Literal["transformer", "convolution"]
    path: str
    blocks: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """A linear or convolution layer that runs inside a block.

    "conv1d-transposed" is GPT-2's Conv1D, a linear layer with its weight as [in, out]. `depthwise` says that every channel is
    convolved on its own.
    """

    path: str
    kind: Literal["linear", "conv1d-transposed", "conv1d", "conv2d"]
    role: Literal["attention", "mlp", "convolution"]
    chain: str
    block: int
    groups: int = 1
    depthwise: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """A module before whose input the computation can be cut.

    `name` is "embeddings" (the whole model's input, path ""), a block as "encoder.0", or "head".
    """

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What `examine` found. All are dotted paths in the model; `cuts` are in order of execution.

    `attention` are the innermost modules that attend; `norms` normalisation layers anywhere; `body` the smallest module that
    holds the embeddings and all chains ("" where that is the model itself); `probe` what the probe forward ran on; `blocks_later`
    how many blocks first ran after each module did that ran.
    """

    embeddings: tuple[str, ...]
    chains: tuple[Chain, ...]
    sites: tuple[Site, ...]
    attention: tuple[str, ...]
    cuts: tuple[Cut, ...]
    norms: tuple[str, ...] = ()
    body: str = ""
    probe: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    blocks_later: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)


def inside(path: str, ancestor: str) -> bool:
    """Whether `path` is `ancestor` or lies below it; "" is the whole model."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")
