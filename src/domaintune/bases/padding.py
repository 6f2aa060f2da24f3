"""Whether a causal model's next token depends on the padding before its text."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from domaintune.bases.probe import TOKENS, probe_inputs


@torch.no_grad()
def ignores_left_padding(model: nn.Module, padding: int) -> bool:
    """Whether `generate` gives a row the same logits for its next token behind the tokens `padding`, masked, as without them.

    Attention does, and so do most recurrent layers, which leave masked positions out; RecurrentGemma's take them into their state.
    "The same": the difference is below the square root of the dtype's precision, relative to the logits' length.
    """
    from transformers import GenerationConfig

    bare: Any = copy.copy(model)  # shares every module: only what a checkpoint sets for `generate` is left aside
    bare.generation_config = GenerationConfig()
    config = GenerationConfig(
        max_new_tokens=1, do_sample=False, pad_token_id=padding, output_logits=True, return_dict_in_generate=True
    )
    row = probe_inputs(model)["input_ids"][:1]

    def following(before: int) -> Tensor:
        ids, mask = pad(row, (before, 0), value=padding), pad(torch.ones_like(row), (before, 0))
        logits: Tensor = bare.generate(input_ids=ids, attention_mask=mask, generation_config=config).logits[0]
        return logits.double()

    alone, padded = following(0), following(TOKENS)
    near = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    return bool((padded - alone).norm() <= near * alone.norm())
