"""Which text is held out for validation: a pure function of ids, so that adding data moves nothing.

In: documents. Out: (split, document), where split is "train" or "validation".

Many documents are split whole: a document is held out when the hash of its id falls below the
share (`decide.py`). Where there are few, one document more or less would be far too much or
too little, so they are cut into passages, and the same is done with those; where the passages
below the share do not make up that share of the bytes, the next ones in the order of the hash are
added until they do (`PassagePlan`).

What moves when text is added to a few documents: a passage's hash depends on nothing but its own
text, so only the passages next to the new text change, and the added ones may become unneeded.
Everything is cut anew only when the total passes a power of two, which changes the size of the
passages, and when there are `FEW_DOCUMENTS`, from where on nothing is cut.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from hornbook.documents import Document, byte_length, document_id
from hornbook.errors import HornbookError
from hornbook.gather.cut import cut

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")

FEW_DOCUMENTS = 100
"""Fewer documents than this are cut into passages (`passages: auto`)."""

SMALLEST_PASSAGE, LARGEST_PASSAGE = 256, 4096
"""Characters of a passage at most: a few sentences, or about 1,000 tokens."""

PASSAGES_AIMED_AT = 400
"""Passages that a small corpus is cut into: 5 % of them are 20 places all over it."""

MINIMUM_BYTES = 4 * SMALLEST_PASSAGE
"""Less text than four of the smallest passages cannot be split: holding one of them out would take
more than a quarter of the training text, and one passage says nothing about the rest."""

BUCKETS = 10_000
"""Shares are counted in ten-thousandths."""


def hash_order(id: str, salt: str) -> tuple[int, int]:
    """Where an id stands in the order of being held out: (bucket of 10,000, hash)."""
    digest = hashlib.blake2b((salt + id).encode("utf-8"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return number % BUCKETS, number


def is_held_out(id: str, share: float, salt: str) -> bool:
    """True when the hash of `salt + id` falls into the first `share` of 10,000 buckets."""
    return hash_order(id, salt)[0] < share * BUCKETS


def split_passages(
    documents: Iterable[Document], share: float, salt: str
) -> Iterator[tuple[str, Document]]:
    """Cut each of many documents into passages and split those by their hash alone, streaming."""
    for document in documents:
        spans = list(cut(document.text, LARGEST_PASSAGE))
        held_out = [
            is_held_out(document_id(document.text[start:end]), share, salt) for start, end in spans
        ]
        yield from _runs(document, spans, held_out)


@dataclass
class PassagePlan:
    """How a few documents are cut into passages, and which of those are held out.

    Args:
        size: characters of a passage at most.
        spans: for each document, its passages as (start, end) in characters.
        held_out: for each document and passage, whether it is held out.
    """

    size: int
    spans: list[list[tuple[int, int]]]
    held_out: list[list[bool]]

    def split(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Yield the parts of the documents: neighbouring passages of one split stay together.

        So the training text keeps its long stretches, and no more ends of text are put into it
        than passages are taken out.
        """
        for document, spans, held_out in zip(documents, self.spans, self.held_out, strict=True):
            yield from _runs(document, spans, held_out)


def plan_passages(read: Callable[[], Iterable[Document]], share: float, salt: str) -> PassagePlan:
    """Cut documents into passages and hold out `share` of the bytes, up to twice as much.

    The documents are read twice and never held: a hundred of them may be a gigabyte.

    Raises:
        HornbookError: there is less text than `MINIMUM_BYTES`.
    """
    total = characters = 0
    for document in read():
        total += byte_length(document.text)
        characters += len(document.text)
    if total < MINIMUM_BYTES:
        raise HornbookError(
            f"{total:,} bytes of text are too little to hold any out for validation: "
            f"at least {MINIMUM_BYTES:,} are needed",
            hint="Add more text to --prepare.inputs",
        )
    size = passage_size(characters)
    spans, order = [], []
    for number, document in enumerate(read()):
        spans.append(list(cut(document.text, size)))
        for index, (start, end) in enumerate(spans[number]):
            passage = document.text[start:end]
            place = hash_order(document_id(passage), salt)
            order.append((place, number, index, byte_length(passage)))
    held_out = [[False] * len(of_document) for of_document in spans]
    held = 0
    for place, number, index, length in sorted(order)[:-1]:  # one at least is trained on
        enough = held >= share * total and place[0] >= share * BUCKETS
        # Passages that are equal have one hash: without an upper bound, a text that repeats
        # itself could be held out as a whole.
        if enough or held >= 2 * share * total:
            break
        held_out[number][index] = True
        held += length
    return PassagePlan(size, spans, held_out)


def passage_size(characters: int) -> int:
    """Characters of a passage at most, for a corpus of so many: a power of two in 256 ... 4096."""
    size = LARGEST_PASSAGE
    while size > SMALLEST_PASSAGE and size * PASSAGES_AIMED_AT > characters:
        size //= 2
    return size


def _runs(
    document: Document, spans: list[tuple[int, int]], held_out: list[bool]
) -> Iterator[tuple[str, Document]]:
    numbers = range(len(spans))
    for held, run in itertools.groupby(numbers, key=held_out.__getitem__):
        first, *rest = run
        last = rest[-1] if rest else first
        split = VALIDATION if held else TRAIN
        if last - first + 1 == len(spans):
            yield split, document
            continue
        text = document.text[spans[first][0] : spans[last][1]]
        meta = {**document.meta, "parent": document.id, "passages": [first, last]}
        yield split, replace(document, text=text, id=document_id(text), meta=meta)
