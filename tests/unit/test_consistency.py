"""R-Drop: a step read twice, against its loss written out with torch's own divergences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cells import Cell as Case
from cells import attach, base_and_task, recipe, rows
from torch import Tensor
from torch.nn import functional

from domaintune.engine.gradient import StepGradient, accelerator, seed_of
from domaintune.engine.train import train
from domaintune.errors import TrainingError
from domaintune.methods.base import Attached
from domaintune.recipe import TrainingSettings
from domaintune.tasks import TASKS
from domaintune.tasks.base import Batch, Task, dataset
from domaintune.tasks.token_losses import IGNORED, causal_disagreements, causal_losses

WEIGHT = 4.0
TEXTS = [
    ("text-classification", "bert"),
    ("token-classification", "distilbert"),
    ("translation", "marian"),
    ("generation", "gpt2"),
]


def with_dropout(case: Case, probability: float = 0.2) -> tuple[Attached, Task, StepGradient]:
    base, task, attached = attach(case)
    for module in attached.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
    data = dataset(task, base, list(task.read(rows(case.task))))
    step = StepGradient(task, base, attached, data, seed=7, pulls=(), accelerator=accelerator(), consistency=WEIGHT)
    attached.model.train()
    return attached, task, step


def supervised(logits: Tensor, batch: Batch) -> Tensor:
    """[units, classes] by the batch's own targets."""
    for name in ("labels", "next_tokens"):
        if name in batch.targets:
            return logits[batch.targets[name] != IGNORED]
    return logits


@pytest.mark.parametrize(("name", "family"), TEXTS)
def test_the_loss_is_half_of_r_drops(name: str, family: str) -> None:
    attached, task, step = with_dropout(Case(name, family, "full"))
    model, parts = attached.model, [[0, 1, 2], [3, 4]]
    batches = [step.collate(part, epoch=0) for part in parts]
    (term,) = task.units(batches[0])
    units = sum(task.units(batch)[term] for batch in batches)
    expected = torch.zeros(())
    for number, batch in enumerate(batches):
        torch.manual_seed(seed_of("step", 7, 0, number))
        losses = [task.loss(model, batch)[term] for _ in range(2)]
        torch.manual_seed(seed_of("step", 7, 0, number))
        one, other = (supervised(model(**batch.inputs).logits, batch).log_softmax(-1) for _ in range(2))
        both_ways = functional.kl_div(one, other, log_target=True, reduction="sum")
        both_ways = both_ways + functional.kl_div(other, one, log_target=True, reduction="sum")
        whole = losses[0] + losses[1] + WEIGHT / 2 * both_ways
        expected = expected + whole / 2 / units
    reference = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    made = step.accumulate_(parts, epoch=0, step=0)
    assert float(sum(made)) == pytest.approx(float(expected.detach()), rel=1e-5)
    got = [p.grad for p in model.parameters() if p.requires_grad]
    for ours, theirs in zip(got, reference, strict=True):
        if theirs is not None:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_of_several_labels_each_is_an_answer() -> None:
    base, _ = base_and_task("text-classification", "bert")
    settings = recipe("text-classification").task.model_copy(update={"multi_label": True})
    many = [replace(row, values={**row.values, "label": [row.values["label"]]}) for row in rows("text-classification")]
    task = TASKS["text-classification"].build(many, base, settings)
    first, second = (torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    made = task.disagreement(base.model, Output(first), Output(second), Batch({}, {}, []))
    p, q = (torch.distributions.Bernoulli(logits=logits) for logits in (first, second))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(made, (kl(p, q) + kl(q, p)).mean(1).sum())


def test_without_all_logits_at_once_it_is_the_same() -> None:
    attached, task, step = with_dropout(Case("generation", "gpt2", "full"))
    batch = step.collate(range(5), epoch=0)
    told = []
    for budget in (1 << 26, 200):
        outputs: list[object] = []
        watch = attached.model.register_forward_hook(lambda _model, _inputs, output, to=outputs: to.append(output))
        for seed in (0, 1):
            torch.manual_seed(seed)
            causal_losses(attached.model, batch.inputs, batch.targets["next_tokens"], budget=budget)
        watch.remove()
        made = causal_disagreements(attached.model, *outputs, batch.targets["next_tokens"], budget=budget)
        attached.model.zero_grad()
        made.sum().backward()
        told.append((made.detach(), [p.grad.clone() for p in attached.model.parameters() if p.grad is not None]))
        assert len(made) == int(task.units(batch)["cross_entropy"])
    assert float(told[0][0].min()) > 0
    torch.testing.assert_close(told[0], told[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "p-tuning-2", "freeze"])
def test_training_with_it_depends_on_the_seed_alone(method: str) -> None:
    told = []
    for _ in range(2):
        case = Case("text-classification", "bert", method)
        base, task, attached = attach(case)
        data = dataset(task, base, list(task.read(rows(case.task))))
        torch.manual_seed(len(told))
        settings = TrainingSettings(epochs=2, batch_size=4, consistency=WEIGHT)
        made = train(attached, task, base, data, settings, learning_rate=1e-2, seed=1, validate=None, folder=None)
        told.append((attached.state(), [epoch.train_loss for epoch in made.epochs]))
    assert told[0][1] == told[1][1]
    assert all(torch.equal(told[0][0][name], told[1][0][name]) for name in told[0][0])


def test_where_nothing_drops_out_it_is_refused() -> None:
    _, _, step = with_dropout(Case("text-classification", "bert", "lora"), probability=0.0)
    step.attached.model.eval()
    with pytest.raises(TrainingError, match="nothing drops out in training") as caught:
        step.accumulate_([[0, 1]], epoch=0, step=0)
    assert "method.dropout=0.1" in str(caught.value)


def test_it_is_not_for_detection() -> None:
    with pytest.raises(TrainingError, match="is not for object-detection"):
        with_dropout(Case("object-detection", "yolos", "full"))
