"""The order of the data as a pure function of (seed, epoch, index): no state, no table.

In: whole numbers. Out: `permute`, a keyed bijection of 0..n-1 that shuffles rows in O(1) memory,
and `scatter`, a keyed hash that picks random positions. Both depend on integer arithmetic modulo
2**64 alone, so the order is the same on every machine and with every version of numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Key = NDArray[np.uint64]
"""Eight 64-bit words."""


def derive_key(*labels: int | str) -> Key:
    """Eight words from blake2b of the labels: other labels, unrelated key."""
    digest = hashlib.blake2b("\n".join(map(str, labels)).encode(), digest_size=64).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def permute(index: NDArray[np.int64], size: int, key: Key) -> NDArray[np.int64]:
    """Where the keyed shuffle of 0..size-1 puts each `index`.

    A Feistel network over the next power of two, one round for each word of the key. Results that
    fall outside the range are sent through again until they are inside ("cycle walking", Black and
    Rogaway 2002, https://doi.org/10.1007/3-540-45760-7_9): fewer than two rounds in the mean.

    Args:
        index: any shape, 0 <= index < size.
        size: number of things that are shuffled, at least 1.
        key: from `derive_key`.
    """
    assert size >= 1 and (index.size == 0 or (index.min() >= 0 and index.max() < size))
    if size == 1:
        return np.zeros_like(index)
    bits = (size - 1).bit_length()
    value = _feistel(index.astype(np.uint64), bits, key)
    while (outside := value >= np.uint64(size)).any():
        value[outside] = _feistel(value[outside], bits, key)
    return value.astype(np.int64)


def scatter(index: NDArray[np.int64], size: int, key: Key) -> NDArray[np.int64]:
    """A keyed hash of each `index`, uniform over 0..size-1 (unlike `permute`, with repeats)."""
    value = _mix(_mix(index.astype(np.uint64) ^ key[0]) ^ key[1])
    return (value % np.uint64(size)).astype(np.int64)


def _feistel(value: NDArray[np.uint64], bits: int, key: Key) -> NDArray[np.uint64]:
    """One pass over `bits` bits. The halves may differ by a bit; they swap places every round."""
    left_bits, right_bits = bits // 2, bits - bits // 2
    left, right = value >> np.uint64(right_bits), value & _mask(right_bits)
    for word in key:
        left, right = right, left ^ (_mix(right ^ word) & _mask(left_bits))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), on arrays; wraps around by design."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
