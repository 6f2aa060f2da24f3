"""The method protocol: what is trainable, and how to see the model at any strength. No task names, no data.

`Method.attach` gives an `Attached`: a fork of the base in which some tensors are trained. Its `view` is the model at one
strength, a module tree of its own; its `state` is what the run stores.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domaintune.bases.base import Base
from domaintune.bases.cuts import train_behind_prefix_
from domaintune.errors import MethodError

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
    def attach(self, base: Base, *, generator: torch.Generator, domains: Sequence[str] = ()) -> Attached:
        """A model to train, equal to the base until it is trained. The domain head, where there is one, is always trained.

        `domains`: the train rows' named domains, where each may learn a weight of its own; only LoRA makes use of them.

        Raises:
            MethodError: the base lacks what the method needs, by name, with the alternatives.
        """

    def notes(self, base: Base) -> list[str]:
        """Sentences on what of the base the method leaves as it is, though one would expect it to learn."""
        return []

    def as_saved(self, base: Base, folder: Path) -> Method:
        """The method that left the adapter in `folder`, where the settings leave open what the adapter says."""
        return self


class Attached(ABC):
    """A method on a base. `model` is the fork that is trained; it requires gradients for exactly the trained tensors.

    `starts_at_base` says whether the untrained method is the base bit for bit (a concatenated prefix is not).
    """

    base: Base
    model: nn.Module
    starts_at_base: bool = True

    def train_(self, *, train_batch_norm: bool = False) -> None:
        """Put `model` into training mode, all that runs before the clean cut into eval mode: its output is then the same at
        every step, computed or read from a cache. Batch norms stay in eval mode (with the base's statistics) unless
        `train_batch_norm`, those before the cut always. One probe forward; the modes last until they are changed.
        """
        train_behind_prefix_(self.model, self.base.anatomy)
        if not train_batch_norm:
            batch_norms_to_eval_(self.model)

    def domain_weights(self) -> dict[str, float]:
        """The learned weight in [0, 1] of each domain that has one, the largest 1; it multiplies the strength."""
        return {}

    def set_domain_weights_(self, weights: Mapping[str, float]) -> None:
        """Take over what `domain_weights` returned; only for a method attached with these domains.

        Raises:
            MethodError: the method knows no such domains.
        """
        if weights:
            raise MethodError(f"has no weights for the domains {', '.join(weights)}.")

    @contextmanager
    def in_domain(self, name: str | None) -> Iterator[nn.Module]:
        """`model` at the weight of a domain (1 for None and unknown ones) while the context lasts, gradients included."""
        yield self.model

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


def lerp_parameters(start: Mapping[str, Tensor], end: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """W(s) on the line from `start` to `end`, by `torch.lerp`, which is exact at both ends. The results own their storage."""
    return {name: torch.lerp(start[name].detach(), tensor.detach(), strength) for name, tensor in end.items()}


def batch_norms_to_eval_(model: nn.Module) -> None:
    """Let batch norms use, and keep, the statistics that they hold."""
    for module in batch_norms(model).values():
        module.eval()


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Batch norms that keep running statistics, by path."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return {path: m for path, m in model.named_modules() if isinstance(m, kinds) and m.track_running_stats}


def mend_batch_norm_(model: nn.Module) -> None:
    """Bring the gradient that reaches each BatchNorm2d into its output's memory layout; the forward's bits do not change.

    On the CPU the backward of a batch of one is wrong where one of input and gradient is channels-last and the other is not:
    with a batch of one a tensor can be both, and the kernel asks each for a layout of its own.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_hook_gradient)


def _hook_gradient(module: nn.Module, inputs: Any, output: Tensor) -> None:
    # No closure over the module: it would still point at the original after a deepcopy.
    if output.requires_grad and output.device.type == "cpu":
        output.register_hook(functools.partial(_lay_out, output.stride()))


def _lay_out(stride: tuple[int, ...], gradient: Tensor) -> Tensor:
    if gradient.stride() == stride:
        return gradient
    return gradient.new_empty_strided(gradient.shape, stride).copy_(gradient)
