"""Token losses from logits, the output layer applied at supervised positions alone. No text, no scores, no rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a position that is not supervised: cross_entropy's own default."""

LOGIT_BUDGET = 1 << 26
"""Logits that may exist at once; 256 MiB in float32. Only a vocabulary of 150,000 tokens gets near it."""

PLAIN_OUTPUT = frozenset(
    {"gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3", "gemma"}
)
"""Model types whose causal class is body -> output layer and nothing after (no soft cap, no scale), as the tests verify."""


def wide(logits: Tensor) -> Tensor:
    """The logits in float32 at least: a softmax over a vocabulary loses too much in 16 bits."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def token_losses(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each token in nats [tokens]; logits [tokens, vocabulary], targets [tokens] (0 where IGNORED)."""
    return functional.cross_entropy(wide(logits), targets, reduction="none", label_smoothing=label_smoothing)


def token_divergences(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(theirs || ours) of each token's distribution [tokens], from logits [tokens, vocabulary], in float64."""
    reference = theirs.double().log_softmax(-1)
    return (reference.exp() * (reference - ours.double().log_softmax(-1))).sum(-1)


def disagreements(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) + KL(second || first) of each token's distribution [tokens], from logits [tokens, vocabulary]."""
    a, b = wide(first), wide(second)
    return ((a.softmax(-1) - b.softmax(-1)) * (a - b)).sum(-1)  # what the two normalisers differ by falls out


def seq2seq_logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Logits [batch * target length, vocabulary] of an encoder-decoder."""
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.flatten(0, 1)


def causal_states(
    model: nn.Module, inputs: Mapping[str, Any], mask: Tensor, *, budget: int
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """Logits at the positions of the boolean `mask` [batch, length], flattened in row order; or, where these would be more than
    `budget` numbers and the class is body and output layer alone, the hidden states there and the output layer to apply.

    Always through the model's own forward: hooks on the model run, and soft caps and scales of the class are kept.
    """
    known: Any = model
    asked: dict[str, Any] = {}
    if int(mask.sum()) * _vocabulary(model) > budget and known.config.model_type in PLAIN_OUTPUT:
        asked = {"output_hidden_states": True, "logits_to_keep": torch.zeros_like(mask)}
    elif "logits_to_keep" in inspect.signature(type(model).forward).parameters:
        asked = {"logits_to_keep": mask}
    return states_of(model, model(**inputs, use_cache=False, **asked), mask)


def states_of(model: nn.Module, output: Any, mask: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """What `causal_states` gives, of the output that it asked the model for."""
    known: Any = model
    logits = output.logits
    if not logits.numel() and mask.any():
        return output.hidden_states[-1][mask], known.get_output_embeddings()
    return logits if logits.shape[:-1] != mask.shape else logits[mask], None


def over_logits(
    function: Callable[..., Tensor],
    states: Sequence[tuple[Tensor, Callable[[Tensor], Tensor] | None]],
    extra: Sequence[Tensor] = (),
    *,
    vocabulary: int,
    budget: int,
) -> Tensor:
    """`function(logits, ..., *extra)` -> [tokens], over the pairs that `causal_states` gave.

    Where a pair holds hidden states, chunk by chunk: each chunk's logits are dropped after use and made again in the backward
    pass, so that at most `budget` of them exist at once. `extra` are tensors [tokens, ...] cut alike.
    """
    outputs = [output for _, output in states]
    tensors = [state for state, _ in states]

    def apply(*parts: Tensor) -> Tensor:
        pairs = zip(parts, outputs, strict=False)
        logits = [part if output is None else output(part) for part, output in pairs]
        return function(*logits, *parts[len(outputs) :])

    if all(output is None for output in outputs):
        return apply(*tensors, *extra)
    rows = max(1, budget // vocabulary)
    made = []
    for parts in zip(*(tensor.split(rows) for tensor in (*tensors, *extra)), strict=True):
        if torch.is_grad_enabled():
            made.append(checkpoint(apply, *parts, use_reentrant=False))
        else:
            made.append(apply(*parts))
    return torch.cat(made)


def causal_losses(
    model: nn.Module, inputs: Mapping[str, Any], next_tokens: Tensor, *, budget: int = LOGIT_BUDGET
) -> Tensor:
    """Cross-entropy in nats of each supervised token, in row order [tokens].

    `next_tokens` [batch, length] holds at every position the token that follows it, IGNORED where it is not supervised.
    """
    mask = next_tokens != IGNORED
    states = causal_states(model, inputs, mask, budget=budget)
    return over_logits(token_losses, [states], [next_tokens[mask]], vocabulary=_vocabulary(model), budget=budget)


def causal_divergences(
    tuned: nn.Module, base: nn.Module, inputs: Mapping[str, Any], next_tokens: Tensor, *, budget: int = LOGIT_BUDGET
) -> Tensor:
    """KL(base || tuned) at each supervised position, in row order [tokens]. No gradient reaches `base`."""
    mask = next_tokens != IGNORED
    ours = causal_states(tuned, inputs, mask, budget=budget)
    with torch.no_grad():
        theirs = causal_states(base, inputs, mask, budget=budget)
    return over_logits(token_divergences, [ours, theirs], vocabulary=_vocabulary(tuned), budget=budget)


def causal_disagreements(
    model: nn.Module, first: Any, second: Any, next_tokens: Tensor, *, budget: int = LOGIT_BUDGET
) -> Tensor:
    """`disagreements` at each supervised position of two outputs of the forward of `causal_losses` [tokens]."""
    mask = next_tokens != IGNORED
    states = [states_of(model, output, mask) for output in (first, second)]
    return over_logits(disagreements, states, vocabulary=_vocabulary(model), budget=budget)


def _vocabulary(model: nn.Module) -> int:
    known: Any = model
    return int(known.config.get_text_config().vocab_size)


def pad_rows(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Rows of ids -> [batch, longest], filled with `value` on the right, or on the left."""
    width = max((len(row) for row in rows), default=0)
    padded = [
        [value] * (width - len(row)) + list(row) if left else [*row, *[value] * (width - len(row))] for row in rows
    ]
    return torch.tensor(padded, dtype=torch.long)


def row_sums(values: Tensor, mask: Tensor) -> list[float]:
    """Sums over each row of the boolean `mask` [batch, length] of `values` [tokens] in row order, in float64."""
    spread = torch.zeros(mask.shape, dtype=torch.float64, device=values.device)
    spread[mask] = values.double()
    sums: list[float] = spread.sum(1).tolist()
    return sums
