"""Token classification: names of entities in running text, one BIO tag a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.limits import token_limit
from domaintune.data.rows import Row
from domaintune.data.splits import normal_form
from domaintune.data.tag_schemes import Scheme, to_bio
from domaintune.data.words import word_spans
from domaintune.errors import DataError, RecipeError
from domaintune.settings import TokenClassificationSettings
from domaintune.tasks.base import (
    Batch,
    Example,
    Finding,
    Item,
    Keys,
    Mode,
    Prediction,
    Primary,
    RawPrediction,
    Record,
    Task,
)
from domaintune.tasks.classification import class_scores, class_weights, shown, with_shown
from domaintune.tasks.tag_chains import Transitions, between, likeliest, marginals, transitions_of
from domaintune.tasks.tag_findings import tag_findings
from domaintune.tasks.tag_sequences import (
    OUTSIDE,
    broken_positions,
    entity_counts,
    is_tag,
    reduce_entities,
    rendered,
    scheme_of,
    span_probability,
    tagged_characters,
    tags_of,
    unknown_tag,
)
from domaintune.tasks.token_losses import IGNORED, disagreements, token_divergences, wide
from domaintune.tasks.word_windows import tokenize_words, windows

DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class TokenExample(Example):
    tokens: tuple[str, ...]
    """Words, whatever a tokenizer makes of them."""
    tags: tuple[int, ...]
    """Positions in the task's tag list; empty for an unlabelled row."""
    by_base: bool = False
    """The tags are the base's answer: another model that finds no entity either agrees with it."""


class TokenClassification(Task):
    """Entities as BIO tags. A word's tag stands on its first token. Texts longer than `max_length` tokens become windows that share
    `stride` tokens; each word is trained, scored and predicted in one of them alone.

    Scores are strict: an entity counts when type and both ends agree, and I-X that continues nothing is no entity.
    """

    name: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    primary: ClassVar[Primary] = Primary("f1", counts=("hits", "predicted", "target"))
    scores: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "macro_f1", "token_accuracy", "log_loss")
    input_kind: ClassVar[Literal["words"]] = "words"

    tags: tuple[str, ...]
    types: tuple[str, ...]
    """Entity types, the commonest first: a row's stratum is its rarest."""
    max_length: int
    stride: int
    tokens_column: str
    tags_column: str
    weights: tuple[float, ...] | None
    scored: tuple[str, ...] | None = None
    """The types that count in scores; None: all."""
    scheme: Scheme = "BIO"
    """Of `tags`: another one where a base's own head has it, whose answers alone are read."""
    decoding: Literal["viterbi", "greedy"] = "greedy"
    """Of words' probabilities to tags: the likeliest valid sequence, or the likeliest tag of each word."""
    transitions: Transitions | None = None
    """Of the trained head, learned from the train part; at strength 0 those of the head to start from, `first_transitions`."""
    first_transitions: Transitions | None = None

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: TokenClassificationSettings) -> TokenClassification:
        max_length = min(settings.max_length or DEFAULT_MAX_LENGTH, token_limit(base))
        room = max_length - base.processor.num_special_tokens_to_add()
        if room < 1:
            raise RecipeError(
                f"{max_length} tokens leave no room for words.", where="task.max_length", remedy="Raise it."
            )
        draft = cls(
            tags=(),
            types=(),
            max_length=max_length,
            stride=min(settings.stride, room // 2),  # windows must move on, also where the base takes few tokens
            tokens_column=settings.tokens_column,
            tags_column=settings.tags_column,
            weights=None,
            decoding=settings.decoding,
        )
        found = Counter(tag for row in rows for tag in draft._tag_names(row, len(draft._tokens(row))))
        mentions = Counter({tag[2:]: 0 for tag in found if tag != OUTSIDE})
        mentions.update({tag[2:]: count for tag, count in found.items() if tag[0] == "B"})
        names = tuple(sorted(mentions)) if settings.labels is None else tuple(dict.fromkeys(settings.labels))
        if not names:
            raise DataError(
                "no entity in any row: every tag is O.",
                where=rows[0].file if rows else "train",
                remedy=f"Check the column '{settings.tags_column}'.",
            )
        tags = tags_of(names)
        targets = [index for index, tag in enumerate(tags) for _ in range(found[tag])]
        return draft.model_copy(
            update={
                "tags": tags,
                "types": tuple(sorted(names, key=lambda name: -mentions[name])),
                "weights": class_weights(targets, count=len(tags), kind=settings.class_weights),
            }
        )

    def _texts(self, row: Row, column: str) -> list[str]:
        if column not in row.values:
            raise DataError(f"no column '{column}' (columns: {', '.join(row.values) or 'none'}).", where=row.where)
        value = row.values[column]
        if not isinstance(value, list) or any(not isinstance(entry, str) for entry in value):
            raise DataError(
                f"'{column}' must be a list of texts.", where=row.where, remedy=f'Write "{column}": ["...", "..."].'
            )
        return value

    def _tokens(self, row: Row) -> list[str]:
        tokens = self._texts(row, self.tokens_column)
        if not tokens:
            raise DataError(f"'{self.tokens_column}' is empty.", where=row.where, remedy="Drop the row.")
        return tokens

    def _tag_names(self, row: Row, count: int) -> list[str]:
        tags = self._texts(row, self.tags_column)
        if len(tags) != count:
            raise DataError(f"{count} tokens but {len(tags)} tags.", where=row.where, remedy="Give one tag a token.")
        for tag in tags:
            if not is_tag(tag):
                raise DataError(f"'{tag}' is no BIO tag.", where=row.where, remedy="Tags are O, B-TYPE and I-TYPE.")
        return tags

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[TokenExample]:
        index = {tag: position for position, tag in enumerate(self.tags)}
        for row in rows:
            tokens = self._tokens(row)
            names = self._tag_names(row, len(tokens)) if labelled else []
            unknown = next((name for name in names if name not in index), None)
            if unknown is not None:
                raise unknown_tag(unknown, self.tags, self.types, where=row.where)
            tags = tuple(index[name] for name in names)
            yield TokenExample(file=row.file, line=row.line, tokens=tuple(tokens), tags=tags)

    def from_bare(self, value: str) -> dict[str, Any]:
        """Words and single punctuation marks; Chinese and Japanese characters one by one."""
        return {self.tokens_column: [value[start:end] for start, end in word_spans(value)]}

    def has_target(self, row: Row) -> bool:
        return self.tags_column in row.values

    def head(self) -> HeadSpec:
        return HeadSpec(auto_class=self.auto_class, labels=self.tags)

    def relabelled(self, labels: Sequence[str]) -> TokenClassification:
        """Raises DataError where `labels` are neither BIO tags nor O and types alone (IO)."""
        scheme, found = scheme_of(labels)
        types = (*(name for name in self.types if name in found), *sorted(found - set(self.types)))
        unlearned = dict.fromkeys(("weights", "transitions", "first_transitions"))
        return self.model_copy(update={"tags": tuple(labels), "types": types, "scheme": scheme, **unlearned})

    def scoring(self, labels: Sequence[str]) -> TokenClassification:
        return self.model_copy(update={"scored": tuple(labels)})

    def _scored_names(self, tags: Iterable[int]) -> list[str]:
        """Tags as the head calls them, O in place of those of types that do not count."""
        names, start = [self.tags[index] for index in tags], 0 if self.scheme == "IO without I-" else 2
        return names if self.scored is None else [name if name[start:] in self.scored else OUTSIDE for name in names]

    @property
    def _scored_types(self) -> tuple[str, ...]:
        return self.types if self.scored is None else tuple(name for name in self.types if name in self.scored)

    def _names(self, tags: Iterable[int]) -> list[str]:
        """As BIO."""
        return to_bio([self.tags[index] for index in tags], self.scheme)

    def fitted(
        self, train: Sequence[TokenExample], base: Base, *, start: Sequence[TokenExample] = ()
    ) -> TokenClassification:
        weights, first, learned = self.weights, None, None
        if weights is not None:
            weights = class_weights([tag for e in train for tag in e.tags], count=len(self.tags), kind="balanced")
        if self._as_sequence:
            own = base.own_transitions
            learned = transitions_of(self._names(e.tags) for e in train) if train else own
            first = own if base.owns(self.head()) else transitions_of(self._names(e.tags) for e in start or train)
        return self.model_copy(update={"weights": weights, "transitions": learned, "first_transitions": first})

    @property
    def _as_sequence(self) -> bool:
        """Not where a head lacks the B-TYPE of an I-TYPE, which could follow nothing."""
        return (
            self.decoding == "viterbi"
            and self.scheme == "BIO"
            and all(f"B{tag[1:]}" in self.tags for tag in self.tags if tag != OUTSIDE)
        )

    def _readable(self, tags: Sequence[int]) -> np.ndarray:
        """Targets, O where an I-TYPE continues nothing: no sequence has it."""
        made = np.array(tags)
        if self._as_sequence:
            made[broken_positions(self._names(tags))] = self.tags.index(OUTSIDE)
        return made

    def at(self, strength: float) -> TokenClassification:
        if self.transitions == self.first_transitions:
            return self
        made = between(self.first_transitions, self.transitions, strength)
        return self.model_copy(update={"transitions": made, "first_transitions": made})

    def check(self, examples: Sequence[TokenExample]) -> Iterator[Finding]:
        return tag_findings([(e.where, e.tokens, self._names(e.tags)) for e in examples], self.types)

    def keys(self, example: TokenExample) -> Keys:
        names = self._names(example.tags)
        present = {name[2:] for name in names if name != OUTSIDE}
        stratum = next((name for name in reversed(self.types) if name in present), "none")
        source, types = normal_form(" ".join(example.tokens)), tuple(sorted(present))
        agreed = tagged_characters(example.tokens, names)
        return Keys(source, " ".join(names), stratum, example.group, example.domain, types, agreed=agreed)

    def texts(self, example: TokenExample) -> tuple[str, ...]:
        return (" ".join(example.tokens),)

    def prepare(self, base: Base, example: TokenExample) -> tuple[Item, ...]:
        tokens = tokenize_words(base.processor, example.tokens)
        tags = np.asarray(example.tags, dtype=np.int64)
        return tuple(
            Item(
                {"input_ids": window.ids, "words": window.words, "positions": window.positions},
                {"tags": tags[window.words] if len(tags) else tags},
                part,
            )
            for part, window in enumerate(windows(tokens, max_length=self.max_length, stride=self.stride))
        )

    @property
    def long_inputs(self) -> str:
        return f"taken in windows that share {self.stride} tokens; each word is judged in one of them"

    @property
    def long_remedy(self) -> str:
        return "Nothing is lost; --set task.stride=... gives words at the cuts more context."

    def cost(self, item: Item) -> int:
        return len(item.inputs["input_ids"])

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        shape = (len(items), max(len(item.inputs["input_ids"]) for item in items))
        ids = np.full(shape, base.processor.pad_token_id or 0, dtype=np.int64)  # padding is masked, whatever it is
        mask = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        for row, item in enumerate(items):
            count = len(item.inputs["input_ids"])
            ids[row, :count] = item.inputs["input_ids"]
            mask[row, :count] = 1
            if mode != "predict":
                labels[row, item.inputs["positions"]] = item.targets["tags"]
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return Batch(inputs, {} if mode == "predict" else {"labels": torch.from_numpy(labels)}, items)

    def units(self, batch: Batch) -> dict[str, float]:
        labels = batch.targets["labels"]
        labels = labels[labels != IGNORED]
        if self.weights is None:
            return {"word": float(len(labels))}
        return {"word": float(torch.tensor(self.weights, dtype=torch.float64, device=labels.device)[labels].sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = wide(model(**batch.inputs).logits)
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        labels = batch.targets["labels"].reshape(-1)
        flat = logits.reshape(-1, logits.shape[-1])
        return {"word": functional.cross_entropy(flat, labels, weight=weights, ignore_index=IGNORED, reduction="sum")}

    def disagreement(self, model: nn.Module, first: Any, second: Any, batch: Batch) -> Tensor:
        return disagreements(_word_rows(first.logits, batch), _word_rows(second.logits, batch)).sum()

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        rows = _word_rows(model(**batch.inputs).logits, batch).double().softmax(-1).cpu().numpy()
        ends = np.cumsum([len(item.inputs["positions"]) for item in batch.items])
        pieces = np.split(rows, ends[:-1])
        return [
            {"probability": piece, "words": item.inputs["words"]}
            for piece, item in zip(pieces, batch.items, strict=True)
        ]

    def join(self, example: TokenExample, raw: Sequence[RawPrediction]) -> Prediction:
        probability = np.zeros((len(example.tokens), len(self.tags)))
        for part in raw:
            probability[part["words"]] = part["probability"]
        chosen = probability.argmax(1)
        if self._as_sequence:
            chosen = likeliest(probability, self.tags, self.transitions)
            probability = marginals(probability, self.tags, self.transitions)
        return {"probability": probability, "tokens": example.tokens, "chosen": chosen}

    def statistics(self, prediction: Prediction, example: TokenExample) -> Record:
        probability = np.asarray(prediction["probability"])
        tags = self._readable(example.tags)
        found, true = self._scored_names(prediction["chosen"]), self._scored_names(tags)
        names = np.array(self._scored_names(range(len(self.tags))))  # of tags that do not count: outside
        right = np.where(names == np.array(true)[:, None], probability, 0.0).sum(1)
        return {
            **entity_counts(to_bio(found, self.scheme), to_bio(true, self.scheme), self._scored_types),
            "words": np.asarray(len(tags)),
            "correct_words": np.asarray(sum(a == b for a, b in zip(found, true, strict=True))),
            "log_loss": np.asarray(-np.log(np.clip(right, np.finfo(np.float64).eps, 1.0)).sum()),
            "probability": probability,
            "tags": tags,
            **({"by_base": np.asarray(True)} if example.by_base else {}),
        }

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.asarray(weights, dtype=np.float64)
        words, correct, loss = (
            weights @ np.array([record[name] for record in records]) for name in ("words", "correct_words", "log_loss")
        )
        return {**reduce_entities(records, weights), "token_accuracy": correct / words, "log_loss": loss / words}

    def classes(self, records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
        hits, guesses, truths = (sum(record[name] for record in records) for name in ("hits", "predicted", "target"))
        return class_scores(self._scored_types, np.asarray(hits), np.asarray(guesses), np.asarray(truths))

    def confidences(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """Word by word."""
        return (
            np.concatenate([record["probability"] for record in records]),
            np.concatenate([record["tags"] for record in records]),
        )

    def calibrated(self, prediction: Prediction, strength: float) -> Prediction:
        return with_shown(prediction, self.temperature(strength))

    def altered(self, example: TokenExample, change: Callable[[Sequence[str]], Sequence[str]]) -> TokenExample:
        return replace(example, tokens=tuple(change(example.tokens)))

    def render(self, prediction: Prediction) -> dict[str, Any]:
        """`tags`, one a word, and `entities` with type, start, end (words, exclusive), text and score (see `span_probability`)."""
        chosen = np.asarray(prediction["chosen"])
        made = rendered(self._names(chosen), prediction["tokens"])
        for entity in made["entities"]:
            place = {"start": entity["start"], "end": entity["end"]}
            entity["score"] = span_probability(shown(prediction), chosen, self.tags, **place)
        return made

    def render_target(self, example: TokenExample, prediction: Prediction) -> dict[str, Any]:
        return rendered(self._names(example.tags), example.tokens)

    def as_reference(self, prediction: Prediction, example: TokenExample) -> TokenExample:
        tags = tuple(int(index) for index in prediction["chosen"])
        return replace(example, tags=tags, by_base=True)

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """Over words."""
        ours, theirs = (_word_rows(model(**batch.inputs).logits, batch) for model in (tuned, base_model))
        return token_divergences(ours, theirs).sum(), float(len(ours))

    def majority(self, train: Sequence[TokenExample], examples: Sequence[TokenExample]) -> list[Prediction]:
        """Every word outside."""
        outside = np.eye(len(self.tags))[self.tags.index(OUTSIDE)]
        pairs = ((np.tile(outside, (len(example.tokens), 1)), example.tokens) for example in examples)
        return [{"probability": rows, "tokens": tokens, "chosen": rows.argmax(1)} for rows, tokens in pairs]


def _word_rows(logits: Tensor, batch: Batch) -> Tensor:
    """[batch, length, tags] -> the rows of the words that each item speaks for, item by item: [words, tags]."""
    rows = np.concatenate([np.full(len(item.inputs["positions"]), row) for row, item in enumerate(batch.items)])
    positions = np.concatenate([item.inputs["positions"] for item in batch.items])
    return logits[torch.from_numpy(rows).to(logits.device), torch.from_numpy(positions).to(logits.device)]
