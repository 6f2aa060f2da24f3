"""The starting head equals scikit-learn's logistic regression on the same features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cells import base_and_task, recipe, rows
from sklearn.linear_model import LogisticRegression

from domaintune.data.rows import Row
from domaintune.engine import starting_head
from domaintune.engine.starting_head import _HeadOnly, fit_linear, gather, linear_head, probe_head, total_loss
from domaintune.heads import _fifth
from domaintune.tasks import TASKS
from domaintune.tasks.base import Dataset, dataset


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_fit_linear_is_logistic_regression(penalty: float) -> None:
    base, task = base_and_task("text-classification", "bert")
    data = dataset(task, base, list(task.read(rows(task.name))))
    found = linear_head(base)
    assert found is not None
    path, layer = found
    batches = gather(task, base, data, path=path, budget=10_000)
    made = fit_linear(task, layer, batches, penalty=penalty, iterations=500)
    features = torch.cat([f for _, f in batches])
    scale = features.std()
    targets = np.concatenate([batch.targets["target"].argmax(1).numpy() for batch, _ in batches])
    reference = LogisticRegression(C=1 / (penalty * len(targets)), tol=1e-8, max_iter=5000)
    reference.fit((features / scale).double().numpy(), targets)
    ours = made(features).softmax(-1).detach().numpy()
    theirs = reference.predict_proba((features / scale).double().numpy())
    assert np.abs(ours - theirs).max() < 2e-3  # L-BFGS in float32


def test_the_probe_leaves_the_body_alone_and_lowers_the_loss() -> None:
    base, task = base_and_task("token-classification", "distilbert")
    data = dataset(task, base, list(task.read(rows(task.name))))
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    head = probe_head(task, base, data, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    found = linear_head(base)
    assert found is not None
    path, layer = found
    batches = gather(task, base, data, path=path, budget=10_000)
    fitted = head.modules[path]
    assert isinstance(fitted, torch.nn.Linear)
    with torch.no_grad():
        assert total_loss(task, _HeadOnly(fitted), batches) < 0.5 * total_loss(task, _HeadOnly(layer), batches)


def test_without_dev_the_penalty_is_judged_on_a_stratified_part_of_whole_groups() -> None:
    """Every fifth row of a file that has five labels in turn is of one label alone, which the others then lack."""
    labels, words = (
        [str(n) for n in range(5)],
        ["cold soup", "dirty room", "lovely view", "slow waiter", "quick brown fox"],
    )
    made = [
        Row({"text": f"{words[n % 5]} {words[n // 7 % 5]} {n}", "label": labels[n % 5]}, "x", n + 1) for n in range(100)
    ]
    base, _ = base_and_task("text-classification", "bert")
    task = TASKS["text-classification"].build(made, base, recipe("text-classification").task)
    base = base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(0))
    data = dataset(task, base, list(task.read(made)))
    held_out = _fifth(recipe("text-classification"), task, data)
    assert len(held_out) == pytest.approx(20, abs=2)
    judged, fitted = (
        {task.keys(data.examples[n]).stratum for n in range(100) if (n in held_out) is part} for part in (True, False)
    )
    assert judged == fitted
    assert len(judged) == 5
    group_of = [n // 7 % 5 + n % 2 * 5 for n in range(100)]
    grouped = [replace(example, group=str(group)) for example, group in zip(data.examples, group_of, strict=True)]
    alone = set(_fifth(recipe("text-classification"), task, replace(data, examples=grouped)))
    assert alone
    assert not {group_of[n] for n in alone} & {group_of[n] for n in range(100) if n not in alone}

    head = probe_head(task, base, data, None, held_out=held_out)
    ((path, layer),) = (linear_head(base),)  # type: ignore[misc]
    parts = [
        gather(
            task,
            base,
            Dataset((), [data.items[n] for n in range(100) if (n in held_out) is part]),
            path=path,
            budget=10_000,
        )
        for part in (False, True)
    ]
    losses = {
        penalty: total_loss(task, _HeadOnly(fit_linear(task, layer, parts[0], penalty=penalty)), parts[1]).item()
        for penalty in starting_head.PENALTIES
    }
    everything = gather(task, base, data, path=path, budget=16_384)
    expected = fit_linear(task, layer, everything, penalty=min(losses, key=lambda penalty: losses[penalty]))
    torch.testing.assert_close(head.modules[path].weight, expected.weight, rtol=1e-4, atol=1e-6)


def test_of_very_large_data_a_part_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = base_and_task("token-classification", "bert")
    data = dataset(task, base, list(task.read(rows(task.name))))
    found = linear_head(base)
    assert found is not None
    whole = gather(task, base, data, path=found[0], budget=32)
    monkeypatch.setattr(starting_head, "MOST_FEATURES", whole[0][1].numel() * len(whole) // 2)
    part = gather(task, base, data, path=found[0], budget=32)
    assert [batch.items for batch, _ in part] == [batch.items for batch, _ in whole[::2]]
    head = probe_head(task, base, data, None, budget=32)
    assert float(total_loss(task, _HeadOnly(head.modules[found[0]]), whole)) < float(
        total_loss(task, _HeadOnly(found[1]), whole)
    )


def test_a_detectors_head_is_trained_since_its_loss_needs_the_boxes() -> None:
    base, _ = base_and_task("object-detection", "yolos")
    assert linear_head(base) is None
