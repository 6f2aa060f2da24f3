"""Time and memory measured on a few steps, and the precision chosen by them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import FAMILIES, Cell, attach, rows
from small_runs import save_base

from domaintune import Recipe, tune
from domaintune.engine import pace as module
from domaintune.engine.gradient import StepGradient
from domaintune.engine.pace import faster_precision, pace
from domaintune.fit import validator
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


@pytest.mark.parametrize(("ratios", "expected"), [((2.0, 2.0, 1.0), "bf16"), ((1.2, 1.5, 1.2), "fp32")])
def test_the_median_pair_decides(ratios: tuple[float, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def measured(gradient: StepGradient, *rest: Any) -> float:
        number = next(calls)
        return 1.0 if gradient.sixteen_bits or number < 2 else ratios[(number - 2) // 2]

    monkeypatch.setattr(module, "_timed", measured)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    base, task, attached = attach(CELL)
    data = dataset(task, base, list(task.read(rows(CELL.task))))
    assert faster_precision(attached, task, base, data, **SETTINGS) == expected
    assert next(calls) == 2 + 2 * len(ratios)


def test_processors_without_bf16_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    base, task, attached = attach(CELL)
    assert faster_precision(attached, task, base, None, **SETTINGS) == "fp32"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_dev_is_scored_in_the_precision_of_training(name: str) -> None:
    base, task, attached = attach(Cell(name, FAMILIES[name][0], "lora"))
    data = dataset(task, base, list(task.read(rows(name))))
    attached.model.eval()
    scores = [validator(task, base, attached, data, 10**6, precision)() for precision in ("fp32", "bf16")]
    assert all(np.isfinite(scores))
    model = attached.model
    assert next(model.parameters()).dtype == torch.float32


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
    monkeypatch.setattr("domaintune.pipeline.FEWEST_STEPS", 1)
    run = tune(recipe)
    assert json.loads((run.path / "recipe.json").read_text())["training"]["precision"] == "auto"
    assert json.loads((run.path / "resolved.json").read_text())["training"]["precision"] == "bf16"
    assert json.loads((run.path / "run.json").read_text())["precision"] == "bf16"


def test_short_trainings_are_not_measured(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr("domaintune.pipeline.faster_precision", refuse)
    monkeypatch.setattr("domaintune.pipeline.FEWEST_STEPS", 100)
    made = plan(recipe)
    assert made.minutes > 0
    with pytest.raises(AssertionError, match="measured"):
        plan(Recipe.make({**recipe.plain(), "training": {"epochs": 100, "precision": "auto"}}))


def test_a_plan_tells_time_and_memory(recipe: Recipe) -> None:
    made = plan(recipe)
    assert 0 < made.minutes < 5
    assert made.memory > 2**20
    assert not Path(recipe.output).exists()
