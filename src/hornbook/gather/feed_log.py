"""The log of a feed, as a reader sees it: numbered texts on disk, some of which may be damaged.

In: a feed's folder. Out: texts from any number on, as JSON that can be sent as it is, as records,
or as documents.

    FEED/feed.json                    format, the log's id, when it began
    FEED/log/segment-000000000000.log texts from number 0 on (`feed_blocks.py`)
    FEED/log/segment-000000000000.idx its blocks, once it is full; made again from it where missing
    FEED/state.sqlite                 where readers are (`hornbook.feed.cursors`)

A text's number never changes. What is lost to damage is named once and passed over; asking for it
is `Gone`, with the next number that can be read.
"""

from __future__ import annotations

import bisect
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.gather.feed_blocks import (
    Block,
    Decoded,
    document_from,
    read_block,
    read_index,
    scan,
)
from hornbook.progress import warn

FORMAT = 1
IDENTITY = "feed.json"
SEGMENTS = "log"

_CACHED_BLOCKS = 32
_CACHED_BYTES = 2**20
"""Largest block that is kept decoded: 32 of the usual 256 kB are 8 MB, and 32 of 1 MB bearable."""
_CACHED_TABLES = 16

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Damage:
    """Numbers [first, next) that cannot be read, in or behind the file `path`."""

    path: Path
    first: int
    next: int


@dataclass(frozen=True)
class Texts:
    """Texts [first, first + count) as JSON strings, each with a comma behind it."""

    first: int
    count: int
    json: bytes


class Gone(HornbookError):
    """Texts that are not there any more, or damaged.

    Attributes:
        first: the next number that is there.
    """

    def __init__(self, what: str, first: int, where: Path):
        super().__init__(what, where=where, hint=f"The next text that is there is number {first}")
        self.first = first


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
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise HornbookError(
            f"is a feed of format {found}, this hornbook reads {FORMAT}",
            where=folder / IDENTITY,
            hint="Use the hornbook that wrote it, or name another folder",
        )
    identity = values.get("id")
    if not isinstance(identity, str) or not re.fullmatch("[0-9a-f]{32}", identity):
        raise HornbookError(
            "is damaged: the log's id is missing",
            where=folder / IDENTITY,
            hint="Each segment has it behind its first 8 bytes",
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
        self._tables: OrderedDict[Path, list[Block]] = OrderedDict()
        self._decoded: OrderedDict[tuple[Path, int], Decoded] = OrderedDict()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the feed in `folder`. Raises `HornbookError`: there is none."""
        if not is_feed(folder):
            raise HornbookError(
                "is no feed", where=folder, hint="`hornbook feed serve --feed.folder DIR` makes one"
            )
        log = cls(folder, read_identity(folder))
        log.refresh()
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
            paths = sorted((self.folder / SEGMENTS).glob("segment-*.log"))
            self._segments = [full.get(path) or self._opened(path, paths[-1]) for path in paths]
            self._note_gaps()

    def _opened(self, path: Path, last: Path) -> Segment:
        first = int(path.stem.removeprefix("segment-"))
        indexed = None if path == last else read_index(path.with_suffix(".idx"))
        blocks = scan(path, self._key, first) if indexed is None else indexed
        end = blocks[-1].end if blocks else 0
        next_number = blocks[-1].next if blocks else first
        return Segment(path, first, next_number, end, blocks if indexed is None else None)

    def _note_gaps(self) -> None:
        expected = self.first
        before = self._segments[0].path if self._segments else self.folder
        for segment in self._segments:
            self._note(before, expected, segment.first)
            expected, before = segment.first, segment.path
            for block in self._blocks(segment):
                self._note(segment.path, expected, block.first)
                expected = block.next

    def _note(self, path: Path, first: int, following: int) -> None:
        damage = Damage(path, first, following)
        if first < following and damage not in self.damaged:
            bisect.insort(self.damaged, damage, key=lambda each: each.first)
            warn(
                f"{path}: texts {first:,} to {following - 1:,} are damaged or missing here; "
                "the others can be read"
            )

    def _blocks(self, segment: Segment) -> list[Block]:
        if segment.blocks is not None:
            return segment.blocks
        table = self._tables.get(segment.path)
        if table is None:
            table = read_index(segment.path.with_suffix(".idx"))
            if table is None:  # it was whole when the log was opened
                table = segment.blocks = scan(segment.path, self._key, segment.first)
        return _keep(self._tables, segment.path, table, _CACHED_TABLES)

    def texts(self, cursor: int, n: int, most_bytes: int) -> Texts:
        """Up to `n` texts from number `cursor` on, of at most `most_bytes` together, as JSON.

        At least one, however long, unless the cursor is at the head. They end before a damaged
        one.

        Raises:
            Gone: the first of them is dropped or damaged.
            HornbookError: the cursor is beyond the head.
        """
        pieces = list(self._pieces(cursor, n, most_bytes))
        count = sum(end - begin for _, begin, end in pieces)
        joined = b"".join(block.texts(begin, end) for block, begin, end in pieces)
        return Texts(cursor, count, joined)

    def records(self, cursor: int, n: int, most_bytes: int) -> tuple[int, list[dict[str, Any]]]:
        """The same as a cursor and records: number, text, and what else is known of each."""
        records = []
        for block, begin, end in self._pieces(cursor, n, most_bytes):
            numbers = range(block.block.first + begin, block.block.first + end)
            texts, metas = _values(block.texts(begin, end)), _values(block.metas(begin, end))
            records += [
                {"number": number, "text": text, **meta}
                for number, text, meta in zip(numbers, texts, metas, strict=True)
            ]
        return cursor, records

    def documents(self, cursor: int = 0) -> Iterator[tuple[int, Document]]:
        """All documents from a number on, each with its number; damage is said and passed over."""
        cursor = max(cursor, self.first)
        while cursor < self.head:
            try:
                _, records = self.records(cursor, 1024, _CACHED_BYTES)
            except Gone as gone:
                cursor = gone.first
                continue
            for record in records:
                yield record.pop("number"), document_from(record.pop("text"), record)
            cursor += len(records)

    def last_state(self) -> dict[str, Any]:
        """Where the producers were after the last text that can be read; {} where there is none."""
        with self._lock:
            for segment in reversed(self._segments):
                for block in reversed(self._blocks(segment)):
                    decoded = self._decode(block.first)
                    if decoded is not None:
                        return decoded.state()
        return {}

    def bytes_between(self, first: int, following: int) -> int:
        """Bytes of the texts [first, following) as JSON, in whole blocks."""
        with self._lock:
            return sum(
                block.text_bytes
                for segment in self._segments
                if segment.next > first and segment.first < following
                for block in self._blocks(segment)
                if block.next > first and block.first < following
            )

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
            except Gone:
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
            most_bytes -= block.text_bytes(begin, end)

    def _block_of(self, number: int) -> Decoded:
        """The block that has a text; `Gone` with the next one that can be read."""
        what = "is damaged or missing" if number >= self.first else "is no longer kept"
        following = max(number, self.first)
        while following < self.head:
            found = self._decode(following)
            if found is not None and following == number:
                return found
            if found is not None:
                break
            following = max(self._behind_damage(following), self.first)
        raise Gone(f"text {number} {what}", following, self.folder)

    def _behind_damage(self, number: int) -> int:
        with self._lock:
            for damage in self.damaged:
                if damage.first <= number < damage.next:
                    number = damage.next
        return number

    def _decode(self, number: int) -> Decoded | None:
        """The content of the block with a text of the log; None: it is damaged, which is noted."""
        with self._lock:
            place = bisect.bisect_right(self._segments, number, key=lambda each: each.first) - 1
            if place < 0:
                return None
            segment = self._segments[place]
            blocks = self._blocks(segment)
            index = bisect.bisect_right(blocks, number, key=lambda each: each.first) - 1
            block = blocks[index] if index >= 0 else None
            if block is None or number >= block.next:
                return None  # a gap, noted when the log was opened
            decoded = self._decoded.get((segment.path, block.offset))
            if decoded is not None:
                self._decoded.move_to_end((segment.path, block.offset))
                return decoded
        try:
            decoded = read_block(segment.path, block, self._key)
        except OSError:  # dropped meanwhile, or the disk cannot read it
            decoded = None
        with self._lock:
            if decoded is None:
                if block.first >= self.first:
                    self._note(segment.path, block.first, block.next)
            elif block.raw <= _CACHED_BYTES:
                _keep(self._decoded, (segment.path, block.offset), decoded, _CACHED_BLOCKS)
        return decoded


def _values(parts: bytes) -> list[Any]:
    """The JSON values that have a comma behind each."""
    values: list[Any] = json.loads(b"[" + parts[:-1] + b"]")
    return values


def _keep(cache: OrderedDict[_Key, _Value], key: _Key, value: _Value, most: int) -> _Value:
    """Put a value into a cache of the `most` that were used last."""
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > most:
        cache.popitem(last=False)
    return value
