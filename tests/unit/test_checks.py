"""Each finding on rows made to have it, and none on rows that do not."""

from __future__ import annotations

import random
import time
from itertools import combinations

from rich.console import Console

from domaintune.checks.shared import Part, label_findings, repeats, shared_findings, shared_rows
from domaintune.checks.table import findings_table, plain
from domaintune.checks.texts import has_mojibake, pair_findings, script_of, text_findings
from domaintune.data.near_duplicates import near_duplicates
from domaintune.tasks.base import Finding, Keys

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def part(name: str, *rows: tuple[str, str]) -> Part:
    return Part(
        name, [Keys(text, label, label) for text, label in rows], [f"{name}.csv:{i}" for i in range(1, len(rows) + 1)]
    )


def similarity(left: str, right: str) -> float:
    sets = [{text[i : i + 5] for i in range(max(len(text) - 4, 1))} for text in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_are_those_of_brute_force() -> None:
    generator = random.Random(2)
    texts = [" ".join(generator.choices(WORDS, k=generator.randrange(8, 25))) for _ in range(250)]
    for text in texts[:150]:
        words = text.split()
        for _ in range(generator.randrange(1, 3)):
            words[generator.randrange(len(words))] = generator.choice(WORDS)
        texts.append(" ".join(words))
    found = set(near_duplicates(texts))
    exact = {(i, j): similarity(texts[i], texts[j]) for i, j in combinations(range(len(texts)), 2)}
    wanted = {pair for pair, value in exact.items() if value >= 0.8 and texts[pair[0]] != texts[pair[1]]}
    assert found <= wanted  # verified exactly
    assert len(found) >= 0.98 * len(wanted) > 20


def test_near_duplicates_of_odd_inputs() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates(["", "", "a", "ab", "a"]) == []
    chinese = "这家酒店的服务非常好，房间也很干净，早餐丰富，下次还会再来住，推荐给大家"
    assert near_duplicates([chinese, "x" * 10, chinese + "！"]) == [(0, 2)]
    assert near_duplicates(["word " * 100_000, "word " * 100_000 + "x"]) == [(0, 1)]
    assert near_duplicates(["same text as the others"] * 500) == []


def test_twenty_thousand_texts_take_seconds() -> None:
    generator = random.Random(1)
    texts = [" ".join(generator.choices(WORDS, k=20)) for _ in range(20_000)]
    began = time.process_time()
    near_duplicates(texts)
    assert time.process_time() - began < 60  # about 4 on one core; the bound only catches a quadratic search


def test_repeats_conflicts_and_leaks_are_counted_with_their_rows() -> None:
    train = part("train", ("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"))
    found = {finding.name: finding for finding in repeats(train)}
    assert (found["repeats"].count, found["repeats"].rows) == (2, ("train.csv:3", "train.csv:4"))
    assert (found["conflicts"].count, len(found["conflicts"].rows)) == (1, 3)
    (leak,) = shared_rows(train, part("test", ("b", "x"), ("c", "x")))
    assert (leak.name, leak.severity, leak.rows) == ("leaks", "error", ("test.csv:1",))
    (shared,) = shared_rows(train, part("general", ("b", "x")))
    assert shared.severity == "warning"
    assert (
        list(shared_findings({"train": part("train", ("a", "x"), ("b", "y"))}, near=True, strata_are_labels=True)) == []
    )


def test_labels_that_are_missing_rare_or_spread_otherwise() -> None:
    rows = [(str(i), "x" if i % 2 else "y") for i in range(100)]
    train = part("train", *rows)
    assert list(label_findings({"train": train, "test": part("test", *rows)})) == []
    names = [f.name for f in label_findings({"train": train, "test": part("test", *[(t, "z") for t, _ in rows])})]
    assert names == ["unseen-labels", "prior-shift"]
    assert [f.name for f in label_findings({"train": part("train", *[(t, "x") for t, _ in rows])})] == ["one-class"]
    rare = part("train", *[(t, "x") for t, _ in rows], ("q", "y"))
    assert [f.name for f in label_findings({"train": rare})] == ["imbalance"]


def test_broken_characters() -> None:
    texts = {
        "control-characters": "a\u0096b",
        "replacement-characters": "a\ufffdb",
        "mojibake": "schÃ¶n",
        "html-entities": "Tom &amp; Jerry",
        "hidden-characters": "a\u200bb",
        "no-letters": "...",
    }
    for name, text in texts.items():
        (found,) = text_findings("train", [(text,), ("fine",)], ["a:1", "a:2"])
        assert (found.name, found.rows) == (name, ("a:1",))
    clean = [
        "schön für Köln",
        "l’été à São Paulo",
        "服务很好",
        "R&D costs 5 €, AT&T",
        "naïve café – “yes”",
        "Ångström Â",
    ]
    assert [f.name for f in text_findings("train", [(t,) for t in clean], clean)] == []
    assert has_mojibake("donâ€™t")
    assert not has_mojibake("Österreich")


def test_pairs_of_texts() -> None:
    pairs = [(f"sentence number {i} of the set", f"Satz Nummer {i} der Menge") for i in range(60)]
    where = [f"a:{i}" for i in range(1, 63)]
    assert list(pair_findings("train", pairs, where[:60])) == []
    odd = [*pairs, ("short", "sehr lange " * 40), (pairs[0][0], "Ein anderer Satz als der")]
    names = {finding.name: finding.rows for finding in pair_findings("train", odd, where)}
    assert names == {"many-targets": ("a:1", "a:62"), "length-ratio": ("a:61",)}
    (script,) = pair_findings(
        "train", [*pairs, ("a sentence like others", "这句话没有翻译成德语，而是中文的句子")], where[:61]
    )
    assert (script.name, script.rows) == ("wrong-script", ("a:61",))
    assert (script_of("Привет"), script_of("你好"), script_of("12")) == ("CYRILLIC", "CJK", None)


def test_findings_fit_a_terminal_and_a_program() -> None:
    finding = Finding("leaks", "error", "3 rows [of] test.", ("a:1", "a:2", "a:3"), "Do it.", "Because.", 3)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(findings_table([finding]))
    text = console.export_text()
    assert "3 rows [of] test." in text
    assert max(map(len, text.splitlines())) <= 80
    console.file.close()
    assert plain([finding])[0] == {
        "name": "leaks", "severity": "error", "count": 3, "rows": ["a:1", "a:2", "a:3"], "message": "3 rows [of] test.",
        "why": "Because.", "remedy": "Do it.",
    }  # fmt: skip
