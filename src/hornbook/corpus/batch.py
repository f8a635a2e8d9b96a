"""A batch of documents as the steps of prepare see it: texts, and the hashes of their words.

In: documents in the order they were read. Out: the same, with what several steps need computed
when the first of them asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from hornbook.corpus.words import Hashes, plain_hashes
from hornbook.documents import Document

MOST_BYTES = 4 * 10**6
MOST_DOCUMENTS = 2048
"""A batch is full at 4 MB (characters) of text or 2,048 documents; one longer text is a batch."""


@dataclass
class Batch:
    """Documents that are handled together."""

    documents: list[Document]

    @cached_property
    def word_hashes(self) -> list[Hashes]:
        """Of each text a 64-bit hash of every word, lower-cased and without punctuation; words of
        punctuation alone are left out."""
        return [plain_hashes(document.text) for document in self.documents]

    def keep(self, kept: Sequence[bool]) -> Batch:
        """The documents for which `kept` is true, with what was computed of them."""
        smaller = Batch(list(itertools.compress(self.documents, kept)))
        if "word_hashes" in self.__dict__:
            smaller.__dict__["word_hashes"] = list(itertools.compress(self.word_hashes, kept))
        return smaller


def batches(documents: Iterable[Document]) -> Iterator[Batch]:
    """Cut a stream of documents into batches; where is decided by the texts alone."""
    held: list[Document] = []
    size = 0
    for document in documents:
        if held and (size + len(document.text) > MOST_BYTES or len(held) == MOST_DOCUMENTS):
            yield Batch(held)
            held, size = [], 0
        held.append(document)
        size += len(document.text)
    if held:
        yield Batch(held)
