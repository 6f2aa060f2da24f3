"""Damages: functions of example and seed alone that keep targets, in several scripts; and scores under them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cells import CELLS, attach, base_and_task, rows, shake_
from PIL import Image

from domaintune.data.rows import Row
from domaintune.evaluation.robustness import (
    PICTURE_KINDS,
    PICTURES,
    TEXT_KINDS,
    TEXTS,
    negating,
    perturbed,
    perturbed_scores,
    randomness,
)
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.tasks.base import Dataset, dataset

ENGLISH = "The waiter brought cold soup, but the room was lovely; we'd come back and stay for another week."
GERMAN = "Der schnelle braune Fuchs springt täglich über die großen, faulen Hunde und läuft fröhlich weiter."
CHINESE = "服务很好,房间干净,早餐的种类也不少,我们明年一定会再来住几天。"
SCRIPTS = {"English": ENGLISH, "German": GERMAN, "Chinese": CHINESE}


def damaged(text: str, kind: str, *, seed: int = 0) -> str:
    return TEXTS[kind](text, randomness(text, kind=kind, seed=seed))


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_damage_changes_a_little_and_is_decided_by_text_and_seed(script: str, kind: str) -> None:
    text = SCRIPTS[script]
    made = damaged(text, kind)
    assert made == damaged(text, kind)
    if (script, kind) == ("Chinese", "case"):
        assert made == text
        return
    assert made != text
    assert abs(len(made) - len(text)) <= 0.15 * len(text)
    if kind not in ("case", "punctuation"):
        assert len({damaged(text, kind, seed=seed) for seed in range(8)}) > 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_damage_does_what_it_says(script: str) -> None:
    text = SCRIPTS[script]
    for seed in range(20):
        typed = damaged(text, "typos", seed=seed)
        assert re.sub(r"\w", "", typed) == re.sub(r"\w", "", text)
        extra = {letter for letter in typed if letter not in text}
        assert all(letter.isalpha() and (letter < "\x7f") for letter in extra)
        assert len(damaged(text, "homoglyphs", seed=seed)) == len(text)
        spaced = damaged(text, "spacing", seed=seed)
        assert spaced.replace(" ", "") == text.replace(" ", "")
        words = damaged(text, "dropped words", seed=seed)
        assert 0 < len(text) - len(words) <= 0.3 * len(text)
        assert damaged(text, "case", seed=seed) in (text.lower(), text.upper(), text)
    assert not re.search(r"[,.;'。]", damaged(text, "punctuation"))


NEGATED = {
    "The food was not good at all": "not",
    "Nobody came and I don't think that we'd go there without them": "don't",
    "The rooms weren’t clean and nothing worked": "weren’t",
    "I would n't recommend this noisy place": "n't",
    "we didnt like the cold soup there": "didnt",
    "Das Zimmer war nicht sauber und laut": "nicht",
    "Es gab KEINEN Parkplatz vor dem Haus": "KEINEN",
    "Ein Urlaub ohne Strand und niemand half": "ohne",
    "这家酒店不好吃": "不好",
    "房间没有窗户服务很好": "没有",
}


@pytest.mark.parametrize("text", NEGATED)
def test_negations_are_not_lost(text: str) -> None:
    """No word, letter or space of theirs."""
    for kind in ("typos", "spacing", "dropped words"):
        made = {damaged(text, kind, seed=seed) for seed in range(200)}
        assert len(made) > 1
        assert all(re.search(rf"(?<![a-z]){NEGATED[text]}(?![a-z])", new) for new in made)


@pytest.mark.parametrize("text", ["They noted a front knot", "Niederlage und Keim", "note the canton"])
def test_words_that_only_look_like_negations_are_damaged(text: str) -> None:
    assert negating(text) == set()


@pytest.mark.parametrize("text", ["", "!", "ok", "a b", "1234", "\ud800", "👍", "房"])
@pytest.mark.parametrize("kind", TEXTS)
def test_short_and_odd_texts_pass(text: str, kind: str) -> None:
    assert isinstance(damaged(text, kind), str)


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_keep_their_size_and_content(kind: str) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(48))[:, :, None] + np.array([0, 40, 80])
    ramp[::2, ::2] += 30
    picture = Image.fromarray(ramp.astype(np.uint8))
    made, again, other = (PICTURES[kind](picture, randomness("key", kind=kind, seed=s)) for s in (0, 0, 3))
    assert (made.size, made.mode) == (picture.size, "RGB")
    assert np.array_equal(np.asarray(made), np.asarray(again))
    distance = np.abs(np.asarray(made, dtype=float) - np.asarray(picture, dtype=float)).mean()
    assert 0.1 < distance < 60
    if kind in ("noise", "rotation"):
        assert not np.array_equal(np.asarray(made), np.asarray(other))
    if kind == "blur":
        edge = Image.fromarray(np.repeat([0, 255], 32)[None, :, None].repeat(9, 0).repeat(3, 2).astype(np.uint8))
        assert 0 < np.asarray(PICTURES[kind](edge, randomness("k", kind=kind, seed=0)))[4, 31, 0] < 255


TASKS = sorted(
    {
        (cell.task, cell.family)
        for cell in CELLS
        if cell.family in ("bert", "distilbert", "marian", "qwen3", "vit", "yolos")
    }
)


@pytest.mark.parametrize(("name", "family"), TASKS)
def test_every_task_keeps_its_targets(name: str, family: str, tmp_path: Path) -> None:
    _, task = base_and_task(name, family)
    kinds = {**TEXT_KINDS, **PICTURE_KINDS}[task.input_kind]
    for example in task.read(rows(name)):
        moved = Row(next(r for r in rows(name) if r.line == example.line).values, "elsewhere.rows", 99)
        twin = next(iter(task.read([moved])))
        for kind in kinds:
            made = perturbed(task, example, kind, seed=1, folder=tmp_path)
            again = perturbed(task, twin, kind, seed=1, folder=tmp_path)
            assert task.keys(made).target == task.keys(example).target
            if task.input_kind in TEXT_KINDS:
                assert task.keys(made) == task.keys(again)
            else:
                assert Path(made.image).read_bytes() == Path(again.image).read_bytes()
            if name == "token-classification":
                assert len(made.tokens) == len(example.tokens)
                assert all(token and not token.isspace() for token in made.tokens)
    assert set(kinds) == ({"blur", "noise", "brightness", "jpeg"} if name == "object-detection" else set(kinds))


def test_given_words_are_damaged_as_little_as_a_text() -> None:
    _, task = base_and_task("token-classification", "distilbert")
    words = [
        "Angela",
        "Merkel",
        "visited",
        "the",
        "European",
        "Commission",
        "in",
        "Brussels",
        "before",
        "travelling",
        "back",
        "towards",
        "Paris",
        "yesterday",
    ]
    row = Row({"tokens": words, "tags": ["O"] * len(words)}, "a", 1)
    (example,) = task.read([row])
    for kind, most in (("typos", 5), ("homoglyphs", 10)):
        changed = [
            sum(
                a != b
                for a, b in zip(perturbed(task, example, kind, seed=seed, folder=Path()).tokens, words, strict=True)
            )
            for seed in range(10)
        ]
        assert min(changed) >= 1
        assert max(changed) <= most
    for seed in range(4):
        made = " ".join(perturbed(task, example, "case", seed=seed, folder=Path()).tokens)
        assert made in (" ".join(words).lower(), " ".join(words).upper())


def test_chats_change_in_what_users_say_alone() -> None:
    from domaintune.tasks.generation_examples import PromptExample, altered_prompt

    messages = tuple({"role": r, "content": r.upper()} for r in ("system", "user", "assistant", "user"))
    example = PromptExample(file="f", line=1, prompt="p", completion="c", messages=messages)
    made = altered_prompt(example, lambda parts: [f"{part}!" for part in parts])
    assert [m["content"] for m in made.messages or ()] == ["SYSTEM", "USER!", "ASSISTANT", "USER!"]
    assert made.prompt == "SYSTEM\nUSER!\nASSISTANT\nUSER!"
    assert made.completion == "c"


@pytest.mark.parametrize(("name", "family"), [("text-classification", "bert"), ("image-classification", "vit")])
def test_scores_are_those_of_the_damaged_examples(name: str, family: str, tmp_path: Path) -> None:
    cell = next(c for c in CELLS if (c.task, c.family, c.method) == (name, family, "full"))
    base, task, attached = attach(cell)
    shake_(attached)
    examples = list(task.read(rows(name)))
    views = {s: attached.view(s) for s in (0.0, 1.0)}
    wanted = frozenset({task.primary.name})

    def answers(strength: float, data: Dataset) -> list:
        return predict(task, base, views[strength], data, wanted=wanted)

    def records(part: list, strength: float) -> list:
        data = dataset(task, base, part)
        return records_of(task, data, answers(strength, data))

    clean = {strength: records(examples, strength) for strength in views}
    made = perturbed_scores(task, base, answers, examples, clean, seed=4, draws=200)
    assert made["clean"][1.0].value == point_scores(task, clean[1.0])[task.primary.name]
    assert set(made) == {"clean", *{**TEXT_KINDS, **PICTURE_KINDS}[task.input_kind]}
    for kind in set(made) - {"clean"}:
        changed = [perturbed(task, example, kind, seed=4, folder=tmp_path) for example in examples]
        for strength, estimate in made[kind].items():
            assert estimate.value == point_scores(task, records(changed, strength))[task.primary.name]
            assert estimate.low <= estimate.value <= estimate.high
