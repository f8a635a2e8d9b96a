"""A bounded sample of the training documents, the same whatever the order of the shards.

In: a folder of document shards. Out: texts, at most so many bytes of them.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hornbook.documents import read_documents
from hornbook.progress import bar


@dataclass(frozen=True)
class Sample:
    """Which documents belong to a sample: those whose key is under `cutoff`.

    The document at the cutoff itself gives its first `remainder` bytes, so that the sample fills
    its limit, and so that one enormous document still gives a sample.
    """

    folder: Path
    cutoff: int | None
    remainder: int
    bytes: int
    documents: int

    def texts(self) -> Iterator[str]:
        """The texts of the sample, in the order of the shards."""
        for document in read_documents(self.folder):
            key = _key(document.id)
            if self.cutoff is None or key < self.cutoff:
                yield document.text
            elif key == self.cutoff:
                yield document.text.encode()[: self.remainder].decode(errors="ignore")


def choose_sample(folder: Path, limit_bytes: int) -> Sample:
    """Choose documents in the order of a hash of their id until `limit_bytes` are reached.

    Reads every document once; holds only keys and lengths, and only of the documents chosen.
    """
    heap: list[tuple[int, int]] = []  # (-key, bytes) of the chosen: the highest key on top
    cutoff: int | None = None
    total = 0
    with bar("choosing a sample of the documents", None) as progress:
        for document in read_documents(folder):
            key, size = _key(document.id), len(document.text.encode())
            progress.advance(1)
            if cutoff is not None and key >= cutoff:
                continue
            heapq.heappush(heap, (-key, size))
            total += size
            while total > limit_bytes:
                negative_key, size = heapq.heappop(heap)
                cutoff = -negative_key
                total -= size
    remainder = 0 if cutoff is None else limit_bytes - total
    return Sample(folder, cutoff, remainder, total + remainder, len(heap))


def _key(document_id: str) -> int:
    """A number of 64 bits that depends on nothing but the document's id."""
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest())
