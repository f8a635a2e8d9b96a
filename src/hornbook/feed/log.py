"""The log of a feed, as its one writer sees it: texts get numbers when they are safely on disk.

In: documents, each batch with the state of the producers after it. Out: numbers, after an fsync.

A thread takes what waits, writes it as blocks, syncs once, and only then moves the head and tells
readers. So a process killed at any instruction leaves numbers that were given, each with its text,
and perhaps half a block behind them, which the next writer cuts off. While one batch is synced the
next ones gather: a slow disk makes larger blocks, not longer queues.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
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
    make_folder,
    sync_folder,
    write_json,
)
from hornbook.gather.feed_blocks import (
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    Block,
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
INSTEAD = "another feed with --feed.folder DIR"
"""What to choose where the folder cannot be written."""
_BLOCK_BYTES = 256 * 2**10
"""Of one block; an append that is larger is one block all the same."""
_GATHER_SECONDS = 0.01
"""Texts that come within this time of the last commit share a block: one a text would compress
badly, and a disk syncs some hundred times a second at most."""
_RETRY_SECONDS = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class _Gathered:
    """Appends that will be a block."""

    texts: list[bytes] = field(default_factory=list)
    metas: list[bytes] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    told: list[tuple[Future[int], int]] = field(default_factory=list)
    """Who waits for each append's number, and the place of its first text in the block."""


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
        self._waiting: list[_Gathered] = []
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
            with disk_errors(folder, INSTEAD):
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
        number: Future[int] = Future()
        number.set_running_or_notify_cancel()  # one that is cancelled could not be answered
        with self._changed:
            if self.failure is not None:
                raise self.failure
            assert not self._closing
            if not self._waiting or self._waiting[-1].bytes + size > _BLOCK_BYTES:
                self._waiting.append(_Gathered())
            block = self._waiting[-1]
            block.told.append((number, len(block.texts)))
            block.texts += texts
            block.metas += metas
            block.state, block.bytes = state, block.bytes + size
            self._changed.notify_all()
        return number

    def on_commit(self, call: Callable[[int], None]) -> None:
        """Have `call` told the new head after each commit, by the writer's thread."""
        self._calls.append(call)

    def drop_before(self, number: int, keep_bytes: int = 0) -> int:
        """Remove the oldest full segments that have only texts before `number`.

        Args:
            number: of the first text that is still wanted.
            keep_bytes: none is removed from a log that is no larger than this.

        Returns:
            The first number that is still there.
        """
        with self._lock:
            # The producers' state is in the last block, so that block's segment stays.
            last = max((i for i, each in enumerate(self._segments) if each.bytes), default=0)
            count, stored = 0, self.stored_bytes
            while count < last and stored > keep_bytes and self._segments[count].next <= number:
                stored -= self._segments[count].bytes
                count += 1
            dropped, self._segments = self._segments[:count], self._segments[count:]
        with disk_errors(self.folder, INSTEAD):
            for segment in dropped:
                segment.path.unlink(missing_ok=True)
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
        """Take up the log where the last writer left it.

        Blocks that it had written and not synced when it was killed are whole, and are read from
        now on: so they are synced first.
        """
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
        self._check_owner(last)
        torn = last.path.stat().st_size - max(last.bytes, SEGMENT_HEADER.size)
        self._file = _open(last.path)
        if torn > 0:
            say(f"{last.path}: {torn:,} bytes that a writer left unfinished were cut off")
        if last.bytes:
            os.ftruncate(self._file, last.bytes)
            os.fsync(self._file)
        else:
            self._write_header(last)
        if delivered > last.next:
            self._note(last.path, last.next, delivered)
            self._seal(last)
            self._begin_segment(delivered)

    def _check_owner(self, last: Segment) -> None:
        """Refuse to cut off as damage what is another log's."""
        with open(last.path, "rb") as file:
            header = file.read(SEGMENT_HEADER.size)
        if last.bytes or len(header) < SEGMENT_HEADER.size:
            return
        magic, key, _ = SEGMENT_HEADER.unpack(header)
        if magic == SEGMENT_MAGIC and key != self._key:
            raise HornbookError(
                f"is of the log {key.hex()}, not of {self.id}",
                where=last.path,
                hint=f"Put the {IDENTITY} with that id back, or move the segment away",
            )

    def _begin_segment(self, first: int) -> None:
        path = self.folder / SEGMENTS / f"segment-{first:012d}.log"
        segment = Segment(path, first, first, 0, [])
        file = _open(path)
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

    def _commit(self, taken: list[_Gathered]) -> bool:
        """Make blocks durable, however often that must be tried; False: it cannot be done."""
        while True:
            try:
                self._write(taken)
                return True
            except (OSError, HornbookError) as error:
                cause = error.__cause__ or error
            is_full = getattr(cause, "errno", None) in _FULL
            if not is_full or self._closing:
                self._fail(taken, disk_full(self.folder) if is_full else self._broken(cause))
                return False
            if self.problem is None:
                self.problem = "the disk is full"
                warn(f"{self.folder}: {self.problem}; nothing is made until there is space")
            with self._changed:
                self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)

    def _broken(self, cause: BaseException) -> HornbookError:
        return HornbookError(
            f"the log cannot be written ({cause})",
            where=self.folder,
            hint="Look at the disk; what was delivered is in the log; serving again goes on",
        )

    def _fail(self, taken: list[_Gathered], failure: HornbookError) -> None:
        with self._changed:
            self.failure = failure
            taken, self._waiting = [*taken, *self._waiting], []
        for number, _ in (each for block in taken for each in block.told):
            number.set_exception(failure)

    def _write(self, taken: list[_Gathered]) -> None:
        segment = self._segments[-1]
        if segment.bytes >= self._segment_bytes:
            if segment.blocks is not None:
                self._seal(segment)
            self._begin_segment(segment.next)
            segment = self._segments[-1]
        try:
            blocks = self._write_blocks(segment, taken)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, max(segment.bytes, SEGMENT_HEADER.size))
            raise
        self.problem = None
        for gathered, block in zip(taken, blocks, strict=True):
            for number, place in gathered.told:
                number.set_result(block.first + place)
        for call in self._calls:
            call(segment.next)

    def _write_blocks(self, segment: Segment, taken: list[_Gathered]) -> list[Block]:
        """Write and sync; then they are part of the log."""
        offset, number = max(segment.bytes, SEGMENT_HEADER.size), segment.next
        blocks = []
        for each in taken:
            data, block = encode_block(self._key, number, each.texts, each.metas, each.state)
            _write_all(self._file, data, offset)
            blocks.append(block._replace(offset=offset))
            offset, number = blocks[-1].end, blocks[-1].next
        os.fsync(self._file)
        with self._lock:
            assert segment.blocks is not None
            segment.blocks += blocks
            segment.next, segment.bytes = number, offset
        return blocks


def _open(path: Path) -> int:
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
    make_folder(segments, INSTEAD)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    identity = {"format": FORMAT, "id": secrets.token_hex(16), "created": created}
    write_json(folder / IDENTITY, {**identity, "hornbook": __version__})
    sync_folder(folder.resolve().parent)
