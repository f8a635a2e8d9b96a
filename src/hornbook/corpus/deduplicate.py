"""Exact de-duplication: has this text been seen before?

In: texts, one after the other. Out: yes or no. What is remembered is a 16-byte blake2b digest a
text, about 110 bytes of memory with Python's overhead (measured in tests/corpus), so ten million
documents need about 1.1 GB. Two different texts among ten million share a digest with a
probability of 10^-25.
"""

from __future__ import annotations

import hashlib


class SeenTexts:
    """Remembers which texts have passed by."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, text: str) -> bool:
        """Remember `text`; True when it is new. Compare normalised text: bytes must be equal."""
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        known = len(self._digests)
        self._digests.add(digest)
        return len(self._digests) > known
