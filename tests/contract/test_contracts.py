"""One suite over all tasks x methods on tiny random models: the identities that make the dial, the scores and `predict` true."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from cells import (
    CELLS,
    FAMILIES,
    METHODS,
    REFUSED,
    Cell,
    attach,
    base_and_task,
    batch_of,
    outputs,
    recipe,
    rows,
    shake_,
)

from domaintune.data.rows import Row
from domaintune.errors import DomainTuneError, MethodError
from domaintune.evaluation.calibration import mean_log_loss
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.methods import method_from
from domaintune.tasks import TASKS
from domaintune.tasks.base import dataset

every = pytest.mark.parametrize("cell", CELLS, ids=str)
changes_weights = pytest.mark.parametrize("cell", [c for c in CELLS if not c.method.startswith("p-tuning")], ids=str)
FIRST = {task: families[0] for task, families in FAMILIES.items()}
# Merging rounds once a weight; these random models have outputs of order 1 to 10 and a few layers.
MERGED_TOLERANCE = 5e-4


@every
def test_attached_at_start_is_the_base(cell: Cell) -> None:
    base, task, attached = attach(cell)
    batch = batch_of(base, task, range(4), "score")
    attached.model.eval()
    expected = outputs(base.model, batch)
    if attached.starts_at_base:
        assert torch.equal(outputs(attached.model, batch), expected)
    assert torch.equal(outputs(attached.view(0.0), batch), expected)


@every
def test_both_ends_of_the_dial(cell: Cell) -> None:
    base, task, attached = attach(cell)
    shake_(attached)
    attached.model.eval()
    batch = batch_of(base, task, range(4), "score")
    trained = outputs(attached.model, batch)
    for form in ("merged", "terms"):
        assert torch.equal(outputs(attached.view(0.0, form=form), batch), outputs(base.model, batch))
    assert torch.equal(outputs(attached.view(1.0, form="terms"), batch), trained)
    assert not torch.equal(trained, outputs(base.model, batch))
    for strength in (0.3, 1.0):
        merged, terms = (outputs(attached.view(strength, form=form), batch) for form in ("merged", "terms"))
        assert (merged - terms).abs().max() <= MERGED_TOLERANCE * max(1.0, terms.abs().max())


@changes_weights
def test_weights_lie_on_the_line(cell: Cell) -> None:
    _, _, attached = attach(cell, dtype=torch.float64)
    shake_(attached)
    start, middle, end = (attached.view(s).state_dict() for s in (0.0, 0.3, 1.0))
    moved = 0
    for name, value in middle.items():
        if value.is_floating_point():
            expected = 0.7 * start[name] + 0.3 * end[name]
            assert (value - expected).abs().max() <= 1e-10 if value.numel() else True
            moved += not torch.equal(start[name], end[name])
    assert moved


@every
def test_views_are_isolated(cell: Cell) -> None:
    base, task, attached = attach(cell)
    batch = batch_of(base, task, range(2), "score")
    before = {name: (t, t._version, t.clone()) for name, t in base.model.state_dict(keep_vars=True).items()}
    shake_(attached)
    view = attached.view(0.7)
    first = outputs(view, batch)
    shake_(attached, seed=4)
    assert torch.equal(outputs(view, batch), first)
    for tensor, version, value in before.values():
        assert tensor._version == version
        assert torch.equal(tensor, value)


@every
def test_saved_and_reloaded(cell: Cell, tmp_path) -> None:
    base, task, attached = attach(cell)
    shake_(attached)
    attached.save(tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".safetensors", ".json", ".md")]
    _, _, other = attach(cell, seed=99)
    other.load(tmp_path)
    batch = batch_of(base, task, range(3), "score")
    for strength in (0.5, 1.0):
        assert torch.equal(outputs(other.view(strength), batch), outputs(attached.view(strength), batch))
    state = attached.state()
    _, _, third = attach(cell, seed=98)
    third.load_(state)
    assert all(torch.equal(value, state[name]) for name, value in third.state().items())


@every
def test_frozen_tensors_stay_and_trained_ones_move(cell: Cell) -> None:
    base, task, attached = attach(cell)
    trained = {id(p) for group in attached.parameter_groups() for p in group.parameters}
    frozen = {n: p.clone() for n, p in attached.model.named_parameters() if id(p) not in trained}
    assert all(p.requires_grad == (id(p) in trained) for p in attached.model.parameters())
    moving = [p for group in attached.parameter_groups() for p in group.parameters]
    starts = [p.detach().clone() for p in moving]
    optimizer = torch.optim.AdamW(moving, lr=2e-3)
    batch = batch_of(base, task, range(8))
    losses = []
    for _ in range(6):
        units = task.units(batch)
        loss = sum(term / units[key] for key, term in task.loss(attached.model, batch).items())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert min(losses[1:]) < losses[0]
    parameters = dict(attached.model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    unmoved = [i for i, (p, s) in enumerate(zip(moving, starts, strict=True)) if torch.equal(p, s)]
    assert (
        len(unmoved) <= len(moving) // 3
    )  # some tensors have no gradient by construction (unused positions, zero rows)


def gradients(task, attached, batches):
    units = {}
    for batch in batches:
        for key, value in task.units(batch).items():
            units[key] = units.get(key, 0.0) + value
    for batch in batches:
        sum(term / units[key] for key, term in task.loss(attached.model, batch).items()).backward()
    made = [p.grad.clone() for g in attached.parameter_groups() for p in g.parameters if p.grad is not None]
    attached.model.zero_grad()
    return torch.cat([g.flatten() for g in made])


@every
def test_micro_batches_add_up(cell: Cell) -> None:
    base, task, attached = attach(cell, dtype=torch.float64)
    shake_(attached)
    attached.model.eval()
    whole = gradients(task, attached, [batch_of(base, task, range(8))])
    parts = gradients(task, attached, [batch_of(base, task, range(3)), batch_of(base, task, range(3, 8))])
    # Under v1 one stream serves the whole batch, and its gradient passes norms and rotary angles that transformers computes in
    # float32; all else is float64 rounding.
    tolerance = 1e-6 if cell.method == "p-tuning-1" else 1e-10
    assert (whole - parts).norm() <= tolerance * whole.norm()


@pytest.mark.parametrize("cell", [c for c in CELLS if "image" not in c.task and "object" not in c.task], ids=str)
def test_padded_is_unpadded(cell: Cell) -> None:
    base, task, attached = attach(cell)
    shake_(attached)
    model = attached.view(0.6)
    together = batch_of(base, task, range(8), "score")
    alone = [batch_of(base, task, [n], "score") for n in range(8)]
    with torch.no_grad():
        whole = sum(float(term) for term in task.loss(model, together).values())
        single = sum(float(term) for batch in alone for term in task.loss(model, batch).values())
    assert whole == pytest.approx(single, rel=2e-5)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.task in ("translation", "generation")], ids=str)
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_with_the_cache_is_decoding_without(cell: Cell, strength: float, beams: int) -> None:
    base, task, attached = attach(
        cell, dtype=torch.float64
    )  # random models have near ties, which float32 rounding breaks
    shake_(attached)
    view = attached.view(strength)
    batch = batch_of(base, task, range(4), "predict")
    made = [
        view.generate(
            **batch.inputs, num_beams=beams, do_sample=False, max_new_tokens=8, use_cache=cached, pad_token_id=0
        )
        for cached in (True, False)
    ]
    assert torch.equal(*made)


@every
def test_two_threads_are_one(cell: Cell) -> None:
    base, task, attached = attach(cell)
    shake_(attached)
    batch = batch_of(base, task, range(2), "score")
    views = {s: attached.view(s) for s in (0.25, 1.0)}
    alone = {s: outputs(view, batch) for s, view in views.items()}
    got: dict[float, list[torch.Tensor]] = {s: [] for s in views}

    def work(strength: float) -> None:
        for _ in range(3):
            got[strength].append(outputs(views[strength], batch))

    threads = [threading.Thread(target=work, args=(s,)) for s in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for strength, results in got.items():
        assert len(results) == 3
        assert all(torch.equal(result, alone[strength]) for result in results)


@pytest.mark.parametrize(("family", "method"), sorted(REFUSED))
def test_refusals_name_the_alternatives(family: str, method: str) -> None:
    task = next(task for task, families in FAMILIES.items() if family in families)
    base, _ = base_and_task(task, family)
    with pytest.raises(MethodError, match=r"(?i)lora"):
        method_from(recipe(task, METHODS[method]).method).attach(base, generator=torch.Generator())


BAD = {
    "text-classification": [
        {"text": 3, "label": "positive"},
        {"text": " ", "label": "positive"},
        {"text": "x", "label": "happy"},
        {"label": "positive"},
    ],
    "token-classification": [
        {"tokens": ["a"], "tags": []},
        {"tokens": "a b", "tags": ["O", "O"]},
        {"tokens": ["a"], "tags": ["X-PER"]},
        {"tokens": [], "tags": []},
    ],
    "translation": [{"source": "a"}, {"source": "a", "target": " "}, {"source": 1, "target": "b"}],
    "generation": [{"prompt": "a"}, {"prompt": "a", "completion": ""}, {"prompt": 3, "completion": "b"}],
    "image-classification": [
        {"image": "missing.png", "label": "cat"},
        {"image": __file__, "label": "cat"},
        {"label": "cat"},
    ],
    "object-detection": [
        {"image": "missing.png", "width": 64, "height": 64, "boxes": [], "labels": []},
        {"boxes": [[1, 2, -3, 4]], "labels": ["cat"]},
        {"boxes": [[1, 2, float("nan"), 4]], "labels": ["cat"]},
        {"boxes": [[1, 2, 3, 4]], "labels": ["wolf"]},
        {"boxes": [[1, 2, 3]], "labels": ["cat"]},
    ],
}


@pytest.mark.parametrize(
    ("task", "values"), [(task, values) for task, all_values in BAD.items() for values in all_values]
)
def test_bad_rows_are_named(task: str, values: dict) -> None:
    _, made = base_and_task(task, FIRST[task])
    good = rows(task)[0]
    if task == "object-detection" and "image" not in values:
        values = {**good.values, **values}
    with pytest.raises(DomainTuneError, match=r"bad\.rows:7"):
        list(made.read([Row(values, "bad.rows", 7)]))


@pytest.mark.parametrize("name", FIRST)
def test_calibration_touches_stated_probabilities_alone(name: str) -> None:
    base, task = base_and_task(name, FIRST[name])
    data = dataset(task, base, list(task.read(rows(name))))
    made = predict(task, base, base.model, data, wanted=frozenset({*task.scores, "output"}))
    records = records_of(task, data, made)
    scores, found, classes = point_scores(task, records), task.confidences(records), task.classes(records)
    hot = task.model_copy(update={"calibration": ((0.0, 1.0), (1.0, 9.0))})
    raw, warm = [hot.render(p) for p in made], [hot.render(hot.calibrated(p, 1.0)) for p in made]
    assert [without_probabilities(r) for r in raw] == [without_probabilities(w) for w in warm]
    assert records_differ(records, records_of(task, data, [hot.calibrated(p, 1.0) for p in made])) is False
    assert (found is None) == (name in ("translation", "generation", "object-detection")) == (raw == warm)
    assert (classes == {}) == (name in ("translation", "generation"))
    if found is not None:
        assert mean_log_loss(*found) == pytest.approx(scores["log_loss"])
        assert set(classes) == set(task.types if name == "token-classification" else task.labels)


def without_probabilities(rendered: dict) -> dict:
    entities = [{k: v for k, v in e.items() if k != "score"} for e in rendered.get("entities", [])]
    return {k: v for k, v in rendered.items() if k not in ("probability", "entities")} | {"found": entities}


def records_differ(ours: list, theirs: list) -> bool:
    return any(not np.array_equal(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in a)


def test_every_task_and_method_has_a_cell() -> None:
    assert set(FAMILIES) == set(TASKS)
    for task in TASKS:
        assert {c.method for c in CELLS if c.task == task} == set(METHODS)
