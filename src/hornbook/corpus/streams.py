"""Bytes of any wrapping to text: what a file is, decompressed with a bound, decoded, in lines.

In: binary streams. Out: their kind by content, `str` blocks and lines. Nothing here holds more
than a block (1 MB) and one line in memory, or writes to disk.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa

from hornbook.errors import HornbookError

Kind = Literal["empty", "zip", "parquet", "gzip", "zstd", "text", "jsonl", "binary", "unknown"]

BLOCK = 2**20
"""Bytes read at once."""

MOST_EXPANSION = 200
FREE_EXPANSION_BYTES = 256 * 2**20
"""A compressed stream may grow to 200 times its size, and to 256 MB in any case. Text shrinks 3 to
20 times, logs perhaps 100 times; what grows more is a bomb, made to fill memory or disk."""

READ_KINDS = ".txt .md .jsonl .parquet .zip, also .gz and .zst of those"

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PAR1", "parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_ENDINGS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OBJECT_ON_ONE_LINE = re.compile(rb'\s*\{[ \t]*["}]')


def kind_of(head: bytes, name: str, encoding: str) -> Kind:
    """What a file is: by its first bytes, and by the ending of its name where these say nothing.

    `binary` is no text in this encoding; `unknown` may be text, but has no ending that is read.
    """
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    ending = PurePosixPath(name).suffix.lower()
    if ending == ".zip":
        return "zip"
    if ending == ".parquet":
        return "parquet"
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    if b"\0" in head and not wide and not _byte_order_mark(head):
        return "binary"
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if ending == ".json" and looks_like_jsonl(head):
        return "jsonl"
    return "unknown"


def looks_like_jsonl(head: bytes) -> bool:
    """True when the first line begins a JSON object and goes on with a key."""
    return bool(_OBJECT_ON_ONE_LINE.match(head))


def check_encoding(encoding: str) -> None:
    """Raise a `HornbookError` when Python knows no text encoding of this name."""
    try:
        "".encode(encoding)
    except LookupError:
        raise HornbookError(
            f"no text encoding is called {encoding!r}",
            where="--prepare.encoding",
            hint="Often used: utf-8, latin-1, cp1252, utf-16, shift_jis, gb18030",
        ) from None


class CountedFile(io.FileIO):
    """A file that tells how many bytes were read from it."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]):
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`, and tell."""
        count = super().readinto(buffer) or 0
        self._on_bytes(count)
        return count


class _Bounded(io.RawIOBase):
    """A decompressor's output; damage and bombs become a `HornbookError`."""

    def __init__(self, inner: IO[bytes], compressed_bytes: int, where: str):
        self._inner, self._where = inner, where
        self._left = max(FREE_EXPANSION_BYTES, MOST_EXPANSION * compressed_bytes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        damage = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
        try:
            data = self._inner.read(len(buffer))
        except (*damage, pa.ArrowException) as error:
            raise HornbookError(
                f"is damaged: it does not decompress ({error})",
                where=self._where,
                hint="Download it or make it again",
            ) from error
        self._left -= len(data)
        if self._left < 0:
            raise bomb(self._where)
        buffer[: len(data)] = data
        return len(data)


def bomb(where: str) -> HornbookError:
    """The error for compressed data that grows out of all proportion."""
    return HornbookError(
        f"grows to more than {MOST_EXPANSION} times its size when decompressed (a zip bomb?)",
        where=where,
        hint="If it really is text, unpack it first and name the unpacked file",
    )


def bounded(inner: IO[bytes], compressed_bytes: int, where: str) -> io.BufferedReader[Any]:
    """Buffer a decompressing stream, and bound its output (`MOST_EXPANSION`)."""
    return io.BufferedReader(_Bounded(inner, compressed_bytes, where), BLOCK)


def decompress(
    stream: io.BufferedReader[Any], kind: Literal["gzip", "zstd"], compressed_bytes: int, where: str
) -> io.BufferedReader[Any]:
    """The decompressed content of a gzip or Zstandard stream (several frames are one stream)."""
    inner: IO[bytes]
    if kind == "gzip":
        inner = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    else:
        inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return bounded(inner, compressed_bytes, where)


def decode(stream: io.BufferedReader[Any], encoding: str, where: str) -> Iterator[str]:
    """Yield the text of a stream in blocks. A byte-order mark wins over `encoding`."""
    mark, encoding = _byte_order_mark(stream.peek(4)) or (b"", encoding)
    stream.read(len(mark))
    decoder = codecs.getincrementaldecoder(encoding)()
    before = len(mark)
    while True:
        block = stream.read(BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # What the decoder saw is this block behind bytes held back from the block before.
            offset = before - (len(error.object) - len(block)) + error.start
            raise HornbookError(
                f"is not {encoding.upper()} text: byte {error.object[error.start]:#04x} at offset "
                f"{offset:,} does not fit",
                where=where,
                hint="Name the encoding it was saved in, for example --prepare.encoding latin-1",
            ) from None
        if text:
            yield text
        if not block:
            return
        before += len(block)


def lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the lines of blocks of text, without `\\n`; a line may be as long as it likes."""
    parts: list[str] = []
    for block in blocks:
        first, *rest = block.split("\n")
        parts.append(first)
        for line in rest:
            yield "".join(parts)
            parts = [line]
    if any(parts):
        yield "".join(parts)


def _byte_order_mark(head: bytes) -> tuple[bytes, str] | None:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return mark, encoding
    return None
