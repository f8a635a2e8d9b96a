"""Rows from a real feed, over HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.feed.serving import Served, serving

from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.special import END_OF_TEXT
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens import feed_client
from hornbook.tokens.batch import IGNORE, Batch, Resumable
from hornbook.tokens.config import DataConfig
from hornbook.tokens.feed_client import FeedClient
from hornbook.tokens.feed_packer import FeedState
from hornbook.tokens.feed_source import FeedSource, Stopped, first_state

LENGTH = 16
TEXTS = [f"text {n} " + "word " * random.Random(n).randrange(12) for n in range(60)]


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Served]:
    log = LogWriter.create_or_open(tmp_path / "feed")
    with contextlib.closing(log), serving(log) as served:
        served.add(*TEXTS)
        yield served


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A token for each byte."""
    path = tmp_path / "tokenizer.json"
    tokens = {bytes([byte]): byte for byte in range(256)}
    text = tokenizer_json(tokens, [], "gpt2", own_special=[AddedToken(256, END_OF_TEXT)])
    path.write_text(text)
    return Tokenizer(path)


def begin(feed: Served, tokenizer: Tokenizer, start: str = "oldest", batch: int = 64) -> FeedState:
    client = FeedClient(feed.url, batch=batch)
    return first_state(DataConfig(feed_start=start), client, tokenizer, LENGTH)


def source(
    feed: Served, tokenizer: Tokenizer, state: FeedState, *, batch: int = 64, **options: int
) -> FeedSource:
    client = FeedClient(feed.url, batch=batch, give_up_seconds=20)
    return FeedSource(client, tokenizer, state, cursor="run", rows_per_epoch=4, **options)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def test_the_stream_is_the_texts(feed: Served, tokenizer: Tokenizer) -> None:
    rows = source(feed, tokenizer, begin(feed, tokenizer), batch=7).rows(0, 40)
    stream = b"".join(text.encode() + b"\xff" for text in TEXTS)
    got = bytes(min(token, 255) for token in rows.targets.flatten().tolist())
    assert got == stream[: len(got)]
    assert rows.inputs[0, 0] == tokenizer.end_of_text


def test_rows_do_not_depend_on_how_they_are_read(feed: Served, tokenizer: Tokenizer) -> None:
    start = begin(feed, tokenizer)
    whole = source(feed, tokenizer, start).rows(0, 40)
    other = source(feed, tokenizer, start, batch=3)
    assert isinstance(other, Resumable)
    steps = [other.rows(row, 4) for row in range(0, 40, 4)]
    assert all(same(step, whole[4 * n : 4 * n + 4]) for n, step in enumerate(steps))
    resumed = source(feed, tokenizer, FeedState(**other.state_at(20)), batch=5)
    assert same(resumed.rows(20, 20), whole[20:40])


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_rows(feed: Served, tokenizer: Tokenizer, size: int) -> None:
    start = begin(feed, tokenizer)
    whole = source(feed, tokenizer, start).rows(0, 8)
    found: dict[int, tuple[list[int], list[int]]] = {}
    for rank in range(size):
        share = source(feed, tokenizer, start, rank=rank, size=size)
        first, second = share.rows(0, 4), share.rows(4, 4)
        assert len(first) == len(second) == -(-4 // size)
        for begins, batch in ((0, first), (4, second)):
            mine = [k for k in range(begins, begins + 4) if k % size == rank]
            for k, inputs, targets in zip(mine, batch.inputs, batch.targets, strict=False):
                found[k] = (inputs.tolist(), targets.tolist())
            assert (batch.targets[len(mine) :] == IGNORE).all()
    rows = zip(whole.inputs.tolist(), whole.targets.tolist(), strict=True)
    assert [found[k] for k in range(8)] == list(rows)


def test_a_feed_that_restarts_changes_nothing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_client, "LONGEST_WAIT_S", 0.2)
    log = LogWriter.create_or_open(tmp_path / "feed")
    with contextlib.closing(log):
        with serving(log) as feed:
            feed.add(*TEXTS[:20])
            start, port = begin(feed, tokenizer), feed.port
            rows = source(feed, tokenizer, start, batch=4)
            got = [rows.rows(0, 4)]
        later = threading.Timer(0.5, lambda: restarted.set())
        restarted = threading.Event()
        later.start()

        def serve() -> None:
            restarted.wait()
            with serving(log, port=port) as again:
                again.add(*TEXTS[20:])
                done.wait(60)

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        got += [rows.rows(row, 4) for row in range(4, 40, 4)]
        done.set()
        thread.join()
    with contextlib.closing(LogWriter.create_or_open(tmp_path / "feed")) as log, serving(log) as f:
        whole = source(f, tokenizer, start).rows(0, 40)
    assert all(same(step, whole[4 * n : 4 * n + 4]) for n, step in enumerate(got))


def test_what_is_still_needed_is_told_to_the_feed(feed: Served, tokenizer: Tokenizer) -> None:
    rows = source(feed, tokenizer, begin(feed, tokenizer))
    rows.rows(0, 8)
    rows.rows(8, 8)
    state = rows.state_at(8)
    source(feed, tokenizer, begin(feed, tokenizer), rank=1, size=2).durable(state)
    assert feed.cursors.all() == {}, "process 0 speaks for all"
    rows.durable(state)
    assert feed.cursors.all() == {"run": state["next"]}
    assert state["next"] > 0
    with pytest.raises(KeyError):
        rows.state_at(0)
    rows.stop()
    rows.release()
    assert feed.cursors.all() == {}


def test_who_waits_for_the_feed_can_be_stopped(feed: Served, tokenizer: Tokenizer) -> None:
    rows = source(feed, tokenizer, begin(feed, tokenizer, "latest"))
    threading.Timer(0.3, rows.stop).start()
    with pytest.raises(Stopped):
        rows.rows(0, 1)


def test_lost_texts_end_the_run_unless_told_otherwise(tmp_path: Path, tokenizer: Tokenizer) -> None:
    log = LogWriter.create_or_open(tmp_path / "feed", segment_bytes=300)
    with contextlib.closing(log), serving(log) as feed:
        for text in TEXTS:
            feed.add(text)
        start = begin(feed, tokenizer)
        first = log.drop_before(30)
        assert first > 0
        with pytest.raises(HornbookError, match="feed-skip-lost"):
            source(feed, tokenizer, start).rows(0, 1)
        rows = source(feed, tokenizer, start, skip_lost=True)
        batch = rows.rows(0, 1)
        assert (rows.gaps(), rows.gaps()) == ([(0, first)], [])
        assert batch.targets[0, :7].tolist() == list(TEXTS[first].encode()[:7])
        rows.durable(dataclasses.asdict(start))
        assert feed.cursors.all() == {"run": first}, "what is left is kept"


@pytest.mark.parametrize("start", ["61", "-1", "newest"])
def test_a_start_that_is_no_text(feed: Served, tokenizer: Tokenizer, start: str) -> None:
    with pytest.raises(HornbookError, match=r"data\.feed_start"):
        begin(feed, tokenizer, start)
    assert begin(feed, tokenizer, "60").next == 60
