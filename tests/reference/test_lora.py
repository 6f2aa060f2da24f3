"""LoRA and DoRA: formulas in float64, identities of the dial, determinism, groups, refusals."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D
from tuned import FAMILIES, fresh_base, generator, logits, shared_base, train_, versions

from domaintune.bases.base import Base, set_submodule_
from domaintune.errors import MethodError
from domaintune.methods import method_from
from domaintune.methods.lora import LoRAAttached
from domaintune.methods.lora_layers import LoRALayer, low_rank_layer, weight_at, weight_rows
from domaintune.methods.weights import canonical_names
from domaintune.settings import LoRASettings

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 4, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (3, 6)),
    "transposed": (lambda: Conv1D(5, 6), (3, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1), (3, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1), (3, 6, 9, 8)),
    "pointwise": (lambda: nn.Conv2d(6, 5, 1, bias=False), (3, 6, 4, 4)),
    "dilated": (lambda: nn.Conv2d(6, 5, 3, dilation=2, padding="same"), (3, 6, 8, 8)),
    "reflecting": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 8, 8)),
}


def attach(base: Base, *, seed: int = 0, **settings: Any) -> LoRAAttached:
    attached = method_from(LoRASettings(**settings)).attach(base, generator=generator(seed))
    assert isinstance(attached, LoRAAttached)
    return attached


@torch.no_grad()
def shake_(layer: LoRALayer, *, by: float = 0.3) -> LoRALayer:
    for parameter in layer.low_rank.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator(4), dtype=parameter.dtype), alpha=by)
    return layer


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layer_is_its_formula_in_float64(kind: str, dora: bool) -> None:
    """h(s) = (W0 + s (W' - W0)) x + b with W' = W0 + scale B A, by DoRA m / |W'| W': terms, merged and formula alike."""
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    plain = make().double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(generator=generator(5))
    x = torch.randn(shape, generator=generator(6), dtype=torch.float64)
    layer = low_rank_layer(plain, rank=2, scale=0.7, dropout=0.0, dora=dora, generator=generator())
    assert torch.equal(layer(x), plain(x))
    shake_(layer)
    rows, low_rank = weight_rows(plain), layer.low_rank
    adapted = rows + 0.7 * low_rank.B.flatten(1) @ low_rank.A.flatten(1)
    if dora:
        assert low_rank.magnitude is not None
        adapted = low_rank.magnitude[:, None] / torch.linalg.norm(adapted, dim=1, keepdim=True) * adapted
    for strength in (0.0, 0.3, 1.0):
        expected = copy.deepcopy(plain)
        weight_rows(expected).data.copy_(torch.lerp(rows, adapted, strength))
        low_rank.strength = strength
        torch.testing.assert_close(layer(x), expected(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(weight_at(layer, strength), expected.weight, rtol=0, atol=1e-12)


def test_dora_leaves_rows_of_zero_norm_to_lora() -> None:
    plain = nn.Linear(6, 5)
    nn.init.zeros_(plain.weight)
    layer = low_rank_layer(plain, rank=2, scale=1.0, dropout=0.0, dora=True, generator=generator())
    x = torch.randn(3, 6, generator=generator(1))
    assert torch.equal(layer(x), plain(x))
    layer(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.low_rank.parameters())
    low_rank = shake_(layer).low_rank
    torch.testing.assert_close(layer(x), x @ low_rank.A.T @ low_rank.B.T + plain.bias)


def test_dropout_acts_on_the_low_rank_path_alone() -> None:
    layer = shake_(low_rank_layer(nn.Linear(6, 5), rank=2, scale=1.0, dropout=0.5, dora=False, generator=generator()))
    x = torch.ones(400, 6)
    layer.train()
    torch.manual_seed(0)
    low_rank = layer.low_rank
    hidden = (layer(x) - nn.functional.linear(x, layer.weight, layer.bias)) @ torch.linalg.pinv(low_rank.B.T)
    dropped = hidden @ torch.linalg.pinv(low_rank.A.T)  # the part of dropout(x) in A's row space
    assert dropped.std(dim=0).min() > 0.1
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[1])


def test_sixteen_bit_weights_keep_their_type_and_learn_in_float32() -> None:
    plain = nn.Linear(6, 5).to(torch.bfloat16)
    layer = low_rank_layer(plain, rank=2, scale=1.0, dropout=0.0, dora=True, generator=generator())
    x = torch.randn(3, 6, generator=generator(1)).to(torch.bfloat16)
    assert torch.equal(layer(x), plain(x))
    assert {p.dtype for p in layer.low_rank.parameters()} == {torch.float32}
    assert shake_(layer)(x).dtype == torch.bfloat16
    assert torch.equal(weight_at(layer, 0), plain.weight)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_autocast(dora: bool) -> None:
    plain = nn.Linear(6, 5)
    layer = low_rank_layer(plain, rank=2, scale=1.0, dropout=0.0, dora=dora, generator=generator())
    x = torch.randn(3, 6, generator=generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
        assert shake_(layer)(x).dtype == torch.bfloat16
    layer(x).sum().backward()
    # Norms are taken in float32 also under autocast; the products are bf16's, 8 bits of mantissa.
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), layer(x.clone()).float())
        low = layer(x).float()
    torch.testing.assert_close(low, layer(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dial_and_isolation(family: str, dora: bool) -> None:
    base = shared_base(family)
    before, untouched = versions(base.model), copy.deepcopy(base.model.state_dict())
    start = logits(base.model, family)
    attached = attach(base, dora=dora)
    assert torch.equal(logits(attached.model, family), start)
    train_(attached, family)
    attached.model.eval()
    end = logits(attached.model, family)
    assert not torch.equal(end, start)
    trained = set(attached.state())
    for name, parameter in base.model.named_parameters():
        assert name in trained or torch.equal(attached.model.get_parameter(name), parameter), name
    for form in ("merged", "terms"):
        assert torch.equal(logits(attached.view(0, form=form), family), start)  # type: ignore[arg-type]
    assert torch.equal(logits(attached.view(1, form="terms"), family), end)
    # Rounding of W0 + Delta W against W0 x + Delta W x, in float32, over a handful of layers.
    torch.testing.assert_close(logits(attached.view(1), family), end, rtol=0, atol=1e-5)
    half = attached.view(0.5, form="terms")
    middle = logits(half, family)
    merged = attached.merged(0.5)
    torch.testing.assert_close(logits(merged, family), middle, rtol=0, atol=1e-5)
    assert type(merged) is type(base.model)
    assert merged.state_dict().keys() == base.model.state_dict().keys()
    assert canonical_names(merged) == canonical_names(base.model)
    own = {p.data_ptr() for p in merged.parameters()}
    assert own.isdisjoint({p.data_ptr() for m in (base.model, attached.model) for p in m.parameters()})
    train_(attached, family, steps=1)
    assert torch.equal(logits(half, family), middle)
    assert versions(base.model) == before
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in base.model.state_dict().items())


def test_effective_weights_lie_on_the_line_in_float64() -> None:
    base = fresh_base("gpt2")
    base = replace(base, model=base.model.double())
    attached = attach(base, dora=True)
    for layer in attached.layers().values():
        shake_(layer)
    ends = {path: weight_at(layer, 1) for path, layer in attached.layers().items()}
    for strength in (0.0, 0.3, 0.5, 1.0):
        view = attached.view(strength)
        for path, end in ends.items():
            start = base.model.get_parameter(f"{path}.weight")
            got = view.get_parameter(f"{path}.weight")
            torch.testing.assert_close(got, start + strength * (end - start), rtol=0, atol=1e-10)


def test_start_depends_on_the_generator_alone() -> None:
    base = shared_base("bert")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = attach(base).state()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = attach(base).state(), attach(base, seed=1).state()
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["bert.encoder.layer.0.attention.self.query.low_rank.A"],
                           other["bert.encoder.layer.0.attention.self.query.low_rank.A"])  # fmt: skip


def test_scales() -> None:
    base = shared_base("bert")
    plain = next(iter(attach(base, rank=9, alpha=18).layers().values()))
    stabilised = next(iter(attach(base, rank=9, alpha=18, rank_stabilised=True).layers().values()))
    assert plain.low_rank.scale == 2.0
    assert math.isclose(stabilised.low_rank.scale, 6.0)


def test_targets_and_groups() -> None:
    base = shared_base("bert")
    attached = attach(base, targets=("attention",), dora=True)
    assert all(".attention." in path for path in attached.paths)
    assert len(attached.paths) == 12
    names = {id(p): name for name, p in attached.model.named_parameters()}
    grouped = {group.name: {names[id(p)] for p in group.parameters} for group in attached.parameter_groups()}
    assert grouped["head"] == {"classifier.weight"}
    assert grouped["head (no decay)"] == {"classifier.bias"}
    assert {name.rpartition(".")[2] for name in grouped["lora"]} == {"A", "B"}
    assert {name.rpartition(".")[2] for name in grouped["lora (no decay)"]} == {"magnitude"}
    assert {g.scale for g in attached.parameter_groups()} == {1.0}


def test_depthwise_convolutions_are_left_out_and_listed() -> None:
    attached = attach(shared_base("mobilenet-v2"))
    assert attached.left_out
    assert all("conv_3x3" in path for path in attached.left_out)
    assert not set(attached.left_out) & set(attached.paths)


def test_head_layers_are_trained_whole_not_adapted() -> None:
    attached = attach(shared_base("yolos"))
    assert not any("class_labels_classifier" in path for path in attached.paths)


def replaced(module: nn.Module, path: str) -> Base:
    base = fresh_base("resnet")
    set_submodule_(base.model, path, module)
    return base


SITE = "resnet.encoder.stages.1.layers.0.layer.0.convolution"


def test_grouped_convolutions_are_left_out_and_listed() -> None:
    grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2, bias=False).requires_grad_(False)
    attached = attach(replaced(grouped, SITE))
    assert attached.left_out == (SITE,)
    assert SITE not in attached.paths
    assert attached.paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_subclasses_of_linear_that_compute_the_same_are_adapted(bias: bool, dtype: torch.dtype) -> None:
    """Falcon's linear layers."""
    made = transformers.FalconConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0, bias=bias
    )
    model = transformers.FalconForCausalLM(made).to(dtype).eval().requires_grad_(False)
    base = Base(name="tiny-falcon", model=model, processor=None)
    attached = attach(base)
    assert len(attached.paths) == 8
    ids = torch.arange(10, 22).view(2, 6)

    def read(one: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            read: torch.Tensor = one(input_ids=ids).logits
        return read

    assert torch.equal(read(attached.model.eval()), read(model))
    with torch.no_grad():
        for parameter in attached.low_rank_parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator()) * 0.1)
    end = read(attached.model)
    assert not torch.equal(end, read(model))
    assert torch.equal(read(attached.view(1.0, form="terms")), end)
    merged = attached.merged(1.0)
    assert type(merged.get_submodule(attached.paths[0])).__name__ == "FalconLinear"
    assert torch.allclose(read(merged), end, atol=1e-5 if dtype == torch.float32 else 0.05)  # merging rounds the weight


def test_a_subclass_of_linear_that_computes_something_else_is_refused() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    base = fresh_base("bert")
    path = "bert.encoder.layer.0.intermediate.dense"
    old = base.model.get_submodule(path)
    set_submodule_(base.model, path, Doubled(old.in_features, old.out_features).requires_grad_(False))
    left = r"\(attention, encoder.attention\)"
    with pytest.raises(
        MethodError, match=rf"{path}: LoRA does not know layers of class Doubled.*{left}, or the method"
    ):
        attach(base)
    assert attach(base, targets=("attention",)).paths


def test_unknown_layer_class_is_refused_by_name() -> None:
    class Standardised(nn.Conv2d):
        """A convolution that does something of its own to its weight."""

    with pytest.raises(
        MethodError, match=f"{SITE}: LoRA does not know layers of class Standardised. Use the method freeze"
    ):
        attach(replaced(Standardised(8, 16, 3, stride=2, padding=1, bias=False).requires_grad_(False), SITE))


def test_tied_weight_is_refused_by_name() -> None:
    base = fresh_base("bert")
    path = "bert.encoder.layer.{}.attention.self.query"
    base.model.get_submodule(path.format(0)).weight = base.model.get_submodule(path.format(1)).weight
    with pytest.raises(MethodError, match=r"layer\.0\.attention\.self\.query: its weight is tied"):
        attach(base)


def test_experts_that_are_one_tensor_are_told() -> None:
    config = transformers.MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    base = Base(name="tiny-mixtral", model=transformers.MixtralForCausalLM(config), processor=None)
    (note,) = method_from(LoRASettings()).notes(base)
    experts = 2 * 4 * 32 * 48 * 3 / sum(p.numel() for p in base.model.parameters())
    assert f"leaves out mlp.experts.gate_up_proj, mlp.experts.down_proj ({experts:.0%}" in note
    assert "freeze" in note
    assert "full" in note
    assert method_from(LoRASettings(targets=("attention",))).notes(base) == []  # nobody asked for them
    assert [method_from(LoRASettings()).notes(shared_base(family)) for family in FAMILIES] == [[]] * len(FAMILIES)


def test_experts_without_rows_of_a_subclass_of_linear_are_adapted() -> None:
    class Same(nn.Linear):
        pass

    config = transformers.SwitchTransformersConfig(
        vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, num_experts=8,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.SwitchTransformersForConditionalGeneration(config)
    experts = [path for path, one in model.named_modules() if "expert_" in path and isinstance(one, nn.Linear)]
    for path in experts:
        old = model.get_submodule(path)
        set_submodule_(model, path, Same(old.in_features, old.out_features, bias=False))
    base = Base(name="tiny-switch", model=model.requires_grad_(False), processor=None)
    assert {path for path in attach(base).paths if "expert_" in path} == set(experts)


def test_targets_that_choose_nothing_are_refused() -> None:
    with pytest.raises(MethodError, match="selector 'attention': no layer of this base matches"):
        attach(shared_base("resnet"), targets=("attention",))


def test_foreign_states_are_refused() -> None:
    base = shared_base("bert")
    state = attach(base).state()
    with pytest.raises(MethodError, match=r"shape \(8, 32\), the model's \(4, 32\)"):
        attach(base, rank=4).load_(state)
    with pytest.raises(MethodError, match=r"lacks .*magnitude and 17 more"):
        attach(base, dora=True).load_(state)
