"""Epochs of a training: what is known of one, which is the best, and the mean of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch: the mean of its steps' losses, what `validate` returned after it (None without one), and the wall-clock
    time of its steps and validation, over all processes that took part."""

    index: int
    train_loss: float
    score: float | None
    seconds: float

    def plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def better(score: float | None, best: float | None) -> bool:
    """Whether an epoch's score is the best so far; without scores, and of equal ones, the later epoch's is. NaN beats only NaN.

    Small dev parts tie often; the later epoch has trained longer at a lower learning rate."""
    if score is None or best is None:
        return True
    return score >= best or math.isnan(best)


def averaged(mean: Mapping[str, Tensor], new: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """mean + share (new - mean), in float32 at least; integers (counts of batches) are the new ones."""
    made = {}
    for name, tensor in new.items():
        if not tensor.is_floating_point():
            made[name] = tensor
            continue
        kind = torch.promote_types(tensor.dtype, torch.float32)
        made[name] = torch.lerp(mean.get(name, tensor).to(kind), tensor.to(kind), share)
    return made
