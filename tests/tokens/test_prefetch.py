"""The prefetcher hands over what the source gives, in order, and ends cleanly."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch

from hornbook.tokens.batch import Batch
from hornbook.tokens.prefetch import Prefetcher


class Numbers:
    """A source whose row k holds the number k; row `broken` cannot be read."""

    sequence_length, rows_per_epoch = 2, 1000

    def __init__(self, broken: int = -1):
        self.broken, self.reads = broken, 0
        self.read_ahead = threading.Semaphore(0)

    def rows(self, start: int, count: int) -> Batch:
        if start == self.broken:
            raise OSError("the disk went away")
        self.reads += 1
        self.read_ahead.release()
        rows = torch.arange(start, start + count)[:, None].expand(count, 2)
        return Batch(rows, rows + 1)

    def describe(self) -> dict[str, Any]:
        return {}


def requests(start: int = 0) -> itertools.chain[tuple[int, int]]:
    return itertools.chain((k, 3) for k in itertools.count(start, 3))


def test_in_order_and_restartable_anywhere() -> None:
    with Prefetcher(Numbers(), requests(), depth=2) as batches:
        first = [next(batches).inputs[0, 0].item() for _ in range(10)]
        assert batches.wait_seconds >= 0
    with Prefetcher(Numbers(), requests(15), depth=2) as batches:
        assert [next(batches).inputs[0, 0].item() for _ in range(5)] == first[5:]


def test_ends_with_the_requests() -> None:
    with Prefetcher(Numbers(), [(0, 1), (1, 1)]) as batches:
        assert len(list(batches)) == 2
        assert list(batches) == []


def test_reads_ahead_but_not_without_end() -> None:
    source = Numbers()
    with Prefetcher(source, requests(), depth=3):
        for _ in range(4):  # three that wait, one in the thread's hands
            assert source.read_ahead.acquire(timeout=30)
        assert source.reads == 4
    assert source.reads <= 5


def test_an_error_comes_with_its_batch() -> None:
    with Prefetcher(Numbers(broken=6), requests()) as batches:
        next(batches), next(batches)
        with pytest.raises(OSError, match="the disk went away"):
            next(batches)
        assert list(batches) == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_ends_the_thread(taken: int) -> None:
    before = threading.active_count()
    batches = Prefetcher(Numbers(), requests(), depth=1)
    for _ in range(taken):
        next(batches)
    batches.close()
    batches.close()
    assert threading.active_count() == before
    assert list(batches) == []
