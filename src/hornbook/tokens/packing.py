"""Best-fit packing: documents into rows of T tokens with as little padding as possible.

In: the lengths of the documents. Out: a `Packing`, the table of which piece of which document lies
in which row. The method is best-fit-decreasing bin packing (Ding et al. 2024, "Fewer Truncations
Improve Language Modeling", https://arxiv.org/abs/2404.10830): documents are cut only where they
are longer than a row, and the remainders are packed like documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Packing:
    """Pieces of documents in the order of the rows they lie in.

    Row r holds the pieces `row_starts[r]` to `row_starts[r + 1]`. Those that begin a document come
    first, in stream order, then those that go on with one.
    """

    starts: NDArray[np.int64]
    """Position of each piece in the token stream, [pieces]."""
    lengths: NDArray[np.int32]
    """Tokens in each piece, [pieces]."""
    row_starts: NDArray[np.int64]
    """First piece of each row, and the number of pieces, [rows + 1]."""


def pack(document_lengths: NDArray[np.integer[Any]], capacity: int) -> Packing:
    """Pack documents that lie one after another in a stream into rows of `capacity` tokens.

    A document of length L fills L // capacity rows alone; what remains of it, and each document
    that fits into a row, is packed whole. Every token is in exactly one piece. Deterministic.

    Args:
        document_lengths: tokens of each document, int [documents], none 0.
        capacity: tokens in a row (T).
    """
    lengths = document_lengths.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    full = lengths // capacity
    rest = (lengths % capacity).astype(np.int32)

    # Full pieces: the k-th of a document begins k rows into it, and has a row of its own.
    full_rows = int(full.sum())
    number = np.arange(full_rows) - np.repeat(np.cumsum(full) - full, full)
    full_starts = np.repeat(starts, full) + number * capacity

    has_rest = np.flatnonzero(rest)
    rest_lengths = rest[has_rest]
    rest_starts = (starts + full * capacity)[has_rest]
    rest_rows, rows = _best_fit(rest_lengths, capacity)

    piece_rows = np.concatenate([np.arange(full_rows), rest_rows + full_rows])
    piece_starts = np.concatenate([full_starts, rest_starts])
    goes_on = np.concatenate([number > 0, full[has_rest] > 0])
    piece_lengths = np.concatenate([np.full(full_rows, capacity, np.int32), rest_lengths])
    order = np.lexsort((piece_starts, goes_on, piece_rows))
    per_row = np.bincount(piece_rows, minlength=full_rows + rows)
    row_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_row)])
    return Packing(piece_starts[order], piece_lengths[order], row_starts)


def _best_fit(lengths: NDArray[np.int32], capacity: int) -> tuple[NDArray[np.int64], int]:
    """The row of each item, and the number of rows, by best-fit-decreasing.

    Items are taken longest first, all of one length at once, and rows by the room they have left:
    the tightest that fits is filled with as many as go in, which is what best fit would do one by
    one. So a step of the loop handles many items where there are many, and near-linear time is
    kept. Room left is one of 1..capacity: a row count and one bit of an integer for each.
    """
    rows_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    distinct, first = np.unique(-lengths[order], return_index=True)
    edges = np.append(first, len(lengths))
    with_room: dict[int, list[NDArray[np.int64]]] = {}  # room left -> rows that have it
    rooms = 0  # bit r is set when with_room has rows of room r
    opened = 0

    for length, begin, end in zip(
        (-distinct).tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
    ):
        while begin < end:
            wide_enough = rooms >> length
            if wide_enough:
                room = length + (wide_enough & -wide_enough).bit_length() - 1
                rows = _join(with_room.pop(room))
                rooms ^= 1 << room
            else:
                room = capacity
                needed = -(-(end - begin) // (capacity // length))
                rows = np.arange(opened, opened + needed)
                opened += needed
            each = room // length
            used = min(len(rows), -(-(end - begin) // each))
            # The last row used may get fewer than `each`.
            placed = min(end - begin, used * each)
            rows_of[order[begin : begin + placed]] = np.repeat(rows[:used], each)[:placed]
            begin += placed
            in_last = placed - (used - 1) * each
            for group, left in (
                (rows[: used - 1], room - each * length),
                (rows[used - 1 : used], room - in_last * length),
                (rows[used:], room),
            ):
                if len(group) and left:
                    with_room.setdefault(left, []).append(group)
                    rooms |= 1 << left
    return rows_of, opened


def _join(groups: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return groups[0] if len(groups) == 1 else np.concatenate(groups)
