"""Trackers: what they are told, that a resumed run finds its own again, and the real libraries where they are installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import recipe, save_base

from domaintune import Recipe, tracking, tune
from domaintune.errors import RecipeError


class Recorder:
    """Stands in for a library."""

    made: list[Recorder]

    def __init__(self, recipe: Recipe, identity: str | None) -> None:
        self.identity = identity or f"id-{len(self.made)}"
        self.resumed = identity is not None
        self.logged: list[tuple[dict[str, float], int]] = []
        self.files: list[str] = []
        self.finished: bool | None = None
        self.made.append(self)

    def numbers(self, values: dict[str, float], *, step: int) -> None:
        self.logged.append((dict(values), step))

    def file(self, path: Path) -> None:
        assert path.is_file()
        self.files.append(path.name)

    def close(self, *, finished: bool) -> None:
        self.finished = finished


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    Recorder.made = []
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Recorder)
    monkeypatch.setattr(tracking, "require", lambda names: None)
    monkeypatch.setattr("domaintune.pipeline.require", lambda names: None)
    return Recorder.made


def test_everything_is_logged_and_a_resumed_run_is_the_same(tmp_path: Path, recorders: list[Recorder]) -> None:
    save_base(tmp_path)
    made = recipe(tmp_path, track=["mlflow"])

    def kill(stage: str, progress: Any) -> None:
        if progress is not None and progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=kill)
    assert recorders[0].finished is False
    tune(made)
    first, second = recorders
    assert (second.identity, second.resumed, second.finished) == (first.identity, True, True)
    logged = [*first.logged, *second.logged]
    names = {name for values, _ in logged for name in values}
    assert {"train/loss", "train/learning_rate", "train/dev/accuracy", "domain/gain"} <= names
    steps = sorted({step for values, step in logged if "train/loss" in values})
    assert steps == [1, 2, 3, 4, 5, 6]
    scores = json.loads((tmp_path / "runs/x/scores.json").read_text())
    dev = [values["train/dev/accuracy"] for values, _ in logged if "train/dev/accuracy" in values]
    assert dev == [epoch["score"] for epoch in scores["epochs"]]
    final = next(values for values, _ in second.logged if "domain/gain" in values)
    chosen = f"{scores['chosen_strength']:g}"
    assert final["domain/gain"] == scores["domain"]["change"][chosen]["value"]
    assert final["general/tuned/accuracy"] == scores["general"]["scores"]["1"]["accuracy"]["value"]
    assert second.files == ["scores.json", "report.html"]


def test_a_tracker_that_goes_away_is_said_once_and_left_out(
    tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Recorder):
        made = recorders

        def numbers(self, values: dict[str, float], *, step: int) -> None:
            super().numbers(values, step=step)
            if step == 3:
                raise ConnectionError("the server is gone\nand more")

    monkeypatch.setitem(tracking.TRACKERS, "wandb", Lost)
    save_base(tmp_path)
    said: list[str] = []
    tune(recipe(tmp_path, track=["wandb", "mlflow"]), say=said.extend)
    lost, other = recorders
    assert [line for line in said if "Lost" in line] == [
        "note: Lost failed (ConnectionError: the server is gone); nothing more is logged there."
    ]
    assert (lost.finished, lost.files) == (None, [])
    assert max(step for _, step in lost.logged) == 3
    assert other.finished is True
    assert other.files == ["scores.json", "report.html"]


def test_a_tracker_may_be_left_out_of_a_run_that_is_resumed(
    tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base(tmp_path)
    made = recipe(tmp_path, track=["mlflow"])

    def kill(stage: str, progress: Any) -> None:
        if stage == "frontier":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=kill)

    def gone(recipe: Recipe, identity: str | None) -> Recorder:
        raise RecipeError("MLflow cannot be reached.", remedy="Leave mlflow out.")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", gone)
    with pytest.raises(RecipeError, match="Leave mlflow out"):
        tune(made)
    stages: list[str] = []
    run = tune(
        made.model_copy(update={"track": ()}),
        report=lambda stage, progress: stages.append(f"{stage} {progress and progress.step}"),
    )
    assert not any(stage.startswith("train 1") for stage in stages)  # no step was taken again
    assert json.loads((run.path / "recipe.json").read_text())["track"] == []


def test_one_that_cannot_be_closed_does_not_fail_the_run(
    tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Recorder, *, finished: bool) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Recorder, "close", fails)
    save_base(tmp_path)
    said: list[str] = []
    tune(recipe(tmp_path, track=["mlflow"]), say=said.extend)
    assert said[-1] == "note: Recorder failed (OSError: no space); nothing more is logged there."


def test_tensorboard_shows_no_source_of_the_page(tmp_path: Path) -> None:
    made = object.__new__(tracking.TensorBoard)
    texts: list[str] = []
    made.writer = SimpleNamespace(add_text=lambda name, text, step: texts.append(name))
    for name in ("scores.json", "report.html"):
        (tmp_path / name).write_text("{}")
        made.file(tmp_path / name)
    assert texts == ["scores.json"]


def test_long_trainings_are_thinned_out() -> None:
    logged: list[int] = []

    class Steps(Recorder):
        def numbers(self, values: dict[str, float], *, step: int) -> None:
            logged.append(step)

    Recorder.made = []
    made = Recipe.make({"task": "generation", "base": "b", "train": "t", "output": "o"})
    told = tracking.Tracking([Steps(made, None)], made, lambda stage, progress: None)
    for step in range(1, 10_001):
        told("train", tracking.Progress(step, 10_000, 0, 1.0, 0.1, 0.0))
    assert len(logged) == tracking.POINTS
    loss: dict[str, float] = {}
    told.trackers[0].numbers = lambda values, *, step: loss.update(values)  # type: ignore[method-assign]
    told("train", tracking.Progress(1, 10_000, 0, 1.0, 0.1, 0.0, score=-2.5))
    assert loss["train/dev/cross_entropy"] == 2.5  # a loss as it is, not as early stopping sees it


def test_a_missing_library_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    save_base(tmp_path)
    with pytest.raises(RecipeError, match=r'wandb is not installed. Install it: pip install "domaintune\[wandb\]"'):
        tune(recipe(tmp_path, track=["wandb"]))
    assert not (tmp_path / "runs").exists()


def test_a_library_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ImportError("no module named x")

    monkeypatch.setitem(tracking.TRACKERS, "wandb", broken)
    with (
        pytest.raises(RecipeError, match=r"cannot be used \(no module named x\).*pip install -U"),
        tracking.tracked(recipe(tmp_path, track=["wandb"]), lambda stage, progress: None),
    ):
        pass


def read_tensorboard(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("train/loss")]


def read_mlflow(folder: Path) -> list[float]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    identity = json.loads((folder / tracking.IDENTITIES).read_text())["mlflow"]
    assert client.get_run(identity).info.status == "FINISHED"
    return [metric.value for metric in client.get_metric_history(identity, "train/loss")]


def read_wandb(folder: Path) -> list[float]:
    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/loss" in path.read_bytes()
    return [float("nan")] * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "read"), [("tensorboard", read_tensorboard), ("mlflow", read_mlflow), ("wandb", read_wandb)]
)
@pytest.mark.filterwarnings("ignore")
def test_the_real_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Path], list[float]]
) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is an extra that is not installed")
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    save_base(tmp_path)
    tune(recipe(tmp_path, track=[name]))
    assert len(read(tmp_path / "runs/x")) == 6
