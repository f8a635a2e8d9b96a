"""What a step of prepare is: a pure function from a batch of documents to an outcome.

In: a batch. Out: its documents, perhaps with changed texts, and for each the rule that drops it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hornbook.corpus.batch import Batch
from hornbook.documents import Document


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
