"""The one loop that predicts: items in batches of like size, no gradients, and records from predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from domaintune.bases.base import Base
from domaintune.data.batches import scoring_plan
from domaintune.tasks.base import Dataset, Mode, Prediction, RawPrediction, Record, Task

TOKEN_BUDGET = 16_384
PIXEL_BUDGET = 8_000_000


def default_budget(task: Task, *, tokens: int = TOKEN_BUDGET, pixels: int = PIXEL_BUDGET) -> int:
    """Cost units (tokens, or pixels for picture tasks) in one forward."""
    return pixels if "Image" in task.auto_class or "ObjectDetection" in task.auto_class else tokens


@torch.no_grad()
def predict(
    task: Task,
    base: Base,
    model: nn.Module,
    data: Dataset,
    *,
    wanted: frozenset[str],
    mode: Mode = "score",
    budget: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """One prediction an example, in the data's order. `model` is in eval mode (a view, or an attached model set to eval).

    `base` gives the processor and the device's configuration; `mode` "predict" is for rows without targets.
    `on_progress` gets (items done, items in all).
    """
    raw: list[RawPrediction | None] = [None] * len(data.items)
    device = next(model.parameters()).device
    done = 0
    for positions in scoring_plan([task.cost(item) for item in data.items], budget or default_budget(task)):
        batch = task.collate(base, [data.items[i] for i in positions], mode).to(device)
        for position, made in zip(positions, task.predict(base, model, batch, wanted), strict=True):
            raw[position] = made
        done += len(positions)
        if on_progress is not None:
            on_progress(done, len(data.items))
    return [
        task.join(example, [part for part in (raw[i] for i in span) if part is not None])
        for example, span in zip(data.examples, data.spans, strict=True)
    ]


def records_of(task: Task, data: Dataset, predictions: Sequence[Prediction]) -> list[Record]:
    """Per-example statistics of predictions against the data's targets."""
    return [task.statistics(p, example) for p, example in zip(predictions, data.examples, strict=True)]


def point_scores(task: Task, records: Sequence[Record]) -> dict[str, float]:
    """Every score with weights of one."""
    return {name: float(value[0]) for name, value in task.reduce(records, np.ones((1, len(records)))).items()}


def primary_score(
    task: Task, base: Base, model: nn.Module, data: Dataset, *, budget: int | None = None
) -> tuple[float, list[Record]]:
    """The primary score of a model on data, and the records behind it."""
    made = predict(task, base, model, data, wanted=frozenset({task.primary.name}), budget=budget)
    records = records_of(task, data, made)
    return point_scores(task, records)[task.primary.name], records


@torch.no_grad()
def mean_divergence(
    task: Task, base: Base, tuned: nn.Module, base_model: nn.Module, data: Dataset, *, budget: int | None = None
) -> float:
    """Mean over units (examples, tokens or queries) of KL(base || tuned) of the outputs, in nats."""
    total, units = 0.0, 0.0
    device = next(tuned.parameters()).device
    for positions in scoring_plan([task.cost(item) for item in data.items], budget or default_budget(task)):
        batch = task.collate(base, [data.items[i] for i in positions], "score").to(device)
        part, count = task.divergence(tuned, base_model, batch)
        total, units = total + float(part), units + count
    return total / max(units, 1.0)
