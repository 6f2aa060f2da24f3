"""Rows with some of the labels of the base's own head: the head is kept whole where that is sound, and told where it is not used."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_runs import recipe, save_base, table
from tiny import tiny_base

from domaintune import load, tune
from domaintune.data.rows import Row
from domaintune.finished.evaluate import evaluate
from domaintune.own_head import with_whole_head
from domaintune.parts import assemble
from domaintune.predict import open_base
from domaintune.recipe import Recipe
from domaintune.settings import TextClassificationSettings, TokenClassificationSettings
from domaintune.tasks.tag_sequences import tags_of
from domaintune.tasks.text_classification import TextClassification
from domaintune.tasks.token_classification import TokenClassification

THREE = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/three`: a run that knows three labels."""
    made = tmp_path_factory.mktemp("own")
    save_base(made)
    parts = {name: table(made / f"{name}3.csv", 42, labels=THREE, start=s) for name, s in (("train", 0), ("dev", 500))}
    test = table(made / "test3.csv", 42, labels=THREE, start=700)
    run = str(made / "runs/three")
    tune(recipe(made, method="full", general=None, output=run, test=test, **parts))
    return made


def two(folder: Path, **more: Any) -> Recipe:
    """New rows of two of these labels."""
    return recipe(folder, **{"base": str(folder / "runs/three"), "general": None, **more})


def test_base_0_is_the_base_where_rows_lack_one_of_its_labels(folder: Path) -> None:
    run = tune(two(folder, output=str(folder / "runs/two")))
    scores = json.loads((run.path / "scores.json").read_text())
    assert scores["start"] == "the base's own head"
    assert run.task.head().labels == THREE
    before = evaluate(load(folder / "runs/three"), str(folder / "test.csv")).plain()
    told = before["scores"][f"{before['strength']:g}"]["accuracy"]
    assert scores["domain"]["scores"]["0"]["accuracy"] == told
    note = next(note for note in scores["notes"] if "own head" in note)
    assert note == (
        "1 label of the base's own head is in no row (neutral); it is kept whole, so that base (0) is the base itself. For a head of "
        'the rows\' labels alone: --set \'task.labels=["negative", "positive"]\'.'
    )
    assert "neutral" not in json.dumps([f for f in scores["findings"] if f["name"] == "rare-label"])


def test_general_rows_of_the_same_labels_share_the_head(folder: Path) -> None:
    for labels in (("negative", "positive"), THREE):
        made = two(folder, general=table(folder / "g.csv", 60, labels=labels, start=300))
        general = assemble(made, open_base(made)).general
        assert general is not None
        assert (general.head, general.task.head().labels, list(general.learn)) == ("domain", THREE, [])


def test_balanced_weights_count_all_labels(folder: Path) -> None:
    made = two(folder, task={"name": "text-classification", "class_weights": "balanced"})
    task = assemble(made, open_base(made)).task
    assert task.weights == (1.0, 1.0, 1.0)  # of the rows' two labels there are as many


def test_labels_that_are_given_stay_and_the_note_says_how_to_keep_the_head(folder: Path) -> None:
    task = {"name": "text-classification", "labels": ["negative", "positive"]}
    made = two(folder, task=task)
    parts = assemble(made, open_base(made))
    assert parts.task.head().labels == ("negative", "positive")
    (note,) = (note for note in parts.notes if "own head" in note)
    assert "knows these labels and 1 more (neutral), and is not used: base (0) is the base with a head fitted" in note
    (_, setting) = shlex.split(note.rpartition("to start from its own: ")[2].removesuffix("."))
    given = Recipe.read(None, overrides=[setting], **two(folder).plain())
    parts = assemble(given, open_base(given))
    assert parts.task.head().labels == THREE
    assert not any("own head" in note for note in parts.notes)


def test_where_rows_may_lack_labels_that_nobody_looked_for_the_head_is_left_and_told() -> None:
    base = tiny_base("bert", "token-classification")
    base = replace(base, own_labels=tags_of(("PER", "LOC", "ORG")))
    rows = [Row({"tokens": ["Ada", "slept"], "tags": ["B-PER", "O"]}, "a.jsonl", 1)]
    task = TokenClassification.build(rows, base, TokenClassificationSettings())
    notes: list[str] = []
    assert with_whole_head(base, task, notes, given=False) is task
    assert "2 more (LOC, ORG), and is not used" in notes[0]
    assert notes[0].endswith('--set \'task.labels=["PER", "LOC", "ORG"]\'.')
    given = TokenClassification.build(rows, base, TokenClassificationSettings(labels=("PER", "LOC", "ORG")))
    assert base.owns(given.head())
    several = replace(base, own_labels=("joy", "fear", "e-mail"), own_problem_type="multi_label_classification")
    rows = [Row({"text": "hm", "label": "joy|fear"}, "a.csv", 2)]
    settled = TextClassification.build(rows, several, TextClassificationSettings(multi_label=True))
    assert with_whole_head(several, settled, notes, given=False) is settled
    assert "1 more (e-mail)" in notes[1]


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        (("negative", "positive"), None),
        (("negative", "mixed"), None),
        ((), None),
        (("negative", "positive", "neutral"), "multi_label_classification"),
    ],
)
def test_other_heads_change_nothing(own: tuple[str, ...], kind: str | None) -> None:
    base = replace(tiny_base("bert", "text-classification"), own_labels=own, own_problem_type=kind)
    rows = [Row({"text": "hm", "label": label}, "a.csv", 2) for label in ("positive", "negative")]
    task = TextClassification.build(rows, base, TextClassificationSettings())
    notes: list[str] = []
    assert with_whole_head(base, task, notes, given=False) is task
    assert notes == []


def test_general_labels_that_get_a_head_of_their_own_are_told(folder: Path) -> None:
    told = "the labels of the general rows are neither the domain's nor the base's own: a head for them is fitted on 15 of these rows"
    spelled = "; if they mean the same as the domain's: --label-map Negative=negative --label-map Positive=positive."
    for labels, end in ((("Positive", "Negative"), spelled), (("good", "bad"), ".")):
        made = two(folder, general=table(folder / "g.csv", 60, labels=labels, start=300))
        assert f"{told}{end}" in assemble(made, open_base(made)).notes
    same = two(folder, general=table(folder / "g.csv", 60, start=300))
    assert not any("labels of the general rows" in note for note in assemble(same, open_base(same)).notes)


def test_a_head_whose_labels_nobody_named_is_used_where_the_rows_have_its_names(folder: Path, tmp_path: Path) -> None:
    base = tiny_base("bert", "text-classification")
    base.model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    base.model.save_pretrained(tmp_path / "base")
    base.processor.save_pretrained(tmp_path / "base")
    general = table(tmp_path / "general.csv", 60, start=300)
    plain = recipe(tmp_path, general=general)
    parts = assemble(plain, opened := open_base(plain))
    note = next(note for note in parts.notes if "own head" in note)
    assert note.endswith("such as --label-map negative=LABEL_0 --label-map positive=LABEL_1.")
    assert (opened.owns(parts.task.head()), parts.general is not None and len(parts.general.learn)) == (False, 10)
    named = recipe(tmp_path, general=general, data={"label_map": {"positive": "LABEL_0", "negative": "LABEL_1"}})
    parts = assemble(named, opened)
    assert not any("own head" in note for note in parts.notes)
    assert (opened.owns(parts.task.head()), parts.general is not None and len(parts.general.learn)) == (True, 0)
    headed = opened.with_head("domain", parts.task.head(), generator=torch.Generator())
    batch = opened.processor("a lovely room", return_tensors="pt")
    assert torch.equal(headed.model(**batch).logits, opened.model(**batch).logits)
    three = recipe(tmp_path, general=table(tmp_path / "general.csv", 60, labels=THREE, start=300))
    three = three.model_copy(update={"train": table(tmp_path / "three.csv", 60, labels=THREE)})
    assert not any("own head" in note for note in assemble(three, opened).notes)
    body = transformers.AutoModel.from_pretrained(tmp_path / "base")
    body.save_pretrained(tmp_path / "base")
    assert open_base(plain).unnamed_labels == ()
