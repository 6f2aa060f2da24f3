"""What is known of a training: after a step, after an epoch and at its end, with what a checkpoint holds; which epoch is the best, and
the mean of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from domaintune.settings import AskedPrecision, Precision

VALIDATIONS = 10
"""At most so many a training without a patience, evenly spread and one after the last epoch: small sets take many short epochs."""


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


@dataclass(kw_only=True)
class State:
    """Every number that a checkpoint holds. `position` steps of `epoch` are done."""

    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    rollbacks: int = 0
    best_epoch: int = -1
    averaged_epochs: int = 0
    stopped_early: bool = False
    finished: bool = False
    asked: AskedPrecision = "fp32"
    """As narrowed where the training began: on another processor it goes on in the same precision."""
    trial: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of a first step in fp32 and in bf16, while precisions are on trial."""
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """Weights and moments between two steps. The name stands for them: no two different ones of a training share it."""

    name: str
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Training:
    """What `train` did. `best_epoch` is the one whose weights the model holds, -1 where none was trained; `steps` are those that
    count, without what was rolled back. `states` give the weights after each epoch that was judged, as `Attached.state` does, where
    asked for: read from the checkpoint folder, which must still be there, where there is one; `averaged` is the mean of those of the
    last `averaged_epochs`, which the model does not hold, where the settings ask for it and training came past the first half of its schedule. `precision` is that of every step.
    Source of averaging late epochs: stochastic weight averaging, arXiv 1803.05407. Differs: the schedule is the usual one."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    rollbacks: int
    stopped_early: bool
    states: Mapping[int, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict)
    averaged: Mapping[str, Tensor] | None = None
    averaged_epochs: int = 0
    precision: Precision = "fp32"


def judged(epochs: int, *, patience: int | None) -> list[int]:
    """The epochs, of so many, that may be the best one, where there is a dev part to score after them: all with a patience, else at most
    `VALIDATIONS`."""
    every = 1 if patience is not None else math.ceil(epochs / VALIDATIONS)
    return [epoch for epoch in range(epochs) if (epochs - 1 - epoch) % every == 0]


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
