"""The starting head: fitted on the frozen body, so that training starts from what the base already knows.

Source: LP-FT, arXiv 2202.10054. A head of one linear layer is fitted on features gathered once; others are trained by the engine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from domaintune.bases.base import Base, Head, fork
from domaintune.bases.device_memory import within_memory
from domaintune.bases.probe import probe_inputs
from domaintune.data.batches import scoring_plan
from domaintune.tasks.base import Batch, Dataset, Task

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
FEATURE_BUDGET = 16_384
MOST_FEATURES = 1 << 27
"""Numbers that are gathered at most (half a GiB): a head needs no more, and long texts have very many tokens."""


@torch.no_grad()
def linear_head(base: Base, name: str = "domain") -> tuple[str, nn.Linear] | None:
    """Path and layer of a head that is one linear layer whose output is the model's logits; None for any other head.

    Decoders with a classifier apply theirs to every token and pick one afterwards: such a head is not of that kind; nor is a
    detector's, whose loss needs the boxes too.
    """
    modules = base.heads[name].modules
    if len(modules) != 1 or not base.heads[name].spec.whole:
        return None
    path, module = next(iter(modules.items()))
    if not isinstance(module, nn.Linear):
        return None
    model = base.fork(head=name)
    made: list[Tensor] = []
    model.get_submodule(path).register_forward_hook(lambda layer, inputs, output: made.append(output))
    logits = model(**probe_inputs(model)).logits
    return (path, module) if len(made) == 1 and made[0].shape == logits.shape else None


class _HeadOnly(nn.Module):
    """Stands in for the whole model in `Task.loss`: the linear layer on the features of the batch that is set."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.features = torch.empty(0)

    def forward(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=self.layer(self.features))


@torch.no_grad()
def gather(task: Task, base: Base, data: Dataset, *, path: str, budget: int) -> list[tuple[Batch, Tensor]]:
    """Batches of the data with what enters the layer at `path`, in float32; of very large data every second one, third one, ..."""
    made: list[tuple[Batch, Tensor]] = []
    caught: list[Tensor] = []
    model = base.fork()
    handle = model.get_submodule(path).register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        plan, stride = scoring_plan([task.cost(item) for item in data.items], budget), 1
        for number, positions in enumerate(plan):
            if number % stride:
                continue
            batch = task.collate(base, [data.items[i] for i in positions], "score").to(base.device)
            caught.clear()
            with within_memory("evaluation.batch_budget", budget):
                model(**batch.inputs)
            made.append((Batch({}, batch.targets, batch.items), caught[0].float()))
            if not number:
                stride = max(1, -(-caught[0].numel() * len(plan) // MOST_FEATURES))
    finally:
        handle.remove()
    return made


def total_loss(task: Task, model: _HeadOnly, batches: Sequence[tuple[Batch, Tensor]]) -> Tensor:
    """The engine's objective over all batches: for each term, the sum over batches by the units of all."""
    units: dict[str, float] = {}
    sums: dict[str, Tensor] = {}
    for batch, features in batches:
        model.features = features
        for key, value in task.units(batch).items():
            units[key] = units.get(key, 0.0) + value
        for key, term in task.loss(model, batch).items():
            sums[key] = sums[key] + term if key in sums else term
    return torch.stack([sums[key] / units[key] for key in sums]).sum()


def fit_linear(
    task: Task, layer: nn.Linear, batches: Sequence[tuple[Batch, Tensor]], *, penalty: float, iterations: int = 60
) -> nn.Linear:
    """The layer that minimises the task's loss + penalty / 2 * |W|^2 (bias free), by L-BFGS from zero; deterministic.

    Features are standardised by one common scale first, so that a penalty means the same for every base.
    """
    scale = torch.cat([f.reshape(-1, f.shape[-1]) for _, f in batches]).std().clamp(min=1e-8)
    scaled = [(batch, features / scale) for batch, features in batches]
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device=layer.weight.device)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    model = _HeadOnly(made)
    optimizer = torch.optim.LBFGS(
        made.parameters(), max_iter=iterations, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = total_loss(task, model, scaled) + 0.5 * penalty * made.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        made.weight.div_(scale)
    return made


def probe_head(
    task: Task,
    base: Base,
    train: Dataset,
    dev: Dataset | None,
    *,
    held_out: Collection[int] = (),
    name: str = "domain",
    budget: int = FEATURE_BUDGET,
) -> Head:
    """The head `name` fitted on the frozen body. Its penalty is chosen by the loss on `dev`; without one on the examples of train at the
    positions `held_out`, of heads fitted on the others (of none, on those that it is fitted on).

    Only for heads that are one linear layer: ask `linear_head` first. The base needs that head installed.
    """
    found = linear_head(base, name)
    assert found is not None, "ask linear_head first"
    path, layer = found
    batches, held = gather(task, base, train, path=path, budget=budget), set(held_out)
    if dev is not None and dev.items:
        fit_on, judge_on = batches, gather(task, base, dev, path=path, budget=budget)
    else:
        spans = train.spans or train.rows()
        parts = [
            Dataset(
                train.examples, [train.items[i] for n, span in enumerate(spans) if (n in held) is judged for i in span]
            )
            for judged in (False, True)
        ]
        fit_on, judge_on = (
            gather(task, base, part, path=path, budget=budget) if part.items else batches for part in parts
        )
    losses = []
    for penalty in PENALTIES:
        made = fit_linear(task, layer, fit_on, penalty=penalty)
        with torch.no_grad():
            losses.append(float(total_loss(task, _HeadOnly(made), judge_on)))
    best = PENALTIES[min(range(len(PENALTIES)), key=losses.__getitem__)]
    fitted = fit_linear(task, layer, batches, penalty=best)
    replacing = {key: tensor.detach().to(layer.weight.dtype) for key, tensor in fitted.named_parameters()}
    head = base.heads[name]
    return Head(spec=head.spec, modules={path: fork(layer, replacing)}, config=head.config)
