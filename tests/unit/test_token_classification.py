"""Token classification: words stay aligned with tokens, windows change nothing that they need not, sums are additive."""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from domaintune.bases.base import Base
from domaintune.checks.shared import Part, repeats
from domaintune.data.formats import read_rows
from domaintune.data.rows import Row
from domaintune.data.words import joined
from domaintune.errors import BaseError, DataError, RecipeError
from domaintune.evaluation.score import point_scores, predict, records_of
from domaintune.partition import without_duplicates
from domaintune.settings import TokenClassificationSettings
from domaintune.tasks.base import dataset
from domaintune.tasks.tag_chains import between, transitions_of
from domaintune.tasks.tag_sequences import OUTSIDE, rendered, tags_of
from domaintune.tasks.token_classification import TokenClassification, TokenExample
from domaintune.tasks.word_windows import WordTokens, tokenize_words, windows
from domaintune.trust import answered_entities

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"

SENTENCES = [
    (["Angela", "Merkel", "visited", "Paris", "."], ["B-PER", "I-PER", "O", "B-LOC", "O"]),
    (["the", "waiter", "brought", "cold", "soup"], ["O"] * 5),
    (["Emmanuel", "Macron", "and", "Angela", "in", "May"], ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"]),
    (["服务", "很", "好"], ["B-LOC", "I-LOC", "O"]),
]
ZERO_WIDTH = "\u200b"


def rows(sentences: list[tuple[list[str], list[str]]] = SENTENCES) -> list[Row]:
    return [Row({"tokens": tokens, "tags": tags}, "a.jsonl", n) for n, (tokens, tags) in enumerate(sentences, start=1)]


@functools.cache
def tiny_base(family: str = "bert") -> Base:
    return tiny.tiny_base(family, "token-classification")


def task(base: Base | None = None, **settings: Any) -> TokenClassification:
    return TokenClassification.build(rows(), base or tiny_base(), TokenClassificationSettings(**settings))


def with_head(made: TokenClassification, family: str = "bert") -> Base:
    return tiny_base(family).with_head("domain", made.head(), generator=torch.Generator().manual_seed(0))


def long_example(made: TokenClassification, count: int, seed: int = 0) -> TokenExample:
    generator = np.random.default_rng(seed)
    words = [word for tokens, _ in SENTENCES for word in tokens] + ["Zürich-Oerlikon", "unbelievable", ZERO_WIDTH]
    return TokenExample(
        file="long",
        line=1,
        tokens=tuple(words[i] for i in generator.integers(0, len(words), count)),
        tags=tuple(int(i) for i in generator.integers(0, len(made.tags), count)),
    )


# --- rows


def test_tags_and_types_come_from_the_rows() -> None:
    made = task()
    assert made.tags == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert set(made.types) == {"LOC", "PER"}
    assert task(labels=("PER", "LOC")).tags == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    examples = list(made.read(rows()))
    assert examples[0].tags == (3, 4, 0, 1, 0)
    assert examples[1].where == "a.jsonl:2"
    assert TokenClassification.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens but 1 tags"),
        ({"tokens": [], "tags": []}, "is empty"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "must be a list of texts"),
        ({"tokens": ["a", 5], "tags": ["O", "O"]}, "must be a list of texts"),
        ({"tokens": ["a"], "tags": [0]}, "must be a list of texts"),
        ({"tokens": ["a"]}, "no column 'tags'"),
        ({"tags": ["O"]}, "no column 'tokens'"),
        ({"tokens": ["a"], "tags": ["S-PER"]}, "no BIO tag"),
        ({"tokens": ["a"], "tags": ["B-"]}, "no BIO tag"),
        ({"tokens": ["a"], "tags": [""]}, "no BIO tag"),
        ({"tokens": ["a"], "tags": ["B-PERS"]}, "Did you mean 'B-PER'"),
        ({"tokens": ["a"], "tags": ["B-xyz"]}, "unknown tag"),
    ],
)
def test_bad_rows_name_file_and_line(values: dict[str, Any], says: str) -> None:
    made = task()
    with pytest.raises(DataError, match=says) as caught:
        list(made.read([*rows(), Row(values, "b.jsonl", 17)]))
    assert caught.value.where == "b.jsonl:17"


def test_build_refuses_what_cannot_work() -> None:
    with pytest.raises(DataError, match="every tag is O"):
        TokenClassification.build(rows(SENTENCES[1:2]), tiny_base(), TokenClassificationSettings())
    small = replace(
        tiny_base(), processor=type("P", (), {"model_max_length": 2, "num_special_tokens_to_add": lambda self: 2})()
    )
    with pytest.raises(RecipeError, match="no room for words"):
        task(small)


def test_unlabelled_rows_and_bare_text() -> None:
    made = task()
    row = Row(made.from_bare("Angela Merkel's U.S. visit, 服务很好."), "-", 1)
    assert row.values["tokens"] == ["Angela", "Merkel", "'s", "U.S", ".", "visit", ",", "服", "务", "很", "好", "."]
    assert not made.has_target(row)
    assert made.has_target(rows()[0])
    (example,) = made.read([row], labelled=False)
    base = with_head(made)
    (prediction,) = predict(
        made, base, base.model, dataset(made, base, [example]), wanted=frozenset({"output"}), mode="predict"
    )
    assert len(made.render(prediction)["tags"]) == 12


def test_check_counts_broken_sequences_and_rare_types() -> None:
    made = task()
    broken = Row({"tokens": ["a", "b"], "tags": ["O", "I-PER"]}, "a.jsonl", 9)
    findings = {finding.name: finding for finding in made.check(list(made.read([*rows(), broken])))}
    assert findings["broken-tags"].rows == ("a.jsonl:9",)
    assert "LOC, PER" in findings["rare-label"].message
    assert "broken-tags" not in {finding.name for finding in made.check(list(made.read(rows())))}


def test_keys() -> None:
    made = TokenClassification.build(rows(SENTENCES[:3]), tiny_base(), TokenClassificationSettings())
    examples = list(made.read(rows(SENTENCES[:3])))
    assert [made.keys(example).stratum for example in examples] == ["LOC", "none", "LOC"]  # two LOC, three PER
    assert made.keys(examples[0]).input == "angelamerkelvisitedparis"
    assert made.keys(examples[0]).target == "B-PER I-PER O B-LOC O"


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (["Angela/B-PER", "Merkel/I-PER", "./O"], ["Angela/B-PER", "Merkel/I-PER"], False),
        (["Yes/O", "./O"], ["Yes/O", ",/O", "!/O"], False),
        (["(/B-ORG", "EU/I-ORG", ")/I-ORG"], ["EU/B-ORG"], False),
        (["New York/B-LOC"], ["New/B-LOC", "York/I-LOC"], False),
        (["50/O", "%/O", "off/O"], ["50%/O", "off/O"], False),
        (["don't/O", "go/O"], ["do/O", "n't/O", "go/O"], False),
        (["New/B-LOC", "York/B-LOC"], ["New/B-LOC", "York/I-LOC"], True),
        (["in/O", "Paris/B-LOC", "./O"], ["in/O", "Paris/O"], True),
        (["in/O", "Paris/B-LOC", "./O"], ["in/O", "Paris/B-PER"], True),
        (["Paris/B-LOC", "Texas/O"], ["Paris/B-LOC", ",/O", "Texas/B-LOC"], True),
        (["*/B-LOC"], ["*/O"], True),
    ],
)
def test_sentences_that_differ_in_punctuation_conflict_where_other_words_are_marked(
    one: list[str], other: list[str], conflict: bool
) -> None:
    def row(words: list[str], line: int) -> Row:
        pairs = [word.split("/") for word in words]
        return Row({"tokens": [token for token, _ in pairs], "tags": [tag for _, tag in pairs]}, "f", line)

    known = TokenClassification(
        tags=tags_of(("PER", "LOC", "ORG")), types=("PER", "LOC", "ORG"), max_length=64, stride=4, tokens_column="tokens",
        tags_column="tags", weights=None,
    )  # fmt: skip
    examples = list(known.read([row(one, 1), row(other, 2)]))
    keys = [known.keys(example) for example in examples]
    assert keys[0].input == keys[1].input
    found = [finding.name for finding in repeats(Part("train", keys, ["f:1", "f:2"]))]
    assert found == (["repeats", "conflicts"] if conflict else ["repeats"])
    if not conflict:
        assert without_duplicates(known, examples, []) == examples[:1]


def test_relabelled_takes_the_order_of_another_head() -> None:
    made = task().relabelled(("I-PER", "B-PER", "O", "B-ORG"))
    assert made.tags == ("I-PER", "B-PER", "O", "B-ORG")
    assert set(made.types) == {"PER", "ORG"}
    for labels in (
        ("POSITIVE", "NEGATIVE"),
        ("O", "B-PER", "I-PER", "E-PER", "S-PER"),
        ("NOUN", "VERB"),
        ("X", "O", "B-A"),
    ):
        with pytest.raises(DataError, match="no BIO tag"):
            task().relabelled(labels)
    with pytest.raises(DataError, match="they lack 'O'"):
        task().relabelled(("B-PER", "I-PER"))


@pytest.mark.parametrize("labels", [("O", "LOC", "PER"), ("O", "I-LOC", "I-PER")])
def test_answers_of_a_head_whose_labels_are_types_alone(labels: tuple[str, ...]) -> None:
    made = task().relabelled(labels)
    assert (made.tags, set(made.types)) == (labels, {"LOC", "PER"})
    words = ("Angela", "Merkel", "visited", "Paris", "London")
    (example,) = made.read([Row({"tokens": list(words)}, "x", 1)], labelled=False)

    def answer(*tags: int) -> dict[str, Any]:
        return answered(np.eye(3)[list(tags)], words)

    base = answer(2, 2, 0, 1, 1)
    found = made.render(base)["entities"]
    assert [(e["type"], e["start"], e["end"]) for e in found] == [("PER", 0, 2), ("LOC", 3, 5)]
    reference = made.as_reference(base, example)
    ones = np.ones((1, 1))
    assert made.reduce([made.statistics(base, reference)], ones)["f1"] == [1.0]
    assert made.reduce([made.statistics(answer(2, 2, 0, 1, 0), reference)], ones)["f1"] == [0.5]
    records = [made.statistics(answer(2, 1, 0, 1, 1), reference)]
    assert [records[0][key] for key in ("words", "correct_words")] == [5, 4]
    assert float(records[0]["log_loss"]) == pytest.approx(-np.log(np.finfo(np.float64).eps))  # of the one wrong word
    people = made.scoring(["PER"])
    assert people.reduce([people.statistics(answer(2, 2, 0, 1, 0), reference)], ones)["f1"] == [1.0]
    assert type(made).model_validate_json(made.model_dump_json()) == made


def answered(probability: np.ndarray, tokens: Any) -> dict[str, Any]:
    """What `join` makes where each word's likeliest tag is chosen."""
    return {"probability": probability, "tokens": tokens, "chosen": probability.argmax(1)}


# --- words and tokens


@functools.cache
def byte_level(trim: bool) -> Any:
    """As GPT-2's and RoBERTa's (trim) and as Llama 3's and Qwen's, whose tokens count the space before them to themselves."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.ByteLevel(trim_offsets=trim)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        tiny.TEXT * 3,
        trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                            special_tokens=["<pad>"]),
    )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", model_max_length=64)


@functools.cache
def sentence_pieces() -> Any:
    """As XLM-R's and Llama 2's: pieces that begin with a mark for the space."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        tiny.TEXT * 3,
        trainers.UnigramTrainer(
            vocab_size=120, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<pad>"]
        ),
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")


TOKENIZERS = {
    "word-piece": tiny.tokenizer,
    "causal": functools.partial(tiny.tokenizer, "causal"),
    "byte-level": functools.partial(byte_level, True),
    "byte-level, spaces counted": functools.partial(byte_level, False),
    "sentence-piece": sentence_pieces,
}
HARD_WORDS = [
    ["Angela", "Merkel", "visited", "Paris"],
    [ZERO_WIDTH, "Angela", ZERO_WIDTH, ZERO_WIDTH, "Merkel", ZERO_WIDTH],
    [ZERO_WIDTH],
    ["", "Angela", "", "Paris", ""],
    ["New York", "e.g.", "don't", "3.14", "👍🏽", "e\u0301"],
    ["服务", "很", "好", "。", "ﬁ", "\u0301", "\ufeff", "a\nb", "\t"],
    ["x" * 150, "Zürich-Oerlikon", "…"],
]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("words", HARD_WORDS, ids=range(len(HARD_WORDS)))
def test_every_word_has_tokens_of_its_own_in_order(name: str, words: list[str]) -> None:
    tokens = tokenize_words(TOKENIZERS[name](), words)
    assert len(tokens.first) == len(words)
    assert (tokens.end > tokens.first).all()
    assert (np.diff(tokens.first) > 0).all()
    assert (tokens.first[1:] >= tokens.end[:-1]).all()
    assert tokens.end[-1] <= len(tokens.ids)


@pytest.mark.parametrize("name", ["word-piece", "causal", "sentence-piece"])
def test_tokens_equal_those_of_transformers_where_spaces_do_not_matter(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    for words, _ in SENTENCES:
        expected = tokenizer(words, is_split_into_words=True)
        got = tokenize_words(tokenizer, words)
        assert [*got.prefix, *got.ids, *got.suffix] == expected["input_ids"]
        first = [expected.word_ids().index(word) - len(got.prefix) for word in range(len(words))]
        assert got.first.tolist() == first


@pytest.mark.parametrize("trim", [True, False])
def test_byte_level_tokens_are_those_of_the_running_text_and_stand_on_their_words(trim: bool) -> None:
    tokenizer = byte_level(trim)
    words = SENTENCES[0][0] + ["Zürich", "👍🏽", "x"]
    got = tokenize_words(tokenizer, words)
    assert got.ids == tokenizer(" ".join(words))["input_ids"]
    for word, first, end in zip(words, got.first, got.end, strict=True):
        assert tokenizer.decode(got.ids[first:end]).strip() == word


def test_words_without_characters_get_the_unknown_token() -> None:
    tokenizer = tiny.tokenizer()
    got = tokenize_words(tokenizer, ["Paris", ZERO_WIDTH, "Paris"])
    assert got.ids[1] == tokenizer.unk_token_id
    assert got.ids[0] == got.ids[2]
    assert tokenize_words(byte_level(True), ["Paris", "", "Paris"]).ids.count(byte_level(True).pad_token_id) == 1


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(BaseError, match="does not tell where"):
        tokenize_words(type("Slow", (), {"is_fast": False})(), ["a"])


# --- windows


def random_words(generator: np.random.Generator) -> WordTokens:
    lengths = generator.integers(1, 5, generator.integers(1, 40))
    if generator.random() < 0.2:
        lengths[generator.integers(len(lengths))] = 30  # a word longer than a window
    end = np.cumsum(lengths)
    return WordTokens(list(range(100, 100 + int(end[-1]))), end - lengths, end, [1], [2])


@pytest.mark.parametrize("seed", range(50))
def test_windows_cover_the_text_and_each_word_belongs_to_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens = random_words(generator)
    max_length, stride = 2 + int(generator.integers(8, 24)), int(generator.integers(0, 7))
    made = windows(tokens, max_length=max_length, stride=stride)
    assert sorted(word for window in made for word in window.words.tolist()) == list(range(len(tokens.first)))
    assert {i for window in made for i in window.ids[1:-1]} == set(tokens.ids)
    for window in made:
        assert len(window.ids) <= max_length
        assert (window.ids[0], window.ids[-1]) == (1, 2)
        assert [window.ids[p] for p in window.positions] == [tokens.ids[p] for p in tokens.first[window.words]]
    for left, right in itertools.pairwise(made):
        assert len(set(left.ids[1:-1]) & set(right.ids[1:-1])) == stride
    if len(tokens.ids) <= max_length - 2:
        assert len(made) == 1


@pytest.mark.parametrize("seed", range(20))
def test_each_word_is_where_the_nearest_cut_is_farthest(seed: int) -> None:
    tokens = random_words(np.random.default_rng(seed))
    made = windows(tokens, max_length=14, stride=5)
    total = len(tokens.ids)

    def context(start: int, stop: int, word: int) -> float:
        if not start <= tokens.first[word] < stop:
            return -np.inf
        left = np.inf if start == 0 else tokens.first[word] - start
        right = np.inf if stop == total else stop - tokens.end[word]
        return float(min(left, right))

    spans = [(window.ids[1] - 100, window.ids[-2] - 99) for window in made]
    for number, window in enumerate(made):
        for word in window.words.tolist():
            contexts = [context(*span, word) for span in spans]
            assert contexts.index(max(contexts)) == number


def test_a_text_that_fits_is_one_window_and_predicts_the_same() -> None:
    """Windows = no windows where the text fits: the same logits whatever the window settings."""
    wide, narrow = task(max_length=60, stride=20), task(max_length=40, stride=3)
    base = with_head(wide)
    example = next(iter(wide.read(rows())))
    found = [
        predict(t, base, base.model, dataset(t, base, [example]), wanted=frozenset({"f1"}))[0]["probability"]
        for t in (wide, narrow)
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_join_takes_each_word_from_its_window_exactly() -> None:
    made = task(max_length=24, stride=8, decoding="greedy")
    base = with_head(made)
    example = long_example(made, 60)
    data = dataset(made, base, [example])
    assert len(data.items) > 3
    (prediction,) = predict(made, base, base.model, data, wanted=frozenset({"f1"}))
    for item in data.items:
        with torch.no_grad():
            logits = base.model(torch.tensor([item.inputs["input_ids"]])).logits[0].double().softmax(-1).numpy()
        expected = logits[item.inputs["positions"]]
        np.testing.assert_allclose(
            prediction["probability"][item.inputs["words"]], expected, atol=1e-6
        )  # padding, fp32
    np.testing.assert_allclose(prediction["probability"].sum(1), 1, atol=1e-12)


# --- loss


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "gpt2", "qwen3"])
def test_padded_equals_unpadded(family: str) -> None:
    made = task(tiny_base(family))
    base = with_head(made, family)
    model = base.fork().double()
    items = dataset(made, base, list(made.read(rows()))).items
    with torch.no_grad():
        whole = made.loss(model, made.collate(base, items, "score"))["word"]
        single = sum(made.loss(model, made.collate(base, [item], "score"))["word"] for item in items)
    assert float(whole) == pytest.approx(float(single), rel=1e-12)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_micro_batches_add_up_and_equal_the_weighted_mean(class_weights: str) -> None:
    made = task(max_length=24, stride=8, class_weights=class_weights)
    base = with_head(made)
    model = base.fork().double().requires_grad_(True)
    examples = [*made.read(rows()), *(long_example(made, 30, seed) for seed in range(3))]
    items = dataset(made, base, examples).items
    batches = [made.collate(base, part, "train") for part in (items, items[:3], items[3:])]
    losses = [made.loss(model, batch)["word"] for batch in batches]
    units = [made.units(batch)["word"] for batch in batches]
    assert units[0] == pytest.approx(units[1] + units[2], rel=1e-12)
    words = sum(len(example.tokens) for example in examples)  # each word once, however many windows hold it
    assert sum(int((batch.targets["labels"] != -100).sum()) for batch in batches[1:]) == words
    if class_weights == "none":
        assert units[0] == words
    gradients = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters(), allow_unused=True, materialize_grads=True)])
                 for loss in losses]  # fmt: skip
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2], rtol=1e-10, atol=1e-10)
    logits = model(**batches[0].inputs).logits
    weight = None if made.weights is None else torch.tensor(made.weights, dtype=torch.float64)
    mean = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batches[0].targets["labels"].flatten(), weight=weight
    )
    assert losses[0].item() / units[0] == pytest.approx(mean.item(), rel=1e-12)


def test_own_labels_in_another_order_give_the_same_loss_and_entities() -> None:
    made = task()
    order = (3, 0, 4, 2, 1)
    base = with_head(made)
    owned = replace(tiny_base(), model=base.model, own_labels=made.tags)
    other = made.relabelled([made.tags[i] for i in order])
    permuted = owned.with_head("domain", other.head(), generator=torch.Generator().manual_seed(5))
    for first, second in zip(made.read(rows()), other.read(rows()), strict=True):
        mine, theirs = dataset(made, base, [first]), dataset(other, permuted, [second])
        wanted = frozenset({"f1"})
        a = predict(made, base, base.model, mine, wanted=wanted)[0]["probability"]
        b = predict(other, permuted, permuted.model, theirs, wanted=wanted)[0]["probability"]
        np.testing.assert_allclose(a[:, order], b, atol=1e-7)  # sums in another order


# --- scores


def test_scores_of_predictions() -> None:
    made = task()
    examples = list(made.read(rows()))
    perfect = [answered(np.eye(len(made.tags))[list(example.tags)], example.tokens) for example in examples]
    data = dataset(made, tiny_base(), examples)
    scores = point_scores(made, records_of(made, data, perfect))
    assert set(scores) == set(made.scores)
    assert scores == {**dict.fromkeys(made.scores, 1.0), "log_loss": 0.0}
    nothing = made.majority(examples, examples)
    scores = point_scores(made, records_of(made, data, nothing))
    words = [tag for example in examples for tag in example.tags]
    assert (scores["f1"], scores["token_accuracy"]) == (0.0, words.count(0) / len(words))
    for prediction, example in zip(perfect, examples, strict=True):
        assert made.as_reference(prediction, replace(example, tags=())) == replace(example, by_base=True)


def test_agreement_that_there_is_no_entity_is_whole() -> None:
    made = task()
    examples = list(made.read(rows()))
    nothing = made.majority(examples, examples)
    asked = [made.as_reference(p, e) for p, e in zip(nothing, examples, strict=True)]
    same = [made.statistics(p, e) for p, e in zip(nothing, asked, strict=True)]
    assert point_scores(made, same)["f1"] == 1.0
    found = answered(np.eye(len(made.tags))[list(examples[0].tags)], examples[0].tokens)
    assert point_scores(made, [made.statistics(found, asked[0]), *same[1:]])["f1"] == 0.0
    assert (
        point_scores(made, [made.statistics(nothing[0], replace(examples[0], tags=(0,) * len(examples[0].tags)))])["f1"]
        == 0.0
    ), "of labelled rows"


def test_words_of_types_that_are_not_scored_are_outside() -> None:
    made = task()
    kept = made.scoring([made.types[0]])
    example = next(e for e in made.read(rows()) if e.tags)
    other = made.tags.index(f"B-{made.types[1]}")
    probability = np.full((len(example.tokens), len(made.tags)), 0.0)
    probability[:, 0], probability[:, other] = 0.4, 0.6
    answer = answered(probability, example.tokens)
    outside = replace(example, tags=(0,) * len(example.tokens))
    every, some = made.statistics(answer, outside), kept.statistics(answer, outside)
    assert (every["correct_words"], some["correct_words"]) == (0, len(example.tokens))
    assert some["log_loss"] == pytest.approx(0.0)
    assert every["log_loss"] == pytest.approx(-np.log(0.4) * len(example.tokens))


def test_tags_and_entities_of_an_answer_agree() -> None:
    made = rendered(["O", "I-PER", "I-PER", "B-LOC", "I-LOC", "I-PER"], ["a", "b", "c", "d", "e", "f"])
    assert made["tags"] == ["O", "O", "O", "B-LOC", "I-LOC", "O"]
    assert made["entities"] == [{"type": "LOC", "start": 3, "end": 5, "text": "d e"}]


def test_render_gives_entities_with_their_text() -> None:
    made = task()
    examples = list(made.read(rows()))
    tags = np.eye(len(made.tags))[list(examples[0].tags)] * 0.6 + 0.08
    shown = made.render(answered(tags, examples[0].tokens))
    assert shown["tags"] == SENTENCES[0][1]
    assert [{**entity, "score": round(entity["score"], 6)} for entity in shown["entities"]] == [
        {"type": "PER", "start": 0, "end": 2, "text": "Angela Merkel", "score": round(0.68 * 0.68 * (1 - 0.08), 6)},
        {"type": "LOC", "start": 3, "end": 4, "text": "Paris", "score": round(0.68 * (1 - 0.08), 6)},
    ]
    assert joined(["服务", "很", "ok", "then", "好"]) == "服务很ok then好"


def test_divergence_is_the_kl_over_words() -> None:
    made = task(max_length=24, stride=8)
    base = with_head(made)
    other = tiny.tiny_model("bert", "token-classification", seed=3)
    other.classifier = torch.nn.Linear(32, len(made.tags))
    items = dataset(made, base, [long_example(made, 30)]).items
    batch = made.collate(base, items, "predict")
    with torch.no_grad():
        total, units = made.divergence(other, base.model, batch)
        p = np.concatenate([r["probability"] for r in made.predict(base, base.model, batch, frozenset())])
        q = np.concatenate([r["probability"] for r in made.predict(base, other, batch, frozenset())])
    assert units == 30
    assert float(total) == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-9)
    assert float(made.divergence(base.model, base.model, batch)[0]) == 0.0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize("name", ["crossner_politics", "wnut17", "uner_zh_gsdsimp"])
def test_real_sentences_keep_every_word(name: str) -> None:
    part = read_rows(str(SHARED / "ner" / name / "train.jsonl"))
    if name == "wnut17":  # zero-width characters, emoji, HTML
        part.sort(key=lambda row: all(token.isascii() for token in row.values["tokens"]))
    part = part[:200]
    made = TokenClassification.build(part, tiny_base(), TokenClassificationSettings(stride=16))
    for example in list(made.read(part))[:150]:
        items = made.prepare(tiny_base(), example)
        assert sorted(w for item in items for w in item.inputs["words"].tolist()) == list(range(len(example.tokens)))
        for item in items:
            assert [example.tags[w] for w in item.inputs["words"]] == item.targets["tags"].tolist()
    assert OUTSIDE in made.tags


def test_scores_of_answered_entities_are_judged_as_they_are_shown() -> None:
    """One right entity with .9, one of a wrong type with .7, one a word too long whose words have .8 and .6; O everywhere else. Right is
    an entity with probability .81, .7 and .48."""
    made = task()
    examples = list(made.read(rows()))[:3]
    stated = [
        [("B-PER", 0.9), ("I-PER", 0.9), ("O", 1.0), ("B-PER", 0.7), ("O", 1.0)],
        [("O", 1.0)] * 5,
        [("O", 1.0), ("O", 1.0), ("O", 1.0), ("B-PER", 0.8), ("I-PER", 0.6), ("O", 1.0)],
    ]
    predictions = []
    for example, words in zip(examples, stated, strict=True):
        probability = np.zeros((len(words), len(made.tags)))
        for row, (tag, score) in enumerate(words):
            probability[row] = (1 - score) / (len(made.tags) - 1)
            probability[row, made.tags.index(tag)] = score
        predictions.append(answered(probability, example.tokens))
    found = answered_entities(made, examples, predictions, 1.0)
    assert found is not None
    assert found["count"] == 3
    assert found["confidence"] == pytest.approx((0.81 + 0.7 + 0.48) / 3)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["ece"] == pytest.approx((0.81 + 0.7 + 0.48 - 1) / 3)
    cooler = made.model_copy(update={"calibration": ((0.0, 3.0), (1.0, 3.0))})
    calibrated = answered_entities(cooler, examples, predictions, 1.0)
    assert calibrated is not None
    assert calibrated["confidence"] < found["confidence"]
    assert answered_entities(made, examples[1:2], predictions[1:2], 1.0) is None  # nothing is answered


# --- tags that follow each other


def test_what_the_train_part_teaches_is_the_fitted_heads_or_grows_with_the_strength() -> None:
    """A head fitted on the rows has it at every strength; the base's own head at 0 is the base."""
    made = task()
    examples = list(made.read(rows()))
    learned = transitions_of(made._names(e.tags) for e in examples)
    fresh = made.fitted(examples, tiny_base())
    assert (fresh.transitions, fresh.first_transitions) == (learned, learned)
    assert fresh.at(0.0).transitions == learned
    own = replace(tiny_base(), own_labels=made.tags)
    grown = made.fitted(examples, own)
    assert (grown.transitions, grown.first_transitions) == (learned, None)
    assert grown.at(0.0).transitions is None
    assert grown.at(0.5).transitions == between(None, learned, 0.5)
    assert grown.at(1.0).transitions == learned
    earlier = transitions_of([["B-PER", "I-PER"]])
    later = made.fitted(examples, replace(own, own_transitions=earlier))
    assert later.at(0.0).transitions == earlier
    kept = made.fitted((), replace(own, own_transitions=earlier))
    assert (kept.transitions, kept.first_transitions) == (earlier, earlier)


def test_greedy_decoding_and_other_schemes_learn_nothing() -> None:
    made = task().model_copy(update={"decoding": "greedy"})
    examples = list(made.read(rows()))
    assert made.fitted(examples, tiny_base()).transitions is None
    types_alone = task().relabelled(("O", "PER", "LOC"))
    assert types_alone.fitted((), replace(tiny_base(), own_labels=("O", "PER", "LOC"))).transitions is None
    assert task().fitted(examples, tiny_base()).relabelled(made.tags).transitions is None


def test_a_task_stored_before_decoding_was_a_setting_answers_as_then() -> None:
    stored = {k: v for k, v in task().model_dump(mode="json").items() if k not in ("decoding", "transitions")}
    assert TokenClassification.model_validate(stored).decoding == "greedy"


@pytest.mark.parametrize("decoding", ["viterbi", "greedy"])
def test_what_is_scored_is_what_is_answered(decoding: str) -> None:
    """Long and short rows, in windows: scores count the entities that `render` shows, and viterbi shows every tag that it chose."""
    settings = {"decoding": decoding, "max_length": 12, "stride": 3}
    made, broken = task(**settings), 0
    base = with_head(made)
    examples = [*made.read(rows()), *(long_example(made, 60, seed) for seed in range(4))]
    made = made.fitted(examples, base)
    found = predict(made, base, base.model, dataset(made, base, examples), wanted=frozenset({"f1"}))
    for prediction, example in zip(found, examples, strict=True):
        shown, names = made.render(prediction), [made.tags[index] for index in prediction["chosen"]]
        assert len(shown["entities"]) == made.statistics(prediction, example)["predicted"].sum()
        broken += shown["tags"] != names
        if decoding == "greedy":
            assert names == [made.tags[index] for index in prediction["probability"].argmax(1)]
    assert (broken == 0) == (decoding == "viterbi")


def test_a_head_that_lacks_the_begin_of_a_type_is_read_word_by_word() -> None:
    """Its I-TYPE could follow nothing: another name would stand in its place."""
    own = ("B-LOC", "I-LOC", "I-PER", "O")
    made = task().relabelled(own).fitted((), replace(tiny_base(), own_labels=own))
    probability = np.array([[0.01, 0.0, 0.98, 0.01], [0.0, 0.01, 0.98, 0.01]] * 200)
    (example,) = made.read([Row({"tokens": ["Angela", "Merkel"] * 200}, "x", 1)], labelled=False)
    found = made.join(example, [{"probability": probability, "words": np.arange(400)}])
    assert made.transitions is None
    assert made.render(found)["entities"] == []
    np.testing.assert_array_equal(found["probability"], probability)


def test_targets_that_no_sequence_has_are_judged_as_outside() -> None:
    """As scores judge them; else each would cost the largest loss there is, and bend the temperature."""
    made = task()
    (example,) = made.read([Row({"tokens": ["a", "b", "c"], "tags": ["O", "I-PER", "O"]}, "x", 1)])
    found = made.join(example, [{"probability": np.full((3, 5), 0.2), "words": np.arange(3)}])
    record = made.statistics(found, example)
    assert record["tags"].tolist() == [0, 0, 0]
    assert float(record["log_loss"]) < 3 * -np.log(0.2)
    assert record["target"].sum() == 0
    greedy = made.model_copy(update={"decoding": "greedy"})
    assert greedy.statistics(found, example)["tags"].tolist() == [0, made.tags.index("I-PER"), 0]
