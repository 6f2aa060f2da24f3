"""Edges of the main job: odd bases, small sets, overlapping parts, broken folders, resuming over a change."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_runs
import torch
from tiny import tiny_base

from domaintune import Recipe, heads, load, pipeline, resolve, tune
from domaintune.balance.frontier import Side, points
from domaintune.bases.base import HeadSpec
from domaintune.bases.load import load_base, torch_device
from domaintune.data.formats import read_rows
from domaintune.engine.starting_head import linear_head
from domaintune.errors import BaseError, DataError, RecipeError, RunError
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate
from domaintune.parts import assemble
from domaintune.predict import open_base
from domaintune.run import RunFolder
from domaintune.settings import TextClassificationSettings
from domaintune.tasks.base import Dataset, Primary
from domaintune.tasks.classification import label_map
from domaintune.tasks.text_classification import TextClassification

AUTO = "AutoModelForSequenceClassification"


def table(path: Path, count: int, *, labels: tuple[str, ...] = ("negative", "positive"), start: int = 0) -> str:
    lines = [f"a {labels[n % 2]} room on day {n},{labels[n % len(labels)]}" for n in range(start, start + count)]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return str(path)


def recipe(folder: Path, **more: object) -> Recipe:
    return small_runs.recipe(folder, table=table, **{"training": {"epochs": 2}, "evaluation": {"draws": 100}, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_runs.save_base(tmp_path)
    return tmp_path


def give_head(base: Path, *labels: str) -> None:
    """The folder's model owns a head for `labels`, in the words that transformers leaves after a training."""
    values = json.loads((base / "config.json").read_text())
    values["id2label"] = {str(index): label for index, label in enumerate(labels)}
    values["label2id"] = {label: index for index, label in enumerate(labels)}
    (base / "config.json").write_text(json.dumps({**values, "problem_type": "single_label_classification"}))


def test_a_head_that_transformers_trained_is_the_bases_own(folder: Path) -> None:
    give_head(folder / "base", "positive", "negative")
    base = load_base(str(folder / "base"), auto_class=AUTO)
    assert base.owns(HeadSpec(AUTO, ("negative", "positive")))


def test_the_bases_own_head_stands_for_general_labels_that_the_domain_extends(folder: Path) -> None:
    give_head(folder / "base", "negative", "positive")
    three = ("negative", "neutral", "positive")
    names = {name: table(folder / f"{name}3.csv", 30, labels=three) for name in ("train", "dev", "test")}
    made = recipe(folder, **names, data={"keep_leaks": True})
    general = assemble(made, open_base(made)).general
    assert general is not None
    assert general.head == "general"
    assert not general.learn
    assert general.task.head().labels == ("negative", "positive")


def test_a_decoder_that_picks_a_token_after_its_head_starts_from_a_trained_head(tmp_path: Path) -> None:
    base = tiny_base("gpt2", "text-classification")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    loaded = load_base(str(tmp_path / "base"), auto_class=AUTO)
    spec = HeadSpec(AUTO, ("a", "b", "c"))
    assert linear_head(loaded.with_head("domain", spec, generator=torch.Generator())) is None
    tune(recipe(tmp_path, general=None, training={"epochs": 1}))
    assert RunFolder.existing(tmp_path / "runs/x").read("scores.json")["start"] == heads.DOMAIN_PROBE


def test_folds_of_other_sizes_share_one_schedule(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "WANTED_STEPS", 6)
    monkeypatch.setattr(resolve, "FEWEST_EPOCHS", 1)  # folds of 8 and 9 rows, in 2 and 3 steps: 3 or 2 epochs alone
    tune(recipe(folder, train=table(folder / "few.csv", 11), dev=None, general=None, training={"batch_size": 4}))
    run = RunFolder.existing(folder / "runs/x")
    assert {len(f["scores"]) for f in run.read("scores.json")["folds"]} == {
        run.read("resolved.json")["training"]["epochs"]
    }


def test_nothing_is_chosen_on_rows_that_are_reported(folder: Path) -> None:
    made = recipe(folder, general_check=table(folder / "check.csv", 20, start=330))
    lines = [line for name in ("dev", "test") for line in (folder / f"{name}.csv").read_text().splitlines()[1:]]
    with (folder / "general.csv").open("a") as stream:
        stream.write("\n".join(lines) + "\n")
    base = open_base(made)
    parts = assemble(made, base)
    assert parts.general is not None
    chosen = {e.text for e in [*parts.general.choose, *parts.general.learn]}
    assert len(chosen) == 30  # of 40, 10 stand in the check set; all rows of dev and test are left out
    assert not chosen & {e.text for e in [*parts.dev, *parts.test, *parts.general.headline]}
    same = recipe(folder, general_check=table(folder / "general.csv", 40, start=300))
    with pytest.raises(DataError, match="nothing may be chosen"):
        assemble(same, base)


def test_a_general_set_may_lack_the_group_column(folder: Path) -> None:
    for name in ("train", "dev", "test"):
        lines = Path(table(folder / f"{name}.csv", 24, start=len(name) * 1000)).read_text().splitlines()
        grouped = [f"{lines[0]},who"] + [f"{line},{name}{number % 7}" for number, line in enumerate(lines[1:])]
        (folder / f"{name}g.csv").write_text("\n".join(grouped) + "\n")
    names = {name: str(folder / f"{name}g.csv") for name in ("train", "dev", "test")}
    made = recipe(folder, **names, data={"group_column": "who"})
    parts = assemble(made, open_base(made))
    assert parts.general is not None
    assert parts.train[0].group == "train0"
    assert parts.general.choose[0].group is None


def test_labels_outside_the_given_set_and_twice_given_ones_are_refused(folder: Path) -> None:
    rows = read_rows(table(folder / "t.csv", 6))
    settings = TextClassificationSettings(labels=("positive", "neutral"))
    with pytest.raises(DataError, match=r"t\.csv:2: unknown label 'negative'"):
        TextClassification.build(rows, load_base(str(folder / "base"), auto_class=AUTO), settings)
    with pytest.raises(DataError, match="'a' is given twice"):
        label_map([], given=("a", "b", "a"), where="x")
    assert label_map(["10", "1", "01", "-2"], given=None, where="x") == ("-2", "01", "1", "10")
    assert label_map(["--5", "1"], given=None, where="x") == ("--5", "1")


@pytest.mark.parametrize("override", ["seed=[", "seed.x=1", "training=3.5.2: ["])
def test_a_bad_override_is_named(override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        Recipe.read(None, ["seed=3", override])


def test_bad_devices_outputs_and_weights_are_named(folder: Path) -> None:
    for name in ("foo", "cuda:99"):
        with pytest.raises(RecipeError, match=name):
            torch_device(name)
    (folder / "taken").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        tune(recipe(folder, output=str(folder / "taken")))
    (folder / "base" / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BaseError, match="base"):
        load_base(str(folder / "base"), auto_class=AUTO)


def test_an_output_that_holds_its_own_base_is_not_overwritten(folder: Path) -> None:
    made = recipe(folder, output=str(folder / "x"), base=str(folder / "x"))
    other, run = recipe(folder, output=str(folder / "x")), RunFolder(folder / "x")
    run.start(other, "begin", data={})
    with pytest.raises(RunError, match="to be made from"):
        run.fate(made, data={}, inputs=(), overwrite=True)
    (run.path / "run.json").unlink()  # as a process killed between its first two files leaves it
    (run.path / ".run.json.17").write_text("{")
    run.start(other, run.fate(other, data={}, inputs=(), overwrite=True), data={})
    run.finish({})
    assert sorted(entry.name for entry in run.path.iterdir()) == ["recipe.json", "run.json"]


def test_resuming_keeps_the_threads_and_refuses_another_base(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(folder, threads=None, general=None)

    def killed(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "confirm", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(made)
    try:
        torch.set_num_threads(before + 1)
        weights = (folder / "base" / "model.safetensors").read_bytes()
        tiny_base("bert", "text-classification", seed=1).model.save_pretrained(folder / "base")
        with pytest.raises(RunError, match="another training"):
            tune(made)
        (folder / "base" / "model.safetensors").write_bytes(weights)
        assert tune(made).recipe.threads == before
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    run = load(made.output)
    with pytest.raises(DataError, match="not a list"):
        run.predict("a clean room")
    (folder / "runs/x/heads.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        load(made.output)


def test_accuracies_that_few_decided_examples_part_get_exact_bounds() -> None:
    def record(correct: int, predicted: int) -> dict[str, np.ndarray]:
        return {"correct": np.array(float(correct)), "predicted": np.array(predicted)}

    task = SimpleNamespace(
        primary=Primary("accuracy", binary=True),
        reduce=lambda records, w: {"accuracy": w @ np.array([r["correct"] for r in records]) / w.sum(1)},
    )
    base = [record(0, 1)] * 8 + [record(1, 0)] * 92
    tuned = [record(1, 0)] * 4 + [record(0, 2)] * 4 + [record(1, 0)] * 92  # 4 won; 4 wrong in another way
    made = gain_estimate(task, tuned, base, bootstrap_weights(100, draws=1000, seed=0))  # type: ignore[arg-type]
    assert made.how == "exact"
    assert made.value == pytest.approx(0.04)
    assert made.low <= 0
    assert made.differing == 8


def test_agreement_by_a_loss_is_measured_against_the_base_itself() -> None:
    task = SimpleNamespace(
        primary=Primary("loss", higher_is_better=False),
        reduce=lambda records, w: {"loss": w @ np.array([r["loss"] for r in records]) / w.sum(1)},
    )
    records = {s: [{"loss": np.array(value)}] * 3 for s, value in ((0.0, 1.2), (1.0, 1.7))}
    side = Side(task, Dataset([], []), agreement=True)  # type: ignore[arg-type]
    made = points(task, records, side, records)  # type: ignore[arg-type]
    assert [point.retention for point in made] == [1.0, pytest.approx(np.exp(-0.5))]


def test_runs_on_runs_load_from_any_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    more = {"training": {"epochs": 1, "probe": False}, "general": None}
    tune(recipe(folder, base="base", output="a", **more))
    tune(recipe(folder, base="a", output="b", **more))
    made = tune(recipe(folder, base="b", output="c", **more)).predict(["a clean room"])
    monkeypatch.chdir("/")
    assert load(folder / "c").predict(["a clean room"]) == made
