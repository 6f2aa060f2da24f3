"""MobileNetV2 on a few hundred blood cells: Freeze and LoRA on convolutions against the linear probe; one stored row each.

    python benchmarks/pictures.py [--seeds 0] [--methods lora freeze head-only]

Data and weights are looked for in the folder that DOMAINTUNE_SHARED names (by default ../shared).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rows import code_hash, digest, row, settings_of

from domaintune.inputs import checksums
from domaintune.pipeline import tune
from domaintune.recipe import Recipe
from domaintune.run import RunFolder

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", "../shared"))
RUNS, RESULTS = Path("runs/bench/pictures"), Path("benchmarks/results/pictures")
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora"},
    "freeze": {"name": "freeze"},
    "head-only": {"name": "freeze", "train": ["head"]},
}


def measured(method: str, seed: int) -> dict[str, Any]:
    recipe = Recipe.make(
        {
            "task": "image-classification",
            "base": str(SHARED / "bases/mobilenet_v2_1.0_224"),
            **{part: str(SHARED / "data/imgcls/bccd_cells" / part) for part in ("train", "dev", "test")},
            "method": METHODS[method],
            "data": {"max_train_rows": 300},
            "training": {"epochs": 5},
            "balance": {"strengths": [0.0, 1.0]},
            "seed": seed,
            "threads": 1,
            "output": "unused",
        }
    )
    plain = {k: v for k, v in settings_of(recipe).items() if k not in ("output", "train", "dev", "test", "base")}
    key = {"code": code_hash("image-classification"), "recipe": plain, "data": checksums(recipe)}
    output = RUNS / f"bccd_cells-{method}-{seed}-{digest(key)}"
    recipe = recipe.model_copy(update={"output": str(output)})

    def measure() -> dict[str, Any]:
        if not RunFolder(output).finished:
            tune(recipe)
        folder = RunFolder.existing(output)
        scores, facts = folder.read("scores.json"), folder.read("provenance.json")
        return {"scores": scores, "seconds": facts["training_seconds"], "memory": facts["peak_memory_bytes"]}

    return row(RESULTS, f"bccd_cells.{method}.{seed}", key, measure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for method in arguments.methods:
            made = measured(method, seed)
            scores = made["scores"]
            base, end = (scores["domain"]["scores"][s]["accuracy"] for s in ("0", "1"))
            print(
                f"{method}, seed {seed}: probe {base['value']:.3f} [{base['low']:.3f}, {base['high']:.3f}] -> "
                f"{end['value']:.3f} [{end['low']:.3f}, {end['high']:.3f}], majority {scores['majority']:.3f}, "
                f"{made['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
