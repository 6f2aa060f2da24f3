"""The training loop against a loop written out by hand, and its promises: best epoch, rollback, random state, pulls."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear import Regression, Trained, network, rows, settings
from torch import nn

from domaintune.data.batches import plan
from domaintune.engine.epochs import Progress, Training
from domaintune.engine.gradient import StepGradient, accelerator, seed_of
from domaintune.engine.optimizer import Optimizer, schedule_factor
from domaintune.engine.train import train
from domaintune.errors import TrainingError
from domaintune.recipe import TrainingSettings
from domaintune.tasks.base import Batch, Dataset, Item

RATE = 0.05


def run(model: nn.Module, data: Dataset, made: TrainingSettings, task: Any = None, **more: Any) -> Training:
    arguments: dict[str, Any] = {"learning_rate": RATE, "seed": 7, "validate": None, "folder": None, **more}
    return train(Trained(model), task or Regression(), None, data, made, **arguments)  # type: ignore[arg-type]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.state_dict().values()])


def flat(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in state.values()])


def gradient_of(model: nn.Module, data: Dataset, parts: list[list[int]], **more: Any) -> tuple[torch.Tensor, float]:
    step = StepGradient(
        more.pop("task", Regression()),
        None,  # type: ignore[arg-type]
        Trained(model),
        data,
        seed=7,
        pulls=more.pop("pulls", ()),
        accelerator=accelerator(),
    )
    model.zero_grad()
    losses = step.accumulate_(parts, epoch=0, step=0)
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]), float(sum(losses))


class TowardsStart:
    """L2 to the starting weights, as 3 units, so that forgetting to divide shows."""

    def __init__(self, model: nn.Module, strength: float) -> None:
        self.start = [p.detach().clone() for p in model.parameters()]
        self.strength = strength
        self.draws: list[float] = []

    def terms(self, model: nn.Module, step: int) -> dict[str, tuple[torch.Tensor, float]]:
        self.draws.append(float(torch.rand(())))
        far = sum(
            ((p - s).square().sum() for p, s in zip(model.parameters(), self.start, strict=True)), torch.zeros(())
        )
        return {"l2": (3 * self.strength * far, 3.0)}


# --- the gradient


def test_three_and_five_are_eight() -> None:
    """Equal up to float64 rounding; a mean of means is far off."""
    model, data = network(), rows(8)
    whole, loss = gradient_of(model, data, [list(range(8))])
    parts, loss_of_parts = gradient_of(model, data, [[0, 1, 2], [3, 4, 5, 6, 7]])
    assert (whole - parts).norm() <= 1e-14 * whole.norm()
    assert loss == pytest.approx(loss_of_parts, rel=1e-14)
    means = sum(gradient_of(model, data, [part])[0] for part in ([0, 1, 2], [3, 4, 5, 6, 7])) / 2
    assert (whole - means).norm() > 0.05 * whole.norm()


def test_the_gradient_is_that_of_sum_over_units() -> None:
    model, data = network(), rows(9)
    made, loss = gradient_of(model, data, [[0, 1], [2, 3, 4], [5, 6, 7, 8]])
    x = torch.from_numpy(np.stack([item.inputs["x"] for item in data.items]))
    y, w, extra = (torch.tensor([i.targets[k] for i in data.items], dtype=x.dtype) for k in ("y", "weight", "extra"))
    out = model(x)
    has = ~extra.isnan()
    expected = (w * (out[:, 0] - y) ** 2).sum() / w.sum() + (out[has, 1] - extra[has]).abs().mean()
    reference = torch.autograd.grad(expected, list(model.parameters()))
    assert loss == pytest.approx(float(expected.detach()), rel=1e-13)
    torch.testing.assert_close(made, torch.cat([g.flatten() for g in reference]), rtol=1e-12, atol=1e-14)


class Always(Regression):
    """Also without units there is something to learn: as of pictures without boxes."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        return {**super().loss(model, batch), "extra": model(batch.inputs["x"])[:, 1].abs().sum()}


def test_a_term_without_units_in_the_whole_step_is_divided_by_one() -> None:
    model, data = network(), rows(8)
    bare = Dataset(
        data.examples, [replace(i, targets={**i.targets, "extra": math.nan}) for i in data.items], data.spans
    )
    made, loss = gradient_of(model, bare, [list(range(8))])
    assert math.isfinite(loss)
    assert made.isfinite().all()
    whole, more = gradient_of(model, bare, [list(range(8))], task=Always())
    x = torch.from_numpy(np.stack([item.inputs["x"] for item in data.items]))
    assert more - loss == pytest.approx(float(model(x)[:, 1].abs().sum().detach()), rel=1e-12)
    parts, _ = gradient_of(model, bare, [[0, 1, 2], [3, 4, 5, 6, 7]], task=Always())
    assert (whole - parts).norm() <= 1e-14 * whole.norm()


def test_a_pull_adds_its_gradient_once_a_step() -> None:
    model, data = network(), rows(8)
    pull = TowardsStart(network(seed=1), 0.5)
    alone, _ = gradient_of(model, data, [[0, 1, 2, 3], [4, 5, 6, 7]])
    both, _ = gradient_of(model, data, [[0, 1, 2, 3], [4, 5, 6, 7]], pulls=(pull,))
    added = torch.cat([(p - s).detach().flatten() for p, s in zip(model.parameters(), pull.start, strict=True)])
    torch.testing.assert_close(both - alone, added, rtol=1e-12, atol=1e-14)


def test_accelerate_ignores_a_launchers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = gradient_of(network(), rows(8), [list(range(8))])
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    made, _ = gradient_of(network(), rows(8), [list(range(8))])
    assert torch.equal(made, expected)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 2)
    with pytest.raises(TrainingError, match="2 processes"):
        accelerator()


def test_bf16_computes_in_bf16_on_full_weights() -> None:
    model, seen = network(dtype=torch.float32), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    data = rows(8, dtype=np.float32)
    run(model, data, settings(precision="bf16", epochs=1))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    run(network(dtype=torch.float32), data, settings(epochs=1))


# --- the loop


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_schedules_are_those_of_transformers(kind: str) -> None:
    """After the warm-up the same; in it one step ahead, so that the first step is not lost on a rate of 0."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=23)
    for step in range(23):
        factor = schedule_factor(kind, step, total_steps=23, warmup=0.2)  # type: ignore[arg-type]
        assert 0 < factor <= 1
        expected = (step + 1) / 5 if step < 5 else scheduler.get_last_lr()[0]
        assert factor == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert schedule_factor(kind, 0, total_steps=4, warmup=0.0) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("budget", "items_a_row"), [(None, 1), (70, 1), (70, 3)])
def test_training_is_the_loop_written_out(schedule: str, budget: int | None, items_a_row: int) -> None:
    """AdamW on whole batches, decay and rate by group, clipping by the global norm: float64 rounding apart."""
    data = rows(45 * items_a_row, items_a_row=items_a_row)
    made = settings(schedule=schedule, micro_batch_budget=budget, max_gradient_norm=0.4, weight_decay=0.1, epochs=3)
    model, reference = network(), network()
    done = run(model, data, made)

    matrices = [reference[0].weight, reference[3].weight]
    vectors = [reference[0].bias, reference[3].bias]
    adamw = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])
    steps = [
        [i for part in step for i in part]
        for epoch in range(3)
        for step in plan(
            [i.inputs["length"] for i in data.items], batch_size=8, budget=None, seed=7, epoch=epoch, rows=data.rows()
        )
    ]
    losses = []
    for number, positions in enumerate(steps):
        batch = Regression().collate(None, [data.items[i] for i in positions], "train")
        units = Regression().units(batch)
        loss = sum(value / units[key] for key, value in Regression().loss(reference, batch).items() if units[key])
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.4)
        rate = RATE * schedule_factor(schedule, number, total_steps=len(steps), warmup=0.2)  # type: ignore[arg-type]
        adamw.param_groups[0]["lr"], adamw.param_groups[1]["lr"] = rate, 2 * rate
        adamw.step()
        losses.append(float(loss.detach()))
    # Adam divides by the root of the second moment, which enlarges rounding where gradients are small.
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-9, atol=1e-9)
    assert done.steps == len(steps) == 18
    means = np.mean(np.reshape(losses, (3, 6)), axis=1)
    np.testing.assert_allclose([epoch.train_loss for epoch in done.epochs], means, rtol=1e-9)
    assert means[-1] < means[0]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_batch_norm_moves_only_where_asked(batch_norm: bool) -> None:
    model = network(batch_norm=True)
    before = {name: b.clone() for name, b in model.named_buffers()}
    run(model, rows(24), settings(train_batch_norm=batch_norm))
    moved = [name for name, b in model.named_buffers() if not torch.equal(b, before[name])]
    assert len(moved) == (3 if batch_norm else 0)
    assert not model.training


@pytest.mark.parametrize(
    ("scores", "patience", "best", "count"),
    [
        ([0.1, 0.5, 0.5, 0.4], None, 2, 4),  # ties take the later
        ([0.1, 0.5, 0.4, 0.3], 2, 1, 4),  # patience runs out with the last epoch: not stopped early
        ([0.1, 0.5, 0.4, 0.4], 1, 1, 3),
        ([0.9, 0.5, 0.7, 0.8], 2, 0, 3),
        ([-3.0, -2.0, -1.0, -0.5], 1, 3, 4),
        ([math.nan, 0.2, math.nan, 0.1], None, 1, 4),
        ([math.nan, math.nan, math.nan, math.nan], None, 3, 4),
    ],
)
def test_the_best_epochs_weights_are_kept(scores: list[float], patience: int | None, best: int, count: int) -> None:
    model, seen = network(dropout=0.2), []

    def validate() -> float:
        assert not model.training
        seen.append(weights(model))
        torch.rand(3)  # must not disturb training
        return scores[len(seen) - 1]

    done = run(model, rows(24), settings(epochs=4, patience=patience), validate=validate)
    assert (done.best_epoch, len(done.epochs)) == (best, count)
    assert done.stopped_early == (count < 4)
    assert torch.equal(weights(model), seen[best])
    np.testing.assert_array_equal([e.score for e in done.epochs], scores[:count])
    other = network(dropout=0.2)
    run(other, rows(24), settings(epochs=4), validate=None)
    if count == 4:
        assert torch.equal(weights(other), seen[-1])  # without validation the last epoch, trained alike


@pytest.mark.parametrize(
    ("epochs", "stop", "patience", "scored"),
    [
        (10, None, None, range(10)),
        (11, None, None, range(0, 11, 2)),
        (12, None, None, range(1, 12, 2)),
        (30, None, None, range(2, 30, 3)),
        (30, 5, None, range(5)),
        (12, None, 50, range(12)),
    ],
)
def test_dev_is_scored_ten_times_at_most(epochs: int, stop: int | None, patience: int | None, scored: range) -> None:
    """Evenly spread and after the last epoch; only epochs that were scored can be the best one. A patience needs every score."""
    model, seen = network(), []

    def validate() -> float:
        seen.append(weights(model))
        return -float(len(seen))

    done = run(model, rows(24), settings(epochs=epochs, patience=patience), validate=validate, stop_after=stop)
    assert [epoch.index for epoch in done.epochs if epoch.score is not None] == list(scored)
    assert done.best_epoch == scored[0]
    assert torch.equal(weights(model), seen[0])
    other = network()
    run(other, rows(24), settings(epochs=epochs, patience=patience), validate=None, stop_after=stop)
    assert torch.equal(weights(other), seen[-1])  # training is the same, scored or not


def test_states_of_every_epoch_on_request() -> None:
    model, seen = network(), []
    done = run(model, rows(24), settings(), keep_epochs=True, validate=lambda: seen.append(weights(model)) or 1.0)  # type: ignore[func-returns-value]
    assert done.best_epoch == len(seen) - 1
    assert list(done.states) == [0, 1, 2]
    for state, expected in zip(done.states.values(), seen, strict=True):
        assert torch.equal(flat(state()).double(), expected)


@pytest.mark.parametrize("stored", [False, True])
def test_of_many_epochs_those_that_can_be_chosen_are_kept(
    stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most ten, on the disk too; and those that lie there are not held in memory as well."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    model, seen = network(), []
    made = settings(epochs=25, weights="best", checkpoint_every_seconds=1e9)
    folder = tmp_path if stored else None
    done = run(
        model, rows(16), made, keep_epochs=True, folder=folder, validate=lambda: seen.append(Trained(model).state()) or 1.0  # type: ignore[func-returns-value]
    )  # fmt: skip
    judged = [epoch.index for epoch in done.epochs if epoch.score is not None]
    assert list(done.states) == judged == list(range(0, 25, 3))
    for epoch, expected in zip(judged, seen, strict=True):
        state = done.states[epoch]()
        assert state.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert len(list(tmp_path.glob("weights-*"))) == (len(judged) if stored else 0)
    held = [state for state in done.states.values() if any(isinstance(a, dict) for a in state.args)]  # type: ignore[attr-defined]
    assert len(held) == (0 if stored else len(judged))


@pytest.mark.parametrize(("epochs", "stop", "first"), [(5, None, 2), (4, None, 2), (4, 3, 2), (4, 2, 4), (1, None, 0)])
def test_late_epochs_are_averaged(epochs: int, stop: int | None, first: int) -> None:
    """Those of the schedule's second half; the model itself holds the best epoch's weights."""
    model = network()
    done = run(model, rows(24), settings(epochs=epochs), keep_epochs=True, stop_after=stop)
    late = [state() for epoch, state in done.states.items() if epoch >= first]
    assert done.averaged_epochs == len(late)
    assert (done.averaged is None) == (not late)
    assert torch.equal(weights(model), flat(done.states[len(done.epochs) - 1]()))
    for name, tensor in (done.averaged or {}).items():
        torch.testing.assert_close(tensor, torch.stack([state[name] for state in late]).mean(0), rtol=1e-6, atol=1e-7)
    best = run(network(), rows(24), settings(epochs=epochs, weights="best"))
    assert (best.averaged, best.averaged_epochs) == (None, 0)


def test_stop_after_keeps_the_schedule_of_all_epochs() -> None:
    whole, part, rates = network(), network(), []
    done = run(whole, rows(24), settings(epochs=4), keep_epochs=True)
    short = run(part, rows(24), settings(epochs=4), stop_after=2, on_progress=lambda p: rates.append(p))
    assert torch.equal(weights(part), flat(done.states[1]()))
    assert len(short.epochs) == 2
    assert not short.stopped_early
    assert [p.step for p in rates] == list(range(1, 7))
    assert {p.total_steps for p in rates} == {6}


def test_no_epochs_change_nothing() -> None:
    model = network()
    before = weights(model)
    done = run(model, rows(24), settings(epochs=0))
    assert (done.epochs, done.best_epoch, done.steps) == ((), -1, 0)
    assert torch.equal(weights(model), before)


def test_nothing_to_train_on() -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        run(network(), rows(0), settings())


def test_progress_tells_where_training_stands() -> None:
    told: list[Progress] = []
    run(network(), rows(24), settings(epochs=2), on_progress=told.append)
    assert [(p.step, p.epoch) for p in told] == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    assert all(p.seconds_left > 0 for p in told[:-1])
    assert told[-1].seconds_left == 0
    assert max(p.learning_rate for p in told) == RATE
    assert all(math.isfinite(p.loss) for p in told)


# --- randomness


def test_the_callers_random_state_is_left_alone_and_plays_no_part() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = network(dropout=0.3)
        run(model, rows(24), settings())
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(*results)
    other = network(dropout=0.3)
    run(other, rows(24), settings(), seed=8)
    assert not torch.equal(weights(other), results[0])


def test_streams_of_randomness_differ() -> None:
    made = {
        seed_of(s, a, b, c) for s in ("step", "augment", "pull") for a in range(4) for b in range(4) for c in range(4)
    }  # type: ignore[arg-type]
    assert len(made) == 3 * 4**3


class Augmenting(Regression):
    """Remembers what each item became in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[tuple[float, int], float] = {}
        self.visits: dict[float, int] = {}

    def augment(self, item: Item, generator: torch.Generator) -> Item:  # type: ignore[override]
        key = item.targets["y"]
        visit = self.visits[key] = self.visits.get(key, -1) + 1
        self.made[key, visit] = float(torch.rand((), generator=generator))
        return item


def test_augmentation_depends_on_seed_epoch_and_item_alone() -> None:
    tasks = []
    for budget in (None, 60):
        tasks.append(Augmenting())
        run(network(), rows(24), settings(micro_batch_budget=budget), task=tasks[-1])
    assert tasks[0].made == tasks[1].made
    assert len(set(tasks[0].made.values())) == len(tasks[0].made) == 72


def test_pulls_see_the_same_randomness_however_a_step_is_split() -> None:
    pulls = [TowardsStart(network(), 0.1), TowardsStart(network(), 0.1)]
    models = [network(), network()]
    for model, pull, budget in zip(models, pulls, (None, 60), strict=True):
        run(model, rows(24), settings(micro_batch_budget=budget), pulls=(pull,))
    assert pulls[0].draws == pulls[1].draws
    assert len(set(pulls[0].draws)) == 9
    torch.testing.assert_close(weights(models[0]), weights(models[1]), rtol=1e-9, atol=1e-9)


# --- what goes wrong


class Spoiler:
    """Makes the loss NaN in the given forwards, counted from 0 over the whole training."""

    def __init__(self, *forwards: int, factor: float = math.nan) -> None:
        self.forwards, self.factor, self.count = set(forwards), factor, -1

    def __call__(self, batch: Batch) -> float:
        self.count += 1
        return self.factor if self.count in self.forwards else 1.0


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e308])
def test_a_loss_that_is_not_finite_rolls_back_to_the_epochs_start(factor: float) -> None:
    """Forward 4 is the second step of the second epoch. 1e308 leaves a finite loss, but no finite gradient."""
    told: list[Progress] = []
    model = network(dropout=0.2)
    data, made = rows(24), settings(schedule="constant", warmup=0.0)
    done = run(model, data, made, Regression(Spoiler(4, factor=factor)), on_progress=told.append)
    assert (done.rollbacks, done.steps) == (1, 9)
    assert [p.step for p in told] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert [p.learning_rate for p in told] == [RATE] * 4 + [RATE / 2] * 6
    assert told[3].loss == told[4].loss  # the same step from the same weights
    assert weights(model).isfinite().all()
    assert done.epochs[1].train_loss == pytest.approx(np.mean([p.loss for p in told[4:7]]))


def test_three_rollbacks_are_the_last() -> None:
    data = rows(24, items_a_row=2)
    spoiled = data.items[5].targets["y"]

    def spoil(batch: Batch) -> float:
        return math.nan if any(item.targets["y"] == spoiled for item in batch.items) else 1.0

    with pytest.raises(TrainingError, match="3 rollbacks") as error:
        run(network(), data, settings(micro_batch_budget=1), Regression(spoil))
    assert error.value.where == "rows.csv:4"  # item 5 is the second of the third example, alone in its micro-batch
    assert "learning_rate" in error.value.remedy


def test_it_runs_outside_the_main_thread() -> None:
    models = [network(), network()]
    run(models[0], rows(24), settings())
    thread = threading.Thread(target=run, args=(models[1], rows(24), settings()))
    thread.start()
    thread.join()
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_moments_are_restored_exactly() -> None:
    """A parameter that never had a gradient has no moments, before and after."""
    models = [network(), network()]
    optimizers = [Optimizer(Trained(m).parameter_groups(), learning_rate=RATE, weight_decay=0.1) for m in models]
    optimizers[0].parameters[0].grad = torch.ones_like(optimizers[0].parameters[0])
    optimizers[0].step_(0.5)
    assert sorted(optimizers[0].state()) == ["0.0.exp_avg", "0.0.exp_avg_sq", "0.0.step"]
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_(optimizers[0].state())
    for optimizer in optimizers:
        for number, parameter in enumerate(optimizer.parameters):
            parameter.grad = torch.full_like(parameter, 0.1 * number - 0.2)
        optimizer.step_(1.0)
        assert all(parameter.grad is None for parameter in optimizer.parameters)
    assert torch.equal(weights(models[0]), weights(models[1]))
    states = [optimizer.state() for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
