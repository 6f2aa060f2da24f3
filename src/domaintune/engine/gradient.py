"""The only backward: the gradient of one step, the same however the step is split into micro-batches.

Everything random comes from (seed, step, micro-batch) or (seed, epoch, item), so no random state is ever saved.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.bases.base import Base
from domaintune.engine.precision import computing
from domaintune.errors import TrainingError
from domaintune.methods.base import Attached
from domaintune.settings import Precision
from domaintune.tasks.base import Batch, Dataset, Item, Task

STREAMS = {"step": 0, "augment": 1, "pull": 2}
CONSISTENCY = "training.consistency"
WITHOUT_CONSISTENCY = "Train without: --set training.consistency=0."


class Pull(Protocol):
    """Something that adds a loss of its own to every step, from its own batches (towards the base, for one)."""

    def terms(self, model: nn.Module, step: int) -> Mapping[str, tuple[Tensor, float]]:
        """Sum and units of each term at `step` (from 0); the loss is the sum over terms of sum / units. Torch's global generator
        has been seeded for this step and this pull, which keeps no random state of its own."""


def seed_of(stream: Literal["step", "augment", "pull"], seed: int, first: int, second: int) -> int:
    """A 64-bit seed for one use of randomness."""
    return int(np.random.SeedSequence([STREAMS[stream], seed, first, second]).generate_state(1, np.uint64)[0])


def accelerator() -> Any:
    """Accelerate in one process and in full precision, whatever the environment says; the model stays on its own device.

    Accelerate's state belongs to the process and cannot be changed, so it must not depend on one training's device or precision.

    Raises:
        TrainingError: the process uses Accelerate with mixed precision, or is one of several.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    remedy = "Start domaintune in a process of its own, without a launcher."
    try:
        made = Accelerator(
            device_placement=False,
            mixed_precision="no",
            # Without it an environment variable of `accelerate launch` could scale every gradient.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    except ValueError as error:
        raise TrainingError(f"Accelerate is set up otherwise in this process ({error})", remedy=remedy) from None
    if made.num_processes > 1:
        raise TrainingError(f"{made.num_processes} processes were started, one is supported.", remedy=remedy)
    return made


@dataclass(frozen=True)
class StepGradient:
    """Leaves in the parameters' `.grad` the gradient of the sum over terms of S / U, S the loss sums and U the units of the whole
    step, known before the first backward; 1 where there are none. Where domains have weights of their own, a micro-batch holds
    items of one domain. With `consistency` each is read twice.

    Raises:
        TrainingError: consistency is asked of a task that does not compare answers, or of a model in which nothing drops out.
    """

    task: Task
    base: Base
    attached: Attached
    data: Dataset
    seed: int
    pulls: Sequence[Pull]
    accelerator: Any
    consistency: float = 0.0

    def __post_init__(self) -> None:
        if self.consistency and type(self.task).disagreement is Task.disagreement:
            raise TrainingError(f"is not for {self.task.name}.", where=CONSISTENCY, remedy=WITHOUT_CONSISTENCY)

    def accumulate_(
        self, micro_batches: Sequence[Sequence[int]], *, epoch: int, step: int, precision: Precision = "fp32"
    ) -> list[Tensor]:
        """Add the step's gradient to `.grad`. In bf16 the forward runs under autocast; weights stay as they are. Returns the parts of
        the step's loss, one a micro-batch, then one a pull: their sum is the loss of the step (detached scalars, on the model's
        device)."""
        batches = [self.collate(positions, epoch=epoch) for positions in micro_batches]
        units = total_units([self.task.units(batch) for batch in batches])
        if self.consistency:
            units[CONSISTENCY] = next(iter(units.values()))
        device = next(self.attached.model.parameters()).device
        sixteen_bits, losses = precision == "bf16", []
        for number, (positions, batch) in enumerate(zip(micro_batches, batches, strict=True)):
            torch.manual_seed(seed_of("step", self.seed, step, number))
            with computing(precision), self.attached.in_domain(self._domain(positions[0])) as model:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=sixteen_bits):
                    batch = batch.to(device)
                    sums = self._twice(model, batch, step) if self.consistency else self.task.loss(model, batch)
                losses.append(self._backward({key: (value, units[key]) for key, value in sums.items()}))
        for number, pull in enumerate(self.pulls):
            torch.manual_seed(seed_of("pull", self.seed, step, number))
            with computing(precision), torch.autocast(device.type, dtype=torch.bfloat16, enabled=sixteen_bits):
                terms = pull.terms(self.attached.model, step)
            losses.append(self._backward(terms))
        return losses

    def _twice(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """The mean loss of two readings with other dropout, and a weighted quarter of how far they are apart: half of R-Drop's loss."""
        outputs: list[Any] = []
        watch = model.register_forward_hook(lambda _model, _inputs, output: outputs.append(output))
        try:
            one, other = (self.task.loss(model, batch) for _ in range(2))
        finally:
            watch.remove()
        first, second = outputs
        apart = self.task.disagreement(model, first, second, batch)
        if step == 0 and not bool(apart):
            raise TrainingError(
                "two readings of the first step are the same: nothing drops out in training.",
                where=CONSISTENCY,
                remedy=f"LoRA can have dropout of its own: --set method.dropout=0.1. {WITHOUT_CONSISTENCY}",
            )
        sums = {key: (one[key] + other[key]) / 2 for key in one}
        return {**sums, CONSISTENCY: self.consistency / 4 * apart}

    @functools.cached_property
    def domains(self) -> list[str | None] | None:
        """Each item's domain, where domains have weights of their own."""
        if not self.attached.domain_weights():
            return None
        pairs = zip(self.data.examples, self.data.spans, strict=True)
        return [example.domain for example, span in pairs for _ in span]

    def _domain(self, position: int) -> str | None:
        return None if self.domains is None else self.domains[position]

    def collate(self, positions: Sequence[int], *, epoch: int) -> Batch:
        """The micro-batch of these items, augmented by (seed, epoch, item)."""
        items = [self.data.items[position] for position in positions]
        if type(self.task).augment is not Task.augment:
            items = [self._augmented(item, position, epoch) for item, position in zip(items, positions, strict=True)]
        return self.task.collate(self.base, items, "train")

    def _augmented(self, item: Item, position: int, epoch: int) -> Item:
        generator = torch.Generator().manual_seed(seed_of("augment", self.seed, epoch, position))
        return self.task.augment(item, generator)

    def _backward(self, terms: Mapping[str, tuple[Tensor, float]]) -> Tensor:
        # A sum over no units is 0, but for detectors: a step without any box still teaches what is no object, divided by one as
        # in transformers. A floor of one in each batch's units would count once a micro-batch.
        parts = [value / (units or 1.0) for value, units in terms.values()]
        loss = sum(parts[1:], start=parts[0])
        self.accelerator.backward(loss)
        return loss.detach()


def total_units(units: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Units of each term over all micro-batches."""
    total: dict[str, float] = {}
    for part in units:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + value
    return total
