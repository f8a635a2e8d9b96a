"""Documents out of files: text, Markdown, JSON lines, Parquet, zip archives, and folders of them.

In: paths. Out: a stream of `Document`, in sorted order. A file is known by its content first (an
archive called `sample.mp4` is read), then by its name. Nothing is unpacked to disk.

Memory: JSON lines and Parquet need about one row (or 256 Parquet rows); a text file is one
document up to `PIECE_CHARACTERS`, and is cut into pieces of that size beyond, so at most about
three times 16 MB for a text of any length (a Parquet file inside a zip is held whole).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.cut import cut_point
from hornbook.corpus.inputs import Input, find_inputs
from hornbook.corpus.rows import KEPT, document_of, find_text_column
from hornbook.corpus.streams import (
    BLOCK,
    FREE_EXPANSION_BYTES,
    MOST_EXPANSION,
    READ_KINDS,
    CountedFile,
    bomb,
    bounded,
    check_encoding,
    decode,
    decompress,
    kind_of,
    lines,
    looks_like_jsonl,
)
from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.progress import warn as warn_on_screen

PIECE_CHARACTERS = 16 * 2**20
"""A longer text file becomes several documents, cut at blank lines where there are any."""

LARGEST_PARQUET_IN_ZIP = 2**30
"""Parquet is read from its end, so inside a zip it has to be held in memory: at most 1 GB."""

_DEEPEST_WRAPPING = 3


def read_inputs(
    inputs: Sequence[str | Path],
    *,
    text_column: str | None = None,
    encoding: str = "utf-8",
    warn: Callable[[str], None] = warn_on_screen,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Document]:
    """Stream the documents of files and folders, in the order given, folders sorted by path.

    A document's source is the name of the input it came from (unless its row has a source of its
    own), its title the file's name without ending, `meta["file"]` the path inside a folder or
    archive.

    Args:
        inputs: files and folders.
        text_column: column or key of the text; None: `text`, or the only well-known name.
        encoding: of text and JSON lines; a byte-order mark wins over it.
        warn: takes a line about something that was skipped.
        on_bytes: told how many bytes of the files were read since it was last called.

    Raises:
        HornbookError: something cannot be read, or there is nothing to read.
    """
    check_encoding(encoding)
    found = find_inputs(inputs)
    reading = _Reading(text_column, encoding, warn, on_bytes)
    for each in found:
        yield from reading.documents_of(each, alone=len(found) == 1)


@dataclass(frozen=True)
class _Place:
    """Where a stream is: for the documents' fields, and for errors."""

    source: str
    where: str
    """For errors: the path, and the members inside it."""
    name: str
    """Decides the kind where the content does not; endings of unwrapped layers are taken off."""
    file: str
    """Path inside the input, or empty when the input is this file."""
    path: Path | None
    """The file itself, when nothing is wrapped around the content."""
    named: bool
    """Named by a person, so it has to be readable; else it was found in a folder or archive."""
    bytes: int
    depth: int = 0

    def inner(self, **changes: Any) -> _Place:
        if self.depth == _DEEPEST_WRAPPING:
            raise HornbookError(
                "is wrapped more than three times (an archive in an archive ...)",
                where=self.where,
                hint="Unpack it and name what is inside",
            )
        return replace(self, path=None, depth=self.depth + 1, **changes)

    @property
    def title(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def meta(self) -> dict[str, Any]:
        return {"file": self.file} if self.file else {}


class _Reading:
    """One pass over the inputs: settings, and what was passed over on the way."""

    def __init__(
        self,
        text_column: str | None,
        encoding: str,
        warn: Callable[[str], None],
        on_bytes: Callable[[int], None],
    ):
        self._text_column, self._encoding = text_column, encoding
        self._warn, self._on_bytes = warn, on_bytes
        self._read = 0
        self._empty: list[str] = []
        self._skipped: Counter[str] = Counter()
        self._skipped_example = ""

    def documents_of(self, each: Input, *, alone: bool) -> Iterator[Document]:
        self._read = 0
        self._empty.clear()
        self._skipped.clear()
        for file in each.files:
            place = _Place(
                source=each.name,
                where=str(file.path),
                name=PurePosixPath(file.inside).name,
                file=file.inside if each.is_folder else "",
                path=file.path,
                named=not each.is_folder,
                bytes=file.bytes,
            )
            try:
                raw = CountedFile(file.path, self._on_bytes)
            except OSError as error:
                raise HornbookError(
                    f"cannot be read ({error.strerror})",
                    where=file.path,
                    hint="Change its permissions, or leave it out",
                ) from error
            with io.BufferedReader(raw, BLOCK) as stream:
                yield from self._documents(stream, place)
        self._tell(each, alone)

    def _tell(self, each: Input, alone: bool) -> None:
        """Say what was skipped; nothing readable at all is an error."""
        kinds = ", ".join(f"{ending} {n:,}" for ending, n in self._skipped.most_common(5))
        skipped = sum(self._skipped.values())
        if not self._read and (alone or not self._empty or each.is_folder):
            what = "there is no text in here"
            if skipped:
                what += f", only kinds that are not read ({kinds})"
            elif self._empty:
                what = "is empty (0 bytes)"
            raise HornbookError(what, where=each.path, hint=f"Read are: {READ_KINDS}")
        for where in self._empty[:3]:
            self._warn(f"{where}: is empty (0 bytes), skipped")
        if len(self._empty) > 3:
            self._warn(f"{each.path}: {len(self._empty) - 3:,} more empty files, skipped")
        if skipped:
            self._warn(
                f"{each.path}: files that are not read were skipped: {skipped:,} ({kinds}), "
                f"for example {self._skipped_example}"
            )

    def _documents(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        head = stream.peek(BLOCK)
        kind = kind_of(head, place.name, self._encoding)
        if kind == "unknown" and place.named:
            kind = self._kind_of_named(head, place)
        if kind == "empty":
            self._empty.append(place.where)
        elif kind in ("binary", "unknown") or (kind == "zip" and place.path is None):
            self._skip(place)
        elif kind == "zip":
            yield from self._zip(stream, place)
        elif kind == "gzip" or kind == "zstd":
            name = place.name.removesuffix(".gz").removesuffix(".zst")
            inner = decompress(stream, kind, place.bytes, place.where)
            yield from self._documents(inner, place.inner(name=name))
        else:
            self._read += 1
            if kind == "text":
                yield from self._text(stream, place)
            elif kind == "jsonl":
                yield from self._jsonl(stream, place)
            else:
                yield from self._parquet(stream, place)

    def _kind_of_named(self, head: bytes, place: _Place) -> Any:
        """A file with an unknown ending that a person named is tried as text, aloud."""
        if looks_like_jsonl(head):
            return "jsonl"
        if place.name.lower().endswith(".json"):
            raise HornbookError(
                "is JSON, but not one object a line",
                where=place.where,
                hint="Write it as JSON lines: python -c 'import json, sys; "
                "[print(json.dumps(row)) for row in json.load(sys.stdin)]' < FILE > FILE.jsonl",
            )
        self._warn(f"{place.where}: has no ending that is known; read as plain text")
        return "text"

    def _skip(self, place: _Place) -> None:
        if place.named and place.depth == 0:
            raise HornbookError(
                "is not text, and no archive that is read",
                where=place.where,
                hint=f"Read are: {READ_KINDS}. For UTF-16 text without a byte-order mark: "
                "--prepare.encoding utf-16-le",
            )
        ending = PurePosixPath(place.name).suffix.lower() or "no ending"
        self._skipped[ending] += 1
        self._skipped_example = place.where

    def _text(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        pieces = _pieces(decode(stream, self._encoding, place.where))
        for number, (text, is_last) in enumerate(pieces, 1):
            meta = place.meta
            if number > 1 or not is_last:
                meta["part"] = number
            yield Document(text, source=place.source, title=place.title, meta=meta)

    def _jsonl(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        column: str | None = None
        for number, line in enumerate(lines(decode(stream, self._encoding, place.where)), 1):
            if not line.strip():
                continue
            where = f"{place.where}, line {number:,}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise HornbookError(
                    f"is not JSON ({error})",
                    where=where,
                    hint="Each line has to be one whole JSON object; is the file cut off?",
                ) from None
            if not isinstance(row, dict):
                raise HornbookError(
                    f"is a JSON {type(row).__name__}, not an object",
                    where=where,
                    hint='Each line has to look like {"text": "..."}',
                )
            if column is None:
                column = find_text_column(row.keys(), self._text_column, where)
            yield self._with_file(document_of(row, column, place.source, where), place)

    def _parquet(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        try:
            table = pq.ParquetFile(place.path or pa.BufferReader(_whole(stream, place)))
            names = [field.name for field in table.schema_arrow if _is_text(field.type)]
            column = find_text_column(names, self._text_column, place.where)
            kept = [n for n in KEPT if n in table.schema_arrow.names and n != column]
            for batch in table.iter_batches(batch_size=256, columns=[column, *kept]):
                for row in batch.to_pylist():
                    document = document_of(row, column, place.source, place.where)
                    yield self._with_file(document, place)
                if place.path and table.metadata.num_rows:
                    self._on_bytes(place.bytes * len(batch) // table.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise HornbookError(
                f"is not a readable Parquet file ({str(error).splitlines()[0]})",
                where=place.where,
                hint="Download it or make it again",
            ) from error

    def _with_file(self, document: Document, place: _Place) -> Document:
        if place.file:
            document.meta.setdefault("file", place.file)
        return document

    def _zip(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise HornbookError(
                f"is not a readable zip archive ({error})",
                where=place.where,
                hint="Download it or make it again",
            ) from error
        with archive:
            members = sorted(filter(_is_content, archive.infolist()), key=lambda m: m.filename)
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(FREE_EXPANSION_BYTES, MOST_EXPANSION * place.bytes):
                raise bomb(place.where)
            for member in members:
                yield from self._member(archive, member, place)

    def _member(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: _Place
    ) -> Iterator[Document]:
        # The name is only ever shown: nothing is written under it.
        inside = "/".join(part for part in PurePosixPath(member.filename).parts if part != "..")
        inner = place.inner(
            where=f"{place.where} > {inside}",
            name=PurePosixPath(inside).name,
            file=f"{place.file}/{inside}" if place.file else inside,
            named=False,
            bytes=member.compress_size,
        )
        try:
            opened = archive.open(member)
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile, OSError) as error:
            raise HornbookError(
                f"cannot be unpacked ({error})",
                where=inner.where,
                hint="Unpack the archive with the program that made it, and name the folder",
            ) from error
        with opened, bounded(opened, member.compress_size, inner.where) as stream:
            yield from self._documents(stream, inner)


def _is_content(member: zipfile.ZipInfo) -> bool:
    """False for folders, links, hidden files and what macOS adds."""
    parts = PurePosixPath(member.filename).parts
    is_link = (member.external_attr >> 28) == 0o12
    hidden = any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts
    return not (member.is_dir() or is_link or hidden)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _whole(stream: io.BufferedReader[Any], place: _Place) -> bytes:
    content = stream.read(LARGEST_PARQUET_IN_ZIP + 1)
    if len(content) > LARGEST_PARQUET_IN_ZIP:
        raise HornbookError(
            "is a Parquet file of more than 1 GB inside an archive",
            where=place.where,
            hint="Unpack the archive and name the folder: it is read in a stream then",
        )
    return content


def _pieces(blocks: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Join blocks to texts of at most `PIECE_CHARACTERS`: (text, whether it is the last)."""
    held: list[str] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length > PIECE_CHARACTERS:
            text = "".join(held)
            end, following = cut_point(text, PIECE_CHARACTERS - BLOCK, PIECE_CHARACTERS)
            yield text[:end], False
            held = [text[following:]]
            length = len(held[0])
    yield "".join(held), True
