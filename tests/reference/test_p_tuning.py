"""P-tuning over many architectures: its identities, and version 1 against the ordinary soft prompt."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from domaintune.bases.attention import IMPLEMENTATION, SLOT, Prefix
from domaintune.bases.base import Base, HeadSpec
from domaintune.errors import MethodError
from domaintune.methods.p_tuning import PTuned, PTuning
from domaintune.methods.prompt_stream import STREAM, PromptStream
from domaintune.settings import PTuningSettings

TEXT, TOKENS, TRANSLATION, GENERATION, PICTURES, DETECTION = (
    "text-classification", "token-classification", "translation", "generation", "image-classification", "object-detection",
)  # fmt: skip
VERSION_2 = [
    ("bert", TEXT), ("roberta", TOKENS), ("distilbert", TEXT), ("modernbert", TEXT), ("gpt2", GENERATION), ("llama", GENERATION),
    ("qwen3", GENERATION), ("marian", TRANSLATION), ("m2m100", TRANSLATION), ("t5", TRANSLATION), ("vit", PICTURES),
    ("dinov2", PICTURES), ("swin", PICTURES), ("yolos", DETECTION), ("rt-detr-v2", DETECTION), ("d-fine", DETECTION),
]  # fmt: skip
REARRANGED = {"swin", "rt-detr-v2", "d-fine"}  # windows, feature maps: no sequence that virtual tokens could form
VERSION_1 = [case for case in VERSION_2 if case[0] not in REARRANGED]
NO_ATTENTION = [("resnet", PICTURES), ("mobilenet-v2", PICTURES), ("deberta-v2", TEXT)]
N = 4
_SMALL = {"vocab_size": tiny.VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
          "intermediate_size": 48, "pad_token_id": 0}  # fmt: skip


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _base(family: str, task: str) -> Base:
    base = tiny.tiny_base(family, task)
    if task in (TRANSLATION, GENERATION):
        return base
    spec = HeadSpec(auto_class=tiny.AUTO[task], labels=("a", "b", "c"), whole=task != DETECTION)
    return base.with_head("domain", spec, generator=_generator(1))


def _attach(base: Base, **settings: Any) -> PTuned:
    attached = PTuning(PTuningSettings(num_virtual_tokens=N, **settings)).attach(base, generator=_generator())
    assert isinstance(attached, PTuned)
    return attached


def _inputs(base: Base, task: str, rows: int = 2) -> dict[str, Tensor]:
    if task in (PICTURES, DETECTION):
        side = 64 if task == DETECTION else 32
        return {"pixel_values": torch.randn(rows, 3, side, side, generator=_generator(2)).to(base.model.dtype)}
    encoded = base.processor(tiny.TEXT[:rows], padding=True, return_tensors="pt", padding_side="right")
    inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    if task == TRANSLATION:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :7]
    return inputs


def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def _loss(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), torch.zeros(logits[..., 0].numel(), dtype=torch.long), reduction="sum"
    )


def _step_(attached: PTuned, inputs: dict[str, Tensor], *, rate: float = 0.02) -> None:
    """A step that moves every trained tensor, zero gradients included (the keys under a closed gate)."""
    optimizer = torch.optim.AdamW([p for group in attached.parameter_groups() for p in group.parameters], lr=rate)
    attached.train_()
    _loss(attached.model, inputs).backward()
    optimizer.step()
    optimizer.zero_grad()


def _moved(base: Base, task: str, **settings: Any) -> PTuned:
    """Attached and trained for two steps."""
    attached = _attach(base, **settings)
    torch.manual_seed(0)
    for _ in range(2):
        _step_(attached, _inputs(base, task))
    return attached


CASES = [
    *((*case, {}) for case in VERSION_2),
    *((*case, {"gated": True}) for case in VERSION_2 if case[0] != "d-fine"),  # slow to build, and as RT-DETR
    *((*case, {"version": 1}) for case in VERSION_1),
    ("bert", TEXT, {"version": 1, "prompt_encoder": "lstm", "hidden_size": 10}),
    ("qwen3", GENERATION, {"version": 1, "prompt_encoder": "lstm", "gated": True}),
    ("vit", PICTURES, {"initialise": "text"}),
    ("bert", TEXT, {"initialise": "text"}),
    ("marian", TRANSLATION, {"initialise": "text", "gated": True}),
    ("bert", TEXT, {"reparameterise": True}),
    ("yolos", DETECTION, {"reparameterise": True, "hidden_size": 10}),
]


@pytest.mark.parametrize(("family", "task", "settings"), CASES, ids=lambda value: str(value))
def test_both_ends_and_what_is_trained(family: str, task: str, settings: dict[str, Any]) -> None:
    base = _base(family, task)
    inputs = _inputs(base, task)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    start = _logits(base.model, inputs)
    attached = _attach(base, **settings)
    assert attached.starts_at_base == settings.get("gated", False)
    assert torch.equal(_logits(attached.model.eval(), inputs), start) == attached.starts_at_base

    trained = [p for group in attached.parameter_groups() for p in group.parameters]
    assert {id(p) for p in trained} == {id(p) for p in attached.model.parameters() if p.requires_grad}
    assert len({id(p) for p in trained}) == len(trained)
    torch.manual_seed(0)
    _step_(attached, inputs)
    _loss(attached.model, inputs).backward()
    for name, parameter in attached.model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        outside = name.endswith("bias") or "class_embed" in name or "enc_score_head" in name or "denoising" in name
        assert reached == parameter.requires_grad or (parameter.requires_grad and outside), name

    attached.model.eval()
    tuned = _logits(attached.model, inputs)
    assert not torch.equal(tuned, start)
    assert torch.equal(_logits(attached.view(0.0), inputs), start)
    assert torch.equal(_logits(attached.view(1.0, form="terms"), inputs), tuned)
    middle = _logits(attached.view(0.5), inputs)
    assert torch.isfinite(middle).all()
    assert not torch.equal(middle, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


@pytest.mark.parametrize(("family", "task"), NO_ATTENTION)
@pytest.mark.parametrize("version", [1, 2])
def test_models_without_the_interface_are_refused(family: str, task: str, version: int) -> None:
    with pytest.raises(MethodError, match=r"tiny-.* has no attention .* Use LoRA, Freeze or full\."):
        _attach(_base(family, task), version=version)


@pytest.mark.parametrize(
    (
        "family",
        "task",
        "num_virtual_tokens",
    ),  # also as many as there are patches, windows' patches, feature-map places, queries
    [
        ("swin", PICTURES, 16),
        ("swin", PICTURES, 64),
        ("rt-detr-v2", DETECTION, 4),
        ("rt-detr-v2", DETECTION, 20),
    ],
)
def test_models_that_rearrange_refuse_version_1(family: str, task: str, num_virtual_tokens: int) -> None:
    settings = PTuningSettings(version=1, num_virtual_tokens=num_virtual_tokens)
    with pytest.raises(MethodError, match=r"cannot carry virtual tokens .* Use P-tuning version 2"):
        PTuning(settings).attach(_base(family, task), generator=_generator())


def _causal(model: Any) -> Base:
    return Base(name="tiny", model=model.eval().requires_grad_(False), processor=tiny.tokenizer("causal"))


def test_positions_before_a_text_without_finite_gradients_refuse_version_1() -> None:
    """Ministral 3 scales its queries by log(1 + floor(position / length)), and the virtual tokens stand at -n to -1."""
    config = transformers.AutoConfig.for_model(
        "ministral3", **_SMALL, num_key_value_heads=2, head_dim=8, max_position_embeddings=130
    )
    base = _causal(transformers.AutoModelForCausalLM.from_config(config))
    with pytest.raises(MethodError, match=r"nothing finite at their positions. Use P-tuning version 2"):
        _attach(base, version=1)
    assert _attach(base).sites


def test_version_1_on_a_model_of_texts_and_pictures() -> None:
    text = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 16, "patch_size": 8},
        mm_tokens_per_image=4,
        image_token_id=398,
        boi_token_index=397,
        eoi_token_index=396,
    )
    base = _causal(transformers.AutoModelForCausalLM.from_config(config))
    assert base.config.get_text_config() is not base.config
    stream = _moved(base, GENERATION, version=1).model.get_submodule(STREAM)
    assert isinstance(stream, PromptStream)
    assert stream.inputs()["position_ids"].tolist() == [[-4, -3, -2, -1]]  # the text's configuration is rotary


def test_chains_without_learned_keys_are_told() -> None:
    config = transformers.LongT5Config(
        vocab_size=tiny.VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=5, decoder_start_token_id=0,
    )  # fmt: skip
    base = _causal(transformers.LongT5ForConditionalGeneration(config))
    method = PTuning(PTuningSettings())
    (note,) = method.notes(base)
    assert "leaves the encoder as it is" in note
    assert "in the decoder alone" in note
    for family, task in [
        ("t5", TRANSLATION),
        ("bert", TEXT),
        ("vit", PICTURES),
        ("rt-detr-v2", DETECTION),
        *NO_ATTENTION,
    ]:
        assert method.notes(tiny.tiny_base(family, task)) == []


PADDED = [(f, t) for f, t in VERSION_2 if t not in (PICTURES, DETECTION)]


@pytest.mark.parametrize(
    "settings", [{}, {"gated": True}], ids=str
)  # a view holds version 1's keys and values as it does 2's
@pytest.mark.parametrize(("family", "task"), PADDED)
def test_padded_is_unpadded(family: str, task: str, settings: dict[str, Any]) -> None:
    base = _base(family, task)
    view = _moved(base, task, **settings).view(0.5)
    batch = _inputs(base, task, rows=3)
    together = _logits(view, batch)
    for row in range(3):
        length = int(batch["attention_mask"][row].sum())
        alone = {
            name: tensor[row : row + 1, : tensor.shape[1] if name.startswith("decoder") else length]
            for name, tensor in batch.items()
        }
        expected = _logits(view, alone)[0]
        got = together[row][: len(expected)] if expected.ndim == 2 else together[row]
        # other kernels for masked and unmasked attention: rounding of float32
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-6)


DECODERS = [
    ("gpt2", GENERATION),
    ("llama", GENERATION),
    ("qwen3", GENERATION),
    ("marian", TRANSLATION),
    ("t5", TRANSLATION),
]


@pytest.mark.parametrize(
    ("family", "task", "settings"),
    [
        *((*case, {}) for case in DECODERS),
        *((*case, {"gated": True}) for case in DECODERS),
        ("qwen3", GENERATION, {"version": 1}),
    ],
    ids=str,
)
def test_decoding_with_the_cache_is_without(family: str, task: str, settings: dict[str, Any]) -> None:
    base = _base(family, task)
    attached = _moved(base, task, **settings)
    side = "left" if task == GENERATION else "right"
    encoded = base.processor(tiny.TEXT[:3], padding=True, return_tensors="pt", padding_side=side)
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    for strength in (0.5, 1.0):
        view: Any = attached.view(strength)
        for beams in (1, 3):
            cached, plain = (
                view.generate(**inputs, **options, num_beams=beams, use_cache=use) for use in (True, False)
            )
            assert torch.equal(cached.sequences, plain.sequences)
            for with_cache, without in zip(cached.scores, plain.scores, strict=True):
                torch.testing.assert_close(with_cache, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "task"), DECODERS)
def test_the_cache_holds_real_tokens_only(family: str, task: str) -> None:
    base = _base(family, task)
    inputs = _inputs(base, task)
    view = _attach(base).view(1.0)
    with torch.no_grad():
        cache = view(**inputs, use_cache=True).past_key_values
    decoded = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    assert cache.get_seq_length() == decoded
    if task == TRANSLATION:
        assert cache.cross_attention_cache.get_seq_length() == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_version_1_is_the_ordinary_soft_prompt_of_a_causal_model(family: str) -> None:
    base = _base(family, GENERATION)
    base.model.double()
    attached = _moved(base, GENERATION, version=1)
    stream = attached.model.get_submodule(STREAM)
    assert isinstance(stream, PromptStream)
    virtual = stream.encoders[0]().detach()
    ids = _inputs(base, GENERATION, rows=1)["input_ids"]
    length = ids.shape[1]
    model: Any = base.model
    positions = torch.arange(N + length)[None]
    if family == "gpt2":  # the virtual tokens stand after the position embeddings, and the text starts at 0
        positions = torch.cat([torch.zeros(N, dtype=torch.long), torch.arange(length)])[None]
        virtual = virtual - model.transformer.wpe.weight[0]
    embedded = torch.cat([virtual[None], model.get_input_embeddings()(ids)], dim=1)
    mask = torch.ones(1, N + length, dtype=torch.long)
    expected = _logits(model, {"inputs_embeds": embedded, "position_ids": positions, "attention_mask": mask})[:, N:]
    for tuned in (attached.view(1.0), attached.model.eval()):
        torch.testing.assert_close(_logits(tuned, {"input_ids": ids}), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("family", "task"), [("bert", TEXT), ("marian", TRANSLATION)])
def test_version_1_is_version_2_with_the_stream_s_keys_and_values(family: str, task: str) -> None:
    base = _base(family, task)
    first, second = _moved(base, task, version=1), _attach(base)
    state = {**second.state(), **{name: t for name, t in first.state().items() if STREAM not in name}}
    for path, (keys, values) in first.constants().items():
        state[f"{path}.{SLOT}.keys"], state[f"{path}.{SLOT}.values"] = keys, values
    second.load_(state)
    inputs = _inputs(base, task)
    assert torch.equal(_logits(first.view(1.0), inputs), _logits(second.view(1.0), inputs))


@pytest.mark.parametrize(
    "settings",
    [{}, {"gated": True}, {"reparameterise": True}, {"version": 1}, {"version": 1, "prompt_encoder": "lstm"}],
    ids=str,
)
@pytest.mark.parametrize(("family", "task"), [("bert", TEXT), ("marian", TRANSLATION), ("yolos", DETECTION)])
def test_saved_is_loaded(family: str, task: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = _base(family, task)
    inputs = _inputs(base, task)
    attached = _moved(base, task, **settings)
    attached.save(tmp_path)
    again = PTuning(attached._settings).attach(base, generator=_generator(9))
    again.load(tmp_path)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in attached.state().items())
    for strength in (0.5, 1.0):
        assert torch.equal(_logits(attached.view(strength), inputs), _logits(again.view(strength), inputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "p_tuning.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(config["sites"]) == len(attached.sites)
    with pytest.raises(MethodError, match="lacks"):
        again.load_({})
    with pytest.raises(MethodError, match="does not change weights"):
        attached.merged(1.0)


def test_a_network_moves_the_keys_and_values_from_their_start() -> None:
    base = _base("bert", TEXT)
    plain, attached = _attach(base).constants(), _attach(base, reparameterise=True)
    assert all(
        torch.equal(a, b) for path, pair in attached.constants().items() for a, b in zip(pair, plain[path], strict=True)
    )
    attached = _moved(base, TEXT, reparameterise=True, hidden_size=10)
    state = attached.state()
    for path, (keys, values) in attached.constants().items():
        embedding, *network = (
            state[f"{path}.{SLOT}.{name}"]
            for name in ("embedding", "network.0.weight", "network.0.bias", "network.2.weight", "network.2.bias")
        )
        assert embedding.shape == (N, 10)
        moved = torch.tanh(embedding @ network[0].T + network[1]) @ network[2].T + network[3]
        heads, width = keys.shape[0], keys.shape[2]
        for token in range(N):
            rows = moved[token].view(heads, width + values.shape[2])
            start_keys, start_values = (tensor[:, token] for tensor in plain[path])
            torch.testing.assert_close(keys[:, token], start_keys + rows[:, :width])
            torch.testing.assert_close(values[:, token], start_values + rows[:, width:])


@pytest.mark.parametrize("settings", [{}, {"version": 1}], ids=str)
def test_views_are_untouched_by_further_training(settings: dict[str, Any]) -> None:
    base = _base("bert", TEXT)
    inputs = _inputs(base, TEXT)
    attached = _moved(base, TEXT, **settings)
    view = attached.view(1.0)
    before = _logits(view, inputs)
    _step_(attached, inputs)
    assert torch.equal(_logits(view, inputs), before)
    assert not torch.equal(_logits(attached.view(1.0), inputs), before)
    assert not any(parameter.requires_grad for parameter in view.parameters())


def test_two_threads_with_two_strengths_do_not_disturb_each_other() -> None:
    base = _base("qwen3", GENERATION)
    inputs = _inputs(base, GENERATION)
    attached = _moved(base, GENERATION)
    views = [attached.view(strength) for strength in (0.3, 1.0)]
    expected = [_logits(view, inputs) for view in views]
    wrong: list[int] = []

    def run(index: int) -> None:
        wrong.extend(index for _ in range(20) if not torch.equal(_logits(views[index], inputs), expected[index]))

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("settings", [{}, {"version": 1}], ids=str)
def test_micro_batches_give_the_gradient_of_the_whole(settings: dict[str, Any]) -> None:
    base = _base("bert", TOKENS)
    base.model.double()
    attached = _attach(base, **settings)  # eval mode: no dropout, which would differ
    inputs = _inputs(base, TOKENS, rows=6)
    learned = [p for p in attached.model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(_loss(attached.model, inputs), learned)
    for part in (slice(0, 2), slice(2, 6)):
        _loss(attached.model, {name: tensor[part] for name, tensor in inputs.items()}).backward()
    for parameter, gradient in zip(learned, whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_version_1_is_that_of_the_soft_prompt() -> None:
    base = _base("llama", GENERATION)
    base.model.double()
    attached = _attach(base, version=1)
    stream = attached.model.get_submodule(STREAM)
    assert isinstance(stream, PromptStream)
    learned = list(stream.parameters())
    ids = _inputs(base, GENERATION, rows=1)["input_ids"]
    got = torch.autograd.grad(_loss(attached.model, {"input_ids": ids}), learned)
    model: Any = base.model
    embedded = torch.cat([stream.encoders[0]()[None], model.get_input_embeddings()(ids)], dim=1)
    logits = model(inputs_embeds=embedded).logits[:, N:]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.zeros(ids.numel(), dtype=torch.long), reduction="sum"
    )
    for mine, expected in zip(got, torch.autograd.grad(loss, learned), strict=True):
        # rotary embeddings are computed in float32, at other positions
        assert float((mine - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("settings", [{}, {"version": 1}], ids=str)
def test_a_deepcopy_is_a_model_of_its_own(settings: dict[str, Any]) -> None:
    base = _base("marian", TRANSLATION)
    inputs = _inputs(base, TRANSLATION)
    attached = _attach(base, **settings)
    _loss(attached.model, inputs)  # leaves a graph on the model
    copied = copy.deepcopy(attached.model).eval()
    before = _logits(copied, inputs)
    assert torch.equal(before, _logits(attached.model.eval(), inputs))
    _step_(attached, inputs)
    assert torch.equal(_logits(copied, inputs), before)
    assert not torch.equal(_logits(attached.model.eval(), inputs), before)


def test_generation_by_the_trained_model_itself_uses_its_present_prompt() -> None:
    """`generate` calls the encoder apart from the model; the stream follows the prompt encoder there too."""
    base = _base("marian", TRANSLATION)
    attached = _attach(base, version=1)
    inputs = _inputs(base, TRANSLATION)
    torch.manual_seed(0)
    model: Any = attached.model
    for _ in range(2):
        _step_(attached, inputs, rate=0.1)
        model.eval()
        encoder_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            mine = model.get_encoder()(**encoder_inputs).last_hidden_state
            view: Any = attached.view(1.0)
            assert torch.equal(mine, view.get_encoder()(**encoder_inputs).last_hidden_state)


def _counted(attached: PTuned, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the model's stream has run, as a list that grows."""
    runs: list[int] = []
    run_ = PromptStream.run_

    def counting(self: PromptStream) -> None:
        if self.owner[0] is attached.model:
            runs.append(1)
        run_(self)

    monkeypatch.setattr(PromptStream, "run_", counting)
    return runs


@pytest.mark.parametrize(("family", "task"), [("qwen3", GENERATION), ("marian", TRANSLATION)])
def test_decoding_runs_the_stream_once(family: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base(family, task)
    attached = _moved(base, task, version=1)
    runs = _counted(attached, monkeypatch)
    model: Any = attached.model.eval()
    inputs = {name: tensor for name, tensor in _inputs(base, task).items() if name != "decoder_input_ids"}
    made = [m.generate(**inputs, max_new_tokens=9, min_new_tokens=9) for m in (model, attached.view(1.0), model)]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])
    assert len(runs) == 1


@pytest.mark.parametrize("change", ["encoder", "beside", "load", "storage", "autocast", "gradients", "strength"])
def test_the_stream_follows_every_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model itself gives after a change is what its stream run anew gives."""
    base = _base("bert", TEXT)
    attached = _moved(base, TEXT, version=1, beside=["layer-norm"])
    other = {name: 1.5 * tensor for name, tensor in attached.state().items()}
    inputs = _inputs(base, TEXT)
    model = attached.model.eval()
    stream = model.get_submodule(STREAM)
    assert isinstance(stream, PromptStream)
    runs = _counted(attached, monkeypatch)
    before = _logits(model, inputs)
    assert torch.equal(_logits(model, inputs), before)
    assert len(runs) == 1
    norm = next(p for name, p in model.named_parameters() if p.requires_grad and name.endswith("LayerNorm.weight"))
    cast = torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast")
    with torch.no_grad(), cast:
        if change == "encoder":
            stream.encoders[0].table.add_(0.5)
        elif change == "beside":
            norm.mul_(1.5)
        elif change == "load":
            attached.load_(other)
        elif change == "storage":
            model.double()
            model.float()
        elif change == "gradients":
            with torch.enable_grad():
                _loss(model, inputs).backward()
        elif change == "strength":
            for module in model.modules():
                if isinstance(module, Prefix):
                    module.strength = 0.5
        count = len(runs)
        after = _logits(model, inputs)
        assert len(runs) - count == (change != "strength")
        stream.run_()
        assert torch.equal(_logits(model, inputs), after)
        assert torch.equal(after, before) == (change in ("storage", "gradients"))


def test_no_configuration_carries_the_implementation_out(tmp_path: Path) -> None:
    base = _base("t5", TRANSLATION)  # three configurations
    attached = _attach(base)
    implementations = {m.config._attn_implementation for m in base.model.modules() if hasattr(m, "config")}
    assert IMPLEMENTATION not in implementations
    for model in (attached.model, attached.view(0.5)):
        config: Any = model.config
        assert config._attn_implementation == IMPLEMENTATION
        config.save_pretrained(tmp_path)
        assert IMPLEMENTATION not in (tmp_path / "config.json").read_text()
        assert IMPLEMENTATION not in json.dumps(config.to_dict(), default=str)
    assert IMPLEMENTATION not in str(attached.view(0.0).config._attn_implementation)


def test_the_general_head_sits_untouched_on_the_tuned_body() -> None:
    base = _base("bert", TEXT)
    general = HeadSpec(auto_class=tiny.AUTO[TEXT], labels=("x", "y", "z", "w"))
    base = base.with_head("general", general, generator=_generator(3))
    inputs = _inputs(base, TEXT)
    attached = _moved(base, TEXT)
    view = attached.view(1.0, head="general")
    assert _logits(view, inputs).shape == (2, 4)
    for name, tensor in base.heads["general"].state().items():
        assert torch.equal(view.state_dict()[name], tensor)
    bodies = [model.bert(**inputs).last_hidden_state for model in (view, attached.view(1.0))]  # type: ignore[operator]
    assert torch.equal(*bodies)
    assert torch.equal(_logits(attached.view(0.0, head="general"), inputs), _logits(base.fork(head="general"), inputs))


def test_the_head_moves_on_the_line() -> None:
    base = _base("vit", PICTURES)
    attached = _moved(base, PICTURES)
    start, end, middle = (
        dict(m.named_parameters())["classifier.weight"].double()
        for m in (base.model, attached.model, attached.view(0.25))
    )
    torch.testing.assert_close(middle, start + 0.25 * (end - start), rtol=0, atol=1e-8)  # float32 storage


def test_the_start_is_set_by_the_generator_and_by_real_inputs() -> None:
    base = _base("bert", TEXT)
    first, second, noise, again = (
        _attach(base, initialise=start).state() for start in ("text", "text", "random", "random")
    )
    assert all(torch.equal(first[name], second[name]) and torch.equal(noise[name], again[name]) for name in first)
    name = f"bert.encoder.layer.1.attention.self.{SLOT}.keys"
    assert first[name].shape == noise[name].shape == (4, N, 8)
    assert not torch.equal(first[name], noise[name])
    assert 0.3 < float(first[name].std() / noise[name].std()) < 3


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_strengths_outside_are_refused(strength: float) -> None:
    with pytest.raises(MethodError, match="outside 0 to 1"):
        _attach(_base("vit", PICTURES)).view(strength)
