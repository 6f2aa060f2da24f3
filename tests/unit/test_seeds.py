"""One recipe over several seeds: complete runs on the same parts, a summary, and the run in the middle."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small_runs import recipe, save_base, table
from typer.testing import CliRunner

from domaintune import confirm, load, seeds, tune
from domaintune.cli import app
from domaintune.errors import RunError
from domaintune.evaluation.intervals import bootstrap_weights, gain_estimate, percentiles
from domaintune.evaluation.over_seeds import OverSeeds, seed_weights, widened
from domaintune.evaluation.records import load_records
from domaintune.finished.compare import compare
from domaintune.finished.evaluate import evaluate
from domaintune.finished.listing import list_runs
from domaintune.finished.strength import set_strength
from domaintune.seeds import median_place


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def confirmed_of(made: Any, runs: list) -> list:
    """What the verdict over seeds is given: at each run's own choice and at strength 1."""
    given: list = []

    def judged(*args: Any, **settings: Any) -> Any:
        given.extend(args[3:5])
        return confirm.judged(*args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "judged", judged)
        seeds._summary(made, runs)
    return given


def test_a_killed_one_goes_on_and_the_summary_is_the_mean(tmp_path: Path) -> None:
    save_base(tmp_path)
    output = tmp_path / "runs" / "s"
    made = recipe(tmp_path, seeds=3, seed=5, test=None, output=str(output), method="full")

    def kill(stage: str, progress: object) -> None:
        if stage == "seed 2 of 3: frontier":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=kill)
    with pytest.raises(RunError, match="not finished"):
        load(output)
    first = (output / "seeds/0/adapter/weights.safetensors").stat()
    with pytest.raises(RunError, match=r"seeds: 3 -> 4"):
        tune(made.model_copy(update={"seeds": 4}))
    run = tune(made, overwrite=True)  # as the command was that was killed
    assert (output / "seeds/0/adapter/weights.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    summary = read(output / "seeds.json")
    own = [read(output / "seeds" / str(n) / "scores.json") for n in range(3)]
    assert [read(output / "seeds" / str(n) / "recipe.json")["seed"] for n in range(3)] == [5, 6, 7]
    rows = [load_records(output / "seeds" / str(n) / "records/test.safetensors")[0].checksums for n in range(3)]
    assert all(np.array_equal(rows[0], other) for other in rows)
    assert len({(output / "seeds" / str(n) / "adapter/weights.safetensors").read_bytes() for n in range(3)}) == 3
    for word, keys in (("base", "000"), ("tuned", "111"), ("chosen", [f"{s['chosen_strength']:g}" for s in own])):
        values = [s["domain"]["scores"][key]["accuracy"]["value"] for s, key in zip(own, keys, strict=True)]
        estimate = summary["domain"]["scores"][word]["accuracy"]
        assert estimate["value"] == pytest.approx(np.mean(values))
        assert estimate["low"] <= min(np.mean(values), estimate["high"])
    tuned = summary["domain"]["change"]["tuned"]
    gains = [s["domain"]["change"]["1"]["value"] for s in own]
    assert tuned["value"] == pytest.approx(np.mean(gains))
    kept = summary["general"]["change"]["tuned"]["value"]
    general = summary["general"]["scores"]
    assert kept == pytest.approx(general["tuned"]["accuracy"]["value"] / general["base"]["accuracy"]["value"])
    dev = [entry["dev"] for entry in summary["runs"]]
    assert dev[summary["used_seed"]] == np.median(dev)
    assert run.path == output / "seeds" / str(summary["used_seed"])
    for number, entry in enumerate(summary["runs"]):
        page = html.unescape((output / entry["folder"] / "report.html").read_text())
        led = f"Over 3 seeds: {summary['verdict']['sentence']}"
        assert (led in page) == (number == summary["used_seed"])
        assert ("This is seeds/" in page) == (number != summary["used_seed"])
    assert load(output).predict(["a clean room"]) == load(run.path).predict(["a clean room"])
    (listed,) = list_runs(tmp_path / "runs")
    assert (listed["run"], listed["seeds"], listed["finished"]) == (str(output), 3, True)
    assert listed["gain"] == summary["domain"]["change"]["chosen"]
    assert listed["retention"] == summary["general"]["change"]["chosen"]
    assert listed["verdict"] == summary["verdict"]["kind"]
    one = tune(recipe(tmp_path, test=None, output=str(tmp_path / "runs/one"), data={"seed": 5}))
    compared = compare([output, one.path])
    facts, other = compared["runs"]
    assert (facts["seeds"], facts["compared_seeds"], other["seeds"], other["compared_seeds"]) == (3, 3, 1, 1)
    assert facts["strengths"] == [run["chosen_strength"] for run in summary["runs"]]
    assert facts["score"] == summary["domain"]["scores"]["chosen"]["accuracy"]
    assert facts["base_score"] == summary["domain"]["scores"]["base"]["accuracy"]
    assert (facts["gain"], facts["verdict"]) == (summary["domain"]["change"]["chosen"], summary["verdict"]["kind"])
    assert facts["retention"] == summary["general"]["change"]["chosen"]
    sides = confirmed_of(made, [seeds.RunFolder(output / "seeds" / str(n)) for n in range(3)])
    for side, key in ((sides[0], "chosen"), (sides[1], "tuned")):
        strengths = [f"{s['chosen_strength']:g}" if key == "chosen" else "1" for s in own]
        each = [s["domain"]["change"][at]["value"] for s, at in zip(own, strengths, strict=True)]
        kept = [s["general"]["change"][at]["value"] for s, at in zip(own, strengths, strict=True)]
        assert side.seeds == 3
        assert side.gain_of_seeds == pytest.approx(stats.t.ppf(0.975, 2) * np.std(each, ddof=1) / np.sqrt(3))
        assert side.kept_of_seeds == pytest.approx(stats.t.ppf(0.95, 2) * np.std(kept, ddof=1) / np.sqrt(3))
    difference = other["score"]["value"] - facts["score"]["value"]
    assert compared["pairs"][0]["difference"]["value"] == pytest.approx(difference)
    data = str(tmp_path / "train.csv")
    on_data = compare([output, one.path], data=data)["runs"][0]
    sides = [evaluate(load(output / "seeds" / str(n)), data).side for n in range(3)]
    expected = [
        side.plain()["scores"][f"{at:g}"]["accuracy"]["value"]
        for side, at in zip(sides, facts["strengths"], strict=True)
    ]
    assert on_data["score"]["value"] == pytest.approx(np.mean(expected))
    shown = " ".join(CliRunner().invoke(app, ["compare", str(output), str(one.path)]).output.split())
    assert "one over s (3 seeds)" in shown
    assert "note: of a run over several seeds the means over them are compared, each at its own strength" in shown
    used = summary["used_seed"]
    set_strength(output, 0.0 if facts["strengths"][used] else 1.0)
    alone = compare([output, one.path])["runs"][0]
    assert (alone["compared_seeds"], alone["used_seed"], alone["verdict"]) == (1, used, None)
    shown = " ".join(CliRunner().invoke(app, ["compare", str(output), str(one.path)]).output.split())
    assert f"one over s (seeds/{used} of 3)" in shown
    assert "another strength was set since; of its seeds the one with the median dev score is compared" in shown
    set_strength(output, facts["strengths"][used])
    with pytest.raises(RunError, match="finished run"):
        tune(made)


@pytest.mark.parametrize(
    ("values", "higher", "place"),
    [
        ([0.2, 0.9, 0.5], True, 2),
        ([0.9, 0.2], True, 1),
        ([0.9, 0.2], False, 0),
        ([0.5, 0.5, 0.5], True, 1),
        ([3], True, 0),
    ],
)
def test_the_median_run(values: list[float], higher: bool, place: int) -> None:
    assert median_place(values, higher_is_better=higher) == place


class Mean:
    """A task whose score is the mean of a number."""

    from domaintune.tasks.generation import Generation

    primary = Generation.primary.__class__("mean")

    @staticmethod
    def reduce(records: list, weights: np.ndarray) -> dict[str, np.ndarray]:
        values = np.array([record["value"] for record in records], dtype=np.float64)
        return {"mean": weights @ values / weights.sum(1)}


class Right(Mean):
    """A task of right and wrong alone."""

    primary = Mean.primary.__class__("accuracy", binary=True)

    @staticmethod
    def reduce(records: list, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": weights @ np.array([float(record["correct"]) for record in records]) / weights.sum(1)}


def test_intervals_hold_what_seeds_and_examples_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Example effects of standard deviation 1 over 400 rows, seed effects of .3 over 8 seeds: the variances of the mean add up,
    that of seeds without bias, though there are few."""
    generator = np.random.default_rng(0)
    count, number = 400, 4
    examples, shifts = generator.normal(size=count), 0.3 * generator.normal(size=number)
    shared = seeds.ScoredRows(np.arange(count), np.full(count, -1))

    def stored(path: Path) -> tuple:
        shift = shifts[int(path.parent.parent.name)]
        zero = [{"value": np.asarray(0.0)}] * count
        return shared, {"0": zero, "1": [{"value": np.asarray(x + shift)} for x in examples]}

    monkeypatch.setattr(seeds, "load_records", stored)
    runs = []
    for n in range(number):
        (tmp_path / str(n)).mkdir()
        estimate = {"how": "bootstrap"}
        side = {"scores": {"0": {"mean": estimate}, "1": {"mean": estimate}}, "change": {"0": estimate, "1": estimate}}
        (tmp_path / str(n) / "scores.json").write_text(json.dumps({"domain": side}))
        runs.append(seeds.RunFolder(tmp_path / str(n)))
    made = recipe(tmp_path, evaluation={"draws": 4000})
    gain = seeds._side(Mean(), runs, "test", ["1"] * number, made).gain("tuned")  # type: ignore[arg-type]
    assert gain.value == pytest.approx(examples.mean() + shifts.mean())
    of_rows, of_seeds = examples.var() / count, shifts.var(ddof=1) / number
    expected = np.hypot(
        stats.t.ppf(0.975, number - 1) * np.sqrt(of_seeds), stats.t.ppf(0.975, count - 1) * np.sqrt(of_rows)
    )
    assert (gain.high - gain.low) / 2 == pytest.approx(expected, rel=0.06)
    assert expected > 1.5 * 1.96 * examples.std() / np.sqrt(count)  # examples alone would say far less


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("of_rows", [0.0, 0.25, 0.5, 1.0, 2.0, 4.0])
def test_intervals_over_few_seeds_cover(number: int, of_rows: float) -> None:
    """Seeds of standard deviation 1, and rows that add so many times as much to that of their mean: 95 % of the intervals hold the truth,
    where a plain bootstrap of two seeds has 62 %, and Satterthwaite's degrees of freedom 87 % where rows add a quarter."""
    generator = np.random.default_rng(number)
    held, times = 0, 600
    for _ in range(times):
        each = generator.normal(size=number) + of_rows * generator.normal() / np.sqrt(number)
        weights = seed_weights(number, draws=1000, seed=0)
        draws = weights @ each + of_rows * generator.normal(size=1000) / np.sqrt(number)
        made = widened(percentiles(float(each.mean()), draws), draws, each, rows=500)
        held += made.low <= 0 <= made.high
    assert 0.92 < held / times < 0.998
    assert made.high - made.low < 25 * np.sqrt(2 / number), "and not by being endless"


def test_no_gain_over_two_seeds_reaches_beyond_what_scores_between_0_and_1_allow() -> None:
    weights = bootstrap_weights(40, draws=300, seed=0)
    records = {
        name: [[{"correct": np.asarray(float(place < many))} for place in range(40)] for many in of_seeds]
        for name, of_seeds in {"base": (0, 0), "tuned": (36, 4)}.items()
    }
    sides = [{"change": {"1": {"how": "bootstrap"}}}] * 2
    keys = {"base": ["0"] * 2, "tuned": ["1"] * 2}
    gain = OverSeeds.of(Right(), records, weights, seed=0, keys=keys, confirmed=sides).gain("tuned")  # type: ignore[arg-type]
    assert (gain.value, gain.low, gain.high, gain.lower) == (pytest.approx(0.5), -1.0, 1.0, -1.0)


def test_draws_that_are_no_numbers_do_not_narrow_an_interval() -> None:
    each, draws = np.array([0.93, 0.985]), seed_weights(2, draws=2000, seed=0) @ np.array([0.93, 0.985])
    broken = draws.copy()
    broken[3] = np.inf
    whole, other = (widened(percentiles(0.9575, d), d, each, rows=100) for d in (draws, broken))
    assert (other.low, other.high) == (pytest.approx(whole.low, abs=0.01), pytest.approx(whole.high, abs=0.01))


def test_a_base_that_changes_between_seeds_is_noticed(tmp_path: Path) -> None:
    save_base(tmp_path)
    tune(recipe(tmp_path, method="full", output=str(tmp_path / "runs/a")))
    made = recipe(tmp_path, base=str(tmp_path / "runs/a"), seeds=2, output=str(tmp_path / "runs/s"), method="full")

    def stop(stage: str, progress: object) -> None:
        if stage.startswith("seed 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(made, report=stop)
    set_strength(tmp_path / "runs/a", 0.3)
    with pytest.raises(RunError, match="another base than the first seed's"):
        tune(made)


def test_a_base_that_moved_is_the_same_base(tmp_path: Path) -> None:
    for number, folder in enumerate(("/old/place", "/new/place")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text(json.dumps({"finished": True, "format": 1}))
        facts = {"base": {"folder": folder, "weights_sha256": "a", "revision": None}}
        (tmp_path / str(number) / "provenance.json").write_text(json.dumps(facts))
    seeds._same_base(str(tmp_path / "0"), str(tmp_path / "1"))


def test_scores_of_one_group_have_no_bounds_and_their_files_are_json(tmp_path: Path) -> None:
    save_base(tmp_path)

    def grouped(path: Path, count: int, **more: Any) -> str:
        table(path, count, **more)
        header, *rows = path.read_text().splitlines()
        groups = ["one"] * count if path.name in ("test.csv", "general.csv") else map(str, range(count))
        lines = [f"{row},{group}" for row, group in zip(rows, groups, strict=True)]
        path.write_text("\n".join([f"{header},group", *lines, ""]))
        return str(path)

    def strictly(text: str) -> Any:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    more = {"data": {"group_column": "group"}, "general": None, "evaluation": {"draws": 100, "robustness": False}}
    output, other = str(tmp_path / "runs/s"), str(tmp_path / "runs/one")
    general = grouped(tmp_path / "general.csv", 40, start=300)
    tune(recipe(tmp_path, table=grouped, **more | {"seeds": 2, "output": output, "general_check": general}))
    tune(recipe(tmp_path, table=grouped, **more | {"output": other}))
    for path in (tmp_path / "runs").rglob("*.json*"):
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            strictly(text)
    loss = read(Path(output) / "seeds/0/scores.json")["domain"]["scores"]["1"]["log_loss"]
    assert (loss["low"], loss["high"]) == (0.0, None)
    data = str(tmp_path / "test.csv")
    commands = [
        ["list", str(tmp_path / "runs")],
        ["compare", output, other],
        ["evaluate", other, data],
        ["show", output],
        ["balance", output],  # with a general part that nothing was chosen on
    ]
    for command in commands:
        told = CliRunner().invoke(app, command)
        assert told.exit_code == 0, told.output
        assert not re.search(r"\b(?:inf|nan)\b", told.output)
        if command[0] not in ("show", "balance"):
            strictly(CliRunner().invoke(app, [*command, "--json"]).output)
    for name in ("report.html", "README.md"):
        text = (Path(other) / name).read_text()
        assert "(no bounds)" in text
        assert not re.search(r"\[[^\]]*–[^\]]*\]", text)


def test_a_seed_at_the_base_adds_no_width_of_its_own() -> None:
    """It is exactly the base: that few of its answers differ tells nothing."""
    generator, count = np.random.default_rng(0), 400
    before = generator.random(count) < 0.7

    def answers(right: np.ndarray) -> list[dict]:
        return [{"correct": np.asarray(float(value))} for value in right]

    def tuned() -> list[dict]:
        right = before.copy()
        right[generator.choice(np.flatnonzero(~before), 60, replace=False)] = True
        return answers(right)

    base, weights = answers(before), bootstrap_weights(count, draws=1000, seed=0)
    chosen = [*(tuned() for _ in range(4)), base]
    keys = {"base": ["0"] * 5, "chosen": ["0.75"] * 4 + ["0"]}
    sides = [
        {"change": {key: gain_estimate(Right(), one, base, weights).plain() for key in ("0", "0.75")}} for one in chosen
    ]
    assert sides[-1]["change"]["0"]["how"] == "exact"
    records = {"base": [base] * 5, "chosen": chosen}
    gain = OverSeeds.of(Right(), records, weights, seed=0, keys=keys, confirmed=sides).gain("chosen")  # type: ignore[arg-type]
    assert gain.value == pytest.approx(0.8 * 60 / count)
    assert gain.low > 0
