"""A run's records as the report reads them: what a run does not hold is empty here, and nothing is made up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domaintune.report.wording import decisions
from domaintune.run import SEEDS, SEEDS_SUMMARY, RunFolder, findings_of, is_run, moved_from, read_json, read_lines

MOST_CLASSES = 50


@dataclass(frozen=True, slots=True)
class Records:
    """One finished run. `path` is absolute; `test` and `general` are its predictions, row by row."""

    path: Path
    state: Mapping[str, Any]
    recipe: Mapping[str, Any]
    tasks: Mapping[str, Any]
    scores: Mapping[str, Any]
    provenance: Mapping[str, Any]
    dial: Mapping[str, Any]
    """strength.json."""
    test: list[dict[str, Any]]
    general: list[dict[str, Any]]
    seeds: int = 1
    """How many runs over seeds this is one of."""
    summary: Mapping[str, Any] | None = None
    """What seeds.json says of all of them, once it is written."""

    @classmethod
    def read(cls, path: str | Path) -> Records:
        """
        Raises:
            RunError: no finished run there, or one that is damaged.
        """
        folder = RunFolder.existing(path)
        path = folder.path.resolve()
        whole = RunFolder(path.parent.parent)
        seeds = whole.read("recipe.json").get("seeds", 1) if path.parent.name == SEEDS and is_run(whole.path) else 1
        summary = whole.path / SEEDS_SUMMARY
        return cls(
            path,
            folder.read("run.json"),
            folder.read("resolved.json"),
            folder.read("tasks.json"),
            folder.read("scores.json"),
            folder.read("provenance.json"),
            folder.read("strength.json"),
            _rows(path, "test"),
            _rows(path, "general"),
            seeds,
            read_json(summary) if seeds > 1 and summary.is_file() else None,
        )

    @property
    def name(self) -> str:
        """Of the folder that the user named: a seed's run is called after the run of all seeds."""
        return self.path.parents[1].name if self.seeds > 1 else self.path.name

    @property
    def folder_name(self) -> str:
        """The run for a command beside the folder that the user named, which itself stands for one of several seeds' runs."""
        return self.name if self.seeds == 1 or self._own == self._used else f"{self.name}/{self._own}"

    @property
    def _own(self) -> str:
        """Of a seed's run, its folder in that of all seeds."""
        return f"{SEEDS}/{self.path.name}"

    @property
    def _used(self) -> str | None:
        """As `_own`, of the run that stands for all; None before the summary is written."""
        return None if self.summary is None else str(self.summary["runs"][self.summary["used_seed"]]["folder"])

    @property
    def verdict(self) -> Mapping[str, Any]:
        """That over all seeds, where there is one."""
        if self.summary is None:
            return dict(self.scores["verdict"])
        over = self.summary["verdict"]
        return {"kind": over["kind"], "sentence": f"Over {self.seeds} seeds: {over['sentence']}"}

    @property
    def of_seeds(self) -> str:
        """Which of several seeds' runs this is; empty of a single run."""
        if self.seeds == 1:
            return ""
        own, used = self._own, self._used
        if used is None:
            return f"This is {own}, one of {self.seeds} runs over seeds."
        which = "the one with the median dev score" if own == used else f"not {used}, which has the median dev score"
        return f"What follows is {own} of {self.seeds}, {which}. Of it alone: {self.scores['verdict']['sentence']}"

    def moved(self, *, named: str | None = None) -> list[str]:
        """What is to be said where another strength was set since; `named`: how commands name the run, by default by its path."""
        return moved_from(self.scores, self.dial, run=named or str(self.path))

    @property
    def primary(self) -> str:
        """Name of the score that everything was judged by."""
        return str(self.scores["primary"])

    @property
    def how_scored(self) -> str:
        """What makes scores of translations comparable with others'; empty where there are none."""
        tokenizer = self.tasks["domain"].get("bleu_tokenizer")
        if tokenizer is None:
            return ""
        return (
            f"chrf and bleu are corpus scores as sacrebleu's, on a scale of 0 to 1: chrF2 (characters up to order 6, no words), and BLEU "
            f"with the tokenizer {tokenizer}, exponential smoothing, case kept, one reference (sacrebleu: "
            f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp)."
        )

    @property
    def chosen(self) -> float:
        return float(self.scores["chosen_strength"])

    @property
    def judged(self) -> float:
        """The strength that stands beside the base: the chosen one, or 1 where that is the base itself."""
        return self.chosen or 1.0

    @property
    def strengths(self) -> list[float]:
        """Those that were confirmed: 0, the chosen one and 1, each once."""
        return sorted({0.0, self.chosen, 1.0})

    @property
    def sides(self) -> dict[str, Mapping[str, Any]]:
        """ "domain", and "general" where there is one -> its confirmation."""
        return {name: self.scores[name] for name in ("domain", "general") if self.scores.get(name)}

    @property
    def classes(self) -> list[dict[str, Any]]:
        """What is known of each class; of more than `MOST_CLASSES` those that some test row has."""
        known: list[dict[str, Any]] = self.scores.get("classes") or []
        return known if len(known) <= MOST_CLASSES else [entry for entry in known if entry["support"]]

    @property
    def classes_left_out(self) -> str:
        """A sentence of the classes that `classes` lacks; empty where it lacks none."""
        count = len(self.scores.get("classes") or []) - len(self.classes)
        return f"{count:,} label{'s' if count > 1 else ''} that no test row has: left out." if count else ""

    @property
    def class_scores(self) -> list[str]:
        """Names of what is known of each class, in the order to show it."""
        known = (self.scores.get("classes") or [{}])[0]
        return [name for name in ("precision", "recall", "f1", "ap", "base_f1", "base_ap") if name in known]

    @property
    def findings(self) -> list[dict[str, Any]]:
        return findings_of(self.scores)

    @property
    def labels(self) -> list[str]:
        """The domain's labels in unit order; none where labels size nothing."""
        return list(self.tasks["domain"].get("labels", ()))

    @property
    def decisions(self) -> str:
        """What the calibrated probabilities are of."""
        return decisions(self.state["task"], self.tasks["domain"])

    @property
    def dev_scores(self) -> list[float | None]:
        """By epoch, in the primary score's own direction; with folds their mean over those that came that far."""
        sign = 1 if self.scores.get("higher_is_better", True) else -1
        if not self.scores.get("folds"):
            made = [epoch["score"] for epoch in self.scores["epochs"]]
        else:
            columns = itertools.zip_longest(*(fold["scores"] for fold in self.scores["folds"]))
            made = [_mean([score for score in column if score is not None]) for column in columns]
        return [None if score is None else sign * score for score in made]


def _rows(run: Path, part: str) -> list[dict[str, Any]]:
    """The predictions of a part, none where there are none; under "row" which of them one is, where several stand on one line of the
    data."""
    name = f"predictions/{part}.jsonl"
    rows = read_lines(run / name) if (run / name).is_file() else []
    lines = Counter((row["file"], row["line"]) for row in rows)
    return [
        {**row, "row": f"row {number} of {name}"} if lines[row["file"], row["line"]] > 1 else row
        for number, row in enumerate(rows, 1)
    ]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
