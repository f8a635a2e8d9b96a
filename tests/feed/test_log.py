"""The log: what goes in comes out, under the number it was given, whatever the block edges."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.documents import Document, mend_surrogates
from hornbook.errors import HornbookError
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import LogWriter
from hornbook.feed.retention import Retention, most_bytes, segment_bytes, size_in_bytes
from hornbook.gather.feed_blocks import document_from, meta_of, read_index, scan
from hornbook.gather.feed_log import FeedLog, Gone

TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None), max_size=10),  # lone surrogates too
    st.sampled_from(["", "\0", "\ud800", "\ud83d\ude00", "😀" * 999, "HBLK" * 50, "a\n" * 500_000]),
)
DOCUMENTS = st.builds(
    Document,
    text=TEXTS,
    source=st.sampled_from(["", "wikipedia", "\udfff"]),
    url=st.sampled_from(["", "https://example.org/ü"]),
    meta=st.dictionaries(st.sampled_from(["producer", "prompt"]), TEXTS.map(lambda t: t[:20])),
)
BATCHES = st.lists(st.lists(DOCUMENTS, min_size=1, max_size=5), max_size=8)


def numbered(log: LogWriter, count: int, at_a_time: int = 10) -> None:
    """Append texts that say their own number, and wait."""
    futures = [
        log.append([Document(f"text {i}") for i in range(a, a + at_a_time)], {"made": a})
        for a in range(log.head, log.head + count, at_a_time)
    ]
    for future in futures:
        future.result(30)


def all_texts(log: FeedLog, cursor: int, n: int, most_bytes: int) -> list[str]:
    found: list[str] = []
    while cursor < log.head:
        count, array = log.texts(cursor, n, most_bytes)
        texts = json.loads(array)
        assert 1 <= count == len(texts) <= n
        assert count == 1 or len(array) <= most_bytes + 1
        found += texts
        cursor += count
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=BATCHES,
    reopen=st.sets(st.integers(0, 8)),
    segment=st.sampled_from([1, 2000, 2**26]),
    n=st.integers(1, 12),
    most=st.sampled_from([1, 100, 2**22]),
)
def test_documents_come_back_whatever_the_edges(
    batches: list[list[Document]], reopen: set[int], segment: int, n: int, most: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = LogWriter.create_or_open(Path(folder), segment_bytes=segment)
        expected: list[Document] = []
        for number, batch in enumerate(batches):
            if number in reopen:
                log.close()
                log = LogWriter.create_or_open(Path(folder), segment_bytes=segment)
            future = log.append(batch, {"batch": number})
            if number % 2:
                assert future.result(30) == len(expected)
            expected += batch
        log.close()
        for reader in (log, FeedLog.open(Path(folder))):
            assert reader.head == len(expected) and reader.first == 0
            assert all_texts(reader, 0, n, most) == [mend_surrogates(d.text) for d in expected]
            documents = list(reader.documents())
            assert [number for number, _ in documents] == list(range(len(expected)))
            for (_, found), document in zip(documents, expected, strict=True):
                assert found == document_from(
                    mend_surrogates(document.text),
                    json.loads(mend_surrogates(json.dumps(meta_of(document), ensure_ascii=False))),
                )
            state = {"batch": len(batches) - 1} if batches else {}
            assert reader.last_state() == state
            assert sum(size for _, size in reader.sizes(0)) == sum(
                len(json.dumps(mend_surrogates(d.text), ensure_ascii=False).encode()) + 1
                for d in expected
            )


def test_reading_may_begin_anywhere(log: LogWriter) -> None:
    numbered(log, 200)
    for cursor in (0, 1, 99, 199):
        records = log.records(cursor, 3, 10**6)
        numbers = range(cursor, min(cursor + 3, 200))
        assert records == [{"number": i, "text": f"text {i}"} for i in numbers]
    assert log.texts(200, 5, 10**6) == (0, b"[]")
    with pytest.raises(HornbookError, match=r"there is no text 201 yet\. The next one will be 200"):
        log.texts(201, 1, 10**6)


def test_a_number_is_given_only_after_the_disk_has_it(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_sync, heads = threading.Event(), []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (may_sync.wait(30), real(file)))
    log.on_commit(heads.append)
    futures = [log.append([Document(str(i))], {}) for i in range(5)]
    assert not any(future.done() for future in futures) and log.head == 0
    may_sync.set()
    assert [future.result(30) for future in futures] == [0, 1, 2, 3, 4]
    numbered(log, 50)
    assert heads == sorted(set(heads)) and heads[-1] == log.head == 55


def test_another_process_reads_on(log: LogWriter) -> None:
    numbered(log, 10)
    reader = FeedLog.open(log.folder)
    numbered(log, 10)
    assert reader.head == 10
    reader.refresh()
    assert reader.head == 20 and reader.id == log.id


def test_a_reader_goes_on_where_another_process_drops_segments(tmp_path: Path) -> None:
    log = LogWriter.create_or_open(tmp_path, segment_bytes=1)
    for _ in range(30):  # more segments than a reader remembers the blocks of
        numbered(log, 10)
    reader = FeedLog.open(tmp_path)
    (tmp_path / "log" / "segment-000000000000 (copy).log").touch()  # is nobody's
    assert log.drop_before(205) == 200
    assert [number for number, _ in reader.documents()] == list(range(200, 300))
    with pytest.raises(Gone) as gone:
        reader.texts(7, 1, 100)
    assert gone.value.first == 200
    log.close()


def test_what_was_written_but_not_synced_is_synced_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter.create_or_open(tmp_path)
    numbered(log, 10)
    log.close()
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), real(file))
    )
    LogWriter.create_or_open(tmp_path).close()
    assert (tmp_path / "log" / "segment-000000000000.log").stat().st_ino in synced


def test_an_append_cannot_be_cancelled(log: LogWriter) -> None:
    assert not log.append([Document("text 0")], {}).cancel()
    numbered(log, 10, at_a_time=1)
    assert log.head == 11


def test_one_writer_at_a_time_and_one_format(log: LogWriter, tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="another hornbook process is working in this feed"):
        LogWriter.create_or_open(log.folder)
    identity = log.folder / "feed.json"
    identity.write_text(identity.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(HornbookError, match=r"is a feed of format 2 .* reads format 1"):
        FeedLog.open(log.folder)
    with pytest.raises(HornbookError, match="is no feed"):
        FeedLog.open(tmp_path)
    identity.unlink()
    (log.folder / "log" / "segment-000000000000.log").touch()
    log.close()
    with pytest.raises(HornbookError, match="has the segments of a feed"):
        LogWriter.create_or_open(log.folder)


def test_many_threads_read_while_it_is_written_and_dropped(tmp_path: Path) -> None:
    log = LogWriter.create_or_open(tmp_path, segment_bytes=3000)
    numbered(log, 100)
    problems: list[object] = []
    done = threading.Event()

    def read(step: int) -> None:
        cursor = 0
        while not done.is_set():
            try:
                records = log.records(cursor, step, 500)
            except Gone as gone:
                cursor = gone.first
                continue
            if any(record["text"] != f"text {record['number']}" for record in records):
                problems.append(records)
            cursor = (cursor + len(records)) if cursor + len(records) < log.head else log.first

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 7, 64)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        numbered(log, 200)
        log.drop_before(log.head - 500)
    done.set()
    for thread in threads:
        thread.join()
    assert not problems and log.first > 0 and not log.damaged
    log.close()


def test_only_full_segments_are_dropped_and_the_state_stays(tmp_path: Path) -> None:
    log = LogWriter.create_or_open(tmp_path, segment_bytes=1)  # a segment for each commit
    for _ in range(6):
        numbered(log, 10)
    assert log.drop_before(25) == 20
    assert log.drop_before(60, keep_bytes=log.stored_bytes - 1) == 30
    assert log.drop_before(60) == 50
    (tmp_path / "log" / "segment-000000000020.idx").touch()  # killed between the two files
    with pytest.raises(Gone, match="text 7 is no longer kept") as gone:
        log.texts(7, 1, 100)
    assert gone.value.first == 50
    log.close()
    log = LogWriter.create_or_open(tmp_path, segment_bytes=1)
    assert (log.first, log.head, log.last_state()) == (50, 60, {"made": 50})
    names = {path.name for path in (tmp_path / "log").iterdir()}
    assert names == {"segment-000000000050.log"}
    log.close()


def test_numbers_that_were_delivered_are_never_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogWriter.create_or_open(tmp_path)
    numbered(log, 30)
    log.close()
    os.truncate(tmp_path / "log" / "segment-000000000000.log", 50)
    log = LogWriter.create_or_open(tmp_path, delivered=25)
    assert "texts 0 to 24 are damaged or missing" in capsys.readouterr().err.replace("\n", " ")
    assert log.append([Document("new")], {}).result(30) == 25
    log.close()
    reader = FeedLog.open(tmp_path)
    assert [number for number, _ in reader.documents()] == [25]


def test_an_index_that_is_lost_is_made_again(tmp_path: Path) -> None:
    log = LogWriter.create_or_open(tmp_path, segment_bytes=1)
    for _ in range(3):
        numbered(log, 10)
    log.close()
    index = tmp_path / "log" / "segment-000000000010.idx"
    blocks = read_index(index)
    assert blocks == scan(index.with_suffix(".log"), bytes.fromhex(log.id), 10)
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert len(all_texts(FeedLog.open(tmp_path), 0, 7, 10**6)) == 30
    assert read_index(index) is None
    LogWriter.create_or_open(tmp_path).close()
    assert read_index(index) == blocks


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 MB", 1_500_000), ("77", 77), ("2k", 2000)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text, "feed.keep") == size


@pytest.mark.parametrize("text", ["", "GB", "many", "1.2.3GB", "-4"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(HornbookError, match=r"feed.keep: is no size: .* Write it as 20GB"):
        size_in_bytes(text, "feed.keep")


def test_a_size_to_keep_has_a_unit() -> None:
    with pytest.raises(HornbookError, match=r"feed.keep: is only 20 bytes: '20'. Name the unit"):
        most_bytes("20")
    assert most_bytes("all") is None


def test_the_size_is_kept_but_for_what_a_reader_still_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = "40KB"
    assert segment_bytes("all") == 64 * 2**20 and segment_bytes(keep) == 5000
    log = LogWriter.create_or_open(tmp_path, segment_bytes=segment_bytes(keep))
    cursors = Cursors(tmp_path)
    retention = Retention(log, cursors, keep)
    cursors.set("run", 0)
    paused = None
    while paused is None:
        log.append([Document(os.urandom(500).hex()) for _ in range(4)], {}).result(30)
        paused = retention.enforce()
    assert "feed.keep" in paused and "run has read to 0" in paused
    assert log.first == 0 and 40_000 < log.stored_bytes < 50_000
    cursors.set("run", log.head)
    assert retention.enforce() is None
    assert log.first > 0 and log.stored_bytes <= 40_000
    cursors.forget("run")
    capsys.readouterr()
    for _ in range(60):
        log.append([Document(os.urandom(500).hex()) for _ in range(4)], {}).result(30)
        assert retention.enforce() is None
        assert log.stored_bytes <= 40_000 + 5000
    assert capsys.readouterr().err.count("no reader is registered") == 1
    assert Retention(log, cursors, "all").enforce() is None
    cursors.close()
    log.close()
