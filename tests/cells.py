"""The cells of the contract suite: for each task a few tiny bases and eight rows, for each method its variants."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import TEXT, tiny_base

from domaintune.bases.base import Base
from domaintune.data.rows import Row
from domaintune.errors import MethodError
from domaintune.methods import method_from
from domaintune.methods.base import Attached
from domaintune.recipe import Recipe
from domaintune.tasks import TASKS
from domaintune.tasks.base import Batch, Task

# task -> families; the first one runs every identity, the others show that nothing hangs on one architecture
FAMILIES = {
    "text-classification": ("bert", "modernbert"),
    "token-classification": ("distilbert", "xlm-roberta"),
    "translation": ("marian", "m2m100"),
    "generation": ("qwen3", "gpt2"),
    "image-classification": ("vit", "mobilenet-v2", "resnet"),
    "object-detection": ("rt-detr-v2", "yolos", "d-fine"),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "freeze": {"name": "freeze", "train": ["top:1"]},
    "lora": {"name": "lora", "rank": 4},
    "dora": {"name": "lora", "rank": 4, "dora": True, "rank_stabilised": True},
    "pissa": {"name": "lora", "rank": 4, "initialise": "pissa"},
    "p-tuning-2": {"name": "p-tuning", "num_virtual_tokens": 4},
    "p-tuning-2-network": {
        "name": "p-tuning",
        "num_virtual_tokens": 4,
        "reparameterise": True,
        "beside": ["layer-norm"],
    },
    "p-tuning-2-gated": {"name": "p-tuning", "num_virtual_tokens": 4, "gated": True},
    "p-tuning-1": {"name": "p-tuning", "version": 1, "num_virtual_tokens": 4, "beside": ["layer-norm"]},
}
# No attention to learn keys and values for: refused by name.
REFUSED = {
    (family, method) for family in ("mobilenet-v2", "resnet") for method in METHODS if method.startswith("p-tuning")
} | {
    # Their transformer parts take positions of a fixed grid or query set, which a stream of virtual tokens has none of.
    (family, "p-tuning-1")
    for family in ("rt-detr-v2", "d-fine")
}


@dataclass(frozen=True)
class Cell:
    task: str
    family: str
    method: str

    def __str__(self) -> str:
        return f"{self.task}/{self.family}/{self.method}"


CELLS = [
    Cell(task, family, method)
    for task, families in FAMILIES.items()
    for family in families
    for method in METHODS
    if (family, method) not in REFUSED
]


@functools.cache
def pictures() -> Path:
    """A folder of eight small pictures that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    generator = np.random.default_rng(0)
    for number in range(8):
        small = generator.integers(0, 255, size=(6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{number}.png")
    return folder


def rows(task: str) -> list[Row]:
    """Eight rows with a target each."""
    made: list[dict[str, Any]]
    texts = [TEXT[i % len(TEXT)].rsplit(" ", i // len(TEXT) * 3 + 1)[0] for i in range(8)]
    if task == "text-classification":
        made = [{"text": text, "label": ["negative", "neutral", "positive"][i % 3]} for i, text in enumerate(texts)]
    elif task == "token-classification":
        made = [
            {"tokens": text.split(), "tags": ["B-PER", "I-PER", *["O"] * (len(text.split()) - 3), "B-LOC"]}
            for text in texts
        ]
    elif task == "translation":
        made = [{"source": text, "target": texts[-1 - i]} for i, text in enumerate(texts)]
    elif task == "generation":
        made = [{"prompt": text, "completion": texts[-1 - i]} for i, text in enumerate(texts)]
    elif task == "image-classification":
        made = [{"image": str(pictures() / f"{i}.png"), "label": ["cat", "dog", "owl"][i % 3]} for i in range(8)]
    else:
        made = [
            {
                "image": str(pictures() / f"{i}.png"),
                "width": 64,
                "height": 64,
                "boxes": [[4.0 + i, 6.0, 20.0, 30.0], [30.0, 20.0 + i, 18.0, 22.0]][: 1 + i % 2],
                "labels": ["cat", "dog", "owl"][i % 2 : i % 2 + 1 + i % 2],
            }
            for i in range(8)
        ]
    return [Row(values, f"{task}.rows", number) for number, values in enumerate(made, 1)]


def recipe(task: str, method: dict[str, Any] | None = None, **more: Any) -> Recipe:
    settings: dict[str, Any] = {"name": task}
    if task == "object-detection":
        settings |= {"denoising": False, "flip": False}
    if task == "image-classification":
        settings |= {"flip": False, "crop": 1.0}
    if task in ("translation", "generation"):
        settings |= {"num_beams": 1} | ({"label_smoothing": 0.0} if task == "translation" else {})
    return Recipe.make(
        {
            "task": settings,
            "base": "tiny",
            "train": "rows",
            "output": "runs/x",
            "method": method or {"name": "full"},
            **more,
        }
    )


@functools.cache
def base_and_task(task: str, family: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Base, Task]:
    """A base with its domain head, and the task built on the eight rows."""
    base = tiny_base(family, task)
    base = replace(base, model=base.model.to(device=device, dtype=dtype))
    made = TASKS[task].build(rows(task), base, recipe(task).task)
    return base.with_head("domain", made.head(), generator=torch.Generator().manual_seed(1)), made


def attach(
    cell: Cell, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 2
) -> tuple[Base, Task, Attached]:
    base, task = base_and_task(cell.task, cell.family, dtype, device)
    method = method_from(recipe(cell.task, METHODS[cell.method]).method)
    return base, task, method.attach(base, generator=torch.Generator().manual_seed(seed))


def batch_of(base: Base, task: Task, numbers: Sequence[int], mode: Any = "train") -> Batch:
    examples = list(task.read(rows(task.name)))
    items = [item for n in numbers for item in task.prepare(base, examples[n])]
    return task.collate(base, items, mode)


def shake_(attached: Attached, *, scale: float = 0.05, seed: int = 3) -> None:
    """Stand in for training: move every trained tensor, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in attached.parameter_groups():
            for parameter in group.parameters:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(noise.to(parameter), alpha=scale)


def outputs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Everything that the model says of a batch, as one vector."""
    with torch.no_grad():
        made = model(**batch.inputs)
    parts = [made.logits] + ([made.pred_boxes] if "pred_boxes" in made else [])
    return torch.cat([part.double().flatten() for part in parts])


__all__ = ["CELLS", "FAMILIES", "METHODS", "REFUSED", "Cell", "MethodError"]
