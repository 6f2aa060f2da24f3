"""Translations as people have them: two aligned files, gettext PO, TMX, XLIFF. XML is read as a stream and never expands entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from domaintune.data.rows import Entry, LeftOut, Note, Row, Wanted
from domaintune.data.sources import Source
from domaintune.errors import DataError

UNFINISHED = ("new", "needs-translation", "needs-l10n", "initial")
FUZZY = ("needs-review-translation", "needs-adaptation", "needs-review-adaptation", "needs-review-l10n")
NATIVE_CODE = ("ph", "bpt", "ept", "it", "ut", "x", "bx", "ex", "g", "pc", "sc", "ec", "mrk", "sub")
KEPT_TEXT = ("g", "pc", "mrk")
IN_PLURAL = "in-a-plural-group"
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def read_aligned(source: Source, target: Source, wanted: Wanted) -> Iterator[Entry]:
    """Line n of one file is the translation of line n of the other; lines that are blank on both sides are left out.

    Raises:
        DataError: files of unequal length, or nothing in them.
    """
    lines = 0
    with source.text(wanted.encoding) as ours, target.text(wanted.encoding) as theirs:
        for lines, (left, right) in enumerate(zip_longest(ours, theirs), start=1):
            if left is None or right is None:
                shorter, longer = (source, target) if left is None else (target, source)
                raise DataError(
                    f"has {lines - 1} lines, but '{longer}' has more.",
                    where=str(shorter),
                    remedy="Aligned files have one line for each line of the other.",
                )
            pair = left.rstrip("\r\n"), right.rstrip("\r\n")
            if any(side.strip() for side in pair):
                yield _row(pair[0], pair[1], source, lines, wanted)
            else:
                yield LeftOut("both sides blank", str(source), lines)
    if not lines:
        raise DataError("the file is empty.", where=str(source), remedy="Give at least one line.")


def read_po(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Entries of a gettext catalogue; fuzzy, untranslated, plural and obsolete ones are left out. `context` holds msgctxt.

    Raises:
        DataError: not a PO file.
    """
    import polib

    with source.text(wanted.encoding) as stream:
        content = stream.read()
    try:
        catalogue = polib.pofile(content if content.endswith("\n") else content + "\n")
    except (OSError, ValueError, IndexError, AttributeError, UnicodeError) as error:
        line = next((word for word in str(error).replace(")", " ").split() if word.isdigit()), "")
        where = f"{source}:{line}" if line else str(source)
        raise DataError(f"not a PO file ({error!s:.100}).", where=where, remedy="Check it with msgfmt -c.") from None
    for entry in catalogue:
        reason = _po_reason(entry)
        if reason is not None:
            yield LeftOut(reason, str(source), entry.linenum)
        else:
            row = _row(entry.msgid, entry.msgstr, source, entry.linenum, wanted)
            extra = {"context": entry.msgctxt} if entry.msgctxt else {}
            yield Row({**row.values, **extra}, row.file, row.line)


def _po_reason(entry: Any) -> str | None:
    if entry.obsolete:
        return "obsolete"
    if entry.msgid_plural:
        return "plural"
    if entry.fuzzy:
        return "fuzzy"
    return None if entry.msgstr.strip() else "untranslated"


def read_tmx(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Units of a translation memory. Two languages are taken in the order of its header; where there are more,
    `columns` names them as "source_language" and "target_language". Codes of inline tags are dropped and counted.

    Raises:
        DataError: broken XML or entity declarations, more than two languages and none named.
    """
    chosen = [wanted.columns.get("source_language"), wanted.columns.get("target_language")]
    found: dict[str, None] = {}
    units: list[tuple[int, dict[str, str]]] = []
    header, codes = "", 0
    for element, line in _elements(source, ("header", "tu")):
        if _name(element) == "header":
            header = element.get("srclang", "")
            continue
        sides: dict[str, str] = {}
        for variant in element:
            segment = next((child for child in variant if _name(child) == "seg"), None)
            if _name(variant) == "tuv" and segment is not None:
                language = (variant.get(XML_LANGUAGE) or variant.get("lang") or "").lower()
                text, dropped = _inline(segment)
                codes += dropped
                sides.setdefault(language, text)
                found.setdefault(language)
        units.append((line, sides))
    left, right = _two_languages(source, list(found), header.lower(), chosen)
    for line, sides in units:
        ours, theirs = _side(sides, left), _side(sides, right)
        if ours and theirs and ours.strip() and theirs.strip():
            yield _row(ours, theirs, source, line, wanted)
        else:
            yield LeftOut("a side is missing", str(source), line)
    if codes:
        yield Note(f"{codes} inline codes were dropped from segments.")


def _two_languages(source: Source, found: list[str], header: str, chosen: list[str | None]) -> tuple[str, str]:
    named = [code.lower() for code in chosen if code is not None]
    if len(named) == 2:
        return named[0], named[1]
    if len(found) != 2:
        raise DataError(
            f"holds {len(found)} languages ({', '.join(found[:8]) or 'none'}), not two.",
            where=str(source),
            remedy="Name two: --set task.source_language=en --set task.target_language=de.",
        )
    first = next((code for code in found if header and (code == header or _same(code, header))), found[0])
    return first, next(code for code in found if code != first)


def _same(code: str, other: str) -> bool:
    return code.replace("_", "-").split("-")[0] == other.replace("_", "-").split("-")[0]


def _side(sides: dict[str, str], language: str) -> str | None:
    if language in sides:
        return sides[language]
    return next((text for code, text in sides.items() if _same(code, language)), None)


def read_xliff(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Units of XLIFF 1.2 and segments of 2.x; untranslated, fuzzy and plural ones are left out.

    Raises:
        DataError: broken XML or entity declarations, or no units at all.
    """
    codes = count = 0
    for element, line in _elements(source, ("trans-unit", "segment")):
        count += 1
        sides = {_name(child): child for child in element if _name(child) in ("source", "target")}
        reason = "plural" if element.get(IN_PLURAL) else _xliff_reason(element, sides)
        if reason is not None:
            yield LeftOut(reason, str(source), line)
            continue
        (ours, some), (theirs, more) = _inline(sides["source"]), _inline(sides["target"])
        codes += some + more
        if not ours.strip() or not theirs.strip():
            yield LeftOut("untranslated", str(source), line)
        else:
            yield _row(ours, theirs, source, line, wanted)
    if not count:
        raise DataError("holds no translation units.", where=str(source), remedy="Give XLIFF 1.2 or 2.0.")
    if codes:
        yield Note(f"{codes} inline codes were dropped from segments.")


def _xliff_reason(element: Element, sides: dict[str, Element]) -> str | None:
    target = sides.get("target")
    if target is None or "source" not in sides or element.get("translate") == "no":
        return "untranslated"
    state = target.get("state") or element.get("state") or ""
    if state in UNFINISHED:
        return "untranslated"
    return "fuzzy" if state in FUZZY or element.get("approved") == "no" else None


def _inline(segment: Element) -> tuple[str, int]:
    """The segment's text and how many inline codes were dropped from it; `equiv-text` stands in for a code that has one."""
    parts, dropped = [segment.text or ""], 0
    for child in segment:
        name = _name(child)
        if name in NATIVE_CODE and name not in KEPT_TEXT:
            equivalent = child.get("equiv-text") or child.get("equiv")
            parts.append(equivalent or "")
            dropped += equivalent is None
        else:
            text, inner = _inline(child)
            parts.append(text)
            dropped += inner
        parts.append(child.tail or "")
    return "".join(parts), dropped


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _elements(source: Source, names: tuple[str, ...]) -> Iterator[tuple[Element, int]]:
    """Elements of these names with the line they begin on, each cleared once the next one comes."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser(target=_Collector(names), forbid_dtd=False)
    collector: _Collector = parser.target
    collector.line_of = lambda: int(parser.parser.CurrentLineNumber)
    try:
        with source.open() as stream:
            while block := stream.read(1 << 16):
                parser.feed(block)
                yield from collector.take()
            parser.close()
            yield from collector.take()
    except ParseError as error:
        line = getattr(error, "position", (1, 0))[0]
        raise DataError(f"not valid XML ({error}).", where=f"{source}:{line}", remedy="Mend the file.") from None
    except DefusedXmlException:
        raise DataError(
            "declares XML entities, which can unpack to more than a machine holds.",
            where=str(source),
            remedy="Write the text itself in their place.",
        ) from None


class _Collector:
    """Builds the elements of some names alone; the tree round them is never kept."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.line_of: Callable[[], int] = lambda: 0
        self.path: list[Element] = []
        self.plural = 0  # open elements since, and with, a group of plural forms
        self.lines: list[int] = []
        self.done: list[tuple[Element, int]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes)
        self.plural += bool(self.plural or "plural" in (attributes.get("restype") or ""))
        if self.path or _name(element) in self.names:
            if self.plural:
                element.set(IN_PLURAL, "yes")
            if self.path:
                self.path[-1].append(element)
            self.path.append(element)
            self.lines.append(self.line_of())

    def end(self, tag: str) -> None:
        self.plural = max(self.plural - 1, 0)
        if self.path:
            element, line = self.path.pop(), self.lines.pop()
            if not self.path:
                self.done.append((element, line))

    def data(self, text: str) -> None:
        if self.path:
            last = self.path[-1]
            if len(last):
                last[-1].tail = (last[-1].tail or "") + text
            else:
                last.text = (last.text or "") + text

    def close(self) -> None:
        return None

    def take(self) -> list[tuple[Element, int]]:
        done, self.done = self.done, []
        return done


def _row(source_text: str, target_text: str, source: Source, line: int, wanted: Wanted) -> Row:
    return Row({wanted.column("source"): source_text, wanted.column("target"): target_text}, str(source), line)
