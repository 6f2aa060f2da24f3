"""The starting head equals scikit-learn's logistic regression on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cells import base_and_task, rows
from sklearn.linear_model import LogisticRegression

from domaintune.engine import starting_head
from domaintune.engine.starting_head import _HeadOnly, fit_linear, gather, linear_head, probe_head, total_loss
from domaintune.tasks.base import dataset


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
