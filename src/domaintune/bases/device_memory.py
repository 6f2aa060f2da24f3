"""A device whose memory is full, told as an error that names what to lower. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from domaintune.errors import DeviceMemoryError

_BEGINS_ANEW = {"training.micro_batch_budget": " and --overwrite, which begins anew"}
"""Keys that a training under way cannot change: other sums have other last bits."""


def is_full(error: RuntimeError) -> bool:
    """Whether torch found no memory."""
    # Of a CPU's allocator torch makes no error of its own kind.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def weights_within_memory() -> Iterator[None]:
    """What the block computes beside forwards is copies of weights: those that are trained, moments, views.

    Raises:
        DeviceMemoryError: torch found no memory in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        raise DeviceMemoryError(
            f"the memory does not hold the base and copies of what is trained of it ({_first(error)}).",
            where="device",
            remedy="Take a method that trains less (lora), a smaller base, or --set device=cpu.",
        ) from error


def _first(error: RuntimeError) -> str:
    """What torch says first of full memory."""
    return str(error).strip().splitlines()[0].split(". GPU")[0]


@contextmanager
def within_memory(key: str, budget: int | None) -> Iterator[None]:
    """What the block computes is cut by the recipe's `key`, which comes to `budget` tokens or pixels in one forward; None: a whole
    step.

    Raises:
        DeviceMemoryError: torch found no memory in the block.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        amount = "a whole step" if budget is None else f"{budget:,} tokens or pixels"
        raise DeviceMemoryError(
            f"the memory does not hold {amount} in one forward ({_first(error)}).",
            where=key,
            remedy=f"Lower it: --set {key}={max(1, (budget or 4096) // 2)}{_BEGINS_ANEW.get(key, '')}. Where one row alone is too "
            "large, shorten the rows, take a smaller base or --set device=cpu. A finished run predicts with --device cpu as well.",
        ) from error
