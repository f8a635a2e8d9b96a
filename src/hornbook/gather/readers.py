"""Documents out of files of every kind, and folders and archives of them.

In: paths. Out: a stream of `Document`, in sorted order, each with the cursor to go on after it. A
file is known by its content first (an archive called `sample.mp4` is read), then by its name.

Memory: tables need about one row (or 16 MB of Parquet rows), pages and books are held whole; a
text file is one document up to `PIECE_CHARACTERS`, and is cut into pieces of that size beyond, so
at most about three times 16 MB for a text of any length. Nothing is unpacked to disk, but that a
zip, EPUB or Parquet file inside an archive is copied to a temporary file without a name.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.documents import SCHEMA, Document
from hornbook.errors import HornbookError
from hornbook.gather.archives import (
    Member,
    open_member,
    open_zip,
    spooled,
    tar_members,
    zip_members,
)
from hornbook.gather.cut import cut_point
from hornbook.gather.encodings import BLOCK, check_encoding, decode
from hornbook.gather.epub import read_epub
from hornbook.gather.feed_log import FeedLog
from hornbook.gather.html import LARGEST_HTML, declared_encoding, read_page
from hornbook.gather.inputs import Input, InputFile, find_inputs
from hornbook.gather.rows import KEPT, document_of, find_text_column
from hornbook.gather.source import Cursor
from hornbook.gather.streams import (
    READ_KINDS,
    Expansion,
    Kind,
    decompress,
    kind_of,
    looks_like_jsonl,
    open_file,
    unwrapped,
)
from hornbook.gather.tables import (
    Row,
    csv_rows,
    json_rows,
    open_parquet,
    parquet_rows,
    text_columns,
)
from hornbook.progress import warn as warn_on_screen

PIECE_CHARACTERS = 16 * 2**20
"""A longer text file becomes several documents, cut at blank lines where there are any."""

_DEEPEST_WRAPPING = 4
_NAMED = 3
"""Files that are named in messages of the same kind; the others are counted."""

_EMPTY = "empty files"


@dataclass(frozen=True)
class Reading:
    """How files are read, and who is told.

    Args:
        text_column: column or key of the text; None: `text`, or the only well-known name.
        encoding: of text; `auto`: detected for each file. A byte-order mark wins over it.
        refuse_undecodable: whether bytes that do not fit are an error; else they are replaced by
            U+FFFD and counted.
        main_text: whether only the main text of web pages is taken.
        keep_all: whether columns that documents do not have are kept in their `meta`.
        option: how the names of these settings begin in error messages.
        warn: takes a line about something that was skipped.
        count: takes what was counted, and how often.
        on_bytes: told how many bytes of the files were read since it was last called.
    """

    text_column: str | None = None
    encoding: str = "auto"
    refuse_undecodable: bool = False
    main_text: bool = True
    keep_all: bool = False
    option: str = "--"
    warn: Callable[[str], None] = warn_on_screen
    count: Callable[[str, int], None] = lambda what, amount: None
    on_bytes: Callable[[int], None] = lambda count: None


def read_inputs(
    inputs: Sequence[str | Path],
    *,
    text_column: str | None = None,
    encoding: str = "utf-8",
    option: str = "--prepare.",
    warn: Callable[[str], None] = warn_on_screen,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Document]:
    """Stream the documents of files and folders; bytes that do not fit `encoding` are an error.

    The arguments are those of `read_with_cursor` and `Reading`.
    """
    reading = Reading(
        text_column, encoding, refuse_undecodable=True, option=option, warn=warn, on_bytes=on_bytes
    )
    for document, _ in read_with_cursor(inputs, reading):
        yield document


def read_with_cursor(
    inputs: Sequence[str | Path], reading: Reading, cursor: Cursor | None = None
) -> Iterator[tuple[Document, Cursor]]:
    """Stream documents, in the order given, folders sorted by path, each with its cursor.

    A document's source is the name of the input it came from (unless its row has a source of its
    own), its title the file's name without ending unless it has one, `meta["file"]` the path
    inside a folder or archive.

    Args:
        inputs: files and folders.
        reading: how.
        cursor: goes on after the document that had it. Files before it are not opened, row groups
            of Parquet not read; the rest of that file is read again and passed over.

    Raises:
        HornbookError: something cannot be read, or there is nothing to read.
    """
    check_encoding(reading.encoding, reading.option)
    found = find_inputs(inputs, option=reading.option)
    begin, done = (cursor["file"], cursor["documents"]) if cursor else (0, 0)
    first = 0
    for each in found:
        end = first + len(each.files)
        if begin < end or begin <= first:
            skip = done if begin >= first else 0
            one = _Pass(reading, each, first, max(0, begin - first), skip)
            yield from one.documents(alone=len(found) == 1)
        first = end


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
    expansion: Expansion
    depth: int = 0

    def inner(self, **changes: Any) -> _Place:
        if self.depth == _DEEPEST_WRAPPING:
            raise HornbookError(
                "is wrapped more than four times (an archive in an archive ...)",
                where=self.where,
                hint="Unpack it and name what is inside",
            )
        return replace(self, path=None, depth=self.depth + 1, **changes)

    def member(self, member: Member) -> _Place:
        return self.inner(
            where=f"{self.where} > {member.name}",
            name=PurePosixPath(member.name).name,
            file=f"{self.file}/{member.name}" if self.file else member.name,
            named=False,
        )

    def document(self, text: str, **fields: Any) -> Document:
        given = {"title": PurePosixPath(self.name).stem, **{k: v for k, v in fields.items() if v}}
        meta = {"file": self.file} if self.file else {}
        return Document(text, source=self.source, meta=meta, **given)


class _Pass:
    """One pass over an input: what is still to be passed over, and what was met on the way.

    Args:
        reading: the settings.
        given: the input.
        first: number of its first file, over all inputs.
        files: how many of its files are passed over unopened.
        skip: how many documents of the file after these are passed over.
    """

    def __init__(self, reading: Reading, given: Input, first: int, files: int, skip: int):
        self._reading, self._given, self._first, self._files = reading, given, first, files
        self._skip = skip
        self._passed = 0
        """Documents of this file so far, with those that were too long."""
        self._read = files
        self._met: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._skipped_example = ""

    def documents(self, *, alone: bool) -> Iterator[tuple[Document, Cursor]]:
        for number in range(self._files, len(self._given.files)):
            self._passed = 0
            for document in self._file(self._given.files[number]):
                self._passed += 1
                if document is not None and self._passed > self._skip:
                    yield document, {"file": self._first + number, "documents": self._passed}
            self._skip = 0
        self._tell(alone)

    def _file(self, file: InputFile) -> Iterator[Document | None]:
        where = str(file.path)
        place = _Place(
            source=self._given.name,
            where=where,
            name=PurePosixPath(file.inside).name,
            file=file.inside if self._given.is_folder else "",
            path=file.path,
            named=not self._given.is_folder,
            bytes=file.bytes,
            expansion=Expansion(file.bytes, where),
        )
        if file.feed is not None:
            yield from self._feed(file.feed, file.bytes)
            return
        with open_file(file.path, self._reading.on_bytes) as stream:
            yield from self._documents(stream, place)

    def _feed(self, folder: Path, size: int) -> Iterator[Document]:
        log = FeedLog.open(folder)
        share = size // max(log.head - log.first, 1)
        for _, document in log.documents():
            self._read += 1
            document.source = document.source or self._given.name
            self._reading.on_bytes(share)
            yield document

    def _tell(self, alone: bool) -> None:
        """Say what was skipped; nothing readable at all is an error."""
        each, warn, empty = self._given, self._reading.warn, self._met[_EMPTY]
        kinds = ", ".join(f"{ending} {n:,}" for ending, n in self._skipped.most_common(5))
        skipped = sum(self._skipped.values())
        if not self._read and (alone or not empty or each.is_folder):
            what = "there is no text in here"
            if skipped:
                what += f", only kinds that are not read ({kinds})"
            elif empty:
                what = "is empty (0 bytes)"
            raise HornbookError(what, where=each.path, hint=f"Read are: {READ_KINDS}")
        for what, times in self._met.items():
            if times > _NAMED:
                warn(f"{each.path}: {times - _NAMED:,} more like this: {what}")
        if skipped:
            warn(
                f"{each.path}: files that are not read were skipped: {skipped:,} ({kinds}), "
                f"for example {self._skipped_example}"
            )

    def _documents(
        self, stream: io.BufferedReader[Any], place: _Place
    ) -> Iterator[Document | None]:
        head = stream.peek(BLOCK)
        kind = kind_of(head, place.name, self._reading.encoding)
        if kind == "unknown" and place.named:
            kind = self._kind_of_named(head, place)
        match kind:
            case "empty":
                self._meet(_EMPTY, f"{place.where}: is empty (0 bytes), skipped")
            case "binary" | "unknown":
                self._skip_file(place)
            case "gzip" | "zstd" | "bzip2" | "xz":
                inner = decompress(stream, kind, place.expansion, place.where)
                yield from self._documents(inner, place.inner(name=unwrapped(place.name)))
            case "zip":
                with self._seekable(stream, place) as file, open_zip(file, place.where) as archive:
                    for member in zip_members(archive, place.where, place.expansion):
                        yield from self._documents(member.stream, place.member(member))
            case "tar":
                warn = self._reading.warn
                for member in tar_members(stream, place.where, place.expansion, warn):
                    yield from self._documents(member.stream, place.member(member))
            case _:
                self._read += 1
                yield from self._content(kind, stream, place)

    def _content(
        self, kind: Kind, stream: io.BufferedReader[Any], place: _Place
    ) -> Iterator[Document | None]:
        match kind:
            case "jsonl":
                yield from self._table(json_rows(self._decode(stream, place), place.where), place)
            case "csv":
                rows = csv_rows(self._decode(stream, place), place.where, place.name)
                yield from self._table(rows, place)
            case "parquet":
                yield from self._parquet(stream, place)
            case "html":
                yield self._html(stream, place)
            case "epub":
                yield self._epub(stream, place)
            case _:
                yield from self._text(stream, place)

    def _seekable(self, stream: io.BufferedReader[Any], place: _Place) -> IO[bytes]:
        return stream if place.path else spooled(stream, place.where)

    def _kind_of_named(self, head: bytes, place: _Place) -> Kind:
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
        self._reading.warn(f"{place.where}: has no ending that is known; read as plain text")
        return "text"

    def _skip_file(self, place: _Place) -> None:
        if place.named and place.depth == 0:
            raise HornbookError(
                "is not text, and no archive that is read",
                where=place.where,
                hint=f"Read are: {READ_KINDS}. For UTF-16 text without a byte-order mark: "
                f"{self._reading.option}encoding utf-16-le",
            )
        ending = PurePosixPath(place.name).suffix.lower() or "no ending"
        if self._passed >= self._skip:
            self._reading.count("files of kinds that are not read", 1)
        self._skipped[ending] += 1
        self._skipped_example = place.where

    def _decode(
        self, stream: io.BufferedReader[Any], place: _Place, declared: str | None = None
    ) -> Iterator[str]:
        reading = self._reading
        return decode(
            stream,
            declared or reading.encoding,
            place.where,
            option=reading.option,
            undecodable=None if reading.refuse_undecodable else self._undecodable,
        )

    def _meet(self, what: str, message: str, amount: int = 1) -> None:
        """Count something, and say the first few; what was met before the document that the
        cursor points to was counted then."""
        if self._passed < self._skip:
            return
        self._reading.count(what, amount)
        self._met[what] += 1
        if self._met[what] <= _NAMED:
            self._reading.warn(message)

    def _undecodable(self, where: str, count: int, first: int) -> None:
        message = (
            f"{where}: bytes that do not fit its encoding: {count:,}, the first at offset "
            f"{first:,}; each became U+FFFD"
        )
        self._meet("undecodable bytes", message, count)

    def _too_long(self, where: str) -> None:
        self._meet("too long", f"{where}: is too long to be held in memory, left out")

    def _text(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document]:
        pieces = _pieces(self._decode(stream, place))
        for number, (text, is_last) in enumerate(pieces, 1):
            document = place.document(text)
            if number > 1 or not is_last:
                document.meta["part"] = number
            yield document

    def _table(
        self, rows: Iterator[Row], place: _Place, column: str | None = None
    ) -> Iterator[Document | None]:
        for row, where in rows:
            if row is None:
                self._too_long(where)
                yield None
                continue
            option = self._reading.option
            if column is None:
                wanted = self._reading.text_column
                column = find_text_column(row.keys(), wanted, where, option)
            keep_all = self._reading.keep_all
            document = document_of(row, column, place.source, where, option, keep_all=keep_all)
            if place.file:
                document.meta.setdefault("file", place.file)
            yield document

    def _parquet(self, stream: io.BufferedReader[Any], place: _Place) -> Iterator[Document | None]:
        try:
            with (
                self._seekable(stream, place) as file,
                open_parquet(place.path or file) as table,
            ):
                yield from self._parquet_rows(table, place)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            problem = str(error).partition("\n")[0]
            raise HornbookError(
                f"is not a readable Parquet file ({problem})",
                where=place.where,
                hint="Download it or make it again",
            ) from error

    def _parquet_rows(self, table: pq.ParquetFile, place: _Place) -> Iterator[Document | None]:
        schema = table.schema_arrow
        if schema.names == SCHEMA.names:  # a shard of documents, which say where they are from
            place = replace(place, file="")
        wanted, option = self._reading.text_column, self._reading.option
        names, others = text_columns(schema)
        column = find_text_column(names, wanted, place.where, option, others=others)
        wanted_too = schema.names if self._reading.keep_all else KEPT
        kept = [name for name in wanted_too if name in schema.names and name != column]

        def on_rows(count: int) -> None:
            if place.path and count:
                self._reading.on_bytes(place.bytes * count // table.metadata.num_rows)

        rows = parquet_rows(table, column, kept, place.where, skip=self._skips, on_rows=on_rows)
        yield from self._table(rows, place, column)

    def _skips(self, count: int) -> bool:
        """Whether so many documents may be passed over unread; then they are."""
        if self._passed + count > self._skip:
            return False
        self._passed += count
        return True

    def _html(self, stream: io.BufferedReader[Any], place: _Place) -> Document | None:
        declared = declared_encoding(stream.peek(BLOCK))
        html = ""
        for block in self._decode(stream, place, declared):
            html += block
            if len(html) > LARGEST_HTML:
                self._too_long(place.where)
                return None
        page = read_page(html, main=self._reading.main_text)
        return place.document(**vars(page))

    def _epub(self, stream: io.BufferedReader[Any], place: _Place) -> Document:
        with self._seekable(stream, place) as file, open_zip(file, place.where) as archive:

            def read(name: str, most: int) -> bytes:
                where = f"{place.where} > {name}"
                with open_member(archive, name, where, place.expansion) as content:
                    return content.read(most)

            book = read_epub(archive.namelist(), place.where, read, self._reading.warn)
        return place.document(**vars(book))


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
