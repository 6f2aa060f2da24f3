"""The main job from files to a run folder and back, on a tiny random encoder saved in the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from small_runs import recipe, save_base, table
from tiny import tiny_base
from typer.testing import CliRunner

from domaintune import Recipe, fit, load, tune
from domaintune import predict as predicting
from domaintune.bases.load import load_base
from domaintune.cli import app
from domaintune.confirm import majority_score
from domaintune.engine.checkpoint import MANIFEST
from domaintune.errors import BaseError, DataError, DomainTuneError, MethodError, RecipeError, RunError
from domaintune.methods.lora import LoRA, LoRAAttached
from domaintune.parts import assemble
from domaintune.predict import Run
from domaintune.preview import check, plan
from domaintune.recipe import DataSettings
from domaintune.report.wording import silence_told
from domaintune.tasks.tag_chains import transitions_of
from domaintune.tasks.text_classification import TextClassification, TextExample
from domaintune.tasks.token_classification import TokenClassification
from domaintune.terminal import trust_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(tmp_path)
    return tmp_path


def test_a_run_predicts_what_it_scored(folder: Path) -> None:
    run = tune(recipe(folder))
    again = load(folder / "runs" / "x")
    rows = [json.loads(line) for line in (folder / "runs/x/predictions/test.jsonl").read_text().splitlines()]
    texts = [line.rsplit(",", 1)[0] for line in (folder / "test.csv").read_text().splitlines()[1:]]
    for loaded in (run, again):
        made = loaded.predict(texts)
        assert [m["label"] for m in made] == [r["label"] for r in rows]
        assert [m["probability"] for m in made] == pytest.approx([r["probability"] for r in rows], abs=1e-6)
        base = loaded.predict(texts, strength=0)
        assert [m["label"] for m in base] == [r["base"]["label"] for r in rows]
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    truth = [line.rsplit(",", 1)[1] for line in (folder / "test.csv").read_text().splitlines()[1:]]
    right = sum(r["label"] == t for r, t in zip(rows, truth, strict=True)) / len(truth)
    chosen = f"{scores['chosen_strength']:g}"
    assert scores["domain"]["scores"][chosen]["accuracy"]["value"] == pytest.approx(right)
    assert [point["strength"] for point in scores["frontier"]] == [0, 0.25, 0.5, 0.75, 1]
    assert scores["general"]["change"]["0" if chosen == "0" else chosen]["value"] > 0
    assert scores["majority"] == 0.5
    assert not (folder / "runs/x/checkpoint").exists()
    with pytest.raises(RunError, match=r"strength"):
        run.predict(texts[:1], strength=1.2)


def test_what_the_method_leaves_as_it_is_is_said_before_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoRA, "notes", lambda self, base: ["LoRA leaves out the experts."])
    assert plan(recipe(folder)).notes[0] == "LoRA leaves out the experts."
    said: list[str] = []
    stages: list[str] = []
    tune(
        recipe(folder),
        report=lambda stage, progress: stages.append(stage),
        say=lambda lines: said.extend([*lines, str("train" in stages)]),
    )
    assert said[0] == "note: LoRA leaves out the experts."
    assert said[-1] == "False"


def test_a_base_of_characters_with_a_slow_tokenizer(folder: Path) -> None:
    """CANINE hashes code points: its ids are no rows of a table, and its tokenizer does not say where tokens stand."""
    model = transformers.CanineForSequenceClassification(
        transformers.CanineConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            num_hash_buckets=64,
            num_hash_functions=2,
            max_position_embeddings=512,
        )
    )
    model.save_pretrained(folder / "base")
    for file in (folder / "base").glob("*token*"):
        file.unlink()
    transformers.CanineTokenizer(model_max_length=256).save_pretrained(folder / "base")
    with pytest.raises(BaseError, match=r"Read one end of long texts \(--set task.long_texts=head or tail\)"):
        tune(recipe(folder))
    run = tune(
        recipe(folder, task={"name": "text-classification", "long_texts": "head"}, output=str(folder / "runs" / "head"))
    )
    assert run.predict(["a lovely view"])[0]["label"] in {"negative", "positive"}
    assert isinstance(run.attached, LoRAAttached)
    assert len(run.attached.paths) == 24


def test_a_run_is_reproducible_and_its_resolved_recipe_reruns_it(folder: Path) -> None:
    first = tune(recipe(folder))
    resolved = json.loads((folder / "runs/x/resolved.json").read_text())
    second = tune(Recipe.make({**resolved, "output": str(folder / "runs/y")}))
    one, two = first.attached.state(), second.attached.state()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", ["full", "freeze", "lora", {"name": "p-tuning", "version": 1}])
def test_every_method_makes_a_run(folder: Path, method: object) -> None:
    run = tune(recipe(folder, method=method))
    assert len(run.predict(["a clean room"])) == 1


def test_finished_and_changed_outputs_are_refused(folder: Path) -> None:
    made = recipe(folder)
    tune(made)
    with pytest.raises(RunError, match=r"finished run.*--overwrite"):
        tune(made)
    state = json.loads((folder / "runs/x/run.json").read_text())
    (folder / "runs/x/run.json").write_text(json.dumps({**state, "finished": False}))
    with pytest.raises(RunError, match=r"seed: 0 -> 1"):
        tune(made.model_copy(update={"seed": 1}))
    table(folder / "train.csv", 41)
    with pytest.raises(RunError, match=r"data of 'train'"):
        tune(made)
    tune(made, overwrite=True)
    (folder / "other").mkdir()
    (folder / "other" / "file").write_text("x")
    with pytest.raises(RunError, match="no run"):
        tune(made.model_copy(update={"output": str(folder / "other")}))
    assert (folder / "other" / "file").read_text() == "x"


def test_overwriting_resumes_what_the_same_command_began(folder: Path) -> None:
    stages: list[str] = []

    def stop(stage: str, progress: object) -> None:
        if stage == "frontier":
            raise KeyboardInterrupt

    tune(recipe(folder))
    made = recipe(folder, seed=1)
    with pytest.raises(KeyboardInterrupt):
        tune(made, overwrite=True, report=stop)
    tune(made, overwrite=True, report=lambda stage, progress: stages.append(f"{stage} {progress and progress.step}"))
    assert not any(stage.startswith("train 1") for stage in stages)  # no step was taken again
    assert json.loads((folder / "runs/x/run.json").read_text())["finished"]
    started = json.loads((folder / "runs/x/run.json").read_text())["started"]
    tune(made, overwrite=True)  # finished, so it is made anew
    assert json.loads((folder / "runs/x/run.json").read_text())["started"] > started
    (folder / "runs/x/run.json").write_text("{")
    tune(made, overwrite=True)


def uncalibrated(run: Run) -> Run:
    return replace(run, task=run.task.model_copy(update={"calibration": ()}))


def test_probabilities_are_calibrated_and_answers_are_not_touched(folder: Path) -> None:
    run = tune(recipe(folder))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    calibration = run.task.calibration
    assert [strength for strength, _ in calibration] == [0, 0.25, 0.5, 0.75, 1]
    assert scores["calibration"]["temperature"] == pytest.approx(run.task.temperature(run.strength))
    texts = [line.rsplit(",", 1)[0] for line in (folder / "test.csv").read_text().splitlines()[1:]]
    for strength in (0.0, 0.6, 1.0):
        made, raw = (r.predict(texts, strength=strength) for r in (run, uncalibrated(run)))
        assert [m["label"] for m in made] == [r["label"] for r in raw]
        temperature = run.task.temperature(strength)
        assert temperature != 1
        expected = [1 / (1 + (1 / r["probability"] - 1) ** (1 / temperature)) for r in raw]  # of two labels
        assert [m["probability"] for m in made] == pytest.approx(expected, abs=1e-9)
    chosen = f"{scores['chosen_strength']:g}"
    assert scores["calibration"]["before"]["log_loss"] == pytest.approx(
        scores["domain"]["scores"][chosen]["log_loss"]["value"]
    )
    rows = [json.loads(line) for line in (folder / "runs/x/predictions/general.jsonl").read_text().splitlines()]
    general = [line.rsplit(",", 1)[0] for line in (folder / "general.csv").read_text().splitlines()]
    made = run.predict([general[row["line"] - 1] for row in rows])
    assert [m["probability"] for m in made] == pytest.approx([r["probability"] for r in rows], abs=1e-6)


def test_each_class_and_damaged_inputs_are_scored(folder: Path) -> None:
    tune(recipe(folder, general=None, evaluation={"draws": 200, "robustness_rows": 20}))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    rows = [json.loads(line) for line in (folder / "runs/x/predictions/test.jsonl").read_text().splitlines()]
    truth = [line.rsplit(",", 1)[1] for line in (folder / "test.csv").read_text().splitlines()[1:]]
    assert [c["label"] for c in scores["classes"]] == ["negative", "positive"]
    for entry in scores["classes"]:
        wanted = [t == entry["label"] for t in truth]
        assert entry["support"] == sum(wanted)
        for prefix, answers in (("", [r["label"] for r in rows]), ("base_", [r["base"]["label"] for r in rows])):
            hits = sum(a == entry["label"] and w for a, w in zip(answers, wanted, strict=True))
            assert entry[f"{prefix}recall"] == pytest.approx(hits / sum(wanted))
    robustness = scores["robustness"]
    assert robustness["rows"] == 20
    assert set(robustness["kinds"]) == {
        "typos",
        "case",
        "homoglyphs",
        "spacing",
        "dropped words",
    }  # no punctuation there
    assert {"value", "low", "high"} <= set(robustness["kinds"]["typos"]["tuned"])
    told = trust_lines(scores)
    assert f"temperature {scores['calibration']['temperature']:.2f}" in told[0]
    assert "20 rows" in told[1]
    off = {"draws": 200, "robustness": False}
    tune(recipe(folder, general=None, output=str(folder / "runs/off"), evaluation=off))
    off = json.loads((folder / "runs/off/scores.json").read_text())
    assert off["robustness"] is None
    assert off["domain"] == scores["domain"]


def test_where_the_base_was_chosen_strength_1_stands_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "choose", lambda *given, **named: 0.0)
    tune(recipe(folder, method="full", evaluation={"draws": 200}))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    ends = [scores["domain"]["scores"][strength]["accuracy"]["value"] for strength in ("0", "1")]
    assert ends[0] != ends[1]
    clean = scores["robustness"]["clean"]
    assert [clean["base"]["value"], clean["tuned"]["value"]] == pytest.approx(ends)
    rights = [sum(c["support"] * c[f"{prefix}recall"] for c in scores["classes"]) for prefix in ("base_", "")]
    assert [right / sum(c["support"] for c in scores["classes"]) for right in rights] == pytest.approx(ends)
    assert "accuracy at strength 1 " in trust_lines(scores)[1]
    page = (folder / "runs/x/report.html").read_text()
    assert "<caption>Test rows at strength 1, and the base</caption>" in page


def test_an_earlier_run_is_a_base_with_its_head_and_labels(folder: Path) -> None:
    first = tune(recipe(folder, method="full", output=str(folder / "runs/first")))
    second = tune(recipe(folder, base=str(folder / "runs/first")))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    assert scores["start"] == "the base's own head"
    texts = ["a clean room and a rude desk", "a cold soup"]
    # each states probabilities by temperatures fitted on its own data; the model is the same
    assert uncalibrated(second).predict(texts, strength=0) == uncalibrated(first).predict(texts)
    general = json.loads((folder / "runs/x/provenance.json").read_text())["base"]
    assert general["strength"] == first.strength
    # its strength may change afterwards; this run does not follow
    before = second.predict(texts)
    (folder / "runs/first/strength.json").write_text(json.dumps({"chosen": 0.0, "form": "merged"}))
    assert load(folder / "runs/x").predict(texts) == before


def test_a_p_tuning_run_is_no_base(folder: Path) -> None:
    tune(recipe(folder, method="p-tuning", output=str(folder / "runs/first")))
    with pytest.raises(MethodError, match="cannot be merged"):
        tune(recipe(folder, base=str(folder / "runs/first")))


def test_rows_that_an_earlier_run_saw_are_no_general_evidence(folder: Path) -> None:
    tune(recipe(folder, method="full", output=str(folder / "runs/first")))
    general = (folder / "train.csv").read_text() + (folder / "general.csv").read_text().split("\n", 1)[1]
    path = folder / "mixed.csv"
    path.write_text(general)
    tune(
        recipe(
            folder, base=str(folder / "runs/first"), train=table(folder / "new.csv", 30, start=600), general=str(path)
        )
    )
    notes = json.loads((folder / "runs/x/scores.json").read_text())["notes"]
    # 40 training rows, and of the first run's general rows the 10 its head was fitted on and the 15 it chose its strength on
    assert any("65 rows of general were left out" in note for note in notes)


def test_other_general_labels_keep_their_head(folder: Path) -> None:
    tune(recipe(folder, method="full", output=str(folder / "runs/first")))
    three = ("food", "room", "staff")
    run = tune(
        recipe(
            folder,
            base=str(folder / "runs/first"),
            train=table(folder / "t3.csv", 42, labels=three),
            dev=table(folder / "d3.csv", 12, labels=three, start=500),
            test=table(folder / "e3.csv", 12, labels=three, start=700),
        )
    )
    made = run.predict(["a clean room"])[0]
    assert made["label"] in three
    assert made["base_label"] in ("negative", "positive")
    start = uncalibrated(load(folder / "runs/first")).predict(["a clean room"])[0]
    kept = run.predict(["a clean room"], strength=0)[0]
    assert kept["base_label"] == start["label"]
    assert kept["base_probability"] == pytest.approx(start["probability"], abs=1e-6)


def test_an_unlabelled_general_set_is_judged_by_agreement(folder: Path) -> None:
    tune(recipe(folder, general=table(folder / "plain.csv", 30, start=300, column="")))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    assert scores["general"]["kind"] == "agreement"
    assert scores["general"]["change"]["0"]["value"] == 1.0
    assert set(scores["general"]["mean_divergence"]) >= {"1"}


@pytest.mark.parametrize(
    ("own", "head"),
    [
        (("O", "LOC", "PER"), "general"),
        (("O", "I-LOC", "I-PER"), "general"),
        (("O", "B-LOC", "I-LOC"), "general"),
        (("ADJ", "NOUN", "VERB"), "domain"),
        (("negative", "positive"), "domain"),
        (("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"), "domain"),
        ((), "domain"),
    ],
)
def test_a_tagger_of_any_labels_is_a_base_with_a_general_set(tmp_path: Path, own: tuple[str, ...], head: str) -> None:
    """Where its labels are entities agreement is measured on its own head; else it is a body alone."""
    rows = [{"tokens": ["the", "fox", str(n)], "tags": ["O", "B-DRUG", "O"]} for n in range(12)]
    parts = {"train": rows, "dev": rows, "test": rows, "general": [{"tokens": ["fox", str(n)]} for n in range(12)]}
    base = replace(tiny_base("bert", "token-classification"), own_labels=own)
    values = {"task": "token-classification", "base": "x", "output": str(tmp_path / "run")}
    made = recipe(tmp_path, **values, **parts, data={"keep_leaks": True})
    general = assemble(made, base).general
    assert general is not None
    assert (general.agreement, general.head) == (True, head)
    # Labels of their own are BIO: a head with these among others has them already.
    labelled = made.model_copy(update={"general": str(tmp_path / "l.jsonl")})
    (tmp_path / "l.jsonl").write_text(
        "\n".join(json.dumps({"tokens": ["dog", str(n)], "tags": ["B-LOC", "I-LOC"]}) for n in range(40))
    )
    general = assemble(labelled, base).general
    assert general is not None
    assert (general.head, len(general.learn) > 0) == ("general", own != ("O", "B-LOC", "I-LOC"))
    task = general.task
    assert isinstance(task, TokenClassification)
    tags = [[task.tags[index] for index in e.tags] for e in general.learn]
    expected = transitions_of(tags) if tags else None  # its own head decodes as it came
    assert (task.transitions, task.first_transitions) == (expected, expected)


def test_a_head_fitted_on_the_general_rows_decodes_with_what_they_teach(tmp_path: Path) -> None:
    """At 0; at 1 with what the domain's rows teach, of the domain's side and the general one alike."""
    rows = [{"tokens": ["the", "fox", str(n)], "tags": ["O", "B-DRUG", "I-DRUG"]} for n in range(12)]
    others = [{"tokens": ["dog", str(n), "ran"], "tags": ["B-DRUG", "O", "O"]} for n in range(40)]
    parts = {"train": rows, "dev": rows, "test": rows, "general": others}
    values = {"task": "token-classification", "base": "x", "output": str(tmp_path / "run")}
    made = assemble(
        recipe(tmp_path, **values, **parts, data={"keep_leaks": True}), tiny_base("bert", "token-classification")
    )
    assert made.general is not None
    assert (made.general.head, len(made.general.learn) > 0) == ("domain", True)
    for task in (made.task, made.general.task):
        assert isinstance(task, TokenClassification)
        tags = [[[task.tags[index] for index in e.tags] for e in part] for part in (made.general.learn, made.train)]
        assert (task.first_transitions, task.transitions) == tuple(map(transitions_of, tags))


def test_pictures_without_boxes_are_a_general_set(tmp_path: Path) -> None:
    """Where the base shows nothing in them, a model that shows nothing either agrees with it."""
    base = tiny_base("rt-detr-v2", "object-detection")
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    (tmp_path / "general").mkdir()
    rows = []
    for number in range(8):
        noise = Image.effect_noise((64, 64), 90 + number)
        noise.save(tmp_path / f"{number}.png")
        noise.rotate(90).save(tmp_path / "general" / f"{number}.png")
        rows.append({"image": str(tmp_path / f"{number}.png"), "boxes": [[4, 4, 30, 30]], "labels": ["cat"]})
    parts = {"train": rows, "dev": rows, "test": rows, "general": str(tmp_path / "general")}
    values = {"base": str(tmp_path / "base"), "output": str(tmp_path / "run"), "data": {"keep_leaks": True}}
    task = {"name": "object-detection", "threshold": 1.0}
    made = tune(recipe(tmp_path, task=task, **parts, **values, training={"epochs": 1, "patience": 1}))
    scores = json.loads((made.path / "scores.json").read_text())
    assert scores["general"]["kind"] == "agreement"
    assert [change["value"] for change in scores["general"]["change"].values()] == [1.0, 1.0]
    assert [point["retention"] for point in scores["frontier"]] == [1.0] * 5
    assert "nan" not in scores["verdict"]["sentence"]
    assert scores["silence"] == {"pictures": 8, "silent": 8, "threshold": 1.0}
    told = "No box reaches a confidence of 1 on 8 of 8 test pictures with objects"
    assert silence_told(scores)[0].startswith(told)
    assert told in (made.path / "report.html").read_text(encoding="utf-8")


def test_without_dev_and_with_few_rows_folds_stand_in(folder: Path) -> None:
    tune(recipe(folder, dev=None, general_check=table(folder / "check.csv", 20, start=900)))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    assert len(scores["folds"]) == 5
    assert sum(fold["rows"] for fold in scores["folds"]) == 40
    assert scores["general"]["name"] == "general-check"


def test_folds_choose_among_the_epochs_that_were_scored(folder: Path) -> None:
    """With 12 epochs every second one; the last fit, without dev, then takes as many of the schedule's epochs."""
    training = {"epochs": 12, "batch_size": 16, "weights": "best"}
    tune(recipe(folder, dev=None, general=None, data={"folds": 2}, training=training))
    scores = json.loads((folder / "runs/x/scores.json").read_text())
    held = [[score for score in fold["scores"] if score is not None] for fold in scores["folds"]]
    assert [len(fold["scores"]) for fold in scores["folds"]] == [12, 12]
    assert [len(part) for part in held] == [6, 6]
    means = [sum(pair) / 2 for pair in zip(*held, strict=True)]
    assert len(scores["epochs"]) == 2 * max(n for n, mean in enumerate(means, start=1) if mean == max(means))
    assert scores["dev"] == pytest.approx(max(means), abs=1e-6)


def test_leaks_are_removed_from_train_and_said(folder: Path) -> None:
    test = (folder / "leak.csv").write_text(
        "text,label\nA clean ROOM!,positive\nnoisy street,negative\n"
    ) and folder / "leak.csv"
    train = (folder / "leaky.csv").write_text(
        Path(table(folder / "train.csv", 40)).read_text() + "a clean room,positive\n"
    )
    assert train
    tune(recipe(folder, test=str(test), train=str(folder / "leaky.csv")))
    notes = json.loads((folder / "runs/x/scores.json").read_text())["notes"]
    assert notes[0] == "1 row of train also stands in test; removed from train."


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"train": "missing.csv"}, DataError, "missing.csv"),
        ({"base": "./nowhere"}, DomainTuneError, "no such folder"),
        ({"method": {"name": "freeze", "train": ["top:9"]}}, DomainTuneError, "top:9"),
    ],
)
def test_impossible_recipes_name_the_fault(folder: Path, change: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        tune(recipe(folder, **change))


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'epochs'"):
        Recipe.make({"task": "text-classification", "base": "b", "train": "t", "output": "o", "training": {"epoch": 3}})


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "domaintune", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_line_does_the_same(folder: Path) -> None:
    made = recipe(folder)
    (folder / "recipe.yaml").write_text(json.dumps(made.plain()))  # JSON is YAML
    dry = command("tune", "recipe.yaml", "--dry-run", "--method", "freeze", cwd=folder)
    assert dry.returncode == 0, dry.stderr
    assert "trained parameters" in dry.stdout
    assert not (folder / "runs").exists()
    done = command("tune", "recipe.yaml", "--set", "training.epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "general" in done.stdout
    again = command("tune", "recipe.yaml", "--set", "training.epochs=1", cwd=folder)
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
    predicted = command("predict", "runs/x", "test.csv", "--strength", "0.5", cwd=folder)
    assert predicted.returncode == 0, predicted.stderr
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert len(rows) == 24
    assert {"text", "label", "predicted_label", "probability"} <= set(rows[0])
    expected = load(folder / "runs/x").predict([row["text"] for row in rows], strength=0.5)
    assert [row["predicted_label"] for row in rows] == [e["label"] for e in expected]
    (folder / "bad.csv").write_text("text,label\nfine,positive\n,negative\n")
    bad = command("tune", "recipe.yaml", "--train", "bad.csv", "--output", "runs/z", cwd=folder)
    assert bad.returncode == 2
    assert "bad.csv:3" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_ctrl_c_leaves_a_run_that_the_same_command_resumes(folder: Path) -> None:
    made = recipe(folder, training={"epochs": 200, "learning_rate": 0.001, "patience": 500})
    (folder / "recipe.yaml").write_text(json.dumps(made.plain()))
    arguments = [sys.executable, "-m", "domaintune", "tune", "recipe.yaml"]
    process = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    checkpoint = folder / "runs/x/checkpoint/train/checkpoint.json"
    deadline = time.monotonic() + 100
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert checkpoint.exists()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "resumes" in told
    assert "Traceback" not in told
    state = json.loads((folder / "runs/x/run.json").read_text())
    assert state["finished"] is False
    shorter = made.model_copy(update={"training": made.training.model_copy(update={"epochs": 3})})
    with pytest.raises(RunError, match=r"training.epochs: 200 -> 3"):
        tune(shorter)


def test_balanced_weights_come_from_the_training_rows_alone(folder: Path) -> None:
    train = folder / "skewed.csv"
    train.write_text("text,label\n" + "".join(f"cold soup {i},negative\n" for i in range(30)) + "a view,positive\n" * 1)
    task = {"name": "text-classification", "class_weights": "balanced"}
    tune(recipe(folder, task=task, train=str(train)))
    weights = json.loads((folder / "runs/x/tasks.json").read_text())["domain"]["weights"]
    assert weights == pytest.approx([31 / (2 * 30), 31 / 2])


def test_the_record_of_predictions_holds_input_and_target(folder: Path) -> None:
    values = recipe(folder).plain()
    values["general"] = table(folder / "unlabelled.csv", 40, start=300, column="")
    run = tune(Recipe.make(values))
    test, general = (
        [json.loads(line) for line in (run.path / f"predictions/{name}.jsonl").read_text().splitlines()]
        for name in ("test", "general")
    )
    given = [line.rsplit(",", 1) for line in (folder / "test.csv").read_text().splitlines()[1:]]
    assert [[row["input"], row["target"]["label"]] for row in test] == given
    for row in test:  # two labels: what the target does not get, the other one does
        same = row["label"] == row["target"]["label"]
        assert row["target"]["probability"] == pytest.approx(row["probability"] if same else 1 - row["probability"])
    assert all("target" not in row for row in general)


def test_the_record_of_findings_says_why_and_what_to_do(folder: Path) -> None:
    values = recipe(folder).plain()
    train = Path(values["train"])
    train.write_text(train.read_text() + train.read_text().splitlines()[1] + "\n")  # a repeat
    run = tune(Recipe.make({**values, "training": {"epochs": 0}}))
    found = {f["name"]: f for f in json.loads((run.path / "scores.json").read_text())["findings"]}
    repeats = found["repeats"]
    assert repeats["count"] == 1
    assert repeats["rows"] == [f"{train}:42"]
    assert all(repeats[key] for key in ("severity", "message", "why", "remedy"))


def test_nothing_that_a_run_is_made_from_is_removed(folder: Path) -> None:
    tune(recipe(folder, output=str(folder / "runs/a"), method="full"))
    tune(recipe(folder, base=str(folder / "runs/a"), output=str(folder / "runs/b"), method="full"))
    tune(recipe(folder, base=str(folder / "runs/a"), output=str(folder / "runs/s"), method="full", seeds=2))
    inside = folder / "runs/b/more"
    inside.mkdir()
    shutil.copy(folder / "train.csv", inside / "train.csv")
    for change in (
        {"train": str(folder / "runs/*/more/*.csv"), "output": str(folder / "runs/b")},
        {"general": [str(folder / "general.csv"), str(inside / "train.csv")], "output": str(folder / "runs/b")},
        {"base": str(folder / "runs/b"), "output": str(folder / "runs/a")},
        {"base": str(folder / "runs/s"), "output": str(folder / "runs/a")},
    ):
        with pytest.raises(RunError, match="is to be made from"):
            tune(recipe(folder, **change), overwrite=True)
    assert (inside / "train.csv").exists()
    assert load(folder / "runs/b").predict(["a clean room"])


def test_a_finished_run_without_its_page_gets_it(folder: Path) -> None:
    made = recipe(folder, output=str(folder / "runs/unreported"))
    tune(made)
    weights = (folder / "runs/unreported/adapter").stat().st_mtime_ns
    (folder / "runs/unreported/report.html").unlink()
    with pytest.raises(RunError, match="finished run"):
        tune(made.model_copy(update={"seed": 1}))
    assert tune(made).path == folder / "runs/unreported"
    assert (folder / "runs/unreported/report.html").exists()
    assert (folder / "runs/unreported/adapter").stat().st_mtime_ns == weights
    with pytest.raises(RunError, match="finished run"):
        tune(made)


def test_what_was_found_in_the_data_is_said_before_training(folder: Path) -> None:
    leaked = Path(table(folder / "test.csv", 24, start=200)).read_text().splitlines()[1]
    table(folder / "leaky.csv", 40)
    with open(folder / "leaky.csv", "a", encoding="utf-8") as stream:
        stream.write(leaked + "\n")
    order: list[str] = []
    tune(
        recipe(folder, train=str(folder / "leaky.csv"), output=str(folder / "runs/said")),
        report=lambda stage, progress: order.append(stage),
        say=lambda lines: order.extend(lines),
    )
    told = next(
        place for place, line in enumerate(order) if line.startswith("error: 1 row of test also stands in train")
    )
    assert any(line.startswith("note: 1 row of train also stands in test") for line in order)
    assert told < order.index("train")


def test_a_part_of_few_groups_is_told_where_tune_cuts_it(folder: Path) -> None:
    table(folder / "g.csv", 160)
    head, *rows = (folder / "g.csv").read_text().splitlines()
    grouped = [f"{head},product", *(f"{row},p{number % 36 // 4}" for number, row in enumerate(rows))]
    (folder / "g.csv").write_text("\n".join(grouped) + "\n")
    made = recipe(
        folder, train=str(folder / "g.csv"), dev=None, test=None, general=None, data={"group_column": "product"}
    )
    assert "warning: test holds 2 groups of rows that belong together. Give more of them." in plan(made).findings
    assert "few-rows" in {finding.name for finding in check(made).findings}


def test_a_general_set_may_hold_one_label(folder: Path) -> None:
    good = folder / "good.csv"
    rows = Path(table(folder / "both.csv", 80, start=400)).read_text().splitlines()
    good.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.endswith("positive"))]) + "\n")
    tune(recipe(folder, general=str(good), output=str(folder / "runs/good"), evaluation={"draws": 200}))
    general = json.loads((folder / "runs/good/scores.json").read_text())["general"]
    assert general["rows"] > 0
    assert general["kind"].startswith("retention")


def test_a_general_set_that_cannot_be_parted_is_named(folder: Path) -> None:
    rows = Path(table(folder / "one.csv", 1, start=400)).read_text().splitlines()
    (folder / "one.csv").write_text("\n".join([rows[0], *rows[1:] * 4]) + "\n")
    with pytest.raises(
        DataError, match=r"--general: 4 rows in 1 group .* Give more different general rows, or --general-check"
    ):
        plan(recipe(folder, general=str(folder / "one.csv"), output=str(folder / "runs/one")))


def test_a_value_where_settings_belong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("task: text-classification\nbase: x\ntrain: y\noutput: z\ndata: [a.csv]\n")
    result = CliRunner().invoke(app, ["tune", str(file), "--group-column", "g"])
    assert isinstance(result.exception, RecipeError)
    assert "data" in str(result.exception)


def test_settings_that_are_newer_than_an_unfinished_run_have_their_defaults(folder: Path) -> None:
    made = recipe(folder, output=str(folder / "runs/older"))

    def stop(stage: str, progress: object) -> None:
        if stage == "frontier":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=stop)
    stored = json.loads((folder / "runs/older/recipe.json").read_text())
    del stored["balance"]["keep"]
    (folder / "runs/older/recipe.json").write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"balance.keep: 0.98 -> 0.9"):
        tune(made.model_copy(update={"balance": made.balance.model_copy(update={"keep": 0.9})}))
    assert tune(made).path == folder / "runs/older"


def test_a_general_set_of_one_label_keeps_the_bases_own_head(folder: Path) -> None:
    tune(recipe(folder, output=str(folder / "runs/two"), method="full"))
    three = {
        p: table(folder / f"{p}3.csv", 40, labels=("negative", "neutral", "positive"), start=s)
        for p, s in (("train", 0), ("dev", 500), ("test", 700))
    }
    rows = Path(table(folder / "both.csv", 80, start=400)).read_text().splitlines()
    (folder / "good.csv").write_text(
        "\n".join([rows[0], *(row for row in rows[1:] if row.endswith("positive"))]) + "\n"
    )
    tune(
        recipe(
            folder,
            base=str(folder / "runs/two"),
            general=str(folder / "good.csv"),
            output=str(folder / "runs/three"),
            **three,
        )
    )
    tasks = json.loads((folder / "runs/three/tasks.json").read_text())
    assert tasks["general"]["labels"] == ["negative", "positive"]


def test_a_head_that_is_unused_for_its_spelling_is_told(folder: Path) -> None:
    upper = ("Negative", "Positive")
    tune(recipe(folder, output=str(folder / "runs/v1"), general=None))
    tables = {
        "train": table(folder / "t.csv", 40, labels=upper),
        "dev": table(folder / "d.csv", 16, labels=upper, start=100),
        "test": table(folder / "e.csv", 24, labels=upper, start=200),
    }
    told = "is not used; to start from it: --label-map Negative=negative --label-map Positive=positive."
    made = recipe(folder, base=str(folder / "runs/v1"), general=None, output=str(folder / "runs/v2"), **tables)
    assert any(told in note for note in check(made).notes)
    named = {"label_map": {"Negative": "negative", "Positive": "positive"}}
    assert not any("own head" in note for note in check(made.model_copy(update={"data": DataSettings(**named)})).notes)
    three = table(folder / "three.csv", 42, labels=("negative", "positive", "mixed"))
    tune(recipe(folder, output=str(folder / "runs/v3"), general=None, train=three))
    more = made.model_copy(update={"base": str(folder / "runs/v3")})
    assert not any("own head" in note for note in check(more).notes), "a head of other labels too is not for these"


def test_a_mapped_label_that_no_row_has_is_an_error(folder: Path) -> None:
    made = recipe(folder, data={"label_map": {"negativ": "bad"}})
    with pytest.raises(DataError, match=r"no row has the label 'negativ'. Did you mean 'negative'"):
        tune(made)
    made = recipe(folder, data={"general_labels": ["negative", "positve"]})
    with pytest.raises(DataError, match=r"no row has the label 'positve'. Did you mean 'positive'"):
        tune(made)


def test_blank_labels_make_an_unlabelled_general_set(folder: Path) -> None:
    table(folder / "blank.csv", 40, labels=("", ""), start=300)
    made = tune(recipe(folder, general=str(folder / "blank.csv")))
    assert json.loads((made.path / "scores.json").read_text())["general"]["kind"] == "agreement"


def test_rows_of_test_that_train_has_are_a_caveat(folder: Path) -> None:
    train = folder / "t.csv"
    table(train, 40)
    table(folder / "test.csv", 24, start=200)
    train.write_text(train.read_text() + "\n".join((folder / "test.csv").read_text().splitlines()[1:4]) + "\n")
    kept = tune(recipe(folder, train=str(train), data={"keep_leaks": True}))
    scores = json.loads((kept.path / "scores.json").read_text())
    assert scores["caveats"] == ["3 rows of test stand in train or dev too: the score there is too good."]
    assert "(kept)" in (kept.path / "README.md").read_text(encoding="utf-8")
    clean = tune(recipe(folder, train=str(train), output=str(folder / "runs/y")))
    assert json.loads((clean.path / "scores.json").read_text())["caveats"] == []
    assert "leaks: 3 (removed)" in (clean.path / "README.md").read_text(encoding="utf-8")


def test_a_base_run_is_found_where_it_stood_and_beside_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune(recipe(folder, output=str(folder / "runs/a"), general=None))
    child = tune(recipe(folder, base=str(first.path), output=str(folder / "runs/child"), general=None, method="full"))
    expected = child.predict(["a lovely view"])
    other = folder / "elsewhere"
    named = other / "runs/a"  # a run of the same name, and another one
    tune(recipe(folder, output=str(named), general=None, seed=5))
    values = json.loads((child.path / "resolved.json").read_text())
    (child.path / "resolved.json").write_text(json.dumps({**values, "base": "runs/a"}))
    monkeypatch.chdir(other)
    assert load(child.path).predict(["a lovely view"]) == expected
    shipped = folder / "shipped"
    shutil.copytree(folder / "runs", shipped)
    shutil.rmtree(folder / "runs")
    assert load(shipped / "child").predict(["a lovely view"]) == expected
    shutil.rmtree(shipped / "a")
    with pytest.raises(BaseError, match="its weights changed"):  # what is left is another run of that name
        load(shipped / "child")
    shutil.rmtree(named)
    with pytest.raises(RunError, match="was made on the run 'runs/a', which is not there") as caught:
        load(shipped / "child")
    assert str(shipped / "a") in str(caught.value)


def test_files_of_tensors_are_as_readable_as_others(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        made = tune(recipe(folder, method="p-tuning"))
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in made.path.rglob("*.safetensors")}
    assert {"heads.safetensors", "test.safetensors", "p_tuning.safetensors"} <= set(found)
    assert set(found.values()) == {0o644}


def test_a_dry_run_refuses_what_tune_refuses(folder: Path) -> None:
    made = recipe(folder)
    tune(made)
    with pytest.raises(RunError, match="holds a finished run"):
        plan(made)
    assert plan(made, overwrite=True).minutes >= 0
    tracked = made.model_copy(update={"track": ("no-such-library",), "output": str(folder / "runs/y")})
    with pytest.raises(DomainTuneError):
        plan(tracked)


def test_a_mistyped_built_in_base_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="Did you mean 'minilm'"):
        load_base("minilmm", auto_class="AutoModelForSequenceClassification")


def test_overwrite_drops_a_checkpoint_that_cannot_be_gone_on_with(folder: Path) -> None:
    made = recipe(folder)

    def stop(stage: str, progress: object) -> None:
        if stage == "frontier":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=stop)
    manifest = next(path for path in (folder / "runs/x").rglob(MANIFEST) if path.is_file())
    values = json.loads(manifest.read_text())
    values["fingerprint"]["caller"] = "base of another kind"
    manifest.write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"is the checkpoint of another training.*--overwrite"):
        tune(made)
    assert tune(made, overwrite=True).path.is_dir()


def test_a_dry_run_refuses_to_overwrite_what_it_is_made_from(folder: Path) -> None:
    first = tune(recipe(folder))
    again = recipe(folder, base=str(first.path), output=str(first.path))
    for act in (plan, tune):
        with pytest.raises(RunError, match="holds what this run is to be made from"):
            act(again, overwrite=True)
    (folder / "other").mkdir()
    (folder / "other/file").write_text("x")
    with pytest.raises(RunError, match="exists and is no run"):
        plan(recipe(folder, output=str(folder / "other")), overwrite=True)


def test_a_base_beside_a_run_over_seeds_is_found(folder: Path) -> None:
    tune(recipe(folder, output=str(folder / "runs/v1"), general=None))
    tune(
        recipe(
            folder, base=str(folder / "runs/v1"), output=str(folder / "runs/v2"), general=None, seeds=2, method="full"
        )
    )
    expected = load(folder / "runs/v2").predict(["a lovely view"])
    shutil.move(folder / "runs", folder / "moved")
    assert load(folder / "moved/v2").predict(["a lovely view"]) == expected


def test_what_else_lies_in_an_adapters_folder_is_no_change(folder: Path) -> None:
    first = tune(recipe(folder, output=str(folder / "runs/a"), general=None))
    child = tune(recipe(folder, base=str(first.path), output=str(folder / "runs/b"), general=None))
    (first.path / "adapter/.DS_Store").write_bytes(b"x")
    (first.path / "adapter/README.md").write_text("# A card")
    assert load(child.path).predict(["a lovely view"])


def test_a_damaged_place_does_not_hide_the_right_base(folder: Path) -> None:
    first = tune(recipe(folder, output=str(folder / "runs/a"), general=None))
    child = tune(recipe(folder, base=str(first.path), output=str(folder / "runs/b"), general=None))
    expected = child.predict(["a lovely view"])
    shutil.copytree(folder / "runs", folder / "copy")
    (first.path / "adapter/adapter_model.safetensors").write_bytes(b"damaged")
    assert load(folder / "copy/b").predict(["a lovely view"]) == expected


def test_budgets_reach_predictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tune(recipe(folder, evaluation={"draws": 100, "batch_budget": 77}))
    seen: list[int | None] = []
    monkeypatch.setattr(predicting, "predict_by_domain", lambda *a, budget, **k: seen.append(budget) or [])
    made.predictions(made.task, [], {"": 1.0}, wanted=frozenset({"output"}))
    assert seen == [77]


def test_too_few_groups_for_folds_are_refused_before_a_finished_run_is_removed(folder: Path) -> None:
    made = recipe(folder, dev=None, general=None, data={"folds": 2})
    finished = tune(made)
    rows = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    grouped = [f"{rows[0]},patient", *(f"{row},p{number % 4}" for number, row in enumerate(rows[1:]))]
    (folder / "train.csv").write_text("\n".join(grouped), encoding="utf-8")
    few = recipe(
        folder, table=lambda path, *args, **more: str(path), dev=None, general=None, data={"group_column": "patient"}
    )
    test = (folder / "test.csv").read_text(encoding="utf-8").splitlines()
    (folder / "test.csv").write_text(
        "\n".join([f"{test[0]},patient", *(f"{row},t" for row in test[1:])]), encoding="utf-8"
    )
    for act in (check, partial(plan, overwrite=True), partial(tune, overwrite=True)):
        with pytest.raises(DataError, match=r"40 rows in 4 groups .* do not make 5 folds.*--set data.folds=4"):
            act(few)
    assert load(finished.path).path == finished.path


def test_rows_of_one_pattern_that_were_parted_are_told(folder: Path) -> None:
    made = recipe(folder, dev=None, test=None, general=None, data={"fold_below": 0})
    rows = [
        f"the report of ward {n} says that heart and lungs are clear and no more is seen,positive" for n in range(90)
    ]
    rows += [f"{n * 7919 % 1000} {chr(97 + n % 26) * 9} {n * 104729 % 977},negative" for n in range(90)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    base = load_base(made.base, auto_class="AutoModelForSequenceClassification")
    parts = assemble(made, base)
    like = [sum("heart" in example.text for example in part) for part in (parts.dev or (), parts.test)]
    why = "too many rows follow one pattern to stay in one part, and the score there is too good."
    assert min(like) > 5
    assert parts.caveats == [f"{like[1]} rows of test are almost equal to one of train or dev: {why}"]
    assert f"{like[0]} rows of dev are almost equal to one of train: {why}" in parts.notes
    assert parts.caveats[0] in parts.notes
    given = recipe(
        folder, table=lambda path, *args, **more: str(folder / "train.csv"), general=None, data={"keep_leaks": True}
    )
    assert not any("almost equal" in note for note in assemble(given, base).notes)


def test_a_general_row_without_a_group_leaves_the_others_theirs(folder: Path) -> None:
    def grouped(path: Path, count: int, *, start: int = 0) -> str:
        lines = Path(table(path, count, start=start)).read_text().splitlines()[1:]
        rows = [dict(zip(("text", "label"), line.rsplit(",", 1), strict=True)) for line in lines]
        held = [{**row, "author": f"a{(start + n) // 4}"} for n, row in enumerate(rows)]
        if "general" in path.name:
            del held[7]["author"]
        path.with_suffix(".jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in held))
        return str(path.with_suffix(".jsonl"))

    given = recipe(folder, table=grouped, data={"group_column": "author"})
    base = load_base(given.base, auto_class=TextClassification.auto_class, device=torch.device("cpu"))
    parts = assemble(given, base)
    assert parts.general is not None
    held = {e.line: e.group for e in (*parts.general.learn, *parts.general.choose, *parts.general.headline)}
    assert held.pop(8) is None
    assert set(held.values()) == {f"a{number}" for number in range(75, 85)}
    assert (
        f"1 row has no column 'author' (first: {folder}/general.jsonl:8); such a row is a group of its own."
        in parts.notes
    )


def test_the_commonest_answer_is_that_of_all_train_rows_in_whatever_order() -> None:
    """Candidates of questions in turn, one right and three wrong ones: every fourth row is right."""
    task = TextClassification(
        labels=("right", "wrong"), multi_label=False, max_length=8, long_texts="head", text_column="text",
        label_column="label", label_separator="|", weights=None,
    )  # fmt: skip
    rows = [TextExample(file="f", line=n, text=f"row {n}", labels=(int(n % 4 > 0),)) for n in range(4000)]
    assert majority_score(task, rows, rows[:400]) == 0.75
