"""Weights that lack a part of the body: it counts as part of the head, in every method and in the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import recipe, save_base
from tuned import generator

from domaintune import load, tune
from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.load import load_base
from domaintune.methods import method_from
from domaintune.predict import open_base
from domaintune.run import read_json
from domaintune.settings import FreezeSettings, FullSettings, LoRASettings, PTuningSettings
from domaintune.stored import save_heads, with_saved_heads

AUTO = "AutoModelForSequenceClassification"
POOLER = "bert.pooler.dense"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base saved without its pooler and its classifier."""
    save_base(tmp_path)
    path = tmp_path / "base/model.safetensors"
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if ".pooler." not in name and "classifier" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    return tmp_path


def headed(base: Base) -> Base:
    return base.with_head("domain", HeadSpec(AUTO, ("a", "b")), generator=generator())


@pytest.mark.parametrize(
    "settings", [FullSettings(), FreezeSettings(train=("head",)), LoRASettings(), PTuningSettings()]
)
def test_every_method_trains_and_stores_it(folder: Path, settings: Any, tmp_path: Path) -> None:
    base = headed(load_base(str(folder / "base"), auto_class=AUTO))
    attached = method_from(settings).attach(base, generator=generator())
    assert {f"{POOLER}.weight", f"{POOLER}.bias", "classifier.weight"} <= set(attached.state())
    save_heads(base, tmp_path / "heads.safetensors")
    assert f"domain/{POOLER}.weight" in load_file(tmp_path / "heads.safetensors")


def test_whole_weights_and_a_pooling_without_it_change_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    save_base(tmp_path / "whole")
    whole = load_base(str(tmp_path / "whole/base"), auto_class=AUTO)
    assert (whole.lacking, set(headed(whole).heads["domain"].modules)) == ((), {"classifier"})
    (folder / "base/1_Pooling").mkdir()
    (folder / "base/1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    pooled = load_base(str(folder / "base"), auto_class=AUTO)
    assert (pooled.pooling, pooled.lacking) == ("mean", ())


def test_a_run_says_and_keeps_it(folder: Path) -> None:
    made = recipe(folder, training={"epochs": 1, "learning_rate": 0.01})
    run = tune(made)
    scores = read_json(run.path / "scores.json")
    note = f"The base's weights lack {POOLER}: made anew, and trained and stored with the head."
    assert note in scores["notes"]
    start = load_file(run.path / "heads.safetensors")[f"domain/{POOLER}.weight"]
    assert torch.equal(run.view(0).get_parameter(f"{POOLER}.weight"), start)
    assert not torch.equal(run.view(1).get_parameter(f"{POOLER}.weight"), start)
    assert load(run.path).predict(["a clean room"]) == run.predict(["a clean room"])
    assert open_base(made.model_copy(update={"base": str(run.path)})).lacking == ()  # whose merged weights have all


def test_heads_of_older_runs_are_without_it(folder: Path, tmp_path: Path) -> None:
    base = load_base(str(folder / "base"), auto_class=AUTO)
    older = headed(replace(base, lacking=()))
    save_heads(older, tmp_path / "heads.safetensors")

    class Task:
        def head(self) -> HeadSpec:
            return HeadSpec(AUTO, ("a", "b"))

    again = with_saved_heads(base, {"domain": Task()}, tmp_path / "heads.safetensors")  # type: ignore[dict-item]
    assert set(again.heads["domain"].modules) == {"classifier"}
    assert all(torch.equal(t, again.model.state_dict()[n]) for n, t in older.model.state_dict().items())
