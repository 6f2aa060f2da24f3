"""How fast and how large a training will be, measured on a few of its own steps; nothing is learned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from domaintune.bases.base import Base
from domaintune.data.batches import plan
from domaintune.engine.gradient import StepGradient, accelerator
from domaintune.methods.base import Attached
from domaintune.run import peak_memory
from domaintune.settings import Precision
from domaintune.tasks.base import Dataset, Task

STEPS = 3
PAYS = 1.3
"""bf16 must be so many times as fast as fp32 to be chosen: its rounding is not free."""
FEWEST_STEPS = 200
"""Of a training, for its precision to be worth measuring."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that one unit of cost (a token or pixel) takes in training, and the process's peak memory in bytes afterwards."""

    seconds_per_cost: float
    peak_memory: int


def peak_of_training() -> int:
    """In bytes, of this process so far; on a GPU of its allocator."""
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return on_gpu or peak_memory()


def pace(
    attached: Attached,
    task: Task,
    base: Base,
    data: Dataset,
    *,
    batch_size: int,
    budget: int | None,
    precision: Precision,
    seed: int,
) -> Pace:
    """Forward and backward of the dearest step of the first epoch and of a few others; the first one warms up and is not timed.

    Gradients are dropped; weights, modes and torch's random state are as before.
    """
    steps, costs = _chosen(task, data, batch_size=batch_size, budget=budget, seed=seed)
    gradient = StepGradient(
        task, base, attached, data, seed=seed, pulls=(), sixteen_bits=precision == "bf16", accelerator=accelerator()
    )
    times = [_timed(gradient, attached, step, costs, time.perf_counter) for step in steps]
    attached.model.eval()
    return Pace(statistics.median(times[1:]), peak_of_training())


def _chosen(
    task: Task, data: Dataset, *, batch_size: int, budget: int | None, seed: int
) -> tuple[list[list[list[int]]], list[int]]:
    """The dearest step of the first epoch and a few others, and what every item costs."""
    costs = [task.cost(item) for item in data.items]
    steps = plan(costs, batch_size=batch_size, budget=budget, seed=seed, epoch=0)
    steps.sort(key=lambda step: -sum(costs[i] for part in step for i in part))
    return [steps[0], *(steps[(2 * n + 1) * len(steps) // (2 * STEPS)] for n in range(STEPS))], costs


def _timed(
    gradient: StepGradient,
    attached: Attached,
    step: Sequence[Sequence[int]],
    costs: Sequence[int],
    clock: Callable[[], float],
) -> float:
    device = next(attached.model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        attached.train_()
        began = clock()
        gradient.accumulate_(step, epoch=0, step=0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = clock() - began
    for group in attached.parameter_groups():
        for parameter in group.parameters:
            parameter.grad = None
    return seconds / max(1, sum(costs[i] for part in step for i in part))


def faster_precision(
    attached: Attached, task: Task, base: Base, data: Dataset, *, batch_size: int, budget: int | None, seed: int
) -> Precision:
    """fp32, or bf16 where its steps take 1.3 times less in alternating measurements (the median of three pairs). On a CPU the
    processor's time counts, which other programs disturb less."""
    if base.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "fp32"
    kinds: tuple[Precision, Precision] = ("fp32", "bf16")
    steps, costs = _chosen(task, data, batch_size=batch_size, budget=budget, seed=seed)
    clock = time.process_time if base.device.type == "cpu" else time.perf_counter
    gradients = {
        kind: StepGradient(
            task, base, attached, data, seed=seed, pulls=(), sixteen_bits=kind == "bf16", accelerator=accelerator()
        )
        for kind in kinds
    }
    for kind in kinds:  # the first forward allocates
        _timed(gradients[kind], attached, steps[-1], costs, clock)
    ratios = []
    for number, step in enumerate(steps[1:]):
        order = kinds if number % 2 == 0 else kinds[::-1]
        made = {kind: _timed(gradients[kind], attached, step, costs, clock) for kind in order}
        ratios.append(made["fp32"] / max(made["bf16"], 1e-9))
    attached.model.eval()
    return "bf16" if statistics.median(ratios) >= PAYS else "fp32"
