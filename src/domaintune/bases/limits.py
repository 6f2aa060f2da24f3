"""How many tokens a base can take."""

from __future__ import annotations

from torch import nn

from domaintune.bases.base import Base

NO_LIMIT = 10**7
"""Tokenizers without a limit declare a huge one."""


def token_limit(base: Base) -> int:
    """The smaller of the tokenizer's limit and the number of positions that the model can embed, special tokens included.

    RoBERTa-like position embeddings start after their padding index; rotary and relative positions set no limit of their own,
    and the configuration's `max_position_embeddings` is used for them. `NO_LIMIT` where nothing sets one. Of two limits, of an encoder
    and a decoder (LED), the smaller one.
    """
    limits = [int(base.processor.model_max_length)]
    sides = (getattr(base.config, f"max_{side}_position_embeddings", None) for side in ("encoder", "decoder"))
    limits += [int(side) for side in sides if side]
    declared = getattr(base.config, "max_position_embeddings", None)
    if declared and int(declared) > 0:  # XLNet says -1: it has no limit
        limits.append(int(declared))
        for module in base.model.modules():
            if (
                isinstance(module, nn.Embedding)
                and module.num_embeddings == declared
                and module.padding_idx is not None
            ):
                limits.append(int(declared) - module.padding_idx - 1)
    return min(*limits, NO_LIMIT)
