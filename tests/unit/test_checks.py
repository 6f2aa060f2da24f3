"""Each finding on rows made to have it, and none on rows that do not."""

from __future__ import annotations

import shlex

from rich.console import Console

from domaintune.checks.report import report_of, with_few_rows
from domaintune.checks.shared import (
    Part,
    label_findings,
    like_labels,
    many_domains,
    near_findings,
    repeats,
    shared_findings,
    shared_groups,
    shared_rows,
    unseen_labels,
)
from domaintune.checks.table import findings_table, plain
from domaintune.checks.texts import has_mojibake, text_findings
from domaintune.tasks.base import Example, Finding, Keys
from domaintune.tasks.bitexts import TranslationExample, bitext_findings
from domaintune.tasks.text_classification import TextClassification, TextExample


def part(name: str, *rows: tuple[str, str]) -> Part:
    return Part(
        name,
        [Keys(text, label, label, labels=(label,)) for text, label in rows],
        [f"{name}.csv:{i}" for i in range(1, len(rows) + 1)],
    )


def test_repeats_conflicts_and_leaks_are_counted_with_their_rows() -> None:
    train = part("train", ("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"))
    found = {finding.name: finding for finding in repeats(train)}
    assert (found["repeats"].count, found["repeats"].rows) == (2, ("train.csv:3", "train.csv:4"))
    assert (found["conflicts"].count, len(found["conflicts"].rows)) == (1, 3)
    assert found["conflicts"].severity == "warning"
    texts = Part("train", [Keys("a", "b", ""), Keys("a", "c", "")], ["f:1", "f:2"])
    assert [(f.name, f.severity) for f in repeats(texts)] == [("repeats", "warning"), ("conflicts", "note")]
    assert "case and punctuation aside" in found["repeats"].message
    assert "(the same file)" in next(iter(repeats(train, texts=False))).message  # what has no texts has files
    (leak,) = shared_rows(train, part("test", ("b", "x"), ("c", "x")))
    assert (leak.name, leak.severity, leak.rows) == ("leaks", "error", ("test.csv:1",))
    (shared,) = shared_rows(train, part("general", ("b", "x")))
    assert shared.severity == "warning"
    assert list(shared_findings({"train": part("train", ("a", "x"), ("b", "y"))}, near=True, one_label=True)) == []


def test_labels_that_are_missing_rare_or_spread_otherwise() -> None:
    rows = [(str(i), "x" if i % 2 else "y") for i in range(100)]
    train = part("train", *rows)
    assert list(label_findings({"train": train, "test": part("test", *rows)})) == []
    other = {"train": train, "test": part("test", *[(t, "z") for t, _ in rows])}
    assert [f.name for f in label_findings(other)] == ["prior-shift", "rare-in-test"]
    assert [(f.name, f.severity) for f in unseen_labels(other, severity="error")] == [("unseen-labels", "error")]
    assert [f.name for f in label_findings({"train": part("train", *[(t, "x") for t, _ in rows])})] == ["one-class"]
    rare = part("train", *[(t, "x") for t, _ in rows], ("q", "y"))
    assert [f.name for f in label_findings({"train": rare})] == ["imbalance"]
    told = [
        f.name for f in label_findings({"train": part("train", *[(str(n), "y" if n < 6 else "x") for n in range(120)])})
    ]
    assert told == ["imbalance"]
    assert not list(label_findings({"train": part("train", *[(str(n), "y" if n < 11 else "x") for n in range(120)])}))


def test_both_rows_of_near_duplicates_are_named() -> None:
    long = "the room was clean and the view over the old harbour was lovely in every way"
    train = Part(
        "train", [Keys(text, "x", "x") for text in ("other", long, long + " too")], [f"a/t.csv:{n}" for n in (2, 3, 4)]
    )
    test = Part("test", [Keys(text, "x", "x") for text in ("else", long + " again")], ["a/e.csv:2", "a/e.csv:3"])
    inside, across = near_findings({"train": train, "test": test})
    assert inside.message == "1 row of train is almost equal to an earlier row, such as t.csv:4 to t.csv:3."
    assert across.message == "1 row of test is almost equal to one of train, such as e.csv:3 to t.csv:3."
    assert (inside.rows, across.rows) == (("a/t.csv:4",), ("a/e.csv:3",))


def test_of_many_rows_of_one_pattern_all_that_are_like_one_of_train_are_counted() -> None:
    pattern = "two views of the chest were obtained and the lungs are clear without effusion, read by doctor"
    parts = {
        name: Part(name, [Keys(f"{pattern} {n}", "x", "x") for n in numbers], [f"{name}:{n}" for n in numbers])
        for name, numbers in (("train", range(300)), ("dev", range(300, 340)), ("test", range(340, 440)))
    }
    assert [finding.count for finding in near_findings(parts)] == [299, 40, 100]


def test_labels_that_test_hardly_has() -> None:
    train = part("train", *[(str(n), "xyz"[n % 3]) for n in range(90)])
    test = part("test", *[(f"t{n}", "x" if n < 30 else "y") for n in range(34)])
    (found,) = (f for f in label_findings({"train": train, "test": test}) if f.name == "rare-in-test")
    assert (found.message, found.count) == ("fewer than 5 rows of test: 'y' (4), 'z' (0).", 2)
    alike = part("test", *[(f"t{n}", "xyz"[n % 3]) for n in range(15)])
    assert not list(label_findings({"train": train, "test": alike}))


def test_a_column_of_ids_given_as_domains_is_told() -> None:
    def of(*domains: str | None) -> list[Finding]:
        keys = [Keys(f"text {n}", "x", "x", domain=name) for n, name in enumerate(domains)]
        return list(many_domains(Part("train", keys, [f"f:{n}" for n in range(len(domains))])))

    (found,) = of(*(f"id{n}" for n in range(120)), None)
    assert (found.name, found.severity, found.message) == (
        "many-domains",
        "warning",
        "train names 120 domains in 120 rows.",
    )
    assert "data.domain_column" in found.remedy
    assert not of(*("ab" * 10))
    assert of(*("ab" * 9))
    assert not of(*("a" * 5))  # one domain, of however few rows
    assert not of(None, None)


def test_parts_of_few_rows_or_groups() -> None:
    def of(*groups: str | None) -> list[Example]:
        return [Example(file="f", line=n, group=group) for n, group in enumerate(groups)]

    note = Finding("long-rows", "note", "", (), "", "")
    parts = {"dev": None, "test": of("a", "b", "a", "b"), "general-check": of(*[None] * 9), "enough": of(*"abcdefghij")}
    found = with_few_rows([note], parts)
    assert [(f.name, f.message) for f in found] == [
        ("few-rows", "test holds 2 groups of rows that belong together."),
        ("few-rows", "general-check holds 9 rows."),
        ("long-rows", ""),
    ]


def test_combinations_of_several_labels_are_no_labels() -> None:
    task = TextClassification(
        labels=("a", "b"), multi_label=True, max_length=64, text_column="text", label_column="label", label_separator="|",
        weights=None,
    )  # fmt: skip
    parts = {
        name: [TextExample(file=name, line=n, text=f"{name} {n} is a text", labels=labels) for n in range(6)]
        for name, labels in (("train", (0,)), ("dev", (1,)), ("test", (0, 1)))
    }
    found = report_of(task, parts)
    assert "one-class" not in {finding.name for finding in found}
    assert {finding.message for finding in found if finding.name == "unseen-labels"} == {
        "1 label of dev is in no row of train: b.",
        "1 label of test is in no row of train: b.",
    }
    single = task.model_copy(update={"multi_label": False})
    assert "one-class" in {finding.name for finding in report_of(single, parts)}


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
    def pair(file: str, line: int, source: str, target: str) -> TranslationExample:
        return TranslationExample(file=file, line=line, source=source, target=target)

    pairs = [pair("a", i, f"sentence number {i} of the set", f"Satz Nummer {i} der Menge") for i in range(60)]
    assert list(bitext_findings(pairs)) == []
    odd = [
        pair("b", 1, "a short line", "sehr lange " * 60),
        pair("b", 2, "a sentence like the others", "这句话没有翻译成德语，而是中文的句子"),
        pair("b", 3, "Open %s now, please", "Jetzt bitte öffnen, ja"),
        pair("b", 4, "see :meth:`~x.run` there", "siehe dort bei run nach"),
        pair("b", 5, "left as it was here", "left as it was here"),
    ]
    found = {finding.name: finding.rows for finding in bitext_findings([*pairs, *odd])}
    assert found["length-ratio"] == ("b:1",)
    assert found["wrong-script"] == ("b:2",)
    assert found["lost-placeholder"] == ("b:3",)
    assert ("b:4",) in found.values()
    assert found["untranslated"] == ("b:5",)


def test_findings_fit_a_terminal_and_a_program() -> None:
    finding = Finding("leaks", "error", "3 rows [of] test.", ("a:1", "a:2", "a:3"), "Do it.", "Because.", 3)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(findings_table([finding]))
    text = console.export_text()
    assert "3 rows [of] test." in text
    assert max(map(len, text.splitlines())) <= 80
    console.file.close()
    assert findings_table([]).row_count == 0
    assert plain([finding])[0] == {
        "name": "leaks", "severity": "error", "count": 3, "rows": ["a:1", "a:2", "a:3"], "message": "3 rows [of] test.",
        "why": "Because.", "remedy": "Do it.",
    }  # fmt: skip


def test_groups_that_stand_in_two_given_parts() -> None:
    def of(name: str, *groups: str | None) -> Part:
        keys = [Keys(f"{name} {n}", "x", "x", group) for n, group in enumerate(groups)]
        return Part(name, keys, [f"{name}.csv:{n}" for n in range(len(groups))])

    found = list(shared_groups(of("train", "p1", "p2", None), of("test", "p2", None, "p3", "p2")))
    assert [(f.name, f.severity, f.count, f.rows) for f in found] == [
        ("shared-groups", "error", 2, ("test.csv:0", "test.csv:3"))
    ]
    assert found[0].message == "1 group of test (2 rows) also in train."
    assert list(shared_groups(of("train", "p1"), of("add", "p1"))) == []


def test_labels_that_look_alike() -> None:
    rows = [
        ("a", "Positive"),
        ("b", "Positive"),
        ("c", "positive"),
        ("d", "neg"),
        ("e", "neg\u200b"),
        ("f", "fu\u0308r"),
    ]
    found = list(like_labels({"train": part("train", *rows), "test": part("test", ("g", "f\u00fcr"), ("h", "other"))}))
    assert [(f.name, f.count) for f in found] == [("like-labels", 1)] * 3
    assert found[0].message == "'Positive' and 'positive' are different labels."
    assert found[0].remedy == "If they mean the same: --label-map positive=Positive."
    assert "'neg\\u200b'" in found[1].message


def test_one_number_written_in_two_ways_is_told() -> None:
    rows = [("a", "1"), ("b", "1"), ("c", "1.0"), ("d", "10"), ("e", "3.5"), ("f", "3.50"), ("g", "0.0"), ("h", "-0")]
    (found,) = like_labels({"train": part("train", *rows)})
    assert (found.message, found.count) == ("'1' and '1.0' are different labels.", 1)


def test_a_remedy_to_paste_is_quoted() -> None:
    (found,) = like_labels({"train": part("train", ("a", "Don't know"), ("b", "Don't know"), ("c", "don't know"))})
    pasted = shlex.split(found.remedy.removeprefix("If they mean the same: ").removesuffix("."))
    assert pasted == ["--label-map", "don't know=Don't know"]


def test_labels_that_look_like_several() -> None:
    task = TextClassification(
        labels=("a", "a, b"), multi_label=True, max_length=64, text_column="text", label_column="label", label_separator="|",
        weights=None,
    )  # fmt: skip
    rows = [TextExample(file="f", line=n, text=f"text {n}", labels=(n % 2,)) for n in range(20)]
    (finding,) = task.check(rows)
    assert (finding.name, finding.count) == ("joined-labels", 1)
    assert "'a, b'" in finding.message
    assert "task.label_separator=','" in finding.remedy
    (other,) = task.model_copy(update={"labels": ("a", "a;b")}).check(rows)
    assert "task.label_separator=';'" in other.remedy
    assert list(task.check([*rows, TextExample(file="f", line=21, text="t", labels=(0, 1))])) == []
    assert list(task.model_copy(update={"multi_label": False}).check(rows)) == []
