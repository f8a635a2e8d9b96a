"""A full disk: nothing is given a number, reading goes on, writing too when there is space."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.feed import log as log_module
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import LogWriter
from hornbook.gather.feed_log import FeedLog


class Disk:
    """Stands for `os.write`: has room for so many bytes more."""

    def __init__(self, room: int, error: int = errno.ENOSPC):
        self.room, self.error = room, error
        self.refused = threading.Event()
        self._write = os.write

    def write(self, file: int, data: bytes) -> int:
        if self.room <= 0:
            self.refused.set()
            raise OSError(self.error, os.strerror(self.error))
        count = self._write(file, memoryview(data)[: self.room])
        self.room -= count
        return count


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("quick_retry")
@pytest.mark.parametrize("room", [0, 1, 60, 200])
@pytest.mark.parametrize("segment_bytes", [1, 2**20])
def test_a_full_disk_is_waited_for(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch, room: int, segment_bytes: int
) -> None:
    log._segment_bytes = segment_bytes
    log.append([Document("before")], {"made": 1}).result(30)
    disk = Disk(room)
    monkeypatch.setattr(os, "write", disk.write)
    futures = [log.append([Document(os.urandom(200).hex())], {"made": i}) for i in range(2, 5)]
    assert disk.refused.wait(30)
    assert not all(future.done() for future in futures)
    assert log.texts(0, 1, 100) == (1, b'["before"]')
    while log.problem is None:
        pass
    assert "disk is full" in log.problem
    disk.room = 10**6
    assert [future.result(30) for future in futures] == [1, 2, 3]
    assert log.problem is None and log.last_state() == {"made": 4}
    reader = FeedLog.open(log.folder)
    assert [number for number, _ in reader.documents()] == [0, 1, 2, 3] and not reader.damaged


@pytest.mark.usefixtures("quick_retry")
def test_leaving_with_a_full_disk_gives_up_what_has_no_number(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([Document("before")], {}).result(30)
    disk = Disk(50)
    monkeypatch.setattr(os, "write", disk.write)
    future = log.append([Document("never")], {})
    assert disk.refused.wait(30)
    log.close()
    with pytest.raises(HornbookError, match="the disk is full; nothing half-written was kept"):
        future.result(30)
    assert FeedLog.open(log.folder).head == 1


def test_a_disk_that_cannot_sync_ends_the_feed(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([Document("before")], {}).result(30)

    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    future = log.append([Document("never")], {})
    with pytest.raises(HornbookError, match=r"cannot be written .*Input/output error"):
        future.result(30)
    with pytest.raises(HornbookError, match="cannot be written"):
        log.append([Document("nor this")], {})
    assert log.failure is not None and log.head == 1
    assert log.texts(0, 5, 100)[0] == 1


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (errno.EACCES, "cannot write here .* Choose another feed with --feed.folder DIR"),
        (errno.EFBIG, "is larger than the file system"),
    ],
)
def test_what_a_feeds_folder_refuses_is_said_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, problem: str
) -> None:
    LogWriter.create_or_open(tmp_path).close()

    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(HornbookError, match=problem):
        LogWriter.create_or_open(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; the test is skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.usefixtures("quick_retry")
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    log = LogWriter.create_or_open(small_disk / "feed", segment_bytes=50_000)
    cursors = Cursors(small_disk / "feed")
    lease = cursors.lease("group", 0, 8, 8, 600.0)
    assert lease is not None
    futures = []
    while log.problem is None:
        texts = [os.urandom(1000).hex() for _ in range(8)]
        futures.append((texts, log.append([Document(text) for text in texts], {})))
        while log.problem is None and sum(not future.done() for _, future in futures) > 2:
            pass
    head = log.head
    assert head > 100
    number, texts = next((future.result(), texts) for texts, future in futures if future.done())
    assert [each["text"] for each in log.records(number, 8, 10**6)] == texts
    with pytest.raises(HornbookError, match="the disk is full"):
        for number in range(10_000):
            cursors.set(f"reader-{number}", number)
    acknowledged = False
    with contextlib.suppress(HornbookError):  # sometimes there is room for this
        acknowledged = cursors.acknowledge("group", lease.id)
    assert acknowledged or cursors.groups() == {"group": 0}
    log.drop_before(head // 2)
    assert acknowledged or cursors.acknowledge("group", lease.id)
    for texts, future in futures:
        first = future.result(30)
        if first >= log.first:
            assert [each["text"] for each in log.records(first, 8, 10**6)] == texts
    assert log.head == 8 * len(futures) > head and log.problem is None
    log.close()
    cursors.close()
    reader = FeedLog.open(log.folder)
    assert len(list(reader.documents())) == reader.head - reader.first and not reader.damaged
