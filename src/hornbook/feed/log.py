"""The log of a feed, as its one writer sees it: texts get numbers when they are safely on disk.

In: documents, each batch with the state of the producers after it. Out: numbers, after an fsync.

A thread takes what waits, writes it as blocks, syncs once, and only then moves the head and tells
readers. So a process killed at any instruction leaves numbers that were given, each with its text,
and perhaps half a block behind them, which the next writer cuts off. While one batch is synced the
next ones gather: a slow disk makes larger blocks, not longer queues.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hornbook import __version__
from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import (
    TEMPORARY,
    atomic_path,
    disk_errors,
    disk_full,
    lock_folder,
    sync_folder,
    write_json,
)
from hornbook.gather.feed_blocks import (
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    encode_block,
    index_bytes,
    json_meta,
    json_text,
)
from hornbook.gather.feed_log import (
    FORMAT,
    IDENTITY,
    SEGMENTS,
    FeedLog,
    Segment,
    is_feed,
    read_identity,
)
from hornbook.progress import say, warn

SEGMENT_BYTES = 64 * 2**20
_BLOCK_BYTES = 256 * 2**10
"""Texts of one block; more than that at once is one block all the same where it came together."""
_GATHER_SECONDS = 0.01
"""Texts that come within this time of the last commit share a block: one a text would compress
badly, and a disk syncs some hundred times a second at most."""
_RETRY_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class _Waiting:
    """Documents to be appended, as they will be in a block."""

    texts: list[bytes]
    metas: list[bytes]
    state: dict[str, Any]
    bytes: int
    number: Future[int]


class LogWriter(FeedLog):
    """A log that is written to, and read by the same process.

    Attributes:
        problem: why nothing can be written at the moment (the disk is full), else None.
        failure: why nothing can be written any more, else None.
    """

    def __init__(self, folder: Path, identity: str, segment_bytes: int):
        super().__init__(folder, identity)
        self.problem: str | None = None
        self.failure: HornbookError | None = None
        self._segment_bytes = segment_bytes
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closing = False
        self._calls: list[Callable[[int], None]] = []
        self._file = -1
        self._held = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="feed log", daemon=True)

    @classmethod
    def create_or_open(
        cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, delivered: int = 0
    ) -> Self:
        """Open the feed in `folder` for writing, or begin one; one process at a time.

        Args:
            folder: of the feed.
            segment_bytes: a segment that is larger is full.
            delivered: numbers below this were seen by readers, so they are never given again, even
                where damage to the end of the log has taken the texts.

        Raises:
            HornbookError: another process writes to it, it is of another format, or the folder
                cannot be written.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(lock_folder(folder, "feed", "--feed.folder"))
            if not is_feed(folder):
                _begin(folder)
            log = cls(folder, read_identity(folder), segment_bytes)
            log._mend(delivered)
            log._held = held.pop_all()
        log._thread.start()
        return log

    def append(self, documents: Sequence[Document], state: dict[str, Any]) -> Future[int]:
        """Append documents, together or not at all, in the order of the calls.

        Do not wait for each before the next: what waits shares a sync.

        Args:
            documents: at least one.
            state: what `last_state` gives from now on, as JSON.

        Returns:
            The number of the first, once they are on disk. It ends in `failure` where the log
            fails before.
        """
        assert documents
        texts = [json_text(document.text) for document in documents]
        metas = [json_meta(document) for document in documents]
        size = sum(map(len, texts)) + sum(map(len, metas))
        waiting = _Waiting(texts, metas, state, size, Future())
        with self._changed:
            if self.failure is not None:
                raise self.failure
            assert not self._closing
            self._waiting.append(waiting)
            self._changed.notify_all()
        return waiting.number

    def on_commit(self, call: Callable[[int], None]) -> None:
        """Have `call` told the new head after each commit, by the writer's thread."""
        self._calls.append(call)

    def drop_before(self, number: int, most: int | None = None) -> int:
        """Remove the oldest full segments that have only texts before `number`.

        Args:
            number: of the first text that is still wanted.
            most: remove so many segments at most; None: all that can be.

        Returns:
            The first number that is still there.
        """
        with self._lock:
            # The producers' state is in the last block, so that block's segment stays.
            last = max((i for i, each in enumerate(self._segments) if each.bytes), default=0)
            following = [each.first for each in self._segments[1 : last + 1]]
            count = bisect.bisect_right(following, number)
            count = count if most is None else min(count, most)
            dropped, self._segments = self._segments[:count], self._segments[count:]
        for segment in dropped:
            segment.path.unlink()
            segment.path.with_suffix(".idx").unlink(missing_ok=True)
        if dropped:
            sync_folder(self.folder / SEGMENTS)
        return self.first

    def close(self) -> None:
        """Write what waits, and let others write. With a full disk, what waits is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._held.close()

    def _mend(self, delivered: int) -> None:
        """Take up the log where the last writer left it."""
        for path in (self.folder / SEGMENTS).iterdir():
            is_left_over = path.suffix == ".idx" and not path.with_suffix(".log").exists()
            if is_left_over or path.suffix == TEMPORARY:
                path.unlink()
        self.refresh()
        for segment in self._segments[:-1]:
            if segment.blocks is not None:
                self._seal(segment)
        if not self._segments:
            self._begin_segment(delivered)
            return
        last = self._segments[-1]
        torn = last.path.stat().st_size - max(last.bytes, SEGMENT_HEADER.size)
        self._file = _opened(last.path)
        if torn > 0:
            say(f"{last.path}: {torn:,} bytes that a writer left unfinished were cut off")
        if last.bytes:
            os.ftruncate(self._file, last.bytes)
        else:
            self._write_header(last)
        if delivered > last.next:
            self._note(last.path, last.next, delivered)
            self._seal(last)
            self._begin_segment(delivered)

    def _begin_segment(self, first: int) -> None:
        path = self.folder / SEGMENTS / f"segment-{first:012d}.log"
        segment = Segment(path, first, first, 0, [])
        file = _opened(path)
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._write_header(segment)
        sync_folder(path.parent)
        with self._lock:
            self._segments = [*self._segments, segment]

    def _write_header(self, segment: Segment) -> None:
        os.ftruncate(self._file, 0)
        header = SEGMENT_HEADER.pack(SEGMENT_MAGIC, self._key, segment.first)
        _write_all(self._file, header, 0)
        os.fsync(self._file)

    def _seal(self, segment: Segment) -> None:
        assert segment.blocks is not None
        with atomic_path(segment.path.with_suffix(".idx")) as temporary:
            temporary.write_bytes(index_bytes(segment.blocks))
        with self._lock:
            segment.blocks = None

    def _run(self) -> None:
        """The writer's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                taken, self._waiting = self._waiting, []
            if not self._commit(taken):
                return
            with self._changed:
                self._changed.wait_for(self._has_enough, _GATHER_SECONDS)

    def _has_enough(self) -> bool:
        return self._closing or sum(each.bytes for each in self._waiting) >= _BLOCK_BYTES

    def _commit(self, taken: list[_Waiting]) -> bool:
        """Make documents durable, however often that must be tried; False: it cannot be done."""
        while True:
            try:
                self._write(taken)
                return True
            except (OSError, HornbookError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                number = cause.errno if isinstance(cause, OSError) else None
                if number not in _FULL or self._closing:
                    self._fail(taken, error)
                    return False
                if self.problem is None:
                    self.problem = "the disk is full"
                    warn(f"{self.folder}: {self.problem}; nothing is made until there is space")
            with self._changed:
                self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)

    def _fail(self, taken: list[_Waiting], error: Exception) -> None:
        if isinstance(error, HornbookError):
            failure = error
        elif isinstance(error, OSError) and error.errno in _FULL:
            failure = disk_full(self.folder)
        else:
            failure = HornbookError(
                f"the log cannot be written ({error})",
                where=self.folder,
                hint="Look at the disk; what was delivered is in the log; serving again goes on",
            )
        with self._changed:
            self.failure = failure
            taken, self._waiting = [*taken, *self._waiting], []
        for each in taken:
            each.number.set_exception(failure)

    def _write(self, taken: list[_Waiting]) -> None:
        segment = self._segments[-1]
        if segment.bytes >= self._segment_bytes:
            if segment.blocks is not None:
                self._seal(segment)
            self._begin_segment(segment.next)
            segment = self._segments[-1]
        try:
            numbers = self._write_blocks(segment, taken)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, max(segment.bytes, SEGMENT_HEADER.size))
            raise
        self.problem = None
        for each, first in zip(taken, numbers, strict=True):
            each.number.set_result(first)
        for call in self._calls:
            call(segment.next)

    def _write_blocks(self, segment: Segment, taken: list[_Waiting]) -> list[int]:
        """Write and sync; the number of the first document of each append."""
        offset = max(segment.bytes, SEGMENT_HEADER.size)
        number, blocks, numbers = segment.next, [], []
        for group in _groups(taken):
            for each in group:
                numbers.append(number)
                number += len(each.texts)
            data, block = encode_block(
                self._key,
                numbers[-len(group)],
                [text for each in group for text in each.texts],
                [meta for each in group for meta in each.metas],
                group[-1].state,
            )
            _write_all(self._file, data, offset)
            blocks.append(block._replace(offset=offset))
            offset += len(data)
        os.fsync(self._file)
        with self._lock:
            assert segment.blocks is not None
            segment.blocks += blocks
            segment.next, segment.bytes = number, offset
        return numbers


def _groups(taken: list[_Waiting]) -> Iterator[list[_Waiting]]:
    """What waits, in parts of about the size of a block; what came together stays together."""
    group: list[_Waiting] = []
    size = 0
    for each in taken:
        if group and size + each.bytes > _BLOCK_BYTES:
            yield group
            group, size = [], 0
        group.append(each)
        size += each.bytes
    yield group


def _opened(path: Path) -> int:
    binary = getattr(os, "O_BINARY", 0)  # on Windows alone
    return os.open(path, os.O_RDWR | os.O_CREAT | binary, 0o644)


def _write_all(file: int, data: bytes, offset: int) -> None:
    os.lseek(file, offset, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _begin(folder: Path) -> None:
    """Make an empty feed."""
    segments = folder / SEGMENTS
    if segments.is_dir() and any(segments.glob("segment-*.log")):
        raise HornbookError(
            f"has the segments of a feed, but no {IDENTITY}",
            where=folder,
            hint=f"Put {IDENTITY} back (its id is in each segment's header), or name another",
        )
    with disk_errors(folder):
        segments.mkdir(parents=True, exist_ok=True)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    identity = {"format": FORMAT, "id": secrets.token_hex(16), "created": created}
    write_json(folder / IDENTITY, {**identity, "hornbook": __version__})
    sync_folder(folder.resolve().parent)
