"""A tiny text classifier's base, rows and recipe: runs that take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tiny import tiny_base

from domaintune import Recipe

WORDS = {
    "negative": ["cold soup", "dirty room", "slow waiter", "broken lamp", "noisy street", "rude desk"],
    "positive": ["lovely view", "clean room", "quick waiter", "warm bread", "quiet garden", "kind desk"],
}


def table(path: Path, count: int, *, labels=("negative", "positive"), start=0, column="label") -> str:
    lines = [f"text,{column}" if column else "text"]
    for number in range(start, start + count):
        label = labels[number % len(labels)]
        source = WORDS["negative" if number % 2 else "positive"]
        text = f"a {source[number % 6]} and a {source[(number // 6) % 6]} on day {number}"
        lines.append(f"{text},{label}" if column else text)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def save_base(folder: Path, family: str = "bert", task: str = "text-classification", **config: object) -> None:
    base = tiny_base(family, task)
    base.model.config.update(config)
    base.model.save_pretrained(folder / "base")
    base.processor.save_pretrained(folder / "base")


def recipe(folder: Path, *, table: Callable[..., str] = table, **more: object) -> Recipe:
    """`table` writes the parts' rows."""
    values = {
        "task": "text-classification",
        "base": str(folder / "base"),
        "train": table(folder / "train.csv", 40),
        "dev": table(folder / "dev.csv", 16, start=100),
        "test": table(folder / "test.csv", 24, start=200),
        "general": table(folder / "general.csv", 40, start=300),
        "method": "lora",
        "output": str(folder / "runs" / "x"),
        "training": {"epochs": 2, "learning_rate": 0.01},
        "evaluation": {"draws": 200},
        "threads": 1,
    }
    return Recipe.make({**values, **more})
