"""Splits: every row in one part, groups whole, strata in proportion, the same again with the same seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from domaintune.checks.shared import inseparable, parted
from domaintune.data.rows import Row
from domaintune.data.splits import contiguous_cut, cut, folds, leaks, normal_form, together
from domaintune.errors import DataError
from domaintune.partition import domain_parts, grown_parts, split
from domaintune.recipe import Recipe
from domaintune.tasks.classification import target_weights
from domaintune.tasks.image_classification import ImageClassification, ImageExample
from domaintune.tasks.text_classification import TextClassification, TextExample


def random_keys(seed: int) -> tuple[list[str], list[int]]:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 120))
    strata = [str(s) for s in generator.integers(0, generator.integers(1, 8), count)]
    groups = generator.integers(0, max(2, int(count * generator.uniform(0.1, 2))), count).tolist()
    if len(set(groups)) < 2:
        groups[0] = -1
    return strata, groups


@pytest.mark.parametrize("seed", range(60))
def test_cut_is_a_partition_that_keeps_groups_whole(seed: int) -> None:
    strata, groups = random_keys(seed)
    fraction = float(np.random.default_rng(seed).uniform(0.05, 0.6))
    rest, part = cut(strata, groups, fraction=fraction, seed=seed)
    assert sorted([*rest, *part]) == list(range(len(strata)))
    assert len(rest)
    assert len(part)
    assert not {groups[i] for i in rest} & {groups[i] for i in part}
    again = cut(strata, groups, fraction=fraction, seed=seed)
    np.testing.assert_array_equal(rest, again[0])
    np.testing.assert_array_equal(part, again[1])


@pytest.mark.parametrize("seed", range(20))
def test_cut_of_single_rows_has_the_exact_size_and_strata_within_one_row(seed: int) -> None:
    generator = np.random.default_rng(seed)
    strata = ["a"] * int(generator.integers(5, 60)) + ["b"] * int(generator.integers(5, 60)) + ["c"] * 3
    rest, part = cut(strata, range(len(strata)), fraction=0.2, seed=seed)
    assert len(part) == round(len(strata) * 0.2)
    total, taken = Counter(strata), Counter(strata[i] for i in part)
    for name in total:
        assert abs(taken[name] - 0.2 * total[name]) < 1
    assert {strata[i] for i in rest} == {"a", "b", "c"}


def test_cut_depends_on_the_seed() -> None:
    strata = ["a"] * 50
    first, second = (cut(strata, range(50), fraction=0.2, seed=seed)[1].tolist() for seed in (0, 1))
    assert first != second


def test_every_stratum_of_two_groups_stays_in_the_rest_and_single_ones_are_not_lost() -> None:
    strata = [f"pair-{i // 2}" for i in range(20)] + ["alone"]
    rest, part = cut(strata, range(21), fraction=0.9, seed=3)
    assert {strata[i] for i in rest} == set(strata)
    assert len(part) == 10
    rest, part = cut([str(i) for i in range(10)], range(10), fraction=0.2, seed=3)  # nothing but single ones
    assert (len(rest), len(part)) == (8, 2)


def test_cut_refuses_what_cannot_be_parted() -> None:
    for count in (1, 5):
        with pytest.raises(DataError, match="do not make two parts"):
            cut(["a"] * count, ["same"] * count, fraction=0.2, seed=0)
    rest, part = cut(["a"] * 10, [0] * 6 + [1] * 4, fraction=0.1, seed=0)  # both groups too large
    assert (len(rest), len(part)) == (6, 4)


@pytest.mark.parametrize("seed", range(40))
def test_folds_cover_every_row_once_and_keep_groups_whole(seed: int) -> None:
    strata, groups = random_keys(seed)
    count = min(5, len(set(groups)))
    if count < 2:
        count = 2
    made = folds(strata, groups, count=count, seed=seed)
    assert sorted(i for _, dev in made for i in dev) == list(range(len(strata)))
    for train, dev in made:
        assert len(dev)
        assert sorted([*train, *dev]) == list(range(len(strata)))
        assert not {groups[i] for i in train} & {groups[i] for i in dev}
    for mine, again in zip(made, folds(strata, groups, count=count, seed=seed), strict=True):
        np.testing.assert_array_equal(mine[1], again[1])


def test_folds_of_single_rows_are_stratified_within_one_row() -> None:
    strata = ["a"] * 53 + ["b"] * 21 + ["c"] * 2
    for _, dev in folds(strata, range(76), count=5, seed=1):
        counts = Counter(strata[i] for i in dev)
        assert abs(counts["a"] - 53 / 5) < 1
        assert abs(counts["b"] - 21 / 5) < 1
        assert counts["c"] <= 1
        assert 15 <= len(dev) <= 16


def test_folds_refuse_fewer_groups_than_folds() -> None:
    with pytest.raises(DataError, match=r"8 rows in 4 groups .* do not make 5 folds.*--set data.folds=4"):
        folds(["a"] * 8, [0, 0, 1, 1, 2, 2, 3, 3], count=5, seed=0)
    assert len(folds(["a"] * 8, [0, 0, 1, 1, 2, 2, 3, 3], count=4, seed=0)) == 4
    with pytest.raises(DataError, match="do not make 5 folds") as told:
        folds(["a"] * 8, [0] * 8, count=5, seed=0)
    assert "data.folds" not in str(told.value)


def test_leaks_are_the_train_rows_that_stand_elsewhere() -> None:
    assert leaks(["a", "b", "a", "c"], ["a", "d"]).tolist() == [0, 2]
    assert leaks([], ["a"]).tolist() == []


def test_contiguous_cut_takes_the_end() -> None:
    rest, part = contiguous_cut(10, 0.2)
    assert (rest.tolist(), part.tolist()) == (list(range(8)), [8, 9])
    assert [len(side) for side in contiguous_cut(2, 0.01)] == [1, 1]
    assert [len(side) for side in contiguous_cut(3, 0.99)] == [1, 2]
    with pytest.raises(DataError):
        contiguous_cut(1, 0.5)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("The room, was LOVELY!", "the room was lovely", True),
        ("Straße", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("服务很好。", "服务 很好", True),
        ("服务很好", "服务很差", False),
        ("zero\u200bwidth", "zerowidth", True),
        ("ＡＢＣ", "abc", True),
        ("!!!", "???", False),
        ("great 👍", "great 👎", False),
        ("$5", "5", False),
        ("हिन्दी", "हन्द", False),
        ("a\ud800", "a", True),
    ],
)
def test_normal_form(left: str, right: str, equal: bool) -> None:
    assert (normal_form(left) == normal_form(right)) is equal


def texts(
    rows: list[str], labels: list[tuple[int, ...]], *, names: int, multi: bool
) -> tuple[TextClassification, list[TextExample]]:
    task = TextClassification(
        labels=tuple(map(str, range(names))), multi_label=multi, max_length=8, long_texts="head", text_column="t",
        label_column="l", label_separator="|", weights=None,
    )  # fmt: skip
    return task, [TextExample(file="f", line=n, text=text, labels=labels[n]) for n, text in enumerate(rows)]


def test_one_text_that_is_there_often_unlinks_no_others() -> None:
    pairs = [
        f"{word} number {n} of a long and quite particular sentence {n}{end}"
        for n in range(60)
        for word, end in (("the", ""), ("the", " now"))
    ]
    task, examples = texts([*pairs, *["yes"] * 60], [(0,)] * 180, names=1, multi=False)
    made = inseparable(task, examples)
    assert len(set(made[120:])) == 1
    assert all(made[n] == made[n + 1] for n in range(0, 120, 2))


def test_texts_that_differ_in_a_sign_are_two_and_stay_in_one_part() -> None:
    pairs = [
        ("about 5 % of all", "about 5 of all"),
        ("it was -7 there", "it was 7 there"),
        ("sort it in C#", "sort it in C"),
    ]
    assert all(normal_form(one) != normal_form(other) for one, other in pairs)
    task, examples = texts([text for pair in pairs for text in pair], [(0,)] * 6, names=1, multi=False)
    made = inseparable(task, examples)
    assert [made[n] == made[n + 1] for n in (0, 2, 4)] == [True] * 3
    assert len(set(made)) == 3


@pytest.mark.parametrize(("documents", "copies"), [(8, 4), (10, 25), (6, 9)])
def test_documents_with_some_paraphrases_each_are_not_parted(documents: int, copies: int) -> None:
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(500)]
    whole = [" ".join(generator.choice(words, 30)) for _ in range(documents)]
    rows = [f"{text} {generator.choice(words)}" for text in whole for _ in range(copies)]
    task, examples = texts(rows, [(n // copies % 2,) for n in range(len(rows))], names=2, multi=False)
    for seed in range(4):
        rest, part, _ = split(task, examples, fraction=0.2, seed=seed)
        assert parted(task, part, rest) == 0
        assert not {e.line // copies for e in rest} & {e.line // copies for e in part}


def test_pictures_that_look_alike_are_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    paths = []
    for number in range(24):
        coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        shown = coarse.resize((96, 96), Image.Resampling.BICUBIC)
        for name in (f"{number}.png", f"{number}.jpg"):  # the second one is the first saved again
            shown.save(tmp_path / name)
            paths.append(str(tmp_path / name))
    task = ImageClassification(labels=("a",), weights=None, flip=False, crop=1.0)
    examples = [ImageExample(file="f", line=n, image=p, sha256=p, labels=(0,)) for n, p in enumerate(paths)]
    made = inseparable(task, examples)
    assert all(made[n] == made[n + 1] for n in range(0, 48, 2))
    assert len(set(made)) == 24


def test_combinations_of_labels_that_are_there_once_come_into_every_part() -> None:
    generator = np.random.default_rng(0)
    labels = [tuple(np.flatnonzero(generator.random(12) < 0.2).tolist()) for _ in range(500)]
    words = [" ".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 12)) for _ in labels]
    task, examples = texts(words, labels, names=12, multi=True)
    rest, part, _ = split(task, examples, fraction=0.2, seed=0)
    assert abs(len(part) - 100) <= 6
    sizes = [np.mean([len(e.labels) for e in found]) for found in (rest, part)]
    assert abs(sizes[0] - sizes[1]) < 0.35


def test_rows_without_any_label_count_in_the_loss() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    made = target_weights(targets, (2.0, 4.0), torch.tensor([1.0, 0.5, 1.0]))
    assert made.tolist() == [2.0, 0.5, 3.0]


def test_names_may_be_numbers_and_missing() -> None:
    row = Row(
        {"group": 17, "none": None, "blank": " ", "text": " a ", "real": 1.5, "whole": 2.0, "truth": True}, "f", 1
    )
    names = ("group", "none", "blank", "text", "whole", "truth")
    assert [row.name(column) for column in names] == ["17", None, None, "a", "2", "true"]
    for column in ("real", "missing"):
        with pytest.raises(DataError):
            row.name(column)


def test_rows_linked_by_input_or_group_are_together() -> None:
    made = together(["a", "b", "a", "c", "d", "c"], ["x", "y", "z", "z", None, None])
    assert made[0] == made[2] == made[3] == made[5]
    assert len({made[0], made[1], made[4]}) == 3
    assert len(set(together(["x", "y"], [None, "x"]))) == 2  # a group named like an input links nothing


def test_of_several_labels_those_that_are_not_scored_count_on_neither_side() -> None:
    task, (example,) = texts(["a"], [(0,)], names=3, multi=True)
    answered = {"probability": np.array([0.9, 0.8, 0.1])}  # 0, which is right, and 1
    assert task.statistics(answered, example)["correct"] == 0
    assert task.scoring(["0", "2"]).statistics(answered, example)["correct"] == 1
    assert task.scoring(["1"]).statistics(answered, example)["correct"] == 0
    assert list(task.scoring(["0", "2"]).classes([task.scoring(["0", "2"]).statistics(answered, example)])) == [
        "0",
        "2",
    ]


def test_a_cap_keeps_every_label() -> None:
    words = [f"{number} {'xyz'[number % 3] * 9}" for number in range(41)]
    task, examples = texts(
        words, [(number % 2,) if number < 40 else (2,) for number in range(41)], names=3, multi=False
    )
    values = {
        "base": "any",
        "train": "any",
        "output": "any",
        "task": "text-classification",
        "data": {"max_train_rows": 20, "fold_below": 0},
    }
    parts = {"train": examples, "dev": examples[:1], "test": examples[1:2]}
    train, _, _, _ = domain_parts(Recipe.make(values), task, parts, [])
    assert len(train) <= 20
    assert {label for example in train for label in example.labels} == {0, 1, 2}
    sorted_labels = [(number // 5,) for number in range(200)]  # 40 labels, those of the last rows as dear as the others
    task, examples = texts(
        [f"{number} {'vwxyz'[number % 5] * 9}" for number in range(200)], sorted_labels, names=40, multi=False
    )
    values["data"] = {"max_train_rows": 45, "fold_below": 0}
    train, _, _, _ = domain_parts(Recipe.make(values), task, {**parts, "train": examples}, [])
    assert len(train) <= 45
    assert {label for example in train for label in example.labels} == set(range(40))


def test_new_rows_that_stand_there_with_another_target_are_told() -> None:
    words = [f"{'vwxyzu'[number % 6] * 9} {number}" for number in range(12)]
    task, old = texts(words, [(number % 2,) for number in range(12)], names=2, multi=False)
    parts = {"train": old[:6], "dev": old[6:9], "test": old[9:]}
    corrected = [replace(old[place], labels=(1 - old[place].labels[0],)) for place in (0, 1, 10)]
    notes: list[str] = []
    new = replace(old[0], text="another one")
    made = grown_parts(given(), task, parts, [*corrected, old[2], old[11], new], notes)
    assert [example for part in made[:3] for example in part or () if example not in old] == [new]
    assert notes[:2] == [
        "2 rows of add also stand in test; removed from add, 1 of them with another target than there: the old one stays.",
        "3 rows of add also stand in train; removed from add, 2 of them with another target than there: the old ones stay.",
    ]
    told = r"every row of add also stands in train, 2 of them with another target than there: the old ones stay\."
    with pytest.raises(DataError, match=told):
        grown_parts(given(), task, parts, corrected, [])
    grown_parts(given(), task, parts, [old[2], new], same := [])
    assert same[0] == "1 row of add also stands in train; removed from add."


def given(**data: object) -> Recipe:
    return Recipe.make({"task": "text-classification", "base": "b", "train": "t", "output": "o", "data": data})


def test_a_group_of_a_given_part_leaves_train() -> None:
    task, (example,) = texts(["a"], [(0,)], names=2, multi=False)
    parts = {
        name: [replace(example, text=f"{name} {n}", group=group) for n, group in enumerate(groups)]
        for name, groups in (("train", ["p", "q", "r", None, "s"]), ("dev", ["q", "t"]), ("test", ["p", "t", None]))
    }
    notes: list[str] = []
    train, dev, test, _ = domain_parts(given(), task, parts, notes)
    assert [e.group for e in train] == ["r", None, "s"]
    assert [e.group for e in dev or ()] == ["q"]
    assert len(test) == 3
    assert notes == [
        "1 row of train is of a group that stands in dev too; removed from train.",
        "1 row of train is of a group that stands in test too; removed from train.",
        "1 row of dev is of a group that stands in test too; removed from dev.",
    ]
    kept: list[str] = []
    train, dev, _, _ = domain_parts(given(keep_leaks=True), task, parts, kept)
    assert (len(train), len(dev or ())) == (5, 2)
    assert [note.rpartition("; ")[2] for note in kept] == [
        "kept, as asked: the dev score is too good.",
        "kept, as asked: the test score is too good.",
    ]
    for seed in range(12):  # dev's groups leave train before a test part is cut from it
        alone = [replace(example, text=f"dev {n}", group="p") for n in range(3)]
        many = [replace(example, text=f"{'xyzuvw'[n % 6] * 9} {n}", group="pqrst"[n % 5]) for n in range(50)]
        train, dev, test, _ = domain_parts(given(seed=seed), task, {"train": many, "dev": alone}, [])
        assert len(dev or ()) == 3
        assert not {e.group for e in (*train, *test)} & {"p"}
    with pytest.raises(DataError, match="every group of train also stands in test"):
        domain_parts(given(), task, {**parts, "train": parts["train"][:1]}, [])


def test_of_many_small_strata_every_one_is_tested_by_some_seed() -> None:
    """150 labels of two rows: a fifth of the rows are 60, which only 60 of the labels can give."""
    strata = [f"label {row // 2}" for row in range(300)]
    tested = [{strata[row] for row in cut(strata, range(300), fraction=0.2, seed=seed)[1]} for seed in range(20)]
    assert all(len(names) == 60 for names in tested)
    assert len(set().union(*tested)) > 145
    assert tested[0] == {strata[row] for row in cut(strata, range(300), fraction=0.2, seed=0)[1]}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rated 3.5", "rated 35", False),
        ("12-3", "12/3", False),
        ("It cost 5.", "it cost 5", True),
        ("born in (1990)", "Born in 1990", True),
        ("rooms 5, 6", "rooms 5 6", True),
        ("1\uff0e5 kg", "1.5 kg", True),
        ("50 % off", "50 off", False),
        ("50 % off", "50% OFF!", True),
        ("How do I sort a list in C#?", "How do I sort a list in C?", False),
        ("item #5, #metoo", "item 5 metoo", True),
        ("it was -5 degrees (-3)", "it was 5 degrees (-3)", False),
        ("wait - 5 minutes, covid-19", "wait 5 minutes covid 19", True),
        ("- 5 nights", "5 nights", True),
    ],
)
def test_signs_that_change_a_meaning_are_told_apart(one: str, other: str, same: bool) -> None:
    assert (normal_form(one) == normal_form(other)) is same
