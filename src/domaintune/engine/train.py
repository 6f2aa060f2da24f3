"""The only backward: one loop over plans of micro-batches, exact under resuming, with early stopping and rollback.

Knows tasks, methods and data only through their protocols. Everything random comes from (seed, step, micro-batch) or (seed, epoch,
item), so no random state is ever saved: a step is a function of the weights, the moments and its number.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.bases.base import Base
from domaintune.data.batches import plan, steps_in_epoch
from domaintune.engine.checkpoint import CheckpointFolder
from domaintune.engine.interrupts import Interrupts
from domaintune.engine.optimizer import Optimizer, schedule_factor
from domaintune.errors import TrainingError
from domaintune.methods.base import Attached, train_mode_
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import Batch, Dataset, Item, Task

MAX_ROLLBACKS = 3
ROWS_NAMED = 5
# What a random stream is for: the first number of its seed.
STREAMS = {"step": 0, "augment": 1, "pull": 2}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step. `step` counts from 1, `epoch` from 0; `seconds_left` includes validation so far as it
    is known from this process's own pace."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch: the mean of its steps' losses, what `validate` returned after it, and its wall-clock time, that of
    earlier processes included and of rolled back steps not."""

    index: int
    train_loss: float
    score: float | None
    seconds: float

    def plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Training:
    """What `train` did. `best_epoch` is the one whose weights the model holds, -1 where none was trained; `states` are the
    weights after every epoch, as `Attached.state` gives them, where they were asked for."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    rollbacks: int
    stopped_early: bool
    states: tuple[Mapping[str, Tensor], ...] = ()


class Pull(Protocol):
    """Something that adds a loss of its own to every step, from its own batches (towards the base, for one)."""

    def terms(self, model: nn.Module, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Sum and units of each term at `step`; the loss is the sum over terms of sum / units. Torch's global generator has been
        seeded for this step; a pull keeps no random state of its own."""


def train(
    attached: Attached,
    task: Task,
    base: Base,
    data: Dataset,
    settings: TrainingSettings,
    *,
    learning_rate: float,
    seed: int,
    validate: Callable[[], float] | None,
    folder: Path | None,
    pulls: Sequence[Pull] = (),
    on_progress: Callable[[Progress], None] | None = None,
    keep_epochs: bool = False,
    stop_after: int | None = None,
    fingerprint: str = "",
) -> Training:
    """Train in place. Afterwards the model is in eval mode and holds the weights of the epoch that `validate` liked best.

    `validate` returns a score of the model in eval mode, higher is better, ties keep the earlier epoch; without it the last
    epoch counts. `stop_after` ends training after that many epochs under the schedule of all. `folder` takes checkpoints; one
    that is there already is resumed, or, where it is finished, taken as it is. `fingerprint` stands for whatever else must be
    the same on resuming. The gradient of a step is that of the sum over terms of S / U, U the units of the whole step, however
    it is split into micro-batches. Torch's global random state is the caller's own again afterwards.

    Raises:
        TrainingError: no items, or a loss or gradient that is still not finite after three rollbacks to the epoch's start, each
            of which halves the learning rate.
        RunError: the checkpoint in `folder` belongs to another training, with what differs.
        KeyboardInterrupt: after saving a checkpoint at the end of the step.
    """
    if settings.epochs and not data.items:
        raise TrainingError("there is nothing to train on.", where="train", remedy="Give rows.")
    device = next(attached.model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), Interrupts() as interrupts:
        loop = _Loop(
            attached, task, base, data, settings, optimizer=_optimizer(attached, settings, learning_rate), seed=seed,
            validate=validate, checkpoints=None if folder is None else CheckpointFolder(folder), pulls=tuple(pulls),
            on_progress=on_progress, keep_epochs=keep_epochs, fingerprint=fingerprint, interrupts=interrupts,
            epochs=settings.epochs if stop_after is None else min(stop_after, settings.epochs),
        )  # fmt: skip
        return loop.run()


def _optimizer(attached: Attached, settings: TrainingSettings, learning_rate: float) -> Optimizer:
    return Optimizer(attached.parameter_groups(), learning_rate=learning_rate, weight_decay=settings.weight_decay)


@dataclass
class _State:
    """Every number that a checkpoint holds. `position` steps of `epoch` are done."""

    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    rollbacks: int = 0
    best_epoch: int = -1
    stopped_early: bool = False
    finished: bool = False
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class _Snapshot:
    """Weights and moments between two steps. The name stands for them: no two different ones of a training share it."""

    name: str
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]


class _Loop:
    """The state of one call of `train`."""

    def __init__(
        self,
        attached: Attached,
        task: Task,
        base: Base,
        data: Dataset,
        settings: TrainingSettings,
        *,
        optimizer: Optimizer,
        seed: int,
        epochs: int,
        validate: Callable[[], float] | None,
        checkpoints: CheckpointFolder | None,
        pulls: Sequence[Pull],
        on_progress: Callable[[Progress], None] | None,
        keep_epochs: bool,
        fingerprint: str,
        interrupts: Interrupts,
    ) -> None:
        self.attached, self.task, self.base, self.data, self.settings = attached, task, base, data, settings
        self.optimizer, self.seed, self.epochs, self.validate = optimizer, seed, epochs, validate
        self.checkpoints, self.pulls, self.on_progress = checkpoints, pulls, on_progress
        self.keep_epochs, self.interrupts = keep_epochs, interrupts
        self.model = attached.model
        self.device = next(attached.model.parameters()).device
        self.accelerator = _accelerator()
        self.costs = [task.cost(item) for item in data.items]
        self.augments = type(task).augment is not Task.augment
        self.steps_in_epoch = steps_in_epoch(len(data.items), batch_size=settings.batch_size)
        self.fingerprint = {
            "settings": settings.model_dump(mode="json", exclude={"checkpoint_every_seconds"}),
            "learning_rate": learning_rate_of(optimizer),
            "seed": seed, "epochs": epochs, "keep_epochs": keep_epochs, "validates": validate is not None,
            "data": {"items": len(self.costs), "costs": hashlib.sha256(repr(self.costs).encode()).hexdigest()},
            "parameters": optimizer.layout(), "caller": fingerprint,
        }  # fmt: skip
        self.state = _State()
        self.kept: dict[int, tuple[str, Mapping[str, Tensor]]] = {}  # epoch -> snapshot name and weights
        self.start = _Snapshot("", {}, {})  # of the epoch in progress: where a rollback goes
        self.began = self.saved = time.monotonic()
        self.done_here = 0
