"""Near de-duplication: which documents are almost one text?

In: MinHash signatures, and hashes of their bands. Out: sets of documents that hang together.
Two documents are compared when a band of their signatures is equal, and belong together when
their signatures agree in `threshold` of all places (locality-sensitive hashing, as in Lee et al.,
"Deduplicating Training Data Makes Language Models Better", arXiv 2107.06499, and FineWeb, arXiv
2406.17557).

With b bands of r rows, two documents of similarity J are compared with probability 1 - (1 - J^r)^b:
for J = 0.8 that is 0.924 with FineWeb's 14 x 8 and 0.977 with 16 x 7, both of 112 permutations;
benchmarks/near_recall.py measures it.

Disk: 4 bytes x permutations + 8 x bands a document for signatures and bands, 16 for the band that
is being sorted, 4 for the sets: 596 with the defaults. Memory: `memory`, and what the system keeps
of mapped files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from hornbook.corpus.buckets import Buckets, Rows
from hornbook.corpus.signatures import agreement, band_hashes
from hornbook.corpus.union_find import Numbers, UnionFind

_PAIRS = 2**15
"""Pairs compared at a time: two signatures of 448 bytes each make 29 MB."""


class Piece(Protocol):
    """Some of the documents."""

    @property
    def documents(self) -> int: ...
    def array(self, name: Literal["signatures", "bands"]) -> npt.NDArray[Any]:
        """uint32 [documents, permutations], or uint64 [bands, documents]."""


@dataclass(frozen=True)
class SignedRows:
    """A piece of which only the signatures are kept; bands are hashed when they are asked for."""

    signatures: npt.NDArray[np.uint32]
    bands: int
    rows: int

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.signatures)

    def array(self, name: Literal["signatures", "bands"]) -> npt.NDArray[Any]:
        """One of the two."""
        if name == "signatures":
            return self.signatures
        return band_hashes(self.signatures, self.bands, self.rows)


class Signed:
    """Signatures and bands of all documents under one numbering. A piece's arrays are opened only
    while they are used: each mapped file keeps one open, and there may be thousands."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = pieces
        self._starts = np.cumsum([0, *(piece.documents for piece in pieces)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def band(self, number: int) -> Iterator[Rows]:
        """The (hash, document) of one band, in pieces."""
        for start, piece in zip(self._starts, self._pieces, strict=False):
            hashes = piece.array("bands")[number]
            yield np.column_stack((hashes, np.arange(start, start + len(hashes), dtype=np.uint64)))

    def signatures(self, numbers: Numbers) -> npt.NDArray[np.uint32]:
        """The signatures of some documents [numbers, permutations]."""
        of_piece = np.searchsorted(self._starts, numbers, "right") - 1
        width = self._pieces[-1].array("signatures").shape[1]
        found = np.empty((len(numbers), width), np.uint32)
        for number in np.unique(of_piece):
            here = of_piece == number
            rows = self._pieces[number].array("signatures")
            found[here] = rows[numbers[here] - self._starts[number]]
        return found


def near_duplicates(
    signed: Signed,
    count: int,
    threshold: float,
    folder: Path,
    memory: int,
    taking_part: npt.NDArray[np.bool_],
    on_band: Callable[[], None],
) -> UnionFind:
    """Find the sets of documents that are near to each other.

    Args:
        signed: their signatures.
        count: bands of a signature.
        threshold: share of places at which two signatures must agree.
        folder: for scratch files.
        memory: bytes to sort with.
        taking_part: False for exact duplicates, and documents without a signature.
        on_band: called when a band is done.
    """
    sets = UnionFind(folder / "sets.bin", len(signed))
    for band in range(count):
        buckets = Buckets(folder / "band", 2, memory)
        for rows in signed.band(band):
            buckets.add(rows[taking_part[rows[:, 1].astype(np.int64)]])
        for rows in buckets.in_order():
            for one, other in _candidates(rows):
                _join(one, other, signed, threshold, sets)
        on_band()
    return sets


def _candidates(rows: Rows) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs with an equal hash: each document with the one before it, and with the first of its
    run. All pairs of a run would be quadratic; two of them suffice to hold a set together."""
    same = np.flatnonzero(rows[1:, 0] == rows[:-1, 0]) + 1
    if not len(same):
        return
    begins = np.ones(len(rows), np.bool_)
    begins[same] = False
    first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))[same]
    documents = rows[:, 1].astype(np.int64)
    further = first < same - 1
    yield documents[same - 1], documents[same]
    yield documents[first[further]], documents[same[further]]


def _join(one: Numbers, other: Numbers, signed: Signed, threshold: float, sets: UnionFind) -> None:
    for start in range(0, len(one), _PAIRS):
        some, others = one[start : start + _PAIRS], other[start : start + _PAIRS]
        apart = sets.find(some) != sets.find(others)  # most were found through another band
        some, others = some[apart], others[apart]
        alike = agreement(signed.signatures(some), signed.signatures(others)) >= threshold
        sets.join(some[alike], others[alike])
