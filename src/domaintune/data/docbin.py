"""spaCy's `.spacy` files: documents with entities."""

from __future__ import annotations

from collections.abc import Iterator

from domaintune.data.rows import Entry, Row, Wanted
from domaintune.data.sources import Source
from domaintune.errors import DataError


def read_docbin(source: Source, wanted: Wanted) -> Iterator[Entry]:
    """One row a document; a row's line is the document's number. White-space tokens are left away.

    Raises:
        DataError: spaCy is not installed, or the file is no DocBin.
    """
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError:
        raise DataError(
            "spaCy is needed to read it.", where=str(source), remedy='Install it: pip install "domaintune[spacy]".'
        ) from None
    try:
        documents = list(DocBin().from_bytes(source.read()).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # noqa: BLE001  msgpack and zlib raise whatever broken bytes lead to
        raise DataError(f"is no DocBin ({error!s:.80}).", where=str(source), remedy="Export it again.") from None
    for number, document in enumerate(documents, start=1):
        words = [token for token in document if not token.is_space]
        tags = ["O" if token.ent_iob_ in ("O", "") else f"{token.ent_iob_}-{token.ent_type_}" for token in words]
        values = {wanted.column("tokens"): [token.text for token in words], wanted.column("tags"): tags}
        yield Row(values, str(source), number)
