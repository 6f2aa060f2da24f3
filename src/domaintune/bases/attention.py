"""Keys and values that stand beside a model's own, given to it through transformers' attention interface.

`register` adds one attention function (and the mask function of the same name: without it masks would be dropped silently).
It finds what it needs on the attention module that it is called for, never in a global, so that copies of a model, threads and
strengths are independent. No training and no method's settings live here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from domaintune.bases.base import fork
from domaintune.bases.probe import probe_inputs, tensors_in
from domaintune.errors import MethodError

IMPLEMENTATION = "domaintune_prefix"
MASKED = "domaintune_prefix_masked"
"""The same attention for models that compute without the sdpa function: their modules leave causality to the mask."""
SLOT = "learned_prefix"


def register() -> None:
    """Make the attention function known to transformers; a second call changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for name in (IMPLEMENTATION, MASKED):
        AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    AttentionMaskInterface.register(MASKED, whole_mask)


def whole_mask(*, allow_is_causal_skip: bool, **arguments: Any) -> Tensor | None:
    """transformers' sdpa mask, also where it is purely causal: None would say that the module's `is_causal` hides the future."""
    from transformers.masking_utils import sdpa_mask

    mask: Tensor | None = sdpa_mask(**arguments, allow_is_causal_skip=False)
    return mask


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the attention function.

    `query` [batch, heads, queries, dim], `key` and `value` [batch, key-value heads, keys, dim] after rotary positions and the
    key-value cache; `mask` boolean (True: attend) or additive, broadcastable to [batch, heads, queries, keys], or None;
    `options` as transformers passes them (dropout, scaling, is_causal, position_bias, ...).
    Results are [batch, queries, heads, dim].
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]

    @property
    def is_causal(self) -> bool:
        """Whether causality is left to the kernel: no mask, several queries, and a causal module. (One query sees all keys.)"""
        asked = self.options.get("is_causal")
        causal = getattr(self.module, "is_causal", True) if asked is None else asked  # transformers' own default
        return bool(causal) and self.mask is None and self.query.shape[2] > 1

    def unchanged(self) -> Tensor:
        """The base's attention: transformers' sdpa function with the very arguments of the call."""
        return self._sdpa(self.key, self.value, self.mask, self.options)

    def with_learned(self, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(scaling q [keys; k]^T + [0; mask]) [values; v]: every query sees all learned positions.

        `keys`, `values` [key-value heads, virtual tokens, dim].
        """
        added = keys.shape[1]
        mask, key, value = self.mask, self.key, self.value
        options = {**self.options, "is_causal": False}
        bias: Tensor | None = self.options.get("position_bias")
        if self.is_causal:
            length = self.query.shape[2]
            key, value = key[:, :, :length], value[:, :, :length]  # a static cache's unwritten tail
            bias = None if bias is None else bias[..., :length]
            ones = torch.ones(length, added + length, dtype=torch.bool, device=key.device)
            mask = ones.tril(diagonal=added)[None, None]
        elif mask is not None:
            mask = pad(mask, (added, 0), value=True if mask.dtype == torch.bool else 0.0)
        if bias is not None:
            options["position_bias"] = pad(bias, (added, 0))
        batch = key.shape[0]
        key = torch.cat([_batched(keys, batch, key), key], dim=2)
        value = torch.cat([_batched(values, batch, value), value], dim=2)
        return self._sdpa(key, value, mask, options)

    def learned_alone(self, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(scaling q keys^T) values, without mask and position bias."""
        batch = self.key.shape[0]
        options = {**self.options, "is_causal": False, "position_bias": None}
        return self._sdpa(_batched(keys, batch, self.key), _batched(values, batch, self.value), None, options)

    def _sdpa(self, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]) -> Tensor:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output: Tensor = sdpa_attention_forward(self.module, self.query, key, value, mask, **options)[0]
        return output


def _batched(learned: Tensor, batch: int, like: Tensor) -> Tensor:
    return learned.to(like.dtype).expand(batch, *learned.shape)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The attention function, with the signature that transformers' interface prescribes.

    Raises:
        MethodError: an attention that caps its scores or has sinks, which the sdpa function cannot do.
    """
    what = "caps its attention scores" if options.get("softcap") is not None else None
    what = "has attention sinks" if options.get("s_aux") is not None else what
    if what is not None:
        raise MethodError(
            f"{type(module).__name__} {what}, which learned keys and values cannot enter.",
            remedy="Use LoRA, Freeze or full.",
        )
    call = Call(module, query, key, value, attention_mask, options)
    part = module._modules.get(SLOT) or vars(module).get(SLOT)
    return (call.unchanged() if part is None else part(call)), None


class Prefix(nn.Module, ABC):
    """What stands on an attention module: learned keys and values, at a strength s in [0, 1].

    Concatenated (`gate` None): lerp(attention without, attention with, s).
    Gated: attention without + s tanh(gate) * attention to the learned keys and values alone; `gate` [heads].
    At s = 0 the learned part is skipped: bit for bit the base.
    Source: prefix tuning (arXiv 2101.00190); P-tuning v2 (arXiv 2110.07602); the zero-initialised gate of LLaMA-Adapter
    (arXiv 2303.16199, eq. 6).
    Differs: the gate is outside the softmax and per head; adding log(s) to the learned keys' scores would saturate.
    """

    gate: nn.Parameter | None

    def __init__(self, gate: nn.Parameter | None, strength: float) -> None:
        super().__init__()
        self.gate = gate
        self.strength = strength

    @abstractmethod
    def learned(self) -> tuple[Tensor, Tensor]:
        """Keys and values [key-value heads, virtual tokens, dim]."""

    def forward(self, call: Call) -> Tensor:
        if self.strength == 0:
            return call.unchanged()
        keys, values = self.learned()
        if self.gate is not None:
            opening = self.strength * torch.tanh(self.gate)
            return call.unchanged() + opening.to(call.query.dtype)[:, None] * call.learned_alone(keys, values)
        if self.strength == 1:
            return call.with_learned(keys, values)
        return torch.lerp(call.unchanged(), call.with_learned(keys, values), self.strength)


class LearnedPrefix(Prefix):
    """Keys and values that are parameters themselves (P-tuning v2, and every view)."""

    def __init__(
        self, keys: nn.Parameter, values: nn.Parameter, *, gate: nn.Parameter | None = None, strength: float = 1.0
    ) -> None:
        super().__init__(gate, strength)
        self.keys = keys
        self.values = values

    def learned(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


def install_prefixes_(model: nn.Module, prefixes: Mapping[str, Prefix]) -> None:
    """Put each prefix on the attention module at its path and let the model call our function. `model` is a fork: the
    configuration it carries is its own."""
    register()
    for path, prefix in prefixes.items():
        model.get_submodule(path).add_module(SLOT, prefix)
    _call_ours_(model)


def _call_ours_(model: nn.Module) -> None:
    for module in model.modules():  # attention modules and mask makers read the configuration that they hold themselves
        config = vars(module).get("config")
        if config is None or not hasattr(config, "_attn_implementation_internal"):
            continue
        own = config._attn_implementation_internal
        config._attn_implementation_internal = MASKED if own in ("eager", MASKED) else IMPLEMENTATION


@dataclass(slots=True)
class _Recorder:
    calls: list[Call] = field(default_factory=list)

    def __call__(self, call: Call) -> Tensor:
        self.calls.append(call)
        return call.unchanged()


def record_calls(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, list[Call]]:
    """Every call of the attention interface in one forward without gradients, by the calling module's path, in the order of
    the first call. The model itself is not touched."""
    register()
    copied = fork(model).eval()
    _call_ours_(copied)
    recorder = _Recorder()
    for module in copied.modules():  # beside the submodules: a container would run or count one more of them
        vars(module)[SLOT] = recorder
    with torch.no_grad():
        copied(**inputs)
    paths = {id(module): path for path, module in copied.named_modules()}
    found: dict[str, list[Call]] = {}
    for call in recorder.calls:
        found.setdefault(paths[id(call.module)], []).append(call)
    return found


def check_unchanged(model: nn.Module, inputs: Mapping[str, Tensor], *, where: str) -> None:
    """See that `model` computes the same through our attention function as through its own, on one row without padding.

    "The same": the outputs' difference is below the square root of the dtype's precision, relative to their length.

    Raises:
        MethodError: it does not.
    """
    register()
    row = {name: tensor[:1] for name, tensor in inputs.items()}
    ours = fork(model).eval()
    _call_ours_(ours)
    with torch.no_grad():
        made, expected = (list(tensors_in(one(**row))) for one in (ours, fork(model).eval()))
    for one, other in zip(made, expected, strict=True):
        if other.is_floating_point() and not _close(one, other):
            raise MethodError(
                f"{type(model).__name__} computes something else through transformers' attention interface than by itself, so "
                "that learned keys and values would change the base.",
                where=where,
                remedy="Use LoRA, Freeze or full.",
            )


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    difference = torch.where(one == other, 0.0, one.double() - other.double())  # equal infinities differ by nothing
    finite = torch.where(other.isfinite(), other, 0.0).double()
    return bool(difference.norm() <= torch.finfo(other.dtype).eps ** 0.5 * finite.norm())


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """A module that calls the attention interface. `block` is the outermost numbered module round it; `calls` counts the
    forwards through it in one forward of the model (above 1 where layers share it)."""

    path: str
    block: str
    kind: Literal["self", "cross"]
    is_causal: bool
    num_heads: int
    num_key_value_heads: int
    key_dim: int
    value_dim: int
    calls: int


def attention_sites(model: nn.Module, inputs: Mapping[str, Tensor] | None = None) -> tuple[AttentionSite, ...]:
    """Which modules of `model` call transformers' attention interface in a probe forward, in the order in which they do.

    `inputs` is what the probe runs on; by default `probe_inputs(model)`.
    Cross-attention is where another target changes the queries and not the keys.

    Raises:
        MethodError: an attention that caps its scores.
    """
    inputs = probe_inputs(model) if inputs is None else inputs
    found = record_calls(model, inputs)
    if "decoder_input_ids" not in inputs:
        return tuple(_site(path, calls, "self") for path, calls in found.items())
    other = record_calls(model, {**inputs, "decoder_input_ids": inputs["decoder_input_ids"].flip(1)})
    return tuple(_site(path, calls, _kind(calls[0], other[path][0])) for path, calls in found.items())


def _kind(call: Call, other: Call) -> Literal["self", "cross"]:
    return "cross" if torch.equal(call.key, other.key) and not torch.equal(call.query, other.query) else "self"


def _site(path: str, calls: list[Call], kind: Literal["self", "cross"]) -> AttentionSite:
    call = calls[0]
    parts = path.split(".")
    depth = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return AttentionSite(
        path=path,
        block=".".join(parts[: depth + 1]),
        kind=kind,
        is_causal=call.is_causal or _masks_the_future(call.mask, call.query.shape[2]),
        num_heads=call.query.shape[1],
        num_key_value_heads=call.key.shape[1],
        key_dim=call.key.shape[3],
        value_dim=call.value.shape[3],
        calls=len(calls),
    )


def _masks_the_future(mask: Tensor | None, queries: int) -> bool:
    if mask is None or queries == 1 or mask.shape[-2:] != (queries, queries):
        return False
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool(seen.triu(diagonal=1).any())
