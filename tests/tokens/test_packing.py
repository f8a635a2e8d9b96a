"""Best-fit packing loses nothing, equals the textbook algorithm, and says how well it fits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.tokens.packing import pack

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def textbook_rows(lengths: list[int], capacity: int) -> list[int]:
    """Tokens in each row by best-fit-decreasing, one item at a time."""
    rooms: list[int] = []
    items = sorted((n for n in (length % capacity for length in lengths) if n), reverse=True)
    for item in items:
        fitting = [room for room in rooms if room >= item]
        if fitting:
            rooms[rooms.index(min(fitting))] -= item
        else:
            rooms.append(capacity - item)
    return [capacity - room for room in rooms] + [capacity] * sum(n // capacity for n in lengths)


@given(lengths=LENGTHS, capacity=st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_as_full_as_the_textbook(lengths: list[int], capacity: int) -> None:
    packing = pack(np.array(lengths), capacity)
    edges = packing.row_starts
    filled = [int(packing.lengths[a:b].sum()) for a, b in pairwise(edges)]
    assert sorted(filled) == sorted(textbook_rows(lengths, capacity))


@given(lengths=LENGTHS, capacity=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost(lengths: list[int], capacity: int) -> None:
    packing = pack(np.array(lengths), capacity)
    covered = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(packing.starts, packing.lengths, strict=True)]
    )
    assert np.array_equal(np.sort(covered), np.arange(sum(lengths)))
    edges = packing.row_starts
    assert edges[0] == 0 and edges[-1] == len(packing.starts)
    filled = np.add.reduceat(packing.lengths, edges[:-1])
    assert filled.max() <= capacity and filled.min() >= 1


@given(lengths=LENGTHS, capacity=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_documents_are_cut_only_where_they_must_be(lengths: list[int], capacity: int) -> None:
    packing = pack(np.array(lengths), capacity)
    begins = np.cumsum(lengths) - lengths
    pieces = dict(zip(packing.starts.tolist(), packing.lengths.tolist(), strict=True))
    for begin, length in zip(begins.tolist(), lengths, strict=True):
        assert pieces[begin] == min(length, capacity)
    for first, end in pairwise(packing.row_starts):
        is_begin = np.isin(packing.starts[first:end], begins)
        # Beginnings of documents come first in a row, what goes on with one comes after.
        assert np.array_equal(is_begin, np.sort(is_begin)[::-1])


def test_the_same_every_time_and_almost_full() -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, 20_000).astype(np.int32) + 1
    one, two = pack(lengths, 512), pack(lengths, 512)
    assert np.array_equal(one.starts, two.starts)
    assert np.array_equal(one.row_starts, two.row_starts)
    slots = (len(one.row_starts) - 1) * 512
    assert lengths.sum() / slots > 0.999


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_lengths_that_divide_evenly(capacity: int) -> None:
    packing = pack(np.array([capacity] * 3 + [2 * capacity]), capacity)
    assert len(packing.row_starts) - 1 == 5
    assert (packing.lengths == capacity).all()
