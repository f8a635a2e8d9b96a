"""What prepare read, dropped and wrote, as plain numbers: `prepare.json`.

In: counts made while documents stream by. Out: JSON, and the same as a dataclass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from hornbook.corpus.split import byte_length
from hornbook.documents import Document
from hornbook.files import write_json

MOST_SAMPLES = 3
SAMPLE_CHARACTERS = 120
MOST_NAMES = 100
"""Sources or licences that are listed one by one; smaller ones are added up as "(others)"."""


@dataclass
class Count:
    """Documents, and bytes of their text as UTF-8."""

    documents: int = 0
    bytes: int = 0

    def add(self, bytes: int) -> None:
        """Count one document of so many bytes."""
        self.documents += 1
        self.bytes += bytes


@dataclass
class Dropped(Count):
    """What was dropped for one reason, with the beginnings of the first few texts."""

    samples: list[dict[str, str]] = field(default_factory=list)


@dataclass
class PassageReport:
    """How few documents were cut into passages."""

    size: int
    """Characters of a passage at most."""
    count: int
    held_out: int


@dataclass
class PrepareReport:
    """The numbers of one prepare run. All bytes are bytes of text as UTF-8."""

    read: Count = field(default_factory=Count)
    """As read, before anything was changed."""
    kept: Count = field(default_factory=Count)
    """After normalising and dropping, before any cutting."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """By reason: `empty`, `duplicate`."""
    splits: dict[str, Count] = field(default_factory=dict)
    """What was written: `train` and `validation`. Cutting into passages makes more documents."""
    sources: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, the largest first."""
    licences: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, the largest first; unknown ones are under an empty name."""
    passages: bool = False
    """Whether documents were cut into passages before splitting."""
    passage_plan: PassageReport | None = None
    """Set when few documents were cut."""
    validation_bytes_share: float = 0.0
    """Bytes held out, as a share of all that was written."""
    messages: list[str] = field(default_factory=list)
    """Everything said aloud on the way."""

    def drop(self, document: Document, reason: str) -> None:
        """Count a dropped document, and keep the beginning of its text while there are few."""
        dropped = self.dropped.setdefault(reason, Dropped())
        dropped.add(byte_length(document.text))
        if len(dropped.samples) < MOST_SAMPLES:
            beginning = document.text[:SAMPLE_CHARACTERS]
            dropped.samples.append(
                {"title": document.title, "source": document.source, "text": beginning}
            )

    def keep(self, document: Document) -> None:
        """Count a kept document."""
        bytes = byte_length(document.text)
        self.kept.add(bytes)
        self.sources.setdefault(document.source, Count()).add(bytes)
        self.licences.setdefault(document.licence, Count()).add(bytes)

    def finish(self) -> None:
        """Work out what follows from the counts."""
        written = sum(count.bytes for count in self.splits.values())
        held_out = self.splits["validation"].bytes
        self.validation_bytes_share = held_out / written if written else 0.0
        self.sources = _largest(self.sources)
        self.licences = _largest(self.licences)

    def write(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_json(path, asdict(self))


def _largest(counts: dict[str, Count]) -> dict[str, Count]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1].bytes, item[0]))
    listed = dict(ordered[:MOST_NAMES])
    if rest := [count for _, count in ordered[MOST_NAMES:]]:
        listed["(others)"] = Count(
            sum(count.documents for count in rest), sum(count.bytes for count in rest)
        )
    return listed
