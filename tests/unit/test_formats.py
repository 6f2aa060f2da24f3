"""Reading files: every value as it stands, every fault with its line; and the shared data sets with their known row counts."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domaintune.data.formats import ANY, read_part, read_rows
from domaintune.data.pictures import examine_picture, open_picture
from domaintune.data.rows import Wanted
from domaintune.errors import DataError
from domaintune.inputs import data_checksum

SHARED = Path(os.environ.get("DOMAINTUNE_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def picture(path: Path, size: tuple[int, int] = (12, 8), mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


# --- tables


def test_csv_keeps_every_value_as_text_and_counts_the_line_where_a_row_starts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufefftext,label\r\nNone,1\r\n"two\nlines, ""quoted""",null\n\n last ,\u2028x\n')
    rows = read_rows(path)
    assert [dict(row.values) for row in rows] == [
        {"text": "None", "label": "1"},
        {"text": 'two\nlines, "quoted"', "label": "null"},
        {"text": " last ", "label": "\u2028x"},
    ]
    assert [row.line for row in rows] == [2, 3, 6]
    assert rows[1].where == f"{path}:3"


def test_rows_between_two_quotation_marks_of_a_tsv_are_not_one(tmp_path: Path) -> None:
    rows = 'text\tlabel\nfine\tpos\n"I loved it.\tpos\nThe room was nice.\tpos\nWe will come again."\tneg\nbad\tneg\n'
    with pytest.raises(DataError, match=r"a\.tsv:3: a cell that begins with a double quote ends 2 lines later"):
        read_rows(write(tmp_path / "a.tsv", rows))
    quoted = 'text\tlabel\n"two\nlines"\tpos\n"a\ttab"\tneg\n"""I loved it."\tpos\n'
    assert [row.values["text"] for row in read_rows(write(tmp_path / "b.tsv", quoted))] == [
        "two\nlines",
        "a\ttab",
        '"I loved it.',
    ]
    rows = 'text\tlabel\n"one\tcell\nof ""all"" this"\t"pos"\r\nfine\tneg\n'
    assert [row.values for row in read_rows(write(tmp_path / "c.tsv", rows))] == [
        {"text": 'one\tcell\nof "all" this', "label": "pos"},
        {"text": "fine", "label": "neg"},
    ]


def test_tsv(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.tsv", "text\tlabel\na, b\tc\n"))[0].values == {"text": "a, b", "label": "c"}


def test_json_lines_keep_types_and_unicode_line_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"tokens": ["a\u2028b"], "n": 1}\n\n{"tokens": []}\r\n')
    rows = read_rows(path)
    assert [(dict(row.values), row.line) for row in rows] == [
        ({"tokens": ["a\u2028b"], "n": 1}, 1),
        ({"tokens": []}, 3),
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('Text;Kategorie\n"Teuer; aber gut";a\nNie, nie wieder;b\n', 2),
        ('"Text";"Kategorie"\r\n"Teuer; aber gut";"a"\r\n"Nie, nie wieder";"b"\r\n', 2),
        ('sep=;\nText;Kategorie\n"Teuer; aber gut";a\nNie, nie wieder;b\n', 3),
        ('\ufeff\nText;Kategorie\n"Teuer; aber gut";a\nNie, nie wieder;b\n', 3),
        ('Text,Kategorie\nTeuer; aber gut,a\n"Nie, nie wieder",b\n', 2),
    ],
)
def test_tables_of_excel_in_german(tmp_path: Path, content: str, line: int) -> None:
    made = read_rows(write(tmp_path / "a.csv", content))
    assert [dict(row.values) for row in made] == [
        {"Text": "Teuer; aber gut", "Kategorie": "a"},
        {"Text": "Nie, nie wieder", "Kategorie": "b"},
    ]
    assert [row.line for row in made] == [line, line + 1]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("text,label (0=neg;1=neu;2=pos)\na,0\n", {"text": "a", "label (0=neg;1=neu;2=pos)": "0"}),
        ('"te;x\nt",label\na,b\n', {"te;x\nt": "a", "label": "b"}),
        ("a;b;c\n", None),
        ('Text;Kategorie\n"zwei\nZeilen; und mehr";a\n', {"Text": "zwei\nZeilen; und mehr", "Kategorie": "a"}),
    ],
)
def test_semicolons_in_tables_of_commas(tmp_path: Path, content: str, row: dict[str, str] | None) -> None:
    path = write(tmp_path / "a.csv", content)
    if row is None:
        with pytest.raises(DataError, match=r"no rows|semicolons"):
            read_rows(path)
    else:
        assert [dict(made.values) for made in read_rows(path)] == [row]


def test_a_header_of_semicolons_with_a_comma_in_it(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path / "a.csv", "Betreff;Text, lang;Kategorie\nx;y;z\n"))
    assert dict(row.values) == {"Betreff": "x", "Text, lang": "y", "Kategorie": "z"}


def test_plain_text_has_one_row_a_line_that_is_not_blank(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "a.txt", "\ufeffone\r\n\r\n  \ntwo\u0085 three"))
    assert [(row.values["text"], row.line) for row in rows] == [("one", 1), ("two\u0085 three", 4)]


@pytest.mark.parametrize(
    ("name", "content", "line", "says"),
    [
        ("a.csv", "", None, "empty"),
        ("a.csv", "text,label\n", None, "no rows"),
        ("a.csv", "text,label\na,b\nc,d,e\n", 3, "3 cells"),
        ("a.csv", 'text,label\n"x\ny",b\nc\n', 4, "1 cells"),
        ("a.csv", "text,text\na,b\n", 1, "twice"),
        ("a.tsv", "text;label\na;b\n", 1, "semicolons"),
        ("a.csv", 'text,label\na,b\n"c,d\n', 3, "not a valid table"),
        ("a.csv", 'text,label\n"a"b,c\n', 2, "not a valid table"),
        ("a.csv", "text,label\n" + "x" * 140_000 + ",b\n", 2, "field limit"),
        ("a.csv", b"text,label\na,b\nc\0,d\n", 3, "NUL"),
        ("a.csv", b"text,label\na,b\ncaf\xe9,d\n", 3, "UTF-8"),
        ("a.jsonl", "\n\n", None, "empty"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', 2, "not valid JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', 2, "expected an object"),
        ("a.jsonl", '{"a": NaN}\n', 1, "NaN"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", 1, "not valid JSON"),
        ("a.jsonl", '{"a": ' + "[" * 200_000 + "\n", 1, "nested too deeply"),
        ("a.jsonl", '{"a": "\\ud83d"}\n', 1, "surrogate"),
        ("a.txt", "  \n\n", None, "empty"),
        ("a.docx", "x", None, "unknown format"),
        ("a.parquet", "x", None, "no readable Parquet"),
        ("a.json", "[1, 2]", 1, "expected an object"),
        ("a.json", '[{"a": 1}\n{"a": 2}]', 2, "comma"),
        ("a.json", '[{"a": 1}]\n[{"a": 2}]', 1, "follows the end"),
        ("a.json", "[]", None, "empty"),
        ("a.json", '{"a": 1}', None, "not a COCO file"),
        ("a.json", "[" * 200_000, 1, "nested too deeply"),
    ],
)
def test_faults_of_files_name_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, says: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(path)
    assert caught.value.where == (path if line is None else f"{path}:{line}")
    assert caught.value.remedy


def test_encodings_are_recognised_by_mark_and_by_chinese_text(tmp_path: Path) -> None:
    table = "text,label\n这家酒店的服务非常好，房间也很干净。,正面\nGrüße,x\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030"):
        rows = read_rows(write(tmp_path / f"{encoding}.csv", table.encode(encoding)))
        assert [row.values["label"] for row in rows] == ["正面", "x"], encoding
    german = write(tmp_path / "german.csv", "text,label\nfür Köln,b\nschön,d\n".encode("latin-1"))
    with pytest.raises(DataError, match="--encoding cp1252") as caught:
        read_rows(german)
    assert caught.value.where == f"{german}:2"
    assert read_rows(german, Wanted("", encoding="latin-1"))[0].values["text"] == "für Köln"


@pytest.mark.parametrize(
    ("encoding", "text", "label"),
    [
        ("cp949", "정말 좋은 영화입니다, 다시 보고 싶어요", "긍정"),
        ("cp949", "배송이 너무 느리고 상자가 찢어졌습니다", "부정"),
        ("shift_jis", "この部屋はとても静かで、朝食も良かったです", "肯定"),
        ("shift_jis", "新幹線の切符売場で長時間待たされた", "否定"),
        ("euc_jp", "日経平均が大幅に続落、円高で", "経済"),
        ("euc_jp", "東京都庁舎展望室見学無料開放", "良"),
        ("euc_jp", "急性心筋梗塞", "循環器"),
        ("big5", "這家飯店的服務很好,房間也很乾淨", "正面"),
    ],
)
def test_no_other_script_is_taken_for_chinese(tmp_path: Path, encoding: str, text: str, label: str) -> None:
    content = f"text\tlabel\n{text}\t{label}\n" * 5
    path = write(tmp_path / "a.tsv", content.encode(encoding))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_rows(path)
    assert read_rows(path, Wanted("", encoding=encoding))[0].values == {"text": text, "label": label}


@pytest.mark.parametrize(
    "text", ["很好", "服务太差了", "屏幕清晰，电池耐用，性价比高", "一般般吧", "中国北京，上海。", "有一定的好处"]
)
def test_short_chinese_text_is_recognised(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.tsv", f"text\tlabel\n{text}\t正面\n".encode("gb18030"))
    assert read_rows(path)[0].values["text"] == text


def test_what_could_be_korean_as_well_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n房间很干净，非常好\t好评\n".encode("gb18030"))
    with pytest.raises(DataError, match=r"--encoding cp1252 .*gb18030"):
        read_rows(path)


def test_a_file_that_is_utf_8_is_read_as_such_beside_files_of_another_encoding(tmp_path: Path) -> None:
    asked = Wanted("", encoding="cp1252")
    for encoding in ("utf-8", "cp1252"):
        path = write(tmp_path / f"{encoding}.csv", "text,label\nFür schöne Gäste – „ja“ 5 €,é".encode(encoding))
        assert read_rows(path, asked)[0].values == {"text": "Für schöne Gäste – „ja“ 5 €", "label": "é"}
    short = write(tmp_path / "short.txt", "Ã¼ber".encode())
    assert read_rows(short, Wanted("", encoding="gb18030"))[0].values["text"] != "Ã¼ber", (
        "two bytes a character: as asked"
    )
    end = write(tmp_path / "end.txt", "caf\xc3".encode("latin-1"))
    assert read_rows(end, asked)[0].values["text"] == "cafÃ", "half a character at the end is no UTF-8"


def test_semicolons_alone_in_the_header_part_the_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text;label\ngut, aber teuer;neg\n")
    assert read_rows(path)[0].values == {"text": "gut, aber teuer", "label": "neg"}
    uneven = write(tmp_path / "b.csv", "text;label\ngut; aber teuer;neg\n")
    with pytest.raises(DataError, match=r"b.csv:2: 3 cells, but the header has 2"):
        read_rows(uneven)


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    path = write(tmp_path / "yelp.json", '{"text": "a", "stars": 1}\n\n{"text": "b", "stars": 5}\n')
    wanted = Wanted("text-classification", {"label": "stars"})
    assert [(row.line, row.values["stars"]) for row in read_rows(path, wanted)] == [(1, 1), (3, 5)]
    with pytest.raises(DataError, match=r"bad.json:2: not valid JSON"):
        read_rows(write(tmp_path / "bad.json", '{"text": "a"}\n{"text": b}\n'), wanted)
    whole = '{"rows": [{"text": "a"}],\n "more": {"b": 1}}'
    assert read_rows(write(tmp_path / "one.json", whole), wanted)[0].values == {"text": "a"}
    rows = [{"text": "a", "stars": 1}, {"text": "b", "stars": 2}]
    for key in ("data", "rows", "examples", "train", "items"):
        assert [row.values for row in read_rows(write(tmp_path / "in.json", json.dumps({key: rows})), wanted)] == rows


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("text-classification", {"text": "a"}),
        ("token-classification", {"tokens": ["a", "b"]}),
        ("token-classification", {"data": "a b", "tokens": ["a", "b"], "label": [[0, 1, "PER"]]}),
        ("generation", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_one_object_on_one_line_is_a_row_under_the_name_of_json(
    tmp_path: Path, task: str, values: dict[str, object]
) -> None:
    for end in ("", "\n", "\r\n\n"):
        path = write(tmp_path / "one.json", "\ufeff\n" + json.dumps(values) + end)
        (row,) = read_rows(path, Wanted(task, inputs=True))
        assert (row.values, row.line) == (values, 2)


def test_compressed_files_globs_and_lists_are_read_as_one_part(tmp_path: Path) -> None:
    plain = "text,label\na,b\n"
    write(tmp_path / "1.csv.gz", gzip.compress(plain.encode()))
    write(tmp_path / "2.csv.xz", lzma.compress(plain.encode()))
    with zipfile.ZipFile(tmp_path / "3.zip", "w") as archive:
        archive.writestr("inner/a.csv", plain)
        archive.writestr("__MACOSX/a.csv", "x")
        archive.writestr("notes.md", "x")
    write(tmp_path / "4.tsv", plain.replace(",", "\t"))
    write(tmp_path / "5.json", json.dumps([{"text": "a", "label": "b"}], indent=1))
    rows = read_part([str(tmp_path / "[1-3]*"), str(tmp_path / "4.tsv"), str(tmp_path / "5.json")], ANY).rows
    assert [dict(row.values) for row in rows] == [{"text": "a", "label": "b"}] * 5
    assert rows[2].where == f"{tmp_path}/3.zip/inner/a.csv:2"
    assert rows[4].line == 2
    for name, content in {
        "bad.csv.gz": b"x",
        "cut.csv.gz": gzip.compress(plain.encode())[:20],
        "bad.zip": b"x",
    }.items():
        with pytest.raises(DataError):
            read_rows(write(tmp_path / name, content))
    with pytest.raises(DataError, match="fits no file"):
        read_rows(str(tmp_path / "*.nothing"))


def test_parquet_and_saved_datasets_keep_values_and_name_classes(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    info = {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}
    table = pyarrow.table({"text": ["None", "1"], "label": [1, 0]})
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
    pyarrow.parquet.write_table(named, tmp_path / "a.parquet")
    assert [dict(r.values) for r in read_rows(str(tmp_path / "a.parquet"))] == [
        {"text": "None", "label": "good"},
        {"text": "1", "label": "bad"},
    ]
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    with pyarrow.OSFile(str(folder / "data.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    rows = read_part(str(tmp_path / "saved"), Wanted("text-classification")).rows
    assert [row.values["label"] for row in rows] == ["good", "bad"]
    assert [row.values["label"] for row in read_rows(str(folder / "data.arrow"))] == ["good", "bad"]
    (folder / "dataset_info.json").rename(tmp_path / "info.json")
    assert [row.values["label"] for row in read_rows(str(folder / "data.arrow"))] == [1, 0]
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pyarrow.ipc.new_file(sink, named.schema) as writer:
        writer.write_table(named)
    assert [row.values["label"] for row in read_rows(str(tmp_path / "a.arrow"))] == ["good", "bad"]
    (tmp_path / "info.json").rename(folder / "dataset_info.json")
    before = [data_checksum(str(part)) for part in (folder, tmp_path / "saved")]
    (folder / "cache-1f00.arrow").write_bytes(b"what the library keeps of a computation")
    assert [data_checksum(str(part)) for part in (folder, tmp_path / "saved")] == before
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], "x": 1}))
    assert all(
        data_checksum(str(part)) != known for part, known in zip((folder, tmp_path / "saved"), before, strict=True)
    )


def test_the_class_number_of_no_class_is_no_label(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    feature = {"names": ["bad", "good"], "_type": "ClassLabel"}
    info = {"features": {"label": feature, "tags": {"feature": feature, "_type": "Sequence"}}}
    table = pyarrow.table({"text": ["a", "b"], "label": [-1, 1], "tags": [[1, -1], [7]]})
    named = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
    pyarrow.parquet.write_table(named, tmp_path / "a.parquet")
    rows = read_rows(str(tmp_path / "a.parquet"))
    assert [row.values["label"] for row in rows] == [None, "good"]
    assert [row.values["tags"] for row in rows] == [["good", None], [7]]


SYSTEM_FILES = (".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini", ".cache/a.jpg", "__MACOSX/a.jpg")


def test_what_readers_pass_over_is_no_change_of_the_data(tmp_path: Path) -> None:
    for name in ("pictures/cat/a.png", "pictures/dog/b.png"):
        picture(tmp_path / name)
    picture(tmp_path / "yolo/images/a.png")
    boxes = {
        "yolo/labels/a.txt": "0 0.5 0.5 0.2 0.2\n",
        "yolo/data.yaml": "train: images\nval: images\nnames: [cat]\n",
        "voc/Annotations/a.xml": "<annotation><filename>a.png</filename><size><width>12</width><height>8</height></size></annotation>",
    }
    for name, content in boxes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    picture(tmp_path / "voc/JPEGImages/a.png")
    tasks = {"pictures": "image-classification", "yolo": "object-detection", "voc": "object-detection"}
    for name, task in tasks.items():
        folder = tmp_path / name
        rows, before = [r.values for r in read_part(str(folder), Wanted(task)).rows], data_checksum(str(folder))
        for place in [folder, *(entry for entry in sorted(folder.rglob("*")) if entry.is_dir())]:
            for left in (*SYSTEM_FILES, "._a.xml", "._a.png"):
                (place / left).parent.mkdir(exist_ok=True)
                (place / left).write_bytes(b"of the system")
        assert [r.values for r in read_part(str(folder), Wanted(task)).rows] == rows, name
        assert data_checksum(str(folder)) == before, name
        (folder / "more.txt").write_text("x")
        assert data_checksum(str(folder)) != before


MEASURED = """
import sys, tracemalloc
from pathlib import Path
from domaintune.data.formats import TABLES, TAGGED, read_part
from domaintune.data.rows import Wanted
from domaintune.data.sources import Source

path, wanted = Path(sys.argv[1]), Wanted(sys.argv[2])
tracemalloc.start()
count = sum(1 for _ in {**TAGGED, **TABLES}[path.suffix](Source(path), wanted))
streamed = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
rows = read_part(str(path), wanted, targets=True).rows
print(count, len(rows), streamed, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.conll"])
def test_large_files_are_streamed_and_their_rows_small(tmp_path: Path, name: str) -> None:
    """Short rows, the worst case: what is held stays under ten times the text, and nothing of rows that are let go."""
    texts = [f"word{n % 997} and word{n % 773} make the text {n}" for n in range(12_000)]
    made = {
        "a.csv": "id,text,label\n" + "".join(f"{n},{text},l{n % 5}\n" for n, text in enumerate(texts)),
        "a.jsonl": "".join(f'{{"id": {n}, "text": "{text}", "label": "l{n % 5}"}}\n' for n, text in enumerate(texts)),
        "a.conll": "".join("".join(f"{word} O\n" for word in (text * 3).split()) + "\n" for text in texts[:3000]),
    }[name]
    path = Path(write(tmp_path / name, made))
    task = "token-classification" if name == "a.conll" else "text-classification"
    # In a process of its own: what other tests leave behind, such as Python's table of interned words, counts too.
    ran = subprocess.run([sys.executable, "-c", MEASURED, path, task], capture_output=True, text=True, check=True)
    count, rows, streamed, held = map(int, ran.stdout.split())
    assert rows == count == made.count("\n\n" if name == "a.conll" else "\n") - (name == "a.csv")
    assert held < 10 * len(made)
    if name != "a.conll":  # whose peak is the interpreter's table of interned words, made anew
        assert streamed < held / 5


def test_columns_are_proposed_never_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "review,sentiment,id\na,b,1\n")
    with pytest.raises(DataError, match="--text-column review --label-column sentiment"):
        read_part(path, Wanted("text-classification"), targets=True)
    wanted = Wanted("text-classification", {"text": "review", "label": "sentiment"})
    assert read_part(path, wanted, targets=True).rows[0].values["review"] == "a"
    spaced = write(tmp_path / "spaced.csv", "Text,my $label\na,b\n")
    with pytest.raises(DataError, match=r"--text-column Text --label-column 'my \$label'\?"):
        read_part(spaced, Wanted("text-classification"), targets=True)
    bare = write(tmp_path / "b.csv", "sentence,word,tag\n1,Ada,B-PER\n")
    with pytest.raises(DataError, match=r"a whole sentence.*One word a row goes into a \.conll file"):
        read_part(bare, Wanted("token-classification"), targets=True)
    for row, options in (
        ({"sentence": "Ada left", "entities": [[0, 3, "PER"]]}, "--text-column sentence --spans-column entities"),
        (
            {"text": "Ada left", "marks": [{"start": 0, "end": 3, "label": "PER"}]},
            "--text-column text --spans-column marks",
        ),
        ({"words": ["Ada"], "ner": ["PER"], "text": "Ada"}, "--tokens-column words --tags-column ner"),
    ):
        shaped = write(tmp_path / "c.jsonl", json.dumps(row) + "\n")
        with pytest.raises(DataError, match=f"Did you mean {options}"):
            read_part(shaped, Wanted("token-classification"), targets=True)


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a\nb\n")
    with pytest.raises(DataError, match=r"Did you mean '.*train\.csv'"):
        read_rows(str(tmp_path / "trian.csv"))
    with pytest.raises(DataError, match=r"holds train\.csv"):
        read_rows(str(tmp_path / "nowhere" / "deep" / "quite-other.jsonl"))
    with pytest.raises(DataError):
        read_rows(str(tmp_path / ("x" * 300)))
    with pytest.raises(DataError):
        read_rows("a\0b.csv")


# --- folders of pictures


def test_class_folders_are_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog/b.png", "dog/a.JPG", "cat/z.png"):
        picture(tmp_path / name)
    write(tmp_path / "dog" / ".DS_Store", "x")
    write(tmp_path / "Thumbs.db", "x")
    rows = read_rows(str(tmp_path))
    assert [(Path(row.values["image"]).name, row.values["label"], row.line) for row in rows] == [
        ("z.png", "cat", 1),
        ("a.JPG", "dog", 1),
        ("b.png", "dog", 2),
    ]
    assert rows[2].where == f"{tmp_path / 'dog'}:2"


def test_pictures_without_class_folders_have_no_label(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert list(read_rows(str(tmp_path))[0].values) == ["image"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([], "empty"),
        (["cat/a.png", "dog/"], "class folder is empty"),
        (["cat/a.png", "b.png"], "stands beside class folders"),
        (["cat/a.png", "cat/notes.txt"], "no picture by its name"),
        (["cat/a.png", "cat/deeper/b.png"], "is a folder"),
    ],
)
def test_faults_of_class_folders(tmp_path: Path, made: list[str], says: str) -> None:
    for name in made:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        elif name.endswith(".txt"):
            write(tmp_path / name, "x")
        else:
            picture(tmp_path / name)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(str(tmp_path))
    assert caught.value.remedy


# --- COCO


def coco(**changes: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 8}, {"id": "x", "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": "x", "category_id": 90, "bbox": [1, 2.5, 3, 4], "iscrowd": 1},
            {"id": 2, "image_id": "x", "category_id": 3, "bbox": [0, 0, 0, 4]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        **changes,
    }


@pytest.mark.parametrize("folder", ["train", ".", "images"])
def test_coco_finds_pictures_in_three_places_and_leaves_flat_boxes_away(tmp_path: Path, folder: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / folder / name)
    reading = read_part(write(tmp_path / "train.json", json.dumps(coco())), Wanted("object-detection"))
    rows = reading.rows
    assert reading.notes == [f"1 boxes without an area left away (first: {tmp_path / 'train.json'}:2)."]
    place = tmp_path / folder
    assert dict(rows[0].values) == {
        "image": str(place / "a.png"), "width": 12, "height": 8, "boxes": [], "labels": [], "crowd": []
    }  # fmt: skip
    assert dict(rows[1].values) == {
        "image": str(place / "b.png"), "width": 12, "height": 8,
        "boxes": [[1, 2.5, 3, 4]], "labels": ["dog"], "crowd": [True],
    }  # fmt: skip
    assert [row.line for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1, "file_name": "gone.png"}]}, "is not there"),
        ({"images": [{"id": 1, "file_name": "n" * 300}]}, "is not there"),
        ({"images": [{"id": 1, "file_name": "a\0.png"}]}, "is not there"),
        ({"images": [{"id": 1}]}, "no 'file_name'"),
        ({"images": [{"id": [1], "file_name": "a.png"}]}, "no usable 'id'"),
        ({"images": [5]}, "no usable 'id'"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "two images"),
        ({"annotations": [{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "unknown image"),
        ({"annotations": [{"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}]}, "unknown category"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}]}, "no usable box"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, "1"]}]}, "no usable box"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 10**400]}]}, "no usable box"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "no usable box"),
        ({"annotations": [None]}, "no usable 'image_id'"),
        ({"annotations": {}}, "not a COCO file"),
        ({"categories": []}, "no categories"),
        ({"categories": [{"id": 3}]}, "has no name"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "two categories"),
    ],
)
def test_faults_of_coco_files(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    path = write(tmp_path / "train.json", json.dumps(coco(**changes)))
    with pytest.raises(DataError, match=says) as caught:
        read_rows(path)
    assert caught.value.where.startswith(path)
    assert caught.value.remedy


def test_infinite_numbers_in_coco_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    text = json.dumps(coco()).replace("2.5", "1e999")
    with pytest.raises(DataError, match="no usable box"):
        read_rows(write(tmp_path / "train.json", text))


# --- pictures


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_orientation_is_applied_and_broken_exif_passed_over(tmp_path: Path) -> None:
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).convert("RGB")
    for value, expected in ((0, upright), (1, upright), (6, upright.rotate(-90, expand=True)), (99, upright)):
        exif = Image.Exif()
        exif[0x0112] = value
        path = tmp_path / f"{value}.png"
        upright.save(path, exif=exif)
        np.testing.assert_array_equal(np.asarray(open_picture(str(path))), np.asarray(expected))
        facts = examine_picture(str(path))
        assert (facts.width, facts.height) == expected.size
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "turned.tif", exif=exif)  # Pillow turns these itself
    turned = upright.rotate(-90, expand=True)
    np.testing.assert_array_equal(np.asarray(open_picture(str(tmp_path / "turned.tif"))), np.asarray(turned))
    assert examine_picture(str(tmp_path / "turned.tif")).width == turned.width
    path = tmp_path / "broken.jpg"
    upright.save(path, exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff")
    assert open_picture(str(path)).size == (3, 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_pixel_format_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "LA") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.array([[0, 257 * 7, 65535]], dtype=np.uint16)).save(path)
        values = np.asarray(open_picture(str(path)))
        np.testing.assert_array_equal(values[0, :, 0], [0, 7, 255])
    else:
        picture(path, mode=mode)
    opened = open_picture(str(path))
    assert opened.mode == "RGB"
    facts = examine_picture(str(path))
    assert (facts.width, facts.height) == opened.size


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_picture(str(tmp_path / "a.png")))[0], [[255] * 3, [10, 20, 30]])


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.jpg", size=(64, 64)).read_bytes()
    png = picture(tmp_path / "whole.png", size=(64, 64)).read_bytes()
    bomb = bytearray(png)  # the header claims 400 million pixels
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    floating = tmp_path / "floating.tif"
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(floating)
    cases = {
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.png": b"",
        "text.jpg": b"this is no picture",
        "bomb.png": bytes(bomb),
        "floating.tif": floating.read_bytes(),
    }
    for name, content in cases.items():
        path = write(tmp_path / name, content)
        for function in (open_picture, examine_picture):
            with pytest.raises(DataError, match=name) as caught:
                function(path, where="folder:3")
            assert caught.value.where == "folder:3", name
    with pytest.raises(DataError, match=r"gone\.png"):
        open_picture(str(tmp_path / "gone.png"))


# --- the shared data sets


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")


@needs_shared
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("sentiment/mr_movie", (8530, 1066, 1066)),
        ("sentiment/product_reviews", (2988, 373, 373)),
        ("sentiment/pros_cons", (20000, 2000, 2000)),
        ("sentiment/reddit_goemotions", (20000, 2000, 2000)),
        ("textcls/banking77", (10003, None, 3080)),
        ("textcls/clinc150", (15100, 3100, 5500)),
        ("ner/crossner_politics", (200, 541, 651)),
        ("ner/ncbi_disease", (5432, 923, 940)),
        ("ner/sec_finance", (1164, None, 303)),
        ("ner/uner_en_ewt", (2001, None, 2077)),
        ("ner/uner_zh_gsdsimp", (3997, 500, 500)),
        ("ner/wikigold", (1188, 169, 339)),
        ("ner/wnut17", (3394, 1009, 1287)),
        ("imgcls/bccd_cells", (1223, 270, 290)),
        ("detection/bccd", (205, 87, 72)),
        ("detection/fruit", (240, None, 60)),
        ("detection/raccoon", (150, 10, 40)),
    ],
)
def test_shared_sets_have_their_known_number_of_rows(name: str, counts: tuple[int | None, ...]) -> None:
    suffix = {"sentiment": ".csv", "textcls": ".csv", "ner": ".jsonl", "imgcls": "", "detection": ".json"}
    for part, count in zip(("train", "dev", "test"), counts, strict=True):
        if count is not None:
            rows = read_rows(str(SHARED / name / (part + suffix[name.split("/")[0]])))
            assert len(rows) == count, part


@needs_shared
def test_shared_pictures_open_and_the_broken_one_does_not() -> None:
    rows = read_rows(str(SHARED / "detection/fruit/test.json"))
    boxes = sum(len(row.values["boxes"]) for row in rows)
    assert boxes == 117
    for row in rows:
        assert open_picture(row.values["image"]).size == (row.values["width"], row.values["height"]), row.values[
            "image"
        ]
    with pytest.raises(DataError, match="truncated"):
        examine_picture(str(SHARED / "broken/00090.jpg"))
