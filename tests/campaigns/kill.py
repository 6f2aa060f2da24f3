"""Kill trainings at random moments, resume them, and compare what they end in with trainings that were left alone.

    python tests/campaigns/kill.py --kills 300 --seed 1

One warm process imports everything, makes the tiny models, and forks every training. A child tells each step through a pipe;
after a random number of steps and a random part of a step's time it gets SIGKILL, and the next child goes on from the same
folder, until one finishes. Its weights and histories must equal, byte for byte, those of a training that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402
from cells import Cell, base_and_task, recipe, rows  # noqa: E402
from safetensors.torch import save  # noqa: E402

from domaintune.bases.base import Base  # noqa: E402
from domaintune.engine.train import train  # noqa: E402
from domaintune.evaluation.score import primary_score  # noqa: E402
from domaintune.methods import method_from  # noqa: E402
from domaintune.recipe import TrainingSettings  # noqa: E402
from domaintune.tasks.base import Dataset, Task, dataset  # noqa: E402

RESULT = "result"
# Kills come after so many steps of one child, 0 while it is still starting.
MOST_STEPS = 6
MOST_KILLS = 12  # of one training


@dataclass(frozen=True)
class Scenario:
    """A training on a tiny random model with dropout, several micro-batches a step, and early stopping."""

    cell: Cell
    method: dict[str, Any]
    settings: dict[str, Any]
    learning_rate: float


SCENARIOS = (
    Scenario(
        Cell("text-classification", "bert", "full"), {"name": "full"},
        {"epochs": 8, "batch_size": 8, "micro_batch_budget": 70}, 1e-3,
    ),
    Scenario(
        Cell("image-classification", "mobilenet-v2", "lora"), {"name": "lora", "rank": 2, "dropout": 0.1},
        {"epochs": 8, "batch_size": 8, "micro_batch_budget": 4096, "train_batch_norm": True}, 1e-2,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """Everything of a scenario that is made once, before any fork."""

    scenario: Scenario
    base: Base
    task: Task
    data: Dataset
    dev: Dataset

    @classmethod
    def make(cls, scenario: Scenario) -> Ready:
        base, task = base_and_task(scenario.cell.task, scenario.cell.family)
        if scenario.cell.task == "image-classification":
            task = task.model_copy(update={"flip": True, "crop": 0.6})
        examples = list(task.read(rows(scenario.cell.task)))
        return cls(scenario, base, task, dataset(task, base, examples * 6), dataset(task, base, examples))

    def train(self, folder: Path, *, seed: int, tell: Callable[[], None]) -> None:
        """Train, or go on training, and leave the result in the folder."""
        method = method_from(recipe(self.scenario.cell.task, self.scenario.method).method)
        attached = method.attach(self.base, generator=torch.Generator().manual_seed(seed))
        settings = TrainingSettings(**self.scenario.settings, checkpoint_every_seconds=0.0, patience=5)
        training = train(
            attached, self.task, self.base, self.data, settings, learning_rate=self.scenario.learning_rate, seed=seed,
            validate=lambda: primary_score(self.task, self.base, attached.model, self.dev)[0],
            folder=folder / "checkpoint", on_progress=lambda progress: tell(), keep_epochs=True,
        )  # fmt: skip
        states = [*(state() for state in training.states.values()), training.averaged or {}]
        told = {**asdict(training), "states": len(training.states), "averaged": training.averaged is not None}
        told["epochs"] = [{**epoch, "seconds": None} for epoch in told["epochs"]]
        parts = [json.dumps(told).encode(), save(attached.state()), *(save(dict(state)) for state in states)]
        (folder / RESULT).write_bytes(b"\n".join(parts))


class Child:
    """A fork that trains; `steps` counts what it told."""

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        self.steps = 0
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work(lambda: os.write(write, b"."))
                os._exit(0)
            finally:  # never back into the parent's code
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
        os.close(write)

    def wait(self, *, steps: int | None = None, seconds: float = 120.0) -> bool:
        """Wait until it has told so many steps, or has ended: whether it still runs."""
        end = time.monotonic() + seconds
        while steps is None or self.steps < steps:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"a child told nothing for {seconds} s")
            told = os.read(self._read, 1)
            if not told:
                return False
            self.steps += 1
        return True

    def kill(self) -> bool:
        """SIGKILL: whether it came before the end."""
        os.kill(self.pid, signal.SIGKILL)
        return self.join() == -signal.SIGKILL

    def join(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._read)
        return os.waitstatus_to_exitcode(status)


def left_alone(ready: Ready, folder: Path, *, seed: int) -> float:
    """The training that nobody kills; seconds a step."""
    folder.mkdir()
    began = time.monotonic()
    child = Child(lambda tell: ready.train(folder, seed=seed, tell=tell))
    child.wait()
    if child.join() != 0:
        raise RuntimeError(f"{ready.scenario.cell} fails by itself")
    return (time.monotonic() - began) / max(1, child.steps)


def killed(ready: Ready, folder: Path, *, seed: int, pace: float, most: int, chance: random.Random) -> dict[str, int]:
    """The training that is killed up to `most` times: how often it was, and what the kills hit."""
    folder.mkdir()
    counts = {"kills": 0, "before a step": 0, "in a write": 0}
    while not (folder / RESULT).exists():
        child = Child(lambda tell: ready.train(folder, seed=seed, tell=tell))
        steps = chance.randint(0, MOST_STEPS) if counts["kills"] < most else None
        if child.wait(steps=steps):
            time.sleep(chance.uniform(0.0, 1.5 * pace))
            if child.kill():
                counts["kills"] += 1
                counts["before a step"] += child.steps == 0
                counts["in a write"] += half_written(folder / "checkpoint")
        elif child.join() != 0:
            raise RuntimeError(f"{ready.scenario.cell}, seed {seed}: a resumed training failed; see {folder}")
    return counts


def half_written(checkpoint: Path) -> bool:
    """Whether files lie there that the checkpoint does not name: the kill came while one was written."""
    manifest = checkpoint / "checkpoint.json"
    if not manifest.exists():
        return checkpoint.exists() and any(checkpoint.iterdir())
    named = {f"{name}.safetensors" for name in json.loads(manifest.read_text())["files"]}
    return {entry.name for entry in checkpoint.iterdir()} != {*named, manifest.name}


def campaign(kills: int, *, seed: int, folder: Path, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """At least `kills` kills over all scenarios, in trainings of up to MOST_KILLS kills each."""
    chance = random.Random(seed)
    results = []
    for ready in [Ready.make(scenario) for scenario in SCENARIOS]:
        total = {"kills": 0, "before a step": 0, "in a write": 0}
        trainings = differing = 0
        while total["kills"] < -(-kills // len(SCENARIOS)):
            place = folder / f"{ready.scenario.cell.task}-{trainings}"
            place.mkdir()
            own_seed = seed * 1000 + trainings
            pace = left_alone(ready, place / "alone", seed=own_seed)
            counts = killed(ready, place / "killed", seed=own_seed, pace=pace, most=MOST_KILLS, chance=chance)
            total = {name: total[name] + counts[name] for name in total}
            equal = (place / "alone" / RESULT).read_bytes() == (place / "killed" / RESULT).read_bytes()
            differing += not equal
            trainings += 1
            if equal:
                shutil.rmtree(place)
            show(f"{ready.scenario.cell}: {trainings} trainings, {total}, {differing} differ")
        results.append({"scenario": str(ready.scenario.cell), "trainings": trainings, "differing": differing, **total})
    return results


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--json", type=Path, help="write the counts there")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    results = campaign(given.kills, seed=given.seed, folder=folder, show=lambda line: print(line, flush=True))
    if given.json is not None:
        given.json.write_text(json.dumps(results))
    if any(result["differing"] for result in results):
        print(f"trainings differ; they stand in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
