"""Learned keys and values in attention, against the formula in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from domaintune.bases.attention import (
    IMPLEMENTATION,
    MASKED,
    SLOT,
    Call,
    LearnedPrefix,
    attend,
    attention_sites,
    check_unchanged,
    record_calls,
    register,
)
from domaintune.bases.base import Base
from domaintune.errors import MethodError
from domaintune.methods.p_tuning import PTuning
from domaintune.settings import PTuningSettings

BATCH, HEADS, KEY_VALUE_HEADS, QUERIES, KEYS, DIM, ADDED = 2, 4, 2, 5, 7, 8, 3


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _module(*, causal: bool = False) -> nn.Module:
    module = nn.Module()
    module.is_causal = causal
    module.num_key_value_groups = HEADS // KEY_VALUE_HEADS
    return module


def _call(
    module: nn.Module, *, queries: int = QUERIES, keys: int = KEYS, mask: Tensor | None = None, **options: object
) -> Call:
    return Call(
        module,
        _random(BATCH, HEADS, queries, DIM, seed=1),
        _random(BATCH, KEY_VALUE_HEADS, keys, DIM, seed=2),
        _random(BATCH, KEY_VALUE_HEADS, keys, DIM, seed=3),
        mask,
        {"dropout": 0.0, "scaling": 0.3, **options},
    )


def _prefix(strength: float = 1.0, *, gate: Tensor | None = None) -> LearnedPrefix:
    keys, values = (nn.Parameter(_random(KEY_VALUE_HEADS, ADDED, DIM, seed=seed)) for seed in (4, 5))
    return LearnedPrefix(keys, values, gate=None if gate is None else nn.Parameter(gate), strength=strength)


def _formula(query: Tensor, key: Tensor, value: Tensor, scaling: float, added_scores: Tensor | None) -> Tensor:
    """softmax(scaling q k^T + added scores) v by loops over heads: [batch, queries, heads, dim]."""
    groups = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = scaling * torch.einsum("bqd,bkd->bqk", query[:, head], key[:, head // groups])
        if added_scores is not None:
            scores = scores + added_scores[:, min(head, added_scores.shape[1] - 1)]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(weights @ value[:, head // groups])
    return torch.stack(heads, dim=2)


def _with_prefix(call: Call, prefix: LearnedPrefix, added_scores: Tensor | None) -> Tensor:
    key, value = (
        torch.cat([learned.detach().expand(BATCH, -1, -1, -1), own], dim=2)
        for learned, own in ((prefix.keys, call.key), (prefix.values, call.value))
    )
    if added_scores is not None:
        zeros = torch.zeros(*added_scores.shape[:-1], ADDED, dtype=added_scores.dtype)
        added_scores = torch.cat([zeros, added_scores], dim=-1)
    return _formula(call.query, key, value, call.options["scaling"], added_scores)


def _masks() -> dict[str, tuple[Tensor | None, Tensor | None, dict[str, object]]]:
    """name -> (mask that the function gets, scores that the formula adds, further options)."""
    keep = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    keep[1, ..., -2:] = False
    padding = torch.zeros(keep.shape, dtype=torch.float64).masked_fill(~keep, -math.inf)
    bias = _random(1, HEADS, QUERIES, KEYS, seed=6)
    return {
        "none": (None, None, {}),
        "boolean": (keep, padding, {}),
        "additive": (bias, bias, {}),
        "position bias": (None, bias, {"position_bias": bias}),
        "position bias and boolean": (keep, bias + padding, {"position_bias": bias}),
    }


@pytest.mark.parametrize("name", list(_masks()))
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_concatenated_is_the_formula(name: str, strength: float) -> None:
    mask, scores, options = _masks()[name]
    call, prefix = _call(_module(), mask=mask, **options), _prefix(strength)
    without = _formula(call.query, call.key, call.value, 0.3, scores)
    expected = (1 - strength) * without + strength * _with_prefix(call, prefix, scores)
    torch.testing.assert_close(prefix(call), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", list(_masks()))
def test_gated_is_the_formula(name: str) -> None:
    mask, scores, options = _masks()[name]
    gate = _random(HEADS, seed=7)
    call, prefix = _call(_module(), mask=mask, **options), _prefix(0.7, gate=gate)
    keys, values = (t.detach().expand(BATCH, -1, -1, -1) for t in (prefix.keys, prefix.values))
    expected = _formula(call.query, call.key, call.value, 0.3, scores)
    expected = expected + 0.7 * gate.tanh()[:, None] * _formula(call.query, keys, values, 0.3, None)
    torch.testing.assert_close(prefix(call), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("unwritten", [0, 4])
def test_causal_without_a_mask(biased: bool, unwritten: int) -> None:
    """Query i sees every learned key and keys 0..i; a static cache's unwritten tail is seen by none."""
    bias = _random(1, HEADS, QUERIES, QUERIES + unwritten, seed=6) if biased else None
    call, prefix = _call(_module(causal=True), keys=QUERIES + unwritten, position_bias=bias), _prefix()
    future = torch.ones(QUERIES, QUERIES + unwritten, dtype=torch.bool).triu(1)
    scores = torch.zeros(1, 1, *future.shape, dtype=torch.float64) if bias is None else bias
    scores = scores.masked_fill(future, -math.inf)
    torch.testing.assert_close(prefix(call), _with_prefix(call, prefix, scores), rtol=0, atol=1e-14)


def test_one_query_sees_the_whole_cache() -> None:
    call, prefix = _call(_module(causal=True), queries=1), _prefix()
    torch.testing.assert_close(prefix(call), _with_prefix(call, prefix, None), rtol=0, atol=1e-14)


def test_dropout_acts_on_the_learned_positions_too() -> None:
    call, prefix = _call(_module(), dropout=0.5), _prefix()
    torch.manual_seed(0)
    outputs = torch.stack([prefix(call) for _ in range(400)])
    expected = _with_prefix(call, prefix, None)
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
    # the mean of 400 draws: within five of its standard errors everywhere
    assert ((outputs.mean(0) - expected).abs() < 5 * outputs.std(0) / 20).all()


@pytest.mark.parametrize(
    "part", [None, _prefix(0.0), _prefix(0.0, gate=torch.ones(HEADS))], ids=["none", "0", "gated 0"]
)
@pytest.mark.parametrize("causal", [False, True])
def test_without_strength_it_is_the_stock_function(part: LearnedPrefix | None, causal: bool) -> None:
    module = _module(causal=causal)
    if part is not None:
        module.add_module(SLOT, part)
    call = _call(module, keys=QUERIES)
    output, weights = attend(module, call.query, call.key, call.value, None, **call.options)
    expected, _ = sdpa_attention_forward(module, call.query, call.key, call.value, None, **call.options)
    assert torch.equal(output, expected)
    assert weights is None


def test_capped_scores_are_refused() -> None:
    call = _call(_module())
    with pytest.raises(MethodError, match="caps its attention scores"):
        attend(call.module, call.query, call.key, call.value, None, softcap=50.0)
    with pytest.raises(MethodError, match="has attention sinks"):
        attend(call.module, call.query, call.key, call.value, None, s_aux=torch.zeros(2))
    config = transformers.Gemma2Config(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                       num_key_value_heads=1, head_dim=8, intermediate_size=16)  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config)
    with pytest.raises(MethodError, match="Gemma2Attention"):
        attention_sites(model)


def test_registering_twice_changes_nothing() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    register()
    register()
    assert ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] is attend
    assert ALL_MASK_ATTENTION_FUNCTIONS[IMPLEMENTATION] is sdpa_mask
    assert ALL_ATTENTION_FUNCTIONS[MASKED] is attend


SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 3,
    "eos_token_id": 2, "decoder_start_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("family", ["pegasus_x", "bigbird_pegasus"])
def test_decoders_that_leave_causality_to_the_mask_stay_causal(family: str) -> None:
    own = {
        "pegasus_x": {"num_global_tokens": 8, "block_size": 8},
        "bigbird_pegasus": {"attention_type": "original_full"},
    }
    config = transformers.AutoConfig.for_model(family, **SEQ2SEQ, **own[family])
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    base = Base(name="tiny", model=model.requires_grad_(False), processor=tiny.tokenizer("seq2seq"))
    attached = PTuning(PTuningSettings(num_virtual_tokens=4)).attach(base, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(10, 100, (2, 16), generator=torch.Generator().manual_seed(2))
    target = ids[:, :6]
    other = torch.cat([target[:, :-1], target[:, -1:].flip(0)], dim=1)
    with torch.no_grad():
        one, two = (
            attached.view(1.0)(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=given).logits
            for given in (target, other)
        )
    assert torch.equal(one[:, :-1], two[:, :-1])
    assert not torch.equal(one[:, -1], two[:, -1])
    assert {site.is_causal for site in attached.sites if ".decoder." in site.path and site.kind == "self"} == {True}


def test_a_model_that_the_interface_changes_is_refused() -> None:
    class Uneven(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(x) * (1 if self.config._attn_implementation == "eager" else 2)
            return made

    model = Uneven(transformers.BertConfig(attn_implementation="eager"))
    with pytest.raises(MethodError, match="Uneven computes something else"):
        check_unchanged(model, {"x": torch.ones(2, 2)}, where="tiny")


def test_a_model_with_its_own_masks_and_attention_is_refused() -> None:
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=100, max_seq_len=64)
    assert attention_sites(transformers.MptForCausalLM(config)) == ()


SELF, CAUSAL, CROSS = ("self", False), ("self", True), ("cross", False)
SITES = {  # kinds in the order of computation, query heads, key-value heads, size of a key
    ("bert", "text-classification"): ([SELF] * 3, 4, 4, 8),
    ("modernbert", "token-classification"): ([SELF] * 3, 4, 4, 8),
    ("gpt2", "generation"): ([CAUSAL] * 3, 4, 4, 8),
    ("llama", "generation"): ([CAUSAL] * 3, 4, 2, 8),
    ("qwen3", "generation"): ([CAUSAL] * 3, 4, 2, 8),
    ("marian", "translation"): ([SELF] * 2 + [CAUSAL, CROSS] * 2, 4, 4, 8),
    ("t5", "translation"): ([SELF] * 2 + [CAUSAL, CROSS] * 2, 4, 4, 8),
    ("vit", "image-classification"): ([SELF] * 3, 4, 4, 8),
    ("yolos", "object-detection"): ([SELF] * 3, 4, 4, 8),
    ("rt-detr-v2", "object-detection"): ([SELF] * 3, 4, 4, 8),
    ("d-fine", "object-detection"): ([SELF] * 3, 4, 4, 8),
    ("resnet", "image-classification"): ([], 0, 0, 0),
    ("deberta-v2", "text-classification"): ([], 0, 0, 0),
}


@pytest.mark.parametrize(("family", "task"), list(SITES))
def test_sites_are_found_by_a_probe(family: str, task: str) -> None:
    kinds, heads, key_value_heads, dim = SITES[family, task]
    model = tiny.tiny_model(family, task)
    before = {name: id(module) for name, module in model.named_modules()}
    sites = attention_sites(model)
    assert [(site.kind, site.is_causal) for site in sites] == kinds
    assert all(
        (s.num_heads, s.num_key_value_heads, s.key_dim, s.value_dim) == (heads, key_value_heads, dim, dim)
        for s in sites
    )
    assert all(site.calls == 1 and site.path.startswith(f"{site.block}.") for site in sites)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(SLOT not in vars(module) for module in model.modules())
    assert model.config._attn_implementation != IMPLEMENTATION


def test_masks_that_hide_the_future_make_a_site_causal() -> None:
    model = tiny.tiny_model("gpt2", "generation")
    ids = torch.tensor([[1, 2, 3, 4]])
    padded = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
    }  # padding makes transformers give a mask
    calls = record_calls(model, padded)
    assert all(call.mask is not None for found in calls.values() for call in found)
    assert all(site.is_causal for site in attention_sites(model))  # its probe is padded too


def test_a_layer_that_is_shared_counts_its_calls() -> None:
    config = transformers.AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=3,
                                       num_attention_heads=2, intermediate_size=16)  # fmt: skip
    model = transformers.AlbertModel(config)
    (site,) = attention_sites(model)
    assert site.calls == 3


def test_a_module_without_configuration_is_passed_over() -> None:
    model = tiny.tiny_model("bert", "text-classification")
    model.bert.encoder.extra = nn.Linear(2, 2)
    model.bert.encoder.extra.config = SimpleNamespace()
    assert len(attention_sites(model)) == 3
