"""The precision of a training's steps: as asked for, or what pays on this machine, found out on the training's own first steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from domaintune.bases.device_memory import is_full
from domaintune.errors import TrainingError
from domaintune.settings import AskedPrecision, Precision

PAYS = 1.3
"""bf16 must be so many times as fast as fp32 to be chosen: its rounding is not free."""
FEWEST_STEPS = 200
"""Of a training, for its precision to be worth a trial."""
TRIAL, WARM_UP = 6, 1
"""So many first steps are timed in both precisions; the first of them warms up and does not count."""


def narrowed(asked: AskedPrecision, device: torch.device, *, steps: int, in_epoch: int) -> AskedPrecision:
    """fp32 in the place of "auto" in short trainings, and on processors that cannot multiply in bf16. `steps` are those of the whole
    training, `in_epoch` those of an epoch: the trial must end in the first one."""
    if asked != "auto":
        return asked
    able = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "auto" if able and steps >= FEWEST_STEPS and in_epoch >= TRIAL else "fp32"


def faster(fp32: Sequence[float], bf16: Sequence[float]) -> Precision:
    """Which of two precisions pays, by the seconds that the same steps took in either (infinitely many: the base does not compute in
    it); the first ones warm up."""
    if math.inf in bf16:
        return "fp32"
    ratios = [a / b for a, b in zip(fp32[WARM_UP:], bf16[WARM_UP:], strict=True)]
    return "bf16" if statistics.median(ratios) >= PAYS else "fp32"


class Bf16Error(TrainingError):
    """A base's step does not run in bf16."""


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """The block is a step in `precision`.

    Raises:
        Bf16Error: it fails in bf16, and not for want of memory (some models mix in tensors that autocast does not reach).
    """
    try:
        yield
    except RuntimeError as error:
        if precision == "fp32" or is_full(error):
            raise
        raise Bf16Error(
            f"this base's step does not run in bf16: {str(error).strip().splitlines()[0].rstrip('.')}.",
            where="training.precision",
            remedy="Train in fp32: --set training.precision=fp32 --overwrite, which begins anew.",
        ) from error


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
