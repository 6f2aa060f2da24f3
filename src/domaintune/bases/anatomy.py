"""Where a model's parts are, found by structure and a probe forward, never by names."""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any, Literal
from torch import nn, Tensor

@dataclass(frozen=True, slots=True)
class Chain:
    """A sequence of blocks: each block's output is the next one's input. `blocks` are dotted paths, bottom first."""
    name: str          # "encoder" | "decoder" | "backbone"; numbered ("encoder.2") where a model has several of a kind
    kind: Literal["transformer", "convolution"]
    path: str
    blocks: tuple[str, ...]

@dataclass(frozen=True, slots=True)
class Site:
    """A linear or convolution layer inside a block."""
    path: str
    kind: Literal["linear", "conv1d-transposed", "conv1d", "conv2d"]   # conv1d-transposed: GPT-2's Conv1D (weight [in, out])
    role: Literal["attention", "mlp", "convolution"]
    chain: str
    block: int

@dataclass(frozen=True, slots=True)
class Cut:
    """A module before whose input the computation can be cut."""
    name: str        # "embeddings" | "encoder.0" ... (input of that block) | "head"
    path: str

@dataclass(frozen=True, slots=True)
class Anatomy:
    embeddings: tuple[str, ...]
    chains: tuple[Chain, ...]
    sites: tuple[Site, ...]
    attention: tuple[str, ...]     # attention modules
    cuts: tuple[Cut, ...]

def examine(model: nn.Module) -> Anatomy:
    raise NotImplementedError

def probe_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A tiny input that the model itself implies (ids from its vocabulary, or pixels)."""
    raise NotImplementedError
