"""Translations from catalogues, memories and aligned files: what is taken, what is left out and counted, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from domaintune.data.bitexts import read_aligned, read_tmx
from domaintune.data.formats import read_part
from domaintune.data.languages import distinct_languages, same_language
from domaintune.data.rows import LeftOut, Reading, Wanted
from domaintune.data.sources import Source
from domaintune.errors import DataError

MT = Wanted("translation")


def read(path: Path, content: str | bytes, wanted: Wanted = MT) -> Reading:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_part(str(path), wanted, targets=True)


def pairs(reading: Reading) -> list[tuple[str, str, int]]:
    return [(row.values["source"], row.values["target"], row.line) for row in reading.rows]


def reasons(reading: Reading) -> list[tuple[str, int]]:
    return [(entry.reason, entry.line) for entry in reading.left_out]


PO = r"""msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#, c-format
msgid "Open %s"
msgstr "%s öffnen"

#, fuzzy
msgid "Close"
msgstr "Schliesen"

msgctxt "menu"
msgid "A long "
"\"line\"\n"
msgstr "Eine lange "
"„Zeile“\n"

msgid "Left"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

#~ msgid "Gone"
#~ msgstr "Weg"
"""


def test_po_leaves_out_what_is_not_translated(tmp_path: Path) -> None:
    made = read(tmp_path / "de.po", PO)
    assert pairs(made) == [("Open %s", "%s öffnen", 4), ('A long "line"\n', "Eine lange „Zeile“\n", 12)]
    assert made.rows[1].values["context"] == "menu"
    assert [reason for reason, _ in reasons(made)] == ["fuzzy", "untranslated", "plural", "obsolete"]
    with pytest.raises(DataError, match="PO file"):
        read(tmp_path / "bad.po", 'msgid "a"\nmsgstr "b\nnonsense\n')


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="de"><seg>Hallo &amp; <ph x="1">{0}</ph>Welt</seg></tuv><tuv xml:lang="en-us"><seg>Hello <hi>big</hi> world</seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>Only</seg></tuv></tu>
</body></tmx>
"""


def test_tmx_takes_the_headers_language_as_source(tmp_path: Path) -> None:
    made = read(tmp_path / "a.tmx", TMX)
    assert pairs(made) == [("Hello big world", "Hallo & Welt", 4)]
    assert reasons(made) == [("a side is missing", 5)]
    assert made.notes == [
        f"{tmp_path}/a.tmx is read as translated from en-us to de.",
        f"1 inline codes were dropped from the texts of {tmp_path}/a.tmx.",
    ]
    wide = read(tmp_path / "b.tmx", TMX.replace("UTF-8", "UTF-16").encode("utf-16"))
    assert pairs(wide) == pairs(made)


def test_tmx_of_three_languages_wants_two_named(tmp_path: Path) -> None:
    three = TMX.replace("<tu><tuv xml:lang", '<tu><tuv xml:lang="zh"><seg>你好</seg></tuv><tuv xml:lang', 1)
    with pytest.raises(DataError, match="3 languages") as caught:
        read(tmp_path / "a.tmx", three)
    assert "task.source_language" in caught.value.remedy
    named = Wanted("translation", {"source_language": "en", "target_language": "zh"})
    assert pairs(read(tmp_path / "a.tmx", three, named)) == [("Hello big world", "你好", 4)]


XLIFF = """<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"><file source-language="en" target-language="de"><body>
<trans-unit id="1"><source>Hello <x id="1" equiv-text="{name}"/></source><target state="final">Hallo <x id="1" equiv-text="{name}"/></target></trans-unit>
<trans-unit id="2"><source>Bye</source></trans-unit>
<trans-unit id="3"><source>Bye</source><target state="new">Bye</target></trans-unit>
<trans-unit id="4" approved="no"><source>Bye</source><target>Tschüs</target></trans-unit>
<group restype="x-gettext-plurals"><trans-unit id="5"><source>file</source><target>Datei</target></trans-unit></group>
<trans-unit id="6"><source>Yes</source><target>Ja</target></trans-unit>
</body></file></xliff>
"""
XLIFF2 = """<xliff version="2.0" srcLang="en" trgLang="zh" xmlns="urn:oasis:names:tc:xliff:document:2.0"><file id="f">
<unit id="1"><segment state="translated"><source>Hello <pc id="1">you</pc></source><target>你好</target></segment></unit>
<unit id="2"><segment state="initial"><source>Bye</source><target>Bye</target></segment></unit>
</file></xliff>
"""


def test_both_xliffs(tmp_path: Path) -> None:
    made = read(tmp_path / "a.xlf", XLIFF)
    assert pairs(made) == [("Hello {name}", "Hallo {name}", 2), ("Yes", "Ja", 7)]
    assert reasons(made) == [("untranslated", 3), ("untranslated", 4), ("fuzzy", 5), ("plural", 6)]
    made = read(tmp_path / "b.xliff", XLIFF2)
    assert pairs(made) == [("Hello you", "你好", 2)]
    assert reasons(made) == [("untranslated", 3)]
    with pytest.raises(DataError, match="no translation units"):
        read(tmp_path / "c.xlf", "<xliff/>")


@pytest.mark.parametrize("name", ["a.tmx", "a.xlf"])
def test_entity_bombs_and_broken_xml_are_refused(tmp_path: Path, name: str) -> None:
    root = {"a.tmx": "tmx", "a.xlf": "xliff"}[name]
    bomb = '<!DOCTYPE t [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n<t>&b;</t>'
    with pytest.raises(DataError, match=r"a.[a-z]*:1: declares the XML entity 'a'"):
        read(tmp_path / name, bomb)
    outside = '<!DOCTYPE t [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<t>&a;</t>'
    with pytest.raises(DataError, match="declares the XML entity 'a'"):
        read(tmp_path / name, outside)
    parameter = f"<!DOCTYPE t [\n<!ENTITY % p '<!ENTITY a \"b\">'> %p;]>\n<{root}/>"
    with pytest.raises(DataError, match=r"a.[a-z]*:2: declares the XML entity 'p'"):
        read(tmp_path / name, parameter)
    undefined = f'<!DOCTYPE t SYSTEM "t.dtd">\n<{root}>&nbsp;</{root}>'
    with pytest.raises(DataError, match=r"a.[a-z]*:2: the XML entity 'nbsp' is not defined"):
        read(tmp_path / name, undefined)
    with pytest.raises(DataError, match=r"a.[a-z]*:1: elements are nested more than 200 deep"):
        read(tmp_path / name, f"<{root}>" + "<g>" * 100_000)
    with pytest.raises(DataError, match=rf"a.[a-z]*:1: expected <{root}>, got <html>"):
        read(tmp_path / name, "<html/>")
    with pytest.raises(DataError, match=r"a.[a-z]*:1: declares the unknown encoding 'klingon'"):
        read(tmp_path / name, f'<?xml version="1.0" encoding="klingon"?><{root}/>')
    with pytest.raises(DataError, match="not valid XML") as caught:
        read(tmp_path / name, f"<{root}>\n<body>\n</{root}>")
    assert caught.value.where.endswith(f"{name}:3")


def test_aligned_files(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\r\n\r\ntwo\r\n")
    (tmp_path / "a.de").write_bytes(b"eins\n\nzwei\n")
    made = read_part(f"{tmp_path}/a.en::{tmp_path}/a.de", MT)
    assert pairs(made) == [("one", "eins", 1), ("two", "zwei", 3)]
    assert reasons(made) == [("both sides blank", 2)]
    (tmp_path / "b.de").write_text("eins\n")
    with pytest.raises(DataError, match=r"a.en: has 3 lines, but '.*b.de' has 1\."):
        read_part(f"{tmp_path}/a.en::{tmp_path}/b.de", MT)
    with pytest.raises(DataError, match="no such file"):
        read_part(f"{tmp_path}/a.en::{tmp_path}/c.de", MT)


def test_aligned_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    left, right = "a\rb\u2028c\n\u3000\n服务\n", "x\n\ny"
    (tmp_path / "a").write_bytes(left.encode("utf-16"))
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf" + right.encode())
    made = list(read_aligned(Source(tmp_path / "a"), Source(tmp_path / "b"), Wanted("translation", {"target": "zh"})))
    assert [entry.values for entry in (made[0], made[2]) if not isinstance(entry, LeftOut)] == [
        {"source": "a\rb\u2028c", "zh": "x"},
        {"source": "服务", "zh": "y"},
    ]
    assert made[1] == LeftOut("both sides blank", str(tmp_path / "a"), 2)
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        list(read_aligned(Source(tmp_path / "c"), Source(tmp_path / "c"), MT))


def test_aligned_files_longer_than_a_block_stay_aligned(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"".join(b"line %d\r\n" % n for n in range(30_000)))
    (tmp_path / "b").write_bytes(b"".join(b"Zeile %d\n" % n for n in range(30_000)))
    made = list(read_aligned(Source(tmp_path / "a"), Source(tmp_path / "b"), MT))
    assert len(made) == 30_000
    assert all(
        not isinstance(entry, LeftOut) and entry.values == {"source": f"line {n}", "target": f"Zeile {n}"}
        for n, entry in enumerate(made)
    )


PO_HEADER = 'msgid ""\nmsgstr ""\n"Language: de\\n"\n"Content-Type: text/plain; charset={}\\n"\n\n'


@pytest.mark.parametrize(
    ("charset", "target"), [("ISO-8859-1", "Größe"), ("GB2312", "大小"), ("UTF-8", "Größe 大小"), ("CHARSET", "大小")]
)
def test_po_in_the_encoding_of_its_header(tmp_path: Path, charset: str, target: str) -> None:
    content = PO_HEADER.format(charset) + f'msgid "Size"\nmsgstr "{target}"\n'
    encoding = "UTF-8" if charset == "CHARSET" else charset
    for ends in ("\n", "\r\n"):
        made = read(tmp_path / "a.po", content.replace("\n", ends).encode(encoding))
        assert pairs(made) == [("Size", target, 6)]


def test_po_with_a_mark_escapes_and_odd_breaks(tmp_path: Path) -> None:
    content = (
        PO_HEADER.format("UTF-8")
        + r"""# A comment
#: a.c:3
msgid "tab\tquote\" slash\\ C:\\new\\"
msgstr ""
"Erste\n"
"Zweite DritteVierte"

msgid "Last"
msgstr "Letzte"
#:"""
    )
    content = content.replace("\\u2028", "\u2028").replace("\\u0085", "\u0085")
    made = read(tmp_path / "a.po", b"\xef\xbb\xbf" + content.encode())
    assert pairs(made) == [
        ('tab\tquote" slash\\ C:\\new\\', "Erste\nZweite\u2028Dritte\u0085Vierte", 6),
        ("Last", "Letzte", 13),
    ]


def test_po_of_two_catalogues_has_a_second_header(tmp_path: Path) -> None:
    made = read(tmp_path / "a.po", 2 * (PO_HEADER.format("UTF-8") + 'msgid "a"\nmsgstr "b"\n\n'))
    assert pairs(made) == [("a", "b", 6), ("a", "b", 14)]
    assert reasons(made) == [("a source is missing", 9)]


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ('msgid "a"\nmsgstr "b\n', 2),
        ('msgid "a"\nmsgstr "b" c\n', 2),
        ('msgid "a"\nmsgstr "b"c"\n', 2),
        ("msgid a\n", 1),
        ('msgid "a"\nmsgstr "b"\nnonsense\n', 3),
        ('msgstr "b"\nmsgid "a"\n', 1),
    ],
)
def test_broken_po_says_where(tmp_path: Path, broken: str, line: int) -> None:
    with pytest.raises(DataError, match=f"a.po:{line}: not a PO file"):
        read(tmp_path / "a.po", broken)


def unit(*sides: tuple[str, str]) -> str:
    return "<tu>" + "".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in sides) + "</tu>\n"


def tmx(*units: str, original: str = "*all*", encoding: str = "UTF-8") -> bytes:
    head = f'<?xml version="1.0" encoding="{encoding}"?>\n<tmx version="1.4"><header srclang="{original}"/><body>\n'
    return (head + "".join(units) + "</body></tmx>").encode(encoding)


def test_tmx_languages_by_prefix_and_case(tmp_path: Path) -> None:
    made = read(
        tmp_path / "a.tmx",
        tmx(unit(("EN-us", "a"), ("de", "b")), unit(("de-AT", "d"), ("en", "c")), unit(("en", "e"), ("de", " "))),
    )
    assert pairs(made) == [("a", "b", 3), ("c", "d", 4)]
    assert reasons(made) == [("a side is missing", 5)]
    assert made.notes == [f"{tmp_path}/a.tmx is read as translated from en to de."]
    swapped = read(tmp_path / "b.tmx", tmx(unit(("en", "a"), ("de", "b")), original="DE"))
    assert pairs(swapped) == [("b", "a", 3)]


def test_tmx_of_several_chineses(tmp_path: Path) -> None:
    content = tmx(
        unit(("en", "size"), ("zh-CN", "尺寸简"), ("zh-TW", "尺寸繁"), ("zh-TW", "大小繁")), encoding="GB18030"
    )
    (tmp_path / "a.tmx").write_bytes(content)

    def target(source: str, target: str) -> list[str]:
        reading = Reading()
        wanted = Wanted("translation", {"source_language": source, "target_language": target})
        reading.add_(read_tmx(Source(tmp_path / "a.tmx"), wanted))
        return [row.values["target"] for row in reading.rows] + reading.notes

    further = f"1 further variants of a language were not read from {tmp_path}/a.tmx."
    assert target("en", "zh_CN") == ["尺寸简"]
    assert target("en_XX", "zh-tw") == ["尺寸繁", further]
    assert target("eng_Latn", "zho_Hant") == ["尺寸繁", further]
    assert target("zh-TW", "zh-CN") == ["尺寸简", further]
    with pytest.raises(DataError, match=r"holds nothing in 'fr' \(languages: en, zh-CN, zh-TW\)"):
        target("en", "fr")
    with pytest.raises(DataError, match=r"holds 3 languages, not two \(languages: en, zh-CN, zh-TW\)"):
        read_part(str(tmp_path / "a.tmx"), MT)


def test_tmx_of_two_named_by_one(tmp_path: Path) -> None:
    made = read(
        tmp_path / "a.tmx", tmx(unit(("en", "a"), ("de", "b"))), Wanted("translation", {"source_language": "de"})
    )
    assert pairs(made) == [("b", "a", 3)]


def test_tmx_inline_codes(tmp_path: Path) -> None:
    rich = (
        "<bpt i='1'>{\\b <sub>note</sub></bpt>Fett<ept i='1'>}</ept> <hi>und <it pos='begin'>x</it>neu</hi><ph>%s</ph>"
    )
    made = read(tmp_path / "a.tmx", tmx(unit(("en", "Bold &lt;b&gt; <!-- no -->new"), ("de", rich))))
    assert pairs(made) == [("Bold <b> new", "Fett und neu", 3)]
    assert made.notes[-1] == f"4 inline codes were dropped from the texts of {tmp_path}/a.tmx."


def xliff(*units: str, more: str = "") -> str:
    head = f'<xliff version="1.2" xmlns="urn:x"><file source-language="en" target-language="de" {more}><body>\n'
    return head + "\n".join(units) + "\n</body></file></xliff>"


def trans_unit(target: str, more: str = "") -> str:
    return f"<trans-unit {more}><source>Save</source>{target}</trans-unit>"


@pytest.mark.parametrize(
    ("target", "more", "reason"),
    [
        ("", "", "untranslated"),
        ("<target/>", "", "untranslated"),
        ("<target> \n</target>", 'approved="no"', "untranslated"),
        ('<target state="needs-review-translation">Sichern</target>', "", "untranslated"),
        ('<target state="new">Sichern</target>', "", "untranslated"),
        ("<target>Sichern</target>", 'translate="no"', "untranslated"),
        ("<target>Sichern</target>", 'approved="no"', "fuzzy"),
        ("<alt-trans><target>Sichern</target></alt-trans>", "", "untranslated"),
    ],
)
def test_xliff_reasons(tmp_path: Path, target: str, more: str, reason: str) -> None:
    made = read(tmp_path / "a.xlf", xliff(trans_unit("<target>Sichern</target>"), trans_unit(target, more)))
    assert pairs(made) == [("Save", "Sichern", 2)]
    assert reasons(made) == [(reason, 3)]


def test_xliff_inline_codes_and_foreign_elements(tmp_path: Path) -> None:
    rich = '<target>Öffne <g id="1">die <mrk mtype="x">Datei</mrk></g><ph id="2">%s</ph> <ph id="3" equiv-text="{n}">%d</ph></target>'
    foreign = '<o:target xmlns:o="urn:other">Nein</o:target>'
    made = read(tmp_path / "a.xlf", xliff(trans_unit(foreign + rich)))
    assert pairs(made) == [("Save", "Öffne die Datei {n}", 2)]
    assert made.notes == [f"1 inline codes were dropped from the texts of {tmp_path}/a.xlf."]


def test_xliff_2_segments_and_what_is_not_to_be_translated(tmp_path: Path) -> None:
    content = """<xliff version="2.0" srcLang="en" trgLang="de" xmlns="urn:oasis:names:tc:xliff:document:2.0"><file id="f">
<unit id="1"><originalData><data id="d">%s</data></originalData>
<segment><source>One <ph id="1" equiv="{x}" dataRef="d"/></source><target>Eins <ph id="1" equiv="{x}"/></target></segment>
<ignorable><source> </source></ignorable>
<segment state="final"><source>Two</source><target>Zwei</target></segment></unit>
<group id="g" translate="no"><unit id="2"><segment><source>A</source><target>A</target></segment></unit>
<unit id="3" translate="yes"><segment><source>B</source><target>C</target></segment></unit></group>
</file></xliff>"""
    made = read(tmp_path / "a.xliff", content.encode("utf-16"))
    assert pairs(made) == [("One {x}", "Eins {x}", 3), ("Two", "Zwei", 5), ("B", "C", 7)]
    assert reasons(made) == [("untranslated", 6)]


@pytest.mark.parametrize(
    ("source", "target", "turned"),
    [
        ("en", "de", False),
        ("de_DE", "eng_Latn", True),
        (None, "en", True),
        ("de", None, True),
        (None, None, False),
        ("fra_Latn", "spa_Latn", None),
        ("en", "fr", None),
        ("fr", None, None),
    ],
)
def test_xliff_is_read_in_the_direction_that_is_named(
    tmp_path: Path, source: str | None, target: str | None, turned: bool | None
) -> None:
    named = {"source_language": source, "target_language": target}
    wanted = Wanted("translation", {key: code for key, code in named.items() if code is not None})
    first = xliff(trans_unit("<target>Sichern</target>"))
    second = first.replace("source-language", "srcLang").replace("target-language", "trgLang")
    for name, content in (("a.xlf", first), ("b.xliff", second)):
        if turned is None:
            with pytest.raises(
                DataError, match=rf"{name}: holds translations from en to de, not from {source or 'any'}"
            ):
                read(tmp_path / name, content, wanted)
            continue
        made = read(tmp_path / name, content, wanted)
        assert [pair[:2] for pair in pairs(made)] == [("Sichern", "Save") if turned else ("Save", "Sichern")]
        assert any("the other way round" in note for note in made.notes) is turned


def test_what_a_file_does_not_say_of_its_languages_is_no_fault(tmp_path: Path) -> None:
    """A source language alone, as XLIFF 1.2 allows, and a target language alone, as PO has it."""
    half = xliff(trans_unit("<target>Sichern</target>")).replace('target-language="de"', "")
    catalogue = 'msgid ""\nmsgstr ""\n"Language: de\\n"\n\nmsgid "Save"\nmsgstr "Sichern"\n'
    for name, content, languages, turned in (
        ("a.xlf", half, {"source_language": "en", "target_language": "fr"}, False),
        ("b.xlf", half, {"source_language": "de", "target_language": "en"}, True),
        ("a.po", catalogue, {"target_language": "de"}, False),
        ("b.po", catalogue, {"source_language": "de"}, True),
        ("c.po", catalogue.replace("Language", "X-Other"), {"source_language": "fr"}, False),
    ):
        made = read(tmp_path / name, content, Wanted("translation", languages))
        assert [pair[:2] for pair in pairs(made)] == [("Sichern", "Save") if turned else ("Save", "Sichern")], name
    regions = xliff(trans_unit("<target>Sichern</target>")).replace('"en"', '"pt"').replace('"de"', '"pt-BR"')
    named = Wanted("translation", {"source_language": "pt-BR", "target_language": "pt"})
    assert pairs(read(tmp_path / "c.xlf", regions, named)) == [("Sichern", "Save", 2)]


def test_xliff_of_several_languages_is_refused(tmp_path: Path) -> None:
    one = xliff(trans_unit("<target>Sichern</target>"))
    start = one.index("<file")
    two = one.replace("</xliff>", "\n" + one[start:].replace('"de"', '"fr"'))
    with pytest.raises(DataError, match=r"a.xlf:5: holds translations from en to de and from en to fr"):
        read(tmp_path / "a.xlf", two)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("en", "EN-us", True),
        ("en_XX", "en", True),
        ("en_XX", "EN-US", True),
        ("ja_XX", "ja-JP", True),
        ("en_XX", "fr_XX", False),
        ("als_Latn", "sq", True),
        ("khk_Cyrl", "mn-MN", True),
        ("nob_Latn", "no", True),
        ("nno_Latn", "no", False),
        ("iw", "heb_Hebr", True),
        ("in", "ind_Latn", True),
        ("fil", "tgl_Latn", True),
        ("en-US", "en-GB", False),
        ("zh-CN", "zh-TW", False),
        ("zho_Hans", "zh-CN", True),
        ("zho_Hant", "zh-CN", False),
        ("zh", "zh-TW", True),
        ("deu_Latn", "de-AT", True),
        ("de", "den", False),
        ("fil", "fi", False),
    ],
)
def test_language_codes(one: str, other: str, same: bool) -> None:
    assert same_language(one, other) is same_language(other, one) is same


def test_distinct_languages_are_the_general_ones_in_order() -> None:
    assert distinct_languages(["de", "en-US", "en", "de-AT"]) == ["de", "en"]
    assert distinct_languages(["zh-TW", "en", "zh-CN"]) == ["zh-TW", "en", "zh-CN"]


def test_xml_of_many_blocks_keeps_its_lines(tmp_path: Path) -> None:
    many = [unit(("en", f"room {n} &amp; more"), ("zh", f"房间 {n}")) for n in range(5_000)]
    made = read(tmp_path / "a.tmx", tmx(*many))
    assert pairs(made) == [(f"room {n} & more", f"房间 {n}", n + 3) for n in range(5_000)]


def test_columns_of_translations_by_language(tmp_path: Path) -> None:
    """As data sets of the Hub have them."""
    lines = [
        '{"id": 1, "translation": {"en": "dog", "de": "Hund"}}',
        '{"id": 2, "translation": {"en": "cat", "de": ""}}',
    ]
    made = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert pairs(made) == [("dog", "Hund", 1)]
    assert reasons(made) == [("a side is missing", 2)]
    assert made.notes == [f"{tmp_path}/a.jsonl is read as translated from en to de."]
    three = '{"translation": {"en": "dog", "de": "Hund", "fr": "chien"}}'
    with pytest.raises(DataError, match="3 languages") as caught:
        read(tmp_path / "b.jsonl", three)
    assert caught.value.where == f"{tmp_path}/b.jsonl:1"
    named = Wanted("translation", {"source_language": "fr", "target_language": "en"})
    assert pairs(read(tmp_path / "b.jsonl", three, named)) == [("chien", "dog", 1)]
    with pytest.raises(DataError, match="no column 'translation'") as caught:
        read(tmp_path / "c.jsonl", f'{lines[0]}\n{{"translation": "x"}}')
    assert caught.value.where == f"{tmp_path}/c.jsonl:2"
