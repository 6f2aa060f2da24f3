"""How fast and how large a training will be, measured on a few of its own steps; nothing is learned."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch

from domaintune.bases.base import Base
from domaintune.bases.device_memory import within_memory
from domaintune.data.batches import plan, steps_in_epoch
from domaintune.engine.gradient import StepGradient, accelerator
from domaintune.engine.precision import WARM_UP, Bf16Error, faster, narrowed
from domaintune.methods.base import Attached
from domaintune.provenance import peak_memory
from domaintune.recipe import TrainingSettings
from domaintune.settings import AskedPrecision, Precision
from domaintune.tasks.base import Dataset, Task

STEPS = 3
RUNS: dict[Precision, int] = {"fp32": 1, "bf16": 2}
"""Of a step, the last of them timed: what a new shape costs in bf16 does not count, as in training."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that one unit of cost (a token or pixel) takes in training, and the peak memory in bytes that training comes to: the
    process's after these steps, and what is kept from one to the next."""

    seconds_per_cost: float
    peak_memory: int


def peak_of_training() -> int:
    """In bytes, of this process so far; on a GPU of its allocator."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu or peak_memory()


def kept_in_training(attached: Attached, settings: TrainingSettings) -> int:
    """Bytes that training keeps beside the weights: AdamW's two moments of each trained one; in the computer's own memory also weights
    and moments at the epoch's start, the best epoch's weights and the mean of the late ones."""
    parameters = [p for group in attached.parameter_groups() for p in group.parameters]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    moments = 2 * weights
    if any(p.device.type != "cpu" for p in parameters):
        return moments
    return moments + (weights + moments) + weights + (weights if settings.weights == "averaged" else 0)


def pace(attached: Attached, task: Task, base: Base, data: Dataset, settings: TrainingSettings, *, seed: int) -> Pace:
    """Forward and backward of the dearest step of the first epoch and of a few others, in the precision that training would come to;
    the first one warms up and is not timed. `settings` has its epochs written out.

    Gradients are dropped; weights, modes and torch's random state are as before.
    """
    budget, batch_size = settings.micro_batch_budget, settings.batch_size
    steps, costs = _chosen(task, data, batch_size=batch_size, budget=budget, seed=seed)
    in_epoch = steps_in_epoch(len(data.rows()), batch_size=batch_size)
    asked = narrowed(settings.precision, base.device, steps=(settings.epochs or 0) * in_epoch, in_epoch=in_epoch)
    gradient = StepGradient(
        task, base, attached, data, seed=seed, pulls=(), accelerator=accelerator(), consistency=settings.consistency
    )
    kinds: tuple[Precision, ...] = ("fp32", "bf16") if asked == "auto" else (asked,)
    with within_memory("training.micro_batch_budget", budget):
        seconds = {kind: [_timed(gradient, attached, step, costs, kind, asked) for step in steps] for kind in kinds}
    attached.model.eval()
    kind = faster(seconds["fp32"], seconds["bf16"]) if asked == "auto" else asked
    return Pace(statistics.median(seconds[kind][WARM_UP:]), peak_of_training() + kept_in_training(attached, settings))


def _chosen(
    task: Task, data: Dataset, *, batch_size: int, budget: int | None, seed: int
) -> tuple[list[list[list[int]]], list[int]]:
    """The dearest step of the first epoch and a few others, and what every item costs."""
    costs = [task.cost(item) for item in data.items]
    steps = plan(costs, batch_size=batch_size, budget=budget, seed=seed, epoch=0, rows=data.rows())
    steps.sort(key=lambda step: -sum(costs[i] for part in step for i in part))
    return [steps[0], *(steps[(2 * n + 1) * len(steps) // (2 * STEPS)] for n in range(STEPS))], costs


def _timed(
    gradient: StepGradient,
    attached: Attached,
    step: Sequence[Sequence[int]],
    costs: Sequence[int],
    precision: Precision,
    asked: AskedPrecision,
) -> float:
    """Seconds that a unit of cost takes; infinitely many in a precision that the base does not compute in and nobody asked for."""
    device = next(attached.model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        attached.train_()
        for _ in range(RUNS[precision]):
            began, seconds = time.perf_counter(), math.inf
            with suppress(Bf16Error) if asked == "auto" else nullcontext():
                gradient.accumulate_(step, epoch=0, step=0, precision=precision)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = time.perf_counter() - began
    for group in attached.parameter_groups():
        for parameter in group.parameters:
            parameter.grad = None
    return seconds / max(1, sum(costs[i] for part in step for i in part))
