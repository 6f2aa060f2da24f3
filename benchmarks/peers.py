"""The same jobs done by transformers' Trainer, alone or with PEFT, from the same weights as ours."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import accelerate
import numpy as np
import peft
import torch
import transformers
from cells import PEERS
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from domaintune.bases.base import Base, set_submodule_
from domaintune.evaluation.score import primary_score
from domaintune.tasks.base import Dataset, Item, Task

KINDS = {"text-classification": "SEQ_CLS", "token-classification": "TOKEN_CLS"}


def versions() -> dict[str, str]:
    return {module.__name__: str(module.__version__) for module in (transformers, peft, accelerate, torch)}


@dataclass(frozen=True)
class Tuned:
    model: nn.Module
    rate: float
    tries: dict[str, float]
    """Rate -> dev score."""
    trainable: int


class WithLoss(nn.Module):
    """A model that returns its loss to the Trainer, by the task's own loss over the batch's units."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

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


def prepared(kind: str, task: Task, base: Base) -> nn.Module:
    """A copy of the base's model with what this kind trains."""
    settings = PEERS[kind].settings
    model: Any = base.fork().requires_grad_(False)
    head = sorted({path.split(".")[-1] for path in base.heads["domain"].modules})
    if kind.startswith("lora"):
        exclude = {"exclude_modules": head} if settings["target_modules"] == "all-linear" else {}
        config: Any = peft.LoraConfig(**settings, **exclude, modules_to_save=head)
    elif kind == "prefix":
        config = peft.PrefixTuningConfig(task_type=KINDS[task.name], **settings, modules_to_save=head)
    elif kind == "p-tuning":
        config = peft.PromptEncoderConfig(
            task_type=KINDS[task.name],
            **settings,
            encoder_hidden_size=model.config.hidden_size,
            modules_to_save=head,
        )
    else:
        pattern = ""
        if kind != "full":
            blocks = {int(n) for name, _ in model.named_parameters() for n in re.findall(r"\.layer\.(\d+)\.", name)}
            top = sorted(blocks)[-settings["blocks"] :]
            pattern = rf"\.layer\.({'|'.join(map(str, top))})\." + (r"|\bpooler\b" if settings["after"] else "")
        for name, parameter in model.named_parameters():
            inside = any(f".{part}." in f".{name}" for part in head)
            parameter.requires_grad_(inside or bool(re.search(pattern, name)))
        return model
    made: nn.Module = peft.get_peft_model(model, config)
    return made


def fitted(
    kind: str,
    task: Task,
    base: Base,
    data: Dataset,
    dev: Dataset,
    *,
    rate: float,
    epochs: int,
    own_defaults: bool,
    sixteen_bits: bool,
    seed: int,
) -> tuple[nn.Module, float]:
    """One training: the model in eval mode and its dev score. `own_defaults`: the Trainer's batch of 8, no warm-up and the last epoch; else
    batches of 16, a tenth of warm-up, and the best epoch on dev."""
    set_seed(seed)
    model = prepared(kind, task, base)
    best: tuple[float, dict[str, torch.Tensor]] = (-np.inf, {})

    def score() -> float:
        model.eval()
        with torch.autocast(base.device.type, torch.bfloat16, enabled=sixteen_bits):
            value = primary_score(task, base, model, dev)[0]
        model.train()
        return value

    class Scored(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            nonlocal best
            value = score()
            if value > best[0]:
                best = value, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            return {"eval_score": value}

    mine = {"per_device_train_batch_size": 16, "warmup_steps": 0.1, "eval_strategy": "epoch", "bf16": sixteen_bits}
    mine = {} if own_defaults else mine
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, learning_rate=rate, save_strategy="no", report_to=[], seed=seed,
            use_cpu=base.device.type == "cpu", disable_tqdm=True, remove_unused_columns=False, logging_strategy="no", dataloader_pin_memory=False,
            **mine,
        )  # fmt: skip
        Scored(
            model=WithLoss(model, task),
            args=arguments,
            train_dataset=Rows(data.items),
            eval_dataset=Rows(dev.items),
            data_collator=lambda items: {"batch": task.collate(base, items, "train").to(base.device)},
        ).train()
    if own_defaults:
        return model.eval(), score()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in best[1]:
                parameter.copy_(best[1][name])
    return model.eval(), best[0]


def tuned(
    kind: str, task: Task, base: Base, data: Dataset, dev: Dataset, *, rates: Sequence[float], **settings: Any
) -> Tuned:
    """The best of these learning rates on dev; settings as of `fitted`."""
    made = {rate: fitted(kind, task, base, data, dev, rate=rate, **settings) for rate in rates}
    rate = max(made, key=lambda entry: made[entry][1])
    model = made[rate][0]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Tuned(model.eval(), rate, {str(r): score for r, (_, score) in made.items()}, trainable)


def with_head(model: nn.Module, base: Base, name: str) -> nn.Module:
    """The tuned model, or a copy with another of the base's heads in the place of the domain's."""
    if name == "domain":
        return model
    copied: Any = copy.deepcopy(model)
    inner = copied
    if isinstance(copied, peft.PeftModel):
        inner = copied.base_model if copied.active_peft_config.is_prompt_learning else copied.base_model.model
    for path, module in base.heads[name].modules.items():
        set_submodule_(inner, path, copy.deepcopy(module))
    return copied.eval()
