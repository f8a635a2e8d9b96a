"""What prepare read, dropped and wrote, as plain numbers: `prepare.json`.

In: counts made while documents stream by, in several processes. Out: JSON, and the same as a
dataclass. Nothing here depends on time or on how the work was divided.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hornbook.documents import Document, byte_length
from hornbook.files import write_json

MOST_SAMPLES = 3
SAMPLE_CHARACTERS = 120
MOST_NAMES = 100
"""Sources or licences that are listed one by one; smaller ones are added up as `OTHERS`."""
OTHERS = "(others)"

_MOST_COUNTED = 10_000
"""Names that are counted one by one: where each document has a source of its own, the tally would
grow with the text."""


@dataclass
class Count:
    """Documents, and bytes of their text as UTF-8."""

    documents: int = 0
    bytes: int = 0

    def add(self, bytes: int) -> None:
        """Count one document of so many bytes."""
        self.documents += 1
        self.bytes += bytes

    def include(self, other: Count) -> None:
        """Add another count."""
        self.documents += other.documents
        self.bytes += other.bytes


@dataclass
class Dropped(Count):
    """What was dropped for one reason, with the beginnings of the first few texts."""

    samples: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Tally:
    """What was counted of some documents. Tallies of neighbouring ones add up to that of both."""

    read: Count = field(default_factory=Count)
    """As read, before anything was changed."""
    kept: Count = field(default_factory=Count)
    """After all steps and dropping, before any cutting."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """By reason: `empty`, `duplicate`, `near.duplicate`, `held_out` (equal or near to a document
    of the ledger), and the rules of the steps (`gopher.word_count`)."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the steps changed: `pii.emails`."""
    sources: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, the largest first."""
    licences: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, the largest first; unknown ones are under an empty name."""
    languages: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, the largest first; unknown ones are under an empty name."""
    lengths: dict[str, Count] = field(default_factory=dict)
    """Of what was kept, by length: under "1024" are documents of 1,024 to 2,047 bytes."""

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
        self.languages.setdefault(document.language, Count()).add(bytes)
        self.lengths.setdefault(str(1 << max(bytes.bit_length() - 1, 0)), Count()).add(bytes)

    def count(self, counts: dict[str, int]) -> None:
        """Add to `counts`."""
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def include(self, other: Tally) -> None:
        """Add the tally of the documents that follow."""
        self.read.include(other.read)
        self.kept.include(other.kept)
        self.count(other.counts)
        for reason, dropped in other.dropped.items():
            mine = self.dropped.setdefault(reason, Dropped())
            mine.include(dropped)
            mine.samples = (mine.samples + dropped.samples)[:MOST_SAMPLES]
        for name in ("sources", "licences", "languages", "lengths"):
            mine = getattr(self, name)
            for key, counted in getattr(other, name).items():
                mine.setdefault(key, Count()).include(counted)
            if len(mine) > 2 * _MOST_COUNTED:
                setattr(self, name, _largest(mine, _MOST_COUNTED))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tally:
        """What `dataclasses.asdict` made of a tally, back."""
        counted = {
            name: {key: Count(**entry) for key, entry in value[name].items()}
            for name in ("sources", "licences", "languages", "lengths")
        }
        return cls(
            read=Count(**value["read"]),
            kept=Count(**value["kept"]),
            dropped={reason: Dropped(**entry) for reason, entry in value["dropped"].items()},
            counts=value["counts"],
            **counted,
        )


@dataclass
class PassageReport:
    """How few documents were cut into passages."""

    size: int
    """Characters of a passage at most."""
    count: int
    held_out: int


@dataclass
class PrepareReport(Tally):
    """The numbers of one prepare run. All bytes are bytes of text as UTF-8."""

    steps: list[str] = field(default_factory=list)
    """Names of the steps that documents went through, in order."""
    splits: dict[str, Count] = field(default_factory=dict)
    """What was written: `train`, `validation`, and `test` where one was asked for. Cutting into
    passages makes more documents."""
    passages: bool = False
    """Whether documents were cut into passages before splitting."""
    passage_plan: PassageReport | None = None
    """Set when few documents were cut."""
    validation_bytes_share: float = 0.0
    """Bytes held out, as a share of all that was written."""
    messages: list[str] = field(default_factory=list)
    """Everything said aloud on the way."""

    def finish(self) -> None:
        """Work out what follows from the counts."""
        written = sum(count.bytes for count in self.splits.values())
        held_out = self.splits["validation"].bytes
        self.validation_bytes_share = held_out / written if written else 0.0
        self.sources = _largest(self.sources)
        self.licences = _largest(self.licences)
        self.languages = _largest(self.languages)
        self.lengths = dict(sorted(self.lengths.items(), key=lambda item: int(item[0])))

    def write(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_json(path, asdict(self))


def _largest(counts: dict[str, Count], most: int = MOST_NAMES) -> dict[str, Count]:
    others = counts.pop(OTHERS, Count())
    ordered = sorted(counts.items(), key=lambda item: (-item[1].bytes, item[0]))
    for _, count in ordered[most:]:
        others.include(count)
    return dict(ordered[:most]) | ({OTHERS: others} if others.documents else {})
