"""Scores of texts: BLEU, chrF, exact match and token cross-entropy, each as counts of one example and a weighted reduction.

A record holds the counts; a corpus score is a function of their weighted sums, so that weights w give the score of the corpus in
which row i stands w_i times. All but the cross-entropy and the perplexity lie in [0, 1].
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from domaintune.tasks.base import Prediction, Record

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2
NO_SPACES = (("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u30ff"))
"""Thai and Lao, Burmese, Khmer, Japanese kana."""
HAN = (("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"))


def one_space(text: str) -> str:
    """The text with every run of white space as one space and none at its ends."""
    return " ".join(text.split())


def bleu_tokenizer_for(targets: Sequence[str], language: str | None = None) -> str:
    """sacrebleu's name of the tokenizer for these targets: "zh" for Chinese, "char" for other scripts without spaces between
    words, else "13a". By the language code where it says so, else by the share of letters (from a fifth on)."""
    code = (language or "").lower().replace("-", "_").split("_")[0]
    if code in ("zh", "zho", "cmn", "yue"):
        return "zh"
    letters = Counter(letter for text in targets for letter in text if letter.isalpha())
    total = sum(letters.values())

    def share(ranges: Sequence[tuple[str, str]]) -> float:
        hits = sum(n for letter, n in letters.items() if any(low <= letter <= high for low, high in ranges))
        return hits / total if total else 0.0

    if share(NO_SPACES) >= 0.2:
        return "char"
    return "zh" if share(HAN) >= 0.2 else "13a"


@functools.cache
def _bleu_tokenize(name: str) -> Callable[[str], str]:
    from sacrebleu.metrics.bleu import BLEU

    tokenize: Callable[[str], str] = BLEU(tokenize=name).tokenizer
    return tokenize


def bleu_counts(hypothesis: str, reference: str, *, tokenizer: str = "13a") -> np.ndarray:
    """int64 [10]: lengths of hypothesis and reference in words, matches of orders 1 to 4, n-grams of the hypothesis of each."""
    from sacrebleu.metrics.helpers import extract_all_word_ngrams

    tokenize = _bleu_tokenize(tokenizer)
    ours, length = extract_all_word_ngrams(tokenize(hypothesis.rstrip()), 1, BLEU_ORDER)
    theirs, reference_length = extract_all_word_ngrams(tokenize(reference.rstrip()), 1, BLEU_ORDER)
    counts = np.zeros(2 + 2 * BLEU_ORDER, dtype=np.int64)
    counts[:2] = length, reference_length
    for ngram, count in ours.items():
        counts[1 + len(ngram)] += min(count, theirs.get(ngram, 0))
        counts[1 + BLEU_ORDER + len(ngram)] += count
    return counts


def bleu_from_counts(counts: np.ndarray) -> np.ndarray:
    """Corpus BLEU in [0, 1] for each row of summed counts [draws, 10].

    exp smoothing and no effective order, as `sacrebleu.corpus_bleu`; 0 where nothing matches or an order has no n-gram.
    Source: Papineni et al. 2002; sacrebleu's `BLEU.compute_bleu`.
    """
    counts = np.asarray(counts, dtype=np.float64)
    length, reference = counts[:, 0], counts[:, 1]
    matches, totals = counts[:, 2 : 2 + BLEU_ORDER], counts[:, 2 + BLEU_ORDER :]
    defined = (matches.sum(1) > 0) & (totals > 0).all(1)
    halved = np.cumsum(matches == 0, axis=1)  # the n-th order without a match counts as 1 / 2^n of one
    smoothed = np.where(matches == 0, 0.5**halved, matches)
    precision = np.divide(smoothed, totals, out=np.ones_like(totals), where=totals > 0)
    ratio = np.divide(reference, length, out=np.zeros_like(length), where=length > 0)
    brevity = np.exp(np.minimum(0.0, 1 - ratio))
    return np.where(defined, brevity * np.exp(np.log(precision).mean(1)), 0.0)


def chrf_counts(hypothesis: str, reference: str) -> np.ndarray:
    """int64 [18]: for each order 1 to 6 the character n-grams of hypothesis and reference and their matches."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    counts: list[int] = []
    ours, theirs = (extract_all_char_ngrams(text, CHRF_ORDER) for text in (hypothesis, reference))
    for mine, other in zip(ours, theirs, strict=True):
        matches = sum(min(count, other.get(ngram, 0)) for ngram, count in mine.items())
        # As sacrebleu: the hypothesis's n-grams do not count where the reference has none of that order.
        counts += [mine.total() if other else 0, other.total(), matches]
    return np.array(counts, dtype=np.int64)


def chrf_from_counts(counts: np.ndarray) -> np.ndarray:
    """Corpus chrF2 in [0, 1] for each row of summed counts [draws, 18]: F-score of the mean precision and mean recall over the
    orders that both sides have. Source: Popović 2015; sacrebleu's `CHRF._compute_f_score`."""
    parts = np.asarray(counts, dtype=np.float64).reshape(len(counts), CHRF_ORDER, 3)
    ours, theirs, matches = parts[..., 0], parts[..., 1], parts[..., 2]
    both = (ours > 0) & (theirs > 0)
    orders = np.maximum(both.sum(1), 1)
    precision = np.divide(matches, ours, out=np.zeros_like(ours), where=both).sum(1) / orders
    recall = np.divide(matches, theirs, out=np.zeros_like(ours), where=both).sum(1) / orders
    below = CHRF_BETA**2 * precision + recall
    return np.divide((1 + CHRF_BETA**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)


def text_record(prediction: Prediction, target: str, *, bleu_tokenizer: str | None = None) -> Record:
    """The counts of one prediction: of its text (`text`) against the target, with n-grams where a BLEU tokenizer is named, and of
    its token log-likelihood (`nll` in nats, `tokens`). Only what the prediction holds is counted."""
    record: dict[str, np.ndarray] = {}
    if "text" in prediction:
        text = prediction["text"]
        record["exact_match"] = np.array([one_space(text) == one_space(target), 1], dtype=np.float64)
        if bleu_tokenizer is not None:
            record["bleu"] = bleu_counts(text, target, tokenizer=bleu_tokenizer)
            record["chrf"] = chrf_counts(text, target)
    if "nll" in prediction:
        record["cross_entropy"] = np.array([prediction["nll"], prediction["tokens"]], dtype=np.float64)
    return record


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def reduce_text(records: Sequence[Record], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every score that the records support, one value a draw; weights [draws, examples].

    `cross_entropy` is nats per token, the sum over tokens divided by their number; `perplexity` its exponential. A record
    without a score's counts takes no part in it; a draw without any is not a number.
    """
    corpus: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
        "chrf": chrf_from_counts,
        "bleu": bleu_from_counts,
        "exact_match": _ratio,
        "cross_entropy": _ratio,
    }
    weights = np.asarray(weights, dtype=np.float64)
    scores: dict[str, Any] = {}
    for name, function in corpus.items():
        present = [index for index, record in enumerate(records) if name in record]
        if present:
            counts = np.stack([records[index][name] for index in present]).astype(np.float64)
            scores[name] = function(weights[:, present] @ counts)
    if "cross_entropy" in scores:
        scores["perplexity"] = np.exp(scores["cross_entropy"])
    return scores
