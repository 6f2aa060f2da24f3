"""The task protocol: everything that a task must say, and the small records that flow between its parts.

A task is frozen and serialisable: a label map, lengths, languages and decoding, never a tokenizer, a model or a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from domaintune.bases.base import Base, HeadSpec
from domaintune.counting import counted
from domaintune.data.rows import Row

Mode = Literal["train", "score", "predict"]
Severity = Literal["error", "warning", "note"]
Record = Mapping[str, np.ndarray]
ROWS_NAMED = 5
RawPrediction = Mapping[str, Any]
Prediction = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One typed row. Each task derives its own; `file` and `line` say where it stands."""

    file: str
    line: int
    group: str | None = None
    domain: str | None = None

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Keys:
    """What splits, duplicate search and checks need: normal forms of input and target, the stratum, the user's group and domain, the
    names of the row's labels (entity types, classes of boxes), each once; what near duplicates are looked for in, where that is not the
    input; and what rows of equal input agree on, or conflict, where that is not the target."""

    input: str
    target: str
    stratum: str
    group: str | None = None
    domain: str | None = None
    labels: tuple[str, ...] = ()
    near: str | None = None
    agreed: str | None = None

    @property
    def compared(self) -> str:
        """The text that near duplicates are looked for in."""
        return self.input if self.near is None else self.near


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found. `rows` are "file:line" of all of it, `why` one line on why it matters, `count` how many rows,
    labels or boxes it concerns."""

    name: str
    severity: Severity
    message: str
    rows: tuple[str, ...]
    remedy: str
    why: str
    count: int = 0

    @classmethod
    def of(
        cls, rows: tuple[str, ...], name: str, severity: Severity, sentence: str, *, remedy: str, why: str
    ) -> Finding:
        """A finding about so many rows; `sentence` goes on after their number, as in `counted`."""
        return cls(name, severity, counted(len(rows), sentence), rows, remedy, why, len(rows))


@dataclass(frozen=True, slots=True)
class Item:
    """One input of the model, prepared once. `inputs` and `targets` hold plain lists, arrays or paths; `part` counts the items
    of one example from 0; `cut` says that something of the example is in none of them."""

    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]
    part: int = 0
    cut: bool = False


@dataclass(slots=True)
class Batch:
    """Collated items. `inputs` goes to the model by keyword; `targets` is for the loss alone (empty in mode "predict")."""

    inputs: dict[str, Any]
    targets: dict[str, Any]
    items: Sequence[Item]

    def to(self, device: torch.device) -> Batch:
        return Batch(_to(self.inputs, device), _to(self.targets, device), self.items)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(entry, device) for key, entry in value.items()}
    if isinstance(value, list):
        return [_to(entry, device) for entry in value]
    return value


@dataclass(frozen=True, slots=True)
class Primary:
    """The score that early stopping, gain, retention and the choice of strength use.

    `higher_is_better` is false for losses, whose gain is base - tuned and whose retention is exp(base - tuned).
    `binary` marks a score that is the mean of a 0/1 entry per example (record key `correct`), for which exact bounds exist.
    `counts` are the keys of records that it is computed from, where others could differ though the score does not.
    """

    name: str
    higher_is_better: bool = True
    binary: bool = False
    counts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples of one part with their items; `spans[i]` are the positions in `items` that belong to example i."""

    examples: Sequence[Any]
    items: Sequence[Item]
    spans: Sequence[range] = field(default=())

    def rows(self) -> list[range]:
        """The items of each example that has any; where no example is known, each item for itself."""
        if not self.spans:
            return [range(position, position + 1) for position in range(len(self.items))]
        return [span for span in self.spans if span]

    def where(self, positions: Sequence[int]) -> str:
        """Where the examples of these items stand, the first few of them; the items' positions where no example is known."""
        wanted = set(positions)
        rows = [e.where for e, span in zip(self.examples, self.spans, strict=False) if not wanted.isdisjoint(span)]
        rows = rows or [f"item {position}" for position in sorted(wanted)]
        more = f" and {len(rows) - ROWS_NAMED} more" if len(rows) > ROWS_NAMED else ""
        return ", ".join(rows[:ROWS_NAMED]) + more


class Task(BaseModel, ABC):
    """One of the six tasks, fitted to one set of labels.

    Rows -> `read` -> examples -> `prepare` -> items -> `collate` -> batch -> `loss` (training), or `predict` -> raw predictions
    -> `join` -> predictions -> `statistics` -> records -> `reduce` -> scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    auto_class: ClassVar[str]
    primary: ClassVar[Primary]
    scores: ClassVar[tuple[str, ...]]  # every score that `reduce` can give, the primary first
    keep_agreement: ClassVar[float] = 0.95
    # Rows follow each other as running text does: parts are cut in one piece each. A field of the task where it depends on data.
    contiguous: bool = False
    # With few rows and no dev part: 5 folds. Off where decoding or detection makes that too slow.
    cross_validates: ClassVar[bool] = True
    # What `altered` hands over: running texts, the words of a tagged text, or the path of a picture (with boxes in it).
    input_kind: ClassVar[Literal["text", "words", "picture", "boxes"]] = "text"

    calibration: tuple[tuple[float, float], ...] = ()
    """(strength, temperature) by rising strength, for the probabilities that a user sees; none: as the model gives them."""

    @classmethod
    @abstractmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: Any) -> Self:
        """Derive the label map, lengths and the rest from the data, the base and this task's settings of the recipe.

        Raises:
            DataError: a row without a usable target, naming file and line.
        """

    @abstractmethod
    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[Any]:
        """Examples in the order of the rows. With `labelled=False` targets may be absent and are not looked at (an unlabelled
        general set, the input of `predict`): the example's target is then empty, and only `prepare`, `collate` in mode
        "predict", `predict`, `join`, `render` and `as_reference` are asked of it.

        Raises:
            DataError: a bad value or an unknown label, naming file and line.
        """

    @abstractmethod
    def from_bare(self, value: str) -> Mapping[str, Any]:
        """The values of a row from one bare input as a user types it (a text, a path), without a target."""

    @abstractmethod
    def has_target(self, row: Row) -> bool:
        """Whether the row carries a target (of whatever quality) and not the input alone."""

    @abstractmethod
    def head(self) -> HeadSpec:
        """The output layer that this task needs."""

    def relabelled(self, labels: Sequence[str]) -> Self:
        """This task for the output units `labels` of another head (in the form and order of `HeadSpec.labels`); the same task
        where labels size nothing."""
        return self

    def fitted(self, train: Sequence[Any], base: Base, *, start: Sequence[Any] = ()) -> Self:
        """This task with what the training examples alone teach (`build` saw the other parts too): class weights, how tags follow;
        `start`: what the head to start from is fitted on, where that is not the base's own and other examples."""
        return self

    def at(self, strength: float) -> Self:
        """This task for a model of this strength: what a head decodes with may be learned as its weights are."""
        return self

    @property
    def one_label(self) -> bool:
        """Whether every row has one label, which is its stratum."""
        return False

    def scoring(self, labels: Sequence[str]) -> Self:
        """This task where only these labels count in scores; what is predicted or given of others is passed over. The same task
        where every row has one label: rows of other labels are left out before."""
        return self

    def check(self, examples: Sequence[Any]) -> Iterator[Finding]:
        """What only this task can know to be wrong."""
        return iter(())

    @abstractmethod
    def keys(self, example: Any) -> Keys:
        """What splits and duplicate search need."""

    def texts(self, example: Any) -> tuple[str, ...]:
        """The running texts of an example, for checks of characters and near duplicates; none for pictures."""
        return ()

    def picture(self, example: Any) -> str | None:
        """The path of an example's picture, where it is one."""
        return None

    @abstractmethod
    def prepare(self, base: Base, example: Any) -> tuple[Item, ...]:
        """Items of one example, several for long inputs. Deterministic."""

    def prepare_all(self, base: Base, examples: Sequence[Any]) -> Iterable[tuple[Item, ...]]:
        """What `prepare` makes of each, where that is faster for many at once."""
        return (self.prepare(base, example) for example in examples)

    def augment(self, item: Item, generator: torch.Generator) -> Item:
        """A changed copy for training; the same item by default."""
        return item

    def shown(self, base: Base, item: Item) -> str:
        """The item as the model sees it in training: its tokens, those with a loss of their own in brackets."""
        batch = self.collate(base, [item], "train")
        ids = batch.inputs.get("input_ids")
        if ids is None:
            return f"{', '.join(f'{name} {tuple(value.shape)}' for name, value in batch.inputs.items())}"
        tokens = base.processor.convert_ids_to_tokens(ids[0].tolist())
        labels = batch.targets.get("labels")
        if labels is None or labels.shape != ids.shape:
            return " ".join(tokens)
        return " ".join(f"[{t}]" if m >= 0 else t for t, m in zip(tokens, labels[0].tolist(), strict=True))

    @property
    def long_inputs(self) -> str:
        """What happens to examples that are longer than the limit, as "they are ..."."""
        return "taken whole"

    @property
    def long_remedy(self) -> str:
        """The setting that changes what happens to them."""
        return "--set task.max_length=... sets another limit."

    def is_long(self, items: Sequence[Item]) -> bool:
        """Whether the example of these items was longer than the limit."""
        return len(items) > 1 or any(item.cut for item in items)

    def target_tokens(self, items: Sequence[Item]) -> tuple[int, int] | None:
        """Tokens of the target that are scored, and that the limit cuts off; None where it is no text of its own."""
        return None

    @property
    def most_new_tokens(self) -> int | None:
        """Tokens of an output at most, where that is a setting of its own."""
        return None

    @abstractmethod
    def cost(self, item: Item) -> int:
        """Tokens or pixels: what a micro-batch budget counts."""

    def decoded_tokens(self, item: Item, wanted: frozenset[str]) -> int:
        """Tokens that decoding the item holds at most, prompt and new ones in every beam; 0 where nothing wanted needs text."""
        return 0

    @abstractmethod
    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        """Tensors on the CPU. "score" and "predict" never augment; "predict" has no targets and pads causal models left."""

    @abstractmethod
    def units(self, batch: Batch) -> dict[str, float]:
        """Divisor of each loss term, from the targets alone; additive over micro-batches. A step of no units divides by one."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """SUM of each term over its units, with the keys of `units`; additive over micro-batches. One forward of the model."""

    def disagreement(self, model: nn.Module, first: Any, second: Any, batch: Batch) -> Tensor:
        """KL in both directions between two outputs of the forward of `loss`, summed over its units (of weight 1). A task whose answers
        cannot be compared leaves it out: the engine refuses it by name before training."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        """One raw prediction an item. `wanted` names scores, or "output" for what a user of `predict` sees; work (such as
        decoding text) that no wanted name needs is left out. The batch was collated in mode "score" where any wanted score
        needs the targets, else "predict"."""

    @abstractmethod
    def join(self, example: Any, raw: Sequence[RawPrediction]) -> Prediction:
        """The example's prediction from those of its items."""

    @abstractmethod
    def statistics(self, prediction: Prediction, example: Any) -> Record:
        """Per-example statistics, plain numpy, from which `reduce` computes every score that the prediction supports."""

    @abstractmethod
    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Scores from weighted records: weights [draws, examples] (counts) -> one float64 value a draw for each score."""

    def classes(self, records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
        """Scores of each label: `support` (targets that have it) and precision, recall and f1, or ap; none where nothing is labelled."""
        return {}

    def confidences(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray] | None:
        """Probabilities [decisions, classes], as the model gives them, and the right classes [decisions]: what a temperature is
        fitted on. None where the task has no such probabilities."""
        return None

    def temperature(self, strength: float) -> float:
        """That of `calibration` at a strength, between two of them linear in its logarithm; 1 where there is none."""
        if not self.calibration:
            return 1.0
        strengths, temperatures = np.array(self.calibration).T
        return float(np.exp(np.interp(strength, strengths, np.log(temperatures))))

    def calibrated(self, prediction: Prediction, strength: float) -> Prediction:
        """A prediction of the model at a strength whose `render` shows calibrated probabilities. The answer stays."""
        return prediction

    @abstractmethod
    def render(self, prediction: Prediction) -> dict[str, Any]:
        """What the user sees of a prediction: plain JSON values."""

    @abstractmethod
    def render_target(self, example: Any, prediction: Prediction) -> dict[str, Any]:
        """The example's target in the form of `render`, with the probability that the prediction gives it where there is one."""

    def render_input(self, example: Any) -> str:
        """What a reader is shown of an example's input: its text, or its picture's path."""
        return self.picture(example) or next(iter(self.texts(example)), "")

    @abstractmethod
    def altered(self, example: Any, change: Callable[[Sequence[str]], Sequence[str]]) -> Any:
        """The example with what the model reads of it changed and its target kept. `change` gives as many parts as it gets;
        `input_kind` says what they are."""

    @abstractmethod
    def as_reference(self, prediction: Prediction, example: Any) -> Any:
        """The example with the prediction as its target, for agreement."""

    @abstractmethod
    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """KL(base || tuned) of the outputs, summed over units, and the number of units (examples, tokens or queries)."""

    def majority(self, train: Sequence[Any], examples: Sequence[Any]) -> list[Prediction] | None:
        """What one would predict for each from the training targets alone (the commonest label); None where it has no meaning."""
        return None


def dataset(task: Task, base: Base, examples: Sequence[Any]) -> Dataset:
    """Prepare every example once."""
    items: list[Item] = []
    spans: list[range] = []
    for made in task.prepare_all(base, examples):
        spans.append(range(len(items), len(items) + len(made)))
        items.extend(made)
    return Dataset(examples, items, spans)
