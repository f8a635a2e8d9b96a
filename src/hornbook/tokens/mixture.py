"""Several sources mixed by weight: which source row k of the run comes from.

In: weights, and from which row on they hold. Out: for any rows, the source of each and which of
that source's own rows it is. A pure function of the row number, in closed form: nothing is drawn,
and after any number of rows each source has had its share to within a few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE_BITS = 30
"""Shares are rounded to multiples of 2**-30: integer arithmetic is the same everywhere."""


@dataclass(frozen=True)
class _Fork:
    """A group of sources cut in two; the left half gets `share` / 2**SHARE_BITS of the rows."""

    left: _Fork | int
    right: _Fork | int
    share: int


def _fork(weights: Sequence[float], sources: range) -> _Fork | int:
    if len(sources) == 1:
        return sources[0]
    left, right = sources[: len(sources) // 2], sources[len(sources) // 2 :]
    left_weight = sum(weights[source] for source in left)
    total = left_weight + sum(weights[source] for source in right)
    share = round(left_weight / total * 2**SHARE_BITS) if total > 0 else 0
    return _Fork(_fork(weights, left), _fork(weights, right), share)


class Mixture:
    """Rows of the run dealt out to sources.

    Two sources are mixed as a line is drawn on a grid: after k rows the left one has had
    floor(k * share). More are a tree of such choices, so the count of each stays within
    log2(sources) + 1 rows of its share at every k, from the beginning of its phase.
    """

    def __init__(self, phases: Sequence[tuple[int, Sequence[float]]]):
        """
        Args:
            phases: (first row, weight of each source); the first begins at row 0, the others
                follow in order. Weights are not negative and not all 0.
        """
        assert phases[0][0] == 0
        self.sources = len(phases[0][1])
        self._phases = [(first, list(weights)) for first, weights in phases]
        self._starts = np.array([first for first, _ in phases], np.int64)
        self._trees = [_fork(weights, range(self.sources)) for _, weights in phases]
        # Rows that each source has given before each phase.
        self._before = [np.zeros(self.sources, np.int64)]
        for phase, length in enumerate(np.diff(self._starts).tolist()):
            given = np.zeros(self.sources, np.int64)
            _count(self._trees[phase], length, given)
            self._before.append(self._before[-1] + given)

    def describe(self) -> list[dict[str, int | list[float]]]:
        """First row, and share of the rows of each source, of each phase."""
        return [
            {"first_row": first, "row_shares": [weight / sum(weights) for weight in weights]}
            for first, weights in self._phases
        ]

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of each row of the run, and the number of that row within its source."""
        source = np.empty_like(rows)
        index = np.empty_like(rows)
        phases = np.searchsorted(self._starts, rows, side="right") - 1
        for phase in np.unique(phases).tolist():
            places = np.flatnonzero(phases == phase)
            _descend(self._trees[phase], rows[places] - self._starts[phase], places, source, index)
            index[places] += self._before[phase][source[places]]
        return source, index


def _left_rows(rows: NDArray[np.int64], share: int) -> NDArray[np.int64]:
    """How many of the first `rows` rows of a fork go left."""
    assert rows.size == 0 or rows.max() < 2**32, "rows times share must stay below 2**63"
    return (rows * share) >> SHARE_BITS


def _descend(
    tree: _Fork | int,
    rows: NDArray[np.int64],
    places: NDArray[np.intp],
    source: NDArray[np.int64],
    index: NDArray[np.int64],
) -> None:
    """Write source and index of `rows`, counted within this part of the tree, to `places`."""
    if isinstance(tree, int):
        source[places] = tree
        index[places] = rows
        return
    before = _left_rows(rows, tree.share)
    goes_left = _left_rows(rows + 1, tree.share) > before
    _descend(tree.left, before[goes_left], places[goes_left], source, index)
    _descend(tree.right, (rows - before)[~goes_left], places[~goes_left], source, index)


def _count(tree: _Fork | int, rows: int, given: NDArray[np.int64]) -> None:
    """Add to `given` how many of the first `rows` rows each source gets."""
    if isinstance(tree, int):
        given[tree] += rows
        return
    left = (rows * tree.share) >> SHARE_BITS
    _count(tree.left, left, given)
    _count(tree.right, rows - left, given)
