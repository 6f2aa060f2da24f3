"""Translation with an encoder-decoder: source text -> target text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.limits import token_limit
from domaintune.data.languages import parsed, same_language
from domaintune.data.rows import Row
from domaintune.data.splits import normal_form
from domaintune.errors import BaseError, DataError, RecipeError
from domaintune.settings import TranslationSettings
from domaintune.tasks.base import Batch, Finding, Item, Keys, Mode, Prediction, Primary, RawPrediction, Record, Task
from domaintune.tasks.bitexts import TranslationExample, bitext_findings
from domaintune.tasks.decoding import Decoding, decode
from domaintune.tasks.text_scores import bleu_tokenizer_for, one_space, reduce_text, text_record
from domaintune.tasks.token_losses import (
    IGNORED,
    disagreements,
    pad_rows,
    row_sums,
    seq2seq_logits,
    token_divergences,
    token_losses,
)

DECODED = frozenset({"chrf", "bleu", "exact_match", "output"})
SCORED = frozenset({"cross_entropy", "perplexity"})
SAMPLE = 500
"""Rows whose targets say how BLEU parts words."""


class Translation(Task):
    """Target text of a source text. Trained on the label-smoothed cross-entropy of the target's tokens, scored by chrF, BLEU and
    exact match of the decoded text and by the plain cross-entropy of the given target."""

    name: ClassVar[str] = "translation"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    primary: ClassVar[Primary] = Primary("chrf", counts=("chrf",))
    scores: ClassVar[tuple[str, ...]] = ("chrf", "bleu", "exact_match", "cross_entropy", "perplexity")
    cross_validates: ClassVar[bool] = False

    settings: TranslationSettings
    max_source_length: int
    max_target_length: int
    bleu_tokenizer: str
    decoder_start_token_id: int
    forced_bos_token_id: int | None
    """The language code that begins every target of a multilingual base."""
    unset_prefixes: tuple[str, ...] = ()
    """Where the settings have none: what the base was trained to read before sources."""

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: TranslationSettings) -> Translation:
        if base.processor.pad_token_id is None:
            raise BaseError("its tokenizer has no padding token.", where=base.name)
        settings.check()
        check_languages(base, settings)
        limit = token_limit(base)
        labels = encode(base, "", settings, target=True)
        start = decoder_inputs(base, torch.tensor([labels]))[0, 0]
        targets = [row.text(settings.target_column) for row in rows[:SAMPLE]]
        return cls(
            settings=settings,
            max_source_length=min(settings.max_source_length, limit),
            max_target_length=min(settings.max_target_length, limit),
            bleu_tokenizer=bleu_tokenizer_for(targets, settings.target_language),
            decoder_start_token_id=int(start),
            # A special token before the text stands before every text: decoding may as well be given it.
            forced_bos_token_id=labels[0] if len(labels) > 1 and labels[0] != base.processor.eos_token_id else None,
            unset_prefixes=trained_prefixes(base, settings) if settings.source_prefix is None else (),
        )

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[TranslationExample]:
        for row in rows:
            source = row.text(self.settings.source_column)
            target = row.text(self.settings.target_column) if labelled else None
            if target is not None and not target.strip():
                raise DataError(
                    f"'{self.settings.target_column}' is empty.",
                    where=row.where,
                    remedy="Translate it, or drop the row.",
                )
            yield TranslationExample(file=row.file, line=row.line, source=source, target=target)

    def from_bare(self, value: str) -> dict[str, Any]:
        return {self.settings.source_column: value}

    def has_target(self, row: Row) -> bool:
        return self.settings.target_column in row.values

    def head(self) -> HeadSpec:
        return HeadSpec(auto_class=self.auto_class)

    def check(self, examples: Sequence[TranslationExample]) -> Iterator[Finding]:
        yield from bitext_findings(examples)
        if self.unset_prefixes:
            told = " or ".join(map(repr, self.unset_prefixes[:3])) + (" or others" if self.unset_prefixes[3:] else "")
            yield Finding(
                "no-source-prefix",
                "warning",
                f"the base was trained on sources that begin with {told}; task.source_prefix says none.",
                (),
                f"--set \"task.source_prefix='{self.unset_prefixes[0]}'\", or what fits your languages.",
                "Without it the base is not told what to do: its own score is too low, and tuning has to teach that too.",
                len(examples),
            )

    def keys(self, example: TranslationExample) -> Keys:
        return Keys(normal_form(example.source), one_space(example.target or ""), "", example.group, example.domain)

    def texts(self, example: TranslationExample) -> tuple[str, ...]:
        return (example.source,) if example.target is None else (example.source, example.target)

    def prepare(self, base: Base, example: TranslationExample) -> tuple[Item, ...]:
        text = (self.settings.source_prefix or "") + example.source
        source = encode(base, text, self.settings, target=False)
        target = encode(base, example.target, self.settings, target=True) if example.target is not None else []
        lost = max(len(target) - self.max_target_length, 0)
        inputs = {"input_ids": cut_middle(base, source, self.max_source_length), "lost": lost}
        targets = {"labels": cut_middle(base, target, self.max_target_length)} if target else {}
        return (Item(inputs, targets, cut=lost > 0 or len(source) > self.max_source_length),)

    @property
    def long_inputs(self) -> str:
        return f"cut after {self.max_source_length} tokens of source and {self.max_target_length} of target"

    @property
    def long_remedy(self) -> str:
        asked = (self.settings.max_source_length, self.settings.max_target_length)
        if asked != (self.max_source_length, self.max_target_length):
            return "Split these rows, or take a base that reads more tokens."
        return "--set task.max_source_length=... and --set task.max_target_length=..., or split these rows."

    def target_tokens(self, items: Sequence[Item]) -> tuple[int, int] | None:
        (item,) = items
        return (len(item.targets["labels"]), item.inputs["lost"]) if item.targets else None

    def cost(self, item: Item) -> int:
        """Source and target tokens."""
        return len(item.inputs["input_ids"]) + len(item.targets.get("labels", ()))

    def decoded_tokens(self, item: Item, wanted: frozenset[str]) -> int:
        return self.decoding().most_tokens(len(item.inputs["input_ids"])) if wanted & DECODED else 0

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        rows = [item.inputs["input_ids"] for item in items]
        inputs = {
            "input_ids": pad_rows(rows, base.processor.pad_token_id),
            "attention_mask": pad_rows([[1] * len(row) for row in rows], 0),
        }
        if mode == "predict":
            return Batch(inputs, {}, items)
        labels = pad_rows([item.targets["labels"] for item in items], IGNORED)
        inputs["decoder_input_ids"] = decoder_inputs(base, labels)
        return Batch(inputs, {"labels": labels}, items)

    def units(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": float((batch.targets["labels"] != IGNORED).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Label-smoothed cross-entropy (that of `torch.nn.functional.cross_entropy`), summed over the target's tokens."""
        logits = seq2seq_logits(model, batch.inputs)
        losses = token_losses(logits, batch.targets["labels"].flatten(), label_smoothing=self.settings.label_smoothing)
        return {"cross_entropy": losses.sum()}

    def disagreement(self, model: nn.Module, first: Any, second: Any, batch: Batch) -> Tensor:
        mask = batch.targets["labels"] != IGNORED
        return disagreements(first.logits[mask], second.logits[mask]).sum()

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        raw: list[dict[str, Any]] = [{} for _ in batch.items]
        if wanted & SCORED and batch.targets:
            labels = batch.targets["labels"]
            with torch.no_grad():
                losses = token_losses(seq2seq_logits(model, batch.inputs), labels.flatten())
            mask = labels != IGNORED
            sums = row_sums(losses.view(labels.shape)[mask], mask)
            for entry, nll, tokens in zip(raw, sums, mask.sum(1).tolist(), strict=True):
                entry.update(nll=nll, tokens=tokens)
        if wanted & DECODED:
            outputs = decode(model, base.processor, batch.inputs, self.decoding())
            for entry, item, output in zip(raw, batch.items, outputs, strict=True):
                entry.update(text=output.text, unfinished=output.unfinished, cut=item.cut)
        return list(raw)

    def decoding(self) -> Decoding:
        """How `predict` makes text: beam search up to `max_target_length` tokens."""
        return Decoding(
            max_new_tokens=self.max_target_length,
            num_beams=self.settings.num_beams,
            length_penalty=self.settings.length_penalty,
            decoder_start_token_id=self.decoder_start_token_id,
            forced_bos_token_id=self.forced_bos_token_id,
        )

    def join(self, example: TranslationExample, raw: Sequence[RawPrediction]) -> Prediction:
        return dict(raw[0])

    def statistics(self, prediction: Prediction, example: TranslationExample) -> Record:
        return text_record(prediction, example.target or "", bleu_tokenizer=self.bleu_tokenizer)

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        return reduce_text(records, weights)

    def altered(
        self, example: TranslationExample, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> TranslationExample:
        return replace(example, source=change([example.source])[0])

    def render(self, prediction: Prediction) -> dict[str, Any]:
        return {"translation": prediction["text"]}

    def render_target(self, example: TranslationExample, prediction: Prediction) -> dict[str, Any]:
        return {"translation": example.target or ""}

    def as_reference(self, prediction: Prediction, example: TranslationExample) -> TranslationExample:
        return replace(example, target=prediction["text"])

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        mask = (batch.targets["labels"] != IGNORED).flatten()
        ours = seq2seq_logits(tuned, batch.inputs)[mask]
        with torch.no_grad():
            theirs = seq2seq_logits(base_model, batch.inputs)[mask]
        return token_divergences(ours, theirs).sum(), float(mask.sum())


def is_multilingual(base: Base) -> bool:
    """Whether its tokenizer has to be told the languages."""
    return hasattr(base.processor, "src_lang")


def check_languages(base: Base, settings: TranslationSettings) -> None:
    """Language codes given where the tokenizer wants them, and known to it.

    Raises:
        RecipeError: a code is missing or unknown.
    """
    given = (settings.source_language, settings.target_language)
    if not is_multilingual(base):
        return  # they name the languages of the data alone
    for key, code in zip(("source_language", "target_language"), given, strict=True):
        if code is None:
            raise RecipeError(
                f"'{base.name}' is multilingual.",
                where=f"task.{key}",
                remedy="Give both language codes as its tokenizer knows them.",
            )
        try:
            ids = encode(base, "", settings, target=key == "target_language")
        except KeyError:
            ids = [base.processor.unk_token_id]
        if base.processor.unk_token_id in ids:
            raise RecipeError(f"the tokenizer of '{base.name}' does not know '{code}'.", where=f"task.{key}")


def trained_prefixes(base: Base, settings: TranslationSettings) -> tuple[str, ...]:
    """What a base of several tasks or targets reads before a source, for the settings' languages as far as these are given: what a T5's
    configuration says, a Marian's marks of target languages, or MADLAD's."""
    source, target, tokenizer = settings.source_language, settings.target_language, base.processor
    found: list[str] = []
    for name, values in (getattr(base.model.config, "task_specific_params", None) or {}).items():
        pair = re.fullmatch(r"translation_(\w+?)_to_(\w+)", name)
        named = zip((source, target), pair.groups(), strict=True) if pair else ()
        if pair and all(code is None or same_language(code, own) for code, own in named) and values.get("prefix"):
            found.append(values["prefix"])
    marks = tokenizer.supported_language_codes if hasattr(tokenizer, "supported_language_codes") else ()
    fitting = [mark for mark in marks if target is None or same_language(mark.strip("<>"), target)]
    found += [f"{mark} " for mark in fitting or marks]
    code = parsed(target).language if target else "en"
    if tokenizer.convert_tokens_to_ids(f"<2{code}>") not in (None, tokenizer.unk_token_id):
        found.append(f"<2{code}> ")
    return tuple(found)


def encode(base: Base, text: str, settings: TranslationSettings, *, target: bool) -> list[int]:
    """Ids of a source or target text, special tokens and language codes included, not cut. A target ends with the end token also where the
    tokenizer puts none.

    Tokenizers keep their languages as state: both are set before each use, since two tasks may share one tokenizer.

    Raises:
        BaseError: the tokenizer has no token that could end a target.
    """
    tokenizer = base.processor
    if is_multilingual(base):
        for attribute, code in (("src_lang", settings.source_language), ("tgt_lang", settings.target_language)):
            if code is not None and getattr(tokenizer, attribute) != code:
                setattr(tokenizer, attribute, code)
    encoded = tokenizer(text_target=text) if target else tokenizer(text)
    ids: list[int] = encoded["input_ids"]
    if not target:
        return ids
    ends = [end for end in (tokenizer.eos_token_id, tokenizer.sep_token_id) if end is not None]
    if not ends:
        raise BaseError("its tokenizer has no end token, so that no translation could end.", where=base.name)
    return ids if set(ends) & set(ids[-2:]) else [*ids, ends[0]]  # a language code may stand behind the end


def cut_middle(base: Base, ids: list[int], limit: int) -> list[int]:
    """At most `limit` ids: the end of the text is cut, the special tokens after it stay."""
    if len(ids) <= limit:
        return ids
    processor: Any = base.processor
    special = set(processor.all_special_ids)
    if processor.unk_token_id != processor.eos_token_id:
        special.discard(processor.unk_token_id)  # it is text: what the vocabulary lacks may stand at the end
    tail = 0
    while tail < limit and ids[-1 - tail] in special:
        tail += 1
    return ids[: limit - tail] + ids[len(ids) - tail :]


def decoder_inputs(base: Base, labels: Tensor) -> Tensor:
    """Labels [batch, length] (IGNORED as padding) shifted right by the model's own rule; M2M100 and NLLB, which name none, start
    from their configuration's `decoder_start_token_id`."""
    model: Any = base.model
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: Tensor = model.prepare_decoder_input_ids_from_labels(labels=labels)
        return shifted
    start = model.config.decoder_start_token_id
    if start is None:
        raise BaseError("its configuration names no decoder_start_token_id.", where=base.name)
    shifted = torch.cat([labels.new_full((len(labels), 1), start), labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, base.processor.pad_token_id)
