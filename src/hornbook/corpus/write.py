"""The last pass of prepare: the documents that stay, as shards.

In: the spool, and the plan. Out: `train/`, `validation/` and `test/`, and what was counted. Each
shard is written from the plan alone, so in any order and by any process; one that is whole is not
written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hornbook.corpus.decide import FATES, REASONS, Shard, read_fates
from hornbook.corpus.ledger import Ledger, ledger_rows, write_ledger
from hornbook.corpus.prepare_report import Tally
from hornbook.corpus.split import SPLITS, TRAIN
from hornbook.corpus.spool import Spool
from hornbook.documents import Document, document_writer, documents_of, shard_path
from hornbook.files import read_json, write_json

_ANY_SIZE = 2**62


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards that it is handed, in this process or another."""

    spool: Spool
    work: Path
    out: Path

    def __call__(self, shard: Shard) -> tuple[Shard, Tally]:
        """Write a shard. Its tally counts what was written, and with training text what was
        dropped in between."""
        done = self.work / f"{shard.split}-{shard.number:05d}.json"
        if done.exists():
            tally = Tally.from_json(read_json(done))
            path = shard_path(self.out / shard.split, shard.number)
            if path.exists() or not tally.kept.documents:
                return shard, tally
        tally = Tally()
        reasons = REASONS if shard.split == TRAIN else ()
        with document_writer(self.out / shard.split, _ANY_SIZE, first=shard.number) as writer:
            for fate, document in self.documents(shard.first, shard.last, shard.split, *reasons):
                if fate == shard.split:
                    tally.keep(document)
                    writer.add(document)
                else:
                    tally.drop(document, fate)
        write_json(done, asdict(tally))
        return shard, tally

    def documents(self, first: int, last: int, *fates: str) -> Iterator[tuple[str, Document]]:
        """Of documents `first` to `last` - 1 those with one of the fates, each with its own."""
        codes, wanted = read_fates(self.work), [FATES.index(fate) for fate in fates]
        for number, batch in self.spool.batches(first, last):
            of_batch = codes[number : number + len(batch)]
            at = np.flatnonzero(np.isin(of_batch, wanted))
            for code, document in zip(of_batch[at], documents_of(batch.take(at)), strict=True):
                yield FATES[code], document

    def stay(self, tally: Tally) -> Iterator[Document]:
        """All documents that are not dropped, counting all."""
        for fate, document in self.documents(0, len(self.spool), *FATES):
            if fate in REASONS:
                tally.drop(document, fate)
            else:
                tally.keep(document)
                yield document


def extend_ledger(path: Path, salt: str, work: Path, spool: Spool, algorithm: str) -> None:
    """Write to `path` what the ledger had when this prepare began, and what it has held out anew:
    other documents, and other texts of the same ones."""
    before = work / "ledger.before"
    ledger, fates = Ledger(before, salt), read_fates(work)

    def rows() -> Iterator[pa.RecordBatch]:
        for start, segment in zip(spool.starts, spool.segments, strict=False):
            codes = fates[start : start + segment.documents]
            digests = segment.array("digests")
            known = ledger.has_text(digests) & (ledger.splits(segment.array("places")) > 0)
            new = (codes > 0) & (codes < len(SPLITS)) & ~known
            for first, batch in segment.batches(0, segment.documents):
                at = np.flatnonzero(new[first : first + len(batch)])
                if len(at):
                    yield ledger_rows(
                        batch.column("id").take(at).to_pylist(),
                        [FATES[code] for code in codes[first + at]],
                        digests[first + at],
                        segment.array("signatures")[first + at] if algorithm else None,
                    )

    write_ledger(path, before, rows(), algorithm)
