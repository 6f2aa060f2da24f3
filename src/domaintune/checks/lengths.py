"""What a base's limit does to long rows, texts that were cut before they came here, and scripts that its tokenizer does not know. Needs
the base's tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from domaintune.bases.base import Base
from domaintune.counting import counted
from domaintune.tasks.base import Dataset, Finding, Task, dataset

LEAST_LENGTH = 20
"""Characters, words or tokens below which many texts may well be of one length."""
LEAST_ROWS, LEAST_SHARE = 5, 0.01
MID_SENTENCE = 0.8
UNKNOWN_SHARE = 0.05
TOKENS = ("input_ids", "prompt_ids", "labels", "completion_ids")
"""Names under which items of texts hold tokens."""
INNER = frozenset(",;-–—(，、；（")


def length_findings(task: Task, base: Base, parts: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    """`long-rows`, `long-outputs`, `cut-targets` and `unknown-tokens` of each part, and `stopped-short` of all, in tasks whose examples are texts."""
    parts = {name: rows for name, rows in parts.items() if any(task.texts(example) for example in rows)}
    prepared = {name: dataset(task, base, rows) for name, rows in parts.items()}
    for name, data in prepared.items():
        yield from limit_findings(task, name, data)
        yield from unknown_tokens(base, name, data)
    yield from stopped_short(task, prepared)


def limit_findings(task: Task, name: str, data: Dataset) -> Iterator[Finding]:
    items = [data.items[span.start : span.stop] for span in data.spans]
    long = [place for place, mine in enumerate(items) if task.is_long(mine)]
    if long:
        cut = any(item.cut for place in long for item in items[place])
        yield Finding(
            "long-rows", "warning" if cut else "note",
            counted(len(long), f"of {len(items):,} rows of {name} [is|are] longer than the limit; such rows are ")
            + f"{task.long_inputs}.",
            tuple(data.examples[place].where for place in long), task.long_remedy,
            "What is cut is neither learned from nor predicted on." if cut else "Each window costs what a row of its own costs.",
            len(long),
        )  # fmt: skip
    most = task.most_new_tokens
    targets = {place: counts for place, mine in enumerate(items) if (counts := task.target_tokens(mine))}
    over = [place for place, counts in targets.items() if most is not None and sum(counts) - 1 > most]  # the end aside
    if over:
        yield Finding(
            "long-outputs", "warning",
            counted(len(over), f"of {len(targets):,} targets of {name} [has|have] more than the {most:,} tokens at which outputs stop."),
            tuple(data.examples[place].where for place in over),
            "--set task.max_new_tokens=... allows more, for a finished run too (predict, evaluate).",
            "Such outputs end in the middle, and exact_match counts them as wrong.", len(over),
        )  # fmt: skip
    lost = {place: cut for place, (_, cut) in targets.items() if cut}
    if lost:
        yield Finding(
            "cut-targets", "warning",
            counted(len(lost), f"[target|targets] of {name} [is|are] cut at the end: ")
            + counted(sum(lost.values()), "[token is|tokens are] never learned."),
            tuple(data.examples[place].where for place in lost), task.long_remedy,
            "The model learns to stop in the middle, and scores pass over what is missing.", len(lost),
        )  # fmt: skip


def unknown_tokens(base: Base, name: str, data: Dataset) -> Iterator[Finding]:
    """`unknown-tokens`: of the part's tokens, special ones aside, more than a twentieth stand for what the tokenizer does not know."""
    processor = base.processor
    unknown, others = processor.unk_token_id, {*processor.all_special_ids} - {processor.unk_token_id}
    shared = (processor.eos_token_id, processor.bos_token_id, processor.pad_token_id)
    if unknown is None or unknown in shared:  # then no text gives it
        return
    total, met, where = 0, 0, []
    for example, span in zip(data.examples, data.spans, strict=True):
        held = [{**data.items[place].inputs, **data.items[place].targets} for place in span]
        tokens = [token for item in held for key in TOKENS if key in item for token in item[key]]
        count = tokens.count(unknown)
        total, met = total + sum(token not in others for token in tokens), met + count
        where += [example.where] if count else []
    if met > UNKNOWN_SHARE * total:
        yield Finding(
            "unknown-tokens", "warning",
            f"{100 * met / total:.0f} % of the tokens of {name} are none that the base's tokenizer knows ({base.name}).",
            tuple(where), "Take a base that was trained on this language and script: --base NAME.",
            "All of them look alike to the model, which can learn nothing from them.", len(where),
        )  # fmt: skip


def stopped_short(task: Task, parts: Mapping[str, Dataset]) -> Iterator[Finding]:
    """`stopped-short`: many different targets have the greatest length of all, in characters, words or tokens, and most of them end
    in the middle of a sentence."""
    targets: dict[str, tuple[str, int]] = {}
    for data in parts.values():
        for example, span in zip(data.examples, data.spans, strict=True):
            counts = task.target_tokens(data.items[span.start : span.stop])
            if counts is not None:
                targets.setdefault(task.texts(example)[-1].strip(), (example.where, sum(counts)))
    if not targets:
        return
    texts = list(targets)
    lengths = {
        "characters": [len(text) for text in texts],
        "words": [len(text.split()) for text in texts],
        "tokens": [tokens for _, tokens in targets.values()],
    }
    for unit, sizes in lengths.items():
        most = max(sizes)
        # White space that was stripped after the cut makes a text one character shorter.
        at = np.flatnonzero(np.array(sizes) >= most - (unit == "characters"))
        open_ended = [place for place in at if ends_within_a_sentence(texts[place])]
        enough = max(LEAST_ROWS, LEAST_SHARE * len(texts))
        if most >= LEAST_LENGTH and len(at) >= enough and len(open_ended) >= MID_SENTENCE * len(at):
            yield Finding(
                "stopped-short", "note",
                f"{len(open_ended)} targets end in the middle of a sentence, all at {most} {unit}, which none exceeds.",
                tuple(targets[texts[place]][0] for place in open_ended),
                "Make them again with a higher limit where a program wrote them, or drop them.",
                "They were probably cut when they were made: the model learns to stop there, too.", len(open_ended),
            )  # fmt: skip
            return


def ends_within_a_sentence(text: str) -> bool:
    """Whether the last character is a letter or punctuation that something follows."""
    return bool(text) and (unicodedata.category(text[-1])[0] == "L" or text[-1] in INNER)
