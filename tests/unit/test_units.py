"""Rows that hang together are drawn, paired and counted as one wherever scores get their intervals."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_runs import recipe, save_base, table

from domaintune import tune
from domaintune.bases.load import load_base
from domaintune.checks.shared import inseparable
from domaintune.evaluation.intervals import bootstrap_weights, drawn_units, gain_estimate
from domaintune.evaluation.paired import swap_test
from domaintune.evaluation.records import load_records, scored_rows
from domaintune.evaluation.units import with_kept_whole
from domaintune.finished.compare import compare
from domaintune.partition import grown_parts
from domaintune.parts import Parts, assemble
from domaintune.tasks.base import Primary, Record
from domaintune.tasks.text_classification import TextClassification, TextExample

VARIANTS = ("", "! really", " ok", " so")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_base(tmp_path)
    return tmp_path


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(14)) for _ in range(count)]


def variants(path: Path, count: int, *, start: int = 0) -> str:
    """`count` rows of sentences in four variants each, that differ by an added word."""
    texts = [text + added for text in sentences(-(-count // 4), start) for added in VARIANTS][:count]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([t, ("a", "b")[n // 4 % 2]] for n, t in enumerate(texts))])
    return str(path)


def classifier() -> TextClassification:
    return TextClassification(
        labels=("a", "b"), multi_label=False, max_length=8, long_texts="head", text_column="text", label_column="label",
        label_separator="|", weights=None,
    )  # fmt: skip


def parts_of(folder: Path, **more: object) -> Parts:
    made = recipe(folder, **more)  # type: ignore[arg-type]
    return assemble(made, load_base(made.base, auto_class=TextClassification.auto_class))


def test_what_a_cut_keeps_whole_is_one_unit(folder: Path) -> None:
    """The test part is a sample of clusters: three of twelve that are won are no gain beyond chance."""
    parts = parts_of(
        folder, train=variants(folder / "v.csv", 240), dev=None, test=None, general=variants(folder / "g.csv", 80, start=9),
        data={"fold_below": 0},
    )  # fmt: skip
    assert parts.dev is not None
    assert parts.general is not None
    for task, part in ((parts.task, parts.test), (parts.task, parts.dev), (parts.general.task, parts.general.headline)):
        sizes = Counter(example.group for example in part)
        assert set(sizes.values()) == {4}
        assert None not in sizes
        assert len({e.group for e in part}) == len({e.text[:40] for e in part})
        assert len(set(scored_rows(task, part).groups.tolist())) == len(sizes)
    groups = [example.group for example in parts.test]
    assert len(set(groups)) == 12
    weights = bootstrap_weights(48, draws=500, seed=0, groups=groups)
    assert drawn_units(weights) == 12
    won = set(sorted(set(groups))[:3])
    tuned, base = (
        [{"correct": np.float64(right)} for right in made] for made in ([1] * 48, [g not in won for g in groups])
    )
    task = Accuracy()
    assert gain_estimate(task, tuned, base, weights).low < 0  # type: ignore[arg-type]
    assert swap_test(task, [tuned], [base], draws=400, seed=0, groups=groups) > 0.1  # type: ignore[arg-type]


class Accuracy:
    primary = Primary("accuracy", binary=True)

    def reduce(self, records: list[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": weights @ np.array([r["correct"] for r in records]) / weights.sum(1)}


def test_a_few_large_clusters_of_a_test_part_are_no_independent_rows(folder: Path) -> None:
    """Of the part alone each is more than a fifth, which would count as a pattern: what the whole cut kept together counts."""
    parts = parts_of(folder, train=variants(folder / "v.csv", 80), test=None, general=None, data={"test_fraction": 0.2})
    assert sorted(Counter(example.group for example in parts.test).values()) == [4, 4, 4, 4]
    assert len(set(inseparable(parts.task, [*parts.test]))) == 4


def test_of_given_parts_every_row_is_a_unit(folder: Path) -> None:
    """What people say often stands often among rows that were drawn one by one."""
    files = {}
    for name in ("dev", "test", "check"):
        rows = Path(table(folder / f"{name}.csv", 20, start=len(name) * 100)).read_text().splitlines()
        (folder / f"{name}.csv").write_text("\n".join([*rows, rows[1], rows[1], ""]))
        files[name] = str(folder / f"{name}.csv")
    train = table(folder / "train.csv", 40)
    parts = parts_of(
        folder, train=train, dev=files["dev"], test=files["test"], general_check=files["check"],
        general=table(folder / "general.csv", 40, start=900), table=kept,
    )  # fmt: skip
    assert parts.dev is not None
    assert parts.general is not None
    for part in (parts.dev, parts.test, parts.general.headline):
        assert {example.group for example in part} == {None}


def kept(path: Path, *args: object, **more: object) -> str:
    return str(path)


def test_the_group_that_a_row_names_stays() -> None:
    task = classifier()
    rows = [TextExample(file="f", line=n, text=text, labels=(0,), group=group) for n, (text, group) in enumerate(
        [("good", "x"), ("good", "y"), ("fine", None), ("fine", None), ("good", None), ("Good!", None)]
    )]  # fmt: skip
    made = [example.group for example in with_kept_whole(task, rows, {})]
    assert made == ["x", "y", None, None, None, None]
    whole = {id(row): number for row, number in zip(rows, (0, 0, 0, 3, 0, 5), strict=True)}
    made = [example.group for example in with_kept_whole(task, rows, whole)]
    assert made[:2] == ["x", "y"]
    assert made[2] == made[4] not in (None, "x", "y")
    assert made[3] is made[5] is None


def test_old_and_new_rows_that_hang_together_are_one_unit(folder: Path) -> None:
    made = recipe(folder, general=None)
    task = classifier()
    texts = sentences(50)
    rows = [TextExample(file="f", line=n, text=text, labels=(n % 2,)) for n, text in enumerate(texts)]
    old = {"train": rows[:40], "dev": rows[40:44], "test": rows[44:]}
    added = [TextExample(file="g", line=n, text=f"{texts[n]} now", labels=(n % 2,)) for n in (3, 42, 45, 46)]
    notes: list[str] = []
    _, dev, test, whole = grown_parts(made, task, old, added, notes)
    assert dev is not None
    for part, twice in ((dev, 1), (test, 2)):
        units = Counter(example.group for example in with_kept_whole(task, part, whole))
        assert sorted(count for unit, count in units.items() if unit is not None) == [2] * twice


def test_a_run_draws_pairs_and_keeps_units(folder: Path) -> None:
    """Scores, robustness, records and `compare` count the clusters of a test part that was cut; runs whose records lack them are compared
    as before."""
    train = variants(folder / "v.csv", 160)
    more = {
        "train": train,
        "dev": None,
        "test": None,
        "general": None,
        "data": {"fold_below": 0, "seed": 0},
        "table": kept,
    }
    made = [tune(recipe(folder, **more, seed=seed, output=str(folder / f"runs/{seed}"))) for seed in (0, 1)]  # type: ignore[arg-type]
    rows, records = load_records(made[0].path / "records/test.safetensors")
    names = rows.group_names()
    assert set(Counter(names).values()) == {4}
    weights = bootstrap_weights(len(names), draws=200, seed=0, groups=names)
    scores = json.loads((made[0].path / "scores.json").read_text())
    expected = gain_estimate(made[0].task, records["1"], records["0"], weights)
    assert scores["domain"]["change"]["1"] == expected.plain()
    clean = scores["robustness"]["clean"]["base"]
    assert clean == scores["domain"]["scores"]["0"]["accuracy"]
    paths = [run.path for run in made]
    compared = compare(paths)
    assert not any("differently" in note for note in compared["notes"])
    file = paths[1] / "records/test.safetensors"
    tensors = load_file(file)
    tensors["groups"] = np.full_like(tensors["groups"], -1)
    save_file(tensors, file)
    again = compare(paths)
    assert again["pairs"] == compared["pairs"]
    assert any("differently" in note for note in again["notes"])
