"""The cells of the text benchmark: which base, domain and general sets, and what is asked of each method."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import general_bases

from domaintune.data.formats import read_rows
from domaintune.recipe import DEFAULT_LEARNING_RATES, Recipe
from domaintune.resolve import epochs_for

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", "../shared")) / "data"
RUNS = Path("runs/bench/text")
GPU = "gpu"
MOST_ROWS = 1000


@dataclass(frozen=True)
class Cell:
    """`base` is a general base's name, or minilm. `agree` is a set of unlabelled inputs on which the base's general head and the
    tuned model's are compared, where no labelled second set fits."""

    task: str
    base: str
    folder: str
    general: str | None = None
    check: str | None = None
    agree: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    new_labels: bool = True
    """Whether the base has no head for the labels."""

    def part(self, name: str) -> str | None:
        suffix = "jsonl" if self.task == "token-classification" else "csv"
        path = SHARED / self.folder / f"{name}.{suffix}"
        return str(path) if path.exists() else None

    def epochs(self, kind: str) -> int | None:
        """Of the training of our method that is like a peer's kind, on every row under the cap; None where the data are not there."""
        train = self.part("train")
        if train is None:
            return None
        rows = min(len(read_rows(train)), self.data.get("max_train_rows", MOST_ROWS))
        return epochs_for(plain_recipe(PEERS[kind].like), rows=rows, new_labels=self.new_labels)

    def recipe(self, method: dict[str, Any], *, seed: int, output: Path, **more: Any) -> Recipe:
        """One thread: on a shared machine the second one of two often costs more than it gives."""
        base = self.base if self.base == "minilm" else str(general_bases.make(self.base))
        values = {
            "task": self.task,
            "base": base,
            **{name: self.part(name) for name in ("train", "dev", "test")},
            "general": None if self.general is None else str(SHARED / self.general),
            "general_check": None if self.check is None else str(SHARED / self.check),
            "method": method,
            "seed": seed,
            "threads": 1,
            "output": str(output),
            "data": {"max_train_rows": MOST_ROWS, **self.data},
            "evaluation": {"robustness": False},
            **more,
        }
        return Recipe.make({key: value for key, value in values.items() if value is not None})


TEXT, TOKENS = "text-classification", "token-classification"
CELLS = {
    "product_reviews": Cell(
        TEXT, "movies", "sentiment/product_reviews", "sentiment/mr_movie/test.csv", "sentiment/reddit_goemotions/test.csv",
        quick=True, new_labels=False,
    ),
    "banking77": Cell(
        TEXT, "clinc", "textcls/banking77", "textcls/clinc150/test.csv", agree="sentiment/mr_movie/test.csv", quick=True
    ),
    "crossner_politics": Cell(
        TOKENS, "wikigold", "ner/crossner_politics", "ner/wikigold/test.jsonl", "ner/uner_en_ewt/test.jsonl",
        data={"general_labels": ["PER", "LOC", "ORG"]}, quick=True,
    ),
    "reddit_goemotions": Cell(
        TEXT, "movies", "sentiment/reddit_goemotions", "sentiment/mr_movie/test.csv", "sentiment/pros_cons/test.csv",
        new_labels=False,
    ),
    "sec_finance": Cell(
        TOKENS, "wikigold", "ner/sec_finance", "ner/wikigold/test.jsonl", "ner/uner_en_ewt/test.jsonl",
        data={"general_labels": ["PER", "LOC", "ORG"]}, new_labels=False,
    ),
    "ncbi_disease": Cell(
        TOKENS, "uner_en_ewt", "ner/ncbi_disease", "ner/uner_en_ewt/test.jsonl", "ner/wikigold/test.jsonl",
        data={"general_labels": ["PER", "LOC", "ORG"]},
    ),
    "uner_zh": Cell(TOKENS, "minilm", "ner/uner_zh_gsdsimp"),
}  # fmt: skip

OURS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora"},
    "p-tuning": {"name": "p-tuning"},
    "freeze": {"name": "freeze"},
    "full": {"name": "full"},
    "head-only": {"name": "freeze", "train": ["head"]},
    "p-tuning-v1": {"name": "p-tuning", "version": 1},
    "p-tuning-gated": {"name": "p-tuning", "gated": True},
    "p-tuning-network": {"name": "p-tuning", "reparameterise": True},
    "p-tuning-norms": {"name": "p-tuning", "beside": ["layer-norm"]},
    "p-tuning-biases": {"name": "p-tuning", "beside": ["layer-norm", "bias"]},
    "p-tuning-text": {"name": "p-tuning", "initialise": "text"},
    "lora-pissa": {"name": "lora", "initialise": "pissa"},
    "lora-dora": {"name": "lora", "dora": True},
}
MAIN = ("lora", "p-tuning", "freeze", "full")


def first_rate(method: str) -> str:
    """The name of one of OURS with the default learning rate, its steps read once."""
    return re.sub("-(high|higher|consistent)$", "", method)


CONSISTENT = "-consistent"
FACTORS = {**{f"{name}-high": 2 for name in (*MAIN, "p-tuning-biases")}, "p-tuning-biases-higher": 4}
FACTORS |= {f"{name}{CONSISTENT}": 2 for name in MAIN}
HIGH = {name: factor * DEFAULT_LEARNING_RATES[OURS[first_rate(name)]["name"]] for name, factor in FACTORS.items()}
"""Our methods with twice their learning rate: a second try, as peers have one; a third one, as they have it too: `-consistent`, with that rate
and every step read twice, or `-higher`, four times the rate where twice was the better."""
OURS |= {name: OURS[first_rate(name)] for name in HIGH}


@dataclass(frozen=True)
class Peer:
    """What the Trainer, alone or with PEFT, trains. `like`: our method of that kind; `rates`: the better on dev counts; `higher`: a third
    one from the same start, tried where the higher of those two is the better one. `settings` of PEFT's configuration, or how many
    `blocks` from the top are trained and whether what follows them (a pooler) is."""

    like: str
    rates: tuple[float, float]
    higher: float
    settings: dict[str, Any] = field(default_factory=dict)
    same_start_alone: bool = False
    """Not also with its own defaults: its settings are none."""

    def plain(self) -> dict[str, Any]:
        return {"rates": list(self.rates), **self.settings}


LORA_RATES, FROZEN_RATES = (5e-4, 1e-3), (1e-4, 3e-4)
PEERS = {
    "lora": Peer("lora", LORA_RATES, 2e-3, {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "value"]}),
    "lora-all": Peer("lora", LORA_RATES, 2e-3, {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}, same_start_alone=True),
    "prefix": Peer("p-tuning", (5e-3, 1e-2), 3e-2, {"num_virtual_tokens": 16}),
    "p-tuning": Peer("p-tuning", (1e-3, 5e-3), 1e-2, {"num_virtual_tokens": 16}),
    "frozen": Peer("freeze", FROZEN_RATES, 6e-4, {"blocks": 2, "after": False}),
    "frozen-4": Peer("freeze", FROZEN_RATES, 6e-4, {"blocks": 4, "after": True}, same_start_alone=True),
    "full": Peer("full", (2e-5, 5e-5), 1e-4),
}  # fmt: skip
"""`lora` and `frozen` as examples of these libraries set them; `lora-all` and `frozen-4` train what ours train."""


def peer_names(start: str) -> list[str]:
    """Kind and start, as rows of peers are called."""
    return [f"{kind}-{start}" for kind, peer in PEERS.items() if start != "own" or not peer.same_start_alone]


def training_of(method: str) -> dict[str, Any]:
    """What one of OURS sets of the training."""
    if method not in HIGH:
        return {}
    return {"training": {"learning_rate": HIGH[method]} | ({"consistency": 4.0} if method.endswith(CONSISTENT) else {})}


def plain_recipe(method: str) -> Recipe:
    """One of OURS with today's defaults, on any data."""
    fields = {"task": "text-classification", "base": "minilm", "train": "any", "output": "any", "method": OURS[method]}
    return Recipe.make({**fields, **training_of(method)})
