"""What the same command takes up, what it refuses, and what --overwrite removes and when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import recipe, save_base, table

from domaintune import Recipe, load, tune
from domaintune.engine import starting_head
from domaintune.engine.checkpoint import MANIFEST
from domaintune.errors import DomainTuneError, RunError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(tmp_path)
    return tmp_path


def stops_at(wanted: str) -> Callable[[str, object], None]:
    def stop(stage: str, progress: object) -> None:
        if stage == wanted:
            raise KeyboardInterrupt

    return stop


def test_other_spellings_of_paths_are_no_other_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"train": "train.csv", "dev": "dev.csv", "test": ["test.csv"], "general": None}

    def spelled(**paths: Any) -> Recipe:
        return recipe(folder, **{**names, "base": "base", "output": "runs/x", **paths})

    def taken_up(made: Recipe, *, overwrite: bool = False) -> bool:
        with pytest.raises(KeyboardInterrupt):
            tune(made, overwrite=overwrite, report=stops_at("starting head"))
        return (Path(made.output) / "checkpoint/train" / MANIFEST).is_file()

    monkeypatch.chdir(folder)
    with pytest.raises(KeyboardInterrupt):
        tune(spelled(), report=stops_at("frontier"))
    for paths in (
        {"output": "runs/x/"},
        {"output": str(folder / "runs/x"), "base": f"{folder}/./base"},
        {"train": str(folder / "train.csv"), "test": "./test.csv"},
    ):
        for overwrite in (False, True):
            assert taken_up(spelled(**paths), overwrite=overwrite), paths
    shutil.move(folder / "runs/x", folder / "moved")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    named = {name: f"../{name}.csv" for name in ("train", "dev", "test")}
    away = spelled(**named, base="../base", output="../moved")
    assert taken_up(away, overwrite=True)
    assert json.loads((folder / "moved/recipe.json").read_text())["train"] == "../train.csv"
    shutil.copy(folder / "train.csv", "other.csv")
    with pytest.raises(RunError, match=r"\(train: '../train.csv' -> 'other.csv'\)"):
        tune(away.model_copy(update={"train": "other.csv"}))
    shutil.copytree(folder / "base", "base")
    with pytest.raises(RunError, match=r"\(base: '../base' -> 'base'\)"):
        tune(away.model_copy(update={"base": "base"}))
    assert tune(away).path == Path("../moved")


def test_a_training_goes_on_on_another_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the micro-batches that it began with."""
    training = {"epochs": 2, "learning_rate": 0.01, "precision": "fp32", "probe": False}
    weights, budgets = [], []
    for name, stopped in (("whole", False), ("resumed", True)):
        made = recipe(folder, general=None, training=training, output=str(folder / name))
        with monkeypatch.context() as patch:
            patch.setattr("domaintune.evaluation.score.ON_CPU", (64, 1))  # as another device has it
            if stopped:
                with pytest.raises(KeyboardInterrupt):
                    tune(made, report=stops_at("train"))
            else:
                tune(made)
        run = tune(made.model_copy(update={"device": "cpu"})) if stopped else load(made.output)
        weights.append((run.path / "adapter/adapter_model.safetensors").read_bytes())
        budgets.append(json.loads((run.path / "resolved.json").read_text())["training"]["micro_batch_budget"])
    assert budgets == [64, 64]
    assert weights[0] == weights[1]


def weights_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def test_a_fitted_head_stays_the_one_that_training_began_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another version, or another processor where two penalties are nearly as good, would fit another one."""

    def made(name: str, **more: Any) -> Recipe:
        return recipe(folder, output=str(folder / "runs" / name), general=None, method="lora", **more)

    for name, more in (("dev", {}), ("folds", {"dev": None, "data": {"folds": 2}})):
        whole = tune(made(f"{name}-whole", **more))
        with pytest.raises(KeyboardInterrupt):
            tune(made(name, **more), report=stops_at("confirmation"))
        with monkeypatch.context() as other:
            other.setattr(starting_head, "PENALTIES", (10.0,))
            run = tune(made(name, **more))
        for file in ("heads.safetensors", "records/test.safetensors"):
            assert (run.path / file).read_bytes() == (whole.path / file).read_bytes(), (name, file)


@pytest.mark.parametrize(
    ("parts", "heads"),
    [
        ({"general": None}, ["starting head"]),
        (
            {"general": None, "dev": None, "data": {"folds": 2}},
            ["starting head fold-0", "starting head fold-1", "starting head"],
        ),
        ({"dev": None, "data": {"folds": 2}}, ["starting head fold-0"]),  # on the general learn part, once
        ({"general": "other labels"}, ["general head", "starting head"]),
    ],
    ids=["dev", "folds", "general learn", "general head"],
)
def test_a_head_that_is_trained_goes_on_where_it_was_stopped(
    tmp_path: Path, parts: dict[str, Any], heads: list[str]
) -> None:
    """One of more than a linear layer, as RoBERTa's."""
    save_base(tmp_path, "roberta")
    if parts.get("general"):
        parts = parts | {"general": table(tmp_path / "other.csv", 40, labels=("x", "y"), start=500)}
    told: list[str] = []

    def made(name: str, *, stop: tuple[str, int] | None = None) -> Path:
        told.clear()
        training = {"epochs": 2, "precision": "fp32", "checkpoint_every_seconds": 0}
        evaluation = {"draws": 100, "robustness": False}
        output = tmp_path / name
        given = recipe(tmp_path, training=training, evaluation=evaluation, output=str(output), **parts)

        def report(stage: str, progress: Any) -> None:
            if progress is not None and progress.score is None:
                told.append(stage)
                if stop is not None and (stage, progress.step) == stop:
                    raise KeyboardInterrupt

        if stop is None:
            tune(given, report=report)
        else:
            with pytest.raises(KeyboardInterrupt):
                tune(given, report=report)
        return output

    whole = weights_of(made("whole"))
    assert [stage for stage in dict.fromkeys(told) if "head" in stage] == heads
    steps = told.count(heads[-1])
    made("stopped", stop=(heads[-1], steps - 1))
    made("stopped", stop=("train", 1))
    assert told.count(heads[-1]) == 1, "the last step alone was left"
    assert weights_of(made("stopped")) == whole
    assert not any("head" in stage for stage in told)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("damaged", ["checkpoint.json", "moments-*.safetensors", "run.json"])
def test_overwrite_goes_on_without_what_is_damaged(folder: Path, seeds: int, damaged: str) -> None:
    made = recipe(folder, general=None, seeds=seeds, evaluation={"draws": 100, "robustness": False})
    first = "seed 2 of 2: " if seeds == 2 else ""

    def stop(stage: str, progress: Any) -> None:
        if stage == f"{first}train" and progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=stop)
    run = folder / "runs/x" / ("seeds/1" if seeds == 2 else "")
    for file in (run / "checkpoint/train").glob(damaged) if damaged != "run.json" else [run / damaged]:
        file.write_bytes(b"")
    with pytest.raises(RunError):
        tune(made)
    stages: list[str] = []
    tune(made, overwrite=True, report=lambda stage, progress: stages.append(stage))
    assert not any(stage.startswith("seed 1") for stage in stages), "the finished seed stays"


def test_data_that_change_between_seeds_are_noticed(folder: Path) -> None:
    made = recipe(folder, general=None, seeds=3, evaluation={"draws": 100, "robustness": False})
    rows = (folder / "train.csv").read_text()

    def edit(stage: str, progress: object) -> None:
        if stage == "seed 2 of 3: train":
            (folder / "train.csv").write_text(rows + "one more,positive\n")

    with pytest.raises(RunError, match=r"seeds/2: the data of train changed.*--overwrite"):
        tune(made, report=edit)
    assert not (folder / "runs/x/seeds/2").exists()
    (folder / "train.csv").write_text(rows)
    # As a version that did not look made it.
    state = json.loads((folder / "runs/x/seeds/1/run.json").read_text())
    state["data"]["train"] = "of other rows"
    (folder / "runs/x/seeds/1/run.json").write_text(json.dumps(state))
    with pytest.raises(RunError, match=r"seeds/1: the data of train changed.*--overwrite"):
        tune(made)
    stages: list[str] = []
    tune(made, overwrite=True, report=lambda stage, progress: stages.append(stage))
    assert {stage.partition(":")[0] for stage in stages} == {"seed 2 of 3", "seed 3 of 3"}


MISTAKES: dict[str, dict[str, Any]] = {
    "column": {"task": {"name": "text-classification", "label_column": "lable"}},
    "base": {"base": "./no-such-base"},
    "method": {"method": {"name": "freeze", "train": ["top:9"]}},
}


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_is_not_removed_for_one_that_cannot_be_made(folder: Path, seeds: int) -> None:
    made = recipe(folder, general=None, seeds=seeds, evaluation={"draws": 100, "robustness": False})
    tune(made)
    before = contents(folder / "runs/x")
    for change in MISTAKES.values():
        with pytest.raises(DomainTuneError):
            tune(Recipe.make({**made.plain(), **change}), overwrite=True)
        assert contents(folder / "runs/x") == before
    changed = Recipe.make({**made.plain(), "seed": 1})
    tune(changed, overwrite=True)
    fresh = tune(changed.model_copy(update={"output": str(folder / "runs/fresh")}))
    name = str(fresh.path.relative_to(folder / "runs/fresh") / "adapter/adapter_model.safetensors")
    assert (folder / "runs/x" / name).read_bytes() == (folder / "runs/fresh" / name).read_bytes()
    assert (folder / "runs/x" / name).read_bytes() != before[name]


def test_what_cannot_be_begun_leaves_no_run(folder: Path) -> None:
    for change in MISTAKES.values():
        if "method" not in change:
            with pytest.raises(DomainTuneError):
                tune(recipe(folder, **change))
            assert not (folder / "runs/x").exists()
