"""MinHash signatures of documents: short rows of numbers that agree as often as the texts do.

In: 64-bit hashes of each document's words. Out: uint32 [documents, permutations]; the share of
places at which two rows agree estimates the Jaccard similarity of the two sets of shingles
(Broder, "On the resemblance and containment of documents", 1997). Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.errors import HornbookError

UNSIGNED = np.uint32(2**32 - 1)
"""Fills the row of a document with fewer words than a shingle has: it is near to nothing."""

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: mixes bits well as a factor
_SHIFT = np.uint64(29)


def algorithm(shingle: int, permutations: int, seed: int) -> str:
    """Names all that decides a signature; only signatures of one algorithm can be compared."""
    rensa = _rensa()
    return f"rensa-{rensa.RMinHash.ALGORITHM_VERSION}-w{shingle}-p{permutations}-s{seed}"


def signatures(
    words: Sequence[npt.NDArray[np.uint64]], shingle: int, permutations: int, seed: int
) -> npt.NDArray[np.uint32]:
    """The signature of each document.

    Args:
        words: of each document the hashes of its words, in order.
        shingle: neighbouring words that are compared as one.
        permutations: places of a signature; the standard error of an estimated similarity J is
            sqrt(J (1 - J) / permutations), 0.038 for J = 0.8 and 112.
        seed: of the permutations.

    Returns:
        uint32 [documents, permutations].
    """
    if not words:
        return np.empty((0, permutations), np.uint32)
    hashes, offsets = shingles(words, shingle)
    matrix = _rensa().RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets, permutations, seed
    )
    return np.array(matrix.to_rows(), np.uint32)


def shingles(
    words: Sequence[npt.NDArray[np.uint64]], size: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Hashes of all runs of `size` words, one document after the other.

    Returns:
        the hashes; where each document's begin, and where the last one's end [documents + 1].
    """
    lengths = np.array([len(each) for each in words], np.int64)
    ends = np.cumsum(lengths)
    flat = np.concatenate(words)
    starts = max(len(flat) - size + 1, 0)
    rolled = np.zeros(starts, np.uint64)
    for place in range(size):
        rolled *= _ODD
        rolled += flat[place : starts + place]
    inside = np.ones(starts, np.bool_)
    for back in range(1, size):  # a run that begins here would go on into the next document
        across = ends - back
        inside[across[(across >= 0) & (across < starts)]] = False
    offsets = np.zeros(len(words) + 1, np.uint64)
    offsets[1:] = np.cumsum(np.maximum(lengths - size + 1, 0))
    return rolled[inside], offsets


def band_hashes(signed: npt.NDArray[np.uint32], bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """A hash of each band of `rows` places of each signature: uint64 [bands, documents]."""
    parts = signed[:, : bands * rows].reshape(len(signed), bands, rows).astype(np.uint64)
    hashed = np.zeros((len(signed), bands), np.uint64)
    for row in range(rows):
        hashed = (hashed ^ parts[:, :, row]) * _ODD
        hashed ^= hashed >> _SHIFT
    return np.ascontiguousarray(hashed.T)


def agreement(
    one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float64]:
    """Share of places at which each row of `one` equals that row of `other`."""
    return np.asarray((one == other).mean(axis=1))


def _rensa() -> Any:
    try:
        import rensa
    except ImportError:
        raise HornbookError(
            "near duplicates need the library rensa, which is not installed",
            where="prepare.near",
            hint='`pip install "hornbook[clean]"`',
        ) from None
    return rensa
