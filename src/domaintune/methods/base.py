"""The method protocol: what is trainable, and how to see the model at any strength. No task names, no data.

`Method.attach` gives an `Attached`: a fork of the base in which some tensors are trained. Its `view` is the model at one
strength, a module tree of its own; its `state` is what the run stores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domaintune.bases.base import Base, fork, install_head_

Form = Literal["merged", "terms"]


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Tensors that share a learning rate. `scale` multiplies the recipe's learning rate; `decay` says whether weight decay
    applies (not to biases, norms and gates)."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    scale: float = 1.0
    decay: bool = True


class Method(ABC):
    """Settings of one method (a settings model of the recipe), ready to be attached to a base."""

    @abstractmethod
    def attach(self, base: Base, *, generator: torch.Generator) -> Attached:
        """A model to train, equal to the base until it is trained. The domain head, where there is one, is always trained.

        Raises:
            MethodError: the base lacks what the method needs, by name, with the alternatives.
        """


class Attached(ABC):
    """A method on a base. `model` is the fork that is trained; it requires gradients for exactly the trained tensors."""

    base: Base
    model: nn.Module

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trained parameter, once."""

    @abstractmethod
    def view(self, strength: float, *, head: str = "domain", form: Form = "merged") -> nn.Module:
        """The model at `strength` in [0, 1], in eval mode: an own module tree that shares the base's storage and owns clones of
        what differs, so that further training does not reach it.

        0 is the base bit for bit; 1 in form "terms" is `model` in eval mode bit for bit. "merged" has plain layers (within
        rounding). With `head="general"` the base's general head, untouched, sits on the tuned body.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything learned, trained buffers included, as clones on the CPU; strength 1."""

    @abstractmethod
    def load_(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, in place.

        Raises:
            MethodError: names or shapes differ.
        """

    @abstractmethod
    def merged(self, strength: float) -> nn.Module:
        """A plain model of the base's class at `strength`, sharing no storage with anything.

        Raises:
            MethodError: the method does not change weights (P-tuning).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the adapter (strength 1) into the existing, empty `folder`, safetensors and JSON only."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in place."""


def lerp_parameters(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """W(s) on the line from `start` to `end`, by `torch.lerp`, which is exact at both ends. The results own their storage."""
    return {name: torch.lerp(start[name].detach(), end[name].detach(), strength).clone() for name in end}


__all__ = ["Attached", "Form", "Method", "ParameterGroup", "fork", "install_head_", "lerp_parameters", "Any"]
