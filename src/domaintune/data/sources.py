"""Where bytes come from: a file, plain or compressed, or one member of a zip; and its text, whatever the encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, TextIO

from domaintune.errors import DataError

COMPRESSIONS = (".gz", ".xz", ".zip")
SNIFFED_BYTES = 1 << 16
WIDE = ("utf-16", "utf-32")
MAX_UNPACKED_BYTES = 4 << 30
"""A few kilobytes can unpack to more than a disk holds."""
LEFT_BY_SYSTEMS = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
ENCODINGS_BY_MARK = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Source:
    """One file or zip member. `str()` of it stands in messages and in `Row.file`."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"

    @property
    def suffix(self) -> str:
        """Lower-case ending of the content, that of a compression taken off: ".csv" of "a.csv.gz"."""
        name = PurePosixPath(self.member or self.path.name)
        if self.member is None and name.suffix.lower() in COMPRESSIONS:
            name = name.with_suffix("")
        return name.suffix.lower()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The uncompressed bytes as a stream.

        Raises:
            DataError: the file cannot be read, or is no archive of its kind.
        """
        try:
            with self._opened() as stream:
                yield stream
        except (
            gzip.BadGzipFile,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise DataError(f"cannot be unpacked ({error}).", where=str(self), remedy="Pack it again.") from None
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror or error}).",
                where=str(self),
                remedy="Check the file and its permissions.",
            ) from None

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        kind = self.path.suffix.lower()
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream
        elif kind == ".gz":
            with gzip.open(self.path) as stream:
                yield stream  # type: ignore[misc]
        elif kind == ".xz":
            with lzma.open(self.path) as stream:
                yield stream
        else:
            with self.path.open("rb") as stream:
                yield stream

    def read(self) -> bytes:
        """All of it; at most 4 GiB."""
        with self.open() as stream:
            data = stream.read(MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise DataError("unpacks to more than 4 GiB.", where=str(self), remedy="Split it.")
        return data

    @contextmanager
    def text(self, encoding: str | None = None) -> Iterator[TextIO]:
        """The text as a stream, line ends as they stand.

        Raises:
            DataError: bytes that are not of the encoding, or NUL characters, with the line.
        """
        found = known_encoding(self._encoding(encoding))
        with self.open() as stream:
            wide = codecs.lookup(found).name.startswith(WIDE)
            text = io.TextIOWrapper(_NulRefusing(stream, str(self), wide=wide), found, newline="")
            try:
                yield text
            except UnicodeDecodeError as error:
                raise self._undecodable(error, found) from None

    def _encoding(self, asked: str | None) -> str:
        """What the byte order mark says, which no other encoding begins with; UTF-8 where one byte a character was asked for and the
        bytes plainly are UTF-8, as one file of several may be; else what was asked for, or is recognised."""
        with self.open() as stream:
            head = stream.read(SNIFFED_BYTES)
        marked = next((encoding for mark, encoding in ENCODINGS_BY_MARK if head.startswith(mark)), None)
        if marked or asked is None:
            return marked or recognised_encoding(head)
        plainly = not head.isascii() and _decodes(head, "utf-8", whole=len(head) < SNIFFED_BYTES) is not None
        return "utf-8" if plainly and _is_one_byte(asked) else asked

    def _undecodable(self, error: UnicodeDecodeError, encoding: str) -> DataError:
        data = self.read()
        decoder = codecs.getincrementaldecoder(encoding)()
        line, bad = 1, error.object[error.start]
        for number, raw in enumerate(data.split(b"\n"), start=1):
            try:
                decoder.decode(raw + b"\n")
            except UnicodeDecodeError as again:
                line, bad = number, again.object[again.start]
                break
        return DataError(
            f"the byte {bad:#04x} is not {encoding.upper().removesuffix('-SIG')}.",
            where=f"{self}:{line}",
            remedy="Save the file as UTF-8, or say what it is: --encoding cp1252 (older Excel in the West), gb18030, big5, shift_jis, euc_jp, cp949 ...",
        )


class _NulRefusing(io.BufferedIOBase):
    """Passes bytes on; a NUL byte, which no text holds, is an error with its line."""

    def __init__(self, stream: IO[bytes], name: str, *, wide: bool) -> None:
        self.stream, self.name, self.wide, self.lines = stream, name, wide, 1

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.stream.read(-1 if size is None else size)
        nul = -1 if self.wide else data.find(b"\0")
        if nul >= 0:
            line = self.lines + data.count(b"\n", 0, nul)
            raise DataError(
                "the line holds a NUL byte.", where=f"{self.name}:{line}", remedy="Save the file as plain UTF-8 text."
            )
        self.lines += data.count(b"\n")
        return data

    read1 = read


def is_passed_over(name: str) -> bool:
    """Whether nothing of a folder's data has this name: hidden files, and what desktops leave behind."""
    return name.startswith(".") or name in LEFT_BY_SYSTEMS


def entries_of(folder: Path) -> list[Path]:
    """What a folder of data holds, sorted, but for what is passed over."""
    return sorted(entry for entry in folder.iterdir() if not is_passed_over(entry.name))


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder of data and in those below it, sorted, but for what is passed over."""
    found = (file for file in folder.rglob("*") if not any(map(is_passed_over, file.relative_to(folder).parts)))
    return sorted(file for file in found if file.is_file())


def known_encoding(name: str) -> str:
    """
    Raises:
        DataError: no text encoding of this name.
    """
    try:
        "".encode(name)
    except LookupError:
        raise DataError(
            f"'{name}' is no known encoding.",
            where="--encoding",
            remedy="Such as utf-8, latin-1, cp1252, gb18030, utf-16.",
        ) from None
    return name


def _is_one_byte(encoding: str) -> bool:
    """Whether each character is one byte in it, as in Latin-1 and its kin."""
    sample = bytes(range(0xA1, 0xFF))
    return len(sample.decode(known_encoding(encoding), errors="replace")) == len(sample)


def recognised_encoding(head: bytes) -> str:
    """By the beginning of a file without a byte order mark: UTF-8; GB18030 where the beginning is not UTF-8 but Chinese text in it. Never Latin-1,
    which fits any bytes, nor what else it may be: Korean and Japanese bytes read as GB18030 too, as characters that Chinese text is
    not made of, or is not made of alone."""
    if _decodes(head, "utf-8") is not None:
        return "utf-8"
    chinese = _decodes(head, "gb18030")
    may_be_japanese = _decodes(head, "euc_jp") is not None
    found = chinese is not None and _reads_as_chinese(chinese, may_be_japanese=may_be_japanese)
    return "gb18030" if found else "utf-8"


def _decodes(head: bytes, encoding: str, *, whole: bool = False) -> str | None:
    """The text; None where it is not of this encoding. Unless it is `whole` its last character may be cut."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError:
        return None


def _reads_as_chinese(text: str, *, may_be_japanese: bool) -> bool:
    """Western letters read as GB18030 give scattered rare characters, kana rare characters too; Chinese text gives runs of the 3,755
    common ones of GB 2312 (by their sound, from A to Z), Korean text of the first half of these alone. The common characters of
    Japanese, where EUC-JP allows the bytes at all, are none of the last 724, which a fifth of Chinese text is made of."""
    wide = [character for character in text if ord(character) > 127]
    codes = [c.encode("gb18030") for c in wide if "\u4e00" <= c <= "\u9fff"]
    common = [code for code in codes if len(code) == 2 and b"\xb0" <= code[:1] < b"\xd8" and code[1:] >= b"\xa1"]
    begin, share = (b"\xd0", 0.08) if may_be_japanese else (b"\xc9", 0.05)
    late = sum(code[:1] >= begin for code in common)
    fitting = len(common) + sum(c in "，。、；：？！“”‘’（）《》…—" for c in wide)
    runs = sum(ord(a) > 127 and ord(b) > 127 for a, b in pairwise(text))
    return (
        len(wide) >= 2
        and fitting >= 0.8 * len(wide)
        and runs >= 0.5 * len(wide)
        and late >= share * max(len(common), 1)
    )


def lines_of(stream: TextIO) -> Iterator[str]:
    """Lines without their ends, cut at line feeds alone: JSON text may hold U+2028, and a lone carriage return in one of two
    aligned files would misalign all that follow."""
    rest = ""
    while block := stream.read(1 << 16):
        *whole, rest = (rest + block).split("\n")
        yield from (line.removesuffix("\r") for line in whole)
    if rest:
        yield rest.removesuffix("\r")
