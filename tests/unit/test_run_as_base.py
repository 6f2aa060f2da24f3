"""A run made on a run: what it records of that run's weights, and when they count as changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import recipe, save_base, table

from domaintune import Recipe, load, tune
from domaintune.errors import BaseError, RunError
from domaintune.methods.lora import LoRAAttached
from domaintune.pipeline import opened
from domaintune.predict import Run, run_as_base
from domaintune.report.card import render_card
from domaintune.report.records import Records
from domaintune.run import read_json, write_json
from domaintune.stored import tensors_checksum
from domaintune.tasks.token_classification import TokenClassification

CHANGED = "its weights changed since this run was made"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in `first` and `second`, the second made on the first."""
    folder = tmp_path_factory.mktemp("runs")
    save_base(folder)
    for name, base in (("first", folder / "base"), ("second", folder / "first")):
        tune(recipe(folder, base=str(base), output=str(folder / name), training={"epochs": 1, "learning_rate": 0.01}))
    return folder


@pytest.fixture
def other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged weights with other last bits."""
    merge = LoRAAttached.view

    def view(self: LoRAAttached, *given: Any, **named: Any) -> torch.nn.Module:
        made = merge(self, *given, **named)
        for parameter in made.parameters():
            parameter.data = torch.nextafter(parameter.data, torch.ones_like(parameter))
        return made

    monkeypatch.setattr(LoRAAttached, "view", view)


def strength_zero(run: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in load(run).base.model.parameters()])


@pytest.mark.usefixtures("other_processor")
def test_other_last_bits_are_no_other_weights(runs: Path) -> None:
    assert load(runs / "second").predict(["a clean room"])


def edited(path: Path) -> Any:
    """Undoes an edit of a file."""
    before = path.read_bytes()
    return lambda: path.write_bytes(before)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "heads.safetensors"])
def test_other_files_are_other_weights(runs: Path, name: str) -> None:
    path = runs / "first" / name
    restore = edited(path)
    save_file({key: tensor + 1e-3 for key, tensor in load_file(path).items()}, path)
    with pytest.raises(BaseError, match=CHANGED):
        load(runs / "second")
    restore()
    load(runs / "second")


def test_another_base_of_the_base_is_told(runs: Path) -> None:
    path = runs / "base/model.safetensors"
    restore = edited(path)
    save_file({k: t + 1e-3 for k, t in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(RunError, match="base's weights changed"):
        load(runs / "second")
    restore()


def test_the_strength_is_the_one_of_then(runs: Path) -> None:
    path, before = runs / "first/strength.json", strength_zero(runs / "second")
    restore = edited(path)
    write_json(path, {**read_json(path), "chosen": 0.123})
    assert torch.equal(strength_zero(runs / "second"), before)
    restore()


def test_a_base_at_strength_zero_is_told(runs: Path) -> None:
    path = runs / "first/strength.json"
    restore = edited(path)
    told = f"{runs / 'first'} is taken at its strength, which is 0: as the base that it was made on"
    for strength in (0.25, 0.0):
        write_json(path, {**read_json(path), "chosen": strength})
        notes = opened(recipe(runs, base=str(runs / "first")))[1].notes
        assert any(note.startswith(told) for note in notes) == (strength == 0)
    restore()


def test_older_runs_recorded_merged_weights(runs: Path, request: pytest.FixtureRequest) -> None:
    path = runs / "second/provenance.json"
    facts, restore = read_json(path), edited(path)
    origin = facts["base"]
    assert origin.pop("checksum_of") == "files"
    merged = run_as_base(
        str(runs / "first"), task_name="text-classification", device=torch.device("cpu"), strength=origin["strength"]
    )
    origin["weights_sha256"] = tensors_checksum(merged.model)
    write_json(path, facts)
    load(runs / "second")
    request.getfixturevalue("other_processor")
    with pytest.raises(BaseError, match=CHANGED):  # on the same processor other bits are other weights
        load(runs / "second")
    write_json(path, {**facts, "machine": {**facts["machine"], "processor": "another"}})
    load(runs / "second")
    restore()
    assert json.loads(path.read_text())["base"]["checksum_of"] == "files"


def test_what_is_learned_on_a_run_names_no_other_base(runs: Path, tmp_path: Path) -> None:
    """An adapter fits the weights that it was trained on, not those that they began from."""
    path = tmp_path / "second"
    shutil.copytree(runs / "second", path)
    config = read_json(path / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(runs / "first")
    provenance = read_json(path / "provenance.json")
    write_json(path / "provenance.json", {**provenance, "base": {**provenance["base"], "hub": "someone/else"}})
    card = render_card(Records.read(path))
    assert "base_model" not in card
    assert "What is saved fits that base, an earlier run at strength" in card
    other = {**provenance, "base": {"source": "minilm", "hub": "someone/else"}}
    write_json(path / "provenance.json", other)
    assert "base_model: someone/else" in render_card(Records.read(path))


def test_an_adapter_names_its_base_as_the_hub_does(runs: Path, tmp_path: Path) -> None:
    attached = load(runs / "first").attached
    known = {"source": "minilm", "hub": "someone/else"}
    attached.base = replace(attached.base, provenance=known)
    attached.save(tmp_path)
    assert read_json(tmp_path / "adapter_config.json")["base_model_name_or_path"] == "someone/else"


def test_rows_of_the_base_of_a_run_that_grows_are_found_from_any_folder(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    train = table(runs / "others.csv", 40, start=500)
    tune(recipe(runs, base="first", train=train, output=str(runs / "third"), training={"epochs": 1}))
    monkeypatch.chdir(tmp_path)
    general = (runs / "train.csv").read_text() + "a plain table,positive\na plain chair,negative\n" * 4
    (tmp_path / "general.csv").write_text(general)
    new = {"add": table(tmp_path / "new.csv", 20, start=700), "general": str(tmp_path / "general.csv")}
    tune(Recipe.make({"base": str(runs / "third"), **new, "output": "grown"}))
    why = "rows that this or an earlier run trains or chooses on"
    assert f"40 rows of general were left out: {why}." in read_json(tmp_path / "grown/scores.json")["notes"]
    assert set(read_json(runs / "first/seen.json")) <= set(read_json(tmp_path / "grown/seen.json"))


def tagged(path: Path, count: int, start: int = 0, *, longest: int = 3, **_: Any) -> str:
    """Names of one to `longest` words, in two domains."""
    lines = []
    for number in range(start, start + count):
        name = ["Ada", "Lovelace", "Byron"][: 1 + number % longest]
        tokens = ["on", "day", str(number), *name, "came"]
        tags = ["O"] * 3 + ["B-PER", "I-PER", "I-PER"][: len(name)] + ["O"]
        lines.append(json.dumps({"tokens": tokens, "tags": tags, "source": "ab"[number % 2]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str | None]]:
    """The transitions that each prediction was decoded with, and its row's domain."""
    seen: list[tuple[Any, str | None]] = []
    join = TokenClassification.join

    def told(self: TokenClassification, example: Any, raw: Any) -> Any:
        seen.append((self.transitions, example.domain))
        return join(self, example, raw)

    monkeypatch.setattr(TokenClassification, "join", told)
    return seen


def entities_on(folder: Path, base: str, output: str, *, longest: int = 3, **more: Any) -> Any:
    starts = {"train": 0, "dev": 60, "test": 120}
    parts = {
        part: tagged(folder / f"{part}-{longest}.jsonl", 30, start, longest=longest) for part, start in starts.items()
    }
    given = {
        "task": "token-classification",
        "general": None,
        "balance": {"strengths": [0.0, 0.25, 1.0]},
        **parts,
        **more,
    }
    return tune(recipe(folder, table=tagged, base=str(folder / base), output=str(folder / output), **given))


def test_a_run_of_entities_as_the_base_decodes_as_it_did(tmp_path: Path, decoded: list[tuple[Any, str | None]]) -> None:
    """What was learned of how tags follow each other belongs to the head: strength 0 of the second run is the first at its strength, and
    from there it goes to what the second run's rows teach."""
    save_base(tmp_path, task="token-classification")

    def at_a_quarter(name: str) -> Run:
        dial = read_json(tmp_path / name / "strength.json")
        write_json(tmp_path / name / "strength.json", {**dial, "chosen": 0.25})
        return load(tmp_path / name)

    entities_on(tmp_path, "base", "first")
    first = at_a_quarter("first")
    entities_on(tmp_path, "first", "second", longest=1)
    second = at_a_quarter("second")
    third = entities_on(tmp_path, "second", "third", longest=2)
    assert first.task.transitions == first.task.first_transitions, "of a fitted head, at every strength"
    assert second.task.first_transitions == first.task.transitions
    assert second.task.transitions not in (None, second.task.first_transitions)
    assert third.task.first_transitions == second.task.at(0.25).transitions
    asked = [{"tokens": ["on", "day", "7", "Ada", "Byron", "came"]}, {"tokens": ["Ada"]}]
    before, after = first.predict(asked, strength=0.25), second.predict(asked, strength=0.0)
    assert [made["tags"] for made in before] == [made["tags"] for made in after]
    stored = load(tmp_path / "second")
    assert stored.task == second.task
    for strength in (0.0, 0.25, 1.0):
        decoded.clear()
        stored.predict(asked, strength=strength)
        assert {found for found, _ in decoded} == {second.task.at(strength).transitions}


def test_tags_are_decoded_at_the_strength_and_weight_of_their_rows(
    tmp_path: Path, decoded: list[tuple[Any, str | None]]
) -> None:
    """In training, in the frontier and the confirmation, and in use; on the base's own head, where 0 is the base."""
    save_base(tmp_path, task="token-classification")
    entities_on(tmp_path, "base", "first", longest=1)
    decoded.clear()
    run = entities_on(
        tmp_path, "first", "run", data={"domain_column": "source"}, evaluation={"draws": 100, "robustness": False}
    )
    weights, task = run.domains, run.task
    assert set(weights) == {"a", "b"}
    expected = {(task.at(s * weights[name]).transitions, name) for s in (0.0, 0.25, 1.0) for name in weights}
    assert expected <= set(decoded)
    assert len({found for found, _ in expected}) > 3
    decoded.clear()
    run.predict([{"tokens": ["Ada"], "source": "a"}, {"tokens": ["Ada"], "source": "c"}], strength={"": 1.0, "a": 0.3})
    assert set(decoded) == {(task.at(0.3).transitions, "a"), (task.transitions, "c")}
