"""The first pass of prepare: documents through the steps, batch by batch, into the spool.

In: documents as they were read. Out: a part of the spool. Workers get batches and give back rows
that are ready to be written; the reader and the spool are in this process, so the order of
documents is that of the inputs whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.corpus.batch import Batch, Step, batches, with_text
from hornbook.corpus.config import NearConfig
from hornbook.corpus.exact import digests
from hornbook.corpus.pool import ordered_map
from hornbook.corpus.prepare_report import Tally
from hornbook.corpus.signatures import band_hashes, signatures
from hornbook.corpus.split import hash_order
from hornbook.corpus.spool import Cleaned, Part, SpoolWriter
from hornbook.documents import Document, byte_length, mend_surrogates, record_batch


@dataclass(frozen=True)
class Cleaner:
    """All that is done with a batch on its own. Pure, and can be handed to another process.

    Args:
        steps: in order.
        near: how documents are signed; None: they are not.
        salt: of the split.
    """

    steps: Sequence[Step]
    near: NearConfig | None
    salt: str

    def __call__(self, documents: list[Document]) -> Cleaned:
        """Take documents through the steps, and describe those that are left."""
        read, tally = len(documents), Tally()
        documents = [with_text(each, mend_surrogates(each.text)) for each in documents]
        for document in documents:
            tally.read.add(byte_length(document.text))
        batch = _without(documents, [None] * read, Batch(documents), tally)
        for step in self.steps:
            outcome = step(batch)
            tally.count(outcome.counts)
            batch = _without(outcome.documents, outcome.dropped, batch, tally)
        texts = [document.text for document in batch.documents]
        places = [hash_order(document.id, self.salt)[1] for document in batch.documents]
        arrays: dict[str, npt.NDArray[Any]] = {
            "digests": digests(texts),
            "places": np.array(places, np.uint64),
            "bytes": np.array([byte_length(text) for text in texts], np.uint64),
        }
        if near := self.near:
            signed = signatures(batch.word_hashes, near.shingle, near.permutations, near.seed)
            arrays["signatures"] = signed
            arrays["bands"] = band_hashes(signed, near.bands, near.rows)
        return Cleaned(read, tally, record_batch(batch.documents), arrays)


def clean(
    documents: Iterable[Document],
    cleaner: Cleaner,
    part: Part,
    messages: Sequence[str],
    workers: int,
) -> None:
    """Take documents through the steps into `part`, which is whole then.

    Args:
        documents: those that follow the ones in the part's whole segments.
        cleaner: the steps.
        part: where they go.
        messages: what is said while they are read; complete when they are.
        workers: processes.
    """
    jobs = (batch.documents for batch in batches(documents))
    with SpoolWriter(part) as writer:
        for cleaned in ordered_map(cleaner, jobs, workers):
            writer.add(cleaned)
    part.finish(messages)


def _without(
    documents: list[Document], dropped: Sequence[str | None], before: Batch, tally: Tally
) -> Batch:
    """The documents that a step left, counting the others; what was computed of unchanged ones
    is kept."""
    reasons = [
        reason or ("empty" if not document.text or document.text.isspace() else None)
        for document, reason in zip(documents, dropped, strict=True)
    ]
    for document, reason in zip(documents, reasons, strict=True):
        if reason:
            tally.drop(document, reason)
    same = all(a is b for a, b in zip(documents, before.documents, strict=True))
    batch = before if same else Batch(documents)
    return batch.keep([reason is None for reason in reasons]) if any(reasons) else batch
