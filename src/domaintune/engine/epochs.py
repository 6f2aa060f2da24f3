"""What is known of a training: of a step under way, of an epoch, and of the whole; which epoch is the best, and the mean of several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from domaintune.settings import Precision


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch: the mean of its steps' losses, what `validate` returned after it (None where it was not called), and the
    wall-clock time of its steps and validation, over all processes that took part."""

    index: int
    train_loss: float
    score: float | None
    seconds: float

    def plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step. `step` counts from 1, `epoch` from 0; `seconds_left` is what remains at this process's
    mean pace so far, validation and checkpoints included. `score` is for callers that pass on what validation gave."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    learning_rate: float
    seconds_left: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """What `train` did. `best_epoch` is the one whose weights the model holds, -1 where none was trained; `steps` are those that
    count, without what was rolled back. `states` are the weights after every epoch, as `Attached.state` gives them, where
    asked for; `averaged` is the mean of those of the last `averaged_epochs`, which the model does not hold, where the settings ask for
    it and training came past the first half of its schedule. `precision` is that of every step.
    Source of averaging late epochs: stochastic weight averaging, arXiv 1803.05407. Differs: the schedule is the usual one."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    rollbacks: int
    stopped_early: bool
    states: tuple[Mapping[str, Tensor], ...] = ()
    averaged: Mapping[str, Tensor] | None = None
    averaged_epochs: int = 0
    precision: Precision = "fp32"


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
