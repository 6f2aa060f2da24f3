"""How long a training is, and which weights it ends with: the late epochs' average, or the best epoch's."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import recipe, save_base
from tiny import tiny_base

from domaintune import tune
from domaintune.balance.frontier import Side
from domaintune.data.rows import Row
from domaintune.engine.epochs import Epoch, Training
from domaintune.evaluation.score import predict, primary_score
from domaintune.fit import _best_epoch, _settle_, sample, scorable_sample
from domaintune.methods import method_from
from domaintune.methods.base import Attached
from domaintune.methods.lora import LoRA
from domaintune.parts import assemble, bare
from domaintune.predict import open_base
from domaintune.resolve import epochs_for, has_new_labels
from domaintune.settings import TokenClassificationSettings
from domaintune.tasks.base import Primary, dataset
from domaintune.tasks.token_classification import TokenClassification

LORA_ATTACH = LoRA.attach


@pytest.mark.parametrize(
    ("method", "rows", "epochs", "with_new_labels"),
    [("lora", 100, 30, 30), ("lora", 1000, 7, 13), ("lora", 5000, 5, 5), ("p-tuning", 100, 60, 60), ("p-tuning", 1000, 13, 13)],
)  # fmt: skip
def test_small_sets_are_read_more_often(
    tmp_path: Path, method: str, rows: int, epochs: int, with_new_labels: int
) -> None:
    """400 steps of 16 rows; 800 of labels that the base has no head for, and with P-tuning."""
    given = recipe(tmp_path, method=method, training={})
    assert [epochs_for(given, rows=rows, new_labels=new) for new in (False, True)] == [epochs, with_new_labels]
    asked = recipe(tmp_path, method=method, training={"epochs": 3})
    assert epochs_for(asked, rows=rows, new_labels=True) == 3


def test_labels_are_new_where_the_base_has_no_head_for_them(tmp_path: Path) -> None:
    save_base(tmp_path)
    first = recipe(tmp_path, training={"epochs": 1})
    base, run = open_base(first), tune(first)
    task = run.task
    assert has_new_labels(task, base)
    again = open_base(recipe(tmp_path, base=first.output))
    assert not has_new_labels(task, again)
    assert has_new_labels(task.relabelled(["a", "b", "c"]), again)


@pytest.mark.parametrize("late", [1, 2])
@pytest.mark.parametrize(
    ("best", "mean", "kept"), [("good", "bad", "best"), ("bad", "good", "mean"), ("good", "good", "mean")]
)
def test_the_average_is_kept_unless_the_best_epoch_is_better_beyond_chance(
    best: str, mean: str, kept: str, late: int, tmp_path: Path
) -> None:
    """Dev has the labels that the "good" weights give; the "bad" ones give the others. The best epoch is the first of two or three, of
    which the last ones are averaged."""
    save_base(tmp_path)
    given = recipe(tmp_path, method="full")
    parts = assemble(given, open_base(given))
    task = parts.task
    base = open_base(given).with_head("domain", task.head(), generator=torch.Generator().manual_seed(0))
    attached = method_from(given.method).attach(base, generator=torch.Generator().manual_seed(0))
    good = attached.state()
    head = {
        f"{path}.{name}"
        for path, module in base.heads["domain"].modules.items()
        for name, _ in module.named_parameters()
    }
    states = {"good": good, "bad": {name: -t if name in head else t for name, t in good.items()}}
    answers = predict(task, base, attached.view(1.0), dataset(task, base, parts.train), wanted=frozenset({"output"}))
    labels = [int(answer["probability"].argmax()) for answer in answers]
    examples = [replace(example, labels=(label,)) for example, label in zip(parts.train, labels, strict=True)]
    dev = Side(task, dataset(task, base, examples))

    attached.load_(states[best])
    epochs = tuple(Epoch(number, 1.0, 0.5, 1.0) for number in range(late + 1))
    training = Training(epochs, 0, 1, 0, False, averaged=states[mean], averaged_epochs=late)
    made, score = _settle_(given, base, attached, training, dev)
    expected = states[best if kept == "best" else mean]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in attached.state().items())
    assert made.averaged_epochs == (late if kept == "mean" else 0)
    assert score == (0.5 if kept == "best" else 1.0)
    assert primary_score(task, base, attached.view(1.0), dev.data)[0] == 1.0


def test_a_patience_that_folds_pass_over_is_told(tmp_path: Path) -> None:
    save_base(tmp_path)
    told = {}
    for dev, patience in ((None, 1), (None, None), ("given", 1)):
        given = recipe(tmp_path, training={"patience": patience})
        given = given if dev else given.model_copy(update={"dev": None})
        notes = assemble(given, open_base(given)).notes
        told[dev, patience] = any("training.patience" in note for note in notes)
    assert told == {(None, 1): True, (None, None): False, ("given", 1): False}


def test_over_folds_one_trained_model_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path)
    made: list[weakref.ref[torch.nn.Module]] = []
    alive = []

    def attach(*arguments: Any, **more: Any) -> Attached:
        gc.collect()
        alive.append(sum(model() is not None for model in made))
        attached = LORA_ATTACH(*arguments, **more)
        made.append(weakref.ref(attached.model))
        return attached

    monkeypatch.setattr(LoRA, "attach", attach)
    tune(recipe(tmp_path).model_copy(update={"dev": None, "general": None}))
    assert alive[: 5 + 1] == [0] * 6  # the folds' and the final one


def test_nothing_is_averaged_of_one_epoch(tmp_path: Path) -> None:
    save_base(tmp_path)
    given = recipe(tmp_path, method="full")
    base = open_base(given)
    attached = method_from(given.method).attach(base, generator=torch.Generator().manual_seed(0))
    one = Training((Epoch(0, 1.0, 0.5, 1.0),), 0, 1, 0, False, averaged=attached.state(), averaged_epochs=1)
    for higher, expected in ((True, 0.5), (False, -0.5)):  # while training more is better
        task = SimpleNamespace(primary=Primary("any", higher_is_better=higher))
        made, score = _settle_(given, base, attached, one, SimpleNamespace(task=task))  # type: ignore[arg-type]  # its rows are not looked at
        assert (made.averaged_epochs, score) == (0, expected)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 0.7, 0.6), (0.7, 0.5, 0.6)], 2),  # the latest of equal ones
        ([(0.1, 0.3), (0.2, 0.2), (0.3, 0.1)], 1),  # whose sums differ in their last bits
        ([(None, 0.6, None, 0.5), (None, 0.6, None, 0.5)], 1),
        ([(None, float("nan")), (None, 0.5)], 1),
        ([(0.5, float("nan")), (0.5, 0.5)], 0),
        ([(), ()], 0),
    ],
)
def test_over_folds_the_epoch_is_chosen_as_in_one_training(scores: list[tuple[float | None, ...]], best: int) -> None:
    trainings = [
        Training(tuple(Epoch(n, 1.0, score, 0.0) for n, score in enumerate(fold)), 0, 1, 0, False) for fold in scores
    ]
    assert _best_epoch(trainings) == best


def test_a_sample_that_no_score_can_be_computed_on_is_drawn_again() -> None:
    def row(number: int, tag: str) -> Row:
        return Row({"tokens": [f"w{number}"], "tags": [tag]}, "x", number)

    rows = [row(number, "B-PER" if number == 7 else "O") for number in range(200)]
    task = TokenClassification.build(rows, tiny_base("bert", "token-classification"), TokenClassificationSettings())
    examples = list(task.read(rows))
    assert bare(task, sample(examples, 5, seed=0))
    drawn = scorable_sample(task, examples, 5, seed=0)
    assert len(drawn) == 5
    assert not bare(task, drawn)
    assert scorable_sample(task, drawn, 5, seed=0) == drawn
    without = [example for example in examples if example.line != 7]
    assert scorable_sample(task, without, 5, seed=0) == sample(without, 5, seed=0)
