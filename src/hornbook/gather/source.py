"""What a source of text is: an iterator of documents, each with the cursor to go on after it.

In: a cursor and the tools of a gathering. Out: documents in an order that is a pure function of
the settings and of what the outside answered, so that a gathering that was killed and run again
writes the same shards as one that was not. For the same reason no time of fetching goes into a
document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hornbook.documents import Document
from hornbook.errors import HornbookError

if TYPE_CHECKING:
    from hornbook.gather.client import PoliteClient, Politeness
    from hornbook.gather.journal import ItemTable

Cursor = dict[str, Any]
"""Where a source is, as JSON; `{}` is its beginning."""


@dataclass(frozen=True)
class Gathered:
    """One step of a source.

    Args:
        document: None: progress without a document (a page that is skipped, a blocked video).
        cursor: where to go on after this one.
        bytes: of the input that were consumed since the step before; for MB/s and the time left.
    """

    document: Document | None
    cursor: Cursor
    bytes: int = 0


@dataclass(frozen=True)
class Size:
    """What a source expects to give: documents, and bytes of input as `Gathered.bytes` counts
    them; None where that is not known."""

    documents: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Item:
    """A row of an item table: a page, video or URL, and what became of it."""

    key: str
    state: str
    tries: int
    note: str
    value: str


class Gathering(Protocol):
    """What a source is handed: the tools that all sources share (`tools.Tools`)."""

    @property
    def items(self) -> ItemTable:
        """Queues and visited sets in the journal, part of its transactions; for the thread that
        asks for documents alone."""

    @property
    def workers(self) -> int:
        """Processes it may use, 1 or more."""

    @property
    def work(self) -> Path:
        """A folder for partial downloads; removed when all is gathered."""

    def part(self, name: str) -> Gathering:
        """The same for a source inside a mix: with items, counts and a folder of its own."""

    def client(self, politeness: Politeness, *, secrets: tuple[str, ...] = ()) -> PoliteClient:
        """The one HTTP client, opened when it is first asked for with the source's own manners
        (what the user set wins over them); closed when the gathering ends."""

    def count(self, what: str, amount: int = 1) -> None:
        """Add to a line of the closing table: "redirects", "undecodable bytes"."""

    def quarantine(self, key: str, why: str, text: str = "") -> None:
        """Keep what could not be read in OUT/quarantine.jsonl."""

    @property
    def note(self) -> Callable[[str], None]:
        """Prints a line above the progress bar."""


class Source(Protocol):
    """Where documents come from.

    Attributes:
        name: "wikipedia"; also the documents' `source` where they have no better one.
        replayable: True where going on from an older cursor is cheap and gives the same documents
            again (files); False where each document is to be fetched once (network).
    """

    @property
    def name(self) -> str: ...
    @property
    def replayable(self) -> bool: ...

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the documents, as JSON; other ones in the same folder are
        refused."""

    def size(self, gathering: Gathering) -> Size:
        """What is expected in all."""

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The documents after `cursor`."""


class StopGathering(HornbookError):
    """Stop now, keep everything, go on when run again (an IP block, a quota, robots.txt)."""
