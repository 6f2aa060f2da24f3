"""Time and memory measured on a few steps, and the precision chosen by them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import FAMILIES, Cell, attach, rows
from small_runs import recipe as small_recipe
from small_runs import save_base, table

from domaintune import Recipe, tune
from domaintune.engine.epochs import Progress, Training
from domaintune.engine.gradient import StepGradient
from domaintune.engine.pace import Pace, kept_in_training, pace
from domaintune.engine.precision import FEWEST_STEPS, TRIAL, faster, narrowed
from domaintune.engine.train import train
from domaintune.errors import CheckpointError, TrainingError
from domaintune.fit import validator
from domaintune.preview import plan
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
def test_the_median_of_the_steps_in_both_precisions_decides(ratio: float, expected: str) -> None:
    # Steps of many lengths; the first warms up, and a disturbance in one of either must not decide.
    bf16 = [1.0, 3.0, 100.0, 0.5, 2.0, 1.0]
    fp32 = [ratio * seconds for seconds in bf16]
    bf16[4], fp32[0], fp32[2] = 50.0, 100.0, 100.0 * ratio
    assert faster(fp32, bf16) == expected


def test_short_trainings_and_processors_without_bf16_have_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    able = "torch.ops.mkldnn._is_mkldnn_bf16_supported"
    monkeypatch.setattr(able, lambda: True)
    assert narrowed("auto", cpu, steps=FEWEST_STEPS, in_epoch=TRIAL) == "auto"
    assert narrowed("auto", cpu, steps=FEWEST_STEPS - 1, in_epoch=TRIAL) == "fp32"
    assert narrowed("auto", cpu, steps=FEWEST_STEPS, in_epoch=TRIAL - 1) == "fp32"
    assert narrowed("bf16", cpu, steps=1, in_epoch=1) == "bf16"
    monkeypatch.setattr(able, lambda: False)
    assert narrowed("auto", cpu, steps=10**6, in_epoch=10**6) == "fp32"


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
    monkeypatch.setattr("domaintune.engine.train.narrowed", lambda asked, device, steps, in_epoch: asked)
    return made


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_run_from_the_resolved_recipe_is_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 9.0 if chosen == "bf16" else 1.0, "bf16": 1.0})
    recipe = Recipe.make({**recipe.plain(), "training": {"epochs": 4, "batch_size": 4, "precision": "auto"}})
    run = tune(recipe)
    assert made[: 3 * TRIAL] == ["fp32", "bf16", "bf16"] * TRIAL
    assert set(made[3 * TRIAL :]) == {chosen}
    assert json.loads((run.path / "recipe.json").read_text())["training"]["precision"] == "auto"
    resolved = json.loads((run.path / "resolved.json").read_text())
    assert resolved["training"]["precision"] == chosen
    steps = len(made) - (3 * TRIAL if chosen == "bf16" else 2 * TRIAL)
    made.clear()
    again = tune(Recipe.make({**resolved, "output": str(tmp_path / "again")}))
    assert made == [chosen] * steps
    weights = [path.relative_to(run.path) for path in sorted(run.path.rglob("*.safetensors"))]
    assert len(weights) > 1
    for name in weights:
        assert (run.path / name).read_bytes() == (again.path / name).read_bytes(), name


def test_the_first_fold_decides_for_all(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 9.0, "bf16": 1.0})
    folds = {"fold_below": 10_000, "folds": 2}
    recipe = Recipe.make(
        {**recipe.plain(), "data": folds, "training": {"epochs": 8, "batch_size": 4, "precision": "auto"}}
    )
    run = tune(recipe)
    assert made.count("fp32") == TRIAL
    assert json.loads((run.path / "resolved.json").read_text())["training"]["precision"] == "bf16"


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_trial_leaves_batch_norms_alone(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 9.0 if chosen == "bf16" else 1.0, "bf16": 1.0})
    states = []
    for precision in ("auto", chosen):
        base, task, attached = attach(Cell("image-classification", "resnet", "full"))
        data = dataset(task, base, list(task.read(rows("image-classification"))) * 4)
        settings = TrainingSettings(epochs=2, batch_size=4, train_batch_norm=True, precision=precision)
        train(attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=None)
        states.append(attached.state())
    assert made[: 3 * TRIAL] == ["fp32", "bf16", "bf16"] * TRIAL
    assert any(name.endswith("running_mean") for name in states[0])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def _refuse_bf16_(model: torch.nn.Module) -> None:
    """As DeBERTa does: a tensor that autocast does not reach meets one that it does."""

    def meet(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.dtype == torch.bfloat16:
            torch.ones(1, 1, dtype=torch.float64).index_add_(0, torch.tensor([0]), output.flatten()[:1, None])

    next(module for module in model.modules() if type(module) is torch.nn.Linear).register_forward_hook(meet)


def test_a_base_that_does_not_compute_in_bf16_trains_in_fp32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_a_trial(monkeypatch, {"fp32": 9.0, "bf16": 1.0})
    states = []
    for precision in ("auto", "fp32"):
        base, task, attached = attach(CELL)
        _refuse_bf16_(attached.model)
        data = dataset(task, base, list(task.read(rows(CELL.task))))
        settings = TrainingSettings(epochs=2, batch_size=1, precision=precision, checkpoint_every_seconds=0.0)
        done = train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=tmp_path / precision
        )
        again = train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=tmp_path / precision
        )
        assert (done.precision, again.precision) == ("fp32", "fp32")
        states.append(attached.state())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_bf16_that_was_asked_for_and_does_not_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    base, task, attached = attach(CELL)
    _refuse_bf16_(attached.model)
    data = dataset(task, base, list(task.read(rows(CELL.task))))
    settings = TrainingSettings(epochs=2, batch_size=1, precision="bf16")
    with pytest.raises(TrainingError, match=r"training\.precision.*not run in bf16.*training\.precision=fp32"):
        train(attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=None)
    with pytest.raises(TrainingError, match=r"training\.precision"):
        pace(attached, task, base, data, settings, seed=0)
    monkeypatch.setattr("domaintune.engine.pace.narrowed", lambda asked, device, steps, in_epoch: asked)
    made = pace(attached, task, base, data, settings.model_copy(update={"precision": "auto"}), seed=0)
    assert 0 < made.seconds_per_cost < 1
    assert all(p.grad is None for p in attached.model.parameters())


@pytest.mark.parametrize("killed_at", [3, TRIAL - 1, TRIAL + 1])
def test_a_trial_goes_on_where_it_was_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, killed_at: int) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 2.0, "bf16": 1.0})
    settings = TrainingSettings(epochs=2, batch_size=1, checkpoint_every_seconds=0.0, precision="auto")

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
    assert steps[: 3 * TRIAL] == ["fp32", "bf16", "bf16"] * TRIAL
    assert set(steps[3 * TRIAL :]) == {"bf16"}
    made.clear()
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "resumed", killed_at=killed_at)
    resumed = trained(tmp_path / "resumed", killed_at=None)
    assert made == steps
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("able", "killed_at", "goes_on_in"),
    [((False, True), 10, "fp32"), ((True, True), 10, "bf16"), ((True, False), TRIAL - 2, "fp32")],
    ids=["fp32 stays", "bf16 stays", "the trial ends"],
)
def test_another_processor_changes_no_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, able: tuple[bool, bool], killed_at: int, goes_on_in: str
) -> None:
    made = with_a_trial(monkeypatch, {"fp32": 2.0, "bf16": 1.0})
    settings = TrainingSettings(epochs=2, batch_size=1, checkpoint_every_seconds=0.0, precision="auto")

    def trained(multiplies_in_bf16: bool, *, killed_at: int | None) -> Training:
        there = "auto" if multiplies_in_bf16 else "fp32"
        monkeypatch.setattr("domaintune.engine.train.narrowed", lambda asked, device, steps, in_epoch: there)
        base, task, attached = attach(CELL)
        data = dataset(task, base, list(task.read(rows(CELL.task))))

        def kill(progress: Progress) -> None:
            if progress.step == killed_at:
                raise RuntimeError("killed")

        return train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=tmp_path,
            on_progress=kill,
        )  # fmt: skip

    with pytest.raises(RuntimeError, match="killed"):
        trained(able[0], killed_at=killed_at)
    made.clear()
    if goes_on_in == "bf16":
        with pytest.raises(CheckpointError, match=r"in bf16, in which this processor cannot multiply.*--overwrite"):
            trained(False, killed_at=None)
    assert trained(able[1], killed_at=None).precision == goes_on_in
    assert set(made) == {goes_on_in}
    made.clear()
    for multiplies_in_bf16 in (False, True):
        assert trained(multiplies_in_bf16, killed_at=None).precision == goes_on_in, "as it is finished"
    assert made == []


def test_what_goes_wrong_on_trial_does_not_slow_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback halves the learning rate of later steps; one in a trial's steps, which do not count, must not."""
    made = with_a_trial(monkeypatch, {"fp32": 9.0, "bf16": 1.0})
    accumulate_ = StepGradient.accumulate_

    def spoiled(self: StepGradient, *arguments: Any, **more: Any) -> list[torch.Tensor]:
        losses = accumulate_(self, *arguments, **more)
        return [losses[0] * torch.nan] if len(made) == 4 else losses

    monkeypatch.setattr(StepGradient, "accumulate_", spoiled)
    states = []
    for precision in ("auto", "bf16"):
        base, task, attached = attach(CELL)
        data = dataset(task, base, list(task.read(rows(CELL.task))))
        settings = TrainingSettings(epochs=2, batch_size=1, precision=precision)
        done = train(attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=None, folder=None)
        assert done.rollbacks == 0
        states.append(attached.state())
        if precision == "auto":
            assert made[: 3 * TRIAL + 1] == ["fp32", "bf16", "bf16", "fp32", *["fp32", "bf16", "bf16"] * (TRIAL - 1)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("weights", ["averaged", "best"])
def test_what_training_keeps_is_counted(weights: str) -> None:
    """In the last epoch, of which the first was the best; numbers that are no weights' left out."""
    base, task, attached = attach(Cell("text-classification", "bert", "full"))
    data = dataset(task, base, list(task.read(rows(CELL.task))))
    settings = TrainingSettings(epochs=4, batch_size=4, weights=weights)

    def held() -> int:
        gc.collect()
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in floats}.values())

    before, kept, scores = held(), [], iter([4.0, 3.0, 2.0, 1.0])
    train(
        attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=lambda: next(scores), folder=None,
        on_progress=lambda progress: kept.append(held() - before) if progress.epoch == 3 else None,
    )  # fmt: skip
    assert kept[0] == pytest.approx(kept_in_training(attached, settings), rel=0.02)


def test_a_plan_tells_time_and_memory(recipe: Recipe) -> None:
    made = plan(recipe)
    assert 0 < made.minutes < 5
    assert made.memory > 2**20
    assert not Path(recipe.output).exists()


def test_a_plan_measures_with_the_threads_of_the_run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("domaintune.preview.pace", lambda *a, **k: seen.append(torch.get_num_threads()) or Pace(1.0, 1))
    before = torch.get_num_threads()
    for threads in (before + 1, None):
        plan(recipe.model_copy(update={"threads": threads}))
    assert seen == [before + 1, before]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("way", ["dev", "folds", "general learn", "general head"])
def test_a_plan_counts_heads_that_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A third of a second a token: the body is frozen."""
    save_base(tmp_path, "roberta")
    monkeypatch.setattr("domaintune.preview.pace", lambda *arguments, **more: Pace(1.0, 1))
    accumulate_, taken = StepGradient.accumulate_, [0]

    def counted(self: StepGradient, micro_batches: Any, **more: Any) -> list[torch.Tensor]:
        taken[0] += sum(self.task.cost(self.data.items[i]) for part in micro_batches for i in part)
        return accumulate_(self, micro_batches, **more)

    def heads_train(*arguments: Any, **more: Any) -> Training:
        with monkeypatch.context() as patch:
            patch.setattr(StepGradient, "accumulate_", counted)
            return train(*arguments, **more)

    monkeypatch.setattr("domaintune.heads.train", heads_train)
    other = table(tmp_path / "other.csv", 40, labels=("x", "y"), start=500)
    parts: dict[str, Any] = {
        "dev": {"general": None},
        "folds": {"general": None, "dev": None, "data": {"folds": 2}},
        "general learn": {"dev": None, "data": {"folds": 2}},
        "general head": {"general": other},
    }[way]
    monkeypatch.setattr("domaintune.preview.training_cost", lambda *arguments, **more: 0.0)
    evaluation = {"draws": 100, "robustness": False}
    made = small_recipe(tmp_path, training={"epochs": 2, "batch_size": 32}, evaluation=evaluation, **parts)
    minutes = plan(made).minutes
    tune(made)
    assert taken[0] > 0
    assert minutes * 60 == pytest.approx(taken[0] / 3, rel=0.02)


def test_a_plan_counts_what_a_run_takes(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second a token: what goes through the trainings of the run itself, forwards apart (dev) a third of it."""
    monkeypatch.setattr("domaintune.preview.pace", lambda *arguments, **more: Pace(1.0, 1))
    accumulate_, taken = StepGradient.accumulate_, {"trained": 0, "scored": 0}

    def counted(self: StepGradient, micro_batches: Any, **more: Any) -> list[torch.Tensor]:
        taken["trained"] += sum(self.task.cost(self.data.items[i]) for part in micro_batches for i in part)
        return accumulate_(self, micro_batches, **more)

    def validator_of(task: Any, base: Any, attached: Any, dev: Any, budget: int) -> Any:
        def validate() -> float:
            taken["scored"] += sum(map(task.cost, dev.items))
            return 0.5

        return validate

    monkeypatch.setattr(StepGradient, "accumulate_", counted)
    monkeypatch.setattr("domaintune.fit.validator", validator_of)
    given, minutes = recipe.plain(), {}
    training = {"epochs": 12, "batch_size": 32}
    ways: dict[str, dict[str, Any]] = {
        "dev": {},
        "folds": {"data": {"fold_below": 10_000, "folds": 4}},
        "seeds": {"seeds": 2},
        "patience": {"training": {**training, "patience": 100}},
    }
    for name, more in ways.items():
        made = Recipe.make({**given, "training": training, **more, "output": f"{recipe.output}-{name}"})
        minutes[name] = plan(made).minutes
        taken.update(trained=0, scored=0)
        tune(made)
        assert taken["scored"] > 0
        assert minutes[name] * 60 == pytest.approx(taken["trained"] + taken["scored"] / 3, rel=0.02)
    assert minutes["seeds"] == pytest.approx(2 * minutes["dev"])
    assert 4 < minutes["folds"] / minutes["dev"] < 5
    assert 1 < minutes["patience"] / minutes["dev"] < 1.2
