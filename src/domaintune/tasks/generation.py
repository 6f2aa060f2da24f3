"""Generation with a causal language model: completions of prompts, or the style of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.limits import token_limit
from domaintune.data.rows import Row
from domaintune.data.splits import normal_form
from domaintune.errors import BaseError, DataError, RecipeError
from domaintune.recipe import GenerationSettings
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
from domaintune.tasks.chat_rendering import ASSISTANT, Messages, has_template, messages_of, rendered
from domaintune.tasks.decoding import Decoding, decode
from domaintune.tasks.text_scores import one_space, reduce_text, text_record
from domaintune.tasks.token_losses import IGNORED, causal_divergences, causal_losses, pad_rows, row_sums

DEFAULT_MAX_LENGTH = 1024
SCORED = frozenset({"cross_entropy", "perplexity"})
FILL = 0.95
"""Share of `max_length` that a block of plain text aims at: its length in tokens is only estimated when it is cut."""
SAMPLE_CHARACTERS = 200_000


@dataclass(frozen=True, kw_only=True)
class PromptExample(Example):
    prompt: str
    completion: str | None
    """None for a row without a target."""
    messages: Messages = ()
    """The conversation, where the row is one; `prompt` and `completion` are then its contents."""


@dataclass(frozen=True, kw_only=True)
class TextExample(Example):
    """A block of running text; `line` is where it starts."""

    text: str


GenerationExample = PromptExample | TextExample


class Generation(Task):
    """Continuation of a text. Rows are a prompt with its completion (the loss is on the completion and the end token alone), or
    plain text, whose consecutive rows are packed into blocks of about `max_length` tokens. Scored by the cross-entropy of the
    given tokens, and for completions by the exact match of what is generated."""

    name: ClassVar[str] = "generation"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    primary: ClassVar[Primary] = Primary("cross_entropy", higher_is_better=False)
    long_inputs: ClassVar[str] = "cut at the limit, prompts from the left"
    scores: ClassVar[tuple[str, ...]] = ("cross_entropy", "perplexity", "exact_match")
    cross_validates: ClassVar[bool] = False

    settings: GenerationSettings
    max_length: int
    context_length: int
    """Tokens that the base can take."""
    characters_per_token: float
    front_ids: tuple[int, ...]
    """Special tokens that the tokenizer puts before every text."""
    start_id: int
    """Stands before the first token where nothing else does."""
    end_id: int

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: GenerationSettings) -> Generation:
        if not rows:
            raise DataError("no rows to build the task from.", where=cls.name)
        if settings.sample and settings.num_beams > 1:
            raise RecipeError(
                f"got sample=true with num_beams={settings.num_beams}.",
                where="task.sample",
                remedy="Sample with num_beams=1, or search with sample=false.",
            )
        tokenizer = base.processor
        if tokenizer.eos_token_id is None:
            raise BaseError("its tokenizer has no end token, so that no completion could end.", where=base.name)
        limit = token_limit(base)
        start = tokenizer.bos_token_id
        return cls(
            contiguous=all(is_plain(row, settings) for row in rows),
            settings=settings,
            max_length=min(settings.max_length or DEFAULT_MAX_LENGTH, limit),
            context_length=limit,
            characters_per_token=_characters_per_token(base, rows, settings),
            front_ids=front_ids(tokenizer),
            start_id=tokenizer.eos_token_id if start is None else start,
            end_id=tokenizer.eos_token_id,
        )

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[GenerationExample]:
        chats = self.settings.messages_column
        kinds = groupby(rows, key=lambda row: (is_plain(row, self.settings), row.file, chats in row.values))
        for (plain, _, chat), run in kinds:
            if chat:
                yield from (self._chat(row, labelled=labelled) for row in run)
            elif plain and labelled:
                yield from self._blocks(run)
            else:
                column = self.settings.text_column if plain else self.settings.prompt_column
                yield from (self._pair(row, column, labelled=labelled) for row in run)

    def _pair(self, row: Row, column: str, *, labelled: bool) -> PromptExample:
        prompt = row.text(column)
        completion = row.text(self.settings.completion_column) if labelled else None
        if completion is not None and not completion.strip():
            raise DataError(
                f"'{self.settings.completion_column}' is empty.", where=row.where, remedy="Write it, or drop the row."
            )
        return PromptExample(file=row.file, line=row.line, prompt=prompt, completion=completion)

    def _chat(self, row: Row, *, labelled: bool) -> PromptExample:
        messages = messages_of(row, self.settings.messages_column)
        answered = messages[-1][0] == ASSISTANT
        if labelled and not answered:
            raise DataError("the last message is no answer.", where=row.where, remedy="Add it, or drop the row.")
        before = messages[:-1] if answered else messages
        return PromptExample(
            file=row.file,
            line=row.line,
            prompt="\n".join(content for _, content in before),
            completion=messages[-1][1] if answered and labelled else None,
            messages=messages if labelled else before,
        )

    def _blocks(self, rows: Iterable[Row]) -> Iterator[TextExample]:
        """Consecutive rows of one file as blocks; put together they are the text that `with_breaks` gives."""
        limit = max(int(self.max_length * self.characters_per_token * FILL), 1)
        blocks: list[TextExample] = []
        for row, text in with_breaks(rows, self.settings.text_column):
            for piece in pieces(text, limit):
                if not blocks or len(blocks[-1].text) + len(piece) > limit:
                    blocks.append(TextExample(file=row.file, line=row.line, text=""))
                blocks[-1] = replace(blocks[-1], text=blocks[-1].text + piece)
        if len(blocks) > 1 and len(blocks[-1].text) < limit / 8:  # too short to be worth an example of its own
            rest = blocks.pop()
            blocks[-1] = replace(blocks[-1], text=blocks[-1].text + rest.text)
        return iter(blocks)

    def from_bare(self, value: str) -> dict[str, Any]:
        return {self.settings.prompt_column: value}

    def has_target(self, row: Row) -> bool:
        if self.settings.messages_column in row.values:
            return messages_of(row, self.settings.messages_column)[-1][0] == ASSISTANT
        return is_plain(row, self.settings) or self.settings.completion_column in row.values

    def head(self) -> HeadSpec:
        return HeadSpec(auto_class=self.auto_class)

    def check(self, examples: Sequence[GenerationExample]) -> Iterator[Finding]:
        pairs = [example for example in examples if isinstance(example, PromptExample)]
        if rows := tuple(e.where for e in pairs if not e.prompt.strip()):
            yield Finding(
                "empty-prompt", "warning", f"{len(rows)} rows have no prompt.", rows, "Write one, or drop the row."
            )
        if rows := tuple(e.where for e in pairs if e.completion and one_space(e.prompt) == one_space(e.completion)):
            message = f"{len(rows)} rows have a completion equal to the prompt."
            yield Finding("echo", "warning", message, rows, "Write the answer, or drop the row.")
        size = self.max_length * self.characters_per_token
        if rows := tuple(e.where for e in pairs if len(e.prompt) + len(e.completion or "") > size):
            message = (
                f"{len(rows)} rows seem longer than {self.max_length} tokens; the start of their prompts would be cut."
            )
            yield Finding("long-row", "warning", message, rows, "Shorten them, or raise max_length.")
        if rows := tuple(e.where for e in examples if isinstance(e, TextExample) and not e.text.strip()):
            yield Finding("blank-text", "warning", f"{len(rows)} blocks hold white space alone.", rows, "Drop them.")

    def keys(self, example: GenerationExample) -> Keys:
        if isinstance(example, TextExample):
            return Keys(normal_form(example.text), "", "", example.group, example.domain)
        return Keys(normal_form(example.prompt), one_space(example.completion or ""), "", example.group, example.domain)

    def texts(self, example: GenerationExample) -> tuple[str, ...]:
        if isinstance(example, TextExample):
            return (example.text,)
        return (example.prompt,) if example.completion is None else (example.prompt, example.completion)

    def prepare(self, base: Base, example: GenerationExample) -> tuple[Item, ...]:
        """A pair gives one item. A block gives a window every max_length - 1 tokens, each starting with the last token of the one
        before: every token but the very first is a target once."""
        if isinstance(example, TextExample):
            ids = [*self.front_ids, *plain_ids(base, example.text)]
            starts = range(0, len(ids) - 1, self.max_length - 1)
            windows = [ids[start : start + self.max_length] for start in starts]
            return tuple(
                Item(
                    _inputs(window[:1], window[-self.prompt_limit :], len(window), plain=True),
                    {"completion_ids": window[1:]},
                    part,
                )
                for part, window in enumerate(windows)
            )
        pair = example.prompt, example.completion
        text, answer = rendered(base, example.messages, where=example.where) if example.messages else pair
        prompt = plain_ids(base, text)
        front = list(self.front_ids) if prompt or self.front_ids else [self.start_id]
        if example.messages and has_template(base):
            front = front[:0] if prompt else front  # the template writes its own beginning
        to_decode = front + prompt[max(0, len(prompt) - (self.prompt_limit - len(front))) :]
        if answer is None:
            return (Item(_inputs(to_decode, to_decode, len(front) + len(prompt), plain=False), {}),)
        completion = plain_ids(base, answer)
        if not completion or completion[-1] != self.end_id:  # templates may write it themselves
            completion.append(self.end_id)
        # The prompt gives way first; of a completion that is too long by itself the end is cut, and one prompt token stays.
        kept = completion[: self.max_length - len(front) - min(len(prompt), 1)]
        room = self.max_length - len(front) - len(kept)
        inputs = _inputs(
            front + prompt[max(0, len(prompt) - room) :],
            to_decode,
            len(front) + len(prompt) + len(completion),
            plain=False,
        )
        return (Item(inputs, {"completion_ids": kept}),)

    @property
    def prompt_limit(self) -> int:
        """Tokens of a prompt that is continued: what the base can take less the new tokens, at least half."""
        return max(self.context_length - self.settings.max_new_tokens, self.context_length // 2)

    def shown(self, base: Base, item: Item) -> str:
        names = base.processor.convert_ids_to_tokens
        supervised = (f"[{token}]" for token in names(item.targets["completion_ids"]))
        return " ".join([*names(item.inputs["prompt_ids"]), *supervised])

    def is_cut(self, items: Sequence[Item]) -> bool:
        return any(item.inputs["untruncated_length"] > self.cost(item) for item in items)

    def cost(self, item: Item) -> int:
        """All tokens; less than `untruncated_length` of the inputs where something was cut."""
        return len(item.inputs["prompt_ids"]) + len(item.targets.get("completion_ids", ()))

    def collate(self, base: Base, items: Sequence[Item], mode: Mode) -> Batch:
        pad = base.processor.pad_token_id
        pad = self.end_id if pad is None else pad  # under the mask, any token will do
        predicts = mode == "predict"
        if predicts:
            rows = [item.inputs["decode_ids"] for item in items]
        else:
            rows = [[*item.inputs["prompt_ids"], *item.targets["completion_ids"]] for item in items]
        inputs = {
            "input_ids": pad_rows(rows, pad, left=predicts),
            "attention_mask": pad_rows([[1] * len(row) for row in rows], 0, left=predicts),
        }
        if predicts:
            return Batch(inputs, {}, items)
        following = [
            [*[IGNORED] * (len(item.inputs["prompt_ids"]) - 1), *item.targets["completion_ids"], IGNORED]
            for item in items
        ]
        return Batch(inputs, {"next_tokens": pad_rows(following, IGNORED)}, items)

    def units(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": float((batch.targets["next_tokens"] != IGNORED).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy summed over the supervised tokens; no other position's logits are computed."""
        return {"cross_entropy": causal_losses(model, batch.inputs, batch.targets["next_tokens"]).sum()}

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        raw: list[dict[str, Any]] = [{} for _ in batch.items]
        if wanted & SCORED and batch.targets:
            following = batch.targets["next_tokens"]
            mask = following != IGNORED
            with torch.no_grad():
                sums = row_sums(causal_losses(model, batch.inputs, following), mask)
            for entry, nll, tokens in zip(raw, sums, mask.sum(1).tolist(), strict=True):
                entry.update(nll=nll, tokens=tokens)
        matched = "exact_match" in wanted
        chosen = [i for i, x in enumerate(batch.items) if "output" in wanted or (matched and not x.inputs["plain"])]
        if chosen:
            prompts = self.collate(base, [batch.items[index] for index in chosen], "predict")
            prompts = prompts.to(batch.inputs["input_ids"].device)
            texts = decode(model, base.processor, prompts.inputs, self.decoding())
            for index, text in zip(chosen, texts, strict=True):
                raw[index]["text"] = text
        return list(raw)

    def decoding(self) -> Decoding:
        """How `predict` makes text; sampling is fixed by each prompt, so that scores can be repeated."""
        return Decoding(
            max_new_tokens=min(self.settings.max_new_tokens, self.context_length - self.prompt_limit),
            num_beams=self.settings.num_beams,
            sample=self.settings.sample,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop=self.settings.stop,
        )

    def join(self, example: GenerationExample, raw: Sequence[RawPrediction]) -> Prediction:
        """Sums over windows; of several texts the last, which continues the block."""
        joined: dict[str, Any] = {}
        if all("nll" in part for part in raw):
            joined.update(nll=sum(part["nll"] for part in raw), tokens=sum(part["tokens"] for part in raw))
        if raw and "text" in raw[-1]:
            joined["text"] = raw[-1]["text"]
        return joined

    def statistics(self, prediction: Prediction, example: GenerationExample) -> Record:
        if isinstance(example, TextExample):
            return text_record({key: value for key, value in prediction.items() if key != "text"}, "")
        return text_record(prediction, example.completion or "")

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        return reduce_text(records, weights)

    def render(self, prediction: Prediction) -> dict[str, Any]:
        return {"output": prediction["text"]}

    def as_reference(self, prediction: Prediction, example: GenerationExample) -> GenerationExample:
        """The prompt with the base's output. Plain text stays as it is: the text itself is what the base is measured on."""
        return example if isinstance(example, TextExample) else replace(example, completion=prediction["text"])

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        divergences = causal_divergences(tuned, base_model, batch.inputs, batch.targets["next_tokens"])
        return divergences.sum(), float(len(divergences))


def is_plain(row: Row, settings: GenerationSettings) -> bool:
    """Plain text: the row has the text column, and neither a prompt nor messages."""
    others = (settings.prompt_column, settings.messages_column)
    return settings.text_column in row.values and not any(column in row.values for column in others)


def with_breaks(rows: Iterable[Row], column: str) -> Iterator[tuple[Row, str]]:
    """Each row with its text and a line break after it; and with one before it where lines were left out in between, which is
    where a reader dropped blank lines and paragraphs part."""
    following = None
    for row in rows:
        text = row.text(column)
        gap = following is not None and row.line > following
        following = row.line + text.count("\n") + 1
        yield row, ("\n" if gap else "") + text + "\n"


def plain_ids(base: Base, text: str) -> list[int]:
    """Ids of the text alone, without special tokens."""
    ids: list[int] = base.processor(text, add_special_tokens=False)["input_ids"]
    return ids


def front_ids(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text."""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return tuple(whole[:start])


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` characters, cut after white space where there is some."""
    while len(text) > limit:
        end = max(text.rfind(space, 0, limit) for space in " \n\t") + 1 or limit
        yield text[:end]
        text = text[end:]
    yield text


def _inputs(prompt: list[int], to_decode: list[int], length: int, *, plain: bool) -> dict[str, Any]:
    return {"prompt_ids": prompt, "decode_ids": to_decode, "untruncated_length": length, "plain": plain}


def _characters_per_token(base: Base, rows: Sequence[Row], settings: GenerationSettings) -> float:
    """Measured on the first rows, some 200,000 characters of them."""
    characters, tokens = 0, 0
    for row in rows:
        pair = (settings.prompt_column, settings.completion_column)
        columns = (settings.text_column,) if is_plain(row, settings) else pair
        chat = settings.messages_column in row.values
        contents = (
            [c for _, c in messages_of(row, settings.messages_column)] if chat else [row.text(c) for c in columns]
        )
        text = "\n".join(contents) + "\n"
        characters += len(text)
        tokens += len(plain_ids(base, text))
        if characters > SAMPLE_CHARACTERS:
            break
    return characters / max(tokens, 1)
