"""The same jobs done by transformers' Trainer with PEFT LoRA, from the same start (weights and head) as ours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import peft
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from domaintune.bases.base import Base
from domaintune.evaluation.score import primary_score
from domaintune.tasks.base import Item, Task, dataset


class WithLoss(nn.Module):
    """A model that returns its loss to the Trainer, by the task's own loss over the batch's units."""

    def __init__(self, model: nn.Module, task: Task, base: Base) -> None:
        super().__init__()
        self.model, self.task, self.base = model, task, base

    def forward(self, positions: Any = None, batch: Any = None) -> dict[str, torch.Tensor]:
        units = self.task.units(batch)
        terms = self.task.loss(self.model, batch)
        return {"loss": torch.stack([terms[key] / units[key] for key in terms]).sum()}


class Rows(torch.utils.data.Dataset[Item]):
    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


def peft_lora(
    task: Task, base: Base, train: Sequence[Any], dev: Sequence[Any], *, learning_rate: float, epochs: int, seed: int
) -> tuple[nn.Module, float]:
    """PEFT LoRA (rank 8, alpha 16, dropout .1, query and value) under the Trainer's defaults; the best epoch on dev is kept.

    Returns the trained model in eval mode and its dev score.
    """
    set_seed(seed)
    model = base.fork().requires_grad_(False)
    head = sorted(base.heads["domain"].modules)
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["query", "value"],
        modules_to_save=[p.split(".")[-1] for p in head],
    )
    tuned = peft.get_peft_model(model, config)
    data, dev_data = dataset(task, base, train), dataset(task, base, dev)
    best: tuple[float, dict[str, torch.Tensor]] = (-np.inf, {})

    class Scored(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            nonlocal best
            tuned.eval()
            score = primary_score(task, base, tuned, dev_data)[0]
            if score > best[0]:
                best = score, {n: p.detach().clone() for n, p in tuned.named_parameters() if p.requires_grad}
            tuned.train()
            return {"eval_score": score}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        Scored(
            model=WithLoss(tuned, task, base),
            args=arguments,
            train_dataset=Rows(data.items),
            eval_dataset=Rows(dev_data.items),
            data_collator=lambda items: {"batch": task.collate(base, items, "train")},
        ).train()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if name in best[1]:
                parameter.copy_(best[1][name])
    return tuned.eval(), best[0]
