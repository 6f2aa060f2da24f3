"""Tiny random models of many architectures, made in the test: no downloads. `tiny_base(family, auto_class)` is the entry."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from domaintune.bases.base import Base

TEXT = [
    "the quick brown fox jumps over the lazy dog and runs away .",
    "a waiter brought cold soup , but the room was lovely and quiet .",
    "Angela Merkel visited Paris in May with Emmanuel Macron .",
    "der schnelle braune Fuchs springt über den faulen Hund .",
    "服务 很 好 , 房间 干净 , 我们 会 再来 。",
    "Press %s to save the file { name } or cancel !",
]

VOCAB = 400
T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 5,
    "decoder_start_token_id": 0,
}


@functools.cache
def tokenizer(kind: str = "bert") -> Any:
    """A word-piece tokenizer ("bert": [CLS] x [SEP]; "causal": no special tokens round the text; "seq2seq": x </s>)."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>", "<s>"]
    # Not trained: the trainer breaks ties otherwise in each process.
    words = {
        word for text in TEXT for word, _ in made.pre_tokenizer.pre_tokenize_str(made.normalizer.normalize_str(text))
    }
    letters = {letter for word in words for letter in word}
    pieces = [*special, *sorted(letters), *sorted(f"##{letter}" for letter in letters), *sorted(words - letters)]
    assert len(pieces) <= VOCAB
    made.model = models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]")
    made.add_special_tokens(special)
    ids = {token: made.token_to_id(token) for token in special}
    if kind == "bert":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
    elif kind == "seq2seq":
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", ids["</s>"])])
    from tokenizers import decoders

    made.decoder = decoders.WordPiece(prefix="##")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="</s>" if kind != "bert" else None,
        bos_token="<s>" if kind != "bert" else None,
        model_max_length=64,
    )


def _small(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 130,
        "pad_token_id": 0,
        **more,
    }


def config(family: str) -> Any:
    """The configuration of one family, in a few thousand parameters."""
    t = transformers
    seq2seq = {
        "vocab_size": VOCAB,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 130,
        "pad_token_id": 0,
        "eos_token_id": 5,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": None,
        "bos_token_id": 6,
    }
    pictures = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    causal = {"bos_token_id": 6, "eos_token_id": 5}
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    detector = {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [16, 24, 32],
        "feat_strides": [8, 16, 32],
        "encoder_layers": 1,
        "encoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 48,
        "num_queries": 20,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "num_denoising": 10,
        "decoder_n_points": 2,
        "num_labels": 3,
        "anchor_image_size": None,
        "use_timm_backbone": False,
    }
    makers = {
        "bert": lambda: t.BertConfig(**_small()),
        "roberta": lambda: t.RobertaConfig(**_small(pad_token_id=0)),
        "xlm-roberta": lambda: t.XLMRobertaConfig(**_small(pad_token_id=0)),
        "distilbert": lambda: t.DistilBertConfig(
            vocab_size=VOCAB, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=130, pad_token_id=0
        ),
        "modernbert": lambda: t.ModernBertConfig(
            **_small(bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
            local_attention=16,
            global_attn_every_n_layers=2,
        ),
        "deberta-v2": lambda: t.DebertaV2Config(
            **_small(),
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
        ),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=130, pad_token_id=0, **causal
        ),
        "llama": lambda: t.LlamaConfig(**_small(num_key_value_heads=2, **causal)),
        "qwen3": lambda: t.Qwen3Config(**_small(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, **causal)),
        "marian": lambda: t.MarianConfig(**seq2seq, share_encoder_decoder_embeddings=True),
        "m2m100": lambda: t.M2M100Config(**{**seq2seq, "decoder_start_token_id": 5}, scale_embedding=True),
        "t5": lambda: t.T5Config(**T5),
        "vit": lambda: t.ViTConfig(**pictures),
        "dinov2": lambda: t.Dinov2Config(
            **{k: v for k, v in pictures.items() if k != "intermediate_size"}, mlp_ratio=2
        ),
        "swin": lambda: t.SwinConfig(
            image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
        ),
        "resnet": lambda: t.ResNetConfig(**resnet),
        "mobilenet-v2": lambda: t.MobileNetV2Config(
            image_size=32, depth_multiplier=0.25, min_depth=8, depth_divisible_by=8
        ),
        "rt-detr-v2": lambda: t.RTDetrV2Config(
            backbone_config=t.RTDetrResNetConfig(**resnet, out_features=["stage2", "stage3", "stage4"]), **detector
        ),
        "d-fine": lambda: t.DFineConfig(
            backbone_config=t.HGNetV2Config(
                stem_channels=[3, 8, 8],
                stage_in_channels=[8, 16, 24, 32],
                stage_mid_channels=[8, 8, 8, 8],
                stage_out_channels=[16, 24, 32, 32],
                hidden_sizes=[16, 24, 32, 32],
                stage_num_blocks=[1, 1, 1, 1],
                stage_numb_of_layers=[1, 1, 1, 1],
                stage_downsample=[False, True, True, True],
                stage_light_block=[False, False, True, True],
                stage_kernel_size=[3, 3, 3, 3],
                embedding_size=8,
                out_features=["stage2", "stage3", "stage4"],
            ),
            **{**detector, "encoder_in_channels": [24, 32, 32], "decoder_n_points": [2, 2, 2]},
        ),
        "yolos": lambda: t.YolosConfig(
            **{**pictures, "image_size": [64, 64], "patch_size": 16},
            num_detection_tokens=10,
            use_mid_position_embeddings=False,
            num_labels=3,
        ),
    }
    return makers[family]()


AUTO = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "translation": "AutoModelForSeq2SeqLM",
    "generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
}


def tiny_model(family: str, task: str, *, seed: int = 0) -> Any:
    """A random model of the family in the task's class, eval mode, float32."""
    made = config(family)
    if task in ("text-classification", "token-classification", "image-classification"):
        made.num_labels = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, AUTO[task]).from_config(made)
        with torch.no_grad():  # random norms and biases too, so that nothing is hidden by zeros and ones
            for parameter in model.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
                elif parameter.ndim == 2:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().requires_grad_(False)


def tiny_processor(family: str, task: str) -> Any:
    if task in ("image-classification", "object-detection"):
        size = 64 if task == "object-detection" else 32
        name = {
            "yolos": "YolosImageProcessorPil",
            "rt-detr-v2": "RTDetrImageProcessorPil",
            "d-fine": "RTDetrImageProcessorPil",
            "resnet": "ConvNextImageProcessorPil",
            "mobilenet-v2": "MobileNetV2ImageProcessorPil",
        }.get(family, "ViTImageProcessorPil")
        made = getattr(transformers, name)()
        made.size = (
            {"shortest_edge": size} if name.startswith(("ConvNext", "MobileNet")) else {"height": size, "width": size}
        )
        if name.startswith("MobileNet"):
            made.crop_size = {"height": size, "width": size}
        return made
    return tokenizer({"translation": "seq2seq", "generation": "causal"}.get(task, "bert"))


def tiny_base(family: str, task: str, *, seed: int = 0) -> Base:
    """A base without labels of its own."""
    return Base(
        name=f"tiny-{family}", model=tiny_model(family, task, seed=seed), processor=tiny_processor(family, task)
    )
