"""Anatomy against hand-written truth on every family, on models with misleading names, and cuts against perturbation."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from tiny import T5, VOCAB, config, tiny_model
from torch import Tensor, nn
from torch.nn import functional

from domaintune.bases.anatomy import (
    Anatomy,
    Chain,
    Cut,
    examine,
    probe_inputs,
    select_parameters,
    select_sites,
)
from domaintune.bases.base import head_paths
from domaintune.bases.cuts import train_behind_prefix_
from domaintune.bases.pooled import PooledClassifier
from domaintune.errors import BaseError, MethodError

TEXT, TOKENS, TRANSLATION, GENERATION, PICTURES, DETECTION = (
    "text-classification", "token-classification", "translation", "generation", "image-classification", "object-detection",
)  # fmt: skip
ENCODER = ("encoder", "transformer", 3)
DECODER = ("decoder", "transformer", 3)
BOTH = (("encoder", "transformer", 2), ("decoder", "transformer", 2))
DETECTOR = (("backbone", "convolution", 4), ("encoder", "transformer", 1), ("decoder", "transformer", 2))

# family, task: chains (name, kind, blocks); attention modules; sites as (attention, mlp, convolution, of these depthwise) in all
# chains, counted by hand from the architectures' papers; norms; the last cut's module
TRUTH: dict[tuple[str, str], tuple[tuple[tuple[str, str, int], ...], int, tuple[int, int, int, int], int, str]] = {
    # q, k, v, o and two mlp layers a block; one norm at the embeddings and two a block
    ("bert", TEXT): ((ENCODER,), 3, (12, 6, 0, 0), 7, "dropout"),
    ("bert", TOKENS): ((ENCODER,), 3, (12, 6, 0, 0), 7, "dropout"),
    ("roberta", TEXT): ((ENCODER,), 3, (12, 6, 0, 0), 7, "classifier"),
    ("xlm-roberta", TOKENS): ((ENCODER,), 3, (12, 6, 0, 0), 7, "dropout"),
    ("distilbert", TEXT): ((ENCODER,), 3, (12, 6, 0, 0), 7, "pre_classifier"),
    # fused q, k, v; no norm before the first attention; a final norm and one in the head
    ("modernbert", TEXT): ((ENCODER,), 3, (6, 6, 0, 0), 8, "head"),
    ("deberta-v2", TEXT): ((ENCODER,), 3, (12, 6, 0, 0), 8, "pooler"),  # one norm more, over the relative positions
    ("gpt2", GENERATION): ((DECODER,), 3, (6, 6, 0, 0), 7, "lm_head"),
    ("gpt2", TEXT): ((DECODER,), 3, (6, 6, 0, 0), 7, "score"),
    ("llama", GENERATION): ((DECODER,), 3, (12, 9, 0, 0), 7, "lm_head"),
    ("qwen3", GENERATION): (
        (DECODER,),
        3,
        (12, 9, 0, 0),
        13,
        "lm_head",
    ),  # two norms more a block, over queries and keys
    ("marian", TRANSLATION): (BOTH, 6, (24, 8, 0, 0), 10, "lm_head"),
    ("m2m100", TRANSLATION): (BOTH, 6, (24, 8, 0, 0), 12, "lm_head"),
    ("t5", TRANSLATION): (BOTH, 6, (24, 8, 0, 0), 12, "lm_head"),
    ("vit", PICTURES): ((ENCODER,), 3, (12, 6, 0, 0), 7, "classifier"),
    ("dinov2", PICTURES): ((ENCODER,), 3, (12, 6, 0, 0), 7, "classifier"),
    # two stages of two layers, and a linear layer with its norm that merges patches between them
    ("swin", PICTURES): ((("encoder", "transformer", 2),), 4, (16, 9, 0, 0), 11, "classifier"),
    ("resnet", PICTURES): ((("backbone", "convolution", 4),), 0, (0, 0, 11, 0), 12, "classifier"),
    # 16 inverted residuals of three convolutions, all with their norm, two convolutions before and one behind; a stem with one more
    ("mobilenet-v2", PICTURES): ((("backbone", "convolution", 16),), 0, (0, 0, 48, 16), 52, "dropout"),
    # backbone: 4 stages of 2 convolutions and a shortcut; encoder block 4 + 2; decoder blocks 4 + 4 (deformable) + 2
    ("rt-detr-v2", DETECTION): (DETECTOR, 5, (20, 6, 12, 0), 51, "model.decoder.bbox_embed.1"),
    # backbone: 3, 1 + 3, 1 + 4, 1 + 4; decoder blocks 4 + 2 (deformable) + 2 and a gate
    ("d-fine", DETECTION): (DETECTOR, 5, (16, 8, 17, 5), 98, "model.decoder.bbox_embed.1"),
    ("yolos", DETECTION): ((ENCODER,), 3, (12, 6, 0, 0), 7, "class_labels_classifier"),
}


def site_counts(anatomy: Anatomy) -> tuple[int, int, int, int]:
    roles = Counter(site.role for site in anatomy.sites)
    return roles["attention"], roles["mlp"], roles["convolution"], sum(site.depthwise for site in anatomy.sites)


@pytest.mark.parametrize(("family", "task"), TRUTH, ids=lambda value: value)
def test_every_family_has_its_known_parts(family: str, task: str) -> None:
    model = tiny_model(family, task)
    anatomy = examine(model)
    chains, attention, sites, norms, last = TRUTH[family, task]
    assert tuple((chain.name, chain.kind, len(chain.blocks)) for chain in anatomy.chains) == chains
    assert len(anatomy.attention) == attention
    assert site_counts(anatomy) == sites
    assert len(anatomy.norms) == norms
    blocks = [f"{name}.{index}" for name, _, count in chains for index in range(count)]
    assert [cut.name for cut in anatomy.cuts] == ["embeddings", *blocks, "head"]
    assert anatomy.cuts[-1].path == last
    for chain in anatomy.chains:
        assert [chain.path, str(len(chain.blocks) - 1)] == chain.blocks[-1].rsplit(".", 1)
        assert not [path for path in chain.after for one in anatomy.chains if one.path.startswith(f"{path}.")]
    # an independent count: every linear or convolution layer below the blocks is a site, once
    kinds = (nn.Linear, nn.Conv2d, transformers.pytorch_utils.Conv1D)
    inside = [
        f"{block}.{name}"
        for chain in anatomy.chains
        for block in chain.blocks
        for name, module in model.get_submodule(block).named_modules()
        if isinstance(module, kinds)
    ]
    assert sorted(inside) == sorted(site.path for site in anatomy.sites)


def test_embeddings_and_tops() -> None:
    def parts(family: str, task: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        anatomy = examine(tiny_model(family, task))
        return anatomy.embeddings, [chain.after for chain in anatomy.chains]

    words = "bert.embeddings."
    assert parts("bert", TEXT) == (
        (f"{words}word_embeddings", f"{words}token_type_embeddings", f"{words}position_embeddings"),
        [("bert.pooler.dense",)],
    )
    assert parts("gpt2", GENERATION) == (("transformer.wte", "transformer.wpe"), [("transformer.ln_f",)])
    assert parts("t5", TRANSLATION) == (
        ("encoder.embed_tokens", "decoder.embed_tokens"),
        [("encoder.final_layer_norm",), ("decoder.final_layer_norm",)],
    )
    assert parts("vit", PICTURES) == (("vit.embeddings.patch_embeddings.projection",), [("vit.layernorm",)])
    # its first convolution receives padded pixels
    assert parts("mobilenet-v2", PICTURES)[0] == ("mobilenet_v2.conv_stem.first_conv.convolution",)
    embeddings, after = parts("rt-detr-v2", DETECTION)
    assert embeddings == ("model.backbone.model.embedder.embedder.0.convolution",)
    assert {path.rsplit(".", 2)[0] for path in after[0]} == {"model.encoder_input_proj"}
    assert "model.encoder.fpn_blocks.0.conv1.conv" in after[1]
    assert "model.encoder.fpn_blocks.0.conv1.conv" not in after[2]
    _, after = parts("d-fine", DETECTION)  # the decoder keeps parameters of its own
    assert "model.encoder.fpn_blocks.0.conv1.conv" in after[1]
    assert not [path for path in after[1] if path.startswith("model.decoder")]


def test_lists_of_parts_without_parameters_are_no_blocks() -> None:
    """HGNetV2 keeps a list of what pools and flattens, which stand elsewhere too, behind its last layer."""
    made = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8], stage_in_channels=[8, 16, 24, 32], stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 32], hidden_sizes=[16, 24, 32, 32], stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1], embedding_size=8, num_labels=2,
    )  # fmt: skip
    model = transformers.HGNetV2ForImageClassification(made).eval().requires_grad_(False)
    assert head_paths(model, whole=True) == ("fc",)
    anatomy = examine(model)
    assert [(chain.name, len(chain.blocks)) for chain in anatomy.chains] == [("backbone", 4)]
    assert anatomy.cuts[-1].path == "fc"


def test_output_projections_that_stand_beside_the_attention_belong_to_it() -> None:
    roles = {site.path: site.role for site in examine(tiny_model("bert", TEXT)).sites}
    assert roles["bert.encoder.layer.0.attention.output.dense"] == "attention"
    assert roles["bert.encoder.layer.0.output.dense"] == "mlp"


@pytest.mark.parametrize("family", ["bert", "llama", "vit", "yolos", "m2m100"])
def test_the_attention_implementation_does_not_matter(family: str) -> None:
    task = next(task for name, task in TRUTH if name == family)
    model = tiny_model(family, task)
    found = examine(model)
    model.set_attn_implementation("eager")
    assert examine(model) == found


# --- architectures beyond the list: right, or refused by name

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 130, "pad_token_id": 0,
}  # fmt: skip
VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, **{k: SMALL[k] for k in list(SMALL)[1:5]}}
T = transformers
BART = {"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "eos_token_id": 5,
        "bos_token_id": 6, "decoder_start_token_id": 0, "forced_eos_token_id": None}  # fmt: skip
CAUSAL = {"bos_token_id": 6, "eos_token_id": 5}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
BEYOND: dict[str, tuple[Any, tuple[tuple[str, int], ...], tuple[int, int, int, int]]] = {
    "electra": (lambda: T.ElectraForSequenceClassification(T.ElectraConfig(**SMALL)), (("encoder", 3),), (12, 6, 0, 0)),
    # one shared layer that runs three times
    "albert": (lambda: T.AlbertForSequenceClassification(T.AlbertConfig(**SMALL)), (("encoder", 1),), (4, 2, 0, 0)),
    "mpnet": (lambda: T.MPNetForSequenceClassification(T.MPNetConfig(**SMALL)), (("encoder", 3),), (12, 6, 0, 0)),
    "opt": (
        lambda: T.OPTForCausalLM(
            T.OPTConfig(
                **{k: SMALL[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
                word_embed_proj_dim=32,
                ffn_dim=48,
                pad_token_id=0,
                **CAUSAL,
            )
        ),
        (("decoder", 3),),
        (12, 6, 0, 0),
    ),
    "gemma": (
        lambda: T.GemmaForCausalLM(T.GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=8, **CAUSAL)),
        (("decoder", 3),),
        (12, 9, 0, 0),
    ),
    "bart": (
        lambda: T.BartForSequenceClassification(T.BartConfig(**BART)),
        (("encoder", 2), ("decoder", 2)),
        (24, 8, 0, 0),
    ),
    "t5-of-one-block": (
        lambda: T.T5ForConditionalGeneration(
            T.T5Config(
                **{**T5, "num_layers": 1},
            )
        ),
        (("encoder", 1), ("decoder", 1)),
        (12, 4, 0, 0),
    ),
    # seven linear layers attend a block: global queries, keys and values too
    "longformer": (
        lambda: T.LongformerForSequenceClassification(T.LongformerConfig(**SMALL, attention_window=8)),
        (("encoder", 3),),
        (21, 6, 0, 0),
    ),
    # the probe is padded to the window: its last rows see nothing
    "longformer-of-a-wide-window": (
        lambda: T.LongformerForSequenceClassification(T.LongformerConfig(**SMALL, attention_window=64)),
        (("encoder", 3),),
        (21, 6, 0, 0),
    ),
    "led": (
        lambda: T.LEDForConditionalGeneration(T.LEDConfig(**BART, attention_window=64)),
        (("encoder", 2), ("decoder", 2)),
        (24, 8, 0, 0),
    ),
    # a global token for every 16 tokens: none of a short probe
    "longt5-with-global-tokens": (
        lambda: T.LongT5ForConditionalGeneration(
            T.LongT5Config(
                **T5,
                encoder_attention_type="transient-global",
            )
        ),
        (("encoder", 2), ("decoder", 2)),
        (24, 8, 0, 0),
    ),
    # a convolution between the first block and the second; positions have queries and keys of their own
    "deberta-v2-with-convolution": (
        lambda: T.DebertaV2Model(
            T.DebertaV2Config(
                **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3, conv_act="gelu"
            )
        ),
        (("encoder", 3),),
        (18, 6, 0, 0),
    ),
    # the softmax over experts is no attention; the experts are no linear layers
    "mixtral": (
        lambda: T.MixtralForCausalLM(T.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, **CAUSAL)),
        (("decoder", 3),),
        (12, 0, 0, 0),
    ),
    # experts that the probe sends no tokens to too: a router, and 8 experts of two layers in every second block
    "switch-transformers": (
        lambda: T.SwitchTransformersForConditionalGeneration(
            T.SwitchTransformersConfig(
                **T5,
                num_decoder_layers=2,
                num_experts=8,
                num_sparse_encoder_layers=1,
                num_sparse_decoder_layers=1,
            )
        ),
        (("encoder", 2), ("decoder", 2)),
        (24, 38, 0, 0),
    ),
    "nllb-moe": (
        lambda: T.NllbMoeForConditionalGeneration(
            T.NllbMoeConfig(
                **{**BART, "decoder_start_token_id": 5},
                num_experts=8,
                encoder_sparse_step=2,
                decoder_sparse_step=2,
            )
        ),
        (("encoder", 2), ("decoder", 2)),
        (24, 38, 0, 0),
    ),
    # length before batch, attention matrices as bare parameters
    "xlnet": (
        lambda: T.XLNetModel(
            T.XLNetConfig(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
        ),
        (("encoder", 2),),
        (0, 4, 0, 0),
    ),
    "deit": (lambda: T.DeiTForImageClassification(T.DeiTConfig(**VISION)), (("encoder", 3),), (12, 6, 0, 0)),
    "yolos-with-positions-between-blocks": (
        lambda: T.YolosForObjectDetection(
            T.YolosConfig(
                **{**VISION, "image_size": [32, 32]}, num_detection_tokens=5, use_mid_position_embeddings=True
            )
        ),
        (("encoder", 3),),
        (12, 6, 0, 0),
    ),
    # a stage: one merging of patches, 1 + 1 + 2 attention and mlp layers; attention reduced by a convolution but in the last stage
    "segformer": (
        lambda: T.SegformerForImageClassification(T.SegformerConfig(**STAGES, num_attention_heads=[1, 2, 2, 4])),
        (("encoder", 4),),
        (20, 10, 13, 5),
    ),
    "convnext": (
        lambda: T.ConvNextForImageClassification(T.ConvNextConfig(image_size=32, **STAGES)),
        (("backbone", 4),),
        (0, 10, 8, 5),
    ),
    "mobilenet-v1": (
        lambda: T.MobileNetV1ForImageClassification(T.MobileNetV1Config(image_size=32, depth_multiplier=0.25)),
        (("backbone", 26),),
        (0, 0, 26, 13),
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_architectures_beyond_the_list(name: str) -> None:
    make, chains, sites = BEYOND[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        anatomy = examine(make())
    assert tuple((chain.name, len(chain.blocks)) for chain in anatomy.chains) == chains
    assert site_counts(anatomy) == sites


def test_parts_for_other_inputs_are_no_experts() -> None:
    """Adapters for languages: the one that runs is given all rows, and no other ever runs."""

    class Adapted(nn.Module):
        def __init__(self, dense: nn.Module) -> None:
            super().__init__()
            self.dense = dense
            self.languages = nn.ModuleDict({"en": nn.Linear(32, 32), "de": nn.Linear(32, 32)})

        def forward(self, hidden: Tensor) -> Tensor:
            adapted: Tensor = self.languages["en"](self.dense(hidden))
            return adapted

    model = tiny_model("bert", TEXT)
    for block in model.bert.encoder.layer:
        block.output.dense = Adapted(block.output.dense)
    paths = [site.path for site in examine(model).sites if "languages" in site.path]
    assert paths == [f"bert.encoder.layer.{index}.output.dense.languages.en" for index in range(3)]


def test_what_cannot_be_found_is_refused_by_name() -> None:
    fourier = {k: v for k, v in SMALL.items() if k != "num_attention_heads"}
    with pytest.raises(BaseError, match="FNetModel: no chain of blocks was found"):
        examine(T.FNetModel(T.FNetConfig(**fourier)))
    with pytest.raises(
        BaseError, match="XLMModel: no chain of blocks"
    ):  # attention and feed-forward parts in two lists
        examine(
            T.XLMModel(T.XLMConfig(vocab_size=VOCAB, emb_dim=32, n_layers=2, n_heads=4, pad_index=0, pad_token_id=0))
        )
    with pytest.raises(BaseError, match="replaces its own modules on short inputs"):
        examine(T.BigBirdModel(T.BigBirdConfig(**SMALL)))
    with pytest.raises(BaseError, match=r"block 'blocks\.0' attends in its own forward"):
        examine(Flat())
    with pytest.raises(BaseError, match="main input is 'input_values'"):
        examine(T.Wav2Vec2Model(T.Wav2Vec2Config(**{k: SMALL[k] for k in list(SMALL)[1:5]}, conv_dim=[8], conv_stride=[4],
                                                 conv_kernel=[4], num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)))  # fmt: skip
    with pytest.raises(BaseError, match=r"LlamaForCausalLM: a probe forward with input_ids \[1, 8\] failed"):
        examine(tiny_model("llama", GENERATION), inputs={"input_ids": torch.full((1, 8), VOCAB)})


# --- names do not matter


class Looker(nn.Module):
    """Attention whose layers are called after a feed-forward network."""

    def __init__(self, width: int, *, causal: bool, crossed: bool) -> None:
        super().__init__()
        self.up, self.gate, self.act, self.down = (nn.Linear(width, width) for _ in range(4))
        self.causal, self.crossed = causal, crossed

    def forward(self, fc1: Tensor, *, fc2: tuple[Tensor, ...]) -> dict[str, Tensor]:
        source = fc2[0] if self.crossed else fc1
        mixed = functional.scaled_dot_product_attention(
            self.up(fc1)[:, None], self.gate(source)[:, None], self.act(source)[:, None], is_causal=self.causal
        )
        return {"mlp": self.down(mixed[:, 0])}


class Piece(nn.Module):
    """A block whose feed-forward network is called attention, and whose norm is called dense."""

    def __init__(self, width: int, *, causal: bool = False, crossed: bool = False) -> None:
        super().__init__()
        self.mlp = Looker(width, causal=causal, crossed=False)
        self.classifier = Looker(width, causal=False, crossed=True) if crossed else None
        self.dense = nn.LayerNorm(width)
        self.attention = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, *, stuff: tuple[Tensor, ...]) -> tuple[str, tuple[Tensor]]:
        state = stuff[0] + self.mlp(stuff[0], fc2=stuff)["mlp"]
        if self.classifier is not None:
            state = state + self.classifier(state, fc2=stuff[1:])["mlp"]
        return "piece", (state + self.attention(self.dense(state)),)


class Stack(nn.Module):
    def __init__(self, width: int, count: int, **options: bool) -> None:
        super().__init__()
        self.head = nn.ModuleDict({"lm_head": nn.Embedding(50, width)})
        self.embeddings = nn.ModuleList([Piece(width, **options) for _ in range(count)])
        self.proj = nn.LayerNorm(width)

    def forward(self, ids: Tensor, *memory: Tensor) -> Tensor:
        state = self.head["lm_head"](ids)
        for piece in self.embeddings:
            state = piece(stuff=(state, *memory))[1][0]
        return self.proj(state)


class Strange(nn.Module):
    """An encoder-decoder in misleading names; the decoder stands first, and one norm is of no torch class."""

    class Rescale(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.lambda1 = nn.Parameter(torch.ones(width))

        def forward(self, values: Tensor) -> Tensor:
            return self.lambda1 * values / values.square().mean(-1, keepdim=True).sqrt()

    class Scale(Rescale):
        def forward(self, values: Tensor) -> Tensor:
            return self.lambda1 * values

    def __init__(self, *, decoder: bool = True) -> None:
        super().__init__()
        self.encoder = Stack(12, 3, causal=True, crossed=True) if decoder else None
        self.backbone = Stack(12, 2)
        self.norm = self.Scale(12)
        self.scale = self.Rescale(12)
        self.layers = nn.Linear(12, 50)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.backbone(input_ids)
        if self.encoder is not None:
            state = self.encoder(input_ids, state)
        return self.layers(self.scale(self.norm(state)))


class Flat(nn.Module):
    """Blocks that attend in their own forward."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out, self.up, self.down = (
                nn.Linear(12, 36),
                nn.Linear(12, 12),
                nn.Linear(12, 24),
                nn.Linear(24, 12),
            )

        def forward(self, state: Tensor) -> Tensor:
            query, key, value = self.qkv(state).chunk(3, -1)
            state = state + self.out(torch.softmax(query @ key.mT, -1) @ value)
            return state + self.down(self.up(state).relu())

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.blocks = nn.ModuleList([self.Block(), self.Block()])

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.words(input_ids)
        for block in self.blocks:
            state = block(state)
        return state


def test_names_do_not_matter() -> None:
    torch.manual_seed(0)
    anatomy = examine(Strange())
    encoder = tuple(f"backbone.embeddings.{index}" for index in range(2))
    decoder = tuple(f"encoder.embeddings.{index}" for index in range(3))
    assert anatomy.chains == (
        Chain("encoder", "transformer", "backbone.embeddings", encoder, ("backbone.proj",)),
        Chain(
            "decoder", "transformer", "encoder.embeddings", decoder, ("encoder.proj", "norm", "scale", "layers")
        ),  # the head cannot be told from a body that is the model
    )
    assert anatomy.embeddings == ("backbone.head.lm_head", "encoder.head.lm_head")
    assert anatomy.attention == tuple(
        [f"{block}.mlp" for block in encoder]
        + [f"{block}.{name}" for block in decoder for name in ("mlp", "classifier")]
    )
    assert set(anatomy.norms) == {f"{b}.dense" for b in (*encoder, *decoder)} | {
        "backbone.proj",
        "encoder.proj",
        "scale",
    }
    for site in anatomy.sites:
        assert site.role == ("mlp" if ".attention." in site.path else "attention")
    assert site_counts(anatomy) == (2 * 4 + 3 * 8, 2 * 2 + 3 * 2, 0, 0)
    assert [cut.name for cut in anatomy.cuts][:4] == ["embeddings", "encoder.0", "encoder.1", "decoder.0"]


def test_a_pooled_classifier_and_bodies_without_a_head() -> None:
    made = config("bert")
    body = transformers.BertModel(made, add_pooling_layer=False)
    anatomy = examine(PooledClassifier(body, made, "mean"))
    assert (anatomy.body, anatomy.cuts[-1].name, anatomy.cuts[-1].path) == ("body", "head", "classifier")
    assert anatomy.chains[0].blocks == tuple(f"body.encoder.layer.{index}" for index in range(3))
    assert [cut.name for cut in examine(body).cuts] == ["embeddings", "encoder.0", "encoder.1", "encoder.2"]
    picture = examine(transformers.ViTModel(config("vit"), add_pooling_layer=False))
    assert (picture.cuts[-1].path, picture.chains[0].after) == ("layernorm", ("layernorm",))


# --- the probe


@pytest.mark.parametrize(("family", "task"), [("rt-detr-v2", DETECTION), ("marian", TRANSLATION), ("swin", PICTURES)])
def test_the_model_and_the_random_state_stay_as_they_were(family: str, task: str) -> None:
    model = tiny_model(family, task).train()
    model.get_submodule(next(name for name, _ in model.named_children())).eval()
    next(model.parameters()).requires_grad_(True)
    state = copy.deepcopy(model.state_dict())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    values = [
        copy.copy({k: v for k, v in vars(module).items() if isinstance(v, int | float | tuple)})
        for module in model.modules()
    ]
    random = torch.get_rng_state()
    anatomy = examine(model)
    assert [module.training for module in model.modules()] == modes
    train_behind_prefix_(model, anatomy)  # which sets modes and nothing else
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    assert torch.equal(torch.get_rng_state(), random)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [{k: v for k, v in vars(m).items() if isinstance(v, int | float | tuple)} for m in model.modules()] == values
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_probe_inputs_are_valid_and_plain() -> None:
    inputs = probe_inputs(tiny_model("marian", TRANSLATION))
    assert set(inputs) == {"input_ids", "attention_mask", "decoder_input_ids"}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids.shape == (2, 8)
    assert not torch.equal(ids[0], ids[1])
    assert mask.tolist() == [[1] * 8, [1] * 6 + [0] * 2]
    assert set(ids[0, :-1].tolist()).isdisjoint({0, 5, 6})  # no padding, end or start inside
    assert ids[:, -1].tolist() == [5, 0]
    assert inputs["decoder_input_ids"][:, 0].tolist() == [0, 0]
    alone = tiny_model("gpt2", TEXT)
    alone.config.pad_token_id = None  # its classifier then takes no second row
    assert probe_inputs(alone)["input_ids"].shape == (1, 8)
    assert probe_inputs(tiny_model("vit", PICTURES).half())["pixel_values"].dtype == torch.float16
    assert probe_inputs(tiny_model("yolos", DETECTION))["pixel_values"].shape == (2, 3, 64, 64)
    wide = config("yolos")
    wide.image_size = [512, 864]  # its positions are interpolated, so that a small picture will do
    assert probe_inputs(transformers.YolosForObjectDetection(wide))["pixel_values"].shape == (2, 3, 64, 64)
    windows = config("swin")
    windows.image_size, windows.window_size = 384, 12  # on a small picture it would shrink its windows for good
    swin = transformers.SwinForImageClassification(windows)
    sizes = [module.window_size for module in swin.modules() if isinstance(getattr(module, "window_size", None), int)]
    assert probe_inputs(swin)["pixel_values"].shape[-1] > 64
    assert [m.window_size for m in swin.modules() if isinstance(getattr(m, "window_size", None), int)] == sizes
    many = config("rt-detr-v2")
    many.num_queries = 300  # pictures of 64 pixels have 84 anchors, of 128 pixels 336
    assert probe_inputs(transformers.RTDetrV2ForObjectDetection(many))["pixel_values"].shape == (2, 3, 128, 128)


# --- selectors


def test_site_selectors() -> None:
    detector, convnet, encoder = (
        examine(tiny_model(*key)) for key in (("d-fine", DETECTION), ("mobilenet-v2", PICTURES), ("bert", TEXT))
    )

    def count(anatomy: Anatomy, *selectors: str) -> int:
        return len(select_sites(anatomy, selectors))

    assert count(encoder, "attention") == 12
    assert count(encoder, "attention", "encoder.mlp", "attention") == count(encoder, "all-linear") == 18
    assert count(convnet, "convolution") == count(convnet, "all-linear") == count(convnet, "backbone.all-linear") == 32
    assert not any(site.depthwise for site in select_sites(convnet, ["convolution"]))
    assert count(detector, "all-linear") == 24 + 12
    assert count(detector, "decoder.attention") == 12
    assert count(detector, "encoder.all-linear") == 6
    for selectors, message in (
        (
            ["attentoin"],
            r"selector 'attentoin': unknown selector. Allowed: attention, mlp, convolution, all-linear, .*encoder \(3 blocks\)",
        ),
        (
            ["decoder.mlp"],
            r"selector 'decoder.mlp': this base has no chain 'decoder'. Its chains: encoder \(3 blocks\)",
        ),
        (
            ["mlp", "convolution"],
            r"selector 'convolution': no layer of this base matches. It has: encoder.attention, encoder.mlp",
        ),
    ):
        with pytest.raises(MethodError, match=message):
            select_sites(encoder, selectors)


def test_parameter_selectors() -> None:
    bert, marian, mobile = (
        tiny_model(*key) for key in (("bert", TEXT), ("m2m100", TRANSLATION), ("mobilenet-v2", PICTURES))
    )
    parts = {id(model): examine(model) for model in (bert, marian, mobile)}

    def chosen(model: nn.Module, *selectors: str) -> list[str]:
        return select_parameters(model, parts[id(model)], selectors)

    layer = "bert.encoder.layer."
    top = chosen(bert, "top:1")
    assert [name for name in top if not name.startswith(f"{layer}2.")] == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    ]
    assert len(top) == 16 + 2
    assert chosen(bert, "encoder.top:1") == top
    assert chosen(bert, "attention") == [
        f"{layer}{index}.attention.{part}.{kind}"
        for index in range(3)
        for part in ("self.query", "self.key", "self.value", "output.dense")
        for kind in ("weight", "bias")
    ]
    assert len(chosen(bert, "layer-norm")) == 14
    assert len(chosen(bert, "encoder.layer-norm")) == 12
    assert all(name.endswith(".bias") for name in chosen(bert, "bias"))
    assert len(chosen(bert, "bias")) == 7 + 3 * 6 + 2  # norms, linear layers, pooler and classifier
    assert {name.split(".")[1] for name in chosen(marian, "top:2")} == {"decoder"}  # nearest the output
    below = chosen(marian, "encoder.top:1")
    assert {name.rsplit(".", 2)[0] for name in below if ".layers." not in name} == {"model.encoder"}
    assert all(name.startswith(("model.encoder.layers.1.", "model.encoder.layer_norm.")) for name in below)
    assert len(chosen(mobile, "layer-norm")) == 104
    assert {name.split(".")[1] for name in chosen(mobile, "top:16")} == {"layer", "conv_1x1"}
    for model, selector, message in (
        (bert, "top:4", "'4' is no number of blocks of the encoder, which has 3. Give 1 to 3."),
        (bert, "top:0", "Give 1 to 3"),
        (bert, "top:two", "Give 1 to 3"),
        (bert, "backbone.top:1", r"no chain 'backbone'. Its chains: encoder \(3 blocks\)"),
        (bert, "layernorm", "unknown selector. Allowed: top:K, attention, layer-norm, bias"),
        (mobile, "attention", r"no parameter of this base matches. Its chains: backbone \(16 blocks\)"),
    ):
        with pytest.raises(MethodError, match=message):
            chosen(model, selector)


# --- cuts, proven by perturbation: what autograd calls clean must stay bit for bit when trained tensors move


def inputs_of(model: nn.Module, paths: list[str]) -> dict[str, list[Tensor]]:
    """The tensors that the modules at `paths` receive first, and what they return."""
    seen: dict[str, list[Tensor]] = {}

    def flat(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value.detach().clone()]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return [tensor for part in parts for tensor in flat(part)]

    def receive(path: str, args: Any, kwargs: Any) -> None:
        seen.setdefault(path, flat((args, kwargs)))

    def give(path: str, output: Any) -> None:
        seen.setdefault(f"{path} out", flat(output))

    handles = []
    for path in paths:
        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda m, a, k, p=path: receive(p, a, k), with_kwargs=True))
        handles.append(module.register_forward_hook(lambda m, a, o, p=path: give(p, o)))
    with torch.no_grad():
        model(**probe_inputs(model))
    for handle in handles:
        handle.remove()
    return seen


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def trained_names(model: Any, anatomy: Anatomy, selector: str) -> list[str]:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if selector == "head":
        return [name for name in names if name.startswith(anatomy.cuts[-1].path)] or names[-1:]
    if selector == "middle":
        block = anatomy.cuts[len(anatomy.cuts) // 2].path
        return [name for name in names if name.startswith(f"{block}.")]
    if selector == "embedding":
        return [f"{anatomy.embeddings[-1]}.weight"]
    return select_parameters(model, anatomy, [selector])


EXPECTED_CUTS = {  # where only one answer is right: name of the last block, the top one, the middle one
    "bert": ("head", "encoder.2", "encoder.1"),
    "marian": ("embeddings", "decoder.1", "decoder.0"),  # its head is tied to its embeddings
    "resnet": ("head", "backbone.3", "backbone.2"),
    "vit": ("head", "encoder.2", "encoder.1"),
}


def cut_and_prefix_(model: Any, anatomy: Anatomy) -> tuple[Cut, tuple[str, ...]]:
    """The cut behind which the model is put into training mode, and the outermost modules that stay wholly in eval mode."""
    cut = train_behind_prefix_(model, anatomy)
    still = [path for path, module in model.named_modules() if not any(inner.training for inner in module.modules())]
    model.eval()
    return cut, tuple(path for path in still if path.rpartition(".")[0] not in still)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "qwen3", "marian", "t5", "vit", "swin", "resnet", "mobilenet-v2", "yolos",
                                    "rt-detr-v2", "d-fine"])  # fmt: skip
def test_the_clean_cut_stays_when_trained_tensors_move_and_the_next_does_not(family: str) -> None:
    task = next(task for name, task in TRUTH if name == family)
    model = tiny_model(family, task)
    for parameter in model.parameters():  # so that no signal dies out in a random convolution stack
        if parameter.ndim == 4:
            parameter.mul_(parameter[0].numel() ** -0.5 / parameter.std())
    anatomy = examine(model)
    names = [cut.name for cut in anatomy.cuts]
    found = []
    for selector in (
        ("top:1", "layer-norm")
        if task == DETECTION and family != "yolos"
        else ("head", "top:1", "middle", "embedding", "layer-norm")
    ):
        trial = copy.deepcopy(model)
        trained = trained_names(trial, anatomy, selector)
        parameters = {
            name: p.requires_grad_(True)
            for name, p in trial.named_parameters(remove_duplicate=False)
            if name in trained
        }
        assert parameters
        cut, prefix = cut_and_prefix_(trial, anatomy)
        found.append(cut.name)
        watched = {cut.path, *prefix} | {one.path for one in anatomy.cuts[names.index(cut.name) + 1 :][:1]}
        before = inputs_of(trial, sorted(watched))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in {id(p): p for p in parameters.values()}.values():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        after = inputs_of(trial, sorted(watched))
        assert same(before[cut.path], after[cut.path])
        for path in prefix:
            assert same(before[f"{path} out"], after[f"{path} out"])
        for beyond in anatomy.cuts[names.index(cut.name) + 1 :][:1]:
            assert not same(before[beyond.path], after[beyond.path]), (selector, cut, beyond)
    if family in EXPECTED_CUTS:
        assert tuple(found[:3]) == EXPECTED_CUTS[family]
        assert found[4] in ("embeddings", "encoder.0", "backbone.0")


def test_the_prefix_is_what_ran_before_the_cut() -> None:
    model = tiny_model("bert", TEXT)
    anatomy = examine(model)
    for parameter in model.bert.encoder.layer[1].parameters():
        parameter.requires_grad_(True)
    assert cut_and_prefix_(model, anatomy)[1] == ("bert.embeddings", "bert.encoder.layer.0")
    model.requires_grad_(True)
    cut, prefix = cut_and_prefix_(model, anatomy)
    assert (cut.name, prefix) == ("embeddings", ())
    model.requires_grad_(False)
    cut, prefix = cut_and_prefix_(model, anatomy)
    assert (cut.name, prefix) == ("head", ("bert",))  # nothing is trained


class Wrapped(nn.Module):
    """A trained low-rank layer beside a frozen one."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.zeros(2, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, 2))

    def forward(self, values: Tensor) -> Tensor:
        return self.layer(values) + values @ self.down.T @ self.up.T


def test_cuts_hold_on_a_model_whose_layers_were_replaced() -> None:
    model = tiny_model("marian", TRANSLATION)
    anatomy = examine(model)
    site = select_sites(anatomy, ["decoder.attention"])[0]
    parent, _, child = site.path.rpartition(".")
    setattr(model.get_submodule(parent), child, Wrapped(model.get_submodule(site.path)))
    cut, prefix = cut_and_prefix_(model, anatomy)
    assert cut.name == "decoder.0"
    assert prefix == ("model.encoder", "model.decoder.embed_tokens", "model.decoder.embed_positions")


class Choosing(Flat):
    """Trained scores choose positions before the blocks, without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Piece(12), Piece(12)])
        self.score = nn.Linear(12, 1)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.words(input_ids)
        state = self.blocks[0](stuff=(state,))[1][0]
        best = self.score(state)[..., 0].topk(4, dim=1).indices
        return self.blocks[1](stuff=(state.gather(1, best[..., None].expand(-1, -1, 12)),))[1][0]


def test_trained_layers_that_act_without_a_gradient_end_the_prefix() -> None:
    torch.manual_seed(0)
    model = Choosing()
    anatomy = examine(model)
    model.requires_grad_(False)
    model.score.requires_grad_(True)
    assert train_behind_prefix_(model, anatomy).name == "encoder.0"
    model.score.requires_grad_(False)
    model.blocks[1].requires_grad_(True)
    assert train_behind_prefix_(model, anatomy).name == "encoder.1"


def test_nothing_that_a_method_runs_ahead_of_the_forward_is_prefix() -> None:
    model = tiny_model("bert", TEXT)
    anatomy = examine(model)
    model.ahead = nn.Linear(4, 4)

    def run_ahead(module: Any, args: Any) -> None:
        module.ahead(torch.ones(4))

    model.register_forward_pre_hook(run_ahead)
    assert train_behind_prefix_(model, anatomy).name == "embeddings"
    assert all(module.training for module in model.modules())


def test_training_behind_the_prefix_gives_the_cut_the_same_input_at_every_step() -> None:
    model = tiny_model("marian", TRANSLATION)  # its stacks apply dropout by themselves, on their embeddings
    anatomy = examine(model)
    for parameter in model.model.encoder.layers[1].parameters():
        parameter.requires_grad_(True)
    model.eval()
    reference = inputs_of(model, ["model.encoder.layers.1"])
    cut = train_behind_prefix_(model, anatomy)
    assert cut.name == "encoder.1"
    assert model.model.encoder.layers[1].training
    assert model.model.decoder.training
    first, second = (inputs_of(model, ["model.encoder.layers.1"]) for _ in range(2))
    assert same(first["model.encoder.layers.1"], reference["model.encoder.layers.1"])
    assert same(first["model.encoder.layers.1"], second["model.encoder.layers.1"])
    assert not same(first["model.encoder.layers.1 out"], second["model.encoder.layers.1 out"])  # dropout behind the cut
