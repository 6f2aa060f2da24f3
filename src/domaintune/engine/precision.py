"""The precision of a training's steps: as asked for, or what pays on this machine, found out on the training's own first steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from domaintune.settings import AskedPrecision, Precision

PAYS = 1.3
"""bf16 must be so many times as fast as fp32 to be chosen: its rounding is not free."""
FEWEST_STEPS = 200
"""Of a training, for its precision to be worth a trial."""
TRIAL, WARM_UP = 18, 2
"""So many first steps alternate; the first of each precision are not counted."""
KINDS: tuple[Precision, Precision] = ("fp32", "bf16")


def narrowed(asked: AskedPrecision, device: torch.device, *, steps: int) -> AskedPrecision:
    """fp32 in the place of "auto" in short trainings, and on processors that cannot multiply in bf16."""
    if asked != "auto":
        return asked
    able = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "auto" if able and steps >= FEWEST_STEPS else "fp32"


def precision_of(asked: AskedPrecision, trial: Sequence[float]) -> Precision:
    """Of the next step, where the first ones took `trial` seconds a unit of cost. With "auto" these alternate, beginning in fp32;
    then the median of either decides."""
    if asked != "auto":
        return asked
    if len(trial) < TRIAL:
        return KINDS[len(trial) % 2]
    fp32, bf16 = (statistics.median(trial[WARM_UP + kind : TRIAL : 2]) for kind in range(2))
    return "bf16" if fp32 >= PAYS * bf16 else "fp32"


@contextmanager
def timed(device: torch.device) -> Iterator[list[float]]:
    """Seconds of the block, given afterwards. On a CPU the processor's time counts, which other programs disturb less."""
    made: list[float] = []
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    yield made
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    made.append(clock() - began)
