"""A text classifier over a sentence encoder's own pooling, for bases that record one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "cls", "max"]
POOLING_FILE = "1_Pooling/config.json"
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


def recorded_pooling(path: Path) -> Pooling | None:
    """The pooling that sentence-transformers records in this file, a folder's `POOLING_FILE`; None where there is none that we know."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("pooling_mode") in ("mean", "cls", "max"):  # newer folders
        pooling: Pooling = values["pooling_mode"]
        return pooling
    return next((pooling for key, pooling in POOLINGS.items() if values.get(key)), None)


class PooledClassifier(nn.Module):
    """body -> pooling over the real tokens -> linear; returns an object with `.logits` [batch, labels].

    The pooling's own normalisation is left out: a linear layer wants the length of the vector. Stock transformers classifiers
    read [CLS], which a mean-pooled encoder was not trained on (.764 against .834 by a probe on MiniLM).
    """

    base_model_prefix = "body"

    def __init__(self, body: nn.Module, config: Any, pooling: Pooling) -> None:
        super().__init__()
        self.body = body
        self.config = config
        self.pooling = pooling
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def rebuild(self, config: Any) -> PooledClassifier:
        """The same class from another configuration, freshly made (on the current default device)."""
        return PooledClassifier(type(self.body)(config), config, self.pooling)

    @property
    def dtype(self) -> torch.dtype:
        return self.classifier.weight.dtype

    def _init_weights(self, module: nn.Module) -> None:
        self.body._init_weights(module)  # type: ignore[operator]

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.body.get_input_embeddings()  # type: ignore[operator]
        return embeddings

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        hidden = self.body(attention_mask=attention_mask, **inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(pool(hidden, attention_mask, self.pooling)))


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """[batch, length, width] -> [batch, width] over the tokens whose mask [batch, length] is 1 (None: all)."""
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if pooling == "cls":  # the first real token, also under left padding
        first = mask.argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), first]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "mean":
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    return hidden.masked_fill(weights == 0, torch.finfo(hidden.dtype).min).amax(1)
