"""Stored rows of the text benchmark: which count, how old they are, which belong together, and their differences with intervals.

Rows hold [numerator, denominator] pairs an example; a score is the ratio of their sums. Nothing here is measured.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import CELLS, GPU, OURS, PEERS, plain_recipe
from rows import alike, code_hash, peers_hash, settings_of, start_hash, today, wants_third_rate

from domaintune.evaluation.intervals import Estimate
from domaintune.evaluation.over_seeds import seed_weights, widened

DRAWS = 2000
MANY = 1000
"""Examples behind an interval are hundreds: how many does not matter to it."""

Row = dict[str, Any]


def stored(results: Path, name: str, seed: int) -> Row | None:
    path = results / f"{name}.{seed}.json"
    if not path.exists():
        return None
    made = {**_read(path, path.stat().st_mtime_ns), "cell": name.partition(".")[0]}
    higher = stored(results, f"{name}-high", seed) if name.endswith("-same") else None
    if higher is None or "error" in higher or not alike(_of_start(higher), _of_start(made)):
        return made
    best = higher if dev_score(higher) > dev_score(made) else made  # type: ignore[operator]
    return {**best, "dev": {**made["dev"], **higher["dev"]}}


@functools.cache
def _read(path: Path, changed: int) -> Row:
    """The page asks for the same rows many times. `changed`: when the file last did."""
    made: Row = json.loads(path.read_text(encoding="utf-8"))
    return made


def _of_start(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row["key"].items() if key not in ("start", "rate")}


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., examples summed, 2] -> numerator / denominator."""
    made: np.ndarray = sums[..., 0] / np.maximum(sums[..., 1], 1e-12)
    return made


def score(rows: Sequence[Row], at: Callable[[Row], str], part: str) -> float | None:
    """Mean over seeds of the score of one set at one strength; None where the set is missing."""
    values = [np.asarray(row["scores"][at(row)].get(part, [])) for row in rows]
    if any(not len(value) for value in values):
        return None
    return float(np.mean([ratio(value.sum(0)) for value in values]))


def seed_of(row: Row) -> int:
    return int(row["key"]["recipe"]["seed"])


def of_gpu(row: Row) -> bool:
    """Rows of a GPU start from bases that were made there."""
    return row["provenance"]["machine"].get("gpu") is not None


def seed_and_base(row: Row) -> tuple[int, bool]:
    """What rows that are compared have in common."""
    return seed_of(row), of_gpu(row)


def paired(mine: Sequence[Row], theirs: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the seeds that both have, from the same base, in the same order."""
    held = [{seed_and_base(row): row for row in rows} for rows in (mine, theirs)]
    both = sorted(held[0].keys() & held[1].keys())
    return [held[0][key] for key in both], [held[1][key] for key in both]


def draws_of(rows: Sequence[Row], at: Callable[[Row], str], part: str, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of the mean over seeds: seeds are drawn, and examples, the same for every seed; of one seed examples alone."""
    values = np.stack([np.asarray(row["scores"][at(row)][part]) for row in rows])  # [seeds, examples, 2]
    count = values.shape[1]
    weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    each = ratio(np.einsum("dn,snk->dsk", weights, values))
    return mean_draws(each, seed=int(generator.integers(1 << 31)))


def mean_draws(values: np.ndarray, *, seed: int) -> np.ndarray:
    """[draws, n] -> draws of the mean of n drawn ones, whose spread is not too small where n is."""
    count = values.shape[1]
    weights = seed_weights(count, draws=DRAWS, seed=seed) if count > 1 else np.ones((DRAWS, 1))
    made: np.ndarray = (weights * values).sum(1)
    return made


def one(row: Row) -> str:
    return "1"


def chosen(row: Row) -> str:
    """The strength that a row of ours chose; peers have none but 1."""
    return f"{row.get('chosen', 1):g}"


def difference(
    mine: Sequence[Row], theirs: Sequence[Row], at: Callable[[Row], str] = one, part: str = "domain"
) -> tuple[np.ndarray, np.ndarray]:
    """Difference between ours at a strength and theirs by seed, and draws of its mean: the same seeds and examples for both."""
    a, b = draws_of(mine, at, part, np.random.default_rng(0)), draws_of(theirs, one, part, np.random.default_rng(0))
    each = [(score([m], at, part) or 0.0) - (score([t], one, part) or 0.0) for m, t in zip(mine, theirs, strict=True)]
    return np.array(each), a - b


def ends(each: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of few (seeds, or cells), from its draws: wider, as Student's t is than the normal distribution."""
    low, high = np.quantile(draws, [0.025, 0.975])
    made = widened(Estimate(float(each.mean()), low, high, low), draws, each, rows=MANY)
    return made.low, made.high


def interval(each: np.ndarray, draws: np.ndarray) -> str:
    low, high = ends(each, draws)
    return f"[{low:+.3f}, {high:+.3f}]"


def found(results: Path, cell: str, name: str, seeds: Sequence[int]) -> list[Row]:
    """The rows of one name that differ in the seed alone: today's; where there are none, those like the first seed's, which is the one
    that is measured anew first."""
    places = (results, results / GPU)
    rows = [row for place in places for seed in seeds if (row := stored(place, f"{cell}.{name}", seed)) is not None]
    if now := [row for row in rows if not is_old(name, [row])]:
        return now
    return [row for row in rows if alike(_without_seed(row), _without_seed(rows[0]))]


def _without_seed(row: Row) -> dict[str, Any]:
    key = _of_start(row)
    return {**key, "recipe": {k: v for k, v in key["recipe"].items() if k != "seed"}}


def is_old(name: str, rows: Sequence[Row]) -> bool:
    """Whether other code than today's, or other settings of this method, made one of the rows; of peers, whether other code or settings of
    theirs or another number of epochs did."""
    if name.startswith("peer-"):
        kind = re.sub("-(same|own)$", "", name.removeprefix("peer-"))
        return any(_is_old_peer(row, kind) for row in rows)
    if any(_is_of_other_code(row["key"]) for row in rows):
        return True
    if name not in OURS:
        return False
    return has_other_settings(rows, name, ("method", "training", "learning_rate", "epochs", "balance"))


def _is_of_other_code(key: dict[str, Any]) -> bool:
    """A key without a recipe is older than that it holds one."""
    return "recipe" not in key or today(key["code"]) != today(code_hash(key["recipe"]["task"]["name"]))


def has_other_settings(rows: Sequence[Row], method: str, names: Sequence[str]) -> bool:
    """Whether one of the rows was made with other values of these settings than the method has today."""
    settings = settings_of(plain_recipe(method))
    now = {"recipe": {name: settings[name] for name in names}}
    return not all(alike({"recipe": {name: row["key"]["recipe"].get(name) for name in names}}, now) for row in rows)


def _is_old_peer(row: Row, kind: str) -> bool:
    """As far as it can be told: without the data no number of epochs is known."""
    key, epochs = row["key"], epochs_of(row["cell"], kind)
    return (
        today(key["peer"]) != peers_hash()
        or today(key.get("start_code")) != today(start_hash())
        or key.get("settings") != PEERS[kind].plain()
        or (key.get("epochs") is not None and epochs is not None and key["epochs"] != epochs)
    )


@functools.cache
def epochs_of(cell: str, kind: str) -> int | None:
    return CELLS[cell].epochs(kind)


def age_of(name: str, rows: Sequence[Row]) -> str:
    """A mark for old rows, and for peers' that lack the third rate."""
    if not is_old(name, rows):
        lacking = name.endswith("-same") and any(map(wants_third_rate, rows))
        return " (third rate missing)" if lacking else ""
    epochs = rows[0]["key"].get("epochs")
    return f" (older: {epochs} epochs)" if epochs is not None else " (older code)"


def missing(results: Path, cell: str, names: Sequence[str], rows: Sequence[Row]) -> str:
    """How many rows of these names are not there, of the seeds and bases of `rows`."""
    wanted = set(map(seed_and_base, rows))
    seeds = sorted({seed for seed, _ in wanted})
    held = [wanted & set(map(seed_and_base, found(results, cell, name, seeds))) for name in names]
    count = len(names) * len(wanted)
    lacking = count - sum(map(len, held))
    return f" ({lacking} of {count} rows missing)" if lacking else ""


def dev_score(row: Row) -> float | None:
    """What the row reached on dev at strength 1; of a peer, at the better of its rates."""
    dev = row.get("dev")
    return max(dev.values()) if isinstance(dev, dict) else dev


def best_pairs(
    results: Path, cell: str, mine: Sequence[str], theirs: Sequence[str], seeds: Sequence[int]
) -> tuple[list[tuple[str, Row]], list[tuple[str, Row]]]:
    """Of each seed our row and the peers' that are the best on dev, with their names, from one base: that of most rows. Of equally good ones
    the one that trains least; old rows count where there are no others."""
    sides: list[dict[tuple[int, bool], list[tuple[str, Row]]]] = [
        _by_seed_and_base(results, cell, names, seeds) for names in (mine, theirs)
    ]
    chosen_keys = {}
    for key in sorted(sides[0].keys() & sides[1].keys(), key=lambda key: sum(len(side[key]) for side in sides)):
        chosen_keys[key[0]] = key
    made = [[max(side[key], key=_dev_then_few) for _, key in sorted(chosen_keys.items())] for side in sides]
    return made[0], made[1]


def _by_seed_and_base(
    results: Path, cell: str, names: Sequence[str], seeds: Sequence[int]
) -> dict[tuple[int, bool], list[tuple[str, Row]]]:
    rows = [(name, row) for name in names for row in found(results, cell, name, seeds) if dev_score(row) is not None]
    made: dict[tuple[int, bool], list[tuple[str, Row]]] = {}
    for name, row in [entry for entry in rows if not is_old(entry[0], [entry[1]])] or rows:
        made.setdefault(seed_and_base(row), []).append((name, row))
    return made


def _dev_then_few(entry: tuple[str, Row]) -> tuple[float, int]:
    return dev_score(entry[1]) or 0.0, -entry[1]["trainable"]


def word_by_word(row: Row) -> Row:
    """A row of entities with each word's likeliest tag at strength 1; another row as it is."""
    if "greedy" not in row:
        return row
    return {**row, "scores": {**row["scores"], "1": {**row["scores"]["1"], "domain": row["greedy"]}}}
