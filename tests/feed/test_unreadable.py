"""A block that cannot be read at this moment (too few descriptors, a disk's error) is not lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.feed.serving import serving

from hornbook.cli import main
from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.gather import feed_log
from hornbook.gather.feed_log import FeedLog, Unreadable

ERRORS = pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.EACCES])


class Disk:
    """Stands for `read_block` and `scan`, which fail with `error` unless it is 0: the block that
    begins with text `block`, the scans of segments where `scans`."""

    def __init__(self) -> None:
        self.error, self.block, self.scans = 0, -1, False
        self._read_block, self._scan = feed_log.read_block, feed_log.scan

    def read_block(self, path: Path, block: Any, key: bytes) -> Any:
        if self.block == block.first:
            self._fail(path)
        return self._read_block(path, block, key)

    def scan(self, path: Path, key: bytes, first: int) -> Any:
        if self.scans:
            self._fail(path)
        return self._scan(path, key, first)

    def _fail(self, path: Path) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error), str(path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(feed_log, "read_block", disk.read_block)
    monkeypatch.setattr(feed_log, "scan", disk.scan)
    return disk


def text(number: int) -> str:
    return f"This is the text of number {number}. " * 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A feed of thirty texts in three segments, each a block."""
    log = LogWriter.create_or_open(tmp_path / "feed", segment_bytes=1)
    for first in range(0, 30, 10):
        documents = [Document(text(first + k)) for k in range(10)]
        log.append(documents, {"made": first}).result(30)
    log.close()
    return tmp_path / "feed"


@pytest.fixture
def log(folder: Path) -> Iterator[LogWriter]:
    writer = LogWriter.create_or_open(folder, segment_bytes=1)
    yield writer
    writer.close()


@ERRORS
@pytest.mark.parametrize("asked", [{"cursor": 10}, {"consumer": "all"}, {}])
def test_readers_are_told_to_come_again(
    log: LogWriter, disk: Disk, error: int, asked: dict[str, Any]
) -> None:
    with serving(log) as feed:
        if "consumer" in asked:
            feed.get("/generate", n=10, **asked)
        places = feed.cursors.groups()
        first = log.first + asked.get("cursor", 0) + 10 * ("consumer" in asked)
        disk.error, disk.block = error, first
        for _ in range(3):
            answer = feed.get("/generate", n=64, **asked)
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
            assert os.strerror(error) in answer.json()["error"]
            assert f"segment-{first:012d}.log" in answer.json()["error"]
        stats = feed.get("/stats").json()
        assert stats["damaged_texts"] == 0 and stats["damaged"] == []
        assert feed.cursors.groups() in (places, {**places, "anonymous": 0})
        disk.error = 0
        assert feed.get("/generate", n=10, **asked).json() == [text(first + k) for k in range(10)]


@ERRORS
def test_an_answer_ends_before_what_cannot_be_read(log: LogWriter, disk: Disk, error: int) -> None:
    with serving(log) as feed:
        disk.error, disk.block = error, 10
        assert len(feed.get("/generate", n=64, cursor=0).json()) == 10
        assert len(feed.get("/generate", n=64, consumer="all").json()) == 10
        assert feed.get("/generate", n=64, cursor=10).status_code == 503
        disk.error = 0
        assert feed.get("/generate", n=64, consumer="all").json()[0] == text(10)


@ERRORS
def test_a_full_segment_without_its_index(
    folder: Path, log: LogWriter, disk: Disk, error: int
) -> None:
    log.close()
    log = LogWriter.create_or_open(folder, segment_bytes=1)
    (folder / "log" / f"segment-{10:012d}.idx").unlink()
    disk.error, disk.scans = error, True
    with pytest.raises(Unreadable, match="cannot be read now") as unreadable:
        log.texts(10, 5, 100)
    assert (unreadable.value.first, unreadable.value.next) == (10, 20) and not log.damaged
    disk.error = 0
    assert log.texts(10, 5, 10_000)[0] == 5
    log.close()


@ERRORS
def test_prepare_ends_with_the_message(
    folder: Path, disk: Disk, error: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = FeedLog.open(folder)
    disk.error, disk.block = error, 10
    found = []
    with pytest.raises(HornbookError, match=f"segment-{10:012d}.log.*{os.strerror(error)}"):
        for number, _ in log.documents():
            found.append(number)
    assert found == list(range(10)) and not log.damaged
    assert main(["prepare", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert os.strerror(error) in capsys.readouterr().err
    disk.error = 0
    assert main(["prepare", str(folder), "--out", str(tmp_path / "out")]) == 0


@ERRORS
def test_check_goes_on_and_names_the_file(
    folder: Path, disk: Disk, error: int, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.error, disk.block = error, 10
    assert main(["feed", "check", str(folder)]) == 2
    said = capsys.readouterr().out
    assert f"segment-{10:012d}.log: 10 to 19" in said and os.strerror(error) in said
    assert "texts      20" in said and "lost       0" in said and "unreadable 10" in said
    disk.error = 0
    assert main(["feed", "check", str(folder)]) == 0
    assert "unreadable" not in capsys.readouterr().out


@ERRORS
def test_a_feed_whose_end_cannot_be_read_is_not_begun_anew(
    folder: Path, disk: Disk, error: int, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.error, disk.scans = error, True
    assert main(["feed", "serve", f"--feed.folder={folder}", "--feed.port=0"]) == 2
    assert "cannot be read now" in capsys.readouterr().err
    assert main(["feed", "check", str(folder)]) == 2
    assert os.strerror(error) in capsys.readouterr().err
    disk.error = 0
    assert len(list(FeedLog.open(folder).documents())) == 30


def test_a_file_that_is_gone_is_lost(log: LogWriter, disk: Disk) -> None:
    (log.folder / "log" / f"segment-{10:012d}.log").unlink()
    with serving(log) as feed:
        answer = feed.get("/generate", cursor=10)
        assert answer.status_code == 410 and answer.json()["first"] == 20
    assert [damage.first for damage in log.damaged] == [10]
