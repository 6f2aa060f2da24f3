"""What prompts and chats have in common with others of their data, and what can be wrong with them. No tokens here.

It stands below the task that calls it. A prompt of many rows ("Write a haiku.") asks for many things and is told apart by what
follows it; a system message of many chats says nothing of what one of them asks.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

from domaintune.counting import counted
from domaintune.data.splits import normal_form
from domaintune.tasks.base import Finding, Keys
from domaintune.tasks.generation_examples import PromptExample, TextExample, contents
from domaintune.tasks.text_scores import one_space

LEAST = 5
"""Different completions of a prompt, or questions under a system message, below which it is not called shared."""
PROMPT_SHARE, SYSTEM_SHARE = 0.1, 0.01
"""Of all different rows: what is shared stands in more. The rows of a rarer prompt can be kept in one part; there are at most a
hundred such messages."""


def checksum(text: str) -> str:
    """Of the normal form: shared prompts and messages are kept by it, since who sees a task need not see them."""
    return hashlib.sha256(normal_form(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shared_prompts(examples: Sequence[PromptExample]) -> tuple[str, ...]:
    """Checksums of the prompts that stand before five or more different completions and in over a tenth of the different rows."""
    return _shared(((checksum(e.prompt), normal_form(e.completion or "")) for e in examples), PROMPT_SHARE)


def shared_systems(examples: Sequence[PromptExample]) -> tuple[str, ...]:
    """Checksums of the system messages that stand over five or more different questions and in over a hundredth of the different
    rows."""
    pairs = ((checksum(text), normal_form(_asked(e, lambda _: True))) for e in examples for text in _systems(e))
    return _shared(pairs, SYSTEM_SHARE)


def prompt_keys(example: PromptExample, *, prompts: Sequence[str], systems: Sequence[str]) -> Keys:
    """Keys of a prompt; `prompts` and `systems` are the shared ones.

    The completion of a shared prompt is part of the input. Near duplicates are looked for in what a row does not share: in the
    completion of a shared prompt, else in the prompt without shared system messages.
    """
    prompt, completion = normal_form(example.prompt), normal_form(example.completion or "")
    near = None
    if completion and prompts and checksum(example.prompt) in prompts:
        prompt, near = f"{prompt}\0{completion}", completion
    elif systems and example.messages is not None:
        near = normal_form(_asked(example, lambda text: checksum(text) in systems)) or None
    return Keys(prompt, one_space(example.completion or ""), "", example.group, example.domain, near=near)


def prompt_findings(
    examples: Sequence[PromptExample | TextExample], *, prompts: Sequence[str], as_lines: bool
) -> Iterator[Finding]:
    """What only generation can know to be wrong. `as_lines`: chats have no template."""
    pairs = [example for example in examples if isinstance(example, PromptExample)]
    if rows := tuple(e.where for e in pairs if not e.prompt.strip()):
        yield Finding.of(
            rows, "empty-prompt", "warning", "[row has|rows have] no prompt.",
            remedy="Write one, or drop the row.", why="The model learns to give these answers to nothing.",
        )  # fmt: skip
    if rows := tuple(e.where for e in pairs if e.completion and one_space(e.prompt) == one_space(e.completion)):
        yield Finding.of(
            rows, "echo", "warning", "[row has|rows have] a completion equal to the prompt.",
            remedy="Write the answer, or drop the row.", why="The model learns to repeat what it is asked.",
        )  # fmt: skip
    if rows := tuple(e.where for e in pairs if prompts and checksum(e.prompt) in prompts):
        yield Finding.of(
            rows, "shared-prompts", "note",
            "[row has|rows have] a prompt of many rows, and [is|are] told apart by [its completion|their completions].",
            remedy="Where prompts should matter, write into each what its completion is about.",
            why="Scores tell how well such completions are written, not how new prompts are answered.",
        )  # fmt: skip
    if as_lines and (rows := tuple(e.where for e in pairs if e.messages is not None)):
        chats = counted(len(rows), "[chat is|chats are] written as lines")
        yield Finding(
            "no-chat-template", "note", f'The tokenizer has no chat template: {chats} "role: content".', rows[:1],
            "Choose a base that was trained on chats if there is one.",
            "The base has not seen such lines, and has to learn their form as well.", len(rows),
        )  # fmt: skip
    if rows := tuple(e.where for e in examples if isinstance(e, TextExample) and not e.text.strip()):
        yield Finding.of(
            rows, "blank-text", "warning", "[block holds|blocks hold] white space alone.",
            remedy="Drop them.", why="There is nothing to learn from.",
        )  # fmt: skip


def _shared(pairs: Iterable[tuple[str, Hashable]], share: float) -> tuple[str, ...]:
    """The first of each pair that stand with enough different seconds, sorted."""
    seconds: dict[str, set[Hashable]] = defaultdict(set)
    for first, second in pairs:
        seconds[first].add(second)
    most = share * sum(map(len, seconds.values()))
    return tuple(sorted(first for first, met in seconds.items() if len(met) >= LEAST and len(met) > most))


def _systems(example: PromptExample) -> list[str]:
    return [message["content"] for message in example.messages or () if message["role"] == "system"]


def _asked(example: PromptExample, without: Callable[[str], bool]) -> str:
    """The contents of the messages but for the system's for which `without` holds."""
    return contents(m for m in example.messages or () if m["role"] != "system" or not without(m["content"]))
