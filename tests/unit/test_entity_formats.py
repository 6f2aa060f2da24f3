"""Entities as people have them: columns in every tag scheme, and text with marked stretches."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from domaintune.data.entity_spans import Span, span_rows
from domaintune.data.formats import read_part
from domaintune.data.rows import Reading, Row, Wanted
from domaintune.data.tag_schemes import recognised_scheme, to_bio
from domaintune.data.words import word_spans
from domaintune.errors import DataError

NER = Wanted("token-classification")
BIO = ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-LOC", "I-LOC"]
SCHEMES = {
    "BIO": BIO,
    "IOB1": ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "B-LOC", "I-LOC"],
    "BIOES": ["B-PER", "E-PER", "S-PER", "O", "S-LOC", "B-LOC", "E-LOC"],
    "BILOU": ["B-PER", "L-PER", "U-PER", "O", "U-LOC", "B-LOC", "L-LOC"],
}


def read(path: Path, content: str | bytes) -> Reading:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_part(str(path), NER)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_recognised_and_becomes_bio(scheme: Any) -> None:
    tags = SCHEMES[scheme]
    assert recognised_scheme([tags, ["O"]]) == scheme
    assert to_bio(tags, scheme) == BIO


def test_io_joins_neighbours_and_broken_bio_stays() -> None:
    assert recognised_scheme([["I-PER", "I-PER", "O", "I-LOC"]]) == "IO"
    assert to_bio(["I-PER", "I-PER", "O", "I-LOC"], "IO") == ["B-PER", "I-PER", "O", "B-LOC"]
    assert to_bio(["PER", "PER", "LOC", "O"], "IO") == ["B-PER", "I-PER", "B-LOC", "O"]
    assert recognised_scheme([["B-PER", "O", "I-PER"]]) == "BIO"


def test_conversions_keep_the_entities_that_seqeval_reads() -> None:
    random.seed(3)
    for _ in range(200):
        tags, before = [], ""
        for _ in range(random.randrange(1, 12)):
            kind = random.choice(["", "PER", "LOC"])
            inside = kind != "" and kind == before and random.random() < 0.6
            tags.append("O" if not kind else f"{'I' if inside else 'B'}-{kind}")
            before = kind
        ends = [
            tag != "O" and (place + 1 == len(tags) or not tags[place + 1].startswith("I-"))
            for place, tag in enumerate(tags)
        ]
        bioes = [
            tag if tag == "O" or not end else {"B": "S", "I": "E"}[tag[0]] + tag[1:]
            for tag, end in zip(tags, ends, strict=True)
        ]
        assert get_entities(to_bio(bioes, "BIOES")) == get_entities(tags)


def test_columns_with_comments_documents_and_windows_line_ends(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- O\r\n\r\n# sent_id = 1\r\nAngela NNP B-PER\r\nMerkel NNP I-PER\r\n\r\n柏林 NR B-LOC\r\n"
    made = read(tmp_path / "a.conll", content)
    assert [(row.values["tokens"], row.values["tags"], row.line) for row in made.rows] == [
        (["Angela", "Merkel"], ["B-PER", "I-PER"], 4),
        (["柏林"], ["B-LOC"], 7),
    ]
    made = read(tmp_path / "b.tsv", "New York\tI-LOC\nsleeps\tO\n")
    assert made.rows[0].values == {"tokens": ["New York", "sleeps"], "tags": ["B-LOC", "O"]}
    assert "IO; 1 of them" in made.summary()[0]
    with pytest.raises(DataError, match="3 columns") as caught:
        read(tmp_path / "c.conll", "a O\nb x O\n")
    assert caught.value.where.endswith("c.conll:2")
    with pytest.raises(DataError, match="empty"):
        read(tmp_path / "d.conll", "\n\n")


def test_tables_of_tokens_and_tags_are_converted_too(tmp_path: Path) -> None:
    made = read(tmp_path / "a.jsonl", json.dumps({"tokens": ["a", "b"], "tags": ["S-X", "O"]}))
    assert made.rows[0].values["tags"] == ["B-X", "O"]


TEXT = "Frau Dr. Müller wohnt in 北京市 😀 heute."
SPANS = [[5, 15, "PER"], [25, 28, "LOC"]]
SHAPES: dict[str, Any] = {
    "plain": {"text": TEXT, "entities": [{"start": s, "end": e, "label": k} for s, e, k in SPANS]},
    "doccano": {"text": TEXT, "label": SPANS},
    "doccano relations": {
        "text": TEXT,
        "entities": [{"id": 1, "start_offset": s, "end_offset": e, "label": k} for s, e, k in SPANS],
    },
    "label studio": {
        "data": {"text": TEXT},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [{"type": "labels", "value": {"start": s, "end": e, "labels": [k]}} for s, e, k in SPANS]},
        ],
    },
    "label studio, small": {"text": TEXT, "label": [{"start": s, "end": e, "labels": [k]} for s, e, k in SPANS]},
    "prodigy": {
        "text": TEXT,
        "tokens": [{"text": TEXT[s:e], "start": s, "end": e} for s, e in word_spans(TEXT)],
        "spans": [{"start": s, "end": e, "label": k} for s, e, k in SPANS],
        "answer": "accept",
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_marked_text_of_every_tool_gives_the_same_row(tmp_path: Path, shape: str) -> None:
    made = read(tmp_path / "a.json", json.dumps([SHAPES[shape]]))
    (row,) = made.rows
    assert row.values["tokens"] == ["Frau", "Dr", ".", "Müller", "wohnt", "in", "北", "京", "市", "😀", "heute", "."]
    assert row.values["tags"] == ["O", "B-PER", "I-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "I-LOC", "O", "O", "O"]
    assert made.summary() == []


def test_what_annotators_left_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        SHAPES["prodigy"],
        {**SHAPES["prodigy"], "answer": "reject"},
        {"data": {"text": TEXT}, "annotations": []},
        {"text": " ", "spans": []},
    ]
    made = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(made.rows) == 1
    assert [entry.reason for entry in made.left_out] == ["answered 'reject'", "not annotated", "no words"]


def test_nested_overlapping_and_repeated_spans_are_named_and_counted() -> None:
    spans = [[0, 8, "ORG"], [4, 8, "LOC"], [0, 8, "ORG"], [7, 12, "PER"], [13, 18, "PER"]]
    entries = list(span_rows([Row({"text": "Bank York Mill Smith", "spans": spans}, "a", 3)], NER))
    assert isinstance(entries[0], Row)
    notes = [entry.message for entry in entries[1:]]  # type: ignore[union-attr]
    assert len(notes) == 3
    assert all("a:3" in note for note in notes)
    assert {note.split()[1] for note in notes} == {"nested", "repeated", "overlapping"}


@pytest.mark.parametrize(
    "span",
    [
        [3, 3, "X"],
        [0, 99, "X"],
        [-1, 2, "X"],
        ["0", 2, "X"],
        [0, 2, ""],
        [4, 5, "X"],
        {"start": 1},
        "x",
        [True, 2, "X"],
    ],
)
def test_impossible_spans_name_file_and_line(span: Any) -> None:
    with pytest.raises(DataError) as caught:
        list(span_rows([Row({"text": "abcd efgh", "spans": [span]}, "a.jsonl", 7)], NER))
    assert caught.value.where == "a.jsonl:7"
    assert caught.value.remedy


def test_random_spans_come_back() -> None:
    generator = random.Random(5)
    for _ in range(300):
        text = "".join(generator.choice("ab c,é北 ") for _ in range(generator.randrange(1, 40)))
        places = sorted(generator.sample(range(len(text) + 1), min(len(text) + 1, 2 * generator.randrange(4))))
        spans = [Span(a, b, generator.choice("XY")) for a, b in zip(places[::2], places[1::2], strict=False)]
        spans = [s for s in spans if text[s.start : s.end].strip() == text[s.start : s.end] != ""]
        given = [[s.start, s.end, s.kind] for s in spans]
        entries = list(span_rows([Row({"text": text, "spans": given}, "a", 1)], NER))
        if not isinstance(entries[0], Row):
            assert not text.strip()
            continue
        words = word_spans(text, [edge for s in spans for edge in (s.start, s.end)])
        found = get_entities(entries[0].values["tags"])
        assert [(words[a][0], words[b][1], kind) for kind, a, b in found] == [(s.start, s.end, s.kind) for s in spans]
