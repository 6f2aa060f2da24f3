"""Records on disk and paired tests, against exact formulas."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cells
import numpy as np
import pytest
from scipy.stats import binomtest

from domaintune.data.rows import Row
from domaintune.errors import RunError
from domaintune.evaluation.intervals import bootstrap_weights
from domaintune.evaluation.paired import difference, holm, swap_test
from domaintune.evaluation.records import load_records, save_records, scored_rows
from domaintune.evaluation.score import predict, records_of
from domaintune.tasks.base import dataset
from domaintune.tasks.generation import Generation
from domaintune.tasks.text_scores import reduce_text, text_record

TASKS = tuple(dict.fromkeys(cell.task for cell in cells.CELLS))


def scored(name: str) -> tuple[Any, list[Any], list[Any]]:
    base, task = cells.base_and_task(name, cells.FAMILIES[name][0])
    examples = list(task.read(cells.rows(name)))
    data = dataset(task, base, examples)
    return task, examples, records_of(task, data, predict(task, base, base.model, data, wanted=frozenset(task.scores)))


@pytest.mark.parametrize("name", TASKS)
def test_records_of_every_task_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    task, examples, records = scored(name)
    save_records(tmp_path / "r.safetensors", scored_rows(task, examples), {0.0: records, 0.75: records[::-1]})
    rows, made = load_records(tmp_path / "r.safetensors")
    assert set(made) == {"0", "0.75"}
    assert rows.group_names() == [None] * len(examples)
    for mine, theirs in itertools.chain(
        zip(made["0"], records, strict=True), zip(made["0.75"], records[::-1], strict=True)
    ):
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert mine[key].dtype == np.asarray(theirs[key]).dtype
            np.testing.assert_array_equal(mine[key], theirs[key])
    weights = np.random.default_rng(0).integers(0, 3, (4, len(records))).astype(np.float64)
    weights[:, 0] = 1
    before, after = task.reduce(records, weights), task.reduce(made["0"], weights)
    assert {key: value.tolist() for key, value in before.items()} == {k: v.tolist() for k, v in after.items()}


def test_records_may_lack_what_others_have(tmp_path: Path) -> None:
    records = [text_record({"text": "a b"}, "a b"), text_record({"nll": 3.0, "tokens": 2}, "")]
    rows = scored_rows(Rows(), [Named("x", None), Named("y", "g")])  # type: ignore[arg-type]
    save_records(tmp_path / "r.safetensors", rows, {0.0: records})
    again, made = load_records(tmp_path / "r.safetensors")
    assert [set(record) for record in made["0"]] == [{"exact_match"}, {"cross_entropy"}]
    assert reduce_text(made["0"], np.ones((1, 2)))["cross_entropy"][0] == 1.5
    assert again.group_names()[0] is None
    assert again.group_names()[1] is not None
    (tmp_path / "r.safetensors").write_bytes(b"x")
    for path in ("r.safetensors", "none.safetensors"):
        with pytest.raises(RunError, match="--data"):
            load_records(tmp_path / path)


class Named:
    def __init__(self, name: str, group: str | None) -> None:
        self.name, self.group = name, group


class Rows:
    def keys(self, example: Named) -> Any:
        return type("K", (), {"input": example.name, "target": ""})()


class Accuracy:
    """A task of right and wrong alone."""

    primary = Generation.primary.__class__("accuracy", binary=True)

    @staticmethod
    def reduce(records: Any, weights: np.ndarray) -> dict[str, np.ndarray]:
        right = np.array([record["correct"] for record in records], dtype=np.float64)
        return {"accuracy": weights @ right / weights.sum(1)}


def answers(*right: int) -> list[Any]:
    return [{"correct": np.asarray(float(value))} for value in right]


@pytest.mark.parametrize(("won", "lost"), [(9, 1), (6, 4), (12, 2), (1, 0)])
def test_the_swap_test_is_the_sign_test_for_accuracies(won: int, lost: int) -> None:
    ours = answers(*[1] * won, *[0] * lost, *[1] * 20)
    theirs = answers(*[0] * won, *[1] * lost, *[1] * 20)
    exact = binomtest(won, won + lost).pvalue
    found = swap_test(Accuracy(), [ours], [theirs], draws=4000, seed=0)  # type: ignore[arg-type]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000) + 1e-3)
    assert swap_test(Accuracy(), [theirs], [ours], draws=4000, seed=0) == found  # type: ignore[arg-type]


def test_equal_models_never_differ_and_groups_are_swapped_whole() -> None:
    some = answers(1, 0, 1, 1)
    assert swap_test(Accuracy(), [some], [some], draws=200, seed=0) == 1.0  # type: ignore[arg-type]
    won = ([answers(*[1] * 12)], [answers(*[0] * 12)])
    alone = swap_test(Accuracy(), *won, draws=1000, seed=0)  # type: ignore[arg-type]
    pairs = swap_test(Accuracy(), *won, draws=1000, seed=0, groups=["a"] * 6 + ["b"] * 6)  # type: ignore[arg-type]
    assert alone == pytest.approx(1 / 1001, abs=2e-3)
    assert pairs == pytest.approx(0.5, abs=0.06)  # two groups: both sides swapped, or none


def test_one_seed_each_is_the_swap_test_and_the_gain() -> None:
    ours, theirs = answers(*[1] * 14, *[0] * 6), answers(*[0] * 8, *[1] * 7, *[0] * 5)
    weights = bootstrap_weights(20, draws=500, seed=0)
    made, p = difference(Accuracy(), [ours], [theirs], weights, draws=1000, seed=0)  # type: ignore[arg-type]
    assert made.value == pytest.approx(7 / 20)
    assert p == swap_test(Accuracy(), [ours], [theirs], draws=1000, seed=0)  # type: ignore[arg-type]
    same, p_same = difference(Accuracy(), [ours] * 3, [theirs] * 3, weights, draws=1000, seed=0)  # type: ignore[arg-type]
    assert same.value == pytest.approx(made.value)
    assert p_same >= p
    assert (same.low, same.high) == (pytest.approx(made.low, abs=0.05), pytest.approx(made.high, abs=0.05))


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (3, 2), (4, 1)])
def test_differences_over_seeds_hold_what_seeds_add(ours: int, theirs: int) -> None:
    """Two models that are equally good over all seeds: seeds of one answer well by chance. At most one in ten of the tests
    at 5 % finds a difference, and as many intervals miss 0; examples alone find one in most."""
    generator, rows, times = np.random.default_rng(ours + theirs), 200, 60
    missed = found = alone = 0
    for _ in range(times):
        hard = generator.normal(size=rows)

        def seeds(number: int, vary: float, hard: np.ndarray = hard) -> list[Any]:
            chances = [hard + vary * generator.normal() + 0.3 * generator.normal(size=rows) for _ in range(number)]
            return [answers(*(chance > 0)) for chance in chances]

        one, two = seeds(ours, 0.4), seeds(theirs, 0.4 if theirs > 1 else 0.0)
        weights = bootstrap_weights(rows, draws=300, seed=0)
        made, p = difference(Accuracy(), one, two, weights, draws=100, seed=0)  # type: ignore[arg-type]
        missed += not made.low <= 0 <= made.high
        found += p < 0.05
        alone += difference(Accuracy(), one[:1], two[:1], weights, draws=100, seed=0)[1] < 0.05  # type: ignore[arg-type]
    assert max(missed, found) <= 0.1 * times
    assert alone > 0.3 * times


def test_no_difference_over_two_seeds_reaches_beyond_what_scores_between_0_and_1_allow() -> None:
    """Of one seed nine in ten rows are won, of the other one: Student's t of one degree of freedom reaches far beyond 1."""
    ours, theirs = [answers(*[1] * 36, *[0] * 4), answers(*[1] * 4, *[0] * 36)], [answers(*[0] * 40)] * 2
    weights = bootstrap_weights(40, draws=300, seed=0)
    made, _ = difference(Accuracy(), ours, theirs, weights, draws=50, seed=0)  # type: ignore[arg-type]
    back, _ = difference(Accuracy(), theirs, ours, weights, draws=50, seed=0)  # type: ignore[arg-type]
    assert (made.low, made.high, made.lower) == (-1.0, 1.0, -1.0)
    assert (back.low, back.high) == (-1.0, 1.0)


def test_clear_differences_over_seeds_are_found() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(size=300)
    one, two = ([answers(*(hard + by + 0.3 * generator.normal(size=300) > 0)) for _ in range(3)] for by in (0.5, 0.0))
    weights = bootstrap_weights(300, draws=500, seed=0)
    made, p = difference(Accuracy(), one, two, weights, draws=500, seed=0)  # type: ignore[arg-type]
    back, again = difference(Accuracy(), two, one, weights, draws=500, seed=0)  # type: ignore[arg-type]
    assert 0 < made.low < made.value < made.high
    assert p < 0.01
    assert (back.value, again) == (pytest.approx(-made.value), pytest.approx(p))


def test_holm_on_its_own_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_rows_are_told_apart_by_input_and_target() -> None:
    base, task = cells.base_and_task("text-classification", "bert")
    texts = [("a room", "negative"), ("A ROOM!", "negative"), ("a room", "positive"), ("a view", "negative")]
    rows = [Row({"text": text, "label": label}, "x", n) for n, (text, label) in enumerate(texts, 1)]
    sums = scored_rows(task, list(task.read(rows))).checksums
    assert sums[0] == sums[1]
    assert len(set(sums.tolist())) == 3
    assert base is not None
