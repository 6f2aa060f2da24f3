"""A task and a method small enough that training can be written down beside them: regression with a few hundred numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.methods.base import Attached, ParameterGroup, batch_norms_to_eval_
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import Batch, Dataset, Example, Item, Task

INPUTS = 6


class Regression:
    """Weighted squared error (term "row") and, for rows that carry one, a second target (term "extra").

    `spoil` is asked before every loss and may return what to multiply it by.
    """

    augment = Task.augment

    def __init__(self, spoil: Callable[[Batch], float] | None = None) -> None:
        self.spoil = spoil

    def cost(self, item: Item) -> int:
        return int(item.inputs["length"])

    def collate(self, base: Any, items: Sequence[Item], mode: str) -> Batch:
        assert mode == "train"
        x = torch.from_numpy(np.stack([item.inputs["x"] for item in items]))
        targets = {
            k: torch.tensor([item.targets[k] for item in items], dtype=x.dtype) for k in ("y", "weight", "extra")
        }
        return Batch({"x": x}, targets, items)

    def units(self, batch: Batch) -> dict[str, float]:
        return {"row": float(batch.targets["weight"].sum()), "extra": float((~batch.targets["extra"].isnan()).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        made = model(batch.inputs["x"])
        row = (batch.targets["weight"] * (made[:, 0] - batch.targets["y"]).square()).sum()
        has = ~batch.targets["extra"].isnan()
        extra = (made[has, 1] - batch.targets["extra"][has]).abs().sum()
        factor = 1.0 if self.spoil is None else self.spoil(batch)
        return {"row": row * factor, "extra": extra}


class Trained(Attached):
    """Every parameter of a plain model: matrices with decay, vectors without and at twice the rate."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def train_(self, *, train_batch_norm: bool = False) -> None:
        self.model.train()
        if not train_batch_norm:
            batch_norms_to_eval_(self.model)

    def parameter_groups(self) -> list[ParameterGroup]:
        parameters = list(self.model.parameters())
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) is kind] for kind in (True, False))
        return [
            ParameterGroup("matrices", tuple(matrices)),
            ParameterGroup("vectors", tuple(vectors), scale=2.0, decay=False),
        ]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def load_(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def view(self, strength: float, **more: Any) -> nn.Module:
        raise NotImplementedError

    merged = save = load = view  # type: ignore[assignment]


def network(
    *, dropout: float = 0.0, batch_norm: bool = False, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(8)] if batch_norm else []
        model = nn.Sequential(nn.Linear(INPUTS, 8), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))
    return model.to(dtype).eval()


def rows(count: int, *, seed: int = 0, dtype: type = np.float64, items_a_row: int = 1) -> Dataset:
    """`count` items of uneven lengths and weights, so many of them an example; a third of them carry the extra target."""
    generator = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        x = generator.normal(size=INPUTS).astype(dtype)
        extra = float(x[0]) if generator.random() < 0.33 else math.nan
        target = {"y": float(np.sin(x).sum()), "weight": float(generator.uniform(0.5, 2)), "extra": extra}
        items.append(Item({"x": x, "length": int(generator.integers(3, 40))}, target))
    spans = [range(start, min(start + items_a_row, count)) for start in range(0, count, items_a_row)]
    return Dataset([Example(file="rows.csv", line=2 + number) for number in range(len(spans))], items, spans)


def settings(**more: Any) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 3, "batch_size": 8, "warmup": 0.2, "checkpoint_every_seconds": 0.0, **more})
