"""What a run's files are written with: everything is on the disk before something counts on it."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import recipe, save_base

from domaintune import tune
from domaintune.evaluation.intervals import Estimate
from domaintune.memory import write_once
from domaintune.run import RunFolder, read_json, read_lines, write_file, write_folder, write_json, write_lines


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was flushed and what was renamed, in order."""
    made: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        made.append(("flushed", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def noted_replace(path: Path, target: Any) -> Path:
        made.append(("renamed", str(path)))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return made


def test_a_folder_is_on_the_disk_before_its_name_is(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    def fill(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner/one.txt").write_text("1")
        (folder / "two.txt").write_text("2")

    write_folder(tmp_path / "made", fill)
    temporary = tmp_path / f".made.{os.getpid()}"
    written = {str(temporary / name) for name in ("inner", "inner/one.txt", "two.txt")} | {str(temporary)}
    assert {path for kind, path in order[:-1] if kind == "flushed"} == written
    assert order[-1] == ("renamed", str(temporary))
    assert (tmp_path / "made/inner/one.txt").read_text() == "1"


def test_a_run_is_finished_when_all_of_it_is_on_the_disk(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    save_base(tmp_path)
    run = tune(recipe(tmp_path, training={"epochs": 1, "learning_rate": 0.01}))
    names = [(kind, Path(path).name) for kind, path in order]
    last = max(i for i, one in enumerate(names) if one == ("renamed", f".run.json.{os.getpid()}"))
    folder = ("flushed", run.path.name)
    assert folder in names[:last][-2:]
    assert names[last + 1] == folder
    for name in ("adapter_model.safetensors", f".heads.safetensors.{os.getpid()}", "test.jsonl", "test.safetensors"):
        assert any(kind == "flushed" and found == name for kind, found in names[:last]), name


def full(path: Path, content: bytes | None = None) -> int:
    """Writes something, then finds the disk full."""
    place = path / "inner" if path.is_dir() else path
    with place.open("wb") as stream:
        stream.write(b"x" * 100)
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("before")
    for name in ("new", "old"):
        with pytest.raises(OSError, match="No space"):
            write_file(tmp_path / name, full)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "folder", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_once(tmp_path / "rows.jsonl", b"{}")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("old", "before")]


def test_a_folder_made_for_the_lock_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name, kept in (("made", False), ("own", True), ("written", True)):
        with suppress(ValueError), RunFolder(tmp_path / name).lock():
            if name == "written":
                (tmp_path / name / "recipe.json").touch()
            raise ValueError
        assert (tmp_path / name).exists() == kept
        assert not (tmp_path / name / ".lock").exists()


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    values = {"a": math.inf, "b": [-math.inf, (math.nan, 1.5)], "c": {"d": np.float64("nan")}, "e": b"x"}
    write_json(tmp_path / "a.json", values)
    write_lines(tmp_path / "a.jsonl", [values, {}])
    expected = {"a": None, "b": [None, [None, 1.5]], "c": {"d": None}, "e": "eA=="}
    assert read_json(tmp_path / "a.json") == expected
    assert read_lines(tmp_path / "a.jsonl") == [expected, {}]
    one = Estimate(0.5, -math.inf, math.inf, -math.inf, differing=3)
    write_json(tmp_path / "e.json", one.plain())
    assert read_json(tmp_path / "e.json")["low"] is None
    assert Estimate.of(read_json(tmp_path / "e.json")) == one
    (tmp_path / "old.json").write_text(json.dumps(one.plain()))
    assert Estimate.of(read_json(tmp_path / "old.json")) == one
