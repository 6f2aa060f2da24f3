"""Generation with a causal language model: completions of prompts, or the style of plain text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from domaintune.bases.base import Base, HeadSpec
from domaintune.bases.limits import NO_LIMIT, token_limit
from domaintune.data.rows import Row
from domaintune.data.splits import normal_form
from domaintune.errors import BaseError
from domaintune.settings import GenerationSettings
from domaintune.tasks.base import Batch, Finding, Item, Keys, Mode, Prediction, Primary, RawPrediction, Record, Task
from domaintune.tasks.chat_rendering import as_lines, front_ids, has_template, plain_ids, prints_date
from domaintune.tasks.decoding import Decoding, cut_at_stop, decode, decode_by_length
from domaintune.tasks.generation_examples import (
    PromptExample,
    TextExample,
    altered_prompt,
    documents,
    has_answer,
    is_chat,
    is_plain,
    pair_example,
    pieces,
    unmarked,
)
from domaintune.tasks.generation_facts import (
    characters_per_token,
    chat_ids,
    free_opening,
    special_text,
    turn_end_ids,
    turn_end_mark,
)
from domaintune.tasks.shared_prompts import prompt_findings, prompt_keys, shared_prompts, shared_systems
from domaintune.tasks.text_scores import reduce_text, text_record
from domaintune.tasks.token_losses import (
    IGNORED,
    causal_disagreements,
    causal_divergences,
    causal_losses,
    pad_rows,
    row_sums,
)

DEFAULT_MAX_LENGTH = 1024
SCORED = frozenset({"cross_entropy", "perplexity"})
FILL = 0.95
"""Share of `max_length` that a block of plain text aims at: its length in tokens is only estimated when it is cut."""


GenerationExample = PromptExample | TextExample


class Generation(Task):
    """Continuation of a text. Rows are a prompt with its completion, a chat (the completion is its last answer, in the tokenizer's
    chat template or as lines "role: content"), or plain text, whose consecutive rows are packed into blocks of about `max_length`
    tokens. The loss of the first two is on the completion and the end token alone. Scored by the cross-entropy of the given
    tokens, and for completions by the exact match of what is generated."""

    name: ClassVar[str] = "generation"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    primary: ClassVar[Primary] = Primary("cross_entropy", higher_is_better=False, counts=("cross_entropy",))
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
    chats_as_lines: bool = False
    """There are chats, and the tokenizer has no template for them."""
    turn_end_ids: tuple[int, ...] = ()
    """What ends an answer in the tokenizer's chat template."""
    turn_end: str = ""
    """Text that the chat template puts between an answer and its end: outputs end before it."""
    front: str = ""
    ends: tuple[str, ...] = ()
    """How `front_ids`, and the tokens that end texts and answers, are written: data may bring them along, and they stand there once."""
    date: str | None = None
    """The day (ISO) that the chat template prints, where it prints one: that on which the run was begun."""
    free_opening: str | None = None
    """What the chat template puts before an answer that does not bring it along (an empty thought), where some answers of the data
    begin otherwise: then it is generated too, and no part of the output."""
    shared_prompts: tuple[str, ...] = ()
    shared_systems: tuple[str, ...] = ()
    """Checksums of prompts that stand before many completions, and of system messages over many questions."""

    @classmethod
    def build(cls, rows: Sequence[Row], base: Base, settings: GenerationSettings) -> Generation:
        settings.check()
        tokenizer = base.processor
        if tokenizer.eos_token_id is None:
            raise BaseError("its tokenizer has no end token, so that no completion could end.", where=base.name)
        limit = token_limit(base)
        start = tokenizer.bos_token_id
        pairs = [pair_example(row, settings, labelled=True) for row in rows if not is_plain(row, settings)]
        chats = [pair for pair in pairs if pair.messages is not None]
        templated = chats if has_template(base) else []
        date = base.date if templated and prints_date(base) else None
        front, end = front_ids(tokenizer), tokenizer.eos_token_id
        turn_ends = turn_end_ids(base, templated, date=date)
        return cls(
            contiguous=not pairs,
            settings=settings,
            max_length=min(settings.max_length or DEFAULT_MAX_LENGTH, limit),
            context_length=limit,
            characters_per_token=characters_per_token(base, rows, settings),
            front_ids=front,
            start_id=end if start is None else start,
            end_id=end,
            front=special_text(base, front),
            ends=tuple(dict.fromkeys(special_text(base, [token]) for token in (end, *turn_ends))),
            chats_as_lines=len(chats) > len(templated),
            turn_end_ids=turn_ends,
            turn_end=turn_end_mark(base, templated, date=date),
            date=date,
            free_opening=free_opening(base, templated, date=date),
            shared_prompts=shared_prompts([unmarked(pair, special_text(base, front), ()) for pair in pairs]),
            shared_systems=shared_systems(chats),
        )

    def read(self, rows: Iterable[Row], *, labelled: bool = True) -> Iterator[GenerationExample]:
        for (plain, _), run in groupby(rows, key=lambda row: (is_plain(row, self.settings), row.file)):
            if plain and labelled:
                yield from self._blocks(run)
            else:
                pairs = (pair_example(row, self.settings, labelled=labelled) for row in run)
                yield from (unmarked(pair, self.front, self.ends) for pair in pairs)

    def _blocks(self, rows: Iterable[Row]) -> Iterator[TextExample]:
        """Consecutive rows of one file as blocks; put together they are the texts that `documents` gives, each with its end."""
        limit = max(int(self.max_length * self.characters_per_token * FILL), 1)
        blocks: list[TextExample] = []
        for row, text, end in documents(rows, self.settings.text_column, self.ends[0] if self.ends else ""):
            *parts, last = pieces(text, limit)
            for piece in (*parts, last + end):
                if not blocks or len(blocks[-1].text) + len(piece) > limit:
                    blocks.append(TextExample(file=row.file, line=row.line, text=""))
                blocks[-1] = replace(blocks[-1], text=blocks[-1].text + piece)
        if len(blocks) > 1 and len(blocks[-1].text) < limit / 8:  # too short to be worth an example of its own
            rest = blocks.pop()
            blocks[-1] = replace(blocks[-1], text=blocks[-1].text + rest.text)
        return iter(blocks)

    def from_bare(self, value: str) -> dict[str, Any]:
        chat = {self.settings.messages_column: [{"role": "user", "content": value}]}
        return chat if self.turn_end_ids or self.chats_as_lines else {self.settings.prompt_column: value}

    def has_target(self, row: Row) -> bool:
        if is_chat(row, self.settings):
            return has_answer(row, self.settings)
        return is_plain(row, self.settings) or self.settings.completion_column in row.values

    def head(self) -> HeadSpec:
        return HeadSpec(auto_class=self.auto_class)

    def check(self, examples: Sequence[GenerationExample]) -> Iterator[Finding]:
        yield from prompt_findings(examples, prompts=self.shared_prompts, as_lines=self.chats_as_lines)

    def keys(self, example: GenerationExample) -> Keys:
        if isinstance(example, TextExample):
            return Keys(normal_form(example.text), "", "", example.group, example.domain)
        return prompt_keys(example, prompts=self.shared_prompts, systems=self.shared_systems)

    def texts(self, example: GenerationExample) -> tuple[str, ...]:
        if isinstance(example, TextExample):
            return (example.text,)
        return (example.prompt,) if example.completion is None else (example.prompt, example.completion)

    def prepare(self, base: Base, example: GenerationExample) -> tuple[Item, ...]:
        """A pair gives one item. A block gives a window every max_length - 1 tokens, each starting with the last token of the one
        before: every token but the very first is a target once. A text of one token has the start token before it; one of none no
        item."""
        if isinstance(example, TextExample):
            ids = [*self.front_ids, *plain_ids(base, example.text.removeprefix(self.front))]
            if not self.front_ids and len(ids) == 1:
                ids = [self.start_id, *ids]
            starts = range(0, len(ids) - 1, self.max_length - 1)
            windows = [ids[start : start + self.max_length] for start in starts]
            return tuple(
                Item(
                    {"prompt_ids": window[:1], "decode_ids": window[-self.prompt_limit :], "plain": True},
                    {"completion_ids": window[1:]},
                    part,
                )
                for part, window in enumerate(windows)
            )
        front, prompt, completion, opening = self._tokens(base, example)
        begun = prompt + opening
        to_decode = front + begun[max(0, len(begun) - (self.prompt_limit - len(front))) :]
        if example.completion is None:
            cut = len(to_decode) < len(front) + len(begun)
            return (Item({"prompt_ids": to_decode, "decode_ids": to_decode, "plain": False}, {}, cut=cut),)
        # The prompt gives way first; of a completion that is too long by itself the end is cut, and one prompt token stays.
        kept = completion[: self.max_length - len(front) - min(len(prompt), 1)]
        room = self.max_length - len(front) - len(kept)
        shortened, lost = front + prompt[max(0, len(prompt) - room) :], len(completion) - len(kept)
        inputs = {"prompt_ids": shortened, "decode_ids": to_decode, "plain": False, "lost": lost}
        return (Item(inputs, {"completion_ids": kept}, cut=lost > 0 or len(prompt) > room),)

    def _tokens(self, base: Base, example: PromptExample) -> tuple[list[int], list[int], list[int], list[int]]:
        """What stands before the prompt and is never cut, the prompt, the completion with its end, and what a chat template puts
        before every answer, which is not decoded: it is no part of the answer."""
        if example.written is not None:
            front, prompt, _, opening = self._tokens(base, replace(example, completion=None, written=None))
            return front, [*prompt, *opening], list(example.written), []
        if example.messages is not None and has_template(base):
            ids, completion, opening = chat_ids(base, example, date=self.date)
            kept = 1 if ids[:1] == [self.start_id] else 0
            return ids[:kept], ids[kept:], completion, opening if self.free_opening is None else []
        prompt = plain_ids(base, example.prompt if example.messages is None else as_lines(example.messages))
        front = list(self.front_ids) if prompt or self.front_ids else [self.start_id]
        if example.completion is None:
            return front, prompt, [], []
        space = "" if example.messages is None else " "
        return front, prompt, [*plain_ids(base, space + example.completion), self.end_id], []

    @property
    def prompt_limit(self) -> int:
        """Tokens of a prompt that is continued: what the base can take less the new tokens, at least half."""
        return max(self.context_length - self.settings.max_new_tokens, self.context_length // 2)

    def shown(self, base: Base, item: Item) -> str:
        names = base.processor.convert_ids_to_tokens
        supervised = (f"[{token}]" for token in names(item.targets["completion_ids"]))
        return " ".join([*names(item.inputs["prompt_ids"]), *supervised])

    @property
    def long_inputs(self) -> str:
        return f"cut to {self.max_length} tokens, prompts at their start, then completions at their end"

    @property
    def long_remedy(self) -> str:
        if self.max_length == self.context_length:
            return "Shorten them, or take a base that reads more tokens."
        reads = "" if self.context_length >= NO_LIMIT else f" (this base reads {self.context_length})"
        return f"--set task.max_length=...{reads}, or shorten them."

    def is_long(self, items: Sequence[Item]) -> bool:
        return any(item.cut for item in items)

    def target_tokens(self, items: Sequence[Item]) -> tuple[int, int] | None:
        if not items or items[0].inputs["plain"] or not items[0].targets:
            return None
        return len(items[0].targets["completion_ids"]), items[0].inputs["lost"]

    def cost(self, item: Item) -> int:
        """All tokens."""
        return len(item.inputs["prompt_ids"]) + len(item.targets.get("completion_ids", ()))

    def decoded_tokens(self, item: Item, wanted: frozenset[str]) -> int:
        if "output" in wanted or ("exact_match" in wanted and not item.inputs["plain"]):
            return self.decoding().most_tokens(len(item.inputs["decode_ids"]))
        return 0

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

    def disagreement(self, model: nn.Module, first: Any, second: Any, batch: Batch) -> Tensor:
        return causal_disagreements(model, first, second, batch.targets["next_tokens"]).sum()

    def predict(self, base: Base, model: nn.Module, batch: Batch, wanted: frozenset[str]) -> list[RawPrediction]:
        raw: list[dict[str, Any]] = [{} for _ in batch.items]
        if wanted & SCORED and batch.targets:
            following = batch.targets["next_tokens"]
            mask = following != IGNORED
            with torch.no_grad():
                sums = row_sums(causal_losses(model, batch.inputs, following), mask)
            for entry, item, nll, tokens in zip(raw, batch.items, sums, mask.sum(1).tolist(), strict=True):
                entry.update(nll=nll, tokens=tokens, whole=not item.inputs.get("lost"))
        chosen = [index for index, item in enumerate(batch.items) if self.decoded_tokens(item, wanted)]
        if chosen:
            prompts = self.collate(base, [batch.items[index] for index in chosen], "predict")
            inputs = prompts.to(batch.inputs["input_ids"].device).inputs
            read = decode if base.ignores_left_padding else decode_by_length
            outputs = read(model, base.processor, inputs, self.decoding())
            for index, output in zip(chosen, outputs, strict=True):
                text = output.text.removeprefix(self.free_opening or "")
                raw[index].update(text=text, ids=output.ids, unfinished=output.unfinished, cut=batch.items[index].cut)
        return list(raw)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an output."""
        return (*self.settings.stop, self.turn_end) if self.turn_end else self.settings.stop

    @property
    def most_new_tokens(self) -> int:
        return min(self.settings.max_new_tokens, self.context_length - self.prompt_limit)

    def decoding(self) -> Decoding:
        """How `predict` makes text; sampling is fixed by each prompt, so that scores can be repeated."""
        return Decoding(
            max_new_tokens=self.most_new_tokens,
            num_beams=self.settings.num_beams,
            sample=self.settings.sample,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop=self.stop,
            end_ids=self.turn_end_ids,
        )

    def join(self, example: GenerationExample, raw: Sequence[RawPrediction]) -> Prediction:
        """Sums over windows; of several texts the last, which continues the block. The space that parts an answer in a line from its
        role is no part of it."""
        joined: dict[str, Any] = {}
        if all("nll" in part for part in raw):
            joined.update({key: sum(part[key] for part in raw) for key in ("nll", "tokens")})
            joined["whole"] = all(part["whole"] for part in raw)
        if raw and "text" in raw[-1]:
            joined.update({key: raw[-1][key] for key in ("text", "ids", "unfinished", "cut")})
            if self.chats_as_lines and isinstance(example, PromptExample) and example.messages is not None:
                joined["text"] = joined["text"].removeprefix(" ")
        return joined

    def statistics(self, prediction: Prediction, example: GenerationExample) -> Record:
        """Outputs and completions are compared up to the first stop string, which ends an output. `characters`: of a completion that
        was scored whole, by which models with other tokens can be compared."""
        if isinstance(example, TextExample):
            return text_record({key: value for key, value in prediction.items() if key != "text"}, "")
        target = example.completion or ""
        counted = {"characters": np.array([len(target)], dtype=np.float64)} if prediction.get("whole") else {}
        return {**text_record(prediction, cut_at_stop(target, self.stop)), **counted}

    def reduce(self, records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        return reduce_text(records, weights)

    def altered(
        self, example: GenerationExample, change: Callable[[Sequence[str]], Sequence[str]]
    ) -> GenerationExample:
        """Prompts alone, of chats what users say; plain text, all of which is the target, stays."""
        return example if isinstance(example, TextExample) else altered_prompt(example, change)

    def render(self, prediction: Prediction) -> dict[str, Any]:
        """A block without any token has nothing that continues it."""
        return {"output": prediction.get("text", "")}

    def render_target(self, example: GenerationExample, prediction: Prediction) -> dict[str, Any]:
        """Running text has no target of its own: `output` is then what continues the block, of which nothing is given."""
        return {} if isinstance(example, TextExample) else {"output": example.completion or ""}

    def as_reference(self, prediction: Prediction, example: GenerationExample) -> GenerationExample:
        """The prompt with the base's output, of which only the tokens that it wrote are scored: one that the limit or a stop string cut
        has no end. Plain text stays as it is: the text itself is what the base is measured on."""
        if isinstance(example, TextExample):
            return example
        return replace(example, completion=prediction["text"], written=prediction["ids"])

    def divergence(self, tuned: nn.Module, base_model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        divergences = causal_divergences(tuned, base_model, batch.inputs, batch.targets["next_tokens"])
        return divergences.sum(), float(len(divergences))
