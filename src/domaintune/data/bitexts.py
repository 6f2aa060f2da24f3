"""Translations as people have them: two aligned files, gettext PO, TMX, XLIFF. What they are used for is a task's business."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from domaintune.data.languages import distinct_languages, parsed, same_language
from domaintune.data.rows import Entry, LeftOut, Note, Row, Wanted
from domaintune.data.sources import SNIFFED_BYTES, Source, lines_of
from domaintune.data.xml_elements import XmlElement, xml_elements
from domaintune.errors import DataError

PO_CHARSET = re.compile(rb'^"Content-Type:[^"]*charset=([\w.:-]+)', re.MULTILINE | re.IGNORECASE)
PO_TEXT = re.compile(r'(?:#~\s*)?(?:msg(?:ctxt|id|id_plural|str)\s+|msgstr\[\d\]\s*)?"(?:[^"\\]|\\.)*"')
PO_BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Characters of a text that polib takes for line breaks; they pass it as noncharacters of Unicode."""
PO_HIDDEN = {ord(character): 0xFDD0 + n for n, character in enumerate(PO_BREAKS)}
PO_SHOWN = {hidden: shown for shown, hidden in PO_HIDDEN.items()}
TMX_CODES = ("ph", "bpt", "ept", "it", "ut")
XLIFF_CODES = ("x", "bx", "ex", "ph", "bpt", "ept", "it", "sc", "ec", "cp")
UNTRANSLATED_STATES = ("new", "initial")


def read_aligned(source: Source, target: Source, wanted: Wanted) -> Iterator[Entry]:
    """Line n of one file is the translation of line n of the other; lines that are blank on both sides are left out.

    Lines end with a line feed alone, or one after a carriage return.

    Raises:
        DataError: files of unequal length, or nothing in them.
    """
    counts = [0, 0]
    with source.text(wanted.encoding) as ours, target.text(wanted.encoding) as theirs:
        for number, pair in enumerate(zip_longest(lines_of(ours), lines_of(theirs)), start=1):
            for side, text in enumerate(pair):
                counts[side] += text is not None
            if None in pair:
                continue  # to the end, so that the error can name both counts
            if any(text.strip() for text in pair):
                yield _row(*pair, source, number, wanted)
            else:
                yield LeftOut("both sides blank", str(source), number)
    if counts[0] != counts[1]:
        raise DataError(
            f"has {counts[0]} lines, but '{target}' has {counts[1]}.",
            where=str(source),
            remedy="Aligned files have one line for each line of the other.",
        )
    if not counts[0]:
        raise DataError("the file is empty.", where=str(source), remedy="Give at least one line.")


def read_po(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Entries of a gettext catalogue; fuzzy, untranslated, plural and obsolete ones are left out. `context` holds msgctxt.

    The encoding is the one that the header declares, unless `wanted` names one. Where the header's language is the source that
    `wanted` names, entries are read from msgstr to msgid.

    Raises:
        DataError: not a PO file, with the line; a language that is not named.
    """
    import polib

    try:
        catalogue = polib.pofile(_po_content(source, wanted))
    except (OSError, ValueError, IndexError, AttributeError) as error:
        line = re.search(r"\(line (\d+)\)", str(error))
        where = f"{source}:{line[1]}" if line else str(source)
        raise DataError(
            "not a PO file (a keyword out of place).", where=where, remedy="Check it with msgfmt -c."
        ) from None
    direction = ("", catalogue.metadata.get("Language", "").partition("@")[0])
    turned = _is_turned(direction, wanted, str(source))
    for entry in catalogue:
        reason = _po_reason(entry)
        if reason is not None:
            yield LeftOut(reason, str(source), entry.linenum)
        else:
            text = (entry.msgid.translate(PO_SHOWN), entry.msgstr.translate(PO_SHOWN))
            row = _row(*(text[::-1] if turned else text), source, entry.linenum, wanted)
            extra = {wanted.column("context"): entry.msgctxt.translate(PO_SHOWN)} if entry.msgctxt else {}
            yield Row({**row.values, **extra}, row.file, row.line)
    if turned:
        yield _turned_note(direction, source)


def _po_reason(entry: Any) -> str | None:
    if entry.obsolete:
        return "obsolete"
    if entry.msgid_plural:
        return "plural"
    if not entry.msgid.strip():
        return "a source is missing"  # a second header, as in catalogues put together
    if entry.fuzzy:
        return "fuzzy"
    return None if entry.msgstr.strip() else "untranslated"


def _po_content(source: Source, wanted: Wanted) -> str:
    """The text with every quoted line checked: polib would cut a character off one that is never closed."""
    with source.text(wanted.encoding or _po_encoding(source)) as stream:
        content = stream.read()
    lines = [line.strip() for line in content.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    for number, line in enumerate(lines, start=1):
        comment = line.startswith("#") and not re.match(r'#~\s*(?:msg|")', line)
        if line and not comment and not PO_TEXT.fullmatch(line):
            raise DataError(
                f"not a PO file (no keyword with one quoted text: {line[:40]}).",
                where=f"{source}:{number}",
                remedy="Check it with msgfmt -c.",
            )
    while lines and (not lines[-1] or (lines[-1].startswith("#") and not PO_TEXT.fullmatch(lines[-1]))):
        lines.pop()  # polib drops the last entry where such a line follows it
    if not lines:
        raise DataError("holds no entries.", where=str(source), remedy="Give at least one translated entry.")
    return "\n".join(lines).translate(PO_HIDDEN) + "\n"


def _po_encoding(source: Source) -> str | None:
    with source.open() as stream:
        declared = PO_CHARSET.search(stream.read(SNIFFED_BYTES))
    if declared is None:
        return None
    try:
        return codecs.lookup(declared[1].decode()).name
    except LookupError:
        return None  # "CHARSET", as in templates


def read_tmx(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Units of a translation memory; languages are those that `wanted.columns` names, else the header's and the other one.

    Codes are matched whatever their case, and en stands for en-US too. The text of <hi> is kept; native code in <ph>, <bpt>,
    <ept>, <it> and <ut> is dropped and counted. The file is read twice, as a stream.

    Raises:
        DataError: broken XML, entities; more than two languages and none named, or a named one that is not there.
    """
    named = _named_languages(wanted)
    left, right = _tmx_languages(source, wanted, named)
    codes = further = 0
    for unit in xml_elements(source, {"tu"}, root="tmx", encoding=wanted.encoding):
        variants = [
            (_language(variant), segment) for variant in unit.children("tuv") for segment in variant.children("seg")
        ]
        ours, theirs = _of_language(variants, left, right), _of_language(variants, right, left)
        further += max(len(ours) - 1, 0) + max(len(theirs) - 1, 0)
        pair = [_inline(segments[0], TMX_CODES) if segments else ("", 0) for segments in (ours, theirs)]
        if all(text.strip() for text, _ in pair):
            codes += sum(dropped for _, dropped in pair)
            yield _row(pair[0][0], pair[1][0], source, unit.line, wanted)
        else:
            yield LeftOut("a side is missing", str(source), unit.line)
    if None in named:
        yield Note(f"{source} is read as translated from {left} to {right}.")
    if further:
        yield Note(f"{further} further variants of a language were not read from {source}.")
    yield from _dropped(codes, source)


def _named_languages(wanted: Wanted) -> tuple[str | None, str | None]:
    """Of source and target."""
    return wanted.columns.get("source_language"), wanted.columns.get("target_language")


def _tmx_languages(source: Source, wanted: Wanted, named: tuple[str | None, str | None]) -> tuple[str, str]:
    found: dict[str, None] = {}
    original = ""
    for element in xml_elements(source, {"header", "tu"}, root="tmx", encoding=wanted.encoding):
        if element.name == "header":
            original = element.attributes.get("srclang", "")
        found.update(dict.fromkeys(_language(variant) for variant in element.children("tuv")))
    return _two_of(found, named, original, str(source))


def _two_of(found: Iterable[str], named: tuple[str | None, str | None], original: str, where: str) -> tuple[str, str]:
    """The languages of source and target: those named, of two the other, else `original` first."""
    given = [code for code in named if code is not None]
    absent = [code for code in given if not any(same_language(code, other) for other in found)]
    languages = distinct_languages(found)
    if absent:
        raise _languages_error(where, languages, f"holds nothing in '{absent[0]}'", original)
    others = [code for code in languages if not any(same_language(code, other) for other in given)]
    if len(given) < 2 and len(given) + len(others) != 2:
        raise _languages_error(where, languages, f"holds {len(languages)} languages, not two", original)
    left, right = named
    if left is None and right is None:
        left = next((code for code in others if same_language(code, original)), others[0])
        others.remove(left)
    return left or others[0], right or others[0]


def translation_rows(rows: Iterable[Row], wanted: Wanted) -> Iterator[Entry]:
    """Rows with a column `translation` of texts by language, as data sets of the Hub have them; languages as of `read_tmx`.

    Raises:
        DataError: no such column; more than two languages and none named, or a named one that is not there.
    """
    pair: tuple[str, str] | None = None
    for row in rows:
        texts = row.values.get("translation")
        if not isinstance(texts, dict):
            raise DataError("no column 'translation' of texts by language.", where=row.where, remedy="Mend the row.")
        if pair is None:
            named = _named_languages(wanted)
            pair = _two_of(texts, named, "", row.where)
            if None in named:
                yield Note(f"{row.file} is read as translated from {pair[0]} to {pair[1]}.")
        sides = [next((text for code, text in texts.items() if same_language(code, side)), None) for side in pair]
        if all(isinstance(text, str) and text.strip() for text in sides):
            values = {wanted.column("source"): sides[0], wanted.column("target"): sides[1]}
            yield Row({**row.values, **values}, row.file, row.line)
        else:
            yield LeftOut("a side is missing", row.file, row.line)


def _languages_error(where: str, found: list[str], what: str, original: str) -> DataError:
    """Proposes the header's language and the next one."""
    first = next((code for code in found if same_language(code, original)), found[0] if found else "en")
    second = next((code for code in found if code != first), "de")
    return DataError(
        f"{what} (languages: {', '.join(found[:20]) or 'none'}).",
        where=where,
        remedy=f"Name two of them: --set task.source_language={shlex.quote(first)} --set task.target_language={shlex.quote(second)}.",
    )


def _language(variant: XmlElement) -> str:
    return variant.attributes.get("xml:lang") or variant.attributes.get("lang") or ""


def _of_language(variants: list[tuple[str, XmlElement]], language: str, other: str) -> list[XmlElement]:
    """The segments of one language, those of exactly its code first; never those of exactly the other's."""
    spelled = [(code.lower().replace("_", "-"), segment) for code, segment in variants]
    exact, elsewhere = (code.lower().replace("_", "-") for code in (language, other))
    fitting = [(code, segment) for code, segment in spelled if same_language(code, language) and code != elsewhere]
    return [segment for _, segment in sorted(fitting, key=lambda entry: entry[0] != exact)]


def read_xliff(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """Units of XLIFF 1.2 and segments of 2.x, from the language to the other that `wanted` names, or as the file has them;
    untranslated, fuzzy and plural ones are left out.

    An inline code is kept as its `equiv-text` (2.x: `equiv`), where it has one, else dropped and counted.

    Raises:
        DataError: broken XML or entities, no units, files of several languages in one, or of others than those named.
    """
    codes, turned = 0, False
    directions: dict[tuple[str, str], None] = {}
    for unit in xml_elements(source, {"trans-unit", "unit"}, root="xliff", encoding=wanted.encoding):
        if not directions:
            turned = _is_turned(_direction(unit), wanted, str(source))
        directions.setdefault(_direction(unit))
        if len(directions) > 1:
            told = " and ".join(map(_told, directions))
            raise DataError(
                f"holds translations {told}.", where=f"{source}:{unit.line}", remedy="Give one file for each."
            )
        for segment in [unit] if unit.name == "trans-unit" else unit.children("segment"):
            ours, theirs = (
                next((_inline(side, XLIFF_CODES) for side in segment.children(name)), ("", 0))
                for name in ("source", "target")
            )
            reason = _xliff_reason(unit, segment, ours[0], theirs[0])
            if reason is not None:
                yield LeftOut(reason, str(source), segment.line)
            else:
                codes += ours[1] + theirs[1]
                yield _row(*((theirs[0], ours[0]) if turned else (ours[0], theirs[0])), source, segment.line, wanted)
    if not directions:
        raise DataError("holds no translation units.", where=str(source), remedy="Give XLIFF 1.2 or 2.0.")
    if turned:
        yield _turned_note(next(iter(directions)), source)
    yield from _dropped(codes, source)


def _is_turned(direction: tuple[str, str], wanted: Wanted, where: str) -> bool:
    """Whether a file of this direction ("": it does not say) is to be read the other way round, for the languages that are named.

    Raises:
        DataError: they are others.
    """
    named = _named_languages(wanted)

    def fit(pair: tuple[str, str]) -> int | None:
        """How many of the named languages are the pair's, exact ones twice; None where one is another."""
        both = [(code, own) for code, own in zip(named, pair, strict=True) if code and own]
        if not all(same_language(code, own) for code, own in both):
            return None
        return sum(1 + (parsed(code) == parsed(own)) for code, own in both)

    straight, back = fit(direction), fit(direction[::-1]) or 0
    if straight is None and not back:
        raise DataError(
            f"holds translations {_told(direction)}, not from {named[0] or 'any'} to {named[1] or 'any'}.",
            where=where,
            remedy="Name its languages (task.source_language, task.target_language), mend what it says of them, or leave it out.",
        )
    return straight is None or back > straight


def _turned_note(direction: tuple[str, str], source: Source) -> Note:
    return Note(f"{source} holds translations {_told(direction)} and is read the other way round.")


def _told(direction: tuple[str, str]) -> str:
    left, right = direction
    return f"from {left or '?'} to {right or '?'}"


def _direction(unit: XmlElement) -> tuple[str, str]:
    """Of the file element in 1.2, of the root in 2.x."""
    given = [element.attributes for element in unit.around]
    ours = [values.get("source-language") or values.get("srcLang") or "" for values in given]
    theirs = [values.get("target-language") or values.get("trgLang") or "" for values in given]
    return "".join(ours).lower(), "".join(theirs).lower()


def _xliff_reason(unit: XmlElement, segment: XmlElement, ours: str, theirs: str) -> str | None:
    path = [*unit.around, unit]
    if any(element.attributes.get("restype") == "x-gettext-plurals" for element in path):
        return "plural"
    translate = [element.attributes["translate"] for element in path if "translate" in element.attributes]
    states = [target.attributes.get("state", "") for target in segment.children("target")]
    states.append(segment.attributes.get("state", ""))
    unfinished = any(state in UNTRANSLATED_STATES or state.startswith("needs-") for state in states)
    if translate[-1:] == ["no"] or not theirs.strip():
        return "untranslated"
    if unit.attributes.get("approved") == "no":
        return "fuzzy"
    if unfinished:
        return "untranslated"
    return None if ours.strip() else "a source is missing"


def _inline(segment: XmlElement, codes: tuple[str, ...]) -> tuple[str, int]:
    """The segment's text and how many inline codes were dropped from it; any other element is its content."""
    parts, dropped = [], 0
    for part in segment.content:
        if isinstance(part, str):
            parts.append(part)
        elif part.name in codes:
            equivalent = part.attributes.get("equiv-text", part.attributes.get("equiv"))
            parts.append(equivalent or "")
            dropped += equivalent is None
        else:
            text, inner = _inline(part, codes)
            parts.append(text)
            dropped += inner
    return "".join(parts), dropped


def _dropped(codes: int, source: Source) -> Iterator[Note]:
    if codes:
        yield Note(f"{codes} inline codes were dropped from the texts of {source}.")


def _row(source_text: str, target_text: str, source: Source, line: int, wanted: Wanted) -> Row:
    return Row({wanted.column("source"): source_text, wanted.column("target"): target_text}, str(source), line)
