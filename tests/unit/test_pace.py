"""Time and memory measured on a few steps, and the precision chosen by them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Cell, attach, rows
from small_runs import save_base

from domaintune import Recipe, tune
from domaintune.engine import pace as module
from domaintune.engine.pace import Pace, faster_precision, pace
from domaintune.pipeline import plan
from domaintune.tasks.base import dataset

CELL = Cell("text-classification", "bert", "lora")
SETTINGS: dict[str, Any] = {"batch_size": 3, "budget": 60, "seed": 1}


def test_measuring_changes_nothing() -> None:
    base, task, attached = attach(CELL)
    data = dataset(task, base, list(task.read(rows(CELL.task))))
    before, random = attached.state(), torch.random.get_rng_state()
    made = pace(attached, task, base, data, precision="fp32", **SETTINGS)
    assert 0 < made.seconds_per_cost < 10
    assert made.peak_memory > 2**20
    after = attached.state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in attached.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not attached.model.training


@pytest.mark.parametrize(("ratios", "expected"), [((2.0, 2.0, 1.0), "bf16"), ((1.1, 1.3, 1.1), "fp32")])
def test_the_median_pair_decides(ratios: tuple[float, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def measured(*arguments: Any, precision: str, **more: Any) -> Pace:
        return Pace(ratios[next(calls) // 2] if precision == "fp32" else 1.0, 0)

    monkeypatch.setattr(module, "pace", measured)
    base, task, attached = attach(CELL)
    assert faster_precision(attached, task, base, None, **SETTINGS) == expected  # type: ignore[arg-type]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    save_base(tmp_path)
    words = {"negative": "a cold room", "positive": "a warm room"}
    lines = ["text,label", *(f"{words[label]} on day {n},{label}" for n in range(40) for label in words)]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    return Recipe.make(
        {
            "task": "text-classification",
            "base": str(tmp_path / "base"),
            "train": str(tmp_path / "train.csv"),
            "output": str(tmp_path / "run"),
            "data": {"fold_below": 10},
            "training": {"epochs": 1, "precision": "auto"},
            "evaluation": {"draws": 100},
            "threads": 1,
        }
    )


def test_the_choice_is_written_down(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domaintune.pipeline.faster_precision", lambda *arguments, **more: "bf16")
    run = tune(recipe)
    assert json.loads((run.path / "recipe.json").read_text())["training"]["precision"] == "auto"
    assert json.loads((run.path / "resolved.json").read_text())["training"]["precision"] == "bf16"
    assert json.loads((run.path / "run.json").read_text())["precision"] == "bf16"


def test_a_plan_tells_time_and_memory(recipe: Recipe) -> None:
    made = plan(recipe)
    assert 0 < made.minutes < 5
    assert made.memory > 2**20
    assert not Path(recipe.output).exists()
