"""Translations from catalogues, memories and aligned files: what is taken, what is left out and counted, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from domaintune.data.formats import read_part
from domaintune.data.rows import Reading, Wanted
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
    assert made.notes == ["1 inline codes were dropped from segments."]
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
    bomb = '<!DOCTYPE t [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n<t>&b;</t>'
    with pytest.raises(DataError, match="declares XML entities"):
        read(tmp_path / name, bomb)
    outside = '<!DOCTYPE t [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<t>&a;</t>'
    with pytest.raises(DataError, match="declares XML entities"):
        read(tmp_path / name, outside)
    with pytest.raises(DataError, match="not valid XML") as caught:
        read(tmp_path / name, "<tmx>\n<body>\n</tmx>")
    assert caught.value.where.endswith(f"{name}:3")


def test_aligned_files(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\r\n\r\ntwo\r\n")
    (tmp_path / "a.de").write_bytes(b"eins\n\nzwei\n")
    made = read_part(f"{tmp_path}/a.en::{tmp_path}/a.de", MT)
    assert pairs(made) == [("one", "eins", 1), ("two", "zwei", 3)]
    assert reasons(made) == [("both sides blank", 2)]
    (tmp_path / "b.de").write_text("eins\n")
    with pytest.raises(DataError, match="has 1 lines"):
        read_part(f"{tmp_path}/a.en::{tmp_path}/b.de", MT)
    with pytest.raises(DataError, match="no such file"):
        read_part(f"{tmp_path}/a.en::{tmp_path}/c.de", MT)
