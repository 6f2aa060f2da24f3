"""One recipe over several seeds: a run for each, and their scores with what seeds and examples both add to the uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domaintune.balance.frontier import Point
from domaintune.confirm import judged, kept_kind
from domaintune.errors import RunError
from domaintune.evaluation.intervals import bootstrap_weights
from domaintune.evaluation.over_seeds import OverSeeds, seeds_half_width
from domaintune.evaluation.records import ScoredRows, load_records
from domaintune.evaluation.verdict import ONE_SIDED, UNLABELLED, Confirmed
from domaintune.inputs import checksums, files
from domaintune.predict import load
from domaintune.recipe import Recipe
from domaintune.run import SEEDS, SEEDS_SUMMARY, RunFolder, write_json
from domaintune.stored import saved_tasks
from domaintune.tasks.base import Task


def tune_seeds(
    recipe: Recipe,
    tune_one: Callable[..., Any],
    try_out: Callable[[Recipe], None],
    write_page: Callable[[RunFolder], None],
    *,
    overwrite: bool,
    report: Callable[[str, Any], None],
    say: Callable[[list[str]], None],
) -> Any:
    """`recipe.seeds` runs of the recipe in OUTPUT/seeds/0, 1, ..., on the same parts, by `tune_one`; and their summary in OUTPUT.
    `try_out` raises what stands in the way of the first, before an earlier run is removed; `write_page` writes the page of the run that
    stands for all again, now that there is the summary to lead it.

    The same recipe resumes: finished runs are kept, an unfinished one goes on; `overwrite` begins those anew that cannot be kept or
    gone on with. `load(OUTPUT)` is the run with the median dev score (of an even number the lower of the two in the middle).

    Raises:
        RunError: the data or the base changed between two seeds' runs.
    """
    folder = RunFolder(Path(recipe.output))
    with folder.lock():
        made = [_recipe_of(recipe, number) for number in range(recipe.seeds)]
        data = checksums(recipe)
        fate = folder.fate(recipe, data=data, inputs=files(recipe), overwrite=overwrite)
        if fate == "remove":
            try_out(made[0])
        folder.start(recipe, fate, data=data)
        revision, once = None, _once(say)  # all have the same parts, and the same is to be said of them
        for number, one in enumerate(made, start=1):
            run = RunFolder(Path(one.output))
            if not _stands(run, data if overwrite else None):
                _require_same(data, checksums(recipe), one.output)
                numbered = _numbered(report, f"seed {number} of {recipe.seeds}: ")
                tune_one(one, overwrite=overwrite, report=numbered, say=once, revision=revision)
            _require_same(data, run.read("run.json")["data"], one.output)
            revision = _same_base(made[0].output, one.output)
        runs = [RunFolder.existing(one.output) for one in made]
        summary, facts = _summary(recipe, runs)
        write_json(folder.path / SEEDS_SUMMARY, summary)
        write_page(runs[summary["used_seed"]])
        folder.finish(facts)
    return load(recipe.output)


def _stands(run: RunFolder, data: Mapping[str, str] | None) -> bool:
    """Whether a seed's run is finished; where `data` are given also whether it was made from them, and can be read."""
    try:
        return run.reported and (data is None or run.read("run.json")["data"] == data)
    except RunError:
        if data is None:
            raise
        return False


def _require_same(data: Mapping[str, str], others: Mapping[str, str], where: str) -> None:
    if changed := [name for name in {**data, **others} if data.get(name) != others.get(name)]:
        raise RunError(
            f"the data of {', '.join(changed)} changed since the runs of all seeds began.",
            where=where,
            remedy="Restore the files and add --overwrite: of the seeds' runs those from these files stay.",
        )


def _same_base(first: str, other: str) -> str | None:
    """The commit of the Hub that both were made from; None of what is not from there.

    Raises:
        RunError: two seeds' runs were made from other weights, such as those of a run whose strength was changed between them.
    """
    bases = [RunFolder.existing(path).read("provenance.json")["base"] for path in (first, other)]
    same = bases[0].get("checksum_of") == bases[1].get("checksum_of")  # runs as bases had another one once
    keys = ("weights_sha256", "revision", "strength") if same else ("revision", "strength")
    if any(bases[0].get(key) != bases[1].get(key) for key in keys):
        raise RunError(
            "was made from another base than the first seed's run: it changed in between.",
            where=other,
            remedy="Restore the base and remove this run, or the whole output folder to begin anew.",
        )

    revision: str | None = bases[0].get("revision")
    return revision


def _recipe_of(recipe: Recipe, number: int) -> Recipe:
    data = recipe.data.model_copy(update={"seed": recipe.data_seed})
    output = str(Path(recipe.output) / SEEDS / str(number))
    return recipe.model_copy(update={"seed": recipe.seed + number, "seeds": 1, "data": data, "output": output})


def _numbered(report: Callable[[str, Any], None], prefix: str) -> Callable[[str, Any], None]:
    return lambda stage, progress: report(prefix + stage, progress)


def _once(say: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Says each line the first time alone."""
    told: set[str] = set()

    def new(lines: list[str]) -> None:
        fresh = [line for line in lines if line not in told]
        told.update(fresh)
        if fresh:
            say(fresh)

    return new


def _summary(recipe: Recipe, runs: Sequence[RunFolder]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What seeds.json holds, and what run.json says of the whole."""
    scores = [run.read("scores.json") for run in runs]
    tasks = saved_tasks(runs[0])
    chosen = [f"{s['chosen_strength']:g}" for s in scores]
    domain = _side(tasks["domain"], runs, "test", chosen, recipe)
    general, agreement = None, False
    if scores[0]["general"] is not None:
        agreement = kept_kind(scores[0]["general"]["kind"]) in UNLABELLED
        general = _side(tasks.get("general", tasks["domain"]), runs, "general", chosen, recipe)
    kind = (
        "agreement" if general is None else scores[0]["general"]["kind"] if agreement else f"retention ({general.kind})"
    )
    dev = [dev_score(s) for s in scores]
    used = median_place(dev, higher_is_better=tasks["domain"].primary.higher_is_better)

    def at(strength: float, name: str) -> Confirmed:
        retention = None if general is None else general.change(name, agreement=agreement)
        own = None if name == "tuned" or len(set(chosen)) == 1 else f"each run's own strength ({', '.join(chosen)})"
        primary = tasks["domain"].primary
        score = domain.points[name][primary.name] if primary.higher_is_better else None
        kept = [] if general is None else [general.changes(name, agreement=agreement)]
        return Confirmed(
            strength, domain.gain(name), retention, kept_kind(kind), own, score, seeds=len(runs),
            gain_of_seeds=seeds_half_width([domain.gains(name)]), kept_of_seeds=seeds_half_width(kept, level=ONE_SIDED),
        )  # fmt: skip

    verdict = judged(
        recipe,
        tasks["domain"],
        [Point(**point) for point in scores[used]["frontier"]],
        at(float(chosen[used]), "chosen"),
        at(1.0, "tuned"),
        agreement=agreement,
        rows=(domain.count, 0 if general is None else general.count),
        majority=scores[0]["majority"],
    )
    summary = {
        "primary": scores[0]["primary"],
        "used_seed": used,
        "runs": [
            _told(s, number, recipe.seed + number, key, value)
            for number, (s, key, value) in enumerate(zip(scores, chosen, dev, strict=True))
        ],
        "domain": domain.plain(change=domain.gain, kind="gain"),
        "general": None
        if general is None
        else general.plain(change=lambda name: general.change(name, agreement=agreement), kind=kind),
        "verdict": verdict.plain(),
    }
    return summary, {
        "task": tasks["domain"].name,
        "method": recipe.method.name,
        "base": recipe.base,
        "verdict": verdict.kind,
        "seeds": recipe.seeds,
        "used_seed": used,
    }


def _told(scores: dict[str, Any], number: int, seed: int, chosen: str, dev: float) -> dict[str, Any]:
    """What the summary says of one run."""
    return {
        "folder": f"{SEEDS}/{number}",
        "seed": seed,
        "dev": dev,
        "chosen_strength": scores["chosen_strength"],
        "score": scores["domain"]["scores"][chosen][scores["primary"]]["value"],
        "retention": None if scores["general"] is None else scores["general"]["change"][chosen]["value"],
        "retention_kind": None if scores["general"] is None else scores["general"]["kind"],
        "verdict": scores["verdict"]["kind"],
    }


def dev_score(scores: dict[str, Any]) -> float:
    """A run's primary score on its dev part (out of fold where folds stand in for it), at the strength that it chose."""
    chosen = next(point for point in scores["frontier"] if point["strength"] == scores["chosen_strength"])
    return float(chosen["domain"])


def median_place(values: Sequence[float], *, higher_is_better: bool) -> int:
    """Where the median stands; of an even number the worse of the two in the middle, of equal ones the first."""
    order = sorted(range(len(values)), key=lambda place: (values[place] if higher_is_better else -values[place], place))
    return order[(len(values) - 1) // 2]


def _side(task: Task, runs: Sequence[RunFolder], part: str, chosen: Sequence[str], recipe: Recipe) -> OverSeeds:
    read = [load_records(run.path / "records" / f"{part}.safetensors") for run in runs]
    rows = _same_rows([entry[0] for entry in read], runs)
    weights = bootstrap_weights(
        len(rows.checksums), draws=recipe.evaluation.draws, seed=recipe.seed, groups=rows.group_names()
    )
    keys: dict[str, Sequence[str]] = {"base": ["0"] * len(runs), "chosen": chosen, "tuned": ["1"] * len(runs)}
    records = {
        name: [entry[1][key] for entry, key in zip(read, of_runs, strict=True)] for name, of_runs in keys.items()
    }
    sides = [run.read("scores.json")["domain" if part == "test" else part] for run in runs]
    return OverSeeds.of(task, records, weights, seed=recipe.seed, keys=keys, confirmed=sides)


def _same_rows(rows: Sequence[ScoredRows], runs: Sequence[RunFolder]) -> ScoredRows:
    for own, run in zip(rows, runs, strict=True):
        if not np.array_equal(own.checksums, rows[0].checksums):
            raise RunError(
                "was scored on other rows than the first seed's run.", where=str(run.path), remedy="Make the runs anew."
            )
    return rows[0]
