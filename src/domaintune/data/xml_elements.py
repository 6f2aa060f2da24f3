"""XML as a stream of elements with their lines. Entities are refused, nothing outside the file is ever loaded."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from domaintune.data.sources import Source
from domaintune.errors import DataError

BLOCK_BYTES = 1 << 16
MAX_DEPTH = 200
"""Far more than any real file; elements are walked by recursion."""
DECLARED_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)""")
READ_BY_EXPAT = {"utf-8", "utf-16", "iso8859-1", "ascii"}
WIDER = {"gb2312": "gb18030", "gbk": "gb18030"}
"""Files say GB2312 and hold characters of its supersets."""


@dataclass(slots=True)
class XmlElement:
    """An element with the line it begins on. Names in the namespace of the file's root are bare, others are "uri name"."""

    name: str
    attributes: Mapping[str, str]
    line: int
    around: tuple[XmlElement, ...] = ()
    """The elements that it stands in, from the root on; without their content."""
    content: list[XmlElement | str] = field(default_factory=list)

    def elements(self) -> list[XmlElement]:
        return [child for child in self.content if isinstance(child, XmlElement)]

    def children(self, name: str) -> list[XmlElement]:
        return [child for child in self.elements() if child.name == name]

    @property
    def text(self) -> str:
        """Its own text without white space at the ends."""
        return "".join(part for part in self.content if isinstance(part, str)).strip()

    def text_of(self, name: str) -> str | None:
        """The text of the first child of this name; None without one."""
        return next((child.text for child in self.children(name)), None)


def xml_elements(source: Source, names: set[str], *, root: str, encoding: str | None = None) -> Iterator[XmlElement]:
    """Elements of these names wherever they stand, but not those inside another one of them; one is in memory at a time.

    `encoding` None: what the file declares.

    Raises:
        DataError: broken XML, another root element, a declared or undefined entity, an unknown encoding; with the line.
    """
    yield from (element for collector in _parsed(source, names, root, encoding) for element in collector.take())


def root_name(source: Source) -> str:
    """The root element's name, without a namespace; what follows it is not looked at.

    Raises:
        DataError: as `xml_elements`.
    """
    return next(collector.root for collector in _parsed(source, set(), "", None) if collector.root)


def _parsed(source: Source, names: set[str], root: str, encoding: str | None) -> Iterator[_Collector]:
    """The collector after each block of the file, and at its end."""
    encoding = encoding or _undeclared_to_expat(source)
    parser = expat.ParserCreate("utf-8" if encoding else None, " ")
    collector = _Collector(str(source), parser, names, root)
    try:
        for block in _blocks(source, encoding):
            parser.Parse(block, False)
            yield collector
        parser.Parse(b"", True)
        yield collector
    except expat.ExpatError as error:
        raise DataError(
            f"not valid XML ({expat.ErrorString(error.code)}).",
            where=f"{source}:{error.lineno}",
            remedy="Mend the file, or export it again.",
        ) from None


def _undeclared_to_expat(source: Source) -> str | None:
    """The declared encoding where expat does not know it, such as those of Chinese or Japanese."""
    with source.open() as stream:
        declared = DECLARED_ENCODING.match(stream.read(1024))
    if declared is None:
        return None
    name = declared[1].decode()
    try:
        known = codecs.lookup(name).name
    except LookupError:
        raise DataError(
            f"declares the unknown encoding '{name}'.", where=f"{source}:1", remedy="Say what it is: --encoding NAME."
        ) from None
    return None if known in READ_BY_EXPAT else WIDER.get(known, known)


def _blocks(source: Source, encoding: str | None) -> Iterator[bytes]:
    if encoding is None:
        with source.open() as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    else:
        with source.text(encoding) as text:
            while characters := text.read(BLOCK_BYTES):
                yield characters.encode()


class _Collector:
    """The handlers of one parser: builds the wanted elements alone; the tree round them is never kept. A root "" is any, and is
    named once it was met."""

    def __init__(self, file: str, parser: Any, names: set[str], root: str) -> None:
        self.file, self.parser, self.names, self.root = file, parser, names, root
        self.namespace = ""
        self.open: list[XmlElement] = []
        self.taken = 0  # how many of the open elements belong to a wanted one
        self.done: list[XmlElement] = []
        parser.buffer_text = True
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text
        parser.EntityDeclHandler = self.declared
        parser.SkippedEntityHandler = self.skipped

    def start(self, name: str, attributes: dict[str, str]) -> None:
        uri, _, bare = name.rpartition(" ")
        if not self.open:
            self.namespace, self.root = uri, self.root or bare
            if bare != self.root:
                raise self.error(f"expected <{self.root}>, got <{bare}>.", "Give the file the suffix of its format.")
        if len(self.open) >= MAX_DEPTH:
            raise self.error(f"elements are nested more than {MAX_DEPTH} deep.", "Export the file again.")
        named = {key.replace("http://www.w3.org/XML/1998/namespace ", "xml:"): v for key, v in attributes.items()}
        own = bare if uri in ("", self.namespace) else name
        wanted = not self.taken and own in self.names
        around = tuple(self.open) if wanted else ()
        element = XmlElement(own, named, self.parser.CurrentLineNumber, around)
        if self.taken:
            self.open[-1].content.append(element)
        self.taken += bool(self.taken or wanted)
        self.open.append(element)

    def end(self, name: str) -> None:
        element = self.open.pop()
        if self.taken == 1:
            self.done.append(element)
        self.taken = max(self.taken - 1, 0)

    def text(self, characters: str) -> None:
        if self.taken:
            self.open[-1].content.append(characters)

    def declared(self, name: str, *rest: Any) -> None:
        raise self.error(
            f"declares the XML entity '{name}', and entities can unpack to more than a machine holds.",
            "Write the text itself in its place.",
        )

    def skipped(self, name: str, is_parameter: bool) -> None:
        raise self.error(f"the XML entity '{name}' is not defined.", "Write the character itself in its place.")

    def error(self, what: str, remedy: str) -> DataError:
        return DataError(what, where=f"{self.file}:{self.parser.CurrentLineNumber}", remedy=remedy)

    def take(self) -> list[XmlElement]:
        done, self.done = self.done, []
        return done
