"""The demonstration: a general opinion model tuned to hotel feedback with all three methods, on sample data that ships along."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from domaintune.finished.compare import compare
from domaintune.pipeline import tune
from domaintune.recipe import Recipe
from domaintune.run import RunFolder
from domaintune.screen import Screen, say
from domaintune.terminal import ProgressBar, comparison_table, pairs_table

METHODS = ("freeze", "p-tuning", "lora")
# Few enough for the whole demonstration to take minutes on two cores; a run of one's own trains longer by default.
BASE_EPOCHS, EPOCHS, ROBUSTNESS_ROWS = 3, 5, 40


def recipes(output: Path) -> dict[str, Recipe]:
    """The runs of the demonstration in order: the general base first, then each method from it."""
    samples = Path(str(files("domaintune"))) / "samples"
    task = "text-classification"
    general: dict[str, Any] = {
        "task": task,
        "base": "minilm",
        "method": "full",
        "train": str(samples / "general_train.csv"),
        "dev": str(samples / "general_dev.csv"),
        "test": str(samples / "general_test.csv"),
        "output": str(output / "base"),
        "training": {"epochs": BASE_EPOCHS},
        "balance": {"strengths": (0.0, 1.0)},
        "evaluation": {"robustness": False},
    }
    made = {"base": Recipe.make(general)}
    for method in METHODS:
        made[method] = Recipe.make(
            {
                "task": task,
                "base": str(output / "base"),
                "method": method,
                "train": str(samples / "hotels_train.csv"),
                "dev": str(samples / "hotels_dev.csv"),
                "test": str(samples / "hotels_test.csv"),
                "general": str(samples / "general_choose.csv"),
                "general_check": str(samples / "general_test.csv"),
                "output": str(output / method),
                "training": {"epochs": EPOCHS},
                "evaluation": {"robustness": method == METHODS[-1], "robustness_rows": ROBUSTNESS_ROWS},
            }
        )
    return made


def demo(output: Path, console: Console) -> None:
    """Make the runs that are not there yet, print their table and verdicts."""
    made = recipes(output)
    for name, recipe in made.items():
        if not RunFolder(Path(recipe.output)).finished:
            what = "everyday opinions -> base" if name == "base" else f"hotel feedback, {name}"
            console.print(f"{what}: {Path(str(recipe.train)).name} -> {recipe.output}", highlight=False)
            with ProgressBar(Screen(stderr=True)) as bar:
                tune(recipe, report=bar)
    compared = compare([made[name].output for name in METHODS])
    console.print(comparison_table(compared))
    console.print(pairs_table(compared))
    for name in METHODS:
        verdict = RunFolder.existing(made[name].output).read("scores.json")["verdict"]
        say(console, f"{name}: {verdict['sentence']}")
    command = f"domaintune predict {shlex.quote(made['lora'].output)} -"
    say(console, f'Try one: echo "The walls are paper thin." | {command}', soft_wrap=True)
