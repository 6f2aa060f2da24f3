"""A base from the Hub stays the commit that a run was made from, whatever is pushed later. The Hub is a cache folder, offline."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from small_runs import recipe
from tiny import tiny_base

from domaintune import Recipe, load, tune
from domaintune.bases.load import load_base
from domaintune.engine.epochs import Progress
from domaintune.run import RunFolder, read_json

NAME = "some/encoder"
FIRST, SECOND = "a" * 40, "b" * 40
AUTO = "AutoModelForSequenceClassification"


class Stopped(Exception):
    """What ends a run in the middle."""


def push(cache: Path, commit: str, *, seed: int, pooling: str) -> None:
    """Another commit of the model, now its latest."""
    root = cache / f"models--{NAME.replace('/', '--')}"
    folder = root / "snapshots" / commit
    base = tiny_base("bert", "text-classification", seed=seed)
    base.model.save_pretrained(folder)
    base.processor.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(f'{{"pooling_mode": "{pooling}"}}')
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs/main").write_text(commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    push(tmp_path / "hub", FIRST, seed=0, pooling="mean")
    return tmp_path / "hub"


def given(folder: Path) -> Recipe:
    return recipe(folder, base=NAME, training={"epochs": 1, "learning_rate": 0.01})


def test_a_commit_brings_all_its_files(cache: Path) -> None:
    first = load_base(NAME, auto_class=AUTO)
    assert (first.provenance["revision"], first.pooling) == (FIRST, "mean")
    push(cache, SECOND, seed=1, pooling="max")
    latest, again = load_base(NAME, auto_class=AUTO), load_base(NAME, auto_class=AUTO, revision=FIRST)
    assert (latest.provenance["revision"], latest.pooling) == (SECOND, "max")
    assert (again.provenance["revision"], again.pooling) == (FIRST, "mean")
    word = "body.embeddings.word_embeddings.weight"
    tensors = [base.model.get_parameter(word) for base in (first, again, latest)]
    assert torch.equal(tensors[0], tensors[1])
    assert not torch.equal(tensors[0], tensors[2])


def test_a_run_opens_after_a_push(cache: Path, tmp_path: Path) -> None:
    run = tune(given(tmp_path))
    before = run.predict(["a clean room"])
    push(cache, SECOND, seed=1, pooling="max")
    assert load(run.path).predict(["a clean room"]) == before


def test_seeds_take_one_commit_whatever_is_pushed_between_them(cache: Path, tmp_path: Path) -> None:
    made = given(tmp_path).model_copy(update={"seeds": 2})

    def pushing(stage: str, progress: Progress | None) -> None:
        if stage == "seed 1 of 2: confirmation" and not list(cache.glob(f"*/snapshots/{SECOND}")):
            push(cache, SECOND, seed=1, pooling="max")

    tune(made, report=pushing)
    for number in (0, 1):
        facts = read_json(tmp_path / f"runs/x/seeds/{number}/provenance.json")
        assert facts["base"]["revision"] == FIRST


def test_a_run_resumes_after_a_push(cache: Path, tmp_path: Path) -> None:
    made = given(tmp_path)

    def stop(stage: str, progress: Progress | None) -> None:
        if stage == "frontier":
            raise Stopped

    with pytest.raises(Stopped):
        tune(made, report=stop)
    assert read_json(tmp_path / "runs/x/run.json")["revision"] == FIRST
    push(cache, SECOND, seed=1, pooling="max")
    run = tune(made)
    assert run.base.provenance["revision"] == FIRST
    assert RunFolder(run.path).read("provenance.json")["base"]["revision"] == FIRST
