"""Entities that are probably not meant: each kind on rows made to have it, and none on rows that do not."""

from __future__ import annotations

import pytest

from domaintune.tasks.base import Finding
from domaintune.tasks.tag_sequences import Entity
from domaintune.tasks.unlikely_spans import TaggedRow, common_words, is_ragged, unlikely_spans


def row(number: int, marked: str) -> TaggedRow:
    """A row whose entities stand in [brackets]."""
    words: list[str] = []
    spans: list[Entity] = []
    start = 0
    for word in marked.split():
        if word.startswith("["):
            start = len(words)
        words.append(word.strip("[]"))
        if word.endswith("]"):
            spans.append(Entity("X", start, len(words)))
    return TaggedRow(f"f:{number}", words, spans)


def found(*marked: str) -> dict[str, Finding]:
    return {
        finding.name: finding for finding in unlikely_spans([row(n, text) for n, text in enumerate(marked, start=1)])
    }


USUAL = [f"[Anna] met the [New York] team on day{n}" for n in range(40)]


def test_rows_without_faults_and_without_entities_give_nothing() -> None:
    assert found(*USUAL) == {}
    assert found("nobody is here", "") == {}
    assert found(*[f"[安 娜] 在 [上 海 市] 工 作 了 {n} 年" for n in range(40)]) == {}
    assert found(*[f"[Anna] sah die [Stadt Köln] am Tag{n}" for n in range(40)]) == {}


def test_spans_far_longer_than_the_others() -> None:
    made = found(*USUAL, "[" + "a " * 11 + "b]")["long-spans"]
    assert (made.severity, made.count, made.rows) == ("note", 1, ("f:41",))
    assert made.message.startswith("1 of 81 entities have more than 10 words, such as 'a a a")
    assert "long-spans" not in found(*USUAL, "[" + "a " * 9 + "b]")
    # The bound is the set's own: where twelve words are usual, they are nothing to tell.
    assert "long-spans" not in found(*["[" + "a " * n + "b]" for n in (5, 9, 12, 12, 12, 11)])


def test_spans_with_punctuation_at_their_ends() -> None:
    made = found(*USUAL, "in [Paris ,] yes", "in [Paris.] Yes", "[（ 北 京]")["ragged-spans"]
    assert (made.severity, made.rows) == ("warning", ("f:41", "f:42", "f:43"))
    assert "'Paris ,'" in made.message


@pytest.mark.parametrize(
    "text", [", Paris", "Paris ,", "Paris :", "Paris .", "in Paris.", "(", "...", "、", "北京，", "( Paris", "Paris )"]
)
def test_ragged(text: str) -> None:
    assert is_ragged(text)


@pytest.mark.parametrize(
    "text",
    [
        "Inc.",
        "Apple Inc .",
        "U.S.",
        "A.N.S.W.E.R.",
        "Yahoo !",
        ".NET",
        "'s-Hertogenbosch",
        "(NATO)",
        "C++",
        "Wait ...",
        "北京",
        "Köln",
    ],
)
def test_names_that_rightly_end_so(text: str) -> None:
    assert not is_ragged(text)


def test_words_that_are_common_everywhere_else() -> None:
    rows = [*USUAL, "[the] one", "see [z] there"]
    made = found(*rows)["common-word-spans"]
    assert (made.severity, made.rows) == ("note", ("f:41", "f:42"))
    assert common_words([row(n, text) for n, text in enumerate(rows)]) >= {"the", "met", "on"}
    # A word that is often both, and capital letters, are names.
    assert "common-word-spans" not in found(*USUAL, *["[the] one"] * 5, "[C] is old")
    assert "rarely-tagged" not in found(*rows)  # told once


def test_names_tagged_here_and_not_there() -> None:
    untagged = [f"Delaware law {n} applies" for n in range(12)]
    made = found(*USUAL, "[Delaware] is small", *untagged)["rarely-tagged"]
    assert (made.severity, made.count) == ("note", 1)
    assert "'Delaware' (1 tagged, 12 not)" in made.message
    assert made.rows == tuple(f"f:{n}" for n in range(42, 54))
    assert "rarely-tagged" not in found(*USUAL, *["[Delaware] is small"] * 4, *untagged)  # 1 in 4 is too even
    assert "rarely-tagged" not in found(*USUAL, "[Delaware] is small", *untagged[:9])
    # Inside another name it is no miss; nor are numbers.
    assert "rarely-tagged" not in found(
        *USUAL, "[Delaware] is small", *[f"[{text.replace('law', 'law]')}" for text in untagged]
    )
    assert "rarely-tagged" not in found(*USUAL, "[2019] was", *["in 2019 it"] * 12)


def test_names_that_are_nearly_always_tagged() -> None:
    made = found(*USUAL, "go to New York now", "Anna again and Anna")["missed-spans"]
    assert (made.severity, made.rows) == ("note", ("f:42", "f:41"))
    assert "'Anna' (40 tagged, 2 not), 'New York' (40 tagged, 1 not)" in made.message
    assert "missed-spans" not in found(*USUAL[:9], "Anna again")
    assert "missed-spans" not in found(*USUAL, *["Anna again"] * 5)  # too many to be slips
