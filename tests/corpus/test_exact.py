"""Sorting on disk, equal texts, sets of pairs: each against the simplest way to do it."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.buckets import Buckets
from hornbook.corpus.exact import ExactPass, digests
from hornbook.corpus.union_find import UnionFind
from hornbook.errors import HornbookError

ANY_MEMORY = st.sampled_from([1, 200, 10**6])
"""Bytes: all rows to the disk at once, some of them, none."""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1)), st.integers(1, 5), ANY_MEMORY)
def test_rows_come_back_sorted_whatever_the_memory(
    hashes: list[int], repeat: int, memory: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        buckets = Buckets(Path(folder, "scratch"), 2, memory)
        rows = [(value, number) for number in range(repeat) for value in hashes]
        for row in rows:
            buckets.add(np.array([row], np.uint64))
        pieces = list(buckets.in_order())
        assert [tuple(map(int, row)) for piece in pieces for row in piece] == sorted(rows)
        ends = [(int(piece[0, 0]), int(piece[-1, 0])) for piece in pieces if len(piece)]
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))
        assert not Path(folder, "scratch").exists()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), ANY_MEMORY)
def test_of_equal_texts_the_first_stays_but_for_favoured_ones(
    drawn: list[tuple[int, bool]], memory: int
) -> None:
    texts = [str(number) for number, _ in drawn]
    favoured = np.array([favour for _, favour in drawn], np.bool_)
    with tempfile.TemporaryDirectory() as folder:
        exact = ExactPass(Path(folder, "scratch"), memory)
        for start in range(0, len(texts), 3):
            part = slice(start, start + 3)
            exact.add(digests(texts[part]), favoured[part])
        gone = {int(number) for numbers in exact.duplicates() for number in numbers}
    stay = set()
    for text in set(texts):
        numbers = [number for number, other in enumerate(texts) if other == text]
        stay.add(next((number for number in numbers if favoured[number]), numbers[0]))
    assert gone == set(range(len(texts))) - stay


def test_memory_is_bounded(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def peak(count: int) -> int:
        exact = ExactPass(tmp_path / "scratch", 2 * 10**6)
        tracemalloc.start()
        for _ in range(count):
            exact.add(draw.integers(0, 2**64 - 1, (10_000, 2), np.uint64))
        assert not any(len(numbers) for numbers in exact.duplicates())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20) < 2.5 * 10**6 and peak(80) < 2.5 * 10**6, "19 MB of digests"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.data())
def test_connected_numbers_have_the_lowest_one_in_common(count: int, data: st.DataObject) -> None:
    number = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(number, number), max_size=80))
    groups = {each: {each} for each in range(count)}
    for one, other in pairs:
        union = groups[one] | groups[other]
        for member in union:
            groups[member] = union
    with tempfile.TemporaryDirectory() as folder:
        sets = UnionFind(Path(folder, "sets"), count)
        size = data.draw(st.integers(1, 80))
        for start in range(0, len(pairs), size):
            part = np.array(pairs[start : start + size])
            sets.join(part[:, 0], part[:, 1])
        found = sets.find(np.arange(count)).tolist()
    assert found == [min(groups[each]) for each in range(count)]


@pytest.mark.parametrize("text", ["", "ä\u0301", "\ufffd\n" * 1000])
def test_digests_are_of_the_bytes(text: str) -> None:
    expected = hashlib.blake2b(text.encode(), digest_size=16).digest()
    assert digests([text, "x"]).astype(">u8")[0].tobytes() == expected


def test_a_full_disk_is_an_error_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, count: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(HornbookError, match="the disk is full"):
        UnionFind(tmp_path / "sets", 10)
    assert UnionFind(tmp_path / "sets", 0).find(np.empty(0, np.int64)).tolist() == []


def test_a_long_chain_in_any_order(tmp_path: Path) -> None:
    order = list(range(10_000))
    random.Random(0).shuffle(order)
    one = np.array(order[:-1])
    sets = UnionFind(tmp_path / "sets", 10_000)
    sets.join(one, np.array(order[1:]))
    assert not sets.find(np.arange(10_000)).any()
