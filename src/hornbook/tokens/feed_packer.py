"""Rows out of a stream of texts, without loss: row k is a pure function of the feed's log.

In: the ids of texts, in the order of their numbers. Out: rows of T inputs and T targets, and the
state between any two of them.

The stream is each text's tokens and an end of text after each. Row k holds the targets kT to
(k + 1)T - 1 of it, wherever texts begin and end, and before each target the token before it (before
the very first one, an end of text). No padding, no token lost, none twice.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import HornbookError

Row = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Inputs and targets, both int64 [T]."""


@dataclass(frozen=True)
class FeedState:
    """All that the rows from `row` on depend on, beside the log itself.

    Attributes:
        log: id of the feed's log.
        row: number of the next row.
        next: number of the text that the next target lies in.
        offset: tokens of it that are targets of earlier rows.
        before: the token before the next target.
        tokenizer_sha256: of the tokenizer that texts are encoded with.
        sequence_length: tokens in a row (T).
    """

    log: str
    row: int
    next: int
    offset: int
    before: int
    tokenizer_sha256: str
    sequence_length: int


class Packer:
    """Cuts the stream of texts into rows, from a state on.

    Attributes:
        row: number of the next row.
        after: number of the text to add next.
    """

    def __init__(self, state: FeedState, end_of_text: int):
        self.row, self.after = state.row, state.next
        self._start, self._end_of_text, self._before = state, end_of_text, state.before
        self._skip = state.offset  # tokens of text `after` that were targets before
        self._texts: deque[tuple[int, NDArray[np.int64], int]] = deque()
        """Of each text its number, its ids with the end of text, and how many are used."""
        self._ready = 0

    def add(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Add text number `after`: its ids [count], no end of text.

        Raises:
            HornbookError: it is too short to be the text that the state was taken in.
        """
        tokens = np.append(np.asarray(ids, np.int64), self._end_of_text)
        if self._skip >= len(tokens):
            raise HornbookError(
                f"text {self.after} of the feed has {len(tokens)} tokens with its end, and this run"
                f" has trained on {self._skip} of it: it is another text now",
                hint="Was the feed's folder put back from a copy, or its end damaged? Go on with a"
                " checkpoint from before this text, or begin a new run (--run)",
            )
        self._texts.append((self.after, tokens, self._skip))
        self._ready += len(tokens) - self._skip
        self.after, self._skip = self.after + 1, 0

    def skip_to(self, number: int) -> None:
        """Leave texts out, up to `number`; one that was begun in an earlier row ends there."""
        assert number > self.after
        self.after, self._skip = number, 0

    def take(self) -> Row | None:
        """The next row; None where more text is needed first."""
        length = self._start.sequence_length
        if self._ready < length:
            return None
        stream = np.empty(length + 1, np.int64)
        stream[0] = self._before
        filled = 1
        while filled <= length:
            number, tokens, used = self._texts.popleft()
            piece = tokens[used : used + length + 1 - filled]
            stream[filled : filled + len(piece)] = piece
            filled += len(piece)
            if used + len(piece) < len(tokens):
                self._texts.appendleft((number, tokens, used + len(piece)))
        self._ready -= length
        self._before = int(stream[-1])
        self.row += 1
        return stream[:-1], stream[1:]

    def state(self) -> FeedState:
        """The state before the next row."""
        number, used = self.after, self._skip
        if self._texts:
            number, _, used = self._texts[0]
        return dataclasses.replace(
            self._start, row=self.row, next=number, offset=used, before=self._before
        )
