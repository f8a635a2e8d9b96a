"""What a file is, by its content, and its bytes decompressed with a bound.

In: binary streams. Out: their kind, and streams of what is wrapped in them. Nothing here holds
more than a block (1 MB) in memory, or writes to disk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa

from hornbook.errors import HornbookError
from hornbook.gather.encodings import BLOCK, byte_order_mark

Compression = Literal["gzip", "zstd", "bzip2", "xz"]
Kind = (
    Compression
    | Literal["empty", "zip", "epub", "tar", "parquet", "text", "jsonl", "csv", "html"]
    | Literal["binary", "unknown"]
)

MOST_EXPANSION = 200
FREE_EXPANSION_BYTES = 256 * 2**20
"""What is in a compressed file may be 200 times its size, and 256 MB in any case. Text shrinks 3 to
20 times, logs perhaps 100 times; what grows more is a bomb, made to fill memory or disk."""

READ_KINDS = (
    ".txt .md .jsonl .csv .parquet .html .epub .zip .tar, also .gz .bz2 .xz and .zst of those"
)

DAMAGE = (
    OSError,
    EOFError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
)
"""What the libraries raise for archives that are cut off or garbled."""

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PAR1", "parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
)
_ARCHIVES: dict[str, Kind] = {
    ".zip": "zip",
    ".epub": "epub",
    ".tar": "tar",
    ".parquet": "parquet",
}
_ENDINGS: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
_WRAPPED = dict.fromkeys((".gz", ".zst", ".bz2", ".xz"), "")
_WRAPPED |= dict.fromkeys((".tgz", ".tzst", ".tbz2", ".txz"), ".tar")
_EPUB = b"mimetypeapplication/epub+zip"
_MARK = rb"(?:\xef\xbb\xbf)?"  # UTF-8's byte-order mark
_HTML = re.compile(_MARK + rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_OBJECT_ON_ONE_LINE = re.compile(_MARK + rb'\s*\{[ \t]*["}]')


def kind_of(head: bytes, name: str, encoding: str) -> Kind:
    """What a file is: by its first bytes, and by the ending of its name where these say nothing.

    `binary` is no text in this encoding; `unknown` may be text, but has no ending that is read.
    """
    if not head:
        return "empty"
    ending = PurePosixPath(name).suffix.lower()
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            is_epub = kind == "zip" and (ending == ".epub" or head[30:].startswith(_EPUB))
            return "epub" if is_epub else kind
    if head[257:262] == b"ustar":
        return "tar"
    if ending in _ARCHIVES:
        return _ARCHIVES[ending]
    wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    if b"\0" in head and not wide and not byte_order_mark(head):
        return "binary"
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if ending == ".json" and looks_like_jsonl(head):
        return "jsonl"
    return "html" if _HTML.match(head) else "unknown"


def unwrapped(name: str) -> str:
    """The name of what is compressed in a file: `a.txt` of `a.txt.gz`, `a.tar` of `a.tgz`."""
    ending = PurePosixPath(name).suffix
    return name.removesuffix(ending) + _WRAPPED.get(ending.lower(), ending)


def looks_like_jsonl(head: bytes) -> bool:
    """True when the first line begins a JSON object and goes on with a key."""
    return bool(_OBJECT_ON_ONE_LINE.match(head))


class _CountedFile(io.FileIO):
    """A file that tells how many bytes were read from it."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]):
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`, and tell."""
        count = super().readinto(buffer) or 0
        self._on_bytes(count)
        return count


def open_file(
    path: Path, on_bytes: Callable[[int], None] = lambda count: None
) -> io.BufferedReader[Any]:
    """Open a file for reading; `on_bytes` is told how many bytes were read each time."""
    try:
        return io.BufferedReader(_CountedFile(path, on_bytes), BLOCK)
    except OSError as error:
        raise HornbookError(
            f"cannot be read ({error.strerror})",
            where=path,
            hint="Change its permissions, or leave it out",
        ) from error


class Expansion:
    """What may still come out of one file, over all that is wrapped in it.

    Args:
        compressed_bytes: size of the file.
        where: the file, for the error.
    """

    def __init__(self, compressed_bytes: int, where: str):
        self._left = max(FREE_EXPANSION_BYTES, MOST_EXPANSION * compressed_bytes)
        self._where = where

    def announce(self, count: int) -> None:
        """Refuse what an archive says it holds. Raises `HornbookError` for a bomb."""
        if count > self._left:
            raise HornbookError(
                f"grows to more than {MOST_EXPANSION} times its size when decompressed (a zip "
                "bomb?)",
                where=self._where,
                hint="If it really is text, unpack it first and name the unpacked file",
            )

    def add(self, count: int) -> None:
        """Count bytes that came out. Raises `HornbookError` for a bomb."""
        self.announce(count)
        self._left -= count


class _Bounded(io.RawIOBase):
    """A decompressor's output; damage and bombs become a `HornbookError`."""

    def __init__(self, inner: IO[bytes], expansion: Expansion, where: str):
        self._inner, self._expansion, self._where = inner, expansion, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._inner.read(len(buffer))
        except DAMAGE as error:
            raise HornbookError(
                f"is damaged: it does not decompress ({error})",
                where=self._where,
                hint="Download it or make it again",
            ) from error
        self._expansion.add(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def bounded(inner: IO[bytes], expansion: Expansion, where: str) -> io.BufferedReader[Any]:
    """Buffer what comes out of an archive, and bound it."""
    return io.BufferedReader(_Bounded(inner, expansion, where), BLOCK)


def decompress(
    stream: io.BufferedReader[Any], kind: Compression, expansion: Expansion, where: str
) -> io.BufferedReader[Any]:
    """The decompressed content of a stream (several frames after one another are one)."""
    inner: Any
    if kind == "gzip":
        inner = gzip.GzipFile(fileobj=stream)
    elif kind == "bzip2":
        inner = bz2.BZ2File(stream)
    elif kind == "xz":
        inner = lzma.LZMAFile(stream)  # noqa: SIM115 - closed with what is returned
    else:
        inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    return bounded(inner, expansion, where)
