"""Exact de-duplication: which texts were there before?

In: digests of texts, in order. Out: the numbers of those that equal an earlier one. A digest is 16
bytes of blake2b: two different texts among ten billion share one with a probability of 10^-19.

Memory: bounded by the caller; 24 bytes a text on disk beyond it (`buckets.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hornbook.corpus.buckets import Buckets

LAST = np.uint64(2**63)
"""Added to the number of a text, it comes after all without it, and keeps its order otherwise."""


def digests(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """16 bytes of blake2b of each text, as uint64 [texts, 2]. Equal: the same bytes as UTF-8."""
    hashed = (hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in texts)
    return np.frombuffer(b"".join(hashed), ">u8").reshape(-1, 2).astype(np.uint64)


class ExactPass:
    """Finds equal digests among any number, with bounded memory."""

    def __init__(self, folder: Path, memory: int):
        """`folder` does not exist and is used for scratch files beyond `memory` bytes."""
        self._buckets = Buckets(folder, 3, memory)
        self._count = 0

    def add(
        self, digests: npt.NDArray[np.uint64], first: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Take the digests of the next texts.

        Args:
            digests: uint64 [texts, 2].
            first: texts that stay when they equal an earlier one, which then goes instead.
        """
        numbers = np.arange(self._count, self._count + len(digests), dtype=np.uint64)
        if first is not None:
            numbers[~first] += LAST
        self._count += len(digests)
        self._buckets.add(np.column_stack((digests, numbers)))

    def duplicates(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the numbers of texts that go, in pieces; of equal texts all but one do."""
        for rows in self._buckets.in_order():
            same = (rows[1:, :2] == rows[:-1, :2]).all(axis=1)
            yield (rows[1:][same, 2] & ~LAST).astype(np.int64)
