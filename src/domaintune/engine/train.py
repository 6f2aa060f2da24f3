"""The training loop: epochs of steps, exact under resuming, with early stopping, the best epoch's weights, and rollback.

Knows tasks, methods and data only through their protocols. A step is a function of the weights, the moments and its number.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from domaintune.bases.base import Base
from domaintune.bases.device_memory import within_memory
from domaintune.data.batches import plan, steps_in_epoch
from domaintune.engine.checkpoint import CheckpointFolder
from domaintune.engine.epochs import Epoch, Progress, Snapshot, State, Training, averaged, better, judged
from domaintune.engine.gradient import Pull, StepGradient, accelerator
from domaintune.engine.interrupts import Interrupts
from domaintune.engine.layer_decay import decayed_groups
from domaintune.engine.optimizer import Optimizer, schedule_factor
from domaintune.engine.precision import TRIAL, Bf16Error, faster, narrowed, timed
from domaintune.errors import CheckpointError, TrainingError
from domaintune.methods.base import Attached, batch_norms_to_eval_
from domaintune.recipe import TrainingSettings
from domaintune.settings import Precision
from domaintune.tasks.base import Dataset, Task

MAX_ROLLBACKS = 3


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

    `settings` has its epochs written out; without a micro-batch budget a step is one forward. `validate` scores the model in eval
    mode after the epochs that `judged` names: higher is better, ties take the later epoch; without it
    the last counts. `stop_after` ends training after so many epochs of the schedule. `folder` takes checkpoints: one that is there
    is resumed, or taken as it is where finished. `fingerprint`: what else must be the same. The global random state is kept.

    Raises:
        TrainingError: no items, or a loss or gradient that is still not finite after three rollbacks to the epoch's start,
            each of which halves the learning rate; or a step that does not run in the precision that was asked for.
        DeviceMemoryError: the device's memory does not hold a micro-batch.
        RunError: the checkpoint in `folder` belongs to another training, is damaged, or of a precision that is not for this processor.
        KeyboardInterrupt: once the step under way is done and a checkpoint saved.
    """
    planned = settings.epochs
    assert planned is not None, "the caller writes the number of epochs out"
    if planned and not data.items:
        raise TrainingError("there is nothing to train on.", where="train", remedy="Give rows.")
    device = next(attached.model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), Interrupts() as interrupts:
        groups = decayed_groups(attached, settings.layer_decay)
        loop = _Loop(
            attached=attached,
            data=data,
            settings=settings,
            costs=[task.cost(item) for item in data.items],
            seed=seed,
            planned_epochs=planned,
            epochs=planned if stop_after is None else min(stop_after, planned),
            gradient=StepGradient(
                task, base, attached, data, seed, tuple(pulls), accelerator(), consistency=settings.consistency
            ),
            optimizer=Optimizer(groups, learning_rate=learning_rate, weight_decay=settings.weight_decay),
            validate=validate,
            folder=None if folder is None else CheckpointFolder(folder),
            on_progress=on_progress,
            keep_epochs=keep_epochs,
            caller=fingerprint,
            interrupts=interrupts,
            device=device,
        )
        with within_memory("training.micro_batch_budget", settings.micro_batch_budget):
            return loop.run()


@dataclass(kw_only=True)
class _Loop:
    attached: Attached
    data: Dataset
    settings: TrainingSettings
    costs: list[int]
    seed: int
    planned_epochs: int
    """Of the schedule; training ends after `epochs`."""
    epochs: int
    gradient: StepGradient
    optimizer: Optimizer
    validate: Callable[[], float] | None
    folder: CheckpointFolder | None
    on_progress: Callable[[Progress], None] | None
    keep_epochs: bool
    caller: str
    interrupts: Interrupts
    device: torch.device

    def __post_init__(self) -> None:
        self.rows = self.data.rows()
        self.steps_in_epoch = steps_in_epoch(len(self.rows), batch_size=self.settings.batch_size)
        self.total_steps = self.planned_epochs * self.steps_in_epoch
        asked = self.settings.precision
        self.state = State(asked=narrowed(asked, self.device, steps=self.total_steps, in_epoch=self.steps_in_epoch))
        # Weights by epoch, with the name of their snapshot: the best epoch's, or all judged ones' where they are kept.
        self.kept: dict[int, tuple[str, Mapping[str, Tensor]]] = {}
        self.mean: tuple[str, Mapping[str, Tensor]] | None = None
        self.began = self.saved = time.monotonic()
        self.steps_here = 0

    def run(self) -> Training:
        if self.folder is not None and self.folder.exists():
            self._restore_(self.folder)
        else:
            self.start = self._snapshot()  # of the epoch under way: where a rollback goes
        try:
            while self.state.epoch < self.epochs and not self.state.stopped_early:
                self._run_epoch_()
        except KeyboardInterrupt:
            if self.interrupts.consistent:
                self.interrupts.consistent = False
                self._save()
            raise
        return self._finish_()

    @property
    def step(self) -> int:
        """Steps done, without those rolled back."""
        return self.state.epoch * self.steps_in_epoch + self.state.position

    def factor(self) -> float:
        """What multiplies the learning rate in the next step."""
        kind, warmup = self.settings.schedule, self.settings.warmup
        scheduled = schedule_factor(kind, self.step, total_steps=self.total_steps, warmup=warmup)
        return float(scheduled * 0.5**self.state.rollbacks)

    def _run_epoch_(self) -> None:
        """The rest of the epoch under way; returns early, at its start, after a rollback or where a trial has decided for bf16."""
        steps = plan(
            self.costs, batch_size=self.settings.batch_size, budget=self.settings.micro_batch_budget, seed=self.seed,
            epoch=self.state.epoch, groups=self.gradient.domains, rows=self.rows,
        )  # fmt: skip
        self.attached.train_(train_batch_norm=self.settings.train_batch_norm)
        while self.state.position < len(steps):
            began = time.monotonic()
            on_trial, step = self.on_trial, steps[self.state.position]
            with timed(self.device) as seconds:
                losses = self.gradient.accumulate_(
                    step, epoch=self.state.epoch, step=self.step, precision=self.precision
                )
            norm = torch.as_tensor(
                self.gradient.accelerator.clip_grad_norm_(self.optimizer.parameters, self.settings.max_gradient_norm)
            )
            parts = [float(loss) for loss in losses]
            loss = sum(parts)
            if not (math.isfinite(loss) and math.isfinite(float(norm))):
                self._roll_back_(step, parts)
                return
            factor = self.factor()
            self.optimizer.step_(factor)
            if on_trial:
                self._try_bf16_(step, seconds[0])
                if self.precision == "bf16":
                    self.state.rollbacks = 0  # the steps in fp32 never were, nor what went wrong in them
                    self._restart_epoch_()
                    return
            self.state.position += 1
            self.state.loss_sum += loss
            self.state.seconds += time.monotonic() - began
            self._after_step(loss, self.optimizer.learning_rate * factor)
        self._close_epoch_()

    @property
    def on_trial(self) -> bool:
        """Whether the next step, which is one in fp32, is to be timed in both precisions."""
        return self.state.asked == "auto" and len(self.state.trial) < TRIAL

    @property
    def precision(self) -> Precision:
        """Of the next step."""
        if self.state.asked != "auto":
            return self.state.asked
        return "fp32" if self.on_trial else faster(*zip(*self.state.trial, strict=True))

    def _try_bf16_(self, step: Sequence[Sequence[int]], fp32: float) -> None:
        """Keep the seconds of a step on trial, with those that its gradient takes in bf16; nothing is learned from that one, which is
        computed twice: the first time includes what a new shape costs in bf16 (a tenth of it or more), which few later steps do. Where it
        does not run in bf16, it took infinitely many."""
        batch_norms_to_eval_(self.attached.model)
        seconds = math.inf
        with suppress(Bf16Error):
            for _ in range(2):
                with timed(self.device) as bf16:
                    self.gradient.accumulate_(step, epoch=self.state.epoch, step=self.step, precision="bf16")
                self.optimizer.clear_()
            seconds = bf16[0]
        self.optimizer.clear_()
        self.attached.train_(train_batch_norm=self.settings.train_batch_norm)
        self.state.trial.append((fp32, seconds))

    @property
    def is_judged(self) -> bool:
        """Whether the epoch under way may be the best one: dev is scored after it, where there is any."""
        return self.validate is None or self.state.epoch in judged(self.epochs, patience=self.settings.patience)

    def _after_step(self, loss: float, learning_rate: float) -> None:
        self.steps_here += 1
        if time.monotonic() - self.saved >= self.settings.checkpoint_every_seconds:
            self._save()
        with self.interrupts.allowed():
            if self.on_progress is not None:
                total = self.epochs * self.steps_in_epoch
                pace = (time.monotonic() - self.began) / self.steps_here
                left = pace * (total - self.step)
                self.on_progress(Progress(self.step, total, self.state.epoch, loss, learning_rate, left))

    def _close_epoch_(self) -> None:
        state = self.state
        self.attached.model.eval()
        began = time.monotonic()
        score = None
        is_judged = self.is_judged
        if self.validate is not None and is_judged:
            sixteen_bits = self.precision == "bf16"
            with self.interrupts.allowed(), torch.autocast(self.device.type, torch.bfloat16, enabled=sixteen_bits):
                score = float(self.validate())
        seconds = state.seconds + time.monotonic() - began
        state.history.append(Epoch(state.epoch, state.loss_sum / self.steps_in_epoch, score, seconds))
        self.start = self._snapshot()
        if is_judged and (state.best_epoch < 0 or better(score, state.history[state.best_epoch].score)):
            if not self.keep_epochs:
                self.kept.clear()
            state.best_epoch = state.epoch
        if is_judged and (self.keep_epochs or state.best_epoch == state.epoch):
            self.kept[state.epoch] = (self.start.name, self.start.weights)
        if self.settings.weights == "averaged" and state.epoch >= self.planned_epochs // 2:
            state.averaged_epochs += 1
            before = self.start.weights if self.mean is None else self.mean[1]
            self.mean = f"{self.start.name}-mean", averaged(before, self.start.weights, 1 / state.averaged_epochs)
        waited = state.epoch - state.best_epoch
        state.epoch, state.position, state.loss_sum, state.seconds = state.epoch + 1, 0, 0.0, 0.0
        patience = self.settings.patience
        state.stopped_early = patience is not None and waited >= patience and state.epoch < self.epochs
        if state.epoch < self.epochs and not state.stopped_early:
            self._save()

    def _roll_back_(self, micro_batches: Sequence[Sequence[int]], losses: Sequence[float]) -> None:
        """Back to the start of the epoch, with half the learning rate from now on."""
        self.optimizer.clear_()
        if self.state.rollbacks == MAX_ROLLBACKS:
            bad = [i for i, loss in zip(micro_batches, losses, strict=False) if not math.isfinite(loss)]
            raise TrainingError(
                f"the loss or its gradient is not finite in step {self.step + 1}, after {MAX_ROLLBACKS} rollbacks that"
                " each halved the learning rate.",
                where=self.data.where([i for positions in bad or micro_batches for i in positions]),
                remedy="Lower training.learning_rate, and look at these rows.",
            )
        self.state.rollbacks += 1
        self._restart_epoch_()

    def _restart_epoch_(self) -> None:
        self.state.position, self.state.loss_sum = 0, 0.0
        self.attached.load_(self.start.weights)
        self.optimizer.load_(self.start.moments)
        self._save()  # else a process killed soon enough each time would come back here for ever

    def _finish_(self) -> Training:
        state = self.state
        if state.best_epoch >= 0:
            self.attached.load_(self.kept[state.best_epoch][1])
        self.attached.model.eval()
        if not state.finished:
            state.finished = True
            self._save()
        return Training(
            epochs=tuple(state.history),
            best_epoch=state.best_epoch,
            steps=self.step,
            rollbacks=state.rollbacks,
            stopped_early=state.stopped_early,
            states=self._states() if self.keep_epochs else {},
            averaged=None if self.mean is None else self.mean[1],
            averaged_epochs=state.averaged_epochs,
            precision=self.precision,
        )

    def _states(self) -> dict[int, Callable[[], Mapping[str, Tensor]]]:
        """From the finished checkpoint, so that memory need not hold them."""
        if self.folder is None:
            return {epoch: partial(dict, weights) for epoch, (_, weights) in self.kept.items()}
        return {epoch: partial(self.folder.read_tensors, f"weights-{name}") for epoch, (name, _) in self.kept.items()}

    def _snapshot(self) -> Snapshot:
        name = f"{self.state.rollbacks}-{self.step:08d}"
        return Snapshot(name, self.attached.state(), self.optimizer.state())

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be resumed."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude={"checkpoint_every_seconds"}),
            "learning_rate": self.optimizer.learning_rate,
            "seed": self.seed,
            "epochs": self.epochs,
            "keep_epochs": self.keep_epochs,
            "validation": self.validate is not None,
            "items": len(self.costs),
            "costs": hashlib.sha256(repr(self.costs).encode()).hexdigest(),
            # None where every row is one item.
            "rows": None if len(self.rows) == len(self.costs) else hashlib.sha256(repr(self.rows).encode()).hexdigest(),
            "domains": hashlib.sha256(repr(self.gradient.domains).encode()).hexdigest(),
            "parameters": self.optimizer.layout(),
            "caller": self.caller,
        }

    def _save(self) -> None:
        """Write a checkpoint, where there is a folder. Weights and moments are files of their own, so that the best epoch, the
        epoch's start and the present share theirs where they are the same; a finished training needs no moments."""
        if self.folder is None:
            return
        held = [*self.kept.values(), *([] if self.mean is None else [self.mean])]
        files = {f"weights-{name}": weights for name, weights in held}
        names = {
            "kept": {str(epoch): name for epoch, (name, _) in self.kept.items()},
            "mean": self.mean and self.mean[0],
        }
        scalars: dict[str, Any] = {"state": asdict(self.state), "snapshots": names}
        if not self.state.finished:
            present = self._snapshot() if self.state.position else self.start
            scalars |= {"present": present.name, "start": self.start.name}
            for snapshot in (self.start, present):
                files |= {f"weights-{snapshot.name}": snapshot.weights, f"moments-{snapshot.name}": snapshot.moments}
        self.folder.write(scalars, files, fingerprint=self.fingerprint())
        self.saved = time.monotonic()

    def _restore_(self, folder: CheckpointFolder) -> None:
        scalars = folder.read(fingerprint=self.fingerprint())
        history = [Epoch(**epoch) for epoch in scalars["state"].pop("history")]
        here = self.state.asked
        self.state = State(**{"asked": here, **scalars["state"]}, history=history)
        if self.on_trial:  # of which this processor may be spared the rest; what is decided stays as it is
            self.state.asked = here
        if here == "fp32" and self.precision == "bf16" and not self.state.finished:
            raise CheckpointError(
                "is of a training in bf16, in which this processor cannot multiply.",
                where=str(folder.path),
                remedy="Go on with it on one that can, or add --overwrite to begin anew.",
            )
        kept = scalars["snapshots"]["kept"]
        self.kept = {int(epoch): (name, folder.read_tensors(f"weights-{name}")) for epoch, name in kept.items()}
        mean = scalars["snapshots"]["mean"]
        self.mean = None if mean is None else (mean, folder.read_tensors(f"weights-{mean}"))
        if self.state.finished:
            return
        names = (scalars["start"], scalars["present"])
        self.start, present = (
            Snapshot(name, folder.read_tensors(f"weights-{name}"), folder.read_tensors(f"moments-{name}"))
            for name in names
        )
        self.attached.load_(present.weights)
        self.optimizer.load_(present.moments)
