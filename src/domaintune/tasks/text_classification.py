"""Text classification: sentiment, topics, intents; one label a row or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from domaintune.bases.base import Base
from domaintune.bases.limits import token_limit
from domaintune.data.rows import Row
from domaintune.data.splits import normal_form
from domaintune.errors import BaseError, DataError
from domaintune.settings import TextClassificationSettings
from domaintune.tasks.base import Batch, Finding, Item, Keys, Mode
from domaintune.tasks.classification import (
    Classification,
    LabelledExample,
    class_weights,
    label_index,
    label_map,
    multi_hot,
)
from domaintune.tasks.word_windows import require_fast

DEFAULT_MAX_LENGTH = 512
AT_ONCE = 1000
"""Texts that are tokenised together."""


@dataclass(frozen=True, kw_only=True)
class TextExample(LabelledExample):
    text: str


class TextClassification(Classification):
    """Labels of a text. Of texts longer than `max_length` tokens the first or last tokens are read (`long_texts`), or all in windows,
    whose probabilities are averaged; in training each window carries the text's label with its share of one row's weight."""

    name: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    max_length: int
    long_texts: Literal["windows", "head", "tail"] = "windows"
    text_column: str
    label_column: str
    label_separator: str

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: TextClassificationSettings) -> TextClassification:
        if base.processor.pad_token_id is None:
            raise BaseError("its tokenizer has no padding token, and no end token for one.", where=base.name)
        draft = cls(
            labels=(),
            multi_label=settings.multi_label,
            max_length=min(settings.max_length or DEFAULT_MAX_LENGTH, token_limit(base)),
            long_texts=settings.long_texts,
            text_column=settings.text_column,
            label_column=settings.label_column,
            label_separator=settings.label_separator,
            weights=None,
        )
        found = [(name, row.where) for row in rows for name in draft._label_names(row)]
        names = [name for name, _ in found]
        labels = label_map(names, given=settings.labels, where=rows[0].file if rows else "train")
        targets = [label_index(name, labels, where=where) for name, where in found]
        weights = class_weights(targets, count=len(labels), kind=settings.class_weights)
        return draft.model_copy(update={"labels": labels, "weights": weights})

    def _label_names(self, row: Row) -> list[str]:
        column, value = self.label_column, row.values.get(self.label_column)
        if isinstance(value, list) and not self.multi_label and len(value) != 1:
            raise DataError(
                f"'{column}' holds {len(value)} labels.",
                where=row.where,
                remedy="Give one, or say that rows may have several: --set task.multi_label=true.",
            )
        if isinstance(value, list):  # of one label too, as doccano writes it
            names = [replace(row, values={column: entry}).name(column) for entry in value]
        elif self.multi_label and isinstance(value, str):
            names = [part.strip() for part in value.split(self.label_separator)]
        else:
            names = [row.name(column)]
        found = [name for name in names if name]
        if not found and (value is None or not self.multi_label):
            raise DataError(f"'{column}' is empty.", where=row.where, remedy="Give a label, or drop the row.")
        return found

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[TextExample]:
        for row in rows:
            text = row.text(self.text_column)
            if not text.strip():
                raise DataError(
                    f"'{self.text_column}' is empty.", where=row.where, remedy="Give a text, or drop the row."
                )
            names = self._label_names(row) if labelled else []
            labels = tuple(sorted({label_index(name, self.labels, where=row.where) for name in names}))
            yield TextExample(file=row.file, line=row.line, text=text, labels=labels)

    def from_bare(self, value: str) -> dict[str, Any]:
        return {self.text_column: value}

    def has_target(self, row: Row) -> bool:
        value = row.values.get(self.label_column)
        if isinstance(value, list):
            return self.multi_label or any(entry not in (None, "") for entry in value)
        return value is not None and (self.multi_label or not isinstance(value, str) or bool(value.strip()))

    def check(self, examples: Sequence[TextExample]) -> Iterator[Finding]:
        yield from self._rare(examples, unit="rows", remedy="Label more rows of these classes")
        marks = Counter(mark for name in self.labels for mark in ",;|#/" if mark in name)
        joined = [name for name in self.labels if any(mark in name for mark in marks)]
        if self.multi_label and joined and all(len(example.labels) < 2 for example in examples):
            yield Finding(
                "joined-labels",
                "warning",
                f"no row has two labels, but labels look like several in one: {', '.join(map(repr, joined[:5]))}.",
                (),
                f"Say what separates the labels of a cell: --set \"task.label_separator='{marks.most_common(1)[0][0]}'\".",
                "Each combination is learned as a label of its own.",
                len(joined),
            )

    def keys(self, example: TextExample) -> Keys:
        names = tuple(self.labels[index] for index in example.labels)
        target = self.label_separator.join(names)
        return Keys(normal_form(example.text), target, target, example.group, example.domain, names)

    def texts(self, example: TextExample) -> tuple[str, ...]:
        return (example.text,)

    def prepare(self, base: Base, example: TextExample) -> tuple[Item, ...]:
        return next(iter(self.prepare_all(base, [example])))

    def prepare_all(self, base: Base, examples: Sequence[TextExample]) -> Iterator[tuple[Item, ...]]:
        if self.long_texts != "windows":
            yield from ((self._end(base, example),) for example in examples)
            return
        require_fast(base.processor, instead="Read one end of long texts (--set task.long_texts=head or tail), or use")
        for first in range(0, len(examples), AT_ONCE):
            chunk = examples[first : first + AT_ONCE]
            texts = [example.text for example in chunk]
            encoded = base.processor(
                texts, truncation=True, max_length=self.max_length, return_overflowing_tokens=True,
                return_attention_mask=False, **_ends_as_text(base),
            )  # fmt: skip
            names, counts = _input_names(base, encoded), Counter(encoded["overflow_to_sample_mapping"])
            at = 0
            for place, example in enumerate(chunk):
                count = counts[place]
                target = {"target": multi_hot(example.labels, len(self.labels)), "scale": 1.0 / count}
                windows = enumerate(range(at, at + count))
                yield tuple(Item({name: encoded[name][row] for name in names}, target, part) for part, row in windows)
                at += count

    def _end(self, base: Base, example: TextExample) -> Item:
        """The first or last tokens of the text between the special ones."""
        encoded = base.processor(example.text, return_special_tokens_mask=True, verbose=False, **_ends_as_text(base))
        special = encoded["special_tokens_mask"]
        inner = [place for place, is_special in enumerate(special) if not is_special]
        room = max(self.max_length - (len(special) - len(inner)), 0)
        dropped = set(inner[room:] if self.long_texts == "head" else inner[: max(len(inner) - room, 0)])
        kept = [place for place in range(len(special)) if place not in dropped]
        inputs = {name: [encoded[name][place] for place in kept] for name in _input_names(base, encoded)}
        target = {"target": multi_hot(example.labels, len(self.labels)), "scale": 1.0}
        return Item(inputs, target, cut=bool(dropped))

    @property
    def long_inputs(self) -> str:
        if self.long_texts == "windows":
            return "taken in windows, whose scores are averaged"
        return f"cut to their {'first' if self.long_texts == 'head' else 'last'} {self.max_length} tokens"

    @property
    def long_remedy(self) -> str:
        if self.long_texts == "windows":
            return "--set task.long_texts=head (or tail) reads one end of them alone, which is faster."
        return "--set task.long_texts=windows reads all of them."

    def cost(self, item: Item) -> int:
        return len(item.inputs["input_ids"])

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = base.processor.pad([dict(item.inputs) for item in items], padding=True, return_tensors="pt")
        targets: dict[str, Any] = {}
        if mode != "predict":
            targets = {
                "target": torch.from_numpy(np.stack([item.targets["target"] for item in items])),
                "scale": torch.tensor([item.targets["scale"] for item in items], dtype=torch.float32),
            }
        return Batch(dict(inputs), targets, items)

    def altered(self, example: TextExample, change: Callable[[Sequence[str]], Sequence[str]]) -> TextExample:
        return replace(example, text=change([example.text])[0])


def _ends_as_text(base: Base) -> dict[str, bool]:
    """Encoder-decoders classify at the end token, of which every row must have one: what looks like one in a text (</s>, HTML's strike)
    is text."""
    return {"split_special_tokens": True} if getattr(base.config, "is_encoder_decoder", False) else {}


def _input_names(base: Base, encoded: Mapping[str, Any]) -> list[str]:
    return [name for name in base.processor.model_input_names if name in encoded and name != "attention_mask"]
