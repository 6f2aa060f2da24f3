"""On a GPU everything is as on the CPU, within its rounding: gradients, training, views, predictions, runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_runs
import torch
from cells import CELLS, Cell, attach, batch_of, outputs, rows, shake_

from domaintune import load, tune
from domaintune.engine.gradient import StepGradient, accelerator
from domaintune.engine.train import train
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import dataset

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

EVERY = pytest.mark.parametrize("cell", CELLS, ids=str)
PICKING = ("rt-detr-v2", "d-fine")
"""Detectors whose queries are picked by score: near-ties in these random models."""
# PiSSA's singular vectors have a sign of the device's own.
SAME_ON_BOTH = pytest.mark.parametrize(
    "cell", [c for c in CELLS if c.method != "pissa" and c.family not in PICKING], ids=str
)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    # Matrix products are in full precision by default.
    with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True, benchmark=False):
        yield


def close(made: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(made, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@SAME_ON_BOTH
def test_gradients_and_views(cell: Cell) -> None:
    gradients, views = [], []
    for device in ("cpu", "cuda"):
        base, task, attached = attach(cell, device=device)
        assert {p.device.type for group in attached.parameter_groups() for p in group.parameters} == {device}
        shake_(attached)
        attached.model.eval()
        data = dataset(task, base, list(task.read(rows(cell.task))))
        StepGradient(task, base, attached, data, 1, (), accelerator()).accumulate_([[0, 1, 2], [3, 4]], epoch=0, step=0)
        parameters = [p for group in attached.parameter_groups() for p in group.parameters if p.grad is not None]
        gradients.append(torch.cat([p.grad.double().cpu().flatten() for p in parameters]))  # type: ignore[union-attr]
        batch = batch_of(base, task, range(4), "score").to(base.device)
        views.append(torch.cat([outputs(attached.view(s), batch).cpu() for s in (0.0, 0.5, 1.0)]))
    assert close(gradients[1], gradients[0])
    assert close(views[1], views[0])


@EVERY
def test_training_and_scores(cell: Cell, tmp_path: Path) -> None:
    base, task, attached = attach(cell, device="cuda")
    data = dataset(task, base, list(task.read(rows(cell.task))))
    scores = []

    def validate() -> float:
        raw = predict(task, base, attached.model, data, wanted=frozenset({task.primary.name}))
        scores.append(point_scores(task, records_of(task, data, raw))[task.primary.name])
        return scores[-1]

    for precision in ("fp32", "bf16"):
        settings = TrainingSettings(epochs=2, batch_size=4, precision=precision)  # type: ignore[arg-type]
        done = train(
            attached, task, base, data, settings, learning_rate=1e-3, seed=1, validate=validate, folder=tmp_path / precision
        )  # fmt: skip
        assert done.steps == 4
        assert all(epoch.train_loss > 0 for epoch in done.epochs)
    assert len(scores) == 4
    batch = batch_of(base, task, range(4), "score").to(base.device)
    same = close if cell.family in PICKING else torch.equal
    assert same(outputs(attached.view(1.0, form="terms"), batch), outputs(attached.model, batch))


@pytest.mark.parametrize("method", ["full", "freeze", "lora", "p-tuning"])
def test_a_run_of_the_gpu_is_one_of_the_cpu(tmp_path: Path, method: str) -> None:
    small_runs.save_base(tmp_path)
    made = tune(small_runs.recipe(tmp_path, method=method, device="cuda"))
    texts = ["a cold soup and a rude desk", "a lovely view"]
    answers = [load(made.path, device=device).predict(texts, strength=0.5) for device in ("cuda", "cpu")]
    for gpu, cpu in zip(*answers, strict=True):
        assert gpu.keys() == cpu.keys()
        assert gpu["label"] == cpu["label"]
        assert gpu["probability"] == pytest.approx(cpu["probability"], abs=1e-3)


@pytest.mark.parametrize(("begins", "goes_on"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_goes_on_on_the_other_processor(tmp_path: Path, begins: str, goes_on: str) -> None:
    # Dropout's masks are of a processor's own stream.
    small_runs.save_base(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = small_runs.recipe(
        tmp_path, general=None, device=begins, training={"epochs": 2, "learning_rate": 0.001, "precision": "fp32"}
    )

    def stop(stage: str, progress: object) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=stop)
    run = tune(made.model_copy(update={"device": goes_on}))
    whole = tune(made.model_copy(update={"output": str(tmp_path / "whole")}))
    texts = ["a cold soup and a rude desk", "a lovely view"]
    for ours, theirs in zip(run.predict(texts, strength=1.0), whole.predict(texts, strength=1.0), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-2)
