"""Do loss, decoding and scores of the two text-producing tasks agree? Two random tiny models are trained from nothing.

(a) A Marian of about 0.5 million parameters on 500 pairs of tatoeba_en_de: the loss falls, and BLEU and chrF on the trained pairs
rise far above those at the start. (b) A Qwen3 of about 0.3 million parameters on tinyshakespeare: its cross-entropy on the test part falls
below that of the unigram distribution of the train part on the same tokens. Tokenizers are trained on the train part alone.

Run: `python benchmarks/random_language_models.py`, one thread, some three minutes; the data stands in $DOMAINTUNE_SHARED (by
default `../shared` beside the checkout).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from domaintune.bases.base import Base
from domaintune.data.formats import read_rows
from domaintune.settings import GenerationSettings, TranslationSettings
from domaintune.tasks.base import Dataset, Task, dataset
from domaintune.tasks.generation import Generation
from domaintune.tasks.translation import Translation

SPECIAL = ["<pad>", "</s>", "<unk>"]


def shared() -> Path:
    return Path(os.environ.get("DOMAINTUNE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def byte_pair_tokenizer(texts: Iterable[str], *, vocabulary: int, end: bool, max_length: int) -> Any:
    """A byte-level BPE tokenizer; with `end` every text ends in </s>."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=max_length
    )


def batches(data: Dataset, size: int, generator: torch.Generator) -> Iterable[list[int]]:
    order = torch.randperm(len(data.items), generator=generator).tolist()
    return (order[start : start + size] for start in range(0, len(order), size))


def train_(task: Task, base: Base, data: Dataset, *, steps: int, batch_size: int, learning_rate: float) -> list[float]:
    """AdamW over shuffled batches, warm-up over a tenth and linear decay; the loss per unit of every step."""
    model = base.model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    while len(losses) < steps:
        for positions in batches(data, batch_size, generator):
            batch = task.collate(base, [data.items[i] for i in positions], "train")
            loss = task.loss(model, batch)["cross_entropy"] / task.units(batch)["cross_entropy"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if len(losses) == steps:
                break
    model.eval().requires_grad_(False)
    return losses


@torch.no_grad()
def score(task: Task, base: Base, data: Dataset, wanted: Sequence[str]) -> tuple[dict[str, float], list[Any]]:
    raw: list[Any] = []
    for start in range(0, len(data.items), 50):
        batch = task.collate(base, data.items[start : start + 50], "score")
        raw += task.predict(base, base.model, batch, frozenset(wanted))
    made = [task.join(e, raw[span.start : span.stop]) for e, span in zip(data.examples, data.spans, strict=True)]
    records = [task.statistics(p, e) for p, e in zip(made, data.examples, strict=True)]
    reduced = task.reduce(records, np.ones((1, len(records))))
    return {name: round(float(value[0]), 4) for name, value in reduced.items()}, made


def translation() -> dict[str, Any]:
    began = time.perf_counter()
    folder = shared() / "mt" / "tatoeba_en_de"
    rows, dev_rows = read_rows(str(folder / "train.jsonl"))[:500], read_rows(str(folder / "dev.jsonl"))[:200]
    texts = [row.text(column) for row in rows for column in ("source", "target")]
    tokenizer = byte_pair_tokenizer(texts, vocabulary=800, end=True, max_length=64)
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer), d_model=96, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=192, decoder_ffn_dim=192, max_position_embeddings=64, pad_token_id=0,
        eos_token_id=1, bos_token_id=None, decoder_start_token_id=0, forced_eos_token_id=None, dropout=0.1, scale_embedding=True,
    )  # fmt: skip
    base = Base(name="random-marian", model=transformers.MarianMTModel(config).eval(), processor=tokenizer)
    task = Translation.build(rows, base, TranslationSettings(max_target_length=24, num_beams=4))
    train, dev = (dataset(task, base, list(task.read(part))) for part in (rows, dev_rows))
    before, _ = score(task, base, train, task.scores)
    losses = train_(task, base, train, steps=640, batch_size=32, learning_rate=2e-3)
    after, made = score(task, base, train, task.scores)
    unseen, _ = score(task, base, dev, task.scores)
    shown = [(e.source, e.target, p["text"]) for e, p in zip(train.examples[:3], made[:3], strict=True)]
    return {
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "loss_first_last_20_steps": [round(float(np.mean(losses[:20])), 3), round(float(np.mean(losses[-20:])), 3)],
        "train_before": before,
        "train_after": after,
        "dev_after": unseen,
        "examples": shown,
        "seconds": round(time.perf_counter() - began, 1),
    }


def unigram(train: Dataset, test: Dataset, vocabulary: int) -> float:
    """Nats per test target under the train targets' frequencies (add one)."""
    counts = Counter(token for item in train.items for token in item.targets["completion_ids"])
    total = sum(counts.values()) + vocabulary
    targets = [token for item in test.items for token in item.targets["completion_ids"]]
    return -sum(math.log((counts[token] + 1) / total) for token in targets) / len(targets)


def generation() -> dict[str, Any]:
    began = time.perf_counter()
    folder = shared() / "style" / "tinyshakespeare"
    rows, test_rows = read_rows(str(folder / "train.txt")), read_rows(str(folder / "test.txt"))
    tokenizer = byte_pair_tokenizer([row.text("text") for row in rows], vocabulary=768, end=False, max_length=128)
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=24, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    model = transformers.Qwen3ForCausalLM(config).eval()
    base = Base(name="random-qwen3", model=model, processor=tokenizer)
    task = Generation.build(
        rows, base, GenerationSettings(max_length=128, max_new_tokens=40, sample=True, temperature=0.8)
    )
    train, test = (dataset(task, base, list(task.read(part))) for part in (rows, test_rows))
    before, _ = score(task, base, test, ("cross_entropy",))
    losses = train_(task, base, train, steps=600, batch_size=16, learning_rate=3e-3)
    after, _ = score(task, base, test, task.scores)
    prompt = read_rows(str(folder / "test.txt"))[:1]
    (example,) = task.read(prompt, labelled=False)
    batch = task.collate(base, task.prepare(base, example), "predict")
    (sample,) = task.predict(base, base.model, batch, frozenset({"output"}))
    return {
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "characters_per_token": round(task.characters_per_token, 2),
        "items": {"train": len(train.items), "test": len(test.items)},
        "loss_first_last_20_steps": [round(float(np.mean(losses[:20])), 3), round(float(np.mean(losses[-20:])), 3)],
        "test_before": before,
        "test_after": after,
        "test_unigram": round(unigram(train, test, len(tokenizer)), 4),
        "sample": [example.prompt, sample["text"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> int:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    results = {"translation": translation(), "generation": generation()}
    print(json.dumps(results, ensure_ascii=False, indent=1))
    first, last = results["translation"]["loss_first_last_20_steps"]
    learned = (
        last < first / 2
        and results["translation"]["train_after"]["bleu"] > results["translation"]["train_before"]["bleu"]
    )
    below = results["generation"]["test_after"]["cross_entropy"] < results["generation"]["test_unigram"]
    return 0 if learned and below else 1


if __name__ == "__main__":
    sys.exit(main())
