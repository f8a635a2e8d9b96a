"""What a producer of texts is: it makes them in batches, each with its own state after the batch.

The state goes into the log in the same block as the texts, so after a restart the two agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from hornbook.documents import Document


@dataclass(frozen=True)
class Made:
    """A batch of texts.

    Args:
        documents: in order; none, where all were rejected.
        state: JSON; `make` goes on from it.
        rejected: how many texts were rejected, by reason.
    """

    documents: list[Document]
    state: Any
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Unavailable(Exception):
    """A producer has nothing now, for a reason that may pass; ask again after `seconds`."""

    why: str
    seconds: float


class Producer(Protocol):
    """Makes texts without end."""

    name: str
    """The key of its state and its counts in the log; the same after a restart."""

    async def make(self, state: Any) -> Made:
        """The batch after `state`; None: the first one.

        Raises:
            Unavailable: nothing now.
            HornbookError: never again; the feed stops.
        """
        ...

    async def close(self) -> None:
        """End what it started."""
        ...
