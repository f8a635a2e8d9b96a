"""Rows out of a stream of texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.tokens.feed_packer import FeedState, Packer, Row

END = 99
TEXTS = st.lists(st.lists(st.integers(0, 98), max_size=12), max_size=30)


def state(length: int, number: int = 0) -> FeedState:
    return FeedState("log", 0, number, 0, END, "sha", length)


def take_all(packer: Packer, texts: list[list[int]]) -> list[Row]:
    rows = []
    for number in range(packer.after, len(texts)):
        packer.add(texts[number])
        while (row := packer.take()) is not None:
            rows.append(row)
    return rows


@given(TEXTS, st.integers(1, 9))
def test_rows_hold_the_stream_and_nothing_is_lost(texts: list[list[int]], length: int) -> None:
    stream = [token for text in texts for token in [*text, END]]
    rows = take_all(Packer(state(length), END), texts)
    whole = len(stream) // length * length
    assert [t for _, targets in rows for t in targets.tolist()] == stream[:whole]
    assert [t for inputs, _ in rows for t in inputs.tolist()] == [END, *stream][:whole]


@given(TEXTS, st.integers(1, 9), st.data())
def test_from_any_state_the_same_rows_follow(
    texts: list[list[int]], length: int, data: st.DataObject
) -> None:
    rows = take_all(Packer(state(length), END), texts)
    at = data.draw(st.integers(0, len(rows)))
    packer = Packer(state(length), END)
    for text in texts:
        if packer.row == at:
            break
        packer.add(text)
        while packer.row < at and packer.take() is not None:
            pass
    kept = packer.state()
    assert kept.row == at
    again = take_all(Packer(FeedState(**dataclasses.asdict(kept)), END), texts)
    assert len(again) == len(rows) - at
    for (inputs, targets), (other_inputs, other_targets) in zip(again, rows[at:], strict=True):
        np.testing.assert_array_equal(inputs, other_inputs)
        np.testing.assert_array_equal(targets, other_targets)


def test_a_text_that_is_lost_ends_where_it_was_cut() -> None:
    packer = Packer(state(3), END)
    packer.add([1, 2, 3, 4, 5])
    packer.take()
    kept = packer.state()
    assert (kept.next, kept.offset, kept.before) == (0, 3, 3)
    packer = Packer(kept, END)
    packer.skip_to(7)
    packer.add([6, 7])
    inputs, targets = packer.take() or ((), ())
    assert (list(inputs), list(targets)) == ([3, 6, 7], [6, 7, END])


def test_another_text_in_place_of_the_one_that_was_begun() -> None:
    kept = dataclasses.replace(state(3, number=17), offset=4)
    with pytest.raises(HornbookError, match=r"text 17 .* 3 tokens.* 4 .*Was the feed's folder"):
        Packer(kept, END).add([1, 2])
    Packer(kept, END).add([1, 2, 3, 4])
