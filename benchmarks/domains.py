"""Several domains or languages in one model: one LoRA with a learned weight per domain, one pooled LoRA, one LoRA per domain;
and one model tuned on three domains in turn.

    python benchmarks/domains.py [--sets sentiment languages sequence] [--seeds 0] | table

Finished rows are kept in benchmarks/results/domains. Data are looked for in the folder that DOMAINTUNE_SHARED names (by default
../shared).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import general_bases
import numpy as np
from cells import RUNS, SHARED
from rows import code_hash, digest, row
from stored_rows import DRAWS, age_of, has_other_settings, interval, is_old, mean_draws, ratio
from text import key_of as settings_key
from text import pairs

from domaintune.counting import counted
from domaintune.data.formats import read_rows
from domaintune.inputs import data_checksum
from domaintune.pipeline import tune
from domaintune.predict import load
from domaintune.recipe import Recipe
from domaintune.run import RunFolder, write_lines

RESULTS, DATA = Path("benchmarks/results/domains"), RUNS.parent / "domains"
TEXT, TOKENS = "text-classification", "token-classification"
SETS: dict[str, dict[str, Any]] = {
    "sentiment": {
        "task": TEXT,
        "base": "movies",
        "domains": {name: f"sentiment/{name}" for name in ("product_reviews", "reddit_goemotions", "pros_cons")},
    },
    "languages": {
        "task": TOKENS,
        "base": "minilm",
        "domains": {"en": "ner/uner_en_ewt", "zh": "ner/uner_zh_gsdsimp"},
    },
}
ROWS = {"train": 500, "dev": 200, "test": 500}
SCORED_ROWS = 2000
"""Of each domain, at most so many test rows and so many train rows that no run saw: what the ways are compared on. The runs themselves
report on fewer."""
WAYS = ("weighted", "pooled", "apart")


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream)) if path.suffix == ".csv" else [json.loads(line) for line in stream]


def part(folder: str, name: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """So many rows of a part from the `start`-th on, in an order drawn with one seed; where there is no dev file, train rows that train
    does not take."""
    suffix = "csv" if folder.startswith("sentiment") else "jsonl"
    path = SHARED / folder / f"{name}.{suffix}"
    rows = read(path if path.exists() else path.with_name(f"train.{suffix}"))
    order = np.random.default_rng(13).permutation(len(rows))
    start += 0 if path.exists() else ROWS["train"]
    return [rows[i] for i in order[start : start + count]]


def left_out(folder: str) -> list[dict[str, Any]]:
    """Train rows that are neither trained on nor dev, nor equal to one that is."""
    seen = [json.dumps(r) for name in ("train", "dev") for r in part(folder, name, ROWS[name])]
    rows = part(folder, "train", SCORED_ROWS, start=ROWS["train"] + ROWS["dev"])
    return [r for r in rows if json.dumps(r) not in seen]


def files(name: str) -> dict[str, str]:
    """Part -> the file with the rows of every domain, each with its name under "domain"."""
    return {wanted: _written(name, wanted, partial(part, name=wanted, count=count)) for wanted, count in ROWS.items()}


def scored_file(name: str) -> str:
    return _written(name, "scored", lambda folder: [*part(folder, "test", SCORED_ROWS), *left_out(folder)])


def _written(name: str, called: str, rows_of: Callable[[str], list[dict[str, Any]]]) -> str:
    path = DATA / f"{name}-{called}.jsonl"
    domains = SETS[name]["domains"].items()
    write_lines(path, [{**r, "domain": d} for d, folder in domains for r in rows_of(folder)])
    return str(path)


def only(path: str, domain: str) -> str:
    target = Path(path).with_name(f"{Path(path).stem}-{domain}.jsonl")
    write_lines(target, [r for r in read(Path(path)) if r["domain"] == domain])
    return str(target)


def recipe_of(name: str, parts: dict[str, str], seed: int, *, weights: bool, base: str | None = None) -> Recipe:
    """`base`: an earlier run in the place of the set's own base."""
    general = SETS[name]["base"]
    return Recipe.make(
        {
            "task": SETS[name]["task"],
            "base": base or (general if general == "minilm" else str(general_bases.make(general))),
            **parts,
            "method": {"name": "lora", "domain_weights": weights},
            "data": {"domain_column": "domain"},
            "evaluation": {"robustness": False},
            "seed": seed,
            "threads": 1,
            "output": str(DATA / "unused"),
        }
    )


def tuned(recipe: Recipe, output: Path) -> Any:
    if not RunFolder(output).finished:
        tune(recipe.model_copy(update={"output": str(output)}))
    return load(output)


def key_of(recipe: Recipe) -> dict[str, Any]:
    return {"code": code_hash(recipe.task.name), **settings_key(recipe)}


def scored(run: Any, path: str) -> dict[str, list[list[int]]]:
    """Domain -> [numerator, denominator] an example, at strength 1 (times the domain's weight)."""
    rows = read_rows(path)
    made: dict[str, list[list[int]]] = {}
    for domain in sorted({str(r.values["domain"]) for r in rows}):
        examples = list(run.task.read([r for r in rows if r.values["domain"] == domain]))
        at = {"": run.domains.get(domain, 1.0)}
        predictions = run.predictions(run.task, examples, at, wanted=frozenset({run.task.primary.name}))
        made[domain] = pairs(run.task, [run.task.statistics(p, e) for p, e in zip(predictions, examples, strict=True)])
    return made


def measured(name: str, way: str, seed: int) -> dict[str, Any]:
    parts, domains = files(name), list(SETS[name]["domains"])
    recipe = recipe_of(name, parts, seed, weights=way == "weighted")
    key = {"way": way, **key_of(recipe)}
    place, test = DATA / f"{name}-{way}-{seed}-{digest(key)}", scored_file(name)
    key["scored"] = data_checksum(test)

    def measure() -> dict[str, Any]:
        if way != "apart":
            run = tuned(recipe, place)
            scores = RunFolder.existing(place).read("scores.json")
            return {
                "weights": dict(run.domains),
                "trainable": scores["trainable_parameters"],
                "scores": scored(run, test),
            }
        found: dict[str, Any] = {}
        trainable = 0
        for domain in domains:
            own = {key: only(path, domain) for key, path in parts.items()}
            folder = place.with_name(f"{place.name}-{domain}")
            run = tuned(recipe_of(name, own, seed, weights=False), folder)
            found |= scored(run, only(test, domain))
            trainable += RunFolder.existing(folder).read("scores.json")["trainable_parameters"]
        return {"weights": {}, "trainable": trainable, "scores": found}

    return row(RESULTS, f"{name}.{way}.{seed}", key, measure)


def sequence(seed: int) -> dict[str, Any]:
    """One model tuned on the three sentiment domains in turn, each run the next one's base: every domain's score after every step."""
    parts = files("sentiment")
    domains = list(SETS["sentiment"]["domains"])
    key = key_of(recipe_of("sentiment", parts, seed, weights=False))

    def measure() -> dict[str, Any]:
        base, steps = None, []
        for number, domain in enumerate(domains):
            output = DATA / f"sequence-{number}-{seed}-{digest(key)}"
            own = {key: only(path, domain) for key, path in parts.items()}
            run = tuned(recipe_of("sentiment", own, seed, weights=False, base=base), output)
            if not steps:
                before = scored_at(run, parts["test"], 0.0)
                steps.append({"after": "the base", "scores": before})
            steps.append({"after": domain, "scores": scored_at(run, parts["test"], 1.0)})
            base = str(output)
        return {"steps": steps}

    return row(RESULTS, f"sequence.{seed}", key, measure)


def scored_at(run: Any, path: str, strength: float) -> dict[str, float]:
    made = {}
    for domain in SETS["sentiment"]["domains"]:
        examples = list(run.task.read(read_rows(only(path, domain))))
        predictions = run.predictions(run.task, examples, {"": strength}, wanted=frozenset({run.task.primary.name}))
        records = [run.task.statistics(p, e) for p, e in zip(predictions, examples, strict=True)]
        made[domain] = float(ratio(np.asarray(pairs(run.task, records)).sum(0)))
    return made


def table() -> list[str]:
    """Scores by domain, and paired differences of the weighted LoRA, averaged over the seeds that every way has."""
    seeds = sorted({int(path.stem.rpartition(".")[2]) for path in RESULTS.glob("*.json")})
    told = f"Scores on at most {SCORED_ROWS:,} test rows of each domain and as many train rows that no run saw, at strength 1."
    lines = ["", "## Several domains in one model", "", told, ""]
    for name, facts in SETS.items():
        held = {way: [_stored(f"{name}.{way}.{seed}") for seed in seeds] for way in WAYS}
        common = [i for i in range(len(seeds)) if all(held[way][i] is not None for way in WAYS)]
        common = [i for i in common if not _is_old([held[way][i] for way in WAYS])] or common
        sets = [{held[way][i]["key"]["scored"] for way in WAYS} for i in common]
        common = [
            i for i, found in zip(common, sets, strict=True) if len(found) == 1 and found == sets[0]
        ]  # the first is anew first
        if not common:
            lines.append(f"{name}: missing")
            continue
        rows = {way: [held[way][i] for i in common] for way in WAYS}
        mark = " (older)" if _is_old([row for way in WAYS for row in rows[way]]) else ""
        lines += [
            f"{name}, {counted(len(common), '[seed|seeds]')}{mark}",
            "",
            f"| LoRA | {' | '.join(facts['domains'])} | trained | weights |",
        ]
        lines.append("| --- " * (len(facts["domains"]) + 3) + "|")
        for way in WAYS:
            means = [np.mean([ratio(np.asarray(r["scores"][d]).sum(0)) for r in rows[way]]) for d in facts["domains"]]
            weights = "; ".join(", ".join(f"{d} {w:.2f}" for d, w in r["weights"].items()) for r in rows[way])
            lines.append(
                f"| {way} | {' | '.join(f'{m:.3f}' for m in means)} | {rows[way][0]['trainable']:,} | {weights} |"
            )
        lines.append("")
        for other in ("pooled", "apart"):
            made = {d: _difference(rows["weighted"], rows[other], d) for d in facts["domains"]}
            shown = ", ".join(f"{d} {each.mean():+.3f} {interval(each, draws)}" for d, (each, draws) in made.items())
            each, draws = (np.mean(of, axis=0) for of in zip(*made.values(), strict=True))
            lines.append(f"weighted - {other}: {shown}; mean {each.mean():+.3f} {interval(each, draws)}  ")
        lines.append("")
    for seed in seeds:
        stored = _stored(f"sequence.{seed}")
        if stored is not None:
            lines += [
                f"In turn, seed {seed}{age_of('domains', [stored])}:",
                "",
                f"| after | {' | '.join(SETS['sentiment']['domains'])} |",
                "| --- | --- | --- | --- |",
            ]
            lines += [
                f"| {s['after']} | {' | '.join(f'{v:.3f}' for v in s['scores'].values())} |" for s in stored["steps"]
            ]
            lines.append("")
    return lines


def _is_old(rows: Sequence[Any]) -> bool:
    return is_old("domains", rows) or has_other_settings(rows, "lora", ("training", "learning_rate", "epochs"))


def _stored(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    made: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return made


def _difference(mine: Sequence[Any], theirs: Sequence[Any], domain: str) -> tuple[np.ndarray, np.ndarray]:
    """The difference of scores by seed, and draws of its mean: seeds, and the same examples for both and for every seed."""
    generator = np.random.default_rng(0)
    values = [np.stack([np.asarray(r["scores"][domain]) for r in rows]) for rows in (mine, theirs)]
    count = values[0].shape[1]
    weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    means = [mean_draws(ratio(np.einsum("dn,snk->dsk", weights, v)), seed=1) for v in values]
    each = ratio(values[0].sum(1)) - ratio(values[1].sum(1))
    return each, means[0] - means[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SETS, "sequence"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name in arguments.sets:
            if name == "sequence":
                sequence(seed)
            else:
                for way in WAYS:
                    measured(name, way, seed)
            print("\n".join(table()), flush=True)


if __name__ == "__main__":
    main()
