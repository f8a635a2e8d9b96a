"""What a step of prepare is: a pure function from a batch of documents to an outcome.

In: documents in the order they were read, with what several steps need computed when the first of
them asks. Out: the documents, perhaps with changed texts, and for each the rule that drops it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

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


@dataclass(frozen=True)
class Outcome:
    """What a step made of a batch.

    Args:
        documents: as many as the batch has, in its order; unchanged ones are the same objects.
        dropped: of each document the rule that drops it ("gopher.word_count"), or None.
        counts: what else is worth counting ("pii.emails": 12).
    """

    documents: list[Document]
    dropped: list[str | None]
    counts: dict[str, int] = field(default_factory=dict)


class Step(Protocol):
    """One step. A frozen dataclass of settings, so that processes can be handed it; no state is
    kept between batches, and the outcome for a document does not depend on its batch.

    Attributes:
        name: "language".
        rules: every reason it can drop a document for, in the order of the report.
    """

    @property
    def name(self) -> str: ...
    @property
    def rules(self) -> tuple[str, ...]: ...

    def __call__(self, batch: Batch) -> Outcome: ...


def with_text(document: Document, text: str) -> Document:
    """The document with this text; the same object where it has it already."""
    return document if text == document.text else replace(document, text=text)


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
