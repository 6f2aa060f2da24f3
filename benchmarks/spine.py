"""The main job on real reviews and entities, ours beside Trainer + PEFT from the same start, over several seeds.

    python benchmarks/spine.py bases | reviews | politics | cells | table [--seeds 0 1 2] [--methods lora peft-lora ...]

Data are looked for in the folder that DOMAINTUNE_SHARED names (by default ../shared). Finished rows are kept in
benchmarks/results/spine and not measured again; runs and bases lie under runs/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import HERE, as_records, code_hash, file_hash, plain_records, row

from domaintune.data.formats import read_rows
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate
from domaintune.evaluation.score import predict, primary_score, records_of
from domaintune.inputs import checksums
from domaintune.parts import assemble
from domaintune.pipeline import seen_by, tune
from domaintune.predict import Run, load, open_base
from domaintune.recipe import Recipe
from domaintune.run import RunFolder
from domaintune.tasks.base import dataset

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", "../shared")) / "data"
RUNS, RESULTS = Path("runs/bench"), Path("benchmarks/results/spine")
OURS: dict[str, Any] = {
    "lora": {"name": "lora"},
    "freeze": {"name": "freeze"},
    "p-tuning": {"name": "p-tuning"},
    "p-tuning-gated": {"name": "p-tuning", "gated": True},
    "head-only": {"name": "freeze", "train": ["head"]},
}
PEER_RATES = (5e-4, 1e-3)
JOBS: dict[str, dict[str, Any]] = {
    "reviews": {
        "task": "text-classification",
        "base": str(RUNS / "movies"),
        "train": SHARED / "sentiment/product_reviews/train.csv",
        "dev": SHARED / "sentiment/product_reviews/dev.csv",
        "test": SHARED / "sentiment/product_reviews/test.csv",
        "general": SHARED / "sentiment/mr_movie/test.csv",
        "general_check": SHARED / "sentiment/reddit_goemotions/test.csv",
        "data": {"max_train_rows": 1000},
    },
    "politics": {
        "task": "token-classification",
        "base": str(RUNS / "wikigold"),
        "train": SHARED / "ner/crossner_politics/train.jsonl",
        "dev": SHARED / "ner/crossner_politics/dev.jsonl",
        "test": SHARED / "ner/crossner_politics/test.jsonl",
        "general": SHARED / "ner/wikigold/test.jsonl",
    },
    "cells": {
        "task": "image-classification",
        "base": str(SHARED.parent / "bases/mobilenet_v2_1.0_224"),
        "train": SHARED / "imgcls/bccd_cells/train",
        "dev": SHARED / "imgcls/bccd_cells/dev",
        "test": SHARED / "imgcls/bccd_cells/test",
        "data": {"max_train_rows": 300},
        "training": {"epochs": 5},
        "balance": {"strengths": [0.0, 1.0]},
    },
}
METHODS_OF = {
    "reviews": ("lora", "freeze", "p-tuning"),
    "politics": ("lora", "p-tuning", "freeze", "head-only", "p-tuning-gated"),
    "cells": ("lora", "freeze", "head-only"),
}
BASES: dict[str, dict[str, Any]] = {
    "movies": {
        "task": "text-classification",
        "train": SHARED / "sentiment/mr_movie/train.csv",
        "dev": SHARED / "sentiment/mr_movie/dev.csv",
        "test": SHARED / "sentiment/product_reviews/dev.csv",
        "training": {"epochs": 2, "batch_size": 32},
    },
    "wikigold": {
        "task": "token-classification",
        "train": SHARED / "ner/wikigold/train.jsonl",
        "dev": SHARED / "ner/wikigold/dev.jsonl",
        "test": SHARED / "ner/wikigold/dev.jsonl",
        "data": {"keep_leaks": True},
        "training": {"epochs": 8},
    },
}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    # One thread: on a shared machine the second one of two often costs more than it gives.
    values = {"threads": 1, **values}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def run_of(values: dict[str, Any]) -> Run:
    recipe = Recipe.make(plain(values))
    if not RunFolder(Path(recipe.output)).finished:
        tune(recipe, report=lambda stage, progress: None)
    return load(recipe.output)


def make_bases() -> None:
    for name, values in BASES.items():
        run_of({**values, "base": "minilm", "method": "full", "output": RUNS / name})


def ours(job: str, method: str, seed: int) -> dict[str, Any]:
    recipe = Recipe.make(
        plain(
            {**JOBS[job], "method": OURS[method], "seed": seed, "output": RUNS / job / f"{method}-{code_hash()}-{seed}"}
        )
    )
    key = {"code": code_hash(), "recipe": recipe.plain()}

    def measure() -> dict[str, Any]:
        run = run_of(recipe.plain())
        folder = RunFolder.existing(recipe.output)
        test = dataset(run.task, run.base, list(run.task.read(read_rows(str(recipe.test)))))
        made = predict(run.task, run.base, run.view(1.0), test, wanted=frozenset(run.task.scores))
        scores = folder.read("scores.json")
        facts = folder.read("provenance.json")
        return {
            "scores": scores,
            "seconds": facts["training_seconds"],
            "memory": facts["peak_memory_bytes"],
            "records": plain_records(records_of(run.task, test, made)),
        }

    return row(RESULTS, f"{job}-{method}-{seed}", key, measure)


def peer(job: str, seed: int, rates: tuple[float, ...]) -> dict[str, Any]:
    """Trainer + PEFT LoRA; with several rates the one with the best dev score counts."""
    import accelerate
    import peft
    import transformers
    from peers import peft_lora

    versions = {m.__name__: m.__version__ for m in (transformers, peft, accelerate, torch)}
    recipe = Recipe.make(plain({**JOBS[job], "method": "lora", "seed": seed, "output": RUNS / "unused"}))
    key = {
        "versions": versions,
        "peer": file_hash(HERE / "peers.py"),
        "rates": list(rates),
        "seed": seed,
        "base": file_hash(Path(recipe.base) / "adapter" / "weights.safetensors"),
        "data": checksums(recipe),
        "rows": recipe.data.max_train_rows,
    }

    def measure() -> dict[str, Any]:
        base = open_base(recipe)
        parts = assemble(recipe, base, seen=seen_by(recipe.base))
        base = base.with_head("domain", parts.task.head(), generator=torch.Generator().manual_seed(seed))
        assert parts.dev is not None
        assert parts.general is not None
        tried = {}
        for rate in rates:
            started = time.monotonic()
            model, score = peft_lora(parts.task, base, parts.train, parts.dev, learning_rate=rate, epochs=7, seed=seed)
            tried[rate] = (score, time.monotonic() - started, model)
        best = max(tried, key=lambda rate: tried[rate][0])
        score, seconds, model = tried[best]
        test = dataset(parts.task, base, parts.test)
        general = dataset(parts.general.task, base, parts.general.choose)
        check = dataset(parts.general.task, base, parts.general.headline)
        value, records = primary_score(parts.task, base, model, test)
        return {
            "rate": best,
            "dev": {str(rate): entry[0] for rate, entry in tried.items()},
            "domain": value,
            "general": primary_score(parts.general.task, base, model, general)[0],
            "check": primary_score(parts.general.task, base, model, check)[0],
            "base_general": primary_score(parts.general.task, base, base.model, general)[0],
            "base_check": primary_score(parts.general.task, base, base.model, check)[0],
            "seconds": seconds,
            "records": plain_records(records),
        }

    return row(RESULTS, f"{job}-peft-lora-{seed}", key, measure)


def stored(path: Path) -> dict[str, Any]:
    """A finished row as it is, also one that older code measured."""
    row_read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return row_read


def compare(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Paired difference of two methods over seeds: resamples draw examples, each with all its seeds."""
    task = load(mine[0]["key"]["recipe"]["output"]).task
    a = [record for entry in mine for record in as_records(entry["records"])]
    b = [record for entry in theirs for record in as_records(entry["records"])]
    count = len(mine[0]["records"])
    groups = [str(i % count) for i in range(len(a))]
    weights = bootstrap_weights(len(a), draws=2000, seed=0, groups=groups)
    e = gain_estimate(task, a, b, weights)
    return f"{e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}]"


def table(job: str, seeds: list[int]) -> None:
    print(f"\n{job}: strength 1 | chosen; primary scores, mean over seeds {seeds}")
    rows: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS_OF[job]:
        paths = [RESULTS / f"{job}-{method}-{seed}.json" for seed in seeds]
        if not all(path.exists() for path in paths):
            print(f"{method:16} missing")
            continue
        rows[method] = [stored(path) for path in paths]
        every = [entry["scores"] for entry in rows[method]]
        older = " (older code)" if any(entry["key"]["code"] != code_hash() for entry in rows[method]) else ""
        name = every[0]["primary"]

        def mean(side: str, strength: str, kind: str = "scores", every: Any = every, name: str = name) -> float:
            if every[0][side] is None:
                return float("nan")
            pick = [s[side][kind][f"{s['chosen_strength']:g}" if strength == "chosen" else strength] for s in every]
            return float(np.mean([p[name]["value"] if kind == "scores" else p["value"] for p in pick]))

        print(
            f"{method:16} base {mean('domain', '0'):.4f}/{mean('general', '0'):.4f}"
            f"  s=1 {mean('domain', '1'):.4f}/{mean('general', '1'):.4f} kept {mean('general', '1', 'change'):.3f}"
            f"  chosen {[s['chosen_strength'] for s in every]} {mean('domain', 'chosen'):.4f}/{mean('general', 'chosen'):.4f}"
            f" kept {mean('general', 'chosen', 'change'):.3f}"
            f"  {[s['verdict']['kind'] for s in every]}  {np.mean([e['seconds'] for e in rows[method]]):.0f} s{older}"
        )
    peers = [RESULTS / f"{job}-peft-lora-{seed}.json" for seed in seeds]
    if all(path.exists() for path in peers):
        theirs = [stored(path) for path in peers]
        print(
            f"Trainer + PEFT LoRA {np.mean([t['domain'] for t in theirs]):.4f} general {np.mean([t['general'] for t in theirs]):.4f}"
            f" check {np.mean([t['check'] for t in theirs]):.4f} (base {theirs[0]['base_general']:.4f} / {theirs[0]['base_check']:.4f})"
            f" rates {[t['rate'] for t in theirs]}  {np.mean([t['seconds'] for t in theirs]):.0f} s"
        )
        if "lora" in rows:
            print("LoRA - PEFT LoRA:", compare(rows["lora"], theirs))
    if {"head-only", "lora"} <= set(rows):
        for method in rows:
            if method != "head-only":
                print(f"{method} - head only:", compare(rows[method], rows["head-only"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["bases", *JOBS, "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=None)
    arguments = parser.parse_args()
    if arguments.part == "bases":
        make_bases()
    elif arguments.part == "table":
        for job in JOBS:
            table(job, arguments.seeds)
    else:
        for seed in arguments.seeds:
            for method in arguments.methods or METHODS_OF[arguments.part]:
                made = (
                    peer(arguments.part, seed, PEER_RATES)
                    if method == "peft-lora"
                    else ours(arguments.part, method, seed)
                )
                print(
                    arguments.part,
                    method,
                    seed,
                    made.get("domain") if method == "peft-lora" else made["scores"]["domain"]["scores"]["1"],
                    flush=True,
                )


if __name__ == "__main__":
    main()
