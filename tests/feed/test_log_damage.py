"""Damage: cut off anywhere, bytes flipped, a segment lost. It is named, the rest can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.gather.feed_log import Damage, FeedLog, Gone


def made(folder: Path, commits: int = 8, segment_bytes: int = 1) -> LogWriter:
    """A closed log; each commit has 5 texts and is a block, and a segment if these are small."""
    log = LogWriter.create_or_open(folder, segment_bytes=segment_bytes)
    for number in range(commits):
        texts = [f"text {5 * number + i} " + os.urandom(20).hex() for i in range(5)]
        log.append([Document(text) for text in texts], {"made": number}).result(30)
    log.close()
    return log


def numbers(log: FeedLog) -> list[int]:
    found = []
    for number, document in log.documents():
        assert document.text.startswith(f"text {number} ")
        found.append(number)
    return found


def segment(folder: Path, first: int) -> Path:
    return folder / "log" / f"segment-{first:012d}.log"


def test_cut_at_every_byte_of_the_last_block(tmp_path: Path) -> None:
    made(tmp_path / "whole", commits=3, segment_bytes=2**20)
    path = segment(tmp_path / "whole", 0)
    size = path.stat().st_size
    reader = FeedLog.open(tmp_path / "whole")
    assert reader.head == 15
    begin = reader._blocks(reader._segments[0])[-1].offset
    for length in range(begin, size):
        folder = tmp_path / "cut"
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(segment(folder, 0), length)
        assert numbers(FeedLog.open(folder)) == list(range(10))
        if length % 23 == 0:  # the writer syncs each time
            log = LogWriter.create_or_open(folder)
            assert (log.head, log.last_state(), log.damaged) == (10, {"made": 1}, [])
            assert log.append([Document("text 10 again")], {}).result(30) == 10
            log.close()
            assert numbers(FeedLog.open(folder)) == list(range(11))
        shutil.rmtree(folder)


@pytest.mark.parametrize("length", [0, 1, 31, 32])
def test_a_segment_that_had_only_begun(tmp_path: Path, length: int) -> None:
    made(tmp_path, commits=2)
    segment(tmp_path, 10).write_bytes(segment(tmp_path, 5).read_bytes()[:length])
    log = LogWriter.create_or_open(tmp_path)
    assert (log.head, log.last_state()) == (10, {"made": 1})
    assert log.append([Document("text 10 ")], {}).result(30) == 10
    assert log.drop_before(10) == 10
    log.close()
    assert numbers(FeedLog.open(tmp_path)) == [10]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two logs, one of many segments and one of a single segment."""
    folder = tmp_path_factory.mktemp("whole")
    made(folder / "many", segment_bytes=1)
    made(folder / "one", segment_bytes=2**20)
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), sealed=st.booleans())
def test_a_flipped_byte_costs_one_block_at_most(
    whole: Path, place: float, bits: int, sealed: bool
) -> None:
    folder = whole / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / ("many" if sealed else "one"), folder)
    path = segment(folder, 10 if sealed else 0)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= bits
    path.write_bytes(data)
    log = FeedLog.open(folder)
    found = numbers(log)
    lost = sorted(set(range(log.head)) - set(found))
    assert len(lost) in (0, 5) and lost == list(range(lost[0], lost[0] + 5) if lost else [])
    assert log.damaged == ([Damage(path, lost[0], lost[0] + 5)] if lost else [])
    if lost:
        with pytest.raises(Gone, match=f"text {lost[1]} is damaged or missing") as gone:
            log.texts(lost[1], 1, 100)
        assert gone.value.first == lost[0] + 5
        assert log.texts(max(lost[0] - 2, 0), 9, 10**6)[0] == 2 if lost[0] else True
    writer = LogWriter.create_or_open(folder)
    # Damage at the very end cannot be told from a write that was cut short, and is cut off.
    assert writer.head in (log.head, 40) and len(numbers(writer)) == len(found)
    writer.close()


def test_a_lost_segment_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    segment(tmp_path, 10).unlink()
    segment(tmp_path, 15).unlink()
    log = FeedLog.open(tmp_path)
    assert numbers(log) == [*range(10), *range(20, 40)]
    said = capsys.readouterr().err.replace("\n", "")
    assert "segment-000000000005.log: texts 10 to 19 are damaged or missing here" in said
    assert said.count("damaged") == 1
    with pytest.raises(Gone) as gone:
        log.records(12, 1, 100)
    assert gone.value.first == 20
    assert log.texts(8, 9, 10**6)[0] == 2


def test_the_end_of_a_full_segment_is_lost(tmp_path: Path) -> None:
    made(tmp_path, commits=4)
    path = segment(tmp_path, 5)
    for with_index in (True, False):
        os.truncate(path, path.stat().st_size - 1)
        if not with_index:
            path.with_suffix(".idx").unlink()
        log = FeedLog.open(tmp_path)
        assert numbers(log) == [*range(5), *range(10, 20)]
        assert log.damaged == [Damage(path, 5, 10)]


def test_segments_of_another_log_are_not_taken_for_ours(tmp_path: Path) -> None:
    made(tmp_path / "ours", commits=3)
    made(tmp_path / "theirs", commits=3)
    shutil.copy(segment(tmp_path / "theirs", 5), segment(tmp_path / "ours", 5))
    assert numbers(FeedLog.open(tmp_path / "ours")) == [*range(5), *range(10, 15)]
    shutil.copy(tmp_path / "theirs" / "feed.json", tmp_path / "ours" / "feed.json")
    last = segment(tmp_path / "ours", 10).read_bytes()
    with pytest.raises(HornbookError, match=r"is of the log \w+, not of .* Put the feed.json"):
        LogWriter.create_or_open(tmp_path / "ours")
    assert segment(tmp_path / "ours", 10).read_bytes() == last
