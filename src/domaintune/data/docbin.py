"""spaCy's `.spacy` files: documents with words and entities."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from domaintune.data.rows import Entry, LeftOut, Note, Row, Tally, Wanted
from domaintune.data.sources import Source
from domaintune.data.span_shapes import NOT_ANNOTATED
from domaintune.errors import DataError


def read_docbin(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One row of tokens and BIO tags for each document; `Row.line` is the document's number. Words of white space, which spaCy makes
    of line ends, are left out.

    Entities are those of `doc.ents`. Documents without any annotation of them are left out. Words that alone lack one are O, with a
    note.

    Raises:
        DataError: spaCy is not installed, the file is none of its, or it holds no document.
    """
    number, missing = 0, Tally()
    for number, document in enumerate(_documents(source), start=1):
        if not document.has_annotation("ENT_IOB"):
            reason = "entities in span groups alone" if any(document.spans.values()) else NOT_ANNOTATED
            yield LeftOut(reason, str(source), number)
            continue
        words = [token for token in document if token.text.strip()]
        if not words:
            yield LeftOut("no words", str(source), number)
            continue
        unmarked = sum(token.ent_iob == 0 for token in words)
        missing.add_("words without annotation count as O", f"{source}:{number}", unmarked)
        values = {
            wanted.column("tokens"): [token.text for token in words],
            wanted.column("tags"): _tags(words),
        }
        yield Row(values, str(source), number)
    if not number:
        raise DataError("the file holds no document.", where=str(source), remedy="Give at least one.")
    yield from (Note(f"{source}: {told}.") for told in missing.told())


def _tags(words: list[Any]) -> list[str]:
    """An entity whose first token is white space begins at its first word."""
    tags = []
    open_type: str | None = None
    for index, token in enumerate(words):
        if not token.ent_type_:
            open_type = None
            tags.append("O")
            continue
        between = words[index - 1].i + 1 if index else 0
        begins = any(token.doc[place].ent_iob_ == "B" for place in range(between, token.i + 1))
        tags.append(f"{'B' if begins or open_type != token.ent_type_ else 'I'}-{token.ent_type_}")
        open_type = token.ent_type_
    return tags


def _documents(source: Source) -> Iterator[Any]:
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError:
        raise DataError(
            "spaCy is needed to read it.", where=str(source), remedy='Install it: pip install "domaintune[spacy]".'
        ) from None
    try:
        yield from DocBin().from_bytes(source.read()).get_docs(Vocab())
    except (zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"is no DocBin ({str(error)[:80] or type(error).__name__}).",
            where=str(source),
            remedy="Save it again: DocBin(docs=...).to_disk(...).",
        ) from None
