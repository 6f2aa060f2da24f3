"""Token ids -> text through transformers' `generate`: greedy, beams, sampling and stop strings. No scores, no rows."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How text is made. `sample` needs `num_beams` of 1. `seed` and the row's own input ids fix the random numbers of a row."""

    max_new_tokens: int
    num_beams: int = 1
    length_penalty: float = 1.0
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    end_ids: tuple[int, ...] = ()
    """Tokens that end an output beside the tokenizer's and the model's own."""
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    seed: int = 0
    use_cache: bool = True

    def most_tokens(self, prompt: int) -> int:
        """Tokens that a row holds at most, whose prompt has so many: beams each hold their own."""
        return (prompt + self.max_new_tokens) * self.num_beams


@dataclass(frozen=True, slots=True)
class Output:
    """What a model wrote: its text without special tokens, cut before the first stop string, and the token ids, with the one that ended it
    where one did. `unfinished`: it ended at `max_new_tokens` alone."""

    text: str
    ids: tuple[int, ...]
    unfinished: bool


@torch.no_grad()
def decode(model: nn.Module, tokenizer: Any, inputs: Mapping[str, Tensor], decoding: Decoding) -> list[Output]:
    """One output a row.

    `inputs` are `input_ids` and `attention_mask` [batch, length]; padded on the left for a causal model. The texts do not
    depend on what else stands in the batch, sampled ones included: each row has random numbers of its own.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    # A shallow copy shares every module and parameter. `generate` fills what a given configuration leaves open from
    # `model.generation_config`, so that a checkpoint's sampling or penalties would leak in: the copy has an empty one.
    bare: Any = copy.copy(model)
    bare.generation_config = GenerationConfig()
    causal = not bare.config.is_encoder_decoder
    start = inputs["input_ids"].shape[1] if causal else 1
    config = generation_config(model, tokenizer, decoding)
    sequences = bare.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_config=config,
        logits_processor=_processors(inputs, decoding),
        stopping_criteria=StoppingCriteriaList([StopStrings(decoding.stop, tokenizer, start)] if decoding.stop else []),
    )
    return [_output(row, tokenizer, decoding.stop, config.eos_token_id) for row in sequences[:, start:].tolist()]


@torch.no_grad()
def decode_by_length(
    model: nn.Module, tokenizer: Any, inputs: Mapping[str, Tensor], decoding: Decoding
) -> list[Output]:
    """As `decode`, without padding: rows of each length by themselves, for models that do not ignore what stands before a text."""
    lengths = inputs["attention_mask"].sum(1)
    made: dict[int, Output] = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        part = {name: tensor[rows, tensor.shape[1] - length :] for name, tensor in inputs.items()}
        # RecurrentGemma's modules keep the state of the last rows, which a forward without a cache drops.
        model(part["input_ids"][:, :1], use_cache=False)
        made |= zip(rows.tolist(), decode(model, tokenizer, part, decoding), strict=True)
    return [made[row] for row in range(len(lengths))]


def _output(row: list[int], tokenizer: Any, stop: Sequence[str], ends: Sequence[int]) -> Output:
    """Of generated ids, padded at their end. A row that a stop string ended has no end token, though the padding may look like one."""
    text: str = tokenizer.decode(row, skip_special_tokens=True)
    end = next((place for place, token in enumerate(row) if token in ends), None)
    if (before := cut_at_stop(text, stop)) != text:
        ids = row[:end]
        while ids and ids[-1] == tokenizer.pad_token_id:
            ids.pop()
        return Output(before, tuple(ids), unfinished=False)
    return Output(text, tuple(row if end is None else row[: end + 1]), unfinished=end is None)


def generation_config(model: nn.Module, tokenizer: Any, decoding: Decoding) -> Any:
    """A `GenerationConfig` whose search is ours alone; of the model's own only what its vocabulary means is kept: begin, end and
    start ids, and the tokens that may never be made (Marian's padding token, for one)."""
    from transformers import GenerationConfig

    known: Any = model
    own = known.generation_config
    start = decoding.decoder_start_token_id
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        length_penalty=decoding.length_penalty if decoding.num_beams > 1 else None,
        early_stopping=False if decoding.num_beams > 1 else None,
        do_sample=False,
        use_cache=decoding.use_cache,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=list(dict.fromkeys([*end_token_ids(own, tokenizer), *decoding.end_ids])),
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id if start is None else start,
        forced_bos_token_id=decoding.forced_bos_token_id,
        bad_words_ids=own.bad_words_ids,
        suppress_tokens=own.suppress_tokens,
        begin_suppress_tokens=own.begin_suppress_tokens,
    )


def end_token_ids(own: Any, tokenizer: Any) -> list[int]:
    """Ids that end an output: the tokenizer's, which training writes, and the model's own (chat models have several)."""
    declared = own.eos_token_id
    ids = [declared] if isinstance(declared, int) else list(declared or ())
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop string."""
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return text[: min(places)] if places else text


class StopStrings:
    """A stopping criterion for `generate`: a row is done once its output holds a stop string.

    It reads the decoded output as `decode` does, so that the two agree on every tokenizer; `start` is the first output position.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, start: int) -> None:
        self.stop = tuple(stop)
        self.tokenizer = tokenizer
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Any, **rest: Any) -> Tensor:
        texts = (self.tokenizer.decode(row, skip_special_tokens=True) for row in input_ids[:, self.start :].tolist())
        done = [any(string in text for string in self.stop) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class RowNoise:
    """A logits processor that turns greedy search into sampling: it adds Gumbel noise, whose arg max is a sample of the softmax.

    Each row has its own generator, so that a sample depends on the row alone: not on the batch, on other threads, or on the
    global random state. Source: Gumbel 1954; Maddison et al., arXiv 1411.0030, section 2.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        width = scores.shape[-1]
        waits = torch.stack([torch.empty(width).exponential_(generator=generator) for generator in self.generators])
        return scores - waits.log().to(scores)


def _processors(inputs: Mapping[str, Tensor], decoding: Decoding) -> Any:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if not decoding.sample:
        return LogitsProcessorList()
    chain: list[Any] = [TemperatureLogitsWarper(decoding.temperature)] if decoding.temperature != 1.0 else []
    if decoding.top_p < 1:
        chain.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*chain, RowNoise(row_seeds(inputs, decoding.seed))])


def row_seeds(inputs: Mapping[str, Tensor], seed: int) -> list[int]:
    """A seed for each row from `seed` and the row's real ids, whatever its padding."""
    rows = inputs["input_ids"].cpu().numpy()
    masks = inputs["attention_mask"].cpu().numpy().astype(bool)
    return [zlib.crc32(row[mask].astype(np.int64).tobytes(), seed) for row, mask in zip(rows, masks, strict=True)]
