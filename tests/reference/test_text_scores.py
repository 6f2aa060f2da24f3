"""Text scores against sacrebleu, weighted ones against the corpus with repeated rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu
import torch
from torch.nn import functional

from domaintune.tasks.text_scores import (
    bleu_counts,
    bleu_from_counts,
    bleu_tokenizer_for,
    chrf_counts,
    chrf_from_counts,
    reduce_text,
    text_record,
)

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    ".",
    ",",
    "don't",
    "U.S.",
    "3.5%",
    "naïve",
    "über",
    "很",
    "好的",
    "房间",
    "🙂",
    "&amp;",
    "%s",
]

ADVERSARIAL = {
    "empty hypothesis": [("", "the cat sat on the mat")],
    "empty reference": [("the cat sat on the mat", "")],
    "both empty": [("", "")],
    "one word": [("cat", "cat")],
    "one word, another": [("cat", "dog")],
    "three words": [("the cat sat", "the cat sat")],
    "no bigram matches": [("a b c d e f", "f e d c b a")],
    "only unigrams, then all": [("a b c d e", "a x c y e"), ("", "q"), ("the cat sat on it", "the cat sat on it")],
    "repeated words": [("the the the the the", "the cat the dog"), ("a a a a", "a a a a a a a a")],
    "trailing space and lines": [("the cat sat  \n", " the cat\tsat on"), ("x \u00a0 y z w v", "x y z w v")],
    "unicode": [("e\u0301té naïve über", "été naïve über"), ("👩‍🚀 ok go on now", "👩‍🚀 ok go on")],
    "chinese": [("服务很好，房间干净。", "服务不错，房间很干净。"), ("我们会再来", "我们一定会再来 Hotel 5 星")],
    "entities": [("&lt;b&gt; &amp; &quot;x&quot;", '<b> & "x"'), ("3.5% of 1,000 - done", "3,5% of 1.000-done")],
    "short and long": [("a", "a b c d e f g h"), ("a b c d e f g h i", "b")],
}


def random_pairs(seed: int, count: int = 12) -> list[tuple[str, str]]:
    rng = random.Random(seed)

    def text(source: list[str]) -> str:
        return " ".join(rng.choice(source) if rng.random() < 0.4 else word for word in source)

    pairs = []
    for _ in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 5, 9, 14]))]
        hypothesis = text(reference).split()[: rng.choice([1, 4, 20])] + [rng.choice(WORDS)] * rng.choice([0, 0, 1, 3])
        pairs.append((" ".join(hypothesis), " ".join(reference)))
    return pairs


def sacre(pairs: list[tuple[str, str]], tokenizer: str) -> tuple[float, float]:
    hypotheses, references = [h for h, _ in pairs], [[r for _, r in pairs]]
    bleu = sacrebleu.corpus_bleu(hypotheses, references, tokenize=tokenizer, force=True).score
    return bleu / 100, sacrebleu.corpus_chrf(hypotheses, references).score / 100


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char"])
@pytest.mark.parametrize("name", [*ADVERSARIAL, *range(12)])
def test_bleu_and_chrf_equal_sacrebleu(name: str | int, tokenizer: str) -> None:
    pairs = ADVERSARIAL[name] if isinstance(name, str) else random_pairs(name)
    bleu = bleu_from_counts(sum(bleu_counts(h, r, tokenizer=tokenizer) for h, r in pairs)[None])[0]
    chrf = chrf_from_counts(sum(chrf_counts(h, r) for h, r in pairs)[None])[0]
    assert (bleu, chrf) == pytest.approx(sacre(pairs, tokenizer), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_scores_equal_sacrebleu_on_repeated_rows(seed: int) -> None:
    pairs = [pair for case in ADVERSARIAL.values() for pair in case] + random_pairs(seed)
    weights = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=6)
    weights[0] = 1
    records = [text_record({"text": h}, r, bleu_tokenizer="13a") for h, r in pairs]
    scores = reduce_text(records, weights)
    for draw, row in enumerate(weights):
        repeated = [pair for pair, count in zip(pairs, row, strict=True) for _ in range(count)]
        assert (scores["bleu"][draw], scores["chrf"][draw]) == pytest.approx(sacre(repeated, "13a"), abs=1e-9)
        exact = np.mean([" ".join(h.split()) == " ".join(r.split()) for h, r in repeated])
        assert scores["exact_match"][draw] == pytest.approx(exact, abs=1e-12)


def test_cross_entropy_is_the_mean_over_the_tokens_of_the_repeated_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [(torch.randn(n, 7, generator=generator, dtype=torch.float64), torch.arange(n) % 7) for n in (1, 4, 9)]
    records = [
        text_record({"nll": float(functional.cross_entropy(x, y, reduction="sum")), "tokens": len(y)}, "")
        for x, y in rows
    ]
    scores = reduce_text(records, np.array([[1, 1, 1], [0, 3, 1], [0, 0, 0]]))
    expected = [
        float(
            functional.cross_entropy(torch.cat([rows[i][0] for i in chosen]), torch.cat([rows[i][1] for i in chosen]))
        )
        for chosen in ((0, 1, 2), (1, 1, 1, 2))
    ]
    np.testing.assert_allclose(scores["cross_entropy"][:2], expected, rtol=1e-12)
    np.testing.assert_allclose(scores["perplexity"][:2], np.exp(expected), rtol=1e-12)
    assert np.isnan(scores["cross_entropy"][2])  # a draw without tokens


def test_records_without_a_score_take_no_part_in_it() -> None:
    records = [text_record({"text": "a"}, "a"), text_record({"nll": 3.0, "tokens": 2}, ""), text_record({}, "")]
    scores = reduce_text(records, np.array([[2.0, 5.0, 1.0]]))
    assert set(scores) == {"exact_match", "cross_entropy", "perplexity"}
    assert (scores["exact_match"][0], scores["cross_entropy"][0]) == (1.0, 1.5)


def test_the_tokenizer_follows_the_language_code_and_then_the_script() -> None:
    assert bleu_tokenizer_for(["hello"], "zho_Hans") == "zh"
    assert bleu_tokenizer_for(["hello"], "zh-CN") == "zh"
    assert bleu_tokenizer_for(["打开 File 菜单", "保存"]) == "zh"
    assert bleu_tokenizer_for(["ファイルを開く"]) == "char"
    assert bleu_tokenizer_for(["สวัสดี"]) == "char"
    assert bleu_tokenizer_for(["Datei öffnen", "über 好"]) == "13a"
    assert bleu_tokenizer_for(["", "123 !"], "de_DE") == "13a"
