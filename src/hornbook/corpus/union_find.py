"""Which things hang together, of pairs that do: union-find, many pairs at a time.

In: pairs of numbers. Out: for every number the lowest one that it is connected with. 4 bytes a
number in a file that is mapped into memory (8 beyond four billion).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hornbook.corpus.mapped import mapped_zeros

Numbers = npt.NDArray[np.int64]


class UnionFind:
    """Sets of the numbers 0 ... count - 1, at first each on its own."""

    def __init__(self, path: Path, count: int):
        """`path` is scratch and is written over."""
        kind = np.uint32 if count <= 2**32 else np.uint64
        self._parents = mapped_zeros(path, kind, (count,))
        block = 2**20
        for start in range(0, count, block):
            self._parents[start : start + block] = np.arange(start, min(start + block, count))

    def find(self, numbers: Numbers) -> Numbers:
        """The lowest number of each one's set."""
        roots = numbers
        while True:
            parents = self._parents[roots].astype(np.int64)
            if np.array_equal(parents, roots):
                break
            roots = parents
        self._parents[numbers] = roots  # the next search is shorter
        return roots

    def join(self, one: Numbers, other: Numbers) -> None:
        """Unite the sets of each pair. The order of pairs changes nothing."""
        while len(one):
            one, other = self.find(one), self.find(other)
            apart = one != other
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            # Of several pairs that would move the same root the last assignment wins; the others
            # are still apart in the next round. A root only ever moves below a lower number.
            self._parents[high] = low
            one, other = low, high
