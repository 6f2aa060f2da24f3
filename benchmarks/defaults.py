"""What other settings than the defaults would give, judged without any test part: dev rows, and train rows that were left out.

    python benchmarks/defaults.py [--methods lora p-tuning freeze full] [--cells ...] [--seeds 0] [--workers 1] | table

Each method is tried with its defaults and with every change in TRIED, one training a row; finished rows are kept in
benchmarks/results/defaults. What is kept is the score on the general set's choosing part as a share of the base's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import CELLS, OURS, RUNS
from rows import code_hash, digest, row
from text import Sets, key_of

from domaintune.data.formats import read_rows
from domaintune.errors import DomainTuneError
from domaintune.evaluation.score import primary_score
from domaintune.fit import fit
from domaintune.pipeline import general_of
from domaintune.recipe import Recipe
from domaintune.tasks.base import dataset

RESULTS = Path("benchmarks/results/defaults")
JUDGED = ("product_reviews", "banking77", "crossner_politics", "reddit_goemotions")
Try = tuple[str, str, Mapping[str, Any], int]
"""Cell, method, changes, seed."""
LEFT_OUT = 1000
"""Rows of train at most, of those that the cap leaves."""
EVERY: tuple[dict[str, Any], ...] = (
    {"training.layer_decay": 0.8},
    {"training.batch_size": 8},
    {"training.schedule": "cosine"},
    {"training.weights": "best"},
)
TRIED: Mapping[str, tuple[dict[str, Any], ...]] = {
    "lora": (
        {},
        {"training.learning_rate": 5e-4},
        {"training.learning_rate": 5e-4, "training.epochs": 14},
        {"training.learning_rate": 2e-3},
        {"training.epochs": 14},
        {"method.dropout": 0.1},
        {"method.rank": 32, "method.alpha": 32},
        {"method.targets": ["attention"]},
        {"method.rank": 4},
        *EVERY,
    ),
    "p-tuning": (
        {},
        {"training.learning_rate": 1e-2},
        {"training.learning_rate": 1e-1},
        {"method.beside": ["layer-norm"]},
        {"method.reparameterise": True, "training.learning_rate": 3e-3},
        {"method.gated": True},
        {"method.initialise": "text"},
        {"training.epochs": 7},
        {"method.num_virtual_tokens": 8},
        {"method.num_virtual_tokens": 32},
        {"method.version": 1, "training.learning_rate": 1e-2},
        {"method.version": 1, "training.learning_rate": 1e-3},
        {"method.reparameterise": True, "training.learning_rate": 1e-3},
        {"method.beside": ["bias"]},
        *EVERY,
    ),
    "freeze": (
        {},
        {"training.learning_rate": 1e-4},
        {"training.learning_rate": 4e-4},
        {"method.train": ["top:1"]},
        {"method.train": ["top:2"]},
        *EVERY,
    ),
    "full": ({}, {"training.learning_rate": 2.5e-5}, {"training.learning_rate": 1e-4}, *EVERY),
}
"""Changes of the defaults, by method. The most telling first."""
TODAY = "of today"


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    plain = recipe.plain()
    for path, value in changes.items():
        section, key = path.split(".")
        plain[section][key] = value
    return Recipe.make(plain)


def recipe_of(cell: str, method: str, changes: Mapping[str, Any], seed: int) -> Recipe:
    """The cell's recipe with changes; the frontier has its two ends alone."""
    recipe = CELLS[cell].recipe(OURS[method], seed=seed, output=RUNS / "unused")
    return changed(recipe, {"balance.strengths": [0.0, 1.0], "balance.max_rows": 1000, **changes})


def measured(cell: str, method: str, changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    recipe = recipe_of(cell, method, changes, seed)
    key = {"code": code_hash(recipe.task.name), **key_of(recipe)}

    def measure() -> dict[str, Any]:
        sets = Sets(cell, recipe)
        parts, task = sets.parts, sets.parts.task
        made = fit(
            recipe, sets.base, task, rows=parts.train, dev=parts.dev, general=general_of(parts), folder=None,
            report=lambda step, progress: None,
        )  # fmt: skip
        taken = {task.keys(e).input for e in (*parts.train, *(parts.dev or ()), *parts.test)}
        others = [e for e in task.read(read_rows(str(recipe.train))) if task.keys(e).input not in taken]
        order = np.sort(np.random.default_rng(0).permutation(len(others))[:LEFT_OUT])
        left_out = dataset(task, made.base, [others[i] for i in order])
        ends = {point.strength: point for point in made.frontier}
        return {
            "cell": cell,
            "method": method,
            "changes": dict(changes),
            "dev": made.dev_score,
            "left_out": primary_score(task, made.base, made.attached.view(1.0), left_out)[0] if len(others) else None,
            "retention": ends[1.0].retention,
            "averaged": made.training.averaged_epochs,
        }

    return row(RESULTS, f"{cell}.{method}.{digest(key['recipe'])}", key, measure)


def told(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.partition('.')[2]} {value}" for path, value in changes.items()) or "defaults"


def table() -> list[str]:
    """By method, code and change: dev / left out / general kept, the mean over seeds, of every cell."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "Nothing here comes from a test part. Dev / at most 1,000 train rows that the cap left out / general score kept, at strength 1, the mean",
        "over seeds. Changes are those of the defaults at the time; a method has one table for each version of the code.",
    ]
    for method in TRIED:
        codes: dict[str, list[dict[str, Any]]] = {}
        for made in rows:
            if made["method"] == method:
                code = made["key"]["code"]
                codes.setdefault(TODAY if code in todays() else code, []).append(made)
        if TODAY not in codes:
            lines += ["", f"{method}: missing under today's code and defaults"]
        for code, mine in codes.items():
            lines += ["", *_table_of(method, code, mine)]
    return lines


def todays() -> set[str]:
    """Of the two kinds of tasks."""
    return {code_hash("text-classification"), code_hash("token-classification")}


def _table_of(method: str, code: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The defaults first; under today's code with what is missing."""
    held: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for made in rows:
        held.setdefault((told(made["changes"]), made["cell"]), []).append(made)
    where = " and ".join(sorted({made["provenance"]["machine"].get("gpu") or "CPU" for made in rows}))
    lines = [f"| {method} (code {code}, {where}) | {' | '.join(JUDGED)} |", "| --- " * (len(JUDGED) + 1) + "|"]
    names = sorted({name for name, _ in held}, key=lambda name: (name != "defaults", name))
    if code == TODAY:
        names = list(dict.fromkeys([*names, *map(told, TRIED[method])]))
    return lines + [
        f"| {name} | {' | '.join(shown(held.get((name, cell), [])) for cell in JUDGED)} |" for name in names
    ]


def shown(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "missing"
    values = [[made[key] for made in rows] for key in ("dev", "left_out", "retention")]
    return " / ".join("" if None in value else f"{np.mean(value):.3f}" for value in values)


def tries(methods: Sequence[str], cells: Sequence[str], seeds: Sequence[int]) -> Iterator[Try]:
    """The most telling ones of all methods first."""
    for seed in seeds:
        for changes in itertools.zip_longest(*(TRIED[method] for method in methods)):
            for method, change in zip(methods, changes, strict=True):
                if change is not None:
                    yield from ((cell, method, change, seed) for cell in cells)


def measure_one(wanted: Try) -> None:
    torch.set_num_threads(1)
    print(*wanted, flush=True)
    try:
        measured(*wanted)
    except DomainTuneError as error:
        print(*wanted, "cannot be:", error, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["table"])
    parser.add_argument("--methods", nargs="+", default=list(TRIED))
    parser.add_argument("--cells", nargs="+", default=list(JUDGED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.part != "table":
        with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(measure_one, tries(arguments.methods, arguments.cells, arguments.seeds)))
    print("\n".join(table()))


if __name__ == "__main__":
    main()
