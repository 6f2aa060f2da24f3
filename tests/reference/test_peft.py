"""LoRA against PEFT: its layers with the same A and B, and PeftModel.from_pretrained on folders that we saved."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import AUTO, config, tokenizer
from torch import nn
from transformers.pytorch_utils import Conv1D
from tuned import FAMILIES, generator, inputs, logits, shared_base, train_

from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.load import load_base
from domaintune.bases.pooled import PooledClassifier
from domaintune.errors import MethodError
from domaintune.methods import method_from
from domaintune.methods.lora import LoRAAttached
from domaintune.methods.lora_layers import low_rank_layer
from domaintune.methods.peft_format import target_modules
from domaintune.settings import LoRASettings

pytestmark = [
    # PEFT calls a method that transformers has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


def trained(base: Base, family: str, **settings: Any) -> LoRAAttached:
    attached = method_from(LoRASettings(**settings)).attach(base, generator=generator())
    assert isinstance(attached, LoRAAttached)
    train_(attached, family)
    attached.model.eval()
    return attached


def stock(base: Base, family: str, folder: Path) -> Any:
    """The base as a user of transformers loads it, from a folder: what the weights lack has other random numbers there."""
    base.loaded.save_pretrained(folder)
    labels = {} if family in ("gpt2", "qwen3", "marian") else {"num_labels": 4, "ignore_mismatched_sizes": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        return getattr(transformers, AUTO[FAMILIES[family]]).from_pretrained(folder, **labels).eval()


@pytest.mark.parametrize("settings", [{}, {"dora": True}], ids=["lora", "dora"])
def test_what_the_weights_lack_goes_with_the_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    """BERT's pooler, of which a language model's checkpoint has none."""
    folder, adapter = tmp_path / "base", tmp_path / "adapter"
    stock(shared_base("bert"), "bert", folder)
    shared_base("bert").processor.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".pooler." not in name and "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_base(str(folder), auto_class=AUTO["text-classification"])
    assert loaded.lacking == ("bert.pooler.dense", "classifier")
    spec = HeadSpec(AUTO["text-classification"], ("a", "b", "c", "d"))
    base = loaded.with_head("domain", spec, generator=generator(2))
    assert set(base.heads["domain"].modules) == {"bert.pooler.dense", "classifier"}
    attached = trained(base, "bert", **settings)
    weight = "bert.pooler.dense.weight"
    assert not torch.equal(attached.model.get_parameter(weight), base.model.get_parameter(weight))
    adapter.mkdir()
    attached.save(adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == [
        "bert.pooler.dense",
        "classifier",
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=4)
    assert not torch.equal(model.get_parameter(weight), base.model.get_parameter(weight))
    theirs = peft.PeftModel.from_pretrained(model, adapter).eval()
    torch.testing.assert_close(logits(theirs, "bert"), logits(attached.model, "bert"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["linear", "transposed", "conv1d", "conv2d", "pointwise"])
def test_layers_equal_peft_in_outputs_and_gradients(kind: str, dora: bool) -> None:
    torch.manual_seed(0)
    plain, shape = {
        "linear": (nn.Linear(6, 5), (3, 4, 6)),
        "transposed": (Conv1D(5, 6), (3, 4, 6)),
        "conv1d": (nn.Conv1d(6, 5, 3, padding=1), (3, 6, 9)),
        "conv2d": (nn.Conv2d(6, 5, 3, stride=2, padding=1), (3, 6, 9, 9)),
        "pointwise": (nn.Conv2d(6, 5, 1, bias=False), (3, 6, 4, 4)),
    }[kind]
    plain = plain.double().requires_grad_(False)
    settings = peft.LoraConfig(
        r=2, lora_alpha=3, use_dora=dora, target_modules=["0"], fan_in_fan_out=kind == "transposed"
    )
    model = peft.get_peft_model(nn.Sequential(copy.deepcopy(plain)), settings, autocast_adapter_dtype=False)
    theirs: Any = model.base_model.model[0]
    ours = low_rank_layer(plain, rank=2, scale=1.5, dropout=0.0, dora=dora, generator=generator())
    a, b = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    with torch.no_grad():
        ours.low_rank.B.normal_(generator=generator(3))
        a.copy_(ours.low_rank.A)
        b.copy_(ours.low_rank.B)
    x = torch.randn(shape, generator=generator(6), dtype=torch.float64)
    ours(x).square().sum().backward()
    model(x).square().sum().backward()
    torch.testing.assert_close(ours(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.low_rank.A.grad, a.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.low_rank.B.grad, b.grad, rtol=1e-10, atol=1e-10)
    if dora:
        magnitude = theirs.lora_magnitude_vector["default"].weight
        assert ours.low_rank.magnitude is not None
        torch.testing.assert_close(ours.low_rank.magnitude, magnitude.flatten(), rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.low_rank.magnitude.grad, magnitude.grad.flatten(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dora": True, "rank_stabilised": True},
        {"initialise": "pissa"},
        {"initialise": "pissa", "rank_stabilised": True},
    ],
    ids=["lora", "dora", "pissa", "pissa-rs"],
)
@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "gpt2", "qwen3", "marian", "vit", "resnet", "yolos"]
)
def test_peft_loads_what_we_saved(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = shared_base(family)
    if family == "marian":  # whose positions are no part of its weights
        base = replace(base, model=stock(base, family, tmp_path / "positions").requires_grad_(False))
    attached = trained(base, family, **settings)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    attached.save(adapter)
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    end = logits(attached.view(1, form="terms"), family)
    theirs = peft.PeftModel.from_pretrained(stock(base, family, tmp_path / "base"), adapter).eval()
    # The same products in another order of additions, float32.
    torch.testing.assert_close(logits(theirs, family), end, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(theirs.merge_and_unload(), family), end, rtol=0, atol=1e-5)
    again = method_from(LoRASettings(**settings)).attach(base, generator=generator(9))
    again.load(adapter)
    assert again.state().keys() == attached.state().keys()
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in attached.state().items())


@pytest.mark.parametrize(("family", "dora"), [("rt-detr-v2", True), ("d-fine", False)])
def test_peft_on_detectors_needs_input_embeddings(
    family: str, dora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shared_base(family)
    attached = trained(base, family, dora=dora)  # rows of zero norm included
    attached.save(tmp_path)
    stock: Any = copy.deepcopy(base.model)
    with pytest.raises(NotImplementedError, match="get_input_embeddings"):
        peft.PeftModel.from_pretrained(copy.deepcopy(stock), tmp_path)
    monkeypatch.setattr(type(stock.model), "get_input_embeddings", lambda model: nn.Identity())
    theirs = peft.PeftModel.from_pretrained(stock, tmp_path).eval()
    end = logits(attached.model, family)
    torch.testing.assert_close(logits(theirs, family), end, rtol=0, atol=1e-5)
    again = method_from(LoRASettings(dora=dora)).attach(base, generator=generator(9))
    again.load(tmp_path)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in attached.state().items())


def test_peft_on_mobilenet_works_after_merging(tmp_path: Path) -> None:
    base = shared_base("mobilenet-v2")
    attached = trained(base, "mobilenet-v2")
    attached.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path).eval()
    with pytest.raises(AttributeError, match="no attribute 'stride'"):  # read from outside by its padding
        logits(theirs, "mobilenet-v2")
    end = logits(attached.model, "mobilenet-v2")
    torch.testing.assert_close(logits(theirs.merge_and_unload(), "mobilenet-v2"), end, rtol=0, atol=1e-5)


def test_moved_batch_norm_statistics_reach_peft(tmp_path: Path) -> None:
    base = shared_base("resnet")
    attached = method_from(LoRASettings()).attach(base, generator=generator())
    attached.train_(train_batch_norm=True)
    logits(attached.model, "resnet")
    attached.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path).eval()
    end = logits(attached.model.eval(), "resnet")
    assert not torch.equal(end, logits(base.model, "resnet"))
    torch.testing.assert_close(logits(theirs, "resnet"), end, rtol=0, atol=1e-5)
    again = method_from(LoRASettings()).attach(base, generator=generator(9))
    again.load(tmp_path)
    assert torch.equal(logits(again.model.eval(), "resnet"), end)


def test_reflecting_padding_equals_peft_only_merged(tmp_path: Path) -> None:
    """PEFT's A pads with zeros whatever the layer does, so its own two forms differ there; ours agree."""
    plain = nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect").requires_grad_(False)
    ours = low_rank_layer(plain, rank=2, scale=1.0, dropout=0.0, dora=False, generator=generator())
    nn.init.normal_(ours.low_rank.B, generator=generator(1))
    settings = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0"])
    model: Any = peft.get_peft_model(nn.Sequential(copy.deepcopy(plain)), settings)
    theirs = model.base_model.model[0]
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(ours.low_rank.A)
        theirs.lora_B["default"].weight.copy_(ours.low_rank.B)
    x = torch.randn(2, 6, 8, 8, generator=generator(2))
    with torch.no_grad():
        assert not torch.allclose(model(x), ours(x), atol=1e-2)
        torch.testing.assert_close(model.merge_and_unload()(x), ours(x), rtol=0, atol=1e-5)


def test_pooled_base_is_an_adapter_of_its_body(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = transformers.AutoModel.from_config(config("bert"))
    model = PooledClassifier(body, body.config, "mean").eval().requires_grad_(False)
    base = Base(name="tiny-pooled", model=model, processor=tokenizer(), pooling="mean")
    spec = HeadSpec(AUTO["text-classification"], ("a", "b", "c"))
    base = base.with_head("domain", spec, generator=generator(2))
    attached = trained(base, "bert", dora=True)
    attached.save(tmp_path)
    assert load_file(tmp_path / "head.safetensors").keys() == {"classifier.weight", "classifier.bias"}
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base.model.get_submodule("body")), tmp_path).eval()
    view: Any = attached.view(1, form="terms")
    with torch.no_grad():
        ids = inputs("bert")["input_ids"]
        expected = view.body(input_ids=ids).last_hidden_state
        assert not torch.equal(expected, base.model.get_submodule("body")(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state, expected, rtol=0, atol=1e-5)
    again = method_from(LoRASettings(dora=True)).attach(base, generator=generator(9))
    again.load(tmp_path)
    assert torch.equal(logits(again.model, "bert"), logits(view, "bert"))
    assert isinstance(attached.merged(1), PooledClassifier)


def test_targets_that_peft_would_overmatch_become_an_expression() -> None:
    assert target_modules(["a.query"], ["a", "a.query", "b.query"]) == ["a.query"]
    assert target_modules(["a.query"], ["a", "a.query", "b.a.query"]) == r"a\.query"


def test_other_settings_and_missing_files_are_refused(tmp_path: Path) -> None:
    base = shared_base("bert")
    attached = trained(base, "bert")
    with pytest.raises(MethodError, match="cannot be read"):
        attached.load(tmp_path)
    attached.save(tmp_path)
    other = method_from(LoRASettings(alpha=8)).attach(base, generator=generator())
    with pytest.raises(MethodError, match=r"'lora_alpha' is 16\.0 here and 8\.0 in the recipe"):
        other.load(tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(values["target_modules"]) == 18
    assert values["modules_to_save"] == ["classifier"]
