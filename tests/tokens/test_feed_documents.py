"""The held-out texts and the sample that a run on a feed begins with."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.feed.serving import serving

from hornbook.documents import Document, read_documents
from hornbook.feed.log import LogWriter
from hornbook.tokens import feed_documents
from hornbook.tokens.feed_client import FeedClient
from hornbook.tokens.feed_documents import prepare_from_feed


class HeldOut:
    """Five texts, of which the third is broken."""

    held_out = 5

    def validation(self, cursor: int, most_texts: int, most_bytes: int) -> tuple[int, list[str]]:
        texts = [f"held out {n}" for n in range(cursor, 5) if n != 2]
        return (cursor + 2 if cursor < 2 else 5), texts[: 2 if cursor < 2 else 5]


def test_held_out_texts_and_a_sample_without_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_documents, "SAMPLE_TEXTS", 40)
    log = LogWriter.create_or_open(tmp_path / "feed", segment_bytes=300)
    for number in range(60):
        log.append([Document(f"text {number} ")], {}).result(30)
    log.close()
    segments = sorted((tmp_path / "feed" / "log").glob("*.log"))
    segments[1].unlink()
    log = LogWriter.create_or_open(tmp_path / "feed", segment_bytes=300)
    with contextlib.closing(log), serving(log, held_out=HeldOut()) as feed:
        report = prepare_from_feed(FeedClient(feed.url, batch=8), tmp_path / "prepare")
    ((first, end),) = [(damage.first, damage.next) for damage in log.damaged]
    whole = [f"text {n} " for n in range(60) if not first <= n < end]
    sample = [document.text for document in read_documents(tmp_path / "prepare" / "train")]
    assert sample == whole[:40]
    held_out = [document.text for document in read_documents(tmp_path / "prepare" / "validation")]
    assert held_out == [f"held out {n}" for n in (0, 1, 3, 4)]
    assert report.splits["validation"].documents == 4
