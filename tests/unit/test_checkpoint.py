"""Checkpoints: exact, whole or not at all, and a training resumed anywhere equals one that never stopped."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear import Regression, Trained, network, rows, settings
from torch import Tensor, nn

from domaintune import run
from domaintune.engine import checkpoint
from domaintune.engine.checkpoint import CheckpointFolder
from domaintune.engine.epochs import Training
from domaintune.engine.train import train
from domaintune.errors import CheckpointError, RunError, TrainingError
from domaintune.tasks.base import Batch

# --- the folder

ODD = {
    "floats": torch.tensor([0.1, -0.0, math.nan, math.inf, 1e-45]),
    "halves": torch.tensor([0.1, 3.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(7.0, dtype=torch.float64),
    "counts": torch.arange(6).reshape(2, 3).t(),
    "empty": torch.zeros(0, 3),
}
FINGERPRINT = {"seed": 1, "settings": {"rate": 0.1}}


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[Any, bytes]]:
    return {
        k: (t.dtype, t.contiguous().view(torch.uint8).numpy().tobytes() if t.ndim else t.numpy().tobytes())
        for k, t in tensors.items()
    }


def test_tensors_and_numbers_come_back_exactly(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new" / "folder")
    assert not folder.exists()
    scalars = {
        "a": 0.1 + 0.2,
        "b": [5e-324, 1.7976931348623157e308, -0.0, math.inf],
        "c": None,
        "d": "ä",
        "e": math.nan,
    }
    folder.write(scalars, {"odd": ODD}, fingerprint=FINGERPRINT)
    read = folder.read(fingerprint=FINGERPRINT)
    assert json.dumps(read) == json.dumps(scalars)
    assert bits(folder.read_tensors("odd")) == bits(ODD)


def test_files_are_shared_and_removed_when_no_longer_named(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write({}, {"one": ODD, "two": ODD}, fingerprint={})
    (tmp_path / ".three.safetensors.123").write_text("left by a killed process")
    before = (tmp_path / "two.safetensors").stat()
    folder.write({}, {"two": ODD, "three": ODD}, fingerprint={})
    assert (tmp_path / "two.safetensors").stat() == before
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.json", "three.safetensors", "two.safetensors"]


def test_a_file_that_no_checkpoint_names_is_written_anew(tmp_path: Path) -> None:
    """It may be another training's, whose checkpoint was removed."""
    CheckpointFolder(tmp_path).write({}, {"one": {"x": torch.ones(2)}}, fingerprint={})
    (tmp_path / "checkpoint.json").unlink()
    CheckpointFolder(tmp_path).write({}, {"one": {"x": torch.zeros(2)}}, fingerprint={})
    assert torch.equal(CheckpointFolder(tmp_path).read_tensors("one")["x"], torch.zeros(2))


class Stopped(BaseException):
    pass


def test_a_write_that_stops_anywhere_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes the disk stops the write once, before or after it acted; renames appear to happen late."""
    seen = set()
    for after in (False, True):
        stops = 0
        while True:
            path = tmp_path / f"{after}-{stops}"
            folder = CheckpointFolder(path)
            folder.write({"n": 1}, {"shared": ODD, "old": {"x": torch.ones(3)}}, fingerprint={})
            calls = 0

            def stopping(function: Any, stop: int = stops, late: bool = after) -> Any:
                def called(*arguments: Any, **more: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls - 1 == stop and not late:
                        raise Stopped
                    result = function(*arguments, **more)
                    if calls - 1 == stop:
                        raise Stopped
                    return result

                return called

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", stopping(os.fsync))
                patch.setattr(Path, "replace", stopping(Path.replace))
                patch.setattr(Path, "unlink", stopping(Path.unlink))
                patch.setattr("safetensors.torch.save_file", stopping(__import__("safetensors.torch").torch.save_file))
                try:
                    folder.write({"n": 2}, {"shared": ODD, "new": {"x": torch.zeros(3)}}, fingerprint={})
                    stopped = False
                except Stopped:
                    stopped = True
            number = folder.read(fingerprint={})["n"]
            seen.add(number)
            tensors = folder.read_tensors("old" if number == 1 else "new")
            assert torch.equal(tensors["x"], torch.ones(3) if number == 1 else torch.zeros(3))
            assert bits(folder.read_tensors("shared")) == bits(ODD)
            folder.write({"n": 3}, {"new": {"x": torch.zeros(3)}}, fingerprint={})  # and the next one works
            assert sorted(os.listdir(path)) == ["checkpoint.json", "new.safetensors"]
            if not stopped:
                break
            stops += 1
        assert stops >= 7
    assert seen == {1, 2}


def test_names_reach_the_disk_before_they_are_counted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    sync, write = checkpoint.sync, checkpoint.write_text
    write_file = checkpoint.write_file
    monkeypatch.setattr(checkpoint, "sync", lambda path: (order.append(Path(path).suffix or "folder"), sync(path)))
    monkeypatch.setattr(checkpoint, "write_file", lambda path, fill: (write_file(path, fill), order.append(path.name)))
    monkeypatch.setattr(checkpoint, "write_text", lambda *a: (order.append("manifest"), write(*a)))
    CheckpointFolder(tmp_path / "folder").write({}, {"one": ODD}, fingerprint={})
    assert order == ["one.safetensors", "folder", "manifest", "folder"]


def test_a_files_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = []
    monkeypatch.setattr(run, "sync", lambda path: there.append((path.read_text(), (tmp_path / "a").exists())))
    run.write_file(tmp_path / "a", lambda path: path.write_text("whole"))
    assert there == [("whole", False)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_another_trainings_checkpoint_is_refused_with_what_differs(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write({}, {}, fingerprint=FINGERPRINT)
    with pytest.raises(RunError, match=r"settings\.rate: 0\.1 -> 0\.2; more: None -> 'x'") as error:
        folder.read(fingerprint={"seed": 1, "settings": {"rate": 0.2}, "more": "x"})
    assert "seed" not in str(error.value)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write({}, {"one": ODD}, fingerprint={})
    path = tmp_path / "one.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match=r"one\.safetensors"):
        folder.read_tensors("one")
    path.unlink()
    with pytest.raises(RunError, match=r"one\.safetensors"):
        folder.read_tensors("one")
    (tmp_path / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="another version"):
        folder.read(fingerprint={})
    for content in ("{", "", "[]", "{}", '{"format": 1}', '{"format": 1, "fingerprint": {}, "scalars": 3}'):
        (tmp_path / "checkpoint.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"checkpoint\.json: cannot be read .*--overwrite"):
            folder.read(fingerprint={})


# --- resuming


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk, where nothing but the process ends."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def checksum(model: nn.Module) -> float:
    return float(sum(t.detach().double().sum() for t in model.state_dict().values()))


class Case:
    """A training that can be begun again in fresh objects: with dropout, batch norms in training and scores that seem random but
    are a function of the weights. Where a weight grows beyond `limit` the loss is NaN."""

    def __init__(self, folder: Path | None = None, *, limit: float = math.inf, **more: Any) -> None:
        self.folder, self.limit = folder, limit
        self.data = more.pop("data", rows(24))
        self.settings = settings(
            **{"epochs": 5, "micro_batch_budget": 80, "train_batch_norm": True, **more.pop("settings", {})}
        )
        self.more = {"keep_epochs": False, "learning_rate": 0.1, "seed": 3, **more}
        self.model: nn.Module = nn.Identity()
        self.forwards = self.validations = 0

    def run(self, on_progress: Any = None, on_forward: Any = None, on_validate: Any = None) -> Training:
        self.model = network(dropout=0.3, batch_norm=True)

        def spoil(batch: Batch) -> float:
            self.forwards += 1
            if on_forward is not None:
                on_forward()
            largest = max(float(p.detach().abs().max()) for p in self.model.parameters())
            return math.nan if largest > self.limit else 1.0

        def validate() -> float:
            self.validations += 1
            if on_validate is not None:
                on_validate()
            return math.sin(1e4 * checksum(self.model))

        return train(
            Trained(self.model), Regression(spoil), None, self.data, self.settings, folder=self.folder,  # type: ignore[arg-type]
            validate=validate, on_progress=on_progress, **self.more,
        )  # fmt: skip


def after(count: int, error: type[BaseException] = Stopped) -> Any:
    """Something to call that raises at call `count`, from 1."""
    left = [count]

    def call(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    return call


def same(case: Case, done: Training, other: Case, expected: Training) -> None:
    """Weights, buffers, kept states and histories, to the last bit; times apart."""
    assert bits(dict(case.model.state_dict())) == bits(dict(other.model.state_dict()))
    states = [{epoch: bits(dict(state())) for epoch, state in t.states.items()} for t in (done, expected)]
    assert states[0] == states[1]
    assert bits(dict(done.averaged or {})) == bits(dict(expected.averaged or {}))
    told = [
        {**asdict(t), "states": None, "averaged": None, "epochs": [{**asdict(e), "seconds": 0} for e in t.epochs]}
        for t in (done, expected)
    ]
    assert told[0] == told[1]


def finish(case: Case, **stops: Any) -> Training:
    """Run until it is done, stopped anew each time."""
    for _ in range(60):
        try:
            return case.run(**{name: after(count) for name, count in stops.items()})
        except Stopped:
            continue
    raise AssertionError("it never finishes")


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "kept": {"keep_epochs": True},
    "stopped early": {"settings": {"patience": 1, "epochs": 8}},
    "rolled back": {"limit": 1.3, "settings": {"warmup": 0.0, "epochs": 4}},
    "part of the schedule": {"stop_after": 3},
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_resumed_is_uninterrupted(name: str, every: float, tmp_path: Path) -> None:
    """Stopped after every step, after every third, after eight forwards (within a step, so nothing of it may stay), in validation."""
    settings_of = {**CASES[name].get("settings", {}), "checkpoint_every_seconds": every}
    made = {**CASES[name], "settings": settings_of}
    whole = Case(**made)
    expected = whole.run()
    assert (expected.rollbacks > 0) == (name == "rolled back")
    assert expected.stopped_early == (name == "stopped early")
    stops = [{"on_progress": 1}, {"on_progress": 3}, {"on_forward": 9}] if every == 0 else [{"on_progress": 4}]
    for number, stop in enumerate([*stops, {"on_validate": 2}]):
        case = Case(tmp_path / str(number), **made)
        done = finish(case, **stop)
        same(case, done, whole, expected)


@pytest.mark.usefixtures("quick")
def test_stopping_at_any_step_once(tmp_path: Path) -> None:
    whole = Case(settings={"epochs": 3})
    expected = whole.run()
    for step in range(1, expected.steps + 1):
        case = Case(tmp_path / str(step), settings={"epochs": 3, "checkpoint_every_seconds": 1e9 if step % 2 else 0})
        with pytest.raises(Stopped):
            case.run(after(step))
        same(case, case.run(), whole, expected)


def test_a_finished_training_is_taken_as_it_is(tmp_path: Path) -> None:
    first = Case(tmp_path, keep_epochs=True)
    expected = first.run()
    again = Case(tmp_path, keep_epochs=True)
    done = again.run()
    assert (again.forwards, again.validations) == (0, 0)
    same(again, done, first, expected)
    assert [e.seconds for e in done.epochs] == [e.seconds for e in expected.epochs]
    assert not [name for name in os.listdir(tmp_path) if name.startswith("moments")]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Case().run()
    assert os.listdir(tmp_path) == []


def test_checkpoints_follow_the_clock_and_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = CheckpointFolder.write

    def counting(self: CheckpointFolder, scalars: Any, *arguments: Any, **more: Any) -> None:
        written.append((scalars["state"]["epoch"], scalars["state"]["position"]))
        write(self, scalars, *arguments, **more)

    monkeypatch.setattr(CheckpointFolder, "write", counting)
    Case(tmp_path / "rare", settings={"epochs": 2, "checkpoint_every_seconds": 1e9}).run()
    assert written == [(1, 0), (2, 0)]
    written.clear()
    Case(tmp_path / "often", settings={"epochs": 2, "checkpoint_every_seconds": 0.0}).run()
    assert written == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"learning_rate": 0.2}, "learning_rate: 0.1 -> 0.2"),
        ({"settings": {"batch_size": 4}}, r"settings\.batch_size: 8 -> 4"),
        ({"keep_epochs": True}, "keep_epochs: False -> True"),
        ({"stop_after": 2}, "epochs: 5 -> 2"),
        ({"data": rows(25)}, "items: 24 -> 25"),
        ({"data": rows(24, seed=1)}, "costs: "),
        ({"data": rows(24, items_a_row=2)}, "rows: None -> "),
        ({"fingerprint": "other"}, "caller: '' -> 'other'"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(Stopped):
        Case(tmp_path).run(after(4))
    with pytest.raises(RunError, match=named):
        Case(tmp_path, **change).run()
    Case(tmp_path, settings={"checkpoint_every_seconds": 5.0}).run()  # how often is nobody's business


def test_a_rollback_too_many_leaves_a_checkpoint_that_ends_the_same(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError, match="3 rollbacks"):
            Case(tmp_path, limit=0.1).run()


@pytest.mark.parametrize("where", ["on_progress", "on_forward", "on_validate"])
def test_ctrl_c_saves_at_the_steps_end(tmp_path: Path, where: str) -> None:
    """Within a step the signal waits for its end; in a callback or in validation it takes effect at once. Nothing is done twice."""
    whole = Case()
    expected = whole.run()
    case = Case(tmp_path, settings={"checkpoint_every_seconds": 1e9})
    left = [2 if where == "on_validate" else 5]

    def strike(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        case.run(**{where: strike})
    assert signal.getsignal(signal.SIGINT) is handler
    done = case.run()
    assert case.forwards == whole.forwards
    same(case, done, whole, expected)


def test_a_keyboard_interrupt_raised_within_a_step_saves_nothing_torn(tmp_path: Path) -> None:
    """Raised by code in the middle of a step instead of by the signal: the checkpoint before stands."""
    whole = Case()
    expected = whole.run()
    case = Case(tmp_path, settings={"checkpoint_every_seconds": 1e9})
    with pytest.raises(KeyboardInterrupt):
        case.run(on_forward=after(17, KeyboardInterrupt))
    state = json.loads((tmp_path / "checkpoint.json").read_text())["scalars"]["state"]
    assert (state["epoch"], state["position"]) == (1, 0)
    same(case, case.run(), whole, expected)


def test_the_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        Case(tmp_path, keep_epochs=True).run(after(5))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    state = json.loads((tmp_path / "checkpoint.json").read_text())["scalars"]["state"]
    assert (state["epoch"], state["position"], state["finished"]) == (1, 2, False)
    assert np.isfinite(state["loss_sum"])


def test_scores_that_are_no_numbers_come_back_as_such(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).write({"best": -math.inf, "score": math.nan, "none": None}, {}, fingerprint={})
    best, score, none = CheckpointFolder(tmp_path).read(fingerprint={}).values()
    assert (best, math.isnan(score), none) == (-math.inf, True, None)
