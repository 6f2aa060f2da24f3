"""The one loop that predicts: items in batches of like size, no gradients, and records from predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from domaintune.bases.base import Base
from domaintune.bases.device_memory import within_memory
from domaintune.data.batches import scoring_plan
from domaintune.tasks.base import Dataset, Item, Mode, Prediction, RawPrediction, Record, Task

# (tokens, pixels): what a CPU's caches hold, and what keeps a GPU busy.
ON_CPU = (2_048, 400_000)
SCORING, TRAINING = (16_384, 8_000_000), (4_096, 4_000_000)


def default_budget(task: Task, device: torch.device, *, training: bool = False) -> int:
    """Cost units (tokens, or pixels for picture tasks) in one forward."""
    tokens, pixels = ON_CPU if device.type == "cpu" else TRAINING if training else SCORING
    return pixels if "Image" in task.auto_class or "ObjectDetection" in task.auto_class else tokens


def scoring_costs(task: Task, items: Sequence[Item], device: torch.device, wanted: frozenset[str]) -> list[int]:
    """What each item takes of a budget. Where text is decoded a GPU, whose memory its large budget could exceed, also counts the new
    tokens and the beams."""
    costs = [task.cost(item) for item in items]
    if device.type == "cpu":
        return costs
    return [max(cost, task.decoded_tokens(item, wanted)) for cost, item in zip(costs, items, strict=True)]


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

    Raises:
        DeviceMemoryError: the device's memory does not hold a batch.
    """
    raw: list[RawPrediction | None] = [None] * len(data.items)
    device = next(model.parameters()).device
    done = 0
    budget = budget or default_budget(task, base.device)
    for positions in scoring_plan(scoring_costs(task, data.items, device, wanted), budget):
        with within_memory("evaluation.batch_budget", budget):
            batch = task.collate(base, [data.items[i] for i in positions], mode).to(device)
            predictions = task.predict(base, model, batch, wanted)
        for position, made in zip(positions, predictions, strict=True):
            raw[position] = made
        done += len(positions)
        if on_progress is not None:
            on_progress(done, len(data.items))
    return [
        task.join(example, [part for part in (raw[i] for i in span) if part is not None])
        for example, span in zip(data.examples, data.spans, strict=True)
    ]


Models = Callable[[str | None], tuple[float, AbstractContextManager[nn.Module]]]
"""Of a domain the strength and its model, for as long as the context lasts."""


def by_domain(examples: Sequence[Any], names: Collection[str]) -> dict[str | None, list[int]]:
    """Positions of the examples of each domain in `names`; None: all others."""
    groups: dict[str | None, list[int]] = {}
    for position, example in enumerate(examples):
        groups.setdefault(example.domain if example.domain in names else None, []).append(position)
    return groups


def named_domains(examples: Sequence[Any]) -> dict[str, list[int]]:
    """Positions of the examples of every domain that is named, by name."""
    found = by_domain(examples, {example.domain for example in examples})
    return {name: found[name] for name in sorted(name for name in found if name is not None)}


def subset(data: Dataset, positions: Sequence[int]) -> Dataset:
    """The examples at these positions with their items."""
    items: list[Item] = []
    spans: list[range] = []
    for position in positions:
        span = data.spans[position]
        spans.append(range(len(items), len(items) + len(span)))
        items += [data.items[i] for i in span]
    return Dataset([data.examples[position] for position in positions], items, spans)


def predict_by_domain(
    task: Task,
    base: Base,
    models: Models,
    data: Dataset,
    *,
    domains: Collection[str],
    wanted: frozenset[str],
    mode: Mode = "score",
    budget: int | None = None,
) -> list[Prediction]:
    """As `predict`, where each of `domains` has a model of its own; the others share that of None."""
    made: list[Prediction | None] = [None] * len(data.examples)
    for name, positions in by_domain(data.examples, domains).items():
        part = data if len(positions) == len(data.examples) else subset(data, positions)
        strength, context = models(name)
        with context as model:
            predictions = predict(task.at(strength), base, model, part, wanted=wanted, mode=mode, budget=budget)
        for position, prediction in zip(positions, predictions, strict=True):
            made[position] = prediction
    return [prediction for prediction in made if prediction is not None]


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
def divergence(
    task: Task, base: Base, tuned: nn.Module, base_model: nn.Module, data: Dataset, *, budget: int | None = None
) -> tuple[float, float]:
    """KL(base || tuned) of the outputs in nats, summed over units (examples, tokens or queries), and the number of units."""
    total, units = 0.0, 0.0
    device = next(tuned.parameters()).device
    budget = budget or default_budget(task, base.device)
    for positions in scoring_plan([task.cost(item) for item in data.items], budget):
        with within_memory("evaluation.batch_budget", budget):
            batch = task.collate(base, [data.items[i] for i in positions], "score").to(device)
            part, count = task.divergence(tuned, base_model, batch)
        total, units = total + float(part), units + count
    return total, units
