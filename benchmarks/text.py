"""The text benchmark: our methods and their peers on the same bases, data and seeds, one stored row each.

    python benchmarks/text.py ours|peers|simple|table [--cells ...] [--methods ...] [--seeds 0 1 2] [--workers 2]
    QUICK=1 python benchmarks/text.py all

Rows lie in benchmarks/results/text and are not measured again while code, data, settings and seed are the same. Each row holds,
for every set and strength, a pair of sums an example (what the primary score is a ratio of), so that any two rows can be compared
in pairs. `table` writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import CELLS, GPU, MAIN, OURS, PEERS, RUNS, SHARED, first_rate, peer_names, plain_recipe, training_of
from rows import code_hash, digest, peers_hash, row, settings_of, start_hash, stored_alone, wants_third_rate

from domaintune.bases.base import Base
from domaintune.data.formats import read_rows
from domaintune.engine.starting_head import probe_head
from domaintune.evaluation.records import load_records, scored_rows
from domaintune.evaluation.score import predict, records_of
from domaintune.heads import general_base, starting_base
from domaintune.inputs import checksums
from domaintune.parts import Parts, assemble
from domaintune.pipeline import general_of, tune
from domaintune.predict import Run, load, open_base
from domaintune.provenance import peak_memory
from domaintune.recipe import Recipe
from domaintune.resolve import epochs_for, has_new_labels
from domaintune.run import RunFolder
from domaintune.tasks.base import Record, Task, dataset

RESULTS = Path("benchmarks/results/text")
"""Rows of a GPU lie in a folder of their own in it: they start from bases that were made there."""
UNUSED = RUNS / "unused"


def key_of(recipe: Recipe) -> dict[str, Any]:
    """What decides a row's numbers: the recipe without places on this machine, and the data."""
    plain = {
        k: v
        for k, v in settings_of(recipe).items()
        if k not in ("output", "train", "dev", "test", "general", "general_check")
    }
    return {"recipe": plain | {"base": Path(recipe.base).name}, "data": checksums(recipe)}


def place() -> Path:
    """Of this machine's rows."""
    return RESULTS / GPU if torch.cuda.is_available() else RESULTS


def pairs(task: Task, records: Sequence[Record]) -> list[list[int]]:
    """[numerator, denominator] an example: accuracy is the sum of correct over examples, entity F1 of 2 hits over both counts."""
    if task.primary.name == "accuracy":
        return [[int(r["correct"]), 1] for r in records]
    return [[2 * int(r["hits"].sum()), int(r["predicted"].sum() + r["target"].sum())] for r in records]


class Sets:
    """What every model of a cell is scored on, and the heads that it needs."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.recipe = recipe
        base = open_base(recipe)
        self.parts: Parts = assemble(recipe, base)
        self.base = general_base(recipe, base, general_of(self.parts))
        if has_new_labels(self.parts.task, base) != CELLS[name].new_labels:
            raise SystemExit(f"{name}: `new_labels` of the cell is wrong.")
        g = self.parts.general
        self.sets: dict[str, tuple[Task, list[Any], str]] = {
            "domain": (self.parts.task, list(self.parts.test), "domain")
        }
        if g is not None:
            checked = g.headline_name == "general-check"
            self.sets["general"] = (g.task, list(g.choose if checked else g.headline), g.head)
            if checked:
                self.sets["check"] = (g.task, list(g.headline), g.head)
        agree = CELLS[name].agree
        if agree is not None and g is not None:
            rows = read_rows(str(SHARED / agree))
            self.sets["agreement"] = (g.task, list(g.task.read(rows, labelled=False)), g.head)

    def recorded(self, run: Path) -> dict[str, dict[str, list[list[int]]]]:
        """Strength -> set -> pairs of what the run itself scored and recorded: test, and the general part that it reports on."""
        made: dict[str, dict[str, list[list[int]]]] = {}
        for file, name in (("test", "domain"), ("general", "check" if "check" in self.sets else "general")):
            if name not in self.sets:
                continue
            task, examples, _ = self.sets[name]
            rows, records = load_records(run / "records" / f"{file}.safetensors")
            if not np.array_equal(rows.checksums, scored_rows(task, examples).checksums):
                raise SystemExit(f"{run}: the recorded {file} rows are not the cell's")
            for strength, held in records.items():
                made.setdefault(strength, {})[name] = pairs(task, held)
        return made

    def scores(
        self,
        model_of: Any,
        reference: dict[str, Any],
        known: dict[str, list[list[int]]] | None = None,
        *,
        strength: float = 1.0,
    ) -> dict[str, list[list[int]]]:
        """Set -> pairs, with `model_of(head)`, those that are `known` aside. On the agreement set the base's answers, kept in
        `reference`, are the targets."""
        made = dict(known or {})
        for name, (whole, examples, head) in self.sets.items():
            if name in made:
                continue
            task = whole.at(strength)
            data = dataset(task, self.base, examples)
            if name == "agreement":
                raw = predict(task, self.base, model_of(head), data, wanted=frozenset({"output"}), mode="predict")
                answers = [repr(task.render(p).get("label", task.render(p).get("tags"))) for p in raw]
                expected = reference.setdefault("answers", answers)
                made[name] = [[int(a == b), 1] for a, b in zip(answers, expected, strict=True)]
                continue
            raw = predict(task, self.base, model_of(head), data, wanted=frozenset({task.primary.name}))
            made[name] = pairs(task, records_of(task, data, raw))
        return made


def ours(cell: str, method: str, seed: int) -> dict[str, Any]:
    recipe = CELLS[cell].recipe(OURS[method], seed=seed, output=UNUSED, **training_of(method))
    key = {"code": code_hash(CELLS[cell].task), **key_of(recipe)}
    output = RUNS / f"{cell}-{method}-{seed}-{digest(key)}"
    recipe = recipe.model_copy(update={"output": str(output)})

    def measure() -> dict[str, Any]:
        if not RunFolder(output).finished:
            tune(recipe)
        run, folder = load(output), RunFolder.existing(output)
        scores, facts = folder.read("scores.json"), folder.read("provenance.json")
        sets = Sets(cell, recipe)
        reference: dict[str, Any] = {}
        known = sets.recorded(output)
        strengths = sorted(float(strength) for strength in known)  # 0 first: agreement is with the base's answers
        return {
            "chosen": run.strength,
            "verdict": scores["verdict"]["kind"],
            "dev": scores["dev"],
            "averaged": scores["averaged_epochs"],
            "precision": folder.read("resolved.json")["training"]["precision"],
            "trainable": scores["trainable_parameters"],
            "seconds": facts["training_seconds"],
            "memory": facts["peak_memory_bytes"],
            "scores": {
                f"{s:g}": sets.scores(lambda head, s=s: run.view(s, head=head), reference, known[f"{s:g}"], strength=s)
                for s in strengths
            },
            **greedy(sets, run),
        }

    return row(place(), f"{cell}.{method}.{seed}", key, measure)


def greedy(sets: Sets, run: Run) -> dict[str, list[list[int]]]:
    """Of entities the test pairs at strength 1 with each word's likeliest tag: what is not due to decoding."""
    if sets.recipe.task.name != "token-classification":
        return {}
    task = sets.parts.task.model_copy(update={"decoding": "greedy"})
    data = dataset(task, sets.base, sets.parts.test)
    raw = predict(task, sets.base, run.view(1.0), data, wanted=frozenset({task.primary.name}))
    return {"greedy": pairs(task, records_of(task, data, raw))}


def ours_higher(cell: str, method: str, seed: int) -> None:
    """The third rate, where the higher of two was the better one."""
    first = first_rate(method)
    default, high = ours(cell, first, seed), ours(cell, f"{first}-high", seed)
    if high["dev"] > default["dev"]:
        ours(cell, method, seed)


class Copied(Base):
    """A base whose forks share no storage with it: the peers train in place."""

    def fork(self, *arguments: Any, **more: Any) -> torch.nn.Module:
        return copy.deepcopy(super().fork(*arguments, **more))

    @classmethod
    def of(cls, base: Base) -> Copied:
        return cls(**{part.name: getattr(base, part.name) for part in dataclasses.fields(base)})


def greedily(cell: str) -> dict[str, Any]:
    """Of entities each word's likeliest tag, as the examples of these libraries decode."""
    task = CELLS[cell].task
    return {"task": {"name": task, "decoding": "greedy"}} if task == "token-classification" else {}


def peer(cell: str, kind: str, start: str, seed: int) -> dict[str, Any]:
    """`start` "same": our head, as many epochs as our method of that kind takes, and the precision that ours chose; "own": a fresh head
    and the Trainer's own defaults; "same-high": as "same" with a third, higher rate."""
    import peers

    higher, own = start.endswith("-high"), start == "own"
    recipe = CELLS[cell].recipe({"name": "lora"}, seed=seed, output=UNUSED, **greedily(cell))
    key = peer_key(cell, kind, start, recipe, peers.versions())

    def measure() -> dict[str, Any]:
        sets = Sets(cell, recipe)
        task, parts = sets.parts.task, sets.parts
        dev = parts.dev if parts.dev is not None else parts.train
        data, dev_data = dataset(task, sets.base, parts.train), dataset(task, sets.base, dev)
        if own:
            base, epochs = sets.base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(seed)), 3
        else:
            base, _ = starting_base(recipe, sets.base, task, data, dev_data, general_of(parts))
            like, new = plain_recipe(PEERS[kind].like), CELLS[cell].new_labels
            epochs = epochs_for(like, rows=len(parts.train), new_labels=new)
        base = Copied.of(base)
        precision = "fp32" if own else precision_of_ours(cell, PEERS[kind].like, seed)
        rates = (PEERS[kind].higher,) if higher else PEERS[kind].rates
        settings = {"epochs": epochs, "own_defaults": own, "sixteen_bits": precision == "bf16", "seed": seed}
        began = time.monotonic()
        try:
            made = peers.tuned(kind, task, base, data, dev_data, rates=rates, **settings)
        except Exception as error:  # noqa: BLE001  # what a user of that library would see is the row's result
            return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        seconds = time.monotonic() - began
        reference: dict[str, Any] = {}
        sets.base = base
        before = sets.scores(lambda head: base.fork(head=head).eval(), reference)
        after = sets.scores(lambda head: peers.with_head(made.model, base, head), reference)
        return {
            "rate": made.rate,
            "dev": made.tries,
            "precision": precision,
            "trainable": made.trainable,
            "seconds": seconds / len(made.tries),
            "memory": peak_memory(),
            "scores": {"0": before, "1": after},
        }

    return row(place(), f"{cell}.peer-{kind}-{start}.{seed}", key, measure)


def peer_key(cell: str, kind: str, start: str, recipe: Recipe, versions: dict[str, str]) -> dict[str, Any]:
    key = {
        "versions": versions,
        "peer": peers_hash(),
        "start_code": start_hash(),
        "kind": kind,
        "settings": PEERS[kind].plain(),
        "start": start,
        **key_of(recipe),
    }
    key["recipe"] = {k: v for k, v in key["recipe"].items() if k in ("task", "base", "seed", "data")}
    key["recipe"]["task"].pop("decoding", None)  # of peers always each word's likeliest tag
    if start != "own":
        key["epochs"] = CELLS[cell].epochs(kind)
    if start.endswith("-high"):
        key["rate"] = PEERS[kind].higher
    return key


def precision_of_ours(cell: str, method: str, seed: int) -> str:
    """What our method, or else our LoRA, found faster; bf16 where neither is measured."""
    for name in (method, "lora"):
        if (path := place() / f"{cell}.{name}.{seed}.json").exists():
            return str(json.loads(path.read_text(encoding="utf-8"))["precision"])
    return "bf16"


def peer_high(cell: str, kind: str, seed: int) -> None:
    """The third rate, where the higher of two was the better one."""
    first = peer(cell, kind, "same", seed)
    if wants_third_rate(first):
        peer(cell, kind, "same-high", seed)


def simple(cell: str, seed: int) -> dict[str, Any]:
    """Majority, and a linear probe on frozen features, its regularisation chosen on dev."""
    recipe = CELLS[cell].recipe({"name": "lora"}, seed=seed, output=UNUSED, training={"probe": True}, **greedily(cell))

    def measure() -> dict[str, Any]:
        sets = Sets(cell, recipe)
        task, parts = sets.parts.task, sets.parts
        base = sets.base.with_head("domain", task.head(), generator=torch.Generator().manual_seed(seed))
        train = dataset(task, base, parts.train)
        dev = None if parts.dev is None else dataset(task, base, parts.dev)
        probed = base.with_given_head("domain", probe_head(task, base, train, dev))
        test = dataset(task, base, parts.test)
        raw = predict(task, base, probed.model, test, wanted=frozenset({task.primary.name}))
        majority = task.majority(parts.train, parts.test) or []
        return {
            "probe": pairs(task, records_of(task, test, raw)),
            "majority": pairs(task, records_of(task, test, majority)),
        }

    return row(place(), f"{cell}.simple.{seed}", {"code": code_hash(CELLS[cell].task), **key_of(recipe)}, measure)


def jobs(part: str, cells: Sequence[str], methods: Sequence[str] | None, seeds: Sequence[int]) -> list[list[str]]:
    """Command lines of single rows, the seeds outermost: a first complete table early."""
    made = []
    for seed in seeds:
        for cell in cells:
            if part in ("simple", "all"):
                made.append(["one", "simple", cell, "-", str(seed)])
            if part in ("ours", "all"):
                made += [["one", "ours", cell, m, str(seed)] for m in methods or (MAIN if quick() else OURS)]
            if part in ("peers", "all"):
                kinds = methods or [name for start in ("same", "own", "same-high") for name in peer_names(start)]
                made += [["one", "peer", cell, kind, str(seed)] for kind in kinds]
    return made


def quick() -> bool:
    return os.environ.get("QUICK", "") not in ("", "0")


def run_all(commands: list[list[str]], workers: int) -> None:
    """One process a row, so that memory is the row's own; `workers` at a time."""
    running: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    started = []
    for number, command in enumerate(commands, 1):
        if is_stored(*command[1:]):
            continue
        while len(running) >= workers:
            running = [process for process in running if process.poll() is None]
            time.sleep(0.2)
        print(f"{number}/{len(commands)}: {' '.join(command[1:])}", flush=True)
        running.append(subprocess.Popen([sys.executable, __file__, *command], env=environment))
        started.append(running[-1])
    bad = sum(process.wait() != 0 for process in started)
    print(f"{len(commands) - len(started)} of {len(commands)} rows were there.", flush=True)
    if bad:
        sys.exit(f"{bad} of {len(commands)} rows failed; the same command goes on with what is missing.")


def is_stored(kind: str, cell: str, name: str, seed: str) -> bool:
    """Whether nothing would be measured for a row; what is wrong with it, its own process tells."""
    try:
        with stored_alone():
            one(kind, cell, name, int(seed))
    except Exception:  # noqa: BLE001
        return False
    return True


def one(kind: str, cell: str, name: str, seed: int) -> None:
    torch.set_num_threads(1)
    if kind == "simple":
        simple(cell, seed)
    elif kind == "ours":
        (ours_higher if name.endswith("-higher") else ours)(cell, name, seed)
    else:
        peer_kind = next(kind for kind in sorted(PEERS, key=len, reverse=True) if name.startswith(f"{kind}-"))
        start = name.removeprefix(f"{peer_kind}-")
        if start == "same-high":
            peer_high(cell, peer_kind, seed)
        else:
            peer(cell, peer_kind, start, seed)


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        kind, cell, name, seed = sys.argv[2:]
        one(kind, cell, name, int(seed))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["ours", "peers", "simple", "all", "table"])
    parser.add_argument("--cells", nargs="+", default=[n for n, c in CELLS.items() if c.quick or not quick()])
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0] if quick() else [0, 1, 2])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.part != "table":
        run_all(jobs(arguments.part, arguments.cells, arguments.methods, arguments.seeds), arguments.workers)
    from text_tables import write_tables

    write_tables(RESULTS, seeds=[0, 1, 2])


if __name__ == "__main__":
    main()
