"""Entities as users have them: columns in every tag scheme, spans of every annotation tool, spaCy's files."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from domaintune import Recipe
from domaintune.data.columns import wanted_of
from domaintune.data.conll import read_conll
from domaintune.data.docbin import read_docbin
from domaintune.data.entity_spans import (
    cut_at_edges,
    cut_words,
    input_rows,
    span_rows,
    span_tags,
    trimmed,
    without_overlaps,
)
from domaintune.data.formats import read_part
from domaintune.data.rows import Entry, LeftOut, Note, Reading, Row, Wanted
from domaintune.data.sources import Source
from domaintune.data.span_shapes import Span, shape_of
from domaintune.data.tables import read_json_lines
from domaintune.data.tag_schemes import normalised_tags, recognised_scheme, to_bio
from domaintune.data.words import joined, word_spans
from domaintune.errors import DataError
from domaintune.tasks.tag_sequences import Entity, entities

NER = Wanted("token-classification")
GERMAN = "Frau Müller-Lüdenscheidt fährt nach Köln."
EMOJI = "😀👍 Anna lebt in Zürich"
CHINESE = "我在北京大学学习。"


def conll(tmp_path: Path, content: str | bytes, wanted: Wanted = NER, name: str = "a.conll") -> list[Entry]:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return list(read_conll(Source(path), wanted))


def sentences(entries: list[Entry]) -> list[tuple[list[str], list[str]]]:
    return [(entry.values["tokens"], entry.values["tags"]) for entry in entries if isinstance(entry, Row)]


def notes(entries: list[Entry]) -> list[str]:
    return [entry.message for entry in entries if isinstance(entry, Note)]


def spans(*values: dict[str, Any], wanted: Wanted = NER) -> list[Entry]:
    return list(span_rows([Row(v, "a.jsonl", n) for n, v in enumerate(values, start=1)], wanted))


def tagged(text: str, marked: list[Any], **others: Any) -> list[tuple[str, str]]:
    [row] = [e for e in spans({"text": text, "entities": marked, **others}) if isinstance(e, Row)]
    return list(zip(row.values["tokens"], row.values["tags"], strict=True))


class TestConll:
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("separator", [" ", "\t", "   "])
    def test_columns_and_line_ends(self, tmp_path: Path, newline: str, separator: str) -> None:
        lines = ["Anna B-PER", "läuft O", "", "  ", "北 B-LOC", "京 I-LOC", "😀 O"]
        entries = conll(tmp_path, newline.join(line.replace(" ", separator) for line in lines))
        assert sentences(entries) == [
            (["Anna", "läuft"], ["B-PER", "O"]),
            (["北", "京", "😀"], ["B-LOC", "I-LOC", "O"]),
        ]
        assert [entry.line for entry in entries if isinstance(entry, Row)] == [1, 5]
        assert notes(entries) == []

    def test_four_columns_and_document_starts(self, tmp_path: Path) -> None:
        content = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n-DOCSTART-\nBonn NNP B-NP B-LOC\n"
        entries = conll(tmp_path, content)
        assert sentences(entries) == [(["EU", "rejects"], ["B-ORG", "O"]), (["Bonn"], ["B-LOC"])]
        assert [entry.line for entry in entries if isinstance(entry, Row)] == [3, 6]

    def test_comments_only_where_no_tag_stands(self, tmp_path: Path) -> None:
        content = "# sent_id = 5\n# text = I like O\n#\n# O\ntag B-X\n\n# id 7 domain=x\n#hash B-X\nnow O\n# O\n"
        assert sentences(conll(tmp_path, content)) == [
            (["#", "tag"], ["O", "B-X"]),
            (["#hash", "now", "#"], ["B-X", "O", "O"]),
        ]

    @pytest.mark.parametrize("line", ["# lost", "#lost", "#"])
    def test_a_comment_inside_a_sentence_would_be_a_lost_word(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(DataError, match="but line 1 has 3") as caught:
            conll(tmp_path, f"a x O\n{line}\nb x O\n")
        assert caught.value.where.endswith("a.conll:2")

    def test_a_hash_that_is_no_comment_is_not_passed_over(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="1 column"):
            conll(tmp_path, "a O\n\n#lost\nb O\n")

    def test_words_of_wide_space_and_words_with_spaces(self, tmp_path: Path) -> None:
        assert sentences(conll(tmp_path, "\u3000 O\n北 B-LOC\n")) == [(["\u3000", "北"], ["O", "B-LOC"])]
        assert sentences(conll(tmp_path, "New York\tB-LOC\n \tO\n")) == [(["New York", " "], ["B-LOC", "O"])]

    def test_columns_of_the_users_names_and_other_encodings(self, tmp_path: Path) -> None:
        wanted = Wanted("token-classification", {"tokens": "words", "tags": "ner"}, encoding="latin-1")
        [row] = conll(tmp_path, "Köln B-LOC\n".encode("latin-1"), wanted)
        assert isinstance(row, Row)
        assert row.values == {"words": ["Köln"], "ner": ["B-LOC"]}
        assert sentences(conll(tmp_path, b"\xef\xbb\xbfBonn B-LOC\n")) == [(["Bonn"], ["B-LOC"])]

    @pytest.mark.parametrize(
        ("content", "line", "what"),
        [
            ("a O\nb\n", 2, "1 column, but line 1 has 2"),
            ("a O\n\nb x O\n", 3, "3 columns, but line 1 has 2"),
            ("a 1 2 3 O\n", 1, "5 columns, but two to four are allowed"),
            ("alone\n", 1, "1 column, but two"),
            ("a\tO\n\tO\n", 2, "the word is empty"),
            ("a\tO\nb\t\n", 2, "the tag is empty"),
            ("1\tAnna\tB-PER\n2\tlacht\tO\n\n1\tJa\tO\n", 1, "numbers the words"),
            ("a O\nb\x00 O\n", 2, "NUL"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path: Path, content: str, line: int, what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            conll(tmp_path, content)
        assert caught.value.where == f"{tmp_path / 'a.conll'}:{line}"
        assert caught.value.remedy

    @pytest.mark.parametrize("content", ["", "\n\n", "-DOCSTART- O\n\n", "# only a remark\n"])
    def test_no_sentence(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(DataError, match="no sentence"):
            conll(tmp_path, content)

    def test_a_sentence_of_numbers_is_one(self, tmp_path: Path) -> None:
        assert len(conll(tmp_path, "1 O\n2 O\n\nAnna B-PER\n")) == 2

    def test_the_scheme_is_that_of_the_whole_file(self, tmp_path: Path) -> None:
        content = "Anna I-PER\nBea B-PER\n\nBonn I-LOC\nam I-LOC\nRhein I-LOC\n\nja O\n"
        entries = conll(tmp_path, content)
        assert [tags for _, tags in sentences(entries)] == [["B-PER", "B-PER"], ["B-LOC", "I-LOC", "I-LOC"], ["O"]]
        assert notes(entries) == [f"{tmp_path / 'a.conll'}: the tags are IOB1; 2 of 6 changed to make them BIO."]

    def test_io_says_what_it_cannot_tell(self, tmp_path: Path) -> None:
        [note] = notes(conll(tmp_path, "Anna I-PER\nBea I-PER\nlacht O\nBonn I-LOC\n"))
        assert "IO; 2 of 4 changed" in note
        assert "Neighbouring entities" in note


# In the scheme, in BIO by hand, and the scheme's name in seqeval.
CONVERSIONS: list[tuple[str, str, str, Any]] = [
    ("IO", "I-A I-A O I-A I-B I-B", "B-A I-A O B-A B-B I-B", IOB1),
    ("IOB1", "I-A I-A B-A O I-B I-A B-A I-A", "B-A I-A B-A O B-B B-A B-A I-A", IOB1),
    ("BIO", "B-A I-A B-A O B-B I-B I-B", "B-A I-A B-A O B-B I-B I-B", IOB2),
    ("BIOES", "B-A I-A E-A S-A O B-B E-B S-B S-B", "B-A I-A I-A B-A O B-B I-B B-B B-B", IOBES),
    ("BILOU", "B-A I-A L-A U-A O B-B L-B U-B U-B", "B-A I-A I-A B-A O B-B I-B B-B B-B", BILOU),
    ("BMES", "B-A M-A E-A S-A O", "B-A I-A I-A B-A O", None),
]


class TestSchemes:
    @pytest.mark.parametrize(("scheme", "tags", "bio", "reference"), CONVERSIONS, ids=[c[0] for c in CONVERSIONS])
    def test_conversions_by_hand_and_by_seqeval(self, scheme: Any, tags: str, bio: str, reference: Any) -> None:
        assert recognised_scheme([tags.split()]) == scheme
        assert to_bio(tags.split(), scheme) == bio.split()
        if reference is not None:
            strict = [Entity(e.tag, e.start, e.end) for e in Entities([tags.split()], reference).entities[0]]
            assert entities(bio.split()) == strict

    def test_random_entities_survive_every_scheme(self) -> None:
        random_ = random.Random(3)
        for _ in range(300):
            bio = random_bio(random_)
            for scheme in ("IOB1", "BIOES", "BILOU", "BMES"):
                assert to_bio(written_as(bio, scheme), scheme) == bio  # type: ignore[arg-type]

    def test_random_entities_as_seqeval_reads_them(self) -> None:
        random_ = random.Random(4)
        for _ in range(300):
            bio = random_bio(random_)
            for scheme, reference in (("IOB1", IOB1), ("BIOES", IOBES), ("BILOU", BILOU)):
                tags = written_as(bio, scheme)
                strict = [Entity(e.tag, e.start, e.end) for e in Entities([tags], reference).entities[0]]
                assert entities(to_bio(tags, scheme)) == strict  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("sequences", "expected"),
        [
            ([], "BIO"),
            (["O O"], "BIO"),
            (["B-A"], "BIO"),
            (["I-A"], "IO"),
            (["I-A", "B-A I-A"], "BIO"),  # broken: B- begins an entity where I- would do
            (["I-A", "B-B I-A"], "BIO"),
            (["I-A", "I-A B-A"], "IOB1"),
            (["I-A I-B", "O I-A B-A"], "IOB1"),
            (["S-A"], "BIOES"),
            (["U-A"], "BILOU"),
            (["B-A E-A"], "BIOES"),
            (["I-A E-A"], None),  # IOE
            (["E-A"], None),
            (["S-A", "U-A"], None),
            (["PER O", "MISC B"], None),
            (["O PER PER", "Location"], "IO without I-"),
            (["PER B-PER"], None),
            (["B I O"], None),  # one class without a name
            (["PER_B PER_I"], None),
            (["0 0 3"], None),  # class numbers
            (["B-"], None),
            (["O E-mail"], None),  # a type without prefix
            (["B_PER"], None),
        ],
    )
    def test_recognition(self, sequences: list[str], expected: str | None) -> None:
        assert recognised_scheme([tags.split() for tags in sequences]) == expected

    def test_broken_sequences_stay_broken_and_ended_entities_keep_their_end(self) -> None:
        assert to_bio(["O", "E-A", "O", "I-A"], "BIOES") == ["O", "I-A", "O", "I-A"]
        assert to_bio(["S-A", "I-A", "E-A", "E-A"], "BIOES") == ["B-A", "B-A", "I-A", "B-A"]

    def test_bare_types(self, tmp_path: Path) -> None:
        assert to_bio(["PER", "PER", "LOC", "O", "PER"], "IO without I-") == ["B-PER", "I-PER", "B-LOC", "O", "B-PER"]
        path = tmp_path / "a.conll"
        path.write_text("Ada PER\nLovelace PER\nleft O\n\nBonn LOC\n", encoding="utf-8")
        made = read_part(str(path), NER, targets=True)
        assert [row.values["tags"] for row in made.rows] == [["B-PER", "I-PER", "O"], ["B-LOC"]]
        assert made.notes == [
            f"{path}: the tags are IO without I-; 3 of 4 changed to make them BIO. Neighbouring entities of one type "
            "cannot be told apart in IO: they are one."
        ]

    def test_lists_as_json_in_the_cells_of_a_table(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text('tokens,tags\n"[""Ada"", ""left""]","[""PER"", ""O""]"\n', encoding="utf-8")
        assert read_part(str(path), NER, targets=True).rows[0].values == {
            "tokens": ["Ada", "left"],
            "tags": ["B-PER", "O"],
        }
        # As Label Studio's CSV: a JSON list of spans, a blank cell where nothing was marked.
        lines = [
            "text,id,label,annotator",
            "[1] nothing here,1,,2",
            'Ada left.,2,"[{""start"":0,""end"":3,""text"":""Ada"",""labels"":[""PER""]}]",2',
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        made = read_part(str(path), NER, targets=True)
        assert [row.values["tags"] for row in made.rows] == [["O"] * 5, ["B-PER", "O", "O"]]
        assert made.rows[0].values["tokens"][:2] == ["[", "1"]
        path.write_text("text,entities\nAda left,\"[(0, 3, 'PER')]\"\n", encoding="utf-8")  # str() of a list
        with pytest.raises(DataError, match="is no JSON") as caught:
            read_part(str(path), NER)
        assert caught.value.where == f"{path}:2"

    def test_sentences_without_entities_in_json_min(self, tmp_path: Path) -> None:
        none = {"text": "Nothing here", "id": 1, "annotator": 1, "annotation_id": 7}
        some = {**none, "text": "Ada left", "label": [{"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}]}
        path = tmp_path / "a.json"
        for rows in ([none, some], [some, none]):
            path.write_text(json.dumps(rows), encoding="utf-8")
            made = read_part(str(path), NER, targets=True).rows
            assert sorted(row.values["tags"] for row in made) == [["B-PER", "O"], ["O", "O"]]
        named = {**none, "text": "Ada left", "ner": some["label"]}  # under another name, which the user has to say
        path.write_text(json.dumps([none, named]), encoding="utf-8")
        with pytest.raises(DataError, match="no text with spans"):
            read_part(str(path), NER, targets=True)
        asked = Wanted("token-classification", {"spans": "ner"})
        assert [row.values["tags"] for row in read_part(str(path), asked, targets=True).rows] == [
            ["O", "O"],
            ["B-PER", "O"],
        ]
        path = tmp_path / "a.csv"
        path.write_text(
            'text,id,ner,annotator\nAda left,2,"[{""start"":0,""end"":3,""labels"":[""PER""]}]",2\n', encoding="utf-8"
        )
        with pytest.raises(DataError, match="no column 'tokens'"):
            read_part(str(path), NER, targets=True)

    def test_rows_of_a_table(self) -> None:
        rows: list[Entry] = [
            Row({"words": ["a", "b"], "ner": ["B-X", "E-X"], "id": 7}, "a.jsonl", 1),
            LeftOut("blank", "a.jsonl", 2),
            Row({"words": ["a", "b", "c"], "ner": ["S-X", "I-X", "O"]}, "a.jsonl", 3),
            Row({"words": ["a"]}, "a.jsonl", 4),
            Row({"words": ["a"], "ner": [3]}, "a.jsonl", 5),
            Row({"words": ["a"], "ner": ["I-X"]}, "b.jsonl", 1),
            Row({"words": ["a"], "ner": ["B-X"]}, "c.jsonl", 1),
        ]
        made = list(normalised_tags(rows, Wanted("token-classification", {"tags": "ner"})))
        assert made[0] == Row({"words": ["a", "b"], "ner": ["B-X", "I-X"], "id": 7}, "a.jsonl", 1)
        assert isinstance(made[2], Row)
        assert made[2].values["ner"] == ["B-X", "B-X", "O"]
        assert isinstance(made[5], Row)
        assert made[5].values["ner"] == ["B-X"]
        assert [made[1], made[3], made[4], made[6]] == [rows[1], rows[3], rows[4], rows[6]]
        assert made[7:] == [
            Note(
                "a.jsonl: the tags are BIOES; 3 of 5 changed to make them BIO. 1 went on with an entity that had ended "
                "and begin one of their own."
            ),
            Note(
                "b.jsonl: the tags are IO; 1 of 1 changed to make them BIO. Neighbouring entities of one type cannot be "
                "told apart in IO: they are one."
            ),
        ]


def random_bio(random_: random.Random) -> list[str]:
    tags: list[str] = []
    while len(tags) < 12:
        kind = random_.choice(["", "", "A", "B"])
        length = random_.randint(1, 4)
        tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)] if kind else ["O"]
    return tags


def written_as(bio: list[str], scheme: str) -> list[str]:
    """The reverse of `to_bio`, written down from the schemes' definitions over entities."""
    inside, last, single = {"IOB1": "III", "BIOES": "IES", "BILOU": "ILU", "BMES": "MES"}[scheme]
    tags = ["O"] * len(bio)
    previous: Entity | None = None
    for entity in entities(bio):
        middle = [f"{inside}-{entity.type}"] * (entity.end - entity.start)
        if scheme == "IOB1":
            if previous is not None and previous.end == entity.start and previous.type == entity.type:
                middle[0] = f"B-{entity.type}"
        elif len(middle) == 1:
            middle = [f"{single}-{entity.type}"]
        else:
            middle[0], middle[-1] = f"B-{entity.type}", f"{last}-{entity.type}"
        tags[entity.start : entity.end] = middle
        previous = entity
    return tags


class TestPlainSpans:
    def test_words_and_tags(self) -> None:
        assert tagged(GERMAN, [{"start": 5, "end": 24, "label": "PER"}, [36, 40, "LOC"]]) == [
            ("Frau", "O"),
            ("Müller", "B-PER"),
            ("-", "I-PER"),
            ("Lüdenscheidt", "I-PER"),
            ("fährt", "O"),
            ("nach", "O"),
            ("Köln", "B-LOC"),
            (".", "O"),
        ]
        assert tagged(CHINESE, [[2, 6, "ORG"]]) == [
            *zip("我在北京大学学习。", ["O", "O", "B-ORG", *["I-ORG"] * 3, "O", "O", "O"], strict=True)
        ]
        assert tagged(EMOJI, [[3, 7, "PER"], [16, 22, "LOC"]]) == [
            ("😀", "O"),
            ("👍", "O"),
            ("Anna", "B-PER"),
            ("lebt", "O"),
            ("in", "O"),
            ("Zürich", "B-LOC"),
        ]

    @pytest.mark.parametrize(
        ("text", "marked"),
        [
            ("Google's shares", (0, 6)),
            ("m² CO₂ 10⁹ Jo", (0, 2)),
            ("London-based EU-Kommission", (0, 6)),
            ("Mu\u0308nchen fu\u0308r alle", (0, 8)),
            ("राहुल दिल्ली में है।", (6, 12)),
            ("او می\u200cخواهد", (3, 11)),
            ("我在𠮷野家", (2, 3)),
        ],
    )
    def test_where_names_mostly_end_words_end_anyway(self, text: str, marked: tuple[int, int]) -> None:
        """What is marked in a test row must not show in its words."""
        words = [word for word, _ in tagged(text, [[*marked, "X"]])]
        assert words == [text[start:end] for start, end in word_spans(text)]
        assert text[slice(*marked)] in words

    @pytest.mark.parametrize(
        ("text", "marked"),
        [("ฉันรักกรุงเทพมหานครมาก", (6, 19)), ("ខ្ញុំរស់នៅភ្នំពេញ", (10, 17)), ("ຂ້ອຍຢູ່ວຽງຈັນ", (8, 13))],
    )
    def test_scripts_without_spaces_do_not_show_what_is_marked(self, text: str, marked: tuple[int, int]) -> None:
        made = tagged(text, [[*marked, "LOC"]])
        assert [word for word, _ in made] == [text[start:end] for start, end in word_spans(text)]
        assert "".join(word for word, tag in made if tag != "O") == text[slice(*marked)]
        assert joined([word for word, _ in made]) == text

    def test_spans_end_words(self) -> None:
        assert tagged("well-known-ish", [[5, 10, "X"]]) == [
            ("well", "O"),
            ("-", "O"),
            ("known", "B-X"),
            ("-", "O"),
            ("ish", "O"),
        ]
        assert tagged("ABCD", [[0, 2, "X"], [2, 4, "X"]]) == [("AB", "B-X"), ("CD", "B-X")]

    def test_line_breaks_inside_the_text_count(self) -> None:
        assert tagged("a\r\nBonn\r\n", [[3, 7, "LOC"]]) == [("a", "O"), ("Bonn", "B-LOC")]

    def test_other_columns_and_the_users_names_stay(self) -> None:
        wanted = Wanted("token-classification", {"text": "body", "tokens": "words", "tags": "ner"})
        [row] = spans({"body": "Bonn", "text": 3, "spans": [[0, 4, " LOC "]], "group": "g"}, wanted=wanted)
        assert row == Row({"body": "Bonn", "text": 3, "group": "g", "words": ["Bonn"], "ner": ["B-LOC"]}, "a.jsonl", 1)
        marked = Wanted("token-classification", {"spans": "marked"})
        assert sentences(spans({"text": "Bonn", "marked": [[0, 4, "LOC"]]}, wanted=marked)) == [(["Bonn"], ["B-LOC"])]

    def test_a_text_without_entities(self) -> None:
        assert tagged("nur Text", []) == [("nur", "O"), ("Text", "O")]
        assert spans({"text": " \n", "entities": []}) == [LeftOut("no words", "a.jsonl", 1)]

    def test_spans_that_share_characters(self) -> None:
        text = "New York City Hall"
        marked = [[0, 8, "LOC"], [0, 13, "LOC"], [0, 13, "LOC"], [0, 13, "ORG"], [9, 18, "FAC"], [14, 18, "FAC"]]
        entries = spans({"text": "ja", "spans": []}, {"text": text, "spans": marked}, {"text": text, "spans": marked})
        assert sentences(entries)[1] == (["New", "York", "City", "Hall"], ["B-LOC", "I-LOC", "I-LOC", "B-FAC"])
        assert notes(entries) == [
            "a.jsonl: 2 duplicate spans dropped (first: a.jsonl:2); "
            "2 spans dropped for another label on the same text (first: a.jsonl:2); "
            "2 overlapping spans dropped, the longer kept (first: a.jsonl:2); "
            "2 nested spans dropped, the longer kept (first: a.jsonl:2)."
        ]

    def test_the_longest_is_kept_and_of_equal_ones_the_first(self) -> None:
        kept, dropped = without_overlaps([Span(4, 8, "B"), Span(2, 6, "A"), Span(6, 7, "C")])
        assert kept == [Span(2, 6, "A"), Span(6, 7, "C")]
        assert dropped == ["overlapping spans dropped, the longer kept"]

    def test_white_space_at_the_ends(self) -> None:
        entries = spans({"text": "in  Bonn\u3000 am", "spans": [[3, 10, "LOC"]]})
        assert sentences(entries) == [(["in", "Bonn", "am"], ["O", "B-LOC", "O"])]
        assert notes(entries) == ["a.jsonl: 1 spans trimmed of white space (first: a.jsonl:1)."]
        assert trimmed("  a ", Span(0, 4, "X")) == Span(2, 3, "X")

    def test_notes_are_by_file(self) -> None:
        rows = [Row({"text": "a b", "spans": [[0, 2, "X"]]}, name, 4) for name in ("a.jsonl", "b.jsonl", "a.jsonl")]
        assert notes(list(span_rows(rows, NER))) == [
            "a.jsonl: 2 spans trimmed of white space (first: a.jsonl:4).",
            "b.jsonl: 1 spans trimmed of white space (first: b.jsonl:4).",
        ]

    @pytest.mark.parametrize(
        ("marked", "what"),
        [
            ([0, 99, "X"], "not inside the text of 8 characters"),
            ([-1, 2, "X"], "not inside"),
            ([5, 2, "X"], "not inside"),
            ([2, 2, "X"], "is empty"),
            ([3, 4, "X"], "only white space"),
            ([0, 3], "is no span"),
            ("0-3", "no text with spans"),
            ([0, 3, 5], "label of the span 0 to 3 is 5"),
            ([0, 3, ""], "label"),
            ([0, 3, []], "label"),
            (["0", "3", "X"], "start and end are '0' and '3'"),
            ([True, 3, "X"], "start and end"),
            ([0.0, 3, "X"], "start and end"),
            ({"start": 0, "end": 3}, "label of the span 0 to 3 is None"),
            ({"begin": 0, "end": 3, "label": "X"}, "unknown key 'begin'"),
            ({"end": 3, "label": "X"}, "start and end are None"),
            ({"start": 0, "end": 3, "label": "X", "text": "abx"}, "says 'abx', but the text has 'abc'"),
            ({"start": 0, "end": 3, "label": "X", "text": 4}, "text of the span"),
        ],
    )
    def test_errors_name_the_line(self, marked: Any, what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            spans({"text": "fine", "spans": []}, {"text": "abc defg", "spans": [marked]})
        assert caught.value.where == "a.jsonl:2"
        assert caught.value.remedy

    @pytest.mark.parametrize(
        ("values", "what"),
        [
            ({"text": "a", "spans": [[0, 1, "X"]], "entities": [[0, 1, "Y"]]}, "both 'entities' and 'spans'"),
            ({"text": "a", "spans": [[0, 1, "X"]], "tags": ["news"]}, "column 'tags' as well"),
            ({"text": "a", "label": "pos"}, "no text with spans"),
            ({"text": None, "spans": []}, "no text with spans"),
        ],
    )
    def test_rows_that_cannot_be_read(self, values: dict[str, Any], what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            spans(values)
        assert caught.value.where == "a.jsonl:1"

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"text": "a", "entities": [[0, 1, "X"]]}, True),
            ({"text": "a", "spans": [{"start": 0}]}, True),
            ({"text": "a", "label": []}, True),
            ({"data": "a", "label": [[0, 1, "X"]]}, True),
            ({"data": {"text": "a"}, "annotations": []}, True),
            ({"text": "a", "tokens": [{"text": "a", "start": 0, "end": 1, "id": 0}]}, True),
            ({"text": "a", "answer": "reject"}, True),
            ({"text": "a", "answer": "Paris"}, False),
            ({"text": "a", "label": "pos"}, False),
            ({"text": "a", "labels": ["pos", "neg"]}, False),
            ({"text": "a", "entities": None}, False),
            ({"tokens": ["a"], "tags": ["O"], "text": "a", "entities": []}, False),
            ({"entities": []}, False),
        ],
    )
    def test_recognition(self, values: dict[str, Any], expected: bool) -> None:
        assert (shape_of(Row(values, "a", 1), NER) is not None) is expected

    def test_random_spans_come_back(self) -> None:
        random_ = random.Random(11)
        letters = "ab ÄßZ-.,'’  \n\u3000東京都の😀👩‍💻é0"
        trials = 0
        for _ in range(500):
            text = "".join(random_.choices(letters, k=random_.randint(1, 40)))
            cuts = sorted(random_.sample(range(len(text) + 1), k=min(len(text) + 1, 2 * random_.randint(0, 4))))
            marked = [
                trimmed(text, Span(start, end, random_.choice("XY")))
                for start, end in zip(cuts[::2], cuts[1::2], strict=False)
                if text[start:end].strip()
            ]
            words = cut_words(text, marked)
            assert "".join(text[a:b] for a, b in words) == "".join(text.split())
            tags = span_tags(words, marked, where="a:1")
            assert [Span(words[e.start][0], words[e.end - 1][1], e.type) for e in entities(tags)] == marked
            trials += len(marked)
        assert trials > 500


class TestDoccano:
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_lines(self, tmp_path: Path, newline: str) -> None:
        lines = [
            {"id": 1, "text": EMOJI, "label": [[3, 7, "PER"], [16, 22, "LOC"]], "Comments": []},
            {"id": 2, "data": CHINESE, "labels": [[2, 6, "ORG"]]},
            {
                "id": 3,
                "text": "Bonn",
                "entities": [{"id": 9, "label": "LOC", "start_offset": 0, "end_offset": 4}],
                "relations": [],
            },
            {"id": 4, "text": "nichts", "label": []},
        ]
        path = tmp_path / "doccano.jsonl"
        path.write_bytes(newline.join(json.dumps(line, ensure_ascii=False) for line in lines).encode("utf-8"))
        rows = list(read_json_lines(Source(path), NER))
        assert all(shape_of(row, NER) is not None for row in rows)
        made = list(span_rows(rows, NER))
        assert [tags for _, tags in sentences(made)] == [
            ["O", "O", "B-PER", "O", "O", "B-LOC"],
            ["O", "O", "B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "O", "O"],
            ["B-LOC"],
            ["O"],
        ]
        assert [(e.values["id"], e.line) for e in made if isinstance(e, Row)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
        assert notes(made) == []


def label_studio(text: str, *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    found = [{"type": "labels", "from_name": "label", "to_name": "text", "value": value} for value in results]
    return {"id": 1, "data": {"text": text, "source": "web"}, "annotations": [{"result": found, **annotation}]}


class TestLabelStudio:
    def test_json(self) -> None:
        bonn = {"start": 3, "end": 7, "text": "Bonn", "labels": ["LOC"]}
        done = label_studio("in Bonn", bonn)
        done["annotations"][0]["result"].append({"type": "choices", "value": {"choices": ["good"]}})
        cancelled = label_studio("in Bonn", bonn, was_cancelled=True)
        second = label_studio("in Bonn", was_cancelled=True)
        second["annotations"] += label_studio("", bonn)["annotations"]
        double = label_studio("in Bonn", {**bonn, "labels": ["ORG"]})
        double["annotations"] += label_studio("", bonn, ground_truth=True)["annotations"]
        empty = label_studio("in Bonn")
        entries = spans(done, cancelled, {**done, "annotations": []}, second, double, empty)
        assert entries[0] == Row(
            {"text": "in Bonn", "source": "web", "tokens": ["in", "Bonn"], "tags": ["O", "B-LOC"]}, "a.jsonl", 1
        )
        assert entries[1:3] == [LeftOut("not annotated", "a.jsonl", 2), LeftOut("not annotated", "a.jsonl", 3)]
        assert [tags for _, tags in sentences(entries)] == [["O", "B-LOC"]] * 3 + [["O", "O"]]
        assert notes(entries) == [
            "a.jsonl: 1 results that are no spans passed over (first: a.jsonl:1); "
            "1 further annotations of a text unused (first: a.jsonl:5)."
        ]
        reading = Reading()
        reading.add_(entries)
        assert reading.summary()[1] == "2 entries left out: not annotated (first: a.jsonl:2)."

    def test_json_min(self) -> None:
        task = {"id": 3, "text": "Anna", "label": [{"start": 0, "end": 4, "text": "Anna", "labels": ["PER", "VIP"]}]}
        entries = spans(task)
        assert sentences(entries) == [(["Anna"], ["B-PER"])]
        assert "1 spans dropped for another label on the same text" in notes(entries)[0]

    def test_offsets_that_may_be_in_utf16_units_are_told(self) -> None:
        text = "😀😀 Anna Schmidt lives in Paris with her two sons"
        told = "of them whole words in UTF-16 units, in which an emoji is two"
        (note,) = notes(spans({"text": text, "label": [[5, 17, "PER"], [27, 32, "LOC"]]}))
        assert note.startswith("a.jsonl: 2 spans that begin or end inside a word (first: a.jsonl:1); 2 " + told)
        assert notes(spans({"text": text, "label": [[3, 15, "PER"]]})) == []
        (note,) = notes(spans({"text": text, "label": [[4, 15, "PER"]]}))
        assert told not in note
        with pytest.raises(DataError, match="In UTF-16 units, where an emoji is two, it is"):
            spans({"text": "😀 in Paris", "label": [[6, 11, "LOC"]]})
        with pytest.raises(DataError, match="Write a span as"):
            spans({"text": "😀 in Paris", "label": [[6, 12, "LOC"]]})

    def test_offsets_in_utf16_units_are_seen_by_the_spans_texts(self) -> None:
        task = label_studio(EMOJI, {"start": 5, "end": 9, "text": "Anna", "labels": ["PER"]})
        entries = spans(task)
        assert sentences(entries)[0][1] == ["O", "O", "B-PER", "O", "O", "O"]
        assert notes(entries) == ["a.jsonl: 1 spans counted in UTF-16 units (first: a.jsonl:1)."]
        cut = label_studio(EMOJI, {"start": 1, "end": 9, "text": "Anna", "labels": ["PER"]})
        with pytest.raises(DataError, match="says 'Anna'"):
            spans(cut)

    def test_line_breaks_written_as_two_characters(self) -> None:
        value = {"start": 0, "end": 6, "text": "Bad\\nX", "labels": ["LOC"]}
        assert sentences(spans(label_studio("Bad\nXy", {**value, "end": 5}))) == [
            (["Bad", "X", "y"], ["B-LOC", "I-LOC", "O"])
        ]

    @pytest.mark.parametrize(
        ("task", "what"),
        [
            (label_studio("a", {"start": "/p[1]", "end": 1, "labels": ["X"]}), "start and end"),
            (label_studio("a", {"start": 0, "end": 1, "text": "a"}), "label of the span"),
            (label_studio("a", {"start": 0, "end": 1, "paragraphlabels": ["X"]}), "unknown key 'paragraphlabels'"),
            ({"data": {"a": "x", "b": "y"}, "annotations": [{"result": []}]}, "which entry of 'data'"),
            ({"data": {"a": 1}, "annotations": [{"result": []}]}, "texts: none"),
            ({"data": {"text": "x"}, "annotations": [3]}, "list of objects"),
            ({"data": {"text": "x"}, "annotations": [{}]}, "no list 'result'"),
        ],
    )
    def test_errors(self, task: dict[str, Any], what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            spans(task)
        assert caught.value.where == "a.jsonl:1"

    def test_the_text_may_have_any_name(self) -> None:
        task = {"data": {"review": "Bonn", "n": 1}, "annotations": [{"result": []}]}
        assert sentences(spans(task)) == [(["Bonn"], ["O"])]
        task = {"data": {"review": "Bonn", "title": "x y"}, "annotations": [{"result": []}]}
        assert sentences(spans(task, wanted=Wanted("token-classification", {"text": "review"}))) == [(["Bonn"], ["O"])]


def prodigy(text: str, words: list[tuple[int, int]], *marked: tuple[int, int, str], **others: Any) -> dict[str, Any]:
    tokens = [{"text": text[a:b], "start": a, "end": b, "id": n, "ws": True} for n, (a, b) in enumerate(words)]
    found = [{"start": a, "end": b, "label": c, "token_start": 0, "token_end": 0} for a, b, c in marked]
    return {"text": text, "_input_hash": 1, "tokens": tokens, "spans": found, "answer": "accept", **others}


class TestProdigy:
    def test_own_words_and_answers(self) -> None:
        row = prodigy("isn't Bonn\n\n😀", [(0, 2), (2, 5), (6, 10), (10, 12), (12, 13)], (6, 10, "LOC"))
        entries = spans(row, {**row, "answer": "reject"}, {**row, "answer": "ignore"})
        assert sentences(entries) == [(["is", "n't", "Bonn", "😀"], ["O", "O", "B-LOC", "O"])]
        assert entries[1:] == [LeftOut("rejected", "a.jsonl", 2), LeftOut("ignored", "a.jsonl", 3)]
        assert isinstance(entries[0], Row)
        assert entries[0].values["_input_hash"] == 1
        assert "spans" not in entries[0].values

    def test_without_words_or_spans(self) -> None:
        entries = spans(
            {"text": "in Bonn", "spans": [{"start": 3, "end": 7, "label": "LOC"}], "answer": "accept"},
            {"text": "in Bonn", "answer": "accept"},
            {"text": "in Bonn", "answer": "reject"},
            {**prodigy("in Bonn", [(0, 2), (3, 7)]), "spans": None},
        )
        assert [tags for _, tags in sentences(entries)] == [["O", "B-LOC"], ["O", "O"], ["O", "O"]]
        assert entries[2] == LeftOut("rejected", "a.jsonl", 3)

    def test_a_span_inside_a_word_cuts_it(self) -> None:
        entries = spans(prodigy("Bonner Platz", [(0, 6), (7, 12)], (0, 4, "LOC")))
        assert sentences(entries) == [(["Bonn", "er", "Platz"], ["B-LOC", "O", "O"])]
        assert notes(entries) == ["a.jsonl: 1 words cut at a span's end (first: a.jsonl:1)."]
        assert cut_at_edges([(0, 6)], [Span(1, 2, "X"), Span(2, 5, "X")]) == [(0, 1), (1, 2), (2, 5), (5, 6)]

    @pytest.mark.parametrize(
        ("row", "what"),
        [
            (prodigy("in Bonn", [(0, 2)], (3, 7, "LOC")), "no words make up the span 3 to 7"),
            (prodigy("in Bonn", [(0, 2), (4, 7)], (3, 7, "LOC")), "no words make up"),
            (prodigy("in Bonn", [(0, 2), (1, 7)]), "a token stands at 1 to 7"),
            (prodigy("in Bonn", [(0, 9)]), "a token stands at 0 to 9"),
            (prodigy("in Bonn", [(0, 2)], answer="maybe"), "'answer' is 'maybe'"),
            (prodigy("in Bonn", [(0, 2)], answer=["accept"]), "'answer' is"),
            (prodigy("in Bonn", [(0, 2)], spans="x"), "'spans' must be"),
            (prodigy("in Bonn", [], tokens=[{"text": "on", "start": 0, "end": 2}]), "the token 'on'"),
            (prodigy("in Bonn", [], tokens=[{"text": "in"}]), "stands at None"),
        ],
    )
    def test_errors(self, row: dict[str, Any], what: str) -> None:
        with pytest.raises(DataError, match=what) as caught:
            spans(row)
        assert caught.value.where == "a.jsonl:1"


class TestDocBin:
    def test_missing_spacy_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "spacy", None)
        monkeypatch.setitem(sys.modules, "spacy.tokens", None)
        with pytest.raises(DataError, match=r'pip install "domaintune\[spacy\]"'):
            list(read_docbin(Source(tmp_path / "a.spacy"), NER))

    def test_documents(self, tmp_path: Path) -> None:
        spacy = pytest.importorskip("spacy", reason="spaCy is optional: pip install 'domaintune[spacy]'")
        tokens = pytest.importorskip("spacy.tokens")
        make = spacy.blank("de")
        marked = make(f"{EMOJI}\n\nAnna Bea")
        # Neighbours of one type, and an entity that begins with white space.
        marked.ents = [tokens.Span(marked, a, b, c) for a, b, c in ((2, 3, "PER"), (5, 6, "LOC"), (6, 8, "PER"))] + [
            tokens.Span(marked, 8, 9, "PER")
        ]
        partial = make("x y z")
        partial.set_ents([tokens.Span(partial, 0, 1, "X")], default="missing")
        grouped = make("a b")
        grouped.spans["sc"] = [tokens.Span(grouped, 0, 1, "X")]
        empty = make("nur Text")
        empty.ents = []
        chinese = tokens.Doc(make.vocab, words=["北京", "大学"], spaces=[False, False])
        chinese.ents = [tokens.Span(chinese, 0, 2, "ORG")]
        path = tmp_path / "a.spacy"
        tokens.DocBin(docs=[marked, make("offen"), grouped, partial, empty, chinese]).to_disk(path)
        entries = list(read_docbin(Source(path), NER))
        assert sentences(entries) == [
            (
                ["😀", "👍", "Anna", "lebt", "in", "Zürich", "Anna", "Bea"],
                ["O", "O", "B-PER", "O", "O", "B-LOC", "B-PER", "B-PER"],
            ),
            (["x", "y", "z"], ["B-X", "O", "O"]),
            (["nur", "Text"], ["O", "O"]),
            (["北京", "大学"], ["B-ORG", "I-ORG"]),
        ]
        assert entries[1:3] == [
            LeftOut("not annotated", str(path), 2),
            LeftOut("entities in span groups alone", str(path), 3),
        ]
        assert notes(entries) == [f"{path}: 2 words without annotation count as O (first: {path}:4)."]

    def test_broken_and_empty_files(self, tmp_path: Path) -> None:
        tokens = pytest.importorskip("spacy.tokens", reason="spaCy is optional: pip install 'domaintune[spacy]'")
        path = tmp_path / "a.spacy"
        tokens.DocBin().to_disk(path)
        whole = path.read_bytes()
        with pytest.raises(DataError, match="no document"):
            list(read_docbin(Source(path), NER))
        for content in (b"", b"junk", whole[:-9]):
            path.write_bytes(content)
            with pytest.raises(DataError, match="is no DocBin"):
                list(read_docbin(Source(path), NER))


def test_columns_of_text_and_spans_are_the_users(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"body": "Ada left.", "marks": [[0, 3, "PER"]], "entities": "x"}) + "\n")
    given = {"task": {"name": "token-classification", "text_column": "body", "spans_column": "marks"}}
    wanted = wanted_of(Recipe.make({**given, "base": "minilm", "train": str(path), "output": "x"}))
    (row,) = read_part(str(path), wanted, targets=True).rows
    assert (row.values["tokens"], row.values["tags"]) == (["Ada", "left", "."], ["B-PER", "O", "O"])
    assert row.values["entities"] == "x"


def test_ends_inside_words_are_told(tmp_path: Path) -> None:
    """Inclusive ends, the commonest mistake, cut the last letter off; a part of a word may be meant all the same."""
    inclusive = [{"text": "Angela Merkel in Paris", "entities": [[0, 12, "PER"], [17, 21, "LOC"]]}] * 3
    (note,) = notes(spans(*inclusive))
    assert "6 spans that begin or end inside a word (first: a.jsonl:1)" in note
    assert "6 of them one character short of the word's end: are their ends inclusive? (first: a.jsonl:1)" in note
    inner = {"text": "die Deutschlandreise, Paris", "entities": [[4, 15, "LOC"], [17, 20, "X"], [22, 27, "LOC"]]}
    (note,) = notes(spans(inner))
    assert "2 spans that begin or end inside a word" in note
    assert "inclusive" not in note
    assert (
        notes(
            spans(
                {"text": "我在北京大学学习。", "entities": [[2, 6, "ORG"]]},
                {"text": "Paris.", "entities": [[0, 5, "LOC"]]},
            )
        )
        == []
    )


def test_a_second_column_of_tags_is_told(tmp_path: Path) -> None:
    made = conll(tmp_path, "Paris B-LOC O\nist O O\n\nBerlin B-LOC B-LOC\n")
    assert sentences(made) == [(["Paris", "ist"], ["O", "O"]), (["Berlin"], ["B-LOC"])]
    (note,) = notes(made)
    assert note.endswith("column 2 holds such tags too; the last column's were read.")
    assert notes(conll(tmp_path, "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n")) == [], "chunks are no second layer"
    assert notes(conll(tmp_path, "Paris NNP B-LOC\nist VBZ O\n")) == []


@pytest.mark.parametrize(
    ("content", "tagged"),
    [
        ("Bitte senden Sie mir eine E-Mail\n", False),
        ("die U-Bahn\nmein T-Shirt\n", False),  # two columns in each, tags in the last, and no O
        ("Vitamin B-12\nGruppe O\nIch fahre mit der U-Bahn\n", False),
        ("Ada\tB-PER\nslept\tO\n", True),
        ("# a comment of some words\n-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nslept VBD B-VP O\n", True),
    ],
)
def test_texts_that_end_in_words_like_tags_are_no_words_with_tags(tmp_path: Path, content: str, tagged: bool) -> None:
    (tmp_path / "a.txt").write_text(content)
    rows = read_part(str(tmp_path / "a.txt"), replace(NER, inputs=True)).rows
    assert ["text" not in row.values for row in rows] == [tagged] * (1 if tagged else content.count("\n"))


def test_words_alone_are_read_where_tags_are_to_be_predicted(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART-\n\n# from a page\nBarack\nObama \n\n#\nBerlin\n")
    rows = read_part(str(path), replace(NER, inputs=True)).rows
    assert [(dict(row.values), row.line) for row in rows] == [
        ({"tokens": ["Barack", "Obama"]}, 4),
        ({"tokens": ["#", "Berlin"]}, 7),
    ]
    with pytest.raises(DataError, match=r"a\.conll:4: 1 column, but two to four are allowed"):
        read_part(str(path), NER)
    path.write_text("Barack\nObama B-PER\n")
    with pytest.raises(DataError, match=r"a\.conll:2: 2 columns, but line 1 has 1"):
        read_part(str(path), replace(NER, inputs=True))


def inputs(*values: dict[str, Any]) -> list[Entry]:
    return list(input_rows([Row(v, "a.jsonl", n) for n, v in enumerate(values, start=1)], NER))


def test_no_column_of_the_users_gives_way_to_words() -> None:
    words = [{"text": "Ada", "start": 0, "end": 3}]
    for free in (None, "", [], words):
        assert inputs({"text": "Ada", "tokens": free}) == [Row({"text": "Ada", "tokens": ["Ada"]}, "a.jsonl", 1)]
    for own in ("5", 5, [5], {}):
        with pytest.raises(DataError, match=r"a\.jsonl:1: the row has a text and a column 'tokens' as well"):
            inputs({"text": "Ada", "tokens": own})
    with pytest.raises(DataError, match="a column 'tokens' as well"):
        inputs({"data": {"text": "Ada", "tokens": 5}, "annotations": []})


def test_a_row_without_words_is_left_out() -> None:
    for blank in (None, "", []):
        row, left = inputs({"tokens": ["Ada"]}, {"tokens": blank, "id": 2})
        assert (row, left) == (Row({"tokens": ["Ada"]}, "a.jsonl", 1), LeftOut("no words", "a.jsonl", 2))


def test_a_text_that_is_none_is_named() -> None:
    for row in ({"text": 5}, {"text": 5, "tokens": []}):
        with pytest.raises(DataError, match=r"a\.jsonl:1: 'text' must be text, got int"):
            inputs(row)
    both = Row({"text": 5, "tokens": ["Ada"]}, "a.jsonl", 1)
    assert inputs(dict(both.values)) == [both]


def test_prodigys_pattern_numbers_are_passed_over() -> None:
    (row,) = spans(
        {"text": "In Paris", "spans": [{"start": 3, "end": 8, "label": "LOC", "pattern": -75793}], "answer": "accept"}
    )
    assert isinstance(row, Row)
    assert row.values["tags"] == ["O", "B-LOC"]
