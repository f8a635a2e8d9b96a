"""Row tables: which tokens lie in row k of the run.

In: the token stream of a split. Out: rows of T inputs and T targets, written into arrays that the
loader hands out.

All three ways cut the stream into pieces. A piece is a range of tokens to be *predicted*; the input
of each is the token before it, and before the first token of a document that is the end of text of
the document before (the stream is a ring, see `TokenShards`). So a piece of n tokens gives n inputs
and n targets, the model learns how documents begin, and cutting a document loses no target: each
token of the stream is the target of exactly one input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hornbook.tokens.batch import IGNORE
from hornbook.tokens.order import derive_key, permute, scatter
from hornbook.tokens.packing import pack
from hornbook.tokens.shards import TokenShards


@dataclass
class RowArrays:
    """Rows to be filled, all [rows, T]: `inputs`, `targets`, `positions` int64, `documents` int32
    (see `Batch`). The last two are None where attention does not look at documents."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    documents: NDArray[np.int32] | None

    @staticmethod
    def padding(rows: int, length: int, pad: int, *, mask: bool) -> RowArrays:
        """Rows of nothing but padding."""
        shape = (rows, length)
        return RowArrays(
            np.full(shape, pad, np.int64),
            np.full(shape, IGNORE, np.int64),
            np.zeros(shape, np.int64) if mask else None,
            np.full(shape, -1, np.int32) if mask else None,
        )

    def put(
        self, row: int, column: int, stream: TokenShards, start: int, count: int, number: int = 0
    ) -> None:
        """Write the piece of `count` tokens from `start` into a row, from `column` on; it is
        document `number` of that row."""
        tokens = stream.read(start - 1, count + 1)
        here = slice(column, column + count)
        self.inputs[row, here] = tokens[:-1]
        self.targets[row, here] = tokens[1:]
        if self.positions is not None and self.documents is not None:
            self.positions[row, here] = np.arange(count)
            self.documents[row, here] = number


class RowTable(Protocol):
    """The rows of one source, in the order of the run."""

    rows_per_epoch: int
    targets_per_epoch: int
    """Tokens to be predicted in the rows of an epoch; the rest of the slots is padding."""

    def fill(self, index: NDArray[np.int64], slots: NDArray[np.int64], out: RowArrays) -> None:
        """Write rows `index` of the run (counted through all epochs) to rows `slots` of `out`,
        which are padding before."""


class WindowRows:
    """Windows from random positions over the whole stream, as nanoGPT reads it.

    Row k begins at a keyed hash of k, uniform over all positions from which T + 1 tokens are there;
    it may cross edges of documents and shards. An "epoch" is as many rows as hold as many tokens
    as the stream; some tokens come several times in it, some never.
    """

    def __init__(self, stream: TokenShards, length: int, seed: int, source: int):
        assert len(stream) > length
        self._stream, self._length = stream, length
        self._key = derive_key(seed, source, "windows")
        self.rows_per_epoch = -(-len(stream) // length)
        self.targets_per_epoch = self.rows_per_epoch * length

    def fill(self, index: NDArray[np.int64], slots: NDArray[np.int64], out: RowArrays) -> None:
        """See `RowTable`."""
        starts = scatter(index, len(self._stream) - self._length, self._key)
        for slot, start in zip(slots.tolist(), starts.tolist(), strict=True):
            out.put(slot, 0, self._stream, start + 1, self._length)


class ShuffledRows:
    """What chunks and packed share: every epoch visits each row once, in an order of its own."""

    def __init__(self, rows: int, seed: int, source: int):
        self.rows_per_epoch = rows
        self._labels = (seed, source)

    def by_epoch(
        self, index: NDArray[np.int64]
    ) -> list[tuple[int, NDArray[np.intp], NDArray[np.int64]]]:
        """For each epoch that `index` touches: its number, the places in `index` that are in it,
        and the shuffled rows these are."""
        epochs, within = np.divmod(index, self.rows_per_epoch)
        found = []
        for epoch in np.unique(epochs).tolist():
            places = np.flatnonzero(epochs == epoch)
            key = derive_key(*self._labels, "order", epoch)
            found.append((epoch, places, permute(within[places], self.rows_per_epoch, key)))
        return found


class ChunkRows(ShuffledRows):
    """Contiguous rows of T tokens; each token is a target exactly once an epoch.

    Each epoch cuts the ring at another place (a keyed hash), so that the same tokens do not meet in
    the same row for ever. The last row of an epoch holds what is left, the rest of it is padding.
    """

    def __init__(self, stream: TokenShards, length: int, seed: int, source: int):
        super().__init__(-(-len(stream) // length), seed, source)
        self._stream, self._length = stream, length
        self.targets_per_epoch = len(stream)

    def fill(self, index: NDArray[np.int64], slots: NDArray[np.int64], out: RowArrays) -> None:
        """See `RowTable`."""
        total = len(self._stream)
        for epoch, places, rows in self.by_epoch(index):
            key = derive_key(*self._labels, "cut", epoch)
            cut = int(scatter(np.zeros(1, np.int64), total, key)[0])
            for slot, row in zip(slots[places].tolist(), rows.tolist(), strict=True):
                begin = row * self._length
                count = min(self._length, total - begin)
                out.put(slot, 0, self._stream, cut + begin, count)


class PackedRows(ShuffledRows):
    """Rows of whole documents, as well as they fit (see `packing`); no token is lost.

    A row begins with a document where it holds the beginning of one. A document longer than a row
    goes on in another row; there its positions begin at 0 again.
    """

    def __init__(self, stream: TokenShards, length: int, seed: int, source: int):
        self._packing = pack(stream.lengths(), length)
        super().__init__(len(self._packing.row_starts) - 1, seed, source)
        self._stream = stream
        self.targets_per_epoch = len(stream)

    def fill(self, index: NDArray[np.int64], slots: NDArray[np.int64], out: RowArrays) -> None:
        """See `RowTable`."""
        packing = self._packing
        for _, places, rows in self.by_epoch(index):
            first, last = packing.row_starts[rows].tolist(), packing.row_starts[rows + 1].tolist()
            for slot, begin, end in zip(slots[places].tolist(), first, last, strict=True):
                column = 0
                starts = packing.starts[begin:end].tolist()
                counts = packing.lengths[begin:end].tolist()
                for number, (start, count) in enumerate(zip(starts, counts, strict=True)):
                    out.put(slot, column, self._stream, start, count, number)
                    column += count


def row_table(
    mode: str, stream: TokenShards, length: int, *, seed: int, source: int = 0
) -> RowTable:
    """The row table of a mode: windows, chunks or packed.

    Args:
        stream: more than `length` tokens.
        length: tokens in a row (T).
        seed: of the order.
        source: number of the source in a mixture; each has its own order.
    """
    kinds: dict[str, type[WindowRows] | type[ChunkRows] | type[PackedRows]] = {
        "windows": WindowRows,
        "chunks": ChunkRows,
        "packed": PackedRows,
    }
    return kinds[mode](stream, length, seed, source)
