"""A training stopped or killed at any moment and begun again ends in the same bits: every task with every method in process, two
tasks under SIGKILL in forked children, and real command lines under SIGKILL."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import CELLS, FAMILIES, Cell, attach, base_and_task, rows

from domaintune.engine.epochs import Progress, Training
from domaintune.engine.train import train
from domaintune.methods.base import Attached
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import dataset

TESTS = Path(__file__).resolve().parent.parent
FORKED_KILLS = 20
EPOCHS, BATCH, TRAIN_ROWS = 8, 4, 64
STEPS = EPOCHS * TRAIN_ROWS // BATCH
WORDS = {"good": "lovely quiet room soup", "bad": "cold soup dog jumps"}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The campaign in small, in a process of its own: a fork wants one thread, and pytest's may have more by now."""
    told = tmp_path_factory.mktemp("campaign") / "result.json"
    command = [sys.executable, str(TESTS / "campaigns" / "kill.py"), "--kills", str(FORKED_KILLS), "--json", str(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert told.exists(), done.stderr
    results: list[dict[str, Any]] = json.loads(told.read_text())
    return results


@pytest.mark.parametrize("number", [0, 1])
def test_killed_and_resumed_is_left_alone(campaign: list[dict[str, Any]], number: int) -> None:
    result = campaign[number]
    assert result["kills"] >= FORKED_KILLS // 2
    assert result["differing"] == 0, result["scenario"]


def test_kills_hit_different_moments(campaign: list[dict[str, Any]]) -> None:
    """Else the campaign proves little: while starting, between steps, and in the middle of writing a checkpoint."""
    total = {name: sum(result[name] for result in campaign) for name in ("kills", "before a step", "in a write")}
    assert total["in a write"] >= 1
    assert total["before a step"] < total["kills"]


# --- every task with every method


class Stopped(Exception):
    pass


def stop_after(steps: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.step == steps:
            raise Stopped

    return stop


@pytest.mark.parametrize("cell", [c for c in CELLS if c.family == FAMILIES[c.task][0]], ids=str)
def test_resumed_is_uninterrupted(cell: Cell, tmp_path: Path) -> None:
    """Two epochs of two steps of several micro-batches, stopped in the middle of the second epoch."""
    base, task = base_and_task(cell.task, cell.family)
    data = dataset(task, base, list(task.read(rows(cell.task))))
    budget = 2 * max(task.cost(item) for item in data.items)
    settings = TrainingSettings(
        epochs=2, batch_size=-(-len(data.items) // 2), micro_batch_budget=budget, checkpoint_every_seconds=0
    )

    def run(folder: Path | None, stop: int = 0) -> tuple[Attached, Training]:
        _, _, attached = attach(cell)
        done = train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=5, validate=None, folder=folder,
            on_progress=stop_after(stop),
        )  # fmt: skip
        return attached, done

    whole, expected = run(None)
    with pytest.raises(Stopped):
        run(tmp_path, stop=3)
    resumed, done = run(tmp_path)
    state = resumed.state()
    assert state.keys() == whole.state().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state().items())
    assert done.averaged is not None
    assert expected.averaged is not None
    assert all(torch.equal(tensor, done.averaged[name]) for name, tensor in expected.averaged.items())
    assert [epoch.train_loss for epoch in done.epochs] == [epoch.train_loss for epoch in expected.epochs]
    _, _, fresh = attach(cell)
    assert any(not torch.equal(tensor, state[name]) for name, tensor in fresh.state().items())


# --- real command lines


def write_rows(path: Path, count: int, *, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for number in range(count):
            label = ("good", "bad")[number % 2]
            words = chance.choices([*WORDS[label].split(), "the", "was", "and", "over"], k=chance.randint(3, 12))
            table.writerow([f"{' '.join(words)} {number}", label])


OVERRIDES = (
    "training.checkpoint_every_seconds=0", f"training.epochs={EPOCHS}", f"training.batch_size={BATCH}",
    "training.patience=1000", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The recipe of `domaintune tune` on a tiny random base, without its output and the overrides."""
    from tiny import tiny_model, tokenizer

    folder = tmp_path_factory.mktemp("command")
    tiny_model("bert", "text-classification").save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    for seed, (name, count) in enumerate({"train": TRAIN_ROWS, "dev": 24, "test": 24}.items()):
        write_rows(folder / f"{name}.csv", count, seed=seed)
    files = {name: str(folder / f"{name}.csv") for name in ("train", "dev", "test")}
    return {"task": "text-classification", "method": "full", "base": str(folder / "base"), **files}


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def steps_done(run: Path) -> int:
    """How far the checkpoint of a run has come."""
    found = [
        path for path in (run / "checkpoint").glob("*/checkpoint.json") if path.parent.name != "head"
    ]  # fitted at once
    try:
        states = [json.loads(path.read_text())["scalars"]["state"] for path in found]
    except FileNotFoundError:  # the run has just finished
        return 0
    return sum(state["epoch"] * TRAIN_ROWS // BATCH + state["position"] for state in states)


def start(values: dict[str, str], run: Path) -> subprocess.Popen[str]:
    options = [part for name, value in values.items() for part in (f"--{name}", value)]
    overrides = [part for override in OVERRIDES for part in ("--set", override)]
    command = [sys.executable, "-m", "domaintune", "tune", *options, "--output", str(run), *overrides]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill(process: subprocess.Popen[str], run: Path, *, after_steps: int, delay_seconds: float) -> int:
    """Kill a run a moment after its checkpoint holds so many steps, and tell how many it held in the end."""
    while process.poll() is None and steps_done(run) < after_steps:
        time.sleep(0.002)
    time.sleep(delay_seconds)
    process.send_signal(signal.SIGKILL)
    told, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, told
    return steps_done(run)


def finish(process: subprocess.Popen[str]) -> None:
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_times(scores: dict[str, Any]) -> dict[str, Any]:
    return {**scores, "epochs": [{**epoch, "seconds": None} for epoch in scores["epochs"]]}


def test_command_line_survives_kills(values: dict[str, str], tmp_path: Path) -> None:
    """Three kills and a finish by the same command end in what the same call from Python makes in one go."""
    from domaintune import Recipe, tune

    chance = random.Random(0)
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    reached = 0
    for number in range(3):
        wanted = chance.randint(reached + 1, STEPS // 4 * (number + 1))
        reached = kill(start(values, killed), killed, after_steps=wanted, delay_seconds=chance.uniform(0, 0.02))
        assert wanted <= reached < STEPS, "the kill came after the end of training"
    finish(start(values, killed))
    tune(Recipe.read(None, OVERRIDES, **values, output=str(alone)))
    for part in ("adapter", "predictions"):
        assert contents(alone / part)
        assert contents(killed / part) == contents(alone / part)
    scores = [without_times(json.loads((run / "scores.json").read_text())) for run in (killed, alone)]
    assert scores[0] == scores[1]
    assert len(scores[0]["epochs"]) == EPOCHS
