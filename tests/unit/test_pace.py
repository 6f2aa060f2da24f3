"""Time and memory measured on a few steps, and the precision chosen by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import FAMILIES, Cell, attach, rows
from small_runs import save_base

from domaintune import Recipe, tune
from domaintune.engine.gradient import StepGradient
from domaintune.engine.pace import pace
from domaintune.engine.precision import FEWEST_STEPS, TRIAL, WARM_UP, narrowed, precision_of
from domaintune.engine.train import Progress, train
from domaintune.fit import validator
from domaintune.pipeline import plan
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import dataset

CELL = Cell("text-classification", "bert", "lora")
SETTINGS = TrainingSettings(epochs=1, batch_size=3, micro_batch_budget=60)


def test_measuring_changes_nothing() -> None:
    base, task, attached = attach(CELL)
    data = dataset(task, base, list(task.read(rows(CELL.task))))
    before, random = attached.state(), torch.random.get_rng_state()
    made = pace(attached, task, base, data, SETTINGS, seed=1)
    assert 0 < made.seconds_per_cost < 10
    assert made.peak_memory > 2**20
    after = attached.state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in attached.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not attached.model.training


@pytest.mark.parametrize(("ratio", "expected"), [(1.6, "bf16"), (1.29, "fp32"), (0.5, "fp32")])
def test_the_first_steps_alternate_and_their_medians_decide(ratio: float, expected: str) -> None:
    trial: list[float] = []
    while len(trial) < TRIAL:
        kind = precision_of("auto", trial)
        assert kind == ("fp32", "bf16")[len(trial) % 2]
        # The first of each warms up; one slow step of either must not decide.
        slow = 100.0 if len(trial) < WARM_UP or len(trial) in (4, 7) else 1.0
        trial.append(slow * (ratio if kind == "fp32" else 1.0))
    assert precision_of("auto", trial) == expected
    assert [precision_of(asked, []) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_short_trainings_and_processors_without_bf16_have_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    able = "torch.ops.mkldnn._is_mkldnn_bf16_supported"
    monkeypatch.setattr(able, lambda: True)
    assert narrowed("auto", cpu, steps=FEWEST_STEPS) == "auto"
    assert narrowed("auto", cpu, steps=FEWEST_STEPS - 1) == "fp32"
    assert narrowed("bf16", cpu, steps=1) == "bf16"
    monkeypatch.setattr(able, lambda: False)
    assert narrowed("auto", cpu, steps=10**6) == "fp32"


@pytest.mark.parametrize("name", FAMILIES)
def test_dev_is_scored_in_the_precision_of_training(name: str) -> None:
    base, task, attached = attach(Cell(name, FAMILIES[name][0], "lora"))
    data = dataset(task, base, list(task.read(rows(name))))
    dtypes: list[torch.dtype] = []
    linear = next(module for module in attached.model.modules() if type(module) is torch.nn.Linear)
    linear.register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
    validate = validator(task, base, attached, data, 10**6)
    scores = []
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        settings = TrainingSettings(epochs=1, batch_size=4, precision=precision)
        made = train(
            attached, task, base, data, settings, learning_rate=1e-5, seed=1, validate=validate, folder=None,
            on_progress=lambda progress: dtypes.clear(),
        )  # fmt: skip
        assert set(dtypes) == {expected}
        assert made.precision == precision
        scores.append(made.epochs[0].score)
    assert all(np.isfinite(scores))
    assert next(attached.model.parameters()).dtype == torch.float32


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


def with_a_trial(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[str]:
    """Every training has a trial whose steps take so long; gives the precisions of all steps."""
    made: list[str] = []
    accumulate_ = StepGradient.accumulate_

    def counted(self: StepGradient, *arguments: Any, precision: str, **more: Any) -> list[torch.Tensor]:
        made.append(precision)
        return accumulate_(self, *arguments, precision=precision, **more)

    @contextmanager
    def clock(device: torch.device) -> Iterator[list[float]]:
        given: list[float] = []
        yield given
        given.append(seconds[made[-1]])

    monkeypatch.setattr(StepGradient, "accumulate_", counted)
    monkeypatch.setattr("domaintune.engine.train.timed", clock)
    monkeypatch.setattr("domaintune.engine.train.narrowed", lambda asked, device, steps: asked)
    return made


def test_the_choice_is_written_down(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 9.0, "bf16": 1.0})
    recipe = Recipe.make({**recipe.plain(), "training": {"epochs": 8, "precision": "auto"}})
    run = tune(recipe)
    assert made == ["fp32", "bf16"] * (TRIAL // 2) + ["bf16"] * (len(made) - TRIAL)
    assert len(made) > TRIAL
    assert json.loads((run.path / "recipe.json").read_text())["training"]["precision"] == "auto"
    assert json.loads((run.path / "resolved.json").read_text())["training"]["precision"] == "bf16"


def test_the_first_fold_decides_for_all(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 9.0, "bf16": 1.0})
    folds = {"fold_below": 10_000, "folds": 2}
    recipe = Recipe.make({**recipe.plain(), "data": folds, "training": {"epochs": 20, "precision": "auto"}})
    run = tune(recipe)
    assert made.count("fp32") == TRIAL // 2
    assert json.loads((run.path / "resolved.json").read_text())["training"]["precision"] == "bf16"


def test_a_trial_goes_on_where_it_was_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 2.0, "bf16": 1.0})
    settings = TrainingSettings(epochs=12, batch_size=4, checkpoint_every_seconds=0.0, precision="auto")

    def trained(folder: Path, *, killed_at: int | None) -> dict[str, torch.Tensor]:
        base, task, attached = attach(CELL)
        data = dataset(task, base, list(task.read(rows(CELL.task))))

        def kill(progress: Progress) -> None:
            if progress.step == killed_at:
                raise RuntimeError("killed")

        train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=folder,
            on_progress=kill,
        )  # fmt: skip
        return attached.state()

    whole = trained(tmp_path / "whole", killed_at=None)
    steps = list(made)
    made.clear()
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "resumed", killed_at=7)
    resumed = trained(tmp_path / "resumed", killed_at=None)
    assert made == steps
    assert len(steps) > TRIAL
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_plan_tells_time_and_memory(recipe: Recipe) -> None:
    made = plan(recipe)
    assert 0 < made.minutes < 5
    assert made.memory > 2**20
    assert not Path(recipe.output).exists()
