"""The log of a feed, as a reader sees it: numbered texts on disk, some of which may be damaged.

In: a feed's folder. Out: texts from any number on, as JSON that can be sent as it is, as records,
or as documents.

    FEED/feed.json                    format, the log's id, when it began
    FEED/log/segment-000000000000.log texts from number 0 on (`feed_blocks.py`)
    FEED/log/segment-000000000000.idx its blocks, once it is full; made again from it where missing
    FEED/state.sqlite                 where readers are, and the head (`hornbook.feed.cursors`)

A text's number never changes. What is lost to damage is named once and passed over; asking for it
is `Gone`, with the next number that can be read. What the system cannot read at the moment is
`Unreadable`, and not lost: it is read when it is asked for again.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.gather.feed_blocks import Block, Decoded, document_from, read_block, read_index, scan
from hornbook.progress import warn

FORMAT = 1
IDENTITY = "feed.json"
SEGMENTS = "log"

_CACHED_BLOCKS = 32
_CACHED_BYTES = 2**20
"""Largest block that is kept decoded: 32 of the usual 256 kB are 8 MB, and 32 of 1 MB bearable."""
_CACHED_TABLES = 16
_next = attrgetter("next")


@dataclass(frozen=True)
class Damage:
    """Numbers [first, next) that cannot be read, in or behind the file `path`."""

    path: Path
    first: int
    next: int


class Gone(HornbookError):
    """Texts that are not there any more, or damaged.

    Attributes:
        first: the next number that is there.
    """

    def __init__(self, what: str, first: int, where: Path):
        super().__init__(what, where=where, hint=f"The next text that is there is number {first}")
        self.first = first


class Unreadable(HornbookError):
    """Texts that cannot be read now: the disk fails, or too many files are open. None is lost.

    Attributes:
        path: the file they are in.
        first: number of the first of them.
        next: number of the text after them.
        reason: the system's.
    """

    def __init__(self, path: Path, first: int, next: int, error: OSError):
        self.path, self.first, self.next = path, first, next
        self.reason = error.strerror or str(error)
        super().__init__(
            f"cannot be read now ({self.reason})",
            where=path,
            hint="Try again; if it stays so, look at the disk and the file's permissions, and"
            " copy what can be read to another disk: only what is missing there is lost",
        )


@dataclass
class Segment:
    """A file of the log.

    Args:
        path: of the file.
        first: number of its first text.
        next: number of the text after its last one that is whole.
        bytes: its size up to the end of its last whole block.
        blocks: its blocks, in order; None: they are read from its index when needed.
    """

    path: Path
    first: int
    next: int
    bytes: int
    blocks: list[Block] | None


def is_feed(folder: Path) -> bool:
    """Whether a folder is that of a feed."""
    return (folder / IDENTITY).is_file() and (folder / SEGMENTS).is_dir()


def read_identity(folder: Path) -> str:
    """The id of a feed's log, 32 hex digits."""
    values = read_json(folder / IDENTITY)
    values = values if isinstance(values, dict) else {}
    found, identity = values.get("format"), str(values.get("id"))
    if found != FORMAT or not re.fullmatch("[0-9a-f]{32}", identity):
        raise HornbookError(
            f"is a feed of format {found} and id {identity!r}; this hornbook reads format {FORMAT}",
            where=folder / IDENTITY,
            hint="Use the hornbook that wrote it; each segment has its id behind 8 bytes",
        )
    return identity


class FeedLog:
    """A log that is read. Threads may share it, and another process may write to it meanwhile.

    Attributes:
        folder: the feed's.
        id: 32 hex digits, other ones for every feed.
        damaged: what cannot be read, as far as it was met.
    """

    def __init__(self, folder: Path, identity: str):
        self.folder, self.id = folder, identity
        self.damaged: list[Damage] = []
        self._key = bytes.fromhex(identity)
        self._lock = threading.RLock()
        self._segments: list[Segment] = []
        self._table = functools.lru_cache(_CACHED_TABLES)(self._read_table)
        self._decoded: OrderedDict[tuple[Path, int], Decoded] = OrderedDict()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the feed in `folder`. Raises `HornbookError`: there is none."""
        if not is_feed(folder):
            raise HornbookError(
                "is no feed", where=folder, hint="`hornbook feed serve --feed.folder DIR` makes one"
            )
        log = cls(folder, read_identity(folder))
        try:
            log.refresh()
        except OSError as error:
            raise HornbookError(
                f"cannot be read ({error.strerror})", where=error.filename or folder
            ) from error
        return log

    @property
    def first(self) -> int:
        """Number of the first text that is kept."""
        return self._segments[0].first if self._segments else 0

    @property
    def head(self) -> int:
        """Number that the next text to be written will have."""
        return self._segments[-1].next if self._segments else 0

    @property
    def stored_bytes(self) -> int:
        """Size of the log on disk."""
        return sum(segment.bytes for segment in self._segments)

    def refresh(self) -> None:
        """See what another process wrote or dropped since."""
        with self._lock:
            full = {each.path: each for each in self._segments[:-1]}
            paths = sorted((self.folder / SEGMENTS).glob(f"segment-{'[0-9]' * 12}.log"))
            self._segments = [full.get(path) or self._opened(path, paths[-1]) for path in paths]
            for before, after in itertools.pairwise(self._segments):
                self._note(before.path, before.next, after.first)

    def _opened(self, path: Path, last: Path) -> Segment:
        expected = first = _first_of(path)
        indexed = None if path == last else read_index(path.with_suffix(".idx"))
        blocks = self._scanned(path, first, first) if indexed is None else indexed
        for block in blocks:
            self._note(path, expected, block.first)
            expected = block.next
        end = blocks[-1].end if blocks else 0
        return Segment(path, first, expected, end, blocks if indexed is None else None)

    def _note(self, path: Path, first: int, following: int) -> None:
        damage = Damage(path, first, following)
        if first < following and damage not in self.damaged:
            bisect.insort(self.damaged, damage, key=lambda each: each.first)
            warn(
                f"{path}: texts {first:,} to {following - 1:,} are damaged or missing here; "
                "the others can be read"
            )

    def _blocks(self, segment: Segment) -> list[Block]:
        if segment.blocks is None:
            return self._table(segment.path, segment.first, segment.next)
        return segment.blocks

    def _read_table(self, path: Path, first: int, next: int) -> list[Block]:
        """The blocks of a full segment; it has to be scanned where its index was lost."""
        table = read_index(path.with_suffix(".idx"))
        return self._scanned(path, first, next) if table is None else table

    def _scanned(self, path: Path, first: int, next: int) -> list[Block]:
        try:
            return scan(path, self._key, first)
        except OSError as error:
            raise Unreadable(path, first, next, error) from error

    def texts(self, cursor: int, n: int, most_bytes: int) -> tuple[int, bytes]:
        """How many texts there are from number `cursor` on, and these as a JSON array.

        Up to `n`, of at most `most_bytes` together; at least one, however long, unless the cursor
        is at the head. They end before one that is damaged or cannot be read now.

        Raises:
            Gone: the first of them is dropped or damaged.
            Unreadable: it cannot be read now.
            HornbookError: the cursor is beyond the head.
        """
        pieces = list(self._pieces(cursor, n, most_bytes))
        count = sum(end - begin for _, begin, end in pieces)
        joined = b"".join(block.texts(begin, end) for block, begin, end in pieces)
        return count, b"[" + joined[:-1] + b"]"  # without the last comma

    def records(self, cursor: int, n: int, most_bytes: int) -> list[dict[str, Any]]:
        """The same as records: number, text, and what else is known of each."""
        records = []
        for block, begin, end in self._pieces(cursor, n, most_bytes):
            texts, metas = _values(block.texts(begin, end)), _values(block.metas(begin, end))
            records += [
                {"number": block.block.first + index, "text": text, **meta}
                for index, text, meta in zip(range(begin, end), texts, metas, strict=True)
            ]
        return records

    def documents(self, cursor: int = 0) -> Iterator[tuple[int, Document]]:
        """All documents from a number on, each with its number; damage is said and passed over.
        Raises `Unreadable`."""
        cursor = max(cursor, self.first)
        while cursor < self.head:
            try:
                records = self.records(cursor, 1024, _CACHED_BYTES)
            except Gone as gone:
                cursor = gone.first
                continue
            for record in records:
                yield record.pop("number"), document_from(record.pop("text"), record)
            cursor += len(records)

    def last_state(self) -> dict[str, Any]:
        """Where the producers were after the last text that is whole; {} where there is none.
        Raises `Unreadable`."""
        with self._lock:
            for segment in reversed(self._segments):
                for block in reversed(self._blocks(segment)):
                    decoded = self._decoded_block(segment.path, block)
                    if decoded is not None:
                        return decoded.state()
        return {}

    def sizes(self, cursor: int) -> list[tuple[int, int]]:
        """Of each block from a number on the number behind it, and the bytes of its texts."""
        with self._lock:
            return [
                (block.next, block.text_bytes)
                for segment in self._segments
                if segment.next > cursor
                for block in self._blocks(segment)
                if block.next > cursor
            ]

    def _pieces(self, cursor: int, n: int, most_bytes: int) -> Iterator[tuple[Decoded, int, int]]:
        """The blocks that texts are in, and which of each block's texts they are."""
        head = self.head
        if cursor > head:
            what = f"there is no text {cursor} yet"
            raise HornbookError(what, where=self.folder, hint=f"The next one will be {head}")
        number, stop = cursor, min(cursor + n, head)
        while number < stop and most_bytes > 0:
            try:
                block = self._block_of(number)
            except (Gone, Unreadable):
                if number > cursor:
                    return
                raise
            begin = number - block.block.first
            end = min(block.fitting(begin, most_bytes), stop - block.block.first)
            if number == cursor:
                end = max(end, begin + 1)
            if end == begin:
                return
            yield block, begin, end
            number += end - begin
            most_bytes -= int(block.ends[0, end] - block.ends[0, begin])

    def _block_of(self, number: int) -> Decoded:
        """The block that has a text; `Gone` with the next one that can be read."""
        following = number
        while (found := self._block_from(following)) is not None:
            path, block = found
            decoded = self._decoded_block(path, block)
            if decoded is not None and block.first <= number:
                return decoded
            if decoded is not None:
                following = block.first
                break
            following = block.next
        else:
            following = self.head
        what = "is damaged or missing" if number >= self.first else "is no longer kept"
        raise Gone(f"text {number} {what}", following, self.folder)

    def _block_from(self, number: int) -> tuple[Path, Block] | None:
        """The block that has a text, or else the first one behind it, and its file."""
        with self._lock:
            begin = bisect.bisect_right(self._segments, number, key=_next)
            for place in range(begin, len(self._segments)):
                blocks = self._blocks(self._segments[place])
                index = bisect.bisect_right(blocks, number, key=_next)
                if index < len(blocks):
                    return self._segments[place].path, blocks[index]
        return None

    def _decoded_block(self, path: Path, block: Block) -> Decoded | None:
        """The content of a block; None: it is damaged, which is noted. Raises `Unreadable`."""
        with self._lock:
            decoded = self._decoded.get((path, block.offset))
            if decoded is not None:
                self._decoded.move_to_end((path, block.offset))
                return decoded
        try:
            decoded = read_block(path, block, self._key)
        except FileNotFoundError:  # dropped meanwhile, or lost
            decoded = None
        except OSError as error:  # not damage, which would be given up for good
            raise Unreadable(path, block.first, block.next, error) from error
        with self._lock:
            if decoded is None and block.first >= self.first:
                self._note(path, block.first, block.next)
            elif decoded is not None and block.raw <= _CACHED_BYTES:
                self._decoded[path, block.offset] = decoded
                if len(self._decoded) > _CACHED_BLOCKS:
                    self._decoded.popitem(last=False)
        return decoded


def _first_of(path: Path) -> int:
    return int(path.stem.removeprefix("segment-"))


def _values(parts: bytes) -> list[Any]:
    """The JSON values that have a comma behind each."""
    values: list[Any] = json.loads(b"[" + parts[:-1] + b"]")
    return values
